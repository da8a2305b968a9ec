"""OpenFlamingo's checkpoint.pt, with the towers that it was trained with, there and back.

    mm convert checkpoint.pt OUT --vision CLIP --text LLAMA
    mm convert --to flamingo OUT checkpoint.pt --vision CLIP --text LLAMA

The file has the trained weights: the resampler, the gated layers and the embeddings. Other weights of the decoder that
were trained here are written too, under their names inside the layers' wrappers, where OpenFlamingo loads them from.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.warm_start import flamingo_config, text_tower, vision_tower
from ..processing.processor import MMProcessor
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import TowerPlan
from ..weights.flamingo import BLOCK, PERCEIVER, FlamingoWeights, Insertion, Names, grown
from ..weights.key_table import KeyTable, raise_faults
from .family import check_returns
from .processor import fit_tokenizer, image_processor_of, spelling_notes, tokenizer_of

NAME = "flamingo"
_ADDED = ("<|endofchunk|>", "<image>", "<PAD>")  # in the order of their ids; the last where the tokenizer has no pad
# A chat of examples becomes "<image>An image of two cats.<|endofchunk|><image>An image of", their few-shot prompt.
_EXAMPLES = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}{% if block['type'] == 'image' %}<image>{% else %}{{ block['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}<|endofchunk|>{% endif %}{% endfor %}"
)
_GATED = "cross_attention_every, or OpenFlamingo's weights, put gated layers before every n-th layer"


def is_flamingo(checkpoint: Mapping[str, torch.Tensor]) -> bool:
    return "perceiver.latents" in checkpoint


def from_file(source: str | Path, vision: str | Path, text: str | Path) -> tuple[Any, MMProcessor | None, list[str]]:
    """The model, its processor (None: the towers have none) and what was done.

    Raises: ValueError as `MMForConditionalGeneration.from_towers`.
    """
    model = MMForConditionalGeneration.from_towers(vision, text, flamingo=source)
    seen, read = Checkpoint(vision).directory, Checkpoint(text).directory
    processor, notes = _processor(seen, read, model.config)
    numbers = sum(weight.numel() for weight in model.parameters())
    gated = len(model.config.text_config.cross_attention_layers)
    lines = [
        f"source: {source} (flamingo), vision: {vision}, text: {text}",
        f"model: {type(model).__name__}, {numbers / 1e6:.1f} M parameters, {model.dtype}",
        f"tensors: {len(Checkpoint(source))} in the file, {gated} gated layers; the rest is the towers'",
    ]
    return model, processor, lines + [f"note: {note}" for note in notes]


def _processor(seen: Path | None, read: Path | None, config: MMConfig) -> tuple[MMProcessor | None, list[str]]:
    """The towers' image processor and tokenizer, with OpenFlamingo's tokens after its own."""
    parts, notes = {"image_processor": image_processor_of(seen), "tokenizer": tokenizer_of(read)}, []
    tokenizer, text = parts["tokenizer"], config.text_config
    if tokenizer is not None:
        first = len(tokenizer)
        added = {token: first + place for place, token in enumerate(_ADDED) if first + place < text.vocab_size}
        if tokenizer.pad_token_id is None and len(added) == len(_ADDED):
            tokenizer.pad_token = _ADDED[-1]
        eos = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
        notes += fit_tokenizer(tokenizer, added, (text.bos_token_id, eos)) + spelling_notes(tokenizer)
    missing = [name for name, part in parts.items() if part is None]
    if missing:
        notes.append(f"the towers have no {' and no '.join(missing)}: the model is converted without")
    found: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    if tokenizer is not None:
        found |= {
            "placeholders": {"image": _ADDED[1]},
            "tokens_per_item": {"image": config.vision_resampler_config.num_latents},
            "media_reading": "last",
            "chat_template": _EXAMPLES,
        }
    return (MMProcessor(**found) if found else None), notes


# ---- back ----------------------------------------------------------------------------------------------------------


def write_back(
    config: MMConfig, source: Mapping[str, torch.Tensor], out: Path, vision: str | Path, text: str | Path
) -> list[str]:
    """Writes the tensors of an MM directory as OpenFlamingo's file, and says what it holds.

    Raises: ValueError for a model that is no Flamingo of these towers, or whose vision tower was trained.
    """
    if out.suffix != ".pt":
        raise ValueError(
            f"--to {NAME} writes one file with the trained weights, without the towers; {out} does not end in .pt"
        )
    seen, words = vision_tower(vision), text_tower(text)
    new = config.text_config.cross_attention_layers
    if seen is None or not new or config.vision_resampler_config is None or config.text_config.unimodal_layers:
        raise ValueError(f"this model is no Flamingo: a ViT, a perceiver, and {_GATED} of a decoder")
    result = _trained(source, new, Names.of(words[0]))
    weights = FlamingoWeights(Sized(result))  # pyright: ignore[reportArgumentType]: shapes are all it reads
    check_returns(config, flamingo_config(seen[1], words[1], weights), "OpenFlamingo of these towers")
    more = _of_decoder(source, words, weights)
    moved = _changed(source, "model.vision_tower.", seen[1].table.under("", "model.vision_tower."), seen[0])
    raise_faults("OpenFlamingo's file has no place for a vision tower that was trained", sorted(moved))
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(result | more, out)
    trained = f", {len(more)} of the decoder that differ from {text}" if more else ""
    return [f"wrote OpenFlamingo: {len(result)} tensors{trained}"]


class Sized(dict[str, torch.Tensor]):
    """Tensors that have only shapes, as a checkpoint has."""

    source = "an MM model"

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)


def _under(source: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name: source[name] for name in source if name.startswith(prefix)}


def _trained(source: Mapping[str, torch.Tensor], new: list[int], names: Names) -> dict[str, torch.Tensor]:
    """The resampler, the gated layers and the embeddings."""
    table = PERCEIVER.under("perceiver.", "model.vision_resampler.")
    wanted = _under(source, "model.vision_resampler.")
    for count, number in enumerate(new):
        here = f"model.language_model.layers.{number}."
        table += BLOCK.under(names.gated(number - count), here)
        wanted |= _under(source, here)
    embeddings = source["model.language_model.embed_tokens.weight"].clone()
    return table.restore(wanted) | {names.root + names.embeddings: embeddings}


def _of_decoder(
    source: Mapping[str, torch.Tensor], words: tuple[Checkpoint, TowerPlan], weights: FlamingoWeights
) -> dict[str, torch.Tensor]:
    """Weights that differ from their tower: name inside OpenFlamingo -> tensor."""
    tower, plan = words
    places = Insertion(plan.settings["num_hidden_layers"], weights.every)
    names, prefix = Names.of(tower), "model.language_model."
    grow = grown(len(source[f"{prefix}embed_tokens.weight"]))
    own = replace(places.table(plan.table), new={}).under("", prefix)
    gated = tuple(f"{prefix}layers.{number}." for number in places.new)
    found = _changed(source, prefix, own, tower, apart=(*gated, f"{prefix}embed_tokens."))
    heads = plan.head.restore(_under(source, "lm_head."))
    before = {name: grow.forward([tower[name]])[0][0] for name in heads if name in tower}
    found |= {name: head for name, head in heads.items() if not _same(name, head, before)}
    return {names.inside(name): tensor for name, tensor in found.items()}


def _changed(
    source: Mapping[str, torch.Tensor],
    prefix: str,
    table: KeyTable,
    tower: Mapping[str, torch.Tensor],
    apart: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """What of a tower, its tensors under `prefix`, is not as it was: its own name -> tensor. A layer at a time."""
    names = [name for name in source if name.startswith(prefix) and not name.startswith(apart or ("/",))]
    changed = {}
    for _, layer in groupby(sorted(names), key=lambda name: name.removeprefix(prefix).split(".")[:2]):
        restored = table.restore({name: source[name] for name in layer})
        changed |= {name: tensor for name, tensor in restored.items() if not _same(name, tensor, tower)}
    return changed


def _same(name: str, tensor: torch.Tensor, before: Mapping[str, torch.Tensor]) -> bool:
    return name in before and torch.equal(tensor, before[name])
