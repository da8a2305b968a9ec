"""manifest.json: what a folder holds, with the size and SHA-256 of each file, written last.

    {"format": 1, "sha256": "...", "files": {"model.safetensors": {"size": 14233, "sha256": "..."}, ...}}

The outer sha256 is that of "files": a damaged manifest is never taken for another one. A folder with a manifest whose
files fit it was written completely. Files beside those that it names are no fault.

    from_pretrained                    sizes of the weight files
    from_pretrained(verify_hashes)     and their SHA-256
    mm verify, resuming a training     size and SHA-256 of every file
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NAME = "manifest.json"
FORMAT = 1
FORWARD = "forward.json"  # the model's answer to a fixed input, written beside the manifest


def sha256(path: Path) -> str:
    """The hash of a file. Who maps the file next finds it in memory, and reads nothing from the disk again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder in the order of their names, but for its manifest, hidden ones, and checkpoints in it."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_own = not any(part.startswith(".") for part in parts) and not parts[0].startswith("checkpoint-")
        if is_own and path.is_file() and path != folder / NAME:
            yield path


def write(folder: str | os.PathLike) -> Path:
    """Writes the manifest of all files of a folder. Everything is on the disk when it returns (fsync)."""
    folder = Path(folder)
    files = {}
    for path in files_below(folder):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    path = folder / NAME
    held = {"format": FORMAT, "sha256": _hash_of(files), "files": files}
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    sync(path)
    for one in sorted({path.parent for path in files_below(folder)} | {folder}, reverse=True):
        sync(one)
    return path


def _hash_of(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode("utf-8")).hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: str | os.PathLike) -> dict[str, dict[str, Any]] | None:
    """{name: {"size", "sha256"}}, or None for a folder without a manifest. ValueError naming a broken one."""
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        held = json.loads(path.read_bytes().decode("utf-8"))
        files = held["files"]
        is_ours = held["format"] == FORMAT and all(
            isinstance(one["size"], int) and isinstance(one["sha256"], str) for one in files.values()
        )
        is_damaged = held["sha256"] != _hash_of(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ValueError(f"{path} is no manifest: {type(fault).__name__} {fault}") from fault
    if not is_ours:
        raise ValueError(f"{path} is no manifest of format {FORMAT}")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{path} names {name!r}, which is outside of its folder")
    if is_damaged or held.keys() != {"format", "sha256", "files"}:
        raise ValueError(f"{path} is damaged: it is not as it was written")
    return files


def faults_of(folder: str | os.PathLike, *, hashes: bool = True) -> list[str]:
    """What does not fit the manifest, in words: missing files, other sizes, other bytes. [] where all fits.

    hashes: compare SHA-256 too, which reads every file; False: names and sizes only.
    """
    folder = Path(folder)
    try:
        files = read_manifest(folder)
    except ValueError as fault:
        return [str(fault)]
    if files is None:
        return [f"{folder} has no {NAME}"]
    found = []
    for name, told in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != told["size"]:
            found.append(f"{name} has {path.stat().st_size} bytes, its manifest says {told['size']}")
        elif hashes and sha256(path) != told["sha256"]:
            found.append(f"{name} has other bytes than its manifest says (SHA-256)")
    return found


def check_weights(folder: Path, names: Iterable[str], *, hashes: bool = False) -> None:
    """Compares weight files with the manifest next to them: sizes always, SHA-256 with `hashes`.

    In a snapshot of the Hub's cache a file that is a link to the blob of its SHA-256 needs no manifest.

    Raises: ValueError that names the file: another size or hash, or, with `hashes`, nothing to compare with.
    """
    files = read_manifest(folder) or {}
    for name in names:
        path = folder / name
        told = files.get(name)
        size = path.stat().st_size
        if told is not None and size != told["size"]:
            raise ValueError(
                f"{str(path)!r} has {size} bytes, its {NAME} says {told['size']}: the file was cut or replaced. After "
                "a change on purpose write the manifest anew with mm.write_manifest(folder), or remove it"
            )
        if not hashes:
            continue
        expected = _hash_of_blob(path) if told is None else told["sha256"]
        if expected is None:
            raise ValueError(
                f"verify_hashes=True, but nothing says which SHA-256 {str(path)!r} should have: no {NAME} names it"
            )
        if sha256(path) != expected:
            source = "the Hub" if told is None else f"its {NAME}"
            raise ValueError(f"{str(path)!r} has other bytes than {source} says (SHA-256)")


def _hash_of_blob(path: Path) -> str | None:
    """The SHA-256 by which the Hub's cache names a large file; None for any other file."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", name) else None


def remove_outdated(folder: Path) -> None:
    """Removes the manifest and the answer of weights that a new save has replaced."""
    try:
        is_ours = read_manifest(folder) is not None
    except ValueError:
        return  # loading names it
    if is_ours:
        (folder / NAME).unlink()
        (folder / FORWARD).unlink(missing_ok=True)
