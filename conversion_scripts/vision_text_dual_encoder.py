"""VisionTextDualEncoder (LiT's shape, Zhai et al. 2022, arXiv:2111.07991): any two towers, compared as CLIP compares.

Known are the vision towers of `VISION_PLANS` that pool (ViT, DeiT, CLIP, SigLIP), and BERT,
RoBERTa, XLM-RoBERTa and CLIP's text.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import TowerPlan, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import bert_settings
from ..weights.text_plans import TEXT_PLANS
from ..weights.vision_names import CLIP_FIELDS, OTHER_TOWER, SIGLIP_FIELDS, VISION_PLANS, VIT_FIELDS
from .clip import COMPARED, HEADS, text_plan, text_settings
from .family import Family, Layout, Plan

_ARCHITECTURE = "VisionTextDualEncoderModel"
_VISION = {
    "vit": "ViTImageProcessor", "deit": "DeiTImageProcessor", "clip_vision_model": "CLIPImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
}  # fmt: skip
_TEXT = {
    **{kind: TEXT_PLANS[kind] for kind in ("bert", "roberta", "xlm-roberta", "camembert")},
    "clip_text_model": text_plan,
}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "vision-text-dual-encoder"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for an unknown tower, and for settings that MM lacks."""
    config = source_config(checkpoint.config)
    for part, known in ((config.vision_config, _VISION), (config.text_config, _TEXT)):
        if part.model_type not in known:
            raise ValueError(f"model_type={part.model_type!r} inside {_ARCHITECTURE}; known are {', '.join(known)}")
    vision = VISION_PLANS[config.vision_config.model_type](config.vision_config, _part(checkpoint, "vision_model."))
    if config.vision_config.model_type in ("vit", "deit") and vision.settings["pooler"] != "cls_tanh":
        raise ValueError(
            f"pooler_act={config.vision_config.pooler_act!r}, "
            f"pooler_output_size={config.vision_config.pooler_output_size}; of poolers that are compared only "
            "'tanh' at the width of the tower is known"
        )
    text = _TEXT[config.text_config.model_type](config.text_config, _part(checkpoint, "text_model."))
    made = MMConfig(
        vision_config=vision.settings,
        text_config=text.settings,
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
        **COMPARED,
    )
    table = (
        _without_other_towers(vision).under("", "model.vision_tower.")
        + text.table.under("", "model.language_model.")
        + HEADS
    )
    return Plan(MMForImageTextRetrieval, made, table, processor={"add_eos_token": True}, notes=text.notes)


def _part(names: Iterable[str], prefix: str) -> Collection[str]:
    """The names of one tower: both may have, for instance, a pooler."""
    return [name for name in names if name.startswith(prefix)]


def _without_other_towers(vision: TowerPlan) -> KeyTable:
    """A vision tower's table that drops no other tower."""
    dropped = {name: reason for name, reason in vision.table.dropped.items() if name not in OTHER_TOWER}
    return replace(vision.table, dropped=dropped)


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """The layout of an MM model built as such a pair; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults(f"{_ARCHITECTURE} wants a ViT", wrong)
    vision, vision_names = _vision(tower)
    text, text_names = _text(config.text_config)
    settings = {
        "model_type": "vision-text-dual-encoder",
        "vision_config": vision,
        "text_config": text,
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
    }
    names = (*(f"vision_model.{name}" for name in vision_names), *(f"text_model.{name}" for name in text_names))
    processor = _VISION[vision["model_type"]]
    return Layout(source_config(settings), _ARCHITECTURE, names, processor, "VisionTextDualEncoderProcessor")


def _vision(tower: MMVisionConfig) -> tuple[dict[str, Any], list[str]]:
    """The kind of ViT, its config and the names that decide it: by its norms, its pooling and its second token."""
    if tower.embedding_norm:
        return CLIP_FIELDS.restore(tower) | {"model_type": "clip_vision_model"}, ["embeddings.class_embedding"]
    if tower.pooler == "attention":
        names = ["embeddings.patch_embedding.weight", "head.probe"]
        return SIGLIP_FIELDS.restore(tower) | {"model_type": "siglip_vision_model"}, names
    kind = "deit" if tower.num_register_tokens else "vit"
    names = ["embeddings.cls_token", "pooler.dense.weight"]
    names += ["embeddings.mask_token"] if tower.use_mask_token else []
    return VIT_FIELDS.restore(tower) | {"model_type": kind, "qkv_bias": tower.attention_bias is True}, names


def _text(text: Any) -> tuple[dict[str, Any], list[str]]:
    """The kind of text, its config and the names that decide it: by its norms and its original family."""
    if text.norm_position == "pre":
        return text_settings(text) | {"model_type": "clip_text_model"}, ["embeddings.token_embedding.weight"]
    return bert_settings(text), ["embeddings.word_embeddings.weight", "pooler.dense.weight"]


FAMILY = Family("vision-text-dual-encoder", recognises, plan, layout)
