"""VisualBERT's heads over regions, converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.

import copy

import pytest
import torch
from transformers import (
    VisualBertConfig,
    VisualBertForMultipleChoice,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertForVisualReasoning,
)

from mm.conversion_scripts.engine import convert, convert_back

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
JOINED = ("visual_position_embeddings.weight", "visual_token_type_embeddings.weight")  # one vector here
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
    there, here = both(theirs, ours, embeds, labels_of(theirs, dtype))
    assert_close(here.loss, there.loss)


def labels_of(theirs, dtype=torch.float64) -> torch.Tensor:
    """How right each answer is, or one class per row."""
    if not isinstance(theirs, VisualBertForQuestionAnswering):
        return torch.tensor([1, 2])
    return torch.rand(2, theirs.config.num_labels, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.slow
def test_every_gradient_of_a_head_is_equal(pair, assert_gradients):
    theirs, done, source = pair
    there, here = both(theirs, done.model, regions(theirs.config), labels_of(theirs))
    there.loss.backward()
    here.loss.backward()
    assert_gradients(theirs, done.model, source, "visual-bert", JOINED)


@pytest.mark.slow
@torch.no_grad()
def test_what_a_row_gets_depends_on_no_other_row_and_no_padding(pair, assert_close):
    theirs, done, _ = pair
    embeds = regions(theirs.config)
    together = both(theirs, done.model, embeds, None)[1].logits
    for row in range(2):
        words, seen = int(MASK[row].sum()), int(REGIONS[row].sum())
        alone = done.model(IDS[row : row + 1, :words], visual_embeds=embeds[row : row + 1, :seen]).logits
        assert_close(alone[0], together[row])


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
    with pytest.raises(ValueError, match="VisualBertForMultipleChoice is not known"):
        convert(saved(peer(VisualBertForMultipleChoice, CONFIGS["usual"])))


# ---- pre-training --------------------------------------------------------------------------------------------------

MASKED = torch.tensor([[2, 5, 4, 8, 4, 3], [2, 4, 8, 3, 0, 0]])
TARGETS = IDS.masked_fill(MASKED != 4, -100)
RELATED = torch.tensor([0, 1])  # 0 for a pair that matches


@pytest.fixture(params=[(kind, tied) for kind in CONFIGS for tied in (True, False)], ids=str)
def learners(request, peer, saved):
    kind, tied = request.param
    config = copy.deepcopy(CONFIGS[kind])
    config.tie_word_embeddings = tied
    theirs = peer(VisualBertForPreTraining, config).double()
    source = saved(theirs)
    return theirs, convert(source), source


def pretrained(theirs, ours, rows: slice = slice(None)):
    """Both outputs, each with both losses."""
    embeds, mask, seen = regions(theirs.config)[rows], MASK[rows], REGIONS[rows]
    labels = torch.cat([TARGETS[rows], torch.full_like(seen, -100)], dim=1)
    there = theirs(
        MASKED[rows], mask, visual_embeds=embeds, visual_attention_mask=seen, labels=labels,
        sentence_image_labels=RELATED[rows],
    )  # fmt: skip
    here = ours(
        MASKED[rows], mask, visual_embeds=embeds, pixel_attention_mask=seen.bool(), masked_input_ids=MASKED[rows],
        mlm_targets=TARGETS[rows], matches=1 - RELATED[rows], return_loss=True,
    )  # fmt: skip
    return there, here


def test_pretraining_gives_the_same_logits_losses_and_gradients(learners, assert_close, assert_gradients):
    theirs, done, source = learners
    there, here = pretrained(theirs, done.model)
    real = MASK.bool()
    assert_close(here.mlm_logits[real], there.prediction_logits[:, : IDS.shape[1]][real])
    assert_close(here.itm_logits, there.seq_relationship_logits.flip(1))
    assert_close(here.loss, there.loss)
    there.loss.backward()
    here.loss.backward()
    assert_gradients(theirs, done.model, source, "visual-bert", JOINED)


@torch.no_grad()
def test_the_states_of_every_layer_are_equal(learners, assert_close):
    theirs, done, _ = learners
    embeds, settings = regions(theirs.config), {"output_hidden_states": True}
    there = theirs.visual_bert(IDS, MASK, visual_embeds=embeds, visual_attention_mask=REGIONS, **settings)
    here = done.model.model(IDS, MASK, visual_embeds=embeds, pixel_attention_mask=REGIONS.bool(), **settings)
    real = torch.cat([MASK, REGIONS], dim=1).bool()
    assert len(here.hidden_states) == len(there.hidden_states)
    for one, two in zip(here.hidden_states, there.hidden_states, strict=True):
        assert_close(one[real[:, : one.shape[1]]], two[:, : one.shape[1]][real[:, : one.shape[1]]])
    assert_close(here.pooler_output, there.pooler_output)


@torch.no_grad()
def test_what_a_pretrained_row_gets_depends_on_no_other_row(learners, assert_close):
    theirs, done, _ = learners
    _, together = pretrained(theirs, done.model)
    for row in range(2):
        _, alone = pretrained(theirs, done.model, slice(row, row + 1))
        assert_close(alone.mlm_logits[0], together.mlm_logits[row])
        assert_close(alone.itm_logits[0], together.itm_logits[row])


def test_back_pretraining_is_bit_equal_and_the_class_loads_it(learners, tmp_path, tensors_of):
    theirs, done, source = learners
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "visual-bert", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = type(theirs).from_pretrained(tmp_path / "back", dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()) and again.config.tie_word_embeddings == theirs.config.tie_word_embeddings
