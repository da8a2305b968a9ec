"""The context: what the text may look at, joined of the items of every modality, packed once, shared by all its rows.

B contexts, N items per context, S tokens (of an item, or of a context when joined), R rows, Dc context width.
"""

# A BaseModelOutput with no last_hidden_state is refused by check_memory; a context that stands here has its states.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from ..checks.media_inputs import MediaItems
from ..checks.text_inputs import INTEGERS, check_memory, check_tensors, may_read_values
from ..core.context_rows import MMRows
from ..core.outputs import MMContextOutput
from ..core.pooling import masked_mean

KINDS = ("image", "video", "audio", "text")  # the first column of token_sources
TOWER_KINDS = {"vision": ("image", "video"), "audio": ("audio",)}
OUTPUTS = dict(zip(KINDS, ("vision_output", "video_output", "audio_output", "text_output"), strict=True))


def join(parts: list[MediaItems]) -> MMContextOutput:
    """The items of all modalities, one after the other and packed: (B, S, Dc), S the sum of all N*S."""
    if any(part.values.shape[0] != parts[0].values.shape[0] for part in parts):
        given = ", ".join(f"{len(part.values)} of {part.kind}" for part in parts)
        raise ValueError(f"every modality must come for the same contexts; got {given} (absent items are masked)")
    tokens = torch.cat([part.values.flatten(1, 2) for part in parts], dim=1)
    sources = torch.cat([_sources(part) for part in parts], dim=1)
    mask = offsets = None
    if any(part.mask is not None for part in parts):
        masks = [part.values.new_ones(part.values.shape[:3], dtype=torch.bool) for part in parts]
        masks = [full if part.mask is None else part.mask for part, full in zip(parts, masks, strict=True)]
        mask = torch.cat([of_items.flatten(1) for of_items in masks], dim=1)
        tokens, sources, mask, offsets = pack(tokens, sources, mask)
    outputs = {OUTPUTS[part.kind]: part.output for part in parts}
    return MMContextOutput(
        last_hidden_state=tokens,
        attention_mask=mask,
        token_sources=sources,
        pooler_output=_pooled(parts),
        packed_offsets=offsets,
        pooler_outputs=_pooled_by_tower(parts),
        **outputs,
    )


def text_context(
    states: torch.Tensor,  # (Bc, T, D)
    mask: torch.Tensor | None,  # (Bc, T), 1 = real
    output: Any,
    media: MMContextOutput | None,
    rows: MMRows | None,
) -> MMContextOutput:
    """The states of a text encoder as a context, behind those of the media where the fusion gives them too."""
    mask = None if mask is None else mask.bool()
    pooled = None if output.pooler_output is None else output.pooler_output[:, None]
    text = MediaItems(
        states[:, None], "text", mask=None if mask is None else mask[:, None], pooled=pooled, output=output
    )
    if output.context_hidden_states is None:
        context = join([text])
    else:
        fused, seen = output.context_hidden_states, media.attention_mask
        sources = torch.cat([rows.per_row(media.token_sources), _sources(text)], dim=1)
        tokens, offsets, real = torch.cat([fused, states], dim=1), None, None
        if seen is not None or mask is not None:
            seen = fused.new_ones(fused.shape[:2], dtype=torch.bool) if seen is None else rows.per_row(seen)
            mask = states.new_ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
            tokens, sources, real, offsets = pack(tokens, sources, torch.cat([seen, mask], dim=1))
        context = MMContextOutput(tokens, real, sources, output.pooler_output, packed_offsets=offsets)
        context.text_output = output
    if media is not None:
        for name in ("vision_output", "video_output", "audio_output"):
            context[name] = getattr(media, name)
    return context


def _sources(part: MediaItems) -> torch.Tensor:
    """int64 (B, N*S, 3): modality, item, position within the item."""
    batch, slots, length = part.values.shape[:3]
    device = part.values.device
    item, position = torch.meshgrid(
        torch.arange(slots, device=device), torch.arange(length, device=device), indexing="ij"
    )
    sources = torch.stack([torch.full_like(item, KINDS.index(part.kind)), item, position], dim=-1)
    return sources.flatten(0, 1).expand(batch, -1, -1)


def _pooled(parts: list[MediaItems]) -> torch.Tensor | None:
    """(B, Dv), the mean over the items of the first tower that gave any; text has its own vector alone."""
    towers = [[part for part in parts if part.kind in kinds] for kinds in (("text",), *TOWER_KINDS.values())]
    return _mean_item(next(group for group in towers if group))


