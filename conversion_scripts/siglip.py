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
from .clip import COMPARED, TEXT, TEXT_FIELDS
from .family import Family, Layout, Plan, Texts

_ARCHITECTURE = "SiglipModel"
_LOG_TEN = 2.302585  # the paper's start of the scale, and of the bias below; a source has the learned ones
_VISION_FIELDS = VisionFields(
    names=SIGLIP_FIELDS.names,
    ours={**SIGLIP_FIELDS.ours, "pooler": "attention"},
    theirs={"vision_use_head": True},
)
# The ids of its configs are CLIP's, outside of the vocabulary: the tokenizer knows the true ones.
_TEXT_FIELDS = Fields(
    names={theirs: ours for theirs, ours in TEXT_FIELDS.names.items() if not theirs.endswith("_token_id")},
    ours={
        **TEXT_FIELDS.ours, "pooler": "last", "is_causal": False, "bos_token_id": None, "eos_token_id": None,
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
    config = source_config(checkpoint.config)
    architecture = (checkpoint.config.get("architectures") or [_ARCHITECTURE])[0]
    if architecture != _ARCHITECTURE:
        raise ValueError(f"{architecture} is not known; of SigLIP this is: {_ARCHITECTURE}")
    text = config.text_config
    made = MMConfig(
        vision_config=_VISION_FIELDS.convert(config.vision_config),
        text_config=_TEXT_FIELDS.convert(text),
        projected_sides=["text"],
        projection_dim=text.projection_size,
        projection_bias=True,
        contrastive_loss="sigmoid",
        logit_scale_init_value=_LOG_TEN,
        logit_bias_init_value=-10.0,
        **COMPARED,
    )
    seen = prefix_of(checkpoint, "embeddings.patch_embedding.weight")
    read = prefix_of(checkpoint, "embeddings.token_embedding.weight")
    table = SIGLIP_VISION.under(seen, "model.vision_tower.") + TEXT.under(read, "model.language_model.") + _HEADS
    processor = {"add_eos_token": True, "fixed_length": text.max_position_embeddings}
    return Plan(MMForImageTextRetrieval, made, table, processor=processor)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a SigLIP; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults("SigLIP wants a ViT", wrong)
    settings = {
        "model_type": "siglip",
        "vision_config": _VISION_FIELDS.restore(tower),
        "text_config": _TEXT_FIELDS.restore(config.text_config) | {"projection_size": config.projection_dim},
    }
    names = ("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight")
    return Layout(source_config(settings), _ARCHITECTURE, names, "SiglipImageProcessor", "SiglipProcessor")


FAMILY = Family("siglip", recognises, plan, layout, texts=lambda config: Texts(padded=()))
