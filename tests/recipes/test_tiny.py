"""The parts of mm-tiny's second recipe: rows and their labels, what is narrowed, and what a step trains."""

from types import SimpleNamespace

import pytest
import torch

import mm
from mm.processing.vocabulary import byte_tokenizer
from mm.recipes.languages import LANGUAGES, token_of
from mm.recipes.tiny import LOSSES, Learner, narrow
from mm.recipes.tiny_data import OTHERS, Names, rows_of

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
    items = [SimpleNamespace(concept=concept) for concept in ("apple", "boat", "sun")]
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


def test_a_step_trains_all_three_and_what_is_saved_has_every_head(tokenizer, tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = mm.MMConfig(
        vision_config={**small, "image_size": 32, "patch_size": 16, "pooler": "mean", "final_norm": "all"},
        share_text_encoder=True, projection_dim=8,
        text_config={**small, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        pretraining_losses=LOSSES,
    )  # fmt: skip
    model = Learner(config).train()
    items = [SimpleNamespace(concept=concept) for concept in ("apple", "boat", "sun")]
    named = Names(items, NAMES, tokenizer).of([0, 1, 2], epoch=0)
    drawn, shown = ({"pixel_values": torch.randn(n, 3, 32, 32)} for n in (3, 1))
    asked = rows_of(["what color is it? blue"], tokenizer, ["what color is it?"])
    batch = {**named, "answered": [{**asked, "context_index": torch.tensor([0])}]}
    output = model(drawings=drawn, asked=shown, **batch)
    with torch.no_grad():
        stored = [{"visual_embeds": model.model.vision_tower(**one).last_hidden_state} for one in (drawn, shown)]
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
