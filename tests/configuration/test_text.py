"""MMTextConfig: the settings of a text stack, its rules, and which layer holds which sublayers."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import logging

import pytest
from transformers import AutoConfig

from mm import MMTextConfig


def test_the_defaults_are_bert_base_called_as_a_causal_decoder():
    config = MMTextConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (64, 12, 3072)
    assert (config.vocab_size, config.max_position_embeddings, config.layer_norm_eps) == (30522, 512, 1e-12)
    assert (config.norm_position, config.final_norm, config.embedding_norm, config.pooler) == (
        "post", "none", True, "last",
    )  # fmt: skip
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (101, 102, 0)
    assert config.is_causal and config.use_cache


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["self mlp"] * 3),
        ({"cross_attention_layers": [0, 2]}, ["self cross mlp", "self mlp", "self cross mlp"]),
        (
            {"cross_attention_layers": [0, 2], "cross_attention_placement": "own"},
            ["cross mlp", "self mlp", "cross mlp"],
        ),
    ],
)
def test_sublayers_follow_from_layers_and_placement(fields, expected):
    config = MMTextConfig(num_hidden_layers=3, **fields)
    assert [" ".join(config.sublayers(i)) for i in range(3)] == expected


def test_the_memory_is_as_wide_as_the_text_unless_told():
    assert MMTextConfig().context_width == 768
    assert MMTextConfig(cross_attention_hidden_size=1024).context_width == 1024


ROPE = {"position_embedding_type": "rope"}


def _overrides(**fields):
    return {"cross_attention_overrides": fields}


FAULTS = [
    ({"hidden_size": -4}, "hidden_size=-4 must be positive"),
    ({"embedding_scale": 0.0}, "embedding_scale=0.0 must be positive"),
    ({"embedding_scale": float("nan")}, "embedding_scale=nan must be positive"),
    (
        {"position_embedding_type": "sinusoidal", "hidden_size": 27, "num_attention_heads": 3},
        "sinusoidal .*hidden_size=27",
    ),
    ({"hidden_size": 0}, "hidden_size=0 must be positive"),
    ({"intermediate_size": 0}, "intermediate_size=0 must be positive"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be in 1..1000"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000 must be in 1..1000"),
    ({"num_attention_heads": 0}, "num_attention_heads=0 must be positive"),
    ({"num_attention_heads": 7}, "hidden_size=768 is not a multiple of num_attention_heads=7.*set head_dim"),
    ({"num_key_value_heads": 5}, "num_attention_heads=12 is not a multiple of num_key_value_heads=5"),
    ({"num_key_value_heads": 0}, "num_key_value_heads=0 must be positive"),
    ({"head_dim": 0}, "head_dim=0 must be positive"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan must be positive"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0 must be positive"),
    ({"attention_scale": float("inf")}, "attention_scale=inf must be positive"),
    ({"initializer_range": 0.0}, "initializer_range=0.0 must be positive"),
    ({"attention_dropout": 2.0}, r"attention_dropout=2.0 must be in \[0, 1\)"),
    ({"hidden_dropout": -0.1}, r"hidden_dropout=-0.1 must be in \[0, 1\)"),
    ({"hidden_act": "gelo"}, "hidden_act='gelo' is not an activation.*did you mean 'gelu'"),
    ({"attention_bias": "qx"}, "attention_bias='qx' .* 'qkvo'"),
    ({"vocab_size": 0}, "vocab_size=0 must be positive"),
    ({"max_position_embeddings": -1}, "max_position_embeddings=-1 must be positive"),
    ({"type_vocab_size": -1}, "type_vocab_size=-1 must not be negative"),
    ({"cross_attention_hidden_size": 0}, "cross_attention_hidden_size=0 must be positive"),
    ({"bos_token_id": 30522}, "bos_token_id=30522 is outside the vocabulary 0..30521; set bos_token_id or vocab_size"),
    ({"pad_token_id": -1}, "pad_token_id=-1 is outside the vocabulary"),
    ({"eos_token_id": [102, 99999]}, "eos_token_id=99999 is outside the vocabulary"),
    ({"pooler": "eos", "eos_token_id": None}, "pooler='eos' .*set eos_token_id"),
    ({"cross_attention_layers": [3, 12, -1]}, r"names \[12, -1\], but num_hidden_layers=12 allows 0..11"),
    ({"cross_attention_layers": [3, 3]}, r"cross_attention_layers=\[3, 3\] names a layer twice"),
    (
        {"cross_attention_layers": [0, 1], "num_hidden_layers": 2, "cross_attention_placement": "own"},
        "self-attention; list fewer cross_attention_layers",
    ),
    ({"memory_length": -1}, "memory_length=-1 must not be negative"),
    ({"memory_length": 4}, "memory_length=4 .*set segment_length"),
    ({"segment_length": 0}, "segment_length=0 must be positive"),
    (
        {"interpolate_positions": True, "position_embedding_type": "none"},
        "position_embedding_type='none' has none; set",
    ),
    ({"interpolate_positions": True, **ROPE}, "'rope' has none; set .* rope_parameters={'rope_type': 'linear'"),
    ({"rope_parameters": {"rope_theta": 5.0}}, "it is 'absolute'; set position_embedding_type='rope' or leave"),
    ({**ROPE, "head_dim": 15}, "RoPE .*head_dim=15 .*change head_dim"),
    (
        {**ROPE, "rope_parameters": {"rope_type": "longrope", "factor": 2.0}},
        "'longrope' .*accepted: default",
    ),
    ({**ROPE, "rope_parameters": {"rope_type": "linea"}}, "'linea' is not a kind of RoPE.*did you mean 'linear'"),
    ({**ROPE, "rope_parameters": {"rope_type": "linear"}}, "rope_parameters: Missing required keys.*factor"),
    ({**ROPE, "rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor=0 must be"),
    ({**ROPE, "rope_parameters": {"rope_theta": "big"}}, "rope_theta='big' must be"),
    ({**ROPE, "rope_parameters": {"partial_rotary_factor": 3.0}}, "192 of head_dim=64"),
    (_overrides(heads=4), "has an unknown key 'heads'; accepted: num_attention_heads"),
    (_overrides(hiden_act="silu"), "has an unknown key 'hiden_act'"),
    (
        _overrides(hidden_act="silu"),
        "hidden_act .*cross_attention_placement='own'",
    ),
    (_overrides(num_attention_heads=5), "cross_attention_overrides: hidden_size=768 is not a multiple of num_att.*=5"),
    (_overrides(num_attention_heads=8, num_key_value_heads=3), "cross_attention_overrides: num_attention_heads=8 is"),
    (_overrides(attention_bias="z"), "cross_attention_overrides: attention_bias='z' must be"),
    (_overrides(num_attention_heads="8"), "cross_attention_overrides: .*'num_attention_heads' expected int"),
    (
        {**_overrides(hidden_act="nope"), "cross_attention_placement": "own", "cross_attention_layers": [0]},
        "cross_attention_overrides: hidden_act='nope' is not an activation",
    ),
    ({"model_type": "mm_vision"}, "model_type='mm_vision' .* must be 'mm_text'"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[str(fields)[:60] for fields, _ in FAULTS])
def test_a_broken_rule_is_named_with_the_setting_to_change(fields, message):
    with pytest.raises(ValueError, match=message):
        MMTextConfig(**fields)


def test_all_faults_come_in_one_error():
    with pytest.raises(ValueError, match=r"MMTextConfig has 4 problems") as caught:
        MMTextConfig(hidden_size=-4, hidden_dropout=3.0, vocab_size=0, hidden_act="nope")
    for part in ("hidden_size=-4", "hidden_dropout=3.0", "vocab_size=0", "hidden_act='nope'"):
        assert part in str(caught.value)


TYPES = [
    {"hidden_size": "768"}, {"hidden_size": 768.0}, {"hidden_size": True}, {"hidden_size": None},
    {"hidden_act": None}, {"gated_mlp": "no"}, {"norm_position": "middle"}, {"norm_type": "batch_norm"},
    {"qk_norm": True}, {"pooler": "first"}, {"position_embedding_type": "alibi"},
    {"cross_attention_gate": "sigmoid"},
    {"cross_attention_placement": "outside"}, {"cross_attention_layers": 3}, {"cross_attention_layers": ["0"]},
    {"eos_token_id": "</s>"}, {"attention_bias": 1}, {"layer_norm_eps": "1e-5"},
]  # fmt: skip


@pytest.mark.parametrize("fields", TYPES, ids=str)
def test_a_wrong_type_or_word_raises_a_type_error_that_names_the_field(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        MMTextConfig(**fields)


@pytest.mark.parametrize(("field", "nearest"), [("hiden_size", "hidden_size"), ("rms_norm_ep", "rms_norm_eps")])
def test_an_unknown_key_warns_with_the_nearest_name(field, nearest, caplog):
    with caplog.at_level(logging.WARNING):
        MMTextConfig(**{field: 3})
    assert f"MMTextConfig has no field {field!r} (did you mean {nearest!r}?); it changes nothing." in caplog.text


def test_a_fault_that_the_overrides_share_with_the_stack_is_said_once():
    with pytest.raises(ValueError, match="MMTextConfig has a problem"):
        MMTextConfig(hidden_dropout=2.0, **_overrides(head_dim=16))


def test_rope_parameters_are_filled_in_under_rope_alone():
    assert MMTextConfig().rope_parameters is None
    assert MMTextConfig(**ROPE).rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert MMTextConfig(**ROPE, rope_theta=5e5).rope_parameters["rope_theta"] == 5e5
    given = {"rope_type": "linear", "factor": 2.0}
    config = MMTextConfig(**ROPE, rope_parameters=given)
    assert config.rope_parameters["factor"] == 2.0 and given == {"rope_type": "linear", "factor": 2.0}


def test_the_overrides_make_the_settings_of_cross_attention():
    base = {"num_key_value_heads": 4, "qk_norm": "rms_norm", "attention_bias": True}
    plain = MMTextConfig(**base).cross_stack()
    assert (plain.num_attention_heads, plain.num_key_value_heads, plain.head_dim) == (12, 4, 64)
    assert plain.qk_norm == "none" and plain.attention_bias is True
    heads = MMTextConfig(**base, **_overrides(num_attention_heads=8)).cross_stack()
    assert (heads.num_attention_heads, heads.num_key_value_heads, heads.head_dim) == (8, 8, 96)
    flamingo = {"num_attention_heads": 8, "head_dim": 64, "attention_bias": False}
    config = MMTextConfig(**base, **_overrides(**flamingo))
    assert (config.cross_stack().num_attention_heads, config.cross_stack().head_dim) == (8, 64)
    assert config.num_attention_heads == 12 and config.attention_bias is True and config.qk_norm == "rms_norm"


def test_rms_norm_eps_is_another_name_of_layer_norm_eps():
    config = MMTextConfig(rms_norm_eps=1e-6)
    assert config.layer_norm_eps == config.rms_norm_eps == 1e-6


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
def test_json_round_trips_to_an_equal_config(text, tiny_config, tmp_path, caplog):
    config = tiny_config("vit", text).text_config
    with caplog.at_level(logging.WARNING):
        config.save_pretrained(tmp_path)
        for loaded in (MMTextConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert isinstance(loaded, MMTextConfig) and loaded.to_json_string() == config.to_json_string()
    assert not caplog.records
