"""Published checkpoints to MM models, and back.

    mm convert SOURCE OUT               # a directory, a Hub id, or an original's .pth file
    mm convert --to blip MM_DIR OUT
    mm convert --dry-run SOURCE         # what would be done
    mm convert --verify SOURCE OUT      # and whether both models give the same
    mm convert FILE OUT --vision CLIP --text LLAMA  # OpenFlamingo's, with its towers

In memory: `mm.convert(source)` gives model, processor and report.
"""

import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..configuration.mm import MMConfig
from ..modeling_mm.model import MMModel
from ..modeling_mm.tasks.classification import MMForSequenceClassification
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.processor import MMProcessor
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.cnn_names import USE_TIMM
from ..weights.config_table import source_config
from ..weights.key_table import Converted, Tensors, raise_faults
from ..weights.text_plans import TEXT_PLANS
from ..weights.text_refusals import why_no_text
from ..weights.tower_files import LAYOUTS, NAMES, is_tower_file
from . import (
    align,
    alt_clip,
    blip,
    blip_2,
    blip_original,
    chinese_clip,
    clap,
    clip,
    coca,
    flamingo,
    git,
    idefics,
    idefics3,
    llava,
    llava_next,
    mllama,
    moonshine,
    paligemma,
    siglip,
    siglip2,
    speech_encoder_decoder,
    speech_to_text,
    tower_files,
    vision_encoder_decoder,
    vision_text_dual_encoder,
    visual_bert,
    whisper,
    whisper_original,
)
from .decoding import set_generation, source_decoding, write_generation
from .family import Family, Layout, Plan, Unwritten, check_returns, config_differences, own_shapes, skeleton
from .loading import is_number, loaded, narrowed, narrower, quiet, widest
from .processor import convert_processor, restore_processor
from .refused import REFUSED
from .unread import as_it_was, image_class, unread_settings
from .verify import verify

_MODULES = (
    blip,
    vision_encoder_decoder,
    git,
    visual_bert,
    clip,
    siglip,
    siglip2,
    vision_text_dual_encoder,
    blip_original,
    coca,
    whisper,
    whisper_original,
    speech_encoder_decoder,
    speech_to_text,
    moonshine,
    chinese_clip,
    alt_clip,
    align,
    clap,
    llava,
    llava_next,
    blip_2,
    paligemma,
    mllama,
    idefics,
)
FAMILIES = {family.name: family for family in (*(module.FAMILY for module in _MODULES), *idefics3.FAMILIES)}
LARGE_NUMBERS = 10**8  # from here on there is a progress bar
SHARD_SIZE = "50GB"  # as Transformers saves
UNREAD_FILE = "unread.safetensors"  # tensors of the source that MM does not read, for the way back
_CLASSES = (
    MMForConditionalGeneration, MMForSequenceClassification, MMForImageTextRetrieval, MMForPreTraining,
    MMForSpeechSeq2Seq, MMModel,
)  # fmt: skip
_MODELS = {cls.__name__: cls for cls in _CLASSES}


@dataclass
class Conversion:
    """A model in MM, its processor (None: the source has none), and what was done.

    `save_pretrained(directory)` writes what AutoModel and AutoProcessor read. decoding: settings of generate() for
    MMForConditionalGeneration, which reads the same directory, where this model itself does not write.
    """

    model: Any
    processor: Any  # MMProcessor, of a single tower an image processor
    report: list[str]
    unread: Mapping[str, torch.Tensor] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)  # of the source's tensors that are wider now

    def save_pretrained(self, out: str | Path) -> None:
        self.model.save_pretrained(out)
        if self.processor is not None:
            self.processor.save_pretrained(out)
        if self.decoding:
            GenerationConfig(**self.decoding).save_pretrained(out)
        if self.unread or self.dtypes:
            tensors = {name: tensor.contiguous() for name, tensor in self.unread.items()}
            metadata = {"format": "pt", "dtypes": json.dumps(self.dtypes)}
            save_file(tensors, Path(out) / UNREAD_FILE, metadata=metadata)


