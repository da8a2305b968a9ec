"""`mm classify`: labels of pictures, videos and sounds, by a classification head or by texts that are like them."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling_mm.tasks.classification import class_scores
from ..modeling_mm.tasks.pipelines import read_for_head
from ..processing.reading import in_batches
from .ask import listed_in
from .caption import without_other_bars
from .long_work import keep, open_results
from .media_lists import told_media
from .models import load_head
from .printing import json_line, printable


def classify(
    paths: Sequence[str], *, model: str, labels: str | None = None,
    template: str = "a photo of {}", text: str | None = None, top_k: int = 1, batch_size: int = 16,
    recursive: bool = False, output: Path | None = None, resume: bool = False, workers: int | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> bool:  # fmt: skip
    """Prints a line per file: name, tab, and of the best labels each with its score.

    Args:
        labels: parted by commas, or a file with a line each; for a model that compares. A head has its own.
        text: a question or statement that a head reads together with each file.
        output, resume: as `print_captions`.

    Returns: whether every file could be read.
    """
    heads = ("MMForImageTextRetrieval", "MMForSequenceClassification")
    with without_other_bars():
        loaded, processor = load_head(model, heads, device=device, dtype=dtype)
    names, score = _scorer(loaded, processor, labels, template, text)
    files = told_media(paths, loaded.config.modalities, recursive)
    settings = {"command": "classify", "model": str(model), "labels": names, "template": template, "text": text}
    results, files = open_results(output, {**settings, "top_k": top_k, "dtype": dtype}, resume, files)

    def work(media: dict[str, torch.Tensor], numbers: list[int]) -> list[list[float]]:
        inputs = {
            name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else None)
            for name, value in media.items()
        }
        with torch.no_grad():
            return score(inputs, len(numbers)).tolist()

    def held(scores: list[float]) -> dict[str, Any]:
        best = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])[:top_k]
        return {"labels": [{"label": label, "score": value} for label, value in best]}

    def tell(path: Path, scores: list[float]) -> None:
        found = held(scores)
        told = [f"{printable(one['label'])}\t{one['score']:.4f}" for one in found["labels"]]
        line = json_line({"path": str(path), **found}) if as_json else "\t".join([printable(path.name), *told])
        sys.stdout.write(f"{line}\n")

    found = in_batches(files, processor, loaded.config.modalities, work, batch_size, workers)
    return keep(results, files, found, held, tell)


def _scorer(
    model: Any, processor: Any, labels: str | None, template: str, text: str | None
) -> tuple[list[str], Callable[[dict[str, torch.Tensor], int], torch.Tensor]]:
    """The names of the labels, and what gives their scores (B, L) from tensors of B files."""
    if type(model).__name__ == "MMForImageTextRetrieval":
        if labels is None:
            raise ValueError(
                "this model compares: give --labels, such as --labels 'cat,dog' or a file with a line each"
            )
        if text is not None:
            raise ValueError("--text is read by a classification head; this model compares files with --labels")
        names = listed_in(Path(labels), "--labels") if Path(labels).is_file() else _parted(labels)
        embeds = model.encode_labels(names, template, processor=processor)
        return names, lambda media, count: model.label_scores(model.embed_read(media), embeds)
    if labels is not None:
        own = ", ".join(list(model.config.id2label.values())[:8])
        raise ValueError(f"this model has labels of its own ({own}); leave --labels out")
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    rows: dict[str, torch.Tensor] = {}
    if text is not None:
        rows = dict(read_for_head(model, processor, text).to(model.device))

    def of_head(media: dict[str, torch.Tensor], count: int) -> torch.Tensor:
        read = {name: row.expand(count, -1) for name, row in rows.items()}
        return class_scores(model.config, model(**media, **read).logits.float())

    return names, of_head


def _parted(labels: str) -> list[str]:
    names = [label.strip() for label in labels.split(",")]
    if not all(names):
        raise ValueError(f"--labels {labels!r:.80}: a label is empty; part them by commas, or give a file")
    return names
