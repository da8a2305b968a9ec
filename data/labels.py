"""Labels as numbers: class names, class numbers, several classes of one row, or vectors that are ready.

a label of each row        becomes
"cat"                      its place among the sorted names
["cat", "red"], [0, 3]     a vector with 1.0 for each of these classes and 0.0 for all others; [] names none
2, 0.5, [0.1, 0.9]         stays; lists of 0 and 1 that are equally long are vectors, too
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import DataError


def class_names(labels: Sequence[Any]) -> list[str] | None:
    """The names of the classes, sorted, so that the same words always have the same numbers; for lists of class
    numbers "0", "1", ...; None where labels are numbers or vectors already. DataError for a mixture."""
    lists = [label for label in labels if isinstance(label, (list, tuple))]
    if lists and len(lists) < len(labels):
        raise DataError(f"some labels are lists ({lists[0]!r:.60}) and some are not; use one kind")
    held = [one for label in lists for one in label] if lists else list(labels)
    words = sorted({one for one in held if isinstance(one, str)})
    if words and not all(isinstance(one, str) for one in held):
        raise DataError(f"some labels are words ({', '.join(words[:3])}) and some are numbers; use one kind")
    if words or not lists:
        return words or None
    if not held:
        raise DataError("no row has a label: all lists of labels are empty")
    if not all(type(one) is int for one in held) or _are_vectors(lists):
        return None
    if min(held) < 0:
        raise DataError(f"a list of class numbers holds {min(held)}; accepted are numbers from 0")
    return [str(number) for number in range(max(held) + 1)]


def _are_vectors(lists: Sequence[Sequence[int]]) -> bool:
    """Whether lists of whole numbers are vectors of 0 and 1 rather than class numbers."""
    lengths = {len(one) for one in lists}
    return len(lengths) == 1 and lengths.pop() > 1 and all(one in (0, 1) for held in lists for one in held)


def places_of(names: Sequence[str] | None) -> dict[str, int] | None:
    """The number of each class by its name."""
    return None if names is None else {name: number for number, name in enumerate(names)}


def numbered(label: Any, places: Mapping[str, int] | None) -> Any:
    """A label as a number, or as a vector over the classes. `places`: of the class names, if they have any."""
    if isinstance(label, str) and places is not None:
        return places[label]
    if not isinstance(label, (list, tuple)):
        return label
    if places is None:
        return [float(one) for one in label]
    own = {places[one] if isinstance(one, str) else int(one) for one in label}
    return [float(number in own) for number in range(len(places))]


def renumbered(label: Any, theirs: Sequence[str], ours: Sequence[str]) -> Any:
    """A label over the classes `theirs` as one over `ours`, which holds all of them."""
    if label is None:
        return None
    places = [ours.index(name) for name in theirs]
    if not isinstance(label, list):
        return places[label]
    made = [0.0] * len(ours)
    for place, value in zip(places, label, strict=True):
        made[place] = value
    return made
