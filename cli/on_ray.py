"""--engine ray: a folder's worth of files shared out over the actors of a Ray cluster, one model in each.

files ── shares ── Ray Data ──► actors: a model each ── a shard of Parquet ──► the manifest, a line for each shard
                      ▲                  │ killed
                      └──────────────────┘ its share goes to another
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .printing import say
from .shards import Shards, parquet, tell_shards, write_shard

ENGINES = ("local", "ray")
SHARES = 16  # at least, where there are as many files: little is lost with a worker, and all have work
MOST = 1024  # files of a share: a shard that is not tiny, and minutes of work
Rows = Callable[[list[str]], list[dict[str, Any]]]


def check_engine(name: str, **of_ray: Any) -> bool:
    """Whether --engine is ray. Raises ValueError for another name, or for options of Ray without it."""
    if name not in ENGINES:
        raise ValueError(f"--engine {name} is not known; accepted: {', '.join(ENGINES)}")
    given = [f"--{option}" for option, value in of_ray.items() if value is not None]
    if name != "ray" and given:
        raise ValueError(f"{' and '.join(given)} is an option of --engine ray")
    if name == "ray":
        _ray()
        parquet()
    return name == "ray"


def shares_of(names: Sequence[str], done: set[str]) -> list[tuple[int, list[str]]]:
    """(place of the first file, files) of each share, without those that are done."""
    size = max(1, min(MOST, len(names) // SHARES))
    parts = [(start, names[start : start + size]) for start in range(0, len(names), size)]
    left = [(start, [name for name in part if name not in done]) for start, part in parts]
    return [(start, part) for start, part in left if part]


def shards_of(
    files: Sequence[Path], command: str, make: Callable[..., Rows], options: Mapping[str, Any], output: Path | None,
    resume: bool, actors: int | None,
) -> bool:  # fmt: skip
    """Shards of all files in the folder `output`, as `run_on_ray`; tells how many there are, and what failed.

    Returns: whether every file could be read.
    """
    if output is None:
        raise ValueError("--engine ray writes Parquet into a folder: give --output DIR")
    shards, complete = Shards(output, {"command": command, **options}, resume), False
    try:
        run_on_ray(shards, command, [str(path) for path in files], make, options, actors, options.get("device"))
        complete = True
    finally:
        shards.close(complete)
    done = sum(line["files"] for line in shards.lines)
    say(f"{done} files in {len(shards.lines)} shards in {output}")
    return tell_shards(shards)


def run_on_ray(
    shards: Shards, command: str, names: Sequence[str], make: Callable[..., Rows], options: Mapping[str, Any],
    actors: int | None = None, device: str | None = None,
) -> None:  # fmt: skip
    """Has every file of `names` that has no row yet done by actors, and its shard named in the manifest.

    Ray runs on this machine, or on the cluster whose address RAY_ADDRESS holds: all its machines need the model, the
    files and the folder of `shards` under the same paths. It reports nothing to anybody.

    Args:
        command: whose columns the rows have (`schema_of`).
        make: a function of a module. make(**options), in each actor once, loads a model and returns what makes rows of
            a list of paths, one each.
        actors: None: one for each GPU, or else for each CPU, but not more than there are shares.
        device: of the model; what begins with "cuda" asks for a GPU for each actor.

    Raises: ValueError in the words of an actor, for actors that the cluster has no room for, and for a cluster that
        does not answer.
    """
    names = list(dict.fromkeys(names))
    shares = shares_of(names, shards.done() if shards.lines else set())
    if not shares:
        return
    total = sum(len(part) for _, part in shares)
    with _cluster(actors) as ray, tqdm(total=total, unit=" files", disable=None) as bar:
        count, gpus = _room(ray, actors, len(shares), device)
        items = [{"share": json.dumps([start, part])} for start, part in shares]
        replicas = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Replica, batch_size=1, compute=ray.data.ActorPoolStrategy(size=count), num_cpus=1, num_gpus=gpus,
            fn_constructor_args=(str(shards.folder.resolve()), command, make, dict(options)),
        )  # fmt: skip
        for row in replicas.iter_rows():
            line = json.loads(row["line"])
            if "fault" in line:
                raise ValueError(line["fault"])
            shards.add(line)
            bar.update(line["files"])


class Replica:
    """One actor: a model, loaded for its first share.

    Called by Ray with {"share": JSON of [place, paths]} of one share; returns its line of the manifest, or
    {"fault": words} where the model or an option is none, or the shard cannot be written.
    """

    def __init__(self, folder: str, command: str, make: Callable[..., Rows], options: Mapping[str, Any]):
        self.folder, self.command, self.make, self.options = folder, command, make, options
        self.rows: Rows | None = None

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {"line": [json.dumps(self._line(str(share))) for share in batch["share"]]}

    def _line(self, share: str) -> dict[str, Any]:
        start, names = json.loads(share)
        try:
            self.rows = self.rows or self.make(**self.options)
            return write_shard(self.folder, self.command, start, self.rows(names))
        except (ValueError, TypeError, OSError) as error:  # a full disk, too
            return {"fault": str(error)}


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when a cluster starts
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns that this will change
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise ValueError("--engine ray needs Ray: pip install '.[ray]'") from error
    return ray


@contextmanager
def _cluster(actors: int | None) -> Iterator[Any]:
    """ray, joined to the cluster of RAY_ADDRESS, or to one on this machine that ends with it."""
    ray = _ray()
    address = os.environ.get("RAY_ADDRESS") or "local"
    started: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        room = max(actors or 0, os.cpu_count() or 1)
        started |= {"include_dashboard": False, "num_cpus": room, "object_store_memory": 128 << 20}
    try:
        ray.init(**started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"Ray does not start or answer at {address!r} (RAY_ADDRESS): {error}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _room(ray: Any, actors: int | None, shares: int, device: str | None) -> tuple[int, int]:
    """How many actors, and GPUs of each."""
    held = ray.cluster_resources()
    cpus, gpus = int(held.get("CPU", 0)), int(held.get("GPU", 0))
    on_gpu = gpus > 0 if device is None else device.startswith("cuda")
    most = min(gpus, cpus) if on_gpu else cpus
    if max(actors or 1, 1) > most:
        raise ValueError(
            f"--actors {actors or 1} need a CPU{' and a GPU' if on_gpu else ''} each; Ray has {cpus} CPUs, {gpus} GPUs"
        )
    return min(actors or most, shares), int(on_gpu)
