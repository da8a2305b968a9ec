"""Trainers on streams of data: three processes with two workers each, interrupted and resumed; every sample once.

Run by itself under torchrun, this file is one of the processes: it trains and writes what its model was given.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, Seq2SeqTrainingArguments, Trainer, TrainerCallback

import mm
from mm.data.shards import MMShards
from mm.training.trainer import MMTrainer


class Sum(PreTrainedModel):
    """Adds up what it is given, and writes it down."""

    config_class = PretrainedConfig

    def __init__(self, config, seen=None):
        super().__init__(config)
        self.weight, self.seen = torch.nn.Parameter(torch.ones(1)), seen
        self.post_init()

    def forward(self, numbers, labels=None, num_items_in_batch=None):
        if self.seen is not None:
            with open(self.seen, "a") as file:
                file.write(json.dumps(numbers.tolist()) + "\n")
        loss = (self.weight * 0.001 * numbers).sum() / (num_items_in_batch or len(numbers))
        return {"loss": loss}


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def collate(samples):
    numbers = torch.tensor([float(sample["suffix"]) for sample in samples])
    return {"numbers": numbers, "labels": numbers.long()}


def stream_of(kind: str, folder: Path):
    if kind == "shards":
        return MMShards(folder, shuffle=5)
    import datasets

    files = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    stream = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    return mm.load_data(stream.shuffle(seed=3, buffer_size=5))


def trainer_of(folder: Path, kind: str, run: str, trainer=MMTrainer, stop: int | None = None, **settings):
    rank = int(os.environ.get("RANK", 0))
    wanted = {
        "output_dir": str(folder / run), "per_device_train_batch_size": 2, "logging_steps": 1, "save_steps": 1,
        "remove_unused_columns": False, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "save_total_limit": 2,
    }  # fmt: skip
    return trainer(
        model=Sum(PretrainedConfig(), str(folder / f"{run}-{rank}.seen")),
        args=Seq2SeqTrainingArguments(**{**wanted, **settings}),
        train_dataset=stream_of(kind, folder),
        data_collator=collate,
        callbacks=[] if stop is None else [Stop(stop)],
    )


def seen(folder: Path, run: str) -> list[list[float]]:
    """The batches of each process, one after the other."""
    files = sorted(folder.glob(f"{run}-*.seen"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def counts(batches) -> dict[int, int]:
    found: dict[int, int] = {}
    for number in (int(number) for batch in batches for number in batch):
        found[number] = found.get(number, 0) + 1
    return found


def launch(folder: Path, processes: int, *asked: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), __file__, str(folder), *asked]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


def write(folder: Path, kind: str, sizes: list[int]) -> set[int]:
    from written_shards import write_shards

    if kind == "shards":
        write_shards(folder, sizes)
    else:
        numbers = iter(range(sum(sizes)))
        for place, size in enumerate(sizes):
            lines = [json.dumps({"suffix": str(next(numbers))}) + "\n" for _ in range(size)]
            (folder / f"{place}.jsonl").write_text("".join(lines))
    return set(range(sum(sizes)))


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_one_process_resumes_where_it_stopped(tmp_path, workers, accumulation):
    every = write(tmp_path, "shards", [6, 5])
    settings = {
        "num_train_epochs": 3, "save_steps": 5, "dataloader_num_workers": workers,
        "gradient_accumulation_steps": accumulation,
    }  # fmt: skip
    for stop in (5, None):
        run = trainer_of(tmp_path, "shards", "run", stop=stop, **settings)
        run.train(resume_from_checkpoint=True)
    assert counts(seen(tmp_path, "run")) == dict.fromkeys(every, 3)
    whole = trainer_of(tmp_path, "shards", "whole", **settings)
    whole.train()
    assert seen(tmp_path, "whole") == seen(tmp_path, "run") and run.state.global_step == whole.state.global_step
    assert torch.equal(run.model.weight, whole.model.weight)


@pytest.mark.slow
def test_a_stream_of_unknown_length_resumes_in_its_second_epoch(tmp_path):
    pytest.importorskip("datasets")
    every = write(tmp_path, "datasets", [7, 6])
    for stop in (9, None):
        run = trainer_of(tmp_path, "datasets", "run", stop=stop, max_steps=14)
        run.train(resume_from_checkpoint=True)
    assert counts(seen(tmp_path, "run")) == dict.fromkeys(every, 2)


@pytest.mark.slow
def test_max_steps_and_part_epochs_end_where_they_say(tmp_path):
    write(tmp_path, "shards", [6, 5])
    for settings, steps in (({"max_steps": 8}, 8), ({"num_train_epochs": 1.5}, 9)):
        run = trainer_of(tmp_path, "shards", f"run{steps}", **settings)
        run.train()
        assert run.state.global_step == steps


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sizes"), [("shards", [11, 9, 6]), ("datasets", [9, 9, 9])])
def test_three_processes_with_two_workers_see_each_sample_once_in_an_epoch(tmp_path, kind, sizes):
    """Interrupted in the second of three epochs; fewer shards than workers, and numbers that nothing divides."""
    if kind == "datasets":
        pytest.importorskip("datasets")
    every = write(tmp_path, kind, sizes)
    for stop in ("7", "0"):
        launch(tmp_path, 3, kind, "run", "MMTrainer", stop, "2")
    assert counts(seen(tmp_path, "run")) == dict.fromkeys(every, 3)


@pytest.mark.slow
def test_other_numbers_of_processes_go_on_where_the_others_stopped(tmp_path):
    every = write(tmp_path, "shards", [29])
    for processes, stop in ((3, "7"), (2, "0")):
        launch(tmp_path, processes, "shards", "run", "MMTrainer", stop, "2")
    assert counts(seen(tmp_path, "run")) == dict.fromkeys(every, 3)


@pytest.mark.slow
def test_trainer_itself_repeats_the_first_samples_at_the_end(tmp_path):
    """As docs/data.md says: nothing is lost, and repeats fill the last batch of each worker."""
    every = write(tmp_path, "shards", [11, 9, 6])
    launch(tmp_path, 3, "shards", "run", "Trainer", "0", "2")
    found = counts(seen(tmp_path, "run"))
    repeated = sum(found.values()) - len(every)
    assert set(found) == every and 0 < repeated <= 2 * (2 * 3 - 1)


def main(folder: Path, kind: str, run: str, trainer: str, stop: str, workers: str) -> None:
    settings: dict = {"dataloader_num_workers": int(workers)}
    if trainer == "Trainer":  # of a stream without a length; one epoch of it
        settings |= {"max_steps": 6, "accelerator_config": {"dispatch_batches": False}}
    elif kind == "shards":
        settings |= {"num_train_epochs": 3}
    else:
        settings |= {"max_steps": 3 * 5}
    kinds = {"MMTrainer": MMTrainer, "Trainer": Trainer}
    trainer_of(folder, kind, run, kinds[trainer], int(stop) or None, **settings).train(
        resume_from_checkpoint=True if trainer == "MMTrainer" else None
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
