"""What a forward takes and returns. The inputs are written once: those of a context, which row reads which context,
and the cache. The outputs of a head with results of its own are in its file.

B contexts, N items per context (pictures, videos, clips), F frames, R rows, T text tokens, S context tokens, H heads,
V vocabulary; Dv, Dc, Dt: widths of the vision tower, the context and the text.

A forward spells out its text inputs and its own arguments; `@takes` puts the rest into its signature, where Trainer,
generate() and help() look for them:

    @takes(MediaInputs, RowInputs)
    def forward(self, input_ids=None, ..., *, labels=None, **inputs):
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar, get_type_hints

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from ...configuration.base import nearest

_Forward = TypeVar("_Forward", bound=Callable[..., Any])
_OF_TRANSFORMERS = {*TransformersKwargs.__annotations__, "return_dict"}


class MediaInput(NamedTuple):
    """What an input of media has to look like; `check_media` checks it."""

    kind: str  # the modality that the model needs for it
    item: str
    shape: tuple[str, ...]  # of one item: "C" are the colours and "Dv" the width of the vision tower; (): any
    mask: str
    part_dims: int = 0  # dimensions of a mask inside each item; 0: it has one value per item
    parts: str = ""  # such a mask, in words
    is_ready: bool = False  # whether it is a tower's output


_PATCHES, _TOKENS = "(rows, columns), True for each real patch", "(tokens,), True for each real token"
_FRAMES = "(frames,), True for each real frame"


class MediaInputs(TypedDict, total=False):
    """The inputs of a context.

    pixel_values: float (B, C, H, W), one picture each, or (B, N, C, H, W) in slots.
    pixel_attention_mask: bool per picture (B[, N]), True for each one present, or per patch (B[, N], rows, columns),
        real patches a rectangle at the top left; None: all are real.
    visual_embeds: float (B[, N], S, Dv), ready tower output instead of pixel_values; a mask may be per token.
    visual_pooler_output: float (B[, N], Dv), with visual_embeds: the tower's own vectors; None: the mean of tokens.
    image_grids: int64 (B, M, 4), of each of M pictures whose tiles are the N items (config.image_newline): rows and
        columns of tiles after the tile of the whole, and of tokens without padding; 0 for absent ones. Where tiles are
        read together (vision_config.max_tiles) int64 (B, M, 2), rows and columns of tiles.
    pixel_values_videos: float (B[, N], F, C, H, W); video_attention_mask: bool (B[, N], F), the real frames.
    input_features: float (B, N, ...), N clips and then what the audio tower takes; input_features_mask: bool (B, N),
        or (B, N, frames) where the tower can leave out frames.
    context_input_ids: int64 (Bc, Tc), a question or passage for the text encoder; the context is then its states,
        joined with the media, and every B is Bc for the decoder.
    context_attention_mask: (Bc, Tc), 1 = real.
    media_index: int64 (Bc,), context text -> row of the media; None: Bc = k*B, contiguous.
    interpolate_pos_encoding: accept pictures of another size than image_size.
    """

    pixel_values: Annotated[
        torch.Tensor | None,
        MediaInput("image", "picture", ("C", "height", "width"), "pixel_attention_mask", 2, _PATCHES),
    ]
    pixel_attention_mask: torch.Tensor | None
    visual_embeds: Annotated[
        torch.Tensor | None,
        MediaInput("image", "picture", ("S", "Dv"), "pixel_attention_mask", 1, _TOKENS, is_ready=True),
    ]
    visual_pooler_output: torch.Tensor | None
    image_grids: torch.Tensor | None
    pixel_values_videos: Annotated[
        torch.Tensor | None, MediaInput("video", "frame", ("F", "C", "height", "width"), "video_attention_mask")
    ]
    video_attention_mask: torch.Tensor | None
    input_features: Annotated[torch.Tensor | None, MediaInput("audio", "clip", (), "input_features_mask", 1, _FRAMES)]
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
# The media that a text is compared with, and what such a text does not have.
COMPARED = tuple(name for name in MediaInputs.__annotations__ if name not in CONTEXT_TEXT)
NOT_COMPARED = (*CONTEXT_TEXT, "context_ranges", "encoder_attention_mask")
_DEFAULTS = {"interpolate_pos_encoding": False}


def takes(*groups: Any, without: Collection[str] = ()) -> Callable[[_Forward], _Forward]:
    """Puts the inputs of some groups, less those of `without`, into a forward's signature and docstring, and says
    what it accepts, for `reject_unknown`."""

    def declared(forward: _Forward) -> _Forward:
        signature = inspect.signature(forward)
        *own, rest = signature.parameters.values()
        spelled = {*without, *signature.parameters}
        more = {
            name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=kind)
            for group in groups
            for name, kind in get_type_hints(group).items()
            if name not in spelled
        }
        function: Any = forward
        function.__signature__ = signature.replace(parameters=[*own, *more.values(), rest.replace(name="kwargs")])
        function.accepted = frozenset(parameter.name for parameter in [*own, *more.values()]) - {"self"}
        if groups:
            whole = "\n".join(group.__doc__.strip() for group in groups)
            function.__doc__ = f"{inspect.cleandoc(forward.__doc__ or '')}\n\n{inspect.cleandoc(whole)}"
        return forward

    return declared


def pop_inputs(inputs: Any, names: Any) -> dict[str, Any]:
    """Takes the inputs of a group, or of some names, out of `inputs`; those that were not given are None or False."""
    names = getattr(names, "__annotations__", names)
    return {name: inputs.pop(name, _DEFAULTS.get(name)) for name in names}


def reject_unknown(given: Mapping[str, Any], accepted: Any, where: str = "forward") -> None:
    """Raises TypeError for a keyword that is unknown to Transformers and not in `accepted` (names, or a method with
    `@takes`); the error names the nearest one."""
    names = getattr(accepted, "accepted", accepted)
    for name in given:
        if name not in names and name not in _OF_TRANSFORMERS:
            raise TypeError(f"{where}() has no argument {name!r}{nearest(name, names)}")


# ---- outputs ------------------------------------------------------------------------------------------------------


class MMOutput(ModelOutput):
    """Transformers' ModelOutput, whose fields are listed once per class instead of at each field that is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in getattr(type(self), "__dataclass_fields__", ()):
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        """The fields are items already; Transformers reads the first one as all of them where it is no tensor."""
        first = next(iter(vars(self).values()))
        if first is not None and not torch.is_tensor(first):
            super().__post_init__()


