"""The folder that ships: half-size weights that load as fp32, with the processor that training used."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, BertTokenizer

from mm.recipes import package as packaging

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def run(tiny_model, tmp_path):
    model = tiny_model("conv", dtype=torch.float32)
    model.save_pretrained(tmp_path / "run")
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "cat"]
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, bos_token="[CLS]", eos_token="[SEP]", model_max_length=32
    )
    tokenizer.save_pretrained(tmp_path / "run")
    return model, tmp_path / "run"


def test_parameters_are_stored_in_fp16_and_load_as_their_rounded_fp32(run, tmp_path):
    model, folder = run
    size = packaging.package(folder, tmp_path / "shipped")
    assert size == sum(file.stat().st_size for file in (tmp_path / "shipped").iterdir())
    with safe_open(tmp_path / "shipped" / "model.safetensors", "pt") as stored:
        assert stored.get_tensor("model.language_model.embed_tokens.weight").dtype == torch.float16
        assert "lm_head.weight" not in stored.keys()  # tied
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "shipped")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(loaded.get_parameter(name), parameter.half().float(), rtol=0, atol=0)


def test_the_shipped_folder_captions_and_its_processor_cuts_to_the_content(run, tmp_path):
    _, folder = run
    packaging.package(folder, tmp_path / "shipped", num_beams=2)
    processor = AutoProcessor.from_pretrained(tmp_path / "shipped")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "shipped")
    assert model.generation_config.num_beams == 2
    picture = Image.new("RGB", (40, 40), "white")
    picture.paste("red", (10, 10, 20, 20))
    red = Image.new("RGB", (16, 16), "red")
    inputs = processor(images=[picture, red], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 16, 16)
    torch.testing.assert_close(inputs["pixel_values"][0], inputs["pixel_values"][1])
    assert model.generate(**inputs, max_new_tokens=3).shape[0] == 2


def test_a_folder_over_the_limit_is_refused(run, tmp_path, monkeypatch):
    _, folder = run
    monkeypatch.setattr(packaging, "LIMIT", 1000)
    with pytest.raises(ValueError, match="bytes, more than 1,000"):
        packaging.package(folder, tmp_path / "shipped")


def test_what_is_shipped_hands_on_no_setting_of_its_training(run, tmp_path):
    model, folder = run
    model.config.label_smoothing = 0.1
    model.save_pretrained(folder)
    packaging.package(folder, tmp_path / "shipped")
    for place in (tmp_path / "shipped", ROOT / "checkpoints" / "mm-tiny"):
        loaded = AutoModelForImageTextToText.from_pretrained(place)
        assert loaded.config.label_smoothing == 0 and loaded.generation_config.max_new_tokens == 48
    processor = AutoProcessor.from_pretrained(ROOT / "checkpoints" / "mm-tiny")
    batch = processor(images=[Image.new("RGB", (9, 9), "red")], suffix=["red apple"], return_tensors="pt")
    scored = loaded.score(**{name: value for name, value in batch.items() if name != "labels"})
    torch.testing.assert_close(loaded.eval()(**batch).loss, -scored.scores[0] / scored.lengths[0], rtol=1e-5, atol=0)
