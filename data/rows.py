"""The rows of a sample: a text (or label) each, where a sample holds all texts of a picture."""

from collections.abc import Mapping
from typing import Any

ROWS = ("text", "suffix", "chat", "label", "answers", "row_ids")  # one value for each text of a picture
OF_LISTS = ("label", "answers", "chat")  # a value of one row may be a list itself


def has_texts(values: Mapping[str, Any]) -> bool:
    """Whether rows of one picture are told apart by their texts. Labels without a text are of a picture each: two of
    them in one sample would be a vector. Conversations are samples of their own."""
    if values.get("chat") is not None:
        return False
    return values.get("label") is None or any(values.get(name) is not None for name in ("text", "suffix"))


def row_ids(sample: Mapping[str, Any]) -> list[str]:
    ids = sample.get("row_ids", [sample["id"]])
    return list(ids) if isinstance(ids, (list, tuple)) else [ids]


def rows_of(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of each row, with its id under row_ids."""
    ids = row_ids(sample) if "row_ids" in sample or "id" in sample else []
    texts = next((sample[name] for name in ("suffix", "text") if isinstance(sample.get(name), list)), None)
    count = len(texts) if texts is not None else len(ids) if "row_ids" in sample else 1
    rows = []
    for number in range(count):
        row = {name: sample[name][number] if count > 1 or _is_of_rows(sample[name], name, texts) else sample[name]
               for name in ROWS if name in sample and name != "row_ids"}  # fmt: skip
        rows.append({**row, "row_ids": ids[number] if number < len(ids) else ""})
    return rows


def _is_of_rows(value: Any, name: str, texts: list | None) -> bool:
    """Whether a column of a sample of one row is a list of that row's value."""
    if not isinstance(value, list) or name not in OF_LISTS:
        return isinstance(value, list)
    is_nested = bool(value) and isinstance(value[0], list)
    return is_nested or (name == "label" and texts is not None and len(value) == 1)
