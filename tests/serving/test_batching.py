"""Jobs of many clients in batches: each has its own result or error, whoever leaves is taken off."""

import asyncio
import threading

import pytest

from mm.serving.batching import Batcher, FullError, Job, Unit


class Model:
    """Doubles numbers. Batches wait until `go` is set."""

    def __init__(self):
        self.batches, self.go, self.has_begun = [], threading.Event(), False

    def __call__(self, jobs):
        self.has_begun = True
        self.go.wait()
        self.batches.append([job.given for job in jobs])
        if any(job.given == "bad" for job in jobs):
            raise ValueError("bad is no number")
        return [2 * job.given for job in jobs]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def run(main, **settings):
    """Runs main(model, batcher) with the model held back by a first job, 0."""
    model = Model()
    batcher = Batcher(model, **settings)

    async def held_back():
        first = asyncio.ensure_future(batcher.submit(Job("first", 0)))
        await until(lambda: model.has_begun)
        await main(model, batcher)
        model.go.set()
        assert await first == 0

    try:
        asyncio.run(asyncio.wait_for(held_back(), 20))
    finally:
        model.go.set()
        batcher.close()
    return model


def test_what_comes_meanwhile_is_the_next_batch_of_its_key_and_each_gets_its_own():
    async def main(model, batcher):
        jobs = [asyncio.ensure_future(batcher.submit(Job(number % 2, number))) for number in range(10)]
        await until(lambda: batcher.waiting == 10)
        model.go.set()
        assert await asyncio.gather(*jobs) == [2 * number for number in range(10)]

    model = run(main, max_batch=4, wait=0)
    assert model.batches[1:] == [[0, 2, 4, 6], [1, 3, 5, 7], [8], [9]]


def test_an_error_is_the_error_of_its_job_alone():
    async def main(model, batcher):
        jobs = [asyncio.ensure_future(batcher.submit(Job("", given))) for given in (1, "bad", 3)]
        await until(lambda: batcher.waiting == 3)
        model.go.set()
        found = await asyncio.gather(*jobs, return_exceptions=True)
        assert found[0] == 2 and found[2] == 6 and isinstance(found[1], ValueError)

    run(main)


def test_more_than_may_wait_are_refused():
    async def main(model, batcher):
        jobs = [asyncio.ensure_future(batcher.submit(Job("", number))) for number in range(2)]
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(FullError, match="2 requests wait"):
            await batcher.submit(Job("", 3))
        model.go.set()
        assert await asyncio.gather(*jobs) == [0, 2]

    run(main, max_queue=2)


def test_who_leaves_is_not_computed():
    async def main(model, batcher):
        jobs = [Job("", number) for number in range(3)]
        waiting = [asyncio.ensure_future(batcher.submit(job)) for job in jobs]
        await until(lambda: batcher.waiting == 3)
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        assert jobs[1].left.is_set() and not jobs[0].left.is_set()
        model.go.set()
        assert await asyncio.gather(waiting[0], waiting[2]) == [0, 4]
        assert not jobs[0].left.is_set()

    assert run(main).batches[1:] == [[0, 2]]


def test_the_end_comes_after_what_waits():
    async def main(model, batcher):
        job = asyncio.ensure_future(batcher.submit(Job("", 5)))
        await until(lambda: batcher.waiting == 1)
        closing = asyncio.get_running_loop().run_in_executor(None, batcher.close)
        await asyncio.sleep(0.01)
        with pytest.raises(FullError, match="shutting down"):
            await batcher.submit(Job("", 6))
        model.go.set()
        assert await job == 10
        await closing

    run(main)


def test_the_jobs_of_a_request_are_taken_or_refused_together():
    async def main(model, batcher):
        unit = Unit()
        jobs = [asyncio.ensure_future(batcher.submit(Job("", number, unit=unit))) for number in range(5)]
        await until(lambda: batcher.waiting == 5)
        with pytest.raises(FullError, match="1 requests wait"):
            await batcher.submit(Job("", 6, unit=Unit()))
        model.go.set()
        assert await asyncio.gather(*jobs) == [0, 2, 4, 6, 8]

    run(main, max_queue=1)


def test_an_end_in_time_tells_what_runs_that_nobody_waits():
    async def main(model, batcher):
        job = Job("", 1)
        waiting = asyncio.ensure_future(batcher.submit(job))
        await until(lambda: batcher.waiting == 1)
        assert not await asyncio.to_thread(batcher.close, 0)
        assert job.left.is_set()
        model.go.set()
        waiting.cancel()

    run(main)
