"""A recipe for finding pictures by a spoken name, and by a written one. Nothing that it made is shipped.

    python -m mm.recipes.spoken_names --output runs/spoken-names              # trains, measures, saves
    python -m mm.recipes.spoken_names --output runs/spoken-names --resume     # goes on after an interruption

Pictures, texts and sounds share a space of 128 numbers, which begins as that of MiniLM's embeddings of English names.
First the projection of pictures and a text encoder of one layer learn it, on features of mm-tiny's frozen image
tower that are computed once; then a tower of Whisper's kind learns to hear it, by the same contrastive loss: from the
recordings of Tux Paint's stamps in nine languages, and from names of emoji and captions that espeak-ng says in three.
The weights derive from sounds and pictures under the GPL. `spoken_names_scores.py` says what is held out and measures.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.trainer_utils import get_last_checkpoint

from ..configuration.mm import MMConfig
from ..losses import Pairs, info_nce_loss
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..processing.processor import MMProcessor
from ..processing.vocabulary import byte_tokenizer
from ..weights.whisper_names import NO_DECODER
from .drawings import SEED, SIZE
from .package import build_image_processor
from .spoken_names_data import Heard, Seen, Things, collect, meanings, pooled_features, training_pixels
from .spoken_names_scores import Trial, measure, recalls, trials
from .stamps import load_stamps
from .tiny_whisper_model import weights_by_inputs

WIDTH = 128  # of the embeddings, and of the tower that hears
HEARING_LAYERS, WINDOW = 4, 2  # seconds; longer sounds are several windows
TEXT_WIDTH, PIECES = 96, 1536
VIEWS = 2  # of each training picture
SOUNDS, PICTURES = 64, 256  # of a batch
PACKAGED = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
LIMIT = 10_000_000  # bytes of the folder that ships


class Learner(MMForImageTextRetrieval):
    """The model as it is saved; in training sounds, pictures and texts are compared with all things at once."""

    features: Any
    meaning: Any
    shown: Any

    def learns_from(self, features: torch.Tensor, meaning: torch.Tensor) -> None:
        """features (views, n, Dv) of the training pictures; meaning (M, P) of the things."""
        self.__dict__.update(features=features, meaning=meaning, shown=None)  # no parts of the model

    def forward(self, **batch: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if "thing" in batch:
            context = self.model.encode_context(
                input_features=batch["input_features"], input_features_mask=batch.get("input_features_mask")
            )
            sounds = functional.normalize(self.itc_head.of_context(context).float(), dim=-1)
            shown = self.shown
            if shown is None:
                with torch.no_grad():
                    shown = self.__dict__["shown"] = self.project(self.features[0])
            pictures = shown[batch["shown"]]
            found = {name: self.compared(sounds, batch["thing"], table)
                     for name, table in (("meaning", self.meaning), ("pictures", pictures))}  # fmt: skip
        elif "seen" in batch:
            seen = self.project(self.features[batch["view"], batch["rows"]])
            read = self.encode_text(batch["input_ids"], batch["attention_mask"])
            found = {"pictures": self.compared(seen, batch["seen"], self.meaning),
                     "texts": self.compared(read, batch["read"], self.meaning)}  # fmt: skip
        else:
            return super().forward(**batch)
        return {
            "loss": torch.stack(list(found.values())).sum(),
            **{name: part.detach() for name, part in found.items()},
        }

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, P) of the tower's vectors (n, Dv)."""
        return functional.normalize(self.itc_head.vision(pooled), dim=-1)

    def compared(self, embeds: torch.Tensor, things: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """InfoNCE of embeddings (n, P) and the table (M, P) of all things."""
        pairs = Pairs(len(table), len(things), things, gather=False)
        return info_nce_loss(table, embeds.float(), pairs, self.itc_head.scale())


def build_processor(texts: list[str]) -> MMProcessor:
    """A vocabulary of bytes and pieces made of `texts`, pictures as mm-tiny sees them, windows of WINDOW seconds."""
    tokenizer = byte_tokenizer(texts, PIECES)
    tokenizer.model_max_length = 48
    processor = MMProcessor(
        build_image_processor(SIZE), tokenizer, WhisperFeatureExtractor(chunk_length=WINDOW), add_eos_token=True
    )
    return processor


def build_model(processor: MMProcessor, vision: Any) -> Learner:
    """New weights; the tower for pictures, whose config is `vision`, is frozen."""
    torch.manual_seed(SEED)
    hearing = WhisperConfig(
        d_model=WIDTH, encoder_layers=HEARING_LAYERS, encoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH,
        max_source_positions=50 * WINDOW, dropout=0.1, **NO_DECODER,
    )  # fmt: skip
    pooler = {
        "hidden_size": WIDTH, "num_latents": 2, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 32,
        "intermediate_size": 0, "residual": False, "append_latents": False, "first_latent_pooled": True,
        "attention_bias": True,
    }  # fmt: skip
    text = {
        "hidden_size": TEXT_WIDTH, "intermediate_size": 2 * TEXT_WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 4, "norm_position": "pre", "final_norm": "all", "embedding_norm": False,
        "hidden_dropout": 0.1, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "is_causal": False, "pooler": "mean",
        "initializer_range": TEXT_WIDTH**-0.5,
    }  # fmt: skip
    config = MMConfig(
        modalities=["image", "audio"], vision_config=vision, audio_config=hearing,
        audio_resampler_config=pooler, text_config=text, fusion_type="none", projection_dim=WIDTH,
    )  # fmt: skip
    model = Learner(config)
    weights_by_inputs(model.model.audio_tower)
    model.model.vision_tower.requires_grad_(False)
    return model


class Clock(TrainerCallback):
    """Every so many steps the recalls of the development sounds, and the CPU minutes of training over interruptions,
    with those of espeak-ng and without those of measuring."""

    def __init__(self, file: Path, held_out: Trial, processor: MMProcessor, every: int):
        self.file, self.held_out, self.processor, self.every = file, held_out, processor, every
        self.before = self.left_out = 0.0

    def go_on(self) -> None:
        if self.file.exists():
            self.before = json.loads(self.file.read_text().splitlines()[-1])["cpu_minutes"]

    def minutes(self) -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return self.before + (time.process_time() + children.ru_utime + children.ru_stime) / 60 - self.left_out

    def on_log(self, args, state, control, *, model, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        start = self.minutes()
        line = {"phase": Path(args.output_dir).name, "step": state.global_step, "loss": logs["loss"]}
        if line["phase"] == "hearing" and state.global_step % self.every == 0:
            line |= recalls(model, self.processor, self.held_out)
            model.train()
            model.model.vision_tower.eval()
        self.left_out += self.minutes() - start
        with self.file.open("a") as file:
            file.write(json.dumps(line | {"cpu_minutes": round(self.minutes(), 2)}) + "\n")
        print(line, flush=True)


def train(model: Learner, batches: Any, folder: Path, steps: int, rate: float, resume: bool, clock: Clock) -> None:
    """One phase with Transformers' Trainer: bf16 autocast, a checkpoint every 200 steps."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=1, learning_rate=rate,
        lr_scheduler_type="cosine", warmup_steps=min(200, steps // 10), weight_decay=0.02, adam_beta2=0.98,
        max_grad_norm=1.0, bf16=True, use_cpu=True, save_steps=200, save_total_limit=1, logging_steps=100,
        report_to="none", disable_tqdm=True, seed=SEED, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=batches, data_collator=_as_it_is, callbacks=[clock],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if resume else None)


def _as_it_is(batch: list[Any]) -> Any:
    """The data sets make whole batches."""
    return batch[0]


def package(model: MMForImageTextRetrieval, processor: MMProcessor, folder: Path) -> int:
    """Writes fp16 weights, loaded as fp32, and returns the folder's bytes. Raises: ValueError above LIMIT."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.save_pretrained(folder)
    names = ("vision_config", "audio_config", "audio_resampler_config", "text_config")
    for part in (model.config, *(getattr(model.config, name) for name in names)):
        part.dtype = torch.float32
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > LIMIT:
        raise ValueError(f"{folder} takes {size:,} bytes, more than {LIMIT:,}")
    return size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=PACKAGED, help="whose image tower sees the pictures")
    parser.add_argument("--output", type=Path, default=Path("runs/spoken-names"))
    parser.add_argument("--seeing-steps", type=int, default=1000, help="of pictures and texts")
    parser.add_argument("--hearing-steps", type=int, default=1000, help="of sounds")
    parser.add_argument("--phrases", type=int, default=4000, help="that espeak-ng says")
    parser.add_argument("--package", type=Path, help="also write the folder that ships")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    stamps = load_stamps()
    tests = trials(stamps)
    things: Things = collect(stamps, options.phrases, options.output)
    processor = build_processor([text for _, text in things.texts])
    clock = Clock(options.output / "log.jsonl", tests["dev"], processor, every=200)
    if options.resume:
        clock.go_on()
    start = MMForConditionalGeneration.from_pretrained(options.start)
    model = build_model(processor, start.config.vision_config)
    model.model.vision_tower.load_state_dict(start.model.vision_tower.state_dict())
    print(f"{model.num_parameters():,} parameters; {len(things.words)} things, {len(things.pictures)} pictures, "
          f"{len(things.texts)} texts, {len(things.recordings)} recordings, {len(things.said)} phrases of espeak-ng",
          flush=True)  # fmt: skip
    tower = model.model.vision_tower.eval()
    features = pooled_features(tower, training_pixels(stamps), VIEWS, options.output / "features.npy")
    model.learns_from(features, meanings(things.words, WIDTH))
    hearing = model.model.audio_tower, model.model.audio_resampler, model.itc_head.audio
    _train_only(model, model.model.language_model, model.itc_head.vision, model.itc_head.text)
    seen = Seen(things, processor.tokenizer, PICTURES, SEED, VIEWS)
    train(model, seen, options.output / "seeing", options.seeing_steps, 2e-3, options.resume, clock)
    _train_only(model, *hearing)
    heard = Heard(things, processor.feature_extractor, SOUNDS, SEED)
    train(model, heard, options.output / "hearing", options.hearing_steps, 1e-3, options.resume, clock)
    minutes = clock.minutes()
    model.config.architectures = None
    model.eval().save_pretrained(options.output / "model")
    processor.save_pretrained(options.output / "model")
    lines = [*measure(options.output / "model", stamps), f"{minutes:.1f} CPU minutes for training and its sounds"]
    (options.output / "scores.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    if options.package:
        kept = MMForImageTextRetrieval.from_pretrained(options.output / "model")
        print(f"{package(kept, processor, options.package):,} bytes in {options.package}")


def _train_only(model: Learner, *parts: Any) -> None:
    """Those parts and the scale of the similarities."""
    model.requires_grad_(False)
    for part in (*parts, model.itc_head.logit_scale):
        part.requires_grad_(True)


if __name__ == "__main__":
    main()