def convert(source: str | Path, *, vision: str | Path | None = None, text: str | Path | None = None) -> Conversion:
    """A published checkpoint as an MM model, in evaluation mode and in the checkpoint's dtype.

    Args:
        source: a directory or Hub id in the published layout, or a .pth file of an original.
        vision, text: the towers that a file of OpenFlamingo was trained with; only for such a file.

    Raises: ValueError: a source that is not recognised, settings that MM lacks, tensors too many, too few or of
        another shape; FileNotFoundError.
    """
    checkpoint = Checkpoint(source)
    if flamingo.is_flamingo(checkpoint) and vision is not None and text is not None:
        with quiet():
            return Conversion(*flamingo.from_file(source, vision, text))
    _check_no_towers(vision, text, f"{source} is none, or lacks one of them")
    if is_tower_file(checkpoint):
        model, images, report, converted = tower_files.from_file(checkpoint)
        return Conversion(model, images, report, converted.unread)
    family, plan = recognised(checkpoint)
    is_large = checkpoint.numbers() > LARGE_NUMBERS
    empty = skeleton(plan.model_class, plan.config)
    wanted = own_shapes(empty)
    converted = plan.table.convert(checkpoint, wanted, show_progress=is_large)
    dtype = widest(converted.tensors)
    is_mixed = any(t.dtype != dtype and not is_number(name, t) for name, t in converted.tensors.items())
    dtypes = narrower(checkpoint, dtype, checkpoint.keys() - converted.dropped.keys()) if is_mixed else {}
    plan.config.converted_from = {**(_record(checkpoint, family, empty) or {}), **plan.record} or None
    model = loaded(plan, converted, dtype)
    set_generation(model, plan, source_decoding(checkpoint, family))
    words = plan.config.text_config
    eos = words.eos_token_id[0] if isinstance(words.eos_token_id, list) else words.eos_token_id
    ends = (words.bos_token_id, eos)
    processor, notes = convert_processor(checkpoint.directory, plan, ends)
    if dtypes:
        notes.append(f"{len(dtypes)} tensors of {', '.join(sorted(set(dtypes.values())))} are {dtype} now, exactly")
    report = _report(checkpoint, family, plan, converted, dtype)
    report += [f"note: {note}" for note in (*plan.notes, *notes)]
    decoding = {} if model.can_generate() else plan.generation
    return Conversion(model, processor, report, converted.unread, decoding, dtypes)


def _record(checkpoint: Checkpoint, family: Family, model: Any) -> dict[str, Any] | None:
    """What of the source MM does not read, for the way back; None where there is nothing, or no way."""
    if family.layout is None or not checkpoint.config:
        return None
    try:
        layout = family.layout(model)
    except ValueError:  # the way back raises an error for what this family cannot express
        return None
    is_ours = layout.files[0] == "config.json"
    source = source_config(checkpoint.config).to_dict() if is_ours else checkpoint.config
    settings = unread_settings(source, layout.settings())
    images = image_class(checkpoint.directory)
    record: dict[str, Any] = {"settings": settings} if settings else {}
    record |= {"image_processor_type": images} if images not in (None, layout.image_processor) else {}
    return record or None


def _check_no_towers(vision: str | Path | None, text: str | Path | None, fault: str) -> None:
    if vision is not None or text is not None:
        raise ValueError(f"--vision and --text, both, are the towers of a file of OpenFlamingo; {fault}")


def recognised(checkpoint: Checkpoint) -> tuple[Family, Plan]:
    """The family of a checkpoint and its plan. Raises ValueError for an unknown one."""
    for family in FAMILIES.values():
        if family.recognises(checkpoint.config, checkpoint):
            return family, family.plan(checkpoint)
    kind = checkpoint.config.get("model_type")
    what = f"model_type={kind!r}" if kind else f"tensors named {', '.join(sorted(checkpoint)[:3])}, ..."
    hint = "; for a single text, vision or audio tower use MMForConditionalGeneration.from_towers" if kind else ""
    if not checkpoint.config:
        hint = f"; of towers of torchvision and timm {', '.join(NAMES.values())} are known; for another {USE_TIMM}"
    if kind in REFUSED:
        hint = f": {REFUSED[kind]}"
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in TEXT_PLANS:
        why = why_no_text(kind, checkpoint.config, TEXT_PLANS, checkpoint)
        hint = f"; it cannot become a text tower either: {why}"
    if flamingo.is_flamingo(checkpoint):
        hint = "; OpenFlamingo's trained weights need their towers: mm convert FILE OUT --vision CLIP --text LLAMA"
        hint += ", or MMForConditionalGeneration.from_towers(..., flamingo=FILE)"
    raise ValueError(f"{checkpoint.source} is not recognised ({what}); known are {', '.join(FAMILIES)}{hint}")


