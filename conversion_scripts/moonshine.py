"""Moonshine: MoonshineForConditionalGeneration, which hears samples of any length.

The encoder stays Transformers' own class, an audio tower without a projector; the decoder is MM's. Its class gives the
decoder the encoder's number of heads, whatever config.json says, and so does MM.
"""

from transformers import MoonshineConfig

from ..weights.speech_names import moonshine_plan, moonshine_settings
from .speech_pairs import HeardPair

_PAIR = HeardPair(
    kind="moonshine",
    config_class=MoonshineConfig,
    architecture="MoonshineForConditionalGeneration",
    processor="Wav2Vec2Processor",
    anchors=("model.encoder.conv1.weight", "model.decoder.embed_tokens.weight", "proj_out.weight"),
    hearing=(
        "hidden_size", "intermediate_size", "encoder_num_hidden_layers", "encoder_num_attention_heads",
        "encoder_num_key_value_heads", "encoder_hidden_act", "pad_head_dim_to_multiple_of", "max_position_embeddings",
        "initializer_range", "rope_parameters", "attention_bias", "attention_dropout",
    ),
    no_decoder={
        "decoder_num_hidden_layers": 1, "vocab_size": 1, "pad_token_id": None, "bos_token_id": None,
        "eos_token_id": None, "decoder_start_token_id": 0,
    },
    shared={
        "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
        "encoder_num_attention_heads": "num_attention_heads", "attention_dropout": "attention_dropout",
        "max_position_embeddings": "max_position_embeddings", "rope_parameters": "rope_parameters",
    },
    decoder=moonshine_plan,
    settings=moonshine_settings,
    repeated={
        "decoder_num_attention_heads": "encoder_num_attention_heads",
        "decoder_num_key_value_heads": "encoder_num_key_value_heads",
    },
)  # fmt: skip

FAMILY = _PAIR.family("moonshine")
