"""Decoders of Speech2Text and Moonshine as MM's text model: names and settings. Their encoders stay Transformers' own
classes."""

import math
from collections.abc import Collection
from typing import Any

import torch

from ..configuration.positions import SINUSOID_OFFSET
from .config_table import Fields, TowerPlan, prefix_of, untrained
from .key_table import KeyTable, change
from .reshapes import List, Reshape, split
from .text_names import BART_LAYER, BUFFER, PRE_NORM

_IDS = {name: name for name in ("eos_token_id", "pad_token_id")}  # bos is what a text starts from

# ---- Speech2Text ---------------------------------------------------------------------------------------------------

SPEECH_TO_TEXT = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        **{f"layers.{{n}}.{old}": f"layers.{{n}}.{new}" for old, new in BART_LAYER.items()},
        "layer_norm": "norm",
    },
    dropped={f"embed_positions.{name}": BUFFER for name in ("weights", "weight", "_float_tensor")},  # older files
)
SPEECH_TO_TEXT_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "d_model": "hidden_size", "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads", "decoder_ffn_dim": "intermediate_size",
        "activation_function": "hidden_act", "max_target_positions": "max_position_embeddings",
        "dropout": "hidden_dropout", "attention_dropout": "attention_dropout", **_IDS,
    },
    ours={
        **PRE_NORM, "layer_norm_eps": 1e-5, "is_causal": True, "attention_bias": True,
        "position_embedding_type": "sinusoidal",
    },
)  # fmt: skip


def speech_to_text_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Speech2Text's decoder with its head. Raises ValueError where its fixed positions start elsewhere."""
    if config.pad_token_id != SINUSOID_OFFSET - 1:
        raise ValueError(f"pad_token_id={config.pad_token_id}, after which fixed positions start; only 1 is known")
    before = prefix_of(names, "decoder.embed_tokens.weight")
    settings = SPEECH_TO_TEXT_FIELDS.convert(config)
    settings |= {"embedding_scale": math.sqrt(config.d_model) if config.scale_embedding else 1.0}
    head = _head(config, f"{before}decoder.embed_tokens.weight", "lm_head.weight")
    return TowerPlan(settings, SPEECH_TO_TEXT.under(f"{before}decoder.", ""), *head, untrained(config))


def speech_to_text_settings(text: Any) -> dict[str, Any]:
    """The settings of Speech2Text's decoder of a stack."""
    scale, width = text.embedding_scale, text.hidden_size
    if scale not in (1.0, math.sqrt(width)):
        raise ValueError(f"embedding_scale={scale} is neither 1 nor sqrt(hidden_size)={math.sqrt(width)}")
    return SPEECH_TO_TEXT_FIELDS.restore(text) | {"scale_embedding": scale != 1.0}


def _head(config: Any, embeddings: str, matrix: str) -> tuple[KeyTable, dict[str, Any]]:
    tied = bool(config.tie_word_embeddings)
    table = KeyTable(tied={matrix: embeddings}) if tied else KeyTable(tensors={matrix: "lm_head.weight"})
    return table, {"lm_head_transform": False, "lm_head_bias": False, "tie_word_embeddings": tied}


# ---- Moonshine -----------------------------------------------------------------------------------------------------

MOONSHINE_FIELDS = Fields(
    names={
        **{name: name for name in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings",
                                   "attention_dropout", "rope_parameters")},
        "decoder_num_hidden_layers": "num_hidden_layers", "decoder_hidden_act": "hidden_act", **_IDS,
    },
    ours={
        **PRE_NORM, "norm_type": "layer_norm_no_bias", "layer_norm_eps": 1e-5, "is_causal": True, "gated_mlp": True,
        "mlp_bias": True, "position_embedding_type": "rope", "embedding_scale": 1.0,
    },
)  # fmt: skip


