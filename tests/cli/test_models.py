"""What `mm caption --model` may be, and what it says to the rest; models that run are in test_cli_caption.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertTokenizer

import mm
from mm.cli import models
from mm.cli.models import load_head, load_heads, load_model


def folder_of(tmp_path: Path, config: Any, **files: str) -> Path:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        ({"model_type": "blip"}, {}, "is no model of MM .*'blip'.*mm convert .* NEW_FOLDER"),
        ({"model_type": "vision-encoder-decoder"}, {}, "mm convert .* NEW_FOLDER"),
        ({"model_type": "bert"}, {}, "is no model of MM .*'bert'.*mm convert does not know"),
        ({}, {}, "its model_type is None"),
        ({"model_type": "mm", "architectures": ["MMForImageTextRetrieval"]}, {}, r'pipeline\("mm-retrieval"\)'),
        ({"model_type": "mm", "architectures": ["MMForSequenceClassification"]}, {}, "gives classes, not words"),
        ({"model_type": "mm", "architectures": ["MMForMaskedLM"]}, {}, "fills in hidden words"),
        ({"model_type": "mm"}, {"decoder__onnx": ""}, "holds ONNX graphs.*OnnxGenerator"),
        ("{", {}, "config.json of .* is not JSON"),
        ("[]", {}, "holds no object of JSON"),
        ({"model_type": "mm"}, {"adapter_config__json": "{}"}, "adapter .*base model; merge"),
        ({}, {"adapter_config__json": '{"base_model_name_or_path": "no/where/at/all"}'}, "which is not found"),
    ],
)
def test_what_the_command_cannot_run_is_told_with_what_to_do(tmp_path, config, files, words):
    with pytest.raises(ValueError, match=words):
        load_model(folder_of(tmp_path, config, **files))


@pytest.mark.parametrize("name", ["nowhere", "./no/such/folder", "/no/such", "~/x", "a b/c", "../c", "you/nowhere"])
def test_a_model_that_is_nowhere_is_named(name, monkeypatch):
    """Only what looks like an id is asked of the Hub, and of a Hub that is silent once."""
    asked = []

    def silent(source, file, local_files_only):
        asked.append((source, local_files_only))
        raise LocalEntryNotFoundError("the server does not answer")

    monkeypatch.setattr(models, "hf_hub_download", silent)
    with pytest.raises(ValueError, match=f"no saved model in '{name}': there is no such folder") as caught:
        load_model(name)
    assert asked == ([(name, False), (name, True), (name, True)] if name == "you/nowhere" else [])
    assert ("the server does not answer" in str(caught.value)) == (name == "you/nowhere")


def test_a_model_with_several_heads_runs_as_each_that_its_losses_trained(tiny_model, tmp_path):
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    size = {"size": {"height": 16, "width": 16}}
    mm.MMProcessor(mm.MMImageProcessorPil(**size), tokenizer).save_pretrained(tmp_path)
    losses = {"lm": 1.0, "itc": 1.0}
    tiny_model(cls=mm.MMForPreTraining, share_text_encoder=True, pretraining_losses=losses).save_pretrained(tmp_path)

    finds = ("MMForImageTextRetrieval",)
    for heads, expected in [
        (("MMForConditionalGeneration",), mm.MMForConditionalGeneration),
        (finds, mm.MMForImageTextRetrieval),
        (("MMForSequenceClassification", *finds), mm.MMForImageTextRetrieval),
    ]:
        model, processor = load_head(tmp_path, heads)
        assert type(model) is expected
        assert processor.add_eos_token == (expected is mm.MMForImageTextRetrieval)
    assert [type(model) for model, _ in load_heads(tmp_path)] == [
        mm.MMForConditionalGeneration, mm.MMForImageTextRetrieval
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"writes \(.*and compares \(.*; needed is a model that fills in"):
        load_head(tmp_path, ("MMForMaskedLM",))
