"""Exact search, a block of rows at a time: the whole of the embeddings is never in memory. Q queries, M rows."""

import torch

BLOCK = 65_536  # rows compared at a time: 64 MiB of 256 numbers


def best_in_blocks(
    query: torch.Tensor, embeddings: torch.Tensor, top_k: int, block: int = BLOCK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and rows (Q, k) of the most similar, best first, by one pass over the embeddings."""
    scores, rows = query.new_zeros(len(query), 0), torch.zeros(len(query), 0, dtype=torch.long)
    for start in range(0, len(embeddings), block):
        found = query @ embeddings[start : start + block].T
        count = min(top_k, found.shape[1])
        values, places = found.topk(count, dim=1)
        scores, rows = torch.cat([scores, values], 1), torch.cat([rows, places + start], 1)
        # by row number first, so that a stable sort leaves equal scores in that order
        by_row = rows.argsort(dim=1)
        scores, rows = scores.gather(1, by_row), rows.gather(1, by_row)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        scores, rows = scores.gather(1, order), rows.gather(1, order)
    return scores, rows
