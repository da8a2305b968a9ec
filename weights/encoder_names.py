"""Text encoders of Transformers whose layers differ from BERT's, as MM's: ModernBERT and T5.

Each `*_plan(config, names)` takes the source's config and the names of its tensors on disk.
"""

from collections.abc import Collection
from typing import Any

import torch

from .config_table import Fields, TowerPlan, outer_prefix, prefix_of
from .key_table import KeyTable, change
from .reshapes import List, Reshape, split
from .text_names import PRE_NORM

_NAMES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "attention_bias", "attention_dropout", "mlp_bias", "bos_token_id", "eos_token_id",
    "pad_token_id",
)  # fmt: skip

# ---- ModernBERT ----------------------------------------------------------------------------------------------------

_LAYER = "layers.{n}."
MODERNBERT = KeyTable(
    modules={
        "embeddings.tok_embeddings": "embed_tokens",
        "embeddings.norm": "embed_norm",
        f"{_LAYER}attn_norm": f"{_LAYER}self_attn_norm",
        f"{_LAYER}attn.Wqkv": change(*(f"{_LAYER}self_attn.{x}_proj" for x in "qkv"), by=split(3)),
        f"{_LAYER}attn.Wo": f"{_LAYER}self_attn.o_proj",
        f"{_LAYER}mlp_norm": f"{_LAYER}mlp_norm",
        f"{_LAYER}mlp.Wi": change(f"{_LAYER}mlp.gate_proj", f"{_LAYER}mlp.up_proj", by=split(2)),
        f"{_LAYER}mlp.Wo": f"{_LAYER}mlp.down_proj",
        "final_norm": "norm",
    }
)
MODERNBERT_FIELDS = Fields(
    names={
        **{name: name for name in _NAMES}, "hidden_activation": "hidden_act", "norm_eps": "layer_norm_eps",
        "embedding_dropout": "hidden_dropout", "classifier_pooling": "pooler",
    },
    ours={
        **PRE_NORM, "embedding_norm": True, "first_attention_norm": False, "gated_mlp": True, "is_causal": False,
        "position_embedding_type": "rope",
    },
)  # fmt: skip


def modernbert_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """ModernBERT: most layers see a window of the text and rotate by a base of their own, the others see all of it.

    Raises ValueError for angles in the window that are not the default ones.
    """
    before = prefix_of(names, "embeddings.tok_embeddings.weight")
    settings = MODERNBERT_FIELDS.convert(config) | _local(config)
    settings |= {"norm_type": "layer_norm" if config.norm_bias else "layer_norm_no_bias"}
    notes = ()
    if config.mlp_dropout != config.embedding_dropout:
        notes = (f"mlp_dropout={config.mlp_dropout} becomes hidden_dropout={config.embedding_dropout}",)
    head, head_settings = _modernbert_head(config, names, before)
    return TowerPlan(settings, MODERNBERT.under(before, ""), head, head_settings, notes)


def _local(config: Any) -> dict[str, Any]:
    """Which layers see a window, how far, and the angles of both kinds."""
    kinds = ("full_attention", "sliding_attention")
    whole, local = (dict(config.rope_parameters[kind]) for kind in kinds)
    layers = [number for number, kind in enumerate(config.layer_types) if kind == kinds[1]]
    if local["rope_type"] != "default" and layers:
        raise ValueError(
            f"rope_parameters: sliding_attention has rope_type={local['rope_type']!r}; in layers with a window only "
            "'default' is known"
        )
    if whole["rope_type"] == "default":
        whole.pop("partial_rotary_factor", None)  # by default its class rotates whole heads
    settings = {"rope_parameters": whole}
    if not layers:
        return settings
    return settings | {
        "local_attention_layers": layers,
        "local_attention_window": config.sliding_window,
        "local_rope_theta": local["rope_theta"],
    }


