"""What a tokenizer of WordPieces writes is what it read: names, texts of every punctuation, and what it says."""

import re

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, TextStreamer

from mm.processing.spelling import changed_texts, spelled

# Every kind of punctuation among the 1,594 names of emojibase, 148 of which came out with spaces around it.
NAMES = [
    "keycap: #", "keycap: *", "keycap: 10", "a button (blood type)", "japanese “not free of charge” button",
    "globe showing europe-africa", "jack-o-lantern", "woman running: facing right", "woman’s hat", "men’s room",
    "e-mail", "six o’clock", "t-shirt", "see-no-evil monkey", "fleur-de-lis", "rescue worker’s helmet", "st. john",
]  # fmt: skip
TEXTS = [
    "a man's hat", "the boys’ room", "it's 12:30, 3.5 km (or 1,000 m)", "don't stop", "we'll go, they've gone",
    "red/blue", "5% of $10", "cut & paste", "what?! no...", "2020, 3 dogs", "[x] {y}", "snake_case",
    "do not enter", "o'clock", "a bird; a plane",
]  # fmt: skip


def wordpieces() -> BertTokenizer:
    """BERT's own class over the words and characters of the texts."""
    texts = [*NAMES, *TEXTS, 'big pinata "quoted" two spaces say cheese now']
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    characters = dict.fromkeys(character for word in words for character in word)
    pieces = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        *dict.fromkeys([*words, *characters, *map("##{}".format, characters)]),
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, bos_token="[CLS]", eos_token="[SEP]", model_max_length=64)


@pytest.fixture(scope="module")
def shipped():
    return spelled(wordpieces())


@pytest.fixture(scope="module")
def bert():
    return wordpieces()


@pytest.mark.parametrize("text", NAMES + TEXTS)
def test_it_writes_what_it_reads(shipped, text):
    ids = shipped(text)["input_ids"]
    assert shipped.unk_token_id not in ids
    assert shipped.decode(ids, skip_special_tokens=True) == text


def test_beams_and_batches_are_written_alike(shipped):
    ids = shipped(NAMES, padding=True)["input_ids"]
    assert shipped.batch_decode(ids, skip_special_tokens=True) == NAMES


@pytest.mark.parametrize(
    "text", [*NAMES, *TEXTS[:2], *TEXTS[3:], "3.5 km at 12:30", "say ' cheese ' now", "a -", "o'"]
)
def test_a_stream_shows_what_the_whole_is(shipped, text, capsys):
    """A streamer prints word by word, and takes nothing back. (1,000 whose zeros are two tokens is "1, 000" there.)"""
    streamer = TextStreamer(shipped)
    for token in shipped(text, add_special_tokens=False)["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert capsys.readouterr().out.rstrip("\n") == shipped.decode(shipped(text, add_special_tokens=False)["input_ids"])


def test_spelling_changes_no_id_and_is_saved(bert, shipped, tmp_path):
    mended = spelled(bert)
    for tokenizer in (mended, shipped):
        assert [tokenizer(text)["input_ids"] for text in NAMES + TEXTS] == [
            bert(text)["input_ids"] for text in NAMES + TEXTS
        ]
        assert tokenizer.special_tokens_map == bert.special_tokens_map
        assert (tokenizer.model_max_length, len(tokenizer)) == (64, len(bert))
    mended.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert changed_texts(again, NAMES + TEXTS) == {}
    assert "e - mail" in changed_texts(bert, NAMES).values()  # that of BertTokenizer is as it was


def test_what_does_not_come_back_is_told(shipped):
    texts = ["e-mail", "Big", "piñata", 'a "quoted" word', "two  spaces"]
    assert changed_texts(shipped, texts) == {
        "Big": "big", "piñata": "pinata", 'a "quoted" word': 'a " quoted " word', "two  spaces": "two spaces"
    }  # fmt: skip


def test_other_tokenizers_are_refused():
    with pytest.raises(ValueError, match="takes a WordPiece tokenizer such as BertTokenizer; got GPT2Tokenizer"):
        spelled(GPT2Tokenizer(vocab={"a": 0}, merges=[]))
