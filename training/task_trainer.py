"""TaskTrainer: MMTrainer with an average of the weights and layer-wise rates; DistillTrainer with a teacher."""

from contextlib import nullcontext
from typing import Any

import torch
from transformers import TrainerCallback

from ..modeling_mm.losses.distillation import distillation_loss
from ..modeling_mm.losses.token_losses import next_labels
from .arguments import MMTrainingArguments
from .averaging import WeightAverage
from .layer_rates import set_rates
from .trainer import MMTrainer


class TaskTrainer(MMTrainer):
    """MMTrainer for `MMTrainingArguments`.

    * `ema`: checkpoints hold the weights and their average (ema.safetensors); evaluation, the best model and the model
      that is saved at the end are the average.
    * `layer_decay`: see `layer_rates.rates`.
    """

    args: MMTrainingArguments  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.average: WeightAverage | None = None
        if self.args.ema:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema averages whole weights; with FSDP or DeepSpeed leave it out")
            if self.args.save_only_model:
                raise ValueError("save_only_model leaves the average out of the checkpoints; with ema leave it out")
            self.average = WeightAverage(self.model, self.args.ema)  # pyright: ignore[reportArgumentType]: a module
            self.add_callback(_Averaging(self))

    @property
    def was_ended(self) -> bool:
        """Whether SIGTERM ended the training."""
        return any(getattr(callback, "has_ended", False) for callback in self.callback_handler.callbacks)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.layer_decay is not None:
            trained: Any = self.model if model is None else model
            set_rates(optimizer, trained, self.args.layer_decay)
        return optimizer

    def train(self, *args: Any, **kwargs: Any):
        result = super().train(*args, **kwargs)
        if self.average is not None:
            self.average.apply()
            self.average = None
        return result

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self._averaged():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any):
        with self._averaged():
            return super().predict(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with nullcontext() if _internal_call else self._averaged():
            super().save_model(output_dir, _internal_call)

    def _averaged(self):
        return nullcontext() if self.average is None else self.average.in_place()

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.average is not None and self.args.should_save:
            self.average.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            self.average.load(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None and self.state.best_model_checkpoint is not None:
            self.average.load(self.state.best_model_checkpoint)


class _Averaging(TrainerCallback):
    def __init__(self, trainer: TaskTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.average is not None:
            self.trainer.average.update(state.global_step)


class DistillTrainer(TaskTrainer):
    """TaskTrainer whose loss in training is (1 - w) the labels' + w the teacher's; in evaluation only the labels'."""

    def __init__(self, *args: Any, teacher: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)

    def compute_loss(self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None):
        found: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, output = found
        if model.training:
            with torch.no_grad():
                known = self.teacher(**inputs).logits
            targets = next_labels(inputs["labels"])
            told = distillation_loss(
                output["logits"], known, targets, self.args.distill_temperature, num_items_in_batch
            )
            if num_items_in_batch is not None and self.args.average_tokens_across_devices:
                told = told * self.accelerator.num_processes  # as Trainer does with the labels' loss
            weight = self.args.distill_weight
            loss = (1 - weight) * loss + weight * told
        return (loss, output) if return_outputs else loss
