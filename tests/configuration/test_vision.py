"""MMVisionConfig: the settings of the ViT and their rules."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import logging

import pytest
from transformers import AutoConfig

from mm import MMVisionConfig


def test_the_defaults_are_vit_base_with_patches_of_16_at_224_pixels():
    config = MMVisionConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.image_size, config.patch_size, config.patch_grid, config.num_channels) == (224, 16, (14, 14), 3)
    assert (config.norm_position, config.final_norm, config.embedding_norm, config.pooler) == (
        "pre", "all", False, "cls",
    )  # fmt: skip
    assert (config.use_cls_token, config.num_register_tokens, config.layer_norm_eps) == (True, 0, 1e-12)


FAULTS = [
    ({"image_size": 0}, "image_size=0 must be positive"),
    ({"patch_size": -16}, "patch_size=-16 must be positive"),
    ({"num_channels": 0}, "num_channels=0 must be positive"),
    ({"image_size": 230}, "image_size=230 is not a multiple of patch_size=16; use 224"),
    ({"image_size": 8}, "image_size=8 is not a multiple of patch_size=16; use 16"),
    ({"image_size": 8, "drop_partial_patches": True}, "image_size=8 is not a multiple of patch_size=16; use 16"),
    ({"image_size": [224, 230]}, r"image_size=\[224, 230\] is not a multiple of patch_size=16; use \[224, 224\]"),
    ({"image_size": [224, 0]}, r"image_size=\[224, 0\] must be positive, one number or \[height, width\]"),
    ({"image_size": [224]}, r"image_size=\[224\] must be positive, one number or \[height, width\]"),
    ({"image_size": []}, r"image_size=\[\] must be positive, one number or \[height, width\]"),
    ({"num_register_tokens": -1}, "num_register_tokens=-1 must not be negative"),
    ({"use_cls_token": False}, "pooler='cls' reads the CLS token, but use_cls_token=False; use pooler='mean'"),
    ({"use_cls_token": False, "pooler": "cls_tanh"}, "pooler='cls_tanh' reads the CLS token"),
    ({"pooler": "last"}, "pooler='last' is for text; use 'cls', 'cls_tanh', 'mean', 'attention' or 'none'"),
    ({"pooler": "eos"}, "pooler='eos' is for text"),
    ({"num_attention_heads": 5}, "hidden_size=768 is not a multiple of num_attention_heads=5"),
    ({"hidden_act": "relu7"}, "hidden_act='relu7' is not an activation"),
    ({"model_type": "vit"}, "model_type='vit' .* must be 'mm_vision'"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[str(fields)[:60] for fields, _ in FAULTS])
def test_a_broken_rule_is_named_with_the_setting_to_change(fields, message):
    with pytest.raises(ValueError, match=message):
        MMVisionConfig(**fields)


@pytest.mark.parametrize("size", [(224, 448), [224, 448]], ids=["tuple", "list"])
def test_a_picture_may_have_two_sides(size):
    config = MMVisionConfig(image_size=size)
    assert (config.image_sides, config.patch_grid) == ((224, 448), (14, 28))
    assert MMVisionConfig.from_dict(config.to_dict()).image_size == config.image_size == [224, 448]


def test_sides_that_are_no_multiples_of_a_patch_have_to_be_asked_for():
    config = MMVisionConfig(image_size=384, patch_size=14, drop_partial_patches=True)
    assert config.patch_grid == (27, 27)


def test_all_faults_come_in_one_error():
    with pytest.raises(ValueError, match=r"MMVisionConfig has 3 problems") as caught:
        MMVisionConfig(image_size=230, num_register_tokens=-1, pooler="eos")
    for part in ("image_size=230", "num_register_tokens=-1", "pooler='eos'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("fields", [{"image_size": "224"}, {"patch_size": 16.0}, {"use_cls_token": 1}], ids=str)
def test_a_wrong_type_raises_a_type_error_that_names_the_field(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        MMVisionConfig(**fields)


def test_an_unknown_key_warns_with_the_nearest_name(caplog):
    with caplog.at_level(logging.WARNING):
        MMVisionConfig(imagesize=3)
    assert "MMVisionConfig has no field 'imagesize' (did you mean 'image_size'?)" in caplog.text


def test_json_round_trips_to_an_equal_config(tiny_config, tmp_path, caplog):
    config = tiny_config("vit").vision_config
    with caplog.at_level(logging.WARNING):
        config.save_pretrained(tmp_path)
        for loaded in (MMVisionConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert isinstance(loaded, MMVisionConfig) and loaded.to_json_string() == config.to_json_string()
    assert not caplog.records
