"""What Donut and models like it write, as JSON: fields in tags, and lists with <sep/> between their entries.

<s_menu><s_name>tea</s_name><sep/><s_name>cake</s_name></s_menu>  ->  {"menu": [{"name": "tea"}, {"name": "cake"}]}
"""

import re
from collections.abc import Iterable
from typing import Any

_TAG = re.compile(r"<s_([^>]*)>|</s_([^>]*)>|<sep/>")
TEXT = "text_sequence"  # the key of words that stand beside tags, or without any


class _Field:
    """A tag that is open: its entries, each the fields inside and the words around them."""

    def __init__(self, key: str):
        self.key, self.entries = key, [({}, [])]

    def add(self, field: "_Field", categories: frozenset[str]) -> None:
        """A closed field into the entry; a key that comes again makes a list."""
        _put(self.entries[-1][0], field.key, field.value(categories))

    def value(self, categories: frozenset[str]) -> Any:
        values = [_entry(fields, "".join(words).strip(), categories) for fields, words in self.entries]
        return values[0] if len(values) == 1 else values


def _put(fields: dict[str, Any], key: str, value: Any) -> None:
    if key not in fields:
        fields[key] = value
    elif isinstance(fields[key], list):
        fields[key].append(value)
    else:
        fields[key] = [fields[key], value]


def _entry(fields: dict[str, Any], words: str, categories: frozenset[str]) -> Any:
    if fields:
        if words:
            _put(fields, TEXT, words)
        return fields
    is_category = words in categories and words.startswith("<") and words.endswith("/>")
    return words[1:-2] if is_category else words


def token2json(text: str, categories: Iterable[str] = ()) -> Any:
    """Fields in tags as nested dicts and lists, as `DonutProcessor.token2json` makes them of text that is whole.

    Text that is not whole loses nothing here: a tag that is not closed ends with the one around it, a key that comes
    twice has both values, and words beside tags are under "text_sequence".

    Args:
        text: without the tokens that begin and end a row.
        categories: tokens such as "<yes/>" that stand for a value, here "yes"; for instance
            tokenizer.get_added_vocab().

    Returns: a dict; a list where entries stand side by side; {"text_sequence": text} for words without tags.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, what the tokenizer decoded; got {type(text).__name__}")
    known, opened, end = frozenset(categories), [_Field("")], 0
    for tag in _TAG.finditer(text):
        opened[-1].entries[-1][1].append(text[end : tag.start()])
        end = tag.end()
        key, closed = tag.groups()
        if key is not None:
            opened.append(_Field(key))
        elif closed is None:
            opened[-1].entries.append(({}, []))
        elif any(field.key == closed for field in opened[1:]):
            while opened[-1].key != closed:
                _close(opened, known)
            _close(opened, known)
    opened[-1].entries[-1][1].append(text[end:])
    while len(opened) > 1:
        _close(opened, known)
    value = opened[0].value(known)
    return {TEXT: value} if isinstance(value, str) else value


def _close(opened: list[_Field], categories: frozenset[str]) -> None:
    field = opened.pop()
    opened[-1].add(field, categories)
