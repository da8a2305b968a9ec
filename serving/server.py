"""What the routes share: which engine answers, waiting for it as long as somebody listens, and errors as JSON."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

from fastapi import HTTPException, Request

from ..processing.images.limits import MediaDecodeError
from .batching import FullError
from .engine import Engine
from .settings import ServeSettings
from .sources import SourceRules
from .telemetry import Telemetry

_Result = TypeVar("_Result")
ENDING = "the server is shutting down"
KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}
NEEDS = {
    "write": "a model that writes (MMForConditionalGeneration)",
    "rank": "a model that writes (MMForConditionalGeneration)",
    "explain": "a model that writes (MMForConditionalGeneration)",
    "embed": "a model that compares (MMForImageTextRetrieval)",
    "classify": "a model that compares or classifies (MMForImageTextRetrieval, MMForSequenceClassification)",
    "transcribe": "a Whisper or other MMForSpeechSeq2Seq",
}


class ApiError(Exception):
    """An error that is told to the client, by its HTTP status."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class Server:
    """The engines of a server, one for each head of a model, and its rules."""

    def __init__(self, models: Sequence[Sequence[Engine]], settings: ServeSettings, telemetry: Telemetry):
        names = [engines[0].name for engines in models]
        if len(set(names)) < len(names):
            raise ValueError(f"two models have one name: {names}")
        self.engines = dict(zip(names, models, strict=True))
        self.settings, self.telemetry, self.is_draining = settings, telemetry, False
        self.time_is_up = asyncio.Event()  # what is still being answered at the end is so no longer
        self.sources = SourceRules(settings.allow_urls, settings.allow_paths, settings.max_body)

    def close(self, within: float | None = None) -> bool:
        """Ends the engines, all of them within so many seconds, if given. Returns whether none computes any more."""
        until = None if within is None else time.monotonic() + within
        ended = [engine.close(None if until is None else max(0.0, until - time.monotonic())) for engine in self._all()]
        return all(ended)

    def engine(self, name: str | None, task: str) -> Engine:
        """The one of that name, or the first that can do it: of a model with that head alone before one of several."""
        if name is None:
            found = next((engine for engine in self._all() if task in engine.tasks), None)
            if found is None:
                raise ApiError(404, f"none of the models does this: it needs {NEEDS[task]}", "model_not_found")
            return found
        if name not in self.engines:
            raise ApiError(
                404, f"there is no model {name!r:.80}; there are {', '.join(self.engines)}", "model_not_found"
            )
        found = next((engine for engine in self.engines[name] if task in engine.tasks), None)
        if found is None:
            raise ApiError(400, f"{name!r} does not do this: it needs {NEEDS[task]}", "model_not_suitable")
        return found

    def _all(self) -> list[Engine]:
        models = sorted(self.engines.values(), key=lambda engines: len(engines) > 1)
        return [engine for engines in models for engine in engines]

    def check_key(self, given: str | None) -> None:
        keys = self.settings.api_keys
        if not keys:
            return
        # every key is compared, so that the time tells nothing
        if given is None or not any([hmac.compare_digest(given.encode(), key.encode()) for key in keys]):
            asked = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, "give an API key: Authorization: Bearer KEY", "invalid_api_key", asked)

    async def read(self, sources: Sequence[str], what: str = "image") -> list[bytes]:
        """The bytes of pictures, read beside the loop."""
        if len(sources) > self.settings.max_images:
            raise ApiError(400, f"{len(sources)} pictures; at most {self.settings.max_images} are read")
        return [await asyncio.to_thread(self.sources.read, source, what) for source in sources]

    def checked_text(self, text: str) -> str:
        self.check_texts(text)
        return text

    def check_texts(self, *texts: str | None) -> None:
        for text in texts:
            if text is not None and len(text) > self.settings.max_text:
                raise ApiError(400, f"a text has {len(text)} letters; at most {self.settings.max_text} are read")

    def generation(self, **given: Any) -> dict[str, Any]:
        """Settings of generate() that were given. Raises ApiError for more tokens than allowed."""
        settings = {name: value for name, value in given.items() if value is not None}
        if settings.get("max_new_tokens", 0) > self.settings.max_new_tokens:
            raise ApiError(400, f"max_new_tokens={settings['max_new_tokens']}: at most {self.settings.max_new_tokens}")
        return settings

    async def before_the_end(self, work: Awaitable[_Result], timeout: float) -> _Result:
        """The result, unless time is up (TimeoutError) or the server ends (ApiError)."""
        task, ends = asyncio.ensure_future(work), asyncio.ensure_future(self.time_is_up.wait())
        try:
            await asyncio.wait({task, ends}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ApiError(503, ENDING, "overloaded") if ends.done() else TimeoutError
        finally:
            task.cancel()
            ends.cancel()

    async def waited(self, request: Request, work: Awaitable[_Result]) -> _Result:
        """The result, unless time is up, the server ends or the client has left: then the work is taken off."""
        task = asyncio.ensure_future(work)
        left = asyncio.ensure_future(_has_left(request))
        ends = asyncio.ensure_future(self.time_is_up.wait())
        try:
            await asyncio.wait({task, left, ends}, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if ends.done():
                raise ApiError(503, ENDING, "overloaded")
            if left.done():
                raise ApiError(499, "the client has left")
            raise ApiError(504, f"no answer within {self.settings.timeout:g} seconds", "timeout")
        finally:
            for one in (task, left, ends):
                one.cancel()
            await asyncio.gather(task, left, ends, return_exceptions=True)


async def all_of(work: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """The results of a request's parts; the fault of one takes the others off."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _has_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_api_error(error: Exception) -> ApiError | None:
    """What a client is told; None: a fault of the server's."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FullError):
        return ApiError(503, str(error), "overloaded", {"Retry-After": "1"})
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    if isinstance(error, MediaDecodeError):
        return ApiError(400, error.reason)  # each medium is read by itself
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    return None
