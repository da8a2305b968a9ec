"""mm.embed_files: files to an index that is brought up to date: only new contents are encoded.

    files ── SHA-256 ─┬─ known to the index or the journal ──────────────────────┐
                      └─ new ── read ahead ── encode, by batches ── journal ─────┴─► the index, replaced in one step

The journal has a line for each batch as soon as it is encoded: a killed run goes on after its last one.
"""

import fcntl
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..processing.images.limits import MediaDecodeError, check_count
from ..processing.media_kinds import column_of
from ..processing.reading import in_batches
from ..weights.manifest import sha256
from ..weights.model_hash import hash_of_model
from .index import NAME, MMIndex, write_index
from .journal import JOURNAL, Content, append_line, lines_of, parts_of

LOCK = ".lock"
CHANGED = "it was changed or deleted while it was read"


@dataclass
class EmbedReport:
    """What `embed_files` did: files in the index, of those encoded now, taken over; deleted ones; faults (path,
    reason) of files that cannot be read; left_aside, files of kinds that the model does not read."""

    files: int = 0
    encoded: int = 0
    kept: int = 0
    deleted: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    left_aside: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = (
            f"{self.files} files: {self.encoded} encoded, {self.kept} of known contents, {len(self.deleted)} deleted"
        )
        if self.left_aside:
            told += f", {len(self.left_aside)} of a kind that the model does not read"
        return told + (f", {len(self.faults)} cannot be read" if self.faults else "")


def embed_files(
    model: Any, files: Iterable[str | os.PathLike], output: str | os.PathLike, *, processor: Any = None,
    batch_size: int = 32, workers: int | None = 0, show_progress: bool = False,
    on_fault: Callable[[str, str], Any] | None = None, allow_empty: bool = False,
) -> EmbedReport:  # fmt: skip
    """Embeds files into the index in the folder `output`, or brings the one there up to date.

    Afterwards it holds just `files`: what is known by its content is not encoded again, even under another name, and
    files that are not among them any more are dropped. A file that cannot be read, is gone, or changes while it is
    read is left out and reported. An index of another model (other weights, another configuration) is encoded anew,
    and so is a damaged one, with a warning. A killed run continues where it was.

    Args:
        model: an MMForImageTextRetrieval. processor: None: that in its folder.
        workers: processes that read ahead; 0: none; None: two for many files.
        on_fault: called with the path and the reason of each file that cannot be read.
        allow_empty: whether an index that holds files may be left without any.

    Raises: TypeError for one path in place of a list; ValueError for `output` in use by another process, and for an
        index that would lose all of its files.
    """
    paths = checked_paths(files, output, batch_size, workers)
    is_ours = (Path(output) / LOCK).exists()
    Path(output).mkdir(parents=True, exist_ok=True)
    with locked(Path(output)):
        return write_files(
            model, processor, paths, Path(output), Made(), batch_size=batch_size, workers=workers,
            show_progress=show_progress, on_fault=on_fault, allow_empty=allow_empty, is_ours=is_ours,
        )  # fmt: skip


class Seen(NamedTuple):
    """What a file was when it was read: bytes, time of its last change in ns, SHA-256, and what was wrong with it."""

    size: int
    modified: int
    sha256: str
    fault: str | None = None


@dataclass
class Made:
    """What was made of files before their index is written, by processes or actors: vectors float32 (P,) by content,
    each file as it was seen, and how many contents were encoded whose vectors are in a journal."""

    vectors: dict[Content, np.ndarray] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    encoded: int = 0


def checked_paths(
    files: Iterable[str | os.PathLike], output: str | os.PathLike, batch_size: int, workers: int | None
) -> list[str]:
    """Absolute paths of files, each once. Raises as `embed_files`."""
    if isinstance(files, (str, bytes, os.PathLike)):
        raise TypeError(f"files must be a list of paths; got one, {files!r:.80}: put it in a list")
    check_count("batch_size", batch_size, least=1)
    check_count("workers", workers, none=True)
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output={str(output)!r} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not any((output / name).exists() for name in (NAME, LOCK)):
        raise ValueError(f"output={str(output)!r} holds other files; give a new folder, or one that has an index")
    return list(dict.fromkeys(os.path.abspath(path) for path in files))


def write_files(
    model: Any, processor: Any, paths: list[str], output: Path, made: Made, *, batch_size: int = 32,
    workers: int | None = 0, show_progress: bool = False, on_fault: Callable[[str, str], Any] | None = None,
    allow_empty: bool = False, is_ours: bool = True,
) -> EmbedReport:  # fmt: skip
    """`embed_files` in a locked folder. is_ours: whether an index there that cannot be read may be replaced."""
    report, maker = EmbedReport(), hash_of_model(model, processor)
    width = model.config.projection_dim
    looked = look_at(paths, model.config.modalities or (), report, made.seen)
    known, before = known_vectors(output, maker, width, is_ours)
    elsewhere = made.encoded + len(made.vectors.keys() - known.keys())
    known |= made.vectors
    readable = {path: (kind, one.sha256) for path, (kind, one) in looked.items()}
    faults, encoded = _encode(
        model, processor, new_contents(readable, known), known, output / JOURNAL, maker, batch_size, workers,
        show_progress,
    )  # fmt: skip
    report.faults += [(path, faults[path]) for path in readable if path in faults]
    for path, reason in report.faults:
        if on_fault is not None:
            on_fault(path, reason)
    rows = {path: content for path, content in readable.items() if path not in faults}
    if before and not rows and not allow_empty:
        raise ValueError(
            f"none of {len(paths)} files can be taken, and the index {str(output)!r} would lose its "
            f"{len(before)}; it is left as it is. allow_empty=True empties it"
        )
    items = [{"path": path, "kind": kind, "sha256": digest} for path, (kind, digest) in rows.items()]
    vectors = [known[content] for content in rows.values()]
    embeddings = torch.from_numpy(np.stack(vectors)) if vectors else torch.zeros(0, width)
    write_index(output, items, embeddings, {"model": model.name_or_path, "model_hash": maker})
    for path in (output / JOURNAL, *parts_of(output)):
        path.unlink(missing_ok=True)
    encoded += elsewhere
    report.files, report.encoded, report.kept = len(rows), encoded, len(rows) - encoded
    report.deleted = sorted(before - set(paths))
    return report


