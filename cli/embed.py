"""`mm embed` and `mm search`: files to an index, and the best of it for a text or a picture."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..processing.images.limits import MediaDecodeError
from ..processing.media_kinds import WORDS, Encodable, column_of, encodable, other_kind
from ..processing.reading import in_batches
from ..searching.build import EmbedReport, checked_paths, embed_files, locked, write_files
from ..searching.graph import build_graph
from ..searching.index import NAME, MMIndex
from ..searching.rerank import rerank
from ..searching.shares import embed_share, embedding_rows, made_of_rows
from ..searching.sheet import check_sheet, draw_sheet
from ..weights.manifest import sha256
from ..weights.model_hash import hash_of_model
from .caption import without_other_bars
from .long_work import check_new, keep, open_results, processes, tell_faults
from .media_lists import is_many, list_media, told_media, with_stdin
from .models import load_head
from .on_ray import check_engine, run_on_ray
from .printing import json_line, printable
from .shards import Shards, read_shards

_FINDS = ("MMForImageTextRetrieval",)
AS = ("auto", "text", "file")
SHARDS = "shards"


def embed(
    paths: Sequence[str | Path], output: Path, model: str, say: Callable[[object], Any], *, recursive: bool = False,
    batch_size: int = 32, workers: int | None = None, approximate: bool = False, engine: str = "local",
    actors: int | None = None, device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> bool:  # fmt: skip
    """Brings the index in `output` up to date with the files in `paths`, and tells what was done. Of several processes
    (RANK and WORLD_SIZE) the one that writes the index tells it, and all return True.

    Args:
        recursive: folders with all folders below. workers: of `mm.embed_files`.
        engine, actors: "ray": actors encode the files into shards of Parquet in the folder `SHARDS` of the index.

    Returns: whether every file could be read.
    """
    on_ray, (rank, size) = check_engine(engine, actors=actors), processes()
    if on_ray and size > 1:
        raise ValueError("--engine ray starts its own processes; start it without torchrun")
    with without_other_bars():
        loaded, processor = load_head(model, _FINDS, device=device, dtype=dtype)
    files = told_media(paths, loaded.config.modalities, recursive)
    if not recursive:
        _check_keeps(output, files, paths)
    workers = 0 if on_ray and workers is None else workers  # actors read side by side
    options = {"batch_size": batch_size, "workers": workers, "show_progress": sys.stderr.isatty()}
    if on_ray:
        actor = {"workers": workers, "model": model, "batch_size": batch_size, "device": device, "dtype": dtype}
        report = _embed_on_ray(loaded, processor, files, output, actor, actors, options)
    elif size > 1:
        report = embed_share(loaded, files, output, rank, size, processor=processor, **options)
    else:
        report = embed_files(loaded, files, output, processor=processor, **options)
    if report is None:  # another process writes the index
        return True
    others = [(path, _why(path, loaded.config.modalities)) for path in report.left_aside]
    failed = [*report.faults, *others]
    tell_faults(failed, len(failed), len({*files}))
    recall = build_graph(MMIndex(output)) if approximate and report.files else None
    if as_json:
        say(json_line({
            "files": report.files, "encoded": report.encoded, "kept": report.kept, "deleted": report.deleted,
            "failed": [{"path": path, "error": reason} for path, reason in report.faults],
            "left_aside": report.left_aside, "recall_at_10": recall,
        }))  # fmt: skip
    else:
        say(str(report))
        if recall is not None:
            say(f"approximate search finds {recall:.1%} of the ten that exact search finds")
    return size > 1 or not failed  # see `Faults.all_read`


def _check_keeps(output: Path, files: Sequence[Path], given: Sequence[str | Path]) -> None:
    """Raises ValueError where an index would lose files in folders below those given, as it was made with --recursive
    and is now brought up to date without."""
    folders = {os.path.abspath(path) for path in given if os.path.isdir(path)}
    if not folders or not (output / NAME).is_file():
        return
    try:
        known = [item["path"] for item in MMIndex(output).items]
    except (ValueError, KeyError, TypeError):  # a damaged one, which is made anew
        return
    taken = {os.path.abspath(path) for path in files}
    below = [path for path in known if path not in taken and folders & {*map(str, Path(path).parents[1:])}]
    lost = [path for path in below if os.path.exists(path)]
    if lost:
        raise ValueError(
            f"the index {str(output)!r} holds {len(lost)} files in folders below, such as {lost[0]}, which are not "
            "taken without --recursive: give it, or a new --index"
        )


def _why(path: str, kinds: Collection[str]) -> str:
    kind = column_of(path)
    return "it is no picture, video or sound" if kind is None else other_kind(kind, kinds)


def _embed_on_ray(
    model: Any, processor: Any, files: Sequence[Path], output: Path, actor: dict[str, Any], actors: int | None,
    options: dict[str, Any],
) -> EmbedReport:  # fmt: skip
    paths = checked_paths(files, output, options["batch_size"], options["workers"])
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        known = len(MMIndex(output)) if (output / NAME).is_file() else 0
        settings = {"command": "embed", "model_hash": hash_of_model(model, processor), "index": known}
        shards, complete = Shards(output / SHARDS, settings, anew=True), False
        try:
            names = [path for path in paths if column_of(path) in (model.config.modalities or ())]
            made_by = {**actor, "index": output.absolute()}
            run_on_ray(shards, "embed", names, rows_of_actor, made_by, actors, actor["device"])
            made = made_of_rows(read_shards(shards.folder))
            report = write_files(model, processor, paths, output, made, **options)
            complete = True
        finally:
            shards.close(complete)
    return report


def rows_of_actor(
    model: str, index: Path, batch_size: int, workers: int | None, device: str | None, dtype: str | None
) -> Callable[[list[str]], list[dict]]:
    """What makes rows of files for `run_on_ray`."""
    loaded, processor = load_head(model, _FINDS, device=device, dtype=dtype)
    return embedding_rows(loaded, processor, index, batch_size, workers)


def search(
    folder: Path, queries: Sequence[str], say: Callable[[object], Any], *, model: str | None = None, top_k: int = 10,
    query_as: str = "auto", with_matching: bool = False, approximate: bool = False, sheet: Path | None = None,
    recursive: bool = False, batch_size: int = 32, output: Path | None = None, resume: bool = False,
    workers: int | None = None, device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> bool:  # fmt: skip
    """Prints the files of an index that are most like texts or files, the best first: score, tab, path; the query
    before them, where it is not a single one.

    Args:
        queries: texts, files, and as of `told_media` patterns of files, folders, and "-", a query a line on stdin.
        query_as: "text" or "file"; "auto": a query that ends as a file's name does is a file, which must be there.
        with_matching: order the hits by text and file read together; their score is the probability of a match.
        sheet: a picture of the hits to write, a new file.
        output, resume: as `print_captions`.

    Returns: whether every query could be read.
    """
    if query_as not in AS:
        raise ValueError(f"--as {query_as} is not known; accepted: {', '.join(AS)}")
    is_one = len(queries) == 1 and (query_as == "text" or not is_many(queries[0])) and queries[0] != "-"
    if sheet is not None and not is_one:
        raise ValueError("--sheet is of one query")
    if sheet is not None:
        check_new(check_sheet(sheet), "--sheet")
    index = MMIndex(folder)
    if not len(index):
        raise ValueError(f"the index {str(folder)!r} is empty")
    items = list(_items(queries, query_as, recursive))
    if with_matching and any(held.text is None for _, held in items):
        raise ValueError("--rerank reads a text together with each file; the query is a file")
    with without_other_bars():
        loaded, processor = load_head(model or _model_of(index), _FINDS, device=device, dtype=dtype)
    index.check_model(hash_of_model(loaded, processor))
    settings = {"command": "search", "index": sha256(folder / index.settings["items"]), "model": model}
    settings |= {"top_k": top_k, "rerank": with_matching, "approximate": approximate, "dtype": dtype}
    results, todo = open_results(output, settings, resume, [query for query, _ in items], "query")
    meant = dict(items)

    def hits_of_all() -> Iterator[tuple[int, Any]]:
        found = _embedded(loaded, processor, [meant[query] for query in todo], batch_size, workers)
        while batch := list(islice(found, batch_size)):
            vectors = [one for _, one in batch if not isinstance(one, MediaDecodeError)]
            hits = iter(index.search(torch.stack(vectors), top_k, approximate) if vectors else [])
            for number, one in batch:
                yield number, one if isinstance(one, MediaDecodeError) else ordered(todo[number], next(hits))

    def ordered(query: str, hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hits = rerank(loaded, processor, str(meant[query].text), hits) if with_matching else hits
        if sheet is not None:
            draw_sheet(hits, sheet, title=query)
        return hits

    def tell(query: str, hits: list[dict[str, Any]]) -> None:
        for hit in hits:
            line = f"{hit['match' if with_matching else 'score']:.4f}\t{printable(hit['path'])}"
            line = line if is_one else f"{printable(query)}\t{line}"
            say(json_line({"query": query, **hit}) if as_json else line)

    return keep(results, todo, hits_of_all(), lambda hits: {"hits": hits}, tell)


def _embedded(
    model: Any, processor: Any, queries: Sequence[Encodable], batch_size: int, workers: int | None
) -> Iterator[tuple[int, Any]]:
    """(number, vector float32 (P,)) of each query in order, or the MediaDecodeError of a file that cannot be read."""
    paths = [path for query in queries for (path,) in query.media.values()]
    files = in_batches(
        paths, processor, model.config.modalities, lambda read, numbers: model.embed_read(read), batch_size, workers
    )
    texts = (number for number, query in enumerate(queries) if query.text is not None)
    of_texts = (
        vector
        for batch in iter(lambda: [{"text": queries[number].text} for number in islice(texts, batch_size)], [])
        for vector in model.encode(batch, processor=processor)
    )
    for number, query in enumerate(queries):
        yield number, next(files)[1] if query.text is None else next(of_texts)


def _items(queries: Sequence[str], query_as: str, recursive: bool) -> Iterator[tuple[str, Encodable]]:
    """(words, what they mean) of each query."""
    for query in map(str, with_stdin(queries)):
        found = [query]
        if query_as != "text" and is_many(query):
            found = [str(path) for path in list_media([query], tuple(WORDS), recursive)]
        for one in found:
            is_file = query_as == "file" or one is not query
            item: Any = {"text": one} if query_as == "text" else Path(one) if is_file else one
            try:
                yield one, encodable(item)
            except ValueError as fault:
                raise ValueError(f"{fault}: --as text or --as file") from None


def _model_of(index: MMIndex) -> str:
    named = index.settings.get("model")
    if not named:
        raise ValueError("the index does not name its model; give --model")
    return str(named)
