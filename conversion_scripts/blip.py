"""BLIP (Li et al. 2022, arXiv:2201.12086): captioning and question answering.

Two layouts: Transformers' (`BlipForConditionalGeneration`, `BlipForQuestionAnswering`) and that of the original code
and LAVIS, a .pth file without a config, whose ViT has timm's names. There every head is 64 wide, the ViT's norms have
eps 1e-6, label smoothing is 0.1, and the question starts with [ENC]; in Transformers it starts with [CLS].
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..modeling_mm.checkpoint import Checkpoint
from ..modeling_mm.config_mapping import Fields, source_config
from ..modeling_mm.generation import MMForConditionalGeneration
from ..modeling_mm.key_mapping import KeyTable, change, raise_faults
from ..modeling_mm.reshapes import lead, split
from ..modeling_mm.text_towers import BERT, bert_head
from .family import Family, Layout, Plan

_HEAD_WIDTH = 64
_VISION_FIELDS = Fields(
    names={
        name: name
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "layer_norm_eps", "image_size", "patch_size", "attention_dropout",
        )
    },
    ours={"norm_position": "pre", "final_norm": "all", "pooler": "cls", "attention_bias": True},
)  # fmt: skip
_TEXT_FIELDS = Fields(
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

_BLOCK = {
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
) + KeyTable(modules=_BLOCK).under("encoder.layers.{n}.", "layers.{n}.")
_TIMM_BLOCK = {"norm1": "layer_norm1", "attn.qkv": "self_attn.qkv", "attn.proj": "self_attn.projection"}
_TIMM_BLOCK |= {"norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
ORIGINAL_VISION = KeyTable(
    modules={"patch_embed.proj": "patch_embedding", "norm": "norm"},
    tensors={"cls_token": "cls_token", "pos_embed": change("embed_positions.weight", by=lead(1))},
) + KeyTable(modules={old: _BLOCK[new] for old, new in _TIMM_BLOCK.items()}).under("blocks.{n}.", "layers.{n}.")

_CLASSES = {"BlipForConditionalGeneration": False, "BlipForQuestionAnswering": True}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "blip" or (not config and "visual_encoder.blocks.0.norm1.weight" in set(names))


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for a BLIP that is neither a captioner nor a question answerer."""
    if not checkpoint.config:
        return _original_plan(checkpoint)
    config = source_config(checkpoint.config)
    architecture = (checkpoint.config.get("architectures") or ["BlipModel"])[0]
    if architecture not in _CLASSES:
        raise ValueError(f"{architecture} is not known; of BLIP these are: {', '.join(_CLASSES)}")
    text = config.text_config
    return _plan(
        checkpoint,
        VISION.under("vision_model.", "model.vision_tower."),
        _VISION_FIELDS.convert(config.vision_config),
        _TEXT_FIELDS.convert(text),
        answers=_CLASSES[architecture],
        tied=bool(config.tie_word_embeddings or text.tie_word_embeddings),
        label_smoothing=text.label_smoothing,
    )


def _plan(checkpoint, vision_table, vision: dict, text: dict, answers: bool, tied: bool, label_smoothing) -> Plan:
    """answers: a text encoder reads the question with the picture, and the decoder reads what that makes of it."""
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
    tokens = {"[DEC]": text["bos_token_id"], "[ENC]": text["bos_token_id"] + 1}
    return Plan(MMForConditionalGeneration, config, table, tokens=tokens)


# ---- the original's layout -----------------------------------------------------------------------------------------


def _original_plan(checkpoint: Checkpoint) -> Plan:
    """Sizes are read off the tensors; what they do not say are the original's settings."""
    if any(name.startswith("text_proj") for name in checkpoint):
        raise ValueError("this is BLIP for retrieval or pre-training; known are captioning and question answering")
    answers = any(name.startswith("text_encoder.") for name in checkpoint)
    positions, patch = (
        checkpoint.shape("visual_encoder.pos_embed"),
        checkpoint.shape("visual_encoder.patch_embed.proj.weight"),
    )
    side = round((positions[1] - 1) ** 0.5)
    if side * side != positions[1] - 1:
        raise ValueError(f"visual_encoder.pos_embed has {positions[1] - 1} places, which are no square of patches")
    vision = {
        **_VISION_FIELDS.ours,
        **_sizes(checkpoint, "visual_encoder.blocks.{}.mlp.fc1.weight", patch[0]),
        "image_size": side * patch[-1], "patch_size": patch[-1], "layer_norm_eps": 1e-6,
    }  # fmt: skip
    stack = "text_decoder.bert."
    vocabulary, width = checkpoint.shape(f"{stack}embeddings.word_embeddings.weight")
    text = {
        **_TEXT_FIELDS.ours,
        **_sizes(checkpoint, f"{stack}encoder.layer.{{}}.intermediate.dense.weight", width),
        "vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": 102, "pad_token_id": 0,
        "max_position_embeddings": checkpoint.shape(f"{stack}embeddings.position_embeddings.weight")[0],
        "layer_norm_eps": 1e-12, "hidden_dropout": 0.1, "attention_dropout": 0.1,
    }  # fmt: skip
    made = _plan(
        checkpoint,
        ORIGINAL_VISION.under("visual_encoder.", "model.vision_tower."),
        vision,
        text,
        answers,
        tied=True,
        label_smoothing=0.1,
    )
    momentum = {f"{part}_m.{{rest}}": "a momentum model, for training" for part in ("visual_encoder", "text_decoder")}
    beams = {"num_beams": 3, "max_new_tokens": 10 if answers else 30}
    notes = ("no config.json: sizes are read off the tensors, heads are 64 wide, eps of the ViT is 1e-6",)
    return Plan(made.model_class, made.config, made.table.adding(dropped=momentum), beams, made.tokens, notes=notes)


def _sizes(checkpoint: Checkpoint, inner: str, width: int) -> dict[str, int]:
    layers = 0
    while inner.format(layers) in checkpoint:
        layers += 1
    raise_faults("heads are 64 wide in BLIP", [f"the width {width} is no multiple"] if width % _HEAD_WIDTH else [])
    return {
        "hidden_size": width,
        "intermediate_size": checkpoint.shape(inner.format(0))[0],
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_WIDTH,
    }


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """Transformers' layout of an MM model built as a BLIP."""
    config = model.config
    answers = config.text_encoder_config is not None
    settings = {
        "vision_config": _VISION_FIELDS.restore(config.vision_config),
        "text_config": _TEXT_FIELDS.restore(config.text_config),
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    settings["text_config"] |= {
        "tie_word_embeddings": config.tie_word_embeddings,
        "label_smoothing": config.label_smoothing,
    }
    architecture = next(name for name, reads in _CLASSES.items() if reads == answers)
    source = source_config({"model_type": "blip", "architectures": [architecture], **settings})
    return Layout(source, architecture, (), "BlipImageProcessor", "BlipProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Theirs returns no logits of answers, so its parts are called one after the other."""
    pixels, ids = given.pixel_values, given.input_ids
    if ours.config.text_encoder_config is None:
        return {"logits": (ours(ids, pixel_values=pixels).logits, theirs(pixels, ids).logits)}
    seen = theirs.vision_model(pixels).last_hidden_state
    asked = theirs.text_encoder(ids, encoder_hidden_states=seen).last_hidden_state
    there = theirs.text_decoder(ids, encoder_hidden_states=asked).logits
    return {"logits": (ours(ids, pixel_values=pixels, context_input_ids=ids).logits, there)}


FAMILY = Family("blip", recognises, plan, layout, compare)
