"""Repositories of the Hub on the loopback: files, commits, branches, tags, pull requests (hub_server.py)."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

USER, TOKEN = "tester", "hf_local"  # whose repositories these are
STRANGER, STRANGERS_TOKEN = "stranger", "hf_stranger"  # reads what is public, and may propose changes to it
USERS = {TOKEN: USER, STRANGERS_TOKEN: STRANGER}
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


def stored(sha256: str, data: bytes, is_large: bool) -> Stored:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    content = pointer if is_large else data
    git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Stored(sha256, len(data), git_oid, is_large)


class Refused(Exception):
    """An answer with an error code of the Hub's."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message or code)
        self.status, self.code = status, code


@dataclass
class Repository:
    """Branches (pull requests too, as refs/pr/N) and tags name commits, a commit holds the whole tree.

    private: others get "not found". gated: others see that it is there, and get no file.
    """

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)  # of each pull request: the branch that it is for

    def tree(self, revision: str) -> tuple[str, dict[str, Stored]]:
        """The commit that a branch, a tag, or a commit's own name stands for, and its files."""
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, self.commits[commit]

    def add(self, branch: str, files: dict[str, Stored], message: str = "") -> str:
        """A new commit at the end of a branch; returns its name."""
        text = f"{branch} {len(self.commits)} {sorted(files.items())}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit], self.branches[branch], self.messages[commit] = files, commit, message
        return commit

    def propose(self, base: str, files: dict[str, Stored] | None = None, message: str = "") -> int:
        """A pull request for a branch; returns its number."""
        number = len(self.bases) + 1
        name = f"refs/pr/{number}"
        self.bases[name] = base
        if files is None:
            self.branches[name] = self.tree(base)[0]
        else:
            self.add(name, files, message)
        return number
