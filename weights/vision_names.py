"""Vision towers of Transformers as MM's ViT: names and settings of ViT, DeiT, CLIP, GIT, SigLIP and SigLIP 2."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from .config_table import Fields, TowerPlan, VisionFields, outer_prefix, prefix_of
from .key_table import KeyTable, change
from .reshapes import List, Reshape, lead, patch_kernel, split, summands
from .text_names import BUFFER

_SIZES = {
    name: name
    for name in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps",
        "image_size", "patch_size",
    )
}  # fmt: skip
_PROJECTIONS = ("q", "query"), ("k", "key"), ("v", "value")

VIT = KeyTable(
    modules={
        "embeddings.patch_embeddings.projection": "patch_embedding",
        **{
            f"encoder.layer.{{n}}.attention.attention.{name}": f"layers.{{n}}.self_attn.{letter}_proj"
            for letter, name in _PROJECTIONS
        },
        "encoder.layer.{n}.attention.output.dense": "layers.{n}.self_attn.o_proj",
        "encoder.layer.{n}.layernorm_before": "layers.{n}.self_attn_norm",
        "encoder.layer.{n}.intermediate.dense": "layers.{n}.mlp.up_proj",
        "encoder.layer.{n}.output.dense": "layers.{n}.mlp.down_proj",
        "encoder.layer.{n}.layernorm_after": "layers.{n}.mlp_norm",
        "layernorm": "norm",
        "pooler.dense": "pooler.dense",
    },
    tensors={
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": change("embed_positions.weight", by=lead(1)),
    },
)
VIT_FIELDS = VisionFields(
    names={
        **_SIZES, "num_channels": "num_channels", "hidden_dropout_prob": "hidden_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    ours={"norm_position": "pre", "final_norm": "all"},
    oblong=True,
)  # fmt: skip


def vit_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """ViT, with or without its mask token and its pooler, which is kept aside where it is of another kind."""
    before = prefix_of(names, "embeddings.cls_token")
    is_known = config.pooler_act == "tanh" and config.pooler_output_size in (None, config.hidden_size)
    settings = VIT_FIELDS.convert(config) | {
        "attention_bias": True if config.qkv_bias else "o",
        "pooler": "cls_tanh" if is_known and f"{before}pooler.dense.weight" in names else "cls",
        "use_mask_token": f"{before}embeddings.mask_token" in names,
    }
    table = VIT
    if config.model_type == "deit":
        settings["num_register_tokens"] = 1
        table = VIT.adding(tensors=_DISTILLATION)
    if not is_known:
        modules = {name: target for name, target in table.modules.items() if name != "pooler.dense"}
        kept = {"pooler.dense.{leaf}": "a pooler of another activation or width, which no state depends on"}
        table = replace(table, modules=modules, kept=kept)
    dropped = {f"{outer_prefix(before)}{name}.{{leaf}}": "a classifier over names" for name in _CLASSIFIERS}
    return TowerPlan(settings, table.under(before, "").adding(dropped=dropped))


_CLASSIFIERS = ("classifier", "cls_classifier", "distillation_classifier")


def _distillation_there(old: List) -> tuple[List, List]:
    """DeiT's second token (1, 1, D) has a place in the table (1, 2 + S, D); MM's registers have none: it is added."""
    table, token = old[0][0], old[1]
    return [token + table[1], torch.cat([table[:1], table[2:]])], [table[1].clone(), token]


def _distillation_back(new: List, unread: List) -> List:
    register, table = new
    place, token = unread if unread else (torch.zeros_like(table[0]), register)
    token, place = summands(register, token, place.expand_as(register))
    return [torch.cat([table[:1], place.reshape(1, -1), table[1:]])[None], token]


DISTILLATION = Reshape("joined: distillation token and its place", _distillation_there, _distillation_back)
_DISTILLATION = {
    "embeddings.position_embeddings": change(
        "register_tokens", "embed_positions.weight", by=DISTILLATION, also=("embeddings.distillation_token",)
    )
}

# ---- CLIP, GIT and SigLIP ------------------------------------------------------------------------------------------

CLIP_LAYERS = {
    **{f"encoder.layers.{{n}}.self_attn.{x}_proj": f"layers.{{n}}.self_attn.{x}_proj" for x in "qkv"},
    "encoder.layers.{n}.self_attn.out_proj": "layers.{n}.self_attn.o_proj",
    "encoder.layers.{n}.layer_norm1": "layers.{n}.self_attn_norm",
    "encoder.layers.{n}.mlp.fc1": "layers.{n}.mlp.up_proj",
    "encoder.layers.{n}.mlp.fc2": "layers.{n}.mlp.down_proj",
    "encoder.layers.{n}.layer_norm2": "layers.{n}.mlp_norm",
}
_CLIP_PATCHES = {
    "embeddings.patch_embedding": "patch_embedding",
    "embeddings.position_embedding": "embed_positions",
    "post_layernorm": "norm",
}
CLIP_VISION = KeyTable(
    modules={**CLIP_LAYERS, **_CLIP_PATCHES, "pre_layrnorm": "embed_norm"},
    tensors={"embeddings.class_embedding": change("cls_token", by=lead(-2))},
    dropped={"embeddings.position_ids": BUFFER},
)
SIGLIP_VISION = KeyTable(
    modules={
        **CLIP_LAYERS,
        **_CLIP_PATCHES,
        "head.attention.out_proj": "pooler.head.attention.o_proj",
        "head.layernorm": "pooler.head.norm",
        "head.mlp.fc1": "pooler.head.mlp.up_proj",
        "head.mlp.fc2": "pooler.head.mlp.down_proj",
    },
    tensors={
        "head.probe": "pooler.head.probe",
        **{
            f"head.attention.in_proj_{leaf}": change(
                *(f"pooler.head.attention.{letter}_proj.{leaf}" for letter in "qkv"), by=split(3)
            )
            for leaf in ("weight", "bias")
        },
    },
    dropped={"embeddings.position_ids": BUFFER},
)
_CLIP_NAMES = {**_SIZES, "num_channels": "num_channels", "attention_dropout": "attention_dropout"}
CLIP_FIELDS = VisionFields(
    names=_CLIP_NAMES,
    ours={
        "norm_position": "pre", "embedding_norm": True, "patch_bias": False, "final_norm": "pooled", "pooler": "cls",
        "attention_bias": True,
    },
)  # fmt: skip
# GIT reads every token after the last norm.
GIT_VISION_FIELDS = VisionFields(names=_CLIP_NAMES, ours={**CLIP_FIELDS.ours, "final_norm": "all"})
SIGLIP_FIELDS = VisionFields(
    names=_CLIP_NAMES,
    ours={"norm_position": "pre", "final_norm": "all", "use_cls_token": False, "attention_bias": True},
)
# The other tensors in a checkpoint of both towers.
OTHER_TOWER = {
    name: "not of the vision tower"
    for name in (
        "text_model.{rest}",
        "text_projection.weight",
        "visual_projection.weight",
        "logit_scale",
        "logit_bias",
    )
}


def clip_vision_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """CLIP's vision tower, with or without its text tower; GIT's, which norms all tokens at the end."""
    fields = GIT_VISION_FIELDS if config.model_type == "git_vision_model" else CLIP_FIELDS
    before = prefix_of(names, "embeddings.class_embedding")
    return TowerPlan(fields.convert(config), CLIP_VISION.under(before, "").adding(dropped=OTHER_TOWER))


def siglip_vision_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """SigLIP's vision tower, with or without its pooling head."""
    before = prefix_of(names, "embeddings.patch_embedding.weight")
    pooler = "attention" if f"{before}head.probe" in names else "mean"
    settings = SIGLIP_FIELDS.convert(config) | {"pooler": pooler}
    return TowerPlan(settings, SIGLIP_VISION.under(before, "").adding(dropped=OTHER_TOWER))


