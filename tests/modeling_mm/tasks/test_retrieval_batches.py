"""MMForImageTextRetrieval with large contrastive batches: encoded in chunks, texts handed around a ring."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.testing import assert_close

from mm import MMForImageTextRetrieval, MMForPreTraining

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 5, 8, 2], [1, 9, 9, 9], [1, 3, 5, 7], [1, 4, 4, 2]])
INDEX = torch.tensor([0, 0, 1, 2, 2, 3, 4])
ITC = {"pretraining_losses": {"itc": 2.0}}


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def results(model: MMForImageTextRetrieval, **inputs) -> list:
    """Embeddings, losses and every gradient of a step of training."""
    output = model.train()(**inputs)
    output.loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return [output.image_embeds, output.text_embeds, output.loss_itc, output.loss, *grads]


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("fusion", ["cross_attention", "concat"])
def test_chunks_are_the_whole_batch(retriever, pixels, size, fusion):
    inputs = {"input_ids": IDS, "pixel_values": pixels, "context_index": INDEX}
    expected = results(retriever(fusion, **ITC), **inputs)
    model = retriever(fusion, contrastive_chunk_size=size, **ITC)
    assert_close(results(model, **inputs), expected, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        assert_close(model.eval()(**inputs, return_loss=True).loss, expected[3], rtol=1e-12, atol=1e-12)


def test_chunks_of_slots_masks_and_contexts_without_media_are_the_whole_batch(retriever, pixels):
    there = torch.tensor([[True], [False], [True], [True], [False]])
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 9).long(), "context_index": INDEX}
    inputs |= {"pixel_values": pixels[:, None], "pixel_attention_mask": there}
    expected = results(retriever(**ITC), **inputs)
    assert_close(results(retriever(contrastive_chunk_size=1, **ITC), **inputs), expected, rtol=1e-11, atol=1e-12)


def test_no_more_than_a_chunk_is_kept_for_backward(retriever, pixels):
    """What forward saves of the tower grows with the chunk, not with the batch."""
    sizes = {}
    for size in (None, 1):
        model = retriever(contrastive_chunk_size=size, **ITC).train()
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x
        ):
            model(input_ids=IDS, pixel_values=pixels, context_index=INDEX)
        sizes[size] = sum(saved)
    assert sizes[1] < sizes[None] / 5


def test_a_ready_context_goes_with_texts_in_chunks(retriever, pixels):
    model = retriever(contrastive_chunk_size=2, **ITC)
    ready = model.encode_context(pixel_values=pixels)
    given = {"input_ids": IDS, "context_index": INDEX, "return_loss": True}
    assert_close(model(**given, encoder_outputs=ready).loss, model(**given, pixel_values=pixels).loss)


def test_a_ring_is_the_sigmoid_loss(retriever, pixels):
    inputs = {"input_ids": IDS, "pixel_values": pixels, "context_index": INDEX}
    fields = {"contrastive_loss": "sigmoid", "logit_bias_init_value": -3.0, **ITC}
    expected = results(retriever(**fields), **inputs)
    ring = retriever(contrastive_exchange="ring", contrastive_chunk_size=3, **fields)
    assert_close(results(ring, **inputs), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrastive_exchange": "ring", **ITC}, "contrastive_loss='sigmoid', or contrastive_exchange='gather'"),
        ({"contrastive_chunk_size": 0, **ITC}, "contrastive_chunk_size=0 must be positive"),
        ({"contrastive_chunk_size": 2, "pretraining_losses": {"itc": 1, "itm": 1}}, "'itm' reads the states"),
        (
            {"contrastive_chunk_size": 2, "vision": "conv", "vision_config": {"frozen_batch_norm": False}, **ITC},
            "norm",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        MMForImageTextRetrieval(tiny_config(text_config={"is_causal": False}, **fields))


def test_pretraining_has_no_chunks(tiny_config):
    with pytest.raises(ValueError, match="only for MMForImageTextRetrieval"):
        MMForPreTraining(tiny_config(contrastive_chunk_size=2, **ITC))
