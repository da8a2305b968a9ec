"""Tokens that join a text in one sequence, and who sees whom in it: media before it (early fusion) or in the place of
its placeholders (LLaVA), and CoCa's token after it.

R rows (texts), B contexts, T text tokens, S media tokens, D hidden_size.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from ...configuration.text import MMTextConfig
from .attention import CallConfig, build_norm
from .cache import MMCache
from .context_rows import MMRows
from .input_checks import check_tokens, may_read_values


def merge(media: torch.Tensor, text: torch.Tensor, order: str) -> torch.Tensor:
    """(R, S, ...) and (R, T, ...) -> (R, S + T, ...), media or text first."""
    return torch.cat([media, text] if order == "media_first" else [text, media], dim=1)


@dataclass
class MMPrefix:
    """Media tokens that join the text's own sequence.

    states: (R, S, D), the context of each row; mask: bool (R, S), True = real; None: all.
    is_text: they are the vectors of a text's tokens, among which media stand, with positions like them.
    mask_kind, order, embedding_norm: fusion_mask, fusion_order and fusion_embedding_norm of the config.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    mask_kind: str = "prefix"
    order: str = "media_first"
    embedding_norm: bool = False
    is_text: bool = False

    @property
    def length(self) -> int:
        return self.states.shape[1]

    @property
    def around(self) -> tuple[int, int]:
        """How many media tokens come before the text, and after it."""
        return (self.length, 0) if self.order == "media_first" else (0, self.length)

    def real(self) -> torch.Tensor:
        """bool (R, S)."""
        return self.states.new_ones(self.states.shape[:2], dtype=torch.bool) if self.mask is None else self.mask.bool()


