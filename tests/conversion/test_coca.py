"""CoCa in open_clip's layout, converted and back, beside open_clip itself (fetched without its dependencies)."""

# Fixtures build models whose types pyright cannot follow; open_clip is there in its fixture alone.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportMissingImports=false

import importlib
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPImageProcessor

import mm
from mm.conversion_scripts.convert import convert, convert_back

pytestmark = pytest.mark.slow
RELEASE = "3.3.0"
CACHE = Path(__file__).resolve().parents[2] / "build" / f"open_clip-{RELEASE}"
STUBBED = {  # names that open_clip imports and CoCa does not call
    "torchvision": [],
    "torchvision.transforms": [
        "Normalize", "Compose", "RandomResizedCrop", "InterpolationMode", "ToTensor", "Resize", "CenterCrop",
        "ColorJitter", "Grayscale",
    ],
    "torchvision.transforms.functional": [],
    "torchvision.ops": [],
    "torchvision.ops.misc": ["FrozenBatchNorm2d"],
    "ftfy": [],
}  # fmt: skip
TEXT = {"context_length": 10, "vocab_size": 40, "width": 32, "heads": 4, "layers": 2}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
VISION = {"layers": 2, "width": 48, "head_width": 12, "patch_size": 8, "image_size": 24, "attn_pooler_heads": 4}
VISION |= {"attentional_pool": True, "output_tokens": True, "attn_pooler_queries": 6}
ODD = {"context_length": 7, "vocab_size": 31, "width": 24, "heads": 3, "layers": 1}
CONFIGS = {
    "usual": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": COCA_TEXT, "multimodal_cfg": TEXT},
    "odd": {  # a fused pooler, other depths, another activation, a bias
        "embed_dim": 24,
        "vision_cfg": {**VISION, "width": 24, "mlp_ratio": 3.0, "attn_pooler_heads": 2, "attn_pooler_queries": 3},
        "text_cfg": {**ODD, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**ODD, "layers": 3},
        "quick_gelu": True,
        "init_logit_bias": -2.0,
    },
}
LENGTHS = (3, 5, 0)  # of texts, 0 for one without padding


@pytest.fixture(scope="session")
def open_clip():
    """The installed package `open_clip`, with empty modules in the place of what it imports beside torch."""
    if not any(CACHE.glob("*.whl")):
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"open-clip-torch=={RELEASE}"]
        subprocess.run([*fetch, "--dest", str(CACHE)], check=True)
    with zipfile.ZipFile(next(CACHE.glob("*.whl"))) as wheel:
        wheel.extractall(CACHE)
    before = {name: sys.modules.get(name) for name in STUBBED}
    for name, members in STUBBED.items():
        sys.modules[name] = types.ModuleType(name)
        for member in members:
            setattr(sys.modules[name], member, MagicMock())
    sys.path.insert(0, str(CACHE))
    try:
        return importlib.import_module("open_clip.coca_model")
    finally:
        sys.path.remove(str(CACHE))
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.__setitem__(name, module)


@pytest.fixture(params=CONFIGS)
def pair(request, open_clip, tmp_path):
    """open_clip's model in fp64, so that no sum of a conversion rounds; its directory, and its conversion."""
    settings = CONFIGS[request.param]
    torch.manual_seed(0)
    theirs = open_clip.CoCa(**settings)
    scatter(theirs.double())
    source = tmp_path / "source"
    source.mkdir()
    tensors = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(tensors, source / "open_clip_model.safetensors", metadata={"format": "pt"})
    named = {name: value for name, value in settings.items() if name != "init_logit_bias"}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**named, "custom_text": True}}))
    return theirs.eval(), source, convert(source)


