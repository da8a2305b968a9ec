"""examples/train_captioner.py under torchrun: two processes with DDP leave the weights that one process leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from PIL import Image
from transformers import BertTokenizer, TrainingArguments

from mm import MMForConditionalGeneration, MMImageProcessorPil, MMProcessor

ROOT = Path(__file__).parent.parent
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "square"]


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A tiny model with its processor, and samples of which every second pair has no pictures."""
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]", model_max_length=32
    )
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "model")
    MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer).save_pretrained(tmp_path / "model")
    samples = []
    for i in range(12):
        colour = WORDS[4 + i % 3]
        samples.append({"suffix": f"{colour}{' square' * (i % 5)}"})
        if i % 4 < 2:  # else a batch of text alone, for the second process
            Image.new("RGB", (20, 20), colour).save(tmp_path / f"{i}.png")
            samples[-1]["image"] = f"{i}.png"
    (tmp_path / "samples.jsonl").write_text("\n".join(json.dumps(sample) for sample in samples))
    return tmp_path


def train(folder: Path, launcher: list[str], batch_size: int, name: str) -> MMForConditionalGeneration:
    command = [sys.executable, *launcher, ROOT / "examples/train_captioner.py", folder / "samples.jsonl"]
    command += ["--model", folder / "model", "--output_dir", folder / name, "--use_cpu", "--report_to", "none"]
    command += ["--train_sampling_strategy", "sequential", "--optim", "sgd", "--learning_rate", "0.01"]
    command += ["--num_train_epochs", "2", "--per_device_train_batch_size", batch_size, "--logging_steps", "1"]
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return MMForConditionalGeneration.from_pretrained(folder / name)


def losses(run: Path) -> list[float]:
    """Of every step, as Trainer logs them: means over the tokens of all processes."""
    state = json.loads(next(run.glob("checkpoint-*/trainer_state.json")).read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.slow
def test_two_processes_leave_the_weights_that_one_leaves(folder):
    """Captions of unequal length, and one process with text alone: nothing waits, nothing is weighted twice."""
    alone = train(folder, [], 4, "alone")
    both = train(folder, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], 2, "both")
    start = MMForConditionalGeneration.from_pretrained(folder / "model")
    moved = 0.0
    for (name, one), other, before in zip(
        alone.named_parameters(), both.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=name)
        moved = max(moved, float((one - before).detach().abs().max()))
    assert moved > 1e-3
    ours, theirs = losses(folder / "both"), losses(folder / "alone")
    assert len(ours) == len(theirs) == 6
    assert all(abs(one - other) <= 1e-5 for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


def test_trainer_reads_the_settings_for_fsdp():
    arguments = TrainingArguments("runs", fsdp=True, fsdp_config=str(ROOT / "examples/fsdp.json"), use_cpu=True)
    settings = arguments.fsdp_plugin_args or {}
    assert settings["fsdp_version"] == 2 and settings["reshard_after_forward"]


def test_deepspeed_is_asked_for_by_name_where_it_is_not_installed():
    with pytest.raises(ImportError, match="deepspeed"):
        TrainingArguments("runs", deepspeed=str(ROOT / "examples/deepspeed_zero3.json"), use_cpu=True)


def test_the_settings_for_deepspeed_shard_parameters_and_save_them_whole():
    settings = HfDeepSpeedConfig(str(ROOT / "examples/deepspeed_zero3.json"))
    assert settings.is_zero3() and not settings.is_offload()
    assert settings.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save") is True
    for name in ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"):
        assert settings.get_value(name) == "auto"  # what TrainingArguments say


@pytest.mark.slow
def test_the_script_says_how_it_is_called():
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples/train_captioner.py")], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1 and "samples.jsonl" in result.stderr
