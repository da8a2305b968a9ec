"""The samples that examples/train_captioner.py reads: JSON Lines as other programs write them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, HfArgumentParser

from mm import MMForConditionalGeneration, MMImageProcessorPil, MMProcessor

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "square"]
BREAKS = "a\u2028b\u2029c\u0085d\u000be\u000cf\u001cg"  # all that str.splitlines cuts at, and JSON Lines does not


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_captioner", ROOT / "examples" / "train_captioner.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["train_captioner"] = importlib.util.module_from_spec(spec)  # Trainer pickles its arguments
    spec.loader.exec_module(module)
    return module


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "samples.jsonl").write_bytes(text.encode(encoding))
    return folder / "samples.jsonl"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ascii", [True, False])
def test_lines_end_at_line_feeds_alone(script, tmp_path, ends, encoding, ascii):
    samples = [{"suffix": BREAKS}, {"suffix": "caf\u00e9 \u732b"}]
    text = ends.join(json.dumps(sample, ensure_ascii=ascii) for sample in samples) + ends + ends
    assert script.read_samples(write(tmp_path, text, encoding)) == samples


def test_paths_are_from_the_folder_and_null_is_no_picture(script, tmp_path):
    lines = [
        {"image": "a.png", "suffix": "x"},
        {"image": None, "suffix": "y"},
        {"images": ["a.png", "/b.png"], "video": "c.mp4", "suffix": "z"},
        {"file": "a.png", "caption": "w", "image": "data:image/png;base64,AA=="},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)))
    here = str(tmp_path / "a.png")
    assert script.read_samples(path, {"file": "image"}) == [
        {"image": here, "suffix": "x"},
        {"image": None, "suffix": "y"},
        {"images": [here, "/b.png"], "video": str(tmp_path / "c.mp4"), "suffix": "z"},
        {"file": here, "caption": "w", "image": "data:image/png;base64,AA=="},
    ]


@pytest.mark.parametrize(
    ("text", "encoding", "words"),
    [
        ('{"suffix": "a"}\n{"suffix": ', "utf-8", "line 2: no JSON in UTF-8"),
        ('{"suffix": "a"}\n["b"]', "utf-8", "line 2: an object is wanted"),
        ('{"suffix": "caf\u00e9"}', "latin-1", "line 1: no JSON in UTF-8"),
    ],
)
def test_a_line_that_is_none_is_named(script, tmp_path, text, encoding, words):
    with pytest.raises(ValueError, match=f"samples.jsonl, {words}"):
        script.read_samples(write(tmp_path, text, encoding))


def test_it_trains_on_columns_of_other_names(script, tmp_path, tiny_model, monkeypatch):
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]")
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "model")
    MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer).save_pretrained(tmp_path / "model")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    samples = [{"file": "a.png", "caption": "red\u2028square"}, {"file": None, "caption": "red"}]
    path = write(tmp_path, "\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples))
    monkeypatch.chdir(tmp_path)
    options = ["--model", "model", "--output_dir", "run", "--max_steps", "1", "--report_to", "none", "--use_cpu"]
    options += ["--learning_rate", "0.1", "--columns", '{"file": "image", "caption": "suffix"}']
    script.main(str(path), HfArgumentParser(script.Arguments).parse_args_into_dataclasses(options)[0])
    before, after = (MMForConditionalGeneration.from_pretrained(name) for name in ("model", "run"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
