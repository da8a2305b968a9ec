"""An index whose files several processes, or actors of Ray, share out.

    process 0 ── its files ── journal.jsonl.part0 ──┐
    process 1 ── its files ── journal.jsonl.part1 ──┴─ the last one that is done ──► the index, replaced in one step

Nothing is sent between processes: all have the folder of the index. A killed run goes on where it was.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.media_kinds import column_of
from ..weights.model_hash import hash_of_model
from .build import (
    LOCK,
    Content,
    EmbedReport,
    InUse,
    Made,
    Seen,
    _encode,
    checked_paths,
    known_vectors,
    locked,
    look_at,
    new_contents,
    write_files,
)  # fmt: skip
from .journal import JOURNAL, append_end, end_of, parts_of


def embed_share(
    model: Any, files: Iterable[str | os.PathLike], output: str | os.PathLike, rank: int, size: int, *,
    processor: Any = None, batch_size: int = 32, workers: int | None = 0, show_progress: bool = False,
    on_fault: Callable[[str, str], Any] | None = None,
) -> EmbedReport | None:  # fmt: skip
    """`mm.embed_files` in one of `size` processes over the same files: this one encodes each size-th. The one that
    finds that all are done writes the index.

    Args:
        rank: the number of this process, from 0. The others are those of `embed_files`; the process that writes
            calls on_fault.

    Returns: None in the others.
    Raises: as `embed_files`. It waits for a process that writes the index by itself.
    """
    paths = checked_paths(files, output, batch_size, workers)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    part, ends = output / f"{JOURNAL}.part{rank}", {"processes": size, "files": _digest(paths)}
    with (output / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        maker = hash_of_model(model, processor)
        known, _ = known_vectors(output, maker, model.config.projection_dim, True, part)
        seen, encoded = _encode_share(
            model, processor, paths[rank::size], known, part, maker, batch_size, workers, show_progress
        )
        append_end(part, {**ends, "model_hash": maker, "encoded": encoded, "seen": seen})
    try:
        with locked(output):  # no process is at work: whoever came to its end last sees the ends of all
            made = _joined(output, {**ends, "model_hash": maker}, size)
            if made is None:
                return None
            return write_files(
                model, processor, paths, output, made, batch_size=batch_size, workers=workers,
                show_progress=show_progress, on_fault=on_fault,
            )  # fmt: skip
    except InUse:  # that one joins them
        return None


def _encode_share(
    model: Any, processor: Any, paths: list[str], known: dict[Content, np.ndarray], journal: Path | None, maker: str,
    batch_size: int, workers: int | None, show_progress: bool,
) -> tuple[dict[str, Seen], int]:  # fmt: skip
    """Encodes what is new of `paths` into `known` and the journal; returns what the files were, and how many contents
    were encoded."""
    report = EmbedReport()
    looked = look_at(paths, model.config.modalities or (), report, {})
    contents = {path: (kind, one.sha256) for path, (kind, one) in looked.items()}
    todo = new_contents(contents, known)
    faults, encoded = _encode(model, processor, todo, known, journal, maker, batch_size, workers, show_progress)
    return {path: one._replace(fault=faults.get(path)) for path, (_, one) in looked.items()}, encoded


def _joined(output: Path, ends: Mapping[str, Any], size: int) -> Made | None:
    """What all processes saw; None where one of them is not done, or was at other files."""
    made = Made()
    for part in (output / f"{JOURNAL}.part{rank}" for rank in range(size)):
        end = end_of(part)
        if end is None or any(end.get(name) != value for name, value in ends.items()):
            return None
        made.seen |= {path: Seen(*one) for path, one in end["seen"].items()}
        made.encoded += end["encoded"]
    return made if len(parts_of(output)) >= size else None


def _digest(paths: list[str]) -> str:
    return hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()


# ---- rows of actors ------------------------------------------------------------------------------------------------


def embedding_rows(
    model: Any, processor: Any, index: Path, batch_size: int = 32, workers: int | None = 0
) -> Callable[[list[str]], list[dict]]:
    """What makes rows of files for the shards of an actor: path, kind, sha256, size, modified, embedding, error. What
    the index has of the same model is not encoded again."""
    maker = hash_of_model(model, processor)
    known, _ = known_vectors(index, maker, model.config.projection_dim, True, index / ".none")

    def rows(names: list[str]) -> list[dict]:
        vectors = dict(known)
        seen, _ = _encode_share(model, processor, names, vectors, None, maker, batch_size, workers, False)
        return [_row(name, seen.get(name), vectors) for name in names]

    return rows


def _row(name: str, seen: Seen | None, vectors: Mapping[Content, np.ndarray]) -> dict:
    kind = str(column_of(name))
    if seen is None or seen.fault is not None:
        return {"path": name, "kind": kind, "error": "it cannot be opened" if seen is None else seen.fault}
    stat = {"size": seen.size, "modified": seen.modified}
    vector = vectors[kind, seen.sha256]
    return {"path": name, "kind": kind, "sha256": seen.sha256, **stat, "embedding": vector, "error": None}


def made_of_rows(rows: Iterable[Mapping[str, Any]]) -> Made:
    """What actors made, from the rows of their shards."""
    made = Made()
    for row in rows:
        if row["error"] is None:
            made.seen[row["path"]] = Seen(row["size"], row["modified"], row["sha256"])
            made.vectors[row["kind"], row["sha256"]] = np.asarray(row["embedding"], np.float32)
    return made
