"""Search by embeddings: the best of an index, batch by batch, and the two sides of a reranking. Q queries, M index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..core.input_checks import check_tensors
from ..core.inputs_outputs import MMContextOutput, MMOutput

ORDERS = ("itm", "itm+itc")


@dataclass
class MMSearchOutput(MMOutput):
    """What `retrieve` finds, best first. Q queries, k of the index for each.

    indices: int64 (Q, k); scores: (Q, k), cosine similarities; itm_scores: (Q, k), log-odds of a match, by which the k
    are then ordered.
    """

    indices: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    itm_scores: torch.Tensor | None = None


def best(query: torch.Tensor, index: torch.Tensor, count: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest `count` of query @ index.T for each query: values and numbers (Q, count), `batch_size` at a time."""
    index = index.to(query.device)
    found = [(part @ index.T).topk(count, dim=1) for part in query.split(batch_size)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def check_embeds(query: torch.Tensor, index: torch.Tensor, top_k: int, batch_size: int) -> None:
    """Embeddings (Q, P) and (M, P), not empty; counts from 1. Raises ValueError or TypeError."""
    check_tensors(query=query, index=index)
    if query.ndim != 2 or index.ndim != 2 or query.shape[1] != index.shape[1] or not len(query) or not len(index):
        raise ValueError(
            "query and index must be (Q, P) and (M, P), at least one each, as encode_text and encode_image give them; "
            f"got {tuple(query.shape)} and {tuple(index.shape)}"
        )
    for name, value in {"top_k": top_k, "batch_size": batch_size}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number from 1")


def rerank_sides(
    rerank: Mapping[str, Any], queries: int, size: int
) -> tuple[dict[str, torch.Tensor | None], MMContextOutput, bool]:
    """The texts, the contexts, and whether the queries are the texts. Raises ValueError."""
    unknown = set(rerank) - {"input_ids", "attention_mask", "encoder_outputs", "query", "order"}
    if unknown or "input_ids" not in rerank or not isinstance(rerank.get("encoder_outputs"), MMContextOutput):
        raise ValueError(
            "rerank must be a dict of input_ids, attention_mask (or none) and encoder_outputs, an MMContextOutput, "
            f"and perhaps query='text' or 'image' and order='itm' or 'itm+itc'; got the keys {sorted(rerank)}"
        )
    if rerank.get("order", "itm") not in ORDERS:
        raise ValueError(f"rerank['order']={rerank['order']!r} is unknown; accepted: {', '.join(ORDERS)}")
    text = {"input_ids": rerank["input_ids"], "attention_mask": rerank.get("attention_mask")}
    check_tensors(**text)
    context = rerank["encoder_outputs"]
    given = (len(text["input_ids"]), len(context.last_hidden_state))
    asked = rerank.get("query")
    fits = {"text": given == (queries, size), "image": given == (size, queries)}
    if asked is None and all(fits.values()):
        raise ValueError(
            f"there are {queries} queries and as many in the index: say rerank['query']='text' or 'image'"
        )
    asked = next((side for side, does in fits.items() if does), None) if asked is None else asked
    if asked is None or not fits.get(asked, False):
        raise ValueError(
            f"{given[0]} texts and {given[1]} contexts to rerank by do not fit {queries} queries and an index of "
            f"{size}" + ("" if asked is None else f", the queries being {asked!r}")
        )
    return text, context, asked == "text"
