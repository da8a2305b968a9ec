"""ViT, DeiT and SigLIP in files of torchvision and timm as MM's ViT, and ConvNeXt as Transformers' own class.

Sizes are read from the shapes of tensors. The number of heads is in none of them: it is that of the published widths.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from .cnn_names import USE_TIMM
from .key_table import KeyTable, change
from .reshapes import Reshape, lead, split
from .vision_names import DISTILLATION

Shapes = Mapping[str, tuple[int, ...]]
_HEAD_DIM = 64
_NARROWEST = 192  # of a published ViT; timm's test_vit, 64 wide, has two heads
# so400m, huge, giant, giantopt, gigantic: of another width
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
# SigLIP 2, by its name, or by (width, patch) of a file that has another one.
_TANH_NAMES = re.compile(r"giantopt|so400m_patch16_siglip|base_patch32_siglip|large_patch16_siglip_(gap_)?512")
_TANH_SIZES = {(1536, 16), (1152, 16), (768, 32)}
_CLASSES = "a classifier over names, which gives no features"
_VIT = {"norm_position": "pre", "final_norm": "all", "layer_norm_eps": 1e-6}

TIMM_VIT = KeyTable(
    modules={
        "patch_embed.proj": "patch_embedding",
        "blocks.{n}.norm1": "layers.{n}.self_attn_norm",
        "blocks.{n}.attn.qkv": change(*(f"layers.{{n}}.self_attn.{x}_proj" for x in "qkv"), by=split(3)),
        "blocks.{n}.attn.proj": "layers.{n}.self_attn.o_proj",
        "blocks.{n}.norm2": "layers.{n}.mlp_norm",
        "blocks.{n}.mlp.fc1": "layers.{n}.mlp.up_proj",
        "blocks.{n}.mlp.fc2": "layers.{n}.mlp.down_proj",
        "norm": "norm",
    },
    tensors={"cls_token": "cls_token", "pos_embed": change("embed_positions.weight", by=lead(1))},
    kept={f"{name}.{{leaf}}": _CLASSES for name in ("head", "head_dist")},
)
_TIMM_DISTILLED = {
    "pos_embed": change("register_tokens", "embed_positions.weight", by=DISTILLATION, also=("dist_token",))
}
_POOL = "pooler.head."
_TIMM_POOL = KeyTable(
    modules={
        "attn_pool.q": f"{_POOL}attention.q_proj",
        "attn_pool.kv": change(f"{_POOL}attention.k_proj", f"{_POOL}attention.v_proj", by=split(2)),
        "attn_pool.proj": f"{_POOL}attention.o_proj",
        "attn_pool.norm": f"{_POOL}norm",
        "attn_pool.mlp.fc1": f"{_POOL}mlp.up_proj",
        "attn_pool.mlp.fc2": f"{_POOL}mlp.down_proj",
    },
    tensors={"attn_pool.latent": f"{_POOL}probe"},
)
_LAYER = "encoder.layers.encoder_layer_{n}."
_OLD_MLP = {"linear_1": "0", "linear_2": "3"}  # as older files of torchvision say


def _torchvision_vit(mlp: tuple[str, str]) -> KeyTable:
    return KeyTable(
        modules={
            "conv_proj": "patch_embedding",
            f"{_LAYER}ln_1": "layers.{n}.self_attn_norm",
            f"{_LAYER}self_attention.out_proj": "layers.{n}.self_attn.o_proj",
            f"{_LAYER}ln_2": "layers.{n}.mlp_norm",
            f"{_LAYER}mlp.{mlp[0]}": "layers.{n}.mlp.up_proj",
            f"{_LAYER}mlp.{mlp[1]}": "layers.{n}.mlp.down_proj",
            "encoder.ln": "norm",
        },
        tensors={
            "class_token": "cls_token",
            "encoder.pos_embedding": change("embed_positions.weight", by=lead(1)),
            **{
                f"{_LAYER}self_attention.in_proj_{leaf}": change(
                    *(f"layers.{{n}}.self_attn.{x}_proj.{leaf}" for x in "qkv"), by=split(3)
                )
                for leaf in ("weight", "bias")
            },
        },
        kept={"heads.head.{leaf}": _CLASSES, "heads.{rest}": _CLASSES},
    )


def vit_settings(shapes: Shapes, layout: str, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`given`: settings that the tensors do not hold, first of all num_attention_heads. `name` of the file or its
    architecture.

    Raises: ValueError for parts that MM's ViT lacks, and for a width of an unknown number of heads.
    """
    is_timm = layout == "timm"
    patches = shapes["patch_embed.proj.weight" if is_timm else "conv_proj.weight"]
    first = "blocks.0." if is_timm else _LAYER.format(n=0)
    ups = [shapes[n] for n in (f"{first}mlp.{k}.weight" for k in ("fc1", "0", "linear_1")) if n in shapes]
    if not ups or len(patches) != 4:
        raise ValueError(
            f"no ViT that is known: no tensor is named {first}mlp.fc1.weight, or patches are not 2-D; {USE_TIMM}"
        )
    (width, channels, patch, across), up = patches, ups[0]
    if patch != across:
        raise ValueError(f"patches of {patch} x {across} pixels are not known, only squares; {USE_TIMM}")
    layers = {name.removeprefix(first[:-2]).split(".")[0] for name in shapes if name.startswith(first[:-2])}
    if is_timm and (width, len(layers)) == (768, 8):
        raise ValueError(
            f"a ViT of 8 layers, 768 wide, is timm's older vit_small, whose attention is scaled otherwise; {USE_TIMM}"
        )
    lead_tokens = ("cls_token" in shapes or not is_timm) + ("dist_token" in shapes)
    positions = shapes.get("pos_embed" if is_timm else "encoder.pos_embedding")
    _check_known(shapes, positions)
    rows = round(((positions or (0, 0, 0))[1] - lead_tokens) ** 0.5)
    if positions is None or rows * rows + lead_tokens != positions[1]:
        raise ValueError(
            f"positions {positions} are not {lead_tokens} and a square; pictures of two sides are not known"
        )
    pooler = "cls" if lead_tokens else "attention" if "attn_pool.latent" in shapes else "mean"
    bias = f"{first}attn.qkv.bias" in shapes or not is_timm
    return {
        **_VIT, "hidden_act": _activation(name, width, patch) if is_timm and not lead_tokens else "gelu",
        "hidden_size": width, "num_channels": channels, "patch_size": patch, "intermediate_size": up[0],
        "num_hidden_layers": len(layers), "num_attention_heads": _heads(width, given, name),
        "image_size": rows * patch,
        "use_cls_token": lead_tokens > 0, "num_register_tokens": int("dist_token" in shapes), "pooler": pooler,
        "attention_bias": True if bias else "o", "patch_bias": True,
    }  # fmt: skip


