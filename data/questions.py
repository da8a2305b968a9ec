"""Questions and answers about pictures as they are published: VQA v2, OK-VQA, VizWiz, GQA, NLVR2.

Every answer that people gave is kept under "answers", ten of them in VQA v2; "suffix" is the one that is trained: the
annotation's own choice, or the most frequent (the first of them in a tie).
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .captions import field_of, folder_of, object_with, refuse_split
from .dataset import MMDataset, Row, build
from .errors import DataError
from .json_files import json_lines, read_json


def read_vqa(path, media=None, *, annotations=None, split=None, on_error="raise", group=True) -> MMDataset:
    """VQA v2 and OK-VQA: {"questions": [{"question_id", "image_id", "question"}], "data_subtype": "train2014"}.

    annotations: the file with {"annotations": [{"question_id", "answers": [{"answer"}], "multiple_choice_answer"}]};
    None: questions without answers, as in a test set. Each question needs its annotation and the reverse.
    """
    refuse_split(split, "VQA", path)
    held = object_with(read_json(path), path, "questions")
    told: dict[Any, dict] = {}
    if annotations is not None:
        listed = object_with(read_json(annotations), annotations, "annotations")["annotations"]
        told = {field_of(one, "question_id", annotations): one for one in listed}
        if len(told) < len(listed):
            raise DataError(f"{annotations}: {len(listed)} annotations have {len(told)} different question_ids")
        asked = {field_of(one, "question_id", path) for one in held["questions"]}
        if extra := told.keys() - asked:
            raise DataError(
                f"{annotations} answers {len(extra)} questions that {path} does not ask, first {min(map(str, extra))}"
            )
    subset = str(held.get("data_subtype") or "")

    def rows() -> Iterator[Row]:
        for question in held["questions"]:
            key = field_of(question, "question_id", path)
            where = f"{os.path.basename(path)}, question {key}"
            values = {"text": question.get("question")}
            if annotations is not None:
                if key not in told:
                    yield Row(where, str(key), {}, values, fault="there is no annotation for it")
                    continue
                one = told[key]
                if one.get("image_id") not in (None, question.get("image_id")):
                    raise DataError(f"{where}: the annotation is of another picture: {one['image_id']}")
                values |= _answers(one, where)
            yield Row(where, str(key), {"image": coco_names(question.get("image_id"), subset)}, values)

    return build(rows(), source=str(path), format="vqa", folder=folder_of(media, path), on_error=on_error, group=group)


def coco_names(image: Any, subset: str = "") -> tuple[str, ...]:
    """What the picture with this number may be called: COCO_train2014_000000000042.jpg, 000000000042.jpg, 42.jpg."""
    if not isinstance(image, int):
        return (f"{image}", *(f"{image}{ending}" for ending in (".jpg", ".png")))
    numbered = f"{image:012d}.jpg"
    of_subset = (f"COCO_{subset}_{numbered}", f"{subset}/{numbered}") if subset else ()
    return (*of_subset, numbered, f"{image}.jpg", f"{image}.png")


def _answers(annotation: dict, where: str) -> dict[str, Any]:
    given = [one.get("answer") if isinstance(one, dict) else one for one in annotation.get("answers") or []]
    chosen = annotation.get("multiple_choice_answer", annotation.get("answer"))
    for answer in [*given, *([] if chosen is None else [chosen])]:
        if not isinstance(answer, str):
            raise DataError(f"{where}: an answer is a text; got {answer!r:.60}")
    if not given and chosen is None:
        raise DataError(f"{where}: there is no answer; leave annotations out for questions without answers")
    return {"suffix": Counter(given).most_common(1)[0][0] if chosen is None else chosen, "answers": given or [chosen]}


def read_vizwiz(path, media=None, *, split=None, on_error="raise", group=True) -> MMDataset:
    """VizWiz: [{"image": "VizWiz_train_00000000.jpg", "question", "answers": [{"answer"}], "answerable"}]."""
    refuse_split(split, "VizWiz", path)
    held = read_json(path)
    if not isinstance(held, list) or not all(isinstance(one, dict) for one in held):
        raise DataError(f"{path}: a list of objects with image and question is wanted")

    def rows() -> Iterator[Row]:
        for number, one in enumerate(held):
            where = f"{os.path.basename(path)}, question {number}"
            values = {"text": one.get("question")} | (_answers(one, where) if one.get("answers") else {})
            yield Row(where, str(number), {"image": str(field_of(one, "image", path))}, values)

    return build(
        rows(), source=str(path), format="vizwiz", folder=folder_of(media, path), on_error=on_error, group=group
    )


def read_gqa(path, media=None, *, split=None, on_error="raise", group=True) -> MMDataset:
    """GQA: {"02930152": {"imageId", "question", "answer", "fullAnswer"}}. Pictures are imageId.jpg."""
    refuse_split(split, "GQA", path)
    held = read_json(path)
    if not isinstance(held, dict) or not all(isinstance(one, dict) for one in held.values()):
        raise DataError(f"{path}: an object of questions by their ids is wanted")

    def rows() -> Iterator[Row]:
        for key, one in held.items():
            where = f"{os.path.basename(path)}, question {key}"
            values = {"text": one.get("question")} | (_answers(one, where) if "answer" in one else {})
            yield Row(where, key, {"image": coco_names(str(field_of(one, "imageId", path)))}, values)

    return build(rows(), source=str(path), format="gqa", folder=folder_of(media, path), on_error=on_error, group=group)


def read_nlvr2(path, media=None, *, split=None, on_error="raise", group=True) -> MMDataset:
    """NLVR2, JSON Lines: {"identifier": "dev-850-0-1", "sentence", "label": "True"}.

    Samples have two pictures (dev-850-0-img0.png and -img1.png), the sentence as text and the label 1 for True.
    """
    refuse_split(split, "NLVR2", path)

    def rows() -> Iterator[Row]:
        for where, one in json_lines(path):
            key = str(field_of(one, "identifier", path))
            label = one.get("label")
            if label is not None and str(label) not in ("True", "False"):
                raise DataError(f"{where}: label is True or False; got {label!r}")
            pair = key.rpartition("-")[0]
            images = [(f"{pair}-img{side}.png", f"{pair}-img{side}.jpg") for side in (0, 1)]
            values = {"text": one.get("sentence")} | ({} if label is None else {"label": int(str(label) == "True")})
            yield Row(where, key, {"images": images}, values)

    return build(
        rows(), source=str(path), format="nlvr2", folder=folder_of(media, path), on_error=on_error, group=group
    )
