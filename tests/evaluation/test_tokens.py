"""Words of captions: the tokens of Stanford's PTBTokenizer, without Java, and what it gets wrong."""

import random

import pytest

from mm.evaluation import tokens
from mm.evaluation.meteor import _aligned, _only_alignment
from mm.evaluation.tokens import read_corpus, tokenize

# What `PTBTokenizer().tokenize` of pycocoevalcap 1.2 (stanford-corenlp 3.4.1) gives.
COCO = {
    "Don't can't cannot gonna man's dogs' I'm": "do n't ca n't can not gon na man 's dogs i 'm",
    "t-shirt and/or 3,000 3.5 1/2 $5 50% #1 A&W": "t-shirt and/or 3,000 3.5 1/2 $ 5 50 % # 1 a&w",
    "(small) [big] {x}": "-lrb- small -rrb- -lsb- big -rsb- -lcb- x -rcb-",
    "\"quoted\" 'single' ‘a’ “b”": "quoted single a b",
    "U.S. Mr. Smith St. Louis a.m. p.m. etc. end.": "u.s. mr. smith st. louis a.m. p.m. etc. end",
    "hello... wait!? what!! yes -- no - maybe – em — dash": "hello wait !? what !! yes no maybe em dash",
    "café naïve 一只狗 在跑": "café naïve 一只狗 在跑",
    "a dog,cat;bird:fish a@b.com http://x.com/a": "a dog cat bird fish a@b.com http://x.com/a",
    "end of this. Another sentence. the cat.And": "end of this another sentence the cat.and",
    "ain't gimme wanna gotta lemme": "ai n't gim me wan na got ta lem me",
    "'tis 'twas o'clock '90s": "'t is 't was o'clock '90s",
    "between .5 and -0.2 or +3, (Park et al. 2019)": "between .5 and -0.2 or +3 -lrb- park et al. 2019 -rrb-",
    "5:30 12/25/2020 10-year-old under_score a*b": "5:30 12/25/2020 10-year-old under_score a * b",
    "A man's dog, isn't it? the no. 5 bus, plan b.": "a man 's dog is n't it the no. 5 bus plan b.",
}


@pytest.mark.parametrize(("caption", "words"), COCO.items())
def test_coco_has_the_tokens_of_stanford(caption, words):
    assert tokenize(caption, "coco") == words.split()


@pytest.mark.parametrize("between", ["\n", "\r", "\v", "\f", "\u0085", "\u2028", "\u2029", "  "])
def test_a_line_separator_moves_no_caption_to_another_picture(between):
    corpus = read_corpus([f"a dog{between}runs", "a cat"], [["a dog runs"], ["a cat"]])
    assert corpus.predictions == corpus.references == [["a", "dog", "runs"], ["a", "cat"]]


def test_brackets_and_marks_are_no_words_and_emoji_are():
    assert tokenize("A (small) [red] dog!? ... (!)") == ["a", "small", "red", "dog"]
    assert tokenize("... !? ，。「」") == [] and tokenize("50% & $5") == ["50", "%", "&", "$", "5"]
    assert tokenize("I ❤\ufe0f 👍🏽") == ["i", "❤\ufe0f", "👍🏽"]


def test_han_and_kana_are_words_by_character_and_other_scripts_are_whole():
    assert tokenize("一只狗在跑 red狗 カー") == ["一", "只", "狗", "在", "跑", "red", "狗", "カ", "ー"]
    assert tokenize("हिन्दी में 한국어 문장") == ["हिन्दी", "में", "한국어", "문장"]
    assert tokenize("a b 狗", "characters") == ["a", "b", "狗"]
    assert tokenize("一只狗", lambda caption: [caption[:2], caption[2:]]) == ["一只", "狗"]  # as jieba.lcut


def test_letters_are_the_same_however_they_were_typed():
    assert tokenize("CAFE\u0301") == tokenize("caf\u00e9") == ["caf\u00e9"]
    assert tokenize("Caf\u00e9, 2", "words") == ["caf\u00e9", "2"]


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(ValueError, match="'bert'; accepted are ptb, coco"):
        tokenize("a", "bert")


PIECES = "a,i,no,5,12,dog,dogs,cannot,gonna,st,prof,u,s,xst,gimmex,scan,not,.,!,?,..,,-,'s,é".split(",")


def test_plain_captions_are_split_as_the_rules_split_them(monkeypatch):
    draw, found = random.Random(0), {}
    captions = [
        draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(0, 3)))
        + " ".join(draw.choices(PIECES[:17], k=draw.randint(1, 4)))
        + draw.choice(["", ".", " .", "!", "?", " ?", ". ", ".."])
        for _ in range(3000)
    ]
    for name in ("ptb", "coco"):
        found[name] = [tokenize(caption, name) for caption in captions]
    plain = sum(tokens._plain(caption) is not None for caption in captions)
    assert 500 < plain < 2500
    monkeypatch.setattr(tokens, "_plain", lambda caption: None)
    for name, words in found.items():
        assert words == [tokenize(caption, name) for caption in captions]


def test_captions_whose_words_have_no_choice_are_aligned_as_all_others():
    draw, single = random.Random(0), 0
    for _ in range(1000):
        told, truth = (draw.sample("a b c d e f g hs h".split(), k=draw.randint(0, 6)) for _ in range(2))
        found = _aligned(told, truth, lambda word: word[0], None)
        assert found == _aligned(told, truth, lambda word: word[0], lambda word: frozenset())
        single += not {"h", "hs"} <= {*told} and not {"h", "hs"} <= {*truth}
    assert single > 100
    assert _only_alignment([(0, 0), None, (1, 0), (2, 1)]) == (2, 1, 0, 2)