@contextmanager
def _few_collections() -> Iterator[None]:
    """While a command runs, Python's garbage collector skips the objects made by imports: some 400,000, which would
    take a quarter of a second each time."""
    if gc.get_freeze_count():  # the caller already did it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _report(checkpoint: Checkpoint, family: Family, plan: Plan, converted: Converted, dtype: torch.dtype) -> list[str]:
    used = len(checkpoint) - len(converted.dropped)
    numbers = sum(tensor.numel() for tensor in converted.tensors.values())
    architecture = (checkpoint.config.get("architectures") or ["the original's layout"])[0]
    lines = [
        f"source: {checkpoint.source} ({family.name}: {architecture})",
        f"model: {plan.model_class.__name__}, {numbers / 1e6:.1f} M parameters, {dtype}",
        f"tensors: {used} of {len(checkpoint)} used, {len(converted.reshaped)} of them reshaped",
    ]
    kinds = Counter(converted.reshaped.values())
    lines += [f"reshaped: {count} {kind}" for kind, count in sorted(kinds.items())]
    lines += [f"dropped: {name} ({reason})" for name, reason in sorted(converted.dropped.items())]
    return lines + [f"new: {name} ({reason})" for name, reason in sorted(converted.new.items())]


# ---- back ----------------------------------------------------------------------------------------------------------


def convert_back(
    source: str | Path, to: str, out: str | Path, *, vision: str | Path | None = None, text: str | Path | None = None
) -> list[str]:
    """Writes an MM directory in the layout of the family `to`, and returns notes.

    Args:
        vision, text: only for "flamingo": the towers that its file goes with.

    Raises: ValueError for an unknown family, a directory of another kind, or a model that the family cannot express.
    """
    family = FAMILIES.get(to)
    if to not in (flamingo.NAME, *LAYOUTS) and (family is None or family.layout is None):
        known = [*(name for name, family in FAMILIES.items() if family.layout), flamingo.NAME, *LAYOUTS]
        raise ValueError(f"--to {to} is not known; accepted: {', '.join(known)}")
    config = AutoConfig.from_pretrained(source)
    if to in LAYOUTS:
        _check_no_towers(vision, text, f"--to {to} is of one vision tower")
        checkpoint = Checkpoint(source)
        unread_file = checkpoint.sibling(UNREAD_FILE)
        unread = {} if unread_file is None else Checkpoint(unread_file)
        return tower_files.write_back(config, checkpoint, unread, to, Path(out))
    if not isinstance(config, MMConfig):
        raise ValueError(f"{str(source)!r} holds a {config.model_type!r} model, not one of MM")
    checkpoint = Checkpoint(source)
    if family is None:
        if vision is None or text is None:
            raise ValueError("--to flamingo needs the towers: pass --vision and --text, as for the way here")
        return flamingo.write_back(config, checkpoint, Path(out), vision, text)
    _check_no_towers(vision, text, f"--to {to} has them itself")
    model_class = _MODELS[(config.architectures or ["MMModel"])[0]]
    unread_file = checkpoint.sibling(UNREAD_FILE)
    unread = {} if unread_file is None else Checkpoint(unread_file)
    tensors, layout = restored(model_class, config, checkpoint, family, unread)
    tensors = narrowed(tensors, _dtypes(unread_file))
    Path(out).mkdir(parents=True, exist_ok=True)
    config_file, weights = layout.files
    save_torch_state_dict(tensors, out, filename_pattern=weights + "{suffix}.safetensors", max_shard_size=SHARD_SIZE)
    with quiet():
        processor = _own_processor(checkpoint)
        parts = restore_processor(processor, layout, Path(out))
    settings = layout.settings() | dict({} if layout.beside is None else layout.beside(processor))
    if config_file == "config.json":
        largest = max(filter(torch.is_floating_point, tensors.values()), key=torch.Tensor.numel)
        settings["dtype"] = str(largest.dtype).removeprefix("torch.")
        if model_class.can_generate():
            write_generation(layout.config, read_json(checkpoint.directory, "generation_config.json"), Path(out))
    (Path(out) / config_file).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [f"wrote {layout.architecture}: {len(tensors)} tensors", *(f"wrote {part}" for part in parts)]


