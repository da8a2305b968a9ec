"""Llama 3.2 Vision (mllama): names and settings of its tower of tiles, and of its text, some of whose layers only read
pictures."""

from collections.abc import Collection
from typing import Any

from .config_table import Fields, VisionFields
from .key_table import KeyTable, change
from .reshapes import lead
from .text_names import LLAMA_FIELDS, llama_layers

_LAYER = KeyTable(
    modules={
        "input_layernorm": "self_attn_norm",
        **{f"self_attn.{x}_proj": f"self_attn.{x}_proj" for x in "qkvo"},
        "post_attention_layernorm": "mlp_norm",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
    },
    tensors={"gate_attn": "self_attn_gate", "gate_ffn": "mlp_gate"},
)
VISION = (
    KeyTable(
        modules={
            "patch_embedding": "patch_embedding",
            "layernorm_pre": "embed_norm",
            "layernorm_post": "norm",
            "gated_positional_embedding.tile_embedding": "tiles.positions.table",
            "pre_tile_positional_embedding.embedding": "tiles.before.table",
            "post_tile_positional_embedding.embedding": "tiles.after.table",
        },
        tensors={
            "class_embedding": change("cls_token", by=lead(-2)),
            "gated_positional_embedding.embedding": "embed_positions.weight",
            "gated_positional_embedding.gate": "tiles.positions.gate",
            "pre_tile_positional_embedding.gate": "tiles.before.gate",
            "post_tile_positional_embedding.gate": "tiles.after.gate",
        },
    )
    + _LAYER.under("transformer.layers.{n}.", "layers.{n}.")
    + _LAYER.under("global_transformer.layers.{n}.", "tiles.layers.{n}.")
)
VISION_FIELDS = VisionFields(
    names={
        "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "hidden_act": "hidden_act",
        "num_hidden_layers": "num_hidden_layers", "attention_heads": "num_attention_heads",
        "num_channels": "num_channels", "image_size": "image_size", "patch_size": "patch_size",
        "num_global_layers": "num_global_layers", "max_num_tiles": "max_tiles",
        "intermediate_layers_indices": "feature_layers",
    },
    ours={
        "norm_position": "pre", "embedding_norm": True, "patch_bias": False, "final_norm": "all", "pooler": "none",
        "attention_bias": False, "layer_norm_eps": 1e-5, "use_cls_token": True,
    },
    theirs={"norm_eps": 1e-5},  # of its layers; that of the norms around them is fixed
)  # fmt: skip

_CROSS = KeyTable(
    modules={
        "input_layernorm": "cross_attn_norm",
        **{f"cross_attn.{x}_proj": f"cross_attn.{x}_proj" for x in "qkvo"},
        **{f"cross_attn.{x}_norm": f"cross_attn.{x}_norm" for x in "qk"},
        "post_attention_layernorm": "mlp_norm",
        **{f"mlp.{x}_proj": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    },
    tensors={"cross_attn_attn_gate": "cross_attn_gate", "cross_attn_mlp_gate": "mlp_gate"},
)
TEXT_FIELDS = Fields(
    names={
        **{name: ours for name, ours in LLAMA_FIELDS.names.items() if name not in ("vocab_size", "attention_dropout")},
        "dropout": "attention_dropout", "cross_attention_layers": "cross_attention_layers",
    },
    ours={
        **LLAMA_FIELDS.ours, "attention_bias": False, "mlp_bias": False, "cross_attention_placement": "own",
        "cross_attention_gate": "tanh", "cross_attention_qk_norm": "rms_norm", "cross_attention_unread": "mlp",
    },
)  # fmt: skip
UNWRITTEN = 8  # rows of the embeddings that the head lacks: <|image|> and seven that nothing uses


def text_table(layers: int, crossing: Collection[int]) -> KeyTable:
    """Of `layers` layers, of which `crossing` only read pictures."""
    table = llama_layers({number: number for number in range(layers) if number not in crossing})
    for number in crossing:
        table += _CROSS.under(f"layers.{number}.", f"layers.{number}.")
    return table


def text_settings(config: Any) -> dict[str, Any]:
    """MMTextConfig's of a MllamaTextConfig."""
    return TEXT_FIELDS.convert(config) | {"vocab_size": config.vocab_size + UNWRITTEN}
