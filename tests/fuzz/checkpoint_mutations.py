"""Broken copies of the files of a saved model: headers of weights, and every JSON file beside them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

import mm

JSON_FILES = (
    "config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors.index.json", "manifest.json", "trainer_state.json",
)  # fmt: skip
WEIGHTS = "model.safetensors"
# What stands in the place of a value: every type, edges of numbers, and words that mean something elsewhere.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 3.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64,
    10**12, 10**30, "", "x", "1", "none", "../x", "/", "\u0000", "\ud800", "F64", "BOOL", [], [0], [1, 2, 3], ["x"],
    [[]], {}, {"x": 1}, {"type": "x"}, "mm_text", "relu", "cuda",
)  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "f32", "", None, 3)


def tokenizer_of(folder: Path, size: int = 60) -> None:
    """Makes the tokenizer in a folder a small one: a mutation meets its rules as often as its words."""
    held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, special = held["model"], {one["content"] for one in held["added_tokens"]}
    words = [word for word in model["vocab"] if word in special or word in "Ġabcdefghijklmnopqrstuvwxyz"]
    merges = []
    for left, right in model["merges"]:
        if len(words) < size and {left, right} <= set(words):
            merges.append([left, right])
            words.append(left + right)
    held["model"] = {**model, "vocab": {word: number for number, word in enumerate(words)}, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps(held), encoding="utf-8")


def write_seeds(folder: Path, packaged: Path) -> None:
    """Two good models: folder/one (a file of weights) and folder/shards (an index), each with all JSON files."""
    parts = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = mm.MMForConditionalGeneration(
        mm.MMConfig(
            vision_config={**parts, "image_size": 128, "patch_size": 64, "num_channels": 3},
            text_config={**parts, **ids, "vocab_size": 61, "max_position_embeddings": 32},
        )
    )
    processor = mm.MMProcessor.from_pretrained(packaged)
    for name, options in (("one", {}), ("shards", {"max_shard_size": "20KB"})):
        place = folder / name
        processor.save_pretrained(place)
        tokenizer_of(place)
        model.save_pretrained(place, **options)
        TrainerState(global_step=3, max_steps=9, log_history=[{"loss": 2.5, "step": 1}]).save_to_json(
            str(place / "trainer_state.json")
        )
        mm.write_manifest(place)


def mutated_header(data: bytes, number: int) -> bytes:
    """Case `number` of a file of weights: always the same. At least one byte of the header is another."""
    rng = random.Random(number)
    while True:
        found = _header(data, rng)
        if found != data:
            return found


def _header(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(10)
    if kind < 3:
        return _bytes(data[: 8 + length], rng) + rest
    if kind == 3:
        told = rng.choice((0, 1, 7, length - 1, length + 1, length + 8, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return told.to_bytes(8, "little") + data[8:]
    if kind == 4:
        return data[: rng.choice((0, 4, 8, rng.randrange(len(data)), 8 + length, len(data) - 1))]
    held = json.loads(header)
    for _ in range(rng.choice((1, 1, 2))):
        _entry(held, rng)
    text = json.dumps(held).encode("utf-8", "surrogatepass")
    if kind == 9:
        text += b" " * (-len(text) % 8) + b" " * 8 * rng.randrange(3)
    return len(text).to_bytes(8, "little") + text + rest


def _entry(held: dict[str, Any], rng: random.Random) -> None:
    """Changes one tensor of a header: its name, type, shape, place, or that it is there."""
    names = [name for name in held if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry = held[name]
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        held[name] = rng.choice(VALUES)
        return
    kind = rng.randrange(10)
    if kind == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = rng.choice(([], entry["shape"][::-1], [1, *entry["shape"]], [0], [-1], [2**40, 2**40], [2.5]))
    elif kind == 2:
        begin, end = entry["data_offsets"]
        moved = ([begin + 4, end + 4], [end, begin], [begin, end - 4], [-4, end], [begin], [0, 2**62], [begin, "x"])
        entry["data_offsets"] = rng.choice(moved)
    elif kind == 3 and isinstance(held[other], dict):
        held[name], held[other] = held[other], entry
    elif kind == 4:
        held[rng.choice((f"{name}x", name[:-1], "", "__metadata__", "\ud800", name.upper()))] = held.pop(name)
    elif kind == 5:
        del held[name]
    elif kind == 6:
        held[f"{name}.copy"] = dict(entry)
    elif kind == 7:
        entry[rng.choice(("dtype", "shape", "data_offsets", "more"))] = rng.choice(VALUES)
    elif kind == 8:
        held["__metadata__"] = rng.choice((*VALUES, {"format": "tf"}, {"format": "flax"}, {"format": None}))
    else:
        del entry[rng.choice(sorted(entry))]


def mutated_json(text: bytes, number: int) -> bytes:
    """Case `number` of a JSON file: always the same, and never the file as it was."""
    rng = random.Random(number)
    while True:
        found = _bytes(text, rng) if rng.random() < 0.3 else _values(text, rng)
        if found != text:
            return found


def _values(text: bytes, rng: random.Random) -> bytes:
    held = json.loads(text)
    before = json.dumps(held)
    while json.dumps(held) == before:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            held = _one_value(held, rng)
    written = json.dumps(held, indent=rng.choice((None, 1)), ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.03:
        written = written.replace("{", '{"deep": ' + "[" * 20_000 + "]" * 20_000 + ", ", 1)
    return written.encode("utf-8", "surrogatepass")


def _one_value(held: Any, rng: random.Random) -> Any:
    places = list(_places(held))
    if not places or rng.random() < 0.02:
        return rng.choice(VALUES)
    owner, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind < 4:
        owner[key] = rng.choice(VALUES)
    elif kind == 4:
        del owner[key]
    elif kind == 5 and isinstance(owner, dict):
        owner[rng.choice((f"{key}x", str(key)[:-1], "", "model_type", "auto_map", "dtype"))] = owner.pop(key)
    elif kind == 6 and isinstance(owner[key], (int, float)):
        owner[key] = rng.choice((-owner[key], owner[key] * 2, owner[key] + 1, str(owner[key]), [owner[key]]))
    else:
        other, name = rng.choice(places)
        owner[key] = json.loads(json.dumps(other[name]))
    return json.loads(json.dumps(held))  # no value is in two places


def _places(held: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs = held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ()
    for key, value in list(pairs):
        yield held, key
        yield from _places(value)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(max(1, len(held)))
        kind = rng.randrange(6)
        if kind == 0 and held:
            held[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and held:
            held[place] = rng.randrange(256)
        elif kind == 2:
            held[place:place] = rng.choice((b"\x00", b'"', b"{", b"}", b",", b"9", b"\xff", b"null", b"NaN"))
        elif kind == 3:
            del held[place : place + rng.choice((1, 1, 4, 40))]
        elif kind == 4:
            del held[place:]
        else:
            held[place:place] = held[place : place + rng.choice((1, 8, 80))]
    return bytes(held)
