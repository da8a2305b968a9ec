"""README.md of a run: a model card with what was measured, and plain gaps where only people know.

What a run cannot know (the license of new weights, what the data show, who is harmed by a mistake) is marked with
TO FILL and never guessed. A card that somebody has edited is not overwritten.
"""

import hashlib
import html
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from .bare_card import USES
from .card_snippet import Snippet, run_snippet
from .curves import metrics_in
from .provenance import settings_of, versions, without_places
from .report import interval_of, number

logger = logging.get_logger(__name__)

NAME = "README.md"
BESIDE = "README.new.md"  # where an edited README.md stands
TO_FILL = "**[to fill in]**"
SEAL = re.compile(r"\n<!-- written by mm train; without edits its SHA-256 is ([0-9a-f]{64}) -->\n*$")
TAGS = {"caption": "image-captioning", "vqa": "visual-question-answering", "retrieval": "image-text-retrieval"}
PACKAGED = "mm-tiny"  # what a run starts from where nothing is named


@dataclass
class Base:
    """What a run started from. hub: ids of the Hub; told: in words; licenses: of each part, as its card says."""

    hub: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    licenses: dict[str, str | None] = field(default_factory=dict)

    @property
    def license(self) -> str | None:
        """The license that all parts have; None where one is unknown or they differ."""
        found = set(self.licenses.values())
        return found.pop() if len(found) == 1 else None


def write_card(result: Any, *, license: str | None = None) -> Path:
    """Writes the model card of a `TrainResult` into its output folder. Returns its path.

    A README.md that was edited since, or that is somebody's own, stays as it is; the new card is then README.new.md
    next to it, and one line says so.

    Args:
        license: as the Hub spells it ("apache-2.0"). None: that of the model that the run started from, if its card
            names one; otherwise the card has a gap.
    """
    folder = Path(result.output_dir)
    path = folder / NAME
    if path.exists() and not is_ours(path.read_text(encoding="utf-8")):
        path = folder / BESIDE
        logger.warning(f"{folder / NAME} was edited, so it stays; the card of this run is {path}")
    text = card_of(result, run_snippet(folder, result.model), license)
    path.write_text(sealed(text), encoding="utf-8")
    return path


def sealed(text: str) -> str:
    """A card with a comment by which a later run knows whether it was edited."""
    digest = hashlib.sha256(text.strip().encode()).hexdigest()
    return f"{text.strip()}\n\n<!-- written by mm train; without edits its SHA-256 is {digest} -->\n"


def is_ours(text: str) -> bool:
    """Whether a card is as a run wrote it, or PEFT's empty form."""
    found = SEAL.search(text)
    if found is None:
        return "[More Information Needed]" in text and "Model Card for Model ID" in text
    return hashlib.sha256(text[: found.start()].strip().encode()).hexdigest() == found[1]


def card_of(result: Any, snippet: Snippet | None, license: str | None = None) -> str:
    """The text of a card: metadata for the Hub, then what a reader asks."""
    base = base_of(result.arguments)
    data = metadata(result, base, license or base.license)
    parts = [
        f"# {escaped(_name(result))}",
        _about(result, base),
        *_use(snippet),
        "## Results",
        _results(result.metrics),
        "## Data",
        _data(result),
        "## Training",
        _training(result),
        "## License",
        _license(base, license),
        *_limits(result),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


# ---- metadata -------------------------------------------------------------------------------------------------------


def metadata(result: Any, base: Base, license: str | None) -> ModelCardData:
    """The head of a card, in the Hub's fields."""
    kind, task = type(result.model).__name__, result.task
    tag = "visual-question-answering" if task == "vqa" else USES.get(kind, ("", None))[1]
    named = _hub_dataset(result.arguments)
    results = [
        EvalResult(
            task_type=tag or task,
            task_name=task,
            dataset_type=named or "own",
            dataset_name=named or "held-out data of the run",
            metric_type=name.removeprefix("eval_"),
            metric_name=name.removeprefix("eval_"),
            metric_value=round(float(result.metrics[name]), 6),
            metric_args={
                "confidence": 0.95,
                "low": round(float(result.metrics[f"{name}_low"]), 6),
                "high": round(float(result.metrics[f"{name}_high"]), 6),
            }
            if f"{name}_low" in result.metrics
            else None,
        )
        for name in metrics_in(result.metrics)
    ]
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=tag,
        tags=["mm", *([TAGS[task]] if task in TAGS else [])],
        base_model=base.hub[0] if len(base.hub) == 1 else base.hub or None,
        datasets=[named] if named else None,
        model_name=_name(result),
        eval_results=results or None,
    )


def _name(result: Any) -> str:
    return Path(result.output_dir).resolve().name


def _hub_dataset(arguments: Any) -> str | None:
    """The name of a data set of the Hub, if the run read one."""
    data = getattr(arguments, "data", None)
    if data is None or not data.data or data.format not in ("auto", "datasets"):
        return None
    return str(data.data) if is_hub_id(str(data.data)) else None


def is_hub_id(name: str) -> bool:
    """Whether a source names a repository of the Hub, with its owner: no path, and no file or folder of that name."""
    if (
        name.count("/") != 1
        or os.path.exists(name)
        or Path(name).suffix in (".json", ".jsonl", ".csv", ".tar", ".parquet")
    ):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def base_of(arguments: Any) -> Base:
    """What a run started from, with the license that each part's own card names."""
    model = getattr(arguments, "model", None)
    base = Base()
    if model is None:
        return base
    if model.preset:
        base.told.append(f"new weights of the size {model.preset}")
        base.licenses["the new weights"] = None
        return base
    towers = [model.vision_tower, model.text_tower, model.audio_tower, model.text_encoder]
    for source in [one for one in towers if one] or [model.model or PACKAGED]:
        is_hub = is_hub_id(source)
        base.hub += [source] if is_hub else []
        name = source if is_hub else os.path.basename(os.path.normpath(source))
        base.told.append(name)
        base.licenses[name] = _license_of(source, is_hub)
    return base


