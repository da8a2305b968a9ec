"""The second half of the recipe of checkpoints/mm-tiny: names in six languages, answers and embeddings.

    mm train recipes/mm_tiny.yaml --resume         # both halves, one after the other
    python -m mm.recipes.tiny --start runs/mm-tiny-en/model --output runs/mm-tiny-six [--resume]     # this one

It gives a captioner another vocabulary and goes on: the decoder keeps its layers (the neurons of each MLP that
weigh most) and what it knew of its words. One decoder writes names and answers ("lm") and reads names to compare them
with pictures ("itc").

decoder      alone, on features of the frozen tower that are computed once
late_stages  the tower's late stages with it, on fresh views in every epoch
long         the same on views that vary more, compared with the last MEMORY drawings and names too; names and search
             words are taught to mean what they mean to MiniLM; the weights are the mean of the last epochs'
again        the same once more, from these weights, with a high rate that falls anew

Training looks at six styles of the 1301 seen names; Twemoji, a style that it never sees, is the development set.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoProcessor, Trainer, TrainerCallback, TrainingArguments

from ..configuration.mm import MMConfig
from ..evaluation.captions import exact_match
from ..modeling_mm.losses.momentum import MomentumContrast
from ..modeling_mm.losses.positive_pairs import Pairs
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..processing.vocabulary import new_vocabulary
from .drawings import SEED, SIZE, normalised
from .easy_vqa import load_pictures_and_questions
from .emoji import DEV_VENDOR, TRAIN_VENDORS, EmojiItem, load_items, pictures, split_of
from .emoji_captions import CLOCK, FROZEN_STAGES, freeze_early_stages, parameter_groups
from .languages import LANGUAGES, names_by_language, token_of
from .package import build_image_processor
from .resumed import go_on
from .tiny_data import Lessons, Names, Questions, Words, rows_of

PIECES = 3072
WIDTH = 640  # of an MLP
BATCH = 24  # drawings, beside Questions.PICTURES
LOSSES = {"lm": 1.0, "itc": 0.25}
DECODER_RATE, RATE = 7e-4, 3e-4  # the highest of each phase
QUESTIONS = 0.3  # weight of the answers' loss beside that of the names
EMBEDDING = 96
# Of the long phase: embeddings that are remembered, weights of the losses, the end of the rate, epochs in the mean.
MEMORY, LONG_ITC, LONG_WORDS, LEAST_RATE, AVERAGED = 960, 0.5, 0.5, 0.05, 3
AGAIN_RATE, AGAIN_LEAST = 2.5e-4, 0.02


class Learner(MMForPreTraining):
    """The model as it is saved; in training the captioner and the retriever that it also is compute its losses."""

    captioner: MMForConditionalGeneration
    retriever: MMForImageTextRetrieval
    contrast: MomentumContrast

    def __init__(self, config: MMConfig):
        super().__init__(config)
        captioner, retriever = MMForConditionalGeneration(config), MMForImageTextRetrieval(config)
        captioner.lm_head, retriever.itc_head = self.lm_head, self.itc_head
        captioner.model = retriever.model = self.model
        # no parts: their weights are this model's, and what is remembered is not saved
        contrast = MomentumContrast(MEMORY, EMBEDDING)
        self.__dict__.update(captioner=captioner, retriever=retriever, contrast=contrast)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, drawings: dict, written: list, found: list, asked: dict, answered: list,
        concepts: torch.Tensor | None = None, words: dict | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """The losses of rows about drawings and of rows about the pictures that are asked about; of both, either
        visual_embeds or pixel_values. With `words` those of the long phase."""

        def features(pictures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            if "visual_embeds" in pictures:
                return pictures
            return {"visual_embeds": self.model.vision_tower(**pictures).last_hidden_state.float()}

        def read(batch: dict[str, torch.Tensor], seen: dict) -> tuple[torch.Tensor, torch.Tensor]:
            count = (batch["labels"] != -100).sum()
            return self.captioner(**batch, **seen, return_logits=False).loss * count, count

        seen = features(drawings)
        parts = [read(batch, seen) for batch in written]
        lm = sum(total for total, _ in parts) / sum(count for _, count in parts)
        answers, count = read(answered[0], features(asked))
        told = {"lm": lm, "answers": answers / count}
        if words is None or concepts is None:
            told["itc"] = self.retriever(**found[0], **seen, return_loss=True).loss  # with its weight
        else:
            told["itc"], told["words"] = self._remembered(found[0], seen, concepts, words)
        loss = lm + told["itc"] + QUESTIONS * told["answers"] + told.get("words", 0)
        return {"loss": loss, **{name: part.detach() for name, part in told.items()}}

    def _remembered(self, found: dict, seen: dict, concepts: torch.Tensor, words: dict) -> tuple[torch.Tensor, ...]:
        """ "itc" against this batch and those before it, and how far names and words are from what they mean."""
        meant = words["meant"]
        output = self.retriever(**found, **seen, return_loss=False)
        pictures, names = output.image_embeds.float(), output.text_embeds.float()
        pairs = Pairs(len(pictures), len(names), found["context_index"], image_ids=concepts, gather=False)
        itc = self.contrast(pictures, names, pictures, names, pairs, self.itc_head.scale())
        others = self.retriever.encode_text(words["input_ids"], words["attention_mask"]).float()
        away = 1 - (torch.cat([names, others]) * meant).sum(-1)
        return LONG_ITC * itc, LONG_WORDS * away.mean()


def build_model(start: Path, texts: list[str]) -> tuple[Learner, Any]:
    """The captioner in the folder `start` with a new vocabulary, narrower MLPs and a new head that compares; and its
    tokenizer."""
    torch.manual_seed(SEED)
    old = MMForConditionalGeneration.from_pretrained(start)
    marks = [token for token in map(token_of, LANGUAGES) if token]
    tokenizer = new_vocabulary(old, AutoProcessor.from_pretrained(start), texts, PIECES, marks).tokenizer
    for layer in old.model.language_model.layers:
        narrow(layer.mlp, WIDTH)
    text = {"vocab_size": len(tokenizer), "intermediate_size": WIDTH}
    model = Learner(
        MMConfig.preset(
            "mm-tiny", text_config=text, share_text_encoder=True, projection_dim=EMBEDDING, pretraining_losses=LOSSES
        )
    )
    missing, unknown = model.load_state_dict(old.state_dict(), strict=False)
    assert not unknown and all(name.startswith("itc_head.") for name in missing), (missing, unknown)
    model.model.vision_tower.requires_grad_(False)
    return model, tokenizer


@torch.no_grad()
def narrow(mlp: Any, width: int) -> None:
    """Keeps the neurons of an MLP whose weights, in and out, are the largest."""
    first, second = mlp.up_proj, mlp.down_proj
    kept = (first.weight.norm(dim=1) * second.weight.norm(dim=0)).topk(width).indices.sort().values
    first.weight, first.bias = nn.Parameter(first.weight[kept]), nn.Parameter(first.bias[kept])
    second.weight = nn.Parameter(second.weight[:, kept])


@torch.no_grad()
def written(model, tokenizer, items: list[EmojiItem], prompt: str = "", batch_size: int = 64) -> list[str]:
    """The model's names for drawings, cropped to their content, after a prompt such as "<de>"."""
    model.eval()
    start = rows_of([prompt], tokenizer, [prompt])["input_ids"][:, :-1]  # bos and the prompt
    found = []
    for first in range(0, len(items), batch_size):
        chosen = torch.from_numpy(pictures(items[first : first + batch_size], SIZE, crop=True)).permute(0, 3, 1, 2)
        ids = model.generate(
            pixel_values=normalised(chosen.float() / 255), input_ids=start.expand(len(chosen), -1), max_new_tokens=24,
            do_sample=False,
        )  # fmt: skip
        found += tokenizer.batch_decode(ids[:, start.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in found]


class Scores(TrainerCallback):
    """Exact match on every fourth picture of the development set, and the CPU minutes of training, by epochs."""

    def __init__(self, tokenizer, items: list[EmojiItem], names: dict, log: Path, phase: str, every: int):
        self.tokenizer, self.items, self.names, self.log = tokenizer, items, names, log
        self.phase, self.every = phase, every

    def on_epoch_end(self, args, state, control, *, model, **kwargs):
        epoch = round(state.epoch)
        if epoch % self.every and epoch != args.num_train_epochs:
            return
        minutes = CLOCK.minutes()
        line: dict[str, Any] = {"phase": self.phase, "epoch": epoch, "cpu_minutes": round(minutes, 2)}
        for language in ("en", "de", "zh"):
            found = written(model.captioner, self.tokenizer, self.items, token_of(language))
            right = exact_match(found, [self.names[language][item.concept] for item in self.items])
            line[f"dev_exact_match_{language}"] = round(right.value, 4)
        model.train()
        CLOCK.leave_out_since(minutes)
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def train(
    model: Learner,
    lessons: Lessons,
    options,
    score: Scores,
    epochs: int,
    rate: float,
    kept: int = 1,
    least: float = 0.0,
) -> None:
    """One phase with Transformers' Trainer: bf16 autocast, a checkpoint an epoch, resumed if there is one. The last
    `kept` checkpoints stay; the rate falls to `least` of its height."""
    groups = parameter_groups(model, rate, rate, weight_decay=0.05)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.output / score.phase), num_train_epochs=epochs,
            per_device_train_batch_size=BATCH, lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": least}, warmup_steps=200, max_grad_norm=1.0, bf16=True,
            use_cpu=True, save_strategy="epoch", save_total_limit=kept, logging_steps=50, report_to="none",
            seed=SEED, remove_unused_columns=False, disable_tqdm=True,
        ),
        data_collator=_as_it_is,
        train_dataset=lessons,
        optimizers=(torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True), None),
        callbacks=[score],
    )  # fmt: skip
    go_on(trainer, options.resume)


