"""Files of torchvision and timm: one vision tower, as a folder of MM's, and back.

    mm convert vgg16-397923af.pth OUT          # an MMConvModel with its image processor
    mm convert --to torchvision OUT BACK       # or --to timm: BACK/model.safetensors
    MMForConditionalGeneration.from_towers("vgg16-397923af.pth", TEXT)

A whole model of MM is written back, too: only its vision tower.
"""

import copy
import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import ConvNextConfig, ConvNextModel
from transformers.core_model_loading import revert_weight_conversion

from ..configuration.conv import MMConvConfig
from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.core.loading import filled
from ..modeling_mm.towers.conv import MMConvModel
from ..modeling_mm.towers.vit import MMVisionModel
from ..processing.images.processor import MMImageProcessorPil
from ..weights.checkpoint import Checkpoint
from ..weights.cnn_names import USE_TIMM
from ..weights.key_table import Converted, Tensors, raise_faults
from ..weights.tower_files import LAYOUTS, NAMES, file_name, file_plan, kind_of, table_back
from .loading import quiet, widest
from .verify import TOLERANCE

_CLASSES = {MMConvConfig: MMConvModel, MMVisionConfig: MMVisionModel, ConvNextConfig: ConvNextModel}
_TOWER = "model.vision_tower."
_CLASSIFIERS = ("classifier.", "fc.", "head.", "heads.", "head_dist.", "pre_logits.")
# Where a file says nothing, pictures are made ready as torchvision's reference does, and ViTs' of timm by halves, but
# those of DeiT and DINO.
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_CROP = 0.875
_RESAMPLES = {"bilinear": 2, "bicubic": 3}


def from_file(checkpoint: Checkpoint) -> tuple[Any, MMImageProcessorPil, list[str], Converted]:
    """The tower, its image processor, the report, and what was converted. Raises ValueError for another file."""
    plan = file_plan(checkpoint)
    config = config_of(plan.settings)
    images = _image_processor(checkpoint, config)
    model_class = _CLASSES[type(config)]
    with torch.device("meta"):
        empty = model_class(config)
    wanted = {name: value.shape for name, value in _as_files(empty).items()}
    try:
        converted = plan.table.convert(checkpoint, wanted)
    except ValueError as fault:  # another network may begin with the same names
        kind = kind_of(checkpoint)
        raise ValueError(
            f"this is no {NAMES[kind.name] if kind else 'tower'} that is known; {USE_TIMM}: {fault}"
        ) from None
    dtype = widest(converted.tensors)
    with torch.random.fork_rng(devices=[]), quiet():
        model = _filled(model_class, config, converted, dtype)
    numbers = sum(tensor.numel() for tensor in converted.tensors.values())
    kind, used = kind_of(checkpoint), len(checkpoint) - len(converted.dropped)
    report = [
        f"source: {checkpoint.source} ({kind.layout if kind else 'unknown'}'s names)",
        f"model: {model_class.__name__}, {numbers / 1e6:.1f} M parameters, {dtype}",
        f"tensors: {used} of {len(checkpoint)} used, {len(converted.reshaped)} of them reshaped",
        *_assumed(checkpoint, config, images),
        *(f"dropped: {name} ({reason})" for name, reason in sorted(converted.dropped.items())),
        *(f"new: {name} ({reason})" for name, reason in sorted(converted.new.items())),
    ]
    return model, images, report, converted


def _assumed(checkpoint: Checkpoint, config: Any, images: MMImageProcessorPil) -> list[str]:
    """What neither a tensor nor timm's config.json says."""
    notes = []
    if isinstance(config, MMVisionConfig):
        names = ("num_attention_heads", "hidden_act", "image_size")
        settings = {name: getattr(config, name) for name in names}
        notes.append(f"assumed: {settings}; from_towers takes others as vision_config")
    told = checkpoint.config.get("pretrained_cfg") or {}
    if not (told.get("mean") and told.get("std")):
        notes.append(f"assumed: image_mean {list(images.image_mean)}, image_std {list(images.image_std)}")
    return notes


