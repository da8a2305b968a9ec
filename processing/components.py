"""The parts of a processor, any of which may be absent, and how they are saved and found again.

processor_config.json   settings, image_processor {…}, feature_extractor {…}, processor_class
tokenizer.json, tokenizer_config.json, chat_template.jinja
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from ..configuration.auto_map import SHIM, finish_processor, front_of, register_for_auto_class

PARTS = {
    "image_processor": AutoImageProcessor,
    "tokenizer": AutoTokenizer,
    "feature_extractor": AutoFeatureExtractor,
}


_FILES = (
    "processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json",
    "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip


def _unreadable(source: str | Path, error: Exception) -> ValueError:
    """Names the file that is not JSON, else those that are there."""
    there = [Path(source) / name for name in _FILES if (Path(source) / name).is_file()]
    broken = [file for file in there if not _is_json(file)] or there
    named = ", ".join(repr(str(file)) for file in broken) or repr(str(source))
    return ValueError(f"the processor cannot be read from {named}: {type(error).__name__}: {error}")


def _is_json(file: Path) -> bool:
    """Whether a file holds a JSON object, as all of these do."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError):
        return False


def _part(auto_class: Any, source: str | Path, options: dict[str, Any]) -> Any:
    """One part. A tokenizer.json that holds no object is refused, of which Transformers makes an empty vocabulary."""
    if auto_class is not AutoTokenizer:
        return auto_class.from_pretrained(source, **options)
    file = Path(source) / (options.get("subfolder") or "") / "tokenizer.json"
    if file.is_file() and not _is_json(file):
        raise ValueError(f"the tokenizer cannot be read from {str(file)!r}, which holds no JSON object")
    try:
        return auto_class.from_pretrained(source, **options)
    except TypeError as error:  # of its files: it is given no argument of the caller's
        raise _unreadable(source, error) from error


class _OwnParts:
    """`get_attributes` of ProcessorMixin: of the class every part there can be, of a processor those it has."""

    def __get__(self, processor, owner):
        names = [name for name in PARTS if processor is None or getattr(processor, name) is not None]
        return lambda: names


class ProcessorOfParts(ProcessorMixin):
    """A processor whose parts may be None; a part that is absent stays absent through saving and loading."""

    get_attributes = _OwnParts()  # pyright: ignore[reportAssignmentType]: called alike, on class and instance
    image_processor: Any
    tokenizer: Any
    feature_extractor: Any

    def __init__(self, *, chat_template: str | None, **parts: Any):
        for name in PARTS:
            setattr(self, name, parts[name])
        own = {name: parts[name] for name in self.get_attributes()}
        if not own:
            raise ValueError(f"{type(self).__name__} needs an image_processor, a tokenizer, or both")
        super().__init__(**own, chat_template=chat_template)

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    register_for_auto_class = classmethod(register_for_auto_class)  # pyright: ignore[reportAssignmentType]
    read_from = SHIM  # the file that the saved processor named for its classes

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers; what its parts raise for broken files, of any kind, is a ValueError that names them."""
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except json.JSONDecodeError as error:
            raise _unreadable(pretrained_model_name_or_path, error) from error
        except (OSError, ValueError, TypeError):
            raise
        except Exception as error:  # tokenizers raises that bare; others KeyError, AttributeError, RecursionError
            raise _unreadable(pretrained_model_name_or_path, error) from error

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, Any], **kwargs):
        made: Any = super().from_args_and_dict(args, processor_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).read_from = front_of(processor_dict.get("auto_map"))
        return made

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As in Transformers, with what finds the classes for those who have not imported MM (`auto_map.py`)."""
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finish_processor(Path(save_directory), self)
        return files

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        finish_processor(Path(working_dir), self)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the settings, the image processor and the feature extractor; null for an image processor or
        a tokenizer that is absent."""
        absent = {name: None for name in ("image_processor", "tokenizer") if getattr(self, name) is None}
        saved = {name: value for name, value in super().to_dict().items() if name not in PARTS or value is not None}
        saved.pop("read_from", None)
        return saved | absent

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        saved = processor_dict or {}
        wanted = {"image_processor": True, "tokenizer": True, "feature_extractor": None} | saved
        given = {name: kwargs.pop(name) for name in PARTS if name in kwargs}
        return [
            given.get(name)
            if name in given or wanted[name] is None
            else _part(auto_class, pretrained_model_name_or_path, kwargs)
            for name, auto_class in PARTS.items()
        ]
