"""The accuracy rule for kernels, from FlashAttention's tests: no hand-picked tolerance.

A result may err by `factor` times the error of plain PyTorch in the same dtype (fp32 for lse and mass), and by what
rounding may cost anyone (`rounding`). The second term does not depend on the CPU. Without it the limit is luck where
PyTorch is nearly exact: the order of its sums follows from the CPU, and where a query sees one key autograd has an
exact 0 for what is a difference of two sums in a kernel. Source of the first: the tests of FlashAttention-2 (Dao 2023,
arXiv:2307.08691).
"""

import torch
from torch import Tensor

from .reference import contexts

FORWARD, BACKWARD = 2.0, 3.0  # factors of results, and of gradients and sums over rows
UNIT = 2.0**-24  # the unit roundoff of fp32, in which sums are kept for every dtype


def largest(values: Tensor) -> float:
    """The largest absolute value; NaN if any is NaN, 0 for an empty tensor."""
    return values.abs().amax().item() if values.numel() else 0.0


def error(result: Tensor, truth: Tensor) -> float:
    """The largest difference in fp64. Equal infinities, as the lse of a row without keys, differ by 0."""
    result, truth = result.double(), truth.double()
    return largest(torch.where(result == truth, 0.0, result - truth))


def allowed_error(truth: Tensor, plain: Tensor, factor: float, bound: Tensor | None = None) -> float:
    """`factor` times the error of a plain result, the largest of `bound` (see `rounding`), and, for truths that the
    plain result hits exactly, twice what adding 0.3 and taking it away costs in its dtype."""
    rounded = truth.to(plain.dtype)
    slack = 2 * error(rounded + 0.3 - 0.3, rounded)
    return factor * error(plain, truth) + slack + (0.0 if bound is None else largest(bound))


def rounding(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    d_output: Tensor | None = None,
    d_lse: Tensor | None = None,
    *,
    scale: float | None = None,
    **settings: Tensor | None,
) -> dict[str, Tensor]:
    """By how much each number of output, lse and mass may be off by rounding, for any order of its sums.

    With d_output also d_query, d_key and d_value. Masked keys and values must be finite.

    Where a sum of D products q_d k_d is taken one by one in fp32, each partial sum is rounded, by at most u = 2^-24 of
    itself. Products of random signs make partial sums of about sqrt(d) |q| |k| / D, and their D roundings together a
    standard deviation of u |q| |k| / sqrt(6), for every D; other orders make less. So a score may be off by
    e = 2 u scale |q| |k|, five standard deviations, which holds its factors scale and log2(e) as well. (Products of
    one sign would make sqrt(D) / 3 u |q| |k|: this is no bound for those.) What follows from e is first-order, and
    absolute errors are added. Weights and gradients of scores are rounded to the dtype of the inputs before they are
    multiplied, and results in the end, each time by at most `unit` of themselves.

    Args:
        settings: key_lengths, key_mask, row_ranges and cu_rows of `reference_attention`.
    """
    unit = torch.finfo(query.dtype).eps / 2
    query, key, value = query.double(), key.double(), value.double()
    rows_of = {"output": query, "lse": query[..., 0], "d_query": query}
    keys_of = {"mass": key.new_empty(len(key), query.shape[1], key.shape[2]), "d_key": key, "d_value": value}
    found = {name: torch.zeros_like(like) for name, like in (rows_of | keys_of).items()}
    if d_output is None:
        found = {name: found[name] for name in ("output", "lse", "mass")}
    for rows, one, seen in contexts(query, key, **settings):
        gradients = None
        if d_output is not None:
            of_lse = torch.zeros_like(d_output[..., 0]) if d_lse is None else d_lse
            gradients = d_output[rows][0].double(), of_lse[rows][0].double()[..., None]
        bounds = _of_context(query[rows][0], key[one][0], value[one][0], gradients, seen[0], scale, unit)
        for name, bound in bounds.items():
            found[name][rows if name in rows_of else one] = bound
    return found


def _of_context(query, key, value, gradients, seen, scale: float | None, unit: float) -> dict[str, Tensor]:
    """rounding() of one context: query (H, M, D), key and value (Hkv, N, D), seen (M, N), all in fp64."""
    groups, u = query.shape[0] // key.shape[0], UNIT
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = (tensor.repeat_interleave(groups, 0) for tensor in (key, value))
    scores = (query @ key.mT * scale).masked_fill(~seen, -torch.inf)
    sees = seen.any(-1, keepdim=True)
    lse = torch.logsumexp(scores, -1, keepdim=True).where(sees, 0.0)
    weights = (scores - lse).exp()

    e = 2 * u * scale * _norms(query, key)
    mean = (weights * e).sum(-1, keepdim=True)
    of_lse = (mean + 2 * u * (lse.abs() + 1)) * sees  # its last steps: + log2(sum), * ln(2)
    # Once from the scores of a row, where the error of a key counts by what the others weigh, and once from the lse.
    of_shares = weights * (e * (1 - 2 * weights) + mean + 2 * u)
    of_weights = weights * (e + of_lse + 2 * u)
    bounds = {
        "output": (of_shares + (2 * unit + u) * weights) @ value.abs(),
        "lse": of_lse[..., 0],
        "mass": (of_weights + u * weights).sum(1),
    }
    if gradients is None:
        return bounds

    d_output, d_lse = gradients
    shared = d_output * (weights @ value)
    delta = shared.sum(-1, keepdim=True) - d_lse
    d_weights = d_output @ value.mT
    d_scores = weights * (d_weights - delta)
    of_delta = (of_shares * d_weights.abs()).sum(-1, keepdim=True) + u * (delta.abs() + d_lse.abs())
    of_delta += (unit + u) * shared.norm(dim=-1, keepdim=True)  # of the output's numbers, each by itself
    of_d_scores = of_weights * (d_weights - delta).abs() + weights * (2 * u * _norms(d_output, value) + of_delta)
    of_d_scores = scale * (of_d_scores + 2 * (unit + u) * d_scores.abs())
    of_d_keys = of_d_scores.mT @ query.abs()
    of_d_values = (of_weights + (2 * unit + u) * weights).mT @ d_output.abs()
    return {
        **bounds,
        "d_query": of_d_scores @ key.abs(),
        "d_key": of_d_keys.unflatten(0, (-1, groups)).sum(1),
        "d_value": of_d_values.unflatten(0, (-1, groups)).sum(1),
    }


def _norms(left: Tensor, right: Tensor) -> Tensor:
    """(H, M, D), (H, N, D) -> |left| |right| (H, M, N)."""
    return left.norm(dim=-1)[..., None] * right.norm(dim=-1)[..., None, :]
