"""Whisper in the files of openai-whisper: a .pt with `dims` and `model_state_dict`, for every size.

The vocabulary tells the languages and every special id. The tokenizer is made of the list of pieces in openai-whisper,
if that is installed. Suppressed tokens and alignment heads are in that package's code, not in the file.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from ..weights.checkpoint import Checkpoint
from ..weights.files import unpickled
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import BART_LAYER
from . import whisper
from .family import Family, Layout, Plan, Unwritten, own_shapes, skeleton
from .processor import tokenizer_of

_HEAD_WIDTH = 64  # of every published size; `dims` tells it too
_ENGLISH, _OTHERS = 51864, 51765  # vocabularies: of English alone; without any of the languages
_SPACE = 220
_TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
_LAYER = {
    **{f"attn.{old}": f"self_attn.{new}" for old, new in _ATTENTION.items()},
    **{f"cross_attn.{old}": f"encoder_attn.{new}" for old, new in _ATTENTION.items()},
    "attn_ln": "self_attn_layer_norm", "cross_attn_ln": "encoder_attn_layer_norm", "mlp_ln": "final_layer_norm",
    "mlp.0": "fc1", "mlp.2": "fc2",
}  # fmt: skip
_PLACES = {"positional_embedding": "embed_positions.weight"}
_TABLE = KeyTable(
    modules={
        "conv1": "conv1", "conv2": "conv2", "ln_post": "layer_norm",
        **{f"blocks.{{n}}.{old}": f"layers.{{n}}.{new}" for old, new in _LAYER.items() if "cross" not in old},
    },
    tensors=_PLACES,
).under("encoder.", "model.audio_tower.") + KeyTable(
    modules={
        "token_embedding": "embed_tokens", "ln": "norm",
        **{f"blocks.{{n}}.{old}": f"layers.{{n}}.{BART_LAYER[new]}" for old, new in _LAYER.items()},
    },
    tensors=_PLACES,
).under("decoder.", "model.language_model.")  # fmt: skip


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return not config and {"decoder.token_embedding.weight", "encoder.ln_post.weight"} <= set(names)


def plan(checkpoint: Checkpoint) -> Plan:
    """Sizes are read off the tensors, heads off `dims`."""
    config = _config(checkpoint)
    names = ("encoder.conv1.weight", "decoder.embed_tokens.weight")
    there = Layout(config, "WhisperForConditionalGeneration", names, "", "WhisperProcessor")
    made = whisper.plan(Unwritten(there))  # pyright: ignore[reportArgumentType]: names are all it reads
    seconds = 2 * config.max_source_positions / 100
    sounds = {"feature_size": config.num_mel_bins, "chunk_length": int(seconds)} if seconds == int(seconds) else None
    notes = ("no generation_config.json: suppressed tokens and alignment heads (times of words) are not in the file",)
    return replace(
        made, table=_TABLE, generation=_decoding(config), sounds=sounds, notes=notes,
        tokenizer=partial(tokenizer, vocabulary=config.vocab_size),
    )  # fmt: skip


def _config(checkpoint: Checkpoint) -> WhisperConfig:
    """Raises ValueError for a vocabulary or a number of heads that no Whisper has."""
    vocabulary, width = checkpoint.shape("decoder.token_embedding.weight")
    if not _ENGLISH <= vocabulary <= _OTHERS + 1 + len(LANGUAGES):
        raise ValueError(
            f"the vocabulary has {vocabulary} tokens; known are {_ENGLISH} (English) and {_ENGLISH + 1} to "
            f"{_OTHERS + 1 + len(LANGUAGES)} (99 languages and more)"
        )
    dims = unpickled(Path(checkpoint.source), map_location="cpu", mmap=True).get("dims") or {}
    heads = {part: dims.get(f"n_{part}_head", width // _HEAD_WIDTH) for part in ("audio", "text")}
    faults = [f"{width} is no multiple of {count}" for count in heads.values() if not count or width % count]
    raise_faults("the width is split into heads", faults)
    ids, layers = _ids(vocabulary), {"audio": 0, "text": 0}
    for part, stack in (("audio", "encoder"), ("text", "decoder")):
        while f"{stack}.blocks.{layers[part]}.mlp.0.weight" in checkpoint:
            layers[part] += 1
    return WhisperConfig(
        vocab_size=vocabulary, d_model=width, num_mel_bins=checkpoint.shape("encoder.conv1.weight")[1],
        encoder_layers=layers["audio"], encoder_attention_heads=heads["audio"],
        encoder_ffn_dim=checkpoint.shape("encoder.blocks.0.mlp.0.weight")[0],
        decoder_layers=layers["text"], decoder_attention_heads=heads["text"],
        decoder_ffn_dim=checkpoint.shape("decoder.blocks.0.mlp.0.weight")[0],
        max_source_positions=checkpoint.shape("encoder.positional_embedding")[0],
        max_target_positions=checkpoint.shape("decoder.positional_embedding")[0],
        decoder_start_token_id=ids["startoftranscript"], bos_token_id=ids["endoftext"],
        eos_token_id=ids["endoftext"], pad_token_id=ids["endoftext"], begin_suppress_tokens=None,
    )  # fmt: skip


def _special(vocabulary: int) -> list[str]:
    """The special tokens after the pieces, in the order of their ids."""
    languages = list(LANGUAGES)[: vocabulary - _OTHERS - (vocabulary > _ENGLISH)]
    return ["endoftext", "startoftranscript", *languages, *_TASKS]


def _ids(vocabulary: int) -> dict[str, int]:
    first = 50256 + (vocabulary > _ENGLISH)
    return {name: first + number for number, name in enumerate(_special(vocabulary))}


def _decoding(config: WhisperConfig) -> dict[str, Any]:
    """What generation_config.json says of a published Whisper, other than lists that are not in the file."""
    ids = _ids(config.vocab_size)
    settings = {
        "decoder_start_token_id": ids["startoftranscript"], "no_timestamps_token_id": ids["notimestamps"],
        "prev_sot_token_id": ids["startofprev"], "max_initial_timestamp_index": 50, "return_timestamps": False,
        "max_length": config.max_target_positions, "begin_suppress_tokens": [_SPACE, ids["endoftext"]],
        "is_multilingual": config.vocab_size > _ENGLISH,
    }  # fmt: skip
    if not settings["is_multilingual"]:
        return settings
    languages = {f"<|{name}|>": ids[name] for name in _special(config.vocab_size)[2 : -len(_TASKS)]}
    return settings | {"lang_to_id": languages, "task_to_id": {name: ids[name] for name in _TASKS[:2]}}


# ---- tokenizer -----------------------------------------------------------------------------------------------------


def tokenizer(directory: Path | None, vocabulary: int) -> WhisperTokenizer | None:
    """The directory's tokenizer, else that of the installed openai-whisper; None if there is neither."""
    found = tokenizer_of(directory)
    package = find_spec("whisper")
    if found is not None or package is None:
        return found
    name = "multilingual" if vocabulary > _ENGLISH else "gpt2"
    places = (Path(place) / f"assets/{name}.tiktoken" for place in package.submodule_search_locations or ())
    file = next((place for place in places if place.is_file()), None)
    return None if file is None else tokenizer_of_pieces(file, vocabulary)