def split(merged: torch.Tensor, prefix: MMPrefix) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `merge`: (media, text)."""
    if prefix.order == "media_first":
        return merged[:, : prefix.length], merged[:, prefix.length :]
    length = merged.shape[1] - prefix.length
    return merged[:, length:], merged[:, :length]


def merged_mask(
    config: Any,  # the CallConfig of this call
    states: torch.Tensor,  # (R, S + T, D), the queries
    prefix: MMPrefix,
    text_mask: torch.Tensor | None,  # (R, T), 1 = real; None: all
    is_plain: bool = False,
):
    """Who sees whom in the merged sequence, of the attention implementation's kind.

                    media see          text sees
    prefix          all media          all media, earlier text     (GIT; media first)
    causal          earlier media      all media, earlier text     (media first)
    bidirectional   everything         everything                  (VisualBERT; in either order)

    is_plain: a tensor in any case (R or 1, 1, S + T, S + T), for what is to be left out of it.
    """
    config = config.with_prefix() if is_plain else config
    real = None
    if prefix.mask is not None or text_mask is not None:
        if text_mask is None:
            text_mask = states.new_ones(states.shape[0], states.shape[1] - prefix.length)
        real = merge(prefix.real(), text_mask.bool(), prefix.order)
    if prefix.mask_kind == "bidirectional":
        return create_bidirectional_mask(
            config=config, inputs_embeds=states, attention_mask=real, allow_is_bidirectional_skip=not is_plain
        )
    block = None
    if prefix.mask_kind == "prefix":  # the media are one block that sees itself both ways
        columns = torch.arange(states.shape[1], device=states.device)
        block = torch.where(columns < prefix.length, 0, -1).expand(states.shape[0], -1)
    given = {"attention_mask": real, "past_key_values": None, "block_sequence_ids": block}
    return create_causal_mask(config=config, inputs_embeds=states, allow_is_causal_skip=not is_plain, **given)


def prompt_blocks(embeds: torch.Tensor, token_type_ids: torch.Tensor | None, past: Any) -> torch.Tensor | None:
    """int64 (R, T): 0 in the prompt, whose tokens see each other both ways, -1 after it; None: all come after it.
    Without token_type_ids a call without earlier tokens is all prompt."""
    if past:
        return None
    if token_type_ids is None:
        return torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return torch.where(token_type_ids == 0, 0, -1)


def join_prefix(stack: Any, plan: Any, prefix: MMPrefix, hidden_states, attention_mask) -> tuple[torch.Tensor, Any]:
    """The merged sequence (R, S + T, D), its positions and mask; media are at position 0, where RoPE changes
    nothing."""
    check_tokens(prefix.states, prefix.mask, stack.config.hidden_size, "prefix")
    if plan.cache is not None:
        raise ValueError("past_key_values was given with a prefix, but it must already hold the states of the prefix")
    if stack.needs_whole_text is not None:
        raise ValueError(f"media tokens cannot join a text with {stack.needs_whole_text}")
    if plan.segments is not None:
        raise ValueError(
            f"a text longer than segment_length={stack.config.segment_length} attends in segments, which media "
            "tokens cannot join; set segment_length=None or another fusion_type"
        )
    media = stack.dropout(stack.embed_norm(prefix.states)) if prefix.embedding_norm else prefix.states
    merged = merge(media, hidden_states, prefix.order)
    at_zero = plan.position_ids.new_zeros(plan.position_ids.shape[0], prefix.length)
    positions, mask = merge(at_zero, plan.position_ids, prefix.order), attention_mask
    if mask is None or mask.ndim == 2:  # else it is ready made, for the whole sequence
        mask = merged_mask(plan.call, merged, prefix, attention_mask, is_plain=stack.is_narrowed)
    rotary, local = None if stack.rotary is None else stack.rotary(positions, merged.dtype), None
    if stack.local is not None:
        near = stack.local.of_merged(mask, attention_mask, hidden_states, prefix.around)
        local = near, stack.local.turns(positions, rotary, merged.dtype)
    return merged, plan._replace(rotary=rotary, mask=mask, local=local)


def hold_prefix(stack: Any, prefix: MMPrefix, rows: MMRows, cache: MMCache) -> None:
    """Runs media (B, S, D) through a text stack without the text, which they do not see, and keeps their keys and
    values.

    Raises: ValueError where media see the text, or where the cache holds text already.
    """
    if prefix.mask_kind == "bidirectional":
        raise ValueError("fusion_mask='bidirectional' lets media see the text, so no cache can hold them")
    if cache.get_seq_length():
        raise ValueError("past_key_values holds text already; media cannot be put before it")
    states = stack.dropout(stack.embed_norm(prefix.states)) if prefix.embedding_norm else prefix.states
    call, is_plain = CallConfig(stack.config, is_causal=True), stack.local is not None
    mask = merged_mask(call, states, prefix, None, is_plain)
    places = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    if prefix.is_text:
        places = torch.arange(prefix.length, device=states.device)[None]
        states = stack._embed(prefix.states, places, None, has_cache=True)
    rotary = None if stack.rotary is None else stack.rotary(places, states.dtype)
    kept = MMCache(cache.cross_attention_cache, DynamicCache())
    near: Any = mask, rotary
    if stack.local is not None:
        narrowed = stack.local.narrowed(mask, None, states) if prefix.is_text else mask
        near = narrowed, stack.local.turns(places, rotary, states.dtype)
    last = len(stack.layers) - 1
    for number, layer in enumerate(stack.layers):  # what the last one makes of the media is read by nobody
        seen, turns = near if stack.is_local[number] else (mask, rotary)
        own = {"attention_mask": seen, "rotary": turns, "keys_only": number == last}
        states = layer(states, past_key_values=kept, is_causal=True, **own)
    cache.hold_prefix(prefix.length, None if prefix.mask is None else prefix.mask.sum(-1), rows)


# ---- media in the place of placeholders -----------------------------------------------------------------------------


@dataclass
class MMPlaced:
    """The media tokens that rows have placeholders for.

        ids     bos  <image> <image> <image>  what  is  it       one placeholder for each token of a picture
        states  bos     m0      m1      m2    what  is  it       m: the media tokens of the row's context, in order

    states: (B, S, D), real ones first. kinds: int64 (B, S), numbers of kinds, -1 padding. rows: which row reads which
    context. names, token_ids: of each kind (by its number) the name and its placeholder's id; None: has none.
    part: which of a context's tokens the placeholders are: "all", the "first" or the "last" ones.
    """

    states: torch.Tensor
    kinds: torch.Tensor
    rows: MMRows
    names: tuple[str, ...]
    token_ids: tuple[int | None, ...]
    part: str = "all"

    def put(self, input_ids: torch.Tensor, embeds: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (R, T, D) with media in the place of placeholders.

        Args:
            mask: attention_mask, (R, past + T), 1 = real; what it hides is padding, whatever its id. None: all real.
        Raises: ValueError where a row has other placeholders than its context has tokens.
        """
        self.check(input_ids, mask)
        states, kinds = self.rows.per_row(self.states), self.rows.per_row(self.kinds)
        for number, token_id in enumerate(self.token_ids):
            there, here = kinds == number, placeholders(input_ids, token_id, mask)  # (R, S), (R, T)
            wanted, given = here.sum(1), there.sum(1)
            first = there.to(torch.uint8).argmax(1)  # of a kind all tokens stand together
            if self.part == "last":
                first = first + given - wanted
            places = (here.long().cumsum(1) - 1 + first[:, None]).clamp(min=0, max=states.shape[1] - 1)
            media = states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))
            embeds = torch.where(here[..., None], media.to(embeds.dtype), embeds)
        return embeds

    def check(self, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Raises ValueError as `put` does; without a look at the values while tracing."""
        if not may_read_values() or input_ids.is_meta:
            return
        kinds = self.rows.per_row(self.kinds)
        for number, (name, token_id) in enumerate(zip(self.names, self.token_ids, strict=True)):
            wanted, given = placeholders(input_ids, token_id, mask).sum(1), (kinds == number).sum(1)
            wrong = wanted != given if self.part == "all" else wanted > given
            if bool(wrong.any()):
                row = int(wrong.to(torch.uint8).argmax())
                hidden = int(placeholders(input_ids, token_id, None)[row].sum() - wanted[row])
                raise _other_count(row, name, token_id, int(wanted[row]), int(given[row]), hidden)


def _other_count(row: int, name: str, token_id: int | None, wanted: int, given: int, hidden: int) -> ValueError:
    if token_id is None:
        return ValueError(f"row {row} reads {name} media, but config.{name}_token_id names no placeholder for them")
    more = f"; attention_mask hides {hidden} more, which count as padding" if hidden else ""
    return ValueError(
        f"row {row} has {wanted} placeholders (config.{name}_token_id={token_id}) for the {given} tokens of its "
        f"{name} media: give one for each token, as the processor does{more}"
    )


def placeholders(input_ids: torch.Tensor, token_id: int | None, mask: torch.Tensor | None) -> torch.Tensor:
    """bool (R, T): the tokens that stand for media; none that a mask (R, past + T) hides."""
    if token_id is None:
        return torch.zeros_like(input_ids, dtype=torch.bool)
    here = input_ids == token_id
    if not torch.is_tensor(mask) or mask.ndim != 2:  # one that is ready made says more than what is padding
        return here
    return here & mask[:, -input_ids.shape[1] :].bool()


def check_no_placeholders(
    input_ids: torch.Tensor | None, token_ids: dict[str, int | None], mask: torch.Tensor | None = None
) -> None:
    """Raises ValueError for placeholders in a text without media."""
    if input_ids is None or not may_read_values() or input_ids.is_meta:
        return
    for name, token_id in token_ids.items():
        found = int(placeholders(input_ids, token_id, mask).sum())
        if found:
            raise ValueError(
                f"input_ids hold {found} placeholders (config.{name}_token_id={token_id}), but no {name} media came "
                "with them"
            )


def answer_types(labels: torch.Tensor) -> torch.Tensor:
    """token_type_ids (R, T) of a prefix language model: 0 in the prompt, which has no labels, 1 from the first on."""
    return (labels != -100).cumsum(1).clamp(max=1)


# ---- CoCa: a token after the text -----------------------------------------------------------------------------------


class Closed(NamedTuple):
    """A text and one padding token after it."""

    input_ids: torch.Tensor  # (R, T + 1)
    position_ids: torch.Tensor  # (R, T + 1)
    attention_mask: torch.Tensor  # (R, T + 2), of the keys, the cls token's last


class MMUnimodal(nn.Module):
    """The token after a text in the first layers of a decoder (CoCa), its place included, and the norm of its state,
    which becomes the text's vector.

        columns          text ... text | padding | cls          every column sees what is before it, and
        "text"           itself        | -       | itself
        "shifted"        itself        | itself  | not itself   of a text of max_position_embeddings: as "text"

    "shifted" is the mask of open_clip's published CoCa (Yu et al. 2022, arXiv:2205.01917): its columns are one too far
    to the right, so the cls token attends to one padding token after the text and not to itself. The weights were
    trained so. open_clip always pads texts to max_position_embeddings; here nothing depends on the amount of padding.
    """

    def __init__(self, config: MMTextConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.norm = build_norm(config.norm_type, config.hidden_size, config.layer_norm_eps)

    def close(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor
    ) -> Closed:
        """Ids (R, T), their mask (R, T), and positions (R or 1, T)."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        length, longest = real.sum(1, keepdim=True), self.config.max_position_embeddings
        is_shifted = torch.zeros_like(length)
        if self.config.unimodal_cls == "shifted":
            is_shifted = (length < longest).long()
        padding = torch.full_like(length, self.config.pad_token_id or 0)
        return Closed(
            torch.cat([input_ids, padding], dim=1),
            torch.cat([position_ids.expand(len(real), -1), length.clamp(max=longest - 1)], dim=1),
            torch.cat([real, is_shifted, 1 - is_shifted], dim=1),
        )

    def append(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(R, T, D) -> (R, T + 1, D)."""
        return torch.cat([hidden_states, self.cls_token.expand(len(hidden_states), -1, -1)], dim=1)