def config_of(settings: Mapping[str, Any]) -> Any:
    """The config of a tower's settings."""
    fields = {name: value for name, value in settings.items() if name != "model_type"}
    classes = {"mm_conv": MMConvConfig, "convnext": ConvNextConfig}
    return classes.get(settings.get("model_type", ""), MMVisionConfig)(**fields)


def _filled(model_class: Any, config: Any, converted: Converted, dtype: torch.dtype) -> Any:
    if model_class is not ConvNextModel:
        return filled(model_class, config, converted.tensors, converted.new, dtype)
    options = {"config": config, "state_dict": converted.tensors, "dtype": dtype, "output_loading_info": True}
    load: Any = ConvNextModel.from_pretrained
    model, info = load(None, **options)
    raise_faults("the tower was not filled", sorted({*info["missing_keys"], *info["unexpected_keys"]}))
    return model.eval()


def _as_files(model: Any) -> dict[str, torch.Tensor]:
    return dict(revert_weight_conversion(model, model.state_dict()))


def _image_processor(checkpoint: Checkpoint, config: Any) -> MMImageProcessorPil:
    """By timm's config.json; else as the published weights were tested: a square out of the middle.

    Raises: ValueError for a crop_mode that adds a border.
    """
    size, told = config.image_size, checkpoint.config.get("pretrained_cfg") or {}
    kind = kind_of(checkpoint)
    is_vit = kind is not None and tuple(kind) == ("vit", "timm")
    usual = _HALVES if is_vit and not _is_deit(checkpoint) else _IMAGENET
    crop = told.get("crop_mode") or "center"
    if crop not in ("center", "squash"):
        raise ValueError(
            f"crop_mode is {crop!r} in timm's config.json; accepted are 'center' and 'squash'; {USE_TIMM}"
        )
    # Rounded down, as timm does.
    side = math.floor(size / (told.get("crop_pct") or (0.9 if is_vit and not told else _CROP)))
    return MMImageProcessorPil(
        size={"height": side, "width": side} if crop == "squash" else {"shortest_edge": side},
        crop_size={"height": size, "width": size},
        do_center_crop=crop != "squash" or side != size,
        resample=_RESAMPLES.get(told.get("interpolation") or ("bicubic" if is_vit else "bilinear"), 3),
        image_mean=list(told.get("mean") or usual["image_mean"]),
        image_std=list(told.get("std") or usual["image_std"]),
    )


def _is_deit(checkpoint: Checkpoint) -> bool:
    """DeiT or DINO, by the name of the file or by tokens that other ViTs of timm lack."""
    name = file_name(checkpoint)
    return "deit" in name or "dino" in name or not {"dist_token", "reg_token"}.isdisjoint(checkpoint)


# ---- back ----------------------------------------------------------------------------------------------------------


def write_back(config: Any, tensors: Tensors, unread: Tensors, layout: str, out: Path) -> list[str]:
    """Writes a tower, or that of a whole model, as OUT/model.safetensors with a layout's names; returns notes.

    Args:
        config: of the tower or the model; tensors: of its folder. unread: what the way here left aside.
    """
    own: dict[str, torch.Tensor] = dict(tensors)
    if isinstance(config, MMConfig):
        own = {name.removeprefix(_TOWER): tensors[name] for name in tensors if name.startswith(_TOWER)}
        config, unread = config.vision_config, {}
    table = table_back(config, layout)
    with torch.device("meta"):
        wanted = _as_files(_CLASSES[type(config)](config)).keys()
    raise_faults("the weights are not those of this tower", sorted(wanted ^ own.keys()))
    names = {"embed_positions.row", "embed_positions.column"} & own.keys()
    raise_faults(f"{layout} has no learned positions of a CNN; set position_embedding_type='none'", sorted(names))
    written = table.restore(own, unread)
    out.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(written, out, filename_pattern="model{suffix}.safetensors")
    return [f"wrote {out / 'model.safetensors'}: {len(written)} tensors with {layout}'s names"]


