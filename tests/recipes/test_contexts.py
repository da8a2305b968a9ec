"""Training over every kind of context: checkpointing, blank batches, growing vocabularies, recorded states, plans."""

# Fixtures build models whose types pyright cannot follow.

import copy
import re

import pytest
import torch

from comparing import close
from mm import MMForConditionalGeneration, MMModel

RESAMPLER = {"hidden_size": 24, "num_latents": 3, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12,
             "intermediate_size": 24, "initializer_range": 0.3}  # fmt: skip
ALL = {"modalities": ["image", "video", "audio"], "audio_config": "ast", "max_frames": 3, "max_images": 2,
       "max_clips": 2, "modality_embeddings": True, "vision_resampler_config": RESAMPLER}  # fmt: skip
OWN, SHARED = {"text_encoder_config": "tiny"}, {"share_text_encoder": True}
MODELS = {
    "cross inside": ("inside", {}),
    "cross own": ("own", {}),
    "merged": ("inside", {"fusion_type": "merged"}),
    "encoder own": ("inside", OWN),
    "encoder shared": ("llama", {**SHARED, "text_config": {"cross_attention_hidden_size": None}}),
    "encoder merged": ("inside", {**OWN, "fusion_type": "merged", "fusion_mask": "bidirectional"}),
    "encoder co-attention": ("inside", {**SHARED, "fusion_type": "co_attention"}),
    "encoder gated": ("inside", {**OWN, "fusion_type": "gated"}),
}
IDS = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 2], [1, 3, 9, 2]])
QUESTIONS = torch.tensor([[1, 4, 5], [0, 1, 9], [1, 8, 7]])


@pytest.fixture
def build(tiny_model):
    def build(name: str, **more):
        text, fields = copy.deepcopy(MODELS[name])
        return tiny_model("vit", text, **{**ALL, **fields, **more})

    return build


@pytest.fixture
def batch(pictures, videos, clips):
    """Every modality, one row per context; the third context has nothing."""
    there = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()

    def batch(name: str) -> dict[str, torch.Tensor]:
        inputs = {
            "input_ids": IDS,
            "labels": IDS,
            "pixel_values": pictures,
            "pixel_attention_mask": there,
            "pixel_values_videos": videos,
            "video_attention_mask": there[..., None].expand(3, 2, 3),
            "input_features": clips("ast"),
            "input_features_mask": there,
        }
        if "encoder" in name:
            inputs |= {"context_input_ids": QUESTIONS, "context_attention_mask": QUESTIONS.ne(0).long()}
        return inputs

    return batch


def gradients(model, inputs) -> dict[str, torch.Tensor | None]:
    model.train().zero_grad()
    model(**inputs).loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_no_gradient(build, batch, name, reentrant):
    model, inputs = build(name), batch(name)
    expected = gradients(model, inputs)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    got = gradients(model, inputs)
    for part, gradient in expected.items():
        assert (gradient is None) == (got[part] is None), part
        if gradient is not None:
            torch.testing.assert_close(got[part], gradient, rtol=1e-9, atol=1e-12, msg=part)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_any_item_uses_every_parameter_with_zero_gradients(build, batch, name):
    model, inputs = build(name), batch(name)
    nothing = {n: torch.zeros_like(v) if n.endswith("mask") and "context" not in n else v for n, v in inputs.items()}
    found, full = gradients(model, nothing), gradients(model, inputs)
    media = ("vision_", "audio_", "image_slots", "frame_slots", "clip_slots", "modality_embedding")
    for part, gradient in found.items():
        assert (gradient is None) == (full[part] is None), part
        if gradient is not None and part.removeprefix("model.").startswith(media):
            assert not gradient.any(), part
    dropped = {n: v for n, v in inputs.items() if n in ("input_ids", "labels") or n.startswith("context")}
    model.eval()
    torch.testing.assert_close(model(**nothing).logits, model(**dropped).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cross own", "merged", "encoder own", "encoder shared"])
def test_a_batch_has_the_gradient_of_its_rows_together(build, batch, name):
    model, inputs = build(name), batch(name)
    whole = gradients(model, inputs)
    rows = [gradients(model, {key: value[row : row + 1] for key, value in inputs.items()}) for row in range(3)]
    for part, gradient in whole.items():
        if gradient is not None:
            mean = torch.stack([row[part] for row in rows]).mean(0)
            torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-12, msg=part)


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_stand_for_ids(build, batch, name):
    model, inputs = build(name), batch(name)
    inputs.pop("labels")
    expected = model(**inputs).logits
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(model(inputs_embeds=embeds, **inputs).logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["merged", "encoder own", "encoder shared"])
def test_the_decoder_s_vocabulary_can_grow(build, batch, name, tmp_path):
    model, inputs = build(name, dtype=torch.float32), batch(name)
    inputs = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
    before = model(**inputs).logits
    model.resize_token_embeddings(57)
    torch.testing.assert_close(model(**inputs).logits[..., :50], before, rtol=1e-5, atol=1e-5)
    assert model.config.text_config.vocab_size == 57 and model.lm_head.bias.shape == (57,)
    if model.model.text_encoder is not None:
        assert model.config.text_encoder_config.vocab_size == 50  # a vocabulary of its own
    model.save_pretrained(tmp_path)
    again = MMForConditionalGeneration.from_pretrained(tmp_path).eval()
    close(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", MODELS)
def test_states_and_attentions_of_the_decoder_are_handed_out(build, batch, name):
    model, inputs = build(name, attention="eager"), batch(name)
    output = model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=False)
    text = model.config.text_config
    own = sum("self" in text.sublayers(i) for i in range(text.num_hidden_layers))
    crossing = sum("cross" in text.sublayers(i) for i in range(text.num_hidden_layers))
    assert len(output.hidden_states) == text.num_hidden_layers + 1 and len(output.attentions) == own
    heads, length = text.num_attention_heads, output.context_hidden_states.shape[1]
    if name == "merged":
        assert output.attentions[0].shape == (3, heads, length + 4, length + 4) and not output.cross_attentions
    else:
        assert output.attentions[0].shape == (3, heads, 4, 4) and len(output.cross_attentions) == crossing
        assert output.cross_attentions[0].shape[2:] == (4, length)
        real = output.context_attention_mask
        if real is not None:
            outside = output.cross_attentions[0].masked_select(~real[:, None, None])
            assert not outside.any()


def test_layers_may_be_split_over_devices_and_sharded_by_their_plans(build):
    model = build("encoder own")
    names = [name for name, _ in model.named_modules()]
    for plan in (model.tp_plan, model.model.tp_plan):
        assert any("cross_attn.q_proj" in pattern for pattern in plan)
        assert any("text_encoder.layers" in pattern for pattern in plan)
    for pattern, kind in model.tp_plan.items():
        matches = [name for name in names if re.fullmatch(pattern.replace(".", r"\.").replace("*", r"\d+"), name)]
        assert matches, (pattern, kind)
    assert "MMLayer" in model._no_split_modules
    assert any("language_model.layers" in pattern for pattern in model.fsdp_plan)


def test_the_base_model_trains_by_its_context_alone(build, batch):
    model = MMModel(build("cross inside").config).double().train()
    inputs = {key: value for key, value in batch("cross inside").items() if key not in ("input_ids", "labels")}
    output = model(**inputs)
    (output.last_hidden_state.sum() + output.pooler_output.sum()).backward()
    assert model.vision_resampler.latents.grad.any() and model.audio_projector.weight.grad.any()
    assert model.language_model.embed_tokens.weight.grad is None
