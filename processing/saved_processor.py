"""A processor as a folder or a repository: what is saved of its settings and parts, and how it is read again.

processor_config.json, tokenizer.json …   see processor_files.py
image_tokenizer/                          config.json, model.safetensors of the MMImageTokenizer, where there is one
"""

import copy
from pathlib import Path
from typing import Any

from transformers import AutoModel
from transformers.processing_utils import ProcessorMixin

from ..configuration.auto_map import IMAGE_TOKENIZER, finish_processor, front_of
from ..configuration.hub_files import HUB_OPTIONS, PROCESSOR_FILES, fetch, is_repository
from .call_options import DEFAULTS
from .images.saving import SavesItsCode
from .processor_files import PARTS, faults_that_name_files, load_part, warn_of_the_model_beside

# Settings that a caller of from_pretrained may change.
_SETTINGS = {
    *PARTS, "chat_template", "context_bos_token", "fixed_length", "prompt_to", "frame_jitter", "audio_augmentation",
    "placeholders", "tokens_per_item", "media_reading", "placeholder_separator", "prompt_ending", "tiles",
    IMAGE_TOKENIZER, "drawing",
}  # fmt: skip


class SavingProcessor(SavesItsCode, ProcessorMixin):
    """One base for MMProcessor: Transformers looks up in the first base what a processor overrides."""

    image_tokenizer: Any
    read_from: str

    @staticmethod
    def validate_init_kwargs(processor_config, valid_kwargs):
        """Transformers', which does not see the names of `defaults`."""
        return ProcessorMixin.validate_init_kwargs(processor_config, (*valid_kwargs, *DEFAULTS))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers; what its parts raise for broken files, of any kind, is a ValueError that names them.

        Files of the Hub are fetched before, so that none is taken for absent which the server did not give.
        """
        if is_repository(pretrained_model_name_or_path):
            fetch(str(pretrained_model_name_or_path), PROCESSOR_FILES, kwargs)
        changes = kwargs.keys() & (_SETTINGS | DEFAULTS.keys())
        with faults_that_name_files(pretrained_model_name_or_path, bool(changes)):
            made = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        folder = Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or "")
        warn_of_the_model_beside(getattr(made, "tokenizer", None), folder)
        return made

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in Transformers; the image tokenizer is read here, unless the caller brings another."""
        options = {name: kwargs[name] for name in (*HUB_OPTIONS, "trust_remote_code") if name in kwargs}
        above, is_given = kwargs.get("subfolder") or "", IMAGE_TOKENIZER in kwargs
        saved, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if saved.get(IMAGE_TOKENIZER) is not None and not is_given:
            folder = f"{above}/{IMAGE_TOKENIZER}".lstrip("/")
            try:
                saved[IMAGE_TOKENIZER] = AutoModel.from_pretrained(
                    pretrained_model_name_or_path, subfolder=folder, **options
                )
            except (OSError, ValueError) as error:
                place = f"{pretrained_model_name_or_path}/{folder}"
                raise (OSError if isinstance(error, OSError) else ValueError)(
                    f"the {IMAGE_TOKENIZER} that processor_config.json names cannot be read from {place!r}: {error}"
                ) from error
        return saved, kwargs

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, Any], **kwargs):
        made: Any = super().from_args_and_dict(args, processor_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).read_from = front_of(processor_dict.get("auto_map"))
        return made

    def _finish(self, folder: Path) -> None:
        if self.image_tokenizer is not None:
            self.image_tokenizer.save_pretrained(folder / IMAGE_TOKENIZER)
        finish_processor(folder, self)

    def to_dict(self) -> dict[str, Any]:
        """The saved values: the settings, the image processor and the feature extractor; null for an image processor
        or a tokenizer that is absent; the defaults of a call. Of an image tokenizer the folder that it is saved in."""
        plain = copy.copy(self)
        vars(plain).pop(IMAGE_TOKENIZER)  # Transformers copies all that it finds
        absent = {name: None for name in ("image_processor", "tokenizer") if getattr(self, name) is None}
        found = super(SavingProcessor, plain).to_dict()
        saved = {name: value for name, value in found.items() if name not in PARTS or value is not None}
        saved.pop("read_from", None)
        saved[IMAGE_TOKENIZER] = None if self.image_tokenizer is None else IMAGE_TOKENIZER
        return saved | absent | {name: getattr(self, name) for name in DEFAULTS}

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        saved = processor_dict or {}
        wanted = {"image_processor": True, "tokenizer": True, "feature_extractor": None} | saved
        given = {name: kwargs.pop(name) for name in PARTS if name in kwargs}
        return [
            given.get(name)
            if name in given or wanted[name] is None
            else load_part(auto_class, pretrained_model_name_or_path, kwargs)
            for name, auto_class in PARTS.items()
        ]
