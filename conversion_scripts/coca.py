"""CoCa (Yu et al. 2022, arXiv:2205.01917) in open_clip's layout: open_clip_config.json, or only a file of weights.

    theirs                                           here
    visual.attn_pool, ln_post                        vision_resampler; its first latent is compared, the rest are read
    text: resblocks, then ln_final on a last token   language_model.layers, the first of them; language_model.unimodal
    text_decoder: resblocks i, cross_attn i          two layers each after those: [self, mlp] and [cross, mlp]

One model embeds and captions: `MMForPreTraining` is what it becomes, and MMForConditionalGeneration reads the same
folder.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import partial_patches
from ..weights.key_table import raise_faults
from .coca_names import sizes_of, table
from .coca_original import colours, compare, ends, original, pictures, tokenizer
from .family import Family, Layout, Plan, Texts

# Settings other than sizes, with the only supported value: open_clip's default, or CoCa's own.
_VISION = {
    "ls_init_value": None, "patch_dropout": 0.0, "attentional_pool": True, "no_ln_pre": False, "act_kwargs": None,
    "pos_embed_type": "learnable", "final_ln_after_pool": False, "pool_type": "tok", "output_tokens": True,
    "norm_kwargs": None, "timm_model_name": None,
}  # fmt: skip
_TEXT = {
    "hf_model_name": None, "ls_init_value": None, "embed_cls": True, "no_causal_mask": False, "proj_type": "linear",
    "proj_bias": False, "output_tokens": True, "act_kwargs": None, "norm_kwargs": None,
}  # fmt: skip
# Sizes with open_clip's defaults; in the decoder n_queries and pooler heads are read by nothing.
_VISION_SIZES = {
    "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
    "attn_pooler_queries": 256, "attn_pooler_heads": 8,
}  # fmt: skip
_TEXT_SIZES = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0, "pad_id": 0,
}  # fmt: skip
_UNREAD = (
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "eos_id",
    "pool_type",
    "n_queries",
    "dim_head",
    "attn_pooler_heads",
)
_NORMS = {"norm_position": "pre", "layer_norm_eps": 1e-5, "attention_bias": True}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return "multimodal_cfg" in config.get("model_cfg", {}) or (
        not config and {"visual.attn_pool.query", "text.cls_emb"} <= set(names)
    )


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for settings of open_clip that MM lacks."""
    model = checkpoint.config.get("model_cfg") or sizes_of(checkpoint)
    vision = _read(model["vision_cfg"], _VISION_SIZES, _VISION, "vision_cfg")
    text = _read(model["text_cfg"], _TEXT_SIZES, _TEXT, "text_cfg")
    decoder = _read(model["multimodal_cfg"], _TEXT_SIZES, {"ls_init_value": None}, "multimodal_cfg")
    decoder["mlp_ratio"] = _TEXT_SIZES["mlp_ratio"]  # open_clip always builds it so
    same = ("width", "heads", "mlp_ratio")
    wrong = [f"multimodal_cfg.{n}={decoder[n]}, text_cfg.{n}={text[n]}" for n in same if decoder[n] != text[n]]
    if model["embed_dim"] != text["width"]:
        wrong.append(f"embed_dim={model['embed_dim']}, text_cfg.width={text['width']}")
    raise_faults("one stack holds both text towers, and reads pictures as wide as it is", wrong)
    names = table(text["layers"], decoder["layers"], is_fused="visual.attn_pool.attn.in_proj_weight" in checkpoint)
    config = _config(model, vision, text, decoder["layers"])
    shown = pictures(checkpoint, vision["image_size"])
    notes = (
        [] if shown else [f"image_size={vision['image_size']}: MM's image processor does not prepare oblong pictures"]
    )
    if not checkpoint.config:
        notes.append("no config: sizes are read off the tensors, heads are 64 wide, 8 in the pooler")
    return Plan(
        MMForPreTraining,
        config,
        names,
        generation=ends(config.text_config),
        processor={"add_eos_token": True},
        pictures=shown,
        tokenizer=lambda directory: tokenizer(directory, model["text_cfg"], text["context_length"]),
        notes=tuple(notes),
    )