# SigLIP 2 with NaFlex: pictures of any size as a rectangle of patches, whose positions are resampled to it.
SIGLIP2_FIELDS = Fields(
    names={theirs: ours for theirs, ours in _CLIP_NAMES.items() if theirs != "image_size"},
    ours={**SIGLIP_FIELDS.ours, "position_resampling": "bilinear"},
)


def siglip2_settings(config: Any) -> dict[str, Any]:
    """Raises ValueError for positions that are no square."""
    settings, side = SIGLIP2_FIELDS.convert(config), math.isqrt(config.num_patches)
    if side**2 != config.num_patches or not isinstance(settings["patch_size"], int):
        raise ValueError(
            f"num_patches={config.num_patches} of patch_size={config.patch_size}: positions are a square of squares"
        )
    return settings | {"image_size": side * settings["patch_size"]}


def siglip2_restored(tower: Any) -> dict[str, Any]:
    """The config of SigLIP 2's vision tower of an MMVisionConfig. Raises ValueError for another."""
    rows, columns = tower.patch_grid
    if rows != columns:
        raise ValueError(f"image_size={tower.image_size} has two sides; the positions of a SigLIP 2 are a square")
    return SIGLIP2_FIELDS.restore(tower) | {"num_patches": rows * columns}


def siglip2_table(settings: Mapping[str, Any]) -> KeyTable:
    """SigLIP's, but for patches that come as rows of pixels into a linear layer. `settings` of MM's ViT."""
    name = "embeddings.patch_embedding"
    modules = {old: new for old, new in SIGLIP_VISION.modules.items() if old != name}
    kernel = change("patch_embedding.weight", by=patch_kernel(settings["patch_size"], settings["num_channels"]))
    patches = {f"{name}.weight": kernel, f"{name}.bias": "patch_embedding.bias"}
    return replace(SIGLIP_VISION, modules=modules).adding(tensors=patches)


def siglip2_vision_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """SigLIP 2's vision tower of NaFlex, with or without its pooling head."""
    before = prefix_of(names, "embeddings.patch_embedding.weight")
    pooler = "attention" if f"{before}head.probe" in names else "mean"
    settings = siglip2_settings(config) | {"pooler": pooler}
    return TowerPlan(settings, siglip2_table(settings).under(before, "").adding(dropped=OTHER_TOWER))


VISION_PLANS: dict[str, Callable[[Any, Collection[str]], TowerPlan]] = {
    "vit": vit_plan,
    "deit": vit_plan,
    "clip_vision_model": clip_vision_plan,
    "git_vision_model": clip_vision_plan,
    "siglip_vision_model": siglip_vision_plan,
    "siglip2_vision_model": siglip2_vision_plan,
}
# A checkpoint of several towers holds the vision tower's config inside.
WITH_VISION = ("clip", "siglip", "siglip2")
