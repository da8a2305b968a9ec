"""Words of a row of tokens: which tokens make up each word that a reader sees.

R rows, T tokens.
"""

import re
from typing import Any, NamedTuple

# A word is what stands between spaces; scripts that use none (Chinese, Japanese) are read character by character.
_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_NO_SPACES}]|[^\\s{_NO_SPACES}]+")


class Word(NamedTuple):
    """A word as it is decoded, and the columns of its tokens in the row."""

    text: str
    tokens: tuple[int, ...]


def words_of(ids: list[int], tokenizer: Any, first: int = 0) -> list[Word]:
    """The words of a row of ids that begin at column `first` or after it; special tokens belong to none.

    A token that writes part of two words belongs to the first of them. Without a tokenizer each id is a word.
    """
    if tokenizer is None:
        return [Word(str(ids[column]), (column,)) for column in range(first, len(ids))]
    special = set(tokenizer.all_special_ids)
    columns = [column for column in range(first, len(ids)) if ids[column] not in special]
    # How far the text reaches with each token: decoding alone tells what a token adds to those before it.
    ends = [len(_decoded(tokenizer, [ids[c] for c in columns[: n + 1]])) for n in range(len(columns))]
    text = _decoded(tokenizer, [ids[column] for column in columns])
    words, number = [], 0
    for match in _WORD.finditer(text):
        own = []
        while number < len(columns) and (ends[number - 1] if number else 0) < match.end():
            own.append(columns[number])
            number += 1
        words.append(Word(match.group(), tuple(own)))
    return [word for word in words if word.tokens]


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True)
