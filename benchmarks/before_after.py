"""Beam search and rank_answers in two versions of MM, in turn: is the new one as fast as the old one?

    OMP_NUM_THREADS=2 python benchmarks/before_after.py OLD_PYTHON NEW_PYTHON --log benchmarks/logs/before_after.txt
    python benchmarks/before_after.py OLD_PYTHON NEW_PYTHON --tiny --pairs 2         # small models, in seconds

Each interpreter imports the `mm` installed in its environment and runs this checkout's benchmarks: the model of
beam_search_vs_blip.py (5 beams, 20 new tokens) and that of rank_answers.py (128 answers). Both stay alive and take
turns after every run, as the clock of a shared machine changes from second to second; the ratio is the median over the
pairs of neighbours. Both must write the same tokens, and scores that differ by at most 1e-5.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCHES = (8, 2)


def tasks(tiny: bool) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; each returns a tensor."""
    import beam_search_vs_blip as beam
    import rank_answers as rank

    peer: Any = beam.build_peer(tiny)
    model = beam.build_ours(peer)
    found = {}
    for batch in BATCHES:
        contest = beam.Contest(model, peer, beam.draw_pictures(batch, peer.config.vision_config.image_size))
        found[f"generate(), {batch} pictures"] = contest.ours_whole
        found[f"decoding alone, {batch} pictures"] = contest.ours_decoding
    return found | {"rank_answers, 128 answers": rank.Ways(*rank.build(tiny)).ranked}


def answer_each_line(tiny: bool) -> None:
    """Runs the task that each line of the standard input names; first prints what all of them return."""
    import torch
    import transformers

    ways = tasks(tiny)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads"
    print(
        json.dumps({"results": {name: way().tolist() for name, way in ways.items()}, "versions": versions}), flush=True
    )
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        ways[line.strip()]()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


class Version:
    """An interpreter that runs a task whenever it is asked."""

    def __init__(self, python: str, tiny: bool):
        command = [python, "-W", "ignore", __file__, "--worker", *(["--tiny"] if tiny else [])]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.start = json.loads(self._line())

    def _line(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.process.args} ended early; run it without the other to see why")
        return line

    def seconds(self, task: str) -> tuple[float, float]:
        """Of the wall and of the CPU."""
        if self.process.stdin:
            print(task, file=self.process.stdin, flush=True)
        wall, cpu = map(float, self._line().split())
        return wall, cpu

    def end(self) -> None:
        self.process.communicate()


def furthest(before: Any, after: Any) -> float:
    """The greatest difference of two nested lists of the same shape."""
    if isinstance(before, list):
        return max(furthest(one, other) for one, other in zip(before, after, strict=True))
    return abs(before - after)


def compared(old: Version, new: Version, task: str, pairs: int) -> str:
    """One line of the table."""
    far = furthest(old.start["results"][task], new.start["results"][task])
    if far > (1e-5 if task.startswith("rank") else 0):
        raise RuntimeError(f"{task}: the two versions differ by {far:.1e}; their times mean nothing")
    runs = []
    for number in range(pairs):  # first one begins, then the other
        order = (old, new) if number % 2 == 0 else (new, old)
        taken = {version: version.seconds(task) for version in order}
        runs.append((*taken[old], *taken[new]))
    walls, cpus = [(run[0], run[2]) for run in runs], [(run[1], run[3]) for run in runs]
    ratios = [after / before for before, after in cpus]
    wall = statistics.median(after / before for before, after in walls)
    before, after = (statistics.median(column) for column in zip(*cpus, strict=True))
    return (
        f"{task:32}{before:9.3f}{after:9.3f}{statistics.median(ratios):8.3f}  [{min(ratios):.3f}, {max(ratios):.3f}]"
        f"{wall:8.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="two interpreters: of the old and of the new version")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each (default: 9)")
    parser.add_argument("--tiny", action="store_true", help="small models")
    parser.add_argument("--log", type=Path, help="also write the text to this file")
    parser.add_argument("--worker", action="store_true", help="answer each line of the input, for the other program")
    options = parser.parse_args()
    if options.worker:
        answer_each_line(options.tiny)
        return
    if len(options.pythons) != 2:
        parser.error(f"two interpreters are needed, old and new; got {len(options.pythons)}")
    old, new = (Version(python, options.tiny) for python in options.pythons)
    lines = [
        f"{platform.machine()}, {os.cpu_count()} cores, {new.start['versions']}; load {os.getloadavg()[0]:.1f}",
        f"{'medians of ' + str(options.pairs) + ' pairs':32}{'CPU old':>9}{'new':>9}{'ratio':>8}  [least, greatest]"
        "    wall",
    ]
    print("\n".join(lines))
    for task in new.start["results"]:
        lines.append(compared(old, new, task, options.pairs))
        print(lines[-1], flush=True)
    for version in (old, new):
        version.end()
    if options.log:
        options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
