"""A running `mm serve`, and how tests ask it."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

PICTURES = sorted((Path(__file__).resolve().parents[1] / "examples" / "pictures").glob("*.png"))
KEY = "a-key-of-the-tests"


@contextmanager
def served(*arguments):
    """(address, process) of a running `mm serve`."""
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", "serve", "--port", "0", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MM_API_KEY", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield re.search(r"http://\S+", line)[0], process
        finally:
            process.terminate()
            process.wait(60)


def data_url(path):
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def message(*paths, text=""):
    parts = [{"type": "image_url", "image_url": {"url": data_url(path)}} for path in paths]
    return [{"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}]


def ask(address, route, body=None, key=KEY, **headers):
    """(status, answer)"""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + route, data, headers), timeout=60) as answer:
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def counter(address, pattern):
    return sum(float(value) for value in re.findall(pattern + r" ([\d.e+]+)", ask(address, "/metrics")[1]))
