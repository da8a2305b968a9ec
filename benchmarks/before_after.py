"""Beam search and rank_answers in two versions of MM, in turn: is the new one as fast as the old one?

    OMP_NUM_THREADS=2 python benchmarks/before_after.py OLD_PYTHON NEW_PYTHON --log benchmarks/logs/before_after.txt
    python benchmarks/before_after.py OLD_PYTHON NEW_PYTHON --tiny --pairs 2         # small models, in seconds

Each interpreter imports the `mm` installed in its environment and runs this checkout's benchmarks: the model of
beam_search_vs_blip.py (5 beams, 20 new tokens) and that of rank_answers.py (128 answers). Both stay alive and take
turns after every run, as the clock of a shared machine changes from second to second; the ratio is the median over the
pairs of neighbours. Both must write the same tokens, and scores that differ by at most 1e-5.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import harness

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


def furthest(before: Any, after: Any) -> float:
    """The greatest difference of two nested lists of the same shape."""
    if isinstance(before, list):
        return max(furthest(one, other) for one, other in zip(before, after, strict=True))
    return abs(before - after)


def compared(old: harness.Server, new: harness.Server, task: str, pairs: int, report: harness.Report) -> None:
    """One line of the table."""
    far = furthest(old.start[task], new.start[task])
    if far > (1e-5 if task.startswith("rank") else 0):
        raise RuntimeError(f"{task}: the two versions differ by {far:.1e}; their times mean nothing")
    ways = {name: partial(server.cost, task) for name, server in (("old", old), ("new", new))}
    costs = harness.in_turn(ways, pairs, warm_up=0, cost=lambda ask: ask())
    ratio, wall = (harness.ratio(costs["new"], costs["old"], of) for of in ("cpu", "wall"))
    before, after = (harness.median(own) for own in costs.values())
    report.row(task=task, old=before, new=after, ratio=ratio.median, wall=wall.median)
    report.say(
        f"{task:32}{before:9.3f}{after:9.3f}{ratio.median:8.3f}  [{ratio.least:.3f}, {ratio.greatest:.3f}]"
        f"{wall.median:8.3f}"
    )


def main() -> int:
    parser = harness.options(__doc__, pairs=9)
    parser.add_argument("pythons", nargs="*", help="two interpreters: of the old and of the new version")
    parser.add_argument("--worker", action="store_true", help="answer each line of the input, for the other program")
    asked = parser.parse_args()
    if asked.worker:
        ways = tasks(asked.tiny)
        harness.serve({name: way().tolist() for name, way in ways.items()}, lambda name: harness.cost_of(ways[name]))
        return 0
    if len(asked.pythons) != 2:
        parser.error(f"two interpreters are needed, old and new; got {len(asked.pythons)}")
    report = harness.Report(asked)
    command = ["-W", "ignore", __file__, "--worker", *(["--tiny"] if asked.tiny else [])]
    old, new = (harness.Server([python, *command]) for python in asked.pythons)
    title = "medians of " + str(asked.pairs) + " pairs"
    report.say(f"{title:32}{'CPU old':>9}{'new':>9}{'ratio':>8}  [least, greatest]    wall")
    for task in new.start:
        compared(old, new, task, asked.pairs, report)
    for server in (old, new):
        server.end()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
