"""The fusion benchmark: its noise, what each system sees, and the table that its log makes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.recipes.emoji import EmojiItem

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "benchmarks" / "logs"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("fusion_emoji", ROOT / "benchmarks" / "fusion_emoji.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def items():
    tags = [("red fruit", "apple"), ("cat", "pet", "animal"), ("car", "drive")]
    return [EmojiItem("noto", str(number), f"name {number}", tag, "") for number, tag in enumerate(tags)]


def test_noise_is_a_function_of_the_drawing_and_the_seed(benchmark, items):
    words = benchmark.Words(items)
    texts = [words.noisy(items[0], 3, epoch) for epoch in range(40)]
    assert texts == [words.noisy(items[0], 3, epoch) for epoch in range(40)]
    assert all(text[0] == benchmark.BOS for text in texts)
    own = {words.ids[word] for tag in items[0].tags for word in tag.split()}
    assert [benchmark.BOS] in texts  # all tags dropped
    assert any(set(text[1:]) and set(text[1:]) <= own for text in texts)  # a tag kept
    assert any(set(text[1:]) - own for text in texts)  # a tag exchanged


def test_texts_are_padded_by_mask(benchmark, items):
    batch = benchmark.Words(items).batch(items, 0)
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != benchmark.PAD).long())
    assert batch["attention_mask"][:, 0].all()


def test_a_system_sees_what_its_name_says(benchmark, items):
    features, text = torch.zeros(3, 16, 1280), benchmark.Words(items).batch(items, 0)
    assert benchmark.inputs("text alone", features, text).keys() == text.keys()
    assert benchmark.inputs("picture alone, mean", features, text).keys() == {"visual_embeds"}
    for fusion in benchmark.FUSIONS:
        assert benchmark.inputs(fusion, features, text).keys() == {"visual_embeds", *text}
        assert benchmark.build(fusion, 20, 9, seed=0)(**benchmark.inputs(fusion, features, text)).logits.shape == (
            3,
            9,
        )


def test_the_table_is_made_of_the_log(benchmark):
    """With hits that are the same for all seeds of a system, accuracies are their shares."""
    number = sum(size for _, size in benchmark.SPLITS.values())
    hits = np.random.default_rng(0).random((len(benchmark.SYSTEMS), number))
    lines = [
        {"system": name, "seed": seed, "cpu_minutes": 1, "right": "".join("1" if hit < 0.7 else "0" for hit in row)}
        for name, row in zip(benchmark.SYSTEMS, hits, strict=True)
        for seed in (0, 1)
    ]
    seen = benchmark.SPLITS["seen names"][1]
    rows = list(benchmark.table(lines))
    for name, row in zip(benchmark.SYSTEMS, hits, strict=True):
        line = next(line for line in rows if line.startswith(f"  {name} "))
        assert f"{(row[:seen] < 0.7).mean():.3f} [" in line


def test_the_shipped_table_is_that_of_the_shipped_log(benchmark):
    printed = (LOGS / "fusion_emoji.txt").read_text(encoding="utf-8")
    assert (
        list(benchmark.table(benchmark.read(LOGS / "fusion_emoji.jsonl"))) == printed.split("\n\n", 1)[1].splitlines()
    )
