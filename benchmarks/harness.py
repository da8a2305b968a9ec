"""What the benchmarks share: rows of what is compared, ways that take turns, processes, memory, one report.

    def texts(report):                                 # a group of rows
        ours, theirs = ...
        yield harness.Row("scores of 16 texts", ours, theirs, wanted=1.5, atol=1e-5)

    def main(arguments=None):
        return harness.table(harness.options(__doc__), {"texts": texts}, arguments)  # 1 if anything is not as wanted

Outputs are compared before anything is timed. Ways take turns after every run, and who begins changes from turn to
turn, as the clock of a shared machine changes from second to second; a ratio is the median over the turns. CPU seconds
count all threads of the process. --threads pins; the report says machine and versions.

With --log the text goes to a file, all numbers to a .json beside it, and a line for each row of a race to
history.jsonl in the same folder. benchmarks/page.py makes docs/benchmarks.md of the .json files and of the history.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Way = Callable[[], Any]
WIDTH = 46  # of what stands before the numbers of a race


def options(description: str | None, pairs: int = 5) -> argparse.ArgumentParser:
    """A parser with the settings that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=number, default=pairs, help=f"timed runs of each way, in turn (default: {pairs})"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--quick", action="store_true", help="small; half of each ratio, in CPU time, is enough")
    parser.add_argument("--threads", type=number, help="of torch, each on a CPU of its own (default: as they are)")
    parser.add_argument("--log", type=Path, help="also write the text to this file, and a .json beside it")
    return parser


def number(given: str) -> int:
    """A whole number from 1, of the command line."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r}; accepted are whole numbers from 1")
    return int(given)


def machine() -> dict[str, Any]:
    """Versions and the machine, as they stand in a log."""
    about = Path("/proc/cpuinfo")  # Linux: the processor as the system calls it
    names = re.findall(r"model name\s*: (.+)", about.read_text(encoding="utf-8")) if about.exists() else []
    return {
        "Python": platform.python_version(), "torch": torch.__version__, "transformers": version("transformers"),
        "processor": names[0] if names else platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def commit() -> str:
    """Of this checkout, with a "+" if files that belong to it were changed; "" where there is none."""
    git = ("git", "-C", str(Path(__file__).resolve().parents[1]))
    asked = ("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    try:
        name, changed = (subprocess.run([*git, *words], capture_output=True, text=True).stdout for words in asked)
    except OSError:
        return ""
    return name.strip() + ("+" if changed else "")


def pin(threads: int) -> None:
    """torch uses so many threads, and this process so many CPUs, the first that it may use."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):  # Linux
        allowed = sorted(os.sched_getaffinity(0))
        if threads > len(allowed):
            raise ValueError(f"--threads {threads}, and this process may use {len(allowed)} CPUs")
        os.sched_setaffinity(0, allowed[:threads])


# -- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Seconds of one run."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Ratio:
    """Of two ways, over the turns."""

    median: float
    least: float
    greatest: float


def clocked(way: Way) -> Cost:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def told(way: Callable[[], Cost]) -> Cost:
    """What a way says itself that it cost."""
    return way()


