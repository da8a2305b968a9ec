"""Losses. V vocabulary."""

import torch
from torch.nn.functional import cross_entropy, pad

IGNORED = -100


def causal_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean negative log-likelihood of the next token; token t predicts label t + 1.

    Args:
        logits: (R, T, V), upcast to fp32 at least.
        labels: int64 (R, T) of the same tokens; -100 is ignored. Without any other label the loss is 0, not NaN.
        num_items_in_batch: labels in the whole accumulated batch, to divide by instead of this batch's count.
        label_smoothing: share of the target spread evenly over the vocabulary.
    """
    targets = pad(labels, (0, 1), value=IGNORED)[:, 1:].to(logits.device)
    total = cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    if torch.is_tensor(count):
        return total / count.to(total.device).clamp(min=1)
    return total / max(count, 1)
