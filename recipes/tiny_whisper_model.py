"""The tiny Whisper at the start of training, its tokenizer and its feature extractor."""

import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.processor import MMProcessor
from ..weights.whisper_names import NO_DECODER, WHISPER_FIELDS

PIECES = 64  # beside the 256 bytes: accented letters, frequent endings
WIDTH, HEADS, HEARING_LAYERS, WRITING_LAYERS = 128, 4, 4, 2
LONGEST = 192  # tokens of a window
LAST_TIME = 6  # seconds that the tokenizer has times for
PER_SECOND = 50  # positions of the encoder, and times of the tokenizer


def marks_of(languages: Sequence[str]) -> list[str]:
    """Tokens of Whisper's languages up to the last of `languages`: they are told by their order."""
    codes = list(TO_LANGUAGE_CODE.values())
    return [f"<|{code}|>" for code in codes[: max(map(codes.index, languages)) + 1]]


def special_tokens(languages: Sequence[str]) -> list[str]:
    """In Whisper's order."""
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    return ["<|endoftext|>", "<|startoftranscript|>", *marks_of(languages), *tasks]


def build_processor(
    texts: list[str], seconds: int, languages: Sequence[str] = ("es",), pieces: int = PIECES
) -> MMProcessor:
    """Bytes and pieces of them learned from `texts`, special tokens, times; windows of `seconds`."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=256 + pieces, initial_alphabet=alphabet, show_progress=False)
    )
    vocabulary, merges = learned.get_vocab(), json.loads(learned.to_str())["model"]["merges"]
    special = special_tokens(languages)
    tokenizer = WhisperTokenizer(
        vocab=vocabulary | {special[0]: len(vocabulary)}, merges=[tuple(pair) for pair in merges]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.add_tokens([f"<|{number / PER_SECOND:.2f}|>" for number in range(LAST_TIME * PER_SECOND + 1)])
    tokenizer.pad_token, tokenizer.bos_token = special[:2]
    if len(languages) == 1:
        tokenizer.set_prefix_tokens(language=languages[0], task="transcribe")
    return MMProcessor(tokenizer=tokenizer, feature_extractor=WhisperFeatureExtractor(chunk_length=seconds))


def build_model(
    processor: MMProcessor, seconds: int, seed: int, languages: Sequence[str] = ("es",)
) -> MMForSpeechSeq2Seq:
    """New weights for windows of `seconds`. Of several languages it tells which it hears."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special_tokens(languages)}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    hearing = WhisperConfig(
        d_model=WIDTH, encoder_layers=HEARING_LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH,
        max_source_positions=seconds * PER_SECOND, dropout=0.1, **NO_DECODER,
    )  # fmt: skip
    writing = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "num_hidden_layers": WRITING_LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH, "hidden_act": "gelu", "hidden_dropout": 0.1,
        "max_position_embeddings": LONGEST, **WHISPER_FIELDS.ours,
        "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    config = MMConfig(
        modalities=["audio"], audio_config=hearing, text_config=writing, projector_type="none",
        lm_head_transform=False, lm_head_bias=False, tie_word_embeddings=True,
    )  # fmt: skip
    model = MMForSpeechSeq2Seq(config)
    weights_by_inputs(model)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, bos_token_id=start, eos_token_id=end, pad_token_id=end, is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in languages},
        task_to_id={name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        language=languages[0] if len(languages) == 1 else None, task="transcribe",
        no_timestamps_token_id=ids["<|notimestamps|>"], return_timestamps=False,
        prev_sot_token_id=ids["<|startofprev|>"], max_initial_timestamp_index=PER_SECOND, max_length=LONGEST,
        suppress_tokens=[], begin_suppress_tokens=[end],
        alignment_heads=[[WRITING_LAYERS - 1, head] for head in range(HEADS)],
    )  # fmt: skip
    return model


def weights_by_inputs(model: nn.Module) -> None:
    """Weights by their inputs. Whisper's 0.02 would leave a sound of this width 25 times weaker than the sines of
    its positions, and nothing would be learned of it in twenty minutes."""
    for name, weight in model.named_parameters():
        if weight.ndim == 3:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
        elif weight.ndim == 2 and "embed" not in name and weight.requires_grad:
            nn.init.xavier_normal_(weight)


def longer(model: MMForSpeechSeq2Seq, seconds: int) -> MMForSpeechSeq2Seq:
    """The same weights for longer windows: the encoder's positions are sines, so more of them can follow."""
    settings = model.config.to_dict()
    settings["audio_config"]["max_source_positions"] = seconds * PER_SECOND
    config = MMConfig(**settings)
    made = MMForSpeechSeq2Seq(config)
    weights = {name: value for name, value in model.state_dict().items() if "audio_tower.embed_positions" not in name}
    missing, unexpected = made.load_state_dict(weights, strict=False)
    if unexpected or any("audio_tower.embed_positions" not in name for name in missing):
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    made.generation_config = model.generation_config
    return made
