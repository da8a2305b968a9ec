"""CNNs in files of torchvision and timm (VGG, ResNet, MobileNetV2, EfficientNet) as MM's convolutional tower.

A file holds only tensors. Sizes are read from their shapes; strides, epsilons and paddings are those that every
published model of the kind has, and `padding` and `batch_norm_eps` of timm's tf_ models are told by their name.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from .config_table import TowerPlan
from .key_table import KeyTable

Shapes = Mapping[str, tuple[int, ...]]
_STRIDES = {4: (1, 2, 2, 2), 7: (1, 2, 2, 2, 1, 2, 1)}  # by the number of stages: ResNet; MobileNetV2, EfficientNet
_SQUEEZE = 4  # EfficientNet's: a quarter of the channels that come into a block
_CLASSES = "a classifier over names, which gives no features"
_STANDARD = {"model_type": "mm_conv", "position_embedding_type": "none", "pooler": "mean"}
USE_TIMM = "use timm's tower: vision_config={'model_type': 'timm_wrapper', ...}"
TF_EPS = 1e-3  # of TensorFlow's batch norm, which timm's tf_ models and torchvision's largest EfficientNets keep


def _unit(conv: str, norm: str, new: str) -> KeyTable:
    """A convolution and its batch norm."""
    return KeyTable(modules={conv: f"{new}.conv"}, tensors={f"{norm}.{{norm}}": f"{new}.norm.{{norm}}"})


def _sum(tables: Collection[KeyTable]) -> KeyTable:
    total = KeyTable()
    for table in tables:
        total += table
    return total


# ---- VGG -----------------------------------------------------------------------------------------------------------

_VGG_HEADS = ("classifier.{n}.{leaf}", "pre_logits.fc1.{leaf}", "pre_logits.fc2.{leaf}", "head.fc.{leaf}")


def vgg_settings(shapes: Shapes) -> dict[str, Any]:
    """Of the numbers of its layers: a pooling stands between two convolutions that are one layer further apart."""
    numbers = sorted(int(name.split(".")[1]) for name, shape in shapes.items() if _is_conv(name, shape))
    step = 3 if "features.1.running_mean" in shapes else 2
    stages: list[dict[str, Any]] = []
    for place, number in enumerate(numbers):
        if place == 0 or number - numbers[place - 1] != step:
            channels = shapes[f"features.{number}.weight"][0]
            stages.append({"block": "plain", "depth": 0, "channels": channels, "stride": 1, "pool": 2})
        stages[-1]["depth"] += 1
    norms = {"batch_norm": True, "conv_bias": True} if step == 3 else {"batch_norm": False}
    return {**_STANDARD, "stages": stages, "num_channels": shapes["features.0.weight"][1], **norms}


def _is_conv(name: str, shape: tuple[int, ...]) -> bool:
    return bool(re.fullmatch(r"features\.\d+\.weight", name)) and len(shape) == 4


def vgg_table(config: Any) -> KeyTable:
    """features.N, a running number that counts activations and poolings too."""
    tables, number = [], 0
    for stage, part in enumerate(config.stages):
        for block in range(part["depth"]):
            new = f"stages.{stage}.{block}.conv"
            tables.append(_unit(f"features.{number}", f"features.{number + 1}", new))
            if not config.batch_norm:
                tables[-1] = KeyTable(modules={f"features.{number}": f"{new}.conv"})
            number += 3 if config.batch_norm else 2
        number += 1
    return _sum(tables).adding(kept=dict.fromkeys(_VGG_HEADS, _CLASSES))


# ---- ResNet --------------------------------------------------------------------------------------------------------


def resnet_settings(shapes: Shapes, name: str) -> dict[str, Any]:
    """ResNet-18 to -152, and wide ones; `name` of the file or its architecture.

    Raises: ValueError for other blocks, as those in groups (ResNeXt), and for poolings that only the name tells.
    """
    if "conv1.weight" not in shapes:
        raise ValueError(f"no tensor is named conv1.weight: a ResNet with a stem of several convolutions; {USE_TIMM}")
    check_no_blur(name)
    stages, deep = [], "layer1.0.conv3.weight" in shapes
    needed = [f"layer{n}.0.conv{k}.weight" for n in range(1, 5) for k in ((2, 3) if deep else (2,))]
    if lacking := [tensor for tensor in needed if tensor not in shapes]:
        raise ValueError(f"no ResNet that is known: no tensor is named {', '.join(lacking)}; {USE_TIMM}")
    for number, stride in enumerate(_STRIDES[4], 1):
        depth = len({name.split(".")[1] for name in shapes if name.startswith(f"layer{number}.")})
        last = shapes[f"layer{number}.0.conv{3 if deep else 2}.weight"]
        inner = shapes[f"layer{number}.0.conv2.weight"]
        if deep and inner[0] != inner[1]:
            raise ValueError(
                f"layer{number}.0.conv2 is in {inner[0] // inner[1]} groups, as in a ResNeXt; MM's blocks have none; "
                f"{USE_TIMM}"
            )
        stage = {"block": "bottleneck" if deep else "residual", "depth": depth, "channels": last[0], "stride": stride}
        stages.append({**stage, "expansion": last[0] // last[1]} if deep else stage)
    width, channels, size, _ = shapes["conv1.weight"]
    stem = {"channels": width, "kernel_size": size, "stride": 2, "pool": 3}
    return {**_STANDARD, "stem": stem, "stages": stages, "num_channels": channels}


def check_no_blur(name: str) -> None:
    """Raises ValueError for a network that makes pictures smaller by poolings that have no tensors."""
    if "resnetaa" in name or "blur" in name:
        raise ValueError(
            f"{name} has anti-aliased poolings, which are not known and which no tensor shows; {USE_TIMM}"
        )


def resnet_table(config: Any) -> KeyTable:
    tables = [_unit("conv1", "bn1", "stem")]
    for stage, part in enumerate(config.stages):
        names = ("reduce", "conv", "widen") if part["block"] == "bottleneck" else ("conv1", "conv2")
        old, new = f"layer{stage + 1}.{{n}}.", f"stages.{stage}.{{n}}."
        units = [
            _unit(f"{old}conv{number}", f"{old}bn{number}", f"{new}{name}") for number, name in enumerate(names, 1)
        ]
        tables += [*units, _unit(f"{old}downsample.0", f"{old}downsample.1", f"{new}shortcut")]
    return _sum(tables).adding(kept={"fc.{leaf}": _CLASSES})


# ---- MobileNetV2 and EfficientNet ----------------------------------------------------------------------------------

TIMM, TORCHVISION = "timm", "torchvision"


def inverted_settings(shapes: Shapes, layout: str, name: str) -> dict[str, Any]:
    """MobileNetV2 and EfficientNet, of any width and depth; `name` of the file or its architecture.

    Raises: ValueError for other networks of such blocks, whose strides or activations the tensors do not say.
    """
    check_no_blur(name)
    places = _inverted_places(shapes, layout)
    depths = [len(blocks) for blocks in places]
    if len(places) != len(_STRIDES[7]):
        raise ValueError(f"a network of {len(places)} stages of inverted blocks is not known; accepted are those of 7")
    stages, squeezes = [], any(".se." in key or key.endswith(".block.1.fc1.weight") for key in shapes)
    for stride, blocks in zip(_STRIDES[7], places, strict=True):
        parts = _inverted_parts(blocks[0], layout, shapes)
        _check_depthwise(blocks[0], parts, shapes)
        depthwise, project = shapes[f"{parts['depthwise']}.weight"], shapes[f"{parts['project']}.weight"]
        entering = depthwise[0] if "expand" not in parts else shapes[f"{parts['expand']}.weight"][1]
        stage = {"block": "inverted", "depth": len(blocks), "channels": project[0], "stride": stride}
        stage |= {"kernel_size": depthwise[2], "expansion": depthwise[0] // entering}
        stages.append(stage | ({"squeeze": _SQUEEZE} if squeezes else {}))
    stem, head = _ends(layout, shapes)
    _check_activation(stages, squeezes, name)
    # TensorFlow's epsilon: timm's tf_ models, and torchvision's b5, b6 and b7, which are three blocks deep at first.
    eps = TF_EPS if name.startswith("tf_") or (layout == TORCHVISION and squeezes and depths[0] >= 3) else 1e-5
    width, channels = shapes[f"{stem}.weight"][:2]
    return {
        **_STANDARD, "stem": {"channels": width, "kernel_size": 3, "stride": 2}, "stages": stages,
        "head_channels": shapes[f"{head}.weight"][0], "num_channels": channels, "batch_norm_eps": eps,
        "hidden_act": "silu" if squeezes else "relu6", "padding": "same" if name.startswith("tf_") else "symmetric",
    }  # fmt: skip


def _check_depthwise(block: str, parts: Mapping[str, str], shapes: Shapes) -> None:
    """Raises ValueError for other blocks, as those of EfficientNetV2, whose first convolutions are whole ones."""
    names = [f"{conv}.weight" for conv in parts.values()]
    if any(name not in shapes for name in names) or shapes[f"{parts['depthwise']}.weight"][1] != 1:
        raise ValueError(
            f"{block} is no inverted block with a convolution of each channel by itself; EfficientNetV2 and "
            f"MobileNetV3 are not known; {USE_TIMM}"
        )


def _check_activation(stages: list[dict[str, Any]], squeezes: bool, name: str) -> None:
    """Raises ValueError for a network without squeezing that is neither a MobileNetV2 nor an EfficientNet-Lite."""
    is_mobile = all(stage["kernel_size"] == 3 for stage in stages)
    if not squeezes and not is_mobile and "lite" not in name:
        raise ValueError(
            f"{name or 'this file'} has inverted blocks without squeezing and kernels larger than 3, and does not say "
            "which activation it was trained with; accepted are MobileNetV2, EfficientNet, and EfficientNet-Lite "
            "in a file called so"
        )


def _ends(layout: str, shapes: Shapes) -> tuple[str, str]:
    """The first and the last convolution."""
    if layout == TIMM:
        return "conv_stem", "conv_head"
    last = max(int(name.split(".")[1]) for name in shapes if name.startswith("features."))
    return "features.0.0", f"features.{last}.0"


def _inverted_places(shapes: Shapes, layout: str) -> list[list[str]]:
    """The names of the blocks, by stage."""
    if layout == TIMM:
        found = {tuple(map(int, key.split(".")[1:3])) for key in shapes if key.startswith("blocks.")}
        return [[f"blocks.{s}.{b}" for s, b in sorted(found) if s == stage] for stage in sorted({s for s, _ in found})]
    efficient = {tuple(map(int, key.split(".")[1:3])) for key in shapes if re.match(r"features\.\d+\.\d+\.block", key)}
    if efficient:
        stages = sorted({stage for stage, _ in efficient})
        return [[f"features.{s}.{b}" for s, b in sorted(efficient) if s == stage] for stage in stages]
    mobile = sorted({int(key.split(".")[1]) for key in shapes if re.match(r"features\.\d+\.conv\.", key)})
    places: list[list[str]] = []
    before = None
    for number in mobile:  # the running number; a stage is what has the same width
        project = 2 if f"features.{number}.conv.3.weight" in shapes else 1
        width = shapes[f"features.{number}.conv.{project}.weight"][0]
        if width != before:
            places.append([])
        places[-1].append(f"features.{number}")
        before = width
    return places


def _inverted_parts(block: str, layout: str, names: Collection[str]) -> dict[str, str]:
    """MM's name of each convolution -> the source's. The first block of all does not expand."""
    if layout == TIMM:
        expands = f"{block}.conv_pwl.weight" in names
        return _parts_of_timm(block, expands)
    mobile = any(name.startswith(f"{block}.conv.") for name in names)
    expands = f"{block}.conv.3.weight" in names or f"{block}.block.3.0.weight" in names
    return _parts_of_torchvision(block, expands, mobile, f"{block}.block.{int(expands) + 1}.fc1.weight" in names)


def _parts_of_timm(block: str, expands: bool) -> dict[str, str]:
    if not expands:
        return {"depthwise": f"{block}.conv_dw", "project": f"{block}.conv_pw"}
    return {"expand": f"{block}.conv_pw", "depthwise": f"{block}.conv_dw", "project": f"{block}.conv_pwl"}


def _parts_of_torchvision(block: str, expands: bool, mobile: bool, squeezes: bool) -> dict[str, str]:
    inner = f"{block}.conv" if mobile else f"{block}.block"
    after = int(expands)
    parts = {"expand": f"{inner}.0.0"} if expands else {}
    parts["depthwise"] = f"{inner}.{after}.0"
    parts["project"] = f"{inner}.{after + 1}" if mobile else f"{inner}.{after + 1 + squeezes}.0"
    return parts


def inverted_table(config: Any, layout: str) -> KeyTable:
    """Both networks have a table each in torchvision, and one in timm."""
    squeezes = "squeeze" in config.stages[0]
    mobile = layout == TORCHVISION and not squeezes
    tables, running = [], 1
    for stage, part in enumerate(config.stages):
        expands = part["expansion"] > 1
        for block in range(part["depth"]):
            new = f"stages.{stage}.{block}"
            if layout == TIMM:
                tables.append(_timm_block(f"blocks.{stage}.{block}", new, expands, squeezes))
            else:
                old = f"features.{running}" if mobile else f"features.{stage + 1}.{block}"
                tables.append(_torchvision_block(old, new, expands, mobile, squeezes))
            running += 1
    if layout == TIMM:
        tables += [_unit("conv_stem", "bn1", "stem"), _unit("conv_head", "bn2", "head")]
    else:
        last = running if mobile else len(config.stages) + 1
        tables += [
            _unit("features.0.0", "features.0.1", "stem"),
            _unit(f"features.{last}.0", f"features.{last}.1", "head"),
        ]
    return _sum(tables).adding(kept=dict.fromkeys(("classifier.{leaf}", "classifier.{n}.{leaf}"), _CLASSES))


def _timm_block(old: str, new: str, expands: bool, squeezes: bool) -> KeyTable:
    parts = _parts_of_timm(old, expands)
    tables = [
        _unit(conv, f"{old}.bn{number}", f"{new}.{name}") for number, (name, conv) in enumerate(parts.items(), 1)
    ]
    if squeezes:
        inner = {"reduce": f"{old}.se.conv_reduce", "expand": f"{old}.se.conv_expand"}
        tables.append(KeyTable(modules={theirs: f"{new}.squeeze.{name}" for name, theirs in inner.items()}))
    return _sum(tables)


def _torchvision_block(old: str, new: str, expands: bool, mobile: bool, squeezes: bool) -> KeyTable:
    parts = _parts_of_torchvision(old, expands, mobile, squeezes)
    tables = [_unit(conv, _norm_after(conv), f"{new}.{name}") for name, conv in parts.items()]
    if squeezes:
        inner = f"{old}.block.{int(expands) + 1}"
        both = {f"{inner}.fc1": f"{new}.squeeze.reduce", f"{inner}.fc2": f"{new}.squeeze.expand"}
        tables.append(KeyTable(modules=both))
    return _sum(tables)


def _norm_after(conv: str) -> str:
    """The next number of a sequence."""
    before, _, number = conv.rpartition(".")
    return f"{before}.{int(number) + 1}"


def cnn_plan(kind: str, layout: str, settings: dict[str, Any], config: Any) -> TowerPlan:
    """The table of a kind of network: "vgg", "resnet" or "inverted"."""
    tables = {"vgg": vgg_table, "resnet": resnet_table}
    table = inverted_table(config, layout) if kind == "inverted" else tables[kind](config)
    counter = {"{rest}.num_batches_tracked": "a counter that older files lack"}
    return TowerPlan(settings, table.adding(new=counter))