def _from_pairs(heads: int, rotated: int) -> Reshape:
    """Rows of queries or keys whose rotary positions turn neighbours (0, 1), (2, 3), ... of each head's first
    `rotated` numbers, in MM's order: the first of each pair, then the second."""
    order = torch.cat([torch.arange(0, rotated, 2), torch.arange(1, rotated, 2)])

    def moved(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        if len(tensor) % heads or len(tensor) // heads < rotated:
            raise ValueError(f"{len(tensor)} rows are not {heads} heads of at least {rotated}")
        by_head = tensor.unflatten(0, (heads, -1)).clone()
        by_head[:, :rotated] = by_head[:, order]
        return by_head.flatten(0, 1)

    def forward(old: List) -> tuple[List, List]:
        return [moved(old[0], order)], []

    def backward(new: List, unread: List) -> List:
        return [moved(new[0], order.argsort())]

    return Reshape(f"ordered by halves in {heads} heads", forward, backward)


def moonshine_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Moonshine's decoder with its head. Raises ValueError for settings under which its class cannot run."""
    heads = config.encoder_num_attention_heads  # its class gives the decoder as many as the encoder, whatever it says
    if config.encoder_num_key_value_heads != heads or config.decoder_num_key_value_heads != heads:
        raise ValueError(
            f"encoder_num_key_value_heads={config.encoder_num_key_value_heads} and decoder_num_key_value_heads="
            f"{config.decoder_num_key_value_heads} with {heads} heads: Transformers' class cannot run these; only as "
            "many heads of keys and values as of queries are known"
        )
    if config.hidden_size % heads or getattr(config, "head_dim", None) is not None:
        raise ValueError(
            f"hidden_size={config.hidden_size}, {heads} heads and head_dim={getattr(config, 'head_dim', None)}: only "
            "heads that share the width equally are known"
        )
    turned = config.rope_parameters.get("rope_type", "default")
    if turned in ("dynamic", "longrope"):
        raise ValueError(
            f"rope_parameters: rope_type={turned!r}: Transformers' encoder then turns positions by the longest sound "
            "that it has heard, so a sound would depend on those beside and before it; known are default, linear, "
            "llama3 and yarn"
        )
    before = prefix_of(names, "decoder.embed_tokens.weight")
    width = config.hidden_size // heads
    rotated = int(width * config.rope_parameters.get("partial_rotary_factor", 1.0))
    settings = MOONSHINE_FIELDS.convert(config) | {
        "num_attention_heads": heads, "attention_bias": "qkv" if config.attention_bias else False,
        "rope_parameters": dict(config.rope_parameters),
    }  # fmt: skip
    head = _head(config, f"{before}decoder.embed_tokens.weight", "proj_out.weight")
    return TowerPlan(settings, _moonshine(heads, rotated).under(f"{before}decoder.", ""), *head)


def _moonshine(heads: int, rotated: int) -> KeyTable:
    layer, by = "layers.{n}.", _from_pairs(heads, rotated)
    rotary = {f"{layer}self_attn.{x}_proj": change(f"{layer}self_attn.{x}_proj", by=by) for x in "qk"}
    gated = change(f"{layer}mlp.up_proj", f"{layer}mlp.gate_proj", by=split(2))
    return KeyTable(
        modules={
            "embed_tokens": "embed_tokens",
            f"{layer}input_layernorm": f"{layer}self_attn_norm",
            **rotary,
            **{f"{layer}self_attn.{x}_proj": f"{layer}self_attn.{x}_proj" for x in "vo"},
            f"{layer}post_attention_layernorm": f"{layer}cross_attn_norm",
            **{f"{layer}encoder_attn.{x}_proj": f"{layer}cross_attn.{x}_proj" for x in "qkvo"},
            f"{layer}final_layernorm": f"{layer}mlp_norm",
            f"{layer}mlp.fc1": gated,
            f"{layer}mlp.fc2": f"{layer}mlp.down_proj",
            "norm": "norm",
        },
        dropped={"rotary_emb.inv_freq": BUFFER},
    )


def moonshine_settings(text: Any) -> dict[str, Any]:
    """The settings of Moonshine's decoder of a stack. Raises ValueError for another."""
    if text.attention_bias not in (False, "qkv"):
        raise ValueError(f"attention_bias={text.attention_bias!r}; a Moonshine has False or 'qkv'")
    if text.num_key_value_heads != text.num_attention_heads:
        raise ValueError(f"num_key_value_heads={text.num_key_value_heads}; a Moonshine has as many as of queries")
    return MOONSHINE_FIELDS.restore(text) | {
        "decoder_num_attention_heads": text.num_attention_heads, "attention_bias": text.attention_bias == "qkv",
    }  # fmt: skip
