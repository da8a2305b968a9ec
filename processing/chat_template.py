"""Chats: messages of text, image, video and audio blocks to one call of the processor.

[{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what is it?"}]}, …]
    ── chat template ── text       special tokens that users write stay text
    ── blocks ── images, videos, audio, by conversation
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from .row_faults import RowError

# Where a block holds its medium, by the type of the block.
SOURCES = {
    "image": ("image", "url", "path", "base64"),
    "video": ("video", "url", "path"),
    "audio": ("audio", "url", "path"),
}

# For language models without a chat template: LLaVA's of the Vicuna, without its opening sentence. What asks for an
# answer ends without a space: in most vocabularies the space is the first letter of the answer's first token.
PLAIN_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }} "
    "{% elif message['role'] == 'user' %}USER: {{ message['content'] }} "
    "{% else %}ASSISTANT: {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Blocks become the text that a template of a language model takes, media as placeholders on lines of their own.
_FLAT = (
    "{%- set ns = namespace(flat=[], text='') -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set ns.text = message['content'] -%}{%- else -%}"
    "{%- set ns.text = '' -%}{%- for block in message['content'] -%}"
    "{%- if block['type'] in places -%}{%- set ns.text = ns.text + places[block['type']] + '\n' -%}"
    "{%- else -%}{%- set ns.text = ns.text + block['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- set ns.flat = ns.flat + [dict(message, content=ns.text)] -%}{%- endfor -%}"
    "{%- set messages = ns.flat -%}"
)


def with_places(template: str, tokens: dict[str, str]) -> str:
    """A chat template of a language model that also takes blocks, media among them: {kind: its placeholder}."""
    return "{%- set places = " + repr(dict(tokens)) + " -%}" + _FLAT + template


def question_about(processor: Any, kind: str, text: str) -> dict[str, Any]:
    """`MMProcessor.about`."""
    token = (processor.placeholders or {}).get(kind, "")
    if token in text:
        return {"text": text}
    if processor.chat_template is None or processor.media_reading not in ("in_text", "last_run"):
        return {"text": token + text}
    plain = without_tokens(text, processor.tokenizer.all_special_tokens)
    blocks = [{"type": kind}, *([{"type": "text", "text": plain}] if plain else [])]
    asked = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
    return {"text": asked, "sanitize_control_tokens": True}


def unlisted_tokens(tokenizer: Any) -> list[str]:
    """Special tokens that Transformers does not look for in messages: not added as special ones (ByT5's pad)."""
    listed = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(set(tokenizer.all_special_tokens) - listed, key=len, reverse=True)


_TYPES = ("text", "image_url", *SOURCES)  # of blocks; a template may name others
_ACCEPTED = '{"role": ..., "content": a text, or a list of blocks such as {"type": "text", "text": ...}}'


def check_conversation(conversation: Any, template: Any) -> None:
    """Of one conversation, or a list of them, all that a template would write as nothing, or as "None".

    Args:
        template: text of the chat template, or several.
    Raises: RowError, TypeError where it is no list.
    """
    if not isinstance(conversation, (list, tuple)):
        raise TypeError(f"a conversation is a list of messages, {_ACCEPTED}; got {type(conversation).__name__}")
    is_batch = bool(conversation) and isinstance(conversation[0], (list, tuple))
    for number, messages in enumerate(conversation if is_batch else [conversation]):
        where = f"conversation {number}" if is_batch else "the conversation"
        if not isinstance(messages, (list, tuple)) or not messages:
            raise RowError(f"{where} is {messages!r:.60}; accepted is a list of at least one message, {_ACCEPTED}")
        for place, message in enumerate(messages):
            fault = _fault_of(message, str(template))
            if fault is not None:
                raise RowError(f"message {place} of {where} {fault}")


def _fault_of(message: Any, template: str) -> str | None:
    """What is wrong with a message, None if nothing is."""
    if not isinstance(message, Mapping):
        return f"is {message!r:.60}; accepted is {_ACCEPTED}"
    if not isinstance(message.get("role"), str):
        return f"has role={message.get('role')!r:.60}; accepted is a text such as 'user' or 'assistant'"
    content = message.get("content")
    if isinstance(content, str):
        return None
    if content is None or (isinstance(content, (list, tuple)) and not content):
        says_more = any(value is not None for name, value in message.items() if name not in ("role", "content"))
        return None if says_more else f"has content={content!r}; accepted is {_ACCEPTED}"  # tool_calls and the like
    if not isinstance(content, (list, tuple)):
        return f"has content={content!r:.60}; accepted is {_ACCEPTED}"
    faults = ((place, _block_fault(block, template)) for place, block in enumerate(content))
    return next((f"has a block {place} that {fault}" for place, fault in faults if fault is not None), None)


def _block_fault(block: Any, template: str) -> str | None:
    if not isinstance(block, Mapping):
        return f'is {block!r:.60}; accepted is a dict such as {{"type": "text", "text": ...}}'
    kind = block.get("type")
    if kind in ("text", None):
        text = block.get("text")
        return None if isinstance(text, str) else f"has type={kind!r} and text={text!r:.60}; accepted is a text"
    if kind in _TYPES or (isinstance(kind, str) and kind in template):
        return None
    return f"has type={kind!r:.60}; accepted are {', '.join(_TYPES)}, and others that the chat template names"


def media_of(conversations: Any) -> tuple[list, list, list]:
    """The sources of images, videos and sounds, each nested by conversation; nothing is read here."""
    found = {kind: [] for kind in SOURCES}
    for conversation in conversations:
        blocks: list[Any] = [
            block
            for message in conversation
            if not isinstance(message.get("content") or "", str)
            for block in message["content"]
        ]
        for kind, entries in found.items():
            entries.append([_source(block, kind) for block in blocks if _holds(block, kind)])
    return found["image"], found["video"], found["audio"] if any(found["audio"]) else []


def _holds(block: Any, kind: str) -> bool:
    """Whether a block holds a medium of that kind; one without a source, or with None, is only a mark in the text."""
    return isinstance(block, dict) and block.get("type") == kind and bool(_keys(block, kind))


def _keys(block: dict[str, Any], kind: str) -> list[str]:
    """Of SOURCES those that a block has; tables give each block every column, as None where it has none."""
    return [key for key in SOURCES[kind] if block.get(key) is not None]


def _source(block: dict[str, Any], kind: str) -> Any:
    keys = _keys(block, kind)
    if len(keys) > 1:
        raise ValueError(f"the {kind} block has {' and '.join(keys)}; give one of them")
    source = block[keys[0]]
    if keys[0] != "base64" or str(source).startswith("data:"):
        return source
    try:
        return base64.b64decode(source, validate=True)
    except (binascii.Error, ValueError, TypeError) as fault:
        raise ValueError(f"the {kind} block's base64 cannot be decoded: {fault}") from fault


def without_tokens(messages: Any, tokens: list[str]) -> Any:
    """`messages` with each of `tokens` in their texts replaced by U+FFFD; media are not changed."""
    if not tokens:
        return messages
    if isinstance(messages, str):
        for token in tokens:
            messages = messages.replace(token, "\ufffd")
        return messages
    if isinstance(messages, dict):
        media = SOURCES.get(messages.get("type", ""), ())
        return {key: value if key in media else without_tokens(value, tokens) for key, value in messages.items()}
    if isinstance(messages, (list, tuple)):
        return [without_tokens(entry, tokens) for entry in messages]
    return messages
