"""Losses of tokens: of their logits, or without them, some rows at a time, their gradients in the same go.

R texts of T tokens, N rows of D, V vocabulary, n rows of a chunk. Without logits: after Liger (arXiv:2410.10989) and
CCE (arXiv:2411.09009).

For a row h, its target y and the smoothed target q = (1 - e) onehot(y) + e / V:

    z = W h + b,  p = softmax(z),  loss = -sum_v q_v log p_v,  dloss/dz = p - q
    dh = W^T (p - q),  dW = sum over rows of (p - q) h^T,  db = sum over rows of (p - q)

With a softcap c the logits are y = c tanh(z / c), p = softmax(y), and dloss/dz = (p - q) (1 - (y / c)^2).

Only z and p of one chunk exist at a time. The loss is a number, so its gradients are known up to a factor in forward.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad

from ..core.linear import capped, product

IGNORED = -100
CHUNK_ROWS = 256  # enough for the matrix products to run at full speed
SLICE_ROWS = 32


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
    return token_loss(logits, next_labels(labels), num_items_in_batch, label_smoothing)


def next_labels(labels: torch.Tensor) -> torch.Tensor:
    """int64 (R, T), what each token predicts; the last one nothing."""
    return pad(labels, (0, 1), value=IGNORED)[:, 1:]


def token_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """As `causal_lm_loss`, but token t of logits (..., V) predicts target t of (...): masked language modelling."""
    targets = targets.to(logits.device)
    total = cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return mean_over_items(total, targets, num_items_in_batch)


def mean_over_items(
    total: torch.Tensor, targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """A sum of losses divided by the number of targets, or by the number that is given; never by 0."""
    count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    if torch.is_tensor(count):
        return total / count.to(total.device).clamp(min=1)
    return total / max(count, 1)


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    chunk_rows: int = CHUNK_ROWS,
    softcap: float | None = None,
) -> torch.Tensor:
    """`token_loss(linear(hidden, weight, bias), targets, ...)`, its numbers and gradients, without (N, V) logits.

    The products are of the inputs' dtype, or autocast's; the rest, also the sums of the gradients, is fp32 at least.
    Ignored rows are left out before anything is computed, which reads their number on the host.

    Args:
        hidden: (..., D).
        weight: (V, D), a plain tensor of the dtype of hidden, unless under autocast.
        targets: int64 (...), -100 is ignored. Without any other target the loss and its gradients are 0.
        bias: (V,).
        num_items_in_batch: to divide by, instead of the number of targets.
        label_smoothing: share of the target spread evenly over the vocabulary.
        chunk_rows: n; the memory is little more than (n, V) in fp32, with a softcap twice that.
        softcap: the logits z are softcap * tanh(z / softcap), positive; None: they are z.

    Raises: ValueError for shapes or dtypes that do not fit.
    """
    _check(hidden, weight, targets, bias, chunk_rows)
    targets = targets.to(hidden.device)
    kept = (targets != IGNORED).flatten()
    rows, of_rows = hidden.flatten(0, -2)[kept], targets.flatten()[kept]
    grad = torch.is_grad_enabled()
    total = _ChunkedCrossEntropy.apply(rows, weight, bias, of_rows, label_smoothing, chunk_rows, softcap, grad)
    return mean_over_items(total, targets, num_items_in_batch)


def loss_without_logits(
    head: nn.Module,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """`token_loss(head(hidden), targets, ...)` of a plain linear head (D -> V); hidden (..., D), targets int64 (...).

    Raises: ValueError for a head that is more than its weight (an adapter's, a quantised one), or whose weight is
    spread over processes: it would not be asked.
    """
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        kind = type(head).__name__ if type(head) is not nn.Linear else type(head.weight).__name__
        raise ValueError(
            f"a loss without logits needs a plain nn.Linear as head; got {kind}. Leave return_logits True"
        )
    weights, sums = (head.weight, targets, head.bias), (num_items_in_batch, label_smoothing)
    return chunked_cross_entropy(hidden, *weights, *sums, softcap=softcap)


def is_plain_head(head: nn.Module) -> bool:
    """Whether a head is a linear layer whose weight may be read past it: no adapter's, not quantised, not spread over
    processes, without hooks, with values; and no graph is being made of it, whose shapes would depend on the labels.
    """
    plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter and not head.weight.is_meta
    hooked = bool(head._forward_hooks or head._forward_pre_hooks)
    return plain and not hooked and not torch.compiler.is_compiling() and not torch._C._get_tracing_state()


def _check(hidden, weight, targets, bias, chunk_rows) -> None:
    vocabulary, width = weight.shape
    if hidden.shape[-1] != width or hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"hidden must be (..., {width}) for a weight ({vocabulary}, {width}), and targets one per row; "
            f"got {tuple(hidden.shape)} and {tuple(targets.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (vocabulary,):
        raise ValueError(f"bias must be ({vocabulary},); got {tuple(bias.shape)}")
    if hidden.dtype != weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(f"hidden and weight must have one dtype; got {hidden.dtype} and {weight.dtype}")
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be 1 or more; got {chunk_rows}")


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of the losses of rows (N, D), int64 targets (N,), all of them real.

    The gradients are made in forward and given away in backward; a second backward makes them again.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, targets, smoothing, chunk_rows, softcap, grad_enabled):
        device = rows.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        wanted = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        ctx.save_for_backward(rows, weight, bias, targets)
        ctx.options = smoothing, chunk_rows, softcap, low, wanted
        total, ctx.grads = _loss_and_gradients(rows, weight, bias, targets, *ctx.options)
        return total

    @staticmethod
    def backward(ctx, *upstream):
        inputs = ctx.saved_tensors
        grads, ctx.grads = ctx.grads or _loss_and_gradients(*inputs, *ctx.options)[1], None
        given = [
            None if grad is None else grad.mul_(upstream[0]).to(of.dtype)
            for grad, of in zip(grads, inputs[:3], strict=True)
        ]
        return *given, None, None, None, None, None


def _loss_and_gradients(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    smoothing: float,
    chunk_rows: int,
    softcap: float | None,
    low: torch.dtype,
    wanted: list[bool],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The sum of the losses, and its gradients by rows, weight and bias as far as wanted; `low` is of the products."""
    sums = torch.promote_types(low, torch.float32)
    of_rows = torch.empty_like(rows) if wanted[0] else None
    of_weight = None
    of_bias = rows.new_zeros(len(weight), dtype=sums) if wanted[2] else None
    total = rows.new_zeros((), dtype=sums)
    with torch.autocast(rows.device.type, enabled=False):
        matrix = weight.to(low)
        for first in range(0, len(rows), chunk_rows):
            chunk = slice(first, first + chunk_rows)
            states, of_chunk = rows[chunk].to(low), targets[chunk]
            logs, cap_slopes = _log_probabilities(states, matrix, bias, sums, softcap)
            total += _sum_of_losses(logs, of_chunk, smoothing)
            slopes = _slopes_in_place(logs, of_chunk, smoothing) if any(wanted) else logs
            slopes = slopes if cap_slopes is None else slopes.mul_(cap_slopes)
            if of_bias is not None:
                of_bias += slopes.sum(0)
            if wanted[1]:
                of_weight = _plus_product(of_weight, slopes, states)
            if of_rows is not None:
                of_rows[chunk] = product(slopes.to(low), matrix.T)
            del logs, slopes, cap_slopes  # before the next chunk's are made
    if wanted[1] and of_weight is None:
        of_weight = torch.zeros_like(weight, dtype=sums)
    return total, [of_rows, of_weight, of_bias]


def _log_probabilities(states, matrix, bias, dtype: torch.dtype, softcap: float | None):
    """(n, V), of `dtype`, in the memory of the logits, except some rows at a time; and of each logit the share of a
    change that the cap lets through, (n, V); None: all."""
    logs = product(states, matrix, None if bias is None else bias.to(matrix.dtype)).to(dtype)
    cap_slopes = None
    if softcap is not None:
        logs = capped(logs, softcap)
        cap_slopes = 1 - (logs / softcap) ** 2
    for part in logs.split(SLICE_ROWS):
        part.copy_(part.log_softmax(1))
    return logs, cap_slopes


def _sum_of_losses(logs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    total = -logs.gather(1, targets[:, None]).sum()
    return total if not smoothing else (1 - smoothing) * total - smoothing * logs.mean(1).sum()


def _slopes_in_place(logs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """p - q in the memory of log p (n, V)."""
    slopes = logs.exp_()
    if smoothing:
        slopes -= smoothing / logs.shape[1]
    slopes[torch.arange(len(targets), device=targets.device), targets] -= 1 - smoothing
    return slopes


def _plus_product(total: torch.Tensor | None, slopes: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """total (V, D; None: 0) + slopes.T @ states. Sums of fp16 products could pass 65504, so they are made in fp32."""
    if states.dtype == torch.bfloat16:
        of_chunk = (slopes.to(torch.bfloat16).T @ states).to(slopes.dtype)
        return of_chunk if total is None else total.add_(of_chunk)
    states = states.to(slopes.dtype)
    return product(slopes.T, states.T) if total is None else total.addmm_(slopes.T, states)
