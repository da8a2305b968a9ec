"""Whisper's decoder as MM's text model: names and settings. Its encoder stays Transformers' own class."""

from collections.abc import Collection
from typing import Any

from .config_table import Fields, TowerPlan, prefix_of
from .key_table import KeyTable
from .text_names import BART_LAYER

WHISPER = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        "embed_positions": "embed_positions",
        **{f"layers.{{n}}.{old}": f"layers.{{n}}.{new}" for old, new in BART_LAYER.items()},
        "layer_norm": "norm",
    },
)
WHISPER_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "d_model": "hidden_size", "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads", "decoder_ffn_dim": "intermediate_size",
        "activation_function": "hidden_act", "max_target_positions": "max_position_embeddings",
        "dropout": "hidden_dropout", "attention_dropout": "attention_dropout", "eos_token_id": "eos_token_id",
        "pad_token_id": "pad_token_id",
    },
    ours={
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "layer_norm_eps": 1e-5,
        "is_causal": True, "pooler": "last", "attention_bias": "qvo", "embedding_scale": 1.0,
    },
)  # fmt: skip
# The settings of the encoder, and those that both stacks share. Whisper's class reads scale_embedding nowhere.
HEARING = (
    "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layerdrop",
    "max_source_positions", "d_model", "activation_function", "scale_embedding", "dropout", "attention_dropout",
    "activation_dropout", "init_std", "median_filter_width", "apply_spec_augment", "mask_time_prob",
    "mask_time_length", "mask_time_min_masks", "mask_feature_prob", "mask_feature_length", "mask_feature_min_masks",
)  # fmt: skip
# A tower has no decoder: the smallest one stands in its settings, as the class builds it before it is thrown away.
NO_DECODER = {
    "decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 1, "max_target_positions": 1,
    "vocab_size": 1, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "decoder_start_token_id": 0,
    "begin_suppress_tokens": None,
}  # fmt: skip


def whisper_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Whisper's decoder with its head."""
    before = prefix_of(names, "decoder.embed_tokens.weight")
    settings = WHISPER_FIELDS.convert(config)
    tied, matrix = bool(config.tie_word_embeddings), "proj_out.weight"
    head = KeyTable(tied={matrix: f"{before}decoder.embed_tokens.weight"})
    if not tied:
        head = KeyTable(tensors={matrix: "lm_head.weight"})
    head_settings = {"lm_head_transform": False, "lm_head_bias": False, "tie_word_embeddings": tied}
    return TowerPlan(settings, WHISPER.under(f"{before}decoder.", ""), head, head_settings)


def whisper_settings(text: Any) -> dict[str, Any]:
    """The settings of Whisper's decoder of a stack."""
    return WHISPER_FIELDS.restore(text)