def _pooled_by_tower(parts: list[MediaItems]) -> dict[str, torch.Tensor] | None:
    """{tower: (B, its width)} where the items are of both towers, zeros in contexts without; else None."""
    towers = {name: [part for part in parts if part.kind in kinds] for name, kinds in TOWER_KINDS.items()}
    if not all(towers.values()):
        return None
    pooled = {name: _mean_item(group) for name, group in towers.items()}
    there = {name: vector for name, vector in pooled.items() if vector is not None}
    return there if len(there) == len(pooled) else None


def _mean_item(parts: list[MediaItems]) -> torch.Tensor | None:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    if len(pooled) < len(parts):
        return None
    if all(part.present is None for part in parts):
        return torch.cat(pooled, dim=1).mean(1)
    whole = [vectors.new_ones(vectors.shape[:2], dtype=torch.bool) for vectors in pooled]
    present = [full if part.present is None else part.present for part, full in zip(parts, whole, strict=True)]
    return masked_mean(torch.cat(pooled, dim=1), torch.cat(present, dim=1))


def pack(tokens: torch.Tensor, sources: torch.Tensor, mask: torch.Tensor):
    """Moves the real tokens of each context to the front, order kept: lengths then say all that a mask says.

    Exact, as cross-attention has no positions. tokens (B, S, Dc), sources (B, S, 3), mask bool (B, S); the last of
    what is returned, int64 (B, S + 1), says how many real tokens stood before each place.
    """
    real, rest = mask.long().cumsum(1), (~mask).long().cumsum(1)
    goes_to = torch.where(mask, real - 1, real[:, -1:] + rest - 1)  # a stable sort, which ONNX has not
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(goes_to)
    order = torch.zeros_like(goes_to).scatter(1, goes_to, places)
    offsets = torch.nn.functional.pad(real, (1, 0))
    mask = mask.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    sources = sources.gather(1, order[..., None].expand_as(sources))
    return tokens, sources.masked_fill(~mask[..., None], -1), mask, offsets


def packed_ranges(ranges: torch.Tensor, context: MMContextOutput, rows: MMRows) -> torch.Tensor:
    """Half-open ranges (R, n, 2) over the tokens as they were given -> over the tokens as they are packed.

    Raises: ValueError for another shape, or a range outside the context.
    """
    check_tensors(context_ranges=ranges)
    offsets = context.packed_offsets
    size = context.last_hidden_state.shape[1] if offsets is None else offsets.shape[1] - 1
    if ranges.ndim != 3 or ranges.shape[0] != rows.num_rows or ranges.shape[2] != 2 or ranges.dtype not in INTEGERS:
        raise ValueError(
            f"context_ranges must be int64 ({rows.num_rows}, n, 2), the first and the last + 1 context token of each "
            f"text column; got {ranges.dtype} {tuple(ranges.shape)}"
        )
    first, end = ranges.unbind(-1)
    if may_read_values() and (int(ranges.min()) < 0 or int(ranges.max()) > size or bool((first > end).any())):
        raise ValueError(
            f"context_ranges must be 0 <= first <= end <= {size}, the tokens of a context; got "
            f"{int(ranges.min())}..{int(ranges.max())}"
        )
    if offsets is None:
        return ranges.long()
    return rows.per_row(offsets).gather(1, ranges.long().flatten(1)).view_as(ranges)


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
    tokens, sources, mask, offsets = pack(encoder_outputs, sources, encoder_attention_mask.bool())
    return MMContextOutput(
        last_hidden_state=tokens, attention_mask=mask, token_sources=sources, packed_offsets=offsets
    )


def taken(context: MMContextOutput, index: torch.Tensor) -> MMContextOutput:
    """The contexts that an index (n,) names, in its order; the towers' own outputs are left behind."""
    fields = {
        name: {key: vector[index.to(vector.device)] for key, vector in value.items()}
        if isinstance(value, dict)
        else value[index.to(value.device)]
        for name, value in context.items()
        if not name.endswith("_output") or name == "pooler_output"
    }
    return MMContextOutput(**fields)


def trimmed(context: MMContextOutput, keep_length: bool = False) -> MMContextOutput:
    """What a decoder needs of a context, without columns that are padding everywhere; at least one stays.

    keep_length: keep those too, where a static cache wants one length for every context.
    """
    states, mask, offsets = context.last_hidden_state, context.attention_mask, context.packed_offsets
    if mask is not None and not keep_length:
        length = max(int(mask.sum(1).max()), 1)
        states, mask = states[:, :length], mask[:, :length]
    return MMContextOutput(last_hidden_state=states, attention_mask=mask, packed_offsets=offsets)
