"""VisualBERT's heads over regions, converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import pytest
import torch
from transformers import (
    VisualBertConfig,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertForVisualReasoning,
)

from mm.conversion_scripts.convert import convert, convert_back

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 26,
    "max_position_embeddings": 12, "visual_embedding_dim": 20, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    "num_labels": 5,
}  # fmt: skip
CONFIGS = {
    "usual": VisualBertConfig(**SIZES),
    "odd": VisualBertConfig(
        **{**SIZES, "num_attention_heads": 2, "visual_embedding_dim": 7, "num_labels": 3},
        hidden_act="relu", layer_norm_eps=1e-3, type_vocab_size=3,
    ),
}  # fmt: skip
IDS = torch.tensor([[2, 5, 9, 8, 12, 3], [2, 6, 8, 3, 0, 0]])
MASK = (IDS != 0).long()
REGIONS = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture(params=[(cls, kind) for kind in CONFIGS for cls in (0, 1)], ids=lambda p: f"{p[1]} {p[0]}")
def pair(request, peer, saved):
    cls = (VisualBertForQuestionAnswering, VisualBertForVisualReasoning)[request.param[0]]
    # In fp64, so that the one sum of a conversion rounds no sooner.
    theirs = peer(cls, CONFIGS[request.param[1]]).double()
    source = saved(theirs)
    return theirs, convert(source), source


def regions(config, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, config.visual_embedding_dim, generator=generator, dtype=torch.float64).to(dtype)


def both(theirs, ours, embeds: torch.Tensor, labels):
    there = theirs(IDS, MASK, visual_embeds=embeds, visual_attention_mask=REGIONS, labels=labels)
    here = ours(IDS, MASK, visual_embeds=embeds, pixel_attention_mask=REGIONS.bool(), labels=labels)
    return there, here


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_logits_and_loss_are_equal_with_padded_texts_and_regions(pair, assert_close, dtype):
    theirs, ours = pair[0].to(dtype), pair[1].model.to(dtype)
    embeds = regions(theirs.config, dtype)
    there, here = both(theirs, ours, embeds, None)
    assert_close(here.logits, there.logits)
    labels = torch.tensor([1, 2])
    if isinstance(theirs, VisualBertForQuestionAnswering):
        labels = torch.rand(2, theirs.config.num_labels, generator=torch.Generator().manual_seed(2)).to(dtype)
    there, here = both(theirs, ours, embeds, labels)
    assert_close(here.loss, there.loss)


def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(pair, tmp_path, tensors_of):
    theirs, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "visual-bert", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = type(theirs).from_pretrained(tmp_path / "back", dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()) and again.config.num_labels == theirs.config.num_labels


@torch.no_grad()
def test_a_trained_region_vector_goes_back_as_what_it_does(pair, tmp_path, assert_close):
    theirs, done, _ = pair
    done.model.model.modality_embedding.weight += 1.0
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "visual-bert", tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back", dtype=torch.float64).eval()
    there, here = both(again, done.model, regions(theirs.config), None)
    assert_close(here.logits, there.logits)


def test_the_tower_that_stands_in_is_told(pair):
    report = "\n".join(pair[1].report)
    assert "new: model.vision_tower" in report and "visual_embeds of a detector" in report


def test_another_head_is_refused(peer, saved):
    with pytest.raises(ValueError, match="VisualBertForPreTraining is not known"):
        convert(saved(peer(VisualBertForPreTraining, CONFIGS["usual"])))
