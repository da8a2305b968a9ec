"""Approximate search: a graph of neighbours (usearch), with its recall against the exact search. Q queries, M rows."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .exact import best_in_blocks

MORE = 4  # candidates of the graph for each hit; their exact scores decide
SAMPLE = 256  # rows that the recall is measured with


def _usearch() -> Any:
    try:
        return import_module("usearch.index")
    except ImportError as error:
        raise ValueError("approximate search needs usearch: pip install '.[index]'") from error


def _path(index: Any) -> Path:
    return index.folder / f"graph-{index.settings['number']}.usearch"


def build_graph(index: Any, top_k: int = 10) -> float:
    """Writes the graph of an index next to it; returns recall@k of `candidates` against the exact search, by rows of
    the index (a little turned, so that they are not found as themselves)."""
    library = _usearch()
    if not len(index):
        raise ValueError("the index is empty: there is nothing to make a graph of")
    graph = library.Index(ndim=index.embeddings.shape[1], metric="ip", dtype="f32")
    graph.add(torch.arange(len(index)).numpy(), index.embeddings.numpy(), threads=1)
    aside = index.folder / f".{_path(index).name}.writing"
    graph.save(str(aside))
    os.replace(aside, _path(index))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(index), generator=generator)[:SAMPLE]
    query = index.embeddings[rows]
    noise = torch.randn(query.shape, generator=generator) / query.shape[1] ** 0.5
    query = torch.nn.functional.normalize(query + 0.3 * noise, dim=1)
    exact, found = best_in_blocks(query, index.embeddings, top_k)[1], candidates(index, query, top_k)[1]
    same = (exact[:, :, None] == found[:, None, :]).any(2)
    return same.float().mean().item()


def candidates(index: Any, query: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact scores and rows (Q, k) of what the graph proposes."""
    path = _path(index)
    if not path.is_file():
        raise ValueError(
            f"the index {str(index.folder)!r} has no graph, or an old one; make it: mm embed --approximate"
        )
    graph = _usearch().Index.restore(str(path), view=True)
    count = min(top_k, len(index))
    scores, rows = [], []
    for one in query:
        keys = graph.search(one.numpy(), min(MORE * count, len(index)), threads=1).keys
        near = torch.as_tensor(keys.astype("int64")).sort().values
        if len(near) < count:  # a graph promises no number: what it lacks is looked for exactly
            near = torch.arange(len(index))
        exact = index.embeddings[near] @ one
        order = exact.argsort(descending=True, stable=True)[:count]
        scores.append(exact[order])
        rows.append(near[order])
    return torch.stack(scores), torch.stack(rows)
