"""The recipe of checkpoints/mm-tiny-spoken: pictures by a spoken name, in French, Spanish and Russian.

    python -m mm.recipes.spoken_names --output runs/spoken-names              # trains, measures, saves
    python -m mm.recipes.spoken_names --output runs/spoken-names --resume     # goes on after an interruption

    sound ──► a tiny Whisper ──► text ──► text encoder ──┐
      └─────► its encoder ──► attention pooling ─────────┴─► mm-tiny's space, where pictures are

The one that hears is trained as `tiny_whisper.py` trains, in three languages: first on one recording or phrase in a
window, then, twice, on several with times. The one that finds learns where mm-tiny puts the pictures of things, and
what their English words mean to MiniLM there: from texts in eleven languages, then from sounds, which are to find what
their texts find. mm-tiny stays as it is, so that both can search an index of its embeddings. The weights derive from
sounds and pictures under the GPL. `spoken_names_scores.py` says what is held out and measures.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from ..configuration.mm import MMConfig
from ..losses import Pairs, info_nce_loss
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.processor import MMProcessor
from ..processing.vocabulary import byte_tokenizer
from . import tiny_whisper
from .drawings import SEED, normalised
from .resumed import go_on
from .spoken_captions import Spoken
from .spoken_names_data import SAID, Read, Things, Told, collect, phrases, recorded, synthesised, training_pixels
from .spoken_names_scores import FINDER, PACKAGED, measure, read
from .spoken_windows import SpokenWindows
from .stamps import Stamp, load_stamps
from .tiny_data import sentence_vectors
from .tiny_whisper import Clock
from .tiny_whisper_model import WIDTH, longer
from .tiny_whisper_model import build_model as build_hearer
from .tiny_whisper_model import build_processor as build_hearing

SHORT, LONG = 2, 3  # seconds of a window
LONG_TIMES = 0.5  # share of the long windows whose text has times
HEARD_PIECES, SOUNDS = 192, 16  # beside the bytes; of a batch
TEXT_WIDTH, READ_PIECES, TEXTS = 192, 3072, 256  # of the text encoder; of a batch
TOLD = 32  # sounds of a batch that learn to find
RATE, TOWER_RATE = 2e-3, 3e-4  # the highest of what is new, and of the tower that can hear
RIDGE = 3.0  # of what carries meaning to where pictures are
SHARPNESS, NEAR = 20.0, 4.0  # of what is found; the weight of the distance of a sound from its text
LIMIT = 10_000_000  # bytes of the folder that ships
Sounds = tuple[list[Spoken], list[Spoken]]  # recordings, and phrases of espeak-ng


# -- the model that hears ---------------------------------------------------------------------------------------------


def to_hear(known: list[Stamp], options: argparse.Namespace) -> Sounds:
    """What is kept in the run's folder, or made."""
    told = phrases(known, options.phrases)
    return (
        recorded(known, options.output / "recordings.npz"),
        synthesised(told, options.output / f"said-{len(told)}.npz"),
    )


def learn_to_hear(sounds: Sounds, options: argparse.Namespace, clock: Clock) -> tuple[MMForSpeechSeq2Seq, MMProcessor]:
    """A tiny Whisper that is trained on short windows, then on longer ones, and its processor."""
    processor = build_hearing([one.text for kind in sounds for one in kind], LONG, SAID, HEARD_PIECES)
    model = build_hearer(processor, SHORT, SEED, SAID)
    print(f"{model.num_parameters():,} parameters; {len(sounds[0])} recordings, {len(sounds[1])} phrases", flush=True)
    spells = nn.Linear(WIDTH, processor.tokenizer.eos_token_id + 1)  # CTC; the last is nothing
    stages = (
        ("short", SHORT, options.short_steps, 2e-3, 0.0),
        ("long", LONG, options.long_steps, 1e-3, LONG_TIMES),
        ("again", LONG, options.again_steps, 1.5e-3, LONG_TIMES),
    )
    for number, (name, seconds, steps, rate, times) in enumerate(stages):
        model = longer(model, seconds) if name == "long" else model
        model.spells = spells
        windows = SpokenWindows(*sounds, processor, seconds, SOUNDS, SEED + number, times)
        tiny_whisper.train(model, windows, options.output / name, steps, rate, options.resume, clock)
        del model.spells
    return model.eval(), processor


# -- the model that finds ---------------------------------------------------------------------------------------------


