"""The drawing model: a name and a style word are read, the codes of a picture are written, in one CPU core's hour.

A prompt is "red apple, twemoji". One table of embeddings holds the words, then begin, end and mask of a picture, then
its codes; one stack of layers reads the prompt both ways and writes the picture from left to right. n drawings, Tc
tokens of a prompt, N codes of a picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.towers.image_tokenizer import MMImageTokenizer
from ..processing.processor import MMProcessor
from .draw_data import style_of
from .draw_tokenizer import CPU, SEED, Clock, rate_at
from .emoji import EmojiItem
from .emoji_captions import embeddings_from
from .sources import minilm_directory

SIZES = {"hidden_size": 256, "intermediate_size": 448, "num_hidden_layers": 3, "num_attention_heads": 4}
LIMIT = 12_000_000  # bytes of what ships
DROPPED = 0.1  # prompts that are left empty in training, for guidance


def prompt(item: EmojiItem) -> str:
    """What asks for a drawing."""
    return f"{item.label}, {style_of(item)}"


def code_embeddings(picture: MMImageTokenizer, width: int, std: float) -> torch.Tensor:
    """(K, width): a random projection of the levels, so that codes with like numbers begin near each other."""
    levels = picture.config.levels
    ids = torch.arange(picture.codebook_size)
    features, place = [], 1
    for count in levels:
        digit = ids // place % count
        features.append(torch.exp(-0.5 * ((digit[:, None] - torch.arange(count)) / 0.7) ** 2))
        place *= count
    found = torch.cat(features, 1) - torch.cat(features, 1).mean(0)
    table = found @ torch.randn(found.shape[1], width)
    return std * (table / table.std() + 0.3 * torch.randn_like(table))


def build_processor(tokenizer: Any, picture: MMImageTokenizer) -> MMProcessor:
    """Prompts go to the text encoder; the codes of pictures stand after the words."""
    return MMProcessor(tokenizer=tokenizer, image_tokenizer=picture, prompt_to="context")


def build_model(processor: MMProcessor) -> MMForConditionalGeneration:
    """The model at the start of training: MiniLM's token embeddings, the rest new."""
    torch.manual_seed(SEED)
    words: Any = processor.tokenizer
    drawing: Any = processor.drawing
    text = {
        **SIZES, "norm_position": "pre", "final_norm": "all", "embedding_norm": False, "layer_norm_eps": 1e-5,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        "vocab_size": drawing["first_id"] + drawing["codebook_size"],
        "max_position_embeddings": processor.image_tokenizer.tokens_per_image + 16, "hidden_dropout": 0.1,
    }  # fmt: skip
    settings: Any = {
        "modalities": [], "share_text_encoder": True, "lm_head_transform": False, "lm_head_bias": False,
        "drawing": drawing,
    }  # fmt: skip
    config = MMConfig(text_config=text, **settings)
    model = MMForConditionalGeneration(config)
    embeddings = model.model.language_model.embed_tokens.weight.data
    std, width = config.text_config.initializer_range, SIZES["hidden_size"]
    embeddings[: len(words)] = embeddings_from(minilm_directory(), words, width, std)
    embeddings[drawing["first_id"] :] = code_embeddings(processor.image_tokenizer, width, std)
    return model


