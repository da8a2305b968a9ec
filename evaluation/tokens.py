"""Words of captions: a tokeniser like that of the Penn Treebank, which COCO's caption metrics use, without Java.

Every caption is read by itself, in lower case and NFC: a line separator within one is a space, and no caption can
move to another picture. Han and Kana are written without spaces, so each character is a word.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from .scores import normalize_caption

Tokenizer = str | Callable[[str], Sequence[str]]
TOKENIZERS = ("ptb", "coco", "words", "characters", "space")

_ABBREVIATIONS = """
mr mrs ms dr st jr sr vs etc prof gen sgt capt lt col rev gov inc co corp ltd bros ave blvd mt ft al
jan feb mar apr jun jul aug sep sept oct nov dec
"""
_SHORT = "|".join(_ABBREVIATIONS.split())
_ONE_BY_ONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc]"  # also \u30fc, the long vowel of Katakana
_WORD = r"[\p{L}\p{M}\p{N}_]"
_CLITIC = rf"'(?:s|m|d|re|ve|ll)(?!{_WORD})"
_PTB = rf"""
    https?://\S+ | {_WORD}+(?:[.+-]{_WORD}+)*@{_WORD}+(?:[.-]{_WORD}+)+  # addresses
  | (?<!{_WORD})(?:\p{{L}}\.){{2,}}(?!{_WORD})                           # u.s., a.m.
  | (?<!{_WORD})(?:{_SHORT}|no(?=\.\s*\d))\.(?!{_WORD})
  | (?<!{_WORD})(?:can(?=not) | (?:gon|wan)(?=na) | got(?=ta) | (?:gim|lem)(?=me) | 't(?=is|was))  # can not, gon na
    (?=\p{{L}}+(?!{_WORD}))
  | (?<![\p{{L}}\p{{M}}\p{{N}}_.])(?:[+-]?\.\d+|[+-]\d+(?:[.,]\d+)*)(?!{_WORD})               # .5, -0.2
  | {_WORD}+(?=n't(?!{_WORD})) | n't(?!{_WORD}) | {_CLITIC} | '\d0s(?!{_WORD})
  | {_WORD}+(?:(?:[-/&.]|(?<=\d)[,:](?=\d)|(?!{_CLITIC})')(?={_WORD}){_WORD}+)*
  | [!?]+ | \.{{2,}} | -{{2,}} | (?=\S)\X                                # anything else, an emoji with its colour
"""
_COCO = regex.compile(rf"(?<!{_WORD})\p{{L}}\.(?!{_WORD}) | {_PTB}", regex.VERBOSE)  # "plan b." keeps its period
_OURS = regex.compile(
    rf"{_ONE_BY_ONE} | {_PTB.replace(_WORD, _WORD[:-1] + '--' + _ONE_BY_ONE + ']')}", regex.X | regex.V1
)
_WORDS = regex.compile(rf"{_WORD}+")
_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"'})
_DROPPED = regex.compile(r"[\p{P}`--[#%&*@/\\]]+", regex.V1)  # a token of nothing else says nothing
_DROPPED_BY_COCO = {*"'\"`.?!,:-;", "--", "...", "\u2026", "\u2013", "\u2014"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


# Most captions are Latin words with one mark at the end at most: both tokenisers split them at their spaces. A letter
# alone before the mark, an abbreviation, and words that come apart are left to the rules above.
_PLAIN = re.compile(
    rf"(?!.*\b(?:cannot|gonna|wanna|gotta|gimme|lemme))(?!.*\b(?:{_SHORT})\.)[a-z0-9 ]*[a-z0-9]{{2}} ?[.!?]?"
)


def _plain(caption: str) -> list[str] | None:
    """The words of a caption that both tokenisers split alike, or None."""
    return caption.rstrip(".!?").split() if _PLAIN.fullmatch(caption) else None


def _ptb(caption: str) -> list[str]:
    if (words := _plain(caption)) is not None:
        return words
    found: list[str] = _OURS.findall(caption.translate(_QUOTES))
    return [token for token in found if not _DROPPED.fullmatch(token)]


def _coco(caption: str) -> list[str]:
    if (words := _plain(caption)) is not None:
        return words
    found: list[str] = _COCO.findall(caption.translate(_QUOTES))
    return [_BRACKETS.get(token, token) for token in found if token not in _DROPPED_BY_COCO]


_SPLITTERS: dict[str, Callable[[str], list[str]]] = {
    "ptb": _ptb,
    "coco": _coco,
    "words": _WORDS.findall,
    "characters": lambda caption: list("".join(caption.split())),
    "space": str.split,
}


def splitter(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """What makes words of a caption.

    Args:
        tokenizer: "ptb", words, numbers, parts of contractions (do n't, man 's), without punctuation and brackets, and
            each Han or Kana character by itself; "coco", as pycocoevalcap, which keeps brackets as "-lrb-" and runs
            such as "!?", and takes Chinese without spaces for one word; "words", runs of letters and digits (as
            rouge-score, but with accents); "characters"; "space"; or a function of a normalised caption, such as
            `jieba.lcut`.
    """
    if callable(tokenizer):
        function = tokenizer
        return lambda caption: list(function(normalize_caption(caption)))
    if tokenizer not in _SPLITTERS:
        raise ValueError(f"tokenizer={tokenizer!r}; accepted are {', '.join(TOKENIZERS)} and a function of a caption")
    split = _SPLITTERS[tokenizer]
    return lambda caption: split(normalize_caption(caption))


def tokenize(caption: str, tokenizer: Tokenizer = "ptb") -> list[str]:
    """The words of a caption; see `splitter` for what there is."""
    return splitter(tokenizer)(caption)


@dataclass(frozen=True)
class Corpus:
    """The words of n predictions and of all their references.

    predictions: n lists of words. references: R lists, those of one item side by side.
    owner: R numbers of items.
    """

    predictions: list[list[str]]
    references: list[list[str]]
    owner: list[int]

    def __len__(self) -> int:
        return len(self.predictions)


def read_corpus(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: Tokenizer = "ptb"
) -> Corpus:
    split = lru_cache(maxsize=None)(splitter(tokenizer))  # captions come again and again
    return Corpus(
        [split(caption) for caption in predictions],
        [split(caption) for truth in references for caption in truth],
        [number for number, truth in enumerate(references) for _ in truth],
    )
