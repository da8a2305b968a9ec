"""Runs that are resumed: one that has ended gives its weights and makes no step more, one that has not goes on."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from mm.recipes.resumed import go_on, steps_of


class Line(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.layer = nn.Linear(2, 1)
        self.steps = 0

    def forward(self, x, labels):
        self.steps += self.training
        return {"loss": (self.layer(x)[:, 0] - labels).square().mean()}


def trainer(folder, **given) -> Trainer:
    torch.manual_seed(0)
    rows = [{"x": torch.randn(2), "labels": torch.tensor(1.0)} for _ in range(7)]
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=2, report_to="none", use_cpu=True, disable_tqdm=True, save_steps=2,
        learning_rate=0.1, lr_scheduler_type="constant", **given,
    )  # fmt: skip
    return Trainer(model=Line(PreTrainedConfig()), args=arguments, train_dataset=rows)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("given", [{"max_steps": 4}, {"num_train_epochs": 1}, {"num_train_epochs": 2}])
def test_a_run_that_has_ended_makes_no_step_more(tmp_path, given):
    first = trainer(tmp_path, **given)
    go_on(first, resume=True)  # nothing there: from the start
    again = trainer(tmp_path, **given)
    go_on(again, resume=True)
    assert first.model.steps == steps_of(first) > 0 and again.model.steps == 0
    assert torch.equal(first.model.layer.weight, again.model.layer.weight)
    longer = trainer(tmp_path, **{name: 2 * value for name, value in given.items()})
    go_on(longer, resume=True)
    assert longer.model.steps == steps_of(longer) - steps_of(first) > 0
    fresh = trainer(tmp_path, **given)
    go_on(fresh, resume=False)
    assert fresh.model.steps == steps_of(fresh)


def test_weights_of_another_model_are_refused(tmp_path):
    go_on(trainer(tmp_path, max_steps=2), resume=False)
    other = trainer(tmp_path, max_steps=2)
    other.model.more = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"does not fit: missing \['more.bias', 'more.weight'\]"):
        go_on(other, resume=True)
