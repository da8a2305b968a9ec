"""One word chooses a fusion: what then has one choice follows, and what is missing is said."""

import pytest
import torch

import mm
from mm import MMConfig, MMForImageTextRetrieval, MMModel, MMTextConfig

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {"model_type": "mm_vision", **SIZE, "hidden_size": 12, "image_size": 16, "patch_size": 8}
TEXT = {**SIZE, "max_position_embeddings": 16, "vocab_size": 12, "bos_token_id": 1, "eos_token_id": 2}
BOTH = {"is_causal": False}
WRITER, CLASSES, MASKED = "MMForConditionalGeneration", "MMForSequenceClassification", "MMForMaskedLM"
COMPARES, ALL = "MMForImageTextRetrieval", "MMForPreTraining"
FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision", "none"]
# What a head says of a fusion that is named alone, where it says something: every setting that is missing.
MISSING = {
    **{(WRITER, fusion): "text_config.is_causal=True(.|\n)*'cross_attention' or 'merged'|'cross_attention' or 'merged'"
       for fusion in ("co_attention", "concat", "sum", "gated", "decision", "none")},
    (CLASSES, "none"): "'none'.*'decision'",
    (MASKED, "cross_attention"): "set text_config.is_causal=False",
    (MASKED, "merged"): "set text_config.is_causal=False",
    **{(MASKED, fusion): "'cross_attention', 'co_attention', 'merged'"
       for fusion in ("concat", "sum", "gated", "decision", "none")},
    **{(ALL, fusion): "'lm'.*" for fusion in ("co_attention", "concat", "sum", "gated")},
}  # fmt: skip


@pytest.mark.parametrize("head", [WRITER, CLASSES, MASKED, COMPARES, ALL])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_word_builds_every_head_or_says_what_is_missing(fusion, head):
    config = MMConfig(vision_config=VISION, text_config=TEXT, fusion_type=fusion)
    with torch.device("meta"):
        if (head, fusion) not in MISSING:
            getattr(mm, head)(config)
            return
        with pytest.raises(ValueError, match=MISSING[head, fusion]):
            getattr(mm, head)(config)


REMEDIES = [
    *[(WRITER, fusion, {"share_text_encoder": True}) for fusion in ("co_attention", "concat", "sum", "gated")],
    *[(MASKED, fusion, {"text_config": {**TEXT, **BOTH}}) for fusion in ("cross_attention", "merged")],
    *[(ALL, fusion, {"pretraining_losses": {"itc": 1.0}}) for fusion in ("co_attention", "concat", "sum", "gated")],
]


@pytest.mark.parametrize(("head", "fusion", "fields"), REMEDIES)
def test_the_setting_that_an_error_names_is_enough(head, fusion, fields):
    with torch.device("meta"):
        getattr(mm, head)(MMConfig(**{"vision_config": VISION, "text_config": TEXT, "fusion_type": fusion, **fields}))


def test_what_follows_is_what_the_rules_ask_for():
    def made(**fields):
        return MMConfig(**{"vision_config": VISION, "text_config": TEXT, **fields})

    assert made().text_config.is_causal and made(fusion_type="merged").fusion_mask == "prefix"
    assert made(fusion_type="merged", text_config={**TEXT, **BOTH}).fusion_mask == "bidirectional"
    assert not made(fusion_type="gated").text_config.is_causal
    assert made(fusion_type="gated", share_text_encoder=True).text_config.is_causal
    wide = {**TEXT, "hidden_size": 24}
    assert made(text_encoder_config=wide).text_config.cross_attention_hidden_size == 24
    assert made(text_encoder_config=TEXT).text_config.cross_attention_hidden_size is None
    shared = made(share_text_encoder=True, fusion_type="sum", fusion_size=10)
    assert shared.text_config.cross_attention_hidden_size == 10
    assert made(projector_type="none").text_config.cross_attention_hidden_size == 12
    assert made(vision_resampler_config={"num_attention_heads": 2}).vision_resampler_config.hidden_size == 12
    alone = made(vision_resampler_config={"append_latents": False})
    assert alone.vision_resampler_config.hidden_size == 768  # as files that leave out a default want it


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fusion_type": "concat", "text_config": {**TEXT, "is_causal": True}}, "set text_config.is_causal=False"),
        ({"fusion_type": "concat", "text_config": MMTextConfig(**TEXT)}, "set text_config.is_causal=False"),
        ({"fusion_type": "decision", "text_config": {**TEXT, "pooler": "mean"}}, "set text_config.pooler"),
        (
            {"text_encoder_config": {**TEXT, "hidden_size": 24}, "text_config": MMTextConfig(**TEXT)},
            "cross_attention_hidden_size=24",
        ),
        ({"fusion_type": "none", "projector_type": "mlp"}, "projector_type='mlp' .*'none'"),
        ({"fusion_type": "none", "share_text_encoder": True}, "'none' .*share_text_encoder"),
        ({"fusion_type": "none", "fusion_weights": {"text": 0.5, "image": 0.5}}, "fusion_weights is only for"),
    ],
)
def test_what_is_named_stays_and_is_refused_if_it_does_not_fit(fields, words):
    with pytest.raises(ValueError, match=words):
        MMConfig(**{"vision_config": VISION, "text_config": TEXT, **fields})


LATE = {
    "fusion_type": "decision", "fusion_weights": {"text": 0.5, "image": 0.5}, "projector_type": "none",
    "pretraining_losses": {"itc": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("cls", [MMModel, MMForImageTextRetrieval])
def test_a_dual_encoder_without_a_fusion_is_what_it_was_as_a_decision(cls):
    torch.manual_seed(0)
    models = [
        cls(MMConfig(vision_config=VISION, text_config=TEXT, **f)).eval() for f in (LATE, {"fusion_type": "none"})
    ]
    old, new = models
    assert new.config.projector_type == "none" and new.config.pretraining_losses == {"itc": 1.0}
    new.load_state_dict(old.state_dict())
    given = {"input_ids": torch.tensor([[1, 4, 2], [1, 5, 2]]), "pixel_values": torch.randn(2, 1, 3, 16, 16)}
    outputs = [model(**given) for model in models]
    assert outputs[0].keys() == outputs[1].keys()
    for key, value in outputs[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(outputs[1][key], value)
