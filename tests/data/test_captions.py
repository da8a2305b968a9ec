"""Caption files of every format give the same samples, and nothing is missing without a word."""

import json

import pytest

import mm
from mm.data.dataset import fingerprint
from published import CAPTIONS, WRITERS, rows, write_coco, write_jsonl, write_karpathy, written


def expected(pictures) -> str:
    return fingerprint([{"image": str(pictures / name), "suffix": text, "id": ""} for _, name, text in rows()])


def test_every_format_gives_the_same_samples(published, pictures):
    data = mm.load_data(published)
    assert data.fingerprint() == expected(pictures)
    assert (data.report.rows, data.report.media, len(data)) == (len(rows()), len(CAPTIONS), len(CAPTIONS))
    assert not data.report.left_out and not data.report.unused


def test_shards_and_data_sets_give_the_same_samples(pictures, tmp_path):
    import datasets
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "set-0.tar")) as shard:
        for number, name, text in rows():
            picture, ending = (pictures / name).read_bytes(), name.rpartition(".")[2]
            shard.write({"__key__": f"{number}-{text}", ending: picture, "txt": text})
    table = datasets.Dataset.from_dict({"image": [str(pictures / name) for _, name, _ in rows()]})
    table = table.cast_column("image", datasets.Image()).add_column("caption", [text for _, _, text in rows()])
    table.save_to_disk(str(tmp_path / "saved"))
    by_name = {"columns": {"caption": "suffix"}}
    streamed = mm.load_data(table.to_iterable_dataset(), **by_name)
    found = [mm.load_data(str(tmp_path)), mm.load_data(table, **by_name), mm.load_data(tmp_path / "saved", **by_name)]
    assert {fingerprint(data) for data in [*found, streamed]} == {expected(pictures)}
    assert [len(data) for data in found[1:]] == [len(CAPTIONS)] * 2


def test_a_picture_is_one_sample_with_all_its_captions(pictures):
    data = mm.load_data(write_coco(pictures))
    kite = next(sample for sample in data if sample["image"].endswith("kite.png"))
    assert kite["suffix"] == CAPTIONS["kite.png"] and kite["row_ids"] == ["50", "51"]
    single = mm.load_data(write_coco(pictures), group=False)
    assert [sample["suffix"] for sample in single] == [text for _, _, text in rows()]


def test_the_collator_reads_the_samples_and_encodes_each_picture_once(pictures):
    processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    data = mm.load_data(write_coco(pictures))
    batch = mm.MMDataCollator(processor)([data[i] for i in range(len(data))])
    assert len(batch["pixel_values"]) == len(CAPTIONS) and len(batch["labels"]) == len(rows())
    assert batch["context_index"].tolist() == [number - 7 for number, _, _ in rows()]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("a missing file", lambda held: held["images"][0].update(file_name="gone.png"), "gone.png"),
        ("no such picture", lambda held: held["annotations"][0].update(image_id=99), "99"),
        ("an empty caption", lambda held: held["annotations"][0].update(caption=" "), "empty"),
        ("a caption that is a number", lambda held: held["annotations"][0].update(caption=3), "int 3"),
        ("out of the folder", lambda held: held["images"][0].update(file_name="../x.png"), "outside"),
    ],
)  # fmt: skip
def test_rows_that_make_no_sample_are_counted_and_named(folder, name, damage, words):
    path = write_coco(folder)
    held = json.loads(path.read_text())
    damage(held)
    written(path, held)
    with pytest.raises(mm.DataError, match=words) as raised:
        mm.load_data(path)
    assert "captions.json, annotation 50" in str(raised.value)
    with pytest.warns(UserWarning, match=words):
        data = mm.load_data(path, on_error="skip")
    lost = [where for where, _ in data.report.left_out]
    assert data.report.rows - len(lost) == sum(len(s.get("row_ids", ["one"])) for s in data)


def test_pictures_without_captions_and_files_without_a_row_are_in_the_report(folder):
    (folder / "spare.png").write_bytes((folder / "kite.png").read_bytes())
    path = write_coco(folder)
    held = json.loads(path.read_text())
    held["images"].append({"id": 1, "file_name": "spare2.png"})
    report = mm.load_data(written(path, held)).report
    assert report.unused == ["spare.png"] and report.without_rows == ["spare2.png"]
    assert "spare.png" in str(report) and "1 media file that" in str(report)


@pytest.mark.parametrize("group", [True, False])
def test_rows_and_samples_have_ids_of_their_own_whatever_the_file_says(folder, group):
    path = write_coco(folder)
    held = json.loads(path.read_text())
    for annotation in held["annotations"]:
        annotation["id"] = 7
    data = mm.load_data(written(path, held), group=group)
    rows = [one for sample in data for one in sample.get("row_ids", [sample["id"]])]
    assert len(set(rows)) == len(rows) == data.report.rows > 3 and {"7 (2)", "7 (3)"} <= set(rows)
    for part in ("one", "two"):
        (folder / part).mkdir()
        (folder / part / "kite.png").write_bytes((folder / "kite.png").read_bytes())
    (folder / "kite.png").unlink()
    names = [f"{part}/kite.png" for part in ("one", "one", "two", "two")]
    table = folder / "table.csv"
    table.write_text("image,suffix\n" + "".join(f"{name},a kite\n" for name in names))
    ids = [sample["id"] for sample in mm.load_data(table, media=folder, group=group)]
    assert len(set(ids)) == len(ids) == (2 if group else 4)


