"""How a converted model decodes: settings of generate() from the source, and back."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..weights.checkpoint import Checkpoint, read_json
from .family import Family, Plan

# Of a source's generation_config.json, what is no setting of decoding.
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_NOT_DECODING = (*_IDS, "transformers_version")


def source_decoding(checkpoint: Checkpoint, family: Family) -> dict[str, Any]:
    """How the source decodes: by generation_config.json, else as Transformers 4 kept it, by its config."""
    found = read_json(checkpoint.directory, "generation_config.json")
    if found is None and family.decodes_by_config:
        found = GenerationConfig.from_model_config(copy.deepcopy(checkpoint.config)).to_diff_dict()
    return found or {}


def set_generation(model: Any, plan: Plan, source: Mapping[str, Any]) -> None:
    """Generation settings: the source's, the family's, and the ids of bos and eos."""
    if not model.can_generate():
        return
    text = plan.config.text_config
    ids = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ids["pad_token_id"] = text.eos_token_id if text.pad_token_id is None else text.pad_token_id
    _take(model.generation_config, {**_settings_of(source), **plan.generation, **ids})


def write_generation(config: Any, decoding: Mapping[str, Any] | None, out: Path) -> None:
    """How the model decodes, with the ids of the layout's own config; without `decoding` as that config says."""
    generation = GenerationConfig.from_model_config(config)
    if decoding is not None:  # a setting that it lacks is not that of a class, such as mBart's forced_eos_token_id
        generation = GenerationConfig(**{name: getattr(generation, name) for name in _IDS})
    _take(generation, _settings_of(decoding or {}))
    generation.to_json_file(out / "generation_config.json")


def _take(generation: GenerationConfig, settings: Mapping[str, Any]) -> None:
    """Updates them, with those that only some models have (Whisper's languages and tasks): a file that says it was
    made of a model's config loses these when it is read."""
    generation.update(**settings, allow_custom_entries=True)
    generation._from_model_config = None


def _settings_of(decoding: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decoding.items() if name not in _NOT_DECODING and name[0] != "_"}
