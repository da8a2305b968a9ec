"""The context: what the text may look at, joined of the items of every modality, packed once, shared by all its rows.

B contexts, N items per context, S tokens (of an item, or of a context when joined), R rows, Dc context width.
"""

# check_tokens raises an error for a BaseModelOutput without last_hidden_state, so a context always has its states.

from typing import Any, cast

import torch
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from ...configuration.mm import MMConfig
from ..core.cache import MMCache
from ..core.context_rows import MMRows
from ..core.input_checks import INTEGERS, MediaItems, check_tensors, check_tokens, may_read_values
from ..core.inputs_outputs import MMContextOutput, MMModelOutput
from ..core.layers import masked_mean
from ..core.prefix import MMPlaced, check_no_placeholders

KINDS = ("image", "video", "audio", "text")  # the first column of token_sources
TOWER_KINDS = {"vision": ("image", "video"), "audio": ("audio",)}
OUTPUTS: dict[str, str] = dict(
    zip(KINDS, ("vision_output", "video_output", "audio_output", "text_output"), strict=True)
)


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
        lacking = None
        if any(part.lacking is not None for part in parts):
            own = [
                torch.zeros_like(of) if p.lacking is None else p.lacking for p, of in zip(parts, masks, strict=True)
            ]
            lacking = torch.cat([of_items.flatten(1) for of_items in own], dim=1)
        tokens, sources, mask, offsets = pack(tokens, sources, mask, lacking)
    pooled = _pooled(parts)
    outputs: dict[str, Any] = {OUTPUTS[part.kind]: part.output for part in parts}
    known = {name: vector for name, vector in pooled.items() if vector is not None}
    return MMContextOutput(
        last_hidden_state=tokens,
        attention_mask=mask,
        token_sources=sources,
        pooler_output=next(iter(pooled.values())),
        packed_offsets=offsets,
        pooler_outputs=known if len(pooled) > 1 and len(known) == len(pooled) else None,
        **outputs,
    )


def text_context(
    states: torch.Tensor,  # (Bc, T, D)
    mask: torch.Tensor | None,  # (Bc, T), 1 = real
    output: Any,
    media: MMContextOutput | None,
    rows: MMRows | None,
) -> MMContextOutput:
    """The states of a text encoder as a context, after those of the media if the fusion gives them too."""
    mask = None if mask is None else mask.bool()
    pooled = None if output.pooler_output is None else output.pooler_output[:, None]
    text = MediaItems(
        states[:, None], "text", mask=None if mask is None else mask[:, None], pooled=pooled, output=output
    )
    if output.context_hidden_states is None or media is None or rows is None:
        context = join([text])
    else:
        fused, seen = output.context_hidden_states, media.attention_mask
        sources = torch.cat([rows.per_row(cast(torch.Tensor, media.token_sources)), _sources(text)], dim=1)
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


def _pooled(parts: list[MediaItems]) -> dict[str, torch.Tensor | None]:
    """{tower, or "text": (B, its width)}, the mean over the items present, zeros in contexts without.

    None where a part of a tower has no vectors.
    """
    vectors: dict[str, torch.Tensor | None] = {}
    for name, kinds in {"text": ("text",), **TOWER_KINDS}.items():
        own = [part for part in parts if part.kind in kinds]
        pooled = [part.pooled for part in own if part.pooled is not None]
        if not own:
            continue
        if len(pooled) < len(own):
            vectors[name] = None
        elif all(part.present is None for part in own):
            vectors[name] = torch.cat(pooled, dim=1).mean(1)
        else:
            present = [
                vector.new_ones(vector.shape[:2], dtype=torch.bool) if part.present is None else part.present
                for part, vector in zip(own, pooled, strict=True)
            ]
            vectors[name] = masked_mean(torch.cat(pooled, dim=1), torch.cat(present, dim=1))
    return vectors


def pack(tokens: torch.Tensor, sources: torch.Tensor, mask: torch.Tensor, lacking: torch.Tensor | None = None):
    """Moves the real tokens of each context to the front, order kept: lengths then say all that a mask says.

    Exact, as cross-attention has no positions. tokens (B, S, Dc), sources (B, S, 3), mask bool (B, S); the last
    result, int64 (B, S + 1), is the number of real tokens before each place. lacking: bool (B, S), those of the real
    tokens that come after the others and that no range names.
    """
    named = mask if lacking is None else mask & ~lacking
    real, rest = named.long().cumsum(1), (~mask).long().cumsum(1)
    goes_to = torch.where(named, real - 1, mask.long().sum(1, keepdim=True) + rest - 1)  # ONNX has no stable sort
    if lacking is not None:
        late = (mask & lacking).long().cumsum(1)
        goes_to = torch.where(mask & lacking, real[:, -1:] + late - 1, goes_to)
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(goes_to)
    order = torch.zeros_like(goes_to).scatter(1, goes_to, places)
    offsets = torch.nn.functional.pad(real, (1, 0))
    mask = mask.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    sources = sources.gather(1, order[..., None].expand_as(sources))
    return tokens, sources.masked_fill(~mask[..., None], -1), mask, offsets


