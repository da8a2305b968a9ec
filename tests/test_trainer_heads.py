"""Every head under Trainer and under several processes: columns, labels, metrics, gathering, unused parameters."""

# Fixtures build models whose types pyright cannot follow.

import inspect
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments, default_data_collator

from mm import (
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMForMaskedLM,
    MMForPreTraining,
    MMForSequenceClassification,
)

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 9, 3, 7]])
MASKED = torch.tensor([[-100, 5, -100, 7], [-100, -100, 8, -100], [-100, -100, 4, -100], [-100, 9, -100, -100]])
BOTH_WAYS = {"text_config": {"is_causal": False, "pooler": "mean"}}
ALL = ["itc", "itm", "lm", "mlm", "mim"]
SUBSETS = [set(chosen) for size in range(1, 6) for chosen in combinations(ALL, size)]
# class, fields, further columns, label names, whether the number of items in the batch is asked for, predictions
HEADS = {
    "generation": (MMForConditionalGeneration, {}, {"labels": IDS}, ["labels"], True, 1),
    "masked": (MMForMaskedLM, BOTH_WAYS, {"labels": MASKED}, ["labels"], True, 1),
    "classification": (
        MMForSequenceClassification, {**BOTH_WAYS, "num_labels": 3}, {"labels": torch.tensor([0, 2, 1, 0])},
        ["labels"], False, 1,
    ),
    "retrieval": (
        MMForImageTextRetrieval, {**BOTH_WAYS, "projection_dim": 12, "pretraining_losses": {"itc": 1.0, "itm": 1.0}},
        {}, [], False, 3,
    ),
    "pre-training": (
        MMForPreTraining,
        {
            "projection_dim": 12, "pretraining_losses": dict.fromkeys(ALL, 1.0), "share_text_encoder": True,
            "vision_config": {"use_mask_token": True},
        },
        {"masked_input_ids": IDS, "mlm_targets": MASKED, "bool_masked_pos": torch.eye(4).bool()}, [], False, 5,
    ),
}  # fmt: skip


@pytest.fixture
def head(tiny_model):
    def build(name, dtype=torch.float32, **changes):
        cls, fields, columns, *_ = HEADS[name]
        pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
        batch = {"input_ids": IDS, "pixel_values": pixels, **columns}
        return tiny_model(cls=cls, dtype=dtype, **{**fields, **changes}), batch

    return build


def wants_return_loss(name: str) -> dict:
    return {} if HEADS[name][3] else {"return_loss": True}


@pytest.mark.parametrize("name", HEADS)
def test_trainer_hands_over_the_columns_of_forward_alone_and_computes_metrics(head, name, tmp_path):
    model, batch = head(name)
    *_, labels, counts_items, outputs = HEADS[name]
    samples = [{"file": f"{row}.png", **{key: value[row] for key, value in batch.items()}} for row in range(4)] * 2
    seen, results = set(), []

    def collate(rows):
        seen.update(*rows)
        return {**default_data_collator(rows), **wants_return_loss(name)}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, per_device_eval_batch_size=4, num_train_epochs=5,
        learning_rate=3e-3, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, data_collator=collate, train_dataset=samples, eval_dataset=samples,
        compute_metrics=lambda result: results.append(result) or {"rows": len(np.atleast_1d(result.predictions[0]))},
    )  # fmt: skip
    assert trainer.label_names == labels and trainer.model_accepts_loss_kwargs is counts_items
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before and "eval_rows" in after
    assert seen == batch.keys()  # all of the class's own, and not the name of the file
    predictions = results[-1].predictions
    predictions = predictions if isinstance(predictions, tuple) else (predictions,)
    assert len(predictions) == outputs and all(len(each) == 8 for each in predictions)


@pytest.mark.parametrize("name", HEADS)
def test_every_input_is_an_argument_of_its_own(name):
    """Trainer keeps what the signature names."""
    kinds = {p.kind for p in inspect.signature(HEADS[name][0].forward).parameters.values()}
    assert inspect.Parameter.VAR_POSITIONAL not in kinds


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_talks_to_no_other_process(head, name, monkeypatch):
    model, batch = head(name)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 0)

    def refuse(*_args, **_kwargs):
        raise RuntimeError("a message to the other process")

    for message in ("all_gather", "all_reduce", "broadcast", "batch_isend_irecv"):
        monkeypatch.setattr(dist, message, refuse)
    batch |= wants_return_loss(name)
    with torch.no_grad():
        assert torch.isfinite(model(**batch).loss)
    if name in ("retrieval", "pre-training"):
        with pytest.raises(RuntimeError, match="a message"):
            model.train()(**batch)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps_under_ddp(model, batch: dict) -> None:
    """The second step raises if the first left a parameter without a gradient."""
    wrapped = DistributedDataParallel(model.train())
    for _ in range(2):
        wrapped(**batch).loss.backward()


@pytest.mark.parametrize("name", HEADS)
def test_no_parameter_is_unused_under_ddp(one_process, head, name):
    steps_under_ddp(*head(name))


@pytest.mark.parametrize("losses", SUBSETS, ids=lambda losses: "+".join(sorted(losses)))
def test_no_parameter_is_unused_under_ddp_for_any_losses(one_process, head, losses):
    model, batch = head("pre-training", pretraining_losses=dict.fromkeys(sorted(losses), 1.0))
    columns = {"masked_input_ids": "mlm", "mlm_targets": "mlm", "bool_masked_pos": "mim"}
    steps_under_ddp(model, {key: value for key, value in batch.items() if columns.get(key) in (None, *losses)})


@pytest.mark.parametrize(
    "fields", [{}, {"contrastive_chunk_size": 3}, {"contrastive_loss": "sigmoid"}, {"contrastive_queue_size": 6}]
)
def test_no_parameter_is_unused_under_ddp_by_the_contrastive_loss_alone(one_process, head, fields):
    steps_under_ddp(*head("retrieval", pretraining_losses={"itc": 1.0}, **fields))
