"""What benchmarks/results.py counts, and its rows of spoken names: measured, and as they stand on the page."""

from pathlib import Path
from typing import Any

import numpy as np

from mm.evaluation.captions import bootstrap_interval
from mm.recipes.spoken_names_data import SAID
from mm.recipes.spoken_names_scores import WAY, found_in
from mm.recipes.stamps import load_stamps

LENGTH = "recordings as long"
ENGLISH = {"fr": "French", "es": "Spanish", "ru": "Russian", "all": "all three"}


def interval(values: np.ndarray) -> list[float]:
    """[mean, low, high]."""
    return [round(float(one), 4) for one in (values.mean(), *bootstrap_interval(values))]


def counted(what: str, right: np.ndarray, baseline: np.ndarray | None = None, name: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"what": what, "number": len(right), "right": interval(right)}
    if baseline is not None:
        row |= {"beside": name, "baseline": interval(baseline), "difference": interval(right - baseline)}
    return row


def shown(numbers: list[float], sign: str = "") -> str:
    mean, low, high = (f"{one:{sign}.3f}".replace("0.", ".", 1) for one in numbers)
    return f"{mean} [{low}, {high}]"


def spoken(folder: Path) -> list[dict[str, Any]]:
    """Pictures of Tux Paint's stamps by spoken names, among those that mm-tiny embeds."""
    rows = []
    for trial, found in found_in(folder, load_stamps()):
        for language in () if trial == "dev" else (*SAID, "all"):
            own, name = found.of(language), ENGLISH[language]
            for most in (1, 5) if language == "all" else (1,):
                hit, copy = ((found.ranks[way][own] < most).astype(float) for way in (WAY, "as long"))
                row = counted(f"spoken {trial}, {name}, R@{most}", hit, copy, LENGTH)
                rows.append(row | {"chance": round(float(np.minimum(found.chance[own] * most, 1).mean()), 4)})
                print(rows[-1], flush=True)
    return rows


def spoken_lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "", "## Spoken names", "",
        "Recordings of Tux Paint's stamps, and their pictures as mm-tiny embeds them. New names: neither picture nor "
        "name was learned;", "known names: their pictures and texts were, this reading of them was not. Beside it "
        "stands who looks for what the ten", "recordings of about the same length show. "
        "More is in [measured](measured.md#spoken-names).", "",
        "| what | number | by chance | mm-tiny-spoken | recordings as long | difference |",
        "|---|---:|---:|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        numbers = [shown(row["right"]), shown(row["baseline"]), shown(row["difference"], "+")]
        chance = f"{row['chance']:.3f}".replace("0.", ".", 1)
        lines.append(f"| {' | '.join([row['what'], str(row['number']), chance, *numbers])} |")
    return lines
