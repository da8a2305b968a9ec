"""What the tests of training share."""

import json

import pytest
from PIL import Image

import mm
from small_trainer import small_trainer


@pytest.fixture(scope="session")
def processor():
    return mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")


@pytest.fixture
def trainer(tmp_path, processor):
    """trainer(callbacks=..., output=..., **TrainingArguments): `small_trainer`, in the folder run unless told."""

    def build(callbacks=(), output=None, **settings):
        return small_trainer(output or tmp_path / "run", processor, callbacks, **settings)

    return build


COLOURS = ("red", "green", "blue", "white", "black", "yellow")


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Twelve squares of six colours, two sizes each, with a caption file (captions.jsonl)."""
    folder = tmp_path_factory.mktemp("colours")
    lines = []
    for size in (8, 9):
        for name in COLOURS:
            Image.new("RGB", (size, 8), name).save(folder / f"{name}-{size}.png")
            lines.append({"image": f"{name}-{size}.png", "suffix": f"a {name} square"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, processor):
    """A folder with the captioner of small_trainer, new weights, and its processor."""
    folder = tmp_path_factory.mktemp("small") / "model"
    small_trainer(folder, processor).model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(colours, small_model, tmp_path):
    """settings(task, **others): those of a run of a second on the squares."""

    def make(task="caption", **others):
        return {
            "task": task, "data": str(colours / "captions.jsonl"), "model": str(small_model),
            "output": str(tmp_path / "out"), "use_cpu": True, "disable_tqdm": True, "max_steps": 2,
            "per_device_train_batch_size": 4, "learning_rate": "1e-2", "eval_share": 0.3, "logging_steps": 1,
            "save_strategy": "no", "eval_strategy": "no", **others,
        }  # fmt: skip

    return make
