"""MMConfig: one model of several parts, every fault in one error."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import json
import logging

import pytest
import torch
from transformers import AutoConfig, BertConfig, ViTConfig

from mm import MMConfig, MMConvConfig, MMForConditionalGeneration, MMTextConfig, MMVisionConfig


def parameters_on_meta(config: MMConfig) -> int:
    with torch.device("meta"):
        return MMForConditionalGeneration(config).num_parameters()


def test_the_default_is_mm_base_with_224_3_million_parameters():
    config = MMConfig()
    assert isinstance(config.vision_config, MMVisionConfig) and isinstance(config.text_config, MMTextConfig)
    assert config.modalities == ["image"] and config.fusion_type == "cross_attention"
    assert config.text_config.cross_attention_layers == list(range(12))
    assert config.tie_word_embeddings and config.lm_head_transform and config.lm_head_bias
    assert round(parameters_on_meta(config) / 1e6, 1) == 224.3


@pytest.mark.parametrize("name", ["mm-tiny", "mm-small", "mm-base", "mm-large"])
def test_every_preset_builds_a_model_larger_than_the_one_before(name):
    sizes = {"mm-tiny": 1e6, "mm-small": 3e7, "mm-base": 2e8, "mm-large": 4e8, "end": 1e9}
    names = list(sizes)
    assert sizes[name] < parameters_on_meta(MMConfig.preset(name)) < sizes[names[names.index(name) + 1]]


def test_a_preset_takes_overrides_and_merges_them_into_its_parts():
    config = MMConfig.preset("mm-small", max_images=3, vision_config={"image_size": 384})
    assert (config.max_images, config.vision_config.image_size, config.vision_config.hidden_size) == (3, 384, 384)
    assert MMConfig.preset("mm-small").vision_config.image_size == 224  # the preset itself is as it was


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="preset 'mm-bass' is unknown.*'mm-base'.*mm-tiny, mm-small"):
        MMConfig.preset("mm-bass")


FAULTS = [
    ({"projector_norm_eps": 0.0}, "projector_norm_eps=0.0 must be positive"),
    ({"projector_norm_eps": float("nan")}, "projector_norm_eps=nan must be positive"),
    ({"initializer_range": -1.0}, "initializer_range=-1.0 must be positive"),
    ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must be in \[0, 1\)"),
    ({"max_images": -1}, "max_images=-1 must not be negative"),
    ({"modalities": ["image", "odour"]}, "modalities=.*odour.* must name one or more of"),
    ({"modalities": []}, "modalities=.* must name one or more of"),
    ({"modalities": ["image", "image"]}, "modalities=.* names one twice"),
    ({"vision_config": {"image_size": 30}}, "vision_config: image_size=30 is not a multiple of patch_size=16; use 16"),
    ({"vision_config": {"model_type": "vit"}}, "vision_config: model_type='vit' is not a vision tower.*mm_vision"),
    ({"vision_config": {"model_type": "mm_visio"}}, "did you mean 'mm_vision'"),
    ({"vision_config": {"image_size": "30"}}, "vision_config: .*image_size.*expected int, got str"),
    ({"vision_config": ViTConfig()}, "vision_config is a ViTConfig; accepted: MMVisionConfig, MMConvConfig"),
    ({"vision_config": MMTextConfig()}, "vision_config is a MMTextConfig"),
    ({"text_config": {"vocab_size": 0}}, "text_config: vocab_size=0 must be positive"),
    ({"text_config": {"model_type": "bert"}}, "text_config: model_type='bert' is another model's.*'mm_text'"),
    ({"text_config": BertConfig()}, "text_config is a BertConfig; MM's decoder wants MMTextConfig"),
    ({"text_config": {"cross_attention_layers": []}}, r"needs a decoder that cross-attends.*cross_attention_layers="),
    (
        {"text_config": {"cross_attention_placement": "own"}},
        "text_config: cross_attention_placement='own' .* list fewer cross_attention_layers",
    ),
    (
        {"projector_type": "none", "vision_config": {"hidden_size": 384, "num_attention_heads": 6}},
        "projector_type='none' needs equal widths.* gives 384 .* reads 768.*cross_attention_hidden_size=384",
    ),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[str(fields)[:60] for fields, _ in FAULTS])
def test_a_broken_rule_is_named_with_the_setting_to_change(fields, message):
    with pytest.raises(ValueError, match=message):
        MMConfig(**fields)


def test_all_faults_come_in_one_error_across_all_parts():
    with pytest.raises(ValueError) as caught:
        MMConfig(
            max_images=-1,
            label_smoothing=2.0,
            vision_config={"image_size": 30, "num_attention_heads": 7},
            text_config={"vocab_size": 0, "hidden_act": "gelo"},
        )
    text = str(caught.value)
    for part in ("max_images=-1", "label_smoothing=2.0", "vision_config: image_size=30", "num_attention_heads=7"):
        assert part in text
    assert "text_config: vocab_size=0" in text and "did you mean 'gelu'" in text
    assert "MMConfig has 6 fault(s)" in text


TYPES = [
    {"max_images": "3"}, {"max_images": True}, {"projector_norm_eps": "small"}, {"modalities": "image"},
    {"vision_config": 3}, {"text_config": ["a"]}, {"fusion_type": "telepathy"}, {"projector_type": None},
    {"check_inputs": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", TYPES, ids=str)
def test_a_wrong_type_raises_an_error_that_names_the_field(fields):
    with pytest.raises((TypeError, ValueError), match=next(iter(fields))):
        MMConfig(**fields)


def test_a_later_assignment_is_checked_too():
    config = MMConfig()
    with pytest.raises(TypeError, match="max_images"):
        config.max_images = "3"
    config.text_config.vocab_size = -1
    with pytest.raises(ValueError, match="text_config: vocab_size=-1"):
        config.validate()


@pytest.mark.parametrize(
    ("field", "nearest"), [("fusion_typ", "fusion_type"), ("projector_typ", "projector_type"), ("colour", None)]
)
def test_an_unknown_key_warns_with_the_nearest_name(field, nearest, caplog):
    with caplog.at_level(logging.WARNING):
        MMConfig(**{field: "x"})
    assert f"MMConfig has no field {field!r}" in caplog.text
    assert (f"did you mean {nearest!r}" in caplog.text) if nearest else ("did you mean" not in caplog.text)


def test_known_keys_of_transformers_do_not_warn(caplog):
    with caplog.at_level(logging.WARNING):
        MMConfig(id2label={0: "a"}, problem_type="regression", output_attentions=False, dtype="float16")
    assert not caplog.records


@pytest.mark.parametrize("vision", ["vit", "conv"])
@pytest.mark.parametrize("text", ["inside", "own", "llama"])
def test_json_round_trips_to_an_equal_config(vision, text, tiny_config, tmp_path, caplog):
    config = tiny_config(vision, text, max_images=2, label_smoothing=0.1, projector_type="mlp")
    with caplog.at_level(logging.WARNING):
        config.save_pretrained(tmp_path)
        for loaded in (MMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert isinstance(loaded, MMConfig) and loaded.to_json_string() == config.to_json_string()
    assert not caplog.records
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mm"
    assert MMConfig.from_dict(config.to_dict()).to_json_string() == config.to_json_string()


@pytest.mark.parametrize(("vision", "cls"), [("vit", MMVisionConfig), ("conv", MMConvConfig)])
def test_a_part_is_read_from_the_whole_config_on_disk(vision, cls, tiny_config, tmp_path):
    config = tiny_config(vision)
    config.save_pretrained(tmp_path)
    assert cls.from_pretrained(tmp_path).to_json_string() == config.vision_config.to_json_string()
    assert MMTextConfig.from_pretrained(tmp_path).to_json_string() == config.text_config.to_json_string()


def test_sub_configs_may_be_objects_as_well_as_dicts(tiny_config):
    config = tiny_config()
    again = MMConfig(
        vision_config=MMVisionConfig(**config.vision_config.to_dict()),
        text_config=MMTextConfig(**config.text_config.to_dict()),
        initializer_range=config.initializer_range,
    )
    assert again.to_json_string() == config.to_json_string()


def test_the_text_config_is_what_generation_reads(tiny_config):
    config = tiny_config()
    assert config.get_text_config(decoder=True) is config.text_config
    assert config.is_encoder_decoder is False
