"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 of fixed resolution (arXiv:2502.14786): compared in pairs.

The picture is pooled by a learned query and compared without a projection (`projected_sides=["text"]`); the text is
bidirectional and pooled at its last token. Texts are padded to one length and the pads are attended (the processor's
`fixed_length`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, VisionFields, prefix_of, source_config
from ..weights.key_table import KeyTable, change, raise_faults
from ..weights.reshapes import lead
from ..weights.vision_names import SIGLIP_FIELDS, SIGLIP_VISION
from .clip import COMPARED, TEXT
from .clip import TEXT_FIELDS as CLIP_TEXT_FIELDS
from .family import Family, Layout, Plan, Texts, check_architecture

_ARCHITECTURE = "SiglipModel"
NAMES = ("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight")
_LOG_TEN = 2.302585  # the paper's start of the scale, and of the bias below; a source has the learned ones
_VISION_FIELDS = VisionFields(
    names=SIGLIP_FIELDS.names,
    ours={**SIGLIP_FIELDS.ours, "pooler": "attention"},
    theirs={"vision_use_head": True},
)
# The ids of its configs are CLIP's, outside of the vocabulary: the tokenizer knows the true ones.
TEXT_FIELDS = Fields(
    names={theirs: ours for theirs, ours in CLIP_TEXT_FIELDS.names.items() if not theirs.endswith("_token_id")},
    ours={
        **CLIP_TEXT_FIELDS.ours, "pooler": "last", "is_causal": False, "bos_token_id": None, "eos_token_id": None,
    },
)  # fmt: skip
_HEADS = KeyTable(
    modules={"text_model.head": "itc_head.text"},
    tensors={name: change(f"itc_head.{name}", by=lead(1)) for name in ("logit_scale", "logit_bias")},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "siglip"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config = source_config(checkpoint.config)
    return plan_of(checkpoint, config.text_config, _VISION_FIELDS.convert(config.vision_config), SIGLIP_VISION)


def plan_of(checkpoint: Checkpoint, text: Any, vision: dict[str, Any], seen: KeyTable) -> Plan:
    """`text`: the source's config; `vision`: MM's settings of the tower; `seen`: the table of its tensors."""
    made = MMConfig(
        vision_config=vision,
        text_config=TEXT_FIELDS.convert(text),
        projected_sides=["text"],
        projection_dim=text.projection_size,
        projection_bias=True,
        contrastive_loss="sigmoid",
        logit_scale_init_value=_LOG_TEN,
        logit_bias_init_value=-10.0,
        **COMPARED,
    )
    patches, words = (prefix_of(checkpoint, name.partition(".")[2]) for name in NAMES)
    table = seen.under(patches, "model.vision_tower.") + TEXT.under(words, "model.language_model.") + _HEADS
    processor = {"add_eos_token": True, "fixed_length": text.max_position_embeddings}
    return Plan(MMForImageTextRetrieval, made, table, processor=processor)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a SigLIP; raises ValueError for another."""
    vision = _VISION_FIELDS.restore(vit_of(model))
    settings = {"model_type": "siglip", "vision_config": vision, "text_config": text_settings(model.config)}
    return Layout(source_config(settings), _ARCHITECTURE, NAMES, "SiglipImageProcessor", "SiglipProcessor")


def vit_of(model: Any) -> MMVisionConfig:
    """The config of a model's ViT. Raises ValueError for another tower."""
    tower = model.config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults("SigLIP wants a ViT", wrong)
    return tower


def text_settings(config: MMConfig) -> dict[str, Any]:
    """The config of SigLIP's text tower; raises ValueError for another."""
    return TEXT_FIELDS.restore(config.text_config) | {"projection_size": config.projection_dim}


FAMILY = Family("siglip", recognises, plan, layout, texts=lambda config: Texts(padded=()))
