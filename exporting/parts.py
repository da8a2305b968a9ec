"""The parts of a model that writes, each with tensors in and tensors out, so that they can leave PyTorch.

B contexts, N items of a kind in each, R texts (R = B here), T tokens of this call, P tokens before it, S context
tokens, L sublayers that read the context or the text, Hkv key heads, D head width, V vocabulary.

    vision   pixel_values                          -> tokens of the vision tower, and its vector
    context  media and their masks, context texts  -> keys and values of every sublayer that reads them, lengths
    decoder  ids, mask, keys and values of both    -> logits; keys and values of every self sublayer, T tokens longer

Keys and values go in and out as one tensor each, their sublayers stacked. Under merged fusion the context's are those
of the self-attention, which reads media and text as one sequence; else those of the cross-attention.
"""

from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

from ..modeling_mm.core.cache import MMCache
from ..modeling_mm.core.context_rows import MMRows
from ..modeling_mm.core.prefix import MMPrefix, hold_prefix
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.towers.foreign_towers import example_of
from ..modeling_mm.towers.sound_lengths import takes_any_length

Tensors = dict[str, torch.Tensor]
Shapes = dict[str, dict[int, Any]]


class VisionPart(nn.Module):
    """(n, C, H, W) -> last_hidden_state (n, S, Dv) and, where the tower has one, pooler_output (n, Dv)."""

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.tower: Any = model.model.vision_tower

    def forward(self, pixel_values: torch.Tensor) -> Tensors:
        seen = self.tower(pixel_values=pixel_values)
        given = {"last_hidden_state": seen.last_hidden_state, "pooler_output": seen.get("pooler_output")}
        return {name: value for name, value in given.items() if value is not None}


