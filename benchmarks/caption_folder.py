"""`mm caption` of a folder beside that of an earlier commit: pictures per second, and equal captions.

    git worktree add --detach /tmp/old 4496661
    python benchmarks/caption_folder.py --against /tmp/old --log benchmarks/logs/caption_folder.txt

The folder is made: COUNT JPEGs and PNGs of 200 to 2000 pixels from the sample pictures, the same ones each time. Both
commands run in this environment, each with the package of its checkout. What importing and loading take, measured with
a folder of one picture, is taken off.
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from harness import Cost, Row
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = sorted((ROOT / "examples" / "pictures").glob("*.png"))
WANTED = 1.6
RUN = """
import os, sys
import mm, mm_console
assert os.path.realpath(mm.__file__) == os.path.realpath(sys.argv.pop(1) + "/__init__.py"), mm.__file__
sys.argv[0] = "mm"
mm_console.main()
"""


def make_folder(folder: Path, count: int) -> None:
    draw = random.Random(0)
    for number in range(count):
        with Image.open(PICTURES[number % len(PICTURES)]) as picture:
            side = draw.randrange(200, 2000)
            whole = Image.new("RGB", (side, int(side * draw.uniform(0.5, 1))), "white")
            part = picture.convert("RGBA").resize((whole.height, whole.height))
            whole.paste(part, (draw.randrange(whole.width - whole.height + 1), 0), part)
        whole.save(folder / f"{number:04}.{'png' if number % 4 == 0 else 'jpg'}")


def run(package: Path, folder: Path) -> tuple[Cost, str]:
    """What `mm caption` of a folder costs by the package in a checkout, and what it prints."""
    with tempfile.TemporaryDirectory() as beside:
        Path(beside, "mm").symlink_to(package)
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RUN, str(package), "caption", str(folder)], text=True, cwd=beside,
            env={**os.environ, "PYTHONPATH": f"{beside}:{package}"}, capture_output=True,
        )  # fmt: skip
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"mm caption of {package} failed:\n{done.stderr[-3000:]}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def captions(package: Path, folder: Path, one: Path, said: list[str]) -> Cost:
    """Of the folder, beside what a folder of one picture costs; what is printed goes to `said`."""
    start, _ = run(package, one)
    whole, text = run(package, folder)
    said.append(text)
    return Cost(whole.wall - start.wall, whole.cpu - start.cpu)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pairs=3)
    parser.add_argument("--against", type=Path, required=True, help="checkout of the earlier commit")
    parser.add_argument("--count", type=harness.number, help="pictures (default: 600)")
    given = parser.parse_args(arguments)
    count = given.count or (30 if given.tiny else 600)
    report, said = harness.Report(given), []
    with tempfile.TemporaryDirectory() as name:
        many, one = Path(name, "many"), Path(name, "one")
        for folder, number in ((many, count), (one, 1)):
            folder.mkdir()
            make_folder(folder, number)
        old = given.against.resolve()
        row = Row(
            f"mm caption of {count} pictures", lambda: captions(ROOT, many, one, said),
            lambda: captions(old, many, one, said), wanted=WANTED, atol=None, against="the earlier commit",
            warm_up=0, cost=harness.told,
        )  # fmt: skip
        report.race(row)
    if len({*said}) > 1:
        raise RuntimeError("the captions differ, so the times mean nothing")
    measured = report.rows[-1]
    rates = {side: (count - 1) / measured[side] for side in ("ours", "peer")}
    report.say(f"\npictures a second: {rates['ours']:.1f} now, {rates['peer']:.1f} before; all captions are equal")
    measured |= {"pictures": count, "rates": rates}
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
