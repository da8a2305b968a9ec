"""The columns of other people's samples: renamed to MM's names if the caller says how; guesses are used only in
errors."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What such columns are called elsewhere: webdataset's endings, `datasets`' imagefolder, COCO, VQA. One word of a name
# is enough ("caption_0"); the first column of each kind is suggested.
LIKELY = {
    "suffix": "caption captions answer answers target targets sentence sentences description txt output response",
    "label": "labels class cls category target_class",
    "text": "question prompt instruction query",
    "image": "img picture photo jpg jpeg png webp file file_name filename path filepath",
    "video": "mp4 webm clip",
    "audio": "wav flac mp3 ogg sound speech",
}
_OF_WORD = {word: name for name, words in LIKELY.items() for word in words.split()}
_NOT = {"id", "ids", "size", "width", "height", "url", "key"}  # image_id is no image


def check_columns(columns: Mapping[str, str | None] | None, accepted: Sequence[str]) -> dict[str, str | None]:
    """`columns` as a dict. Raises TypeError or ValueError for what cannot be a renaming into `accepted`."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise TypeError(f'columns is a dict such as {{"caption": "suffix"}}; got {type(columns).__name__}')
    taken: dict[str, str] = {}
    for theirs, ours in columns.items():
        if ours is None:
            continue
        if ours not in accepted:
            raise ValueError(f"columns: {theirs!r} cannot be read as {ours!r}; accepted are {', '.join(accepted)}")
        if ours in taken:
            raise ValueError(f"columns: {taken[ours]!r} and {theirs!r} cannot both be {ours!r}; name one")
        taken[ours] = theirs
    return dict(columns)


def renamed(samples: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None]) -> Sequence[Mapping[str, Any]]:
    """The samples under MM's names; None drops a column. ValueError where a name is taken, or all are absent."""
    if not columns:
        return samples
    held = set().union(*samples)
    if not held & set(columns):
        raise ValueError(f"columns names {sorted(columns)}, but the samples hold {sorted(held)}")
    for theirs, ours in columns.items():
        if ours is not None and ours != theirs and ours in held and ours not in columns:
            raise ValueError(f"the samples hold {ours!r} too, so {theirs!r} cannot be read as it; name one in columns")
    names = {name: columns.get(name, name) for name in held}
    return [
        {str(names[name]): value for name, value in sample.items() if names[name] is not None} for sample in samples
    ]


def likely(names: Iterable[str]) -> dict[str, str]:
    """Which of other people's column names may be which of MM's, one of each kind."""
    found: dict[str, str] = {}
    for name in sorted(names):
        words = [name.lower(), *re.split(r"[\W\d_]+", name.lower())]
        kinds = [_OF_WORD[word] for word in words if word in _OF_WORD]
        if kinds and not _NOT & set(words) and kinds[-1] not in found.values():
            found[name] = kinds[-1]
    return found


def in_words(found: Mapping[str, str]) -> str:
    """The argument of MMDataCollator that reads `found`."""
    return f"columns={json.dumps(found, ensure_ascii=False)}"


def either_way(found: Mapping[str, str]) -> str:
    """The argument of a reader that reads `found`, in Python and in the shell."""
    pairs = ",".join(f"{theirs}={ours}" for theirs, ours in found.items())
    return f"columns={dict(found)}, in the shell --columns {pairs}"


def unknown_columns(held: set[str], known: Sequence[str]) -> ValueError:
    """The error for samples without any column that is known."""
    told = f"the samples hold the columns {sorted(held)}, none of {tuple(known)}; "
    found = likely(held)
    if found:
        return ValueError(f"{told}say which is which: MMDataCollator(processor, {in_words(found)})")
    return ValueError(
        f"{told}under Trainer set remove_unused_columns=False, since it drops columns that the model's forward does "
        "not name"
    )


def check_spelling(held: set[str], known: Sequence[str]) -> None:
    """ValueError for a column that is nearly one of those known, where that one is absent: "imge" would be left aside
    and its pictures with it."""
    for name in sorted(held - set(known)):
        close = difflib.get_close_matches(name.lower(), set(known) - held, n=1, cutoff=0.8)
        if close and not _NOT & set(re.split(r"[\W_]+", name.lower())):
            raise ValueError(
                f"the samples hold a column {name!r}, which is not read; did you mean {close[0]!r}? Say "
                f"MMDataCollator(processor, {in_words({name: close[0]})}), with None for a column to be left aside"
            )


def check_nothing_lost(held: set[str], known: Sequence[str]) -> None:
    """For samples that make no labels: ValueError where a column that is left aside looks like what makes them."""
    aside = held - set(known)
    found = {theirs: ours for theirs, ours in likely(aside).items() if ours in ("suffix", "label")}
    if found:
        raise ValueError(
            f"the samples hold the columns {sorted(held)}: nothing there makes labels, and {sorted(found)} would be "
            f"left aside; say MMDataCollator(processor, {in_words(found)}), with None for a column that is to be"
        )
