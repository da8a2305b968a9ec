"""One pass over rows that are written already, which keeps what each token read of its context.

R rows, B contexts, T tokens, S context tokens, H heads.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicCache

from ..modeling_mm.core.cache import MMCache, held_text
from ..modeling_mm.core.context_rows import MMRows
from ..modeling_mm.core.fingerprint import fingerprint
from ..modeling_mm.core.input_checks import MEDIA_INPUTS
from ..modeling_mm.core.inputs_outputs import CONTEXT_TEXT, MediaInputs
from ..modeling_mm.fusion.context import as_context
from .stacks import Stack, encoded_context, stack_of


class Written(NamedTuple):
    """Rows that are read again: ids, mask and types (R, T), the context of each, and the first column to explain."""

    ids: torch.Tensor
    mask: torch.Tensor | None
    types: torch.Tensor | None
    contexts: torch.Tensor
    first: int

    def repeated(self, row: int, count: int) -> "Written":
        """One row `count` times, each with a context of its own."""
        of_row = {
            name: None if values is None else values[row].expand(count, -1)
            for name, values in (("ids", self.ids), ("mask", self.mask), ("types", self.types))
        }
        return self._replace(**of_row, contexts=torch.arange(count, device=self.ids.device))


class Reading(NamedTuple):
    """What the pass gave: log_probs (R, T - 1), of each token after the first; what the text read of its contexts;
    what a text encoder before it read of the media; and which context of the two each row has, int64 (R,)."""

    log_probs: torch.Tensor
    text: Stack
    encoder: Stack | None
    contexts: torch.Tensor

    @property
    def of_media(self) -> Stack:
        """The stack that reads the media: the text encoder, where there is one between them and the text."""
        return self.text if self.encoder is None else self.encoder


def written_rows(model: Any, inputs: Mapping[str, Any], tokens: Any, prompt_length: int | None) -> Written:
    """The rows of `tokens`, (R, T) or what generate() returned, with the masks and contexts of their prompts.

    Raises: ValueError or TypeError for other tokens, or rows that are no multiple of the prompts.
    """
    ids = tokens if torch.is_tensor(tokens) else getattr(tokens, "sequences", None)
    if not torch.is_tensor(ids):
        raise TypeError(f"tokens must be int64 (R, T) or what generate() returned; got {type(tokens).__name__}")
    if ids.ndim != 2 or ids.dtype != torch.long or ids.shape[1] < 2:
        raise ValueError(f"tokens must be int64 (R, T) with a prompt and a word at least; got {tuple(ids.shape)}")
    prompt, given = inputs.get("input_ids"), inputs.get("context_index")
    contexts = contexts_in(inputs)
    prompts = next((len(one) for one in (prompt, given) if one is not None), contexts)
    if prompts == 0 or len(ids) % prompts:
        raise ValueError(f"tokens has {len(ids)} rows, no multiple of the {prompts} prompts or contexts of inputs")
    owners = torch.arange(prompts, device=ids.device) * contexts // prompts if given is None else given
    repeats = len(ids) // prompts
    mask = types = None
    if prompt is not None and not torch.equal(ids[:, : prompt.shape[1]], prompt.repeat_interleave(repeats, 0)):
        raise ValueError(
            "tokens do not begin with the input_ids that inputs holds; give whole rows, prompt and answer"
        )
    if inputs.get("attention_mask") is not None:
        mask = _longer(inputs["attention_mask"].repeat_interleave(repeats, 0), ids.shape[1], 1)
    if inputs.get("token_type_ids") is not None:
        types = _longer(inputs["token_type_ids"].repeat_interleave(repeats, 0), ids.shape[1], None)
    first = (1 if prompt is None else prompt.shape[1]) if prompt_length is None else prompt_length
    if not 1 <= first < ids.shape[1]:
        raise ValueError(f"prompt_length={first} must be in 1..{ids.shape[1] - 1}, so that a word comes after it")
    return Written(ids, mask, types, owners.repeat_interleave(repeats), first)


def _longer(values: torch.Tensor, length: int, value: int | None) -> torch.Tensor:
    """(R, T0) with more columns, of `value` or (None) of the last one."""
    more = length - values.shape[1]
    last = values[:, -1:] if value is None else torch.full_like(values[:, -1:], value)
    return torch.cat([values, last.expand(-1, more)], dim=1)


def contexts_in(inputs: Mapping[str, Any]) -> int:
    """B, of the media or the ready context."""
    ready = inputs.get("encoder_outputs")
    if ready is not None:
        return len(ready.last_hidden_state if hasattr(ready, "last_hidden_state") else ready)
    for name in ("context_input_ids", *MediaInputs.__annotations__):
        if torch.is_tensor(inputs.get(name)):
            return len(inputs[name])
    raise ValueError("inputs holds no picture, video, sound or encoder_outputs, so there is nothing to explain by")


def one_context(inputs: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The media and context text of one context, as a batch of one."""
    place = media_row(inputs, context)
    rows = dict.fromkeys(MediaInputs.__annotations__, place) | dict.fromkeys(CONTEXT_TEXT, context)
    media = {name: value for name, value in media_in(inputs).items() if name != "media_index"}
    return {
        name: value[rows[name] : rows[name] + 1] if torch.is_tensor(value) else value for name, value in media.items()
    }


