"""A tiny Whisper that hears Spanish: 1.5 million parameters, at most twenty minutes of one CPU core.

    python -m mm.recipes.tiny_whisper --output runs/tiny-whisper              # trains, measures, saves
    python -m mm.recipes.tiny_whisper --output runs/tiny-whisper --resume     # resumes after an interruption

It learns from recordings of captions and phrases of espeak-ng (`spoken_captions.py`), first from single ones in short
windows, then from several in windows of three seconds, with the times at which each begins and ends. Beside the text
its encoder learns to tell the pieces of words in their order (CTC), by a layer that is not kept. The held-out
recordings, and their captions, are seen for the first time when the word error rate is measured. The weights derive
from sounds under the GPL.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from .resumed import go_on
from .spoken_captions import Spoken, cache_file, phrases, recordings, synthesised
from .spoken_windows import SpokenWindows
from .tiny_whisper_model import WIDTH, build_model, build_processor, longer
from .tiny_whisper_scores import measure, write_scores

SEED = 0
PHRASES = 8000
SHORT, LONG = 2, 3  # seconds of a window
SPELLING = 1.0  # the weight of CTC


class Clock(TrainerCallback):
    """CPU minutes of training over interruptions, with those of espeak-ng."""

    def __init__(self, file: Path):
        self.file, self.before = file, 0.0

    def go_on(self) -> None:
        if self.file.exists():
            self.before = json.loads(self.file.read_text().splitlines()[-1])["cpu_minutes"]

    def minutes(self) -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self.before + (time.process_time() + children.ru_utime + children.ru_stime) / 60

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            line = {"window": Path(args.output_dir).name, "step": state.global_step, "loss": logs["loss"]}
            with self.file.open("a") as file:
                file.write(json.dumps(line | {"cpu_minutes": round(self.minutes(), 2)}) + "\n")


class Listening(Trainer):
    """The loss of the text and that of the pieces of words that `model.spells` makes of the encoder's states."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        told: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        learner: Any = self.model
        (loss, output), spells = told, learner.spells
        blank, states = spells.out_features - 1, output.context_hidden_states
        pieces = [row[(row >= 0) & (row < blank)] for row in inputs["labels"]]
        lengths = torch.tensor([len(row) for row in pieces])
        likely = spells(states.float()).log_softmax(-1).transpose(0, 1)
        heard = torch.full_like(lengths, states.shape[1])
        loss = loss + SPELLING * nn.functional.ctc_loss(
            likely, torch.cat(pieces), heard, lengths, blank, zero_infinity=True
        )
        return (loss, output) if return_outputs else loss


def train(
    model: MMForSpeechSeq2Seq,
    windows: SpokenWindows,
    folder: Path,
    steps: int,
    rate: float,
    resume: bool,
    clock: Clock,
) -> None:
    """One stage with Transformers' Trainer: bf16 autocast, a checkpoint every 200 steps."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=windows.batch_size,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(200, steps // 10),
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=True,
        save_steps=200,
        save_total_limit=1,
        logging_steps=50,
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        remove_unused_columns=False,
    )
    trainer = Listening(
        model=model, args=arguments, train_dataset=windows, data_collator=windows.batch, callbacks=[clock]
    )
    go_on(trainer, resume)


def sounds_to_learn_from(phrase_count: int) -> tuple[list[Spoken], list[Spoken], dict[str, list[Spoken]]]:
    """(recordings, phrases of espeak-ng, the held-out recordings by split)."""
    splits = recordings()
    told = phrases([one.text for one in splits["train"]], phrase_count)
    return splits.pop("train"), synthesised(told, SEED, cache_file(f"phrases-{phrase_count}.npz")), splits


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/tiny-whisper"))
    parser.add_argument("--short-steps", type=int, default=3000, help="with windows of 2 seconds")
    parser.add_argument("--long-steps", type=int, default=2000, help="with windows of 3 seconds")
    parser.add_argument("--phrases", type=int, default=PHRASES, help="that espeak-ng says")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.output / "log.jsonl")
    if options.resume:
        clock.go_on()
    read, said, held_out = sounds_to_learn_from(options.phrases)
    processor = build_processor([one.text for one in read], LONG)
    model = build_model(processor, SHORT, SEED)
    print(
        f"{model.num_parameters():,} parameters; {len(read)} recordings, {len(said)} phrases of espeak-ng", flush=True
    )
    model.spells = spells = nn.Linear(WIDTH, processor.tokenizer.eos_token_id + 1)  # the last is nothing
    short = SpokenWindows(read, said, processor, SHORT, batch_size=16, seed=SEED)
    train(model, short, options.output / "short", options.short_steps, 2e-3, options.resume, clock)
    del model.spells
    model = longer(model, LONG)
    model.spells = spells
    windows = SpokenWindows(read, said, processor, LONG, batch_size=16, seed=SEED + 1)
    train(model, windows, options.output / "long", options.long_steps, 1e-3, options.resume, clock)
    del model.spells
    model.eval().save_pretrained(options.output / "model")
    processor.save_pretrained(options.output / "model")
    write_scores(measure(model, processor, read, held_out), clock.minutes(), options.output / "scores.txt")


if __name__ == "__main__":
    main()
