"""The samples of a run: one order and one split whatever the format, bad ones listed, no picture in both parts."""

import io
import json
import shutil
import tarfile

import pytest
from PIL import Image

import mm
from mm.data.dataset import fingerprint
from mm.training.arguments import DataArguments
from mm.training.samples import read_samples
from mm.training.tasks import KINDS
from published import CAPTIONS, WRITERS


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(CAPTIONS):
        Image.new("RGB", (8 + number, 8), (40 * number, 200 - 40 * number, 90)).save(root / name)
    return root


def write_shards(root):
    with tarfile.open(root / "all.tar", "w") as tar:
        for number, (name, texts) in enumerate(CAPTIONS.items()):
            for place, text in enumerate(texts):
                ending = name.rpartition(".")[2]
                for field, data in ((ending, (root / name).read_bytes()), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{number}_{place}.{field}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root / "all.tar"


def bare(samples):
    """Samples without names of files and rows."""
    return [
        {k: v for k, v in sample.items() if k in ("id", "text", "suffix", "label", "answers")} for sample in samples
    ]


def read(path, **settings):
    return read_samples(DataArguments(str(path), **{"eval_share": 0.4, **settings}))


@pytest.fixture(scope="module")
def from_coco(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("coco") / "set"
    shutil.copytree(pictures, root)
    return read(WRITERS["coco"](root))


@pytest.mark.parametrize("name", [*WRITERS, "shards"])
def test_one_set_gives_one_order_and_one_split_in_every_format(pictures, tmp_path, name, from_coco):
    root = tmp_path / "set"
    shutil.copytree(pictures, root)
    found = read(write_shards(root) if name == "shards" else WRITERS[name](root))
    assert bare(found.train.samples) == bare(from_coco.train.samples)
    assert bare(found.eval.samples) == bare(from_coco.eval.samples)
    assert fingerprint(found.train.samples) == fingerprint(from_coco.train.samples)


def test_copies_of_a_picture_are_in_one_part_and_one_sample(pictures, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(pictures, root)
    lines = [{"image": name, "suffix": "one"} for name in CAPTIONS]
    for name in CAPTIONS:
        shutil.copy(root / name, root / f"copy of {name}")
        lines.append({"image": f"copy of {name}", "suffix": "another"})
    (root / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read(root / "all.jsonl")
    assert len(found.train) + len(found.eval) == len(CAPTIONS)
    assert all(sample["suffix"] == ["another", "one"] for sample in found.train.samples)
    named = read(root / "all.jsonl", identify="name", eval_share=0)
    assert len(named.train) == 2 * len(CAPTIONS) and named.eval is None


def test_answers_stay_with_their_question(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [("what?", "b", ["b"] * 10), ("which?", "a", ["a"] * 9 + ["c"])]
    lines = [{"image": "a.png", "text": q, "suffix": s, "answers": a} for q, s, a in reversed(rows)]
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (sample,) = read(tmp_path / "vqa.jsonl", eval_share=0).train.samples
    assert sample["text"] == ["what?", "which?"] and sample["answers"] == [["b"] * 10, ["a"] * 9 + ["c"]]
    (tmp_path / "one.jsonl").write_text(json.dumps(lines[0]) + "\n")
    (sample,) = read(tmp_path / "one.jsonl", eval_share=0).train.samples
    assert sample["text"] == "which?" and sample["answers"] == ["a"] * 9 + ["c"]


def test_a_row_that_is_left_out_is_in_the_report(pictures, tmp_path):
    lines = [{"image": str(name), "suffix": "x"} for name in [*CAPTIONS, "gone.png"]]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UserWarning, match="gone"):
        found = read(tmp_path / "all.jsonl", media=str(pictures))
    assert any("gone.png" in line for line in found.report)
    with pytest.raises(mm.DataError, match="gone"):
        read(tmp_path / "all.jsonl", media=str(pictures), on_error="raise")


def test_a_split_that_holds_out_nothing_is_said(pictures, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"image": "beach.jpg", "suffix": "x"}) + "\n")
    found = read(tmp_path / "one.jsonl", media=str(pictures), eval_share=0.0001)
    assert found.eval is None and "not evaluated" in found.report[-1]


def test_classes_of_the_evaluation_have_the_numbers_of_the_training(tmp_path):
    for part, names in (("train", "abc"), ("held", "cb"), ("other", "d")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (ord(name), len(part), 0)).save(tmp_path / part / name / "x.png")
    found = read(tmp_path / "train", eval_data=str(tmp_path / "held"))
    assert sorted(sample["label"] for sample in found.eval.samples) == [1, 2]
    with pytest.raises(ValueError, match="classes d"):
        read(tmp_path / "train", eval_data=str(tmp_path / "other"))


def test_pictures_in_both_parts_are_told(pictures, tmp_path):
    (tmp_path / "two.jsonl").write_text(json.dumps({"image": "beach.jpg", "suffix": "x"}) + "\n")
    found = read(tmp_path / "two.jsonl", media=str(pictures), eval_data=str(tmp_path / "two.jsonl"))
    assert "too good" in found.report[-1]


def test_rows_that_read_another_context_text_stay_apart(pictures, tmp_path):
    rows = [{"image": "beach.jpg", "context_text": text, "suffix": "x"} for text in ("what?", "where?")]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "two.jsonl", media=str(pictures), eval_share=0)
    assert sorted(sample["context_text"] for sample in found.train.samples) == ["what?", "where?"]


@pytest.mark.parametrize("task", ["caption", "vqa", "retrieval", "classify"])
def test_a_conversation_in_another_task_says_that_only_chat_reads_it(task):
    sample = {"id": "1", "image": "a.png", "chat": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]}
    with pytest.raises(ValueError, match=rf"(?s)the task {task} needs .*is a conversation, which only the task chat"):
        KINDS[task].sample(sample)
