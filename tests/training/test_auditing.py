"""mm.audit: groups of rows and of pictures, confident errors with their pictures, files, the section of a card."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import mm
from mm.training import asking, auditing

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "checkpoints" / "mm-tiny"
PICTURES = ROOT / "examples" / "pictures"
NAMES = ("bicycle", "camera", "elephant", "rocket")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Three colours of each of four drawings, the dark ones with a wrong caption; one picture has a caption of both
    groups."""
    folder = tmp_path_factory.mktemp("table")
    lines = []
    for name in NAMES:
        picture = Image.open(PICTURES / f"{name}.png").convert("RGB")
        for number in range(6):
            file = f"{name}{number}.png"
            picture.point(lambda value, by=number: max(0, value - by)).save(folder / file)
            group = "new" if number >= 3 else "old"
            lines.append({"image": file, "suffix": "a wrong one" if group == "new" else name, "age": group})
    lines.append({"image": "camera0.png", "suffix": "a wrong one", "age": "new"})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def audited(table, tmp_path_factory) -> mm.Audit:
    return mm.audit(str(MODEL), table, "age", output=tmp_path_factory.mktemp("audit"), progress=False, num_beams=1)


def test_each_group_has_its_metric_and_the_worst_is_tested(audited):
    worst, best = audited.scores.groups
    assert (worst.name, worst.items, worst.pictures) == ("new", 13, 13) and best.items == 12
    gap = audited.scores.gap
    assert gap.worst == "new" and gap.verdict == "worse" and gap.value == pytest.approx(best.value - worst.value)
    assert "age=new" in str(audited) and "worse" in str(audited)


def test_confident_errors_are_wrong_and_sorted(audited):
    sure = [one.confidence for one in audited.confident]
    assert sure == sorted(sure, reverse=True) and len(sure) == 8 and 0 < sure[-1] <= sure[0] <= 1
    assert all(one.score < 0.5 and one.prediction not in one.references for one in audited.confident)


def test_files_hold_groups_and_pictures(audited):
    folder = audited.files[0].parent
    held = json.loads((folder / "audit.json").read_text())
    assert held["groups"][0]["name"] == "new" and held["gap"]["verdict"] == "worse" and held["column"] == "age"
    assert "wrong one" not in json.dumps(held)
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 25 and {line["group"] for line in lines} == {"new", "old"}
    assert {line["file"] for line in lines} == {f"{name}{number}.png" for name in NAMES for number in range(6)}
    # ids are those of the media, whatever the groups are: audits and evaluations are joined by them
    assert len({line["id"] for line in lines}) == 24
    assert len({(line["id"], line["group"]) for line in lines}) == 25
    page = (folder / "audit.html").read_text()
    assert lines[0]["id"] not in page
    assert (
        page.count("data:image/png;base64,") == 8
        and page.count("<svg") == 2
        and "http" not in page.split("</style>")[1]
    )
    assert not list(folder.glob("answers.*"))


@pytest.mark.parametrize("is_sealed", [True, False])
def test_the_card_gets_one_section(audited, tmp_path, is_sealed):
    text = "# A model\n\nWords of its owner.\n\n## Privacy\n\nNone.\n"
    card = tmp_path / "README.md"
    card.write_text(auditing.sealed(text) if is_sealed else text)
    for _ in range(2):
        auditing._update_card(tmp_path, audited)
    held = card.read_text()
    assert held.count("## Groups: chrf by age") == 1 and "| new |" in held and "Words of its owner." in held
    assert held.index("## Groups") < held.index("## Privacy") and auditing.is_ours(held) == is_sealed


def small(processor, cls, **fields):
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(processor.tokenizer), "bos_token_id": processor.tokenizer.bos_token_id}
    text["is_causal"] = cls is mm.MMForConditionalGeneration
    vision = {**parts, "image_size": 128, "patch_size": 64}
    return cls(mm.MMConfig(vision_config=vision, text_config={**parts, **text}, **fields))


def test_classes_are_groups_and_a_list_holds_a_value_for_each_row(processor):
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    model = small(processor, mm.MMForSequenceClassification, **labels)
    samples = [
        {"image": str(PICTURES / f"{name}.png"), "text": ["one", "two"], "label": [0, 1], "who": ["x", "y"]}
        for name in NAMES
    ]
    by_class = mm.audit(model, samples, "label", processor=processor, progress=False)
    assert {(one.name, one.items) for one in by_class.scores.groups} == {("cat", 4), ("dog", 4)}
    by_row = mm.audit(model, samples, "who", processor=processor, progress=False)
    assert {(one.name, one.items) for one in by_row.scores.groups} == {("x", 4), ("y", 4)}
    assert by_row.scores.name == "accuracy" and all(one.confidence >= 0.5 for one in by_row.confident)


def test_numbers_have_their_error_and_the_worst_group_the_highest(processor):
    model = small(processor, mm.MMForSequenceClassification, num_labels=1)
    samples = [
        {"image": str(PICTURES / f"{name}.png"), "label": 50.0 * (name < "d"), "who": str(name < "d")}
        for name in NAMES
    ]
    found = mm.audit(model, samples, "who", processor=processor, progress=False).scores
    assert found.name == "mean_absolute_error" and [one.name for one in found.groups] == ["True", "False"]
    assert found.groups[0].value > 40 > found.groups[1].value


