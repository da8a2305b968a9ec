"""Whether Triton interprets its kernels: the value of TRITON_INTERPRET when MM was imported."""

import importlib.util
import os

HAS_TRITON = importlib.util.find_spec("triton") is not None  # found, not imported


def asks_for_interpreter(setting: str) -> bool:
    """What Triton takes for a yes in TRITON_INTERPRET, which it reads as kernels are defined."""
    return setting.lower() in ("1", "true", "on", "yes", "y")


IS_INTERPRETED = HAS_TRITON and asks_for_interpreter(os.environ.get("TRITON_INTERPRET", ""))
