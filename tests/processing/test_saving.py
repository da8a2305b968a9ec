"""A saved processor in a fresh process: found whole and by its parts, through every Auto class, in any order."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers import ASTFeatureExtractor, BertTokenizer, WhisperFeatureExtractor

from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat".split()
TEMPLATE = "{% for m in messages %}{% for c in m['content'] %}{{ c.get('text', '') }}{% endfor %}{% endfor %}"
AUTOS = ("AutoProcessor", "AutoImageProcessor", "AutoTokenizer", "AutoFeatureExtractor")
LOADING = """
import json, sys
import mm, transformers
found = {name: getattr(transformers, name).from_pretrained(sys.argv[1]) for name in sys.argv[2:]}
processor = found["AutoProcessor"]
parts = {"AutoImageProcessor": "image_processor", "AutoTokenizer": "tokenizer"}
parts["AutoFeatureExtractor"] = "feature_extractor"
for name, part in parts.items():
    assert type(found[name]) is type(getattr(processor, part)), (name, type(found[name]))
    if part != "tokenizer":
        assert found[name].to_dict() == getattr(processor, part).to_dict(), name
assert found["AutoTokenizer"].get_vocab() == processor.tokenizer.get_vocab()
assert processor.chat_template == found["AutoTokenizer"].chat_template or found["AutoTokenizer"].chat_template is None
print(json.dumps([type(processor).__name__, processor.to_dict()], default=str))
"""


def make_processor(extractor):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    return MMProcessor(
        MMImageProcessorPil(size={"height": 8, "width": 8}, background="black"), tokenizer, extractor, TEMPLATE,
        add_eos_token=True, context_bos_token="[MASK]", num_frames=3, frame_sampling=2.5, prompt_to="context",
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    make_processor(WhisperFeatureExtractor(feature_size=12, chunk_length=2)).save_pretrained(folder)
    return folder


def load_in_a_fresh_process(folder, order):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADING, str(folder), *order]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_files_are_those_of_transformers(folder):
    files = {path.name for path in folder.iterdir()}
    files.remove("import_mm.py")  # what finds the class for those who have not imported MM
    assert files == {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    saved = json.loads((folder / "processor_config.json").read_text())
    assert saved["processor_class"] == "MMProcessor"
    assert saved["image_processor"]["image_processor_type"] == "MMImageProcessor"
    assert saved["feature_extractor"]["feature_extractor_type"] == "WhisperFeatureExtractor"


ORDERS = [AUTOS, *(pytest.param((*AUTOS[first:], *AUTOS[:first]), marks=pytest.mark.slow) for first in (1, 2, 3))]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order[0])
def test_every_part_is_found_in_a_fresh_process_in_any_order(folder, order):
    kind, settings = load_in_a_fresh_process(folder, order)
    saved = json.loads((folder / "processor_config.json").read_text())
    plain = [name for name, value in saved.items() if not isinstance(value, dict)]
    assert kind == "MMProcessor" and {name: settings[name] for name in plain} == {name: saved[name] for name in plain}


@pytest.mark.parametrize(
    "extractor", [WhisperFeatureExtractor(feature_size=12, chunk_length=1), ASTFeatureExtractor()]
)
def test_a_loaded_processor_gives_the_same_batch(tmp_path, extractor):
    processor = make_processor(extractor)
    processor.save_pretrained(tmp_path)
    loaded = MMProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    picture, sound = Image.radial_gradient("L"), np.sin(np.arange(3000) / 5)
    inputs = {"images": picture, "videos": [[picture] * 5], "audio": sound, "text": "a cat", "sampling_rate": 16000}
    expected = processor(**inputs, return_tensors="np")
    for name, value in loaded(**inputs, return_tensors="np").items():
        np.testing.assert_array_equal(value, expected[name])


def test_sounds_alone_need_no_other_part(tmp_path):
    MMProcessor(feature_extractor=WhisperFeatureExtractor(chunk_length=1)).save_pretrained(tmp_path)
    loaded = MMProcessor.from_pretrained(tmp_path)
    assert loaded.image_processor is None and loaded.tokenizer is None
    assert loaded(audio=np.zeros(800), sampling_rate=16000)["input_features"].shape == (1, 1, 80, 100)


BROKEN = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no model": lambda text: json.dumps({**json.loads(text), "model": {"type": "Nope"}}),
    "no vocabulary": lambda text: json.dumps(
        {name: value for name, value in json.loads(text).items() if name != "model"}
    ),
    "words as ids": lambda text: json.dumps({**json.loads(text), "added_tokens": [{"id": "x"}]}),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_broken_file_of_a_processor_is_named(folder, tmp_path, name, how):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(BROKEN[how]((tmp_path / name).read_text()))
    try:
        found = MMProcessor.from_pretrained(tmp_path)
    except (ValueError, OSError, TypeError) as error:
        assert name in str(error)
    else:  # what was changed is not read
        whole = MMProcessor.from_pretrained(folder)
        assert found.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
