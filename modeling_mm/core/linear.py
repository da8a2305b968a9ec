"""Linear layers: on CPUs by oneDNN where torch's own product is slow, and without keeping what they were made of.

torch multiplies fp32 matrices with MKL, which leaves AVX-512 unused on processors of AMD. oneDNN, which torch brings
along, uses it: the same product takes 0.3 to 0.6 of the time there (benchmarks/parts.py).
"""

import functools
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.overrides import TorchFunctionMode

# Below both of these a product is so small that the call itself decides, and torch's is the cheaper one.
LEAST_WORK, LEAST_WEIGHT = 1 << 20, 1 << 19  # multiplications; numbers of the weight

_asked: bool | None = None


def use_onednn(wanted: bool | None = None) -> None:
    """Whether models multiply fp32 matrices on CPUs by oneDNN, for this process.

    Args:
        wanted: None, as at the start: on processors of AMD with AVX-512, the only ones where it was measured to be
            faster. True: on every CPU. False: nowhere.

    Raises: TypeError for anything else; ValueError for True where this torch has no oneDNN.
    """
    global _asked
    if wanted is not None and not isinstance(wanted, bool):
        raise TypeError(f"wanted must be True, False or None; got {wanted!r}")
    if wanted and not _works():
        raise ValueError(f"torch {torch.__version__} has no oneDNN on this machine, or not the operator that is used")
    _asked = wanted


@functools.cache
def is_faster() -> bool:
    """Whether oneDNN was measured to be faster on processors of this kind."""
    about = Path("/proc/cpuinfo")  # Linux
    name = about.read_text(encoding="utf-8", errors="replace")[:1000] if about.exists() else platform.processor()
    is_slow = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "AuthenticAMD" in name and is_slow and _works()


@functools.cache
def _works() -> bool:
    """Whether this torch has the operator as it is called here; it is not in torch's documentation."""
    try:
        ones = torch.ones(2, 3)
        return torch.backends.mkldnn.is_available() and torch.equal(_by_onednn(ones, ones), torch.full((2, 2), 3.0))
    except (AttributeError, RuntimeError, TypeError):
        return False


