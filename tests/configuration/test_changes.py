"""Fields that are set after a configuration was made, or beside a checkpoint: checked as those of a new one."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, ViTConfig

import mm
from mm import MMConfig, MMForConditionalGeneration, MMTextConfig

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"model_type": "mm_vision", **SIZE, "image_size": 16, "patch_size": 8}
TEXT = {**SIZE, "max_position_embeddings": 16, "vocab_size": 12, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.tensor([[1, 5, 6]])


def config(**fields):
    return MMConfig(**{"vision_config": VISION, "text_config": TEXT, **fields})


@pytest.fixture(params=["cross_attention", "merged"])
def saved(request, tmp_path):
    MMForConditionalGeneration(config(fusion_type=request.param)).save_pretrained(tmp_path)
    return request.param, tmp_path


FAULT = {
    "cross_attention": ("merged", "text_config.cross_attention_layers has nothing to read under fusion_type='merged'"),
    "merged": ("cross_attention", "needs a decoder that cross-attends, but text_config.cross_attention_layers=\\[\\]"),
}


@pytest.mark.parametrize(
    "load",
    [
        MMForConditionalGeneration.from_pretrained,
        AutoModelForImageTextToText.from_pretrained,
        MMConfig.from_pretrained,
        AutoConfig.from_pretrained,
        lambda path, **changes: MMConfig.from_dict(json.loads((path / "config.json").read_text()), **changes),
        lambda path, **changes: MMConfig.from_pretrained(path).update(changes),
        lambda path, **changes: mm.MMForImageTextRetrieval(changed(MMConfig.from_pretrained(path), **changes)),
        lambda path, **changes: mm.MMModel(changed(MMConfig.from_pretrained(path), **changes)),
        lambda path, **changes: MMForConditionalGeneration.from_pretrained(
            path, config=changed(MMConfig.from_pretrained(path), **changes)
        ),
    ],
    ids=["class", "auto", "config", "autoconfig", "from_dict", "update", "head", "base", "config="],
)
def test_another_fusion_is_refused_wherever_it_is_set(saved, load):
    have, path = saved
    wanted, fault = FAULT[have]
    with pytest.raises(ValueError, match=fault):
        load(path, fusion_type=wanted)


def changed(made, **changes):
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text_config": {"num_attention_heads": 3}}, "num_attention_heads=3"),
        ({"text_config": {"bos_token_id": 40}}, "bos_token_id=40 is outside the vocabulary"),
        ({"vision_config": {"patch_size": 7, "hidden_size": -1}}, "hidden_size=-1 must be positive"),
        ({"modalities": ["audio"]}, "there is no audio tower"),
        ({"label_smoothing": float("nan")}, "label_smoothing=nan"),
        ({"text_config": {"layer_norm_eps": float("inf")}}, "layer_norm_eps=inf"),
        ({"max_frames": 3}, "max_frames=3 is only for modalities 'video'"),
        ({"vision_config": {"model_type": "videomae"}}, "model_type='videomae' .* whole videos"),
        ({"vision_resampler_config": {"num_latents": 0}}, "num_latents=0"),
        ({"fusion_typ": "merged", "fusion_type": "sum"}, "nothing to read under fusion_type='sum'"),
    ],
)
def test_an_override_beside_a_checkpoint_is_checked_as_a_new_configuration(changes, fault, tmp_path):
    config().save_pretrained(tmp_path)
    for load in (MMConfig.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises((ValueError, TypeError), match=fault):
            load(tmp_path, **changes)


def test_overrides_that_fit_are_merged_with_the_part_or_replace_it(tmp_path):
    config().save_pretrained(tmp_path)
    made = MMConfig.from_pretrained(
        tmp_path, text_config={"hidden_dropout": 0.3}, vision_config={"model_type": "vit", **SIZE, "image_size": 32},
        vision_resampler_config={"hidden_size": 16, "num_latents": 2}, label_smoothing=0.2,
    )  # fmt: skip
    assert made.text_config.hidden_dropout == 0.3 and made.text_config.hidden_size == 16
    assert isinstance(made.vision_config, ViTConfig) and made.vision_config.image_size == 32
    assert made.vision_resampler_config.num_latents == 2 and made.label_smoothing == 0.2
    given = MMConfig.from_pretrained(tmp_path, text_config=MMTextConfig(**{**TEXT, "vocab_size": 20}))
    assert given.text_config.vocab_size == 20 and given.text_config.cross_attention_layers == [0, 1]
    made, rest = MMConfig.from_pretrained(tmp_path, return_unused_kwargs=True, max_images=2, nonsense=1)
    assert made.max_images == 2 and rest == {"nonsense": 1}


def test_an_update_that_breaks_a_rule_changes_nothing():
    made = config()
    before = made.to_dict()
    with pytest.raises(ValueError, match="max_images=-1 must not be negative"):
        made.update({"label_smoothing": 0.3, "max_images": -1})
    assert made.to_dict() == before
    made.update({"label_smoothing": 0.3, "max_images": 1})
    assert (made.label_smoothing, made.max_images) == (0.3, 1)


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_field_of_a_part_set_before_the_model_is_made_is_checked_then(part):
    made = config()
    getattr(made, part).num_attention_heads = 3
    with pytest.raises(ValueError, match=f"{part}: num_attention_heads=3"):
        MMForConditionalGeneration(made)


@pytest.mark.parametrize(("name", "value"), [("fusion_type", "merged"), ("modalities", ["image", "video"])])
def test_a_field_that_a_model_was_built_by_is_not_changed_under_it(name, value):
    model = MMForConditionalGeneration(config()).eval()
    setattr(model.config, name, value)
    refused = f"this model was built with {name}=.*, but its configuration now says .*; set it back"
    with pytest.raises(ValueError, match=refused):
        model(input_ids=IDS, pixel_values=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=refused):
        model.generate(pixel_values=torch.zeros(1, 3, 16, 16), max_new_tokens=1)


FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision"]
PARTS = [
    *({"fusion_type": fusion} for fusion in FUSIONS),
    *({"fusion_type": fusion, "text_encoder_config": {}} for fusion in FUSIONS[:-1]),
    *({"fusion_type": fusion, "share_text_encoder": True} for fusion in FUSIONS[:-1]),
    {"text_encoder_config": {"hidden_size": 64, "num_attention_heads": 4}},
    {"text_encoder_config": {}, "fusion_type": "concat", "fusion_size": 40},
    {"text_config": {"is_causal": False}, "fusion_type": "merged"},
    {"vision_config": {"model_type": "vit", **SIZE}},
    {"vision_config": {"model_type": "mm_vision", **SIZE}},
    {"vision_config": {"model_type": "mm_conv"}},
    {"vision_config": ViTConfig(**SIZE), "projector_type": "none"},
    {"projector_type": "none"},
    {"projector_type": "none", "vision_resampler_config": {"hidden_size": 48, "append_latents": False}},
    {"vision_resampler_config": {}},
    {"modalities": ["audio"], "audio_config": {"model_type": "audio-spectrogram-transformer"}},
    {"modalities": ["image", "audio"], "audio_config": {"model_type": "whisper"}, "audio_resampler_config": {}},
]


@pytest.mark.parametrize("name", ["mm-tiny", "mm-small", "mm-base", "mm-large"])
def test_a_preset_takes_every_part_and_fusion(name):
    for overrides in PARTS:
        made = MMConfig.preset(name, **overrides)
        assert all(getattr(made, key) == value for key, value in overrides.items() if not isinstance(value, dict))


def test_what_a_preset_fills_in_is_what_fits():
    made = MMConfig.preset("mm-small", text_encoder_config={"num_hidden_layers": 3})
    assert made.text_encoder_config.hidden_size == 384 and made.text_encoder_config.num_hidden_layers == 3
    assert not made.text_encoder_config.is_causal and made.text_config.cross_attention_hidden_size is None
    wider = MMConfig.preset("mm-small", text_encoder_config={"hidden_size": 768})
    assert wider.text_config.cross_attention_hidden_size == 768
    assert not MMConfig.preset("mm-small", fusion_type="concat").text_config.is_causal
    tower = MMConfig.preset("mm-tiny", vision_config={"model_type": "mm_vision"}).vision_config
    assert tower.hidden_size == 768 and tower.image_size == 224  # nothing of the convolutions before
    with pytest.raises(ValueError, match="reads the whole text at once"):  # what is named stays
        MMConfig.preset("mm-small", fusion_type="concat", text_config={"is_causal": True})
