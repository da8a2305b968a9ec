"""What the experiments on drawings and questions share: one training loop, runs that go on from their log, intervals.

A run is a system and a seed. Runs that are in the log, a line of JSON each, are not trained again, so that an
interrupted experiment goes on where it stopped, and its table is made of the log alone.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mm.evaluation.captions import bootstrap_interval

Scores = Callable[[str, Any], dict[str, Any]]
Batches = Callable[[int, torch.Tensor], Any]  # epoch, the numbers of its samples -> the loss


def options(description: str | None, log: str, folder: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, default=Path("benchmarks/logs") / log)
    parser.add_argument("--table", action="store_true", help="train nothing, print the table of the log")
    if folder:
        parser.add_argument("--features", type=Path, default=Path(folder), help="where the features are kept")
    return parser


def fit(
    model: Any, loss_of: Batches, samples: int, epochs: int, batch: int, rate: float, seed: int = 0, warm: float = 0.1
) -> Any:
    """Trains with AdamW on one cycle of the rate; a frozen tower stays in evaluation. The model, in evaluation."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    steps = epochs * -(-samples // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warm)
    tower = model.model.vision_tower
    if not any(parameter.requires_grad for parameter in tower.parameters()):
        tower.eval()
    for epoch in range(epochs):
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(100 * seed + epoch))
        loss = torch.zeros(())
        for chosen in order.split(batch):
            loss = loss_of(epoch, chosen)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def run(
    log: Path, systems: Iterable[str], seeds: Sequence[int], train: Callable[[str, int], Any], scores: Scores
) -> None:
    """Every system and seed that the log lacks. scores(system, model): what else goes into its line."""
    done = {(line["system"], line["seed"]) for line in read(log)}
    for seed in seeds:
        for system in systems:
            if (system, seed) in done:
                continue
            start = time.process_time()
            model = train(system, seed)
            line = {"system": system, "seed": seed, "cpu_minutes": round((time.process_time() - start) / 60, 2)}
            line["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            line |= scores(system, model)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def marks(hits: torch.Tensor) -> str:
    """bool (N,) as a string of 0 and 1."""
    return "".join(str(int(hit)) for hit in hits)


def mean_hits(lines: list[dict[str, Any]], system: str) -> np.ndarray:
    """Of each sample the share of a system's runs that got it right, from their `right`."""
    return np.mean([[int(mark) for mark in line["right"]] for line in lines if line["system"] == system], axis=0)


def score(values: np.ndarray, signed: bool = False) -> str:
    """The mean and its 95 % bootstrap interval over samples."""
    low, high = bootstrap_interval(values)
    form = "+.3f" if signed else ".3f"
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def say(settings: str, table: Iterator[str]) -> None:
    print(f"{settings}\n{versions()}, one thread\n")
    print(*table, sep="\n")


def versions() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
