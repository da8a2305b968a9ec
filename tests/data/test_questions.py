"""Questions: every answer is kept, pictures are found by the names that each data set uses."""

import json

import pytest
from PIL import Image

import mm
from published import written


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


@pytest.fixture
def vqa(tmp_path):
    for number in (1, 42):
        picture(tmp_path / "images" / f"COCO_val2014_{number:012d}.jpg")
    asked = [
        {"image_id": 42, "question": "What is it?", "question_id": 420},
        {"image_id": 42, "question": "How many?", "question_id": 421},
        {"image_id": 1, "question": "Is it red?", "question_id": 10},
    ]
    questions = written(tmp_path / "q.json", {"questions": asked, "data_subtype": "val2014"})
    told = [
        {
            "image_id": one["image_id"],
            "question_id": one["question_id"],
            "answers": [
                {"answer": f"a{min(i, 2)}", "answer_id": i + 1, "answer_confidence": "yes"} for i in range(10)
            ],
            "multiple_choice_answer": "a2",
            "answer_type": "other",
        }
        for one in asked
    ]
    return questions, written(tmp_path / "a.json", {"annotations": told}), tmp_path / "images"


def test_vqa_keeps_all_ten_answers_and_groups_questions_by_picture(vqa):
    questions, answers, images = vqa
    data = mm.load_data(questions, images, annotations=answers)
    assert [sample["text"] for sample in data] == [["What is it?", "How many?"], "Is it red?"]
    assert data[1]["answers"] == ["a0", "a1", *["a2"] * 8] and data[1]["suffix"] == "a2"
    assert [len(one) for one in data[0]["answers"]] == [10, 10] and data[0]["row_ids"] == ["420", "421"]


def test_questions_without_annotations_have_no_suffix(vqa):
    questions, _, images = vqa
    assert "suffix" not in mm.load_data(questions, images)[0]


def test_questions_and_annotations_must_fit(vqa, tmp_path):
    questions, answers, images = vqa
    held = json.loads(answers.read_text())
    fewer = written(tmp_path / "fewer.json", {"annotations": held["annotations"][1:]})
    with pytest.raises(mm.DataError, match="question 420"):
        mm.load_data(questions, images, annotations=fewer)
    held["annotations"].append({**held["annotations"][0], "question_id": 7})
    with pytest.raises(mm.DataError, match="first 7"):
        mm.load_data(questions, images, annotations=written(tmp_path / "more.json", held))
    held["annotations"] = [{**one, "image_id": 1} for one in held["annotations"][:3]]
    with pytest.raises(mm.DataError, match="another picture"):
        mm.load_data(questions, images, annotations=written(tmp_path / "other.json", held))


def test_the_collator_makes_a_row_of_each_question(vqa):
    questions, answers, images = vqa
    data = mm.load_data(questions, images, annotations=answers)
    batch = mm.MMDataCollator(mm.MMProcessor.from_pretrained("checkpoints/mm-tiny"))([data[0], data[1]])
    assert len(batch["pixel_values"]) == 2 and len(batch["input_ids"]) == 3
    assert batch["context_index"].tolist() == [0, 0, 1]


def test_vizwiz_trains_the_most_frequent_answer(tmp_path):
    picture(tmp_path / "VizWiz_train_00000000.jpg")
    answers = [{"answer": answer, "answer_confidence": "yes"} for answer in ("basil", "basil leaves", "basil")]
    held = [{"image": "VizWiz_train_00000000.jpg", "question": "What is this?", "answers": answers, "answerable": 1}]
    (sample,) = mm.load_data(written(tmp_path / "train.json", held))
    assert sample["suffix"] == "basil" and sample["answers"] == ["basil", "basil leaves", "basil"]


def test_gqa_names_pictures_by_their_ids(tmp_path):
    for name in ("2405722", "n1"):
        picture(tmp_path / f"{name}.jpg")
    held = {
        "02930152": {"imageId": "2405722", "question": "Is it new?", "answer": "no", "fullAnswer": "No, it is old."},
        "02930153": {"imageId": "n1", "question": "Where?", "answer": "left"},
    }
    data = mm.load_data(written(tmp_path / "train_balanced.json", held))
    assert [(s["id"], s["suffix"], s["answers"]) for s in data] == [
        ("02930152", "no", ["no"]),
        ("02930153", "left", ["left"]),
    ]


def test_nlvr2_has_two_pictures_and_a_label(tmp_path):
    for side in (0, 1):
        picture(tmp_path / "dev" / f"dev-850-0-img{side}.png")
    lines = [
        {"identifier": f"dev-850-0-{i}", "sentence": f"There are {i} dogs.", "label": label}
        for i, label in enumerate(("True", "False"))
    ]
    for name in ("dev.jsonl", "dev.json"):  # as it is published: JSON Lines, called .json
        path = written(tmp_path / name, "\n".join(map(json.dumps, lines)))
        (sample,) = mm.load_data(path, tmp_path / "dev")
    assert [name[-8:] for name in sample["images"]] == ["img0.png", "img1.png"]
    assert sample["label"] == [1, 0] and len(sample["text"]) == 2
    with pytest.raises(mm.DataError, match="Perhaps"):
        faulty = written(tmp_path / "dev.jsonl", json.dumps({**lines[0], "label": "Perhaps"}))
        mm.load_data(faulty, tmp_path / "dev")
