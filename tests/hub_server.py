"""A server on the loopback that speaks as much of the Hub's protocol as pushing and pulling models takes.

    with HubServer() as hub:
        environment = hub.environment(home)  # HF_ENDPOINT and the rest: huggingface_hub reads it as it is imported

Unmodified huggingface_hub and Transformers, in processes with that environment, create repositories, commit (files
of git and of LFS), ask for a repository's contents and download. Everything is kept in memory and gone with the
server. Repositories are of models, their branches named by commits; the token is `TOKEN`.
"""

# What a request handler is called with has no type of its own.

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

USER, TOKEN = "tester", "hf_local"
LARGE = (".safetensors", ".bin", ".onnx", ".data", ".png")
DATE = "2026-01-01T00:00:00.000Z"


class Stored(NamedTuple):
    """One file of a commit: where its bytes are, and the names that git and LFS have for them."""

    sha256: str
    size: int
    git_oid: str
    is_large: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_large else self.git_oid


@dataclass
class Repository:
    """Branches name commits, a commit holds the whole tree."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)

    def tree(self, revision: str) -> tuple[str, dict[str, Stored]]:
        """The commit that a branch, or a commit's own name, stands for, and its files."""
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return commit, self.commits[commit]

    def add(self, branch: str, files: dict[str, Stored]) -> str:
        """A new commit at the end of a branch; returns its name."""
        text = f"{branch} {len(self.commits)} {sorted(files.items())}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