def _no_longer_zero(new: List, unread: List) -> List:
    if new[1].any():
        raise ValueError("the head's dense layer has a bias now; this ModernBERT's has none")
    return [new[0]]


# A dense layer without a bias, which here is zero at the start.
_ZERO_BIAS = Reshape(
    "with a bias of zeros", lambda old: ([old[0], torch.zeros_like(old[0][:, 0])], []), _no_longer_zero
)


def _modernbert_head(config: Any, names: Collection[str], before: str) -> tuple[KeyTable, dict[str, Any]]:
    """The head over the vocabulary; none of a classifier, whose head has the same names and other weights."""
    outer = outer_prefix(before)
    if f"{outer}classifier.weight" in names:
        return KeyTable(), {}
    dense, matrix, tied = f"{outer}head.dense", f"{outer}decoder.weight", bool(config.tie_word_embeddings)
    ours = ("lm_head_transform.dense.weight", "lm_head_transform.dense.bias")
    head = KeyTable(
        modules={f"{outer}head.norm": "lm_head_transform.norm"},
        tensors={f"{outer}decoder.bias": "lm_head.bias", **({} if tied else {matrix: "lm_head.weight"})},
        tied={matrix: f"{before}embeddings.tok_embeddings.weight"} if tied else {},
    )
    if config.classifier_bias:
        head = head.adding(modules={dense: "lm_head_transform.dense"})
    else:
        head = head.adding(tensors={f"{dense}.weight": change(*ours, by=_ZERO_BIAS)})
    return head, {
        "lm_head_transform": True,
        "lm_head_act": config.classifier_activation,
        "lm_head_bias": config.decoder_bias,
        "tie_word_embeddings": tied,
    }


# ---- T5's encoder --------------------------------------------------------------------------------------------------

_BLOCK = "encoder.block.{n}.layer."
T5 = KeyTable(
    modules={
        "shared": "embed_tokens",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": "relative_attention_bias",
        f"{_BLOCK}0.layer_norm": f"{_LAYER}self_attn_norm",
        **{f"{_BLOCK}0.SelfAttention.{x}": f"{_LAYER}self_attn.{x}_proj" for x in "qkvo"},
        f"{_BLOCK}1.layer_norm": f"{_LAYER}mlp_norm",
        f"{_BLOCK}1.DenseReluDense.wi": f"{_LAYER}mlp.up_proj",
        f"{_BLOCK}1.DenseReluDense.wi_0": f"{_LAYER}mlp.gate_proj",
        f"{_BLOCK}1.DenseReluDense.wi_1": f"{_LAYER}mlp.up_proj",
        f"{_BLOCK}1.DenseReluDense.wo": f"{_LAYER}mlp.down_proj",
        "encoder.final_layer_norm": "norm",
    },
    tied={"encoder.embed_tokens.weight": "shared.weight"},
    dropped={"decoder.{rest}": "the decoder"},
)
T5_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "d_model": "hidden_size", "d_ff": "intermediate_size", "d_kv": "head_dim",
        "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "dense_act_fn": "hidden_act",
        "is_gated_act": "gated_mlp", "layer_norm_epsilon": "layer_norm_eps", "dropout_rate": "hidden_dropout",
        **{name: name for name in ("relative_attention_num_buckets", "relative_attention_max_distance",
                                   "eos_token_id", "pad_token_id")},
    },
    ours={
        **PRE_NORM, "norm_type": "rms_norm", "attention_bias": False, "mlp_bias": False, "attention_scale": 1.0,
        "position_embedding_type": "relative", "is_causal": False, "pooler": "mean", "bos_token_id": None,
    },
)  # fmt: skip


def t5_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Only the encoder of T5, of version 1.1 (gated) and of mT5: its texts end with a token, and open with none."""
    before = prefix_of(names, "encoder.final_layer_norm.weight")
    settings = T5_FIELDS.convert(config) | {"attention_dropout": config.dropout_rate}
    return TowerPlan(settings, T5.under(before, ""), opens=False)
