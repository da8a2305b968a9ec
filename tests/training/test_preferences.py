"""DPO through TRL: its batches, its log-probabilities are the model's own, what is preferred becomes likelier."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mm
from mm.training.preferences import MMPreferenceCollator
from small_trainer import small_trainer


@pytest.fixture
def model(tmp_path, processor):
    return small_trainer(tmp_path, processor).model.eval()


@pytest.fixture
def samples(colours):
    return [
        {"image": str(colours / f"{name}-8.png"), "prompt": "", "chosen": f"a {name} square", "rejected": "a heart"}
        for name in ("red", "green")
    ]


def without_transform(model):
    config = copy.deepcopy(model.config)
    config.lm_head_transform = False
    torch.manual_seed(0)
    return mm.MMForConditionalGeneration(config).eval()


def test_chosen_rows_come_first_and_a_picture_is_encoded_once(model, processor, samples):
    batch = MMPreferenceCollator(processor, without_transform(model))(samples)
    assert len(batch["input_ids"]) == 4 and len(batch["pixel_values"]) == 2
    assert batch["context_index"].tolist() == [0, 1, 0, 1] and "labels" not in batch
    texts = [
        processor.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert texts[:2] == [sample["chosen"] for sample in samples] and texts[2:] == ["a heart"] * 2


def test_a_head_that_trl_leaves_out_is_refused(processor):
    text = {"vocab_size": len(processor.tokenizer), "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 16,
            "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}  # fmt: skip
    config = mm.MMConfig.preset("mm-tiny", text_config=text, lm_head_transform=True)
    with pytest.raises(ValueError, match="lm_head_transform"):
        MMPreferenceCollator(processor, mm.MMForConditionalGeneration(config))


def test_a_sample_without_a_rejected_text_is_named(model, processor):
    with pytest.raises(ValueError, match="rejected"):
        MMPreferenceCollator(processor, without_transform(model))([{"prompt": "", "chosen": "a"}])


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["cross_attention", "merged"])
def test_trl_trains_what_the_model_prefers(model, processor, samples, tmp_path, fusion):
    trl = pytest.importorskip("trl")
    from trl.trainer.utils import add_fused_lm_head

    changes = {"text_config": {"cross_attention_layers": []}} if fusion == "merged" else {}
    config = mm.MMConfig.from_dict(model.config.to_dict(), fusion_type=fusion, lm_head_transform=False, **changes)
    torch.manual_seed(0)
    model = mm.MMForConditionalGeneration(config).eval()
    collate = MMPreferenceCollator(processor, model)
    batch = collate(samples)
    mask = batch.pop("completion_mask")
    own = model(**batch).logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    fused = copy.deepcopy(model)
    add_fused_lm_head(fused)
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    theirs = fused(**batch, labels=labels, fused_lm_head=True).log_probs
    scored = mask[:, 1:].bool()
    torch.testing.assert_close(theirs[scored], own[scored])

    settings = trl.DPOConfig(
        str(tmp_path / "dpo"), max_steps=10, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
        remove_unused_columns=False, use_cpu=True, logging_steps=1, disable_tqdm=True, bf16=False,
        gradient_checkpointing=False, max_length=None, save_strategy="no",
    )  # fmt: skip
    datasets = pytest.importorskip("datasets")
    trainer = trl.DPOTrainer(
        model=model, ref_model=copy.deepcopy(model), args=settings, train_dataset=datasets.Dataset.from_list(samples),
        data_collator=collate, processing_class=processor,
    )  # fmt: skip
    trainer.train()
    log = [line for line in trainer.state.log_history if "rewards/margins" in line]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and log[-1]["loss"] < 0.6
    assert log[-1]["rewards/margins"] > log[0]["rewards/margins"] and log[-1]["rewards/accuracies"] == 1


@pytest.mark.slow
def test_two_processes_with_half_a_batch_each_end_with_the_weights_of_one(tmp_path):
    pytest.importorskip("trl")
    script = [str(Path(__file__).with_name("dpo_in_processes.py")), str(tmp_path)]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher in ([], two):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *launcher, *script], capture_output=True, text=True, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = (torch.load(tmp_path / f"{number}.pt") for number in (1, 2))
    for name, weights in one.items():
        torch.testing.assert_close(other[name], weights, rtol=1e-3, atol=1e-4)
