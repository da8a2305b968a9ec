"""`mm demo`: loads models, makes the page, and serves it. Nothing that it reads or shows leaves the machine.

requests ── Gate: no links in what is sent; browsers load nothing from elsewhere ── gradio ── one queue ── model
"""

import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..cli.address import bound, url_of
from ..cli.caption import without_other_bars
from ..cli.media_lists import told_media
from ..cli.models import load_heads
from ..searching.build import embed_files
from ..searching.index import MMIndex

# What a browser may load: only what this server sends.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; frame-ancestors 'self'; form-action 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

CLASSIFIES = {"MMForImageTextRetrieval", "MMForSequenceClassification"}


def demo(
    models: Sequence[str], *, folder: Path | None = None, recursive: bool = False, host: str = "127.0.0.1",
    port: int = 7860, max_file_mib: int = 32, device: str | None = None, dtype: str | None = None,
    say: Callable[[str], Any] = print,
) -> None:  # fmt: skip
    """Serves the page until Ctrl-C or SIGTERM.

    Args:
        models: folders or Hub ids, at most one of each class; none: the model in the package. A head of a model of
            several stands back for a model that has that head alone.
        folder: of pictures that the page searches, recursive: with all folders below; needs a model that compares.
        port: 0 takes a free one; the address is said.
        max_file_mib: largest file that is taken.

    Raises: ValueError for a missing library or model, two models of one class, a folder without such a model.
    """
    if find_spec("gradio") is None:
        raise ValueError("mm demo needs gradio: pip install '.[demo]'")
    with bound(host, port) as listening, tempfile.TemporaryDirectory(prefix="mm-demo-") as scratch:
        loaded = _loaded(models or (None,), device, dtype)
        if folder is not None and "MMForImageTextRetrieval" not in loaded:
            raise ValueError("--folder is searched by a retrieval model (MMForImageTextRetrieval): name one as MODEL")
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(scratch, "files")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        index = None
        if folder is not None:
            index = _indexed(folder, recursive, Path(scratch, "index"), loaded["MMForImageTextRetrieval"], say)
        _serve(loaded, index, listening, host, max_file_mib, say)


def _loaded(sources: Sequence[str | None], device: str | None, dtype: str | None) -> dict[str, tuple[Any, Any]]:
    """Class -> (model, processor). Heads of a model of several fill what no other model is named for."""
    with without_other_bars():
        models = [load_heads(source, device=device, dtype=dtype) for source in sources]
    loaded: dict[str, tuple[Any, Any]] = {}
    for heads in sorted(models, key=lambda heads: len(heads) > 1):
        for model, processor in heads:
            name, is_one_of_several = type(model).__name__, len(heads) > 1
            if name in loaded and not is_one_of_several:
                raise ValueError(f"two models are of one class, {name}: the page shows one of each")
            if name in loaded or (name in CLASSIFIES and is_one_of_several and CLASSIFIES & loaded.keys()):
                continue
            loaded[name] = model, processor
    if loaded.keys() >= CLASSIFIES:
        raise ValueError("one model compares and one has classes: the page classifies with one; leave one out")
    return loaded


def _indexed(folder: Path, recursive: bool, output: Path, pair: tuple[Any, Any], say: Callable[[str], Any]) -> MMIndex:
    model, processor = pair
    files = told_media([folder], ("image",), recursive)
    report = embed_files(model, files, output, processor=processor, workers=None, show_progress=True)
    say(f"{folder}: {report}")
    return MMIndex(output)


def _serve(
    loaded: Any, index: Any, listening: socket.socket, host: str, max_file_mib: int, say: Callable[[str], Any]
) -> None:
    import gradio  # pyright: ignore[reportMissingImports]: build/apps has it, .venv has not
    import uvicorn
    from fastapi import FastAPI

    from .page import build_page

    page = build_page(loaded, index)
    page.has_launched = True  # as launch() does: from then on only files that a client has sent are read
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, "/",
        max_file_size=max_file_mib << 20, footer_links=[], theme=gradio.themes.Default(**fonts), ssr_mode=False,
        enable_monitoring=False, pwa=False,
    )  # fmt: skip
    config = uvicorn.Config(
        Gate(app), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    say(f"{url_of(listening, host)} shows {', '.join(loaded)}; Ctrl-C ends it")
    web = uvicorn.Server(config)
    web.capture_signals = lambda: _ended_by(web.handle_exit)  # its own ends the process by the signal, not with 0
    web.run(sockets=[listening])


@contextlib.contextmanager
def _ended_by(handler: Callable[..., Any]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM call `handler`."""
    before = {one: signal.signal(one, handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, kept in before.items():
            signal.signal(one, kept)


class Gate:
    """Refuses requests that name a link where a file should be, which gradio would fetch, and tells browsers to load
    nothing from elsewhere."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        if "/proxy=" in scope["path"] or "/proxy%3d" in scope["path"].lower():
            await _refused(guarded, "nothing is fetched from elsewhere")
            return
        kind = dict(scope["headers"]).get(b"content-type", b"").lower()
        if scope["method"] in ("GET", "HEAD") or kind.startswith(b"multipart/form-data"):
            await self.app(scope, receive, guarded)  # without values of components: pages, and files that are sent
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > 1 << 20:
                await _refused(guarded, "the request is larger than 1 MiB; files are sent as files")
                return
            if not message.get("more_body"):
                break
        if _names_a_link(body):
            await _refused(guarded, "no JSON, or a link where a file should be: nothing is fetched from elsewhere")
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Any:
            return next(messages, None) or await receive()

        await self.app(scope, again, guarded)


def _names_a_link(body: bytes) -> bool:
    """Whether some "path" in a body is a link, or the body is no JSON."""
    try:
        held: list[Any] = [json.loads(body or b"null")]
    except ValueError:
        return True
    while held:
        one = held.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            held += one.values()
        elif isinstance(one, list):
            held += one
    return False


async def _refused(send: Any, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
