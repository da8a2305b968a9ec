"""Memory of training on a CPU: what a step frees serves the next one."""

import ctypes
import json
import subprocess
import sys

import pytest

from mm.training import kept_memory as module

STEPS = """
import json, resource, runpy, sys
kept_memory = runpy.run_path(sys.argv[1])["kept_memory"]

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"x" * 24 * 2**20 for _ in range(4)]
    del held
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**20

with kept_memory("cpu") as is_kept:
    kept = [new_pages() for _ in range(3)]
print(json.dumps([is_kept, kept, [new_pages() for _ in range(2)]]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_a_step_gets_the_pages_that_the_step_before_freed():
    path = str(module.__file__)
    done = subprocess.run([sys.executable, "-c", STEPS, path], capture_output=True, text=True, check=True)
    is_kept, kept, afterwards = json.loads(done.stdout)
    assert is_kept and max(kept[1:]) < 10  # MB of 96
    assert min(afterwards) > 50  # given back again


def test_other_devices_are_left_alone():
    with module.kept_memory("cuda") as is_kept:
        assert not is_kept
