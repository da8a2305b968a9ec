"""MMForImageTextRetrieval with a slow copy and queues: the losses, gradients and queues of the functions by hand."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.testing import assert_close

from mm import MMForImageTextRetrieval, MMForPreTraining
from mm.modeling_mm.losses.momentum import MomentumContrast, momentum_copy, momentum_update
from mm.modeling_mm.losses.positive_pairs import Pairs, row_ids

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 5, 8, 2], [1, 9, 9, 9], [1, 4, 4, 2]])
INDEX = torch.tensor([0, 0, 1, 2, 2, 2])
QUEUE = {"contrastive_queue_size": 8, "contrastive_momentum": 0.7, "contrastive_soft_targets": 0.4}
ITC = {"pretraining_losses": {"itc": 1.0}}


@pytest.fixture
def batches():
    pixels = torch.randn(3, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [{"input_ids": IDS + step * (IDS > 2), "pixel_values": pixels[step]} for step in range(3)]


def test_steps_are_those_of_the_functions(retriever, batches):
    """Three steps of descent; what the slow copy is, what the queues hold and each loss are the same."""
    model, plain = retriever(**QUEUE, **ITC).train(), retriever(**ITC).train()
    plain.load_state_dict(model.state_dict(), strict=False)
    model.slow.start_as(model)  # the fixture moves every weight
    teacher, contrast = momentum_copy(plain), MomentumContrast(8, 12).double()
    ours, theirs = (torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1) for m in (model, plain))
    for batch in batches:
        loss = model(**batch, context_index=INDEX).loss
        momentum_update(teacher, plain, 0.7)
        with torch.no_grad():
            keys = teacher.encode_image(batch["pixel_values"]), teacher.encode_text(batch["input_ids"])
        embeds = plain.encode_image(batch["pixel_values"]), plain.encode_text(batch["input_ids"])
        pairs = Pairs(3, 6, INDEX, text_ids=row_ids(batch["input_ids"]))
        expected = contrast(*embeds, *keys, pairs, plain.itc_head.scale(), 0.4)
        assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for optimizer, value in ((ours, loss), (theirs, expected)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    for got, wanted in (
        (model.model, plain.model),
        (model.slow.model, teacher.model),
        (model.slow.contrast, contrast),
    ):
        for name, value in wanted.state_dict().items():
            assert_close(got.state_dict()[name], value, rtol=1e-11, atol=1e-12, msg=name)


def test_evaluation_compares_within_the_batch_and_leaves_the_queues(retriever, batches):
    model = retriever(**QUEUE, **ITC)
    given = {**batches[0], "context_index": INDEX, "return_loss": True}
    plain = retriever(**ITC)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert_close(model(**given).loss, plain(**given).loss)
    with torch.no_grad():
        model.train()(**given)
    assert model.slow.contrast.images.pushed == 0 and not any(p.requires_grad for p in model.slow.parameters())


def test_matching_is_learned_beside_the_queue(retriever, batches):
    model = retriever(**QUEUE).train()
    model(**batches[0], context_index=INDEX).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    with pytest.raises(ValueError, match="encodes media itself"):
        ready = model.encode_context(batches[0]["pixel_values"])
        model(input_ids=IDS, encoder_outputs=ready, context_index=INDEX)


def test_a_saved_copy_comes_back_and_a_new_one_starts_as_the_model(retriever, batches, tmp_path):
    model = retriever(**QUEUE, **ITC).train()
    for batch in batches[:2]:
        model(**batch, context_index=INDEX).loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    model.save_pretrained(tmp_path / "whole")
    again = MMForImageTextRetrieval.from_pretrained(tmp_path / "whole", dtype=torch.float64)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    retriever(**ITC).save_pretrained(tmp_path / "plain")
    fresh = MMForImageTextRetrieval.from_pretrained(tmp_path / "plain", dtype=torch.float64, **QUEUE)
    assert all(torch.equal(fresh.slow.model.state_dict()[name], x) for name, x in fresh.model.state_dict().items())
    assert fresh.slow.contrast.texts.pushed == 0 and not any(p.requires_grad for p in fresh.slow.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contrastive_queue_size": -1}, "contrastive_queue_size=-1 must not be"),
        ({"contrastive_momentum": 1.5}, r"contrastive_momentum=1.5 must be in \[0, 1\]"),
        ({"contrastive_soft_targets": 0.4}, "set contrastive_queue_size"),
        ({"contrastive_queue_size": 8, "contrastive_loss": "sigmoid"}, "set contrastive_loss='infonce'"),
        ({"contrastive_queue_size": 8, "contrastive_chunk_size": 2, **ITC}, "leave one out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_pretraining_has_no_queue(tiny_config):
    with pytest.raises(ValueError, match="contrastive_queue_size is only for MMForImageTextRetrieval"):
        MMForPreTraining(tiny_config(contrastive_queue_size=8, **ITC))
