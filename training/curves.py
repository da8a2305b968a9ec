"""curves.png: loss, learning rate, gradient norm and metrics over the steps, intervals of metrics as bands."""

import math
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAME = "curves.png"
HOW = "curves are drawn with matplotlib: pip install '.[train]'"
# Of an evaluation, but no metric.
NO_METRIC = ("runtime", "per_second", "samples", "media", "skipped", "model_preparation_time")
Points = list[tuple[float, float]]


def series_of(history: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """(step, value) of every number in the log by its name; those that are not finite are left out."""
    found: dict[str, Points] = {}
    for event in history:
        for name, value in event.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and math.isfinite(value) and name not in ("step", "epoch") and "step" in event:
                found.setdefault(name, []).append((event["step"], value))
    return found


def metrics_in(names: Iterable[str]) -> list[str]:
    """The metrics among the names of an evaluation, without the bounds of their intervals."""
    held = [name for name in names if name.startswith("eval_") and not name.endswith(NO_METRIC)]
    return [name for name in held if not name.endswith(("_low", "_high")) and name != "eval_loss"]


def panels_of(series: Mapping[str, Points]) -> list[tuple[str, list[str]]]:
    """(title, names of curves) of each panel. chrF counts to 100, the other metrics to 1."""
    metrics = metrics_in(series)
    panels = [
        ("loss", [name for name in ("loss", "eval_loss") if name in series]),
        ("metrics", [name for name in metrics if not name.endswith("chrf")]),
        ("chrF", [name for name in metrics if name.endswith("chrf")]),
        ("learning rate", [name for name in ("learning_rate",) if name in series]),
        ("gradient norm", [name for name in ("grad_norm",) if name in series]),
    ]
    return [(title, names) for title, names in panels if names]


def save_curves(history: Iterable[Mapping[str, Any]], folder: str | os.PathLike) -> Path | None:
    """Draws curves.png into the folder; None where the log holds no number.

    Raises: ModuleNotFoundError where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(HOW, name="matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    series = series_of(history)
    panels = panels_of(series)
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no display is asked for
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    for axis, (title, names) in zip(axes, panels, strict=False):
        for name in names:
            _draw(axis, name, series)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    path = Path(folder) / NAME
    figure.savefig(path, dpi=110)
    return path


def _draw(axis: Any, name: str, series: Mapping[str, Points]) -> None:
    steps, values = zip(*series[name], strict=True)
    (line,) = axis.plot(steps, values, marker="o" if len(steps) < 40 else "", markersize=3, label=name)
    low, high = (dict(series.get(f"{name}{end}", [])) for end in ("_low", "_high"))
    both = [step for step in steps if step in low and step in high]
    if both:
        bounds = [low[step] for step in both], [high[step] for step in both]
        axis.fill_between(both, *bounds, color=line.get_color(), alpha=0.15, linewidth=0)
