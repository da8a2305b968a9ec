"""The options of a call of MMProcessor: their names and types, their defaults, and a refusal for any other.

As with every processor of Transformers they may come by themselves, or nested by kind: text_kwargs={...}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, TypedDict

import numpy as np
import torch

from .images.limits import ON_ERROR, check_choice
from .images.options import MMImageProcessorKwargs
from .videos.sampling import check_frame_settings

NESTED = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs")


class MMTextKwargs(TypedDict, total=False):
    """Options of texts; `MMProcessor.__call__` says what each does."""

    add_special_tokens: bool
    add_eos_token: bool | None
    padding: bool | str | None
    padding_side: str | None
    max_length: int | None
    truncation: bool
    pad_to_multiple_of: int | None
    return_offsets_mapping: bool
    sanitize_control_tokens: bool
    return_tensors: str | None


class MMVideosKwargs(TypedDict, total=False):
    """Options of videos."""

    do_sample_frames: bool
    num_frames: int | None
    frame_sampling: str | float | int | None
    fps: float | int | None
    max_seconds: float | int | None
    return_tensors: str | None


class MMAudioKwargs(TypedDict, total=False):
    """Options of sounds."""

    sampling_rate: int | None
    max_seconds: float | int | None
    return_tensors: str | None


class MMProcessorKwargs(TypedDict, total=False):
    """All options of a call; those of pictures are the image processor's, and its limits."""

    text_kwargs: MMTextKwargs
    images_kwargs: MMImageProcessorKwargs
    videos_kwargs: MMVideosKwargs
    audio_kwargs: MMAudioKwargs
    return_text_replacement_offsets: bool
    on_error: str
    allow_urls: bool
    max_pixels: int
    max_bytes: int
    max_batch_pixels: int