class Rows:
    """Prompts and pictures as rows of the model; batches are a function of the step.

    codes: int64 (views, n, N), of the same pictures moved a little; a row takes one view by chance. hidden: the part
    of the codes that a row reads as mask, though it writes them: what it cannot copy from the codes before has to
    come from the prompt.
    """

    def __init__(self, items: list[EmojiItem], codes: torch.Tensor, processor: MMProcessor, hidden: float = 0.0):
        tokenizer: Any = processor.tokenizer
        self.prompts = [tokenizer(prompt(item)).input_ids for item in items]
        self.empty = tokenizer("").input_ids
        self.codes, self.bos, self.hidden = codes, tokenizer.bos_token_id, hidden
        self.drawing: Any = processor.drawing
        self.epoch, self.order = -1, torch.empty(0)

    def context(self, prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        """int64 (n, Tc) and its mask, padded on the right."""
        longest = max(map(len, prompts))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
        return {"context_input_ids": ids, "context_attention_mask": mask}

    def batch(self, step: int, size: int) -> dict[str, torch.Tensor]:
        """The rows of a step: [bos, begin, codes, end]; codes and end are labels."""
        chosen = []
        for place in range(step * size, (step + 1) * size):
            epoch, number = divmod(place, len(self.prompts))
            if epoch != self.epoch:
                self.epoch = epoch
                self.order = torch.randperm(len(self.prompts), generator=torch.Generator().manual_seed(SEED + epoch))
            chosen.append(int(self.order[number]))
        chance = torch.Generator().manual_seed(step)
        dropped = torch.rand(size, generator=chance) < DROPPED
        codes = self.codes[torch.randint(len(self.codes), (size,), generator=chance), chosen]
        prompts = [
            self.empty if is_empty else self.prompts[i] for i, is_empty in zip(chosen, dropped.tolist(), strict=True)
        ]
        column = torch.ones(size, 1, dtype=torch.long)
        written = [column * self.bos, column * self.drawing["begin_id"], codes + self.drawing["first_id"]]
        ids = torch.cat([*written, column * self.drawing["end_id"]], 1)
        labels = ids.clone()
        labels[:, :2] = -100
        is_hidden = torch.rand(codes.shape, generator=chance) < self.hidden
        ids[:, 2:-1].masked_fill_(is_hidden, self.drawing["mask_id"])
        return {**self.context(prompts), "input_ids": ids, "labels": labels}


def parameter_groups(model: nn.Module) -> list[dict]:
    """Norms, biases and embeddings are not decayed."""
    decayed = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim < 2 or "embed" in name]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def train(
    model: MMForConditionalGeneration, rows: Rows, options: argparse.Namespace, folder: Path, held: Rows
) -> MMForConditionalGeneration:
    """Trains with a checkpoint every `options.save_every` steps; the log has the loss of held-out pairs too."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=options.rate, betas=(0.9, 0.98))
    checkpoint, begin, clock = folder / "checkpoint.pt", 0, Clock()
    if options.resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        begin, clock = saved["step"], Clock(saved["minutes"])
    model.train()
    losses: list[float] = []
    for step in range(begin, options.steps):
        torch.manual_seed(step)  # dropout
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        with torch.autocast(**CPU):
            loss = model(**rows.batch(step, options.batch_size)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            minutes = clock.minutes()
            line = {
                "step": step + 1, "epoch": round((step + 1) * options.batch_size / len(rows.prompts), 2),
                "cpu_minutes": round(minutes, 2), "loss": sum(losses) / len(losses), "held_loss": loss_of(model, held),
            }  # fmt: skip
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step + 1, "minutes": minutes}, folder / "checkpoint.part")
            (folder / "checkpoint.part").rename(checkpoint)
            losses, clock = [], Clock(minutes)
    return model.eval()


@torch.no_grad()
def loss_of(model: MMForConditionalGeneration, rows: Rows) -> float:
    """The mean loss of 128 rows, in evaluation."""
    model.eval()
    with torch.autocast(**CPU):
        found = [model(**rows.batch(step, 64)).loss.item() for step in range(2)]
    model.train()
    return sum(found) / len(found)


def package(model: MMForConditionalGeneration, processor: MMProcessor, output: Path) -> int:
    """Writes the folder that ships, both networks in fp16 (loaded as fp32), and returns its size in bytes.

    Raises: ValueError if it is larger than LIMIT.
    """
    picture: Any = processor.image_tokenizer
    for network in (model, picture):
        for parameter in network.parameters():
            parameter.data = parameter.data.half()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    for network, folder in ((model, output), (picture, output / "image_tokenizer")):
        network.config.dtype = torch.float32
        network.config.save_pretrained(folder)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    if size > LIMIT:
        raise ValueError(f"{output} takes {size:,} bytes, more than {LIMIT:,}")
    return size
