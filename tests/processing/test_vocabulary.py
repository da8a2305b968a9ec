"""Another vocabulary under a trained model: lossless, and what the old one knew of its words is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mm
from mm.cli.caption import PACKAGED_MODEL
from mm.processing.vocabulary import BOS, EOS, LEAST, PAD, byte_tokenizer

TEXTS = [
    "rocket", "red apple", "ein roter Apfel", "eine rote Rakete", "красное яблоко", "红苹果", "penguin", "Pinguin",
    "une pomme rouge", "una manzana roja", "guitar", "a rocket", "eine Gitarre", "une fusée", "rockets and apples",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(TEXTS * 3, 400, ["<de>"])


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_as_it_went_in(tokenizer, text):
    special = [word for word in (*tokenizer.all_special_tokens, "<de>") if word in text]
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (BOS, EOS)
    if not special:
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", [*TEXTS, " x", "x ", "  ", "", "a\nb\t c", "Ünïcode e\u0301", "\u200dé", "o ’ clock"])
def test_also_with_spaces_at_the_ends(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_mark_is_one_token_and_a_prompt_may_hold_it(tokenizer):
    """Unlike special tokens, which are plain text in what a user gives a processor."""
    mark = tokenizer.convert_tokens_to_ids("<de>")
    processor = mm.MMProcessor(mm.MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    ids = processor(text=["<de>"], add_eos_token=False)["input_ids"][0]
    assert ids == [BOS, mark] and mark not in tokenizer.all_special_ids
    assert processor(text=["<de>roter Apfel"])["input_ids"][0][1:] == tokenizer("<de>roter Apfel").input_ids[1:-1]
    assert BOS not in processor(text=["</s><s>"], add_eos_token=False)["input_ids"][0][1:]
    assert tokenizer.decode(tokenizer("<de>roter Apfel").input_ids, skip_special_tokens=True) == "<de> roter Apfel"


def test_a_mark_is_one_and_the_order_of_texts_does_not_matter(tokenizer):
    (*_, language, end) = tokenizer("<de>").input_ids
    assert tokenizer.convert_ids_to_tokens(language) == "<de>" and end == EOS
    assert byte_tokenizer(TEXTS[::-1] * 3, 400, ["<de>"]).get_vocab() == tokenizer.get_vocab()


@pytest.fixture(scope="module")
def packaged():
    return mm.MMProcessor.from_pretrained(PACKAGED_MODEL)


def model_of_package():
    return mm.MMForConditionalGeneration.from_pretrained(PACKAGED_MODEL).eval()


def test_a_piece_starts_as_the_mean_of_what_it_was_spelled_with(packaged):
    model = model_of_package()
    before, bias = model.get_input_embeddings().weight.clone(), model.lm_head.bias.clone()
    processor = mm.new_vocabulary(model, packaged, TEXTS * 3, size=400)
    table, old, new = model.get_input_embeddings().weight, packaged.tokenizer, processor.tokenizer
    assert model.config.text_config.vocab_size == len(new) == len(table) == len(model.lm_head.bias)
    assert model.lm_head.weight is table
    words = [piece for piece in new.get_vocab() if piece[0] == "Ġ" and piece[1:].isascii() and piece[1:].isalpha()]
    assert {"Ġrocket", "Ġred", "Ġapple"} <= {*words} and len(words) > 10
    for piece in words:
        ids = [one for one in old(piece[1:], add_special_tokens=False).input_ids if one != old.unk_token_id]
        torch.testing.assert_close(table[new.convert_tokens_to_ids(piece)], before[ids].mean(0))
        torch.testing.assert_close(model.lm_head.bias[new.convert_tokens_to_ids(piece)], bias[ids].mean())
    torch.testing.assert_close(table[[PAD, BOS, EOS]], before[[old.pad_token_id, old.bos_token_id, old.eos_token_id]])
    torch.testing.assert_close(table[new.convert_tokens_to_ids("Ġ")], before.mean(0))
    assert packaged.tokenizer is old and processor.image_processor is packaged.image_processor


def test_what_a_trained_model_knows_it_still_prefers(packaged):
    """Before any training: the right of two names of a picture, both of whole words."""
    model = model_of_package()
    processor = mm.new_vocabulary(model, packaged, TEXTS * 3, size=400)
    for name, other in (("rocket", "guitar"), ("penguin", "rocket"), ("guitar", "penguin")):
        inputs = processor(images=[f"examples/pictures/{name}.png"], return_tensors="pt")
        rows = processor.tokenizer([name, other], padding=True, return_tensors="pt")
        ranked = model.rank_answers(rows.input_ids[:, 1:], rows.attention_mask[:, 1:], **inputs)
        assert ranked.indices[0, 0] == 0, name


def test_it_is_saved_and_loaded(packaged, tmp_path):
    model = model_of_package()
    processor = mm.new_vocabulary(model, packaged, TEXTS * 3, size=400)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = mm.MMForConditionalGeneration.from_pretrained(tmp_path).eval()
    read = mm.MMProcessor.from_pretrained(tmp_path)
    inputs = processor(images=["examples/pictures/rocket.png"], text=["ein"], return_tensors="pt")
    same = read(images=["examples/pictures/rocket.png"], text=["ein"], return_tensors="pt")
    assert inputs.input_ids.tolist() == same.input_ids.tolist()
    written = model.generate(**inputs, max_new_tokens=4)
    assert again.generate(**same, max_new_tokens=4).tolist() == written.tolist()
    assert again.generation_config.eos_token_id == EOS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text_encoder_config": "tiny"}, "it has a text encoder with a vocabulary of its own"),
        ({"texts": ["", ""]}, "all are empty"),
        ({"size": LEAST - 1}, f"size={LEAST - 1}; a vocabulary has 256 bytes and 4 further tokens"),
    ],
)
def test_what_cannot_be_is_told(tiny_model, packaged, fields, words):
    given = {"texts": TEXTS, "size": 400, **{name: fields[name] for name in ("texts", "size") if name in fields}}
    model = tiny_model(**{name: value for name, value in fields.items() if name not in given})
    with pytest.raises(ValueError, match=words):
        mm.new_vocabulary(model, packaged, **given)
