"""The media of a call: read under one policy for bad ones, then made into padded slots with a mask.

The functions take the processor whose parts and settings they use.

B samples, N pictures (videos, clips) per sample, F frames.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from .call_options import CallOptions
from .images.load import MediaDecodeError, PictureReader, is_frames, load_image
from .images.processor import PictureOptions
from .pairing import Samples
from .sounds.load import lacks_rate, load_sound, sound_tensors
from .sounds.masks import SoundAugmentation
from .videos.load import given_frames, load_video, video_tensors
from .videos.sampling import check_frame_settings, check_jitter, check_positive

logger = logging.getLogger(__name__)

# Limits of a call that go to the reader of media, and are no options of an image processor.
LIMITS = ("max_pixels", "max_bytes", "max_batch_pixels")
KEYS = {"images": "pixel_values", "videos": "pixel_values_videos", "audio": "input_features"}
MASKS = {"images": "pixel_attention_mask", "videos": "video_attention_mask", "audio": "input_features_mask"}


def read_samples(processor: Any, samples: Samples, call: CallOptions) -> Samples:
    """`samples` with their media read (None where one is unreadable), less those that on_error skips."""
    on_error = call.on_error
    if not samples.media:
        return samples
    read = {
        name: read_media(processor, name, sources, on_error, **call.media_options(name))
        for name, sources in samples.media.items()
    }
    kept = [
        index
        for index in range(len(next(iter(read.values()))))
        if on_error != "skip" or all(medium is not None for media in read.values() for medium in media[index])
    ]
    seen = {
        name: media
        for name, media in read.items()
        if any(medium is not None for index in kept for medium in media[index])
    }
    if not seen and not (kept and samples.prompts):
        raise MediaDecodeError(f"none of the {' and '.join(read)} can be read; the log names each")
    return replace(samples, media=seen).keep(kept)


def read_media(
    processor: Any,
    name: str,
    sources: list[list],
    on_error: str = "raise",
    allow_urls: bool = False,
    *,
    sampling_rate: int | None = None,
    num_frames: int | None = None,
    frame_sampling: str | float | None = None,
    do_sample_frames: bool = True,
    max_seconds: float | None = None,
    rngs: Sequence[np.random.Generator] | None = None,
    on_fault: Callable[[MediaDecodeError], object] | None = None,
    views: Mapping[int, Callable[[Callable], Callable]] | None = None,
    **image_options: Any,
) -> list[list[Any]]:
    """Media of one kind, nested by sample.

    Args:
        name: "images" gives upright RGB pictures, as the image processor reads them; "videos" lists of such
            frames; "audio" float32 arrays at the feature extractor's rate.
        sampling_rate: of arrays of sound; None takes the feature extractor's, with a logged warning.
        num_frames, frame_sampling: None takes the processor's.
        do_sample_frames: False takes every frame of videos given as frames; for others it raises an error.
        max_seconds: length of videos and sounds allowed; None takes `load_video`'s and `load_sound`'s.
        on_fault: called with the error of each one that is None.
        rngs: one for each sample, in training: frames of videos are then taken with the processor's frame_jitter.
        views: by sample, in training: makes of what reads a picture what reads another view of it.
        image_options: for images and frames.

    One that is missing or broken raises, naming its place images[sample][number]; under another on_error than
    "raise" it is None, and a warning is logged, with their number after the last. Errors as `load_image`,
    `load_video` and `load_sound` raise.
    """
    part = "feature_extractor" if name == "audio" else "image_processor"
    if getattr(processor, part) is None and any(sources):
        raise ValueError(f"{name} were given, but this processor has no {part}")
    limits = {} if max_seconds is None else {"max_seconds": max_seconds}
    load: Any
    load, options = _picture_loader(processor.image_processor, image_options)
    options["allow_urls"] = allow_urls
    if name == "videos":
        load = _video_loader(processor, sources, load, num_frames, frame_sampling, do_sample_frames, limits)
    elif name == "audio":
        load, options = _sound_loader(processor, sources, sampling_rate, limits), {"allow_urls": allow_urls}
    reader, read = PictureReader(on_error, **options), []
    for sample, entries in enumerate(sources):
        own = partial(load, rng=rngs[sample]) if rngs is not None and name == "videos" else load
        own = views[sample](own) if views is not None and sample in views else own
        read.append([reader.read(source, f"{name}[{sample}][{place}]", own) for place, source in enumerate(entries)])
    if reader.faults:
        total = sum(map(len, sources))
        logger.warning("%d of %d %s cannot be read (on_error=%r)", len(reader.faults), total, name, on_error)
        if on_fault is not None:
            for fault in reader.faults:
                on_fault(fault)
    return read


def _video_loader(
    processor: Any,
    sources: list[list],
    load: Callable[..., Image.Image],
    num_frames: int | None,
    frame_sampling: str | float | None,
    do_sample_frames: bool,
    limits: dict[str, float],
) -> Callable[..., Any]:
    """What reads the frames of one video, each by `load`."""
    number, sampling = frame_settings(processor, num_frames, frame_sampling)
    check_frame_settings(number, sampling)
    check_jitter(processor.frame_jitter)
    if frame_sampling not in (None, "uniform") and any(is_frames(film) for row in sources for film in row):
        logger.warning(
            "frame_sampling=%r: frames that are given have no times; at most num_frames=%d are taken evenly",
            frame_sampling,
            number,
        )
    if not do_sample_frames:
        return partial(given_frames, load=load)
    settings = {"num_frames": number, "frame_sampling": sampling, "frame_jitter": processor.frame_jitter}
    return partial(load_video, load=load, **settings, **limits)


def _sound_loader(
    processor: Any, sources: list[list], sampling_rate: int | None, limits: dict[str, float]
) -> Callable[..., Any]:
    """What reads one sound, at the feature extractor's rate."""
    rate = processor.feature_extractor.sampling_rate if any(sources) else 0
    if sampling_rate is None and any(lacks_rate(sound) for sample in sources for sound in sample):
        logger.warning("sampling_rate was not given: arrays of sound are read as %d samples a second", rate)
    told = rate if sampling_rate is None else sampling_rate
    return partial(load_sound, sampling_rate=rate, source_rate=told, **limits)


