"""The model that a command is given: a folder or a Hub id, of an adapter too; in words what it cannot run."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.hub import cached_file

PACKAGED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
_ADAPTER = "adapter_config.json"
# Heads that write nothing, and where they are used.
_OTHER_HEADS = {
    "MMForImageTextRetrieval": 'compares pictures and texts: pipeline("mm-retrieval") runs it',
    "MMForSequenceClassification": "gives classes, not words: AutoModelForSequenceClassification loads it",
    "MMForMaskedLM": "fills in hidden words: AutoModelForMaskedLM loads it",
}


def load_model(source: str | Path | None = None) -> tuple:
    """(model, processor) of a captioner, the model in eval mode, on the GPU if there is one.

    Args:
        source: a folder that save_pretrained wrote, or a Hub id; of a model or of a PEFT adapter. None takes the model
            in the package.

    Raises:
        ValueError: nothing there, or none with a captioning model of MM and its processor.
    """
    source = str(PACKAGED_MODEL if source is None else source)
    adapter = _read(source, _ADAPTER)
    holder = source if adapter is None else _base_of(source, adapter)
    _check_kind(holder, _read(holder, "config.json"))
    processor = _processor(source, holder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = cast(nn.Module, AutoModelForImageTextToText.from_pretrained(source))
    return model.to(device).eval(), processor


def _read(source: str, name: str) -> dict[str, Any] | None:
    """A file of JSON of a folder, or of a repository of the Hub; None where that has none."""
    folder = Path(source)
    if folder.is_file():
        raise ValueError(f"no saved model in {source!r}: that is a file; give the folder that save_pretrained wrote")
    path: str | Path | None = folder / name
    if not folder.is_dir():
        try:
            path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"no saved model in {source!r}: there is no such folder, and as a Hub id: {reason}"
            ) from None
    if path is None or not Path(path).is_file():
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{name} of {source!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} of {source!r} holds no object of JSON")
    return found


def _base_of(source: str, adapter: dict[str, Any]) -> str:
    """The folder or Hub id of the model that an adapter goes over."""
    if find_spec("peft") is None:
        raise ValueError(f"{source!r} holds an adapter, which needs PEFT: pip install '.[peft]', or merge it first")
    base = adapter.get("base_model_name_or_path")
    merge = "merge the adapter into its model first: docs/fine-tuning.md"
    if not base:
        raise ValueError(f"{source!r} holds an adapter and does not say of which model; {merge}")
    try:
        found = _read(base, "config.json")
    except ValueError as error:
        raise ValueError(
            f"{source!r} holds an adapter of {base!r}, which is not found from here ({error}); {merge}"
        ) from None
    if found is None:
        raise ValueError(f"{source!r} holds an adapter of {base!r}, which has no config.json; {merge}")
    return base


def _check_kind(source: str, config: dict[str, Any] | None) -> None:
    """Raises ValueError, saying what to do with it, for what is no captioner of MM with PyTorch's weights."""
    folder = Path(source)
    if config is None:
        why = (
            "it holds no config.json" if folder.is_dir() else "there is no such folder, and as a Hub id: not in reach"
        )
        raise ValueError(f"no saved model in {source!r}: {why}")
    if (folder / "decoder.onnx").is_file():
        runs = "mm.exporting.onnx_generator.OnnxGenerator does"
        raise ValueError(f"{source!r} holds ONNX graphs, which mm caption does not run: {runs}")
    kind = config.get("model_type")
    if kind != "mm":
        from ..conversion_scripts.convert import FAMILIES

        known = any(family.recognises(config, ()) for family in FAMILIES.values())
        advice = f"make one of it first: mm convert {source} NEW_FOLDER" if known else "mm convert knows it neither"
        raise ValueError(f"{source!r} is no model of MM (its model_type is {kind!r}); {advice}")
    for name in config.get("architectures") or ():
        if name in _OTHER_HEADS:
            raise ValueError(f"{source!r} cannot write captions: {name} {_OTHER_HEADS[name]}")


def _processor(source: str, holder: str) -> Any:
    """That of the adapter, else of its model."""
    name = source if _read(source, "processor_config.json") is not None else holder
    processor = AutoProcessor.from_pretrained(name)
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            raise ValueError(
                f"{name!r} has no {part} beside the model: save an MMProcessor there, processor.save_pretrained"
            )
    return processor
