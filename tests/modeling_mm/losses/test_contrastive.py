"""Contrastive losses beside the papers' formulas, pair by pair; what counts as a positive; the clamped scale."""

import math

import pytest
import torch

from mm.modeling_mm.losses.contrastive import info_nce_loss, logit_scale, sigmoid_loss
from mm.modeling_mm.losses.positive_pairs import Pairs, row_ids
from mm.modeling_mm.losses.ring_sigmoid import ring_sigmoid_loss

# name -> (pictures, texts, context_index, positives as {picture: texts})
BATCHES = {
    "one text each": (4, 4, None, {0: [0], 1: [1], 2: [2], 3: [3]}),
    "two texts each": (2, 4, None, {0: [0, 1], 1: [2, 3]}),
    "ragged, any order": (3, 5, [2, 0, 2, 1, 2], {0: [1], 1: [3], 2: [0, 2, 4]}),
    "a picture without a text": (4, 3, [3, 0, 3], {0: [1], 3: [0, 2]}),
}


def embeds(rows, seed=0, width=6):
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(made, dim=1).requires_grad_()


def batch(name):
    pictures, texts, index, positives = BATCHES[name]
    index = None if index is None else torch.tensor(index)
    return embeds(pictures), embeds(texts, 1), Pairs(pictures, texts, index), positives


def info_nce_by_hand(images, texts, positives, scale, smoothing=0.0):
    """Both directions, row by row; rows without a positive are left out."""
    means = []
    for left, right, flip in ((images, texts, False), (texts, images, True)):
        losses = []
        for i, row in enumerate(left):
            own = [
                j for j in range(len(right)) if ((i in positives.get(j, [])) if flip else (j in positives.get(i, [])))
            ]
            if not own:
                continue
            logs = torch.stack([scale * row @ other for other in right])
            logs = logs - torch.log(torch.exp(logs).sum())
            shares = [(1 - smoothing) / len(own) * (j in own) + smoothing / len(right) for j in range(len(right))]
            losses.append(-sum(share * log for share, log in zip(shares, logs, strict=True)))
        means.append(sum(losses) / len(losses))
    return sum(means) / 2


def sigmoid_by_hand(images, texts, positives, scale, bias):
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            sign = 1 if j in positives.get(i, []) else -1
            total = total + torch.log(1 + torch.exp(sign * (-scale * image @ text - bias)))
    return total / len(texts)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", BATCHES)
def test_info_nce_is_the_cross_entropy_of_both_directions(name, smoothing):
    images, texts, pairs, positives = batch(name)
    expected = info_nce_by_hand(images, texts, positives, 7.0, smoothing)
    torch.testing.assert_close(info_nce_loss(images, texts, pairs, 7.0, smoothing), expected, rtol=0, atol=1e-12)


def test_info_nce_of_one_text_each_is_clip_s():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts, pairs, _ = batch("one text each")
    expected = image_text_contrastive_loss(7.0 * texts @ images.T)
    torch.testing.assert_close(info_nce_loss(images, texts, pairs, 7.0), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BATCHES)
def test_the_sigmoid_loss_judges_every_pair_by_itself(name):
    images, texts, pairs, positives = batch(name)
    expected = sigmoid_by_hand(images, texts, positives, 7.0, -3.0)
    torch.testing.assert_close(sigmoid_loss(images, texts, pairs, 7.0, -3.0), expected, rtol=0, atol=1e-12)
    without = sigmoid_by_hand(images, texts, positives, 7.0, 0.0)
    torch.testing.assert_close(sigmoid_loss(images, texts, pairs, 7.0), without, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [info_nce_loss, sigmoid_loss, ring_sigmoid_loss])
@pytest.mark.parametrize("name", BATCHES)
def test_gradients_are_those_of_finite_differences(name, loss):
    images, texts, pairs, _ = batch(name)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: loss(given[0], given[1], pairs, given[2]), (images, texts, scale))