def check_processor(processor: Any) -> None:
    """Raises TypeError for what is no MMProcessor."""
    if not hasattr(processor, "encodable"):
        raise TypeError(f"processor must be an MMProcessor; got {type(processor).__name__}")


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The options of one call, each with its default; `image_options` are all that is not named here.

    padding, max_length: None takes what the tokenizer was saved with, and True and its own limit without that.
    of_kind: those that were nested for "images", "videos" or "audio" and count only for that kind.
    """

    return_tensors: str | None = None
    padding: bool | str | None = None
    padding_side: str | None = None
    max_length: int | None = None
    truncation: bool = True
    pad_to_multiple_of: int | None = None
    add_eos_token: bool | None = None
    add_special_tokens: bool = True
    return_offsets_mapping: bool = False
    return_text_replacement_offsets: bool = False  # Transformers asks for them together with the above; MM has none
    sanitize_control_tokens: bool = False
    on_error: str = "raise"
    allow_urls: bool = False
    sampling_rate: int | None = None
    num_frames: int | None = None
    frame_sampling: str | float | None = None
    fps: float | None = None
    do_sample_frames: bool = True
    max_seconds: float | None = None
    image_options: dict[str, Any] = field(default_factory=dict)
    of_kind: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("return_tensors", self.return_tensors, (None, "pt", "np"))
        if self.return_offsets_mapping and not self.sanitize_control_tokens:
            raise ValueError(
                "return_offsets_mapping=True is for chats: apply_chat_template(return_assistant_tokens_mask=True)"
            )
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), (bool, NoneType)):
                raise TypeError(f"{name}={getattr(self, name)!r}; accepted are True or False")
        if self.fps is not None and self.frame_sampling is not None:
            raise ValueError(f"fps={self.fps!r} and frame_sampling={self.frame_sampling!r} both say which frames")
        if not self.do_sample_frames:
            for name in ("num_frames", "fps", "frame_sampling"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} with do_sample_frames=False: every frame is taken, none sampled")

    def media_options(self, kind: str) -> dict[str, Any]:
        """Those that `read_media` takes for "images", "videos" or "audio"."""
        names = ("allow_urls", "sampling_rate", "num_frames", "do_sample_frames", "max_seconds")
        sampling = self.fps if self.frame_sampling is None else self.frame_sampling
        own = {**{name: getattr(self, name) for name in names}, "frame_sampling": sampling}
        return {**own, **self.image_options, **self.of_kind.get(kind, {})}

    def options_of_images(self, kind: str) -> dict[str, Any]:
        """Those of the image processor, for "images" or the frames of "videos"."""
        return {**self.image_options, **{n: v for n, v in self.of_kind.get(kind, {}).items() if n != "max_seconds"}}


_OWN = {one.name for one in fields(CallOptions)} - {"image_options", "of_kind"}
_SWITCHES = (
    "add_eos_token", "add_special_tokens", "return_offsets_mapping", "sanitize_control_tokens",
    "allow_urls", "do_sample_frames",
)  # fmt: skip
# Options that may be nested together with those of the image processor, and the kind of media that they apply to.
_NAMES = {
    "text_kwargs": set(MMTextKwargs.__annotations__),
    "images_kwargs": {"return_tensors"},
    "videos_kwargs": set(MMVideosKwargs.__annotations__),
    "audio_kwargs": set(MMAudioKwargs.__annotations__),
}
_KINDS = {"images_kwargs": "images", "videos_kwargs": "videos", "audio_kwargs": "audio"}


def call_options(given: Mapping[str, Any]) -> CallOptions:
    """Options as a call has them: by themselves, nested by kind, and under common_kwargs, which all others override.

    Raises: ValueError for an option that is given twice, TypeError for a nest that is no dict, or that holds an option
    of another kind.
    """
    flat = {name: value for name, value in given.items() if name not in (*NESTED, "common_kwargs")}
    nested: dict[str, Any] = {}
    of_kind: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
    for nest in NESTED:
        for name, value in _dict_of(given, nest).items():
            _check_name(nest, name)
            is_shared = name in _OWN - {"max_seconds"}
            if name in flat or (is_shared and name in nested and nested[name] != value):
                raise ValueError(f"{name} was given twice: by itself or in another dict, and in {nest}")
            (nested if is_shared else of_kind[_KINDS[nest]])[name] = value
    options = {**_dict_of(given, "common_kwargs"), **nested, **flat}
    own = {name: options.pop(name) for name in _OWN & set(options)}
    return CallOptions(**own, image_options=options, of_kind=of_kind)


def _check_name(nest: str, name: str) -> None:
    """Raises TypeError for an option that has no place in a nest; their processor checks those of pictures."""
    takes_pictures = nest in ("images_kwargs", "videos_kwargs")
    if name not in _NAMES[nest] and (name in _OWN or not takes_pictures):
        known = sorted(_NAMES[nest])
        raise TypeError(
            f"{name} is no option of {nest}; known are {known}" + " and those of the image processor" * takes_pictures
        )


def _dict_of(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    nest = given.get(name) or {}
    if not isinstance(nest, Mapping):
        raise TypeError(f"{name} is a dict of options; got {type(nest).__name__}")
    return nest


class MMCallDefaults(TypedDict, total=False):
    """Defaults of options of a call, which a processor keeps."""

    add_eos_token: bool
    num_frames: int
    frame_sampling: str | float


DEFAULTS: dict[str, Any] = {"add_eos_token": False, "num_frames": 8, "frame_sampling": "uniform"}


def checked_defaults(given: MMCallDefaults) -> dict[str, Any]:
    """DEFAULTS with those given. Raises TypeError for other names, ValueError for values that are not accepted."""
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise TypeError(
            f"MMProcessor got unknown arguments {unknown}; in addition to its parts it takes {sorted(DEFAULTS)}"
        )
    defaults = {**DEFAULTS, **given}
    check_frame_settings(defaults["num_frames"], defaults["frame_sampling"])
    if not isinstance(defaults["add_eos_token"], bool):
        raise ValueError(f"add_eos_token={defaults['add_eos_token']!r}; accepted are True or False")
    return defaults


def converted(name: str, values: Any, kind: str | None) -> Any:
    """Lists or a tensor as "pt" tensor, "np" array, or (None) as plain lists for texts and an array for pictures."""
    if isinstance(values, torch.Tensor):
        return values if kind == "pt" else values.numpy()
    if kind is None:
        return values
    if isinstance(values[0], list) and len({len(row) for row in values}) > 1:
        raise ValueError(f"{name} has rows of unequal length, which make no tensor; pass padding=True")
    return torch.tensor(values) if kind == "pt" else np.array(values)
