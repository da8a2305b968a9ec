"""The parts of a processor, each of which may be missing, and the files that they are read from.

processor_config.json   settings, image_processor {…}, feature_extractor {…}, processor_class
tokenizer.json, tokenizer_config.json, chat_template.jinja
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from ..configuration.mm import MMConfig
from ..configuration.special_ids import id_faults

logger = logging.get_logger(__name__)

PARTS = {
    "image_processor": AutoImageProcessor,
    "tokenizer": AutoTokenizer,
    "feature_extractor": AutoFeatureExtractor,
}


_FILES = (
    "processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json",
    "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip


def unreadable(source: str | Path, error: Exception) -> ValueError:
    """Names the file that is not JSON, otherwise the files that exist."""
    there = [Path(source) / name for name in _FILES if (Path(source) / name).is_file()]
    broken = [file for file in there if not _is_json(file)] or there
    named = ", ".join(repr(str(file)) for file in broken) or repr(str(source))
    return ValueError(f"the processor cannot be read from {named}: {type(error).__name__}: {error}")


@contextmanager
def faults_that_name_files(source: str | Path, is_changed: bool) -> Iterator[None]:
    """What loading raises for broken files, of any kind, is a ValueError that names them.

    is_changed: the caller changed settings, so that a ValueError or TypeError may be about those.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers raises that bare; others KeyError, AttributeError, RecursionError
        is_of_the_caller = is_changed and isinstance(error, (ValueError, TypeError))
        if is_of_the_caller or any(
            name in str(error) for name in (*_FILES, "image_tokenizer")
        ):  # it says which file it is about
            raise
        raise unreadable(source, error) from error


def _is_json(file: Path) -> bool:
    """Whether a file holds a JSON object, as all of these do."""
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError):
        return False


def load_part(auto_class: Any, source: str | Path, options: dict[str, Any]) -> Any:
    """One part. A tokenizer.json without an object raises an error; Transformers would make an empty vocabulary of
    it."""
    if auto_class is not AutoTokenizer:
        return auto_class.from_pretrained(source, **options)
    file = Path(source) / (options.get("subfolder") or "") / "tokenizer.json"
    if file.is_file() and not _is_json(file):
        raise ValueError(f"the tokenizer cannot be read from {str(file)!r}, which holds no JSON object")
    try:
        tokenizer = auto_class.from_pretrained(source, **options)
    except TypeError as error:  # of its files: it is given no argument of the caller's
        raise unreadable(source, error) from error
    _try(tokenizer, source)
    return tokenizer


def _try(tokenizer: Any, source: str | Path) -> None:
    """Raises ValueError for a tokenizer that cannot read the shortest text: rules of a tokenizer.json that contradict
    each other are a panic of the Rust code, which is no Exception."""
    try:
        tokenizer("a")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise unreadable(source, RuntimeError(f"{type(error).__name__}: {error}")) from error


def warn_of_the_model_beside(tokenizer: Any, folder: Path) -> None:
    """Warns if a model in the same folder that writes texts begins and ends them with other ids than the tokenizer.

    A broken configuration is left to who loads the model.
    """
    if tokenizer is None or not (folder / "config.json").is_file():
        return
    try:
        config: Any = MMConfig.from_pretrained(folder)
        has_own = (folder / "generation_config.json").is_file()
        settings = GenerationConfig.from_pretrained(folder) if has_own else config.text_config
    except (OSError, ValueError, TypeError):
        return
    if not any("ConditionalGeneration" in name for name in config.architectures or ()):
        return
    for fault in id_faults(config, settings, tokenizer):
        logger.warning("the model in %s is not made for the processor there: %s", folder, fault)


class OwnParts:
    """`get_attributes` of ProcessorMixin: of the class every part there can be, of a processor those it has."""

    def __get__(self, processor, owner):
        names = [name for name in PARTS if processor is None or getattr(processor, name) is not None]
        return lambda: names