def media_row(inputs: Mapping[str, Any], context: int) -> int:
    """Which row of the media a context has: its own, or that of its context text."""
    media = next((len(inputs[name]) for name in MEDIA_INPUTS if inputs.get(name) is not None), None)
    if inputs.get("context_input_ids") is None or media is None:
        return context
    if inputs.get("media_index") is not None:
        return int(inputs["media_index"][context])
    return context * media // len(inputs["context_input_ids"])


def media_in(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in MediaInputs.__annotations__ if inputs.get(name) is not None}


def held_context(model: Any, inputs: Mapping[str, Any], tokens: Any) -> MMCache | None:
    """The cache of a generation with the keys and values of its contexts, where they can be read again.

    Raises: ValueError if they are those of other media.
    """
    cache = getattr(tokens, "past_key_values", None)
    encoded = model.config.media_cross and inputs.get("context_input_ids") is not None  # what it read is not kept
    if encoded or inputs.get("context_ranges") is not None:
        return None
    if not isinstance(cache, MMCache) or not cache.holds_context or cache.token_sources is None:
        return None
    seen = fingerprint(media_in(inputs), inputs.get("encoder_outputs"))
    if seen is not None and held_text(cache).fingerprint not in (None, seen):
        raise ValueError("tokens were generated from another picture, video or sound than inputs holds")
    return cache


def read_again(
    model: Any,
    inputs: Mapping[str, Any],
    written: Written,
    held: MMCache | None = None,
    own_contexts: bool = False,
) -> Reading:
    """Runs the rows once, with attention computed in the open for this call only.

    Args:
        held: reads the contexts that it holds, and encodes none.
        own_contexts: copies the context of each row, so that the weights are those that gradients flow through.
    """
    text: dict[str, Any] = {"past_key_values": None, "use_cache": True}
    config, index, encoder = model.config.text_config, written.contexts, None
    if held is None:
        context, encoder = encoded_context(model, inputs, index if own_contexts else None)
        if own_contexts:
            index = torch.arange(len(index), device=index.device)
        text |= {"encoder_outputs": context, "context_index": index}
        if inputs.get("context_ranges") is not None:
            ranges = inputs["context_ranges"]
            text["context_ranges"] = ranges.repeat_interleave(len(index) // len(ranges), 0)
        context = as_context(context, None, model.config.context_width)
        sources = context.token_sources
    else:
        cache = MMCache(DynamicCache(config=config), held.cross_attention_cache)
        cache.is_updated = dict(held.is_updated)
        cache.rows = MMRows(len(written.ids), held.rows.num_contexts, written.contexts)
        cache.context_lengths, cache.prefix_length = held.context_lengths, held.prefix_length
        text["past_key_values"], sources = cache, held.token_sources
    if sources is None:
        raise ValueError("encoder_outputs does not say what its tokens are of; give what encode_context() returned")
    text["input_ids"] = written.ids[:, :-1]
    for name, value in (("attention_mask", written.mask), ("token_type_ids", written.types)):
        if value is not None:
            text[name] = value[:, :-1]
    output = model(**text, output_attentions=True, return_dict=True)
    log_probs = log_probs_of(written.ids[:, 1:], output.logits)
    return Reading(log_probs, stack_of(output, sources, written.ids.shape[1] - 1), encoder, index)


def log_probs_of(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(R, T), of ids (R, T) under logits (R, T, V); 0 where a prompt holds an id that is never written
    (`unwritten_tokens`), which has no logit."""
    shares, has_logit = logits.float().log_softmax(-1), ids < logits.shape[-1]
    found = shares.gather(-1, ids.where(has_logit, 0)[..., None])[..., 0]
    return found.masked_fill(~has_logit, 0.0)
