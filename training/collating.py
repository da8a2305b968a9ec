"""The batches of a run: no bad picture, video or sound ends it, and each is written down with its reason.

batch of samples ─ all can be read ──────────────► batch
                 ─ some cannot ─ bad_samples.jsonl ─► batch of the others
                 ─ none can ───────────────────────► batch of blanks without labels, so that every process has one
"""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.sources import MEDIA
from ..modeling_mm.losses.token_losses import IGNORED
from ..processing.collator import MMDataCollator
from ..processing.images.limits import MediaDecodeError

FILE = "bad_samples.jsonl"


class FaultLog:
    """A file that takes a line for each bad medium, from any process."""

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder) / FILE

    def __call__(self, fault: MediaDecodeError) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"name": fault.name, "reason": str(fault.cause)}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())  # one write: lines of several processes do not mix
        finally:
            os.close(handle)

    def lines(self) -> list[str]:
        """What was written, each medium once."""
        if not self.path.is_file():
            return []
        found: dict[str, str] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            found.setdefault(str(told["name"]), str(told["reason"]))
        return [
            f"{len(found)} media or samples could not be read:",
            *(f"  {name}: {why}" for name, why in sorted(found.items())),
        ]


@dataclass(eq=False, repr=False)
class RunCollator(MMDataCollator):
    """MMDataCollator that also gives a batch where nothing can be read: blanks, with labels that are ignored.

    without: tensors that the model does not take, such as lm_targets where "lm" is none of its losses.
    """

    without: tuple[str, ...] = ()

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in self._whole(samples).items() if name not in self.without}

    def _whole(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        try:
            return super().__call__(samples)
        except MediaDecodeError:
            if self.on_error != "skip":
                raise
        blanks = copy.copy(self)
        blanks.on_error, blanks.on_fault = "placeholder", None
        if self.processor.placeholders is not None:  # no text of theirs goes without its media
            samples = [{**dict.fromkeys(set().union(*samples) & {*MEDIA}), "text": "", "suffix": ""}]
        batch = MMDataCollator.__call__(blanks, samples)
        for name in ("labels", "lm_targets", "mlm_targets"):
            if torch.is_tensor(batch.get(name)) and not batch[name].is_floating_point():
                batch[name] = torch.full_like(batch[name], IGNORED)
        return batch
