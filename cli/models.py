"""The model that a command is given: a folder or a Hub id, of an adapter too; clear errors for those that cannot
run."""

import json
import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from ..configuration.mm import MMConfig
from ..modeling_mm.core.base import MMPreTrainedModel
from ..modeling_mm.core.places import device_of, dtype_settings
from ..modeling_mm.tasks.row_ends import warn_of_other_ids

PACKAGED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
_MODEL, _ADAPTER, _PROCESSOR = "config.json", "adapter_config.json", "processor_config.json"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Heads that write nothing, and where they are used.
_OTHER_HEADS = {
    "MMForImageTextRetrieval": 'compares pictures and texts: pipeline("mm-retrieval") runs it',
    "MMForSequenceClassification": "gives classes, not words: AutoModelForSequenceClassification loads it",
    "MMForMaskedLM": "fills in hidden words: AutoModelForMaskedLM loads it",
}
# Heads that commands run: who loads each, what its processor must have, what it is in words.
_HEADS = {
    "MMForConditionalGeneration": (AutoModelForImageTextToText, ("tokenizer",), "writes"),
    "MMForImageTextRetrieval": (AutoModelForZeroShotImageClassification, ("tokenizer",), "compares"),
    "MMForSequenceClassification": (AutoModelForSequenceClassification, (), "gives classes"),
    "MMForSpeechSeq2Seq": (AutoModelForSpeechSeq2Seq, ("feature_extractor", "tokenizer"), "transcribes"),
    "MMForMaskedLM": (AutoModelForMaskedLM, ("tokenizer",), "fills in what is hidden"),
}
# Losses of an MMForPreTraining that train what a head needs.
_TRAINED_BY = {
    "MMForConditionalGeneration": {"lm"}, "MMForImageTextRetrieval": {"itc"}, "MMForMaskedLM": {"mlm"},
}  # fmt: skip
_SERVED = tuple(name for name in _HEADS if name != "MMForMaskedLM")  # what a page or a server has a use for


def kinds_of(source: str | Path | None) -> list[str]:
    """What a model reads, of "image", "video" and "audio"; without its weights. Raises as `load_model`."""
    _, held = _held(source)
    return [str(kind) for kind in MMConfig.from_dict(held[_MODEL]).modalities or ()]


def class_of(source: str | Path) -> type[MMPreTrainedModel]:
    """The class of MM that a folder or Hub id says it is of, or the model that an adapter goes over. Raises as
    `load_model`."""
    from ..training.verify import KINDS  # of all heads, which most commands do without

    named, held = _held(source)
    name = str((held[_MODEL].get("architectures") or ["MMModel"])[0])
    if name not in KINDS:
        raise ValueError(f"{named!r} names the class {name!r}, which is none of MM's")
    return KINDS[name]