def test_questions_and_retrieval_have_groups_too(processor):
    asked = [
        {"image": str(PICTURES / f"{name}.png"), "text": "what?", "suffix": name, "answers": [name] * 4, "who": "x"}
        for name in NAMES
    ]
    model = small(processor, mm.MMForConditionalGeneration)
    found = mm.audit(model, asked, "who", "vqa", processor=processor, progress=False, max_new_tokens=2)
    assert found.scores.name == "vqa_accuracy" and 0 < found.confident[0].confidence <= 1
    retriever = small(processor, mm.MMForImageTextRetrieval, projection_dim=8)
    pairs = [{name: value for name, value in one.items() if name in ("image", "suffix", "who")} for one in asked]
    found = mm.audit(retriever, pairs, "who", processor=processor, progress=False)
    assert found.scores.name == "i2t_r1" and found.scores.groups[0].pictures == 4
    with pytest.raises(ValueError, match="several values of 'who'"):
        mm.audit(retriever, [*pairs, {**pairs[0], "who": "y"}], "who", processor=processor, progress=False)


def test_wrong_columns_are_refused_in_words_before_anything_is_answered(table, monkeypatch):
    monkeypatch.setattr(mm.MMForConditionalGeneration, "generate", None)
    with pytest.raises(ValueError, match="groups='ages'.*age"):
        mm.audit(str(MODEL), table, "ages", progress=False, num_beams=1, max_new_tokens=1)
    with pytest.raises(ValueError, match="60 different values"):
        auditing._few([str(number) for number in range(60)], "age")


@pytest.fixture
def classifier(processor):
    """It always says the first of its classes."""
    names = dict(enumerate(NAMES))
    model = small(
        processor, mm.MMForSequenceClassification, id2label=names, label2id={name: at for at, name in names.items()}
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("classifier."):
                weight.zero_()
        model.classifier.bias[0] = 9.0
    return model


def classes(folder: Path, names: list[str]) -> Path:
    lines = ["image,who,label", *(f"{PICTURES / f'{name}.png'},x,{name}" for name in names)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def test_classes_have_the_numbers_of_the_model(classifier, processor, tmp_path):
    given = {"processor": processor, "media": str(PICTURES), "progress": False}
    for names, right in ((["rocket"], 0.0), (["camera", "rocket"], 0.0), (["bicycle", "rocket"], 0.5)):
        data = classes(tmp_path, names)
        found = mm.evaluate(classifier, data, **given)
        assert found.metrics["accuracy"] == right
        assert {one.prediction for one in found.questions} == {"bicycle"}
        read = mm.load_data(data, media=str(PICTURES))
        told = mm.evaluate_task("classify", classifier, processor, read)
        assert told["eval_accuracy"] == right
    groups = mm.audit(classifier, classes(tmp_path, list(NAMES)), "label", **given).scores.groups
    assert {(one.name, one.value) for one in groups} == {(name, float(name == "bicycle")) for name in NAMES}
    with pytest.raises(ValueError, match="zebra"):
        (tmp_path / "rows.csv").write_text(f"image,label\n{PICTURES / 'rocket.png'},zebra\n")
        mm.evaluate(classifier, tmp_path / "rows.csv", **given)
    nameless = small(processor, mm.MMForSequenceClassification, num_labels=4)
    with pytest.raises(ValueError, match="4 classes without names"):
        mm.evaluate(nameless, classes(tmp_path, ["camera", "rocket"]), **given)


def test_a_picture_that_comes_twice_is_two_questions(classifier, processor, tmp_path):
    data = classes(tmp_path, ["bicycle", "rocket", "rocket"])
    found = mm.evaluate(classifier, data, processor=processor, media=str(PICTURES), progress=False)
    assert found.metrics["samples"] == 3 and found.metrics["media"] == 2
    assert found.metrics["accuracy"] == pytest.approx(1 / 3)


def test_a_run_does_not_go_on_with_other_labels_or_pictures(processor, tmp_path):
    digest = asking._digest
    one = {"image": Image.new("RGB", (8, 8), "red"), "label": 0, "answers": ["a"]}
    others = [{**one, "label": 1}, {**one, "answers": ["b"]}, {**one, "image": Image.new("RGB", (8, 8), "blue")}]
    assert digest([one]) == digest([{**one, "image": one["image"].copy()}])
    for other in others:
        assert digest([other]) != digest([one])
    sound = {"audio": {"array": [0.0, 0.5], "sampling_rate": 16000}}
    assert digest([sound]) != digest([{"audio": {"array": [0.0, 0.25], "sampling_rate": 16000}}])


@pytest.mark.parametrize(
    ("data", "fault"), [([], "no sample"), ({"image": "a.png"}, "mapping")], ids=["empty", "one mapping"]
)
def test_data_without_samples_are_refused(classifier, processor, data, fault):
    with pytest.raises((ValueError, TypeError), match=fault):
        mm.evaluate(classifier, data, processor=processor, progress=False)


def test_groups_of_a_list_are_one_for_each_question(processor):
    model = small(processor, mm.MMForSequenceClassification, num_labels=2)
    sample = {"image": str(PICTURES / "rocket.png"), "text": ["one", "two"], "label": [0, 1]}
    with pytest.raises(ValueError, match="one for each of its rows"):
        mm.audit(model, [{**sample, "who": ["x"]}], "who", processor=processor, progress=False)
    for missing in (None, "", float("nan")):
        found = mm.audit(model, [{**sample, "who": [missing, "y"]}], "who", processor=processor, progress=False)
        assert {one.name for one in found.scores.groups} == {"(none)", "y"}
