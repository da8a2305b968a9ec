"""Chats: messages of text, image, video and audio blocks to one call of the processor.

[{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what is it?"}]}, …]
    ── chat template ── text       special tokens that users write stay text
    ── blocks ── images, videos, audio, by conversation
"""

import base64
import binascii
from typing import Any

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
    """Whether a block holds a medium of that kind; a block without a source is only a mark in the text."""
    return isinstance(block, dict) and block.get("type") == kind and any(key in block for key in SOURCES[kind])


def _source(block: dict[str, Any], kind: str) -> Any:
    keys = [key for key in SOURCES[kind] if key in block]
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