def mean_of_the_last(folder: Path, count: int) -> dict[str, torch.Tensor]:
    """The mean of the weights of the last checkpoints of a phase."""
    folders = sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.split("-")[1]))[-count:]
    parts = [load_file(one / "model.safetensors") for one in folders]
    return {name: torch.stack([part[name] for part in parts]).mean(0) if value.is_floating_point() else value
            for name, value in parts[-1].items()}  # fmt: skip


def _as_it_is(batch: Any) -> Any:
    """The lessons make whole batches."""
    return batch


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=Path("runs/mm-tiny-en/model"), help="what the first half made")
    parser.add_argument("--output", type=Path, default=Path("runs/mm-tiny"))
    parser.add_argument("--decoder-epochs", type=int, default=24, help="of the decoder alone")
    parser.add_argument("--epochs", type=int, default=14, help="of decoder and late stages")
    parser.add_argument("--long-epochs", type=int, default=24, help="of the same, with more to vary and to compare")
    parser.add_argument("--again-epochs", type=int, default=23, help="of the same once more")
    parser.add_argument("--views", type=int, default=4, help="views whose features are computed once")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "log.jsonl"
    if options.resume:
        CLOCK.go_on_from(log)

    seen, dev = (
        [item for item in load_items(vendors) if split_of(item.concept) == "seen"]
        for vendors in (TRAIN_VENDORS, [DEV_VENDOR])
    )
    names = names_by_language(item.concept for item in load_items([DEV_VENDOR]))
    known = {item.concept for item in seen}
    texts = [name for found in names.values() for concept, name in found.items() if concept in known]
    _, asked = load_pictures_and_questions("train")
    texts += sorted({f"{question} {answer}" for found in asked for question, answer in found})
    model, tokenizer = build_model(options.start, texts)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(seen)} pictures", flush=True)

    questions = Questions(tokenizer, build_image_processor(SIZE))
    tower = model.model.vision_tower.eval()
    lessons = Lessons(Names(seen, names, tokenizer), questions, options.views)
    scores = partial(Scores, tokenizer, dev[::4], names, log, every=4)
    lessons.store_features(tower, options.output)
    train(model.train(), lessons, options, scores("decoder"), options.decoder_epochs, DECODER_RATE)
    for stage in (*list(tower.stages)[FROZEN_STAGES:], tower.head):
        stage.requires_grad_(True)
    freeze_early_stages(model)
    lessons.look_anew(options.views)
    train(model, lessons, options, scores("late_stages"), options.epochs, RATE)
    for stage in (*list(tower.stages)[FROZEN_STAGES:], tower.head):
        vars(stage).pop("forward")  # in bf16
    new = {item.label for item in load_items([DEV_VENDOR])} - set(names["en"][concept] for concept in known)
    words = Words(lessons.names, new, EMBEDDING, options.output / "words.npy")
    seen_views = options.views + options.epochs
    for phase, epochs, rate, least in (
        ("long", options.long_epochs, RATE, LEAST_RATE), ("again", options.again_epochs, AGAIN_RATE, AGAIN_LEAST),
    ):  # fmt: skip
        if epochs:
            lessons.look_anew(seen_views, words)
            train(model, lessons, options, scores(phase, every=8), epochs, rate, kept=AVERAGED, least=least)
            model.load_state_dict(mean_of_the_last(options.output / phase, AVERAGED), strict=False)
        seen_views += epochs

    minutes = CLOCK.minutes()
    right = exact_match(written(model.captioner, tokenizer, dev), [item.label for item in dev]).value
    print(f"Twemoji, {len(dev)} seen names: exact match {right:.4f} after {minutes:.1f} CPU minutes")
    model.config.architectures = None
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")


if __name__ == "__main__":
    main()
