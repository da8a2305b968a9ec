"""From texts to rows of token ids.

    row    =  bos  prompt …  [suffix …  eos]        prompt and suffix are tokenised apart
    labels = -100   -100 …    suffix …  eos         shifted inside the model

bos may be several tokens: Whisper's tokenizer opens a text with its language and task, as generate() does. A suffix
may be a picture, by its ids (drawn_pictures.py).

User text never becomes a special token: "[SEP]" in a question is five characters, not an end of text.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..configuration.special_ids import row_ends
from .drawn_pictures import PictureIds
from .placeholders import Placeholders
from .row_faults import RowError

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
NOWHERE = (0, 0)
# Tokenizers without a limit of their own report about 1e30 tokens.
NO_LIMIT = 10**12
# Transformers marks the special tokens that users wrote so, before it renders their chat.
MARKED = re.compile("\U000f0000([^\U000f0001]*)\U000f0001")


def token_id(tokenizer: Any, setting: str, token: str | None) -> int | None:
    """The id of the token that a setting names; ValueError for one that is not in the vocabulary."""
    if token is None:
        return None
    found = tokenizer.convert_tokens_to_ids(token) if tokenizer and isinstance(token, str) else None
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(f"{setting}={token!r} is no token of the tokenizer's vocabulary")
    return found


@dataclass(frozen=True)
class RowOptions:
    """How rows are made; the meaning of each is described in `MMProcessor.__call__`.

    bos: id that opens the rows in place of the tokenizer's. is_chat: the prompts come from a chat template. offsets:
    the position in the chat of each token. placeholders: tokens of the prompts that stand for media. ending: what
    prompts end with that are no chats.
    """

    padding: bool | str = True
    padding_side: str | None = None
    max_length: int | None = None
    truncation: bool = True
    pad_to_multiple_of: int | None = None
    fixed_length: int | None = None
    closed: bool = False
    add_special_tokens: bool = True
    is_chat: bool = False
    bos: int | None = None
    offsets: bool = False
    placeholders: Placeholders | None = None
    ending: str = ""

    def __post_init__(self):
        if self.padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(
                f"padding={self.padding!r}; accepted are True or 'longest', 'max_length', False or 'do_not_pad'"
            )
        if self.padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side={self.padding_side!r}; accepted are 'left', 'right' or None")
        if not isinstance(self.ending, str):
            raise TypeError(f"prompt_ending={self.ending!r}; accepted is a string, empty for none")
        if not isinstance(self.truncation, bool):
            raise ValueError(f"truncation={self.truncation!r}; accepted are True or False")
        for name in ("max_length", "pad_to_multiple_of", "fixed_length"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r}; accepted are whole numbers from 1, or None")
        if self.fixed_length is not None and self.padding_side == "left":
            raise ValueError("padding_side='left' with fixed_length: its pads are attended and are at the right")


def encode_rows(
    tokenizer: Any, prompts: Sequence[str | None], suffixes: list[str | PictureIds] | None, options: RowOptions
) -> dict[str, list[list[int]]]:
    """Rows of ids for R prompts, and for as many suffixes where there are some. A prompt of None, without a suffix, is
    an absent text: bos that is masked like its padding.

    A row that is too long loses the end of its prompt first (its start where the tokenizer truncates at the left),
    then the end of its suffix: bos stays, and a suffix that was cut has no eos, since the text does not end there. The
    ids of a picture are not counted and not cut.

    Returns:
        input_ids, attention_mask and, with suffixes, labels: R lists each, of one length T unless padding is off. With
        offsets offset_mapping: (start, end) in its chat of each token, (0, 0) of those that are not from it.

    Raises:
        ValueError: the tokenizer lacks a token that is needed, or a row is too long and truncation is off.
    """
    bos, eos = row_ends(tokenizer)
    opening = _opening(tokenizer, bos) if options.bos is None else [options.bos]
    bos = opening[0] if opening else None
    if eos is None and (suffixes is not None or options.closed):
        raise ValueError("the tokenizer has no eos and no sep token, and rows with a suffix or closed rows need one")
    if options.fixed_length is not None and suffixes is None and not options.closed:
        raise ValueError("fixed_length with open prompts: its pads are attended; pass add_eos_token=True")
    absent = {index for index, prompt in enumerate(prompts) if prompt is None and suffixes is None}
    ending = "" if options.is_chat else options.ending
    texts = ["" if prompt is None else prompt + ending for prompt in prompts]
    drawn = {index: [*one.ids] for index, one in enumerate(suffixes or []) if isinstance(one, PictureIds)}
    words = None if suffixes is None else ["" if isinstance(one, PictureIds) else one for one in suffixes]
    prompt_ids, suffix_ids = _token_ids(tokenizer, texts, words, options)
    spans = _spans(tokenizer, texts) if options.offsets else [[] for _ in texts]
    places = options.placeholders
    if places is not None:
        prompt_ids, spans = places.rows(prompt_ids, spans)
    closes = options.closed and options.add_special_tokens

    limit = _limit(tokenizer, options)
    rows, labels, offsets, lengths = [], [], [], []
    for index, prompt in enumerate(prompt_ids):
        first = 0 if places is None else places.opening(prompt)  # media that stand before bos
        media, prompt, own = prompt[:first], prompt[first:], spans[index]
        head = [*media, *(opening if options.add_special_tokens and prompt[:1] != [bos] else [])]
        # a chat template may close the text itself
        closing = closes and prompt[-1:] != [eos] and index not in absent
        tail = [*suffix_ids[index], eos] if suffixes is not None else [eos] * closing
        tail = [] if index in drawn else tail
        if not head + prompt + tail and index not in drawn:
            raise ValueError(f"text {index} is empty, and the tokenizer has no bos or cls token to start a row with")
        lengths.append(len(head) + len(prompt) + len(tail))
        room = limit - len(head) - len(tail)
        whole, prompt = prompt, _shortened(prompt, room, tokenizer.truncation_side)
        if places is not None and places.number(prompt) != places.number(whole):
            raise RowError(f"text {index} has {lengths[-1]} tokens; at {limit} a place of media would be cut off")
        tail = tail[: max(0, limit - len(head) - len(prompt))]
        begin, learned = drawn.get(index, [])[:1], drawn.get(index, [])[1:] or tail
        rows.append(head + prompt + begin + learned)
        labels.append([IGNORED_LABEL] * (len(head) + len(prompt) + len(begin)) + learned)
        tail = begin + learned
        own = _shortened(own[first:], room, tokenizer.truncation_side)
        offsets.append([NOWHERE] * len(head) + own + [NOWHERE] * len(tail))
    if max(lengths) > limit:
        if not options.truncation:
            raise ValueError(f"a text makes {max(lengths)} tokens, more than {limit}; shorten it or allow truncation")
        cut = sum(length > limit for length in lengths)
        logger.warning("%d of %d texts were cut to %d tokens; the longest had %d", cut, len(rows), limit, max(lengths))
    more = {"labels": (labels, IGNORED_LABEL)} if suffixes is not None else {}
    more |= {"offset_mapping": (offsets, NOWHERE)} if options.offsets else {}
    padded = _padded(tokenizer, rows, more, limit, options)
    for index in absent:
        padded["attention_mask"][index] = [0] * len(padded["attention_mask"][index])
    return padded


def _opening(tokenizer: Any, bos: int | None) -> list[int]:
    """What rows begin with: bos, or the tokenizer's own prefix where that is bos and more (Whisper's)."""
    prefix = getattr(tokenizer, "prefix_tokens", None)
    if bos is not None and isinstance(prefix, list) and prefix[:1] == [bos]:
        return prefix
    return [] if bos is None else [bos]


def pad_id(tokenizer: Any) -> int:
    """The tokenizer's pad id. Raises ValueError where it has none."""
    if tokenizer.pad_token_id is None:
        raise ValueError("rows of unequal length need a pad token: set tokenizer.pad_token (eos_token will do)")
    return tokenizer.pad_token_id


