"""The image processor (or feature extractor) and tokenizer of a source as MM's: the same pixels, the same ids."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer
from transformers.image_utils import SizeDict

from ..configuration.special_ids import row_ends
from ..processing.images.processor import MMImageProcessorPil
from ..processing.processor import MMProcessor
from ..processing.spelling import PROBES, changed_texts
from .family import Layout, Plan

_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
IMAGE_OPTIONS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip

_TRIED = (30, 41), (97, 33)  # height and width of pictures on which two image processors are compared
_GREY_LEVELS = 1.5  # in 0..255; torchvision's resizing differs from Pillow's by one
_HARMLESS = (
    "image_processor_type",
    "processor_class",
    "do_pad",
    "pad_size",
    "size_divisor",
    "do_convert_rgb",
    "data_format",
)


def convert_processor(
    directory: Path | None, plan: Plan, ends: tuple[int | None, int | None]
) -> tuple[MMProcessor | None, list[str]]:
    """The source's processor as an MMProcessor, None if it has no part, and notes for the report.

    Args:
        directory: of the source, None for a file.
        ends: the ids that open and close a row of text.
    """
    parts, notes = {}, []
    images = None if plan.hears else image_processor_of(directory)
    sounds = feature_extractor_of(directory) if plan.hears else None
    tokenizer = (plan.tokenizer or tokenizer_of)(directory)
    if sounds is not None:
        parts["feature_extractor"] = sounds
        notes += _heard_notes(sounds, plan.config.audio_config)
    if images is not None or plan.pictures is not None:
        parts["image_processor"] = MMImageProcessorPil(**plan.pictures or {}) if images is None else images
    if tokenizer is not None:
        parts["tokenizer"] = tokenizer
        notes += fit_tokenizer(tokenizer, plan.tokens, ends)
        notes += _open_as_before(tokenizer) if plan.processor.get("add_eos_token") else []
        notes += spelling_notes(tokenizer) if plan.model_class.can_generate() else []
    wanted = ("feature_extractor" if plan.hears else "image_processor", "tokenizer")
    missing = [name for name in wanted if name not in parts]
    if missing:
        notes.append(f"the source has no {' and no '.join(missing)}: the model is converted without")
    return (MMProcessor(**parts, **plan.processor) if parts else None), notes


def image_processor_of(directory: Path | None) -> MMImageProcessorPil | None:
    """MM's image processor with the directory's settings; None where it has none."""
    if directory is None or not any((directory / name).is_file() for name in _IMAGE_FILES):
        return None
    return convert_image_processor(AutoImageProcessor.from_pretrained(directory))


def feature_extractor_of(directory: Path | None) -> Any:
    """The directory's feature extractor of sounds, unchanged; None where it has none."""
    if directory is None or not any((directory / name).is_file() for name in _IMAGE_FILES):
        return None
    return AutoFeatureExtractor.from_pretrained(directory)


def _heard_notes(extractor: Any, audio: Any) -> list[str]:
    """Notes on features of another size than Whisper's encoder takes."""
    made = (extractor.feature_size, extractor.nb_max_frames)
    taken = (audio.num_mel_bins, 2 * audio.max_source_positions)
    return (
        [] if made == taken else [f"feature extractor: it makes (bands, frames) {made}, but the model takes {taken}"]
    )


def tokenizer_of(directory: Path | None) -> Any:
    """The directory's tokenizer; None where it has none."""
    if directory is None or not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(directory)


def convert_image_processor(source: Any) -> MMImageProcessorPil:
    """Raises ValueError for an option of the source that MM lacks."""
    if getattr(source, "do_pad", None) and not _pads_nothing(source):
        raise ValueError(f"{type(source).__name__} pads pictures, which MM's image processor does not")
    options = {name: _plain(getattr(source, name, None)) for name in IMAGE_OPTIONS}
    options |= {name: _floats(options[name]) for name in ("image_mean", "image_std")}
    ours = MMImageProcessorPil(**{name: value for name, value in options.items() if value is not None})
    check_pixels(ours, source)
    return ours


def check_pixels(ours: Any, theirs: Any) -> None:
    """Raises ValueError unless both make the same pixels of pictures of noise, which show any other way of resizing.

    A processor's class may resize by rules of its own, and its options are many: what counts is what it does.
    """
    generator = np.random.default_rng(0)
    for height, width in _TRIED:
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        here, there = (np.asarray(one(picture)["pixel_values"]) for one in (ours, theirs))
        same = here.size == there.size and here.shape[-3:] == there.shape[-3:]
        step = float(ours.rescale_factor if ours.do_rescale else 1) / (
            np.min(ours.image_std) if ours.do_normalize else 1
        )
        if not same or np.abs(here.reshape(there.shape) - there).max() > _GREY_LEVELS * step:
            found = "other pixels" if same else f"{there.shape[-2:]} pixels, not {here.shape[-2:]},"
            more = sorted(_switched_on(theirs))
            also = f"; options that MM lacks: {', '.join(more)}" if more else ""
            raise ValueError(
                f"{type(theirs).__name__} makes {found} of a picture of {height}x{width}, by rules that MM's image "
                f"processor lacks{also}"
            )


