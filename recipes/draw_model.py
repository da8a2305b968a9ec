"""The drawing model: a name and a style word are read, the codes of a picture are written, in one CPU core's hour.

A prompt is "red apple, twemoji". The tokenizer spells each name in codes of pictures: those of one drawing of it
(`draw_data.beginning_of`), in a style that the pair is not tested in. So the model need not learn by heart what a red
apple looks like. It learns to translate that drawing into the style that is asked for; its first look is at what
stands at the same place. A small text encoder reads the name; the decoder looks at it by cross-attention and
writes the codes from left to right.

n names or drawings, Tc tokens of a prompt, N codes of a picture.
"""

import argparse
import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.masked_lm import MMForMaskedLM
from ..modeling_mm.towers.image_tokenizer import MMImageTokenizer
from ..processing.processor import MMProcessor
from .draw_data import STYLES, style_of
from .draw_tokenizer import CPU, SEED, Clock, rate_at
from .emoji import EmojiItem
from .vocabulary import SPECIAL

COMMON = {"norm_position": "pre", "final_norm": "all", "embedding_norm": False, "layer_norm_eps": 1e-5}
WRITES = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "cross_attention_overrides": {"num_attention_heads": 8},
}  # fmt: skip
READS = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 1, "num_attention_heads": 4}
CODE_STD, PLACE_STD = 0.04, 0.06  # of embeddings at the start
LIMIT = 12_000_000  # bytes of what ships
DROPPED = 0.1  # prompts that are left empty in training, for guidance
CHARACTERS = range(0xE000, 0xF900)  # Unicode's private use: names are spelt with it, styles after them


def prompt(item: EmojiItem) -> str:
    """What asks for a drawing."""
    return f"{item.label}, {style_of(item)}"


def names_tokenizer(
    names: Sequence[str], spelling: Tensor, codebook_size: int, styles: Sequence[str] = tuple(STYLES)
) -> PreTrainedTokenizerFast:
    """Reads texts for the names and styles in them, whatever stands between; the longest names first.

    spelling: int64 (n, N), the codes that a name becomes. A style becomes one token. Their ids begin at len(SPECIAL),
    those of codes after them.
    """
    if codebook_size + len(styles) > len(CHARACTERS):
        raise ValueError(f"names are spelt in {len(CHARACTERS) - len(styles)} codes at most; got {codebook_size}")
    characters = [chr(CHARACTERS[number]) for number in range(codebook_size + len(styles))]
    after = characters[codebook_size:]
    spelt = {
        name: "".join(map(characters.__getitem__, row)) for name, row in zip(names, spelling.tolist(), strict=True)
    }
    spelt |= dict(zip(styles, after, strict=True))
    rules = [
        normalizers.Replace(Regex(rf"(?<!\w){re.escape(name)}(?!\w)"), spelt[name])
        for name in sorted(spelt, key=len, reverse=True)
    ]
    only = normalizers.Replace(Regex(f"[^{characters[0]}-{characters[-1]}]"), "")
    vocabulary = {piece: n for n, piece in enumerate([*SPECIAL, *after, *characters[:codebook_size]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rules, only])  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")  # pyright: ignore
    around = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, around)  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
        model_max_length=spelling.shape[1] + 8,
    )  # fmt: skip


def place_embeddings(rows: int, columns: int, width: int, size: float) -> Tensor:
    """(rows * columns, width): waves over a picture by the middle of each place, so that near places are alike and a
    step in any direction is the same turn everywhere."""
    count = width // 4
    turns = 2 * torch.pi * torch.exp(torch.linspace(-0.7, 2.1, count))  # of a side: half a wave to eight
    down = (torch.arange(rows) + 0.5)[:, None, None] / rows * turns
    across = (torch.arange(columns) + 0.5)[None, :, None] / columns * turns
    down, across = (one.expand(rows, columns, -1) for one in (down, across))
    waves = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], -1).flatten(0, 1)
    return size * F.pad(waves, (0, width - 4 * count)) * 2**0.5


def look_at_the_same_place(attention: Any, sharpness: float = 2.0) -> None:
    """Sets the queries and keys of a cross-attention so that its first look is at the place with the same waves: each
    head compares some of the frequencies of `place_embeddings`."""
    width, heads = attention.q_proj.in_features, attention.q_proj.out_features // attention.head_dim
    waves = torch.arange(width).unflatten(0, (4, -1))  # rows are sin, cos of down, across; columns are frequencies
    order = torch.cat([waves[:, head::heads].flatten() for head in range(heads)])
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.data = sharpness * torch.eye(width)[order]
        projection.bias.data.zero_()


def code_embeddings(picture: MMImageTokenizer, width: int, std: float) -> Tensor:
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
    """Prompts go to the text encoder; the decoder writes no words, so its codes stand after a few marks."""
    after = len(SPECIAL)
    places = {"begin_id": after, "end_id": after + 1, "mask_id": after + 2, "first_id": after + 3}
    own = {"codebook_size": picture.codebook_size, "grid": list(picture.grid)}
    return MMProcessor(tokenizer=tokenizer, image_tokenizer=picture, prompt_to="context", drawing={**places, **own})


