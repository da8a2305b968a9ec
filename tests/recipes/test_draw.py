"""The parts of the drawing recipe: what is held out, batches by step, how codes begin, and a run that is resumed."""

import argparse
from collections import Counter

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoModelForMaskedLM, AutoProcessor, AutoTokenizer

from mm import MMImageTokenizer, MMImageTokenizerConfig
from mm.recipes import draw_data, draw_model, draw_tokenizer
from mm.recipes.emoji import EmojiItem, split_of

NAMES = ["apple", "red apple", "o button (blood type)"]
SPELLING = torch.randint(16, (3, 64), generator=torch.Generator().manual_seed(0))


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
    settings = {"image_size": 16, "patch_size": 2, "widths": [8], "depth": 1, "levels": [4, 4]}
    picture = MMImageTokenizer(MMImageTokenizerConfig(**settings))
    words = draw_model.names_tokenizer(NAMES, SPELLING, picture.codebook_size)
    return draw_model.build_processor(words, picture)


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


def test_a_name_held_out_in_fluent_begins_as_another_drawing_than_fluents_own_twin(world, monkeypatch):
    twins = [EmojiItem(draw_data.BEGINNING, one.concept, one.label, (), "") for one in world]
    both = list({one.concept: one for one in twins}.values()) + world
    monkeypatch.setattr(draw_data, "load_items", lambda vendors: [one for one in both if one.vendor in [*vendors]])
    began = {one.concept: one.vendor for one in draw_data.beginnings()}
    assert [*began] == sorted({one.concept for one in world if split_of(one.concept) == "seen"})
    held = {concept: draw_data.held_style(concept) for concept in began}
    assert all(began[one] == draw_data.STYLES["noto"] for one in began if held[one] == "fluent")
    assert all(began[one] == draw_data.BEGINNING for one in began if held[one] == "noto")
    others = Counter(began[one] for one in began if held[one] not in ("fluent", "noto"))
    assert others[draw_data.STYLES["noto"]] > 0.2 * others.total() and others[draw_data.BEGINNING] > others.total() / 2


def test_a_name_is_spelt_in_codes_wherever_it_stands(tmp_path):
    words = draw_model.names_tokenizer(NAMES, SPELLING, 16)
    words.save_pretrained(tmp_path)
    styles = list(draw_data.STYLES)
    own = (4 + len(styles) + SPELLING).tolist()
    for read in (words, AutoTokenizer.from_pretrained(tmp_path)):
        style = read("twemoji").input_ids[1]
        assert style == 4 + styles.index("twemoji") and len(read) == 4 + len(styles) + 16
        for text, ids in {
            "red apple, twemoji": [*own[1], style], "A Red Apple": own[1], "apple": own[0], "": [], "a boat": [],
            "pineapples": [], "o button (blood type), twemoji": [*own[2], style], "apple, red apple": own[0] + own[1],
        }.items():  # fmt: skip
            assert read(text).input_ids == [1, *ids, 2], text


def test_a_codebook_larger_than_the_characters_that_spell_it_is_refused():
    with pytest.raises(ValueError, match="6396 codes at most; got 6397"):
        draw_model.names_tokenizer(NAMES, SPELLING, 6397)


def test_near_places_are_alike():
    table = draw_model.place_embeddings(8, 8, 32, 0.02).unflatten(0, (8, 8))
    assert table.shape == (8, 8, 32) and 0.015 < table.square().mean().sqrt() < 0.025
    likeness = torch.cosine_similarity(table, table[2, 2], dim=-1)
    assert likeness[2, 2] > 0.999
    assert likeness[2, 3] == pytest.approx(likeness[3, 2]) and likeness[2, 3] > likeness[2, 5]
    right = (table[:, :-1] * table[:, 1:]).sum(-1)  # a step is the same turn everywhere
    torch.testing.assert_close(right, right[:1, :1].expand(8, 7))


def test_a_new_model_looks_at_what_stands_at_the_same_place(processor):
    model = small_model(processor)
    attention = model.model.language_model.layers[0].cross_attn
    places = draw_model.place_embeddings(8, 8, 32, 1.0)
    scores = (attention.q_proj(places) @ attention.k_proj(places).T).detach()
    assert torch.equal(scores.argmax(1), torch.arange(64))
    rows = draw_model.Rows([item("a")] * 16, SPELLING[1].expand(16, -1), processor, hidden=1.0)
    assert rows.prompts[0][1:-2] == (SPELLING[1] + 8).tolist()
    batch = rows.batch(0, 16)
    named = batch["context_attention_mask"].sum(1) > 2
    with torch.no_grad():
        scores = model.eval()(**{name: value[named] for name, value in batch.items()}).logits[:, 1:-2]
    own, other = ((row + processor.drawing["first_id"]).expand(len(scores), -1) for row in SPELLING[1:])
    gained = scores.gather(-1, own[..., None]) - scores.gather(-1, other[..., None])
    assert gained.mean() > 0.05  # than what stands there in another name


