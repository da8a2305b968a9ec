"""Published models to convert: the installed classes with random weights, as they are saved."""

# Fixtures build models whose types pyright cannot follow.
# pyright: reportArgumentType=false

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertTokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the red blue cat dog on mat what is how many of picture two . ?".split()
# Logits of the same weights in another order of operations.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every tensor counts: norms, biases, tokens and positions too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim > 1 and weight.shape[0] > 1:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.3 * noise)
        tie = getattr(model, "tie_weights", None)
        if tie is not None:
            tie()
    return model.eval()


@pytest.fixture
def peer() -> Callable[..., Any]:
    """`peer(class, config)`: the installed model with random weights, in evaluation mode."""

    def build(cls, config, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return randomised(cls(copy.deepcopy(config)), seed)  # models write into their configs

    return build


@pytest.fixture
def saved(tmp_path) -> Callable[..., Path]:
    """`saved(model, *parts)`: a directory with the model and its processor's parts, as published."""

    def save(model, *parts, name: str = "source") -> Path:
        directory = tmp_path / name
        model.save_pretrained(directory)
        for part in parts:
            part.save_pretrained(directory)
        return directory

    return save


@pytest.fixture
def tensors_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The tensors of a directory's model.safetensors."""
    return lambda directory: load_file(directory / "model.safetensors")


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    """A BERT tokenizer of few words; ids 0 to 4 are [PAD] [UNK] [CLS] [SEP] [MASK]."""
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n")
    return BertTokenizer(str(file))


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """`assert_close(ours, theirs)`: equal within the tolerance of their dtype."""

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert ours.shape == theirs.shape
        assert (ours - theirs).detach().abs().max() <= TOLERANCES[ours.dtype] * max(
            1.0, float(theirs.detach().abs().max())
        )

    return check


@pytest.fixture
def original_names() -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """`original_names(tensors)`: a BLIP of Transformers as a file of the original code, whose ViT is timm's."""

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        swaps = (
            ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
            ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
            ("vision_model.post_layernorm", "visual_encoder.norm"),
            ("vision_model.encoder.layers", "visual_encoder.blocks"),
            ("layer_norm", "norm"), ("self_attn.projection", "attn.proj"), ("self_attn.qkv", "attn.qkv"),
        )  # fmt: skip
        renamed = {}
        for name, tensor in tensors.items():
            for old, new in swaps:
                name = name.replace(old, new)
            renamed[name] = tensor
        if "text_decoder.cls.predictions.bias" not in renamed:  # it only reads
            return renamed
        positions = renamed["text_decoder.bert.embeddings.position_embeddings.weight"]
        renamed["text_decoder.bert.embeddings.position_ids"] = torch.arange(len(positions))[None]
        renamed["text_decoder.cls.predictions.decoder.weight"] = renamed[
            "text_decoder.bert.embeddings.word_embeddings.weight"
        ]
        renamed["text_decoder.cls.predictions.decoder.bias"] = renamed["text_decoder.cls.predictions.bias"]
        return renamed

    return rename
