"""Prompts that rows share, with their pictures, are read once and stored once: those of beams, or the beginning of
many questions about one picture.

    prompts    bos <image>*9 what is it ?          prefix (once)   bos <image>*9
               bos <image>*9 how many ?            own             what is it ?  /  . how many ?

Rows go on from the prefix by `core.plain_attention`; R rows, G prefixes, T tokens of a prompt, L of a prefix.
"""

from typing import Any, NamedTuple

import torch

from ..core.cache import MMCache, held_text
from ..core.context_rows import MMRows
from ..core.inputs_outputs import MMContextOutput
from ..core.prefix import MMPrefix, check_no_placeholders, hold_prefix
from ..fusion.context import placed_media


class SharedPrompts(NamedTuple):
    """ids: the tokens of each prefix. group: of each row, its prefix. contexts: of each prefix, its context."""

    ids: list[list[int]]
    group: list[int]
    contexts: list[int]


def common_length(prompts: list[list[int]]) -> int:
    """How many first tokens all have, leaving each at least its last one."""
    shortest = min(prompts, key=len)
    for place in range(len(shortest) - 1):
        if any(prompt[place] != shortest[place] for prompt in prompts):
            return place
    return len(shortest) - 1


def shared_prompts(prompts: list[list[int]], contexts: list[int]) -> SharedPrompts | None:
    """For each context, one prefix of all its rows or one of each different prompt, whichever leaves fewer tokens to
    be read. None where nothing is shared."""
    found, group = SharedPrompts([], [], []), [0] * len(prompts)
    saved = 0
    for context in sorted(set(contexts)):
        rows = [row for row, of in enumerate(contexts) if of == context]
        common = common_length([prompts[row] for row in rows])
        kinds: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            kinds.setdefault(tuple(prompts[row]), []).append(row)
        apart = sum((len(prompt) - 1) * (len(of) - 1) for prompt, of in kinds.items())
        together = common * (len(rows) - 1)
        parts = [(common, rows)] if together >= apart else [(len(p) - 1, of) for p, of in kinds.items()]
        saved += max(together, apart)
        for length, of in parts:
            for row in of:
                group[row] = len(found.ids)
            found.ids.append(prompts[of[0]][:length])
            found.contexts.append(context)
    return SharedPrompts(found.ids, group, found.contexts) if saved else None


def is_usual(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
) -> bool:
    """Whether texts (R, T) have a mask of padding, each real token's number as its position, and no other type than
    0: of all others the beginnings are not the same where their ids are."""
    if attention_mask is not None and attention_mask.ndim != 2:
        return False
    if token_type_ids is not None and bool(token_type_ids.any()):
        return False
    if position_ids is None:
        return True
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return bool(((position_ids == real.long().cumsum(-1) - 1) | ~real.bool()).all())


def check_placeholders(
    token_ids: dict[str, int | None], input_ids: torch.Tensor, given: dict[str, Any], is_whole: bool
) -> None:
    """Of a text that continues a cache, all of it or (not `is_whole`) its new tokens.

    Raises: ValueError for placeholders that no media of the call are for.
    """
    context, mask = given.get("encoder_outputs"), given.get("attention_mask")
    held = 0 if not is_whole else int(given["past_key_values"].get_seq_length())
    if context is None:
        check_no_placeholders(input_ids[:, held:], token_ids, mask)
    elif is_whole:
        rows = MMRows(len(input_ids), len(context.last_hidden_state), given.get("context_index"))
        placed_media(context, rows, token_ids, "all").check(input_ids, mask)


def hold_shared_prompts(
    model: Any,  # an MMModel whose media stand in the text
    cache: MMCache,
    input_ids: torch.Tensor,  # (R, T)
    attention_mask: torch.Tensor | None,
    context: MMContextOutput,
    context_index: torch.Tensor | None,
) -> None:
    """Reads what the rows share into the cache, which then holds the first columns of every row.

    Raises: ValueError where a row has other placeholders than its context has tokens: of parts nobody could tell.
    """
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [ids[seen.bool()].tolist() for ids, seen in zip(input_ids, real, strict=True)]
    rows = MMRows(len(prompts), len(context.last_hidden_state), context_index)
    placed_media(context, rows, model.config.placeholder_ids, "all").check(input_ids, attention_mask)
    shared = shared_prompts(prompts, rows.index().tolist())
    if shared is None or not all(shared.ids):
        return
    lengths = [len(ids) for ids in shared.ids]
    device, size = input_ids.device, max(lengths)
    ids = torch.zeros(len(lengths), size, dtype=torch.long, device=device)
    for number, part in enumerate(shared.ids):
        ids[number, : len(part)] = torch.tensor(part, device=device)
    counts = torch.tensor(lengths, device=device)
    mask = torch.arange(size, device=device) < counts[:, None]
    reads = MMRows(len(lengths), rows.num_contexts, torch.tensor(shared.contexts, device=device))
    media = placed_media(context, reads, model.config.placeholder_ids, "first")
    stack = model.language_model
    embeds = media.put(ids, stack.embed_tokens(ids), mask)
    prefix = MMPrefix(embeds, None if min(lengths) == size else mask, "causal", is_text=True)
    own = [len(prompt) - lengths[group] for prompt, group in zip(prompts, shared.group, strict=True)]
    columns = input_ids.shape[1] - max(own)
    plan = MMRows(len(prompts), len(lengths), torch.tensor(shared.group, device=device))
    hold_prefix(stack, prefix, plan, cache)
    cache.columns, cache.prefix_counts, cache.rest = columns, counts, max(own) - min(own)
    held_text(cache).add(input_ids[:, :columns], attention_mask, 0)