def _held(source: str | Path | None) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder or Hub id of a model, or of that which an adapter goes over, and its settings."""
    named = str(PACKAGED_MODEL if source is None else source)
    held = _settings(named)
    if _ADAPTER in held:
        named, held = _base_of(named, held[_ADAPTER])
    _check_model(named, held)
    return named, held


def load_head(
    source: str | Path | None = None, heads: Collection[str] = _SERVED, *, device: str | None = None,
    dtype: str | None = None, option: str = "--model",
) -> tuple:  # fmt: skip
    """(model, processor) of one of the classes in `heads`, whichever the checkpoint is of; as `load_model`.

    A checkpoint of several heads, MMForPreTraining, is loaded as the first of `heads` that its losses have trained.

    Args:
        device: such as "cuda" or "cpu"; None: the GPU if there is one.
        dtype: one of DTYPES; None: that of the weights.
        option: of the command, that names the model.
    """
    named, held = str(PACKAGED_MODEL if source is None else source), _held(source)[1]
    found = _trained_heads(held[_MODEL])
    name = next((head for head in heads if head in found), found[0])
    if name not in heads:
        does = " and ".join(f"{_HEADS[one][2] if one in _HEADS else 'is for training'} ({one})" for one in found)
        wanted = " or ".join(f"{_HEADS[head][2]} ({head})" for head in heads)
        raise ValueError(f"{named!r} {does}; needed is a model that {wanted}: {option} names one")
    auto_class, parts, _ = _HEADS[name]
    model, processor = load_model(source, auto_class, parts, device=device, dtype=dtype, any_head=True)
    if name == "MMForImageTextRetrieval" and held[_MODEL].get("pretraining_losses"):
        processor.add_eos_token = True  # pre-training compares closed texts
    return model, processor


def load_heads(
    source: str | Path | None = None, *, device: str | None = None, dtype: str | None = None
) -> list[tuple]:
    """(model, processor) of each head that a page or a server has a use for: of a checkpoint of several heads those
    that its losses have trained, each with weights of its own. Raises as `load_head`."""
    found = _trained_heads(_held(source)[1][_MODEL])
    wanted = [(head,) for head in _SERVED if head in found] or [_SERVED]
    return [load_head(source, heads, device=device, dtype=dtype) for heads in wanted]


def _trained_heads(config: dict[str, Any]) -> list[str]:
    """The class that a checkpoint is of, or of an MMForPreTraining the heads that its losses have trained, if any."""
    (name, *_) = [*(config.get("architectures") or ()), "MMForConditionalGeneration"]
    losses = set(config.get("pretraining_losses") or ()) if name == "MMForPreTraining" else set()
    return [head for head, of in _TRAINED_BY.items() if losses & of] or [name]


def load_model(
    source: str | Path | None = None,
    auto_class: Any = AutoModelForImageTextToText,
    parts: tuple[str, ...] = ("image_processor", "tokenizer"),
    *,
    device: str | None = None,
    dtype: str | None = None,
    any_head: bool = False,
) -> tuple:
    """(model, processor) of a model that writes, such as a captioner, in eval mode, on the GPU if there is one.

    Args:
        source: a folder that save_pretrained wrote, or a Hub id; of a model or of a PEFT adapter. None takes the model
            in the package.
        parts: of the processor, that it must have.
        device: such as "cuda" or "cpu"; None: the GPU if there is one.
        dtype: one of DTYPES; None: that of the weights.
        any_head: accept heads that do not write, too.

    Raises:
        ValueError: nothing there, or none with a captioning model of MM and its processor.
    """
    source = str(PACKAGED_MODEL if source is None else source)
    found = _settings(source)
    holder, held = source, found
    if _ADAPTER in found:
        holder, held = _base_of(source, found[_ADAPTER])
    _check_model(holder, held)
    if not any_head:
        _check_writes(holder, held)
    given, place = dtype_settings(dtype), device_of(device)
    processor = _processor(source if _PROCESSOR in found else holder, parts)
    model = cast(nn.Module, auto_class.from_pretrained(source, **given))
    warn_of_other_ids(model, processor)
    return model.to(place).eval(), processor


def _settings(source: str) -> dict[str, dict[str, Any]]:
    """What the files of JSON say that a folder, or a repository of the Hub, has of a model and an adapter."""
    folder = Path(source)
    if folder.is_file():
        raise ValueError(f"no saved model in {source!r}: that is a file; give the folder that save_pretrained wrote")
    names = (_MODEL, _ADAPTER, _PROCESSOR)
    if folder.is_dir():
        paths = {name: folder / name for name in names if (folder / name).is_file()}
    elif _HUB_ID.fullmatch(source):
        paths = _downloaded(source, names)
    else:
        raise ValueError(f"no saved model in {source!r}: there is no such folder")
    return {name: _read(source, path) for name, path in paths.items()}


def _downloaded(source: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Those of the files that the repository has. The server is asked once where it does not answer."""
    paths, silent = {}, None
    for name in names:
        try:
            paths[name] = Path(hf_hub_download(source, name, local_files_only=silent is not None))
        except LocalEntryNotFoundError as error:
            silent = silent or error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _nowhere(source, error) from None
    if silent is not None and not paths:
        raise _nowhere(source, silent)
    return paths


def _nowhere(source: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"no saved model in {source!r}: there is no such folder, and the Hub gave none: {reason}")


def _read(source: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path.name} of {source!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} of {source!r} holds no object of JSON")
    return found


def _base_of(source: str, adapter: dict[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder or Hub id of the model that an adapter goes over, and its settings."""
    if find_spec("peft") is None:
        raise ValueError(f"{source!r} holds an adapter, which needs PEFT: pip install '.[peft]', or merge it first")
    base = adapter.get("base_model_name_or_path")
    merge = "merge the adapter into its model first: docs/fine-tuning.md"
    if not base:
        raise ValueError(f"{source!r} holds an adapter and does not name its base model; {merge}")
    try:
        return base, _settings(base)
    except ValueError as error:
        raise ValueError(f"{source!r} holds an adapter of {base!r}, which is not found ({error}); {merge}") from None


def _check_model(source: str, settings: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError, saying what to do with it, for what is no model of MM with PyTorch's weights."""
    config = settings.get(_MODEL)
    if config is None:
        raise ValueError(f"no saved model in {source!r}: it holds no {_MODEL}")
    if (Path(source) / "decoder.onnx").is_file():
        runs = "mm.exporting.onnx_generator.OnnxGenerator does"
        raise ValueError(f"{source!r} holds ONNX graphs, which the commands of mm do not run: {runs}")
    kind = config.get("model_type")
    if kind != "mm":
        from ..conversion_scripts.engine import FAMILIES

        known = any(family.recognises(config, ()) for family in FAMILIES.values())
        advice = f"make one of it first: mm convert {source} NEW_FOLDER" if known else "mm convert does not know it"
        raise ValueError(f"{source!r} is no model of MM (its model_type is {kind!r}); {advice}")


def _check_writes(source: str, settings: dict[str, dict[str, Any]]) -> None:
    for name in settings[_MODEL].get("architectures") or ():
        if name in _OTHER_HEADS:
            raise ValueError(f"{source!r} cannot write captions: {name} {_OTHER_HEADS[name]}")


def _processor(source: str, parts: tuple[str, ...]) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source!r} has a model but no processor; save an MMProcessor there too ({reason})"
        ) from error
    for part in parts:
        if getattr(processor, part, None) is None:
            raise ValueError(f"{source!r} has no {part} in the folder of the model: save an MMProcessor there too")
    return processor
