"""`mm export`: exports a model for use without MM, as ONNX files or together with its code."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..exporting.hub import export_for_hub
from ..exporting.onnx import export_onnx, set_plain_attention
from ..exporting.onnx_generator import OnnxGenerator
from ..exporting.parts import context_inputs
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..processing.processor import MMProcessor
from .caption import without_other_bars
from .long_work import check_new
from .models import PACKAGED_MODEL, class_of, load_head

FORMATS = ("onnx", "hub")
WRITERS = ("MMForConditionalGeneration", "MMForSpeechSeq2Seq")


def export(source: str | None, output: str, to: str = "onnx", say: Callable[[str], None] = lambda line: None) -> None:
    """Writes the model and the processor of `source` (a folder or a Hub id; None: the packaged one) into `output`.

    to: "onnx", graphs, compared with the model afterwards; "hub", weights and code for trust_remote_code=True.

    Raises: ValueError for another format, a folder that is not empty, or graphs whose results differ.
    """
    if to not in FORMATS:
        raise ValueError(f"--to {to}: accepted are {', '.join(FORMATS)}")
    check_new(output, "OUT")
    source = source or str(PACKAGED_MODEL)
    with _without_notes():
        if to == "hub":
            model = class_of(source).from_pretrained(source).eval()
            files = export_for_hub(model, MMProcessor.from_pretrained(source), output)
            say(f"{output}: {len(files)} files of code")
            return
        model, processor = load_head(source, WRITERS, device="cpu", dtype="float32")
        set_plain_attention(model)
        files = export_onnx(model, processor, output)
    say(f"{output}: {len(files)} files of graphs")
    say(f"largest difference of a logit: {logit_difference(model, output):.1e}")


@contextmanager
def _without_notes() -> Iterator[None]:
    """Within, Transformers shows no bars, and torch.onnx names no operators that it lacks; one that a graph needs is
    an error."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with without_other_bars():
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def logit_difference(model: MMForConditionalGeneration, directory: str | Path, bound: float = 1e-4) -> float:
    """The largest |difference| / max(1, |logit|) between a model and its graphs after a prompt of bos (or token 0) and
    media of noise; of sounds that may have any length also of longer ones than were traced.

    Raises: ValueError where it is above the bound.
    """
    traced, free = context_inputs(model)
    media = {name: torch.randn(value.shape) if value.is_floating_point() else value for name, value in traced.items()}
    tries = [media]
    if 2 in free.get("input_features", {}):
        longer = torch.randn(2, 2, int(traced["input_features"].shape[2] * 1.7), *traced["input_features"].shape[3:])
        tries.append({**media, "input_features": longer})
    graphs = OnnxGenerator(directory)
    ids, largest = np.full((2, 1), graphs.start or 0, np.int64), 0.0
    for media in tries:
        given = torch.from_numpy(graphs.first_logits(ids, **{name: value.numpy() for name, value in media.items()}))
        expected = model(**media, input_ids=torch.from_numpy(ids)).logits[:, -1]
        largest = max(largest, float(((given - expected).abs() / expected.abs().clamp(min=1)).max()))
    if not largest <= bound:
        raise ValueError(f"the graphs in {directory} are off by {largest:.1e}, more than {bound:.0e}")
    return largest
