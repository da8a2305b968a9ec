"""What the Hub on the loopback holds, and what it answers to each request of huggingface_hub (hub_server.py)."""

import base64
import hashlib
import json
import re
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repositories import DATE, LARGE, USER, Refused, Repository, Stored, stored


class Answer(NamedTuple):
    body: bytes
    headers: dict[str, str]
    status: int = 200


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)


class Request(NamedTuple):
    """One request: the server, its query, the parts of the path that its route names, its body, and who asks."""

    hub: Any
    query: dict[str, list[str]]
    parts: dict[str, str]
    body: bytes
    user: str | None
    range: str | None

    def json(self) -> Any:
        return json.loads(self.body)

    def repository(self, *, files: bool = False, write: bool = False) -> Repository:
        """The repository that is asked for. Raises: Refused, as the Hub would for whom is asking."""
        name = self.parts["id"]
        found = self.hub.repositories.get(name)
        is_owner = self.user == name.split("/")[0]
        if found is None or (found.private and not is_owner):
            raise (
                Refused(401, "RepoNotFound", "Invalid username or password.")
                if self.user is None
                else Refused(404, "RepoNotFound", "Repository not found")
            )
        if files and found.gated and not is_owner:
            status, words = (401, "You must have access to it and be authenticated to access it. Please log in.")
            if self.user is not None:
                status, words = (
                    403,
                    "you are not in the authorized list. Visit the page of the model to ask for access.",
                )
            raise Refused(status, "GatedRepo", f"Access to model {name} is restricted: {words}")
        if write and not is_owner:
            raise Refused(403, "", f"You don't have the rights to write to {name}")
        return found

    def check_user(self) -> str:
        if self.user is None:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return self.user


# ---- what is answered -----------------------------------------------------------------------------------------------


