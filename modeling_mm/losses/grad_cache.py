"""Large contrastive batches from the memory of small ones, exactly (GradCache, arXiv:2101.06983).

A contrastive loss needs the embeddings of the whole batch, so accumulating gradients over small batches is another
loss. But the embeddings are small; what is large is what the encoder keeps for backward. So

    forward    each chunk is encoded, only its embeddings are kept
    loss       of the embeddings of all chunks
    backward   of the loss by the embeddings; then each chunk is encoded again and handed its part

Here the second run is checkpointing's: the result is an ordinary tensor of autograd, for any loss, any trainer and any
wrapper such as DDP. Dropout draws the same numbers in both runs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def encode_in_chunks(encode: Callable[..., Any], chunk_size: int, **inputs: Any) -> Any:
    """encode(**inputs), of some rows at a time.

    Args:
        encode: inputs -> a tensor (n, ...), or a tuple of such, row by row: a batch norm in training is none.
        chunk_size: rows of a chunk; the last one may be shorter.
        inputs: tensors are cut along their first dimension, all of the same n; anything else goes to every chunk.

    Raises: ValueError if the tensors have other numbers of rows, or chunk_size is below 1.
    """
    lengths = {name: len(value) for name, value in inputs.items() if torch.is_tensor(value)}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"encode_in_chunks needs tensors of one number of rows; got {lengths or 'no tensor'}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more; got {chunk_size}")
    rows = next(iter(lengths.values()))
    chunks = [
        _checkpointed(encode, {name: x[i : i + chunk_size] if name in lengths else x for name, x in inputs.items()})
        for i in range(0, max(rows, 1), chunk_size)
    ]
    if torch.is_tensor(chunks[0]):
        return torch.cat(chunks)
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _checkpointed(encode: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    if not torch.is_grad_enabled():
        return encode(**inputs)
    return checkpoint(encode, use_reentrant=False, **inputs)
