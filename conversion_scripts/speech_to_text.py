"""Speech2Text: Speech2TextForConditionalGeneration, which transcribes or translates.

The encoder stays Transformers' own class, an audio tower without a projector; the decoder is MM's. A text starts from
`decoder_start_token_id` (</s>), which is MM's bos; the language of a translation is `forced_bos_token_id`.
"""

from transformers import Speech2TextConfig

from ..weights.speech_names import speech_to_text_plan, speech_to_text_settings
from .speech_pairs import HeardPair

_PAIR = HeardPair(
    kind="speech_to_text",
    config_class=Speech2TextConfig,
    architecture="Speech2TextForConditionalGeneration",
    processor="Speech2TextProcessor",
    anchors=("model.encoder.conv.conv_layers.0.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    hearing=(
        "encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "encoder_layerdrop", "activation_function",
        "d_model", "dropout", "attention_dropout", "activation_dropout", "init_std", "scale_embedding",
        "max_source_positions", "num_conv_layers", "conv_kernel_sizes", "conv_channels", "input_feat_per_channel",
        "input_channels",
    ),
    # The decoder is thrown away after it is built; the places of the encoder start after the id of the padding.
    no_decoder={
        "decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 1, "max_target_positions": 1,
        "vocab_size": 2, "pad_token_id": 1, "bos_token_id": None, "eos_token_id": None, "decoder_start_token_id": 0,
    },
    shared={
        "d_model": "hidden_size", "activation_function": "hidden_act", "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
    },
    decoder=speech_to_text_plan,
    settings=speech_to_text_settings,
)  # fmt: skip

FAMILY = _PAIR.family("speech-to-text")
