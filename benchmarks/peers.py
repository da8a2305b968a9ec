"""Transformers' models with random weights, the same weights in MM, and what both are given."""

import tempfile
from typing import Any

import harness
import torch
import transformers
from torch import nn

import mm

Sizes = dict[str, int]  # fields of towers and texts that are not those of the published models
FULL: Sizes = {}
FLAT: Sizes = {"num_hidden_layers": 3}  # of --quick
MEDIUM: Sizes = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}


def sizes_of(report: harness.Report) -> Sizes:
    return MEDIUM if report.asked.tiny else FLAT if report.asked.quick else FULL


def small(sizes: Sizes) -> bool:
    """Whether pictures are smaller, too."""
    return "hidden_size" in sizes


def drawn(peer: Any) -> Any:
    """The peer in eval mode with random weights under which pictures and earlier tokens decide the next one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "norm" in name.lower() or "ln_" in name:
                weight.copy_(float(name.endswith("weight")) + 0.1 * torch.randn(weight.shape, generator=generator))
            elif "logit_" not in name:
                weight.copy_(spread(name, weight) * torch.randn(weight.shape, generator=generator))
    return peer.eval()


def spread(name: str, weight: torch.Tensor) -> float:
    if weight.ndim == 1:
        return 0.02
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0.05 if weight.ndim < 4 else weight[0].numel() ** -0.5
    return 0.7 * weight[0].numel() ** -0.5


def converted(peer: nn.Module) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)  # type: ignore[operator]
        return mm.convert(folder).model.eval()


def blip(sizes: Sizes, kind: Any = transformers.BlipForConditionalGeneration, size: int = 384) -> tuple[Any, Any, int]:
    """A BLIP-base of Transformers, the same in MM, and the side of its pictures in pixels."""
    size = 192 if small(sizes) else size
    text = {**sizes, "encoder_hidden_size": sizes["hidden_size"]} if small(sizes) else sizes
    config = transformers.BlipConfig(vision_config={"image_size": size, **sizes}, text_config=text)
    peer = drawn(kind(config))
    return peer, converted(peer), size


def vit_gpt2(sizes: Sizes) -> tuple[Any, Any]:
    """A VisionEncoderDecoder of ViT-base and GPT-2 for pictures of 224 x 224, and the same in MM."""
    names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    of_decoder = {ours: sizes[name] for name, ours in names.items() if name in sizes}
    ends = {"bos_token_id": 50256, "eos_token_id": 50256}
    decoder = transformers.GPT2Config(is_decoder=True, add_cross_attention=True, **of_decoder, **ends)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**sizes), decoder, decoder_start_token_id=50256, pad_token_id=50256, eos_token_id=50256
    )
    peer = drawn(transformers.VisionEncoderDecoderModel(config=config))
    peer.generation_config.update(decoder_start_token_id=50256, pad_token_id=50256, eos_token_id=50256)
    return peer, converted(peer)


def starts(peer: Any, batch: int) -> torch.Tensor:
    """(B, 1): the token that texts begin with."""
    return torch.full((batch, 1), peer.config.text_config.bos_token_id)


def pictures(batch: int, size: int) -> torch.Tensor:
    """float (B, 3, size, size): random fields of colour."""
    fields = torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(fields, size=(size, size))


def words(rows: int, length: int, least: int = 1000) -> torch.Tensor:
    return torch.randint(least, least + 900, (rows, length), generator=torch.Generator().manual_seed(1))


def search(beams: int, tokens: int = 20) -> dict[str, Any]:
    return {"num_beams": beams, "min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}


def named(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"
