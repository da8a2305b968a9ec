"""AltCLIP (Chen et al. 2022, arXiv:2211.06679): CLIP's picture tower and an XLM-RoBERTa that learned from CLIP's text.

After its layers the text has a norm and a linear layer without an activation, before the projection: here the first of
two layers of the projection. MM's states of a text are those after the norm.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, prefix_of, source_config
from ..weights.key_table import KeyTable, change, raise_faults
from ..weights.reshapes import skip_rows
from ..weights.text_names import BERT_FIELDS, unread_positions
from ..weights.vision_names import CLIP_FIELDS, CLIP_VISION
from .chinese_clip import BERT_TEXT
from .clip import COMPARED, HEADS
from .family import Family, Layout, Plan, check_architecture

_ARCHITECTURE = "AltCLIPModel"
_KIND = "altclip_text_model"
_TEXT_FIELDS = Fields(
    names=BERT_FIELDS.names,
    ours={
        **BERT_FIELDS.ours, "is_causal": False, "pooler": "cls", "final_norm": "all", "source_model_type": _KIND,
    },
)  # fmt: skip
# HEADS, with two layers for the text.
_LAYERS = "encoder.layers."
_LAYERS_SINCE_5 = "encoder.layer."  # as Transformers 5 saves the picture tower; published files have the other name
_HEADS = KeyTable(
    tensors={name: target for name, target in HEADS.tensors.items() if name != "text_projection.weight"}
    | {"text_projection.weight": "itc_head.text.second.weight"},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "altclip"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    config = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURE)
    words = config.text_config
    offset = unread_positions(words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    text = _TEXT_FIELDS.convert(words)
    text["max_position_embeddings"] -= offset
    made = MMConfig(
        vision_config=CLIP_FIELDS.convert(config.vision_config),
        text_config=text,
        projection_dim=config.projection_dim,
        projection_hidden_sizes={"text": words.project_dim},
        logit_scale_init_value=config.logit_scale_init_value,
        **COMPARED,
    )
    seen, kept = prefix_of(checkpoint, "embeddings.class_embedding"), {}
    tower = CLIP_VISION
    if any(name.startswith(f"{seen}{_LAYERS_SINCE_5}") for name in checkpoint):
        modules = {n.replace(_LAYERS, _LAYERS_SINCE_5): target for n, target in CLIP_VISION.modules.items()}
        tower, kept = replace(CLIP_VISION, modules=modules), {"layers": _LAYERS_SINCE_5}
    read = prefix_of(checkpoint, "roberta.embeddings.word_embeddings.weight")
    positions = change("embed_positions", by=skip_rows(offset))
    reader = BERT_TEXT.adding(modules={"embeddings.position_embeddings": positions}).under(f"{read}roberta.", "")
    after = KeyTable(modules={f"{read}pre_LN": "norm"})
    table = (
        tower.under(seen, "model.vision_tower.")
        + (reader + after).under("", "model.language_model.")
        + _HEADS.adding(modules={f"{read}transformation": "itc_head.text.first"})
    )
    return Plan(MMForImageTextRetrieval, made, table, processor={"add_eos_token": True}, record=kept)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as an AltCLIP; raises ValueError for another."""
    config, tower, text = model.config, model.config.vision_config, model.config.text_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    hidden = (config.projection_hidden_sizes or {}).get("text")
    wrong += [] if hidden else ["its text is projected by one layer"]
    raise_faults("AltCLIP wants a ViT, and two layers without an activation that project the text", wrong)
    width = {"projection_dim": config.projection_dim}
    words = _TEXT_FIELDS.restore(text) | {"project_dim": hidden}
    words["max_position_embeddings"] = text.max_position_embeddings + unread_positions(text.pad_token_id)
    settings = {
        "model_type": "altclip",
        "vision_config": CLIP_FIELDS.restore(tower) | width,
        "text_config": words,
        "logit_scale_init_value": config.logit_scale_init_value,
        **width,
    }
    layers = (config.converted_from or {}).get("layers", _LAYERS)
    read = "text_model.roberta.embeddings.word_embeddings.weight"
    names = ("vision_model.embeddings.class_embedding", f"vision_model.{layers}0", read)
    return Layout(source_config(settings), _ARCHITECTURE, names, "CLIPImageProcessor", "AltCLIPProcessor")


FAMILY = Family("altclip", recognises, plan, layout)
