"""BLIP in the files of the original code and of LAVIS: a .pth without a config, its ViT under timm's names.

There every head is 64 wide, the ViT's norms have eps 1e-6 and label smoothing is 0.1. A question, and a text that is
matched with a picture, starts with [ENC]; in Transformers it starts with [CLS]. A text that is compared starts with
[CLS] in both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers

from ..weights.checkpoint import Checkpoint
from ..weights.key_table import KeyTable, change, raise_faults
from ..weights.reshapes import Reshape, lead
from . import blip
from .blip import BLOCK, TEXT_FIELDS, VISION_FIELDS, retrieval_plan, writer_plan
from .family import Family, Plan, Unwritten, own_shapes, skeleton

_HEAD_WIDTH = 64
_TIMM_BLOCK = {"norm1": "layer_norm1", "attn.qkv": "self_attn.qkv", "attn.proj": "self_attn.projection"}
_TIMM_BLOCK |= {"norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_VISION = KeyTable(
    modules={"patch_embed.proj": "patch_embedding", "norm": "norm"},
    tensors={"cls_token": "cls_token", "pos_embed": change("embed_positions.weight", by=lead(1))},
) + KeyTable(modules={old: BLOCK[new] for old, new in _TIMM_BLOCK.items()}).under("blocks.{n}.", "layers.{n}.")


_MOMENTUM = ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj")
_TRAINING = {
    **{f"{part}_m.{{rest}}": "a momentum model, for training" for part in _MOMENTUM},
    **{f"{name}_queue": "a queue of embeddings, for training" for name in ("image", "text", "ptr", "idx")},
}
# Similarities are divided by `temp` there, and multiplied by exp(logit_scale) here.
_TEMPERATURE = Reshape(
    "its negative logarithm",
    lambda old: ([-old[0].log()], []),
    lambda new, unread: [torch.exp(-new[0])],
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return not config and "visual_encoder.blocks.0.norm1.weight" in set(names)


def plan(checkpoint: Checkpoint) -> Plan:
    """Sizes are read off the tensors; what they do not say are the original's settings."""
    compares, writes = "text_proj.weight" in checkpoint, any(name.startswith("text_decoder.") for name in checkpoint)
    if compares and writes:
        raise ValueError("this is BLIP's pre-training; accepted are files of captioning, answering and retrieval")
    answers = writes and any(name.startswith("text_encoder.") for name in checkpoint)
    text = _text(checkpoint, "text_decoder.bert." if writes else "text_encoder.")
    parts = (_VISION.under("visual_encoder.", "model.vision_tower."), _vision(checkpoint), text)
    if compares:
        width = checkpoint.shape("text_proj.weight")[0]
        made = retrieval_plan(*parts, projection_dim=width, itm_bos_token_id=text["bos_token_id"] + 1)
        generation = {}
    else:
        made = writer_plan(checkpoint, *parts, answers=answers, tied=True, label_smoothing=0.1)
        generation = {"num_beams": 3, "max_new_tokens": 10 if answers else 30}
    table = made.table.adding(dropped=_TRAINING)
    if "temp" in checkpoint:
        table = table.adding(tensors={"temp": change("itc_head.logit_scale", by=_TEMPERATURE)})
    notes = ("no config.json: sizes are read off the tensors, heads are 64 wide, eps of the ViT is 1e-6",)
    return replace(made, table=table, generation=generation, notes=notes)


def _vision(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of the ViT."""
    places = checkpoint.shape("visual_encoder.pos_embed")[1] - 1
    patch = checkpoint.shape("visual_encoder.patch_embed.proj.weight")
    side = round(places**0.5)
    if side * side != places:
        raise ValueError(f"visual_encoder.pos_embed has {places} places, which are no square of patches")
    return {
        **VISION_FIELDS.ours,
        **_sizes(checkpoint, "visual_encoder.blocks.{}.mlp.fc1.weight", patch[0]),
        "image_size": side * patch[-1], "patch_size": patch[-1], "layer_norm_eps": 1e-6,
    }  # fmt: skip


def _text(checkpoint: Checkpoint, stack: str) -> dict[str, Any]:
    """The settings of the text stack whose names begin so."""
    vocabulary, width = checkpoint.shape(f"{stack}embeddings.word_embeddings.weight")
    return {
        **TEXT_FIELDS.ours,
        **_sizes(checkpoint, f"{stack}encoder.layer.{{}}.intermediate.dense.weight", width),
        "vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": 102, "pad_token_id": 0,
        "max_position_embeddings": checkpoint.shape(f"{stack}embeddings.position_embeddings.weight")[0],
        "layer_norm_eps": 1e-12, "hidden_dropout": 0.1, "attention_dropout": 0.1,
    }  # fmt: skip


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


# ---- verify --------------------------------------------------------------------------------------------------------


def original(source: Checkpoint) -> Any:
    """Transformers' class with these tensors, by both tables: the original's code is no package to install."""
    made = plan(source)
    model = skeleton(made.model_class, made.config)
    tensors = made.table.convert(source, own_shapes(model)).tensors
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    made.config.itm_bos_token_id = None
    there = blip.layout(model)
    table = blip.plan(Unwritten(there)).table  # pyright: ignore[reportArgumentType]: names are all it reads
    theirs = getattr(transformers, there.architecture)(there.config)
    missing = set(theirs.load_state_dict(table.restore(tensors), strict=False).missing_keys)
    raise_faults(f"{there.architecture} lacks tensors", sorted(missing - set(theirs.all_tied_weights_keys)))
    theirs.tie_weights()
    return theirs


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """As BLIP's, but a text that is matched starts with [ENC]."""
    pairs, opens = blip.compare(theirs, ours, given), ours.config.itm_bos_token_id
    if opens is not None:
        ids = torch.cat([torch.full_like(given.input_ids[:, :1], opens), given.input_ids[:, 1:]], dim=1)
        pairs["itm_logits"] = (
            pairs["itm_logits"][0],
            theirs(ids, given.pixel_values, attention_mask=given.attention_mask).itm_score,
        )
    return pairs


FAMILY = Family("blip-original", recognises, plan, compare=compare, original=original, texts=blip.texts)
