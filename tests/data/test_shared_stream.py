"""A stream shared by processes and workers: each sample once in a pass, whatever the numbers, also after a resume."""

import itertools

import pytest
from torch.utils.data import DataLoader, IterableDataset

from mm.data.shards import MMShards
from mm.data.shared_stream import SKIPPED, SharedStream
from written_shards import write_shards


class Numbers(IterableDataset):
    """A stream without places; each worker takes every n-th number."""

    def __init__(self, count):
        self.numbers = range(count)

    def __iter__(self):
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        own = self.numbers if worker is None else self.numbers[worker.id :: worker.num_workers]
        return ({"suffix": str(number)} for number in own)


def same(batch):
    return batch


def read(stream, workers, epoch=0):
    """The batches of each step, as texts."""
    stream.set_epoch(epoch)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=same)
    return [[sample["suffix"] for sample in batch] for batch in loader]


def all_of(found):
    return sorted(text for process in found for batch in process for text in batch)


@pytest.mark.parametrize("samples", [3, 5, 12, 13, 17, 23])
@pytest.mark.parametrize("shuffle", [0, 4])
def test_each_sample_comes_once_in_as_many_batches_for_each_process(tmp_path, samples, shuffle):
    texts = write_shards(tmp_path, [samples // 2, samples - samples // 2])  # fewer shards than processes and workers
    for processes, workers in ((1, 0), (2, 1), (3, 0), (3, 2)):
        found = []
        for process in range(processes):
            stream = SharedStream(MMShards(tmp_path, shuffle=shuffle), 2, processes, process)
            found.append(read(stream, workers))
            assert len(found[-1]) == len(stream)
        assert all_of(found) == texts
        assert all(max(sizes) - min(sizes) <= 1 for step in zip(*found, strict=True) for sizes in [[*map(len, step)]])


def test_the_order_of_all_is_that_of_one_whatever_the_processes_and_workers(tmp_path):
    write_shards(tmp_path, [9, 8, 7])

    def order(processes, workers, epoch):
        shares = [
            read(SharedStream(MMShards(tmp_path, shuffle=5), 2, processes, process), workers, epoch)
            for process in range(processes)
        ]
        return [text for step in zip(*shares, strict=True) for batch in step for text in batch]

    assert order(1, 0, 1) == order(3, 2, 1) == order(2, 1, 1) != order(1, 0, 2)


@pytest.mark.parametrize(("before", "after"), [((3, 2), (3, 2)), ((3, 2), (2, 1)), ((2, 0), (4, 2))])
def test_a_pass_goes_on_with_other_processes_where_it_was_interrupted(tmp_path, before, after):
    texts = write_shards(tmp_path, [11, 10])

    def streams(processes):
        return [SharedStream(MMShards(tmp_path, shuffle=4), 2, processes, process) for process in range(processes)]

    steps = 2
    seen = [read(stream, before[1])[:steps] for stream in streams(before[0])]
    start = steps * 2 * before[0]
    later = []
    for stream in streams(after[0]):
        stream.resume(0, start, 3)
        found = read(stream, after[1])
        assert found[:3] == [SKIPPED] * 3 and len(found) == 3 + stream.batches(len(texts) - start)
        later.append(found[3:])
    assert sorted([*all_of(seen), *all_of(later)]) == texts
    assert all_of([read(stream, 0, 1) for stream in streams(1)]) == texts  # the next pass is whole


@pytest.mark.parametrize(("count", "workers"), [(23, 0), (23, 2), (14, 2), (12, 2)])
def test_streams_without_places_are_shared_too(count, workers):
    found = [read(SharedStream(Numbers(count), 2, 3, process), workers) for process in range(3)]
    assert all_of(found) == sorted(map(str, range(count)))
    assert len({len(process) for process in found}) == 1


def test_the_last_samples_are_left_out_where_that_is_asked(tmp_path):
    write_shards(tmp_path, [17])
    streams = [SharedStream(MMShards(tmp_path), 2, 3, process, drop_last=True) for process in range(3)]
    found = [read(stream, 0) for stream in streams]
    assert [len(stream) for stream in streams] == [2, 2, 2] and len(all_of(found)) == 12


def test_samples_that_are_not_whole_are_skipped_by_all_alike(tmp_path):
    texts = write_shards(tmp_path, [9, 8], empty=(2, 5))
    streams = [SharedStream(MMShards(tmp_path, on_error="skip", shuffle=3), 2, 3, process) for process in range(3)]
    assert all_of([read(stream, 2) for stream in streams]) == [text for text in texts if text.strip()]
    assert len(streams[0]) and len(streams[0].stream.report.left_out) == 2  # counted once


def test_too_few_samples_and_parts_of_a_stream_are_refused(tmp_path):
    write_shards(tmp_path, [2])
    with pytest.raises(ValueError, match="2 samples .* 3 processes"):
        read(SharedStream(MMShards(tmp_path), 2, 3, 1), 0)
    with pytest.raises(ValueError, match="whole stream"):
        SharedStream(MMShards(tmp_path).shard(3, 1), 2, 3, 1)


def test_every_length_is_told_as_it_is():
    for samples, size, processes, drop in itertools.product(range(1, 40), (1, 2, 3), (1, 2, 3), (False, True)):
        if samples >= processes:
            stream = SharedStream(Numbers(samples), size, processes, 0, drop)
            assert len(read(stream, 0)) == stream.batches(samples)
