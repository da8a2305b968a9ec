"""The parts of mm-tiny's second recipe: rows and their labels, what is narrowed, and what a step trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mm
from mm.processing.vocabulary import byte_tokenizer
from mm.recipes import tiny, tiny_data
from mm.recipes.languages import LANGUAGES, token_of
from mm.recipes.tiny import EMBEDDING, LOSSES, Learner, mean_of_the_last, narrow
from mm.recipes.tiny_data import OTHERS, Lessons, Names, Words, rows_of

NAMES = {
    language: {concept: f"{concept} {language} name" for concept in ("apple", "boat", "sun")} for language in LANGUAGES
}


@pytest.fixture(scope="module")
def tokenizer():
    texts = [name for names in NAMES.values() for name in names.values()] * 3
    return byte_tokenizer([*texts, "what color is it? blue"], 320, [token_of(one) for one in LANGUAGES if one != "en"])


def test_neither_the_language_nor_the_question_is_learned(tokenizer):
    texts, prompts = ["sun en name", "<de>sun de name", "what color is it? blue"], ["", "<de>", "what color is it?"]
    rows = rows_of(texts, tokenizer, prompts)
    for ids, labels, text, prompt in zip(rows["input_ids"], rows["labels"], texts, prompts, strict=True):
        learned = labels != -100
        assert torch.equal(labels[learned], ids[learned])
        assert tokenizer.decode(ids[learned]) == text.removeprefix(prompt).strip() + "</s>"
        assert rows["attention_mask"][0].sum() == len(tokenizer(texts[0]).input_ids)


def test_every_drawing_is_named_in_english_and_others_and_found_without_a_token(tokenizer):
    items = drawn("apple", "boat", "sun")
    made = Names(items, NAMES, tokenizer).of([0, 2], epoch=1)
    rows = [
        (int(place), tokenizer.decode(ids, skip_special_tokens=False).replace("<pad>", ""))
        for part in made["written"]
        for ids, place in zip(part["input_ids"], part["context_index"], strict=True)
    ]
    for place, concept in enumerate(("apple", "sun")):
        own = [text for index, text in rows if index == place]
        assert len(own) == 1 + OTHERS == len(set(own)) and all(f" {concept} " in text for text in own)
        assert sum("<s> " in text for text in own) == 1  # English, after no token
    (found,) = made["found"]
    assert "labels" not in found and found["context_index"].tolist() == [0, 1]
    assert not torch.isin(found["input_ids"], torch.tensor(tokenizer.convert_tokens_to_ids(["<de>", "<zh>"]))).any()
    again = Names(items, NAMES, tokenizer).of([0, 2], epoch=1)
    assert torch.equal(again["written"][0]["input_ids"], made["written"][0]["input_ids"])


def test_the_neurons_that_weigh_most_are_kept():
    mlp = mm.MMForConditionalGeneration(mm.MMConfig.preset("mm-tiny")).model.language_model.layers[0].mlp
    with torch.no_grad():
        mlp.up_proj.weight[5:] *= 1e-3
    wanted = mlp.up_proj.weight[:5].clone()
    narrow(mlp, 5)
    assert torch.equal(mlp.up_proj.weight, wanted) and mlp.down_proj.weight.shape == (256, 5)
    assert mlp(torch.ones(1, 256)).shape == (1, 256)


def drawn(*concepts):
    return [SimpleNamespace(concept=concept, tags=(f"{concept} word", "new name")) for concept in concepts]


def small_learner(tokenizer) -> Learner:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = mm.MMConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16, "pooler": "mean", "final_norm": "all"},
        share_text_encoder=True, projection_dim=EMBEDDING,
        text_config={**small, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        pretraining_losses=LOSSES,
    )  # fmt: skip
    return Learner(config).train()


@pytest.fixture
def words(tokenizer, tmp_path, monkeypatch):
    """Of three things, with vectors in place of MiniLM's."""
    told: list[str] = []
    vectors = np.random.default_rng(0).standard_normal((9, 384)).astype(np.float32)
    monkeypatch.setattr(tiny_data, "sentence_vectors", lambda texts: told.extend(texts) or vectors[: len(texts)])
    monkeypatch.setattr(Words, "COUNT", 2)
    names = Names(drawn("sun", "apple", "boat", "sun"), NAMES, tokenizer)
    return Words(names, {"new name"}, 3, tmp_path / "words.npy"), told


def test_search_words_are_learned_except_the_names_that_are_held_out(words):
    made, told = words
    assert told == ["apple en name", "boat en name", "sun en name", "apple word", "boat word", "sun word"]
    assert made.names.shape == made.meant.shape == (3, 3)
    torch.testing.assert_close(made.names.norm(dim=1), torch.ones(3))
    chosen = made.chosen(5, 1, torch.tensor([2, 2, 0]))
    assert chosen["input_ids"].shape[0] == 2 and chosen["meant"].shape == (5, 3)
    assert torch.equal(chosen["meant"][:3], made.names[[2, 2, 0]])
    again = made.chosen(5, 1, torch.tensor([2, 2, 0]))
    assert all(torch.equal(chosen[name], again[name]) for name in chosen)


