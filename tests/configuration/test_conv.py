"""MMConvConfig: defaults, what is filled in, sizes, and faults in words."""

from typing import Any

import pytest

from mm.configuration.conv import MMConvConfig

PLAIN = {"block": "plain", "channels": 8}


def test_the_default_is_resnet50():
    config: Any = MMConvConfig()
    assert (config.hidden_size, config.total_stride, config.grid_size) == (2048, 32, 7)
    assert [stage["depth"] for stage in config.stages] == [3, 4, 6, 3]
    assert config.stem == {"channels": 64, "kernel_size": 7, "stride": 2, "pool": 3}


def test_two_default_configs_share_no_stage():
    changed: Any = MMConvConfig()
    before = MMConvConfig().to_dict()
    changed.stages[0]["depth"] = 99
    changed.stem["channels"] = 99
    assert MMConvConfig().to_dict() == before


def test_omitted_keys_of_a_stage_are_filled_in():
    config: Any = MMConvConfig(stages=[PLAIN, {"block": "inverted", "channels": 16, "depth": 2}])
    assert config.stem is None
    assert config.stages[0] == {**PLAIN, "depth": 1, "stride": 1, "kernel_size": 3, "expansion": 1, "pool": 0}
    assert config.stages[1]["expansion"] == 6


def test_a_config_survives_saving(tmp_path):
    config = MMConvConfig(
        image_size=64, stem={"channels": 8, "stride": 2}, stages=[PLAIN], head_channels=24, padding="same"
    )
    config.save_pretrained(tmp_path)
    assert MMConvConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_head_sets_the_width_of_the_tokens():
    assert MMConvConfig(stages=[PLAIN]).hidden_size == 8
    assert MMConvConfig(stages=[PLAIN], head_channels=24).hidden_size == 24


def test_strides_and_poolings_multiply():
    stages = [{**PLAIN, "pool": 2}, {**PLAIN, "stride": 3, "depth": 2}]
    config = MMConvConfig(image_size=48, stem={"channels": 4, "stride": 2, "pool": 3}, stages=stages)
    assert (config.total_stride, config.grid_size) == (24, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": [{**PLAIN, "block": "inverrted"}]}, "stages[0]: block='inverrted' is not"),
        ({"stages": [{**PLAIN, "block": "inverrted"}]}, "did you mean 'inverted'?"),
        ({"stages": [PLAIN, {**PLAIN, "strid": 2}]}, "stages[1] has an unknown key 'strid' (did you mean 'stride'?)"),
        ({"stages": [{"block": "plain"}]}, "stages[0]: channels is missing"),
        ({"stages": [{**PLAIN, "depth": 0}]}, "stages[0]: depth=0 must be a whole number, at least 1"),
        ({"stages": [{**PLAIN, "depth": 10**12}]}, "stages[0]: depth=1000000000000 must be at most 1000"),
        ({"stages": [{**PLAIN, "stride": 1.5}]}, "stride=1.5 must be a whole number"),
        ({"stages": [{**PLAIN, "pool": True}]}, "pool=True must be a whole number"),
        ({"stages": [{**PLAIN, "pool": 1}]}, "pool=1 "),
        ({"stages": [{**PLAIN, "kernel_size": 4}]}, "kernel_size=4 must be odd"),
        ({"stages": [{**PLAIN, "expansion": 2}]}, "expansion=2 "),
        ({"stages": [{"block": "bottleneck", "channels": 10}]}, "channels=10 is not a multiple of expansion=4"),
        ({"stages": []}, "stages=[] has no stage"),
        ({"stem": {"kernel_size": 7}}, "stem: channels is missing"),
        ({"stem": {"channels": 8, "padding": 1}}, "stem has an unknown key 'padding'"),
        ({"image_size": 31}, "image_size=31 is smaller than the total stride 32"),
        ({"image_size": 0}, "image_size=0 must be positive"),
        ({"num_channels": -3}, "num_channels=-3 must be positive"),
        ({"head_channels": 0}, "head_channels=0 must be positive"),
        ({"batch_norm_eps": 0.0}, "batch_norm_eps=0.0 must be positive"),
        ({"hidden_act": "rely6"}, "hidden_act='rely6' is not an activation (did you mean 'relu6'?)"),
        ({"pooler": "cls"}, "pooler"),
        ({"padding": "valid"}, "padding"),
        ({"hidden_size": 512}, "hidden_size cannot be set: it follows from stem, stages and head_channels"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        MMConvConfig(**settings)
    assert message in str(raised.value)


def test_all_faults_come_in_one_error():
    with pytest.raises(ValueError, match="3 problems") as raised:
        MMConvConfig(image_size=-1, hidden_act="no", stages=[{"block": "vgg"}])
    assert all(name in str(raised.value) for name in ("image_size", "hidden_act", "stages[0]"))


def test_a_stage_that_is_no_dict_is_a_type_error():
    with pytest.raises(TypeError, match="stages"):
        MMConvConfig(stages=[3])  # pyright: ignore[reportArgumentType]
