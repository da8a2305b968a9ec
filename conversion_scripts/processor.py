"""The image processor (or feature extractor) and tokenizer of a source as MM's: the same pixels, the same ids."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    ClapAudioConfig,
    WhisperFeatureExtractor,
)
from transformers.image_utils import SizeDict

from ..configuration.special_ids import row_ends
from ..configuration.tower_kinds import LENGTH_KINDS
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

_OF_FRAMES = (
    "do_resize", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb",
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
    if sounds is None and plan.sounds is not None:
        sounds = WhisperFeatureExtractor(**plan.sounds)
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


def has_image_processor(directory: Path | None) -> bool:
    return directory is not None and any((directory / name).is_file() for name in _IMAGE_FILES)


def image_processor_of(directory: Path | None) -> Any:
    """MM's image processor with the directory's settings, or its own of documents; None where it has none."""
    if not has_image_processor(directory):
        return None
    return convert_image_processor(AutoImageProcessor.from_pretrained(directory))


def feature_extractor_of(directory: Path | None) -> Any:
    """The directory's feature extractor of sounds, unchanged; None where it has none."""
    if directory is None or not any((directory / name).is_file() for name in _IMAGE_FILES):
        return None
    return AutoFeatureExtractor.from_pretrained(directory)


def _heard_notes(extractor: Any, audio: Any) -> list[str]:
    """Notes on features of another size than an audio tower of one window takes."""
    if audio.model_type in LENGTH_KINDS:
        return []
    made, taken = (extractor.feature_size,), (audio.num_mel_bins,)
    if isinstance(audio, ClapAudioConfig):
        made += (4 if extractor.truncation == "fusion" else 1,)
        taken += (4 if audio.enable_fusion else 1,)
        sizes = "(bands, channels)"
    else:
        made, taken = (*made, extractor.nb_max_frames), (*taken, 2 * audio.max_source_positions)
        sizes = "(bands, frames)"
    return [] if made == taken else [f"feature extractor: it makes {sizes} {made}, but the model takes {taken}"]


def tokenizer_of(directory: Path | None) -> Any:
    """The directory's tokenizer; None where it has none."""
    if directory is None or not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(directory)


# Documents are aligned, shrunk, cut and padded by rules of their own: these stay what they are. With their processors.
_DOCUMENTS = {"DonutImageProcessor": "DonutProcessor", "NougatImageProcessor": "NougatProcessor"}


def _of_documents(images: Any) -> str | None:
    """The processor that goes with an image processor of documents; None for any other."""
    return _DOCUMENTS.get(type(images).__name__.removesuffix("Pil").removesuffix("Fast"))


def is_splitting(source: Any) -> bool:
    """Whether an image processor cuts pictures into tiles, as MMProcessor does with `tiles`."""
    return hasattr(source, "do_image_splitting") and isinstance(getattr(source, "max_image_size", None), dict)


def tile_size(source: Any) -> int:
    """The sides of an image processor's tiles (LLaVA-NeXT, Llama 3.2 Vision). Raises ValueError where they are cut
    once more."""
    sizes = [size for size in (source.size, source.crop_size) if size is not None]
    sides = {side for size in sizes for side in dict(size).values() if side is not None}
    if len(sides) != 1 or not source.do_resize:
        raise ValueError(
            f"{type(source).__name__} with size={source.size}, crop_size={source.crop_size}: known are tiles of one "
            "size"
        )
    return sides.pop()


def convert_image_processor(source: Any) -> Any:
    """MM's image processor with the source's options; one of documents is kept.

    Raises: ValueError for an option of the source that MM lacks.
    """
    if _of_documents(source) is not None:
        return source
    if is_splitting(source) or hasattr(source, "image_grid_pinpoints") or hasattr(source, "max_image_tiles"):
        side = source.max_image_size["longest_edge"] if is_splitting(source) else tile_size(source)
        numbers = {name: _plain(getattr(source, name)) for name in IMAGE_OPTIONS if not name.endswith("size")}
        del numbers["do_center_crop"]
        return MMImageProcessorPil(**numbers, size={"height": side, "width": side})
    if getattr(source, "do_pad", None) and not _pads_nothing(source):
        raise ValueError(f"{type(source).__name__} pads pictures, which MM's image processor does not")
    options = {name: _plain(getattr(source, name, None)) for name in IMAGE_OPTIONS}
    options |= {name: _floats(options[name]) for name in ("image_mean", "image_std")}
    options |= _one_normalisation(source, options)
    if hasattr(source, "max_num_patches"):
        options |= {"resize_mode": "native", **{ours: getattr(source, theirs) for theirs, ours in _PATCHES.items()}}
    ours = MMImageProcessorPil(**{name: value for name, value in options.items() if value is not None})
    check_same_pixels(ours, source)
    return ours


# Of SigLIP 2's image processor with NaFlex.
_PATCHES = {"patch_size": "patch_size", "max_num_patches": "max_patches"}


