"""Chinese-CLIP (Yang et al. 2022, arXiv:2211.01335): CLIP's picture tower beside a BERT, compared as CLIP compares.

The text is read at [CLS], without BERT's pooler, which older files still hold.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, prefix_of, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import BERT, BERT_FIELDS
from ..weights.vision_names import CLIP_FIELDS, CLIP_VISION
from .clip import COMPARED, HEADS
from .family import Family, Layout, Plan, Texts, check_architecture

_ARCHITECTURE = "ChineseCLIPModel"
POOLER = "BERT's pooler, which nothing reads: a text is read at its first token"
# Its configs name no ids of texts that hold: bos_token_id=0 is [PAD]. The tokenizer knows them.
TEXT_FIELDS = Fields(
    names={
        theirs: ours for theirs, ours in BERT_FIELDS.names.items() if theirs not in ("bos_token_id", "eos_token_id")
    },
    ours={**BERT_FIELDS.ours, "is_causal": False, "pooler": "cls", "bos_token_id": None, "eos_token_id": None},
)
BERT_TEXT = KeyTable(
    modules={name: target for name, target in BERT.modules.items() if name != "pooler.dense"},
    dropped=BERT.dropped,
    kept={"pooler.dense.{leaf}": POOLER},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "chinese_clip"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    config = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURE)
    made = MMConfig(
        vision_config=CLIP_FIELDS.convert(config.vision_config),
        text_config=TEXT_FIELDS.convert(config.text_config),
        projection_dim=config.projection_dim,
        logit_scale_init_value=config.logit_scale_init_value,
        **COMPARED,
    )
    seen = prefix_of(checkpoint, "embeddings.class_embedding")
    read = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    table = CLIP_VISION.under(seen, "model.vision_tower.") + BERT_TEXT.under(read, "model.language_model.") + HEADS
    return Plan(MMForImageTextRetrieval, made, table, processor={"add_eos_token": True})


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a Chinese-CLIP; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults("Chinese-CLIP wants a ViT", wrong)
    width = {"projection_dim": config.projection_dim}
    settings = {
        "model_type": "chinese_clip",
        "vision_config": CLIP_FIELDS.restore(tower) | width,
        "text_config": TEXT_FIELDS.restore(config.text_config),
        "logit_scale_init_value": config.logit_scale_init_value,
        **width,
    }
    names = ("vision_model.embeddings.class_embedding", "text_model.embeddings.word_embeddings.weight")
    return Layout(source_config(settings), _ARCHITECTURE, names, "ChineseCLIPImageProcessor", "ChineseCLIPProcessor")


# Loading, the class overwrites the row of its padding with zeros; MM keeps what the file holds.
FAMILY = Family("chinese-clip", recognises, plan, layout, texts=lambda config: Texts(pads_inside=False))
