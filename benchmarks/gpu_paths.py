"""The ways to compute one cross-attention call that gpu_cross_attention.py compares, all from the same states.

B contexts, R rows of a context, T tokens of a row, M = R * T queries of a context, H and Hkv heads, S keys, D width.
Folded paths take the M queries of a context at once. Expanded ones have a copy of keys and values for every row, as
transformers' generate() makes them; the copies are made before the clock starts, and in a backward pass their
gradients are summed.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mm.benchmarks.gpu_settings import Setting, lengths_of
from mm.kernels.cross_attention import attend, flash_cross_attention

States = tuple[Tensor, Tensor, Tensor]


class Problem(NamedTuple):
    """One call. lengths int32 (B,) and mask bool (B, S) hide the same keys; both None where all may be seen."""

    setting: Setting
    visible: str
    states: States  # (B, H, M, D), (B, Hkv, S, D) twice
    grad: Tensor  # of the output
    lengths: Tensor | None
    mask: Tensor | None
    beams: Tensor  # int64 (B * R,): which row's keys a row goes on with, one of its own context's


class Path(NamedTuple):
    """made: from the states of the problem to those that `attend` takes. is_expanded: rows are the batch."""

    made: Callable[[States], States]
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    is_expanded: bool


class NotThere(Exception):
    """Why a path cannot compute a problem."""


def draw(setting: Setting, visible: str, dtype: torch.dtype, device: torch.device) -> Problem:
    """The same numbers every time, laid out as projections write them."""
    generator = torch.Generator().manual_seed(0)

    def states(length: int, heads: int) -> Tensor:
        drawn = torch.randn(setting.contexts, length, heads, setting.head_dim, generator=generator)
        return drawn.to(device, dtype).transpose(1, 2)

    query, grad = (states(setting.queries, setting.heads) for _ in range(2))
    key, value = (states(setting.keys, setting.kv_heads) for _ in range(2))
    lengths = mask = None
    if visible != "all":
        lengths = torch.tensor(lengths_of(setting), dtype=torch.int32, device=device)
        mask = torch.arange(setting.keys, device=device) < lengths[:, None]
    rows = torch.randint(setting.rows, (setting.contexts, setting.rows), generator=generator)
    rows += setting.rows * torch.arange(setting.contexts)[:, None]
    return Problem(setting, visible, (query, key, value), grad, lengths, mask, rows.flatten().to(device))


# -- what the paths share ---------------------------------------------------------------------------------------------


def _as_they_are(states: States) -> States:
    return states


def _expanded(setting: Setting) -> Callable[[States], States]:
    """(B * R, H, T, D) and a copy of keys and values for every row."""

    def made(states: States) -> States:
        query, key, value = states
        rows = query.unflatten(2, (setting.rows, setting.tokens)).transpose(1, 2).flatten(0, 1)
        return rows, key.repeat_interleave(setting.rows, 0), value.repeat_interleave(setting.rows, 0)

    return made


def folded(output: Tensor, setting: Setting) -> Tensor:
    """An expanded path's output (B * R, H, T, D) as (B, H, M, D)."""
    return output.unflatten(0, (setting.contexts, setting.rows)).transpose(1, 2).flatten(2, 3)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """As transformers calls it: shared key heads by enable_gqa, with a mask by copies. mask (B, 1, 1, S)."""
    groups = query.shape[1] // key.shape[1]
    if mask is not None and groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=groups > 1)


def _mask_of_rows(problem: Problem) -> Tensor | None:
    """bool (B * R, 1, 1, S)."""
    mask = problem.mask
    return None if mask is None else mask.repeat_interleave(problem.setting.rows, 0)[:, None, None]


# -- the paths --------------------------------------------------------------------------------------------------------


def ours(problem: Problem, compiles: bool) -> Path:
    lengths, mask = problem.lengths, problem.mask
    if problem.visible == "mask":
        masked: Any = flash_cross_attention
        return Path(_as_they_are, lambda q, k, v: masked(q, k, v, key_mask=mask), False)
    return Path(_as_they_are, lambda q, k, v: attend(q, k, v, lengths), False)


def sdpa_folded(problem: Problem, compiles: bool) -> Path:
    mask = None if problem.mask is None else problem.mask[:, None, None]
    return Path(_as_they_are, lambda q, k, v: _sdpa(q, k, v, mask), False)


def sdpa_expanded(problem: Problem, compiles: bool) -> Path:
    mask = _mask_of_rows(problem)
    return Path(_expanded(problem.setting), lambda q, k, v: _sdpa(q, k, v, mask), True)


def sdpa_gathered(problem: Problem, compiles: bool) -> Path:
    """Beam search as transformers does it: the cross-attention's keys and values are gathered at every step."""
    if not problem.setting.beams:
        raise NotThere("the rows are no beams")
    mask, beams = _mask_of_rows(problem), problem.beams

    def step(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _sdpa(query, key.index_select(0, beams), value.index_select(0, beams), mask)

    return Path(_expanded(problem.setting), step, True)


def eager(problem: Problem, compiles: bool) -> Path:
    """Matrix products and a softmax in fp32, as transformers' eager attention."""
    mask, groups = _mask_of_rows(problem), problem.setting.heads // problem.setting.kv_heads

    def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        wide = torch.promote_types(scores.dtype, torch.float32)
        return F.softmax(scores, dim=-1, dtype=wide).to(query.dtype) @ value

    return Path(_expanded(problem.setting), products, True)


def flex(problem: Problem, compiles: bool) -> Path:
    """torch's flex_attention over folded rows, compiled; the block mask is made before the clock starts."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    setting, block_mask = problem.setting, None
    if problem.visible != "all":
        sizes = (setting.contexts, None, setting.queries, setting.keys)
        block_mask = create_block_mask(_rule(problem), *sizes, device=problem.grad.device.type)
    torch._dynamo.reset()  # or it would compile for sizes that vary, and give up after some problems
    function: Any = torch.compile(flex_attention, dynamic=False) if compiles else flex_attention
    is_shared = setting.heads != setting.kv_heads
    return Path(
        _as_they_are, lambda q, k, v: function(q, k, v, block_mask=block_mask, enable_gqa=is_shared), False
    )  # fmt: skip


def _rule(problem: Problem) -> Callable[..., Tensor]:
    """What flex_attention asks of a key: its place in the lengths, or the mask."""
    lengths, mask = problem.lengths, problem.mask
    assert lengths is not None and mask is not None
    if problem.visible == "lengths":
        return lambda b, h, m, n: n < lengths[b]
    return lambda b, h, m, n: mask[b, n]


def flash_attn(problem: Problem, compiles: bool) -> Path:
    """The flash-attn package over folded rows; lengths as those of a cache, which has no backward."""
    if importlib.util.find_spec("flash_attn") is None:
        raise NotThere("flash-attn is not installed")
    if problem.visible == "mask":
        raise NotThere("flash-attn takes no mask")
    from flash_attn import flash_attn_func, flash_attn_with_kvcache  # type: ignore[import-not-found]

    def fused(*states: Tensor) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in states)
        if problem.lengths is None:
            return flash_attn_func(query, key, value).transpose(1, 2)
        return flash_attn_with_kvcache(query, key, value, cache_seqlens=problem.lengths).transpose(1, 2)

    return Path(_as_they_are, fused, False)


PATHS: dict[str, Callable[[Problem, bool], Path]] = {
    "ours": ours,
    "SDPA + fold": sdpa_folded,
    "SDPA expanded": sdpa_expanded,
    "SDPA expanded + gather": sdpa_gathered,
    "eager": eager,
    "flex_attention": flex,
    "flash-attn": flash_attn,
}
