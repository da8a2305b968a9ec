"""Names of CoCa's tensors in open_clip and here, and the settings inferred from their sizes; see coca.py."""

from typing import Any

import torch

from ..weights.checkpoint import Checkpoint
from ..weights.key_table import KeyTable, change
from ..weights.reshapes import TRANSPOSE, List, Reshape, lead, split, summands


def _qkv(attention: str) -> dict[str, Any]:
    """MultiheadAttention's fused projections."""
    return {
        f"attn.in_proj_{leaf}": change(*(f"{attention}.{letter}_proj.{leaf}" for letter in "qkv"), by=split(3))
        for leaf in ("weight", "bias")
    }


def _block(kind: str, **norms: str) -> KeyTable:
    """A residual block: `kind`, "self" or "cross", attention and an MLP."""
    modules = {"ln_1": f"{kind}_attn_norm", "attn.out_proj": f"{kind}_attn.o_proj", "ln_2": "mlp_norm", **norms}
    modules |= {"mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
    return KeyTable(modules=modules, tensors=_qkv(f"{kind}_attn"))


SELF, CROSS = _block("self"), _block("cross", ln_1_kv="cross_attn.memory_norm")
VISION = KeyTable(
    modules={"conv1": "patch_embedding", "ln_pre": "embed_norm"},
    tensors={
        "class_embedding": change("cls_token", by=lead(-2)),
        "positional_embedding": "embed_positions.weight",
    },
) + SELF.under("transformer.resblocks.{n}.", "layers.{n}.")


def pooler(is_fused: bool) -> KeyTable:
    """The attentional pooler; its projections are fused where pictures are as wide as embeddings."""
    tensors: dict[str, Any] = {"attn_pool.query": change("latents", by=lead(-1)), **_qkv("layers.0.cross_attn")}
    tensors = {name.replace("attn.", "attn_pool.attn.", 1): target for name, target in tensors.items()}
    if not is_fused:
        del tensors["attn_pool.attn.in_proj_weight"]
        names = {f"attn_pool.attn.{x}_proj_weight": f"layers.0.cross_attn.{x}_proj.weight" for x in "qkv"}
        tensors |= names
    modules = {
        "attn_pool.ln_q": "layers.0.cross_attn_norm", "attn_pool.ln_k": "layers.0.cross_attn.memory_norm",
        "attn_pool.attn.out_proj": "layers.0.cross_attn.o_proj", "ln_post": "norm",
    }  # fmt: skip
    return KeyTable(modules=modules, tensors=tensors)


def _cls_there(old: List) -> tuple[List, List]:
    """Positions (T + 1, D) and the token (D,) that is always at the last of them."""
    places, token = old
    return [places[:-1], (token + places[-1])[None, None]], [places[-1].clone(), token]


def _cls_back(new: List, unread: List) -> List:
    table, vector = new[0], new[1][0, 0]
    place, token = unread or [torch.zeros_like(vector), vector]
    token, place = summands(vector, token, place)
    return [torch.cat([table, place[None]]), token]


CLS = Reshape("joined: the last token and its place", _cls_there, _cls_back)
TEXT = KeyTable(
    modules={"token_embedding": "embed_tokens", "ln_final": "unimodal.norm"},
    tensors={
        "positional_embedding": change("embed_positions.weight", "unimodal.cls_token", by=CLS, also=("cls_emb",))
    },
)
HEADS = KeyTable(
    tensors={
        "visual.proj": change("itc_head.vision.weight", by=TRANSPOSE),
        "text.text_projection": change("itc_head.text.weight", by=TRANSPOSE),
        "text_decoder.text_projection": change("lm_head.weight", by=TRANSPOSE),
        "logit_scale": "itc_head.logit_scale",
    },
    kept={"logit_bias": "CoCa's losses do not read it"},
)


def table(unimodal: int, multimodal: int, is_fused: bool) -> KeyTable:
    """Of the whole model, with so many layers of either text stack."""
    parts = VISION.under("visual.", "model.vision_tower.") + TEXT.under("text.", "model.language_model.") + HEADS
    parts += pooler(is_fused).under("visual.", "model.vision_resampler.")
    parts += KeyTable(modules={"text_decoder.ln_final": "model.language_model.norm"})
    for number in range(unimodal):  # on the way back the layers tell these numbers apart
        parts += SELF.under(f"text.transformer.resblocks.{number}.", f"model.language_model.layers.{number}.")
    for number in range(multimodal):
        first = f"model.language_model.layers.{unimodal + 2 * number}."
        second = f"model.language_model.layers.{unimodal + 2 * number + 1}."
        parts += SELF.under(f"text_decoder.resblocks.{number}.", first)
        parts += CROSS.under(f"text_decoder.cross_attn.{number}.", second)
    return parts


def sizes_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """open_clip's config of a file without one, as of the published models."""
    shape, layers = checkpoint.shape, _layers(checkpoint)
    width, _, patch, _ = shape("visual.conv1.weight")
    side = round((shape("visual.positional_embedding")[0] - 1) ** 0.5)
    queries, embed = shape("visual.attn_pool.query")
    words = {"width": embed, "heads": embed // 64, "vocab_size": shape("text.token_embedding.weight")[0]}
    words["context_length"] = shape("text.positional_embedding")[0] - 1
    vision = {"width": width, "layers": layers("visual.transformer"), "patch_size": patch, "image_size": side * patch}
    return {
        "embed_dim": embed,
        "vision_cfg": {**vision, "attn_pooler_queries": queries},
        "text_cfg": {**words, "layers": layers("text.transformer")},
        "multimodal_cfg": {**words, "layers": layers("text_decoder")},
    }


def _layers(checkpoint: Checkpoint):
    names = set(checkpoint)

    def count(stack: str) -> int:
        return next(n for n in range(len(names)) if f"{stack}.resblocks.{n}.ln_1.weight" not in names)

    return count
