"""BLIP (Li et al. 2022, arXiv:2201.12086): captioning, question answering and retrieval, as Transformers has them.

For captions a decoder reads the picture. For answers it reads the states of an encoder over question and picture. For
retrieval that encoder reads only a text ("itc") or the text with the picture ("itm"). See `blip_original.py` for the
files of the original code.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, VisionFields, source_config
from ..weights.key_table import KeyTable, change
from ..weights.reshapes import lead, split
from ..weights.text_names import BERT, bert_head
from .family import Family, Layout, Plan, Texts

VISION_FIELDS = VisionFields(
    names={
        name: name
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "layer_norm_eps", "image_size", "patch_size", "attention_dropout",
        )
    },
    ours={"norm_position": "pre", "final_norm": "all", "pooler": "cls", "attention_bias": True},
)  # fmt: skip
TEXT_FIELDS = Fields(
    names={
        **{
            name: name
            for name in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "hidden_act", "layer_norm_eps", "max_position_embeddings", "bos_token_id", "pad_token_id",
            )
        },
        "sep_token_id": "eos_token_id", "hidden_dropout_prob": "hidden_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    ours={
        "norm_position": "post", "embedding_norm": True, "final_norm": "none", "pooler": "last",
        "attention_bias": True,
    },
)  # fmt: skip
# Of a text that is read: from both sides, its vector at [CLS], which opens it.
_READER = {"is_causal": False, "pooler": "cls", "bos_token_id": None}
_READER_FIELDS = Fields(
    names={theirs: ours for theirs, ours in TEXT_FIELDS.names.items() if ours not in _READER},
    ours={**TEXT_FIELDS.ours, **_READER},
)

BLOCK = {
    "layer_norm1": "self_attn_norm",
    "self_attn.qkv": change("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", by=split(3)),
    "self_attn.projection": "self_attn.o_proj",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}
VISION = KeyTable(
    modules={"embeddings.patch_embedding": "patch_embedding", "post_layernorm": "norm"},
    tensors={
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": change("embed_positions.weight", by=lead(1)),
    },
) + KeyTable(modules=BLOCK).under("encoder.layers.{n}.", "layers.{n}.")
_CAPTIONS, _ANSWERS, _RETRIEVAL = _CLASSES = (
    "BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval",
)  # fmt: skip


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "blip"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for a BLIP of another task."""
    config = source_config(checkpoint.config)
    architecture = (checkpoint.config.get("architectures") or ["BlipModel"])[0]
    if architecture not in _CLASSES:
        raise ValueError(f"{architecture} is not known; of BLIP these are: {', '.join(_CLASSES)}")
    text = config.text_config
    seen = VISION.under("vision_model.", "model.vision_tower.")
    stacks = (VISION_FIELDS.convert(config.vision_config), TEXT_FIELDS.convert(text))
    if architecture == _RETRIEVAL:
        return retrieval_plan(seen, *stacks, projection_dim=config.image_text_hidden_size)
    tied = bool(config.tie_word_embeddings or text.tie_word_embeddings)
    return writer_plan(
        checkpoint, seen, *stacks, answers=architecture == _ANSWERS, tied=tied, label_smoothing=text.label_smoothing
    )


def writer_plan(
    checkpoint: Checkpoint,
    vision_table: KeyTable,
    vision: dict,
    text: dict,
    answers: bool,
    tied: bool,
    label_smoothing,
) -> Plan:
    """answers: a text encoder reads the question with the picture, and the decoder reads its states."""
    reader = {**text, "cross_attention_hidden_size": vision["hidden_size"]}
    settings: dict[str, Any] = {"text_config": {**text, "is_causal": True} if answers else reader}
    table = vision_table + BERT.under("text_decoder.bert.", "model.language_model.")
    if answers:
        settings["text_encoder_config"] = {**reader, "is_causal": False}
        table += BERT.under("text_encoder.", "model.text_encoder.")
    table += bert_head(checkpoint, tied, "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.")
    config = MMConfig(
        vision_config=vision,
        projector_type="none",
        tie_word_embeddings=tied,
        label_smoothing=label_smoothing,
        **settings,
    )
    # A question opens with [CLS] in Transformers, where the decoder's rows open with [DEC].
    processor = {"prompt_to": "context", "context_bos_token": "[CLS]"} if answers else {}
    return Plan(MMForConditionalGeneration, config, table, tokens=_tokens(text), processor=processor)