def test_rows_are_a_function_of_the_step_and_hold_prompt_and_picture(processor):
    codes = torch.arange(5)[:, None].expand(-1, 64)
    items = [item("a", style) for style in [*draw_data.STYLES, "noto"]]
    rows, others = (draw_model.Rows(items, codes, processor) for _ in range(2))
    others.batch(7, 2)
    batch = rows.batch(3, 4)
    assert all(torch.equal(value, others.batch(3, 4)[name]) for name, value in batch.items())
    drawing = processor.drawing
    assert batch["input_ids"].shape == (4, 67)
    assert batch["input_ids"][:, :2].unique().tolist() == [1, drawing["begin_id"]]
    assert (batch["input_ids"][:, 2:-1] - drawing["first_id"]).max() < 5
    assert batch["input_ids"][:, -1].unique().tolist() == [drawing["end_id"]]
    assert batch["labels"][:, :2].unique().tolist() == [-100]
    assert torch.equal(batch["labels"][:, 2:], batch["input_ids"][:, 2:])
    assert rows.prompts[0] == processor.tokenizer("red apple, noto").input_ids
    hiding = draw_model.Rows(items, codes, processor, hidden=0.5).batch(3, 4)
    assert torch.equal(hiding["labels"], batch["labels"])
    changed = hiding["input_ids"] != batch["input_ids"]
    assert (
        hiding["input_ids"][changed].unique().tolist() == [drawing["mask_id"]]
        and 0.3 < changed[:, 2:-1].float().mean() < 0.7
    )
    assert not changed[:, :2].any() and not changed[:, -1].any()
    empty = [len(row) for step in range(200) for row in [rows.batch(step, 1)["context_input_ids"][0]]]
    assert 0.04 < empty.count(2) / 200 < 0.2


def test_rows_with_the_prompts_of_others(processor):
    rows = draw_model.Rows([item("a", style) for style in draw_data.STYLES], torch.zeros(4, 64).long(), processor)
    own, others = rows.batch(0, 4), rows.batch(0, 4, others=True)
    assert torch.equal(own["labels"], others["labels"])
    kept = own["context_attention_mask"].sum(1) > 2
    assert torch.equal(kept, others["context_attention_mask"].sum(1) > 2) and kept.sum() >= 3
    styles = [batch["context_input_ids"][:, -2] for batch in (own, others)]
    both = kept & kept.roll(1)
    assert both.any() and torch.equal(styles[1][both], styles[0].roll(1)[both])
    assert not torch.equal(styles[1][both], styles[0][both])


def test_rows_of_a_model_that_draws_in_parallel_learn_what_they_hide(processor):
    rows = draw_model.Rows([item("a")] * 4, torch.full((4, 64), 3), processor, hidden=None)
    shares = []
    for step in range(60):
        batch = rows.batch(step, 4)
        hidden = batch["input_ids"] == processor.drawing["mask_id"]
        assert torch.equal(hidden, batch["labels"] != -100) and hidden.any(1).all()
        assert (batch["labels"][hidden] == 3 + processor.drawing["first_id"]).all()
        shares += (hidden.sum(1) / 64).tolist()
    assert min(shares) < 0.1 and max(shares) > 0.98 and 0.57 < sum(shares) / len(shares) < 0.70  # 2 / pi


def test_codes_with_like_levels_begin_near_each_other(processor):
    table = draw_model.code_embeddings(processor.image_tokenizer, 32, 0.02)
    assert table.shape == (16, 32)
    likeness = torch.nn.functional.normalize(table) @ torch.nn.functional.normalize(table).T
    assert likeness[0, 1] > likeness[0, 15]
    assert 0.01 < table.std() < 0.04


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
    codes = torch.randint(16, (6, 64), generator=torch.Generator().manual_seed(0))
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
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw_model, "READS", sizes)
        patch.setattr(draw_model, "WRITES", sizes)
        return draw_model.build_model(processor)


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


def test_weights_of_a_model_that_draws_in_order_draw_in_parallel(processor, tmp_path):
    model = small_model(processor)
    other = draw_model.in_parallel(model)
    assert model.config.text_config.is_causal and not other.config.text_config.is_causal
    draw_model.package(other, processor, tmp_path)
    read = AutoModelForMaskedLM.from_pretrained(tmp_path)
    words = AutoProcessor.from_pretrained(tmp_path)
    assert read.draw(**words(text=["red apple, noto"], return_tensors="pt"), seed=0, steps=4).shape == (1, 64)


def test_what_is_white_has_one_code(processor):
    picture = processor.image_tokenizer
    items = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    items[0, :, 5, 6] = 0  # in the patch of row 2, column 3
    white = draw_tokenizer.white_patches(items.float() / 255, 2)
    assert white.shape == (2, 64) and white[1].all() and (~white[0]).nonzero().tolist() == [[2 * 8 + 3]]
    codes, plain = draw_tokenizer.codes_of(picture, items, white=11), picture.encode(items.float() / 255)
    assert (codes[white] == 11).all() and torch.equal(codes[~white], plain[~white])
