"""`mm serve` under load on loopback: requests per second with batching and without, and whether every answer is right.

    python benchmarks/serve_load.py                     # 16 clients, 2000 requests each way
    python benchmarks/serve_load.py --requests 20000    # and whether memory stays as it is

Each client asks for captions of its own pictures, one request after the other, over a connection that it keeps; every
answer is compared with what `mm caption` says of that picture. Pictures differ by a pixel or two, so that the cache of
encoded pictures does not answer for the tower: --same sends the same few pictures again.
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
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from mm.cli.caption import caption

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
                if number is not None and number % max(1, requests // 10) == 0:
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
    spent = time.perf_counter() - start
    memory.append(resident(process))
    ordered = sorted(seconds)
    return {
        "requests per second": requests / spent,
        "batch": requests / (batches(address) - before),
        "CPU": (cpu_seconds(process) - used) / requests,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
        "answered": len(seconds),
        "wrong": len(faults),
        "faults": faults[:3],
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--same", action="store_true", help="the sample pictures again and again")
    parser.add_argument("--wait", type=float, default=2, help="of mm serve")
    parser.add_argument("--only", choices=("batched", "alone"))
    parser.add_argument("--work", type=Path, default=Path("build/serve_load"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    paths = PICTURES if given.same else variants(given.pictures, given.work)
    expected = [found.caption for found in caption(paths, batch_size=1)]
    bodies, rates = bodies_of(paths), {}
    cache = [] if given.same else ["--cache", 0]
    for name, size in (("alone", 1), ("batched", 16)):
        if given.only not in (None, name):
            continue
        with served("--batch-size", size, "--wait", given.wait, *cache) as (address, process):
            load(address, bodies, expected, given.clients, 100, process.pid)
            found = load(address, bodies, expected, given.clients, given.requests, process.pid)
        rates[name] = found["requests per second"]
        print(
            f"{name:8} {found['requests per second']:7.1f} requests/s   {1000 * found['CPU']:5.1f} CPU-ms each   "
            f"{found['batch']:.1f} in a batch   p50 {1000 * found['p50']:6.1f} ms   "
            f"p99 {1000 * found['p99']:6.1f} ms   "
            f"{found['answered']} answered, {found['wrong']} wrong   "
            f"MiB {' '.join(f'{one:.0f}' for one in found['memory'])}",
            flush=True,
        )
        for fault in found["faults"]:
            print("   ", fault)
    if len(rates) == 2:
        times = rates["batched"] / rates["alone"]
        print(f"batching: {times:.2f} times the requests per second ({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