def packed_ranges(ranges: torch.Tensor, context: MMContextOutput, rows: MMRows) -> torch.Tensor:
    """Half-open ranges (R, n, 2) over the given tokens -> over the packed tokens.

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

    Raises: ValueError for another width or a mask of another shape; TypeError for any other type.
    """
    if isinstance(encoder_outputs, MMContextOutput):
        if encoder_attention_mask is not None:
            raise ValueError("encoder_outputs holds its own attention_mask; do not pass encoder_attention_mask too")
        check_tokens(encoder_outputs.last_hidden_state, encoder_outputs.attention_mask, width, "encoder_outputs")
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
    check_tokens(encoder_outputs, encoder_attention_mask, width, "encoder_outputs")
    if encoder_attention_mask is None:
        return MMContextOutput(last_hidden_state=encoder_outputs)
    sources = encoder_outputs.new_zeros(*encoder_outputs.shape[:2], 3, dtype=torch.long)
    sources[..., 2] = torch.arange(encoder_outputs.shape[1], device=sources.device)
    tokens, sources, mask, offsets = pack(encoder_outputs, sources, encoder_attention_mask.bool())
    return MMContextOutput(
        last_hidden_state=tokens, attention_mask=mask, token_sources=sources, packed_offsets=offsets
    )


# ---- what a call gives, and which row reads it ----------------------------------------------------------------------


def _names(media: Any) -> str:
    return ", ".join(name for name, value in media.items() if value is not None and value is not False)


def check_sources(
    media: Any, encoder_outputs, encoder_attention_mask, needs_text: bool, cache: Any = None, context_index=None
) -> None:
    """Media, a ready context or a cache that holds one, and what goes with either.

    needs_text: whether media may only come with a context text, as the decoder reads what is made of both.
    """
    if isinstance(cache, MMCache) and cache.holds_context:
        if _names(media):
            raise ValueError(
                f"past_key_values already holds a context, so {_names(media)} would not be read; leave that out, "
                "or call past_key_values.reset() for another context"
            )
        context = encoder_outputs if torch.is_tensor(encoder_outputs) or not encoder_outputs else encoder_outputs[0]
        cache.check_context(None if context is None else context.shape[0], context_index)
    if encoder_outputs is None and encoder_attention_mask is not None:
        raise ValueError("encoder_attention_mask was given without encoder_outputs")
    if encoder_outputs is not None and _names(media):
        raise ValueError(f"encoder_outputs is a ready context, so {_names(media)} cannot be given with it")
    if needs_text and media.get("context_input_ids") is None and _names(media):
        raise ValueError(
            f"{_names(media)} was given without context_input_ids: this model's decoder reads the states of its text "
            "encoder over a text and media; pass the question or passage as context_input_ids"
        )


def plan_rows(
    config: MMConfig,
    num_rows: int,
    context: MMContextOutput | None,
    context_index: torch.Tensor | None,
    context_ranges: torch.Tensor | None,
    cache: Any,
) -> tuple[MMContextOutput | None, MMRows | None, torch.Tensor | None]:
    """The context to read, which row reads which, and the ranges of each over the packed context.

    None where there is no context, or where the cache holds it already.
    """
    if isinstance(cache, MMCache) and cache.holds_context and not (config.media_in_text and context is not None):
        return None, None, None
    if context is None and context_index is not None:
        raise ValueError("context_index was given, but there is no context for the rows to read")
    rows = None if context is None else MMRows(num_rows, context.last_hidden_state.shape[0], context_index)
    if context_ranges is None:
        return context, rows, None
    if not config.decoder_crosses:
        raise ValueError(f"context_ranges are for cross-attention; fusion_type={config.fusion_type!r} does without")
    if context is None or rows is None:
        raise ValueError("context_ranges was given, but there is no context for the rows to read")
    return context, rows, packed_ranges(context_ranges, context, rows)


def media_in_text(
    config: MMConfig, context: MMContextOutput | None, rows: MMRows | None, text: dict
) -> MMPlaced | None:
    """The media for the placeholders of a call's text. With a cache that holds the first tokens of it, for the rest of
    them; a token that was written is none of them."""
    cache, ids = text.get("past_key_values"), config.placeholder_ids
    past = cache is not None and bool(cache.get_seq_length())
    if context is None or rows is None:
        if not past:
            check_no_placeholders(text.get("input_ids"), ids, text.get("attention_mask"))
        return None
    if text.get("input_ids") is None:
        raise ValueError(
            "inputs_embeds came with media that stand inside the text: pass input_ids with their placeholders, or "
            "embeddings that hold the media already, without media"
        )
    return placed_media(context, rows, ids, "last" if past else "all")


