"""GIT (Wang et al. 2022, arXiv:2205.14100): media tokens and text in one sequence, of pictures or of video frames.

Media see each other and text sees what is before it: MM's `fusion_mask="prefix"`. Frames get a learned vector each
(`num_image_with_embedding`), which are `pixel_values_videos` here; theirs takes them as pixel_values of rank 5.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, source_config
from ..weights.key_table import KeyTable, change, raise_faults
from ..weights.reshapes import STACK
from ..weights.text_names import BERT, BERT_FIELDS
from ..weights.vision_names import GIT_VISION_FIELDS, VISION_PLANS
from .family import Family, Layout, Plan

_ARCHITECTURE = "GitForCausalLM"
_TEXT_FIELDS = Fields(
    names={theirs: ours for theirs, ours in BERT_FIELDS.names.items() if theirs != "type_vocab_size"},
    ours={**BERT_FIELDS.ours, "pooler": "last", "is_causal": True, "type_vocab_size": 0},
)
_VISION = "git.image_encoder.vision_model."
_MEDIA = KeyTable(
    modules={
        "git.visual_projection.visual_projection.0": "model.vision_projector.dense",
        "git.visual_projection.visual_projection.1": "model.vision_projector.norm",
    },
    tensors={"git.img_temporal_embedding.{n}": change("model.frame_slots.weight", by=STACK)},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "git"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for settings that MM lacks."""
    config = source_config(checkpoint.config)
    vision = VISION_PLANS["git_vision_model"](config.vision_config, checkpoint)
    frames, tied = config.num_image_with_embedding or 0, bool(config.tie_word_embeddings)
    matrix = {"output.weight": "lm_head.weight"}
    head = KeyTable(
        tensors={"output.bias": "lm_head.bias", **({} if tied else matrix)},
        tied={"output.weight": "git.embeddings.word_embeddings.weight"} if tied else {},
    )
    made = MMConfig(
        modalities=["image", "video"] if frames else ["image"],
        max_frames=frames,
        vision_config=vision.settings,
        text_config=_TEXT_FIELDS.convert(config),
        fusion_type="merged",
        fusion_mask="prefix",
        projector_type="linear_norm",
        projector_norm_eps=config.vision_config.layer_norm_eps,
        lm_head_transform=False,
        lm_head_bias=True,
        tie_word_embeddings=tied,
    )
    text = BERT.under("git.", "model.language_model.")
    table = vision.table.under("", "model.vision_tower.") + text + _MEDIA + head
    return Plan(MMForConditionalGeneration, made, table)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a GIT; raises ValueError for another."""
    config = model.config
    tower = config.vision_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    raise_faults("GIT wants a ViT", wrong)
    settings = {
        **_TEXT_FIELDS.restore(config.text_config),
        "model_type": "git",
        "vision_config": GIT_VISION_FIELDS.restore(tower),
        "num_image_with_embedding": config.max_frames or None,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    names = (f"{_VISION}embeddings.class_embedding",)
    return Layout(source_config(settings), _ARCHITECTURE, names, "CLIPImageProcessor", "GitProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Theirs gives logits of the media's places too. Frames, where there are any, are two per sample."""
    ids, mask, pixels, there, here = given.input_ids, given.attention_mask, given.pixel_values, {}, {}
    there["logits"] = theirs(ids, mask, pixel_values=pixels).logits
    here["logits"] = ours(ids, mask, pixel_values=pixels).logits
    if ours.config.max_frames:
        frames = torch.stack([pixels, pixels.flip(0)], dim=1)[:, : ours.config.max_frames]
        there["logits of frames"] = theirs(ids, mask, pixel_values=frames).logits
        here["logits of frames"] = ours(ids, mask, pixel_values_videos=frames).logits
    real = mask.bool()
    return {name: (here[name][real], there[name][:, -ids.shape[1] :][real]) for name in here}


FAMILY = Family("git", recognises, plan, layout, compare, decodes_by_config=True)
