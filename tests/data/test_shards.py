"""Shards: each sample once in a pass, another order in each pass, the same for the same seed; faults in words."""

import io
import json
import tarfile

import pytest
import torch
from torch.utils.data import DataLoader

import mm
from mm.data.shards import MMShards

PNG = b"\x89PNG not read here"


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path):
    for number in range(5):
        samples = [f"{number}{i:02d}" for i in range(4 + number)]
        members = [
            (f"{key}.{field}", data) for key in samples for field, data in (("png", PNG), ("txt", key.encode()))
        ]
        shard(tmp_path / f"train-{number:04d}.tar", members)
    return str(tmp_path / "train-{0000..0004}.tar")


def ids(stream):
    return [sample["suffix"] for sample in stream]


EVERY = sorted(f"{number}{i:02d}" for number in range(5) for i in range(4 + number))


def test_a_pass_holds_each_sample_once_in_another_order_each_time(shards):
    data = mm.load_data(shards, shuffle=6)
    passes = [ids(data) for _ in range(4)]
    assert all(sorted(one) == EVERY for one in passes) and len({tuple(one) for one in passes}) == 4
    assert ids(mm.load_data(shards)) == EVERY
    told = []
    for _ in range(2):
        data = mm.load_data(shards, shuffle=6)
        data.set_epoch(3)
        told.append(ids(data))
    assert told[0] == told[1] != ids(mm.load_data(shards, shuffle=6, seed=1))


@pytest.mark.parametrize("workers", [2, 7])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_share_the_samples_without_repeats(shards, workers, persistent):
    data = MMShards(shards, shuffle=3)
    loader = DataLoader(
        data, batch_size=None, num_workers=workers, persistent_workers=persistent, generator=torch.manual_seed(0)
    )
    passes = [ids(loader) for _ in range(3)]
    assert all(sorted(one) == EVERY for one in passes) and len({tuple(one) for one in passes}) > 1
    data.set_epoch(1)
    assert ids(loader) == ids(loader)


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_processes_and_workers_share_the_samples_without_repeats(shards, ranks):
    parts = [MMShards(shards, shuffle=3).shard(ranks, rank) for rank in range(ranks)]
    for part in parts:
        part.set_epoch(2)
    found = [key for part in parts for key in ids(DataLoader(part, batch_size=None, num_workers=2))]
    assert sorted(found) == EVERY


def test_keys_of_the_json_come_as_columns_however_late(tmp_path):
    members = [
        (f"{i}.json", json.dumps({"caption": f"c{i}", **({"late": 1} if i > 6 else {})}).encode()) for i in range(9)
    ]
    shard(tmp_path / "a.tar", [one for i in range(9) for one in ((f"{i}.jpg", PNG), members[i])])
    found = list(mm.load_data(str(tmp_path / "a.tar"), columns={"caption": "suffix"}))
    assert found[8] == {"id": "a.tar/8", "image": PNG, "suffix": "c8", "late": 1} and "late" not in found[0]


def test_dots_in_keys_are_said_and_not_merged(tmp_path):
    members = [
        (f"img_{key}.{field}", PNG if field == "jpg" else b"x") for key in ("1.5x", "1.7x") for field in ("jpg", "txt")
    ]
    path = str(shard(tmp_path / "a.tar", members))
    with pytest.raises(mm.DataError, match='dots="last"'):
        list(mm.load_data(path))
    assert [sample["id"] for sample in mm.load_data(path, dots="last")] == ["a.tar/img_1.5x", "a.tar/img_1.7x"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", PNG), ("b.jpg", PNG), ("a.txt", b"x")], "follow"),
        ([("a.jpg", PNG), ("a.JPG", PNG), ("a.txt", b"x")], "twice"),
        ([("a.jpg", PNG), ("a.txt", b"\xff\xfe")], "txt"),
        ([("a.jpg", b""), ("a.txt", b"x")], "empty"),
        ([("a.jpg", PNG), ("a.txt", b" ")], "empty"),
        ([("a.jpg", PNG), ("a.json", b"[1]"), ("a.txt", b"x")], "object"),
        ([("a.jpg", PNG), ("a.png", PNG), ("a.txt", b"x")], "two"),
    ],
)
def test_broken_samples_name_the_shard_and_the_key(tmp_path, members, words):
    path = str(shard(tmp_path / "a.tar", members))
    with pytest.raises(mm.DataError, match=words) as raised:
        list(mm.load_data(path))
    assert "a.tar" in str(raised.value)


def test_broken_samples_are_skipped_and_counted_where_that_is_asked(tmp_path):
    members = [("a.jpg", b""), ("a.txt", b"x"), ("b.jpg", PNG), ("b.txt", b"y")]
    data = mm.load_data(str(shard(tmp_path / "a.tar", members)), on_error="skip")
    assert ids(data) == ["y"] and [where for where, _ in data.report.left_out] == ["a.tar, a"]


def test_cut_and_missing_shards_raise(tmp_path, shards):
    path = shard(tmp_path / "a.tar", [("a.jpg", PNG * 999), ("a.txt", b"x")])
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(mm.DataError, match="a.tar"):
        list(mm.load_data(str(path)))
    path.write_bytes(b"no tar")
    with pytest.raises(mm.DataError, match="a.tar"):
        list(mm.load_data(str(path)))
    with pytest.raises(FileNotFoundError, match="train-0005.tar"):
        mm.load_data(shards.replace("0004", "0005"))


def test_the_collator_reads_the_stream(tmp_path, pictures):
    members = [("a.png", (pictures / "kite.png").read_bytes()), ("a.txt", b"a kite")]
    stream = mm.load_data(str(shard(tmp_path / "a.tar", members)))
    batch = mm.MMDataCollator(mm.MMProcessor.from_pretrained("checkpoints/mm-tiny"))(list(stream))
    assert batch["pixel_values"].shape[0] == 1 and (batch["labels"] != -100).any()


def test_the_parts_of_a_part_are_that_part(shards):
    part = MMShards(shards).shard(2, 1)
    found = [key for index in range(2) for key in ids(part.shard(2, index))]
    assert sorted(found) == sorted(ids(part)) != EVERY
