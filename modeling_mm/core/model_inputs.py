"""The inputs of a model, written once: the inputs of a context, which row reads which context, and the cache.

B contexts, N items per context (pictures, videos, clips), F frames, R rows, T text tokens, S context tokens; Dv: width
of the vision tower.

A forward spells out its text inputs and its own arguments; `@takes` puts the rest into its signature, where Trainer,
generate() and help() look for them:

    @takes(MediaInputs, RowInputs)
    def forward(self, input_ids=None, ..., *, labels=None, **inputs):
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict, TypeVar

import torch
from transformers.cache_utils import Cache
from transformers.utils.generic import TransformersKwargs

from ...configuration.base import nearest

_Forward = TypeVar("_Forward", bound=Callable[..., Any])
_OF_TRANSFORMERS = {*TransformersKwargs.__annotations__, "return_dict"}


class MediaInputs(TypedDict, total=False):
    """The inputs of a context.

    pixel_values: float (B, C, H, W), one picture each, or (B, N, C, H, W) in slots.
    pixel_attention_mask: bool per picture (B[, N]), True for each one present, or per patch (B[, N], rows, columns),
        real patches a rectangle at the top left; None: all are real.
    visual_embeds: float (B[, N], S, Dv), ready tower output instead of pixel_values; a mask may be per token.
    pixel_values_videos: float (B[, N], F, C, H, W); video_attention_mask: bool (B[, N], F), the real frames.
    input_features: float (B, N, ...), N clips and then what the audio tower takes; input_features_mask: bool (B, N),
        or (B, N, frames) where the tower can leave out frames.
    context_input_ids: int64 (Bc, Tc), a question or passage for the text encoder; the context is then its states,
        joined with the media, and every B is Bc for the decoder.
    context_attention_mask: (Bc, Tc), 1 = real.
    media_index: int64 (Bc,), context text -> row of the media; None: Bc = k*B, contiguous.
    interpolate_pos_encoding: accept pictures of another size than image_size.
    """

    pixel_values: torch.Tensor | None
    pixel_attention_mask: torch.Tensor | None
    visual_embeds: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    video_attention_mask: torch.Tensor | None
    input_features: torch.Tensor | None
    input_features_mask: torch.Tensor | None
    context_input_ids: torch.Tensor | None
    context_attention_mask: torch.Tensor | None
    media_index: torch.Tensor | None
    interpolate_pos_encoding: bool


class RowInputs(TypedDict, total=False):
    """Which row reads what.

    context_index: int64 (R,), row -> context; None: R = k*B, row r reads context r // k.
    context_ranges: int64 (R, n, 2), the half-open range of context tokens, before packing, that text column t may see;
        columns after the n-th use its range. None: the whole context.
    encoder_outputs: a context encoded before, instead of media; not read if past_key_values holds it.
    encoder_attention_mask: (B, S), with encoder_outputs that have no mask of their own.
    """

    context_index: torch.Tensor | None
    context_ranges: torch.Tensor | None
    encoder_outputs: Any
    encoder_attention_mask: torch.Tensor | None


class CacheInputs(TypedDict, total=False):
    """past_key_values: MMCache or any Transformers cache. use_cache None: config.use_cache, False in training."""

    past_key_values: Cache | None
    use_cache: bool | None


class MMKwargs(TypedDict, total=False):
    """What every forward of Transformers takes; more of TransformersKwargs goes through to the attention."""

    output_hidden_states: bool | list[int]
    output_attentions: bool
    num_items_in_batch: torch.Tensor | int | None
    shift_labels: torch.Tensor | None


class ModelInputs(MediaInputs, RowInputs, CacheInputs, MMKwargs, total=False):
    """All inputs other than the text."""


CONTEXT_TEXT = ("context_input_ids", "context_attention_mask", "media_index")
READY = ("encoder_outputs", "encoder_attention_mask")
# What a text that is compared with media does not have.
NOT_COMPARED = (*CONTEXT_TEXT, "context_ranges", "encoder_attention_mask")
_DEFAULTS = {"interpolate_pos_encoding": False}


def takes(*groups: Any, without: Collection[str] = ()) -> Callable[[_Forward], _Forward]:
    """Puts the inputs of some groups, less those of `without`, into a forward's signature and docstring."""

    def declared(forward: _Forward) -> _Forward:
        signature = inspect.signature(forward)
        *own, rest = signature.parameters.values()
        spelled = {*without, *signature.parameters}
        more = {
            name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=kind)
            for group in groups
            for name, kind in group.__annotations__.items()
            if name not in spelled
        }
        function: Any = forward
        function.__signature__ = signature.replace(parameters=[*own, *more.values(), rest.replace(name="kwargs")])
        function.accepted = frozenset(parameter.name for parameter in [*own, *more.values()]) - {"self"}
        whole = "\n".join(group.__doc__.strip() for group in groups)
        function.__doc__ = f"{inspect.cleandoc(forward.__doc__ or '')}\n\n{inspect.cleandoc(whole)}"
        return forward

    return declared


def pop_inputs(inputs: Any, names: Any) -> dict[str, Any]:
    """Takes the inputs of a group, or of some names, out of `inputs`; those that were not given are None or False."""
    names = getattr(names, "__annotations__", names)
    return {name: inputs.pop(name, _DEFAULTS.get(name)) for name in names}


def reject_unknown(given: Mapping[str, Any], accepted: Any, where: str = "forward") -> None:
    """Raises TypeError for a keyword that is unknown to Transformers and not in `accepted` (names, or a method that
    `takes` inputs); the error names the nearest one."""
    names = getattr(accepted, "accepted", accepted)
    for name in given:
        if name not in names and name not in _OF_TRANSFORMERS:
            raise TypeError(f"{where}() has no argument {name!r}{nearest(name, names)}")
