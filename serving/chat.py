"""OpenAI's messages and settings as a model of MM takes them."""

from collections.abc import Sequence
from typing import Any

from .schemas import ChatBody, ImagePart, Message
from .server import ApiError, Server


def prompt_of(
    messages: Sequence[Message], has_template: bool
) -> tuple[list[str], str | None, list[dict[str, Any]] | None]:
    """The sources of pictures, and a text, or the messages for the chat template of the model.

    A model without a template reads one message of a user: its pictures, and its text, which it goes on with or
    answers.
    """
    sources, chat = [], []
    for message in messages:
        blocks: list[dict[str, Any]] = []
        if isinstance(message.content, str):
            blocks.append({"type": "text", "text": message.content})
        else:
            for part in message.content:
                if isinstance(part, ImagePart):
                    sources.append(part.image_url.url)
                    blocks.append({"type": "image"})
                else:
                    blocks.append({"type": "text", "text": part.text})
        chat.append({"role": message.role, "content": blocks})
    if has_template:
        return sources, None, chat
    if len(messages) > 1 or messages[0].role != "user":
        raise ApiError(400, "this model has no chat template: give one message of the user, with pictures and a text")
    texts = [block["text"] for block in chat[0]["content"] if block["type"] == "text" and block["text"].strip()]
    if not texts and not sources:
        raise ApiError(400, "the message is empty: give a picture, a text, or both")
    return sources, " ".join(texts) or None, None


def texts_of(messages: Sequence[Message]) -> list[str]:
    """The texts of messages, also those that are parts beside pictures."""
    found = []
    for message in messages:
        parts = [message.content] if isinstance(message.content, str) else message.content
        found += [part if isinstance(part, str) else part.text for part in parts if not isinstance(part, ImagePart)]
    return found


def generation_settings(server: Server, body: ChatBody) -> dict[str, Any]:
    """Arguments of generate()."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are one thing; give one of them")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    longest = body.max_completion_tokens or body.max_tokens
    given: dict[str, Any] = {"num_beams": body.num_beams, "max_new_tokens": longest, "stop_strings": stop}
    if body.temperature:
        if (body.num_beams or 1) > 1:
            raise ApiError(400, "a temperature draws words, and beams do not; give one of temperature and num_beams")
        given |= {
            "do_sample": True,
            "num_beams": 1,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "seed": body.seed,
        }
    else:
        for name in ("top_p", "seed"):
            if getattr(body, name) is not None:
                raise ApiError(400, f"{name} is read only where words are drawn: give a temperature above 0, too")
        if body.temperature == 0:
            given["do_sample"] = False
    return server.generation(**given)
