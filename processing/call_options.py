"""The options of a call of MMProcessor: their names and types, their defaults, and a refusal for any other.

As with every processor of Transformers they may come by themselves, or nested by kind: text_kwargs={...}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from .options import MMImageProcessorKwargs

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


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The options of one call, each with its default; `image_options` are all that is not named here.

    padding, max_length: None takes what the tokenizer was saved with, and True and its own limit without that.
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
    return_text_replacement_offsets: bool = False  # Transformers asks for them with the above: there are none
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

    def __post_init__(self):
        if self.fps is not None and self.frame_sampling is not None:
            raise ValueError(f"fps={self.fps!r} and frame_sampling={self.frame_sampling!r} both say which frames")

    def media_options(self) -> dict[str, Any]:
        """Those that `ReadingProcessor.read_media` takes."""
        names = ("allow_urls", "sampling_rate", "num_frames", "do_sample_frames", "max_seconds")
        sampling = self.fps if self.frame_sampling is None else self.frame_sampling
        return {**{name: getattr(self, name) for name in names}, "frame_sampling": sampling, **self.image_options}


_OWN = {one.name for one in fields(CallOptions)} - {"image_options"}


def call_options(given: Mapping[str, Any]) -> CallOptions:
    """Options as a call has them: by themselves, nested by kind, and under common_kwargs, which all others override.

    Raises: ValueError for an option that is given twice, TypeError for a nest that is no dict.
    """
    flat = {name: value for name, value in given.items() if name not in (*NESTED, "common_kwargs")}
    nested: dict[str, Any] = {}
    for kind in NESTED:
        for name, value in _dict_of(given, kind).items():
            if name in flat or (name in nested and nested[name] != value):
                raise ValueError(f"{name} was given twice: by itself or in another dict, and in {kind}")
            nested[name] = value
    options = {**_dict_of(given, "common_kwargs"), **nested, **flat}
    own = {name: options.pop(name) for name in _OWN & set(options)}
    return CallOptions(**own, image_options=options)


def _dict_of(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    nest = given.get(name) or {}
    if not isinstance(nest, Mapping):
        raise TypeError(f"{name} is a dict of options; got {type(nest).__name__}")
    return nest
