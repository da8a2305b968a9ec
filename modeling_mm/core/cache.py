"""MMCache: self-attention per row, cross-attention per context, written once and never reordered.

HeldText: what a cache was filled with. generate() compares the texts that it has read, the fingerprint of their
context and the weights with what it is given, since keys and values show none of them. They are kept at the
self-attention half of a cache, so also where a user goes on with a DynamicCache of his own; copies of a cache have
them, a cache that is read from a file has them without the weights.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache

from ...configuration.text import MMTextConfig
from .context_rows import MMRows
from .input_checks import may_read_values
from .plain_attention import MMPrefixKeys, MMPrefixMask

_HELD = "held_text_of_mm"  # the attribute


def check_cache(cache) -> None:
    if not isinstance(cache, Cache):
        raise TypeError(f"past_key_values must be a transformers Cache; got {type(cache).__name__}")


class MMCache(EncoderDecoderCache):
    """The states of one generation: all that a decode step needs.

    self_attention_cache: any Transformers cache, (R, Hkv, T, D) per self-attention sublayer.
    cross_attention_cache: (B, Hkv, S, D) per cross-attention sublayer, after the key norm. Beams, returned sequences
    and questions of one context all read the same entry, so reordering, repeating, selecting and cropping rows never
    touch it.
    rows: the plan that maps rows to contexts, made at the prefill.
    context_lengths: int64 (B,), real tokens per context (the first ones); None: no padding.
    token_sources: int64 (B, S, 3), what each context token is of (`MMContextOutput`); None: not known.
    context_ranges: int64 (R, n, 2), the packed context tokens that each text column may see; None: all.
    prefix_length: merged fusion: S media tokens come before the text in self-attention; their keys and values are in
        the cross-attention half, once per context too; 0: none. Only text counts for lengths and positions.
    columns: the first columns of the rows' text that the prefix stands for, where it is a beginning that rows share;
        they count for lengths and positions. prefix_counts: its real tokens (B,). rest: so many columns after them are
        in the prefix of some rows, too.
    `held_text` says which text, and which context, it was filled with.
    """

    rows: Any = None  # MMRows once a context is held
    context_lengths: torch.Tensor | None = None
    token_sources: torch.Tensor | None = None
    context_ranges: torch.Tensor | None = None
    prefix_counts: Any = None  # int64 (B,), with columns
    prefix_length = 0
    columns = 0
    rest = 0

    @classmethod
    def wrap(cls, cache: Cache) -> "MMCache":
        """An MMCache itself; the halves of an EncoderDecoderCache; any other cache as the self-attention half."""
        if isinstance(cache, cls):
            return cache
        check_cache(cache)
        if not isinstance(cache, EncoderDecoderCache):
            return cls(cache, DynamicCache())
        wrapped = cls(cache.self_attention_cache, cache.cross_attention_cache)
        if wrapped.holds_context:
            raise ValueError(
                "past_key_values is an EncoderDecoderCache that already holds a context, but not which row reads "
                "which; continue with the past_key_values that the model returned"
            )
        return wrapped

    @classmethod
    def for_generation(cls, cache: Cache, config: MMTextConfig, context_length: int) -> "MMCache":
        """As `wrap`; a static self-attention cache gets a static cross-attention half of `context_length` tokens."""
        if isinstance(cache, StaticCache) and context_length > 0:
            return cls(cache, StaticCache(config=config, max_cache_len=context_length))
        return cls.wrap(cache)

    @property
    def holds_context(self) -> bool:
        """Whether the states of a context have been written."""
        return any(self.is_updated.values())

    @property
    def context_size(self) -> int:
        """S, of the contexts that it holds."""
        layer: Any = self.cross_attention_cache.layers[0]
        return layer.keys.shape[2]

    @property
    def num_rows(self) -> int | None:
        """How many rows it holds; None while that is open."""
        if self.rows is not None:
            return self.rows.num_rows
        layers: Any = self.self_attention_cache.layers
        keys = layers[0].keys if layers else None
        return keys.shape[0] if keys is not None and keys.ndim == 4 else None

    def check_rows(self, num_rows: int) -> None:
        """Raises ValueError if another number of rows continues with this cache."""
        if self.num_rows not in (None, num_rows):
            raise ValueError(
                f"past_key_values holds {self.num_rows} rows, but {num_rows} were given; "
                "use the same rows, or call past_key_values.reset()"
            )

    def check_context(self, num_contexts: int | None, context_index: torch.Tensor | None) -> None:
        """Raises ValueError if the rows are given another context than this cache holds."""
        if self.columns:  # a prefix is a beginning that rows share, not a context
            return
        held = self.rows.num_contexts
        if num_contexts not in (None, held):
            raise ValueError(
                f"past_key_values holds {held} contexts, but encoder_outputs has {num_contexts}; "
                "call past_key_values.reset() for others"
            )
        if context_index is not None and may_read_values() and not self.rows.agrees_with(context_index):
            raise ValueError(
                "past_key_values was filled with another context_index; pass the same or none, or call "
                "past_key_values.reset()"
            )

    def context_states(self, layer: int, project: Callable, context: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Keys and values (B, Hkv, S, D) of one cross sublayer; `project` makes them of a context, at the first call
        only."""
        if self.is_updated.get(layer, False):
            held: Any = self.cross_attention_cache.layers[layer]
            return held.keys, held.values
        states = self.cross_attention_cache.update(*project(context), layer)
        self.is_updated[layer] = True
        return states

    def hold_text(self, held: "HeldText") -> "HeldText":
        """Replaces what the cache was filled with."""
        setattr(self.self_attention_cache, _HELD, held)
        return held

    # ---- media before the text (merged fusion) ----------------------------------------------------------------------

    def hold_prefix(self, length: int, lengths: torch.Tensor | None, rows: MMRows) -> None:
        """Says that the cross-attention half now holds `length` media tokens per context, `lengths` (B,) of them real.

        Every self-attention sublayer reads them before the text's, and copies none for a row.
        """
        self.prefix_length, self.context_lengths, self.rows = length, lengths, rows
        self.is_updated = dict.fromkeys(range(len(self.cross_attention_cache.layers)), True)

    def own_mask(self, attention_mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
        """Of a mask (R, columns + past + T) of whole texts, that of the rows' own keys; None: all."""
        if not self.columns or (attention_mask is not None and attention_mask.ndim != 2):
            return attention_mask
        if not self.rest:
            return None
        size = self.columns + self.get_mask_sizes(length, 0)[0]
        whole = self.prefix_counts.new_ones(self.rows.num_rows, size)
        real = (whole if attention_mask is None else attention_mask).bool()
        number = real.long().cumsum(-1)
        own = real & (number > self.rows.per_row(self.prefix_counts)[:, None])
        return own[:, self.columns :]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many columns of text it holds."""
        return super().get_seq_length(layer_idx) + self.columns

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """For mask functions: the number of own keys before the first query."""
        return self.self_attention_cache.get_query_offset(layer_idx)

    def prefix_keys(self, layer: int) -> MMPrefixKeys:
        """What a self sublayer reads of the media before the text: as they are held, once per context."""
        held: Any = self.cross_attention_cache.layers[layer]
        return MMPrefixKeys(self.rows, held.keys[:, :, : self.prefix_length], held.values[:, :, : self.prefix_length])

    def prefix_mask(self, own: torch.Tensor | None, length: int) -> MMPrefixMask:
        """Beside the mask `own` (R, 1, T, past + T) of T = `length` new tokens: which tokens of the media are real.

        A mask (R, 1, T, S + past + T) of the whole sequence, that the caller made, is cut in two.
        """
        lengths, real, before = self.context_lengths, None, None
        if lengths is not None:
            places = torch.arange(self.prefix_length, device=lengths.device)
            real = (places < lengths[:, None])[:, None, None]
        if own is not None and own.shape[-1] == self.prefix_length + self.get_mask_sizes(length, 0)[0]:
            before, own = own.split([self.prefix_length, own.shape[-1] - self.prefix_length], dim=-1)
        return MMPrefixMask(own, lengths, real, before)

    def reset(self) -> None:
        super().reset()
        self.rows = self.context_lengths = self.context_ranges = self.token_sources = None
        self.prefix_length = self.columns = self.rest = 0
        self.hold_text(HeldText())

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """A beam only replaces one of the same prompt, so its context does not change."""
        self.self_attention_cache.reorder_cache(beam_idx)
        self.hold_text(held_text(self).with_rows(lambda values: values[beam_idx.to(values.device)])).beams = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last -tokens_to_remove columns of text, those of a shared beginning too.

        Raises: ValueError where it would cut beginnings that end in other columns of some rows than of others.
        """
        own = self.get_seq_length() - self.columns
        if tokens_to_remove >= 0 or not self.columns or (-tokens_to_remove <= own and not self.rest):
            self.self_attention_cache.crop(tokens_to_remove)
        else:
            self._crop_shared(own, -tokens_to_remove)
        self._forget_empty()

    def _crop_shared(self, own: int, away: int) -> None:
        left = max(self.columns + own - away, 0)
        if left == 0:
            self.reset()
        elif self.rest and left < self.columns + self.rest:
            raise ValueError(
                f"crop() would leave {left} columns of text, but past_key_values holds the first "
                f"{self.columns + self.rest} once for rows of different lengths: leave at least as many, or call "
                "past_key_values.reset()"
            )
        else:
            self.self_attention_cache.crop(-min(own, away))
            if left < self.columns:  # of every row the beginning ends in its last column
                self.prefix_counts = (self.prefix_counts - (self.columns - left)).clamp(min=0)
                self.context_lengths, self.columns = self.prefix_counts, left
                self.prefix_length = max(int(self.prefix_counts.max()), 1)

    def _forget_empty(self) -> None:
        """Layers without a token hold no rows either: Transformers selects rows of those that have some."""
        layers: Any = self.self_attention_cache.layers
        for layer in layers:
            if type(layer) is DynamicLayer and layer.is_initialized and not layer.get_seq_length():
                layer.reset()

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.self_attention_cache.batch_repeat_interleave(repeats)
        self._take(lambda values: values.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.self_attention_cache.batch_select_indices(indices)
        self._take(lambda values: values[indices.to(values.device)])

    def select_rows(self, places: torch.Tensor) -> "MMCache":
        """The states of the rows at int64 (n,), in a cache that grows by itself; those of the contexts are shared."""
        branch = copy.copy(self)
        branch.self_attention_cache = copy.copy(self.self_attention_cache)
        branch.self_attention_cache.layers = [copy.copy(layer) for layer in self.self_attention_cache.layers]
        branch.batch_select_indices(places)
        return branch

    def _take(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Changes all that is held per row; what is held per context stays."""
        self.hold_text(held_text(self).with_rows(change))
        if self.rows is not None:
            index = change(self.rows.index())
            self.rows = MMRows(len(index), self.rows.num_contexts, index)
        if self.context_ranges is not None:
            self.context_ranges = change(self.context_ranges)


# ---- what a cache was filled with -----------------------------------------------------------------------------------


@dataclass(eq=False)
class HeldText:
    """Each call adds what it read; of a cache that may be compiled generate() does it, outside of the graph.

    parts: the ids (R, n) or embeddings (R, n, D) of each call, in order. mask: (R, >= held tokens); None: all real.
    fingerprint: of the context, "" for none; None: not known. weights: of `weights_mark`; None: not known.
    beams: whether the rows are beams, which are not in the order of the texts that were written.
    """

    parts: list[torch.Tensor] = field(default_factory=list)
    length: int = 0  # of all parts, so that a decode step does not count them
    mask: torch.Tensor | None = None
    fingerprint: str | None = None
    weights: int | None = None
    beams: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weights": None}  # of another process

    def __deepcopy__(self, _) -> "HeldText":
        return replace(self, parts=list(self.parts))  # tensors that nobody changes in place

    def add(self, words: torch.Tensor, mask: torch.Tensor | None, past: int) -> None:
        """The tokens of a call with `past` tokens before them; what was cropped since is forgotten."""
        if past != self.length:
            self._crop(past)
        if past == 0:
            self.weights = None
        if past == self.length:  # with tokens missing, those that follow mean nothing
            self.parts.append(words.detach().clone())  # as their owner may write into them
            self.length += words.shape[1]
        if mask is None or mask.ndim == 2:
            self.mask = mask if mask is None or words.shape[1] == 1 else mask.clone()

    def _crop(self, length: int) -> None:
        """Forgets what comes after the first `length` tokens; everything where fewer are known."""
        kept, held = [], 0
        for part in self.parts:
            part = part[:, : length - held]
            held += part.shape[1]
            kept += [part] if part.shape[1] else []
        self.parts, self.length = (kept, held) if held == length else ([], 0)

    def with_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "HeldText":
        """The same of other rows."""
        joined: list[torch.Tensor] = []
        for part in self.parts:
            if joined and joined[-1].ndim == part.ndim:
                joined[-1] = torch.cat([joined[-1], part], dim=1)
            else:
                joined.append(part)
        taken = copy.deepcopy(self)
        taken.parts = [change(part) for part in joined]
        taken.mask = None if self.mask is None else change(self.mask)
        return taken

    def is_known(self, length: int) -> bool:
        return self.length >= length > 0

    def real(self, mask: torch.Tensor | None, rows: int, length: int) -> torch.Tensor | None:
        """bool (R, length), the real ones of the held tokens by `mask`; None if others were, or in other rows."""
        device = self.parts[0].device
        whole = torch.ones((rows, length), dtype=torch.bool, device=device)
        now, then = (whole if one is None else one[:, :length].to(device).bool() for one in (mask, self.mask))
        same = len(self.parts[0]) == rows and now.shape == then.shape and torch.equal(now, then)
        return now if same else None

    def agrees_with(self, words: torch.Tensor, mask: torch.Tensor | None, length: int, embed: nn.Module) -> bool:
        """Whether `words`, ids (R, T) or embeddings (R, T, D), begin with the `length` tokens that are held, where the
        same of them are real."""
        real = self.real(mask, len(words), length)
        if real is None:
            return False
        real = real.to(words.device)
        parts = [part.to(words.device) for part in self.parts]
        if words.ndim == 3 or any(part.ndim == 3 for part in parts):
            words, *parts = (embed(one) if one.ndim == 2 else one for one in (words, *parts))
            return bool(((torch.cat(parts, 1)[:, :length] == words[:, :length]).all(-1) | ~real).all())
        return bool(((torch.cat(parts, 1)[:, :length] == words[:, :length]) | ~real).all())


def held_text(cache: Cache) -> HeldText:
    """That of a cache, made where it has none."""
    half = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if not hasattr(half, _HELD):
        setattr(half, _HELD, HeldText())
    return getattr(half, _HELD)


def weights_mark(model: nn.Module) -> int:
    """Another number once a weight was written to, moved or replaced, or an adapter was added, switched or merged.

    It reads no weight. What is written only through `.data` stays unseen.
    """
    seen: list[Any] = []
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                seen.append(0 if weight.is_inference() else weight._version)
                seen.append(weight.data_ptr() if type(weight) is nn.Parameter else id(weight))
        if hasattr(module, "merged_adapters"):  # a layer of PEFT
            adapters: Any = module
            seen += [tuple(adapters.active_adapters), tuple(adapters.merged_adapters), adapters.disable_adapters]
    return hash(tuple(seen))
