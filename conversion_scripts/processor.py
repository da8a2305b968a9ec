"""The image processor and tokenizer of a source as MM's: the same pixels, the same ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.image_utils import SizeDict

from ..processing.image import MMImageProcessorPil
from ..processing.mm import MMProcessor
from ..processing.rows import row_ends

_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
IMAGE_OPTIONS = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std",
)  # fmt: skip


def convert_processor(
    directory: Path | None,
    tokens: Mapping[str, int],
    ends: tuple[int | None, int | None],
    pictures: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[MMProcessor | None, list[str]]:
    """The source's processor as an MMProcessor, None where it has neither part, and what is to be said of it.

    Args:
        tokens: special tokens that the model knows by these ids, added where the tokenizer lacks them.
        ends: the ids that open and close a row of text.
        pictures: options of the image processor, where the directory has no file of them.
    """
    parts, notes = {}, []
    if directory is not None and any((directory / name).is_file() for name in _IMAGE_FILES):
        parts["image_processor"] = convert_image_processor(AutoImageProcessor.from_pretrained(directory))
    elif pictures is not None:
        parts["image_processor"] = MMImageProcessorPil(**pictures)
    if directory is not None and any((directory / name).is_file() for name in _TOKENIZER_FILES):
        parts["tokenizer"] = AutoTokenizer.from_pretrained(directory)
        notes += fit_tokenizer(parts["tokenizer"], tokens, ends)
    missing = [name for name in ("image_processor", "tokenizer") if name not in parts]
    if missing:
        notes.append(f"the source has no {' and no '.join(missing)}: the model is converted without")
    return (MMProcessor(**parts, **settings) if parts else None), notes


def convert_image_processor(source: Any) -> MMImageProcessorPil:
    """Raises ValueError for an option of the source that MM has not."""
    if getattr(source, "do_pad", None):
        raise ValueError(f"{type(source).__name__} pads pictures, which MM's image processor does not")
    options = {name: _plain(getattr(source, name, None)) for name in IMAGE_OPTIONS}
    return MMImageProcessorPil(**{name: value for name, value in options.items() if value is not None})


def _plain(value: Any) -> Any:
    """A size without its unset sides."""
    return dict(value) if isinstance(value, SizeDict) else value


def fit_tokenizer(tokenizer: Any, tokens: Mapping[str, int], ends: tuple[int | None, int | None]) -> list[str]:
    """Makes rows open and close with the ids that the model was trained on; says what was changed."""
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


def restore_processor(processor: MMProcessor | None, image_class: str, out: Path) -> list[str]:
    """Writes the parts as the source's classes; says what is written."""
    written = []
    if processor is not None and processor.image_processor is not None:
        options = {name: _plain(getattr(processor.image_processor, name, None)) for name in IMAGE_OPTIONS}
        there = getattr(transformers, image_class)(**{k: v for k, v in options.items() if v is not None})
        there.save_pretrained(out)
        written.append(image_class)
    if processor is not None and processor.tokenizer is not None:
        processor.tokenizer.save_pretrained(out)
        written.append(type(processor.tokenizer).__name__)
    return written
