"""`mm embed` and `mm search`: files to an index, and the best of it for a text or a picture."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..processing.media_kinds import column_of, encodable
from ..searching.build import embed_files
from ..searching.graph import build_graph
from ..searching.index import MMIndex
from ..searching.rerank import rerank
from ..searching.sheet import draw_sheet
from .caption import without_other_bars
from .media_lists import list_media
from .models import load_head
from .printing import json_line, printable

_FINDS = ("MMForImageTextRetrieval",)
AS = ("auto", "text", "file")


def embed(
    paths: Sequence[str | Path], output: Path, model: str, say: Callable[[object], Any], *, recursive: bool = True,
    batch_size: int = 32, approximate: bool = False, device: str | None = None, dtype: str | None = None,
    as_json: bool = False,
) -> bool:  # fmt: skip
    """Brings the index in `output` up to date with the files in `paths`, and tells what was done.

    Returns: whether every file could be read.
    """
    with without_other_bars():
        loaded, processor = load_head(model, _FINDS, device=device, dtype=dtype)
    kinds = [kind for kind in ("image", "video", "audio") if kind in loaded.config.modalities]
    files = list_media(paths, kinds, recursive)

    def told(path: str, reason: str) -> None:
        tqdm.write(f"mm: {printable(path, sys.stderr)}: {printable(reason, sys.stderr)}", file=sys.stderr)

    report = embed_files(
        loaded, files, output, processor=processor, batch_size=batch_size, show_progress=sys.stderr.isatty(),
        on_fault=told,
    )  # fmt: skip
    for path in report.left_aside:
        kind = column_of(path)
        why = "is no picture, video or sound" if kind is None else f"is {kind}, which the model does not read"
        sys.stderr.write(f"mm: {printable(path, sys.stderr)} {why}\n")
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
    return not report.faults and not report.left_aside


def search(
    folder: Path, query: str, say: Callable[[object], Any], *, model: str | None = None, top_k: int = 10,
    query_as: str = "auto", with_matching: bool = False, approximate: bool = False, sheet: Path | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Prints the files of an index that are most like a text or a picture, the best first: score, tab, path.

    Args:
        query_as: "text" or "file"; "auto": a query that ends as a file's name does is a file, which must be there.
        with_matching: order the hits by text and file read together.
        sheet: a picture of the hits to write.
    """
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
