"""mm verify: whether a saved model is complete, loads, fits its processor and answers as it did when it was saved.

    manifest ─ weights: one set, every tensor readable and finite ─ model loads ─ ids of the processor ─ one forward

Each check says what it looked at or what is wrong; a check that cannot run because an earlier one failed is left out.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor

from ..configuration.special_ids import id_faults
from ..modeling_mm.core.base import MMPreTrainedModel
from ..modeling_mm.model import MMModel
from ..modeling_mm.tasks.classification import MMForSequenceClassification
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.masked_lm import MMForMaskedLM
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..modeling_mm.towers.conv import MMConvModel
from ..modeling_mm.towers.text import MMTextModel
from ..modeling_mm.towers.vit import MMVisionModel
from ..weights import manifest
from ..weights.files import CheckpointError, check_folder, shards_named

PROCESSOR = ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
KINDS: dict[str, type[MMPreTrainedModel]] = {
    kind.__name__: kind
    for kind in (
        *(MMModel, MMVisionModel, MMConvModel, MMTextModel),
        *(MMForConditionalGeneration, MMForSequenceClassification, MMForImageTextRetrieval),
        *(MMForMaskedLM, MMForPreTraining, MMForSpeechSeq2Seq),
    )
}
FLOATS = {"F64", "F32", "F16", "BF16"}
TOLERANCE = 1e-3  # of the largest number: another CPU or another torch rounds otherwise, other weights differ by more


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, and what is wrong ("" where nothing is)."""

    name: str
    told: str
    is_fault: bool = False


def verify(folder: str | os.PathLike) -> list[Check]:
    """Checks a folder that `save_pretrained`, MMTrainer or `write_manifest` wrote.

    Raises: NotADirectoryError for what is no folder. Faults do not raise; they are in the list.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    found = list(_of_manifest(folder))
    found += list(_of_json(folder))
    weights = list(_of_weights(folder))
    found += weights
    if any(check.is_fault for check in found if check.name != "manifest"):
        return found
    try:
        model = load(folder)
    except Exception as fault:  # a report says what is wrong, whatever it is
        return [*found, Check("model", f"does not load: {fault}", True)]
    count = sum(parameter.numel() for parameter in model.parameters())
    found.append(Check("model", f"{type(model).__name__} loads, {count:,} parameters"))
    return [*found, *_of_processor(folder, model), *_of_forward(folder, model)]


def write_manifest(folder: str | os.PathLike) -> None:
    """Writes what `verify` compares with: the model's answer to a fixed input (forward.json) and the manifest."""
    folder = Path(folder)
    (folder / manifest.FORWARD).write_text(json.dumps({"answer": answer(load(folder))}) + "\n", encoding="utf-8")
    manifest.write(folder)


def load(folder: Path) -> MMPreTrainedModel:
    """The model of a folder in float32 and eval mode, of the class that its configuration names."""
    name = _class_of(folder)
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"{folder} names the class {name!r}, which is none of MM's")
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def _class_of(folder: Path) -> str:
    """The class that a folder names: its config.json, or for an adapter (PEFT) its own settings."""
    path, adapter = folder / "config.json", folder / "adapter_config.json"
    if path.is_file():
        return str((json.loads(path.read_bytes()).get("architectures") or ["MMModel"])[0])
    if not adapter.is_file():
        raise FileNotFoundError(f"{folder} has neither config.json nor adapter_config.json")
    return str((json.loads(adapter.read_bytes()).get("auto_mapping") or {}).get("base_model_class"))


def _of_manifest(folder: Path) -> Iterator[Check]:
    if not (folder / manifest.NAME).exists():
        yield Check("manifest", "there is none, so files cannot be compared with what was saved")
        return
    faults = manifest.faults_of(folder)
    for fault in faults:
        yield Check("manifest", fault, True)
    if not faults:
        files = manifest.read_manifest(folder) or {}
        yield Check("manifest", f"{len(files)} files have the size and SHA-256 that it says")
        named = {*files, manifest.NAME, ".lock"}  # a run's
        beside = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in named)
        if beside:
            yield Check("manifest", f"it does not name {', '.join(beside)}")


def _of_json(folder: Path) -> Iterator[Check]:
    for path in sorted(folder.glob("*.json")):
        try:
            held = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as fault:
            yield Check("json", f"{path.name} is not JSON: {fault}", True)
            continue
        if not isinstance(held, dict):
            yield Check("json", f"{path.name} holds {type(held).__name__}, not an object", True)


def _of_weights(folder: Path) -> Iterator[Check]:
    try:
        is_adapter = (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
        if not is_adapter:
            check_folder(folder)
        index = folder / "model.safetensors.index.json"
        single = "adapter_model.safetensors" if is_adapter else "model.safetensors"
        names = shards_named(index) if index.is_file() else [single]
    except (CheckpointError, OSError) as fault:
        yield Check("weights", str(fault), True)
        return
    if not index.is_file() and not (folder / names[0]).is_file():
        yield Check("weights", f"there are none ({single}, or shards with an index)", True)
        return
    dtypes: Counter[str] = Counter()
    faults = [Check("weights", told, True) for name in names for told in _of_tensors(folder / name, dtypes)]
    if faults:
        yield from faults
    else:
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in sorted(dtypes.items()))
        yield Check(
            "weights", f"{sum(dtypes.values())} tensors ({kinds}) are finite, where they are floating-point numbers"
        )


