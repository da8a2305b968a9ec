"""The report of a run: train_log.jsonl, curves.png and report.html, a page that needs nothing beside itself.

It holds texts and small pictures of the evaluation data, and is for those who may see them.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..evaluation.groups import GroupScores
from .curves import HOW, metrics_in, save_curves
from .log import write_log
from .provenance import settings_of, versions
from .shown import read_predictions

logger = logging.get_logger(__name__)

NAME = "report.html"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; overflow-wrap: anywhere } td.number, th.number { text-align: right; white-space: nowrap }
.wide { overflow-x: auto } .wide td, .wide th { overflow-wrap: break-word }
td:first-child { min-width: 6.5rem } .sample small { display: block; width: 6rem; overflow-wrap: anywhere }
@media (max-width: 30rem) { td, th { padding: .3rem .4rem } } svg line { stroke: currentColor;
  stroke-width: 2 } svg circle { fill: currentColor }
img { max-width: 100% } .sample img { width: 96px; display: block } .right { color: #176d2f } .wrong { color: #a32020 }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .8rem }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } td, th { border-color: #444 }
  pre { background: #222 } .right { color: #6fd08c } .wrong { color: #f09090 } }
"""


def write_report(result: Any) -> list[Path]:
    """Writes train_log.jsonl, curves.png and report.html into the output folder of a `TrainResult`; their paths.

    Samples with predictions are those of predictions.jsonl, which `evaluate_task(save_to=...)` writes. Without
    matplotlib there are no curves, which one line says.
    """
    folder = Path(result.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [write_log(result.log_history, folder)]
    curves, why = None, "the log holds no numbers"
    try:
        curves = save_curves(result.log_history, folder)
    except ModuleNotFoundError as fault:
        if fault.name != "matplotlib":
            raise
        why = HOW
        logger.warning(HOW)
    paths += [curves] if curves else []
    page = folder / NAME
    page.write_text(page_of(result, curves, why), encoding="utf-8")
    return [*paths, page]


def page_of(result: Any, curves: Path | None, why_no_curves: str = "") -> str:
    """The page. Everything that comes from data or settings is escaped, and the page may load nothing."""
    shown = [line for line in read_predictions(result.output_dir) if "shown" in line]
    drawn = [line for line in shown if line["shown"] == "drawn"]
    worst = sorted((line for line in shown if "score" in line), key=lambda line: line["score"])[:8]
    parts = [
        f"<h1>{_escaped(result.task)}: {_escaped(Path(result.output_dir).name)}</h1>",
        f"<p>{_escaped(_summary(result))}</p>",
        _section("Metrics", _metrics(result.metrics)),
        _section("Curves", _picture(curves) if curves else f"<p>{_escaped(why_no_curves)}</p>"),
        _section("Samples of the evaluation", _samples(drawn)),
        _section("The worst of them", _samples([line for line in worst if line["score"] < 1])),
        _section("Data", f"<pre>{_escaped(chr(10).join(result.data_report))}</pre>" if result.data_report else ""),
        _section("Settings", _pairs(settings_of(result.arguments))),
        _section("Versions", _pairs(versions())),
    ]
    return html_page(f"{result.task}: {Path(result.output_dir).name}", parts)


def html_page(title: str, parts: Iterable[str]) -> str:
    """A page of sections, which may load nothing."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{_escaped(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(part for part in parts if part)}\n</body></html>\n"
    )


def evaluation_page(title: str, metrics: Mapping[str, Any], lines: list[dict], told: Mapping[str, Any]) -> str:
    """The page of an evaluation: metrics, the best and the worst answers with their pictures, some drawn by chance.

    Args:
        lines: of predictions.jsonl. told: what was evaluated on what, by name.
    """
    shown = {kind: [line for line in lines if line.get("shown") == kind] for kind in ("drawn", "worst", "best")}
    left_out = [line for line in lines if "left_out" in line]
    return html_page(
        title,
        [
            f"<h1>{_escaped(title)}</h1>",
            _section("Metrics", _metrics(metrics)),
            _section("Drawn by chance", _samples(shown["drawn"])),
            _section("The best of the others", _samples(shown["best"])),
            _section("The worst of the others", _samples(shown["worst"])),
            _section("Left out", _pairs({line["id"]: line["left_out"] for line in left_out}) if left_out else ""),
            _section("What was evaluated", _pairs(told)),
            _section("Versions", _pairs(versions())),
        ],
    )


def audit_page(
    title: str,
    scores: GroupScores,
    words: list[str],
    lines: list[dict],
    left_out: Mapping[str, str],
    told: Mapping[str, Any],
) -> str:
    """The page of an audit: groups with their intervals, and the answers that were wrong and sure.

    Args:
        words: whether the worst group is worse. lines: of predictions.jsonl. told: what was evaluated on what.
    """
    return html_page(
        title,
        [
            f"<h1>{_escaped(title)}</h1>",
            _section("Groups", _groups(scores) + "".join(f"<p>{_escaped(line)}</p>" for line in words)),
            _section("Most sure and wrong", _samples(lines) or "<p>No answer is wrong and has a confidence.</p>"),
            _section("Left out", _pairs(left_out)),
            _section("What was evaluated", _pairs(told)),
            _section("Versions", _pairs(versions())),
        ],
    )


def _groups(scores: GroupScores) -> str:
    """A table with a line for each interval, drawn on one scale, and a dot for each value."""
    bounds = [bound for one in scores.groups for bound in (one.low, one.value, one.high) if not math.isnan(bound)]
    low, high = min([0.0, *bounds]), max([0.0, *bounds]) or 1.0
    low, high = (0.0, max(high, 1.0)) if low >= 0 and high <= 1 else (low, high)

    def place(value: float) -> str:
        return f"{8 + 184 * (value - low) / (high - low):.1f}"

    rows = []
    for one in scores.groups:
        is_known = not math.isnan(one.low)
        line = f'<line x1="{place(one.low)}" x2="{place(one.high)}" y1="9" y2="9"/>' if is_known else ""
        drawn = f'<svg width="200" height="18">{line}<circle cx="{place(one.value)}" cy="9" r="4"/></svg>'
        told = f"{number(one.low)} to {number(one.high)}" if is_known else "unknown"
        small = " <small>too few to judge</small>" if one.is_small else ""
        rows.append(
            f'<tr><td>{_escaped(one.name)}{small}</td><td class="number">{number(one.value)}</td>'
            f'<td class="number">{told}</td><td>{drawn}</td><td class="number">{one.items:,}</td>'
            f'<td class="number">{one.pictures:,}</td></tr>'
        )
    heads = (
        f'<th class="number">{_escaped(scores.name)}</th><th class="number">95 % interval</th>'
        f"<th>{number(float(low))} to {number(float(high))}</th>"
        '<th class="number">items</th><th class="number">pictures</th>'
    )
    return f'<div class="wide"><table><tr><th>group</th>{heads}</tr>{"".join(rows)}</table></div>'


def _summary(result: Any) -> str:
    steps = max((event.get("step", 0) for event in result.log_history), default=0)
    count = sum(one.numel() for one in result.model.parameters())
    times = [event["train_runtime"] for event in result.log_history if "train_runtime" in event]
    took = f", {_duration(times[-1])} in the last run" if times else ""
    return f"{type(result.model).__name__}, {count:,} parameters; {steps:,} steps{took}."


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _escaped(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""


def number(value: Any) -> str:
    """A metric as a reader wants it: four digits that count."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def interval_of(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"{number(float(low))} to {number(float(high))}"


def _metrics(metrics: Mapping[str, Any]) -> str:
    names = metrics_in(metrics)
    told = [name for name in ("eval_loss", "eval_samples", "eval_media", "eval_skipped") if name in metrics]
    if not names and not told:
        return "<p>The run was not evaluated.</p>"
    rows = [
        f'<tr><td>{_escaped(name.removeprefix("eval_"))}</td><td class="number">{number(metrics[name])}</td>'
        f'<td class="number">{interval_of(metrics, name)}</td></tr>'
        for name in [*names, *told]
    ]
    head = '<tr><th></th><th class="number">value</th><th class="number">95 % interval</th></tr>'
    note = "<p>Intervals are bootstrap intervals over pictures.</p>" if names else ""
    return f"<table>{head}{''.join(rows)}</table>{note}"


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="curves over the steps" src="data:image/png;base64,{data}">'


def _samples(lines: list[dict[str, Any]]) -> str:
    asked = any(line.get("prompt") for line in lines)
    rows = [_sample(line, asked) for line in lines]
    prompt = "<th>prompt</th>" if asked else ""
    prompt += "<th>group</th>" if any("group" in line for line in lines) else ""
    sure = "<th class='number'>sure</th>" if any("group" in line for line in lines) else ""
    head = f"<tr><th></th>{prompt}<th>model</th>{sure}<th>people</th><th class='number'>score</th></tr>"
    return f'<div class="wide"><table class="sample">{head}{"".join(rows)}</table></div>' if rows else ""


def _sample(line: Mapping[str, Any], asked: bool) -> str:
    picture = str(line.get("picture", ""))
    shown = f'<img alt="" src="{_escaped(picture)}">' if picture.startswith("data:image/png;base64,") else ""
    said = line.get("answers") or line.get("references") or []
    people = "<br>".join(_escaped(text) for text in dict.fromkeys(said))
    score = line.get("score")
    prompt = f"<td>{_escaped(line.get('prompt', ''))}</td>" if asked else ""
    prompt += f"<td>{_escaped(line['group'])}</td>" if "group" in line else ""
    sure = f'<td class="number">{line["confidence"]:.2f}</td>' if "group" in line else ""
    colour = "" if score is None else "right" if score >= 0.999 else "wrong" if score < 0.5 else ""
    return (
        f"<tr><td>{shown}<small>{_escaped(line.get('file') or line.get('id', ''))}</small></td>{prompt}"
        f'<td class="{colour}">{_escaped(line.get("prediction", ""))}</td>{sure}<td>{people}</td>'
        f'<td class="number">{"" if score is None else f"{score:.2f}"}</td></tr>'
    )


def _pairs(found: Mapping[str, Any]) -> str:
    rows = [f"<tr><td>{_escaped(name)}</td><td>{_escaped(value)}</td></tr>" for name, value in found.items()]
    return f"<table>{''.join(rows)}</table>" if rows else ""
