"""The named sizes of `MMConfig.preset`."""

from typing import Any

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
    # The shipped captioner: 7.3 M parameters, a small pre-norm decoder trained from scratch.
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
        "vision_config": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
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
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
}
