"""examples/own_pictures.py runs as its head says, and mm-tiny learns names of the user's own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mm

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_names_of_twelve_pictures_are_learned(tmp_path):
    files = sorted((ROOT / "examples" / "pictures").glob("*.png"))
    names = [f"my {path.stem.replace('_', ' ')} of {number}" for number, path in enumerate(files)]
    lines = [{"image": path.name, "caption": name} for path, name in zip(files, names, strict=True)]
    for path in files:
        shutil.copy(path, tmp_path)
    (tmp_path / "names.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "examples/own_pictures.py", tmp_path / "names.jsonl", "--output", tmp_path / "own",
               "--held-out", "0", "--epochs", "60"]  # fmt: skip
    run = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    model = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "own").eval()
    processor = mm.MMProcessor.from_pretrained(tmp_path / "own")
    with torch.no_grad():
        ids = model.generate(**processor(images=files, return_tensors="pt"))
    told = processor.batch_decode(ids, skip_special_tokens=True)
    assert sum(one == name for one, name in zip(told, names, strict=True)) >= 10
