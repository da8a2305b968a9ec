"""Gemma's three generations as MM's text stack.

Each `*_plan(config, names)` takes the source's config and the names of its tensors on disk.
"""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from .config_table import LAYER_KINDS, TowerPlan, prefix_of, windows
from .text_names import LLAMA, LLAMA_FIELDS, plain_head

_LAYER = "layers.{n}."
GEMMA_FIELDS = replace(LLAMA_FIELDS, ours={**LLAMA_FIELDS.ours, "norm_type": "rms_norm_from_one"})
# Each sublayer has a norm before it, and another of what it made.
GEMMA_2 = LLAMA.adding(
    modules={
        f"{_LAYER}post_attention_layernorm": f"{_LAYER}self_attn_made_norm",
        f"{_LAYER}pre_feedforward_layernorm": f"{_LAYER}mlp_norm",
        f"{_LAYER}post_feedforward_layernorm": f"{_LAYER}mlp_made_norm",
    }
)
GEMMA_2_FIELDS = replace(
    GEMMA_FIELDS,
    names={
        **{name: ours for name, ours in GEMMA_FIELDS.names.items() if name != "hidden_act"},
        "hidden_activation": "hidden_act", "head_dim": "head_dim", "attention_bias": "attention_bias",
        "attn_logit_softcapping": "attn_logit_softcapping",
    },
    ours={**GEMMA_FIELDS.ours, "norm_position": "both", "mlp_bias": False, "qk_norm": "none"},
)  # fmt: skip
GEMMA_3_FIELDS = replace(
    GEMMA_2_FIELDS,
    names={
        name: ours
        for name, ours in GEMMA_2_FIELDS.names.items()
        if name not in ("attn_logit_softcapping", "rope_parameters")
    },
    ours={**GEMMA_2_FIELDS.ours, "qk_norm": "rms_norm_from_one", "attn_logit_softcapping": None},
)


def _check_causal(config: Any) -> None:
    if config.use_bidirectional_attention:
        raise ValueError("use_bidirectional_attention=True is not known; only causal Gemmas are")


def gemma_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Gemma, the first: embeddings times sqrt(hidden_size), and norms whose weights are distances from 1."""
    _check_causal(config)
    before = prefix_of(names, "embed_tokens.weight")
    settings = GEMMA_FIELDS.convert(config) | {
        "attention_bias": config.attention_bias, "head_dim": config.head_dim, "mlp_bias": False,
        "embedding_scale": math.sqrt(config.hidden_size),
    }  # fmt: skip
    return TowerPlan(settings, LLAMA.under(before, ""), *plain_head(config, f"{before}embed_tokens.weight", before))


def _second(config: Any, names: Collection[str], settings: dict[str, Any]) -> TowerPlan:
    before = prefix_of(names, "embed_tokens.weight")
    settings |= {
        "embedding_scale": math.sqrt(config.hidden_size),
        "attention_scale": config.query_pre_attn_scalar**-0.5,
        **windows(config.layer_types, config.sliding_window),
    }
    head, head_settings = plain_head(config, f"{before}embed_tokens.weight", before)
    head_settings = {**head_settings, "final_logit_softcapping": config.final_logit_softcapping}
    return TowerPlan(settings, GEMMA_2.under(before, ""), head, head_settings)


def gemma_2_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Gemma 2: norms before and after each sublayer, capped scores and logits, a window in every other layer."""
    _check_causal(config)
    return _second(config, names, GEMMA_2_FIELDS.convert(config))


def gemma_2_settings(config: Any) -> dict[str, Any]:
    """The settings of a Gemma 2 that is the text of an MMConfig. Raises ValueError for another text."""
    text = config.text_config
    layers = text.local_attention_layers or []
    return GEMMA_2_FIELDS.restore(text) | {
        "model_type": "gemma2",
        "query_pre_attn_scalar": round((text.attention_scale or text.head_dim**-0.5) ** -2),
        "final_logit_softcapping": config.final_logit_softcapping,
        "layer_types": [LAYER_KINDS[layer in layers] for layer in range(text.num_hidden_layers)],
        "sliding_window": text.local_attention_window + 1 if layers else 4096,  # theirs wants one in any case
    }


def gemma_3_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """The text of Gemma 3: norms as Gemma 2's and of queries and keys, no caps, a window and other angles in five
    layers of six.

    Raises: ValueError for angles in the window that are not the default ones.
    """
    _check_causal(config)
    settings = GEMMA_3_FIELDS.convert(config)
    whole, local = (dict(config.rope_parameters[kind]) for kind in LAYER_KINDS)
    has_windows = LAYER_KINDS[1] in config.layer_types
    if local["rope_type"] != "default" and has_windows:
        raise ValueError(
            f"rope_parameters: sliding_attention has rope_type={local['rope_type']!r}; in layers with a window only "
            "'default' is known"
        )
    settings |= {"rope_parameters": whole, "local_rope_theta": local["rope_theta"] if has_windows else None}
    return _second(config, names, settings)
