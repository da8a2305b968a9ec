"""accelerate: weights on disk and on the CPU by a device map, or filled into a skeleton, answer alike."""

# Fixtures build models whose types pyright cannot follow.

import re
from pathlib import Path

import pytest
import torch
from accelerate import (
    cpu_offload,
    disk_offload,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)
from accelerate.utils import compute_module_sizes

import mm
from comparing import close
from mm import (
    MMConfig,
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMForMaskedLM,
    MMForPreTraining,
    MMForSequenceClassification,
    MMModel,
)

ROOT = Path(__file__).resolve().parents[1]
IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 4]])
BOTH_WAYS = {"text_config": {"is_causal": False, "pooler": "mean"}}
WRITER, CLASSES = MMForConditionalGeneration, {"cls": MMForSequenceClassification, **BOTH_WAYS}
VIT = {"model_type": "vit", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
FOREIGN = {"vision_config": {**VIT, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}}
RESAMPLER = {"hidden_size": 24, "num_latents": 3, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
# Every way to join, every head, and all that has weights beside linear layers.
MODELS = {
    "inside": {}, "own": {"text": "own"}, "llama": {"text": "llama"}, "conv": {"vision": "conv"},
    "encoder": {"text_encoder_config": "tiny"}, "shared": {"share_text_encoder": True},
    "merged": {"fusion_type": "merged", "modality_embeddings": True, "max_images": 2}, "foreign": FOREIGN,
    "resampler": {"vision_resampler_config": RESAMPLER},
    "stretched": {
        "cls": MMForMaskedLM,
        "text_config": {"is_causal": False, "interpolate_positions": True, "max_position_embeddings": 2},
    },
    "base": {"cls": MMModel}, "masked": {"cls": MMForMaskedLM, **BOTH_WAYS},
    "retrieval": {
        "cls": MMForImageTextRetrieval, "contrastive_loss": "sigmoid", "logit_bias_init_value": -1.0, **BOTH_WAYS
    },
    "pre-training": {"cls": MMForPreTraining},
    **{fusion: {**CLASSES, "fusion_type": fusion} for fusion in ("co_attention", "concat", "gated", "decision")},
}  # fmt: skip
QUICK = ("inside", "conv")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS]


def inputs_of(name, pictures):
    text = {"context_input_ids": IDS} if name in ("encoder", "shared") else {}
    return {"input_ids": IDS, "pixel_values": pictures, **text}


def assert_answers_alike(found, model, name, pictures):
    inputs = inputs_of(name, pictures)
    with torch.no_grad():
        outputs, expected = found.eval()(**inputs), model(**inputs)
    tensors = {key: value for key, value in expected.items() if torch.is_tensor(value)}
    assert tensors
    for key, value in tensors.items():
        close(outputs[key], value)


def maps_of(model):
    """All on disk; the text in memory with the head that is tied to it; what fits a quarter, layers whole."""
    base = dict(model.named_children()).get("model")
    parts = {} if base is None else {f"model.{name}": "disk" for name, _ in base.named_children()}
    parts |= {name: "disk" for name, part in model.named_children() if part is not base}
    stays = {name: "cpu" for name in parts if name.startswith(("lm_head", "model.language_model", "language_model"))}
    quarter = {"cpu": compute_module_sizes(model)[""] // 4, "disk": 10**9}
    return {
        "all": {"": "disk"},
        "media": {**parts, **stays},
        "by size": infer_auto_device_map(model, quarter, list(model._no_split_modules)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_weights_on_disk_answer_as_in_memory(tiny_model, pictures, name, tmp_path):
    model = tiny_model(**MODELS[name])
    model.save_pretrained(tmp_path / "model")
    for place, device_map in maps_of(model).items():
        found = type(model).from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload", dtype=torch.float64
        )
        assert set(found.hf_device_map.values()) <= {"cpu", "disk"} and "disk" in found.hf_device_map.values(), place
        assert any(p.device.type == "meta" for p in found.parameters()) and found.device.type == "cpu", place
        assert_answers_alike(found, model, name, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inside", "own", "merged"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_generate_over_weights_on_disk_writes_the_same(tiny_model, pictures, name, settings, tmp_path):
    model = tiny_model(**MODELS[name])
    model.save_pretrained(tmp_path / "model")
    found = type(model).from_pretrained(
        tmp_path / "model", device_map={"": "disk"}, offload_folder=tmp_path / "offload", dtype=torch.float64
    )
    for inputs in ({"pixel_values": pictures}, inputs_of(name, pictures)):
        expected = model.generate(**inputs, max_new_tokens=5, **settings)
        assert torch.equal(found.generate(**inputs, max_new_tokens=5, **settings), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inside", "own", "llama", "conv", "encoder", "masked", "retrieval", "decision"])
def test_a_skeleton_without_weights_is_filled_by_accelerate(tiny_model, pictures, name, tmp_path):
    model = tiny_model(**MODELS[name])
    model.save_pretrained(tmp_path / "model")
    for device_map in ({"": "cpu"}, maps_of(model)["media"]):
        with init_empty_weights():
            empty = type(model)._from_config(MMConfig.from_pretrained(tmp_path / "model"), dtype=torch.float64)
        assert all(p.device.type == "meta" for p in empty.parameters())
        empty.tie_weights()
        found = load_checkpoint_and_dispatch(
            empty, tmp_path / "model", device_map, offload_folder=tmp_path / "offload", dtype=torch.float64,
            no_split_module_classes=list(empty._no_split_modules), offload_buffers=True,
        )  # fmt: skip
        if name in ("inside", "masked"):
            assert (
                found.lm_head.weight is found.get_input_embeddings().weight
                and found.lm_head.weight.device.type == "cpu"
            )
        assert_answers_alike(found, model, name, pictures)


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_blocks_are_whole_whatever_the_limits(tiny_model, name):
    """What adds its input to its output may not be spread over devices, however little fits each."""
    model = tiny_model(**MODELS[name])
    whole = [n for n, module in model.named_modules() if type(module).__name__ in model._no_split_modules]
    assert {"MMLayer"} <= {type(model.get_submodule(n)).__name__ for n in whole}
    sizes = compute_module_sizes(model)
    for limit in (max(sizes[n] for n in whole), sizes[""] // 5, sizes[""] // 2):
        placed = infer_auto_device_map(
            model, {0: limit, 1: limit, "cpu": limit, "disk": 10**9}, list(model._no_split_modules)
        )
        for key in placed:
            assert not any(key.startswith(f"{layer}.") for layer in whole), key
        ends = {
            place
            for name in ("lm_head", "model.language_model.embed_tokens")
            for key, place in placed.items()
            if name == key or name.startswith(f"{key}.")
        }
        assert len(ends) == 1 or not getattr(model, "_tied_weights_keys", None)


@pytest.mark.slow
@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
def test_a_model_is_offloaded_after_it_was_loaded_too(tiny_model, pictures, offload, tmp_path):
    model, found = tiny_model(), tiny_model()
    where = {"offload_dir": tmp_path} if offload is disk_offload else {}
    offload(found, execution_device=torch.device("cpu"), **where)
    assert found.lm_head.weight.device.type == "meta" and found.device.type == "cpu"
    with torch.device("meta"):
        assert WRITER(model.config).device.type == "meta"
    for inputs in ({"pixel_values": pictures}, inputs_of("inside", pictures)):
        written = found.generate(**inputs, max_new_tokens=5, num_beams=3)
        assert torch.equal(written, model.generate(**inputs, max_new_tokens=5, num_beams=3))


def test_tied_weights_are_one_tensor_by_a_device_map_too(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    model = WRITER.from_pretrained(tmp_path / "model", device_map={"": "cpu"})
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.slow
def test_the_map_of_the_page_holds_the_packaged_model(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "device_map" in text)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(ROOT / "checkpoints" / "mm-tiny")
    monkeypatch.chdir(tmp_path)
    found = {"mm": mm}
    exec(block, found)
    pixels = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    size = found["model"].config.vision_config.image_size
    pixels = pixels[..., :size, :size]
    expected = WRITER.from_pretrained(ROOT / "checkpoints" / "mm-tiny").generate(pixel_values=pixels)
    assert torch.equal(found["model"].generate(pixel_values=pixels), expected)