def _switched_on(source: Any) -> Iterator[str]:
    """Options of an image processor other than those that are copied."""
    for name, value in source.to_dict().items():
        if name not in (*IMAGE_OPTIONS, *_HARMLESS) and value not in (None, False) and not name.startswith("_"):
            yield f"{name}={value!r}"


def _floats(values: Any) -> Any:
    """Means and deviations as numbers with a point: published files say 0 and 1 too."""
    return [float(value) for value in values] if isinstance(values, list | tuple) else values


def _pads_nothing(source: Any) -> bool:
    """Whether its pictures have one size before they are padded to it; several BLIPs say do_pad, to no effect."""
    size = _plain(getattr(source, "size", None)) or {}
    sides, step = (size.get("height"), size.get("width")), getattr(source, "size_divisor", None) or 1
    is_one = bool(source.do_resize) and None not in sides and not getattr(source, "do_center_crop", None)
    return is_one and getattr(source, "pad_size", None) is None and not any((side or 0) % step for side in sides)


def _plain(value: Any) -> Any:
    """A size without its unset sides."""
    return dict(value) if isinstance(value, SizeDict) else value


def fit_tokenizer(tokenizer: Any, tokens: Mapping[str, int], ends: tuple[int | None, int | None]) -> list[str]:
    """Makes rows start and end with the ids that the model was trained on; returns notes about changes."""
    notes = []
    for token, wanted in sorted(tokens.items(), key=lambda item: item[1]):
        if wanted >= len(tokenizer):
            if wanted > len(tokenizer):
                raise ValueError(f"{token} should have the id {wanted}, but the tokenizer ends at {len(tokenizer)}")
            tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
            notes.append(f"tokenizer: {token} added as {wanted}")
    for name, wanted, found in zip(("bos_token", "eos_token"), ends, row_ends(tokenizer), strict=True):
        if wanted is not None and wanted != found:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(wanted))
            notes.append(f"tokenizer: {name} is {tokenizer.convert_ids_to_tokens(wanted)!r} ({wanted})")
    if tokenizer.pad_token_id is None and ends[1] is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ends[1])
        notes.append(f"tokenizer: pad_token is {tokenizer.pad_token!r}")
    return notes


def spelling_notes(tokenizer: Any) -> list[str]:
    """Notes on how the source's tokenizer changes the texts that the model writes; it is not changed here."""
    changed = changed_texts(tokenizer, PROBES)
    told = ", ".join(f'"{written}" for "{text}"' for text, written in changed.items())
    return [f"tokenizer: it writes {told} (docs/processing.md, What the text becomes)"] if changed else []


def _open_as_before(tokenizer: Any) -> list[str]:
    """Closed rows open as the source's own do: some tokenizers have a bos token that none of their rows has."""
    bos, _ = row_ends(tokenizer)
    if bos is None or tokenizer("a")["input_ids"][:1] == [bos]:
        return []
    name = "cls_token" if tokenizer.bos_token_id is None else "bos_token"
    setattr(tokenizer, name, None)
    return [f"tokenizer: {name} left out, as no text of the source opens with it"] + _open_as_before(tokenizer)


def restore_processor(processor: MMProcessor | None, layout: Layout, out: Path) -> list[str]:
    """Writes the parts as the source's classes, and as its processor if it has both; returns notes.

    Raises: ValueError for pictures that are made ready in a way that the source's class does not know.
    """
    parts: dict[str, Any] = {}
    if processor is not None and processor.image_processor is not None:
        parts["image_processor"] = _image_processor(processor.image_processor, layout.image_processor)
    if processor is not None and processor.feature_extractor is not None:
        parts["feature_extractor"] = processor.feature_extractor
    if processor is not None and processor.tokenizer is not None:
        parts["tokenizer"] = processor.tokenizer
    if len(parts) == 2 and layout.processor is not None:
        getattr(transformers, layout.processor)(**parts).save_pretrained(out)
        return [layout.processor]
    for part in parts.values():
        part.save_pretrained(out)
    return [type(part).__name__ for part in parts.values()]


def _image_processor(ours: Any, class_name: str) -> Any:
    if getattr(ours, "do_crop_content", False):
        raise ValueError(f"do_crop_content=True cuts pictures to their content, which {class_name} does not")
    options = {name: _plain(getattr(ours, name, None)) for name in IMAGE_OPTIONS}
    theirs = getattr(transformers, class_name)(**{name: value for name, value in options.items() if value is not None})
    check_pixels(ours, theirs)
    return theirs
