"""freeze and freeze_except: parts by name, over every part a model can have."""

import pytest
import torch

from mm import MMForConditionalGeneration, MMModel, MMVisionModel

RESAMPLER = {"hidden_size": 24, "num_latents": 3, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12}
WHOLE = {
    "modalities": ["image", "video", "audio"], "audio_config": "ast", "vision_resampler_config": RESAMPLER,
    "text_encoder_config": "tiny", "fusion_type": "co_attention", "max_images": 2, "modality_embeddings": True,
}  # fmt: skip
# part -> a name of each of its modules, behind "model." but for the head
PARTS = {
    "vision": ["vision_tower"],
    "audio": ["audio_tower"],
    "text": ["language_model"],
    "text_encoder": ["text_encoder"],
    "projector": ["vision_projector", "audio_projector", "image_slots", "modality_embedding"],
    "resampler": ["vision_resampler"],
    "fusion": ["fusion"],
}


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("part", PARTS)
def test_freeze_stops_a_part_and_freeze_except_all_others(tiny_model, part):
    model = tiny_model(**WHOLE)
    before = trained(model)
    own = {name for name in before if name.split(".")[1] in PARTS[part]}
    assert {name.split(".")[1] for name in own} == set(PARTS[part])
    assert model.freeze(part) is model and trained(model) == before - own
    model = tiny_model(**WHOLE)
    assert model.freeze_except(part) is model and trained(model) == own


@pytest.mark.parametrize("text", ["inside", "own"])
def test_cross_attention_is_its_sublayers_or_whole_layers_of_its_own(tiny_model, text):
    model = tiny_model("vit", text).freeze_except("cross_attention", "projector")
    layers = {name.split("layers.")[1] for name in trained(model) if "layers." in name}
    if text == "inside":
        assert {name.split(".")[0] for name in layers} == {"0", "1"}
        assert all(name.split(".")[1].startswith("cross_attn") for name in layers)
    else:
        assert {name.split(".")[0] for name in layers} == {"0", "2"}  # the gates and the MLP too
        assert any("mlp.up_proj" in name for name in layers) and any("mlp_gate" in name for name in layers)


def test_embeddings_head_and_globs(tiny_model):
    model = tiny_model(**WHOLE).freeze_except("embeddings")
    assert {name.split(".")[1] for name in trained(model)} == {"language_model", "text_encoder"}
    assert all(".embed_" in name for name in trained(model))
    model = tiny_model().freeze_except("lm_head")
    assert {name.split(".")[0] for name in trained(model)} == {"lm_head", "lm_head_transform"}
    model = tiny_model().freeze("*.bias", "vision_tower.layers.0.*")
    assert trained(model) and not any(n.endswith(".bias") or "tower.layers.0." in n for n in trained(model))
    base = tiny_model(cls=MMModel).freeze("vision")
    assert not any(name.startswith("vision_tower") for name in trained(base))


def test_what_nothing_reads_stays_frozen(tiny_model):
    model = tiny_model(vision_config={"pooler": "cls_tanh"})
    dense = model.model.vision_tower.pooler.dense.weight
    assert not dense.requires_grad
    model.freeze_except("vision")
    assert not dense.requires_grad and any("vision_tower" in name for name in trained(model))


def test_only_what_is_not_frozen_learns(tiny_model, pictures):
    model = tiny_model().train().freeze_except("cross_attention", "projector")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.tensor([[1, 5, 6]] * 3)
    model(input_ids=ids, pixel_values=pictures, labels=ids).loss.backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # the bias of keys moves no softmax, so its gradient is nothing but rounding
    assert moved == trained(model) or trained(model) - moved <= {n for n in trained(model) if "k_proj.bias" in n}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("audio", "MMForConditionalGeneration has no part 'audio'.* it has vision, text, projector, cross_attention"),
        ("visoin", "no part 'visoin' .did you mean 'vision'"),
        ("no.such.*", "no part 'no.such.*'.*globs over the names of its parameters"),
    ],
)
def test_a_part_that_is_not_there_is_refused_with_those_that_are(tiny_model, part, message):
    for call in ("freeze", "freeze_except"):
        with pytest.raises(ValueError, match=message):
            getattr(tiny_model(), call)(part)


def test_a_tower_on_its_own_freezes_by_globs(tiny_config):
    tower = MMVisionModel(tiny_config().vision_config).freeze("layers.0.*")
    assert not any(name.startswith("layers.0.") for name in trained(tower)) and trained(tower)


def test_a_frozen_part_stays_in_the_checkpoint(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32).freeze("vision")
    model.save_pretrained(tmp_path)
    again = MMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert any("vision_tower" in name for name in trained(again))  # what trains is said anew
