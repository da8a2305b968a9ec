"""Rows of token ids: bos, prompt, suffix and eos, labels, padding, truncation, and text that is only text."""

import logging
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of cat dog red ##s [ ] sep cls pad mask \ufffd".split()
PAD, UNK, CLS, SEP = range(4)
ID = {word: number for number, word in enumerate(WORDS)}


def make_processor(**settings):
    return MMProcessor(tokenizer=BertTokenizer(vocab=dict(ID)), **settings)


def ids(text):
    return [ID[word] for word in text.split()]


@pytest.fixture
def processor():
    return make_processor()


def call(processor, text, **kwargs):
    return processor(text=text, return_tensors="pt", **kwargs)


def test_a_prompt_starts_with_bos_and_stays_open(processor):
    batch = call(processor, "a cat")
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["input_ids"].tolist() == [[CLS, ID["a"], ID["cat"]]] and batch["attention_mask"].tolist() == [
        [1, 1, 1]
    ]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_a_suffix_is_closed_and_labelled_and_nothing_else_is(processor):
    batch = call(processor, ["a photo", ""], suffix=["of cats", "dog"])
    assert batch["input_ids"].tolist() == [
        [CLS, *ids("a photo of cat ##s"), SEP],
        [CLS, ID["dog"], SEP, PAD, PAD, PAD, PAD],
    ]
    assert batch["labels"].tolist() == [[-100] * 3 + [*ids("of cat ##s"), SEP], [-100, ID["dog"], SEP] + [-100] * 4]
    assert batch["attention_mask"].sum(1).tolist() == [7, 3] and batch["labels"].dtype == torch.int64


def test_a_suffix_without_text_has_empty_prompts(processor):
    batch = call(processor, None, suffix=["a cat", "dog"])
    assert batch["input_ids"][1].tolist() == [CLS, ID["dog"], SEP, PAD]
    assert call(processor, None, suffix="a cat")["input_ids"].tolist() == [[CLS, *ids("a cat"), SEP]]


def test_add_eos_token_closes_plain_texts_and_is_saved(tmp_path):
    make_processor(add_eos_token=True).save_pretrained(tmp_path)
    closing = MMProcessor.from_pretrained(tmp_path)
    assert call(closing, ["a", "a cat"])["input_ids"].tolist() == [
        [CLS, ID["a"], SEP, PAD],
        [CLS, *ids("a cat"), SEP],
    ]
    assert call(closing, "a", add_eos_token=False)["input_ids"].tolist() == [[CLS, ID["a"]]]
    assert call(make_processor(), "a", add_eos_token=True)["input_ids"].tolist() == [[CLS, ID["a"], SEP]]


def test_the_padding_side_follows_what_the_rows_are_for(processor):
    texts = ["a", "a cat"]
    assert call(processor, texts)["input_ids"][0].tolist() == [PAD, CLS, ID["a"]]
    assert call(processor, texts, add_eos_token=True)["input_ids"][0].tolist() == [CLS, ID["a"], SEP, PAD]
    assert call(processor, texts, padding_side="right")["input_ids"][0].tolist() == [CLS, ID["a"], PAD]
    left = call(processor, texts, suffix=["dog", "dog"], padding_side="left")
    assert left["input_ids"][0, 0] == PAD and left["labels"][0, 0] == -100 and left["attention_mask"][0, 0] == 0
    right = call(processor, texts, suffix=["dog", "dog"])
    for name in ("input_ids", "labels"):
        real = {side: batch[name][batch["attention_mask"].bool()] for side, batch in (("l", left), ("r", right))}
        assert torch.equal(real["l"], real["r"])


def test_padding_lengths(processor):
    texts = ["a", "a cat"]
    assert call(processor, texts, pad_to_multiple_of=8)["input_ids"].shape == (2, 8)
    assert call(processor, texts, padding="max_length", max_length=5)["input_ids"].shape == (2, 5)
    assert processor(None, texts, padding=False)["input_ids"] == [[CLS, ID["a"]], [CLS, *ids("a cat")]]


def test_fixed_length_pads_with_attended_pads():
    batch = call(make_processor(add_eos_token=True, fixed_length=6), ["a", "a cat a cat a cat"])
    assert batch["input_ids"].tolist() == [[CLS, ID["a"], SEP, PAD, PAD, PAD], [CLS, *ids("a cat a cat"), SEP]]
    assert batch["attention_mask"].all()