def linear(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """`layer(states)`; states (..., D) -> (..., E).

    A layer that is more than its weight and bias (an adapter's, a quantised one, one with hooks) is called as it is.
    """
    is_graph = torch.compiler.is_compiling() or torch._C._get_tracing_state()  # before anything reads a size
    if is_graph or type(layer) is not nn.Linear:
        return layer(states)
    weight = layer.weight  # asked here already: a decode step has many small products, whose calls are what it costs
    if weight.numel() < LEAST_WEIGHT and states.numel() * weight.shape[0] < LEAST_WORK or _is_seen(layer):
        return layer(states)
    return _product(states, weight, layer.bias)


def products_of_others() -> AbstractContextManager:
    """Inside, the linear layers of another library's model multiply as `linear` does, in a pass without gradients."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch.is_grad_enabled() or not _is_wanted():
        return nullcontext()
    is_watched = torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()
    return nullcontext() if is_watched or _is_transformed() else _Products()


class _Products(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.linear and not kwargs and _fits(*args[:2]):
            return _multiplied(*args)
        return func(*args, **(kwargs or {}))


def activated_linear(
    layer: nn.Module, act: nn.Module, states: torch.Tensor, factor: torch.Tensor | None = None
) -> torch.Tensor:
    """`layer(act(states))`, or `layer(act(states) * factor)`; states, factor (..., D) -> (..., E).

    In training the backward pass applies the activation again, instead of keeping what it gave.
    """
    if not torch.is_grad_enabled() or not _may_be_activated_again(layer, act, states, factor):
        return linear(layer, act(states) if factor is None else act(states) * factor)
    factors = None if factor is None else factor.reshape(-1, factor.shape[-1])
    rows = states.reshape(-1, states.shape[-1])
    return _ActivatedProduct.apply(act, rows, factors, layer.weight, layer.bias).view(*states.shape[:-1], -1)


def _may_be_activated_again(
    layer: nn.Module, act: nn.Module, states: torch.Tensor, factor: torch.Tensor | None
) -> bool:
    """Whether layer and activation are no more than their operators, and these are plain rows of one shape, not those
    of torch.inference_mode."""
    if _is_seen(layer, act) or _is_transformed() or next(act.parameters(), None) is not None:
        return False
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and type(states) is torch.Tensor
        and states.ndim > 1
        and states.numel() > 0
        and not states.is_inference()
        and (factor is None or (type(factor) is torch.Tensor and factor.shape == states.shape))
        and (factor is None or not factor.is_inference())
    )


def _activated(act: nn.Module, states: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return act(states) if factor is None else act(states) * factor


def product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """states (..., D) times weight (E, D), transposed, plus bias (E,): (..., E)."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():  # before anything reads a size
        return nn.functional.linear(states, weight, bias)
    return _product(states, weight, bias)


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`product` where no graph is made of the call."""
    if not _fits(states, weight) or not _is_wanted() or _is_transformed():
        return nn.functional.linear(states, weight, bias)
    trains = states.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if trains and torch.is_grad_enabled():
        rows = states.reshape(-1, states.shape[-1])
        return _Product.apply(rows, weight, bias).view(*states.shape[:-1], -1)
    return _multiplied(states, weight, bias)


def capped(products: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Scores or logits as softcap * tanh(products / softcap), which lies within +-softcap; None: as they are."""
    return products if softcap is None else softcap * torch.tanh(products / softcap)


def _is_wanted() -> bool:
    return is_faster() if _asked is None else _asked


def _is_transformed() -> bool:
    """Whether autocast or torch.func changes what operators do."""
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_seen(*layers: nn.Module) -> bool:
    """Whether a graph is made of this call, or a hook watches one of these layers."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or nn.modules.module._has_any_global_hook():
        return True
    for layer in layers:
        hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        if hooks or "forward" in vars(layer):
            return True
    return False


def _fits(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether these are plain fp32 matrices on a CPU, large enough."""
    return (
        (weight.numel() >= LEAST_WEIGHT or states.numel() * weight.shape[0] >= LEAST_WORK)
        and type(states) is torch.Tensor
        and type(weight) in (torch.Tensor, nn.Parameter)
        and states.dtype is weight.dtype is torch.float32
        and states.device.type == weight.device.type == "cpu"
        and states.numel() > 0
        and states.ndim > 1
        and states.shape[-1] == weight.shape[-1]
        and not is_legacy_batchedtensor(states)  # of torch.autograd.grad(is_grads_batched=True)
    )


def _multiplied(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """By torch's operator where a mode watches operators (torch.device, a counter of FLOPs) or oneDNN is switched off.

    Modes are looked at here, and nowhere above: a layer is computed again for its backward pass without those of its
    forward pass, and what it saves must be the same.
    """
    is_seen = torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()
    if is_seen or not torch._C._get_mkldnn_enabled():
        return nn.functional.linear(states, weight, bias)
    return _by_onednn(states, weight, bias)


def _by_onednn(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """The product of rows (N, D), with its gradients.

    The transposed weight is saved, as torch does: it stays what it was where the parameter gets other data before the
    backward pass. Gradients of gradients need the parameter itself.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias):
        ctx.save_for_backward(rows, weight, weight.t())
        return _multiplied(rows, weight, bias)

    @staticmethod
    def backward(ctx, *upstream):
        rows, weight, transposed = ctx.saved_tensors
        return _gradients(
            upstream[0], rows, weight.t() if torch.is_grad_enabled() else transposed, ctx.needs_input_grad
        )


class _ActivatedProduct(torch.autograd.Function):
    """The product of activated rows, which are made again for its gradients."""

    @staticmethod
    def forward(ctx, act, rows, factors, weight, bias):
        ctx.act = act
        ctx.save_for_backward(rows, factors, weight, weight.t())
        return product(_activated(act, rows, factors), weight, bias)

    @staticmethod
    def backward(ctx, *upstream):
        rows, factors, weight, transposed = ctx.saved_tensors
        is_graph = torch.is_grad_enabled()  # gradients of gradients go on to the rows as they were given
        with torch.enable_grad():
            if not is_graph:
                rows = rows.detach().requires_grad_()
                factors = None if factors is None else factors.detach().requires_grad_()
            activated = _activated(ctx.act, rows, factors)
        _, *needed, of_weight, of_bias = ctx.needs_input_grad
        leaves = {place: one for place, one in enumerate((rows, factors)) if one is not None and needed[place]}
        of_activated, *others = _gradients(
            upstream[0],
            activated if is_graph else activated.detach(),
            weight.t() if is_graph else transposed,
            (bool(leaves), of_weight, of_bias),
        )
        of_sources: dict[int, torch.Tensor] = {}
        if leaves:
            found = torch.autograd.grad(activated, list(leaves.values()), of_activated, create_graph=is_graph)
            of_sources = dict(zip(leaves, found, strict=True))
        return None, of_sources.get(0), of_sources.get(1), *others


def _gradients(grad, rows, transposed, needed) -> tuple[torch.Tensor | None, ...]:
    """By rows, weight and bias, as far as they are needed; grad (N, E), rows (N, D), transposed (D, E)."""
    of_rows, of_weight, of_bias = needed
    return (
        product(grad, transposed) if of_rows else None,
        product(grad.t(), rows.t()) if of_weight else None,
        grad.sum(0) if of_bias else None,
    )
