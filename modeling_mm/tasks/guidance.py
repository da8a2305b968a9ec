"""Classifier-free guidance (Ho & Salimans 2022: arXiv:2207.12598) of rows that read a context.

    rows 0 … R-1    read their contexts        ─┐
    rows R … 2R-1   the same tokens, reading    ├─ scores (2R, V) ─ ClassifierFreeGuidanceLogitsProcessor ─► (R, V)
                    the empty text's context   ─┘

The empty text is encoded once, and its keys and values are stored once, for all rows. Without a text encoder the
second half reads no context at all. B contexts, R rows, S context tokens, Tc tokens of a context text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional as F

from ..core.context_rows import MMRows
from ..core.inputs_outputs import MMContextOutput

# Ids and mask of what the second half of the rows reads in this thread's generate(), if the caller said.
_NEGATIVE: ContextVar[tuple[torch.Tensor, torch.Tensor | None] | None] = ContextVar("negative_prompt", default=None)


def is_guided(scale: float | None) -> bool:
    return scale is not None and scale != 1


@contextmanager
def negative_prompt(ids: torch.Tensor | None, mask: torch.Tensor | None) -> Iterator[None]:
    """Texts that the second half of the rows reads in place of the empty one, within this block."""
    before = _NEGATIVE.set(None if ids is None else (ids, mask))
    try:
        yield
    finally:
        _NEGATIVE.reset(before)


def check_negative_is_read(guided: bool) -> None:
    """Raises ValueError for negative prompts that nothing is compared with."""
    if not guided and _NEGATIVE.get() is not None:
        raise ValueError("negative_prompt_ids are what guidance compares with; give guidance_scale above 1 too")


def check_guided(settings: Any, inputs: dict[str, Any], config: Any) -> None:
    """Raises ValueError for what cannot go with rows that are there twice."""
    refused = {
        "num_beams": settings.num_beams is not None and settings.num_beams > 1,
        "cache_implementation": settings.cache_implementation is not None,
        "past_key_values": inputs.get("past_key_values") is not None,
        "context_ranges": inputs.get("context_ranges") is not None,
        "fusion_order='in_text'": config.media_in_text,
    }
    wrong = [name for name, is_so in refused.items() if is_so]
    if wrong:
        raise ValueError(
            f"guidance_scale={settings.guidance_scale} runs each row twice, with its context and with an empty one, "
            f"and does not go with {', '.join(wrong)}; leave one of them out"
        )


def with_empty(
    model: Any, context: MMContextOutput, index: torch.Tensor | None, num_rows: int
) -> tuple[MMContextOutput, torch.Tensor]:
    """The contexts and after them the empty one, and which of them each of 2 R rows reads.

    Raises: ValueError where there is no empty text, or for negative prompts of another number.
    """
    held = context.last_hidden_state.shape[0]
    plan = MMRows(num_rows, held, index)
    device = context.last_hidden_state.device
    own = torch.arange(num_rows, device=device) // plan.rows_per_context if index is None else index.long().to(device)
    empty = _empty(model, context)
    count = empty.last_hidden_state.shape[0]
    if count not in (1, held):
        raise ValueError(f"negative_prompt_ids has {count} texts for {held} contexts; give one for all, or one each")
    other = torch.full_like(own, held) if count == 1 else held + own
    return _joined(context, empty), torch.cat([own, other])


def _empty(model: Any, context: MMContextOutput) -> MMContextOutput:
    """What is read without the context: the text of bos and eos, or nothing."""
    states, given = context.last_hidden_state, _NEGATIVE.get()
    if not model.config.has_text_encoder:
        mask = torch.zeros(1, 1, dtype=torch.bool, device=states.device)
        return MMContextOutput(states.new_zeros(1, 1, states.shape[-1]), mask)
    if given is None:
        text = model._reader().config
        eos = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
        ids = [one for one in (text.bos_token_id, eos) if one is not None]
        if not ids:
            raise ValueError(
                "guidance compares with the empty text, bos and eos, and the text encoder has neither; give "
                "negative_prompt_ids"
            )
        given = torch.tensor([ids], device=states.device), None
    return model.encode_context(context_input_ids=given[0], context_attention_mask=given[1])


def _joined(one: MMContextOutput, other: MMContextOutput) -> MMContextOutput:
    """The contexts of both, padded to one length."""
    parts = [(part.last_hidden_state, part.attention_mask) for part in (one, other)]
    length = max(states.shape[1] for states, _ in parts)
    states, masks = [], []
    for held, mask in parts:
        mask = torch.ones(held.shape[:2], dtype=torch.bool, device=held.device) if mask is None else mask.bool()
        states.append(F.pad(held, (0, 0, 0, length - held.shape[1])))
        masks.append(F.pad(mask, (0, length - mask.shape[1])))
    return MMContextOutput(torch.cat(states), torch.cat(masks))


def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a step with every row a second time."""
    words = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")
    twice = {
        name: torch.cat([value, value])
        for name, value in inputs.items()
        if name in names and torch.is_tensor(value) and len(value) == len(words)
    }
    return {**inputs, **twice}