class Refused(Exception):
    """An answer with an error code of the Hub's."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message or code)
        self.status, self.code = status, code


@dataclass
class Fault:
    """What is answered instead to requests whose "METHOD /path" has the pattern: `times` of them, None: all.

    Status 0 is no answer: the connection is closed.
    """

    pattern: str
    status: int
    message: str = ""
    times: int | None = None


class Answer(NamedTuple):
    body: bytes
    headers: dict[str, str]
    status: int = 200


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)


class HubServer:
    """The server, and what it has stored: `repositories` by "name/name", and every request made, as `requests`."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path | str) -> dict[str, str]:
        """What a process that talks to this server must be started with; `home` is for its cache and its modules."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
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

    def repository(self, name: str, has_token: bool) -> Repository:
        found = self.repositories.get(name)
        if found is None or (found.private and not has_token):
            raise Refused(404 if has_token else 401, "RepoNotFound")
        return found

    def store(self, data: bytes, is_large: bool) -> Stored:
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return _stored(sha256, data, is_large)


def _stored(sha256: str, data: bytes, is_large: bool) -> Stored:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    content = pointer if is_large else data
    git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Stored(sha256, len(data), git_oid, is_large)


class Request(NamedTuple):
    """One request: the server, its place and query, the parts of the path that its route names, and its body."""

    hub: HubServer
    query: dict[str, list[str]]
    parts: dict[str, str]
    body: bytes
    has_token: bool

    def json(self) -> Any:
        return json.loads(self.body)

    def repository(self) -> Repository:
        return self.hub.repository(self.parts["id"], self.has_token)


# ---- what is answered -----------------------------------------------------------------------------------------------


def whoami(request: Request) -> Answer:
    if not request.has_token:
        raise Refused(401, "", "Invalid credentials in Authorization header")
    return as_json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def validate_yaml(request: Request) -> Answer:
    return as_json({"errors": [], "warnings": []})


def create(request: Request) -> Answer:
    if not request.has_token:
        raise Refused(401, "", "Invalid credentials in Authorization header")
    wanted = request.json()
    name = f"{wanted.get('organization') or USER}/{wanted['name']}"
    url = f"{request.hub.url}/{name}"
    if name in request.hub.repositories:
        return as_json({"error": "You already created this model repo", "url": url}, 409)
    repository = Repository(private=wanted.get("visibility") == "private")
    attributes = request.hub.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
    repository.add("main", {".gitattributes": attributes})
    request.hub.repositories[name] = repository
    return as_json({"url": url, "name": name, "id": name})


def preupload(request: Request) -> Answer:
    """Per file: whether LFS takes it, and the name of what is there already, which is not sent again."""
    tree = request.repository().tree(request.parts["revision"])[1]
    files = []
    for file in request.json()["files"]:
        is_large, held = file["path"].endswith(LARGE), tree.get(file["path"])
        mode = "lfs" if is_large else "regular"
        oid = held.etag if held is not None and held.is_large == is_large else None
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": files})


def lfs_batch(request: Request) -> Answer:
    objects = []
    for wanted in request.json()["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in request.hub.blobs:
            href = f"{request.hub.url}/lfs/{wanted['oid']}"
            entry["actions"] = {"upload": {"href": href, "header": {}}, "verify": {"href": f"{href}/verify"}}
        objects.append(entry)
    return as_json({"transfer": "basic", "objects": objects})


def lfs_upload(request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.parts["oid"]:
        raise Refused(400, "", "the bytes are not those of the oid")
    request.hub.blobs[request.parts["oid"]] = request.body
    return as_json({})


def lfs_verify(request: Request) -> Answer:
    held = request.hub.blobs.get(request.parts["oid"])
    if held is None or len(held) != request.json()["size"]:
        raise Refused(404, "EntryNotFound")
    return as_json({})


def commit(request: Request) -> Answer:
    """A commit comes as lines of JSON: its header, then files, LFS files and deletions."""
    if not request.has_token:
        raise Refused(403, "", "a token is needed to write")
    repository, hub = request.repository(), request.hub
    parent, files = repository.tree(request.parts["revision"])
    files = dict(files)
    for line in request.body.splitlines():
        kind, value = json.loads(line).values()
        if kind == "header" and value.get("parentCommit") not in (None, parent):
            raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        elif kind == "file":
            files[value["path"]] = hub.store(base64.b64decode(value["content"]), False)
        elif kind == "lfsFile":
            if value["oid"] not in hub.blobs:
                raise Refused(400, "", f"the LFS object {value['oid']} was not uploaded")
            files[value["path"]] = _stored(value["oid"], hub.blobs[value["oid"]], True)
        elif kind == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, "EntryNotFound")
    branch, answer = request.parts["revision"], {}
    if request.query.get("create_pr", ["0"])[0] not in ("0", "false"):
        number = sum(name.startswith("refs/pr/") for name in repository.branches) + 1
        branch = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{hub.url}/{request.parts['id']}/discussions/{number}"
    name = repository.add(branch, files)
    return as_json({"commitOid": name, "commitUrl": f"{hub.url}/{request.parts['id']}/commit/{name}", **answer})


def info(request: Request) -> Answer:
    repository = request.repository()
    commit_name, files = repository.tree(request.parts.get("revision") or "main")
    about = {"id": request.parts["id"], "modelId": request.parts["id"], "sha": commit_name, "tags": [], "likes": 0}
    siblings = [{"rfilename": name} for name in sorted(files)]
    dates = {"lastModified": DATE, "createdAt": DATE}
    return as_json({"_id": "0", "private": repository.private, "downloads": 0, "siblings": siblings, **about, **dates})


def tree(request: Request) -> Answer:
    files = request.repository().tree(request.parts["revision"])[1]
    folder = (request.parts["folder"] or "").lstrip("/")
    inside = {name: file for name, file in files.items() if not folder or name.startswith(f"{folder}/")}
    if not inside:
        raise Refused(404, "EntryNotFound")
    entries = []
    for name, file in sorted(inside.items()):
        entry: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.git_oid}
        if file.is_large:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
        entries.append(entry)
    return as_json(entries)


def resolve(request: Request) -> Answer:
    commit_name, files = request.repository().tree(unquote(request.parts["revision"]))
    file = files.get(unquote(request.parts["path"]))
    if file is None:
        raise Refused(404, "EntryNotFound")
    headers = {"X-Repo-Commit": commit_name, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    if file.is_large:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    return Answer(request.hub.blobs[file.sha256], headers)


_ID = r"(?P<id>[^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", r"/api/repos/create", create),
    ("POST", rf"/api/models/{_ID}/preupload/(?P<revision>.+)", preupload),
    ("POST", rf"/api/models/{_ID}/commit/(?P<revision>.+)", commit),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", lfs_upload),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", lfs_verify),
    ("GET", rf"/api/models/{_ID}(/revision/(?P<revision>.+))?", info),
    ("GET", rf"/api/models/{_ID}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", tree),
    ("GET", rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]


def _answer(hub: HubServer, method: str, target: str, body: bytes, has_token: bool) -> Answer:
    place = urlsplit(target)
    for verb, pattern, handler in ROUTES:
        match = re.fullmatch(pattern, place.path)
        if match and verb == ("GET" if method == "HEAD" else method):
            try:
                return handler(Request(hub, parse_qs(place.query), match.groupdict(), body, has_token))
            except Refused as refused:
                headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
                return Answer(b"{}", {"Content-Type": "application/json", **headers}, refused.status)
    return as_json({"error": f"no route for {method} {place.path}"}, 404)


def _fault(hub: HubServer, request: str) -> Answer | None:
    for fault in hub.faults:
        if fault.times != 0 and re.search(fault.pattern, request):
            fault.times = None if fault.times is None else fault.times - 1
            headers = {"Content-Type": "application/json", "X-Error-Message": fault.message}
            return Answer(b"{}", headers, fault.status)
    return None


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: a second one would wait for the first one's acknowledgement

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            body = self._body()
            answer = _fault(hub, f"{self.command} {self.path}") or _answer(
                hub, self.command, self.path, body, has_token
            )
            if answer.status == 0:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

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
            pass  # the requests are in hub.requests

    return Handler
