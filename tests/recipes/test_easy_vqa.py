"""easy-VQA as ids: questions by picture, a word a token, answers as classes and as candidates."""

import json

import pytest
import torch
from PIL import Image

from mm.recipes import easy_vqa
from mm.recipes.easy_vqa import BOS, EOS, PAD, Words, load_questions, question_only

QUESTIONS = [
    ["what color is the shape?", "red", 7],
    ["is there a circle?", "yes", 3],
    ["what color is the shape?", "blue", 3],
    ["what color is the shape?", "red", 3],
]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    for split, entries in {"train": QUESTIONS, "test": QUESTIONS[:2]}.items():
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "questions.json").write_text(json.dumps(entries), encoding="utf-8")
        for number, colour in ((3, "white"), (7, "black")):
            Image.new("RGB", (64, 64), colour).save(tmp_path / split / "images" / f"{number}.png")
    monkeypatch.setattr(easy_vqa, "easy_vqa_directory", lambda data_dir: tmp_path)


def test_questions_come_by_picture_and_pictures_by_number(tiny):
    train = load_questions("train")
    assert train.index.tolist() == [0, 0, 0, 1] and train.answers == ["yes", "blue", "red", "red"]
    assert torch.equal(train.pixels[0], torch.ones(3, 64, 64)) and torch.equal(train.pixels[1], -torch.ones(3, 64, 64))


def test_a_word_is_a_token_and_an_answer_a_class_or_two_tokens(tiny):
    words = Words(load_questions("train"))
    ids, mask = words.questions(["is there a circle?", "what color is the shape?"])
    names = {number: word for word, number in words.ids.items()}
    assert [names[i] for i in ids[1, 1:].tolist()] == ["what", "color", "is", "the", "shape"]
    assert ids[:, 0].tolist() == [BOS, BOS] and ids[0, -1] == PAD and mask.sum(1).tolist() == [5, 6]
    assert words.answers == ["blue", "red", "yes"] and words.classes(["red", "blue"]).tolist() == [1, 0]
    assert [[names[a], e] for a, e in words.candidates().tolist()] == [["blue", EOS], ["red", EOS], ["yes", EOS]]
    assert max(words.ids.values()) + 1 == words.size


def test_the_baseline_answers_what_training_answered_most_often(tiny):
    assert question_only(load_questions("train"), load_questions("test")).tolist() == [1.0, 1.0]
    assert question_only(load_questions("train"), load_questions("train")).tolist() == [1.0, 0.0, 1.0, 1.0]
