"""From a COCO folder to a pushed model, as it is typed: the card on the Hub holds code, and that code runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hub_server import TOKEN

pytestmark = pytest.mark.slow
MM = str(Path(sysconfig.get_path("scripts")) / "mm")
PICTURES = sorted((Path(__file__).parents[2] / "examples" / "pictures").glob("*.png"))
NAME = "tester/trained"


@pytest.fixture
def coco(tmp_path) -> Path:
    root = tmp_path / "coco"
    (root / "images").mkdir(parents=True)
    for path in PICTURES:
        shutil.copy(path, root / "images")
    images = [{"id": number, "file_name": path.name} for number, path in enumerate(PICTURES)]
    captions = [
        {"id": number, "image_id": number, "caption": f"a {path.stem.replace('_', ' ')}"}
        for number, path in enumerate(PICTURES)
    ]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return root


@pytest.fixture
def run(hub, tmp_path):
    """A command in an empty folder, with the Hub of the tests; what it printed."""
    (tmp_path / "here").mkdir()

    def run(*words, home="home") -> str:
        environment = {**os.environ, **hub.environment(tmp_path / home), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(word) for word in words], cwd=tmp_path / "here", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    return run


def train_words(coco: Path, *more: str) -> list[str]:
    settings = ["num_train_epochs=2", "per_device_train_batch_size=4", "use_cpu=true", "disable_tqdm=true"]
    data = ["--data", str(coco / "captions.json"), "--output", str(coco.parent / "out"), "eval_share=0.2"]
    return [MM, "train", "caption", *data, *settings, *more]


def check_card(hub, run, tmp_path) -> None:
    """The code of the card on the Hub runs, and its numbers are there."""
    card = hub.files(NAME)["README.md"].decode()
    assert f'"{NAME}"' in card and "exact_match" in card
    code = re.search(r"^```python\n(.*?)^```", card, re.S | re.M)
    assert code is not None
    shutil.copy(PICTURES[0], tmp_path / "here" / "picture.png")
    assert run(sys.executable, "-c", code[1], home="reader").strip()


def test_two_commands_take_a_coco_folder_to_a_pushed_model(hub, run, coco, tmp_path):
    run(*train_words(coco))
    told = run(MM, "push", tmp_path / "out", NAME)
    assert f"/{NAME}/commit/" in told
    assert run(MM, "verify", NAME).splitlines()[-1].endswith("no faults")
    check_card(hub, run, tmp_path)


def test_training_pushes_by_itself(hub, run, coco, tmp_path):
    run(*train_words(coco, "push_to_hub=true", f"hub_model_id={NAME}", f"hub_token={TOKEN}", "hub_strategy=end"))
    messages = [*hub.repositories[NAME].messages.values()]
    assert messages == ["initial commit", "End of training"]
    assert run(MM, "verify", NAME).splitlines()[-1].endswith("no faults")
    check_card(hub, run, tmp_path)
    held = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in data for data in [path.read_bytes() for path in held] + [*hub.blobs.values()])
