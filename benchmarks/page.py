"""docs/benchmarks.md and its pictures, made of the logs in benchmarks/logs and of their history.

    python benchmarks/page.py                # after `make bench`; needs matplotlib
    python benchmarks/page.py --output DIR   # the page and pictures somewhere else

A row of a race (harness.Report.race) is a bar beside the ratio that is wanted; what scaling.py found is a plot of
seconds over sizes, and what floor.py found a bar of how many times the floor a phase takes; the history is a line for
each piece of work that was measured more than once.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "benchmarks" / "logs"
GOOD, MISSED, AXIS = "#2a7f62", "#c8553d", "#555555"
HEAD = """# Benchmarks

See how fast MM is beside other programs with the same weights, and how its cost grows. `make bench` measures and makes
this page anew (`python benchmarks/page.py` makes it of the logs that are there). Outputs are compared before anything
is timed. What is done for speed, and what was tried, stands in [performance](performance.md).
"""


def runs(logs: Path = LOGS) -> dict[str, dict[str, Any]]:
    """Script -> its last run, of those with a race, a curve or phases."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(logs.glob("*.json"))}
    return {
        name: run
        for name, run in found.items()
        if isinstance(run, dict)
        and any(is_race(row) or {"exponent", "phase"} & row.keys() for row in run.get("rows", []))
    }


def history(logs: Path = LOGS) -> list[dict[str, Any]]:
    path = logs / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def is_race(row: dict[str, Any]) -> bool:
    return {"work", "wanted", "wall", "cpu"} <= row.keys() and isinstance(row["wall"], dict)


def judged(row: dict[str, Any]) -> dict[str, float]:
    return row[row.get("of", "wall")]


def is_missed(row: dict[str, Any]) -> bool:
    return judged(row)["median"] < row["wanted"]


