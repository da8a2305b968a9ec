"""Push and pull: models and processors go to a Hub on the loopback and come back in another process, unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mm import MMForConditionalGeneration, MMProcessor

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ROOT / "checkpoints" / "mm-tiny"
MODEL, WITH_CODE = "tester/mm-tiny", "tester/mm-tiny-with-code"

PUSH = """
import sys
from mm import MMForConditionalGeneration, MMProcessor
source, name, shard_size = sys.argv[1:4]
model, processor = MMForConditionalGeneration.from_pretrained(source), MMProcessor.from_pretrained(source)
model.push_to_hub(name, max_shard_size=shard_size)
processor.push_to_hub(name)
"""
PUSH_CODE = """
from huggingface_hub import HfApi
from mm import export_for_hub
name, directory = sys.argv[4:]
export_for_hub(model, processor, directory, max_shard_size="5MB")
HfApi().create_repo(name)
HfApi().upload_folder(repo_id=name, folder_path=directory)
"""
PUSH_ADAPTER = """
from peft import LoraConfig, get_peft_model
model.config._name_or_path = name  # where the adapter finds its model
get_peft_model(model, LoraConfig(target_modules=["q_proj"])).push_to_hub(sys.argv[4])  # as new, it changes nothing
"""
WITHOUT_MM = """
import sys
sys.modules.update(mm=None, triton=None)  # an import of either fails
"""
CAPTION = """
import json, sys
from transformers import AutoModelForImageTextToText, AutoProcessor
source, *pictures = sys.argv[1:]
trusted = sys.modules.get("mm") is None
model = AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=trusted)
processor = AutoProcessor.from_pretrained(source, trust_remote_code=trusted)
inputs = processor(pictures, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8)
print(json.dumps([type(model).__module__.split(".")[0], processor.batch_decode(ids, skip_special_tokens=True)]))
"""


def run(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    """What a fresh process of this Python prints."""
    given = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=given, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pictures() -> list[str]:
    return sorted(map(str, (ROOT / "examples" / "pictures").glob("*.png")))[:3]


@pytest.fixture(scope="module")
def captions(pictures) -> list[str]:
    """Those of the packaged checkpoint, read from its directory."""
    model, processor = MMForConditionalGeneration.from_pretrained(PACKAGED), MMProcessor.from_pretrained(PACKAGED)
    ids = model.generate(**processor(pictures, return_tensors="pt"), max_new_tokens=8)
    captions = processor.batch_decode(ids, skip_special_tokens=True)
    assert len(set(captions)) == len(pictures)
    return captions


@pytest.mark.slow
def test_a_model_in_shards_and_its_processor_come_back_in_a_fresh_process(hub, tmp_path, pictures, captions):
    run(PUSH, PACKAGED, MODEL, "5MB", environment=hub.environment(tmp_path / "writer"))
    files = hub.files(MODEL)
    assert {"model.safetensors.index.json", "processor_config.json", "README.md"} <= set(files)
    assert "model.safetensors" not in files and [name for name in files if name.endswith(".py")] == ["import_mm.py"]
    reader = hub.environment(tmp_path / "reader")
    assert json.loads(run("import mm" + CAPTION, MODEL, *pictures, environment=reader)) == ["mm", captions]


@pytest.mark.slow
def test_a_model_in_shards_with_its_code_comes_back_without_the_package(hub, tmp_path, pictures, captions):
    writer, reader = hub.environment(tmp_path / "writer"), hub.environment(tmp_path / "reader")
    run(PUSH + PUSH_CODE, PACKAGED, MODEL, "1GB", WITH_CODE, tmp_path / "exported", environment=writer)
    assert "model.safetensors.index.json" in hub.files(WITH_CODE)
    given = run(WITHOUT_MM + CAPTION, WITH_CODE, *pictures, environment=reader)
    assert json.loads(given) == ["transformers_modules", captions]


@pytest.mark.slow
def test_a_model_in_one_file_comes_back(hub, tmp_path, pictures, captions):
    run(PUSH, PACKAGED, MODEL, "1GB", environment=hub.environment(tmp_path / "writer"))
    assert "model.safetensors" in hub.files(MODEL)
    reader = hub.environment(tmp_path / "reader")
    assert json.loads(run("import mm" + CAPTION, MODEL, *pictures, environment=reader)) == ["mm", captions]


@pytest.mark.slow
def test_a_private_repository_is_refused_without_the_token(hub, tmp_path):
    environment = hub.environment(tmp_path)
    push = "import sys, mm; mm.MMProcessor.from_pretrained(sys.argv[1]).push_to_hub(sys.argv[2], private=True)"
    run(push, PACKAGED, MODEL, environment=environment)
    read = "import sys, mm; mm.MMProcessor.from_pretrained(sys.argv[1])"
    run(read, MODEL, environment=environment)
    with pytest.raises(AssertionError, match="Repository Not Found"):
        run(read, MODEL, environment={**hub.environment(tmp_path / "stranger"), "HF_TOKEN": ""})


@pytest.mark.slow
def test_mm_caption_takes_an_id_of_a_model_and_of_an_adapter(hub, tmp_path, pictures, captions):
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", **hub.environment(tmp_path / "writer")}
    run(PUSH + PUSH_ADAPTER, PACKAGED, MODEL, "1GB", "tester/lora", environment=environment)
    for name in (MODEL, "tester/lora"):
        command = [Path(sys.executable).with_name("mm"), "caption", *pictures, "--model", name]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [line.split("\t")[1] for line in done.stdout.splitlines()] == captions
    command[-1] = "tester/nothing"
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "mm: no saved model in 'tester/nothing': there is no such folder, and the Hub gave none:" in done.stderr