def scatter(model: nn.Module) -> None:
    """Weights under which every tensor counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim:
                weight.copy_(0.3 * noise if weight.ndim == 1 else noise * weight[0].numel() ** -0.5)


def inputs(theirs, dtype=torch.float64):
    """Pictures, texts padded to the whole context as open_clip's are, and their mask."""
    generator = torch.Generator().manual_seed(1)
    words, context = theirs.text.vocab_size, theirs.text.context_length
    ids = torch.randint(1, words - 2, (len(LENGTHS), context), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(LENGTHS):
        length = length or context
        ids[row, 0], ids[row, length - 1] = words - 2, words - 1
        ids[row, length:], mask[row, length:] = 0, 0
    side = theirs.visual.image_size
    pixels = torch.randn(len(LENGTHS), 3, *side, generator=generator, dtype=torch.float64)
    return pixels.to(dtype), ids, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_embeddings_and_logits_are_equal(pair, assert_close, dtype):
    theirs, ours = pair[0].to(dtype), pair[2].model.to(dtype)
    pixels, ids, mask = inputs(theirs, dtype)
    there = theirs(pixels, ids, output_labels=False)
    here = ours(ids, mask, pixel_values=pixels)
    assert_close(here.image_embeds, there["image_features"])
    assert_close(here.text_embeds, there["text_features"])
    assert_close(here.logits[mask.bool()], there["logits"][mask.bool()])
    memory = ours.encode_context(pixel_values=pixels).last_hidden_state
    assert_close(memory, theirs._encode_image(pixels)[1])
    states = ours.model.get_text_features(ids, mask).last_hidden_state
    assert_close(states[mask.bool()], theirs._encode_text(ids)[1][mask.bool()])


@torch.no_grad()
def test_the_mask_as_it_was_meant_is_the_other_setting(pair, assert_close):
    """open_clip has it as an attribute of the text tower, not in its config."""
    theirs, ours = pair[0], pair[2].model
    pixels, ids, mask = inputs(theirs)
    before = ours(ids, mask).text_embeds
    theirs.text.correct_cls_mask, ours.config.text_config.unimodal_cls = True, "text"
    here, there = ours(ids, mask).text_embeds, theirs.encode_text(ids)
    assert_close(here, there)
    differs = (here - before).abs().amax(1) > 1e-3
    assert differs.tolist() == [length > 0 for length in LENGTHS]  # without padding both masks are one


def test_loss_and_gradients_are_equal(pair, open_clip, assert_close):
    theirs, ours = pair[0].double(), pair[2].model.double()
    pixels, ids, mask = inputs(theirs)
    there = theirs(pixels, ids)
    loss = importlib.import_module("open_clip.loss").CoCaLoss(caption_loss_weight=2, clip_loss_weight=1)
    names = ("image_features", "text_features", "logits", "labels", "logit_scale")
    contrastive, caption = loss(**{name: there[name] for name in names})
    here = ours(ids, mask, pixel_values=pixels, return_loss=True)
    assert_close(here.loss, contrastive + caption)
    here.loss.backward()
    (contrastive + caption).backward()
    gradient = theirs.visual.attn_pool.query.grad
    found = ours.model.vision_resampler.latents.grad[0]
    assert (found - gradient).abs().max() <= 1e-10 * gradient.abs().max()


@torch.no_grad()
def test_greedy_tokens_are_equal(pair, tmp_path):
    theirs, source, done = pair
    theirs = theirs.double()
    done.save_pretrained(tmp_path / "mm")
    ours = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "mm", dtype=torch.float64)
    pixels, ids, _ = inputs(theirs)
    rows = ids[:, :1]
    for _ in range(theirs.text.context_length - 2):
        step = theirs(pixels, rows, output_labels=False)["logits"][:, -1]
        rows = torch.cat([rows, step.argmax(-1, keepdim=True)], dim=1)
    length = theirs.text.context_length - 2
    settings = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False, "eos_token_id": None}
    written = ours.generate(pixel_values=pixels, **settings)
    assert written[:, -length:].tolist() == rows[:, 1:].tolist()


def test_back_every_tensor_is_bit_equal_and_open_clip_loads_it(pair, open_clip, tmp_path):
    theirs, source, done = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "coca", tmp_path / "back")
    before, after = (load_file(folder / "open_clip_model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    settings = json.loads((tmp_path / "back/open_clip_config.json").read_text())["model_cfg"]
    del settings["custom_text"]
    again = open_clip.CoCa(**settings, init_logit_bias=None if theirs.logit_bias is None else 0.0).double()
    again.load_state_dict(after)


def test_a_file_of_weights_alone_is_read_by_its_sizes(open_clip, tmp_path, assert_close):
    wide = {"width": 64, "layers": 1, "context_length": 8, "vocab_size": 20, "heads": 1}
    vision = {**VISION, "width": 128, "head_width": 64, "attn_pooler_heads": 8}
    settings = {"embed_dim": 64, "vision_cfg": vision, "multimodal_cfg": wide}
    theirs = open_clip.CoCa(**settings, text_cfg={**wide, "embed_cls": True, "output_tokens": True}).double().eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "coca.pt")
    ours = convert(tmp_path / "coca.pt").model
    pixels, ids, mask = inputs(theirs)
    with torch.no_grad():
        there, here = theirs(pixels, ids), ours(ids, mask, pixel_values=pixels)
    assert_close(here.text_embeds, there["text_features"])
    assert_close(here.image_embeds, there["image_features"])


def test_pictures_are_cut_as_clips_are(pair):
    size = pair[2].model.config.vision_config.image_size
    theirs = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    there = torch.as_tensor(np.asarray(theirs(picture)["pixel_values"]))
    here = pair[2].processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    assert (here - there).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "part, change, match",
    [
        ("vision_cfg", {"ls_init_value": 0.1}, "vision_cfg.ls_init_value=0.1, but only None is known"),
        ("text_cfg", {"qk_norm": True}, "text_cfg.qk_norm=True is not known"),
        ("multimodal_cfg", {"heads": 8}, "multimodal_cfg.heads=8, text_cfg.heads=4"),
    ],
)
def test_settings_without_a_counterpart_are_refused(open_clip, pair, part, change, match):
    _, source, _ = pair
    config = {name: dict(value) if isinstance(value, dict) else value for name, value in CONFIGS["usual"].items()}
    config[part] |= change
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ValueError, match=match):
        convert(source)
