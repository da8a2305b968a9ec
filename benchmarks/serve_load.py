"""`mm serve` under load on loopback: requests per second with batching and without, and whether every answer is right.

    python benchmarks/serve_load.py --log benchmarks/logs/serve_load.txt
    python benchmarks/serve_load.py --only batching      # minutes
    python benchmarks/serve_load.py --only endurance     # 20,000 requests: does memory stay as it is?

Clients ask for captions, one request after the other, over a connection that each keeps; every answer is compared with
what `mm caption` says of that picture. Pictures differ in a pixel, and encoded pictures are not kept (--cache 0), so
that each request runs the image tower: --same sends the few sample pictures again and again, with the cache.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import harness
from harness import Cost, Report, Row
from PIL import Image

from mm.cli.caption import caption

CASES = ("batching", "endurance")
WANTED, MOST_GROWTH = 2.0, 1.05
PICTURES = sorted((Path(__file__).resolve().parents[1] / "examples" / "pictures").glob("*.png"))


@contextmanager
def served(*arguments):
    """(address, process) of a running `mm serve`."""
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield found[0], process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def variants(count: int, folder: Path) -> list[Path]:
    """Pictures that differ in a corner, so that none is encoded for another."""
    draw, made = random.Random(0), []
    for number in range(count):
        with Image.open(PICTURES[number % len(PICTURES)]) as picture:
            other = picture.convert("RGBA")
        other.putpixel((draw.randrange(other.width), 0), tuple(draw.randrange(256) for _ in range(3)) + (255,))
        path = folder / f"{number}.png"
        buffer = io.BytesIO()
        other.save(buffer, "PNG", compress_level=1)
        path.write_bytes(buffer.getvalue())
        made.append(path)
    return made


def bodies_of(paths: list[Path]) -> list[bytes]:
    return [
        json.dumps({"image": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"}).encode()
        for path in paths
    ]


def resident(process: int) -> float:
    """MiB of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(process: int) -> float:
    """Of a process: what does not depend on who else uses the machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batches(address: str) -> float:
    """How many the model has run."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        found = re.search(r'mm_batch_size_count\{model="mm-tiny"\} ([\d.e+]+)', answer.read().decode())
    return float(found[1]) if found else 0.0


def load(address: str, bodies: list[bytes], expected: list[str], clients: int, requests: int, process: int) -> dict:
    """Of so many requests: seconds, CPU seconds of the server, requests in a batch, and what became of the answers."""
    place = urlsplit(address)
    seconds: list[float] = []
    faults: list[str] = []
    memory: list[float] = []
    numbers, lock = iter(range(requests)), threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
                if number is not None and number and number % max(1, requests // 10) == 0:
                    memory.append(resident(process))
            if number is None:
                return
            which = number % len(bodies)
            start = time.perf_counter()
            connection.request("POST", "/caption", bodies[which], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            seconds.append(time.perf_counter() - start)
            if answer.status != 200 or json.loads(text)["caption"] != expected[which]:
                faults.append(f"{which}: {answer.status} {text[:200]!r}, expected {expected[which]!r}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    before = batches(address)
    start, used = time.perf_counter(), cpu_seconds(process)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - start, cpu_seconds(process) - used
    memory.append(resident(process))
    if faults or len(seconds) != requests:
        raise RuntimeError(f"{len(seconds)} of {requests} requests were answered, {len(faults)} wrongly: {faults[:3]}")
    ordered = sorted(seconds)
    return {
        "wall": wall, "cpu": cpu, "batch": requests / (batches(address) - before), "memory": memory,
        "p50": ordered[len(ordered) // 2], "p99": ordered[int(0.99 * (len(ordered) - 1))],
    }  # fmt: skip


def compared(report: Report, given: argparse.Namespace, bodies: list[bytes], expected: list[str], cache: list) -> None:
    """Batching beside none, by two servers that take turns."""
    requests = 48 if given.tiny else given.requests
    found: dict[str, list[dict]] = {"batched": [], "alone": []}
    with served("--batch-size", 16, *cache) as batched, served("--batch-size", 1, *cache) as alone:

        def turn(name: str) -> Cost:
            address, process = {"batched": batched, "alone": alone}[name]
            found[name].append(load(address, bodies, expected, given.clients, requests, process.pid))
            return Cost(found[name][-1]["wall"], found[name][-1]["cpu"])

        row = Row(
            f"{requests} captions by mm serve, {given.clients} clients", lambda: turn("batched"),
            lambda: turn("alone"), wanted=WANTED, atol=None, against="--batch-size 1", cost=harness.told,
        )  # fmt: skip
        report.race(row)
    measured = report.rows[-1]
    measured["servers"] = found
    for name, seconds in (("batched", measured["ours"]), ("alone", measured["peer"])):
        turns = found[name][row.warm_up :]
        shown = {key: statistics.median(one[key] for one in turns) for key in ("batch", "p50", "p99")}
        report.say(
            f"{name:8} {requests / seconds:6.1f} requests/s, {shown['batch']:4.1f} in a batch, "
            f"p50 {1000 * shown['p50']:.0f} ms, p99 {1000 * shown['p99']:.0f} ms"
        )
    report.say(f"{sum(map(len, found.values())) * requests} requests, each answered once and as `mm caption` does")


def endured(report: Report, given: argparse.Namespace, bodies: list[bytes], expected: list[str], cache: list) -> None:
    """Many requests to one server, whose memory must stay as it is."""
    requests = 100 if given.tiny else given.endurance
    with served("--batch-size", 16, *cache) as (address, process):
        found = load(address, bodies, expected, given.clients, requests, process.pid)
    growth = max(found["memory"][1:]) / found["memory"][0]
    report.say(
        f"\n{requests} requests: {requests / found['wall']:.1f}/s, p50 {1000 * found['p50']:.0f} ms, "
        f"p99 {1000 * found['p99']:.0f} ms, each answered once and as `mm caption` does"
    )
    held = " ".join(f"{one:.0f}" for one in found["memory"])
    report.say(f"MiB of the server after each tenth: {held} (largest / first: {growth:.3f})")
    report.row(case="endurance", requests=requests, growth=growth, **found)
    report.want("memory after the first tenth / the most later", 1 / growth, 1 / MOST_GROWTH)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pairs=3)
    parser.add_argument("--clients", type=harness.number, default=16)
    parser.add_argument("--requests", type=harness.number, default=800, help="of each turn")
    parser.add_argument("--endurance", type=harness.number, default=20_000, help="requests to one server")
    parser.add_argument("--pictures", type=harness.number, default=400)
    parser.add_argument("--same", action="store_true", help="the sample pictures again and again")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    given = parser.parse_args(arguments)
    report = Report(given)
    with tempfile.TemporaryDirectory() as folder:
        paths = PICTURES if given.same else variants(24 if given.tiny else given.pictures, Path(folder))
        expected = [found.caption for found in caption(paths, batch_size=1)]
        bodies = bodies_of(paths)
    cache = [] if given.same else ["--cache", 0]
    for name in given.only:
        (compared if name == "batching" else endured)(report, given, bodies, expected, cache)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