def pad_rows(rows: list[list], length: int, fill: Any, side: str) -> list[list]:
    """Each row filled up with `fill` to `length`, at its "left" or "right" side."""
    if side == "left":
        return [[fill] * (length - len(row)) + row for row in rows]
    return [row + [fill] * (length - len(row)) for row in rows]


def clean_text(text: str) -> str:
    """`text` as valid Unicode: surrogate pairs are joined, lone surrogates become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _token_ids(
    tokenizer: Any, prompts: list[str], suffixes: list[str] | None, options: RowOptions
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of prompts and suffixes without any special token, except those that a chat template wrote."""
    if options.is_chat:
        chats = [_chat_ids(tokenizer, clean_text(prompt)) for prompt in prompts]
        return chats, _user_ids(tokenizer, suffixes or [])
    ids = _user_ids(tokenizer, [*prompts, *(suffixes or [])])
    if options.placeholders is not None:
        tokens = options.placeholders.tokens.values()
        for place, prompt in enumerate(prompts):
            if any(token in prompt for token in tokens):
                ids[place] = _placed_ids(tokenizer, prompt, set(tokens))
    return ids[: len(prompts)], ids[len(prompts) :]


def _placed_ids(tokenizer: Any, text: str, tokens: set[str]) -> list[int]:
    """Ids of a text in which only these special tokens count; any other becomes U+FFFD."""
    text = clean_text(text)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted({*tokenizer.all_special_tokens, *special} - tokens, key=len, reverse=True):
        text = text.replace(token, "\ufffd")
    return list(tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])


