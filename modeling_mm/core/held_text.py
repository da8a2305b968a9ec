"""What a cache was filled with: the texts it has read, the fingerprint of their context, and the weights.

generate() compares them with what it is given, since keys and values show neither the words nor the weights that they
were made of. They are kept at the self-attention half of a cache, so also where a user goes on with a DynamicCache of
his own; copies of a cache have them, a cache that is read from a file has them without the weights.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache

_NAME = "held_text_of_mm"


class HeldText:
    """parts: the ids (R, n) or embeddings (R, n, D) of each call, in order. mask: (R, >= held tokens); None: all real.
    fingerprint: of the context, "" for none; None: not known. weights: of `weights_mark`; None: not known.
    beams: whether the rows are beams, which are not in the order of the texts that were written."""

    def __init__(self):
        self.parts: list[torch.Tensor] = []
        self.length = 0  # of all parts, so that a decode step does not count them
        self.mask: torch.Tensor | None = None
        self.fingerprint: str | None = None
        self.weights: int | None = None
        self.beams = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"weights": None}  # of another process

    def __deepcopy__(self, _) -> "HeldText":
        copied = HeldText()
        copied.__dict__.update(self.__dict__)
        copied.parts = list(self.parts)  # tensors that nobody changes in place
        return copied

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

    def taken(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "HeldText":
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
    found = getattr(_half(cache), _NAME, None)
    return hold(cache, HeldText()) if found is None else found


def hold(cache: Cache, held: HeldText) -> HeldText:
    setattr(_half(cache), _NAME, held)
    return held


def _half(cache: Cache) -> Cache:
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def weights_mark(model: nn.Module) -> int:
    """Another number once a weight was written to, moved or replaced, or an adapter was added, switched or merged.

    It reads no weight. What is written through `.data` alone stays unseen.
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
