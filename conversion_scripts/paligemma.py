"""PaliGemma (Beyer et al. 2024, arXiv:2407.07726) and PaliGemma 2 (Steiner et al. 2024, arXiv:2412.03555): a SigLIP, a
linear projector and a Gemma, or a Gemma 2.

Pictures stand before the text and its bos. A prompt and its pictures see each other both ways, an answer what comes
before it: MM's `bidirectional_prompt`. Theirs counts positions from 1, which rotary positions do not tell from 0.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PaliGemmaConfig

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from ..weights.gemma_names import GEMMA_FIELDS, gemma_2_plan, gemma_2_settings, gemma_plan
from ..weights.key_table import KeyTable, raise_faults
from ..weights.vision_names import SIGLIP_FIELDS, siglip_vision_plan
from .family import Family, Layout, Plan, check_architecture

_ARCHITECTURE = "PaliGemmaForConditionalGeneration"
_TOKEN = "<image>"
_VISION = "siglip_vision_model"
_TEXTS = {"gemma": gemma_plan, "gemma2": gemma_2_plan}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "paligemma"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another tower or text, and for settings that MM lacks."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config: Any = source_config(checkpoint.config)
    known = {"vision_config": (_VISION,), "text_config": tuple(_TEXTS)}
    found = {part: getattr(config, part).model_type for part in known}
    wrong = [part for part in known if found[part] not in known[part]]
    faults = [f"{part}.model_type={found[part]!r}; known: {', '.join(known[part])}" for part in wrong]
    raise_faults("this PaliGemma has what MM lacks", faults)
    names, gemma = list(checkpoint), copy.copy(config.text_config)
    gemma.use_bidirectional_attention = False  # theirs says so of the prompt, whose mask it makes itself
    of_text = [name for name in names if "language_model" in name or name.startswith("lm_head")]
    text = _TEXTS[gemma.model_type](gemma, of_text)
    vision = siglip_vision_plan(config.vision_config, [name for name in names if "vision_tower." in name])
    projector = next(name for name in names if name.endswith("multi_modal_projector.linear.weight"))
    made = MMConfig(
        vision_config=vision.settings,
        text_config={**text.settings, "bidirectional_prompt": True},
        fusion_type="merged",
        fusion_order="in_text",
        image_token_id=config.image_token_index,
        projector_type="linear",
        **text.head_settings,
    )
    table = vision.table.under("", "model.vision_tower.") + text.table.under("", "model.language_model.") + text.head
    processor = {"placeholders": {"image": _TOKEN}, "tokens_per_item": {"image": made.tokens_per_image}}
    return Plan(
        MMForConditionalGeneration,
        made,
        table + KeyTable(modules={projector.removesuffix(".weight"): "model.vision_projector"}),
        tokens={_TOKEN: config.image_token_index},
        processor={**processor, "media_reading": "before_text", "prompt_ending": "\n"},
        notes=(*vision.notes, *text.notes),
    )


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a PaliGemma; raises ValueError for another."""
    config, tower, text = model.config, model.config.vision_config, model.config.text_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    wrong += (
        [] if text.bidirectional_prompt else ["its prompt sees only what comes before (bidirectional_prompt=False)"]
    )
    wrong += [] if config.modalities == ["image"] else [f"modalities={config.modalities}, not only pictures"]
    wrong += [] if config.projector_type == "linear" else [f"projector_type={config.projector_type!r}, not 'linear'"]
    wrong += [] if math.isclose(text.embedding_scale, text.hidden_size**0.5) else ["embedding_scale is not a Gemma's"]
    raise_faults("PaliGemma wants a ViT, a linear projector and a Gemma", wrong)
    tied, has_head = {"tie_word_embeddings": config.tie_word_embeddings}, tower.pooler == "attention"
    if text.norm_position == "both":
        words = gemma_2_settings(config)
    else:
        words = GEMMA_FIELDS.restore(text) | {"model_type": "gemma", "head_dim": text.head_dim}
        words |= {"attention_bias": text.attention_bias}
    source = PaliGemmaConfig(
        vision_config={**SIGLIP_FIELDS.restore(tower), "model_type": _VISION, "vision_use_head": has_head},
        text_config=words | tied,
        image_token_index=config.image_token_id,
        projection_dim=text.hidden_size,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        **tied,
    )
    names = ["vision_tower.embeddings.patch_embedding.weight", "multi_modal_projector.linear.weight"]
    names += ["vision_tower.head.probe"] if has_head else []
    return Layout(
        source,
        _ARCHITECTURE,
        (*names, "language_model.model.embed_tokens.weight"),
        "SiglipImageProcessor",
        "PaliGemmaProcessor",
        picture_settings={"image_seq_length": config.tokens_per_image},
    )


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """A picture before each text, which is all prompt, or half of it an answer."""
    token, count, found = ours.config.image_token_id, ours.config.tokens_per_image, {}
    ids = given.input_ids.clone()
    ids[ids == token] = (token + 1) % ours.config.text_config.vocab_size
    text = torch.cat([ids.new_full((len(ids), count), token), ids], dim=1)
    mask = torch.cat([torch.ones_like(text[:, :count]), given.attention_mask], dim=1)
    for name, first in (("logits of a prompt", text.shape[1]), ("logits of an answer", count + ids.shape[1] // 2)):
        types = (torch.arange(text.shape[1]) >= first).long().expand_as(text)
        calls = {
            "input_ids": text,
            "attention_mask": mask,
            "token_type_ids": types,
            "pixel_values": given.pixel_values,
        }
        here, there = (model(**calls, use_cache=False).logits[mask.bool()] for model in (ours, theirs))
        found[name] = (here, there)
    return found


FAMILY = Family("paligemma", recognises, plan, layout, compare, decodes_by_config=True)