def whoami(request: Request) -> Answer:
    name = request.check_user()
    return as_json({"type": "user", "name": name, "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def validate_yaml(request: Request) -> Answer:
    return as_json({"errors": [], "warnings": []})


def create(request: Request) -> Answer:
    user, wanted = request.check_user(), request.json()
    owner = wanted.get("organization") or user
    name = f"{owner}/{wanted['name']}"
    url = f"{request.hub.url}/{name}"
    if owner != user:
        raise Refused(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if name in request.hub.repositories:
        return as_json({"error": "You already created this model repo", "url": url}, 409)
    repository = Repository(private=wanted.get("visibility") == "private")
    attributes = request.hub.store(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
    repository.add("main", {".gitattributes": attributes}, "initial commit")
    request.hub.repositories[name] = repository
    return as_json({"url": url, "name": name, "id": name})


def delete_repository(request: Request) -> Answer:
    wanted = request.json()
    name = f"{wanted.get('organization') or request.check_user()}/{wanted['name']}"
    request._replace(parts={"id": name}).repository(write=True)
    del request.hub.repositories[name]
    return as_json({})


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
    request.check_user()
    is_proposal = request.query.get("create_pr", ["0"])[0] not in ("0", "false")
    repository, hub, branch = request.repository(write=not is_proposal), request.hub, request.parts["revision"]
    parent, files = repository.tree(branch)
    if branch not in repository.branches:
        raise Refused(400, "", f"{branch} is no branch")
    files, message = dict(files), ""
    for line in request.body.splitlines():
        kind, value = json.loads(line).values()
        if kind == "header":
            message = value["summary"]
            if value.get("parentCommit") not in (None, parent):
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
        elif kind == "file":
            files[value["path"]] = hub.store(base64.b64decode(value["content"]), False)
        elif kind == "lfsFile":
            if value["oid"] not in hub.blobs:
                raise Refused(400, "", f"the LFS object {value['oid']} was not uploaded")
            files[value["path"]] = stored(value["oid"], hub.blobs[value["oid"]], True)
        elif kind == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, "EntryNotFound")
        else:
            raise Refused(400, "", f"{kind} is nothing that a commit holds here")
    home, answer = f"{hub.url}/{request.parts['id']}", {}
    if is_proposal:
        number = repository.propose(branch, files, message)
        name, answer = repository.branches[f"refs/pr/{number}"], {"pullRequestUrl": f"{home}/discussions/{number}"}
    else:
        name = repository.add(branch, files, message)
    return as_json({"commitOid": name, "commitUrl": f"{home}/commit/{name}", **answer})


def add_branch(request: Request) -> Answer:
    repository, name = request.repository(write=True), request.parts["name"]
    if name in repository.branches:
        raise Refused(409, "", f"Reference already exists: {name}")
    wanted = request.json() if request.body else {}
    repository.branches[name] = repository.tree(wanted.get("startingPoint") or "main")[0]
    return as_json({})


def add_tag(request: Request) -> Answer:
    repository, name = request.repository(write=True), request.json()["tag"]
    if name in repository.tags:
        raise Refused(409, "", f"Tag reference exists already: {name}")
    repository.tags[name] = repository.tree(request.parts["name"])[0]
    return as_json({})


def delete_reference(request: Request) -> Answer:
    repository = request.repository(write=True)
    kept = repository.branches if request.parts["kind"] == "branch" else repository.tags
    if kept.pop(request.parts["name"], None) is None:
        raise Refused(404, "RevisionNotFound")
    return as_json({})


def references(request: Request) -> Answer:
    repository = request.repository()

    def listed(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": commit} for name, commit in names.items()]

    branches = {name: value for name, value in repository.branches.items() if not name.startswith("refs/")}
    proposals = {name: repository.branches[name] for name in repository.bases}
    tags = listed(repository.tags, "refs/tags/")
    answer = {"branches": listed(branches, "refs/heads/"), "converts": [], "tags": tags}
    return as_json(answer | ({"pullRequests": listed(proposals, "")} if "include_prs" in request.query else {}))


def discuss(request: Request) -> Answer:
    request.check_user()
    if not request.json()["pullRequest"]:
        raise Refused(400, "", "only pull requests are kept here")
    return as_json({"num": request.repository().propose("main")})


def discussion(request: Request) -> Answer:
    number, repository = int(request.parts["number"]), request.repository()
    name = f"refs/pr/{number}"
    if name not in repository.bases:
        raise Refused(404, "", f"there is no discussion {number}")
    about = {"title": f"number {number}", "num": number, "author": {"name": USER}, "createdAt": DATE}
    repo = {"name": request.parts["id"], "type": "model"}
    changes = {"base": f"refs/heads/{repository.bases[name]}"}
    state = {"status": "draft", "isPullRequest": True, "events": [], "filesWithConflicts": [], "diff": ""}
    return as_json({**about, **state, "repo": repo, "changes": changes})


def merge(request: Request) -> Answer:
    repository, name = request.repository(write=True), f"refs/pr/{request.parts['number']}"
    repository.branches[repository.bases[name]] = repository.branches[name]
    event = {"id": "0", "type": "status-change", "createdAt": DATE, "author": {"name": USER}}
    return as_json({"newStatus": {**event, "data": {"status": "merged"}}})


def info(request: Request) -> Answer:
    repository = request.repository()
    commit_name, files = repository.tree(request.parts.get("revision") or "main")
    about = {"id": request.parts["id"], "modelId": request.parts["id"], "sha": commit_name, "tags": [], "likes": 0}
    siblings = [{"rfilename": name} for name in sorted(files)]
    state = {"private": repository.private, "gated": "auto" if repository.gated else False, "downloads": 0}
    dates = {"lastModified": DATE, "createdAt": DATE}
    return as_json({"_id": "0", "siblings": siblings, **about, **state, **dates})


def history(request: Request) -> Answer:
    """The commits up to a revision; a branch that began at another one holds that one's too, as no parent is kept."""
    repository = request.repository()
    last, _ = repository.tree(request.parts["revision"])
    names = list(repository.commits)
    listed = reversed(names[: names.index(last) + 1])
    return as_json(
        [
            {"id": name, "authors": [], "date": DATE, "title": repository.messages[name], "message": ""}
            for name in listed
        ]
    )


def _entry(name: str, file: Stored) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": file.size, "oid": file.git_oid}
    if file.is_large:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return entry


def tree(request: Request) -> Answer:
    files = request.repository().tree(request.parts["revision"])[1]
    folder = (request.parts["folder"] or "").lstrip("/")
    inside = {name: file for name, file in files.items() if not folder or name.startswith(f"{folder}/")}
    if not inside:
        raise Refused(404, "EntryNotFound")
    return as_json([_entry(name, file) for name, file in sorted(inside.items())])


def paths_info(request: Request) -> Answer:
    files, wanted = request.repository().tree(request.parts["revision"])[1], request.json()["paths"]
    return as_json([_entry(name, files[name]) for name in wanted if name in files])


def resolve(request: Request) -> Answer:
    commit_name, files = request.repository(files=True).tree(request.parts["revision"])
    file = files.get(request.parts["path"])
    if file is None:
        raise Refused(404, "EntryNotFound", "Entry not found")
    headers = {"X-Repo-Commit": commit_name, "ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
    headers["Accept-Ranges"] = "bytes"
    if file.is_large:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    data = request.hub.blobs[file.sha256]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    if wanted is None:
        return Answer(data, headers)
    first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if first > last:
        return Answer(b"", {**headers, "Content-Range": f"bytes */{len(data)}"}, 416)
    return Answer(data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, 206)


_ID = r"(?P<id>[^/]+/[^/]+)"
_MODEL, _REVISION, _NAME = rf"/api/models/{_ID}", r"(?P<revision>[^/]+)", r"(?P<name>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", r"/api/repos/create", create),
    ("DELETE", r"/api/repos/delete", delete_repository),
    ("POST", rf"{_MODEL}/preupload/{_REVISION}", preupload),
    ("POST", rf"{_MODEL}/commit/{_REVISION}", commit),
    ("POST", rf"{_MODEL}/branch/{_NAME}", add_branch),
    ("POST", rf"{_MODEL}/tag/{_NAME}", add_tag),
    ("DELETE", rf"{_MODEL}/(?P<kind>branch|tag)/{_NAME}", delete_reference),
    ("GET", rf"{_MODEL}/refs", references),
    ("POST", rf"{_MODEL}/discussions", discuss),
    ("GET", rf"{_MODEL}/discussions/(?P<number>\d+)", discussion),
    ("POST", rf"{_MODEL}/discussions/(?P<number>\d+)/merge", merge),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", lfs_upload),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", lfs_verify),
    ("GET", rf"{_MODEL}(/revision/{_REVISION})?", info),
    ("GET", rf"{_MODEL}/commits/{_REVISION}", history),
    ("GET", rf"{_MODEL}/tree/{_REVISION}(?P<folder>/.*)?", tree),
    ("POST", rf"{_MODEL}/paths-info/{_REVISION}", paths_info),
    ("GET", rf"/{_ID}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]


def answer(hub: Any, method: str, target: str, body: bytes, user: str | None, wanted: str | None) -> Answer:
    """What the server says to a request, faults set aside. `wanted`: its Range header."""
    place = urlsplit(target)
    for verb, pattern, handler in ROUTES:
        match = re.fullmatch(pattern, place.path)
        if match and verb == ("GET" if method == "HEAD" else method):
            parts = {name: unquote(value) if value else value for name, value in match.groupdict().items()}
            try:
                return handler(Request(hub, parse_qs(place.query), parts, body, user, wanted))
            except Refused as refused:
                headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
                return Answer(b"{}", {"Content-Type": "application/json", **headers}, refused.status)
    return as_json({"error": f"no route for {method} {place.path}"}, 404)
