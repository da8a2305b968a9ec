"""Two nodes: two network namespaces of this machine, joined by a pair of virtual network cards (`make test-nodes`).

    namespace mm-a-<pid>  10.77.0.1 ═══ 10.77.0.2  namespace mm-b-<pid>        torchrun in each, gloo between them

Needs root and iproute2. The nodes share the disk, as nodes of a cluster share the folder of their checkpoints.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mm
from written_shards import write_shards

PROGRAM = Path(__file__).parents[1] / "train_in_processes.py"
NAMES = [f"mm-{letter}-{os.getpid()}" for letter in "ab"]
CARDS = [f"mm{letter}{os.getpid()}" for letter in "ab"]
ADDRESSES = ["10.77.0.1", "10.77.0.2"]
pytestmark = pytest.mark.nodes


def ip(*asked: str) -> None:
    done = subprocess.run(["ip", *asked], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(asked)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def nodes():
    """Two namespaces that reach each other and nothing else."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces need root on Linux")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip`: install iproute2")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", CARDS[0], "netns", NAMES[0], "type", "veth", "peer", "name", CARDS[1], "netns", NAMES[1])
        for name, card, address in zip(NAMES, CARDS, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    except OSError as fault:
        pytest.skip(f"the kernel gives no network namespaces: {fault}")
    finally:
        for name in NAMES:  # with their cards
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def start(node: int, folder: Path, run: str, *asked: str, restarts: int = 0) -> subprocess.Popen:
    command = ["ip", "netns", "exec", NAMES[node], sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    command += ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", run]
    command += ["--rdzv_endpoint", f"{ADDRESSES[0]}:29400", "--local_addr", ADDRESSES[node]]
    command += ["--rdzv_conf", "is_host=" + str(int(node == 0)), "--max-restarts", str(restarts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CARDS[node]}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/distributed.md: else no new torchrun can join
    log = (folder / f"{run}-{node}.log").open("a")
    return subprocess.Popen(
        [*command, str(PROGRAM), str(folder), run, *asked],
        stdout=log, stderr=log, env=environment, start_new_session=True,
    )  # fmt: skip


def stop(process: subprocess.Popen) -> None:
    """The whole node at once, as when its power goes."""
    found = subprocess.run(["ps", "-e", "-o", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    for pid, session in (map(int, line.split()) for line in found.splitlines()):
        below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        if session == process.pid or str(pid) in below.stdout.split():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    process.wait()


def wait_for(processes: list[subprocess.Popen], folder: Path, seconds: int = 240) -> None:
    try:
        for process in processes:
            assert process.wait(timeout=seconds) == 0, log_of(folder)
    finally:
        for process in processes:
            if process.poll() is None:
                stop(process)


def log_of(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return dict(mm.MMForConditionalGeneration.from_pretrained(folder).named_parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, and what two processes of one node make of them."""
    root = tmp_path_factory.mktemp("nodes")
    write_shards(root, [7, 6])
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(PROGRAM), str(root), "one"], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def assert_same(folder: Path, run: str) -> None:
    one, two = trained(folder / "one"), trained(folder / run)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6, msg=name)


def test_two_nodes_leave_the_weights_that_one_leaves(nodes, folder):
    wait_for([start(node, folder, "two") for node in range(2)], folder)
    assert_same(folder, "two")


def test_a_node_that_is_killed_and_started_again_goes_on_from_the_newest_checkpoint(nodes, folder):
    (folder / "wait").touch()
    first, second = (start(node, folder, "again", "--kill", "1", "5", restarts=3) for node in range(2))
    try:
        end = time.monotonic() + 120
        while not (folder / "was-killed").exists():
            assert time.monotonic() < end and second.poll() is None, log_of(folder)
            time.sleep(0.2)
        stop(second)
        (folder / "wait").unlink()
        second = start(1, folder, "again", "--kill", "1", "5", restarts=3)
    finally:
        wait_for([first, second], folder)
    assert "checkpoint-4" in log_of(folder)
    assert_same(folder, "again")