def tokenizer_of_pieces(file: Path, vocabulary: int) -> WhisperTokenizer:
    """Whisper's tokenizer from a list of pieces in the order in which they are joined."""
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines() if line)
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
    letters = bytes_to_unicode()

    def spelled(piece: bytes) -> str:
        return "".join(letters[byte] for byte in piece)

    merges = []
    for piece, _ in sorted(ranks.items(), key=lambda pair: pair[1]):
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in halves if pair[0] in ranks and pair[1] in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(spelled(left), spelled(right)) for left, right in known]
    names = [f"<|{name}|>" for name in _special(vocabulary)]
    made = WhisperTokenizer(
        vocab={spelled(piece): rank for piece, rank in ranks.items()} | {names[0]: _ids(vocabulary)["endoftext"]},
        merges=merges,
    )
    made.add_special_tokens({"additional_special_tokens": names[1:]})
    made.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(1501)])
    made.pad_token = names[0]
    return made


# ---- verify --------------------------------------------------------------------------------------------------------


def original(source: Checkpoint) -> Any:
    """Transformers' class with these tensors, by both tables: openai-whisper has no forward of ids and features."""
    made = plan(source)
    model = skeleton(made.model_class, made.config)
    tensors = made.table.convert(source, own_shapes(model)).tensors
    there = whisper.layout(model)
    table = whisper.plan(Unwritten(there)).table  # pyright: ignore[reportArgumentType]: names are all it reads
    theirs = WhisperForConditionalGeneration(there.config)
    named = table.restore({name: tensor.float() for name, tensor in tensors.items()})
    missing = set(theirs.load_state_dict(named, strict=False).missing_keys)
    raise_faults("Whisper lacks tensors", sorted(missing - set(theirs.all_tied_weights_keys)))
    theirs.tie_weights()
    return theirs


FAMILY = Family("whisper-original", recognises, plan, compare=whisper.compare, original=original)