def new_contents(readable: dict[str, Content], known: Mapping[Content, Any]) -> dict[Content, list[str]]:
    """Contents without a vector, and the paths that have each."""
    todo: dict[Content, list[str]] = {}
    for path, content in readable.items():
        if content not in known:
            todo.setdefault(content, []).append(path)
    return todo


def look_at(
    paths: list[str], modalities: Iterable[str], report: EmbedReport, seen: Mapping[str, Seen]
) -> dict[str, tuple[str, Seen]]:
    """Kind and content of the files that the model reads, by their paths; of those that are as they were `seen` by
    another process without reading them again. Faults and files of other kinds go to the report."""
    found = {}
    for path in paths:
        kind = column_of(path)
        if kind is None or kind not in modalities:
            report.left_aside.append(path)
            continue
        try:
            stat = os.stat(path)
            one = seen.get(path)
            if one is None or (one.size, one.modified) != (stat.st_size, stat.st_mtime_ns):
                one = Seen(stat.st_size, stat.st_mtime_ns, sha256(Path(path)))
        except OSError as error:
            report.faults.append((path, str(error)))
            continue
        if one.fault is not None:
            report.faults.append((path, one.fault))
        else:
            found[path] = kind, one
    return found


def known_vectors(
    output: Path, maker: str, width: int, is_ours: bool, repaired: Path | None = None
) -> tuple[dict[Content, np.ndarray], set[str]]:
    """Vectors by what they are of, from the index and the journals of the same model; and the paths in the index.

    repaired: the journal whose spoiled end is taken off; None: that of one process.
    """
    known: dict[Content, np.ndarray] = {}
    paths: set[str] = set()
    if (output / NAME).is_file():
        try:
            index = MMIndex(output)
            paths = {item["path"] for item in index.items}
            if index.settings.get("model_hash") == maker:
                rows = index.embeddings.numpy()
                known = {(item["kind"], item["sha256"]): rows[number] for number, item in enumerate(index.items)}
        except (ValueError, KeyError, TypeError) as error:
            if not is_ours:  # an index.json of another program
                raise
            warnings.warn(f"{error}. It is taken for empty, and made again", stacklevel=3)
    repaired = repaired or output / JOURNAL
    for path in {output / JOURNAL, repaired, *parts_of(output)}:
        for journalled, contents, rows in lines_of(path, path == repaired):
            if journalled == maker and rows.shape[1] == width:
                known |= dict(zip(contents, rows, strict=True))
    return known, paths


def _encode(
    model, processor, todo: dict[Content, list[str]], known: dict[Content, np.ndarray], journal: Path | None,
    maker: str, batch_size: int, workers: int | None, show_progress: bool,
) -> tuple[dict[str, str], int]:  # fmt: skip
    """Encodes what is new into `known` and the journal, if any. Returns {path: reason} of what cannot be read, and
    how many contents were encoded."""
    faults: dict[str, str] = {}
    # of one kind and similar size together: batches are of one shape
    queue, encoded = sorted(todo, key=lambda content: (content[0], _size(todo[content][0]))), 0
    kinds = {kind for kind, _ in queue}
    with (
        open(journal or os.devnull, "ab") as file,
        tqdm(total=len(queue), unit=" files", disable=not show_progress) as bar,
    ):

        def work(read: dict[str, torch.Tensor], numbers: list[int]) -> Any:
            vectors = _encode_batch(model, read)
            if journal is not None:
                append_line(file, maker, [queue[number] for number in numbers], vectors)
            return vectors

        while queue:
            paths, again = [Path(todo[content][0]) for content in queue], []
            check = Unchanged([digest for _, digest in queue])
            for number, found in in_batches(
                paths, model._processor_for_items(processor), kinds, work, batch_size, workers, check=check
            ):
                content = queue[number]
                if not isinstance(found, MediaDecodeError):
                    known[content] = found
                    encoded += 1
                elif str(found) == CHANGED:
                    faults[todo[content].pop(0)] = CHANGED
                    again += [content] if todo[content] else []  # another file of that content
                else:
                    faults |= dict.fromkeys(todo[content], str(found))
                bar.update()
            queue = again
    return faults, encoded


def _encode_batch(model: Any, read: dict[str, torch.Tensor]) -> np.ndarray:
    """Vectors float32 (B, P) of media as a processor reads them."""
    return model.embed_read(read).numpy()


class Unchanged:
    """Whether a file that has been read still has the content that it was hashed with: CHANGED where it has not."""

    def __init__(self, digests: Sequence[str]):
        self.digests = digests

    def __call__(self, number: int, path: Path) -> str | None:
        try:
            is_same = sha256(path) == self.digests[number]
        except OSError:
            is_same = False
        return None if is_same else CHANGED


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


class InUse(ValueError):
    """Another process writes."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder of an index for this process alone. Raises InUse."""
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InUse(f"another process writes the index in {str(folder)!r}") from None
        yield
