"""`mm serve`: loads models, listens, and on SIGTERM answers what has come before it ends."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..cli.address import bound, url_of
from ..cli.caption import without_other_bars
from ..cli.models import load_heads
from .settings import ServeSettings

NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
    "multipart": "python-multipart",
}


def serve(
    models: Sequence[str], settings: ServeSettings | None = None, *, host: str = "127.0.0.1", port: int = 8000,
    device: str | None = None, dtype: str | None = None, drain: int = 30, say: Callable[[str], Any] = print,
) -> bool:  # fmt: skip
    """Serves models until SIGINT or SIGTERM.

    Args:
        models: folders or Hub ids; NAME=FOLDER names one. None of them: the model in the package.
        port: 0 takes a free one; the address is said.
        drain: seconds in which requests that have come are answered before the end; those that are not get 503. A
            second signal ends at once.

    Returns: whether no model computes any more. A thread that still does cannot be ended: end the process by os._exit.

    Raises: ValueError for a missing library or model, OSError for an address in use.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ValueError(f"mm serve needs {', '.join(missing)}: pip install '.[serve]'")
    settings = settings or ServeSettings()
    server = load_server(models, settings, device, dtype)
    ending = _Ending(server, drain)
    try:
        asyncio.run(_run(server, host, port, ending, say))
    finally:
        ended = server.close(ending.rest())
    return ended


def load_server(models: Sequence[str], settings: ServeSettings, device: str | None = None, dtype: str | None = None):
    """A Server of models, ready for `create_app`."""
    from .engine import Engine
    from .server import Server
    from .telemetry import Telemetry

    telemetry, engines = Telemetry(), []
    for given in models or ("",):
        name, source = _named(given)
        with without_other_bars():
            heads = load_heads(source or None, device=device, dtype=dtype)
        engines.append([Engine(name, model, processor, settings, telemetry) for model, processor in heads])
    return Server(engines, settings, telemetry)


def _named(given: str) -> tuple[str, str]:
    """(name, folder or Hub id) of NAME=FOLDER, FOLDER or ORG/NAME."""
    name, found, source = given.partition("=")
    if found and name and not os.path.exists(given):
        return name, source
    return (Path(given).name if given else "mm-tiny"), given


class _Ending:
    """What signals do: the first lets requests end, the second does not wait."""

    def __init__(self, server: Any, drain: int):
        self.server, self.drain, self.until = server, drain, None

    def rest(self) -> float | None:
        """Seconds that are left; None: no signal has come."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())

    def stop(self, web: Any) -> None:
        is_first = self.until is None
        self.until = time.monotonic() + (self.drain if is_first else 0)
        self.server.is_draining = web.should_exit = True
        # the last tenth is for the answers that say so
        asyncio.get_running_loop().call_later(0.9 * self.drain if is_first else 0, self.server.time_is_up.set)
        web.force_exit = web.force_exit or not is_first


async def _run(server: Any, host: str, port: int, ending: _Ending, say: Callable[[str], Any]) -> None:
    import uvicorn

    from .app import create_app

    with bound(host, port) as listening:
        config = uvicorn.Config(
            create_app(server), log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, ending.drain), server_header=False,
        )  # fmt: skip
        web = _Web(config)

        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, ending.stop, web)
        running = asyncio.ensure_future(web.serve(sockets=[listening]))
        while not web.started and not running.done():
            await asyncio.sleep(0.01)
        if web.started:
            say(f"serving {', '.join(server.engines)} at {url_of(listening, host)}")
        await running


def _web_class() -> Any:
    import uvicorn

    class Web(uvicorn.Server):
        """uvicorn's server, whose signals are ours: it would end the process by the signal after it has drained."""

        @contextlib.contextmanager
        def capture_signals(self):
            yield

    return Web


def _Web(config: Any) -> Any:  # noqa: N802
    return _web_class()(config)
