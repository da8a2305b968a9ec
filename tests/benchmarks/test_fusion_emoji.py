"""The fusion benchmark: its noise, what each system sees, and the table that its log makes."""

from pathlib import Path

import experiments
import fusion_emoji
import numpy as np
import pytest
import torch

from mm.recipes.emoji import EmojiItem

LOGS = Path(__file__).resolve().parents[2] / "benchmarks" / "logs"


@pytest.fixture(scope="module")
def items():
    tags = [("red fruit", "apple"), ("cat", "pet", "animal"), ("car", "drive")]
    return [EmojiItem("noto", str(number), f"name {number}", tag, "") for number, tag in enumerate(tags)]


def test_noise_is_a_function_of_the_drawing_and_the_seed(items):
    words = fusion_emoji.Words(items)
    texts = [words.noisy(items[0], 3, epoch) for epoch in range(40)]
    assert texts == [words.noisy(items[0], 3, epoch) for epoch in range(40)]
    assert all(text[0] == fusion_emoji.BOS for text in texts)
    own = {words.ids[word] for tag in items[0].tags for word in tag.split()}
    assert [fusion_emoji.BOS] in texts  # all tags dropped
    assert any(set(text[1:]) and set(text[1:]) <= own for text in texts)  # a tag kept
    assert any(set(text[1:]) - own for text in texts)  # a tag exchanged


def test_texts_are_padded_by_mask(items):
    batch = fusion_emoji.Words(items).batch(items, 0)
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != fusion_emoji.PAD).long())
    assert batch["attention_mask"][:, 0].all()


def test_a_system_sees_what_its_name_says(items):
    features, text = torch.zeros(3, 16, 1280), fusion_emoji.Words(items).batch(items, 0)
    assert fusion_emoji.inputs("text alone", features, text).keys() == text.keys()
    assert fusion_emoji.inputs("picture alone, mean", features, text).keys() == {"visual_embeds"}
    for fusion in fusion_emoji.FUSIONS:
        assert fusion_emoji.inputs(fusion, features, text).keys() == {"visual_embeds", *text}
        model = fusion_emoji.build(fusion, 20, 9, seed=0)
        assert model(**fusion_emoji.inputs(fusion, features, text)).logits.shape == (3, 9)


def test_the_table_is_made_of_the_log():
    """With hits that are the same for all seeds of a system, accuracies are their shares."""
    number = sum(size for _, size in fusion_emoji.SPLITS.values())
    hits = np.random.default_rng(0).random((len(fusion_emoji.SYSTEMS), number))
    lines = [
        {"system": name, "seed": seed, "cpu_minutes": 1, "right": "".join("1" if hit < 0.7 else "0" for hit in row)}
        for name, row in zip(fusion_emoji.SYSTEMS, hits, strict=True)
        for seed in (0, 1)
    ]
    seen = fusion_emoji.SPLITS["seen names"][1]
    rows = list(fusion_emoji.table(lines))
    for name, row in zip(fusion_emoji.SYSTEMS, hits, strict=True):
        line = next(line for line in rows if line.startswith(f"  {name} "))
        assert f"{(row[:seen] < 0.7).mean():.3f} [" in line


def test_the_shipped_table_is_that_of_the_shipped_log():
    printed = (LOGS / "fusion_emoji.txt").read_text(encoding="utf-8")
    rows = fusion_emoji.table(experiments.read(LOGS / "fusion_emoji.jsonl"))
    assert list(rows) == printed.split("\n\n", 1)[1].splitlines()