# ---- beside the original -------------------------------------------------------------------------------------------


@torch.no_grad()
def verify_tower(checkpoint: Checkpoint, model: Any) -> list[str]:
    """Compares the features of a tower with those of torchvision or timm, on pictures of noise. In float64: in float32
    a deep CNN is as far from itself, in another order of its sums, as weights that are a little wrong.

    Raises: ValueError where the package is not installed, the file does not say its architecture, or they differ.
    """
    kind = kind_of(checkpoint)
    assert kind is not None
    theirs, package = _original(checkpoint, kind.layout)
    _load(theirs, checkpoint)
    generator = torch.Generator().manual_seed(0)
    side = model.config.image_size
    pixels = torch.randn(2, model.config.num_channels, side, side, generator=generator, dtype=torch.float64)
    there = _features(theirs.double().eval(), pixels, kind.name, package)
    here = copy.deepcopy(model).double().eval()(pixels).last_hidden_state
    here = here.flatten(2).transpose(1, 2) if here.ndim == 4 else here
    if here.shape != there.shape:  # a DeiT's second token comes first here as well
        raise ValueError(f"the features are {tuple(here.shape)}, and there {tuple(there.shape)}")
    difference, bound = float((here - there).abs().max()), TOLERANCE * max(1.0, float(there.abs().max()))
    if not difference <= bound:
        raise ValueError(f"the features differ by {difference:.1e}, more than {bound:.1e}")
    return [f"verified: features differ by {difference:.1e} at most (bound {bound:.1e})"]


def _original(checkpoint: Checkpoint, layout: str) -> tuple[Any, str]:
    """A model of the architecture, and the package that it is of: VGG and ResNet have the same names in both."""
    name, lacking = file_name(checkpoint), []
    for package in (layout, *(other for other in LAYOUTS if other != layout)):
        try:
            module = importlib.import_module(package)
        except ImportError:
            lacking.append(package)
            continue
        known = module.list_models() if package == "timm" else module.models.list_models()
        found = [one for one in known if name.startswith(one)]
        if found:
            longest = max(found, key=len)
            made = module.create_model(longest) if package == "timm" else module.models.get_model(longest)
            return made, package
    if layout in lacking:
        raise ValueError(f"--verify runs {layout}'s own model: pip install {layout}")
    raise ValueError(f"--verify needs the architecture, and {name!r} does not begin with a name of {layout}'s")


def _load(theirs: Any, checkpoint: Checkpoint) -> None:
    """The file's tensors in fp32; a classifier of another number of names is left as it is."""
    own = theirs.state_dict()
    fitting = {
        name: checkpoint[name] for name in checkpoint if name in own and own[name].shape == checkpoint.shape(name)
    }
    lost = [name for name in {*own, *checkpoint} - fitting.keys() if not name.startswith(_CLASSIFIERS)]
    raise_faults(f"the file is no {type(theirs).__name__} of this name", sorted(lost))
    theirs.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in fitting.items()}, strict=False)


def _features(model: Any, pixels: torch.Tensor, kind: str, layout: str) -> torch.Tensor:
    """Tokens (n, S, D) before any pooling or classifier."""
    if layout == "timm":
        found = model.forward_features(pixels)
    elif kind == "vit":
        tokens = model._process_input(pixels)
        found = model.encoder(torch.cat([model.class_token.expand(len(pixels), -1, -1), tokens], dim=1))
    elif kind == "resnet":
        parts = (model.conv1, model.bn1, model.relu, model.maxpool)
        parts += (model.layer1, model.layer2, model.layer3, model.layer4)
        found = pixels
        for part in parts:
            found = part(found)
    else:
        found = model.features(pixels)
    return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found
