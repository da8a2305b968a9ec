"""A server on the loopback that speaks as much of the Hub's protocol as pushing and pulling models takes.

    with HubServer() as hub:
        environment = hub.environment(home)  # HF_ENDPOINT and the rest: huggingface_hub reads it as it is imported

Unmodified huggingface_hub and Transformers, in processes with that environment, create repositories, commit (files
of git and of LFS), branch, tag, propose changes, ask for a repository's contents and download, in ranges too.
Everything is kept in memory and gone with the server. Repositories are of models; `TOKEN` is the token of their owner,
`STRANGERS_TOKEN` that of somebody else. What is answered is in hub_routes.py,
what is held in hub_repositories.py.
"""

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from hub_repositories import STRANGERS_TOKEN, TOKEN, USERS, Repository, Stored, stored
from hub_routes import Answer, answer

__all__ = ["STRANGERS_TOKEN", "TOKEN", "Fault", "HubServer"]


@dataclass
class Fault:
    """What becomes of requests whose "METHOD /path" has the pattern, after the first `after` of them: `times` of the
    others, None: all.

    status: the answer, with `message`; 0 is no answer, the connection is closed; None is the right answer.
    code: the Hub's name of the error, such as "GatedRepo".
    cut: the connection is closed after so many bytes of the right answer.
    wait: seconds before anything is answered.
    """

    pattern: str
    status: int | None = None
    message: str = ""
    times: int | None = None
    after: int = 0
    code: str = ""
    cut: int | None = None
    wait: float = 0.0
    seen: int = field(default=0, init=False)

    def applies(self, request: str) -> bool:
        """Whether it befalls this request, which is then counted."""
        if self.times == 0 or not re.search(self.pattern, request):
            return False
        self.seen += 1
        if self.seen <= self.after:
            return False
        self.times = None if self.times is None else self.times - 1
        return True

    def answer(self, right: Answer) -> Answer:
        if self.status is None:
            return right
        headers = {"X-Error-Message": self.message, "X-Error-Code": self.code, "Content-Type": "application/json"}
        return Answer(b"{}", {name: value for name, value in headers.items() if value}, self.status)


class Seen(NamedTuple):
    """A request that was made."""

    line: str  # "METHOD /path"
    user: str | None
    range: str | None


class HubServer:
    """The server, and what it has stored: `repositories` by "name/name", and every request made, as `requests`."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def requests(self) -> list[str]:
        return [one.line for one in self.seen]

    def environment(self, home: Path | str, token: str = TOKEN) -> dict[str, str]:
        """What a process that talks to this server must be started with; `home` is for its cache and its modules."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository by name."""
        return {
            name: self.blobs[file.sha256] for name, file in self.repositories[repository].tree(revision)[1].items()
        }

    def store(self, data: bytes, is_large: bool) -> Stored:
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return stored(sha256, data, is_large)

    def fault_of(self, request: str) -> Fault | None:
        """The first fault that befalls a request."""
        with self._lock:
            return next((fault for fault in self.faults if fault.applies(request)), None)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: a second one would wait for the first one's acknowledgement

        def do_GET(self) -> None:
            line, wanted = f"{self.command} {self.path}", self.headers.get("Range")
            user = USERS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
            hub.seen.append(Seen(line, user, wanted))
            body, fault = self._body(), hub.fault_of(line)
            if fault is not None and fault.status is not None:
                given = fault.answer(Answer(b"", {}))
            else:
                given = answer(hub, self.command, self.path, body, user, wanted)
            if fault is not None:
                time.sleep(fault.wait)
            if given.status == 0:
                self.close_connection = True
                return
            self.send_response(given.status)
            for name, value in {**given.headers, "Content-Length": str(len(given.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                cut = None if fault is None else fault.cut
                self.wfile.write(given.body[:cut])
                self.close_connection = self.close_connection or cut is not None

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, format: str, *args: Any) -> None:
            pass  # the requests are in hub.seen

    return Handler
