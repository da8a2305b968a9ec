"""Idefics, the first: names and settings of its tower, its resampler, and its gated layers in a Llama."""

from typing import Any

from .config_table import Fields, VisionFields
from .key_table import KeyTable, change
from .reshapes import joined, lead
from .text_names import BUFFER, LLAMA_FIELDS, llama_layers
from .vision_names import CLIP_FIELDS

VISION_FIELDS = VisionFields(
    names={"embed_dim": "hidden_size", **{n: o for n, o in CLIP_FIELDS.names.items() if n != "hidden_size"}},
    ours=CLIP_FIELDS.ours,
)
TEXT_FIELDS = Fields(
    names={
        name: ours
        for name, ours in LLAMA_FIELDS.names.items()
        if name not in ("vocab_size", "num_hidden_layers", "num_key_value_heads", "attention_dropout")
    },
    ours={
        **LLAMA_FIELDS.ours, "attention_bias": False, "mlp_bias": False, "qk_norm": "none",
        "cross_attention_placement": "own", "cross_attention_unread": "attention",
    },
)  # fmt: skip
RESAMPLER_FIELDS = Fields(
    names={
        "resampler_n_latents": "num_latents", "resampler_depth": "num_hidden_layers",
        "resampler_n_heads": "num_attention_heads", "resampler_head_dim": "head_dim",
    },
    ours={"hidden_act": "relu", "layer_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False},
)  # fmt: skip
RESAMPLER = KeyTable(
    modules={
        "blocks.{n}.0.context_layer_norm": "layers.{n}.cross_attn.memory_norm",
        "blocks.{n}.0.latents_layer_norm": "layers.{n}.cross_attn_norm",
        **{f"blocks.{{n}}.0.{x}_layer_norm": f"layers.{{n}}.cross_attn.{x}_norm" for x in "qk"},
        **{f"blocks.{{n}}.0.{x}_proj": f"layers.{{n}}.cross_attn.{x}_proj" for x in "qkv"},
        "blocks.{n}.0.output_proj": "layers.{n}.cross_attn.o_proj",
        "blocks.{n}.1.ln": "layers.{n}.mlp_norm",
        "blocks.{n}.1.fc": "layers.{n}.mlp.up_proj",
        "blocks.{n}.1.c_proj": "layers.{n}.mlp.down_proj",
        "layer_norm": "norm",
    },
    tensors={"latents": change("latents", by=lead(-1))},
)
_GATED = {
    "input_layernorm": "cross_attn_norm",
    **{f"cross_attn.{x}_proj": f"cross_attn.{x}_proj" for x in "qkvo"},
    **{f"cross_attn.{x}_layer_norm": f"cross_attn.{x}_norm" for x in "qk"},
    "post_attention_layernorm": "mlp_norm",
    **{f"mlp.{x}_proj": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
}


def gated_places(layers: int, every: int) -> list[int]:
    """The numbers of the gated layers: one before every `every`-th of a Llama's `layers`, from the first on."""
    return [number * (every + 1) for number in range(layers // every)]


def text_table(layers: int, every: int, has_vectors: bool) -> KeyTable:
    """Of a Llama of `layers` with gated layers. has_vectors: a gate has one number per channel."""
    table = llama_layers({number: number + number // every + 1 for number in range(layers)})
    gates = {"alpha_cross_attn": "cross_attn_gate", "alpha_dense": "mlp_gate"}
    for number, place in enumerate(gated_places(layers, every)):
        named = {name: change(gate, by=lead(2)) if has_vectors else gate for name, gate in gates.items()}
        table += KeyTable(modules=_GATED, tensors=named).under(
            f"gated_cross_attn_layers.{number}.", f"layers.{place}."
        )
    modules = {name: new for name, new in table.modules.items() if name != "embed_tokens"}
    return KeyTable(
        modules=modules,
        tensors=table.tensors,
        dropped={**table.dropped, "gated_cross_attn_layers.{n}.cross_attn.rotary_emb.inv_freq": BUFFER},
    )


def vocabulary_table(rows: int, more: int, tied: bool) -> KeyTable:
    """Of the embeddings and the head, of `rows` words and `more` in tables of their own, which are one here."""
    words, new = "model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"
    head, new_head = "lm_head.weight", "lm_head.additional_fc.weight"
    own = {words: "model.language_model.embed_tokens.weight", head: "lm_head.weight"}
    beside = {words: new, head: new_head}
    tensors: dict[str, Any] = dict(own)
    if more:
        tensors = {name: change(target, by=joined(rows), also=(beside[name],)) for name, target in own.items()}
    if not tied:
        return KeyTable(tensors=tensors)
    copies = {head: words, **({new_head: new} if more else {})}
    return KeyTable(tensors={words: tensors[words]}, tied=copies)
