"""Small Whispers as they are published: the installed classes with random weights, sounds of one second."""

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from mm import convert

BYTES = sorted(ByteLevel.alphabet())
SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
TIMES = [f"<|{position * 0.02:.2f}|>" for position in range(51)]
IDS = {token: number for number, token in enumerate([*BYTES, *SPECIAL, *TIMES])}
EOT, SOT = IDS["<|endoftext|>"], IDS["<|startoftranscript|>"]
LANGUAGES = {name: IDS[name] for name in ("<|en|>", "<|de|>", "<|fr|>")}
TASKS = {name: IDS[f"<|{name}|>"] for name in ("translate", "transcribe")}
BANDS, POSITIONS = 12, 50


def whisper_config(**changes: Any) -> WhisperConfig:
    settings = {
        "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_layers": 2,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "vocab_size": len(IDS), "num_mel_bins": BANDS,
        "max_source_positions": POSITIONS, "max_target_positions": 64, "pad_token_id": EOT, "bos_token_id": EOT,
        "eos_token_id": EOT, "decoder_start_token_id": SOT, "begin_suppress_tokens": None,
    }  # fmt: skip
    return WhisperConfig(**{**settings, **changes})


def whisper_decoding(**changes: Any) -> GenerationConfig:
    """generation_config.json of a Whisper of three languages."""
    settings = {
        "decoder_start_token_id": SOT, "bos_token_id": EOT, "eos_token_id": EOT, "pad_token_id": EOT,
        "suppress_tokens": [IDS[token] for token in ("$", "*", "<|startofprev|>", "<|nospeech|>")],
        "begin_suppress_tokens": [IDS["Ġ"], EOT], "is_multilingual": True, "lang_to_id": LANGUAGES,
        "task_to_id": TASKS, "no_timestamps_token_id": IDS["<|notimestamps|>"], "return_timestamps": False,
        "prev_sot_token_id": IDS["<|startofprev|>"], "max_initial_timestamp_index": 20, "max_length": 40,
        "alignment_heads": [[0, 1], [1, 3]],
    }  # fmt: skip
    return GenerationConfig(**{**settings, **changes})


def whisper_tokenizer(**settings: Any) -> WhisperTokenizer:
    tokenizer = WhisperTokenizer(
        vocab={token: IDS[token] for token in [*BYTES, "<|endoftext|>"]}, merges=[], **settings
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.add_tokens(TIMES)
    tokenizer.pad_token = "<|endoftext|>"  # as published
    assert tokenizer.convert_tokens_to_ids(TIMES[-1]) == IDS[TIMES[-1]]
    return tokenizer


def whisper_extractor() -> WhisperFeatureExtractor:
    """Of sounds of one second."""
    return WhisperFeatureExtractor(feature_size=BANDS, chunk_length=1)


def sounds_of(config: WhisperConfig, rows: int = 2, windows: float = 1, dtype: Any = torch.float64) -> torch.Tensor:
    """Random features (rows, bands, frames), as long as `windows` of the encoder's."""
    frames = int(2 * config.max_source_positions * windows)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, config.num_mel_bins, frames, generator=generator, dtype=dtype)


@torch.no_grad()
def lively_whisper(**changes: Any) -> WhisperForConditionalGeneration:
    """In fp64, and with weights under which it writes many different words that depend on the sound."""
    model = WhisperForConditionalGeneration(whisper_config(**{"tie_word_embeddings": False, **changes})).double()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        if weight.ndim == 1:
            weight.copy_(0.2 * noise + name.endswith("norm.weight"))
        else:
            weight.copy_(noise * weight[0].numel() ** -0.5)
    for layer in model.model.decoder.layers:
        layer.encoder_attn.out_proj.weight.mul_(3)
        layer.encoder_attn.q_proj.weight.mul_(3)
    model.model.decoder.embed_positions.weight.mul_(12)
    model.model.decoder.embed_tokens.weight.mul_(2)
    model.tie_weights()
    model.generation_config = whisper_decoding()
    return model.eval()


def saved_whisper(folder: Path) -> Path:
    """A lively one with its processor in `folder`, and MM's model of it in the folder mm below, which is returned."""
    lively_whisper().save_pretrained(folder)
    WhisperProcessor(whisper_extractor(), whisper_tokenizer()).save_pretrained(folder)
    convert(folder).save_pretrained(folder / "mm")
    return folder / "mm"
