"""Settings that are given as a group, or one by one: the same configuration, saved in the same way."""

import copy
import json
import pickle

import pytest

from mm import MMConfig, MMForImageTextRetrieval, MMTextConfig
from mm.configuration.settings import groups_of

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"model_type": "mm_vision", **SIZE, "image_size": 16, "patch_size": 8}
TEXT = {**SIZE, "max_position_embeddings": 16, "vocab_size": 12, "bos_token_id": 1, "eos_token_id": 2}
PARTS = {"vision_config": VISION, "text_config": TEXT}

# (flat, nested)
SAME = [
    (
        {"fusion_type": "merged", "fusion_mask": "causal", "fusion_embedding_norm": True},
        {"fusion": {"type": "merged", "mask": "causal", "embedding_norm": True}},
    ),
    (
        {"projection_dim": 12, "contrastive_loss": "sigmoid", "pretraining_losses": {"itc": 1.0}},
        {"objectives": {"projection_dim": 12, "contrastive_loss": "sigmoid", "pretraining_losses": {"itc": 1.0}}},
    ),
    (
        {"text_config": {**TEXT, "cross_attention_layers": [1], "cross_attention_gate": "tanh"}},
        {"text_config": {**TEXT, "cross_attention": {"layers": [1], "gate": "tanh"}}},
    ),
    (
        {"text_encoder_config": {**TEXT, "cross_attention_memory_norm": True}, "fusion_type": "cross_attention"},
        {"text_encoder_config": {**TEXT, "cross_attention": {"memory_norm": True}}, "fusion_type": "cross_attention"},
    ),
]


@pytest.mark.parametrize(("alone", "grouped"), SAME, ids=["fusion", "objectives", "cross", "encoder"])
def test_a_group_is_the_same_as_its_settings_one_by_one(alone, grouped, tmp_path):
    one, two = MMConfig(**{**PARTS, **alone}), MMConfig(**{**PARTS, **grouped})
    assert one.to_dict() == two.to_dict() and one.to_json_string() == two.to_json_string()
    one.save_pretrained(tmp_path)
    assert MMConfig.from_pretrained(tmp_path, **grouped).to_json_string() == one.to_json_string()
    assert MMConfig.from_dict(json.loads(json.dumps({**PARTS, **grouped}))).to_dict() == one.to_dict()
    assert MMConfig.preset("mm-tiny", **alone).to_dict() == MMConfig.preset("mm-tiny", **grouped).to_dict()


def test_every_setting_of_a_group_is_read_and_set_in_both_ways():
    for config in (MMConfig(**PARTS), MMTextConfig(**TEXT)):
        for group, names in groups_of(type(config)).items():
            view = getattr(config, group)
            assert dict(view) == {short: getattr(config, name) for short, name in names.items()}
            assert set(names) <= set(dir(view)) and len(view) == len(names)
    assert set(groups_of(MMConfig)) == {"fusion", "objectives", "drawing"}
    assert set(groups_of(MMTextConfig)) == {"cross_attention"}


