"""export_onnx: the parts of a model that writes as ONNX files, through Transformers' exporter.

Needs the extra `onnx` (onnx, onnxscript, onnxruntime); nothing of it is imported before it is asked for.
"""

import importlib.util
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from transformers.processing_utils import ProcessorMixin

from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from .parts import check_exportable, parts_of

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_installed(names: tuple[str, ...] = NEEDED) -> None:
    """Raises ModuleNotFoundError if a package of the extra is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"ONNX needs {', '.join(missing)}: pip install '.[onnx]'")


def export_onnx(
    model: MMForConditionalGeneration, processor: ProcessorMixin | None, directory: str | Path
) -> list[Path]:
    """Writes context.onnx, decoder.onnx and, of a model with pictures, vision.onnx (their weights in the same folder),
    configuration and processor.

    Contexts, pictures, videos, frames, clips, rows, tokens and past tokens may be of any number; a picture
    has the size of the configuration. `OnnxGenerator` and `mm.exporting.parts` say what goes in and comes out.

    Args:
        model: in eval mode and float32.
        processor: None writes none.

    Returns: the files of graphs.

    Raises: TypeError or ValueError for a model of another kind; ModuleNotFoundError without the extra `onnx`.
    """
    check_exportable(model)
    if model.training:
        raise ValueError("the model is in training mode, whose dropout would be written down; call model.eval() first")
    for part in _other_attention(model).values():
        raise ValueError(f"attn_implementation={part!r} has no ONNX; call model.set_attn_implementation('sdpa') first")
    if model.dtype != torch.float32:
        raise ValueError(f"the graphs are of float32, and the model is of {model.dtype}; call model.float() first")
    check_installed()
    from transformers.exporters.base import ExportedModel
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    directory = Path(directory)
    exporter = _quiet(OnnxExporter)
    components = {}
    for name, (part, inputs, free) in parts_of(model).items():
        with redirect_stdout(sys.stderr):  # torch.onnx prints how far it is
            # Not optimized here: onnxscript drops the addition of an epsilon of 1e-12, and a norm of zeros is NaN
            # then. ONNX Runtime optimizes what it loads itself.
            exported = exporter.export(part.eval(), inputs, OnnxConfig(dynamic_shapes=free, optimize=False))
        components[name] = exported.components["model"]
    whole = ExportedModel(components, exporter.export_format, model.config, model.generation_config)
    whole.save_pretrained(directory)
    if processor is not None:
        processor.save_pretrained(directory)
    return [directory / f"{name}.onnx" for name in components]


_PARTS = ("text_config", "text_encoder_config", "vision_config", "audio_config")


def _other_attention(model: MMForConditionalGeneration) -> dict[str, str]:
    """The parts whose attention has no ONNX, and what it is."""
    parts = {name: getattr(model.config, name) for name in _PARTS}
    found = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    return {name: attention for name, attention in found.items() if attention not in ("sdpa", "eager")}


def set_plain_attention(model: MMForConditionalGeneration) -> None:
    """SDPA in the parts whose attention has no ONNX. The others keep theirs: some towers have no SDPA."""
    model.set_attn_implementation({"": "sdpa"} | dict.fromkeys(_other_attention(model), "sdpa"))


def _quiet(exporter_class: type):
    """An exporter without its warning of versions: ours are tested."""
    logger = logging.getLogger("transformers.exporters.utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return exporter_class()
    finally:
        logger.setLevel(level)
