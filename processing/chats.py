"""Chats: messages of text, image, video and audio blocks to one call of the processor.

[{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what is it?"}]}, …]
    ── chat template ── text       special tokens that users write stay text
    ── blocks ── images, videos, audio, by conversation
"""

import base64
import binascii
from typing import Any

from .components import ProcessorOfParts

# Where a block holds its medium, by the type of the block.
SOURCES = {
    "image": ("image", "url", "path", "base64"),
    "video": ("video", "url", "path"),
    "audio": ("audio", "url", "path"),
}


class ChattingProcessor(ProcessorOfParts):
    """A processor of parts with `apply_chat_template` for every modality."""

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        sanitize_control_tokens: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """ProcessorMixin's, but special tokens that stand in the messages stay text: only the template's own count.

        sanitize_control_tokens: None does so wherever ids are made (tokenize=True). Media are read as in `__call__`:
        paths, bytes, arrays and so on under "image", "video", "audio" or "path".
        """
        sanitize = tokenize if sanitize_control_tokens is None else sanitize_control_tokens
        if sanitize and kwargs.get("return_assistant_tokens_mask"):
            # Transformers has no places of marked tokens: here none is left to be marked
            conversation = _without(conversation, self.tokenizer.all_special_tokens)
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "sanitize_control_tokens": True}
            sanitize = False
        elif sanitize:
            conversation = _without(conversation, self._unlisted_tokens())
        return super().apply_chat_template(
            conversation, chat_template, tokenize=tokenize, sanitize_control_tokens=sanitize, **kwargs
        )

    def _unlisted_tokens(self) -> list[str]:
        """Special tokens that Transformers does not look for in messages: not added as special ones (ByT5's pad)."""
        listed = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return sorted(set(self.tokenizer.all_special_tokens) - listed, key=len, reverse=True)

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        """The sources of images, videos and sounds, each nested by conversation; nothing is read here."""
        if load_audio_from_video:
            raise ValueError("load_audio_from_video=True: give the sound of a video as a block of its own")
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
        sounds = found["audio"] if any(found["audio"]) else []
        return found["image"], found["video"], sounds, {}


def _holds(block: Any, kind: str) -> bool:
    """Whether a block holds a medium of that kind; one without a source is a mark in the text alone."""
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


def _without(messages: Any, tokens: list[str]) -> Any:
    """`messages` with each of `tokens` in their texts replaced by U+FFFD; media are left as they are."""
    if not tokens:
        return messages
    if isinstance(messages, str):
        for token in tokens:
            messages = messages.replace(token, "\ufffd")
        return messages
    if isinstance(messages, dict):
        media = SOURCES.get(messages.get("type", ""), ())
        return {key: value if key in media else _without(value, tokens) for key, value in messages.items()}
    if isinstance(messages, (list, tuple)):
        return [_without(entry, tokens) for entry in messages]
    return messages