def test_equal_pictures_share_their_texts():
    pairs = Pairs(3, 3, image_ids=torch.tensor([7, 9, 7]))
    assert pairs.positives().tolist() == [[True, False, True], [False, True, False], [True, False, True]]


def test_a_duplicate_caption_belongs_to_the_pictures_of_all_its_copies():
    pairs = Pairs(3, 4, torch.tensor([0, 1, 1, 2]), text_ids=torch.tensor([5, 5, 6, 8]))
    wanted = [[True, True, False, False], [True, True, True, False], [False, False, False, True]]
    assert pairs.positives().tolist() == wanted
    assert pairs.positives(slice(1, 2), slice(2, 4)).tolist() == [[True, False]]


def test_the_ids_of_rows_do_not_depend_on_padding():
    left = row_ids(torch.tensor([[0, 0, 4, 5], [0, 0, 5, 4]]), torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]]))
    right = row_ids(torch.tensor([[4, 5, 0], [4, 5, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    bare = row_ids(torch.tensor([[4, 5]]))
    assert left[0] == right[0] == bare[0]
    assert len({*left.tolist(), *right.tolist()}) == 3


def test_the_ids_of_many_texts_are_all_different():
    ids = torch.cartesian_prod(*[torch.arange(20)] * 3)
    masks = torch.ones_like(ids)
    masks[: len(ids) // 2, 2] = 0
    real = {tuple(row[mask.bool()].tolist()) for row, mask in zip(ids, masks, strict=True)}
    assert len(row_ids(ids, masks).unique()) == len(real)


def test_the_scale_ends_at_its_limit_and_can_come_back():
    for start, direction, expected in ((1.0, 1, math.e), (1.0, -1, math.e), (5.0, 1, math.exp(2)), (5.0, -1, 0.0)):
        log_scale = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        scale = logit_scale(log_scale, 2.0)
        assert scale.item() == pytest.approx(math.exp(min(start, 2.0)), rel=1e-12)
        (gradient,) = torch.autograd.grad(direction * scale, log_scale)
        assert gradient.item() == pytest.approx(direction * expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [info_nce_loss, sigmoid_loss])
def test_half_precision_embeddings_are_compared_in_fp32_also_under_autocast(loss, dtype):
    images, texts, pairs, _ = batch("two texts each")
    images, texts = images.detach().to(dtype), texts.detach().to(dtype)
    expected = loss(images.float(), texts.float(), pairs, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(images, texts, pairs, 100.0)
    assert given.dtype == torch.float32 and torch.equal(given, expected)


@pytest.mark.parametrize("loss", [info_nce_loss, sigmoid_loss, ring_sigmoid_loss])
@pytest.mark.parametrize("pictures", [0, 2])
def test_a_batch_without_a_text_costs_nothing_and_stays_in_the_graph(loss, pictures):
    images, texts = embeds(pictures), embeds(0)
    pairs = Pairs(pictures, 0, torch.empty(0, dtype=torch.long))
    value = loss(images, texts, pairs, 7.0)
    of_images, of_texts = torch.autograd.grad(value, (images, texts))
    assert value.item() == 0 and pairs.positives().shape == (pictures, 0)
    assert torch.equal(of_images, torch.zeros_like(images)) and of_texts.shape == (0, 6)


@pytest.mark.parametrize("name", BATCHES)
def test_one_process_has_no_neighbours_to_ask(name):
    values = []
    for loss in (sigmoid_loss, ring_sigmoid_loss):
        images, texts, pairs, _ = batch(name)
        numbers = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in (7.0, -3.0)]
        value = loss(images, texts, pairs, *numbers)
        values.append([value, *torch.autograd.grad(3 * value, (images, texts, *numbers))])
    for given, expected in zip(*values, strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [{"image_ids": torch.zeros(3)}, {"text_ids": torch.zeros(2, dtype=torch.long)}])
def test_ids_of_another_shape_or_dtype_are_refused_in_words(given):
    with pytest.raises(ValueError, match=r"_ids must be int64 \([34],\); got torch"):
        Pairs(3, 4, torch.tensor([0, 1, 2, 2]), **given)
