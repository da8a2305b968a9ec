"""Files of torchvision and timm as towers of MM, and back; beside both packages in `make test-newest`."""

# Fixtures build models whose types pyright cannot follow.

import importlib
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, BertConfig, BertModel, ConvNextConfig, ConvNextModel

from mm import MMConvConfig, MMForSequenceClassification, MMVisionConfig
from mm.conversion_scripts.engine import convert, run
from mm.modeling_mm.towers.conv import MMConvModel
from mm.modeling_mm.towers.vit import MMVisionModel
from mm.weights.timm_names import vit_settings
from mm.weights.tower_files import table_back

PLAIN = {"position_embedding_type": "none", "num_channels": 3, "image_size": 224}
INVERTED = [
    {"block": "inverted", "expansion": e, "kernel_size": k, "stride": s, "channels": c, "depth": d}
    for e, k, s, c, d in (
        (1, 3, 1, 4, 1), (6, 3, 2, 6, 2), (6, 3, 2, 8, 1), (6, 3, 2, 10, 2), (6, 3, 1, 12, 1), (6, 3, 2, 14, 1),
        (6, 3, 1, 16, 1),
    )
]  # fmt: skip
LITTLE = {"stem": {"channels": 4, "stride": 2}, "head_channels": 20}
SEES = {
    "hidden_size": 192, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8, "layer_norm_eps": 1e-6, "final_norm": "all", "norm_position": "pre",
}  # fmt: skip
# name -> layout, model class, config: each as the file says it
TOWERS = {
    "vgg": ("torchvision", MMConvModel, MMConvConfig(
        **PLAIN, batch_norm=False, stages=[{"block": "plain", "depth": d, "channels": c, "pool": 2}
                                           for d, c in ((1, 4), (2, 6), (3, 6))])),
    "vgg with batch norm": ("timm", MMConvModel, MMConvConfig(
        **PLAIN, conv_bias=True, stages=[{"block": "plain", "depth": d, "channels": 4, "pool": 2} for d in (2, 1)])),
    "resnet": ("torchvision", MMConvModel, MMConvConfig(
        **PLAIN, stem={"channels": 4, "kernel_size": 7, "stride": 2, "pool": 3},
        stages=[{"block": "residual", "depth": d, "channels": c, "stride": s}
                for d, c, s in ((1, 4, 1), (2, 6, 2), (1, 8, 2), (1, 10, 2))])),
    "resnet, wide": ("timm", MMConvModel, MMConvConfig(
        **PLAIN, stem={"channels": 4, "kernel_size": 7, "stride": 2, "pool": 3},
        stages=[{"block": "bottleneck", "depth": d, "channels": c, "stride": s, "expansion": 2}
                for d, c, s in ((1, 4, 1), (2, 6, 2), (1, 8, 2), (1, 10, 2))])),
    "mobilenet_v2": ("torchvision", MMConvModel, MMConvConfig(**PLAIN, **LITTLE, stages=INVERTED, hidden_act="relu6")),
    "mobilenetv2": ("timm", MMConvModel, MMConvConfig(**PLAIN, **LITTLE, stages=INVERTED, hidden_act="relu6")),
    "efficientnet": ("torchvision", MMConvModel, MMConvConfig(
        **PLAIN, **LITTLE, stages=[{**stage, "squeeze": 4} for stage in INVERTED], hidden_act="silu")),
    "tf_efficientnet": ("timm", MMConvModel, MMConvConfig(
        **PLAIN, **LITTLE, stages=[{**stage, "squeeze": 4} for stage in INVERTED], hidden_act="silu", padding="same",
        batch_norm_eps=1e-3)),
    "vit": ("torchvision", MMVisionModel, MMVisionConfig(**SEES)),
    "vit of timm": ("timm", MMVisionModel, MMVisionConfig(**SEES, attention_bias="o")),
    "deit": ("timm", MMVisionModel, MMVisionConfig(**SEES, num_register_tokens=1)),
    "siglip": ("timm", MMVisionModel, MMVisionConfig(**SEES, use_cls_token=False, pooler="attention")),
    "convnext": ("torchvision", ConvNextModel, ConvNextConfig(
        hidden_sizes=[4, 6, 8, 10], depths=[1, 2, 1, 1], layer_norm_eps=1e-6, image_size=224)),
    "convnext of timm, with convolutions": ("timm", ConvNextModel, ConvNextConfig(
        hidden_sizes=[40, 8, 8, 8], depths=[1, 1, 1, 1], layer_norm_eps=1e-6, image_size=224)),
    "convnext of timm": ("timm", ConvNextModel, ConvNextConfig(
        hidden_sizes=[96, 6, 8, 10], depths=[1, 1, 2, 1], layer_norm_eps=1e-6, image_size=224)),
}  # fmt: skip


