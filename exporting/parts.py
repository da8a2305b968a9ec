"""The parts of a model that writes, each with tensors in and tensors out, so that they can leave PyTorch.

B pictures and as many texts, T tokens of this call, P tokens before it, S context tokens, L cross or self sublayers,
Hkv key heads, D head width, V vocabulary.

    vision   pixel_values                        -> tokens of the vision tower, and its vector
    context  pixel_values                        -> keys and values of every cross sublayer
    decoder  ids, mask, keys and values of both  -> logits; keys and values of every self sublayer, T tokens longer

Keys and values go in and out as one tensor each, their sublayers stacked.
"""

# The parts take models whose towers and caches were checked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

from ..modeling_mm.cache import MMCache
from ..modeling_mm.generation import MMForConditionalGeneration
from ..modeling_mm.rows import MMRows


class VisionPart(nn.Module):
    """(B, C, H, W) -> last_hidden_state (B, S, Dv) and pooler_output (B, Dv)."""

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.tower = model.model.vision_tower

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.tower(pixel_values=pixel_values)
        return {"last_hidden_state": seen.last_hidden_state, "pooler_output": seen.pooler_output}


class ContextPart(nn.Module):
    """(B, C, H, W) -> context_keys and context_values (L, B, Hkv, S, D)."""

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        context = self.model.encode_context(pixel_values=pixel_values).last_hidden_state
        layers = [layer.cross_attn for layer in self.model.language_model.layers if "cross" in layer.sublayers]
        keys, values = zip(*(layer.project_context(context) for layer in layers), strict=True)
        return {"context_keys": torch.stack(keys), "context_values": torch.stack(values)}


class DecoderPart(nn.Module):
    """One call of the decoder, the prompt's (P = 0) or a later one.

    input_ids (B, T); attention_mask (B, P + T), 1 = real; past_keys, past_values (L, B, Hkv, P, D); context_keys,
    context_values (L, B, Hkv, S, D) -> logits (B, V) of the last token, keys and values (L, B, Hkv, P + T, D).
    """

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        context_keys: torch.Tensor,
        context_values: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        cache = MMCache(_filled(past_keys, past_values), _filled(context_keys, context_values))
        cache.is_updated = dict.fromkeys(range(len(context_keys)), True)
        cache.rows = MMRows(input_ids.shape[0], context_keys.shape[1])
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        layers = cache.self_attention_cache.layers
        keys, values = torch.stack([layer.keys for layer in layers]), torch.stack([layer.values for layer in layers])
        return {"logits": output.logits[:, -1], "keys": keys, "values": values}


def _filled(keys: torch.Tensor, values: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    for layer, states in enumerate(zip(keys, values, strict=True)):
        cache.update(*states, layer)
    return cache


def check_exportable(model: Any) -> None:
    """Raises TypeError or ValueError for a model that these parts do not make up."""
    if not isinstance(model, MMForConditionalGeneration):
        raise TypeError(f"only MMForConditionalGeneration has these parts; got {type(model).__name__}")
    config = model.config
    if config.has_text_encoder or config.fusion_type != "cross_attention" or config.vision_config is None:
        raise ValueError(
            "the parts are those of a model that cross-attends to one picture: fusion_type='cross_attention', a "
            "vision tower and no text encoder"
        )
    if not any("self" in config.text_config.sublayers(i) for i in range(config.text_config.num_hidden_layers)):
        raise ValueError("the decoder has no self-attention, whose keys a decode step could go on with")


def parts_of(model: MMForConditionalGeneration) -> dict[str, tuple[nn.Module, dict[str, torch.Tensor], dict]]:
    """{name: (part, inputs to trace it with, which of their dimensions may be of any size)}.

    Raises: TypeError or ValueError for a model that these parts do not make up.
    """
    check_exportable(model)
    config, text = model.config, model.config.text_config
    like = {"device": model.device, "dtype": model.dtype}
    size = config.vision_config.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    pictures = {"pixel_values": torch.zeros(2, config.vision_config.num_channels, height, width, **like)}
    with torch.no_grad():
        context = ContextPart(model)(**pictures)
    number = sum("self" in text.sublayers(i) for i in range(text.num_hidden_layers))
    past = torch.zeros(number, 2, text.num_key_value_heads, 3, text.head_dim, **like)
    ids = torch.full((2, 2), text.bos_token_id or 0, device=model.device)
    mask = torch.ones(2, 5, dtype=torch.int64, device=model.device)
    tokens = {"input_ids": ids, "attention_mask": mask, "past_keys": past, "past_values": past.clone(), **context}
    rows, length, before = Dim("rows"), Dim("tokens"), Dim("before")
    states, held = {1: rows, 3: before}, {1: rows}
    free = {
        "input_ids": {0: rows, 1: length}, "attention_mask": {0: rows, 1: Dim.AUTO}, "past_keys": states,
        "past_values": states, "context_keys": held, "context_values": held,
    }  # fmt: skip
    of_pictures = {"pixel_values": {0: rows}}
    return {
        "vision": (VisionPart(model), pictures, of_pictures),
        "context": (ContextPart(model), pictures, of_pictures),
        "decoder": (DecoderPart(model), tokens, free),
    }
