"""ALIGN (Jia et al. 2021, arXiv:2102.05918): an EfficientNet beside a BERT, compared by a learned temperature.

The EfficientNet stays Transformers' own class, and its mean over all positions is compared without a projection. The
text is read at [CLS], without BERT's pooler. The loss smooths its targets by a tenth.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AlignVisionConfig

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import prefix_of, source_config
from ..weights.key_table import KeyTable, change
from ..weights.reshapes import List, Reshape
from .chinese_clip import BERT_TEXT, TEXT_FIELDS
from .clip import COMPARED
from .family import Family, Layout, Plan, Texts, check_architecture
from .kept_towers import kept_tower

_ARCHITECTURE = "AlignModel"
_SMOOTHING = 0.1  # the class has it as a number of its loss
_START = 0.0  # the logarithm of its temperature_init_value, 1.0; a source has the learned one


def _scale(old: List) -> tuple[List, List]:
    """The logarithm of 1 / temperature, by which MM multiplies."""
    if not bool(old[0] > 0):
        raise ValueError(f"temperature is {float(old[0])}; accepted are numbers above 0")
    return [-old[0].log()], [old[0]]


def _temperature(new: List, unread: List) -> List:
    """The source's number itself where the scale is still that."""
    if unread and torch.equal(-unread[0].log(), new[0]):
        return unread
    return [torch.exp(-new[0])]


TEMPERATURE = Reshape("made a logarithm", _scale, _temperature)
_HEADS = KeyTable(
    modules={"text_projection": "itc_head.text"},
    tensors={"temperature": change("itc_head.logit_scale", by=TEMPERATURE)},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "align"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    config = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURE)
    made = MMConfig(
        vision_config=config.vision_config.to_dict(),
        text_config=TEXT_FIELDS.convert(config.text_config),
        projected_sides=["text"],
        projection_dim=config.projection_dim,
        projection_bias=True,
        contrastive_label_smoothing=_SMOOTHING,
        logit_scale_init_value=_START,
        **COMPARED,
    )
    read = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    table = (
        kept_tower(config.vision_config).under("vision_model.", "model.vision_tower.")
        + BERT_TEXT.under(read, "model.language_model.")
        + _HEADS
    )
    return Plan(MMForImageTextRetrieval, made, table, processor={"add_eos_token": True})


def layout(model: Any) -> Layout:
    """The layout of an MM model built as an ALIGN; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    if not isinstance(tower, AlignVisionConfig):
        raise ValueError(f"ALIGN wants its own EfficientNet; the vision tower is a {type(tower).__name__}")
    settings = {
        "model_type": "align",
        "vision_config": tower.to_dict(),
        "text_config": TEXT_FIELDS.restore(config.text_config),
        "projection_dim": config.projection_dim,
    }
    names = ("text_model.embeddings.word_embeddings.weight",)
    return Layout(source_config(settings), _ARCHITECTURE, names, "EfficientNetImageProcessor", "AlignProcessor")


FAMILY = Family("align", recognises, plan, layout, texts=lambda config: Texts())