def retrieval_plan(
    vision_table: KeyTable, vision: dict, text: dict, projection_dim: int, itm_bos_token_id: int | None = None
) -> Plan:
    """One stack reads a text, without or with the picture. itm_bos_token_id is the first token of the latter; None:
    its own."""
    reader = {**text, **_READER, "cross_attention_hidden_size": vision["hidden_size"]}
    config = MMConfig(
        vision_config=vision,
        text_config=reader,
        projector_type="none",
        projection_dim=projection_dim,
        projection_bias=True,
        pretraining_losses={"itc": 1.0, "itm": 1.0},
        itm_bos_token_id=itm_bos_token_id,
    )
    heads = {"vision_proj": "itc_head.vision", "text_proj": "itc_head.text", "itm_head": "itm_head"}
    table = vision_table + BERT.under("text_encoder.", "model.language_model.")
    table += KeyTable(modules=heads, new={"itc_head.logit_scale": "theirs compares by cosines; used only by 'itc'"})
    processor = {"add_eos_token": True}
    return Plan(MMForImageTextRetrieval, config, table, tokens=_tokens(text), processor=processor)


def _tokens(text: dict) -> dict[str, int]:
    return {"[DEC]": text["bos_token_id"], "[ENC]": text["bos_token_id"] + 1}


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """Transformers' layout of an MM model built as a BLIP."""
    config = model.config
    if isinstance(model, MMForImageTextRetrieval):
        architecture, text = _RETRIEVAL, _READER_FIELDS.restore(config.text_config)
        text["bos_token_id"] = config.text_config.vocab_size - 2  # [DEC], with [ENC] the last ones
    else:
        architecture = _CAPTIONS if config.text_encoder_config is None else _ANSWERS
        text = TEXT_FIELDS.restore(config.text_config) | {"label_smoothing": config.label_smoothing}
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    settings = {
        "vision_config": VISION_FIELDS.restore(config.vision_config),
        "text_config": text | tied,
        "image_text_hidden_size": config.projection_dim,
        **tied,
    }
    source = source_config({"model_type": "blip", "architectures": [architecture], **settings})
    return Layout(source, architecture, (), "BlipImageProcessor", "BlipProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Theirs returns no logits of answers, so its parts are called one after the other."""
    pixels, ids, mask = given.pixel_values, given.input_ids, given.attention_mask
    real = mask.bool()
    if isinstance(ours, MMForImageTextRetrieval):
        cosines = ours.encode_image(pixels) @ ours.encode_text(ids, mask).T
        matched = (ours.match(ids, mask, pixel_values=pixels), theirs(ids, pixels, attention_mask=mask).itm_score)
        there = theirs(ids, pixels, use_itm_head=False, attention_mask=mask).itm_score
        return {"itm_logits": matched, "cosines": (cosines, there)}
    if ours.config.text_encoder_config is None:
        there = theirs(pixels, ids, mask).logits[real]
        return {"logits": (ours(ids, mask, pixel_values=pixels).logits[real], there)}
    seen = theirs.vision_model(pixels).last_hidden_state
    asked = theirs.text_encoder(ids, mask, encoder_hidden_states=seen).last_hidden_state
    there = theirs.text_decoder(ids, mask, encoder_hidden_states=asked, encoder_attention_mask=mask).logits
    context = {"context_input_ids": ids, "context_attention_mask": mask}
    return {"logits": (ours(ids, mask, pixel_values=pixels, **context).logits[real], there[real])}


def texts(config: MMConfig) -> Texts:
    """Theirs reads the padding of questions."""
    return Texts(padded=() if config.text_encoder_config is not None else ("right",))


FAMILY = Family("blip", recognises, plan, layout, compare, texts=texts)