class Finder(MMForImageTextRetrieval):
    """The model as it is saved: texts and sounds in mm-tiny's space. It learns what a text finds among all things, and
    then that a sound finds what its text does."""

    pictures: Any
    meaning: Any
    texts: Any

    def learns_from(self, pictures: torch.Tensor, meaning: torch.Tensor) -> None:
        """(M, P), of all things: where mm-tiny puts their pictures, and what their English words mean there."""
        self.__dict__.update(pictures=pictures, meaning=meaning, texts=None)  # no parts of the model

    def learns_only(self, *parts: str) -> None:
        """Parameters whose names have one of `parts` learn, but for sines of positions."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(f"{part}." in f"{name}." for part in parts) and "embed_positions" not in name)

    def forward(self, **batch: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if "thing" in batch:
            told = self.encode_text(batch["input_ids"], batch["attention_mask"]).float()
            found = [self.compared(told, batch["thing"], table) for table in (self.pictures, self.meaning)]
            return {"loss": torch.stack(found).sum()}
        if "told" not in batch:
            return super().forward(**batch)
        context = self.model.encode_context(input_features=batch["input_features"])
        heard = functional.normalize(self.itc_head.of_context(context).float(), dim=-1)
        told = self.texts[batch["told"]]
        away = 1 - (heard * told).sum(-1).mean()
        found = [alike(heard, told, table) for table in (self.pictures, self.texts)]
        return {"loss": NEAR * away + torch.stack(found).sum(), "away": away.detach()}

    def compared(self, embeds: torch.Tensor, things: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """InfoNCE of embeddings (n, P) and the table (M, P) of all things."""
        pairs = Pairs(len(table), len(things), things, gather=False)
        return info_nce_loss(table, embeds, pairs, self.itc_head.scale())


def alike(heard: torch.Tensor, told: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """How far (KL) what sounds (n, P) find in a table (M, P) is from what their texts (n, P) find."""
    found, wanted = (SHARPNESS * one @ table.T for one in (heard, told))
    return functional.kl_div(found.log_softmax(-1), wanted.softmax(-1), reduction="batchmean")


def build_finding(texts: list[str], hearing: MMProcessor) -> MMProcessor:
    """A vocabulary of bytes and pieces made of `texts`, and sounds as the model that hears has them."""
    tokenizer = byte_tokenizer(texts, READ_PIECES)
    tokenizer.model_max_length = 48
    return MMProcessor(tokenizer=tokenizer, feature_extractor=hearing.feature_extractor, add_eos_token=True)


def build_finder(processor: MMProcessor, hearing: Any, width: int) -> Finder:
    """New weights for embeddings (..., width), and a tower of the config `hearing`."""
    torch.manual_seed(SEED)
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
        modalities=["audio"], audio_config=hearing, audio_resampler_config=pooler, text_config=text,
        fusion_type="none", projection_dim=width,
    )  # fmt: skip
    return Finder(config)


@torch.no_grad()
def embedded(start: Path, things: Things, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each thing, of length 1: the mean of mm-tiny's embeddings of its pictures, and what its English words mean to
    MiniLM, carried (ridge regression on all things) to where the pictures are: (M, P) both."""
    model = MMForImageTextRetrieval.from_pretrained(start).eval()
    seen = torch.cat([model.encode_image(pixel_values=normalised(part.float() / 255)) for part in pixels.split(32)])
    pictures = torch.zeros(len(things.words), seen.shape[1]).index_add_(0, torch.tensor(things.pictures), seen)
    pictures = functional.normalize(pictures, dim=-1)
    meant = torch.from_numpy(sentence_vectors(things.words))
    meant = meant - meant.mean(0)
    carried = torch.linalg.solve(meant.T @ meant + RIDGE * torch.eye(meant.shape[1]), meant.T @ pictures)
    return pictures, functional.normalize(meant @ carried, dim=-1)