def tower_of(model_class, config):
    """A tower all of whose tensors count."""
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.4 + 0.3 * torch.rand_like(tensor))
    return model


# What files are called whose tensors do not tell their network.
FILES = {
    "resnet": "resnet18", "resnet, wide": "wide_resnet50_2", "mobilenet_v2": "mobilenet_v2",
    "siglip": "vit_small_patch8_siglip_32",
    "mobilenetv2": "mobilenetv2_050", "efficientnet": "efficientnet_b0", "tf_efficientnet": "tf_efficientnet_b0",
}  # fmt: skip
QUICK = (
    "vgg with batch norm",
    "resnet, wide",
    "mobilenet_v2",
    "deit",
    "convnext",
    "convnext of timm, with convolutions",
)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TOWERS])
def test_a_file_makes_the_tower_that_it_is_of_and_comes_back_bit_by_bit(tmp_path, name):
    layout, model_class, config = TOWERS[name]
    tower = tower_of(model_class, config)
    tensors = table_back(config, layout).restore(dict(tower.state_dict()))
    heads = {"vit": "head", "deit": "head", "siglip": "head"} if layout == "timm" else {"vit": "heads.head"}
    heads["vgg"] = "head.fc"
    head = heads.get(name.split()[0], "fc" if name.startswith("resnet") else "classifier")
    sides = {tensors[key].ndim for key in tensors if key.endswith("mlp.fc2.weight")}
    assert layout != "timm" or not name.startswith("convnext") or sides == {4 if "convolutions" in name else 2}
    if not name.startswith("convnext"):
        tensors |= {f"{head}.weight": torch.rand(5, 3), f"{head}.bias": torch.rand(5)}
    file = tmp_path / f"{FILES.get(name, name.replace(' ', '_'))}-1234.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    done = convert(file)
    made, beside = done.model.config.to_dict(), ("dtype", "_name_or_path", "architectures")
    assert {k: v for k, v in config.to_dict().items() if made.get(k) != v and k not in beside} == {}
    assert all(torch.equal(value, tower.state_dict()[key]) for key, value in done.model.state_dict().items())
    done.save_pretrained(tmp_path / "mm")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "mm"), model_class)
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to=layout)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], value) for key, value in tensors.items())


def test_timm_s_folder_says_the_size_and_how_pictures_are_made_ready(tmp_path):
    layout, model_class, config = TOWERS["tf_efficientnet"]
    tensors = table_back(config, layout).restore(dict(tower_of(model_class, config).state_dict()))
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "model.safetensors")
    told = {
        "input_size": [3, 96, 96],
        "crop_pct": 0.75,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    settings = {"architecture": "tf_efficientnet_b0", "num_classes": 5, "pretrained_cfg": told}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    convert(tmp_path).save_pretrained(tmp_path / "mm")
    images = AutoImageProcessor.from_pretrained(tmp_path / "mm")
    made = AutoModel.from_pretrained(tmp_path / "mm").config
    assert (made.image_size, made.padding, made.batch_norm_eps) == (96, "same", 1e-3)
    assert dict(images.size)["shortest_edge"] == 128 and images.crop_size["height"] == 96 and images.resample == 3
    assert list(images.image_std) == [0.2] * 3


def test_a_frozen_vgg_and_a_text_classify_and_the_vgg_goes_back(tmp_path):
    layout, model_class, config = TOWERS["vgg"]
    tensors = table_back(config, layout).restore(dict(tower_of(model_class, config).state_dict()))
    torch.save({key: value.clone() for key, value in tensors.items()}, tmp_path / "vgg16-1.pth")
    words = BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=30,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    BertModel(words).save_pretrained(tmp_path / "bert")
    sizes = {"vision_config": {"image_size": 32}, "fusion_type": "concat", "num_labels": 3}
    model = MMForSequenceClassification.from_towers(tmp_path / "vgg16-1.pth", tmp_path / "bert", **sizes)
    model.freeze("vision")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {"input_ids": torch.tensor([[1, 5, 2], [1, 6, 2]]), "pixel_values": torch.randn(2, 3, 32, 32)}
    model(**given, labels=torch.tensor([0, 2])).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    changed = {key.split(".")[1] for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    assert "language_model" in changed and "fusion" in changed and "vision_tower" not in changed
    model.save_pretrained(tmp_path / "mm")
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to="torchvision")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], value) for key, value in tensors.items())


