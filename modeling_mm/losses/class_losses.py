"""Losses of classes and scores, and the checks of their targets. R rows, L classes."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, mse_loss

from ..core.input_checks import INTEGERS, check_tensors, may_read_values


def classification_kind(kind: str, problem_type: str | None, num_labels: int, labels: torch.Tensor) -> str:
    """Which loss "auto" means: Transformers' rule, by problem_type, else by the number of labels and their dtype."""
    if kind != "auto":
        return kind
    if problem_type is None and num_labels > 1:
        return "bce" if labels.is_floating_point() else "cross_entropy"
    if problem_type == "single_label_classification":
        return "cross_entropy"
    return "bce" if problem_type == "multi_label_classification" else "mse"


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean loss of logits (R, L), upcast to fp32 at least.

    kind             labels                      loss
    cross_entropy    int (R,) | float (R, L)     of the class, or of the shares of all classes
    bce              float (R, L) in 0..1        every class by itself: multi-label, or soft scores as in VQA
    kl               float (R, L), >= 0          KL(labels || softmax), summed over classes (VisualBERT's VQA)
    mse              float (R, L) | (R,), L = 1  squared error
    ordinal          int (R,)                    see `ordinal_loss`
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.device)
    if labels.is_floating_point():
        labels = labels.to(logits.dtype)
    if kind == "cross_entropy":
        return cross_entropy(logits, labels if labels.is_floating_point() else labels.long())
    if kind == "bce":
        return binary_cross_entropy_with_logits(logits, labels)
    if kind == "kl":
        return kl_div(logits.log_softmax(-1), labels, reduction="batchmean")
    if kind == "mse":
        return mse_loss(logits, labels.reshape(logits.shape))
    return ordinal_loss(logits, labels.long())


def ordinal_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Classes in an order, such as a sentiment's strength: the mean over the L - 1 cuts of -log P(the right side).

    P(class <= k) and P(class > k) are sums of softmax(logits), so a distant class costs more than a neighbour, the
    largest logit stays the answer, and with two classes it is cross-entropy. logits (R, L), labels int64 (R,).
    """
    logs = logits.log_softmax(-1)
    below = logs.logcumsumexp(-1)[:, :-1]  # (R, L-1), log P(class <= k)
    above = logs.flip(-1).logcumsumexp(-1).flip(-1)[:, 1:]  # log P(class > k)
    cuts = torch.arange(logits.shape[1] - 1, device=logits.device)
    return -torch.where(labels[:, None] <= cuts, below, above).mean()


def check_class_labels(labels: torch.Tensor, logits: torch.Tensor, kind: str, read_values: bool = True) -> None:
    """Targets of the dtype, shape and range that a loss takes. Raises ValueError or TypeError."""
    check_tensors(labels=labels)
    rows, classes = logits.shape
    wanted, shapes = _targets(kind, rows, classes, labels.is_floating_point())
    given = "float" if labels.is_floating_point() else "int64" if labels.dtype in INTEGERS else str(labels.dtype)
    if given not in wanted or tuple(labels.shape) not in shapes:
        raise ValueError(
            f"labels for the loss {kind!r} of {classes} classes must be {' or '.join(wanted)} "
            f"{' or '.join(map(str, shapes))}; got {labels.dtype} {tuple(labels.shape)}"
        )
    if kind == "ordinal" and classes < 2:
        raise ValueError(f"the loss {kind!r} needs two classes or more; this model has num_labels={classes}")
    if not (read_values and may_read_values()):
        return
    low, high = float(labels.min()), float(labels.max())
    limit = {"int64": classes - 1, "float": 1 if kind == "bce" else float("inf")}[given]
    if not (low >= 0 and high <= limit) and kind != "mse":
        raise ValueError(f"labels for the loss {kind!r} must be in 0..{limit}; got {low:g}..{high:g}")
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"labels must be finite; got {low:g}..{high:g}")


def _targets(kind: str, rows: int, classes: int, is_float: bool) -> tuple[list[str], list[tuple[int, ...]]]:
    """The dtypes and shapes that a loss takes."""
    if kind == "ordinal":
        return ["int64"], [(rows,)]
    if kind == "cross_entropy":
        return ["int64", "float"], [(rows, classes) if is_float else (rows,)]
    return ["float"], [(rows, classes), (rows,)] if kind == "mse" and classes == 1 else [(rows, classes)]