def _read(given: Mapping[str, Any], sizes: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sizes. Other settings have open_clip's defaults, except those that make a CoCa."""
    faults = [f"{where}.{k}={v!r}, but only {fixed[k]!r} is known" for k, v in given.items() if v != fixed.get(k, v)]
    faults += [f"{where}.{k}={v!r} is not known" for k, v in given.items() if k not in {*sizes, *fixed, *_UNREAD}]
    raise_faults("this open_clip model is not a setting of MM", faults)
    return {name: given.get(name, default) for name, default in sizes.items()}


def _config(model: Mapping[str, Any], vision: dict, text: dict, multimodal: int) -> MMConfig:
    act, embed = "quick_gelu" if model.get("quick_gelu") else "gelu", model["embed_dim"]
    tower = {
        **_NORMS, "hidden_size": vision["width"], "intermediate_size": int(vision["width"] * vision["mlp_ratio"]),
        "num_hidden_layers": vision["layers"], "num_attention_heads": vision["width"] // vision["head_width"],
        "hidden_act": act, "image_size": vision["image_size"], "patch_size": vision["patch_size"],
        "patch_bias": False, "embedding_norm": True, "final_norm": "none", "pooler": "cls",
        **partial_patches(vision["image_size"], vision["patch_size"]),
    }  # fmt: skip
    latents = {
        "norm_position": "pre", "layer_norm_eps": 1e-5, "attention_bias": True, "hidden_size": embed,
        "num_latents": vision["attn_pooler_queries"], "num_attention_heads": vision["attn_pooler_heads"],
        "head_dim": embed // vision["attn_pooler_heads"], "num_hidden_layers": 1, "intermediate_size": 0,
        "append_latents": False, "residual": False, "first_latent_pooled": True,
    }  # fmt: skip
    layers, vocabulary = text["layers"] + 2 * multimodal, text["vocab_size"]
    words = {
        **_NORMS, "hidden_size": text["width"], "intermediate_size": int(text["width"] * text["mlp_ratio"]),
        "num_hidden_layers": layers, "num_attention_heads": text["heads"], "hidden_act": act,
        "embedding_norm": False, "final_norm": "all", "vocab_size": vocabulary,
        "max_position_embeddings": text["context_length"], "unimodal_layers": text["layers"],
        "unimodal_cls": "shifted", "cross_attention_memory_norm": True,
        "cross_attention_layers": list(range(text["layers"] + 1, layers, 2)), "cross_attention_placement": "own",
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": text["pad_id"],
    }  # fmt: skip
    return MMConfig(
        vision_config=tower,
        vision_resampler_config=latents,
        text_config=words,
        projector_type="none",
        projection_dim=embed,
        lm_head_transform=False,
        lm_head_bias=False,
        tie_word_embeddings=False,
        pretraining_losses={"itc": 1.0, "lm": 2.0},
    )


# ---- back ----------------------------------------------------------------------------------------------------------


class _Settings(dict[str, Any]):
    """open_clip_config.json."""

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "_Settings":
        return cls(settings)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a CoCa; raises ValueError for another."""
    config = model.config
    tower, latents, text = config.vision_config, config.vision_resampler_config, config.text_config
    if latents is None or text.unimodal_layers is None or not isinstance(tower, MMVisionConfig):
        raise ValueError("a CoCa has a ViT, a vision_resampler_config and text_config.unimodal_layers; this model not")
    vision = {
        "layers": tower.num_hidden_layers, "width": tower.hidden_size, "patch_size": tower.patch_size,
        "head_width": tower.hidden_size // tower.num_attention_heads, "image_size": tower.image_size,
        "mlp_ratio": tower.intermediate_size / tower.hidden_size, "attentional_pool": True, "output_tokens": True,
        "attn_pooler_queries": latents.num_latents, "attn_pooler_heads": latents.num_attention_heads,
    }  # fmt: skip
    words = {
        "context_length": text.max_position_embeddings, "vocab_size": text.vocab_size, "width": text.hidden_size,
        "heads": text.num_attention_heads, "mlp_ratio": text.intermediate_size / text.hidden_size,
    }  # fmt: skip
    unimodal = {"layers": text.unimodal_layers, "embed_cls": True, "output_tokens": True, "pad_id": text.pad_token_id}
    multimodal = {"layers": (text.num_hidden_layers - text.unimodal_layers) // 2}
    settings = {
        "embed_dim": latents.hidden_size,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": vision,
        "text_cfg": words | unimodal,
        "multimodal_cfg": words | multimodal,
        "custom_text": True,
    }
    names = ["visual.attn_pool.attn.in_proj_weight"] if tower.hidden_size == latents.hidden_size else []
    files = ("open_clip_config.json", "open_clip_model")
    return Layout(_Settings(model_cfg=settings), "CoCa", tuple(names), "CLIPImageProcessor", None, files, colours)


FAMILY = Family("coca", recognises, plan, layout, compare, original, lambda config: Texts(pads_inside=False))