# What tells the settings of timm's test_convnext.
CONVNEXT = {
    "stem.0.weight": (24, 3, 4, 4), "stem.1.weight": (24,), "stem.1.bias": (24,),
    **{f"stages.{s}.blocks.0.conv_dw.weight": (c, 1, 7, 7) for s, c in enumerate((24, 32, 48, 64))},
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"layer1.0.conv1.weight": (4, 4, 1, 1), "conv1.0.weight": (4, 3, 3, 3)}, "stem of several convolutions"),
        ({"features.1.block.0.0.weight": (4, 1, 3, 3)}, "MobileNetV3 is not known.*timm_wrapper"),
        ({"patch_embed.proj.weight": (64, 3, 8, 8), "blocks.0.mlp.fc1.weight": (8, 64), "blocks.0.ls1.gamma": (64,),
          "pos_embed": (1, 17, 64), "cls_token": (1, 1, 64)}, "LayerScale"),
        ({"patch_embed.proj.weight": (50, 3, 8, 8), "blocks.0.mlp.fc1.weight": (8, 50), "pos_embed": (1, 17, 50),
          "cls_token": (1, 1, 50)}, "how many heads it has; pass vision_config"),
        ({"patch_embed.proj.weight": (64, 3, 16, 16), "blocks.0.mlp.fc1.weight": (192, 64),  # test_vit has 2, not 1
          "pos_embed": (1, 101, 64), "cls_token": (1, 1, 64)}, "no published ViT is 64 wide.*pass vision_config"),
        (CONVNEXT, "begins with 24 channels.*test_convnext are the tanh form.*'hidden_act': 'gelu'.*timm_wrapper"),
        (CONVNEXT | {"stages.2.blocks.0.conv_dw.weight": (48, 1, 5, 5)}, "convolutions of 5 x 5, not 7.*timm_wrapper"),
        (CONVNEXT | {"norm_pre.weight": (64,)}, r"a norm before its pooling \(norm_pre\).*timm_wrapper"),
        ({name: shape for name, shape in CONVNEXT.items() if name != "stem.1.bias"}, "norms without biases"),
        ({"conv_stem.weight": (4, 3, 3, 3), "blocks.0.0.conv_dw.weight": (4, 1, 3, 3)}, "1 stages of inverted"),
        ({"stem.0.weight": (4, 3, 4, 4), "stages.0.blocks.0.mlp.grn.weight": (4,)}, "ConvNeXt V2 is not known"),
        ({"features.0.weight": (4, 3, 3, 3), "features.0.bias": (4,), "more": (2,)},
         "no VGG that is known.*timm_wrapper.*no place for more"),
        ({"features.0.weight": (64, 3, 11, 11), "features.0.bias": (64,)},  # an AlexNet
         "no VGG that is known.*timm_wrapper.*11, 11"),
        ({"layers.0.weight": (16, 3, 3, 3), "layers.1.weight": (16,)}, "not recognised.*VGG, ResNet.*timm_wrapper"),
        ({"patch_embed.proj.weight": (96, 3, 4, 4), "layers.0.blocks.0.attn.qkv.weight": (288, 96)},
         "no ViT that is known.*timm_wrapper"),
        ({"stem.0.weight": (8, 3, 4, 4), "blocks.0.0.fn.0.weight": (8, 1, 3, 3)}, "no ConvNeXt that.*timm_wrapper"),
        ({"conv1.weight": (4, 3, 7, 7), "layer1.0.conv1.weight": (4, 4, 1, 1), "layer1.0.convs.0.weight": (4, 4)},
         "no ResNet that.*timm_wrapper"),
    ],
)  # fmt: skip
def test_what_mm_has_no_tower_for_is_refused_in_words(tmp_path, names, message):
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert(tmp_path / "model.safetensors")


