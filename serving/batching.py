"""Jobs of many clients, run together: one thread runs the model, and whatever has come meanwhile is its next batch.

submit ─ queue (bounded) ─┐
submit ─ queue            ├─ the oldest job and others of its key ─ run(jobs) ─ a result or an error for each
submit ─ queue           ─┘
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


class FullError(Exception):
    """More jobs wait than are allowed."""


class LeftError(Exception):
    """Nobody waits for the result any more."""


@dataclass(eq=False)
class Unit:
    """The jobs of one request. Once one of them is taken, so are the others, however many they are."""

    is_taken: bool = False


@dataclass(eq=False)
class Job:
    """One piece of work. Jobs of equal `key` may be run together.

    emit: called by the model's thread with parts of a text as they come; None where nobody listens.
    unit: of the request that it is part of; None: it is the whole request.
    """

    key: Hashable
    given: Any
    emit: Callable[[str], None] | None = None
    unit: Unit | None = None
    loop: asyncio.AbstractEventLoop | None = None
    future: asyncio.Future | None = None
    left: threading.Event = field(default_factory=threading.Event)
    since: float = 0.0


class Batcher:
    """Runs jobs in batches in a thread of its own.

    Args:
        run: of jobs of one key, gives as many results; an error that it raises is looked for job by job, so that
            each job has its own.
        max_batch: jobs in a batch. 1 switches batching off.
        wait: seconds that a batch that is not full waits for more.
        max_queue: requests that may wait.
        on_batch: called with the number of jobs of each batch.
    """

    def __init__(
        self, run: Callable[[list[Job]], Sequence[Any]], max_batch: int = 16, wait: float = 0.002,
        max_queue: int = 256, on_batch: Callable[[int], Any] = lambda size: None,
    ):  # fmt: skip
        self.run, self.max_batch, self.wait, self.max_queue, self.on_batch = run, max_batch, wait, max_queue, on_batch
        self._queue: deque[Job] = deque()
        self._running_or_waiting: set[Job] = set()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="mm-serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def submit(self, job: Job) -> Any:
        """The result of a job. Raises FullError, or what the job raised. Who is cancelled while waiting takes the job
        off the queue, or tells the model's thread that nobody waits."""
        job.loop, job.since = asyncio.get_running_loop(), time.monotonic()
        job.future = job.loop.create_future()
        with self._changed:
            if self._ends:
                raise FullError("the server is shutting down")
            if job.unit is None or not job.unit.is_taken:
                self._check_room()
            if job.unit is not None:
                job.unit.is_taken = True
            self._queue.append(job)
            self._running_or_waiting.add(job)
            self._changed.notify()
        try:
            return await job.future
        finally:
            self._running_or_waiting.discard(job)
            if not job.future.done() or job.future.cancelled():
                job.left.set()

    def _check_room(self) -> None:
        if len(self._queue) >= self.max_queue:
            self._drop_left()
            if len({id(job if job.unit is None else job.unit) for job in self._queue}) >= self.max_queue:
                raise FullError(f"{self.max_queue} requests wait already")

    def close(self, within: float | None = None) -> bool:
        """Ends after what waits is done; or when `within` seconds are over, what is left being told that nobody waits.
        Returns whether the thread has ended."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(within)
        if self._thread.is_alive():
            for job in tuple(self._running_or_waiting):
                job.left.set()
            self._thread.join(0.1)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while batch := self._next():
            self.on_batch(len(batch))
            for job, result in zip(batch, self._results(batch), strict=True):
                _deliver(job, result)

    def _next(self) -> list[Job]:
        """The oldest job and others of its key; [] at the end."""
        with self._changed:
            while True:
                self._drop_left()
                if self._queue:
                    break
                if self._ends:
                    return []
                self._changed.wait()
            key, until = self._queue[0].key, time.monotonic() + self.wait
            while not self._ends and self._alike(key) < self.max_batch:
                rest = until - time.monotonic()
                if rest <= 0:
                    break
                self._changed.wait(rest)
            batch = [job for job in self._queue if job.key == key][: self.max_batch]
            taken = set(map(id, batch))
            self._queue = deque(job for job in self._queue if id(job) not in taken)
            return batch

    def _alike(self, key: Hashable) -> int:
        return sum(job.key == key for job in self._queue)

    def _drop_left(self) -> None:
        if any(job.left.is_set() for job in self._queue):
            self._queue = deque(job for job in self._queue if not job.left.is_set())

    def _results(self, batch: list[Job]) -> Sequence[Any]:
        try:
            results = list(self.run(batch))
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} jobs")
            return results
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [self._results([job])[0] for job in batch]


def _deliver(job: Job, result: Any) -> None:
    future, loop = job.future, job.loop
    assert future is not None and loop is not None

    def settle() -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop has ended, and with it who waited
        pass
