"""Idefics, the first (Laurençon et al. 2023, arXiv:2306.16527): Flamingo's kind of model, of a CLIP and a Llama.

    vision_model, perceiver_resampler       vision tower, resampler (in some none)
    gated_cross_attn_layers.{n}             a layer of [cross, mlp] before every so many-th of the Llama's
    embed_tokens, additional_embedding      one table of embeddings, as of lm_head and its additional_fc

A token reads the last picture before it. Where there is none only the attention of such a layer is left out, in a row
without pictures too: MM's `cross_attention_unread="attention"`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import IdeficsConfig

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from ..weights.idefics_names import (
    RESAMPLER,
    RESAMPLER_FIELDS,
    TEXT_FIELDS,
    VISION_FIELDS,
    gated_places,
    text_table,
    vocabulary_table,
)
from ..weights.key_table import KeyTable, raise_faults
from ..weights.vision_names import CLIP_VISION
from .family import Family, Layout, Plan, check_architecture
from .llava import chat_template

_ARCHITECTURE = "IdeficsForVisionText2Text"
_IMAGE, _AROUND = "<image>", "<fake_token_around_image>"


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "idefics"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for settings that MM lacks."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config: Any = source_config(checkpoint.config)
    layers, every, more = config.num_hidden_layers, config.cross_layer_interval, config.additional_vocab_size
    if layers % every:
        raise ValueError(
            f"cross_layer_interval={every} does not divide num_hidden_layers={layers}: its own class then lacks a "
            "gated layer and does not run"
        )
    tied, has_vectors = bool(config.tie_word_embeddings), config.alpha_type == "vector"
    made = MMConfig(
        vision_config=VISION_FIELDS.convert(config.vision_config),
        vision_resampler_config=_resampler(config) if config.use_resampler else None,
        text_config=_text(config),
        fusion_type="cross_attention",
        projector_type="none",
        lm_head_transform=False,
        lm_head_bias=False,
        tie_word_embeddings=tied,
    )
    table = CLIP_VISION.under("model.vision_model.", "model.vision_tower.")
    table += text_table(layers, every, has_vectors).under("model.", "model.language_model.")
    table += vocabulary_table(config.vocab_size, more, tied)
    if config.use_resampler:
        table += RESAMPLER.under("model.perceiver_resampler.", "model.vision_resampler.")
    template = chat_template(checkpoint)
    processor = {
        "placeholders": {"image": _IMAGE},
        "tokens_per_item": {"image": made.tokens_per_image},
        "media_reading": "last",
        "placeholder_separator": _AROUND,
    }
    return Plan(
        MMForConditionalGeneration,
        made,
        table + KeyTable(),
        processor=processor | ({} if template is None else {"chat_template": template}),
    )


def _resampler(config: Any) -> dict[str, Any]:
    perceiver, width = config.perceiver_config, config.vision_config.embed_dim
    norm = "layer_norm" if perceiver.qk_layer_norms_perceiver else "none"
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "qk_norm": norm}
    return {**RESAMPLER_FIELDS.convert(perceiver), **sizes}


def _text(config: Any) -> dict[str, Any]:
    layers, every = config.num_hidden_layers, config.cross_layer_interval
    return TEXT_FIELDS.convert(config) | {
        "vocab_size": config.vocab_size + config.additional_vocab_size,
        "num_hidden_layers": layers + layers // every,
        "cross_attention_layers": gated_places(layers, every),
        "cross_attention_gate": "tanh_vector" if config.alpha_type == "vector" else "tanh",
        "cross_attention_qk_norm": "rms_norm" if config.qk_layer_norms else "none",
        "cross_attention_hidden_size": config.vision_config.embed_dim,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.dropout,
    }


def layout(model: Any) -> Layout:
    """The layout of an MM model built as an Idefics; raises ValueError for another. One that came from elsewhere has
    all its words in one table."""
    config, tower, text = model.config, model.config.vision_config, model.config.text_config
    resampler: Any = config.vision_resampler_config
    crossing = text.cross_attention_layers or []
    every = (crossing[1] if len(crossing) > 1 else text.num_hidden_layers) - 1
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    wrong += [] if config.modalities == ["image"] else [f"modalities={config.modalities}, not only pictures"]
    if every < 1 or crossing != gated_places(text.num_hidden_layers - len(crossing), every):
        wrong.append(f"cross_attention_layers={crossing}, not one before every so many-th layer from the first on")
    raise_faults("Idefics wants a ViT, a Llama and layers of their own that read pictures", wrong)
    perceiver = {}
    if resampler is not None:
        perceiver = RESAMPLER_FIELDS.restore(resampler) | {
            "use_resampler": True,
            "qk_layer_norms_perceiver": resampler.qk_norm == "layer_norm",
        }
    tied = config.tie_word_embeddings
    source = IdeficsConfig(
        **TEXT_FIELDS.restore(text),
        vision_config=VISION_FIELDS.restore(tower),
        perceiver_config=perceiver,
        use_resampler=resampler is not None,
        vocab_size=text.vocab_size,
        additional_vocab_size=0,
        num_hidden_layers=text.num_hidden_layers - len(crossing),
        cross_layer_interval=every,
        alpha_type="vector" if text.cross_attention_gate == "tanh_vector" else "float",
        qk_layer_norms=text.cross_attention_qk_norm == "rms_norm",
        dropout=text.hidden_dropout,
        tie_word_embeddings=tied,
    )
    names = ("model.embed_tokens.weight",)
    return Layout(source, _ARCHITECTURE, names, "IdeficsImageProcessor", "IdeficsProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """No picture, a picture before each text, and two of which the second is in the middle."""
    size, found = ours.config.tokens_per_image, {}
    rows, length = given.input_ids.shape
    pixels = torch.stack([given.pixel_values, given.pixel_values.flip(-1)], dim=1)
    text = {"input_ids": given.input_ids, "attention_mask": given.attention_mask, "use_cache": False}
    real, middle = given.attention_mask.bool(), length // 2
    for name, starts in (
        ("logits without pictures", ()),
        ("logits", (0, middle)),
        ("logits of one inside", (middle,)),
    ):
        sees, ranges = torch.zeros(rows, length, 2, dtype=torch.long), torch.zeros(rows, length, 2, dtype=torch.long)
        for number, start in enumerate(starts):
            sees[:, start:], ranges[:, start:] = 0, torch.tensor([number * size, (number + 1) * size])
            sees[:, start:, number] = 1
        there = theirs(**text, pixel_values=pixels, image_attention_mask=sees).logits
        media = {"pixel_values": pixels, "context_ranges": ranges} if starts else {}
        found[name] = (ours(**text, **media).logits[real], there[real])
    return found


FAMILY = Family("idefics", recognises, plan, layout, compare, decodes_by_config=True)
