"""A text that the first layers read alone (CoCa): one vector per text, whatever stands beside it in a batch."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers import AutoModel

from mm import MMForConditionalGeneration, MMForImageTextRetrieval, MMForPreTraining, MMTextConfig

TEXT = {"unimodal_layers": 1, "cross_attention_layers": [2], "max_position_embeddings": 8}
LOSSES = {"itc": 1.0, "lm": 2.0}
IDS = torch.tensor([[1, 5, 9, 2, 0, 0], [1, 7, 8, 6, 9, 2], [1, 2, 0, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
FULL = torch.tensor([[1, 5, 9, 4, 7, 3, 8, 2]])


@pytest.fixture(params=["text", "shifted"])
def coca(request, tiny_model, visible):
    """`coca(class)`: a small model in fp64 whose first layer reads a text alone."""

    def build(cls=MMForPreTraining, losses=LOSSES, **text):
        settings = {**TEXT, "unimodal_cls": request.param, **text}
        model = tiny_model(text="own", cls=cls, text_config=settings, pretraining_losses=losses, dtype=torch.float64)
        return visible(model).eval()

    return build


def vectors(model, ids, mask=None) -> torch.Tensor:
    return model.model.get_text_features(ids, mask).pooler_output


@torch.no_grad()
def test_a_text_has_one_vector_whatever_its_padding_and_its_neighbours(coca):
    model = coca()
    together = vectors(model, IDS, MASK)
    for row, length in enumerate(MASK.sum(1).tolist()):
        alone = vectors(model, IDS[row : row + 1, :length])
        assert (together[row] - alone[0]).abs().max() <= 1e-12
    left = vectors(model, IDS[:1].roll(2, 1), MASK[:1].roll(2, 1))
    assert (left[0] - together[0]).abs().max() <= 1e-12
    wide = torch.nn.functional.pad(IDS, (0, 2), value=7)  # what stands in the padding is not read
    assert (vectors(model, wide, torch.nn.functional.pad(MASK, (0, 2))) - together).abs().max() <= 1e-12


@torch.no_grad()
def test_the_vector_follows_every_token_of_the_text(coca):
    model = coca()
    before = vectors(model, IDS[1:2])
    for place in range(IDS.shape[1]):
        changed = IDS[1:2].clone()
        changed[0, place] = 11
        assert (vectors(model, changed) - before).abs().max() > 1e-6


@torch.no_grad()
def test_both_masks_are_one_for_a_text_of_every_position_alone(coca):
    model, kinds = coca(), ("text", "shifted")
    found = {}
    for kind in kinds:
        model.model.language_model.config.unimodal_cls = kind
        found[kind] = (vectors(model, FULL), vectors(model, FULL[:, :5]))
    assert torch.equal(found["text"][0], found["shifted"][0])
    assert (found["text"][1] - found["shifted"][1]).abs().max() > 1e-6


@torch.no_grad()
def test_the_states_are_those_that_the_layers_above_read(coca):
    model = coca()
    features = model.model.get_text_features(IDS, MASK, output_hidden_states=True)
    alone = features.last_hidden_state
    assert len(features.hidden_states) == 2 and torch.equal(features.hidden_states[1][:, : IDS.shape[1]], alone)
    whole = model.model.language_model(IDS, MASK, use_cache=False, output_hidden_states=True)
    assert (alone - whole.hidden_states[1])[MASK.bool()].abs().max() <= 1e-12


@pytest.mark.parametrize("cls, losses", [(MMForPreTraining, LOSSES), (MMForImageTextRetrieval, {"itc": 1.0})])
def test_every_trained_parameter_has_a_gradient(coca, pictures, cls, losses):
    model = coca(cls, losses).train()
    model(IDS, MASK, pixel_values=pictures[:3].double(), return_loss=True).loss.backward()
    unread = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not unread
    assert model.model.language_model.unimodal.cls_token.grad.abs().max() > 0


def test_a_generator_keeps_the_vector_frozen_and_loads_the_same_folder(coca, tmp_path, pictures):
    model = coca()
    model.save_pretrained(tmp_path)
    writer = MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    assert not any(value.requires_grad for value in writer.model.language_model.unimodal.parameters())
    images = pictures[:3].double()
    with torch.no_grad():
        there = model(IDS, MASK, pixel_values=images).logits
        assert (writer(IDS, MASK, pixel_values=images).logits - there).abs().max() <= 1e-12
    base = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
    assert (base.get_text_features(IDS, MASK).pooler_output - vectors(model, IDS, MASK)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"unimodal_layers": 12}, "unimodal_layers=12.*below num_hidden_layers"),
        ({"unimodal_layers": 6, "cross_attention_layers": [3]}, "cross_attention_layers.*unimodal_layers=6"),
        ({"unimodal_layers": 6, "is_causal": False}, "is_causal=False does not go with unimodal_layers"),
        ({"unimodal_layers": 6, "position_embedding_type": "rope"}, "position_embedding_type='rope' does not go"),
        ({"unimodal_layers": 6, "unimodal_cls": "shifted", "pad_token_id": None}, "set pad_token_id"),
        ({"unimodal_cls": "shifted"}, "unimodal_cls.*unimodal_layers"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings, match):
    with pytest.raises(ValueError, match=match):
        MMTextConfig(**settings)


def test_weights_that_read_both_ways_have_no_layers_for_a_text_alone(tiny_config):
    with pytest.raises(ValueError, match="share_text_encoder=True.*unimodal_layers"):
        tiny_config(text="own", text_config=TEXT, share_text_encoder=True)
