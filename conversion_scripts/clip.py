"""CLIP (Radford et al. 2021, arXiv:2103.00020): a picture and a text, each as one vector, compared.

The text is causal and pooled at its end token, the picture at its class token after the last norm. There is no fusion
(`fusion_type="none"`), and InfoNCE ("itc") is the only loss. The original's scale has no bound.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, TowerPlan, prefix_of, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import BUFFER
from ..weights.vision_names import CLIP_FIELDS, CLIP_LAYERS, CLIP_VISION
from .family import Family, Layout, Plan, check_architecture

_ARCHITECTURE = "CLIPModel"
_LEGACY_EOS = 2  # in old configs, for any vocabulary; the text is then pooled at its highest id
TEXT = KeyTable(
    modules={
        **CLIP_LAYERS,
        "embeddings.token_embedding": "embed_tokens",
        "embeddings.position_embedding": "embed_positions",
        "final_layer_norm": "norm",
    },
    dropped={"embeddings.position_ids": BUFFER},
)
TEXT_FIELDS = Fields(
    names={
        name: name
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "layer_norm_eps", "attention_dropout", "max_position_embeddings", "bos_token_id", "eos_token_id",
        )
    },
    # Theirs trains the row of its pad_token_id like any other, often that of a word: no padding row here.
    ours={
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "pooler": "eos", "is_causal": True,
        "attention_bias": True, "pad_token_id": None,
    },
)  # fmt: skip
# Of an old config, whose eos_token_id says nothing: a text is read at its highest id, and the tokenizer ends it.
_LEGACY = {"pooler": "highest_id", "bos_token_id": None, "eos_token_id": None}
_LEGACY_FIELDS = Fields(
    names={theirs: ours for theirs, ours in TEXT_FIELDS.names.items() if ours not in _LEGACY},
    ours={**TEXT_FIELDS.ours, **_LEGACY},
)
HEADS = KeyTable(
    tensors={
        "logit_scale": "itc_head.logit_scale",
        "visual_projection.weight": "itc_head.vision.weight",
        "text_projection.weight": "itc_head.text.weight",
    }
)
# A model that compares and never joins.
COMPARED = {
    "fusion_type": "none",
    "pretraining_losses": {"itc": 1.0},
    "logit_scale_max": None,
}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "clip"


def text_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """CLIP's text tower; that of an old config finds the end of a text otherwise."""
    before = prefix_of(names, "embeddings.token_embedding.weight")
    if config.eos_token_id != _LEGACY_EOS:
        return TowerPlan(TEXT_FIELDS.convert(config), TEXT.under(before, ""))
    note = f"eos_token_id={_LEGACY_EOS} is an old config's, by which a text is read at its highest id"
    return TowerPlan(_LEGACY_FIELDS.convert(config), TEXT.under(before, ""), notes=(note,))


def text_settings(text: Any) -> dict[str, Any]:
    """The config of CLIP's text tower of a stack."""
    if text.pooler != _LEGACY["pooler"]:
        return TEXT_FIELDS.restore(text)
    return _LEGACY_FIELDS.restore(text) | {"eos_token_id": _LEGACY_EOS}


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    config = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURE)
    text = text_plan(config.text_config, checkpoint)
    made = MMConfig(
        vision_config=CLIP_FIELDS.convert(config.vision_config),
        text_config=text.settings,
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
        **COMPARED,
    )
    before = prefix_of(checkpoint, "embeddings.class_embedding")
    table = CLIP_VISION.under(before, "model.vision_tower.") + text.table.under("", "model.language_model.") + HEADS
    return Plan(MMForImageTextRetrieval, made, table, processor={"add_eos_token": True}, notes=text.notes)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a CLIP; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults("CLIP wants a ViT", wrong)
    width = {"projection_dim": config.projection_dim}
    settings = {
        "model_type": "clip",
        "vision_config": CLIP_FIELDS.restore(tower) | width,
        "text_config": text_settings(config.text_config) | width,
        "logit_scale_init_value": config.logit_scale_init_value,
        **width,
    }
    names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.token_embedding.weight")
    return Layout(source_config(settings), _ARCHITECTURE, names, "CLIPImageProcessor", "CLIPProcessor")


FAMILY = Family("clip", recognises, plan, layout)