def _dtypes(unread_file: Path | None) -> dict[str, str]:
    """Those of the source's tensors that were widened on the way here."""
    if unread_file is None:
        return {}
    with safe_open(unread_file, framework="pt") as opened:
        return json.loads((opened.metadata() or {}).get("dtypes", "{}"))


def restored(
    model_class: type, config: MMConfig, tensors: Tensors, family: Family, unread: Tensors
) -> tuple[dict[str, torch.Tensor], Layout]:
    """A model's tensors under the family's names, and the layout. Raises ValueError as `convert_back`."""
    assert family.layout is not None
    model = skeleton(model_class, config)
    plain = family.layout(model)
    layout = as_it_was(plain, config.converted_from)
    plan = family.plan(Unwritten(layout))  # pyright: ignore[reportArgumentType]: names are all it reads
    if config_differences(config, plan.config):  # its ids stood in generation_config.json
        layout = as_it_was(plain, config.converted_from, with_ids=False)
        plan = family.plan(Unwritten(layout))  # pyright: ignore[reportArgumentType]
    if plan.model_class is not model_class:
        raise ValueError(f"{layout.architecture} is a {plan.model_class.__name__}, this is a {model_class.__name__}")
    check_returns(config, plan.config, layout.architecture)
    shapes = own_shapes(model)
    wrong = shapes.keys() ^ tensors.keys()
    raise_faults("the weights are not those of this model", sorted(wrong))
    return plan.table.restore(
        tensors, unread, show_progress=sum(map(torch.Size.numel, shapes.values())) > LARGE_NUMBERS
    ), layout


def _own_processor(checkpoint: Checkpoint) -> MMProcessor | None:
    file = checkpoint.sibling("processor_config.json")
    return None if file is None else MMProcessor.from_pretrained(file.parent)


@_few_collections()
def run(
    source: str,
    out: str | None,
    to: str | None = None,
    dry_run: bool = False,
    compare: bool = False,
    vision: str | None = None,
    text: str | None = None,
) -> list[str]:
    """What the command lines do; returns the report. A model that `compare` finds different is not written.

    Raises: ValueError as the functions above, and without `out`.
    """
    towers = {"vision": vision, "text": text}
    if compare and (to == flamingo.NAME or vision is not None or text is not None):
        raise ValueError("--verify cannot run OpenFlamingo, whose package needs torch 2.0.1; leave it out")
    if not dry_run and out is None:
        raise ValueError("OUT is missing: the directory to write (or --dry-run)")
    if to is not None:
        if dry_run:
            raise ValueError("--dry-run is for the way to MM; leave --to out")
        if compare and to in LAYOUTS:
            raise ValueError(
                f"--verify with --to {to}: the file does not say its architecture; convert it again to verify"
            )
        report = convert_back(source, to, str(out), **towers)
        return report + (_verified_back(source, to, str(out)) if compare else [])
    done = convert(source, **towers)
    if compare:
        checkpoint = Checkpoint(source)
        with quiet():
            if is_tower_file(checkpoint):
                done.report += tower_files.verify_tower(checkpoint, done.model)
            else:
                family, _ = recognised(checkpoint)
                done.report += verify(checkpoint, done.model, family)
    if not dry_run:
        with quiet():
            done.save_pretrained(str(out))
    return done.report


def _verified_back(source: str, to: str, out: str) -> list[str]:
    """`verify` of what `convert_back` wrote; what differs stays there, to be looked at."""
    config = AutoConfig.from_pretrained(source)
    with quiet():
        model = _MODELS[(config.architectures or ["MMModel"])[0]].from_pretrained(source)
        return verify(Checkpoint(out), model, FAMILIES[to])