def test_a_setting_is_checked_whichever_way_it_is_set():
    config = MMConfig(**PARTS)
    config.fusion.order, config.objectives.projection_dim = "text_first", 7
    assert (config.fusion_order, config.projection_dim) == ("text_first", 7)
    config.fusion = {"order": "media_first"}
    config.text_config.cross_attention = {"gate": "tanh"}
    assert config.fusion_order == "media_first" and config.text_config.cross_attention_gate == "tanh"
    for change in (
        lambda: setattr(config.fusion, "order", "last_first"),
        lambda: setattr(config, "fusion", {"order": "last_first"}),
        lambda: MMConfig(fusion={"order": "last_first"}),
    ):
        with pytest.raises(TypeError, match="fusion_order"):
            change()
    with pytest.raises(ValueError, match="projection_dim=-1 must be positive"):
        config.update({"objectives": {"projection_dim": -1}})
    assert config.projection_dim == 7
    with pytest.raises(AttributeError, match="ordr.*did you mean 'order'"):
        config.fusion.ordr = "text_first"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MMConfig(fusion_type="cross_attention", fusion={"type": "merged"}), "fusion_type=.*fusion=.*one of"),
        (lambda: MMConfig(text_config={"cross_attention_gate": "none", "cross_attention": {"gate": "tanh"}}),
         "text_config: cross_attention_gate='none' and cross_attention="),
        (lambda: MMConfig.preset("mm-tiny", projection_dim=2, objectives={"projection_dim": 3}), "dim=2 and"),
        (lambda: MMConfig.from_dict({"fusion_type": "merged", "fusion": {"type": "sum"}}), "fusion_type='merged' and"),
        (lambda: MMConfig(**PARTS).update({"fusion_size": 1, "fusion": {"size": 2}}), "fusion_size=1 and"),
        (lambda: MMConfig(fusion={"typ": "merged"}), "fusion has no setting 'typ'.*mean 'type'.*accepted: type"),
    ],
    ids=["constructor", "sub-config", "preset", "from_dict", "update", "unknown"],
)  # fmt: skip
def test_two_values_of_one_setting_and_unknown_names_are_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_equal_values_in_both_ways_are_one_value_and_a_group_is_a_dict():
    assert MMConfig(fusion_type="merged", fusion={"type": "merged"}).fusion.type == "merged"
    assert MMConfig(fusion=MMConfig(fusion={"type": "merged"}).fusion, objectives=None).fusion_type == "merged"
    with pytest.raises(TypeError, match="fusion is a str; accepted: a dict"):
        MMConfig(fusion="merged")


def test_an_override_replaces_a_saved_setting_in_either_form(tmp_path):
    MMConfig(**PARTS, projection_dim=12, pretraining_losses={"itc": 1.0}).save_pretrained(tmp_path)
    for changes in ({"projection_dim": 20}, {"objectives": {"projection_dim": 20}}):
        made = MMConfig.from_pretrained(tmp_path, **changes)
        assert (made.projection_dim, made.pretraining_losses) == (20, {"itc": 1.0})
    made = MMConfig.from_pretrained(tmp_path, text_config={"cross_attention": {"gate": "tanh"}})
    assert made.text_config.cross_attention_gate == "tanh" and made.text_config.cross_attention_layers == [0, 1]


def test_copies_and_pickles_keep_their_own_settings():
    config = MMConfig(**PARTS)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        other.fusion.order = "text_first"
        assert config.fusion.order == "media_first" and other.fusion_order == "text_first"
    assert copy.deepcopy(config.fusion) == dict(config.fusion)


def test_config_json_names_each_setting_by_itself_and_leaves_out_the_defaults_of_groups():
    saved = json.loads(MMConfig(**PARTS).to_json_string())
    inside = {name for names in groups_of(MMConfig).values() for name in names.values()}
    assert inside & saved.keys() == {"fusion_type"} and not {"fusion", "objectives"} & saved.keys()
    used = MMConfig(**PARTS, projection_dim=12, pretraining_losses={"itc": 1.0})
    saved = json.loads(used.to_json_string())
    assert inside & saved.keys() == {"fusion_type", "projection_dim", "pretraining_losses"}
    assert MMConfig.from_dict(saved).to_dict() == used.to_dict()
    losses = {"itc": 1.0, "itm": 1.0, "lm": 1.0}  # the default of other fusions
    late = MMConfig(**PARTS, fusion_type="decision", pretraining_losses=losses)
    assert MMConfig.from_dict(json.loads(late.to_json_string())).pretraining_losses == losses


def test_a_whole_dump_and_one_with_other_values_make_the_same_model_again(tmp_path):
    config = MMConfig(**PARTS, fusion_type="merged", pretraining_losses={"itc": 1.0})
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    assert MMConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    changed = MMConfig(**{**config.to_dict(), "projection_dim": 3})  # as scripts do
    assert MMForImageTextRetrieval(changed).itc_head.text.out_features == 3
