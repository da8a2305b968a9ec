"""Hub ids as sources: a server on the loopback address speaks the Hub's protocol, and each conversion is a process of
its own, as huggingface_hub reads its address when it is imported."""

# Fixtures build models whose types pyright cannot follow.

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GitConfig, GitForCausalLM

import mm

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = GitConfig(
    **SIZES, vocab_size=26, max_position_embeddings=12, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    vision_config={**SIZES, "image_size": 16, "patch_size": 8},
)  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATE = "2024-01-01T00:00:00.000000Z"


class Hub(BaseHTTPRequestHandler):
    """Read-only repositories, `server.folder / owner / name`, each of one commit; `server.asked` lists the paths."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/").split("/")
        self.server.asked.append(self.path)
        if path[0] == "api" and path[1:2] == ["models"]:
            return self._describe("/".join(path[2:4]), path[4:])
        return self._file("/".join(path[:2]), path[3], "/".join(path[4:]))

    def _describe(self, repository: str, rest: list[str]) -> None:
        """Facts of a repository, or the list of its files (`tree`)."""
        folder = self.server.folder / repository
        if not folder.is_dir():
            return self._fail("RepoNotFound")
        files = sorted(file for file in folder.iterdir())
        if rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": digest(f)} for f in files]
            return self._answer(json.dumps(entries).encode())
        facts = {
            "_id": "0" * 24, "id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [],
            "downloads": 0, "likes": 0, "lastModified": DATE, "createdAt": DATE,
            "siblings": [{"rfilename": file.name} for file in files],
        }  # fmt: skip
        return self._answer(json.dumps(facts).encode())

    def _file(self, repository: str, revision: str, name: str) -> None:
        file = self.server.folder / repository / name
        if not file.parent.is_dir():
            return self._fail("RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._fail("RevisionNotFound")
        if not file.is_file():
            return self._fail("EntryNotFound")
        return self._answer(file.read_bytes(), ETag=f'"{digest(file)}"')

    def _answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _fail(self, code: str) -> None:
        self._answer(b"{}", 404, X_Error_Code=code)

    def log_message(self, *arguments) -> None:
        """Nothing on stderr."""


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = tmp_path / "hub", []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def convert(hub, tmp_path):
    """`convert(*arguments)`: the finished process of a command line that knows this hub alone."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1",
    }  # fmt: skip

    def run(*arguments):
        command = [sys.executable, "-c", "from mm_console import main; main()", "convert", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **settings}, timeout=300
        )

    return run


@pytest.fixture
def published(peer, hub):
    """`published(name, **how)`: a GIT in a repository of the hub."""

    def publish(name: str, **how):
        model = peer(GitForCausalLM, CONFIG)
        model.save_pretrained(hub.folder / "tester" / name, **how)
        return model

    return publish


def same_tensors(one: Path, two: Path) -> bool:
    before, after = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    return before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.slow
def test_a_repository_in_shards_becomes_the_same_model_and_goes_back(published, convert, hub, tmp_path):
    published("shards", max_shard_size="20KB")
    published("whole")
    there = convert("--verify", "tester/shards", "out")
    assert there.returncode == 0 and "verified: logits" in there.stdout, there.stderr
    mm.convert(hub.folder / "tester/whole").save_pretrained(tmp_path / "local")
    assert same_tensors(tmp_path / "local", tmp_path / "out")
    (tmp_path / "out").rename(hub.folder / "tester/converted")
    back = convert("--to", "git", "tester/converted", "back")
    assert back.returncode == 0, back.stderr
    assert same_tensors(hub.folder / "tester/whole", tmp_path / "back")


@pytest.mark.slow
def test_of_several_kinds_of_weights_one_is_fetched(published, convert, hub):
    model = published("both")
    torch.save(model.state_dict(), hub.folder / "tester/both/pytorch_model.bin")
    assert convert("--dry-run", "tester/both").returncode == 0
    assert any(path.endswith("/model.safetensors") for path in hub.asked)
    assert not any(path.endswith(".bin") for path in hub.asked)


@pytest.mark.slow
def test_a_shard_elsewhere_is_refused_before_it_is_asked_for(published, convert, hub):
    published("traversal")
    folder = hub.folder / "tester/traversal"
    (folder / "model.safetensors").rename(hub.folder / "tester/secret.safetensors")
    index = {"metadata": {}, "weight_map": {"output.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = convert("--dry-run", "tester/traversal")
    assert done.returncode != 0 and "a shard is in the folder of its index" in done.stderr
    assert not any("secret" in path for path in hub.asked)


@pytest.mark.slow
def test_a_repository_that_is_not_there_is_told(hub, convert):
    done = convert("--dry-run", "tester/nothing")
    assert done.returncode != 0 and "'tester/nothing'" in done.stderr and "404" in done.stderr