def test_long_rows_are_cut_with_a_warning_from_the_end_of_the_prompt(processor, caplog):
    with caplog.at_level(logging.WARNING):
        batch = call(processor, ["a photo of a cat", "a"], max_length=4)
    assert "1 of 2 texts were cut to 4 tokens; the longest had 6" in caplog.text
    assert batch["input_ids"][0].tolist() == [CLS, *ids("a photo of")]
    closed = call(processor, "a photo of a cat", add_eos_token=True, max_length=4)
    assert closed["input_ids"].tolist() == [[CLS, *ids("a photo"), SEP]]
    both = call(processor, "a photo of", suffix="red cat", max_length=5)
    assert both["input_ids"].tolist() == [[CLS, *ids("a red cat"), SEP]]
    assert both["labels"].tolist() == [[-100, -100, *ids("red cat"), SEP]]
    suffix_alone = call(processor, "a photo of", suffix="red cat dog", max_length=3)
    assert suffix_alone["input_ids"].tolist() == [[CLS, *ids("red cat")]]  # cut, so it does not end with eos
    processor.tokenizer.truncation_side = "left"
    assert call(processor, "a photo of a cat", max_length=3)["input_ids"].tolist() == [[CLS, *ids("a cat")]]


def test_the_tokenizers_own_limit_holds_and_truncation_can_be_forbidden(processor):
    processor.tokenizer.model_max_length = 3
    assert call(processor, "a photo of a cat")["input_ids"].shape == (1, 3)
    with pytest.raises(ValueError, match="a text makes 6 tokens, more than 3"):
        call(processor, "a photo of a cat", truncation=False)


def test_user_text_never_becomes_a_special_token(processor):
    text = "a [SEP] cat [PAD] [CLS] [MASK]"
    batch = call(processor, [text, "a"], suffix=[text, "a"])
    assert (batch["input_ids"] == CLS).sum(1).tolist() == [1, 1]
    assert (batch["input_ids"] == SEP).sum(1).tolist() == [1, 1]
    assert ID["[MASK]"] not in batch["input_ids"]
    assert batch["input_ids"][0, 1:5].tolist() == ids("a [ sep ]")
    assert processor.tokenizer("[SEP]", add_special_tokens=False)["input_ids"] == [SEP]  # left as it was for others


def test_special_tokens_that_are_plain_words_of_the_vocabulary_become_unknown():
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "cat": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = MMProcessor(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, **tokens))
    assert words(text="cat </s> <s> cat", suffix="</s>")["input_ids"] == [[0, 3, 2, 2, 3, 2, 1]]


def test_lone_surrogates_become_the_replacement_character(processor):
    batch = processor(text=["a \ud800 cat", "a \ufffd cat"])
    assert batch["input_ids"][0] == batch["input_ids"][1]


@pytest.mark.parametrize("text", ["", "   ", "🐈‍⬛ é e\u0301", "قطة", "a\0b", "猫", "x" * 300])
def test_any_text_makes_a_row(processor, text):
    batch = call(processor, [text, "a"], suffix=[text, "a"])
    assert batch["input_ids"][:, 0].tolist() == [CLS, CLS] and (batch["input_ids"] < len(ID)).all()


def test_a_tokenizer_lacking_a_token_that_is_needed_says_so(processor):
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("sep_token", "no eos and no sep", {"suffix": ["a", "b"]}),
        ("pad_token", "need a pad token", {}),
        ("cls_token", "text 0 is empty, and the tokenizer has no bos", {}),
    ]
    for name, message, kwargs in cases:
        lacking = make_processor()
        setattr(lacking.tokenizer, name, None)
        with pytest.raises(ValueError, match=message):
            lacking(text=["", "a"], **kwargs)


@pytest.mark.parametrize("settings", [{"fixed_length": 4}, {"fixed_length": 4, "add_eos_token": True}])
def test_fixed_length_is_for_closed_rows_padded_at_the_right(settings):
    with pytest.raises(ValueError, match="its pads are attended"):
        make_processor(**settings)(text="a", padding_side="left" if "add_eos_token" in settings else None)
