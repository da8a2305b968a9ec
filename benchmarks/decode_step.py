"""CPU time of one decode step: what generate() of mm-tiny costs per new token, on one thread.

    python benchmarks/decode_step.py                          # this checkout
    python benchmarks/decode_step.py OLD_PYTHON NEW_PYTHON    # two environments in turn, and the ratio

A step is a long generate() less a short one, over the tokens between them. Two interpreters stay alive and take turns
after every step, as caches and clocks of a shared machine change from second to second; the ratio is the median over
the pairs of neighbours. Each imports the `mm` installed in its environment and reads the same checkpoint; both must
write the same tokens, greedily and with 3 beams.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import harness
import torch

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
SHORT, LONG = 4, 64  # new tokens


def writer() -> Callable[..., list[int]]:
    """generate() of mm-tiny by the number of new tokens."""
    from transformers import AutoModelForImageTextToText

    import mm  # noqa: F401  registers the classes

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    size = model.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    never = 0  # padding: an end of text that is never written, so that no text ends early

    def write(length: int, num_beams: int = 1) -> list[int]:
        written = model.generate(pixel_values=pixels, eos_token_id=never, max_new_tokens=length, num_beams=num_beams)
        return written[0].tolist()

    return write


def checked_tokens(write: Callable[..., list[int]]) -> list[int]:
    """Greedy tokens, then those of 3 beams."""
    tokens = write(LONG)
    if len(tokens) != LONG + 1 or write(SHORT) != tokens[: SHORT + 1]:
        raise RuntimeError("a text ended early, or the short one is not the beginning of the long one")
    return tokens + write(LONG, num_beams=3)


def per_token(write: Callable[..., list[int]]) -> harness.Cost:
    """Milliseconds of a new token."""
    short, long = (harness.clocked(lambda length=length: write(length)) for length in (SHORT, LONG))
    scale = 1000 / (LONG - SHORT)
    return harness.Cost((long.wall - short.wall) * scale, (long.cpu - short.cpu) * scale)


def first_token(write: Callable[..., list[int]]) -> harness.Cost:
    """Milliseconds until the first token, from pixels."""
    costs = [harness.clocked(lambda: write(1)) for _ in range(SHORT)]
    return harness.Cost(*(1000 * min(getattr(one, of) for one in costs) for of in ("wall", "cpu")))


def main() -> int:
    parser = harness.options(__doc__, pairs=60)
    parser.add_argument("pythons", nargs="*", help="none, or two interpreters: before and after")
    parser.add_argument("--worker", action="store_true", help="answer each line of the input, for the other program")
    asked = parser.parse_args()
    if len(asked.pythons) not in (0, 2):
        parser.error(f"no interpreter or two; got {len(asked.pythons)}")
    if asked.worker:
        write = writer()
        harness.serve(checked_tokens(write), lambda of: vars((first_token if of else per_token)(write)))
        return 0
    report = harness.Report(asked)
    pythons = asked.pythons or [sys.executable]
    servers = {
        name: harness.Server([python, "-W", "ignore", __file__, "--worker"])
        for name, python in zip(("before", "after") if asked.pythons else ("this version",), pythons, strict=True)
    }
    report.equal("tokens", *(torch.tensor(server.start) for server in (*servers.values(), *servers.values())[:2]))
    costs = harness.in_turn(
        {name: server.cost for name, server in servers.items()}, asked.pairs, cost=lambda ask: ask()
    )
    for name, own in costs.items():
        cpu = [one.cpu for one in own]
        report.say(f"{name}: median {harness.median(own):.3f} ms of CPU per new token, least {min(cpu):.3f}")
        report.row(version=name, milliseconds=harness.median(own))
        servers[name].end()
    if len(servers) == 2:
        ratio = harness.ratio(costs["after"], costs["before"])
        bounds = f"[{ratio.least:.3f}, {ratio.greatest:.3f}]"
        report.say(f"after / before of {asked.pairs} pairs: median {ratio.median:.3f} {bounds}")
        report.say("equal tokens, greedy and with 3 beams")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
