"""Settings of a source that MM does not read, kept in MMConfig.converted_from for the way back.

    {"settings": {"decoder.decoder_layerdrop": [0.2, 0.0]}, "image_processor_type": "VideoMAEImageProcessor"}

A setting is kept with what would come back without it; it comes back only while the model still says that.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from transformers import GenerationConfig

from ..weights.checkpoint import read_json
from .family import Layout

# Settings of a file, not of a model; those of decoding go along in generation_config.json.
_OF_THE_FILE = {"transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path", "model_type"}
_IDS = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}
_DECODING = set(GenerationConfig().to_dict()) - _IDS


def unread_settings(source: Mapping[str, Any], layout: Mapping[str, Any], path: str = "") -> dict[str, list]:
    """ "dotted.name" -> [the source's value, the layout's], where they differ."""
    kept: dict[str, list] = {}
    for name in source.keys() - _OF_THE_FILE - _DECODING:
        mine, other = source[name], layout.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping) and not name.endswith(("2label", "2id")):
            kept |= unread_settings(mine, other, f"{path}{name}.")
        elif _plain(mine) != _plain(other):
            kept[f"{path}{name}"] = [_plain(mine), _plain(other)]
    return kept


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def image_class(directory: Path | None) -> str | None:
    """The class of the source's image processor, as Transformers calls it today."""
    whole = read_json(directory, "processor_config.json") or {}
    options = read_json(directory, "preprocessor_config.json") or whole.get("image_processor") or {}
    name = options.get("image_processor_type") or options.get("feature_extractor_type") or ""
    name = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    return name if name and hasattr(transformers, name) else None


def as_it_was(layout: Layout, record: Mapping[str, Any] | None, with_ids: bool = True) -> Layout:
    """The layout with what MM does not read as the source had it."""
    record = record or {}
    settings = layout.settings()
    for path, (value, without) in record.get("settings", {}).items():
        *parents, name = path.split(".")
        if name in _IDS and not with_ids:
            continue
        inside: Any = settings
        for parent in parents:
            inside = inside.get(parent) if isinstance(inside, dict) else None
        if isinstance(inside, dict) and _plain(inside.get(name)) == without:
            inside[name] = value
    config = type(layout.config).from_dict(settings)
    return replace(layout, config=config, image_processor=record.get("image_processor_type", layout.image_processor))