def build_model(processor: MMProcessor) -> MMForConditionalGeneration:
    """The model at the start of training."""
    torch.manual_seed(SEED)
    words: Any = processor.tokenizer
    drawing: Any = processor.drawing
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    positions = processor.image_tokenizer.tokens_per_image + 8
    settings: Any = {
        "modalities": [], "lm_head_transform": False, "lm_head_bias": False, "drawing": drawing,
        "text_encoder_config": {
            **COMMON, **READS, **ids, "vocab_size": len(words), "max_position_embeddings": positions,
            "cross_attention_layers": [0],  # one at least; there are no pictures to look at
        },
        "text_config": {
            **COMMON, **WRITES, **ids, "vocab_size": drawing["first_id"] + drawing["codebook_size"],
            "max_position_embeddings": positions,
        },
    }  # fmt: skip
    model = MMForConditionalGeneration(MMConfig(**settings))
    reader: Any = model.model.text_encoder
    writer: Any = model.model.language_model
    width, (rows, columns) = WRITES["hidden_size"], drawing["grid"]
    codes = code_embeddings(processor.image_tokenizer, width, CODE_STD)
    places = place_embeddings(rows, columns, width, PLACE_STD)
    for stack in (reader, writer):  # what stands at 1 + k is read when the code at place k is written
        stack.embed_tokens.weight.data[-len(codes) :] = codes
        stack.embed_positions.weight.data[1 : 1 + len(places)] = places
    for layer in writer.layers:
        look_at_the_same_place(layer.cross_attn)
    first = writer.layers[0].cross_attn  # and what it sees there goes on as it is
    first.v_proj.weight.data, first.o_proj.weight.data = torch.eye(width), 0.1 * torch.eye(width)
    return model


class Rows:
    """Prompts and pictures as rows of the model; batches are a function of the step.

    codes: int64 (n, N). hidden: the part of the codes that a row reads as mask, though it writes them: what it cannot
    copy from the codes before has to come from the prompt. None: rows of MMForMaskedLM, with a part by chance that is
    read as mask and alone is a label, as MaskGIT is trained.
    """

    def __init__(self, items: list[EmojiItem], codes: Tensor, processor: MMProcessor, hidden: float | None = 0.0):
        tokenizer: Any = processor.tokenizer
        self.prompts = [tokenizer(prompt(item)).input_ids for item in items]
        self.empty = tokenizer("").input_ids
        self.codes, self.bos, self.hidden = codes, tokenizer.bos_token_id, hidden
        self.drawing: Any = processor.drawing
        self.epoch, self.order = -1, torch.empty(0)

    def context(self, prompts: list[list[int]]) -> dict[str, Tensor]:
        """int64 (n, Tc) and its mask, padded on the right."""
        longest = max(map(len, prompts))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
        return {"context_input_ids": ids, "context_attention_mask": mask}

    def batch(self, step: int, size: int, others: bool = False) -> dict[str, Tensor]:
        """The rows of a step: [bos, begin, codes, end]; codes and end are labels. others: each with the prompt of the
        row before it, by which a loss tells how much of a picture is read from its prompt."""
        chosen = []
        for place in range(step * size, (step + 1) * size):
            epoch, number = divmod(place, len(self.prompts))
            if epoch != self.epoch:
                self.epoch = epoch
                self.order = torch.randperm(len(self.prompts), generator=torch.Generator().manual_seed(SEED + epoch))
            chosen.append(int(self.order[number]))
        chance = torch.Generator().manual_seed(step)
        dropped = torch.rand(size, generator=chance) < DROPPED
        codes = self.codes[chosen]
        asked = [chosen[-1], *chosen[:-1]] if others else chosen
        prompts = [
            self.empty if is_empty else self.prompts[i] for i, is_empty in zip(asked, dropped.tolist(), strict=True)
        ]
        column = torch.ones(size, 1, dtype=torch.long)
        written = [column * self.bos, column * self.drawing["begin_id"], codes + self.drawing["first_id"]]
        ids = torch.cat([*written, column * self.drawing["end_id"]], 1)
        labels = ids.clone()
        labels[:, :2] = -100
        share = self.hidden
        if share is None:
            share = torch.cos(torch.pi / 2 * torch.rand(size, 1, generator=chance))
        drawn = torch.rand(codes.shape, generator=chance)
        is_hidden = (drawn < share) | ((drawn == drawn.amin(1, keepdim=True)) & (self.hidden is None))
        ids[:, 2:-1].masked_fill_(is_hidden, self.drawing["mask_id"])
        if self.hidden is None:
            labels[:, 2:-1].masked_fill_(~is_hidden, -100)
            labels[:, -1] = -100
        return {**self.context(prompts), "input_ids": ids, "labels": labels}


def parameter_groups(model: nn.Module) -> list[dict]:
    """Norms, biases and embeddings are not decayed."""
    decayed = [weight for name, weight in model.named_parameters() if weight.ndim > 1 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim < 2 or "embed" in name]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def train(model: Any, rows: Rows, options: argparse.Namespace, folder: Path, held: Rows) -> Any:
    """Trains with a checkpoint every `options.save_every` steps; the log has the loss of held-out pairs too, and that
    with prompts of other pairs."""
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
                "others_loss": loss_of(model, held, others=True),
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
def loss_of(model: Any, rows: Rows, others: bool = False) -> float:
    """The mean loss of 64 rows, in evaluation."""
    model.eval()
    with torch.autocast(**CPU):
        found = [model(**rows.batch(step, 16, others)).loss.item() for step in range(4)]
    model.train()
    return sum(found) / len(found)


def in_parallel(model: MMForConditionalGeneration) -> MMForMaskedLM:
    """A model that draws all codes at once, with the weights of one that draws in order."""
    config = copy.deepcopy(model.config)
    config.text_config.is_causal = False
    other = MMForMaskedLM(config)
    other.load_state_dict(model.state_dict())
    return other


def package(model: Any, processor: MMProcessor, output: Path) -> int:
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
