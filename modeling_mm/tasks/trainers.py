"""Where Transformers' Trainers make a loss, or a prediction, of labels outside of the model. R rows, T tokens.

Trainer takes the labels out of the batch when it smooths them (label_smoothing_factor), and Seq2SeqTrainer passes the
whole batch to generate(), with labels. The model finds out by looking at its callers.
"""

import sys
from types import FrameType
from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..losses.class_losses import classification_kind
from ..losses.token_losses import IGNORED


def register_shifted(model_class: type) -> None:
    """Tells Trainer that each token of this class predicts the next one: it looks the class up by its name.

    Transformers finds no model by this entry: its keys are model types, and this is none.
    """
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[f"mm:{model_class.__name__}"] = model_class.__name__


def calling_trainer(method: str) -> FrameType | None:
    """The call of Trainer's own "compute_loss", or of Seq2SeqTrainer's own "prediction_step", that leads here.

    An override of one's own is none of them, unless it calls theirs.
    """
    module = "transformers.trainer_seq2seq" if method == "prediction_step" else "transformers.trainer"
    if module not in sys.modules or torch.compiler.is_compiling():
        return None
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == method and frame.f_globals.get("__name__") == module:
            return frame
        frame = frame.f_back
    return None


def smoothing_trainer() -> FrameType | None:
    """The call of a Trainer with label_smoothing_factor that sets a model to training or evaluation just now."""
    frame = sys._getframe(1) if "transformers.trainer" in sys.modules and not torch.compiler.is_compiling() else None
    while frame is not None:
        if frame.f_globals.get("__name__") == "transformers.trainer" and "model" in frame.f_locals:
            trainer = frame.f_locals.get("self")
            smooths = getattr(trainer, "label_smoother", None) is not None
            return frame if smooths and getattr(trainer, "compute_loss_func", None) is None else None
        frame = frame.f_back
    return None


def check_smoothing_of_compiled() -> None:
    """Raises ValueError where Trainer does not find the class of a compiled model in its table, so that it would
    compare each token's logits with that token instead of the next one."""
    frame = smoothing_trainer()
    if frame is None:
        return
    trainer = frame.f_locals["self"]
    name = trainer.accelerator.unwrap_model(frame.f_locals["model"])._get_name()
    if name == "OptimizedModule":
        raise ValueError(
            f"label_smoothing_factor={trainer.args.label_smoothing_factor} with torch.compile: Trainer sees a model "
            f"called {name!r} and compares each token's logits with that token instead of the next one. Leave "
            "label_smoothing_factor at 0 and set model.config.label_smoothing, which the model's own loss reads"
        )


def check_smoothing_reaches(model: Any) -> None:
    """Raises ValueError where Trainer would smooth labels of a model whose losses have none."""
    frame = smoothing_trainer()
    if frame is not None:
        raise ValueError(
            f"label_smoothing_factor={frame.f_locals['self'].args.label_smoothing_factor} smooths `labels`, which "
            f"{type(model).__name__} does not have: its losses would stay as they are. Leave it at 0; "
            'config.label_smoothing smooths the losses "lm" and "mlm"'
        )


def check_smoothing_of_tokens() -> None:
    """Raises ValueError in the first step of a training whose evaluations would smooth labels that are not shifted."""
    frame = calling_trainer("compute_loss") or calling_trainer("prediction_step")
    trainer = frame.f_locals["self"] if frame is not None else None
    if trainer is None or trainer.label_smoother is None or not getattr(trainer.args, "predict_with_generate", False):
        return
    raise ValueError(
        f"label_smoothing_factor={trainer.args.label_smoothing_factor} with predict_with_generate=True: "
        "Seq2SeqTrainer then compares each token's logits with that token instead of the next one. Leave "
        "label_smoothing_factor at 0 and set model.config.label_smoothing, which the model's own loss reads"
    )


