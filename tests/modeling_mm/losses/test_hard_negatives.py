"""Hard negatives: never a pair that belongs together, drawn by similarity."""

import pytest
import torch

from mm.modeling_mm.losses.hard_negatives import hard_negatives
from mm.modeling_mm.losses.positive_pairs import Pairs, row_ids


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("sample", [True, False])
def test_a_negative_is_neither_the_positive_nor_of_a_duplicate_caption(seed, sample):
    torch.manual_seed(seed)
    images, count = int(torch.randint(1, 6, ())), int(torch.randint(1, 9, ()))
    index, words = torch.randint(0, images, (count,)), torch.randint(3, 7, (count, 1))
    captions = torch.cat([torch.ones_like(words), words, torch.full_like(words, 2)], dim=1)
    pairs = Pairs(images, count, index, text_ids=row_ids(captions))
    mined = hard_negatives(torch.randn(images, count), pairs, sample)
    of_image = [{tuple(captions[r].tolist()) for r in range(count) if index[r] == i} for i in range(images)]
    for image, text in zip(mined.images.tolist(), mined.texts.tolist(), strict=True):
        assert tuple(captions[text].tolist()) not in of_image[image]
    # each text has a negative picture where there is one, and its picture a negative text
    everything = {tuple(caption.tolist()) for caption in captions}
    with_image = sum(any(tuple(c.tolist()) not in found for found in of_image) for c in captions)
    with_text = sum(bool(everything - of_image[i]) for i in index.tolist())
    assert len(mined.images) == with_image + with_text


def test_the_most_alike_are_taken_outside_of_training():
    scores = torch.tensor([[9.0, 1, 2], [3, 9, 4], [6, 5, 9]])
    mined = hard_negatives(scores, Pairs(3, 3), sample=False)
    assert mined.images.tolist() == [2, 2, 1, 0, 1, 2]  # of each text; then each picture itself
    assert mined.texts.tolist() == [0, 1, 2, 2, 2, 0]


def test_draws_follow_the_softmax_of_the_similarities():
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 0.3], [1.0, 9.0], [2.0, 0.1], [0.5, 0.2]]).double()
    pairs = Pairs(4, 2, torch.tensor([0, 1]))
    draws, count = torch.zeros(4), 4000
    for _ in range(count):
        draws[hard_negatives(scores, pairs).images[0]] += 1
    expected = scores[1:, 0].softmax(0)
    assert draws[0] == 0
    bound = 5 * (expected * (1 - expected) / count).sqrt()  # five standard deviations
    assert ((draws[1:] / count - expected).abs() < bound).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_other_negatives_are_drawn_evenly(share):
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 0], [3.0, 9.0], [0.0, 0], [-1.0, 0]]).double()
    pairs = Pairs(4, 2, torch.tensor([0, 1]))
    draws, count = torch.zeros(4), 4000
    for _ in range(count):
        draws[hard_negatives(scores, pairs, hard_share=share).images[0]] += 1
    expected = share * scores[1:, 0].softmax(0) + (1 - share) / 3
    assert draws[0] == 0
    bound = 5 * (expected * (1 - expected) / count).sqrt()  # five standard deviations
    assert ((draws[1:] / count - expected).abs() < bound).all()


def test_a_batch_of_one_picture_has_no_negatives():
    assert not len(hard_negatives(torch.zeros(1, 3), Pairs(1, 3)).images)