def test_a_name_in_two_folders_is_not_guessed(folder):
    for part in ("one", "two"):
        (folder / part).mkdir()
        (folder / part / "kite.png").write_bytes((folder / "kite.png").read_bytes())
    (folder / "kite.png").unlink()
    with pytest.raises(mm.DataError, match="2 folders"):
        mm.load_data(write_coco(folder))


def test_karpathy_splits_are_taken_by_name(folder):
    path = write_karpathy(folder)
    held = json.loads(path.read_text())
    held["images"][0]["split"], held["images"][1]["split"] = "restval", "test"
    written(path, held)
    assert len(mm.load_data(path, split="train")) == 3
    assert len(mm.load_data(path, split="train+restval")) == 4
    with pytest.raises(ValueError, match="restval"):
        mm.load_data(path, split="dev")


def test_msrvtt_names_videos_by_their_ids(tmp_path):
    for number in (1, 2):
        (tmp_path / f"video{number}.mp4").write_bytes(b"film")
    held = {
        "videos": [{"video_id": "video1", "split": "train"}, {"video_id": "video2", "split": "test"}],
        "sentences": [
            {"video_id": "video1", "caption": "a man runs", "sen_id": 0},
            {"video_id": "video1", "caption": "running", "sen_id": 1},
            {"video_id": "video2", "caption": "a cook", "sen_id": 2},
        ],
    }
    path = written(tmp_path / "videodatainfo.json", held)
    data = mm.load_data(path, split="train")
    assert [(s["video"], s["suffix"]) for s in data] == [(str(tmp_path / "video1.mp4"), ["a man runs", "running"])]
    assert len(mm.load_data(path)) == 2


@pytest.mark.parametrize(
    "content", ["[1, 2]", '{"images": 3, "annotations": []}', '{"images": [], "annotations": []}', "{", '{"a": 1}', ""]
)
def test_files_of_no_format_raise_an_error_that_names_them(tmp_path, content):
    path = written(tmp_path / "odd.json", content)
    with pytest.raises(mm.DataError, match="odd.json"):
        mm.load_data(path)


def test_settings_that_a_format_lacks_raise(pictures, tmp_path):
    with pytest.raises(ValueError, match="split"):
        mm.load_data(write_coco(pictures), split="train")
    with pytest.raises(ValueError, match="columns"):
        mm.load_data(write_coco(pictures), columns={"a": "suffix"})
    with pytest.raises(ValueError, match="colour"):
        mm.load_data(write_coco(pictures), colour=3)
    with pytest.raises(ValueError, match="coco"):
        mm.load_data(write_coco(pictures), format="cocoa")
    with pytest.raises(FileNotFoundError, match="gone"):
        mm.load_data(tmp_path / "gone.json")


def test_parts_hold_each_picture_once_and_stay_as_they_are(pictures, folder):
    data = mm.load_data(write_jsonl(pictures))
    parts = data.split(train=0.5, dev=0.25, test=0.25)
    names = {part: {sample["image"] for sample in held} for part, held in parts.items()}
    assert sum(map(len, names.values())) == len(CAPTIONS) == len(set().union(*names.values()))
    (folder / "new.png").write_bytes((folder / "kite.png").read_bytes() + b" ")
    path = write_jsonl(folder)
    written(path, path.read_text() + '{"image": "new.png", "suffix": "new"}\n')
    later = mm.load_data(path).split(train=0.5, dev=0.25, test=0.25)
    for part, held in later.items():
        assert {s["image"].rpartition("/")[2] for s in held} - {"new.png"} == {
            n.rpartition("/")[2] for n in names[part]
        }


def test_copies_and_pairs_stay_together(folder):
    (folder / "copy.png").write_bytes((folder / "kite.png").read_bytes())
    lines = [{"image": name, "suffix": "x"} for name in ("kite.png", "copy.png", "beach.jpg", "eye-test.png")]
    path = written(folder / "a.jsonl", "\n".join(map(json.dumps, lines)))
    for seed in range(20):
        parts = mm.load_data(path).split(a=0.5, b=0.5, seed=seed, by="bytes").values()
        assert any({"kite.png", "copy.png"} <= {s["image"].rpartition("/")[2] for s in held} for held in parts)
    pairs = [{"images": ["kite.png", "beach.jpg"], "label": 0}, {"images": ["beach.jpg", "eye-test.png"], "label": 1}]
    path = written(folder / "b.jsonl", "\n".join(map(json.dumps, pairs)))
    assert all(len(mm.load_data(path).split(a=0.5, b=0.5, seed=s)["a"]) in (0, 2) for s in range(20))


def test_shares_of_a_split_sum_to_one(pictures):
    data = mm.load_data(write_jsonl(pictures))
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="sum to 1"):
            data.split(**shares)


def test_writers_cover_the_formats():
    assert len(WRITERS) == 10
