"""The parts of the recipe: its batches, its stored features, what learns at which rate, and its clock."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertTokenizer

from mm import MMConfig, MMForConditionalGeneration
from mm.recipes import drawings as batches
from mm.recipes import emoji_captions as recipe

IDS = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 8, 2, 0]])


@pytest.fixture()
def made(monkeypatch):
    """Three drawings of random pixels with their ids."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(batches, "pictures", lambda items, size, crop: pixels)
    return batches.Drawings([], IDS, first_view=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MMForConditionalGeneration(MMConfig.preset("mm-tiny")).eval()


def test_every_token_but_bos_and_padding_is_a_label():
    batch = batches.text_inputs(IDS[1:])
    assert batch["input_ids"].tolist() == [[1, 7, 2], [1, 8, 2]]
    assert batch["labels"].tolist() == [[-100, 7, 2], [-100, 8, 2]]
    assert batches.text_inputs(IDS)["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert batches.text_inputs(IDS)["labels"][1].tolist() == [-100, 7, 2, -100]


def test_an_epoch_is_a_view_that_batching_does_not_change(made):
    together = made.__getitems__([0, 1, 2])["pixel_values"]
    torch.testing.assert_close(made.__getitems__([1])["pixel_values"][0], together[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        together, made.view([0, 1, 2], 4), rtol=0, atol=0
    )  # epoch 0 goes on after the stored views
    made.set_epoch(1)
    assert not torch.allclose(made.__getitems__([0, 1, 2])["pixel_values"], together)


def test_stored_features_are_the_towers_and_are_computed_once(made, model, tmp_path):
    tower, file = model.model.vision_tower, tmp_path / "features.npy"
    features = batches.Features(made, tower, views=2, file=file)
    features.set_epoch(3)  # the second view again
    stored = features.__getitems__([2, 0])["visual_embeds"]
    with torch.no_grad():
        truth = tower(pixel_values=made.view([2, 0], 1)).last_hidden_state
    torch.testing.assert_close(stored, truth, rtol=2e-3, atol=2e-3)  # stored in fp16
    written = file.stat().st_mtime_ns
    batches.Features(made, tower, views=2, file=file)
    assert file.stat().st_mtime_ns == written


def test_each_trainable_parameter_is_in_one_group_with_its_rate(model):
    groups = recipe.parameter_groups(model, 1e-3, 2e-4, weight_decay=0.05)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rate[id(parameter)] == (2e-4 if "vision_tower" in name else 1e-3), name
            assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 and "embed" not in name else 0.0), name


def test_freezing_leaves_the_late_stages_to_learn_in_fp32_and_changes_no_output():
    torch.manual_seed(0)
    model = MMForConditionalGeneration(MMConfig.preset("mm-tiny")).eval()
    pixels = torch.randn(2, 3, 128, 128)
    before = model.model.vision_tower(pixels).last_hidden_state
    recipe.freeze_early_stages(model)
    torch.testing.assert_close(model.model.vision_tower(pixels).last_hidden_state, before, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.model.vision_tower(pixels).last_hidden_state.dtype == torch.float32
    learns = {name: p.requires_grad for name, p in model.model.vision_tower.named_parameters()}
    early = ("stem.", "stages.0.", "stages.1.", "stages.2.", "stages.3.")
    assert all(learned != name.startswith(early) for name, learned in learns.items())


def test_minilms_embeddings_keep_their_angles_at_the_given_scale(tmp_path: Path):
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "red", "green", "blue"]
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(pieces)), encoding="utf-8")
    table = torch.randn(len(pieces), 12, generator=torch.Generator().manual_seed(0))
    save_file({"embeddings.word_embeddings.weight": table}, tmp_path / "model.safetensors")
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    found = recipe.embeddings_from(tmp_path, tokenizer, width=8, std=0.02)
    assert float(found.std()) == pytest.approx(0.02)
    centred = table.flip(0) - table.mean(0)  # all components: distances are those of the original, scaled
    ratio = torch.cdist(found, found)[0, 1:] / torch.cdist(centred, centred)[0, 1:]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)


def test_the_clock_goes_on_over_an_interruption_and_leaves_evaluation_out(tmp_path):
    log = tmp_path / "log.jsonl"
    clock = recipe.TrainingClock()
    clock.go_on_from(log)  # no log yet: from nothing
    assert clock.before == 0
    log.write_text(json.dumps({"cpu_minutes": 7.0}) + "\n" + json.dumps({"cpu_minutes": 12.5}) + "\n")
    clock.go_on_from(log)
    start = clock.minutes()
    assert start >= 12.5
    sum(number * number for number in range(300_000))
    clock.leave_out_since(start)
    assert clock.minutes() - start < 1e-4