def folder_of(path, name, architecture, **pretrained):
    """timm's folder of a tower."""
    layout, model_class, config = TOWERS[name]
    tensors = table_back(config, layout).restore(dict(tower_of(model_class, config).state_dict()))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": pretrained}))
    return path


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("resnet, wide", "resnetaa50", "anti-aliased.*timm_wrapper"),
        ("resnet", "resnetblur18", "anti-aliased.*timm_wrapper"),
        ("efficientnet", "efficientnet_blur_b0", "anti-aliased.*timm_wrapper"),
        ("resnet", "resnet18_other", "resnet18_other is not known.*timm_wrapper"),
        ("vit of timm", "test_vit", "test_vit is not known.*timm_wrapper"),
        ("convnext of timm", "convnext_xxlarge", "epsilon.*timm_wrapper"),
        ("convnext of timm", "test_convnext", "test_convnext is not known.*timm_wrapper"),
    ],
)
def test_what_only_the_name_of_a_network_tells_is_refused(tmp_path, name, architecture, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert(folder_of(tmp_path, name, architecture))


def siglip(width, patch, layers=1, class_token=False):
    """Shapes of the tensors that tell the settings of a ViT of timm."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "pos_embed": (1, 4 + class_token, width),
        **({"cls_token": (1, 1, width)} if class_token else {"attn_pool.latent": (1, 1, width)}),
    }
    return shapes | {f"blocks.{n}.mlp.fc1.weight": (8, width) for n in range(layers)}


@pytest.mark.parametrize(
    ("name", "shapes", "heads", "activation"),
    [
        ("vit_giantopt_patch16_siglip_256", siglip(1536, 16), 16, "gelu_pytorch_tanh"),
        ("model.safetensors", siglip(1536, 16), 16, "gelu_pytorch_tanh"),
        ("vit_so400m_patch16_siglip_256", siglip(1152, 16), 16, "gelu_pytorch_tanh"),
        ("vit_so400m_patch14_siglip_224", siglip(1152, 14), 16, "gelu"),
        ("vit_base_patch32_siglip_256", siglip(768, 32), 12, "gelu_pytorch_tanh"),
        ("vit_large_patch16_siglip_512", siglip(1024, 16), 16, "gelu_pytorch_tanh"),
        ("vit_large_patch16_siglip_384", siglip(1024, 16), 16, "gelu"),
        ("vit_base_patch32_224", siglip(768, 32, class_token=True), 12, "gelu"),
        ("vit_base_patch16_gap_224", siglip(768, 16), 16, "gelu"),
        ("vit_base_patch16_siglip_gap_224", siglip(768, 16), 12, "gelu"),
    ],
)
def test_the_heads_and_the_activation_of_a_vit_are_those_of_its_published_size(name, shapes, heads, activation):
    settings = vit_settings(shapes, "timm", {}, name)
    assert (settings["num_attention_heads"], settings["hidden_act"]) == (heads, activation)
    assert vit_settings(shapes, "timm", {"num_attention_heads": 4}, name)["num_attention_heads"] == 4


def test_timm_s_older_small_vit_is_refused():
    with pytest.raises(ValueError, match="8 layers.*timm_wrapper"):
        vit_settings(siglip(768, 16, layers=8, class_token=True), "timm", {}, "vit_small_p16_224-15ec54c9.pth")


def test_the_report_says_what_was_assumed(tmp_path):
    done = convert(folder_of(tmp_path, "siglip", "vit_small_patch16_siglip_224", mean=[0.1] * 3, std=[0.2] * 3))
    lines = [line for line in done.report if line.startswith("assumed")]
    assert len(lines) == 1 and "num_attention_heads': 3" in lines[0] and "hidden_act" in lines[0]
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="has 16 heads.*rename the file"):
        convert(tmp_path / "model.safetensors")
    file = (tmp_path / "model.safetensors").rename(tmp_path / "vit_small_patch16_siglip_224.safetensors")
    assert any("image_mean [0.5, 0.5, 0.5]" in line for line in convert(file).report)


@pytest.mark.parametrize(
    ("told", "size", "crops"),
    [
        ({"crop_pct": 0.95}, {"shortest_edge": 235}, True),  # 224 / 0.95 is 235.8
        ({"crop_pct": 1.0, "crop_mode": "squash"}, {"height": 224, "width": 224}, False),
        ({"crop_pct": 0.95, "crop_mode": "squash"}, {"height": 235, "width": 235}, True),
        ({"crop_pct": None, "crop_mode": None}, {"shortest_edge": 256}, True),
    ],
)
def test_pictures_are_made_ready_as_timm_does(tmp_path, told, size, crops):
    images = convert(folder_of(tmp_path, "convnext of timm", "convnext_tiny", **told)).processor
    assert {name: value for name, value in dict(images.size).items() if value} == size
    assert images.do_center_crop is crops and images.crop_size["height"] == 224
    pixels = images(Image.new("RGB", (300, 200)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)


def test_a_crop_mode_that_adds_a_border_is_refused(tmp_path):
    with pytest.raises(ValueError, match="(?s)'border'.*timm_wrapper"):
        convert(folder_of(tmp_path, "convnext of timm", "convnext_tiny", crop_mode="border"))


@pytest.mark.parametrize(
    ("tower", "name", "mean"),
    [
        ("deit", "model", 0.485),
        ("vit of timm", "deit_tiny_patch16_224-1", 0.485),
        ("vit of timm", "vit_small_patch16_224.dino", 0.485),
        ("vit of timm", "vit_small_patch16_224-1", 0.5),
    ],
)
def test_a_vit_alone_gets_the_pixels_of_its_family(tmp_path, tower, name, mean):
    folder_of(tmp_path, tower, "").joinpath("model.safetensors").rename(tmp_path / f"{name}.safetensors")
    (tmp_path / "config.json").unlink()
    images = convert(tmp_path / f"{name}.safetensors").processor
    assert (images.image_mean[0], images.resample, dict(images.size)["shortest_edge"]) == (mean, 3, 35)


def test_a_file_that_is_called_after_anti_aliased_poolings_is_refused(tmp_path):
    folder_of(tmp_path, "resnet", "").joinpath("model.safetensors").rename(tmp_path / "resnetblur18-1.safetensors")
    with pytest.raises(ValueError, match="anti-aliased"):
        convert(tmp_path / "resnetblur18-1.safetensors")


@pytest.mark.parametrize("file", ["model", "my_resnet50", "resnet18d", "gluon_resnet18_v1b"])
def test_a_file_that_does_not_say_its_network_is_refused_where_others_have_the_same_tensors(tmp_path, file):
    folder_of(tmp_path, "resnet", "").joinpath("model.safetensors").rename(tmp_path / f"{file}.safetensors")
    with pytest.raises(ValueError, match=r"(?s)resnetaa50 has the tensors of resnet50.*rename the file"):
        convert(tmp_path / f"{file}.safetensors")


def test_pictures_and_patches_of_two_sides_are_refused(tmp_path):
    with pytest.raises(ValueError, match="input_size.*two sides"):
        convert(folder_of(tmp_path, "vit of timm", "vit_tiny_patch16_224", input_size=[3, 16, 64]))
    shapes = siglip(768, 16) | {"patch_embed.proj.weight": (768, 3, 16, 8)}
    with pytest.raises(ValueError, match="16 x 8 pixels"):
        vit_settings(shapes, "timm", {}, "vit_base_patch16_224")


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_a_tower_that_the_layout_lacks_is_refused(tmp_path, to):
    MMConvModel(MMConvConfig(image_size=32, stages=[{"block": "residual", "channels": 4}])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no learned positions of a CNN"):
        run(str(tmp_path), str(tmp_path / "back"), to=to)


# ---- beside torchvision and timm -----------------------------------------------------------------------------------

ORIGINALS = [
    *(("torchvision", name) for name in ("vgg11", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v2",
                                         "efficientnet_b0", "convnext_tiny", "vit_b_32")),
    *(("timm", name) for name in ("resnet26", "mobilenetv2_050", "efficientnet_b0", "tf_efficientnet_b0",
                                  "tf_efficientnet_lite0", "convnext_tiny", "convnext_atto", "vit_tiny_patch16_224",
                                  "deit_tiny_distilled_patch16_224", "vit_base_patch16_siglip_224",
                                  "vit_base_patch32_siglip_256")),
]  # fmt: skip


@pytest.mark.newest
@pytest.mark.parametrize(("package", "name"), ORIGINALS)
def test_the_features_are_those_of_the_original(tmp_path, package, name):
    module = importlib.import_module(package)
    torch.manual_seed(0)
    model = module.create_model(name) if package == "timm" else module.models.get_model(name)
    torch.save(model.state_dict(), tmp_path / f"{name}-12345678.pth")
    report = run(str(tmp_path / f"{name}-12345678.pth"), str(tmp_path / "mm"), compare=True)
    assert "verified: features differ by" in report[-1]
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to=package)
    model.load_state_dict(load_file(tmp_path / "back" / "model.safetensors"))