def _of_tensors(path: Path, dtypes: Counter[str]) -> Iterator[str]:
    """What is wrong with the tensors of a file; their types are counted."""
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():
                dtype = file.get_slice(name).get_dtype()
                dtypes[dtype] += 1
                if dtype not in FLOATS:  # a count, or a weight that loading refuses
                    continue
                tensor = file.get_tensor(name)
                if not tensor.isfinite().all():
                    count = int((~tensor.isfinite()).sum())
                    yield f"{name} in {path.name} holds {count} numbers that are NaN or Inf"
    except (SafetensorError, OSError) as fault:
        yield f"{path.name} cannot be read: {fault}"


def _of_processor(folder: Path, model: MMPreTrainedModel) -> Iterator[Check]:
    if not any((folder / name).exists() for name in PROCESSOR):
        yield Check("processor", "there is none")
        return
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except Exception as fault:
        yield Check("processor", f"does not load: {fault}", True)
        return
    tokenizer = getattr(processor, "tokenizer", None)
    config: Any = model.config
    if tokenizer is None or not hasattr(config, "text_config"):
        yield Check("processor", f"{type(processor).__name__} loads")
        return
    settings = getattr(model, "generation_config", None) or config.text_config
    faults = id_faults(config, settings, tokenizer, model.can_generate())
    for fault in faults:
        yield Check("processor", fault, True)
    if not faults:
        yield Check("processor", f"{type(processor).__name__} loads, its {len(tokenizer)} tokens are the model's")


def _of_forward(folder: Path, model: MMPreTrainedModel) -> Iterator[Check]:
    try:
        now = answer(model)
    except Exception as fault:
        yield Check("forward", f"a fixed input cannot be read: {type(fault).__name__} {fault}", True)
        return
    if not all(torch.tensor(now).isfinite()):
        yield Check("forward", "the answer to a fixed input is not finite", True)
        return
    path = folder / manifest.FORWARD
    if not path.is_file():
        yield Check("forward", "the answer to a fixed input is finite; there is no earlier one to compare with")
        return
    try:
        then = [float(number) for number in json.loads(path.read_bytes())["answer"]]
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        yield Check("forward", f"{manifest.FORWARD} cannot be read: {fault}", True)
        return
    limit = TOLERANCE * max(1.0, *map(abs, then), *map(abs, now))
    worst = max(abs(one - other) for one, other in zip(then, now, strict=True)) if len(then) == len(now) else limit + 1
    if worst > limit:
        yield Check("forward", f"the answer to a fixed input differs by {worst:.2g} from the one that was saved", True)
    else:
        yield Check("forward", f"the answer to a fixed input is as it was saved (largest difference {worst:.1g})")


@torch.no_grad()
def answer(model: MMPreTrainedModel) -> list[float]:
    """16 numbers that the model's states of a fixed text, and of a fixed picture where it sees any, give."""
    body: Any = getattr(model, "model", model)
    config: Any = body.config
    text = getattr(config, "text_config", config)
    inputs: dict[str, torch.Tensor] = {}
    length = min(8, getattr(text, "max_position_embeddings", 8) or 8)
    if hasattr(text, "vocab_size"):
        inputs["input_ids"] = (torch.arange(length) * 7919 % (text.vocab_size - 1) + 1)[None]
    generator = torch.Generator().manual_seed(0)
    vision = getattr(config, "vision_config", None)
    if vision is not None and getattr(vision, "image_size", None):
        side = vision.image_size if isinstance(vision.image_size, (list, tuple)) else (vision.image_size,) * 2
        inputs["pixel_values"] = torch.randn(1, getattr(vision, "num_channels", 3), *side, generator=generator)
        if getattr(config, "text_encoder_config", None) is not None or getattr(config, "share_text_encoder", False):
            inputs["context_input_ids"] = inputs["input_ids"]
    if getattr(config, "media_in_text", False):
        inputs = _placed(inputs, config)
    states = body(**inputs).last_hidden_state.float().flatten()
    places = torch.linspace(0, len(states) - 1, 15).long()
    return [*states[places].tolist(), states.abs().mean().item()]


def _placed(inputs: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """The same with the picture's placeholders before the text; without it where their number is not known."""
    held = [one for one in config.placeholder_ids.values() if one is not None]
    ids = inputs["input_ids"]
    plain = next(one for one in range(config.text_config.vocab_size) if one not in held)
    ids = torch.where(torch.isin(ids, torch.tensor(held)), plain, ids)
    if "pixel_values" not in inputs or config.image_token_id is None or config.tokens_per_image is None:
        return {"input_ids": ids}
    places = ids.new_full((1, config.tokens_per_image), config.image_token_id)
    return {**inputs, "input_ids": torch.cat([places, ids], dim=1)}
