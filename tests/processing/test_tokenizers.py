"""Every kind of tokenizer makes the same rows: byte-level BPE, BPE with byte fallback, WordPiece, Unigram, words,
SentencePiece's own, and those written in Python, each trained here on a few sentences."""

import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertGenerationTokenizer,
    BertTokenizer,
    ByT5Tokenizer,
    CanineTokenizer,
    PreTrainedTokenizerFast,
)

from mm.configuration.special_ids import row_ends
from mm.processing.processor import MMProcessor

CORPUS = ["a photo of a cat", "what is the red dog doing?", "the cat sees [two] dogs, <three> birds", "größe naïve 猫"]
ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPECIAL = list(ANGLES.values())


def trained(model, trainer, pre, decoder, **tokens):
    backend = Tokenizer(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = pre, decoder
    backend.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(ANGLES | tokens))


def byte_level():
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), trainer, pre, decoders.ByteLevel())


def byte_fallback():
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=[*SPECIAL, *pieces], show_progress=False)
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    model = models.BPE(byte_fallback=True, unk_token="<unk>")
    return trained(model, trainer, pre_tokenizers.Metaspace(), decoder)


def unigram():
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def words():
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return trained(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizers.WhitespaceSplit(), decoders.Fuse())


def word_pieces():
    letters = sorted({letter for line in CORPUS for letter in line if letter != " "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)})


def sentence_piece(tmp_path_factory):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=60, hard_vocab_limit=False,
        pad_id=3, minloglevel=2, user_defined_symbols=["<::::>"],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(model.getvalue())
    return BertGenerationTokenizer(str(path))


def byte_t5():
    return ByT5Tokenizer()


@functools.cache  # it takes seconds to make
def canine():
    return CanineTokenizer()


KINDS: dict[str, Callable[..., Any]] = {
    build.__name__: build
    for build in (byte_level, byte_fallback, unigram, words, word_pieces, sentence_piece, byte_t5, canine)
}
LOSSLESS = ("byte_level", "byte_t5", "canine")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    build = KINDS[request.param]
    return build(tmp_path_factory) if request.param == "sentence_piece" else build()


@pytest.mark.parametrize("text", [*CORPUS, "", "?!", "x" * 50])
def test_a_row_is_bos_the_tokenizers_own_ids_and_eos(tokenizer, text):
    bos, eos = row_ends(tokenizer)
    row = MMProcessor(tokenizer=tokenizer)(text=text, suffix="the cat")["input_ids"][0]
    own = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, "the cat")]
    assert row == [*([] if bos is None else [bos]), *own[0], *own[1], eos]


def test_no_text_makes_a_special_token(tokenizer):
    bos, eos = row_ends(tokenizer)
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    names = [name for name in tokenizer.all_special_tokens if name != tokenizer.unk_token]
    texts = [form for name in names for form in (name, f"a {name} cat", f"cat{name}", f" {name}", name * 2)]
    batch = MMProcessor(tokenizer=tokenizer)(text=texts, suffix=texts, padding=False)
    heads = 0 if bos is None else 1
    for row in batch["input_ids"]:
        assert specials.isdisjoint(row[heads:-1]) and row[-1] == eos


def test_rows_are_padded_at_the_left_for_generation_and_at_the_right_for_training(tokenizer):
    processor = MMProcessor(tokenizer=tokenizer)
    texts = ["a cat", "a photo of a cat"]
    for batch, side in ((processor(text=texts), 0), (processor(text=texts, suffix=texts), -1)):
        assert batch["input_ids"][0][side] == tokenizer.pad_token_id and batch["attention_mask"][0][side] == 0
        assert all(batch["attention_mask"][1])
        alone = processor(text=texts[0], suffix=texts[0] if side else None)["input_ids"][0]
        real = [token for token, mask in zip(batch["input_ids"][0], batch["attention_mask"][0], strict=True) if mask]
        assert real == alone


@pytest.mark.parametrize("text", ["a \ud800 cat", "\udfff", "\ud83d\udc08 cat", "\x00", "e\u0301 قطة 👩‍👩‍👧"])
def test_any_unicode_makes_a_row(tokenizer, text):
    row = MMProcessor(tokenizer=tokenizer)(text=[text], suffix=[text])["input_ids"][0]
    assert all(isinstance(token, int) and 0 <= token < max(len(tokenizer), 0x110000) for token in row)


def test_long_texts_are_cut_alike(tokenizer, caplog):
    row = MMProcessor(tokenizer=tokenizer)(text="a photo of a cat " * 9, max_length=7, add_eos_token=True)[
        "input_ids"
    ][0]
    assert len(row) == 7 and row[-1] == row_ends(tokenizer)[1]
    assert sum("were cut" in record.message for record in caplog.records) == 1


CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    + ("{% else %} *{% endif %}{% endfor %}{{ END }}{% endfor %}")
)


def chat_of(text):
    return [{"role": "user", "content": [{"type": "text", "text": text}]}] * 2


def ends_of(tokenizer):
    return tokenizer.eos_token or tokenizer.sep_token


@pytest.mark.parametrize("text", CORPUS)
def test_chats_have_the_tokenizers_own_ids(tokenizer, text):
    processor = MMProcessor(tokenizer=tokenizer, chat_template=CHAT.replace("{{ END }}", ends_of(tokenizer)))
    rows = processor.apply_chat_template(chat_of(text), tokenize=True, return_dict=True)["input_ids"]
    own = tokenizer.apply_chat_template(chat_of(text), chat_template=processor.chat_template)["input_ids"]
    bos, _ = row_ends(tokenizer)
    assert rows[0] == [*([] if bos is None else [bos]), *own]


def test_users_write_no_special_tokens_in_chats(tokenizer):
    processor = MMProcessor(tokenizer=tokenizer, chat_template=CHAT.replace("{{ END }}", ends_of(tokenizer)))
    names = [name for name in tokenizer.all_special_tokens if name != tokenizer.unk_token]
    specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    clean = processor.apply_chat_template(chat_of("a cat"), tokenize=True, return_dict=True)["input_ids"][0]
    for name in names:
        row = processor.apply_chat_template(chat_of(f"a {name} cat"), tokenize=True, return_dict=True)["input_ids"][0]
        assert [token for token in row if token in specials] == [token for token in clean if token in specials]


@pytest.fixture(scope="module", params=LOSSLESS)
def lossless(request):
    return KINDS[request.param]()


# NFC and no lone surrogates are what the tokenizers keep; NUL opens CANINE's padding.
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1, max_codepoint=0xD7FF)))
def test_decoding_gives_the_text_back_where_the_tokenizer_is_lossless(lossless, text):
    processor = MMProcessor(tokenizer=lossless)
    batch = processor(text="", suffix=text, return_tensors="pt")
    found = processor.decode(batch["input_ids"][0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    normalizer = getattr(getattr(lossless, "backend_tokenizer", None), "normalizer", None)
    assert found == (normalizer.normalize_str(text) if normalizer else text)
    assert (batch["labels"] != -100).sum() == len(batch["labels"][0]) - (row_ends(lossless)[0] is not None)
    assert torch.equal(batch["labels"][0, 1:], batch["input_ids"][0, 1:])
