"""train: the run of a recipe, from files to a trained, evaluated, saved model.

read_samples ─► start ─► task_samples, collator ─► TaskTrainer ─► evaluation ─► save, report, card, manifest
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import IntervalStrategy

from ..data.dataset import MMDataset
from ..data.sources import MEDIA
from ..processing.collator import MMDataCollator
from ..processing.images.limits import MediaDecodeError
from ..processing.row_faults import RowError
from ..weights.manifest import NAME as MANIFEST
from .arguments import RunArguments
from .card import write_card
from .checkpoints import checkpoints
from .collating import FaultLog, RunCollator
from .log import JsonlLog
from .metrics import check_metric, compute_metrics_for, evaluate_task, kind_of
from .plan import describe_plan
from .report import write_report
from .samples import RunData, read_samples
from .start import Start, load_teacher, start
from .stored import check_feature_cache, planned, stored_features
from .task_trainer import DistillTrainer, TaskTrainer
from .tasks import KINDS, TaskSamples, check_media, columns_aside, task_samples, with_columns
from .verify import write_manifest

LONGEST = 20  # tokens of a generated text, where neither the settings nor the model say how many
SHEET = "samples.png"
CONFIG = "config.json"  # that and a manifest are in the folder of a run that came to its end
Say = Callable[[str], object]


@dataclass
class TrainResult:
    """What a run gave.

    log_history: as in Trainer's state. metrics: of the last evaluation. data_report: what was read, left out, and not
    readable, a line each. is_stopped: SIGTERM ended it, and nothing is saved but its checkpoints.
    """

    output_dir: str
    task: str
    model: Any
    processor: Any
    log_history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    data_report: list[str] = field(default_factory=list)
    arguments: RunArguments | None = None
    is_stopped: bool = False


def train(arguments: RunArguments, say: Say = print) -> TrainResult:
    """Reads the data, trains, evaluates and saves into output_dir. `say` hears what is done, a line at a time.

    Raises: ValueError, TypeError or OSError for settings and data that do not fit, before anything is trained.
    """
    training = arguments.training
    say = say if training.should_log or training.dry_run else _silent
    _check_output(arguments)
    set_seed(training.seed)
    data = read_samples(arguments.data)
    for part in (data.train, data.eval):
        if part is not None:
            data.report += with_columns(part, KINDS[arguments.task], arguments.data.on_error)
    data.report += columns_aside(data.train)
    for line in data.report:
        say(line)
    begun = start(arguments, data)
    if training.metric_for_best_model:
        kind = None if arguments.task == "pretrain" else kind_of(_measured(arguments, data), begun.model)
        check_metric(training.metric_for_best_model, kind)  # a pre-training has its losses alone until its end
        if training.metric_for_best_model.endswith("error"):  # Transformers takes the highest of all but losses
            training.greater_is_better = False
    for line in begun.told:
        say(line)
    check_media(data.train, begun.model, begun.processor)
    if data.eval is not None and arguments.data.on_error == "skip":
        data.eval = _readable(data, begun, arguments, say)
    check_feature_cache(arguments, data, begun)
    trainer, faults = build_trainer(arguments, data, begun)
    result = TrainResult(
        str(training.output_dir), arguments.task, begun.model, begun.processor, data_report=data.report,
        arguments=arguments,
    )  # fmt: skip
    if training.dry_run:
        _say_plan(trainer, begun, arguments, say)
        return result
    if arguments.data.feature_cache:
        stored_features(arguments, trainer, begun, say)
    trainer.train(resume_from_checkpoint=True if training.resume else training.resume_from_checkpoint)
    if trainer.was_ended:
        result.log_history, result.is_stopped = list(trainer.state.log_history), True
        say("stopped by SIGTERM; the same command with --resume goes on")
        return result
    result.model = _finished(begun.model, arguments)
    trainer.model = trainer.model_wrapped = result.model
    if data.eval is not None:
        result.metrics = _evaluated(trainer, data, begun, arguments)
    for line in faults.lines():
        say(line)
    result.log_history = list(trainer.state.log_history)
    result.data_report += faults.lines()
    _save(trainer, result, say)
    return result


def train_phases(phases: Sequence[RunArguments], say: Say = print) -> TrainResult:
    """Each phase by `train`, one after the other. With `resume` a phase that is done is left out; with `dry_run` only
    the first is planned, as the others start from what it will make. The result is that of the last one that ran."""
    result: Any = None
    for number, arguments in enumerate(phases, 1):
        training = arguments.training
        tells = say if training.should_log or training.dry_run else _silent
        folder = Path(str(training.output_dir))
        if len(phases) > 1:
            tells(f"phase {number} of {len(phases)}: {folder.name}")
        if training.resume and number < len(phases) and all((folder / name).is_file() for name in (CONFIG, MANIFEST)):
            tells(f"{folder} is done already")
            continue
        result = train(arguments, say)
        if result.is_stopped or training.dry_run:
            break
    return result


def _say_plan(trainer: TaskTrainer, begun: Start, arguments: RunArguments, say: Say) -> None:
    """Says what would be done, and draws three samples as the model would see them."""
    collator: Any = trainer.data_collator
    data = trainer.train_dataset, trainer.eval_dataset
    plan = describe_plan(begun.model, begun.processor, arguments, *data, collator=collator)
    for line in [*str(plan).splitlines(), *planned(arguments, trainer, begun)]:
        say(line)
    if arguments.training.should_save and plan.seen:
        sheet = Path(str(arguments.training.output_dir)) / SHEET
        sheet.parent.mkdir(parents=True, exist_ok=True)
        plan.save_contact_sheet(sheet)
        say(f"{len(plan.seen)} samples as the model sees them: {sheet}")


def _save(trainer: TaskTrainer, result: TrainResult, say: Say) -> None:
    """The model, what is written about the run, the manifest of all, and the push, where one is asked for."""
    training = trainer.args
    pushes, training.push_to_hub = training.push_to_hub, False
    trainer.save_model()
    trainer.save_state()
    if training.should_save:
        for path in [*write_report(result), write_card(result, license=training.license)]:
            say(f"written: {path}")
        write_manifest(result.output_dir)
        say(f"the model is in {result.output_dir}: mm verify {result.output_dir}")
    training.push_to_hub = pushes
    trainer.accelerator.wait_for_everyone()
    if pushes:
        trainer.push_to_hub()


def _silent(line: str) -> None:
    """Says nothing: another process of the run speaks."""


def _evaluated(trainer: TaskTrainer, data: RunData, begun: Start, arguments: RunArguments) -> dict[str, float]:
    """The loss, from all processes, and the metrics of the task with their intervals, from the first one."""
    training = arguments.training
    trainer.compute_metrics, training.predict_with_generate = None, False
    trainer.remove_callback(EarlyStoppingCallback)  # it would miss its metric, which was computed while training
    metrics = trainer.evaluate(metric_key_prefix="eval")
    if training.should_save and arguments.task != "chat":  # of conversations the loss alone is measured
        limits = {"num_beams": training.generation_num_beams, "max_new_tokens": training.generation_max_length}
        given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        held_out, collator = cast(Any, trainer.eval_dataset), cast(Any, trainer.data_collator)
        found = evaluate_task(
            _measured(arguments, data), trainer.model, begun.processor, held_out, collator=collator,
            batch_size=training.per_device_eval_batch_size,
            on_error=arguments.data.on_error, save_to=str(training.output_dir), label_names=data.label_names,
            **(given if KINDS[arguments.task].writes else {}),
        )  # fmt: skip
        trainer.log(found)
        metrics |= found
    trainer.accelerator.wait_for_everyone()
    return metrics


def _readable(data: RunData, begun: Start, arguments: RunArguments, say: Say) -> Any:
    """The evaluation data without what cannot be read, so that each evaluation is of the same samples; None: none."""
    held: Any = data.eval
    whole = TaskSamples(held, KINDS[arguments.task])
    collate = MMDataCollator(begun.processor, max_length=arguments.data.max_length)
    read = MEDIA if begun.processor.placeholders is None else (*MEDIA, "text", "suffix", "chat")
    kept, bad = [], []
    for number, sample in enumerate(held.samples):
        given = {name: value for name, value in whole[number].items() if name in read}
        try:
            if given:
                collate([given])
            kept.append(sample)
        except MediaDecodeError as fault:
            bad.append(f"not evaluated: {fault.reason}")
        except RowError as fault:
            bad.append(f"not evaluated: {fault}")
    for line in bad:
        say(line)
    data.report += bad
    return MMDataset(kept, held.report, held.label_names, held.root) if kept else None


def _check_output(arguments: RunArguments) -> None:
    """Raises ValueError for an output folder with the checkpoints of another run."""
    training = arguments.training
    goes_on = training.resume or training.resume_from_checkpoint or training.dry_run
    found = checkpoints(str(training.output_dir))
    if found and not goes_on:
        raise ValueError(
            f"{training.output_dir} holds {found[0].name} of an earlier run: continue it (--resume), or give "
            "another output"
        )


def build_trainer(arguments: RunArguments, data: RunData, begun: Start) -> tuple[TaskTrainer, FaultLog]:
    """The trainer of a run, and the log of what its collator cannot read."""
    training, task = arguments.training, KINDS[arguments.task]
    if data.is_stream and training.max_steps <= 0:
        raise ValueError("a stream has no length: give max_steps")
    if data.eval is None:
        _without_evaluation(training)
    faults = FaultLog(str(training.output_dir))
    collator = _collator(arguments, begun, faults)
    given: dict[str, Any] = {
        "model": begun.model,
        "args": training,
        "train_dataset": task_samples(data.train, task),
        "eval_dataset": None if data.eval is None else task_samples(data.eval, task),
        "data_collator": collator,
        "processing_class": begun.processor,
        "callbacks": [JsonlLog()],
    }
    if data.eval is not None:
        given["compute_metrics"] = _metrics(arguments, data, begun)
    if training.early_stopping_patience is not None:
        stopping = EarlyStoppingCallback(training.early_stopping_patience, training.early_stopping_threshold)
        given["callbacks"].append(stopping)
    more = {"teacher": load_teacher(arguments, begun.model)} if arguments.task == "distill" else {}
    try:
        return (DistillTrainer if more else TaskTrainer)(**given, **more), faults
    except RuntimeError as fault:
        if "installed" in str(fault):  # as Trainer says that what report_to names is missing
            raise ValueError(f"report_to={training.report_to}: {fault}") from fault
        raise


def _metrics(arguments: RunArguments, data: RunData, begun: Start) -> Any:
    """What is computed at each evaluation while training: metrics of generated text, embeddings or classes.

    Not for pretrain and chat, whose predictions are logits of whole texts: their losses are evaluated.
    """
    task, training = KINDS[arguments.task], arguments.training
    if task.writes and "predict_with_generate" not in arguments.settings:
        training.predict_with_generate = True
    if task.writes and training.generation_max_length is None:  # one limit for all evaluations of the run
        training.generation_max_length = begun.model.generation_config.max_new_tokens or LONGEST
    if task.name in ("pretrain", "chat") or (task.writes and not training.predict_with_generate):
        return None
    rows = [task.sample(sample) for sample in data.eval.samples]  # type: ignore[union-attr]
    return compute_metrics_for(_measured(arguments, data), begun.processor, rows, begun.model)


def _measured(arguments: RunArguments, data: RunData) -> str:
    """The task whose metrics are computed: a distilled model answers or captions, as its data say."""
    if arguments.task != "distill":
        return arguments.task
    return "vqa" if data.eval is not None and "answers" in data.eval.samples[0] else "caption"


def _without_evaluation(training: Any) -> None:
    if training.load_best_model_at_end:
        raise ValueError(
            "the best model is chosen by an evaluation, and nothing is held out: give eval_data or eval_share"
        )
    training.eval_strategy, training.do_eval = IntervalStrategy.NO, False


def _collator(arguments: RunArguments, begun: Start, faults: FaultLog) -> RunCollator:
    config, training = begun.model.config, arguments.training
    losses = (config.pretraining_losses or {}) if arguments.task == "pretrain" else {}
    settings: dict[str, Any] = {}
    if arguments.task == "pretrain" and "lm" not in losses:
        settings["without"] = ("lm_targets",)
    if "mlm" in losses:
        settings["mlm_probability"] = training.mlm_probability
    if "mim" in losses:
        settings |= {"mim_ratio": training.mim_ratio, "patch_size": config.vision_config.patch_size}
    return RunCollator(
        begun.processor,
        max_length=arguments.data.max_length,
        augment=arguments.data.augment,
        seed=training.seed,
        on_error=arguments.data.on_error,
        on_fault=faults,
        return_loss=arguments.task in ("retrieval", "pretrain"),
        **settings,
    )


def _finished(model: Any, arguments: RunArguments) -> Any:
    """The model as it is saved: with LoRA merged into it, unless only the adapter is wanted."""
    if arguments.model.lora and arguments.model.lora_save == "merged":
        return model.merge_and_unload()
    return model
