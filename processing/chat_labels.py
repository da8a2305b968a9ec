"""Conversations to learn from: the loss is on what the assistant says, its end of turn too, and on nothing else.

    <user> what is it ? <end> <assistant> a cat <end> <user> and this ? <end> <assistant> a dog <end>
    -100 ...                              a cat <end> -100 ...                           a dog <end>

Which characters are the assistant's is read off the chat template: what a turn adds to the text before it, where that
text already asks for an answer (add_generation_prompt). So a template needs no marks of its own.
"""

from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature

from .chat_template import SOURCES, without_tokens
from .placeholders import KINDS
from .row_faults import RowError
from .token_rows import IGNORED_LABEL

Messages = list[dict[str, Any]]


def chat_inputs(processor: Any, conversations: list[Messages], **options: Any) -> BatchFeature:
    """Model inputs of whole conversations, with labels.

    Args:
        processor: an MMProcessor with a chat template and a fast tokenizer.
        conversations: lists of messages ({"role": ..., "content": ...}), with media as blocks of their content.
        options: of the processor's call.
    Returns: as `MMProcessor.__call__`, and labels int64 (R, T), -100 on all that the assistant does not say.
    Raises: ValueError where a turn of the template changes the text before it, or no assistant speaks.
    """
    # special tokens that stand in messages stay text, so that positions in the text are those of its tokens
    conversations = without_tokens(conversations, processor.tokenizer.all_special_tokens)
    spans = [assistant_spans(processor, messages) for messages in conversations]
    tensors, side = options.pop("return_tensors", None), options.pop("padding_side", "right")
    data = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        sanitize_control_tokens=False,
        processor_kwargs={
            "return_offsets_mapping": True, "sanitize_control_tokens": True, "padding_side": side,
            "add_eos_token": False, **options,
        },
    )  # fmt: skip
    offsets = data.pop("offset_mapping")
    data["labels"] = [
        [token if _within(place, own) else IGNORED_LABEL for token, place in zip(ids, places, strict=True)]
        for ids, places, own in zip(data["input_ids"], offsets, spans, strict=True)
    ]
    for number, labels in enumerate(data["labels"]):
        if all(label == IGNORED_LABEL for label in labels):
            raise RowError(f"conversation {number} has nothing to learn: no token of an assistant is left in its row")
    names = ("input_ids", "attention_mask", "labels")
    if tensors == "np":
        data.update({name: np.array(data[name]) for name in names})
        return data
    return data.convert_to_tensors(tensors) if tensors else data


def chat_batch(
    processor: Any, chats: list[Messages], sources: list[dict[str, list]], train: bool, **options: Any
) -> dict[str, Any]:
    """Tensors of conversations whose media come apart from them: with labels, or, where not `train`, prompts that ask
    for the last answer.

    Args:
        sources: the media of each conversation, by the processor's argument.
    Raises: ValueError where a conversation has other places than media, or holds media itself.
    """
    for number, (chat, held) in enumerate(zip(chats, sources, strict=True)):
        _check_places(number, chat, held)
    if train:
        return dict(chat_inputs(processor, chats, return_tensors="pt", **options))
    prompts = [chat[:-1] if chat[-1].get("role") == "assistant" else chat for chat in chats]
    settings = {**options, "add_eos_token": False, "return_tensors": "pt"}
    return dict(
        processor.apply_chat_template(
            prompts, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs=settings
        )
    )


def _check_places(number: int, chat: Any, held: dict[str, list]) -> None:
    is_chat = isinstance(chat, list) and bool(chat) and all(isinstance(message, dict) for message in chat)
    if not is_chat:
        raise RowError(f'chat {number} is {chat!r:.60}; accepted is a list of {{"role": ..., "content": ...}}')
    for kind, name in KINDS.items():
        blocks = [
            block
            for message in chat
            if isinstance(message.get("content"), list)
            for block in message["content"]
            if isinstance(block, dict) and block.get("type") == kind
        ]
        if any(block.get(source) is not None for block in blocks for source in SOURCES[kind]):
            raise RowError(f'chat {number} holds media itself: give them under {name}, and leave {{"type": "{kind}"}}')
        if len(blocks) != len(held[name]):
            raise RowError(
                f"chat {number} has {len(blocks)} places of {name} (blocks of type {kind!r}), and its sample "
                f"{len(held[name])} of them"
            )


def assistant_spans(processor: Any, messages: Messages) -> list[tuple[int, int]]:
    """(start, end) in the rendered conversation of all that the assistant says."""
    whole, spans = _rendered(processor, messages), []
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = _rendered(processor, messages[:number], add_generation_prompt=True)
        after = _rendered(processor, messages[: number + 1])
        if not (after.startswith(before) and whole.startswith(after.rstrip())):
            raise RowError(
                f"the chat template changes what stands before turn {number}, so the assistant's words are not found"
            )
        spans.append((len(before), len(after.rstrip())))
    if not spans:
        raise RowError("no message has the role 'assistant', so there is nothing to learn")
    return spans


def _rendered(processor: Any, messages: Messages, **settings: Any) -> str:
    """Raises RowError for what the template refuses."""
    from jinja2 import TemplateError  # as late as Transformers does

    try:
        return processor.apply_chat_template(messages, tokenize=False, **settings) if messages else ""
    except (TemplateError, TypeError) as error:
        raise RowError(f"the chat template does not take the conversation: {error}") from error


def _within(place: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    """Whether a token has characters of a span; one that begins with the space before it has."""
    start, end = place
    return end > start and any(end > first and end <= last for first, last in spans)
