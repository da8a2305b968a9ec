"""`import mm` in a fresh process: what it registers, what it needs, and that a saved directory is enough."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

import mm

OPTIONAL = ("torchvision", "triton", "accelerate", "peft")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    """(directory with model and processor, picture file, the caption's token ids)."""
    directory = tmp_path_factory.mktemp("saved")
    model = tiny_model("conv", "llama", dtype=torch.float32)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(directory)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    processor = mm.MMProcessor(mm.MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    processor.save_pretrained(directory)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(directory / "picture.png")
    batch = processor(images=Image.fromarray(pixels), text="w3 w4", return_tensors="pt")
    return directory, directory / "picture.png", model.generate(**batch)[0].tolist()


def run(code: str, *arguments) -> str:
    """Runs `code` in a fresh interpreter and returns what it printed; warnings go to stderr."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


AUTO = """
import sys
BLOCKED
import mm
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline
)
from PIL import Image
directory, picture = sys.argv[1:]
found = [
    auto.from_pretrained(directory)
    for auto in (AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoImageProcessor)
]
print([type(one).__name__ for one in found])
model, processor = found[2], found[3]
batch = processor(images=Image.open(picture), text="w3 w4", return_tensors="pt")
print(model.generate(**batch)[0].tolist())
pipe = pipeline("image-text-to-text", model=directory)
print(pipe(picture, text="w3 w4", return_full_text=False)[0]["generated_text"])
"""


@pytest.mark.parametrize(
    "blocked",
    [
        pytest.param((), id="as installed", marks=pytest.mark.slow),
        pytest.param(OPTIONAL, id="without optional packages", marks=pytest.mark.slow),
    ],
)
def test_the_auto_classes_and_the_pipeline_work_on_a_saved_directory(saved, blocked):
    directory, picture, expected = saved
    block = f"sys.modules.update(dict.fromkeys({blocked!r}))"  # None: an import of it fails
    classes, ids, caption = run(AUTO.replace("BLOCKED", block), directory, picture).split("\n")
    names = ["MMConfig", "MMModel", "MMForConditionalGeneration", "MMProcessor", "MMImageProcessorPil"]
    assert classes == str(names) and ids == str(expected)
    words = [WORDS[number] for number in expected[3:] if number > 3]
    assert caption.split() == words


def test_a_saved_directory_holds_no_code_but_the_file_that_says_import_mm(saved):
    directory, *_ = saved
    assert [path.name for path in directory.rglob("*.py")] == ["import_mm.py"]


def test_every_public_name_is_there_and_the_version_is_the_package_s():
    assert sorted(mm.__all__) == mm.__all__ and all(hasattr(mm, name) for name in mm.__all__)
    assert mm.__version__ == version("mm-transformers")


def test_mm_metrics_is_a_module_of_every_name_that_it_lists():
    from mm.metrics import bleu

    assert mm.metrics.bleu is bleu and sorted(mm.metrics.__all__) == mm.metrics.__all__
    assert all(callable(getattr(mm.metrics, name)) for name in mm.metrics.__all__)


def test_mm_losses_is_a_module_of_every_name_that_it_lists():
    from mm.losses import info_nce_loss

    assert mm.losses.info_nce_loss is info_nce_loss
    assert sorted(mm.losses.__all__) == mm.losses.__all__
    assert all(callable(getattr(mm.losses, name)) for name in mm.losses.__all__)


@pytest.mark.slow
def test_the_front_door_waits_for_no_onnx():
    code = "import sys, mm; print(sorted({'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)), mm.OnnxGenerator)"
    assert run(code).startswith("[] <class")
