"""MMConfig: one model of several parts, every fault in one error."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import json
import logging

import pytest
import torch
from transformers import CONFIG_MAPPING, ASTConfig, AutoConfig, BertConfig, CLIPConfig, ViTConfig, WhisperConfig

from mm import MMConfig, MMConvConfig, MMForConditionalGeneration, MMTextConfig, MMVisionConfig
from mm.configuration.checks.tasks import generation_faults


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


AST = {"model_type": "audio-spectrogram-transformer"}

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
    ({"vision_config": {"model_type": "mm_visio"}}, "model_type='mm_visio' .*mean 'mm_vision'"),
    (
        {"vision_config": {"model_type": "mm_text"}},
        "model_type='mm_text' .*accepted: mm_vision, mm_conv",
    ),
    ({"vision_config": {"image_size": "30"}}, "vision_config: .*image_size.*expected int, got str"),
    (
        {"vision_config": CLIPConfig()},
        "vision_config: model_type=.clip. is no tower of this kind; pass its vision_config",
    ),
    ({"vision_config": MMTextConfig()}, "vision_config is a MMTextConfig; accepted: MMVisionConfig, MMConvConfig"),
    ({"vision_resampler_config": ViTConfig()}, "vision_resampler_config is a ViTConfig"),
    ({"text_config": {"vocab_size": 0}}, "text_config: vocab_size=0 must be positive"),
    ({"text_config": {"model_type": "bert"}}, "text_config: model_type='bert' .* must be 'mm_text'"),
    ({"text_config": BertConfig()}, "text_config is a BertConfig.* needs MMTextConfig"),
    ({"text_config": {"cross_attention_layers": []}}, r"needs a decoder that cross-attends.*cross_attention_layers="),
    (
        {"text_config": {"cross_attention_placement": "own"}},
        "text_config: cross_attention_placement='own' .* list fewer cross_attention_layers",
    ),
    ({"modalities": ["audio"]}, "no audio tower; set audio_config"),
    ({"modalities": ["audio"], "audio_config": {}}, "audio_config: a dict must name its model_type"),
    ({"audio_config": AST}, "audio_config is only for modalities 'audio'"),
    (
        {"vision_config": {}, "modalities": ["audio"], "audio_config": AST},
        "vision_config is only .* 'image' or 'video'",
    ),
    ({"max_frames": 2}, "max_frames=2 is only for modalities 'video'"),
    ({"max_clips": -2}, "max_clips=-2 must not be negative"),
    ({"video_pooling": "time"}, "video_pooling='time' is only for modalities 'video'"),
    ({"vision_feature_layer": 13}, "vision_feature_layer=13 is outside the 13 hidden states .* use -13..12"),
    ({"vision_feature_layer": -2, "vision_config": {"model_type": "mm_conv"}}, "vision_feature_layer=-2 .* use -1"),
    (
        {"vision_feature_select_strategy": "default", "vision_config": {"use_cls_token": False, "pooler": "mean"}},
        "vision_feature_select_strategy='default' drops a CLS token, but vision_config has none",
    ),
    ({"share_text_encoder": True, "text_encoder_config": {}}, "share_text_encoder=True and text_encoder_config "),
    (
        {"text_encoder_config": {"cross_attention_layers": []}},
        r"needs a text encoder that cross-attends, but text_encoder_config.cross_attention_layers=\[\]",
    ),
    (
        {"text_encoder_config": {"hidden_size": 384}, "text_config": MMTextConfig()},
        "decoder reads 768, but the text encoder and its fusion give 384; set text_config.cross_attention_hidden_size",
    ),
    (
        {"text_encoder_config": {}, "fusion_type": "concat", "fusion_size": 64, "text_config": MMTextConfig()},
        "reads 768, .* give 64",
    ),
    ({"text_encoder_config": {}, "fusion_type": "decision"}, "fusion_type='decision' .* text_encoder_config"),
    (
        {"text_encoder_config": {"cross_attention_layers": [1]}, "fusion_type": "co_attention"},
        "text_encoder_config.cross_attention_layers has nothing to read under fusion_type='co_attention'",
    ),
    (
        {"text_config": {"cross_attention_layers": [1]}, "fusion_type": "merged"},
        "text_config.cross_attention_layers has nothing to read under fusion_type='merged'",
    ),
    ({"fusion_type": "merged", "fusion_order": "text_first"}, "'text_first' needs fusion_mask='bidirectional'"),
    ({"fusion_type": "merged", "fusion_mask": "bidirectional"}, "needs text_config.is_causal=False"),
    (
        {"fusion_type": "merged", "fusion_mask": "prefix", "text_config": {"is_causal": False}},
        "sees both ways; set fusion_mask='bidirectional'",
    ),
    ({"fusion_type": "sum", "text_config": MMTextConfig()}, "fusion_type='sum' .* set text_config.is_causal=False"),
    (
        {"fusion_type": "decision", "text_config": {"pooler": "mean"}},
        "causal text .* set text_config.pooler to one of 'eos', 'last', 'before_last'",
    ),
    ({"projection_hidden_sizes": {"vision": 0}}, r"projection_hidden_sizes\['vision'\]=0; accepted: text, vision"),
    ({"projection_hidden_sizes": {"text": 8}, "projected_sides": ["vision"]}, "projected_sides leaves out"),
    ({"projection_act": "gelu"}, "between two layers; set projection_hidden_sizes"),
    ({"projection_hidden_sizes": {"text": 8}, "projection_act": "gleu"}, "'gleu' is not an activation.*gelu"),
    ({"text_logit_scale": True, "contrastive_loss": "sigmoid"}, "text_logit_scale=True is for a softmax"),
    (
        {"contrastive_label_smoothing": 0.1, "contrastive_queue_size": 8},
        "contrastive_label_smoothing=0.1 does not go with contrastive_queue_size",
    ),
    ({"projected_sides": ["texts"]}, r"projected_sides names \['texts'\]; accepted: text, vision, audio"),
    ({"fusion_type": "merged", "text_config": {"segment_length": 8}}, "text_config.segment_length=8 .*set it to None"),
    (
        {"fusion_type": "sum", "text_config": {"is_causal": False, "pooler": "none"}},
        "fusion_type='sum' reads one vector of the text, but text_config.pooler='none'",
    ),
    (
        {"vision_resampler_config": {"hidden_size": 64}},
        "append_latents=True .* 64 and 768; set vision_resampler_config.hidden_size=768 or append_latents=False",
    ),
    ({"fusion_size": 3}, "fusion_size=3 is only for fusion_type 'concat' or 'sum' or 'gated'"),
    ({"fusion_num_layers": 0}, "fusion_num_layers=0 must be positive"),
    ({"fusion_order": "text_first"}, "fusion_order='text_first' is only for fusion_type 'merged'"),
    ({"fusion_weights": {"text": 1.0}}, "fusion_weights is only for fusion_type 'decision'"),
    (
        {"fusion_type": "decision", "fusion_weights": {"text": 1.0}, "text_config": {"is_causal": False}},
        r"fusion_weights has the keys \['text'\]; one weight for each of \['text', 'image'\]",
    ),
    (
        {
            "fusion_type": "decision",
            "fusion_weights": {"text": 1.0, "image": 1.0},
            "text_config": {"is_causal": False},
        },
        "must be shares of 1; they sum to 2",
    ),
    ({"classifier_dropout": 1.0}, r"classifier_dropout=1.0 must be in \[0, 1\)"),
    (
        {
            "projector_type": "none",
            "vision_config": {"hidden_size": 384, "num_attention_heads": 6},
            "text_config": MMTextConfig(),
        },
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
    assert "MMConfig has 6 problems" in text


TYPES = [
    {"max_frames": "3"}, {"fusion_size": 1.5}, {"fusion_weights": [0.5, 0.5]}, {"share_text_encoder": 1},
    {"audio_config": 3}, {"classification_loss": "hinge"},
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


def test_a_text_encoder_sees_both_ways_and_the_decoder_reads_it(tiny_config):
    config = tiny_config(text_encoder_config=TINY_ENCODER)
    assert config.text_encoder_config.is_causal is False and config.text_config.is_causal
    assert config.reader is config.text_encoder_config and config.context_width == 32
    assert config.text_encoder_config.cross_attention_layers == [0, 1]
    assert MMConfig(text_encoder_config={"is_causal": True}).text_encoder_config.is_causal  # CLIP's text tower is
    assert config.get_text_config(decoder=True) is config.text_config
    shared = tiny_config(share_text_encoder=True)
    assert shared.reader is shared.text_config and shared.has_text_encoder


TINY_ENCODER = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 50, **{
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}}  # fmt: skip


@pytest.mark.parametrize("fusion", ["co_attention", "merged", "concat", "sum", "gated", "decision"])
def test_a_text_that_only_one_vector_or_the_same_tokens_join_has_no_cross_attention(fusion):
    mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
    config = MMConfig(fusion_type=fusion, text_config={"is_causal": False}, **mask)
    assert config.text_config.cross_attention_layers == [] and config.media_width == 768
    assert "it needs a causal decoder" in generation_faults(config)[0]
    if fusion != "decision":
        mixed = MMConfig(fusion_type=fusion, share_text_encoder=True, **mask)
        assert mixed.text_config.cross_attention_layers == list(range(12)) and not generation_faults(mixed)


def test_only_a_fusion_that_yields_tokens_can_write_text():
    assert generation_faults(MMConfig()) == [] == generation_faults(MMConfig(fusion_type="merged"))
    faults = generation_faults(MMConfig(fusion_type="gated", text_config={"is_causal": False}))
    assert "fusion_type='gated' gives the decoder no tokens to read" in faults[1]


@pytest.mark.parametrize(
    ("vision", "width"),
    [
        ({"model_type": "vit", "hidden_size": 36, "num_attention_heads": 2}, 36),
        ({"model_type": "siglip_vision_model", "hidden_size": 24, "num_attention_heads": 2}, 24),
        ({"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1]}, 16),
    ],
)
def test_a_tower_of_transformers_is_nested_by_its_model_type(vision, width, tmp_path):
    config = MMConfig(modalities=["image", "audio"], vision_config=vision, audio_config={"model_type": "whisper"})
    assert (config.vision_size, config.audio_size) == (width, WhisperConfig().d_model)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded.vision_config) is type(config.vision_config)
    assert loaded.to_json_string() == config.to_json_string()
    assert MMConfig(vision_config=ViTConfig()).vision_size == 768
    assert MMConfig(modalities=["audio"], audio_config=ASTConfig()).vision_config is None


def test_a_resampler_changes_the_width_that_the_projector_takes():
    config = MMConfig(projector_type="none", vision_config={"hidden_size": 384, "num_attention_heads": 6},
                      vision_resampler_config={"hidden_size": 768, "append_latents": False})  # fmt: skip
    assert config.media_width == 768


def test_unknown_fields_of_a_tower_of_transformers_are_said(caplog):
    tower = {"model_type": "vit", "hidden_size": 24, "num_attention_heads": 2, "hiden_dropout_prob": 0.1}
    MMConfig(vision_config=tower)
    assert "ViTConfig has no field 'hiden_dropout_prob' (did you mean 'hidden_dropout_prob'?)" in caplog.text
    caplog.clear()
    for known in ("vit", "clip_vision_model", "swin", "resnet"):  # what they write themselves is known
        MMConfig(vision_config=CONFIG_MAPPING[known]().to_dict())
    assert not caplog.text


def test_an_empty_dtype_is_no_dtype():
    with pytest.raises(ValueError, match="dtype={}"):
        MMConfig.from_dict({**MMConfig().to_dict(), "dtype": {}})