def placed_media(context: MMContextOutput, rows: MMRows, ids: dict[str, int | None], part: str) -> MMPlaced:
    """The tokens of a context for the placeholders of its rows; a ready one that does not say is of pictures."""
    states, sources, mask = context.last_hidden_state, context.token_sources, context.attention_mask
    if sources is None:
        kinds = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        kinds = kinds if mask is None else kinds.masked_fill(~mask.bool(), -1)
    else:
        kinds = sources[..., 0]
    return MMPlaced(states, kinds, rows, tuple(ids), tuple(ids.values()), part)


def context_output(context: MMContextOutput | None, **text: torch.Tensor | None) -> MMModelOutput:
    """What a call without a text returns: the context."""
    if context is None:
        raise ValueError("nothing to run on: pass input_ids or inputs_embeds, pixel_values, or both")
    given = [name for name, value in text.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} was given without a text; pass input_ids or inputs_embeds too")
    return MMModelOutput(
        last_hidden_state=context.last_hidden_state,
        pooler_output=context.pooler_output,
        context_hidden_states=context.last_hidden_state,
        context_attention_mask=context.attention_mask,
    )


# ---- one vector of each modality ---------------------------------------------------------------------------------


def modality_vectors(context: MMContextOutput, modalities: list[str]) -> tuple[dict, dict]:
    """One vector per modality of a context: the mean of its real tokens, zeros where it has none.

    Returns ({name: (B, D)}, {name: bool (B,), whether it is present}) for the names of `modalities`; a context without
    sources is all of the first.
    """
    tokens = context.last_hidden_state
    kinds = tokens.new_full(tokens.shape[:2], KINDS.index(modalities[0]), dtype=torch.long)
    if context.token_sources is not None:
        kinds = context.token_sources[..., 0]
    if context.attention_mask is not None:
        kinds = kinds.masked_fill(~context.attention_mask.bool(), -1)
    vectors, present = {}, {}
    for name in modalities:
        real = kinds == KINDS.index(name)  # (B, S)
        vectors[name], present[name] = masked_mean(tokens, real), real.any(1)
    return vectors, present


def text_vectors(text: torch.Tensor, mask: torch.Tensor | None) -> tuple[dict, dict]:
    """A text's vector (R, D), to join with the media's, zeros where the row has no real token; and which rows have it.

    mask: (R, T), 1 = real; None: all are.
    """
    has_text = text.new_ones(text.shape[0], dtype=torch.bool)
    if mask is not None and mask.ndim == 2:
        has_text = mask.bool().any(1)
    return {"text": text.masked_fill(~has_text[:, None], 0)}, {"text": has_text}


# ---- contexts for other calls ---------------------------------------------------------------------------------------


def select_contexts(context: MMContextOutput, index: torch.Tensor) -> MMContextOutput:
    """The contexts that an index (n,) names, in its order; without the towers' own outputs."""
    fields: dict[str, Any] = {
        name: {key: vector[index.to(vector.device)] for key, vector in value.items()}
        if isinstance(value, dict)
        else value[index.to(value.device)]
        for name, value in context.items()
        if not name.endswith("_output") or name == "pooler_output"
    }
    return MMContextOutput(**fields)


def slice_contexts(context: MMContextOutput, first: int, end: int) -> MMContextOutput:
    """The contexts first..end - 1: views, nothing is copied."""
    mask, sources = context.attention_mask, context.token_sources
    return MMContextOutput(
        last_hidden_state=context.last_hidden_state[first:end],
        attention_mask=None if mask is None else mask[first:end],
        token_sources=None if sources is None else sources[first:end],
        packed_offsets=None if context.packed_offsets is None else context.packed_offsets[first:end],
    )


def trim_context(context: MMContextOutput, keep_length: bool = False) -> MMContextOutput:
    """What a decoder needs of a context, without columns that are padding everywhere; at least one stays.

    keep_length: keep those too, if a static cache needs one length for every context.
    """
    states, mask, sources = context.last_hidden_state, context.attention_mask, context.token_sources
    if mask is not None and not keep_length:
        length = max(int(mask.sum(1).max()), 1)
        states, mask = states[:, :length], mask[:, :length]
        sources = None if sources is None else sources[:, :length]
    return MMContextOutput(
        last_hidden_state=states,
        attention_mask=mask,
        token_sources=sources,
        packed_offsets=context.packed_offsets,
    )
