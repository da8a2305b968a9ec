"""mm.audit: a saved model's metric in each group of its data, what it is sure of and wrong about; `mm audit`.

audit.json         the groups with their intervals, the gap of the worst one, the confident errors by id
predictions.jsonl  of each question its group, what the model said, what people said, its score
audit.html         a page of it, with the pictures of the confident errors
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..evaluation.groups import FEW, GroupScores, group_scores
from ..evaluation.scores import Score, mean_score
from ..evaluation.speech import wer
from .asking import CARD, Asked, ask, check_card, name_of
from .card import escaped, is_ours, sealed
from .predictions import Question, Sample
from .provenance import versions, without_places
from .report import audit_page, number
from .shown import WORST, read_predictions, save_predictions

RESULT, PAGE = "audit.json", "audit.html"
MOST_GROUPS = 50
CLASS = "label"  # the column of which a group is named by its class


@dataclass
class Audit:
    """What `mm.audit` found; str() is a table.

    scores: the metric of each group with its interval, and the gap of the worst one (`mm.metrics.group_scores`).
    confident: the wrong answers of which the model was most sure. skipped: (id, reason) of what could not be read.
    """

    task: str
    model: str
    data: str
    column: str
    scores: GroupScores
    confident: list[Question] = field(repr=False, default_factory=list)
    questions: list[Question] = field(repr=False, default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        rows = group_rows(self.scores)
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = [f"{self.task}: {self.model} on {self.data}, {self.scores.name} by {self.column}"]
        for name, *cells in rows:
            told = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            lines.append(f"{name:<{widths[0]}}  {told}".rstrip())
        lines += ["95 % bootstrap intervals over media", *in_words(self.scores, self.column)]
        if self.confident:
            lines.append("most sure and wrong:")
        for one in self.confident:
            said = f"{one.prediction!r} ({number(one.confidence)}), not {_people(one)!r}"
            lines.append(f"  {one.file or one.id}: {said}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """What audit.json holds: no text of the data."""
        gap = self.scores.gap
        return {
            **without_places(self.settings),
            "metric": self.scores.name,
            "groups": [{name: _plain(value) for name, value in asdict(one).items()} for one in self.scores.groups],
            "gap": None if gap is None else {**asdict(gap), "verdict": gap.verdict},
            "why_no_gap": self.scores.why_no_gap or None,
            "confident_errors": [{"id": one.id, "confidence": _plain(one.confidence)} for one in self.confident],
            "left_out": [list(one) for one in self.skipped],
        }


def audit(
    model: Any,
    data: Any,
    groups: str,
    task: str | None = None,
    *,
    processor: Any = None,
    output: str | os.PathLike | None = None,
    media: str | os.PathLike | None = None,
    format: str = "auto",
    split: str | None = None,
    annotations: str | os.PathLike | None = None,
    columns: Mapping[str, str | None] | None = None,
    batch_size: int = 8,
    workers: int | None = 0,
    update_card: bool = False,
    resume: bool = True,
    progress: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    **generation: Any,
) -> Audit:
    """The metric of a model in each group of the data, and whether the worst group is worse than chance makes it.

    Groups are the values of a column of the samples. A group of fewer than ten pictures is shown and not judged;
    the worst of the others is compared with all others together, with an interval and a permutation test that counts
    that it was chosen as the worst of several. The metric is the score of a question: chrF of captions (exact match
    without sacrebleu), VQA accuracy, picture-to-text R@1, accuracy, F1 of several classes, the error of a number; of
    transcripts it is the word error rate of the group (as of captions without jiwer).

    Args:
        groups: the column; of a classifier "label" groups by the class that is right.
        update_card: put the table into the README.md of the model's folder, too.
        The others are those of `mm.evaluate`.

    Raises: as `mm.evaluate`; ValueError for a column that no sample has, and for more than 50 groups.
    """
    name = name_of(model)
    if update_card:
        check_card(name)
    reading = {"media": media, "split": split, "annotations": annotations, "columns": columns}
    asked = ask(
        model, data, task, processor, output, format, reading, batch_size, workers, resume, progress,
        generation=generation, device=device, dtype=dtype, apart=groups,
        check=lambda samples, task: _check_column(samples, task, groups),
    )  # fmt: skip
    names = _names(asked, groups)
    found = group_scores(_score_of(asked), names, [question.group for question in asked.questions])
    wrong = [question for question in asked.questions if question.score < 0.5 and not math.isnan(question.confidence)]
    confident = sorted(wrong, key=lambda question: -question.confidence)[:WORST]
    result = Audit(asked.task, name, asked.told["data"], groups, found, confident, asked.questions)
    result.skipped, result.settings = asked.reader.skipped, asked.told
    if output is not None and asked.is_first:
        _write(result, names, asked, Path(output))
    if update_card and asked.is_first:
        result.files.append(_update_card(Path(name), result))
    asked.end()
    return result


def _check_column(samples: Any, task: str, column: str) -> None:
    """ValueError for a column that makes no groups, before anything is answered."""
    if not hasattr(samples, "__getitem__"):
        raise ValueError("the data is a stream; give samples that can be read again, such as a list")
    held = [samples[place] for place in range(len(samples))]
    if not any(column in sample for sample in held):
        beside = sorted({name for sample in held for name in sample})
        raise ValueError(f"groups={column!r} is no column of the data; it holds {', '.join(beside)}")
    values: dict[str, set] = {}
    for place, sample in enumerate(held):
        if task == "retrieval":  # a picture is one question, whatever the number of its samples
            values.setdefault(Sample(place, sample).group(), set()).update(map(_text, _each(sample.get(column))))
    if several := sum(len(own) > 1 for own in values.values()):
        raise ValueError(f"retrieval scores pictures, and {several} of them have several values of {column!r}")
    if column != CLASS:
        _few([_text(one) for sample in held for one in _each(sample.get(column))], column)


def _names(asked: Asked, column: str) -> list[str]:
    """The group of each question."""
    if column == CLASS and asked.task == "classify":
        return _few([question.references[0] for question in asked.questions], column)
    held = [asked.samples[question.sample] for question in asked.questions]
    return _few(
        [_value(sample.get(column), question) for sample, question in zip(held, asked.questions, strict=True)], column
    )


def _value(value: Any, question: Question) -> str:
    """A sample's value as the name of a group; of a list, that of the question's row. ValueError for a list that has
    no such row, or several values for the rows of one question."""
    if isinstance(value, (list, tuple)):
        own = {_text(value[row]) for row in question.rows} if max(question.rows) < len(value) else set()
        if len(own) != 1:
            raise ValueError(
                f"{question.id}: the groups {list(value)!r:.80} are not one for each of its rows, of which a question "
                "has one value"
            )
        return own.pop()
    return _text(value)


def _each(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(value: Any) -> str:
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return "(none)" if missing else str(value)


def _few(names: list[str], column: str) -> list[str]:
    if len(set(names)) > MOST_GROUPS:
        raise ValueError(
            f"groups={column!r} has {len(set(names))} different values, more than {MOST_GROUPS}; write classes or "
            "ranges into a column"
        )
    return names


def _score_of(asked: Asked) -> Score:
    """The metric that the score of a question stands for; of transcripts their word error rate."""
    if asked.is_speech and find_spec("jiwer") is not None:
        told = [question.prediction for question in asked.questions]
        return wer(told, [question.references for question in asked.questions])
    scores = [question.score for question in asked.questions]
    if asked.task == "caption" and find_spec("sacrebleu") is not None:
        return mean_score("chrf", [100 * score for score in scores], best=100.0)
    if "mean_absolute_error" in asked.found and "accuracy" not in asked.found:
        errors = [1 / score - 1 for score in scores]
        return mean_score("mean_absolute_error", errors, best=0.0, higher_is_better=False)
    name = {"caption": "exact_match", "vqa": "vqa_accuracy", "retrieval": "i2t_r1"}.get(asked.task)
    return mean_score(name or ("accuracy" if "accuracy" in asked.found else "sample_f1"), scores)


# ---- what is shown --------------------------------------------------------------------------------------------------


def group_rows(scores: GroupScores) -> list[list[str]]:
    """A table of the groups, the worst first, its head included."""
    rows = [["group", scores.name, "interval", "items", "pictures", ""]]
    for one in scores.groups:
        bounds = "" if math.isnan(one.low) else f"{number(one.low)} to {number(one.high)}"
        told = f"fewer than {FEW} pictures" if one.is_small else ""
        rows.append([one.name, number(one.value), bounds, str(one.items), str(one.pictures), told])
    return rows


def in_words(scores: GroupScores, column: str) -> list[str]:
    """Whether the worst group is worse, and which groups nobody can judge."""
    lines = []
    if scores.gap is None:
        lines.append(f"No gap: {scores.why_no_gap}.")
    else:
        gap, way = scores.gap, "below" if scores.higher_is_better else "above"
        told = f"{column}={gap.worst}: {scores.name} is {number(gap.value)} {way} that of all others together"
        chance = "p < 0.001" if gap.p_value < 0.001 else f"p = {gap.p_value:.3f}"
        sure = f"interval {number(gap.low)} to {number(gap.high)}, {chance}"
        ends = "worse" if gap.verdict == "worse" else "undecided, as the worst of equal groups often looks like this"
        lines.append(f"{told} ({sure}): {ends}.")
    small = [one.name for one in scores.groups if one.is_small]
    if small:
        lines.append(f"Not judged, with fewer than {FEW} pictures: {', '.join(small)}.")
    return lines


def _people(question: Question) -> str:
    said = question.answers or question.references
    return max(dict.fromkeys(said), key=said.count) if said else ""


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(result: Audit, names: list[str], asked: Asked, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    places = {id(question): place for place, question in enumerate(result.questions)}
    shown = {places[id(question)]: "confident" for question in result.confident}
    predictions = save_predictions(
        result.questions, asked.samples, asked.reader.columns, folder, shown=shown, groups=names
    )
    held = {**result.as_dict(), "versions": versions()}
    (folder / RESULT).write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = sorted(
        (line for line in read_predictions(folder) if "shown" in line), key=lambda line: -line["confidence"]
    )
    title = f"{result.scores.name} by {result.column}: {Path(result.model).name}"
    words = in_words(result.scores, result.column)
    page = audit_page(title, result.scores, words, lines, dict(result.skipped), result.settings)
    (folder / PAGE).write_text(page, encoding="utf-8")
    result.files += [folder / RESULT, predictions, folder / PAGE]


def _update_card(folder: Path, result: Audit) -> Path:
    """The table as a section of a model's README.md, in place of that of the same data and column."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8")
    was_ours = is_ours(text)
    body = text.rsplit("\n<!-- written by mm train", 1)[0] if was_ours else text
    mark = escaped(f"{Path(result.data).name}, {result.column}").replace("--", "- -")
    begin, end = f"<!-- mm audit: {mark} -->", "<!-- end of mm audit -->"
    head, *rows = [[escaped(cell) for cell in row] for row in group_rows(result.scores)]
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    words = [escaped(line) for line in in_words(result.scores, result.column)]
    title = f"## Groups: {escaped(result.scores.name)} by {escaped(result.column)}"
    about = f"On {escaped(Path(result.data).name)}, with 95 % bootstrap intervals over media."
    section = "\n".join([begin, title, "", about, "", *table, "", *words, end])
    old = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    if old.search(body):
        body = old.sub(lambda _: section, body)
    elif "\n## Privacy" in body:
        body = body.replace("\n## Privacy", f"\n{section}\n\n## Privacy", 1)
    else:
        body = f"{body.rstrip()}\n\n{section}\n"
    path.write_text(sealed(body) if was_ours else body, encoding="utf-8")
    return path


def print_audit(say: Callable[[str], object], as_json: bool, *args: Any, **options: Any) -> bool:
    """`mm audit`: the table, or audit.json's content, and where the files are. Returns: whether all media could be
    read; True in several processes, which torchrun would end."""
    result = audit(*args, **options)
    if int(os.environ.get("RANK", 0)) == 0:
        for line in [json.dumps(result.as_dict())] if as_json else str(result).split("\n"):
            say(line)
        if result.files and not as_json:
            say(f"written: {', '.join(str(path) for path in result.files)}")
    return not result.skipped or int(os.environ.get("WORLD_SIZE", 1)) > 1