def frame_settings(
    processor: Any, num_frames: int | None, frame_sampling: str | float | None
) -> tuple[int, str | float]:
    """Those of a call, the processor's own for None."""
    return (
        processor.num_frames if num_frames is None else num_frames,
        processor.frame_sampling if frame_sampling is None else frame_sampling,
    )


def media_tensors(
    processor: Any,
    name: str,
    media: list[list[Any]],
    rngs: Sequence[np.random.Generator] | None = None,
    **image_options: Any,
) -> dict[str, torch.Tensor]:
    """What `read_media` gave as float32 tensors, nested by sample and padded to slots, with a bool mask that is
    False for None and for empty slots.

    "images": pixel_values (B, C, H, W) where each sample has just one, without a mask; else (B, N, C, H, W) and
    pixel_attention_mask (B, N). An image processor that masks patches gives (B[, N], rows, columns) instead.
    "videos", "audio": as `video_tensors` and `sound_tensors` say. rngs: one for each sample, in training: parts
    of sounds are then hidden as the processor's audio_augmentation says.
    """
    if name == "audio":
        if rngs is None or processor.audio_augmentation is None:
            return sound_tensors(processor.feature_extractor, media)
        hiding = SoundAugmentation(**processor.audio_augmentation)
        return sound_tensors(processor.feature_extractor, media, hiding, rngs)
    if name == "videos":
        return video_tensors(
            media, lambda frames: _pixels(processor.image_processor, frames, image_options, masked=False)[0]
        )
    present = [picture for sample in media for picture in sample if picture is not None]
    pixels, patches = _pixels(processor.image_processor, present, image_options)
    if all(len(sample) == 1 for sample in media) and len(present) == len(media):
        return {"pixel_values": pixels} | ({} if patches is None else {"pixel_attention_mask": patches})
    slots = max(len(sample) for sample in media)
    mask = [[picture is not None for picture in sample] + [False] * (slots - len(sample)) for sample in media]
    mask = torch.tensor(mask, dtype=torch.bool)
    slotted = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
    slotted[mask] = pixels
    if patches is not None:
        present_patches = patches.new_zeros(*mask.shape, *patches.shape[1:])
        present_patches[mask] = patches
        mask = present_patches
    return {"pixel_values": slotted, "pixel_attention_mask": mask}


