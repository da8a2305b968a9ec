"""Gradients: every trainable parameter has one in every batch, and checkpointing and batching change none."""

import pytest
import torch

from mm import MMModel

VISIONS, TEXTS = ["vit", "conv"], ["inside", "own", "llama"]
IDS = torch.tensor([[1, 5, 6, 9, 0], [1, 7, 8, 3, 2], [1, 4, 4, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LABELS = IDS.masked_fill(MASK == 0, -100)
TYPES = torch.tensor([[0, 1, 1, 0, 0]]).expand(3, -1)
INDEX = torch.tensor([1, 0, 1])


@pytest.fixture
def batch():
    """Three rows on two contexts of two pictures, one of them absent."""
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": IDS,
        "attention_mask": MASK,
        "token_type_ids": TYPES,
        "labels": LABELS,
        "pixel_values": torch.randn(2, 2, 3, 16, 16, generator=generator, dtype=torch.float64),
        "pixel_attention_mask": torch.tensor([[True, False], [True, True]]),
        "context_index": INDEX,
    }


def gradients(model, **inputs):
    """name -> gradient (None where there is none) of the loss in training; token types where the text has them."""
    if not model.config.text_config.type_vocab_size:
        inputs.pop("token_type_ids", None)
    model.train()
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(got, expected, tolerance=1e-12):
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        if gradient is None:
            assert got[name] is None, name
        else:
            torch.testing.assert_close(got[name], gradient, rtol=tolerance, atol=tolerance, msg=name)


POOLED = [  # what only a pooled vector reads is kept for AutoModel and not trained here
    ({}, {}, set()),
    ({"pooler": "cls_tanh"}, {}, {"model.vision_tower.pooler.dense.weight", "model.vision_tower.pooler.dense.bias"}),
    ({"final_norm": "pooled"}, {}, {"model.vision_tower.norm.weight", "model.vision_tower.norm.bias"}),
    (
        {},
        {"pooler": "cls_tanh", "final_norm": "pooled"},
        {f"model.language_model.{part}.{kind}" for part in ("pooler.dense", "norm") for kind in ("weight", "bias")},
    ),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("vision_fields", "text_fields", "frozen"), POOLED, ids=["plain", "cls", "norm", "text"])
def test_every_trainable_parameter_gets_a_gradient(tiny_model, batch, text, vision_fields, text_fields, frozen):
    model = tiny_model("vit", text, vision_config=vision_fields, text_config=text_fields, max_images=2)
    found = gradients(model, **batch)
    if text_fields and text != "inside":
        frozen = {name for name in frozen if name in found}
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    assert {name for name, gradient in found.items() if gradient is None} == frozen
    for name, gradient in found.items():
        if name not in frozen and not name.endswith("k_proj.bias"):  # a softmax does not see what is added to all
            assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_batch_norm_does_not_train_and_a_free_one_does(tiny_model, batch, frozen):
    model = tiny_model("conv", vision_config={"frozen_batch_norm": frozen})
    held = {name: value.clone() for name, value in model.named_buffers() if ".norm.running" in name}
    missing = {name for name, gradient in gradients(model, **batch).items() if gradient is None}
    trained = {name for name, _ in model.named_parameters() if "vision_tower" in name and ".norm." in name}
    assert not missing and held and bool(trained) != frozen
    same = [torch.equal(value, held[name]) for name, value in model.named_buffers() if name in held]
    assert all(same) if frozen else not any(same)


def test_the_base_model_trains_by_any_of_its_outputs(tiny_model, batch):
    model = tiny_model(cls=MMModel, vision_config={"pooler": "cls_tanh"}, text_config={"pooler": "cls_tanh"}).train()
    batch.pop("labels")
    output = model(**batch)
    media = model.encode_context(batch["pixel_values"], batch["pixel_attention_mask"])
    (output.pooler_output.sum() + media.pooler_output.sum()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_without_pictures_gives_the_media_parameters_zero_gradients(tiny_model, vision, text, attention):
    model = tiny_model(vision, text, attention=attention)
    words = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    blank = {
        "pixel_values": torch.zeros(1, 1, 3, 16, 16, dtype=torch.float64),
        "pixel_attention_mask": torch.zeros(1, 1, dtype=torch.bool),
        "context_index": torch.zeros(3, dtype=torch.long),
    }
    alone, found = gradients(model, **words), gradients(model, **words, **blank)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert found[name] is not None, name
        if alone[name] is None:
            assert torch.equal(found[name], torch.zeros_like(parameter)), name
        else:
            torch.testing.assert_close(found[name], alone[name], rtol=1e-12, atol=1e-12, msg=name)
    assert [name for name, gradient in alone.items() if gradient is None and "vision_tower" in name]


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_has_the_gradient_of_its_rows_together(tiny_model, batch, vision, text, attention):
    model = tiny_model(vision, text, attention=attention)
    count = int((LABELS[:, 1:] != -100).sum())
    together = gradients(model, **batch, num_items_in_batch=count)
    summed = {name: None if g is None else torch.zeros_like(g) for name, g in together.items()}
    for row, context in enumerate(INDEX.tolist()):
        real, present = MASK[row].bool(), batch["pixel_attention_mask"][context]
        alone = gradients(
            model,
            input_ids=IDS[row][real][None],
            token_type_ids=TYPES[row][real][None],
            labels=LABELS[row][real][None],
            pixel_values=batch["pixel_values"][context][present][None],
            num_items_in_batch=count,
        )
        for name, gradient in alone.items():
            if gradient is not None:
                summed[name] += gradient
    assert_same(together, summed)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(tiny_model, batch, vision, text, reentrant):
    model = tiny_model(vision, text)
    expected = gradients(model, **batch)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    calls = []
    layer = model.model.language_model.layers[-1]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(gradients(model, **batch), expected)
    assert len(calls) == 2  # once forward, once again for the backward


def test_dropout_is_repeated_alike_under_checkpointing(tiny_model, batch):
    model = tiny_model(text_config={"hidden_dropout": 0.3, "attention_dropout": 0.3}, attention="eager")
    torch.manual_seed(0)
    expected = gradients(model, **batch)
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    assert_same(gradients(model, **batch), expected)


def test_all_labels_ignored_gives_a_loss_of_zero_and_zero_gradients(tiny_model, batch):
    model = tiny_model()
    batch["labels"] = torch.full_like(LABELS, -100)
    assert model(**batch).loss.item() == 0
    for name, gradient in gradients(model, **batch).items():
        assert gradient is None or torch.equal(gradient, torch.zeros_like(gradient)), name


def test_training_keeps_no_cache_unless_asked(tiny_model, batch):
    model = tiny_model().train()
    assert model(**batch).past_key_values is None
    assert model(**batch, use_cache=True).past_key_values is not None
    assert model.eval()(**batch).past_key_values is not None


@pytest.mark.parametrize("vision", VISIONS)
def test_bf16_autocast_trains_with_finite_gradients(tiny_model, batch, vision):
    model = tiny_model(vision, dtype=torch.float32).train()
    batch["pixel_values"] = batch["pixel_values"].float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), name
