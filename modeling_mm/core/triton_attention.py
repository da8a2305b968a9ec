"""The attention implementation "mm_triton": cross-attention by the Triton kernels, everything else by SDPA.

Importing this registers it with Transformers, together with a mask function of the same name. Cross-attention takes
lengths and ranges instead of a mask; `kernels_run` says beforehand whether it will.
"""

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface
from transformers.utils import logging

from ...kernels.cross_attention import INTERPRETED_DTYPES, KERNEL_DTYPES, MAX_HEAD_DIM, attend, runs_kernels
from ...kernels.interpreter import HAS_TRITON, IS_INTERPRETED

logger = logging.get_logger(__name__)

MM_TRITON = "mm_triton"


def why_not(tensor: torch.Tensor, head_dim: int, dropout: float = 0.0) -> str | None:
    """Why the kernels cannot run for these states (any tensor of their device and dtype); None: they can."""
    if dropout > 0:
        return "attention_dropout > 0 in training"
    if tensor.dtype not in KERNEL_DTYPES:
        return f"dtype {tensor.dtype}"
    if head_dim > MAX_HEAD_DIM:
        return f"head_dim {head_dim} > {MAX_HEAD_DIM}"
    if not runs_kernels(tensor):
        if IS_INTERPRETED and tensor.dtype not in INTERPRETED_DTYPES:
            return f"dtype {tensor.dtype} in Triton's interpreter"
        return f"device {tensor.device.type}" if HAS_TRITON else "Triton is not installed"
    return None


def kernels_run(tensor: torch.Tensor, head_dim: int, dropout: float) -> bool:
    """Whether cross-attention under this implementation reads key_lengths, row_ranges and cu_rows, not a mask."""
    reason = why_not(tensor, head_dim, dropout)
    if reason is not None:
        logger.warning_once(f"{MM_TRITON}: cross-attention is computed by SDPA with folded rows ({reason})")
    return reason is None


def default_implementation() -> str | None:
    """mm_triton where there is an NVIDIA GPU and Triton; None leaves the choice to Transformers."""
    return MM_TRITON if HAS_TRITON and torch.version.hip is None and torch.cuda.is_available() else None


def mm_triton_forward(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, M, D); with cu_rows (1, H, M, D)
    key: torch.Tensor,  # (B, Hkv, S, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # bool or float (B, 1, M, S)
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    key_lengths: torch.Tensor | None = None,  # int32 (B,), cross-attention
    row_ranges: torch.Tensor | None = None,  # int32 (B, M, 2), with cu_rows (1, M, 2)
    cu_rows: torch.Tensor | None = None,  # int32 (B + 1,)
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Returns (B, M, H, D). Causality is what the call says, never what the module says of itself."""
    lengths_given = not (key_lengths is None and row_ranges is None and cu_rows is None)
    if attention_mask is not None and lengths_given:
        raise ValueError("pass attention_mask, or key_lengths, row_ranges and cu_rows, not both")
    reason = "self-attention"
    if getattr(module, "is_cross_attention", False) and not is_causal:
        reason = why_not(query, query.shape[-1], dropout)
        if attention_mask is not None:
            reason = "an attention mask of four dimensions"
    if reason is None:
        output = attend(query, key, value, key_lengths, row_ranges, cu_rows, scaling)
        return output.transpose(1, 2), None
    if lengths_given:
        raise ValueError(f"{MM_TRITON} got key_lengths, row_ranges or cu_rows where the kernels do not run ({reason})")
    if is_causal is None and getattr(module, "is_causal", False) and attention_mask is None:
        raise ValueError(f"{MM_TRITON} takes causality only from the call; pass is_causal or an attention_mask")
    logger.info_once(f"{MM_TRITON}: {type(module).__name__} is computed by SDPA ({reason})")
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal=bool(is_causal), **kwargs
    )


AttentionInterface.register(MM_TRITON, mm_triton_forward)
AttentionMaskInterface.register(MM_TRITON, sdpa_mask)