def learn_to_find(
    stamps: list[Stamp],
    sounds: Sounds,
    hears: tuple[MMForSpeechSeq2Seq, MMProcessor],
    options: argparse.Namespace,
    clock: Clock,
) -> tuple[Finder, MMProcessor]:
    """A model that learns from texts, then from sounds with the tower of the one that hears; and its processor."""
    things = collect(stamps)
    processor = build_finding([text for _, text in things.texts], hears[1])
    file = options.output / "embeddings.pt"
    if not file.exists():
        torch.save(embedded(options.start, things, training_pixels(stamps)), file)
    pictures, meaning = torch.load(file, weights_only=True)
    model = build_finder(processor, hears[0].config.audio_config, pictures.shape[1])
    model.model.audio_tower.load_state_dict(hears[0].model.audio_tower.state_dict())
    model.learns_from(pictures, meaning)
    print(f"{model.num_parameters():,} parameters; {len(things.words)} things, {len(things.pictures)} pictures, "
          f"{len(things.texts)} texts", flush=True)  # fmt: skip
    texts = sorted({one.text for kind in sounds for one in kind})
    model.learns_only("language_model", "itc_head.text", "itc_head.logit_scale")
    batches: Any = Read(things, processor.tokenizer, TEXTS, SEED)
    train(model, batches, options.output / "reading", options.reading_steps, options.resume, clock)
    model.__dict__["texts"] = read(model, processor, texts)
    model.learns_only("audio_tower", "audio_resampler", "itc_head.audio")
    batches = Told(*sounds, texts, processor.feature_extractor, TOLD, SEED)
    train(model, batches, options.output / "finding", options.finding_steps, options.resume, clock)
    return model.eval(), processor


def train(model: Finder, batches: Any, folder: Path, steps: int, resume: bool, clock: Clock) -> None:
    """One stage with Transformers' Trainer: bf16 autocast, a checkpoint every 200 steps."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=1, lr_scheduler_type="cosine",
        warmup_steps=min(200, steps // 10), max_grad_norm=1.0, bf16=True, use_cpu=True, save_steps=200,
        save_total_limit=1, logging_steps=50, report_to="none", disable_tqdm=True, seed=SEED,
        remove_unused_columns=False,
    )  # fmt: skip
    tower: list[Any] = []
    new: list[Any] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (tower if ".audio_tower." in name else new).append(parameter)
    groups = [{"params": some, "lr": rate} for some, rate in ((new, RATE), (tower, TOWER_RATE)) if some]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=batches, data_collator=_as_it_is, callbacks=[clock],
        optimizers=(optimizer, None),
    )  # fmt: skip
    go_on(trainer, resume)


def _as_it_is(batch: list[Any]) -> Any:
    """The data sets make whole batches."""
    return batch[0]


# -- the folder -------------------------------------------------------------------------------------------------------


def package(*models: tuple[Any, MMProcessor, Path]) -> int:
    """Writes models with their processors into folders: fp16 weights, loaded as fp32. Returns the bytes of all.

    Raises: ValueError above LIMIT.
    """
    size = 0
    for model, processor, folder in models:
        for parameter in model.parameters():
            parameter.data = parameter.data.half()
        model.save_pretrained(folder)
        config = model.config
        own = next(one for one in type(model).__mro__ if one.__name__.startswith("MMFor"))
        config.architectures = [own.__name__]  # not that of the class that trained
        for part in (config, config.audio_config, config.audio_resampler_config, config.text_config):
            if part is not None:
                part.dtype = torch.float32
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        size += sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if size > LIMIT:
        raise ValueError(f"the folders take {size:,} bytes, more than {LIMIT:,}")
    return size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=PACKAGED, help="whose space texts and sounds are put into")
    parser.add_argument("--output", type=Path, default=Path("runs/spoken-names"))
    parser.add_argument("--short-steps", type=int, default=7000, help=f"of hearing in windows of {SHORT} seconds")
    parser.add_argument("--long-steps", type=int, default=4000, help=f"of hearing in windows of {LONG} seconds")
    parser.add_argument("--again-steps", type=int, default=4500, help="more of them, with a higher rate at first")
    parser.add_argument("--reading-steps", type=int, default=2500, help="of texts")
    parser.add_argument("--finding-steps", type=int, default=1500, help="of sounds")
    parser.add_argument("--phrases", type=int, default=12000, help="that espeak-ng says")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.output / "log.jsonl")
    if options.resume:
        clock.go_on()
    stamps = load_stamps()
    sounds = to_hear([stamp for stamp in stamps if stamp.split == "train"], options)
    hears = learn_to_hear(sounds, options, clock)
    finds = learn_to_find(stamps, sounds, hears, options, clock)
    minutes = clock.minutes()
    folder = options.output / "mm-tiny-spoken"
    print(f"{package((*hears, folder), (*finds, folder / FINDER)):,} bytes in {folder}")
    lines = [*measure(folder, stamps, options.start), f"{minutes:.1f} CPU minutes for training and its sounds"]
    (options.output / "scores.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