# -- the page ---------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """In Markdown."""
    yield "| work | beside | ours, s | other, s | times | least to greatest | CPU | wanted |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        ratio, wanted = judged(row), f"{row['wanted']:.2f}" if row["wanted"] else ""
        cells = (
            row["work"].replace("|", "\\|"), row.get("against", "Transformers"), f"{row['ours']:.3f}",
            f"{row['peer']:.3f}", f"{ratio['median']:.2f}", f"{ratio['least']:.2f} to {ratio['greatest']:.2f}",
            f"{row['cpu']['median']:.2f}", wanted + (" (missed)" if is_missed(row) else ""),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def phases(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What floor.py found, in Markdown."""
    yield "| phase | ms | MB | 10⁹ multiplications | floor, ms | set by | times the floor | most time in |"
    yield "|---|---:|---:|---:|---:|---|---:|---|"
    for row in rows:
        numbers = (
            f"{row['seconds'] * 1e3:.2f}", f"{row['bytes'] / 1e6:.1f}", f"{row['operations'] / 1e9:.2f}",
            f"{row['floor'] * 1e3:.2f}", row["bound"], f"{row['times']:.1f}", row["most"],
        )  # fmt: skip
        yield f"| {row['model']}, {row['phase']} | {' | '.join(numbers)} |"


def surroundings(machine: dict[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load']} at "
        f"the start; Python {machine['Python']}, torch {machine['torch']}, transformers {machine['transformers']}."
    )


def page(found: dict[str, dict[str, Any]], past: list[dict[str, Any]]) -> str:
    parts = [HEAD]
    for name, run in found.items():
        races, curves = [row for row in run["rows"] if is_race(row)], [row for row in run["rows"] if "exponent" in row]
        parts.append(
            f"## {name.replace('_', ' ').capitalize()}\n\n`benchmarks/{name}.py`: {surroundings(run['machine'])}\n"
        )
        parts.append(f"![{name}](pictures/benchmarks-{name}.svg)\n")
        if races:
            parts.append("\n".join(table(races)) + "\n")
        if curves:
            lines = [
                f"| {row['work']} | {row['sizes'][0]} to {row['sizes'][-1]} | {row['exponent']:.2f} |"
                for row in curves
            ]
            parts.append(
                "\n".join(["| what grows | from, to | exponent of the seconds |", "|---|---|---:|", *lines]) + "\n"
            )
        if found_phases := [row for row in run["rows"] if "phase" in row]:
            parts.append("\n".join(phases(found_phases)) + "\n")
    if repeated(past):
        parts.append(
            "## History\n\nRatios of work that was measured more than once, run by run "
            "(`benchmarks/logs/history.jsonl`; machines differ).\n\n![history](pictures/benchmarks-history.svg)\n"
        )
    return "\n".join(parts)


def repeated(past: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Work -> its ratios, run by run, where there is more than one. A curve has none."""
    ratios: dict[str, list[float]] = {}
    for row in filter(is_race, past):
        ratios.setdefault(row["work"], []).append(judged(row)["median"])
    return {work: own for work, own in ratios.items() if len(own) > 1}


# -- pictures ---------------------------------------------------------------------------------------------------------


def figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "mm", "font.size": 9, "axes.edgecolor": AXIS})
    drawn, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def bars(rows: list[dict[str, Any]]) -> Any:
    """How many times the seconds of ours the other's are, least and greatest pair, and a mark where it should be."""
    drawn, axes = figure(9, 0.7 + 0.28 * len(rows))
    places, medians = range(len(rows)), [judged(row)["median"] for row in rows]
    reach = [
        [max(0.0, judged(row)["median"] - judged(row)["least"]) for row in rows],
        [max(0.0, judged(row)["greatest"] - judged(row)["median"]) for row in rows],
    ]
    colors = [MISSED if is_missed(row) else GOOD for row in rows]
    axes.barh(places, medians, color=colors, height=0.62, xerr=reach, error_kw={"ecolor": AXIS, "elinewidth": 1})
    axes.scatter([row["wanted"] or None for row in rows], places, marker="|", s=160, color="black", zorder=3)
    axes.set_yticks(places, [row["work"] for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color=AXIS, linewidth=0.8)
    axes.set_xlabel("times as fast as the other; | wanted")
    return drawn


def curves(rows: list[dict[str, Any]]) -> Any:
    drawn, axes = figure(9, 4)
    for row in rows:
        first = row["sizes"][0], row["seconds"][0]
        sizes, seconds = (
            [one / start for one in row[of]] for of, start in zip(("sizes", "seconds"), first, strict=True)
        )
        axes.loglog(sizes, seconds, marker="o", markersize=3, label=f"{row['work']} ({row['exponent']:.2f})")
    ends = axes.get_xlim()[1]
    axes.loglog([1, ends], [1, ends], color=AXIS, linewidth=0.8, linestyle=":", label="in proportion (1.00)")
    axes.set(xlabel="size, times the first", ylabel="seconds, times the first")
    axes.legend(frameon=False)
    return drawn


def floors(rows: list[dict[str, Any]]) -> Any:
    """How many times the floor each phase takes."""
    drawn, axes = figure(9, 0.7 + 0.28 * len(rows))
    axes.barh(range(len(rows)), [row["times"] for row in rows], color=GOOD, height=0.62)
    axes.set_yticks(range(len(rows)), [f"{row['model']}, {row['phase']}" for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color=AXIS, linewidth=0.8)
    axes.set_xlabel("times the floor of this machine")
    return drawn


def lines(ratios: dict[str, list[float]]) -> Any:
    drawn, axes = figure(9, 1.2 + 0.22 * len(ratios))
    for work, own in ratios.items():
        axes.plot(range(1, len(own) + 1), own, marker="o", markersize=3, label=work)
    axes.set(xlabel="run", ylabel="times as fast as the other", xticks=range(1, max(map(len, ratios.values())) + 1))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
    return drawn


def pictures(found: dict[str, dict[str, Any]], past: list[dict[str, Any]]) -> dict[str, Any]:
    """Name -> figure."""
    made = {}
    for name, run in found.items():
        races = [row for row in run["rows"] if is_race(row)]
        grown, found_phases = ([row for row in run["rows"] if kind in row] for kind in ("exponent", "phase"))
        made[name] = bars(races) if races else curves(grown) if grown else floors(found_phases)
    if ratios := repeated(past):
        made["history"] = lines(ratios)
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=LOGS, help="the folder of logs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where benchmarks.md and pictures/ go")
    asked = parser.parse_args(arguments)
    found, past = runs(asked.logs), history(asked.logs)
    if not found:
        parser.error(f"no log of a race in {asked.logs}; run `make bench` first")
    folder = asked.output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in pictures(found, past).items():
        drawn.savefig(folder / f"benchmarks-{name}.svg", metadata={"Date": None})
    (asked.output / "benchmarks.md").write_text(page(found, past), encoding="utf-8")
    print(f"{asked.output / 'benchmarks.md'}: {', '.join(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
