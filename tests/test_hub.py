"""Push and pull: models and processors go to a Hub on the loopback and come back in another process, unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ROOT / "checkpoints" / "mm-tiny"
REPOSITORY = "tester/mm-tiny"

PUSH = """
import sys
from mm import MMForConditionalGeneration, MMProcessor
source, name, shard_size = sys.argv[1:]
MMForConditionalGeneration.from_pretrained(source).push_to_hub(name, max_shard_size=shard_size)
MMProcessor.from_pretrained(source).push_to_hub(name)
"""
CAPTION = """
import json, sys
import mm
from transformers import AutoModelForImageTextToText, AutoProcessor
source, *pictures = sys.argv[1:]
model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
inputs = processor(pictures, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8)
print(json.dumps(processor.batch_decode(ids, skip_special_tokens=True)))
"""


def run(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    """What a fresh process of this Python prints."""
    given = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures() -> list[Path]:
    return sorted((ROOT / "examples" / "pictures").glob("*.png"))[:3]


@pytest.fixture(scope="module")
def captions(pictures) -> list[str]:
    """Those of the packaged checkpoint, read from its directory."""
    return json.loads(run(CAPTION, PACKAGED, *pictures))


@pytest.mark.parametrize(
    "shard_size", [pytest.param("1GB", marks=pytest.mark.slow), "5MB"], ids=["one file", "shards"]
)
def test_a_pushed_model_and_its_processor_come_back_in_a_fresh_process(hub, tmp_path, pictures, captions, shard_size):
    run(PUSH, PACKAGED, REPOSITORY, shard_size, environment=hub.environment(tmp_path / "writer"))
    files = hub.files(REPOSITORY)
    assert ("model.safetensors" in files) == (shard_size == "1GB")
    assert ("model.safetensors.index.json" in files) == (shard_size == "5MB")

    reader = hub.environment(tmp_path / "reader")
    assert json.loads(run(CAPTION, REPOSITORY, *pictures, environment=reader)) == captions
    assert len(set(captions)) == len(pictures)


@pytest.mark.slow
def test_a_private_repository_is_refused_without_the_token(hub, tmp_path, pictures):
    home = hub.environment(tmp_path)
    run(
        "import sys, mm; mm.MMProcessor.from_pretrained(sys.argv[1]).push_to_hub(sys.argv[2], private=True)",
        PACKAGED,
        REPOSITORY,
        environment=home,
    )
    read = "import sys, mm; mm.MMProcessor.from_pretrained(sys.argv[1])"
    assert run(read, REPOSITORY, environment=home) == ""
    with pytest.raises(AssertionError, match="Repository Not Found"):
        run(read, REPOSITORY, environment={**hub.environment(tmp_path / "stranger"), "HF_TOKEN": ""})