def _pixels(
    image_processor: Any, pictures: list[Image.Image], options: dict[str, Any], masked: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(n, C, H, W) of n pictures and, where the image processor masks patches, their mask."""
    options = {name: value for name, value in options.items() if name not in ("input_data_format", *LIMITS)}
    own = isinstance(image_processor, PictureOptions)
    make = image_processor.pixels_of if own else image_processor
    made = make(pictures, return_tensors="pt", **options)
    pixels, patches = made["pixel_values"].float(), made.get("pixel_attention_mask")
    if pixels.ndim != 4 or len(pixels) != len(pictures):
        raise ValueError(
            f"{type(image_processor).__name__} makes pixel_values of shape {tuple(pixels.shape)} from "
            f"{len(pictures)} images; MMProcessor works with (images, channels, height, width)"
        )
    if patches is not None and not masked:
        raise ValueError("this image processor masks patches, and frames of videos have no such mask: set size")
    return pixels, patches


def _picture_loader(
    image_processor: Any, image_options: dict[str, Any]
) -> tuple[Callable[..., Image.Image], dict[str, Any]]:
    """What reads one picture, and the options that it takes."""
    if isinstance(image_processor, PictureOptions):
        return image_processor.load, dict(image_options)
    return load_image, {"input_data_format": image_options.get("input_data_format")}


def check_image_options(image_processor: Any, options: dict[str, Any]) -> None:
    """Raises TypeError for options that the image processor does not know."""
    known = set() if image_processor is None else set(image_processor.valid_kwargs.__annotations__)
    known |= set(LIMITS) if isinstance(image_processor, PictureOptions) else set()
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(
            f"MMProcessor got unknown arguments {unknown}; in addition to its own it takes the options of its image "
            f"processor: {sorted(known)}"
        )


def check_call(processor: Any, call: CallOptions) -> None:
    """Raises ValueError or TypeError for options of a call that are not accepted."""
    for kind in ("images", "videos"):
        check_image_options(processor.image_processor, call.options_of_images(kind))
    for kind in ("images", "videos", "audio"):
        media = call.media_options(kind)
        check_frame_settings(*frame_settings(processor, media["num_frames"], media["frame_sampling"]))
        for name in ("sampling_rate", "max_seconds", *LIMITS):
            check_positive(name, media.get(name))


def blank_media(processor: Any, name: str, rows: int) -> dict[str, torch.Tensor]:
    """A masked blank of one kind for each of `rows` contexts; nothing where the processor has no part for it."""
    if (processor.feature_extractor if name == "audio" else processor.image_processor) is None:
        return {}
    picture = Image.new("RGB", (16, 16))
    blank: Any = {"images": picture, "videos": [picture]}.get(name)
    if name == "audio":
        blank = np.zeros(processor.feature_extractor.sampling_rate // 10, np.float32)
    values = media_tensors(processor, name, [[blank]])[KEYS[name]]
    slotted = values if name == "audio" else values[:, None]
    parts = 1 if name == "videos" else 0  # frames have a mask each
    return {
        KEYS[name]: torch.zeros_like(slotted).expand(rows, *slotted.shape[1:]).clone(),
        MASKS[name]: torch.zeros(rows, *slotted.shape[1 : 2 + parts], dtype=torch.bool),
    }