def _activation(name: str, width: int, patch: int) -> str:
    """Of a ViT of timm without a class token."""
    return "gelu_pytorch_tanh" if _TANH_NAMES.search(name) or (width, patch) in _TANH_SIZES else "gelu"


def _heads(width: int, given: Mapping[str, Any], name: str) -> int:
    usual = _HEADS.get(width) or (width // _HEAD_DIM if width % _HEAD_DIM == 0 and width >= _NARROWEST else 0)
    if name.startswith("vit_base_patch16_gap"):
        usual = 16
    heads = given.get("num_attention_heads") or usual
    if not heads:
        raise ValueError(
            f"no published ViT is {width} wide, and the file does not say how many heads it has; pass "
            "vision_config={'num_attention_heads': ...}"
        )
    return heads


# What other ViTs of timm have, by a tensor of theirs.
_OTHERS = {
    "norm_pre.weight": "a norm before the layers, as CLIP's",
    "fc_norm.weight": "a norm after the mean of its tokens",
    "blocks.0.ls1.gamma": "factors after its sublayers (LayerScale)",
    "blocks.0.attn.q_norm.weight": "norms of queries and keys",
    "reg_token": "register tokens",
    "blocks.0.attn.relative_position_bias_table": "relative positions",
}


def _check_known(shapes: Shapes, positions: Any) -> None:
    found = [what for name, what in _OTHERS.items() if name in shapes]
    found += [] if positions else ["no learned positions"]
    if found:
        raise ValueError(f"this ViT has {' and '.join(found)}, which is not known here; {USE_TIMM}")


def vit_table(config: Any, layout: str, names: Collection[str] = ()) -> KeyTable:
    """`names` of a file: older ones of torchvision call the MLP otherwise."""
    if layout == "torchvision":
        is_old = any(name.endswith(".mlp.linear_1.weight") for name in names)
        return _torchvision_vit(("linear_1", "linear_2") if is_old else ("0", "3"))
    table = TIMM_VIT.adding(tensors=_TIMM_DISTILLED) if config.num_register_tokens else TIMM_VIT
    return table + _TIMM_POOL if config.pooler == "attention" else table


# ---- ConvNeXt ------------------------------------------------------------------------------------------------------

# torchvision's layer scale is (C, 1, 1).
_FLAT = Reshape(
    "two last dimensions less",
    lambda old: ([old[0].flatten()], []),
    lambda new, unread: [new[0][:, None, None]],
    is_view=True,
)
# timm's atto, femto, pico and nano, of these first widths, have convolutions of 1 x 1 where others have linear layers.
_SMALL_WIDTHS = (40, 48, 64, 80)
_WIDTHS = (*_SMALL_WIDTHS, 96, 128, 192, 256)  # and tiny and small, base, large, xlarge
_LINEAR = Reshape(
    "a linear layer",
    lambda old: ([old[0].flatten(1)], []),
    lambda new, unread: [new[0][:, :, None, None]],
    is_view=True,
)


def _check_convnext(shapes: Shapes, layout: str, widths: list[int], is_told: bool) -> None:
    """Raises ValueError for parts that Transformers' class lacks, and for a file of timm of a size that was never
    published, whose activation and epsilon no tensor tells."""
    kernels = [shape[-1] for name, shape in shapes.items() if name.endswith(("conv_dw.weight", ".block.0.weight"))]
    found = [f"convolutions of {k} x {k}, not 7 x 7" for k in sorted({*kernels} - {7})]
    found += ["a norm before its pooling (norm_pre)"] if "norm_pre.weight" in shapes else []
    found += ["norms without biases"] if layout == "timm" and "stem.1.bias" not in shapes else []
    if found:
        raise ValueError(f"this ConvNeXt has {' and '.join(found)}, which is not known here; {USE_TIMM}")
    if layout == "timm" and widths[0] not in _WIDTHS and not is_told:
        raise ValueError(
            f"no published ConvNeXt begins with {widths[0]} channels, and the file does not say its activation and "
            "epsilon (those of timm's test_convnext are the tanh form of GELU and 1e-5): if they are GELU and 1e-6, "
            f"pass vision_config={{'hidden_act': 'gelu'}} to from_towers; for another, {USE_TIMM}"
        )


def convnext_settings(shapes: Shapes, layout: str, name: str, is_told: bool = False) -> dict[str, Any]:
    """Of ConvNextConfig; `name` of the file or its architecture, `is_told`: its activation was given.

    Raises: ValueError for a ConvNeXt V2, one of an unknown size, and for xxlarge, whose norms have an epsilon that
        Transformers' class does not take.
    """
    if any(name.endswith("grn.weight") for name in shapes):
        raise ValueError(
            "a ConvNeXt V2 is not known here; use timm's tower, or Transformers' (model_type='convnextv2')"
        )
    stem = shapes.get("stem.0.weight" if layout == "timm" else "features.0.0.weight", ())
    depths, widths = [], []
    for stage in range(4):
        before = f"stages.{stage}.blocks." if layout == "timm" else f"features.{2 * stage + 1}."
        blocks = {name.removeprefix(before).split(".")[0] for name in shapes if name.startswith(before)}
        last = "conv_dw.weight" if layout == "timm" else "block.0.weight"
        if len(stem) != 4 or f"{before}0.{last}" not in shapes or "stem.2.weight" in shapes:
            raise ValueError(
                f"no ConvNeXt that is known: no tensor is named {before}0.{last}, or its stem has several "
                f"convolutions; {USE_TIMM}"
            )
        depths.append(len(blocks))
        widths.append(shapes[f"{before}0.{last}"][0])
    if widths[0] == 384 or "convnext_xxlarge" in name:
        raise ValueError(f"ConvNeXt xxlarge has norms of epsilon 1e-5, Transformers' ConvNext of 1e-6; {USE_TIMM}")
    _check_convnext(shapes, layout, widths, is_told)
    return {
        "model_type": "convnext", "num_channels": stem[1], "patch_size": stem[2], "num_stages": 4,
        "hidden_sizes": widths, "depths": depths, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 224,
    }  # fmt: skip


def has_convolutions(shapes: Shapes) -> bool:
    """Whether a ConvNeXt of timm has convolutions of 1 x 1 as linear layers."""
    return len(shapes.get("stages.0.blocks.0.mlp.fc1.weight", ())) == 4


def convnext_table_back(config: Any, layout: str) -> KeyTable:
    """By the first width, as a config does not say whether a file had convolutions."""
    return convnext_table(layout, convolutions=config.hidden_sizes[0] in _SMALL_WIDTHS)


def convnext_table(layout: str, convolutions: bool = False) -> KeyTable:
    """Each stage but the first begins with a norm and a convolution. `convolutions` of 1 x 1 as linear layers."""
    if layout == "timm":
        linear = {f"stages.{s}.blocks.{{n}}.mlp.fc{k}": f"encoder.stages.{s}.layers.{{n}}.pwconv{k}"
                  for s in range(4)
                  for k in (1, 2)}  # fmt: skip
        tensors: dict[str, Any] = {
            f"stages.{s}.blocks.{{n}}.gamma": f"encoder.stages.{s}.layers.{{n}}.layer_scale_parameter"
            for s in range(4)
        }
        if convolutions:
            tensors |= {f"{old}.weight": change(f"{new}.weight", by=_LINEAR) for old, new in linear.items()}
            tensors |= {f"{old}.bias": f"{new}.bias" for old, new in linear.items()}
        return KeyTable(
            modules={
                "stem.0": "embeddings.patch_embeddings",
                "stem.1": "embeddings.layernorm",
                "stages.{n}.downsample.0": "encoder.stages.{n}.downsampling_layer.0",
                "stages.{n}.downsample.1": "encoder.stages.{n}.downsampling_layer.1",
                **{f"stages.{s}.blocks.{{n}}.{old}": f"encoder.stages.{s}.layers.{{n}}.{new}"
                   for s in range(4)
                   for old, new in (("conv_dw", "dwconv"), ("norm", "layernorm"))},
                **({} if convolutions else linear),
                "head.norm": "layernorm",
            },
            tensors=tensors,
            kept={"head.fc.{leaf}": _CLASSES},
        )  # fmt: skip
    return KeyTable(
        modules={
            "features.0.0": "embeddings.patch_embeddings",
            "features.0.1": "embeddings.layernorm",
            **{f"features.{2 * s}.{k}": f"encoder.stages.{s}.downsampling_layer.{k}"
               for s in (1, 2, 3)
               for k in (0, 1)},
            **{f"features.{2 * s + 1}.{{n}}.block.{old}": f"encoder.stages.{s}.layers.{{n}}.{new}"
               for s in range(4)
               for old, new in (("0", "dwconv"), ("2", "layernorm"), ("3", "pwconv1"), ("5", "pwconv2"))},
            "classifier.0": "layernorm",
        },
        tensors={f"features.{2 * s + 1}.{{n}}.layer_scale":
                 change(f"encoder.stages.{s}.layers.{{n}}.layer_scale_parameter", by=_FLAT)
                 for s in range(4)},
        kept={"classifier.2.{leaf}": _CLASSES},
    )  # fmt: skip