def check_smoothing_of_classes(config: Any) -> None:
    """Raises ValueError where Trainer smooths labels that are not one class each, or for another loss than theirs."""
    frame = calling_trainer("compute_loss")
    labels = frame.f_locals.get("labels") if frame is not None else None
    if frame is None or not torch.is_tensor(labels):
        return
    trainer = frame.f_locals["self"]
    kind = classification_kind(config.classification_loss, config.problem_type, config.num_labels, labels)
    is_class = kind == "cross_entropy" and not labels.is_floating_point()
    if trainer.label_smoother is None or trainer.compute_loss_func is not None or is_class:
        return
    raise ValueError(
        f"label_smoothing_factor={trainer.args.label_smoothing_factor} would replace the loss of these labels "
        f"({kind!r}, {labels.dtype} {tuple(labels.shape)}, num_labels={config.num_labels}) by the cross-entropy of "
        "classes. It accepts int64 labels (R,) of two classes or more; leave it at 0 here"
    )


def check_no_labels(given: dict[str, Any]) -> None:
    """Raises ValueError for labels together with the prompts of generate()."""
    names = [name for name in ("labels", "shift_labels") if given.get(name) is not None]
    if names:
        raise ValueError(
            f"generate() got {' and '.join(names)}: a batch of training holds the answers in input_ids, and they "
            "would be part of the prompt. Pass only prompts: processor(images=..., text=...) without suffix, or "
            "MMDataCollator(processor, mode='generate'). Seq2SeqTrainer(predict_with_generate=True) may pass both"
        )


def prompts_of(batch: dict[str, Any], pad: int) -> dict[str, Any]:
    """The inputs of generate() in a batch of training: the tokens before each row's first label, left-padded; whole
    rows without labels.

    The first token of a row is always prompt: nothing predicts it. Rows without labels are prompts whole.

    Raises: ValueError for labels that are not those of the rows' own tokens.
    """
    dropped = ("labels", "shift_labels", "position_ids", "return_logits", "num_items_in_batch")
    made = {name: value for name, value in batch.items() if name not in dropped}
    ids, labels = batch.get("input_ids"), batch.get("labels")
    if labels is None and ids is None:
        return made
    for name in ("inputs_embeds", "past_key_values"):
        if batch.get(name) is not None:
            raise ValueError(f"prompts are cut out of input_ids where labels begin; {name} cannot be given too")
    labels = torch.full_like(ids, IGNORED) if labels is None and torch.is_tensor(ids) else labels
    if not torch.is_tensor(ids) or not torch.is_tensor(labels) or labels.shape != ids.shape:
        shapes = [tuple(value.shape) if torch.is_tensor(value) else type(value).__name__ for value in (labels, ids)]
        raise ValueError(
            f"labels {shapes[0]} and input_ids {shapes[1]}: predict_with_generate needs rows of prompt and answer "
            "with a label for each token, as MMDataCollator makes them"
        )
    mask = batch.get("attention_mask")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    last = ids.shape[1]
    first_label = columns.masked_fill(labels == IGNORED, last).amin(1, keepdim=True)
    first_real = columns.masked_fill(~real, last).amin(1, keepdim=True)
    prompt = real & ((columns < first_label) | (columns == first_real))
    order = torch.argsort(prompt.to(torch.int8), dim=1, stable=True)[:, last - int(prompt.sum(1).max()) :]
    kept = prompt.gather(1, order)
    made["input_ids"] = ids.gather(1, order).masked_fill(~kept, pad)
    made["attention_mask"] = kept.long()
    if batch.get("token_type_ids") is not None:
        made["token_type_ids"] = batch["token_type_ids"].gather(1, order).masked_fill(~kept, 0)
    return made


def answer_settings(settings: dict[str, Any], saved: Any) -> dict[str, Any]:
    """Settings of generate() by which every limit counts the tokens of the answer, as Seq2SeqTrainer's do.

    `saved`: the generation configuration; what the call says comes first.
    """
    several = settings.get("num_return_sequences") or saved.num_return_sequences or 1
    if several != 1:
        raise ValueError(
            f"num_return_sequences={several} writes several answers for each row, which Seq2SeqTrainer would compare "
            "with the labels of other rows; leave it at 1 here"
        )
    limits = (settings.get("max_new_tokens"), settings.get("max_length"), saved.max_new_tokens, saved.max_length)
    limit = next((value for value in limits if value is not None), None)
    if limit is None:  # generate() has a limit of its own
        return {name: value for name, value in settings.items() if name not in ("max_new_tokens", "max_length")}
    return {**settings, "max_new_tokens": limit, "max_length": None}
