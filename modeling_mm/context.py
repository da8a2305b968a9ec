"""The context: what the text may look at, made of tower outputs, packed once, shared by all its rows.

B contexts, N pictures per context, S tokens (of a picture in the towers, of a context when packed), Dv tower width,
Dc context width. This is the one file where pictures become the context that the text attends to.
"""

# A BaseModelOutput with no last_hidden_state is refused by check_memory.
# pyright: reportArgumentType=false

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from ..configuration.conv import MMConvConfig
from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from .base import MMPreTrainedModel
from .conv import MMConvModel
from .inputs import check_memory, check_tensors
from .outputs import MMContextOutput
from .vision import MMVisionModel

IMAGE = 0  # the first column of token_sources


def build_tower(config: MMVisionConfig | MMConvConfig) -> MMPreTrainedModel:
    """The vision tower that a config describes."""
    tower_class = MMVisionModel if isinstance(config, MMVisionConfig) else MMConvModel
    return tower_class._from_config(config)


def build_projector(config: MMConfig) -> nn.Module:
    """Tower width -> the width that the text's cross-attention reads."""
    inputs, outputs = config.vision_size, config.text_config.memory_size
    if config.projector_type == "none":
        return nn.Identity()
    if config.projector_type == "linear":
        return nn.Linear(inputs, outputs)
    if config.projector_type == "linear_norm":
        norm = nn.LayerNorm(outputs, eps=config.projector_norm_eps)
        return nn.Sequential(OrderedDict(dense=nn.Linear(inputs, outputs), norm=norm))
    layers = {"up_proj": nn.Linear(inputs, outputs), "act": nn.GELU(), "down_proj": nn.Linear(outputs, outputs)}
    return nn.Sequential(OrderedDict(layers))


def run_present(tower: nn.Module, pixel_values: torch.Tensor, mask: torch.Tensor | None, **kwargs):
    """Runs the tower on the pictures that are there. (B, N, C, H, W) -> outputs of n pictures, bool (B*N,) or None.

    A batch with no picture at all runs one blank one, which `place` puts nowhere: so every rank of a distributed run
    uses the same parameters, with zero gradients.
    """
    flat = pixel_values.flatten(0, 1)
    if mask is None:
        return tower(pixel_values=flat, **kwargs), None
    present = mask.flatten()
    chosen = flat[present]
    if not len(chosen):
        chosen = torch.zeros_like(flat[:1])
    return tower(pixel_values=chosen, **kwargs), present


def place(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """(n, ...) of the present pictures -> (B*N, ...), zeros where there is none; a blank lands nowhere."""
    if present is None:
        return values
    placed = values.new_zeros(len(present), *values.shape[1:])
    placed[present] = values
    return placed


def pack(tokens: torch.Tensor, sources: torch.Tensor, mask: torch.Tensor):
    """Moves the real tokens of each context to the front, order kept: lengths then say all that a mask says.

    Exact, as cross-attention has no positions. tokens (B, S, Dc), sources (B, S, 3), mask bool (B, S).
    """
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    mask = mask.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    sources = sources.gather(1, order[..., None].expand_as(sources))
    return tokens, sources.masked_fill(~mask[..., None], -1), mask


def image_context(
    tokens: torch.Tensor,  # (B, N, S, Dc), projected
    pooled: torch.Tensor | None,  # (B, N, Dv)
    mask: torch.Tensor | None,  # bool (B, N)
    vision_output: Any = None,
) -> MMContextOutput:
    """Tokens of N picture slots per context -> the packed context (B, N*S, Dc)."""
    batch, slots, length, _ = tokens.shape
    device = tokens.device
    item, position = torch.meshgrid(
        torch.arange(slots, device=device), torch.arange(length, device=device), indexing="ij"
    )
    sources = torch.stack([torch.full_like(item, IMAGE), item, position], dim=-1)  # (N, S, 3)
    sources = sources.flatten(0, 1).expand(batch, -1, -1)
    tokens = tokens.flatten(1, 2)
    token_mask = None
    if mask is not None:
        tokens, sources, token_mask = pack(tokens, sources, mask.repeat_interleave(length, dim=1))
    return MMContextOutput(
        last_hidden_state=tokens,
        attention_mask=token_mask,
        token_sources=sources,
        pooler_output=mean_present(pooled, mask),
        vision_output=vision_output,
    )


def mean_present(pooled: torch.Tensor | None, mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, N, Dv) -> (B, Dv), the mean over the pictures present; zeros where there is none."""
    if pooled is None:
        return None
    if mask is None:
        return pooled.mean(1)
    weights = mask[..., None].to(pooled.dtype)
    return (pooled * weights).sum(1) / weights.sum(1).clamp(min=1)


def as_context(encoder_outputs, encoder_attention_mask: torch.Tensor | None, width: int) -> MMContextOutput:
    """A context that the caller made: MMContextOutput, BaseModelOutput, a tuple or a tensor (B, S, Dc).

    Raises: ValueError for another width or a mask of another shape; TypeError for anything else.
    """
    if isinstance(encoder_outputs, MMContextOutput):
        if encoder_attention_mask is not None:
            raise ValueError("encoder_outputs holds its own attention_mask; do not pass encoder_attention_mask too")
        check_memory(encoder_outputs.last_hidden_state, encoder_outputs.attention_mask, width, "encoder_outputs")
        return encoder_outputs
    if isinstance(encoder_outputs, BaseModelOutput | BaseModelOutputWithPooling):
        encoder_outputs = encoder_outputs.last_hidden_state
    elif isinstance(encoder_outputs, tuple | list) and encoder_outputs:
        encoder_outputs = encoder_outputs[0]
    if not torch.is_tensor(encoder_outputs):
        raise TypeError(
            "encoder_outputs must be what encode_context() returns, a BaseModelOutput, a tuple or a tensor; "
            f"got {type(encoder_outputs).__name__}"
        )
    check_tensors(encoder_attention_mask=encoder_attention_mask)
    check_memory(encoder_outputs, encoder_attention_mask, width, "encoder_outputs")
    if encoder_attention_mask is None:
        return MMContextOutput(last_hidden_state=encoder_outputs)
    sources = encoder_outputs.new_zeros(*encoder_outputs.shape[:2], 3, dtype=torch.long)
    sources[..., 2] = torch.arange(encoder_outputs.shape[1], device=sources.device)
    tokens, sources, mask = pack(encoder_outputs, sources, encoder_attention_mask.bool())
    return MMContextOutput(last_hidden_state=tokens, attention_mask=mask, token_sources=sources)
