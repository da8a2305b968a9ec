"""Results as Parquet: a file for each share of the work, and a manifest that names each of them once.

part-000000000-1f3a9c0e.parquet  rows of a share, in the order of its files: path, ..., error (null where none)
_manifest.jsonl                  a line for each share that is done; what it does not name is no result
_run.json                        what the rows are made with
"""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..weights.manifest import sync
from .long_work import check_settings, settings_kept, tell_faults

# Readers of Parquet leave out names that begin with _ or a dot.
MANIFEST, RUN, LOCK = "_manifest.jsonl", "_run.json", ".lock"


def parquet() -> Any:
    """pyarrow.parquet. Raises ValueError where it is missing."""
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError("results as Parquet need pyarrow: pip install '.[ray]' or '.[data]'") from error


def schema_of(command: str) -> Any:
    """The columns of a command's rows, a pyarrow.Schema."""
    arrow = import_module("pyarrow")
    text, number, count = arrow.string(), arrow.float64(), arrow.int64()
    word = arrow.struct([("word", text), ("start", number), ("end", number)])
    segment = arrow.struct([("start", number), ("end", number), ("text", text), ("words", arrow.list_(word))])
    columns = {
        "caption": {"caption": text, "score": number},
        "transcribe": {"segments": arrow.list_(segment)},
        "embed": {
            "kind": text, "sha256": text, "size": count, "modified": count, "embedding": arrow.list_(arrow.float32()),
        },
    }[command]  # fmt: skip
    return arrow.schema([("path", text), *columns.items(), ("error", text)])


class Shards:
    """The shards of a folder, for the one process that shares out the work.

    Args:
        folder: of the shards. settings: what the rows depend on; a run goes on only with the same.
        resume: go on after an earlier run; False: the folder must have no results.
        anew: results of another run, which is complete or had other settings, are taken away instead.

    Attributes:
        lines: of the manifest: {"shard", "start", "files", "faults", "bytes"}.

    Raises: ValueError for results that are there, those of other settings, a folder that holds something else, or one
        that another process writes into.
    """

    def __init__(
        self, folder: str | os.PathLike, settings: Mapping[str, Any], resume: bool = False, anew: bool = False
    ):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--output {folder} is a file; give a folder")
        self.settings, self.anew = settings_kept(settings), anew
        is_ours = (self.folder / MANIFEST).exists() or (self.folder / RUN).exists()
        if self.folder.is_dir() and not is_ours and {path.name for path in self.folder.iterdir()} - {LOCK}:
            raise ValueError(f"--output {folder} holds other files; give a new folder")
        if is_ours and not (resume or anew):
            raise ValueError(f"--output {folder} has results already; --resume goes on with them")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process writes into {folder}") from None
        if anew and settings_of(self.folder) != self.settings:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            (self.folder / RUN).unlink(missing_ok=True)
        check_settings(self.folder / RUN, self.settings, str(folder))
        self.lines = [line for line in manifest_of(self.folder) if _is_whole(self.folder, line)]
        self._rewrite()
        self._sweep()
        self._note(self.settings)
        sync(self.folder)

    def _note(self, settings: Mapping[str, Any]) -> None:
        (self.folder / RUN).write_text(json.dumps(dict(settings)) + "\n", encoding="utf-8")

    def _rewrite(self) -> None:
        """Without a line that a kill cut, and those of shards that are not there as they were written."""
        aside = self.folder / f".{MANIFEST}.writing"
        aside.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        sync(aside)
        os.replace(aside, self.folder / MANIFEST)

    def _sweep(self) -> None:
        """Takes away shards that no line names: their files are done again."""
        named = {line["shard"] for line in self.lines}
        for path in self.folder.iterdir():
            if path.name.startswith(("part-", ".part-")) and path.name not in named:
                path.unlink(missing_ok=True)

    def done(self) -> set[str]:
        """Paths that have a row."""
        read = parquet().read_table
        return {
            path for line in self.lines for path in read(self.folder / line["shard"], columns=["path"])[0].to_pylist()
        }

    def add(self, line: Mapping[str, Any]) -> None:
        """Names a shard that is written, once; on the disk when it returns."""
        if any(held["shard"] == line["shard"] for held in self.lines[-4096:]):
            return
        sync(self.folder)
        with (self.folder / MANIFEST).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(dict(line))

    def close(self, complete: bool) -> None:
        if complete:
            self._sweep()
        if complete and self.anew:
            self._note({**self.settings, "complete": True})
        self._lock.close()


def write_shard(
    folder: str | os.PathLike, command: str, start: int, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A shard under its name, whole and on the disk, and its line for the manifest. The same share has the same name,
    so that one that is done again, after a worker was killed, replaces itself.

    Args:
        start: the place of its first file among all files.
    """
    folder = Path(folder)
    digest = hashlib.sha256("\0".join(str(row["path"]) for row in rows).encode("utf-8", "surrogateescape"))
    path = folder / f"part-{start:09}-{digest.hexdigest()[:8]}.parquet"
    aside = folder / f".{path.name}.{uuid.uuid4().hex}.writing"
    table = import_module("pyarrow").Table.from_pylist([dict(row) for row in rows], schema=schema_of(command))
    parquet().write_table(table, aside)
    sync(aside)
    os.replace(aside, path)
    faults = sum(row.get("error") is not None for row in rows)
    held = {"shard": path.name, "start": start, "files": len(rows), "faults": faults}
    return {**held, "bytes": path.stat().st_size}


def read_shards(folder: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Every row of a folder of shards, each file once, in the order in which the files were given.

    Raises: ValueError for a shard of the manifest that is missing or damaged.
    """
    lines = manifest_of(Path(folder))
    for line in sorted(lines, key=lambda line: line["start"]):
        if not _is_whole(Path(folder), line):
            raise ValueError(f"{line['shard']} in {folder} is missing or damaged; --resume makes it again")
        yield from parquet().read_table(Path(folder) / line["shard"]).to_pylist()


def manifest_of(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a manifest; none where there is no manifest."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return []
    try:
        lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
        for line in lines:
            if Path(line["shard"]).name != line["shard"] or not isinstance(line["start"], int):
                raise ValueError("a shard of another folder")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is no manifest of mm ({error})") from None
    return lines


def settings_of(folder: Path) -> dict[str, Any] | None:
    """What the rows are made with; None where nothing says it."""
    try:
        return json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _is_whole(folder: Path, line: Mapping[str, Any]) -> bool:
    try:
        return (folder / line["shard"]).stat().st_size == line["bytes"]
    except FileNotFoundError:
        return False


def tell_shards(shards: Shards) -> bool:
    """Lists the files that failed, and returns whether none did."""
    files, faults = (sum(line[name] for line in shards.lines) for name in ("files", "faults"))
    tell_faults(_faults(shards), faults, files)
    return not faults


def _faults(shards: Shards) -> Iterable[tuple[str, str]]:
    for line in sorted(shards.lines, key=lambda line: line["start"]):
        if line["faults"]:
            table = parquet().read_table(shards.folder / line["shard"], columns=["path", "error"])
            yield from ((row["path"], row["error"]) for row in table.to_pylist() if row["error"] is not None)