def _chat_ids(tokenizer: Any, chat: str) -> list[int]:
    """Ids of a text from a chat template: its own special tokens, and those that users wrote as plain text."""
    plain = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    try:
        return list(tokenizer(chat, sanitize_control_tokens=True, **plain)["input_ids"])
    except ValueError:
        if not MARKED.search(chat):
            raise
        # words and single letters that are special tokens have no other spelling
        return list(tokenizer(MARKED.sub("\ufffd", chat), sanitize_control_tokens=True, **plain)["input_ids"])


def _spans(tokenizer: Any, chats: list[str]) -> list[list[tuple[int, int]]]:
    """(start, end) of each token of chats without marked tokens. Raises ValueError where the tokenizer has none."""
    encoded = tokenizer([clean_text(chat) for chat in chats], add_special_tokens=False, return_offsets_mapping=True)
    return [list(map(tuple, spans)) for spans in encoded["offset_mapping"]]


def _user_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(
        [clean_text(text) for text in texts],
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    # split_special_tokens keeps added tokens apart from the text; a vocabulary may still hold one as a plain word
    unknown = tokenizer.unk_token_id
    ends = {*row_ends(tokenizer), tokenizer.pad_token_id}
    specials = set(tokenizer.all_special_ids) - {unknown}
    replacement = [] if unknown is None or unknown in ends else [unknown]
    rows = []
    for ids in encoded["input_ids"]:
        if not specials.isdisjoint(ids):
            ids = [kept for token in ids for kept in (replacement if token in specials else [token])]
        rows.append(list(ids))
    return rows


def _limit(tokenizer: Any, options: RowOptions) -> int:
    """The most tokens that a row may have."""
    own = options.max_length if options.max_length is not None else tokenizer.model_max_length
    return min(own, options.fixed_length or NO_LIMIT, NO_LIMIT)


def _shortened(ids: list, length: int, side: str) -> list:
    """The first `length` ids, or the last ones where the tokenizer cuts at the left; none below 0."""
    length = min(max(0, length), len(ids))
    return ids[len(ids) - length :] if side == "left" else ids[:length]


def _padded(
    tokenizer: Any, rows: list[list[int]], more: dict[str, tuple[list, Any]], limit: int, options: RowOptions
) -> dict[str, list[list[int]]]:
    """Rows, their mask and what there is more of them ({name: (lists, what pads get)}) at one length. Pads up to a
    fixed_length are attended, others are masked."""
    masks = [[1] * len(row) for row in rows]
    columns = {name: lists for name, (lists, _) in more.items()}
    if options.padding not in (False, "do_not_pad"):
        length = max(len(row) for row in rows)
        if options.padding == "max_length" or options.fixed_length is not None:
            if limit == NO_LIMIT:
                raise ValueError("padding='max_length' needs max_length: the tokenizer has no limit of its own")
            length = max(limit, length)
        if options.pad_to_multiple_of is not None:
            length += -length % options.pad_to_multiple_of
        side = options.padding_side or ("right" if "labels" in more or options.closed else "left")
        if any(len(row) < length for row in rows):
            rows = pad_rows(rows, length, pad_id(tokenizer), side)
            masks = pad_rows(masks, length, int(options.fixed_length is not None), side)
            columns = {name: pad_rows(lists, length, fill, side) for name, (lists, fill) in more.items()}
    return {"input_ids": rows, "attention_mask": masks, **columns}
