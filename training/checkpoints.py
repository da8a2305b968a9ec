"""Checkpoints that survive: written aside, with a manifest, renamed into place.

    output/.writing/checkpoint-8/…  ─ fsync, manifest.json ─► output/checkpoint-8        one rename
    output/checkpoint-2             ─ rename ─► output/.deleting-…  ─► gone               the oldest beyond the limit

A process that is killed leaves complete checkpoints and a folder .writing, which the next run removes.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

from transformers import TrainerState

from ..weights.manifest import NAME, faults_of, sync, write

WRITING, DELETING, PUSHING, LOCK = ".writing", ".deleting-", ".pushing-", ".lock"
STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoints(output: str | os.PathLike) -> list[Path]:
    """The folders checkpoint-N of an output folder, the newest first."""
    output = Path(output)
    if not output.is_dir():
        return []
    numbered = ((match, path) for path in output.iterdir() if (match := _CHECKPOINT.fullmatch(path.name)))
    return [path for _, path in sorted(((int(m[1]), p) for m, p in numbered if p.is_dir()), reverse=True)]


def why_incomplete(checkpoint: Path, *, hashes: bool = True) -> str:
    """Why a checkpoint is not complete; "" for one that is.

    One without a manifest, as Transformers' own Trainer writes it, counts as complete if its trainer_state.json, which
    is written last, can be read.
    """
    if (checkpoint / NAME).exists():
        return "; ".join(faults_of(checkpoint, hashes=hashes)[:3])
    if not (checkpoint / STATE).exists():
        return f"it has neither {NAME} nor {STATE}: its save was cut off"
    try:
        read_state(checkpoint)
    except (OSError, ValueError) as fault:
        return str(fault)
    return ""


def read_state(checkpoint: str | os.PathLike) -> TrainerState:
    """The trainer_state.json of a checkpoint. Raises: ValueError, naming it, unless Trainer can continue from it."""
    path = Path(checkpoint) / STATE
    try:
        held = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{str(path)!r} is not JSON: {fault}") from fault
    if not isinstance(held, dict):
        raise ValueError(f"{str(path)!r} holds {type(held).__name__}, not an object")
    known = {field.name for field in fields(TrainerState)}
    faults = [f"it has no field {name!r}" for name in held if name not in known]
    faults += [f"{name} is {value!r:.60}" for name, value in held.items() if not _FIELDS.get(name, _any)(value)]
    if faults:
        raise ValueError(f"{str(path)!r} is no state of a training: {'; '.join(faults[:5])}")
    return TrainerState(**held)


def _any(value: Any) -> bool:
    return True


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, int)


def _is_state(value: Any) -> bool:
    """Whether this is what a callback saved: {"args": {…}, "attributes": {…}}, or a list of these."""
    return all(
        isinstance(one, dict) and all(isinstance(one.get(part, {}), dict) for part in ("args", "attributes"))
        for one in (value if isinstance(value, list) else [value])
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {  # of TrainerState: what Trainer can go on from
    **dict.fromkeys(("global_step", "max_steps"), _count),
    **dict.fromkeys(("train_batch_size", "best_global_step"), lambda value: value is None or _count(value)),
    **dict.fromkeys(("epoch", "num_train_epochs", "num_input_tokens_seen", "total_flos"), _number),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), _number),
    **dict.fromkeys(("best_model_checkpoint", "trial_name"), lambda value: value is None or isinstance(value, str)),
    **dict.fromkeys(
        ("is_local_process_zero", "is_world_process_zero", "is_hyper_param_search"), lambda value: type(value) is bool
    ),
    "best_metric": lambda value: value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)),
    "log_history": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "trial_params": lambda value: value is None or isinstance(value, dict),
    "stateful_callbacks": lambda value: isinstance(value, dict) and all(map(_is_state, value.values())),
}


def newest_complete(output: str | os.PathLike, say=None) -> Path | None:
    """The newest checkpoint that is complete, every byte of it read; `say` hears of each one that is not."""
    for path in checkpoints(output):
        reason = why_incomplete(path)
        if not reason:
            return path
        if say is not None:
            say(f"{path} is not complete and is passed over: {reason}")
    return None


def clean(output: str | os.PathLike) -> None:
    """Removes what a killed process left half written, half deleted or half pushed."""
    for path in Path(output).glob(".*"):
        if path.is_dir() and (path.name == WRITING or path.name.startswith((DELETING, PUSHING))):
            shutil.rmtree(path)


def put_in_place(written: Path, output: Path) -> Path:
    """Gives a finished folder its name in the output folder, in one rename; an older one of that name goes."""
    write(written)
    place = output / written.name
    if place.exists():
        remove(place)
    os.rename(written, place)
    sync(output)
    return place


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint so that no half of it is ever found under its name."""
    aside = checkpoint.with_name(f"{DELETING}{checkpoint.name}-{os.getpid()}")
    os.rename(checkpoint, aside)
    shutil.rmtree(aside)


def rotate(output: Path, limit: int | None, keep: str | None = None) -> None:
    """Deletes the oldest complete checkpoints beyond `limit`; never the newest of them, nor `keep` (the best)."""
    if not limit or limit < 0:
        return
    complete = [path for path in checkpoints(output) if not why_incomplete(path, hashes=False)]
    best = None if keep is None else Path(keep).name
    kept = {path for path in complete[:1]} | {path for path in complete if path.name == best}
    for path in complete[1:]:
        if path not in kept and len(kept) < limit:
            kept.add(path)
    for path in complete:
        if path not in kept:
            remove(path)


def lock(output: Path) -> IO | None:
    """The lock of an output folder, held while the file is open. BlockingIOError where another run writes there.

    Forked children close it: the workers of a killed run would hold it for seconds, in the way of the next run.
    """
    import fcntl

    output.mkdir(parents=True, exist_ok=True)
    file = (output / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        file.close()
        if fault.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(
                fault.errno, f"another run writes into {output}; give each run an output folder of its own"
            ) from None
        raise
    _LOCKS.add(file)
    return file


_LOCKS: WeakSet[IO] = WeakSet()


def _close_locks() -> None:
    for file in list(_LOCKS):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def cause_of(fault: BaseException, folder: Path) -> OSError | None:
    """The disk error of a failed save (disk full, read-only, input/output error), None for another fault.

    Savers tell a full disk in their own words, so a fault that names none is asked after by writing a file.
    """
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen
        seen = seen.__cause__ or seen.__context__
    text = str(fault)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        if os.strerror(number) in text or f"os error {number}" in text:
            return OSError(number, os.strerror(number))
    try:
        probe = folder / ".probe"
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as found:
        return found
    return None
