"""What a terminal may be given: names and captions come from other people, and a terminal obeys what it reads."""

import json
import sys
import unicodedata
from typing import Any, TextIO

import typer

BAD_INPUT = 2  # exit code of a wrong option too, so a script needs to know one number
_JOINERS = "\u200c\u200d"  # of Persian letters, and of emoji


def _shows(character: str) -> bool:
    """Whether a character is only shown: no control, line end, change of direction or half of a surrogate pair."""
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def printable(text: object, stream: TextIO | None = None) -> str:
    r"""`text` in one line, with an escape such as \x1b or \n for what a terminal would obey, and for letters that the
    stream (None: stdout) cannot encode."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    shown = "".join(c if _shows(c) else c.encode("unicode_escape").decode() for c in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def say(line: object) -> None:
    """A line on stdout, whatever the names in it hold."""
    typer.echo(printable(line))


def json_line(values: dict[str, Any], stream: TextIO | None = None) -> str:
    """`values` as a line of JSON that reads back equal, with an escape for all that `printable` escapes."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    shown = (
        c if _shows(c) and c.encode(encoding, "ignore") else _unicode_escape(c)
        for c in json.dumps(values, ensure_ascii=False)
    )
    return "".join(shown)


def _unicode_escape(character: str) -> str:
    digits = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{digits[i : i + 4]}" for i in range(0, len(digits), 4))
