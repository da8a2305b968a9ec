"""Conversations about pictures, as LLaVA's instructions are published and as chat APIs write them.

{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", ...}]}
{"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", ...}]}
──► {"id", "image" | "images", "chat": [{"role", "content": [{"type": "image"}, {"type": "text", "text"}]}, ...]}
"""

import re
from collections.abc import Iterator
from typing import Any

from ..processing.placeholders import KINDS
from .captions import folder_of, refuse_split
from .dataset import MMDataset, Row, build
from .errors import DataError
from .json_files import is_json_lines, json_lines, read_json

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot"), "assistant"),
    "system": "system",
}
KEYS = ("conversations", "messages")
_PLACE = re.compile("|".join(f"<{kind}>" for kind in KINDS))


def read_chats(path, media=None, *, split=None, on_error="raise", group=True) -> MMDataset:
    """A JSON list, or JSON Lines, of conversations. Each is a sample of its own, whatever pictures others have.

    <image>, <video> or <audio> in a text is the place of the next file under image(s), video(s) or audio(s); the text
    around it loses the white space beside it, which the chat template writes. Each file has its place.
    """
    refuse_split(split, "chats", path)
    is_lines = is_json_lines(path) or str(path).lower().endswith((".jsonl", ".ndjson"))
    lines = json_lines(path) if is_lines else enumerate(_listed(path))

    def rows() -> Iterator[Row]:
        for number, one in lines:
            where = number if isinstance(number, str) else f"{path}, entry {number}"
            media, values, fault = {}, {}, ""
            try:
                media, values = media_files(one), {"chat": chat_of(one)}
                _check_places(values["chat"], media)
            except LookupError as found:
                fault = str(found.args[0])
            yield Row(where, str(one.get("id", number)), media, values, fault=fault)

    return build(rows(), source=str(path), format="chats", folder=folder_of(media, path), on_error=on_error)


def is_chat(held: Any) -> bool:
    """Whether an entry of a file is a conversation."""
    return isinstance(held, dict) and any(isinstance(held.get(key), list) for key in KEYS)


def _listed(path: Any) -> list[dict]:
    held = read_json(path)
    if not isinstance(held, list) or not all(isinstance(one, dict) for one in held):
        raise DataError(f"{path}: a list of conversations is wanted, each an object with conversations or messages")
    return held


def media_files(one: dict) -> dict[str, Any]:
    """The files of an entry, by the column of MMDataCollator. Raises LookupError for both of a pair."""
    found = {}
    for kind in KINDS:
        single, several = one.get(kind), one.get(f"{kind}s")
        if single is not None and several is not None:
            raise LookupError(f"it has both {kind} and {kind}s; give one of them")
        given = single if several is None else several
        if given is not None and given != []:
            found[f"{kind}s" if isinstance(given, list) else kind] = given
    return found


def chat_of(one: dict) -> list[dict[str, Any]]:
    """The messages of an entry, each with its content in blocks. Raises LookupError with what is wrong with them."""
    turns = next((one[key] for key in KEYS if isinstance(one.get(key), list)), None)
    if not turns:
        raise LookupError(f"it has no turns under {' or '.join(KEYS)}")
    messages = [_message(number, turn) for number, turn in enumerate(turns)]
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise LookupError("no turn is the assistant's (from: gpt, or role: assistant), so there is nothing to learn")
    if "system" in roles[1:]:
        raise LookupError(f"turn {roles.index('system', 1)} is the system's; only the first may be")
    return messages


def _message(number: int, turn: Any) -> dict[str, Any]:
    who = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    if not isinstance(who, str) or who not in ROLES:
        raise LookupError(f"turn {number} is of {who!r}; known are {', '.join(ROLES)}, under from or role")
    content = turn.get("value", turn.get("content"))
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise LookupError(f"turn {number} holds {type(content).__name__}, not a text or a list of blocks")
    blocks = [block for part in parts for block in _blocks(number, part)]
    if not any(block["type"] == "text" for block in blocks) and ROLES[who] == "assistant":
        raise LookupError(f"turn {number}, the assistant's, is empty")
    if not blocks:
        raise LookupError(f"turn {number} is empty")
    if ROLES[who] != "user" and any(block["type"] != "text" for block in blocks):
        raise LookupError(f"turn {number} is the {ROLES[who]}'s and has a place of media; only a user's has")
    return {"role": ROLES[who], "content": blocks}


def _blocks(number: int, part: Any) -> list[dict[str, str]]:
    """A text as blocks, or a block that is one already."""
    if isinstance(part, dict) and part.get("type") in KINDS:
        if own := sorted({*part} - {"type"}):
            raise LookupError(f"turn {number} has a place with {', '.join(own)}; give its files outside the turns")
        return [{"type": part["type"]}]
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str):
        raise LookupError(f"turn {number} has a block {part!r:.60}; known are texts, {', '.join(KINDS)}")
    places = [found.group()[1:-1] for found in _PLACE.finditer(text)]
    texts = [piece.strip() if places else piece for piece in _PLACE.split(text)]
    blocks: list[dict[str, str]] = []
    for place, piece in zip([None, *places], texts, strict=True):
        blocks += [] if place is None else [{"type": place}]
        blocks += [{"type": "text", "text": piece}] if piece.strip() else []
    return blocks


def _check_places(chat: list[dict], media: dict[str, Any]) -> None:
    for kind in KINDS:
        found = media.get(kind, media.get(f"{kind}s"))
        files = 0 if found is None else len(found) if isinstance(found, list) else 1
        places = sum(block["type"] == kind for message in chat for block in message["content"])
        if places != files:
            raise LookupError(f"its texts have {places} <{kind}>, and it has {files} files under {kind}(s)")