def _license_of(source: str, is_hub: bool) -> str | None:
    """The license in the card of a model; None where there is no card, or it names none."""
    packaged = Path(__file__).resolve().parents[1] / "checkpoints" / PACKAGED
    path: Any = Path(packaged if source == PACKAGED else source) / NAME
    if is_hub:
        path = try_to_load_from_cache(source, NAME)
        if not isinstance(path, str):
            try:
                path = hf_hub_download(source, NAME)
            except (OSError, HfHubHTTPError, ValueError):  # out of reach, or without a card
                return None
    if not Path(path).is_file():
        return None
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    except (ValueError, yaml.YAMLError):  # a card whose head is no YAML
        return None


# ---- sections -------------------------------------------------------------------------------------------------------


def escaped(value: Any) -> str:
    """Text in which neither Markdown nor HTML means anything, on one line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", text)


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *[[escaped(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(result: Any, base: Base) -> str:
    count = sum(one.numel() for one in result.model.parameters())
    begun = f" It started from {' and '.join(map(escaped, base.told))}." if base.told else ""
    return (
        f"An `{type(result.model).__name__}` of MM (mm-transformers), a package for Hugging Face Transformers, "
        f"trained for the task {result.task}; {count:,} parameters.{begun}\n\nIntended use: {TO_FILL}"
    )


def _use(snippet: Snippet | None) -> list[str]:
    if snippet is None:
        return []
    told = ["## Use", fenced(snippet.code, "python")]
    if snippet.printed is None:
        return [*told, "This code was not run when the card was written."]
    said = f"Run on {snippet.on} when this card was written, with the folder of the model as the name, it printed"
    return [*told, f"{said}:", fenced(snippet.printed or "(nothing)", "text")]


def _results(metrics: Mapping[str, Any]) -> str:
    names = metrics_in(metrics)
    if not names:
        loss = metrics.get("eval_loss")
        return "The run was not evaluated." if loss is None else f"Loss on held-out data: {number(float(loss))}."
    rows = [(name.removeprefix("eval_"), number(metrics[name]), interval_of(metrics, name)) for name in names]
    counts = [f"{metrics[f'eval_{name}']:,} {name}" for name in ("samples", "media") if f"eval_{name}" in metrics]
    skipped = f"; {metrics['eval_skipped']} could not be read" if "eval_skipped" in metrics else ""
    of = f"Of {', '.join(counts)}{skipped}. " if counts else ""
    return (
        f"{table(['metric', 'value', '95 % interval'], rows)}\n\n{of}Intervals are bootstrap intervals over pictures; "
        "they hold for data like the held-out data, and for no other."
    )


def _data(result: Any) -> str:
    """What was read. Each row that was left out is in the report of the run, not here."""
    lines = [_without_paths(line) for line in result.data_report if not line.startswith(" ")]
    told = "\n".join(f"* {escaped(line)}" for line in lines)
    return f"{told}\n\nWhat the data show, where they are from, and their license: {TO_FILL}".strip()


def _without_paths(line: str) -> str:
    """A line that names files by their last names only: folders of a machine are nobody's business."""
    return re.sub(r"(?<![^\s=('\"])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\;:,()'\"]+[/\\])*([^\s/\\;:,()'\"]+)", r"\1", line)


def _training(result: Any) -> str:
    settings = without_places(settings_of(result.arguments))
    settings.pop("output_dir", None)
    training = getattr(result.arguments, "training", result.arguments)
    settings.setdefault("seed", getattr(training, "seed", "unknown"))
    steps = max((event.get("step", 0) for event in result.log_history), default=0)
    rows = [("steps", f"{steps:,}"), *settings.items(), *versions().items()]
    return table(["setting", "value"], rows)


def _license(base: Base, license: str | None) -> str:
    if license is not None:
        return f"{escaped(license)}, as whoever trained it says."
    if base.license:
        return (
            f"{escaped(base.license)}, the license of {' and '.join(map(escaped, base.licenses))}, as its card says."
        )
    known = ", ".join(f"{escaped(name)}: {escaped(told or 'unknown')}" for name, told in base.licenses.items())
    return f"{TO_FILL}" + (f" (what it started from: {known})" if known else "")


def _limits(result: Any) -> list[str]:
    training = getattr(result.arguments, "training", result.arguments)
    services = [name for name in listed_services(training) if name not in ("none", "tensorboard")]
    sent = [f"its log to {', '.join(services)}"] if services else []
    pushes = getattr(training, "push_to_hub", False) or settings_of(result.arguments).get("push_to_hub")
    sent += ["the model to the Hub"] if pushes and str(pushes).lower() != "false" else []
    left = (
        f"The run sent {' and '.join(sent)}."
        if sent
        else "Nothing: no data, log or model was sent anywhere by the run."
    )
    return [
        "## Limits and bias",
        f"The model is right about as often as the results say, on pictures like those it was measured on. Who or "
        f"what is rare in its data, and what follows from mistakes: {TO_FILL}",
        "## Privacy",
        f"Models can repeat what they were trained on. Whether people are in the data and agreed to it: {TO_FILL}",
        f"What left the machine: {left} The model itself runs where it is loaded and sends nothing.",
    ]


def listed_services(training: Any) -> list[str]:
    found = getattr(training, "report_to", None) or []
    return [found] if isinstance(found, str) else list(found)