def in_turn(
    ways: dict[str, Any], turns: int, warm_up: int = 1, cost: Callable[[Any], Cost] = clocked
) -> dict[str, list[Cost]]:
    """The costs of each way, turn by turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(-warm_up, turns):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            found = cost(ways[name])
            if turn >= 0:
                costs[name].append(found)
    return costs


def median(costs: Sequence[Cost], of: str = "cpu") -> float:
    return statistics.median(getattr(one, of) for one in costs)


def ratio(above: Sequence[Cost], below: Sequence[Cost], of: str = "cpu") -> Ratio:
    """How many times the cost of `below` is that of `above`."""
    found = [getattr(one, of) / getattr(other, of) for one, other in zip(above, below, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


# -- one report -------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """Two ways to one result.

    wanted: how many times the seconds of ours those of the other must be (0: only told), `of` "wall" or "cpu" time.
    atol: how far results may be apart, relative above 1 (0: equal; None: compared by whoever made the row).
    quick: pairs with --quick (0: not one of its rows). cost: what a way costs when it runs.
    """

    work: str
    ours: Any
    other: Any
    wanted: float = 0.0
    atol: float | None = 0.0
    against: str = "Transformers"
    of: str = "wall"
    quick: int = 0
    warm_up: int = 1
    cost: Callable[[Any], Cost] = clocked


class Report:
    """Lines as they are printed, rows for the JSON, and what is not as wanted."""

    def __init__(self, asked: argparse.Namespace | None = None):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.asked = asked or options(None).parse_args([])
        self.log: Path | None = self.asked.log
        if self.log is not None and not self.log.parent.is_dir():  # before hours of measuring, not after
            raise ValueError(f"--log {self.log}: there is no folder {self.log.parent}")
        self.lines: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.is_titled = False
        if self.asked.threads:
            pin(self.asked.threads)
        self.machine = machine()
        about = self.machine
        self.say(
            f"Python {about['Python']}, torch {about['torch']}, transformers {about['transformers']}; "
            f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, load {about['load']}"
        )

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def row(self, **numbers: Any) -> None:
        """For the JSON."""
        self.rows.append(numbers)

    def want(self, what: str, ratio: float, wanted: float) -> None:
        """`ratio` must be `wanted` or more; of small models nothing is wanted."""
        if not self.asked.tiny and not ratio >= wanted:
            self.faults.append(f"{what}: {ratio:.2f}x, wanted {wanted}x")

    def equal(self, what: str, ours: torch.Tensor, theirs: torch.Tensor, atol: float = 0.0) -> float:
        """The greatest difference, relative where numbers are above 1; more than `atol` ends the program."""
        if ours.shape != theirs.shape:
            raise RuntimeError(f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)} differ")
        apart = ((ours.double() - theirs.double()).abs() / theirs.double().abs().clamp(min=1)).max().item()
        if not apart <= atol:
            raise RuntimeError(f"{what}: they differ by {apart:.1e}, more than {atol:.0e}; times would mean nothing")
        return apart

    def titles(self) -> None:
        """Once, above the first race."""
        if not self.is_titled:
            pairs = "some" if self.asked.quick else self.asked.pairs
            self.say(f"medians of {pairs} alternating pairs, seconds; ratio: the other / ours [least, greatest]\n")
            self.say(f"{'':{WIDTH}}{'ours':>9}{'other':>9}{'wall':>9}{'':17}{'CPU':>8}{'wanted':>9}  beside")
        self.is_titled = True

    def measure(self, row: Row) -> Ratio:
        """Compares the results, then times."""
        if row.atol is not None:
            self.equal(row.work, row.ours(), row.other(), row.atol)
        return self.race(row)

    def race(self, row: Row) -> Ratio:
        """Times both in turn: a line, a row of the JSON, and whether the ratio is as wanted."""
        self.titles()
        is_quick = self.asked.quick
        pairs, warm_up = (row.quick or 1, 0) if is_quick else (self.asked.pairs, row.warm_up)
        costs = in_turn({"ours": row.ours, "peer": row.other}, pairs, warm_up, row.cost)
        ratios = {kind: ratio(costs["peer"], costs["ours"], kind) for kind in ("wall", "cpu")}
        of = "cpu" if is_quick else row.of
        seconds, judged = {side: median(found, of) for side, found in costs.items()}, ratios[of]
        self.say(
            f"{row.work:{WIDTH}}{seconds['ours']:9.3f}{seconds['peer']:9.3f}{ratios['wall'].median:8.2f}x"
            f"  {f'[{judged.least:.2f}, {judged.greatest:.2f}]':15}{ratios['cpu'].median:7.2f}x"
            + (f"{row.wanted:8.2f}x" if row.wanted else f"{'-':>9}")
            + f"  {row.against}{', CPU' if of == 'cpu' else ''}"
        )
        both = {kind: vars(found) for kind, found in ratios.items()}
        self.row(work=row.work, wanted=row.wanted, against=row.against, of=of, **seconds, **both)
        self.want(row.work, judged.median, row.wanted / 2 if is_quick else row.wanted)
        return judged

    def end(self) -> int:
        """Says whether all is as wanted and writes the log; 0, or 1 if something is not."""
        self.say("\n" + ("\n".join(f"NOT AS WANTED: {fault}" for fault in self.faults) or "all as wanted"))
        if self.log:
            self.log.write_text("\n".join(self.lines) + "\n", encoding="utf-8")
            found = {"machine": self.machine, "rows": self.rows, "faults": self.faults}
            self.log.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if not (self.asked.tiny or self.asked.quick):
                with self.log.with_name("history.jsonl").open("a", encoding="utf-8") as history:
                    history.writelines(json.dumps(self.told(row)) + "\n" for row in self.rows if "work" in row)
        return 1 if self.faults else 0

    def told(self, row: dict[str, Any]) -> dict[str, Any]:
        """A line of the history."""
        when = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": commit(),
            "script": self.log and self.log.stem,
        }
        kept = ("torch", "transformers", "processor", "threads", "load")
        return when | row | {name: self.machine[name] for name in kept}


Group = Callable[[Report], Iterable[Row]]


def table(
    parser: argparse.ArgumentParser, groups: dict[str, Group], arguments: Sequence[str] | None = None,
    quick: Sequence[str] = (),
) -> int:  # fmt: skip
    """Measures the rows of the groups named on the command line (none: all, or with --quick those of `quick`)."""
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(groups)} (default: all)")
    asked = parser.parse_args(arguments)
    unknown = set(asked.groups) - groups.keys()
    if unknown:
        parser.error(f"no group is called {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    report = Report(asked)
    for name in asked.groups or (quick if asked.quick and quick else groups):
        for row in groups[name](report):
            if row.quick or not asked.quick:
                report.measure(row)
    return report.end()


# -- processes of their own -------------------------------------------------------------------------------------------


class Server:
    """An interpreter that runs a script and answers each line with one of JSON; `start` is the first that it says."""

    def __init__(self, command: Sequence[str]):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.start = self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.process.args} ended early; run it without the other to see why")
        return json.loads(line)

    def ask(self, question: str = "") -> Any:
        if self.process.stdin:
            print(question, file=self.process.stdin, flush=True)
        return self._answer()

    def cost(self, question: str = "") -> Cost:
        """Of what answers with {"wall": ..., "cpu": ...}."""
        return Cost(**self.ask(question))

    def end(self) -> None:
        self.process.communicate()


def serve(start: Any, answer: Callable[[str], Any]) -> None:
    """The other side of a Server."""
    print(json.dumps(start), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), flush=True)


def cost_of(way: Callable[[], Any]) -> dict[str, float]:
    """For `serve`."""
    return vars(clocked(way))


def alone(*arguments: str) -> list[float]:
    """The numbers in the last line that this Python prints for a script and its arguments, in a process of its own."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # a checkout's modules are compiled, as an installed peer's
    done = subprocess.run([sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]


# -- memory -----------------------------------------------------------------------------------------------------------


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS, what is held; VmHWM, the most so far, or since `settled`."""
    return 1024 * int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[0])


def settled() -> int:
    """Bytes that this process holds, after free memory was given back; VmHWM begins anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status("VmRSS")


class Peak:
    """The most memory while it is entered, above what there was before, in bytes, from samples 5 ms apart.

    held: what the process wrote itself. with_files: with pages of the files that it maps, which the system may drop.
    """

    def __enter__(self):
        self.held = self.with_files = 0
        self.before = self._now()
        self._done = threading.Event()
        self._sampling = threading.Thread(target=self._sample)
        self._sampling.start()
        return self

    @staticmethod
    def _now() -> tuple[int, int]:
        return (written := status("RssAnon")), written + status("RssFile") + status("RssShmem")

    def _sample(self) -> None:
        while not self._done.is_set():
            held, with_files = (now - before for now, before in zip(self._now(), self.before, strict=True))
            self.held, self.with_files = max(self.held, held), max(self.with_files, with_files)
            time.sleep(0.005)

    def __exit__(self, *error):
        self._done.set()
        self._sampling.join()


def peak_of(way: Way) -> int:
    """Bytes that a second run holds at most, above what was held before it."""
    way()
    settled()
    with Peak() as peak:
        way()
    return peak.held
