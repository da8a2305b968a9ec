"""Inference beside transformers' classes, of the same weights: writing, answering, comparing pictures with texts.

    OMP_NUM_THREADS=2 python benchmarks/inference.py --log benchmarks/logs/inference.txt
    python benchmarks/inference.py blip siglip          # some models
    OMP_NUM_THREADS=1 python benchmarks/inference.py --quick  # some rows, three layers a stack; half a ratio is enough
    python benchmarks/inference.py --tiny               # small models: only equality is wanted

Each peer is built from its config class with random weights, saved, and read by `mm.convert`. Tokens are equal, or
embeddings to 1e-5, before anything is timed. New tokens are 20 (answers: 6): the end is forbidden until then.
"decoding" is generate() from an encoded context, against the peer's text decoder from outputs of its vision tower.

The table wants ratios of wall time; --quick wants ratios of CPU time, which a busy machine changes less with one
thread (threads that wait for each other count as busy).
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import harness
import torch
import transformers
from harness import Report, Row
from peers import blip as blip_pair
from peers import converted, drawn, named, pictures, search, sizes_of, small, starts, words
from peers import vit_gpt2 as vit_gpt2_pair
from torch import nn


def blip(report: Report) -> Iterator[Row]:
    peer, model, size = blip_pair(sizes_of(report))
    text = peer.config.text_config
    ends = {"eos_token_id": text.sep_token_id, "pad_token_id": text.pad_token_id, "attention_mask": None}
    for batch, beams, whole, decoding in ((8, 5, 3.6, 6.0), (2, 5, 2.2, 2.6), (4, 1, 1.35, 0), (8, 1, 1.35, 0)):
        pixels, ids, settings = pictures(batch, size), starts(peer, batch), search(beams)
        name = f"BLIP, {named(beams)}, batch {batch}"
        ours = partial(model.generate, pixel_values=pixels, input_ids=ids, **settings)
        yield Row(name, ours, partial(peer.generate, pixel_values=pixels, **settings), whole)
        if decoding:
            states = peer.vision_model(pixels).last_hidden_state
            mask = torch.ones(states.shape[:2], dtype=torch.long)
            given = {"encoder_hidden_states": states, "encoder_attention_mask": mask, **ends}
            ours = partial(
                model.generate, encoder_outputs=model.encode_context(pixel_values=pixels), input_ids=ids, **settings
            )
            theirs = partial(peer.text_decoder.generate, input_ids=ids, **given, **settings)
            yield Row(f"{name}, decoding", ours, theirs, decoding, quick=3 * (batch == 2))


def git(report: Report) -> Iterator[Row]:
    sizes = sizes_of(report)
    config = transformers.GitConfig(vision_config={**sizes}, **sizes)
    peer = drawn(transformers.GitForCausalLM(config))
    model = converted(peer)
    for batch, beams, wanted in ((4, 4, 4.0), (2, 4, 2.8), (4, 1, 1.2)):
        pixels, ids = pictures(batch, 224), torch.full((batch, 1), config.bos_token_id)
        settings = search(beams)
        yield Row(
            f"GIT, {named(beams)}, batch {batch}",
            partial(model.generate, pixel_values=pixels, input_ids=ids, **settings),
            partial(peer.generate, pixel_values=pixels, input_ids=ids, **settings),
            wanted,
            quick=3 * ((batch, beams) == (2, 4)),
        )


def vit_gpt2(report: Report) -> Iterator[Row]:
    peer, model = vit_gpt2_pair(sizes_of(report))
    pixels = pictures(4, 224)
    for beams, wanted in ((4, 2.2), (1, 1.2)):
        settings = search(beams)
        yield Row(
            f"ViT-GPT2, {named(beams)}, batch 4",
            partial(model.generate, pixel_values=pixels, **settings),
            partial(peer.generate, pixel_values=pixels, **settings),
            wanted,
        )


def donut(report: Report) -> Iterator[Row]:
    """Donut of base size: pages of 1280 x 960 pixels (as CORD's) are 1,200 tokens, read once, by both."""
    sizes = sizes_of(report)
    swin = {"image_size": [1280, 960], "depths": [2, 2, 14, 2], "window_size": 10, "embed_dim": 128,
            "num_heads": [4, 8, 16, 32]}  # fmt: skip
    text = {"vocab_size": 57580, "d_model": 1024, "decoder_layers": 4, "max_position_embeddings": 768}
    if small(sizes):
        swin = {"image_size": [160, 160], "depths": [1, 1], "window_size": 5, "embed_dim": 96, "num_heads": [3, 6]}
        text |= {"d_model": 192, "decoder_attention_heads": 4, "decoder_ffn_dim": 768}
    decoder = transformers.MBartConfig(**text, scale_embedding=True, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.DonutSwinConfig(**swin), decoder, decoder_start_token_id=2, pad_token_id=1, eos_token_id=2
    )
    peer = drawn(transformers.VisionEncoderDecoderModel(config=config))
    peer.generation_config.update(decoder_start_token_id=2, pad_token_id=1, eos_token_id=2, forced_eos_token_id=None)
    model = converted(peer)
    fields = torch.randn(2, 3, 12, 9, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.interpolate(fields, size=swin["image_size"])
    context, states = model.encode_context(pixel_values=pixels), peer.encoder(pixels).last_hidden_state
    seen = transformers.modeling_outputs.BaseModelOutput
    yield Row(
        "Donut, 4 beams, batch 2, decoding",
        partial(model.generate, encoder_outputs=context, **search(4)),
        lambda: peer.generate(encoder_outputs=seen(states), **search(4)),  # it repeats the rows of what it is given
        2.0,
    )


def vqa(report: Report) -> Iterator[Row]:
    peer, model, size = blip_pair(sizes_of(report), transformers.BlipForQuestionAnswering)
    pixels, questions, settings = pictures(1, size), words(16, 12), search(1, 6)
    yield Row(
        "BLIP-VQA, 16 questions about one picture",
        partial(model.generate, pixel_values=pixels, context_input_ids=questions, **settings),
        partial(peer.generate, pixel_values=pixels.expand(16, -1, -1, -1), input_ids=questions, **settings),
        7.5,
        quick=1,
    )


def llava(report: Report) -> Iterator[Row]:
    """A SigLIP-base tower of 576 tokens and a text of 0.3 B: beams, and 16 questions about one picture."""
    sizes = sizes_of(report)
    size, image = (96 if small(sizes) else 384), 31_999
    text = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16}
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(image_size=size, patch_size=16, **sizes),
        text_config=transformers.LlamaConfig(**{**text, **sizes}, pad_token_id=0),
        image_token_index=image,
        vision_feature_select_strategy="full",
    )
    peer = drawn(transformers.LlavaForConditionalGeneration(config))
    model, count = converted(peer), (size // 16) ** 2

    def asked(rows: int, length: int) -> dict[str, torch.Tensor]:
        opening = torch.tensor([[1] + [image] * count]).expand(rows, -1)
        ids = torch.cat([opening, words(rows, length)], dim=1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    settings = search(5, 24) | {"suppress_tokens": [image]}
    pixels, given = pictures(2, size), asked(2, 12)
    context = model.encode_context(pixel_values=pixels)
    embeds = peer.get_input_embeddings()(given["input_ids"])
    seen = peer.get_image_features(pixel_values=pixels).pooler_output
    embeds[:, 1 : 1 + count] = torch.stack(list(seen))
    mask = given["attention_mask"]
    yield Row(
        "LLaVA, 5 beams, batch 2, decoding",
        lambda: model.generate(**given, encoder_outputs=context, **settings)[:, -24:],
        lambda: peer.generate(inputs_embeds=embeds, attention_mask=mask, **settings)[:, -24:],
        2.5,
    )
    settings, given = search(1, 24) | {"suppress_tokens": [image]}, asked(16, 12)
    one, index = pixels[:1], torch.zeros(16, dtype=torch.long)
    yield Row(
        "LLaVA, 16 questions about one picture",
        partial(model.generate, **given, pixel_values=one, context_index=index, **settings),
        partial(peer.generate, **given, pixel_values=one.expand(16, -1, -1, -1), **settings),
        6.0,
    )


class Seen(nn.Module):
    """In place of a Llama 3.2 Vision's tower: what it made of the pictures, once for each row of pixels."""

    def __init__(self, tower: Any, **given: torch.Tensor):
        super().__init__()
        self.num_patches, self.seen = tower.num_patches, tower(**given).last_hidden_state

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> Any:
        rows = len(pixel_values) // len(self.seen)
        return transformers.modeling_outputs.BaseModelOutput(self.seen.repeat_interleave(rows, 0))


def mllama(report: Report) -> Iterator[Row]:
    """Llama 3.2 Vision's shape in small: four tiles of 1025 tokens each, a text of 16 layers and 4 that read them.
    Both decode from outputs of the tower, which the peer runs once for each beam."""
    sizes, tiles = sizes_of(report), 4
    size = 112 if small(sizes) else 448
    vision = {"hidden_size": 384, "intermediate_size": 1536, "attention_heads": 6, "num_hidden_layers": 6,
              "num_global_layers": 2, "intermediate_layers_indices": [1, 2], "vision_output_dim": 3 * 384}  # fmt: skip
    text = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 20, "num_attention_heads": 16,
            "num_key_value_heads": 4, "cross_attention_layers": [1] if sizes else [3, 8, 13, 18],
            "vocab_size": 31_992, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **sizes}  # fmt: skip
    config = transformers.MllamaConfig(
        vision_config={**vision, "image_size": size, "patch_size": 14}, text_config=text, image_token_index=31_992
    )
    peer = drawn(transformers.MllamaForConditionalGeneration(config))
    model, grids = converted(peer), torch.tensor([2, 2]).expand(2, 1, 2)
    pixels = pictures(2 * tiles, size).unflatten(0, (2, tiles))
    ids = torch.cat([torch.tensor([[31_992, 1]]).expand(2, -1), words(2, 12)], dim=1)
    given, settings = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, search(5, 24)
    context = model.encode_context(pixel_values=pixels, image_grids=grids)
    ranges = torch.tensor([0, model.config.tokens_per_image]).expand(2, ids.shape[1], 2)
    about = {
        "pixel_values": pixels[:, None],
        "aspect_ratio_ids": model.model.vision_tower.tiles.numbers(grids),
        "aspect_ratio_mask": torch.ones(2, 1, tiles, dtype=torch.long),
    }
    peer.model.vision_model = Seen(peer.model.vision_model, **about)
    sees = torch.ones(2, ids.shape[1], 1, tiles, dtype=torch.long)
    yield Row(
        "Llama 3.2 Vision, 5 beams, batch 2, decoding",
        partial(model.generate, **given, encoder_outputs=context, context_ranges=ranges, **settings),
        partial(peer.generate, **given, **about, cross_attention_mask=sees, **settings),
        2.0,
        quick=1,
    )


def pooled(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def clip(report: Report) -> Iterator[Row]:
    sizes = sizes_of(report)
    config = transformers.CLIPConfig(vision_config=sizes, text_config={**sizes, "eos_token_id": 49407})
    peer = drawn(transformers.CLIPModel(config))
    model = converted(peer)
    ids = words(32, 77)
    ids[:, -1] = 49407
    yield from compared("CLIP", model, peer, pictures(32, 224), {"input_ids": ids})
    short = {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids)}
    for row, length in enumerate(torch.linspace(6, 40, 32).long().tolist()):
        short["input_ids"][row, length:] = 49407
        short["attention_mask"][row, length + 1 :] = 0
    yield Row(
        "CLIP, 32 texts of 7 to 41 tokens in 77",
        lambda: pooled(model.get_text_features(**short)),
        lambda: pooled(peer.get_text_features(**short)),
        1.5,
        1e-5,
        quick=5,
    )


def siglip(report: Report) -> Iterator[Row]:
    sizes = sizes_of(report)
    peer = drawn(transformers.SiglipModel(transformers.SiglipConfig(vision_config=sizes, text_config=sizes)))
    yield from compared("SigLIP", converted(peer), peer, pictures(32, 224), {"input_ids": words(32, 64)})


def compared(name: str, model: Any, peer: Any, pixels: torch.Tensor, texts: dict[str, torch.Tensor]) -> Iterator[Row]:
    def vectors(side: Any) -> torch.Tensor:
        found = pooled(side.get_image_features(pixel_values=pixels)), pooled(side.get_text_features(**texts))
        return torch.cat([nn.functional.normalize(part, dim=-1) for part in found])

    yield Row(f"{name}, 32 pictures and texts", lambda: vectors(model), lambda: vectors(peer), 1.0, 1e-5)


MODELS: dict[str, harness.Group] = {
    "blip": blip, "git": git, "vit-gpt2": vit_gpt2, "donut": donut, "vqa": vqa, "llava": llava,
    "mllama": mllama, "clip": clip, "siglip": siglip,
}  # fmt: skip
QUICK = ("blip", "git", "vqa", "clip")  # models that have rows of --quick


def main(arguments: list[str] | None = None) -> int:
    with torch.no_grad():
        return harness.table(harness.options(__doc__), MODELS, arguments, QUICK)


if __name__ == "__main__":
    sys.exit(main())
