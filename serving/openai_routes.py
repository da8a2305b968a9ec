"""OpenAI's routes: /v1/models, /v1/chat/completions with pictures, /v1/embeddings, /v1/audio/transcriptions."""

import asyncio
import base64
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Body, File, Form, Request, UploadFile
from fastapi.responses import PlainTextResponse, StreamingResponse

from .batching import Unit
from .chat import generation_settings, prompt_of, texts_of
from .schemas import ChatBody, EmbeddingsBody
from .server import ApiError, Server, all_of, as_api_error
from .transcripts import transcript
from .writing import Written

TRANSCRIBED = {"file", "model", "language", "prompt", "response_format", "temperature"}  # fields of a transcription


def openai_routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])
    started = int(time.time())

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The models of this server."""
        data = [{"id": name, "object": "model", "created": started, "owned_by": "mm"} for name in server.engines]
        return {"object": "list", "data": data}

    @router.post("/chat/completions")
    async def chat(request: Request, body: Annotated[ChatBody, Body()]) -> Any:
        """A text about pictures and messages; with stream=true in parts as they are written."""
        engine = server.engine(body.model, "write")
        settings = generation_settings(server, body)
        sources, text, messages = prompt_of(body.messages, bool(engine.processor.chat_template))
        server.check_texts(text, *texts_of(body.messages))
        pictures = await server.read(sources, "image_url")
        told = Told(engine.name, body.stream_options is not None and body.stream_options.include_usage)
        if not body.stream:
            if body.stream_options is not None:
                raise ApiError(400, "stream_options go with stream=true")
            written = await server.waited(request, engine.write(pictures, text, settings, messages))
            return told.whole(written)
        parts: asyncio.Queue[str | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(part: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(parts.put_nowait, part)

        work = asyncio.ensure_future(engine.write(pictures, text, settings, messages, emit))
        work.add_done_callback(lambda _: parts.put_nowait(None))
        try:  # faults that come before the first word have a status of their own
            first = await server.waited(request, parts.get())
            if first is None:
                await work
        except BaseException:
            work.cancel()
            raise
        events = told.events(work, first, parts, server)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    @router.post("/embeddings")
    async def embeddings(request: Request, body: Annotated[EmbeddingsBody, Body()]) -> dict[str, Any]:
        """Embeddings of texts; MM's own: of {"image": ...}, {"text": ...} or both, too."""
        engine = server.engine(body.model, "embed")
        items = [body.input] if isinstance(body.input, str) else body.input
        pairs = [(None, item) if isinstance(item, str) else (item.image, item.text) for item in items]
        if any(image is None and text is None for image, text in pairs):
            raise ApiError(400, "an item of input holds nothing: give image, text, or both")
        for _, text in pairs:
            server.checked_text(text or "")
        pictures = await server.read([image for image, _ in pairs if image is not None])
        rest = iter(pictures)
        unit = Unit()
        work = [engine.embed(None if image is None else next(rest), text, unit) for image, text in pairs]
        found = await server.waited(request, all_of(work))
        data = [
            {"object": "embedding", "index": number, "embedding": _encoded(vector, body.encoding_format)}
            for number, (vector, _) in enumerate(found)
        ]
        tokens = sum(count for _, count in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": engine.name, "usage": usage}

    @router.post("/audio/transcriptions")
    async def transcriptions(
        request: Request, file: Annotated[UploadFile, File()], model: Annotated[str | None, Form()] = None,
        language: Annotated[str | None, Form()] = None, prompt: Annotated[str | None, Form()] = None,
        response_format: Annotated[Literal["json", "text", "verbose_json", "srt", "vtt"], Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
    ) -> Any:  # fmt: skip
        """What is said in a sound."""
        if unknown := sorted({*(await request.form())} - TRANSCRIBED):
            raise ApiError(400, f"{', '.join(unknown)}: not known; accepted are {', '.join(sorted(TRANSCRIBED))}")
        engine = server.engine(model, "transcribe")
        if temperature:
            raise ApiError(400, "temperature: this server writes the likeliest text; leave it out or give 0")
        sound = await file.read()
        if not sound:
            raise ApiError(400, "file is empty")
        options: dict[str, Any] = {"language": language} if language else {}
        if prompt:
            ids = engine.processor.tokenizer.get_prompt_ids(server.checked_text(prompt), return_tensors="pt")
            options["prompt_ids"] = ids.to(engine.model.device)
        segments = await server.waited(request, engine.transcribe(sound, options))
        made = transcript(segments, response_format)
        return PlainTextResponse(made) if isinstance(made, str) else made

    return router


def _encoded(vector: list[float], form: str | None) -> Any:
    if form == "base64":
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
    return vector


class Told:
    """One chat completion in OpenAI's words."""

    def __init__(self, model: str, with_usage: bool):
        self.id, self.created, self.model = f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model
        self.with_usage = with_usage

    def whole(self, written: Written) -> dict[str, Any]:
        message = {"role": "assistant", "content": written.text}
        choice = {"index": 0, "message": message, "finish_reason": _reason(written), "logprobs": None}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(written)}

    async def events(
        self, work: asyncio.Future[Written], part: str | None, parts: asyncio.Queue[str | None], server: Server
    ) -> AsyncIterator[str]:
        """Server-sent events. Who stops reading takes the work off."""
        said, timeout = "", server.settings.timeout
        until = time.monotonic() + timeout
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while part is not None:
                said += part
                yield self._chunk({"content": part})
                part = await server.before_the_end(parts.get(), max(0.0, until - time.monotonic()))
            written = await work
            if not written.text.startswith(said):
                raise ApiError(500, "the text that was sent is not how it ended")
            if len(written.text) > len(said):
                yield self._chunk({"content": written.text[len(said) :]})
            yield self._chunk({}, _reason(written))
            if self.with_usage:
                yield _event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(written)})
            yield "data: [DONE]\n\n"
        except TimeoutError:
            yield _event(ApiError(504, f"no whole answer within {timeout:g} seconds", "timeout").body())
        except Exception as error:
            told = as_api_error(error)
            if told is None:
                raise
            yield _event(told.body())
        finally:
            work.cancel()

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values)}\n\n"


def _reason(written: Written) -> str:
    return "stop" if written.ended else "length"


def _usage(written: Written) -> dict[str, int]:
    both = written.prompt_tokens + written.tokens
    return {"prompt_tokens": written.prompt_tokens, "completion_tokens": written.tokens, "total_tokens": both}