class ContextPart(nn.Module):
    """Media and context texts, as `encode_context` takes them with their masks, to what the decoder keeps of them:
    context_keys and context_values (L, B, Hkv, S, D), context_lengths int64 (B,), the first of S that are real.

    Of the model's modalities all are given; one that a context does without is a masked blank.
    """

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.model: Any = model.model

    def forward(self, **given: torch.Tensor) -> Tensors:
        context = self.model.encode_context(**given)
        states, mask = context.last_hidden_state, context.attention_mask
        if mask is None:
            mask = states.new_ones(states.shape[:2], dtype=torch.bool)
        keys, values = self._merged(states, mask) if merges(self.model.config) else self._crossed(states)
        lengths = mask.long().sum(-1)
        return {"context_keys": keys, "context_values": values, "context_lengths": lengths}

    def _crossed(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layers = [layer.cross_attn for layer in self.model.language_model.layers if "cross" in layer.sublayers]
        keys, values = zip(*(layer.project_context(states) for layer in layers), strict=True)
        return torch.stack(keys), torch.stack(values)

    def _merged(self, states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config, cache = self.model.config, MMCache(DynamicCache(), DynamicCache())
        prefix = MMPrefix(states, mask, config.fusion_mask, config.fusion_order, config.fusion_embedding_norm)
        hold_prefix(self.model.language_model, prefix, MMRows(states.shape[0], states.shape[0]), cache)
        layers: Any = cache.cross_attention_cache.layers
        return torch.stack([layer.keys for layer in layers]), torch.stack([layer.values for layer in layers])


class DecoderPart(nn.Module):
    """One call of the decoder, the prompt's (P = 0) or a later one.

    input_ids (R, T); attention_mask (R, P + T), 1 = real; past_keys, past_values (L, R, Hkv, P, D); what ContextPart
    gives, a context for each row -> logits (R, V) of the last token, keys and values (L, R, Hkv, P + T, D).
    """

    def __init__(self, model: MMForConditionalGeneration):
        super().__init__()
        self.model: Any = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
        context_keys: torch.Tensor,
        context_values: torch.Tensor,
        context_lengths: torch.Tensor,
    ) -> Tensors:
        cache = MMCache(_filled(past_keys, past_values), _filled(context_keys, context_values))
        rows = MMRows(input_ids.shape[0], input_ids.shape[0])
        if merges(self.model.config):
            cache.hold_prefix(context_keys.shape[3], context_lengths, rows)
        else:
            cache.is_updated = dict.fromkeys(range(len(context_keys)), True)
            cache.rows, cache.context_lengths = rows, context_lengths
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        layers: Any = cache.self_attention_cache.layers
        keys, values = torch.stack([layer.keys for layer in layers]), torch.stack([layer.values for layer in layers])
        return {"logits": output.logits[:, -1], "keys": keys, "values": values}


def _filled(keys: torch.Tensor, values: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    for layer, states in enumerate(zip(keys, values, strict=True)):
        cache.update(*states, layer)
    return cache


def merges(config: Any) -> bool:
    """Whether the decoder reads media and text as one sequence."""
    return config.fusion_type == "merged" and not config.has_text_encoder


def check_exportable(model: Any) -> None:
    """Raises TypeError or ValueError for a model that these parts do not make up."""
    if not isinstance(model, MMForConditionalGeneration):
        raise TypeError(f"only MMForConditionalGeneration has these parts; got {type(model).__name__}")
    config, text = model.config, model.config.text_config
    if merges(config) and config.fusion_mask == "bidirectional":
        raise ValueError("fusion_mask='bidirectional' lets media see the text, so no context can be made before it")
    if config.media_in_text:
        raise ValueError("fusion_order='in_text' puts media inside the text, which these parts do not take")
    if config.max_tiles:
        raise ValueError("vision_config.max_tiles: a tower that reads the tiles of a picture together is not exported")
    if not any("self" in text.sublayers(i) for i in range(text.num_hidden_layers)):
        raise ValueError("the decoder has no self-attention, but a decode step needs its keys")
    if (text.rope_parameters or {}).get("rope_type") == "dynamic":
        raise ValueError(
            "rope_type='dynamic' rotates a long text again with each token, but cached keys do not change"
        )
    if text.local_attention_layers:
        raise ValueError("local_attention_layers: a decoder whose layers see a window of the text is not exported")
    for stack in (text, config.text_encoder_config):
        if stack is not None and stack.segment_length is not None:
            raise ValueError(
                "segment_length: a text that attends in segments is cut by its length, which a graph fixes"
            )
        if stack is not None and stack.needs_whole_text is not None:
            raise ValueError(f"{stack.needs_whole_text}: a text encoder with it is not exported")
    if config.audio_config is not None:
        _example(model.model.audio_tower, config.audio_config)


def _example(tower: nn.Module, config: Any) -> torch.Tensor:
    """A batch that a tower takes. Raises ValueError for a tower whose inputs are not known."""
    example = example_of(tower, config)
    if example is None:
        raise ValueError(f"what {type(config).__name__} takes is not known; known are Whisper, AST, Wav2Vec2")
    return example


def context_inputs(model: MMForConditionalGeneration) -> tuple[Tensors, Shapes]:
    """What ContextPart takes, to trace it with, and which of its dimensions may be of any size: two contexts of two
    items of every kind, and two texts of three tokens for a text encoder."""
    config, like = model.config, {"device": model.device, "dtype": model.dtype}
    kinds, contexts = config.modalities or [], Dim("contexts")
    given: Tensors = {}
    free: Shapes = {}
    picture = (*_example(model.model.vision_tower, config.vision_config).shape[1:],) if config.vision_config else ()
    if "image" in kinds:
        pictures = Dim("pictures", max=config.max_images or None)
        given |= {"pixel_values": torch.zeros(2, 2, *picture, **like)}
        given |= {"pixel_attention_mask": torch.ones(2, 2, dtype=torch.bool, device=model.device)}
        free |= dict.fromkeys(("pixel_values", "pixel_attention_mask"), {0: contexts, 1: pictures})
    if "video" in kinds:
        size = {0: contexts, 1: Dim("videos"), 2: Dim("frames", max=config.max_frames or None)}
        given |= {"pixel_values_videos": torch.zeros(2, 2, 2, *picture, **like)}
        given |= {"video_attention_mask": torch.ones(2, 2, 2, dtype=torch.bool, device=model.device)}
        free |= dict.fromkeys(("pixel_values_videos", "video_attention_mask"), size)
    if "audio" in kinds:
        clip = _example(model.model.audio_tower, config.audio_config).shape[1:]
        given |= {"input_features": torch.zeros(2, 2, *clip, **like)}
        given |= {"input_features_mask": torch.ones(2, 2, dtype=torch.bool, device=model.device)}
        size = {0: contexts, 1: Dim("clips", max=config.max_clips or None)}
        free |= dict.fromkeys(("input_features", "input_features_mask"), size)
        if kinds == ["audio"] and takes_any_length(model.model.audio_tower):  # else a blank must have a length
            free |= {"input_features": {**size, 2: Dim.AUTO}}
    if config.has_text_encoder:
        ids = torch.full((2, 3), config.text_config.bos_token_id or 0, device=model.device)
        given |= {"context_input_ids": ids, "context_attention_mask": torch.ones_like(ids)}
        size = {0: contexts, 1: Dim("context_tokens")}
        free |= dict.fromkeys(("context_input_ids", "context_attention_mask"), size)
    return given, free


def parts_of(model: MMForConditionalGeneration) -> dict[str, tuple[nn.Module, Tensors, Shapes]]:
    """{name: (part, inputs to trace it with, which of their dimensions may be of any size)}.

    Raises: TypeError or ValueError for a model that these parts do not make up.
    """
    check_exportable(model)
    text = model.config.text_config
    media, media_free = context_inputs(model)
    with torch.no_grad():
        context = ContextPart(model)(**media)
    number = sum("self" in text.sublayers(i) for i in range(text.num_hidden_layers))
    past = torch.zeros(number, 2, text.num_key_value_heads, 3, text.head_dim, device=model.device, dtype=model.dtype)
    ids = torch.full((2, 2), text.bos_token_id or 0, device=model.device)
    mask = torch.ones(2, 5, dtype=torch.int64, device=model.device)
    tokens = {"input_ids": ids, "attention_mask": mask, "past_keys": past, "past_values": past.clone(), **context}
    rows, length, before = Dim("rows"), Dim("tokens"), Dim("before")
    states, held = {1: rows, 3: before}, {1: rows, 3: Dim("size")}
    if context["context_keys"].shape[3] == 1:  # a fusion that makes one token of all
        held.pop(3)
    free = {
        "input_ids": {0: rows, 1: length}, "attention_mask": {0: rows, 1: Dim.AUTO}, "past_keys": states,
        "past_values": states, "context_keys": held, "context_values": held, "context_lengths": {0: rows},
    }  # fmt: skip
    parts = {"context": (ContextPart(model), media, media_free), "decoder": (DecoderPart(model), tokens, free)}
    if model.config.vision_config is None:
        return parts
    picture = _example(model.model.vision_tower, model.config.vision_config)
    pictures = {"pixel_values": torch.zeros(2, *picture.shape[1:], device=model.device, dtype=model.dtype)}
    return {"vision": (VisionPart(model), pictures, {"pixel_values": {0: Dim("pictures")}}), **parts}
