"""The parts of the drawing recipe: what is held out, batches by step, how codes begin, and a run that is resumed."""

import argparse
from collections import Counter

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BertTokenizer

from mm import MMConfig, MMForConditionalGeneration, MMImageTokenizer, MMImageTokenizerConfig
from mm.recipes import draw, draw_data, draw_model, draw_tokenizer
from mm.recipes.emoji import EmojiItem, split_of

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", ",", "red", "apple", *draw_data.STYLES]


def item(concept: str, style: str = "noto") -> EmojiItem:
    return EmojiItem(draw_data.STYLES[style], concept, "red apple", (), "")


@pytest.fixture()
def world(monkeypatch) -> list[EmojiItem]:
    """Drawings of 400 names in every style."""
    made = [item(f"1f{number:03x}", style) for style in draw_data.STYLES for number in range(400)]
    monkeypatch.setattr(draw_data, "load_items", lambda vendors: [one for one in made if one.vendor in [*vendors]])
    return made


@pytest.fixture()
def processor():
    torch.manual_seed(0)
    words = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]")
    settings = {"image_size": 16, "patch_size": 2, "widths": [8, 16], "depth": 1, "levels": [4, 4]}
    return draw_model.build_processor(words, MMImageTokenizer(MMImageTokenizerConfig(**settings)))


def test_a_held_out_pair_is_of_a_name_and_a_style_that_are_both_trained_on(world):
    train, held = draw_data.drawing_items(held=False), draw_data.drawing_items(held=True)
    seen = [one for one in world if split_of(one.concept) == "seen"]
    assert sorted(map(str, [*train, *held])) == sorted(map(str, seen)) and not {*map(str, train)} & {*map(str, held)}
    assert {one.concept for one in held} < {one.concept for one in train}
    assert {one.vendor for one in held} == {one.vendor for one in train} == {*draw_data.STYLES.values()}
    assert max(Counter(one.concept for one in held).values()) == 1
    assert 0.06 < len(held) / len(seen) < 0.14
    assert not {*map(str, draw_data.tokenizer_items())} & {*map(str, held)}


def test_a_name_in_one_style_only_is_trained_on(world, monkeypatch):
    held = draw_data.drawing_items(held=True)[0]
    monkeypatch.setattr(draw_data, "load_items", lambda vendors: [held])
    assert draw_data.drawing_items(held=False) == [held] and not draw_data.drawing_items(held=True)


def test_rows_are_a_function_of_the_step_and_hold_prompt_and_picture(processor):
    codes = torch.arange(5)[None, :, None].expand(3, -1, 16)
    rows, others = (draw_model.Rows([item("a")] * 5, codes, processor) for _ in range(2))
    others.batch(7, 2)
    batch = rows.batch(3, 4)
    assert all(torch.equal(value, others.batch(3, 4)[name]) for name, value in batch.items())
    drawing = processor.drawing
    assert batch["input_ids"].shape == (4, 19)
    assert batch["input_ids"][:, :2].unique().tolist() == [1, drawing["begin_id"]]
    assert (batch["input_ids"][:, 2:-1] - drawing["first_id"]).max() < 5
    assert batch["input_ids"][:, -1].unique().tolist() == [drawing["end_id"]]
    assert batch["labels"][:, :2].unique().tolist() == [-100]
    assert torch.equal(batch["labels"][:, 2:], batch["input_ids"][:, 2:])
    assert rows.prompts[0] == [1, 5, 6, 4, WORDS.index("noto"), 2]
    hiding = draw_model.Rows([item("a")] * 5, codes, processor, hidden=0.5).batch(3, 4)
    assert torch.equal(hiding["labels"], batch["labels"])
    changed = hiding["input_ids"] != batch["input_ids"]
    assert (
        hiding["input_ids"][changed].unique().tolist() == [drawing["mask_id"]]
        and 0.3 < changed[:, 2:-1].float().mean() < 0.7
    )
    assert not changed[:, :2].any() and not changed[:, -1].any()
    empty = [len(row) for step in range(200) for row in [rows.batch(step, 1)["context_input_ids"][0]]]
    assert 0.04 < empty.count(2) / 200 < 0.2


def test_codes_with_like_levels_begin_near_each_other(processor):
    table = draw_model.code_embeddings(processor.image_tokenizer, 32, 0.02)
    assert table.shape == (16, 32)
    likeness = torch.nn.functional.normalize(table) @ torch.nn.functional.normalize(table).T
    assert likeness[0, 1] > likeness[0, 15]
    assert 0.01 < table.std() < 0.04


def test_a_moved_picture_keeps_its_size_and_what_comes_in_is_white():
    pictures = torch.randint(0, 200, (2, 3, 6, 5), dtype=torch.uint8)
    there = draw.moved(pictures, 1, -2)
    assert torch.equal(there[:, :, 1:, :3], pictures[:, :, :-1, 2:])
    assert (there[:, :, 0] == 255).all() and (there[:, :, :, 3:] == 255).all()
    assert torch.equal(draw.moved(pictures, 0, 0), pictures)


def test_a_batch_of_pictures_is_a_function_of_the_step():
    items = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draw_tokenizer._orders.clear()
    one = draw_tokenizer.batch_of(items, 4, 3)
    draw_tokenizer.batch_of(items, 0, 3)
    assert torch.equal(one, draw_tokenizer.batch_of(items, 4, 3))
    epoch = torch.cat([draw_tokenizer.batch_of(items, step, 1) for step in range(5)])
    means = sorted(epoch.mean((1, 2, 3)).tolist())
    assert means == pytest.approx(sorted((items.float() / 255).mean((1, 2, 3)).tolist()))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(processor, tmp_path, monkeypatch):
    codes = torch.randint(16, (2, 6, 16), generator=torch.Generator().manual_seed(0))
    rows = draw_model.Rows([item("a")] * 6, codes, processor)
    options = argparse.Namespace(steps=5, batch_size=2, rate=1e-3, save_every=2, resume=True)
    whole, part = small_model(processor), small_model(processor)
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    draw_model.train(whole, rows, options, tmp_path / "whole", rows)

    def stops_at_3(step, *rates):
        if step == 3:
            raise KeyboardInterrupt
        return draw_tokenizer.rate_at(step, *rates)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(draw_model, "rate_at", stops_at_3)
        draw_model.train(part, rows, options, tmp_path / "part", rows)
    again = small_model(processor)
    draw_model.train(again, rows, options, tmp_path / "part", rows)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=1e-6)
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "part")]
    assert len(lines[0]) == len(lines[1]) == 3


def small_model(processor):
    torch.manual_seed(0)
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": processor.drawing["first_id"] + 16, "max_position_embeddings": 32,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return MMForConditionalGeneration(
        MMConfig(modalities=[], text_config=text, share_text_encoder=True, drawing=processor.drawing)
    )


def test_the_package_is_in_half_precision_and_read_in_full(processor, tmp_path):
    model = small_model(processor)
    size = draw_model.package(model, processor, tmp_path)
    assert size == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    read, words = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert read.dtype == words.image_tokenizer.dtype == torch.float32
    for name, value in read.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].float()), name
    ids = read.draw(**words(text=["red apple, noto"], return_tensors="pt"), seed=0)
    assert words.decode_images(ids)[0].size == (16, 16)