def test_the_long_phase_remembers_what_it_saw_and_teaches_what_words_mean(tokenizer):
    model = small_learner(tokenizer)
    batch = Names(drawn("apple", "boat", "sun"), NAMES, tokenizer).of([0, 1, 2], epoch=0)
    assert batch["concepts"].tolist() == [0, 1, 2]
    asked = rows_of(["what color is it? blue"], tokenizer, ["what color is it?"])
    batch |= {"answered": [{**asked, "context_index": torch.tensor([0])}]}
    rows = {name: asked[name] for name in ("input_ids", "attention_mask")}
    meant = torch.nn.functional.normalize(torch.randn(4, EMBEDDING), dim=-1)
    drawings, pictures = ({"pixel_values": torch.randn(count, 3, 32, 32)} for count in (3, 1))
    seen = {"drawings": drawings, "asked": pictures}
    first = model(**seen, **batch, words={**rows, "meant": meant})
    assert model.contrast.images.numbers[:4].tolist() == [0, 1, 2, -1] and not list(model.contrast.parameters())
    second = model(**seen, **batch, words={**rows, "meant": meant})
    torch.testing.assert_close(second["words"], first["words"])
    assert second["itc"] != first["itc"]  # there is more to be told from
    second["loss"].backward()
    assert model.itc_head.text.weight.grad.abs().max() > 0 and model.itc_head.vision.weight.grad.abs().max() > 0
    assert not any("contrast" in name for name in model.state_dict())


def test_a_drawing_varies_with_the_epoch_and_mixes_with_others_of_its_kind(words, tokenizer, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    monkeypatch.setattr(tiny_data, "pictures", lambda *_, **__: pixels)
    items = drawn("sun", "apple", "boat", "sun")
    lessons = Lessons(Names(items, NAMES, tokenizer), None, 2)
    lessons.look_anew(2)
    plain = lessons.drawing([0, 1], 5)
    lessons.look_anew(2, words[0])
    varied = lessons.drawing([0, 1], 5)
    assert varied.shape == plain.shape and not torch.equal(varied, plain)
    assert torch.equal(varied, lessons.drawing([0, 1], 5)) and not torch.equal(varied, lessons.drawing([0, 1], 6))
    assert lessons._other(0, 5) == 3 and lessons._other(3, 1) == 0 and lessons._other(1, 1) == 1


def test_the_weights_are_the_mean_of_the_last_epochs(tmp_path):
    for step, value in ((9, 100.0), (20, 1.0), (100, 3.0)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"a": torch.full((2,), value), "n": torch.tensor(step)}, folder / "model.safetensors")
    mean = mean_of_the_last(tmp_path, 2)
    assert mean["a"].tolist() == [2.0, 2.0] and mean["n"] == 100


def test_a_step_trains_all_three_and_what_is_saved_has_every_head(tokenizer, tmp_path):
    model = small_learner(tokenizer)
    named = Names(drawn("apple", "boat", "sun"), NAMES, tokenizer).of([0, 1, 2], epoch=0)
    pictures, shown = ({"pixel_values": torch.randn(n, 3, 32, 32)} for n in (3, 1))
    asked = rows_of(["what color is it? blue"], tokenizer, ["what color is it?"])
    batch = {**named, "answered": [{**asked, "context_index": torch.tensor([0])}]}
    output = model(drawings=pictures, asked=shown, **batch)
    with torch.no_grad():
        stored = [{"visual_embeds": model.model.vision_tower(**one).last_hidden_state} for one in (pictures, shown)]
        torch.testing.assert_close(model(drawings=stored[0], asked=stored[1], **batch)["loss"], output["loss"])
    output["loss"].backward()
    expected = output["lm"] + output["itc"] + 0.3 * output["answers"]
    torch.testing.assert_close(output["loss"].detach(), expected)
    assert all(parameter.grad is not None for parameter in model.model.vision_tower.parameters())
    assert model.itc_head.text.weight.grad.abs().max() > 0 and model.lm_head.weight.grad.abs().max() > 0
    assert len({id(parameter) for parameter in model.parameters()}) == len(list(model.parameters()))
    model.save_pretrained(tmp_path)
    for cls in (mm.MMForPreTraining, mm.MMForConditionalGeneration, mm.MMForImageTextRetrieval):
        again = cls.from_pretrained(tmp_path)
        assert torch.equal(
            again.model.language_model.embed_tokens.weight, model.model.language_model.embed_tokens.weight
        )


def test_the_prompt_is_no_part_of_what_is_written(tokenizer, monkeypatch):
    """A mark is a token like others: it stood before every German name, and none was counted as right."""
    monkeypatch.setattr(tiny, "pictures", lambda items, *_, **__: np.zeros((len(items), 32, 32, 3), np.uint8))
    name = torch.tensor([tokenizer("sun de name").input_ids[1:]])

    class Writer:
        def eval(self):
            return self

        def generate(self, *, pixel_values, input_ids, **_):
            return torch.cat([input_ids, name.expand(len(pixel_values), -1)], 1)

    assert tiny.written(Writer(), tokenizer, [None, None], "<de>") == ["sun de name"] * 2
    assert tiny.written(Writer(), tokenizer, [None]) == ["sun de name"]
