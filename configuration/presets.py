"""The named sizes of `MMConfig.preset`."""

import copy
from typing import Any

from .base import overridden
from .groups import drawing_needs
from .special_ids import text_ids

# EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation): 3.4 M weights, 1280 wide.
EFFICIENTNET_LITE0: dict[str, Any] = {
    "model_type": "mm_conv",
    "image_size": 128,
    "stem": {"channels": 32, "kernel_size": 3, "stride": 2},
    "stages": [
        {"block": "inverted", "expansion": 1, "kernel_size": 3, "stride": 1, "channels": 16, "depth": 1},
        {"block": "inverted", "expansion": 6, "kernel_size": 3, "stride": 2, "channels": 24, "depth": 2},
        {"block": "inverted", "expansion": 6, "kernel_size": 5, "stride": 2, "channels": 40, "depth": 2},
        {"block": "inverted", "expansion": 6, "kernel_size": 3, "stride": 2, "channels": 80, "depth": 3},
        {"block": "inverted", "expansion": 6, "kernel_size": 5, "stride": 1, "channels": 112, "depth": 3},
        {"block": "inverted", "expansion": 6, "kernel_size": 5, "stride": 2, "channels": 192, "depth": 4},
        {"block": "inverted", "expansion": 6, "kernel_size": 3, "stride": 1, "channels": 320, "depth": 1},
    ],
    "head_channels": 1280,
    "hidden_act": "relu6",
    "padding": "same",
    "batch_norm_eps": 1e-3,
}

PRESETS: dict[str, dict[str, Any]] = {
    # The shipped captioner: 7.3 M parameters, with a small pre-norm decoder that was trained from scratch.
    "mm-tiny": {
        "vision_config": EFFICIENTNET_LITE0,
        "text_config": {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "norm_position": "pre",
            "final_norm": "all",
            "embedding_norm": False,
            "layer_norm_eps": 1e-5,
            "hidden_dropout": 0.1,
            "max_position_embeddings": 64,
            "vocab_size": 1669,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "projector_type": "linear_norm",
        "lm_head_transform": False,
        "label_smoothing": 0.1,
    },
    "mm-small": {
        "vision_config": {
            "model_type": "mm_vision",
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_attention_heads": 6,
        },
        "text_config": {
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
        },
    },
    "mm-base": {},
    "mm-large": {
        "vision_config": {
            "model_type": "mm_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
}


def preset_fields(name: str, tokenizer: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    """The fields of a named size with overrides; a text encoder has the sizes of the decoder.

    Args:
        tokenizer: whose ids and number of tokens the text has; None: those of the preset.
    """
    fields = overridden({"text_config": {}, **copy.deepcopy(PRESETS[name])}, overrides)
    text, given = fields["text_config"], overrides.get("text_config")
    if isinstance(text, dict) and tokenizer is not None:
        own = {"vocab_size": len(tokenizer), **text_ids(tokenizer)}
        fields["text_config"] = text = {**text, **own, **(given or {})}
    modalities = ["image"] if fields.get("modalities") is None else fields["modalities"]
    if not {"image", "video"} & set(modalities) and "vision_config" not in overrides:
        fields.pop("vision_config", None)
    encoder = fields.get("text_encoder_config")
    if isinstance(text, dict) and isinstance(encoder, dict):
        shared = {key: value for key, value in text.items() if not key.startswith(("is_causal", "cross_attention"))}
        fields["text_encoder_config"] = {**shared, **encoder}
    if isinstance(text, dict):  # a model that draws has room for codes and rows, where no override says how much
        needed = {name: n for name, n in drawing_needs(fields).items() if name not in (given or {})}
        fields["text_config"] = {**text, **{name: max(n, text.get(name, 0)) for name, n in needed.items()}}
    return fields