def capture_when_asked(forward: Callable) -> Callable:
    """Transformers' capture_outputs (hidden states and attentions by hooks), passed by where a call asks for none."""
    capturing = capture_outputs(forward)

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        asked = (
            kwargs[name] if name in kwargs else getattr(self.config, name)
            for name in ("output_hidden_states", "output_attentions")
        )
        if kwargs.get("return_dict") is not True or any(asked):
            return capturing(self, *args, **kwargs)
        del kwargs["return_dict"]
        return forward(self, *args, **kwargs)

    return wrapper


def hidden_state(output: Any, layer: int) -> torch.Tensor:
    """One of an output's hidden states. Raises: ValueError for a layer that there is not."""
    states = output.hidden_states
    if not -len(states) <= layer < len(states):
        raise ValueError(f"layer={layer} is outside the tower's {len(states)} hidden states")
    return states[layer]


@dataclass
class MMContextOutput(MMOutput):
    """Everything the rows may look at, encoded once per context.

    last_hidden_state: (B, S, Dc), tokens at the width that the text's attention reads: of pictures, videos and clips,
        then of text; after a text encoder under cross_attention only the text's.
    attention_mask: bool (B, S), True = real, **real tokens first**; None: all are real.
    token_sources: int64 (B, S, 3): modality (0 image, 1 video, 2 audio, 3 text), item number, position within the
        item; padding is -1.
    pooler_output: (B, Dv), the tower's pooled vector averaged over the items present (zeros without any), or
        the text encoder's vector.
    vision_output, video_output, audio_output, text_output: the towers' own outputs for the items present; generate()
        drops them.
    packed_offsets: int64 (B, S + 1), the number of real tokens before each place when padding was between them; None:
        nothing was moved.
    pooler_outputs: {"vision": (B, Dv), "audio": (B, Da)} where both towers gave something; None otherwise.
    """

    last_hidden_state: torch.Tensor
    attention_mask: torch.Tensor | None = None
    token_sources: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    vision_output: BaseModelOutputWithPooling | None = None
    video_output: BaseModelOutputWithPooling | None = None
    audio_output: BaseModelOutputWithPooling | None = None
    text_output: ModelOutput | None = None
    packed_offsets: torch.Tensor | None = None
    pooler_outputs: dict[str, torch.Tensor] | None = None


@dataclass
class MMModelOutput(MMOutput):
    """The base model's output. Of only text: decoder states; of only media: the context; of both: fused states.

    last_hidden_state: (R, T, Dt), or (B, S, Dc) from only media.
    pooler_output: (R, Dt) by the text pooler, (R, fusion_size) under concat, sum and gated, or (B, Dv) from only
        media.
    hidden_states, attentions: of the text stack; cross_attentions: per cross layer (R, H, T, S), S in packed order
    (token_sources of the context says what each key is). Under merged without a cache they are of the whole sequence,
    media and text; with one, of the text.
    modality_embeds: {"text" or a modality: (R, width)}, what concat, sum, gated and decision join, and
    modality_present: {name: bool (R,)}, which rows have it.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None
    modality_embeds: dict[str, torch.Tensor] | None = None
    modality_present: dict[str, torch.Tensor] | None = None


@dataclass
class MMCausalLMOutput(MMOutput):
    """The generation head's output: loss when labels were given, logits (R, T or kept, V), then as MMModelOutput."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None
