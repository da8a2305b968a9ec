"""VisualBERT (Li et al. 2019, arXiv:1908.03557): pre-training, question answering and visual reasoning over regions.

Text first, then a detector's regions (`visual_embeds`), one norm over all, everything sees everything. A source has no
tower: one convolution of the regions' width stands in, untrained, so that another tower of that width can take its
place and pixels be read. Each region gets row 0 of the visual positions and row 1 of the visual types, which are one
vector here (`modality_embeddings`); the answer is read off the token before [SEP] (`pooler="before_last"`).

In pre-training a pair that matches is class 0 there and class 1 of MM's "itm"; theirs reads one masked text for both
losses: pass it as input_ids and as masked_input_ids, and `matches` = 1 - sentence_image_labels.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.classification import MMForSequenceClassification
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, source_config
from ..weights.key_table import KeyTable, change
from ..weights.reshapes import FLIP, List, Reshape, summands
from ..weights.text_names import BERT, BERT_FIELDS, bert_head
from .family import Family, Layout, Plan, Texts

_FIELDS = Fields(
    names=BERT_FIELDS.names, ours={**BERT_FIELDS.ours, "is_causal": False}, theirs={"bypass_transformer": False}
)
# Class -> MM's, how the text is pooled, and the loss of its labels ("kl": soft scores of answers).
_CLASSES: dict[str, tuple[type, str, Any]] = {
    "VisualBertForQuestionAnswering": (MMForSequenceClassification, "before_last", "kl"),
    "VisualBertForVisualReasoning": (MMForSequenceClassification, "cls_tanh", "auto"),
    "VisualBertForPreTraining": (MMForPreTraining, "cls_tanh", "auto"),
}
_NO_TOWER = "theirs reads visual_embeds of a detector; untrained, to be replaced"


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "visual_bert"


def region_vector(positions: int, types: int) -> Reshape:
    """Tables of visual positions and types -> the one vector of a region (1, D); the rest of them waits."""

    def forward(old: List) -> tuple[List, List]:
        return [(old[0][0] + old[1][1])[None]], old

    def backward(new: List, unread: List) -> List:
        vector = new[0][0]
        place, kind = unread or [vector.new_zeros(rows, len(vector)) for rows in (positions, types)]
        first, second = summands(vector, place[0], kind[1])
        return [torch.cat([first[None], place[1:]]), torch.cat([kind[:1], second[None], kind[2:]])]

    return Reshape("joined: place and type of a region", forward, backward)


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another head than those of pre-training, question answering and visual reasoning."""
    config = source_config(checkpoint.config)
    architecture = (checkpoint.config.get("architectures") or ["VisualBertModel"])[0]
    if architecture not in _CLASSES:
        raise ValueError(f"{architecture} is not known; of VisualBERT these are: {', '.join(_CLASSES)}")
    model_class, pooler, loss = _CLASSES[architecture]
    tied = bool(config.tie_word_embeddings)
    if model_class is MMForPreTraining:
        head = bert_head(checkpoint, tied, "visual_bert.embeddings.word_embeddings.weight")
        head = head.adding(modules={"cls.seq_relationship": change("itm_head", by=FLIP)})
        settings = {"pretraining_losses": {"mlm": 1.0, "itm": 1.0}, "tie_word_embeddings": tied}
    else:
        head = KeyTable({"cls": "classifier"})
        settings = {"classifier_dropout": config.hidden_dropout_prob, "num_labels": config.num_labels}
    made = MMConfig(
        vision_config=_stand_in(config.visual_embedding_dim),
        text_config={**_FIELDS.convert(config), "pooler": pooler},
        fusion_type="merged",
        fusion_mask="bidirectional",
        fusion_order="text_first",
        fusion_embedding_norm=True,
        modality_embeddings=True,
        classification_loss=loss,
        **settings,
    )
    joined = region_vector(config.max_position_embeddings, config.type_vocab_size)
    media = KeyTable(
        modules={"visual_bert.embeddings.visual_projection": "model.vision_projector"},
        tensors={
            "visual_bert.embeddings.visual_position_embeddings.weight": change(
                "model.modality_embedding.weight",
                by=joined,
                also=("visual_bert.embeddings.visual_token_type_embeddings.weight",),
            )
        },
        kept={} if pooler == "cls_tanh" else {"visual_bert.pooler.dense.{leaf}": "this head does not read it"},
        new={"model.vision_tower.{rest}": _NO_TOWER},
    )
    text = BERT if pooler == "cls_tanh" else KeyTable(
        {name: target for name, target in BERT.modules.items() if name != "pooler.dense"}, dropped=BERT.dropped
    )  # fmt: skip
    table = text.under("visual_bert.", "model.language_model.") + media + head
    return Plan(model_class, made, table, processor={"add_eos_token": True})


def _stand_in(width: int) -> dict[str, Any]:
    stages = [{"block": "plain", "depth": 1, "channels": width, "stride": 32}]
    return {"model_type": "mm_conv", "stages": stages, "batch_norm": False, "position_embedding_type": "none"}


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a VisualBERT; raises ValueError for another."""
    config = model.config
    kind = (type(model), config.text_config.pooler)
    found = [name for name, kinds in _CLASSES.items() if kinds[:2] == kind]
    if not found:
        known = ", ".join(f"{cls.__name__} with {pooler}" for cls, pooler, _ in _CLASSES.values())
        raise ValueError(f"{kind[0].__name__} with text_config.pooler={kind[1]!r}, but VisualBERT has {known}")
    settings = {
        **_FIELDS.restore(config.text_config),
        "model_type": "visual_bert",
        "architectures": found,
        "visual_embedding_dim": config.vision_size,
        "num_labels": config.num_labels,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    return Layout(source_config(settings), found[0], (), "ViTImageProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    ids, mask, regions = given.input_ids, given.attention_mask, given.visual_embeds
    there = theirs(ids, mask, visual_embeds=regions)
    if isinstance(ours, MMForPreTraining):
        targets = {"masked_input_ids": ids, "mlm_targets": ids, "matches": torch.ones(len(ids)).long()}
        here = ours(ids, mask, visual_embeds=regions, return_loss=True, **targets)
        filled = (here.mlm_logits[mask.bool()], there.prediction_logits[:, : ids.shape[1]][mask.bool()])
        return {"mlm_logits": filled, "itm_logits": (here.itm_logits, there.seq_relationship_logits.flip(1))}
    return {"logits": (ours(ids, mask, visual_embeds=regions).logits, there.logits)}


def texts(config: MMConfig) -> Texts:
    """The token before the last needs two."""
    return Texts(shortest=2 if config.text_config.pooler == "before_last" else 1)


FAMILY = Family("visual-bert", recognises, plan, layout, compare, texts=texts)
