"""`mm embed` and `mm search`: files to an index, and the best of it for a text or a picture."""

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..processing.media_kinds import column_of, encodable
from ..searching.build import EmbedReport, checked_paths, embed_files, locked, write_files
from ..searching.graph import build_graph
from ..searching.index import NAME, MMIndex
from ..searching.rerank import rerank
from ..searching.shares import embed_share, embedding_rows, made_of_rows
from ..searching.sheet import check_sheet, draw_sheet
from ..weights.model_hash import hash_of_model
from .caption import without_other_bars
from .long_work import check_new, processes, tell_faults
from .media_lists import other_kind, told_media
from .models import load_head
from .on_ray import check_engine, run_on_ray
from .printing import json_line, printable
from .shards import Shards, read_shards

_FINDS = ("MMForImageTextRetrieval",)
AS = ("auto", "text", "file")
SHARDS = "shards"


def embed(
    paths: Sequence[str | Path], output: Path, model: str, say: Callable[[object], Any], *, recursive: bool = True,
    batch_size: int = 32, approximate: bool = False, engine: str = "local", actors: int | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> bool:  # fmt: skip
    """Brings the index in `output` up to date with the files in `paths`, and tells what was done. Of several processes
    (RANK and WORLD_SIZE) the one that writes the index tells it, and all return True.

    Args:
        engine, actors: "ray": actors encode the files into shards of Parquet in the folder `SHARDS` of the index.

    Returns: whether every file could be read.
    """
    on_ray, (rank, size) = check_engine(engine, actors=actors), processes()
    if on_ray and size > 1:
        raise ValueError("--engine ray starts its own processes; start it without torchrun")
    with without_other_bars():
        loaded, processor = load_head(model, _FINDS, device=device, dtype=dtype)
    files = told_media(paths, loaded.config.modalities, recursive)

    options = {"batch_size": batch_size, "show_progress": sys.stderr.isatty()}
    if on_ray:
        actor = {"model": model, "batch_size": batch_size, "device": device, "dtype": dtype}
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


def _why(path: str, kinds: Collection[str]) -> str:
    kind = column_of(path)
    return "it is no picture, video or sound" if kind is None else other_kind(kind, kinds)


def _embed_on_ray(
    model: Any, processor: Any, files: Sequence[Path], output: Path, actor: dict[str, Any], actors: int | None,
    options: dict[str, Any],
) -> EmbedReport:  # fmt: skip
    paths = checked_paths(files, output, options["batch_size"])
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
    model: str, index: Path, batch_size: int, device: str | None, dtype: str | None
) -> Callable[[list[str]], list[dict]]:
    """What makes rows of files for `run_on_ray`."""
    loaded, processor = load_head(model, _FINDS, device=device, dtype=dtype)
    return embedding_rows(loaded, processor, index, batch_size)


def search(
    folder: Path, query: str, say: Callable[[object], Any], *, model: str | None = None, top_k: int = 10,
    query_as: str = "auto", with_matching: bool = False, approximate: bool = False, sheet: Path | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Prints the files of an index that are most like a text or a picture, the best first: score, tab, path.

    Args:
        query_as: "text" or "file"; "auto": a query that ends as a file's name does is a file, which must be there.
        with_matching: order the hits by text and file read together.
        sheet: a picture of the hits to write, a new file.
    """
    if sheet is not None:
        check_new(check_sheet(sheet), "--sheet")
    if query_as not in AS:
        raise ValueError(f"--as {query_as} is not known; accepted: {', '.join(AS)}")
    index = MMIndex(folder)
    if not len(index):
        raise ValueError(f"the index {str(folder)!r} is empty")
    item: Any = {"auto": query, "text": {"text": query}, "file": Path(query)}[query_as]
    try:
        held = encodable(item)
    except ValueError as fault:
        raise ValueError(f"{fault}: --as text or --as file") from None
    if with_matching and held.text is None:
        raise ValueError("--rerank reads a text together with each file; the query is a file")
    with without_other_bars():
        loaded, processor = load_head(model or _model_of(index), _FINDS, device=device, dtype=dtype)
    (hits,) = loaded.search([item], index, top_k, approximate=approximate, processor=processor)
    if with_matching:
        hits = rerank(loaded, processor, str(held.text), hits)
    for hit in hits:
        score = f"{hit['match']:+.3f}" if with_matching else f"{hit['score']:.4f}"
        say(json_line(hit) if as_json else f"{score}\t{printable(hit['path'])}")
    if sheet is not None:
        draw_sheet(hits, sheet, title=query)


def _model_of(index: MMIndex) -> str:
    named = index.settings.get("model")
    if not named:
        raise ValueError("the index does not name its model; give --model")
    return str(named)
