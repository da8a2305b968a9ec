"""A user of the Hub on the loopback: one process of its own, which runs what a test asks, expression by expression.

huggingface_hub reads where the Hub is as it is imported, so no test can be that user in its own process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

_LOOP = """
import json, sys
import huggingface_hub.utils._http as http
http.time.sleep = lambda seconds: None  # between the tries at a server that is down
exec(sys.argv[1])
for line in sys.stdin:
    try:
        answer = json.dumps(eval(json.loads(line)))
    except Exception as error:
        kind = next((base.__name__ for base in (OSError, ValueError) if isinstance(error, base)), None)
        answer = json.dumps([kind, type(error).__name__, str(error)])
    print("ANSWER " + answer, flush=True)
"""


class HubUser:
    """`with HubUser(hub.environment(home), imports) as ask: ask(expression)` gives what JSON can say of its value.

    An error is [OSError or ValueError or None, class, text].
    """

    def __init__(self, environment: Mapping[str, str], imports: str):
        command = [sys.executable, "-W", "ignore", "-c", _LOOP, imports]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process: Any = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=Path(__file__).parents[1], **pipes
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __call__(self, expression: str) -> Any:
        self._process.stdin.write(json.dumps(expression) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise AssertionError("the process ended")