def _one_normalisation(source: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """EfficientNet's processor may subtract 1 before it normalises, and divide twice: one mean and one deviation."""
    if not hasattr(source, "include_top"):
        return {}
    mean, std = np.zeros(3), np.ones(3)
    if source.do_normalize:
        mean, std = (np.broadcast_to(options[name], 3).astype(np.float64) for name in ("image_mean", "image_std"))
    if source.do_rescale and source.rescale_offset:
        mean = mean + 1
    if source.include_top:
        std = std * np.broadcast_to(options["image_std"], 3)
    return {"do_normalize": True, "image_mean": mean.tolist(), "image_std": std.tolist()}


def check_same_pixels(ours: Any, theirs: Any) -> None:
    """Raises ValueError unless both make the same pixels of pictures of noise, which show any other way of resizing.

    A processor's class may resize by rules of its own, and its options are many: what counts is what it does.
    """
    generator = np.random.default_rng(0)
    for height, width in _TRIED:
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        here, there = (_pixels(one, picture) for one in (ours, theirs))
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


def _pixels(images: Any, picture: Image.Image) -> np.ndarray:
    """pixel_values of one picture; rows of patches (SigLIP 2's, with NaFlex) as the picture that they are of."""
    made = images(picture)
    if isinstance(made, list | torch.Tensor):  # Idefics' are bare
        return np.asarray(made)
    pixels = np.asarray(made["pixel_values"])
    if "spatial_shapes" not in made:
        return pixels
    (rows, columns), patch = np.asarray(made["spatial_shapes"])[0], images.patch_size
    patches = pixels[0][: rows * columns].reshape(rows, columns, patch, patch, -1)
    return patches.transpose(4, 0, 2, 1, 3).reshape(1, -1, rows * patch, columns * patch)


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
        parts["image_processor"] = _image_processor(processor.image_processor, layout.image_processor, processor.tiles)
        for option, value in layout.picture_settings.items():
            setattr(parts["image_processor"], option, value)
    if processor is not None and processor.feature_extractor is not None:
        parts["feature_extractor"] = processor.feature_extractor
    if processor is not None and processor.tokenizer is not None:
        parts["tokenizer"] = processor.tokenizer
    name = _of_documents(parts.get("image_processor")) or layout.processor
    template = getattr(processor, "chat_template", None)
    if len(parts) == 2 and name is not None:
        if layout.films is not None:
            _write_with_films(name, parts, layout, template, out)
            return [name]
        whole = getattr(transformers, name)(**parts, **layout.processor_settings)
        whole.chat_template = template or whole.chat_template
        whole.save_pretrained(out)
        return [name]
    for part in parts.values():
        part.save_pretrained(out)
    return [type(part).__name__ for part in parts.values()]


def _write_with_films(name: str, parts: Mapping[str, Any], layout: Layout, template: str | None, out: Path) -> None:
    """A processor of pictures and videos, in the files that its class writes; frames are made ready as pictures."""
    pictures, tokenizer = parts["image_processor"].to_dict(), parts["tokenizer"]
    pictures["image_processor_type"] = layout.image_processor
    shared = {option: pictures[option] for option in (*_OF_FRAMES, "resample") if option in pictures}
    held = {
        "image_processor": pictures,
        "video_processor": {**shared, **(layout.films or {})},
        "processor_class": name,
        **layout.processor_settings,
    }
    tokenizer._set_processor_class(name)
    tokenizer.save_pretrained(out)
    if template:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    text = json.dumps(held, indent=2, sort_keys=True, default=list)
    (out / "processor_config.json").write_text(f"{text}\n", encoding="utf-8")


def _image_processor(ours: Any, class_name: str, tiles: dict[str, Any] | None = None) -> Any:
    if getattr(ours, "do_crop_content", False):
        raise ValueError(f"do_crop_content=True cuts pictures to their content, which {class_name} does not")
    if _of_documents(ours) is not None:
        return ours
    options = {name: _plain(getattr(ours, name, None)) for name in IMAGE_OPTIONS}
    image_class = getattr(transformers, class_name)
    if tiles is not None and "resolutions" in tiles:
        square = {"height": tiles["size"], "width": tiles["size"]}
        kept = {name: options[name] for name in options if not name.endswith(("size", "crop"))}
        sizes = {"size": {"shortest_edge": tiles["size"]}, "crop_size": square}
        return image_class(**kept, **sizes, image_grid_pinpoints=[list(pair) for pair in tiles["resolutions"]])
    if tiles is not None and "max_tiles" in tiles:
        kept = {name: options[name] for name in options if not name.endswith(("size", "crop"))}
        square = {"height": tiles["size"], "width": tiles["size"]}
        return image_class(**kept, size=square, max_image_tiles=tiles["max_tiles"])
    if tiles is not None:
        numbers = {name: value for name, value in options.items() if not name.endswith(("size", "crop"))}
        sizes = {"size": {"longest_edge": tiles["longest_edge"]}, "max_image_size": {"longest_edge": tiles["size"]}}
        return image_class(**numbers, **sizes, do_image_splitting=tiles.get("do_split", True))
    if hasattr(image_class, "max_num_patches"):
        if ours.resize_mode != "native" or not ours.do_resize:
            raise ValueError(f"{class_name} keeps the aspect of pictures; set resize_mode='native' and do_resize=True")
        options = {name: options[name] for name in options if not name.endswith(("size", "crop"))}
        options |= {theirs: getattr(ours, name) for theirs, name in _PATCHES.items()}
    if hasattr(image_class, "include_top"):
        options |= {"include_top": False, "rescale_offset": False}  # in the mean and the deviation already
    if getattr(image_class, "do_center_crop", None):  # which it does where it is told nothing
        options["do_center_crop"] = bool(options["do_center_crop"])
    theirs = image_class(**{name: value for name, value in options.items() if value is not None})
    check_same_pixels(ours, theirs)
    return theirs
