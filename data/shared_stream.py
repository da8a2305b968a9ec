"""One stream for several processes and workers: each sample once in a pass, and as many batches for each process.

    order of the pass   0 1 2 3 4 5 | 6 7 8 9 10 11 | 12 13 14        two samples for each of three processes
    process 0           0 1         | 6 7           | 12
    process 1               2 3     |     8 9       |    13
    process 2                   4 5 |         10 11 |       14

The last samples are shared evenly. Fewer of them than processes go with the batch before, so no process stands without
one while the others train. Nothing is repeated and nothing left out, unless drop_last asks for it.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

SKIPPED: list = []  # stands for a batch that was trained on before the run was interrupted


class SharedStream(IterableDataset):
    """The batches of one process, as lists of samples: for a DataLoader with batch_size=None.

    Args:
        stream: an MMShards, or any IterableDataset whose order in a pass is the same in all processes.
        batch_size: of each process. processes, process: how many there are, and which this one is.
        drop_last: leaves out the last samples where they do not fill the batches of all processes.

    Shards: the order is one whatever the processes and workers; each looks through all headers and reads its own
    samples. Other streams: workers share as the stream itself does it, each process reads all that its workers read.
    """

    def __init__(self, stream: Any, batch_size: int, processes: int = 1, process: int = 0, drop_last: bool = False):
        if getattr(stream, "count", 1) != 1 and processes > 1:
            raise ValueError(
                f"part {stream.index} of {stream.count} of a stream is to be shared by {processes} processes: give "
                "each process the whole stream"
            )
        self.stream, self.batch_size, self.drop_last = stream, batch_size, drop_last
        self.processes, self.process = processes, process
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that run already see it
        self._resumed, self._start, self._skipped = -1, 0, 0

    @property
    def has_places(self) -> bool:
        """Whether the order of the stream is known without reading it, so that samples can be counted and skipped."""
        return hasattr(self.stream, "places")

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)

    def resume(self, epoch: int, start: int, skipped: int) -> None:
        """The pass `epoch` begins with its sample number `start`, after `skipped` stand-ins for earlier batches."""
        self._resumed, self._start, self._skipped = epoch, start, skipped

    def batches(self, samples: int) -> int:
        """How many batches each process makes of so many samples."""
        full, rest = divmod(samples, self.batch_size * self.processes)
        return full + (not self.drop_last and (rest >= self.processes or 0 < rest and not full))

    def __len__(self) -> int:
        if not self.has_places:
            raise TypeError("the length of this stream is not known before it was read")
        return self.batches(self.stream.count_samples())

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        workers, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        epoch = int(self._epoch)
        if not self.has_places:
            yield from self._shares(iter(self.stream))
            return
        start, skipped = (self._start, self._skipped) if epoch == self._resumed else (0, 0)
        yield from [SKIPPED] * len(range(own, skipped, workers))
        order = islice(self.stream.places(epoch), start, None)
        for number, places in enumerate(self._shares(order), skipped):
            if number % workers == own:
                yield [self.stream.read(place) for place in places]

    def _shares(self, order: Iterator) -> Iterator[list]:
        """This process's part of each batch of all processes."""
        size = self.batch_size * self.processes
        batch = list(islice(order, size))
        while batch:
            following = list(islice(order, size))
            if self.drop_last and len(batch) < size:
                return
            if len(batch) < self.processes:
                raise ValueError(
                    f"{len(batch)} samples cannot be shared by {self.processes} processes; use fewer processes, fewer "
                    "workers, or dataloader_drop_last=True to leave them out"
                )
            if not self.drop_last and len(following) < self.processes:
                batch, following = batch + following, []
            each, more = divmod(len(batch), self.processes)
            begin = each * self.process + min(self.process, more)
            yield batch[begin : begin + each + (self.process < more)]
            batch = following
