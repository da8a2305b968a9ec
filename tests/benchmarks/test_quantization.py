"""Fewer bits: what docs/deployment.md says of int8 and bfloat16 holds for the packaged model and the sample pictures.

Transformers imports torchao wherever it is installed, so it is kept out of this environment: `make test-slow` and
`make quantization` fetch it into build/, and a process of its own reads it from there.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
# name -> equal, EM, mean error, largest error, weights in MB, context in kB
TABLE = {
    name: [float(number) for number in numbers.split(" | ")]
    for name, numbers in re.findall(r"^\| ([a-z][a-z0-9, ]+) \| ([\d. |]+) \|$", PAGE, re.M)
}
SCRIPT = """
import json, sys
from pathlib import Path
from tempfile import TemporaryDirectory

root = Path(sys.argv[1])
sys.path.insert(0, str(root / "benchmarks"))
import torch
from PIL import Image
from quantization import MODELS, PACKAGED_MODEL, run, weight_bytes
from mm import MMForConditionalGeneration, MMProcessor

processor = MMProcessor.from_pretrained(PACKAGED_MODEL)
pictures = [Image.open(path) for path in sorted((root / "examples/pictures").glob("*.png"))]
pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
report, first = {}, None
for name, build in MODELS.items():
    model = build()
    ids, logits, context = run(model, name, pixels, None if first is None else first[0])
    first = (ids, logits) if first is None else first
    errors = (logits - first[1]).abs() / first[1].std()
    report[name] = {
        "captions": processor.batch_decode(ids, skip_special_tokens=True), "mean": float(errors.mean()),
        "largest": float(errors.max()), "weights": weight_bytes(model) / 1e6, "context": context / 1e3,
    }
    if name.startswith("int8 weights"):
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = MMForConditionalGeneration.from_pretrained(folder).eval()
        beams = {"pixel_values": pixels, "num_beams": 3}
        report[name]["comes back"] = torch.equal(again.generate(**beams), model.generate(**beams))
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(torchao) -> dict[str, dict[str, Any]]:
    """What each of the benchmark's models makes of the sample pictures."""
    environment = {**os.environ, "PYTHONPATH": str(torchao)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE if name != "float32"])
def test_captions_and_logits_stay_within_what_the_page_says(report, name):
    """Of twelve pictures no more may differ than the page's share of them, rounded up; no logit by more than its
    largest error, and all of them by no more than twice its mean, as twelve are few."""
    equal, _, mean, largest, weights, context = TABLE[name]
    found, expected = report[name], report["float32"]["captions"]
    differing = sum(one != other for one, other in zip(found["captions"], expected, strict=True))
    assert len(expected) == 12 and differing <= -(-12 * (1 - equal) // 1)
    assert 0 < found["largest"] <= largest and 0 < found["mean"] <= 2 * mean
    assert round(found["weights"], 1) == weights and round(found["context"], 1) == context


@pytest.mark.slow
def test_a_quantized_model_is_saved_and_loaded_as_any_other(report):
    names = [name for name in report if name.startswith("int8 weights")]
    assert len(names) == 2 and all(report[name]["comes back"] for name in names)


@pytest.mark.slow
def test_the_page_lists_what_the_benchmark_measures(report):
    assert list(TABLE) == list(report)
    assert TABLE["float32"][:1] + TABLE["float32"][2:4] == [1.0, 0.0, 0.0]
