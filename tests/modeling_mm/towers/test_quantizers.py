"""Quantizers: FSQ beside the formula of its paper, ids and codes one to one; VQ's moving averages beside a loop."""

import itertools
import math
from typing import Any

import pytest
import torch

from comparing import close
from mm import MMImageTokenizerConfig
from mm.modeling_mm.towers.quantizers import CodebookVectors, FiniteScalars, MovingNorm, nearest_vectors

LEVELS = [[3], [4], [5, 3], [8, 5, 5], [7, 4, 6, 3], [8, 8, 4]]


def fsq(levels) -> Any:
    return FiniteScalars(MMImageTokenizerConfig(levels=levels))


def vq(**settings) -> Any:
    torch.manual_seed(0)
    made = CodebookVectors(MMImageTokenizerConfig(quantizer="vq", **{"num_codes": 7, "code_size": 3, **settings}))
    made.restore()
    return made


def by_formula(number: float, levels: int) -> tuple[int, float]:
    """(the level's number, its code) of one number, in Python's own arithmetic."""
    half, offset = (levels - 1) * (1 - 1e-3) / 2, 0.5 if levels % 2 == 0 else 0.0
    level = round(half * math.tanh(number + math.atanh(offset / half)) - offset)
    return level + levels // 2, level / (levels // 2)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_is_its_formula(levels):
    x = 3 * torch.randn(200, len(levels), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codes, ids, loss = fsq(levels)(x)
    for row, code, number in zip(x.tolist(), codes.tolist(), ids.tolist(), strict=True):
        expected = [by_formula(one, count) for one, count in zip(row, levels, strict=True)]
        assert code == pytest.approx([one for _, one in expected], abs=1e-12)
        place = 1
        for (digit, _), count in zip(expected, levels, strict=True):
            assert number // place % count == digit
            place *= count
    assert loss == 0


@pytest.mark.parametrize("levels", LEVELS)
def test_every_level_is_reached_and_no_other_and_zero_stays_zero(levels):
    quantizer = fsq(levels)
    x = torch.linspace(-20, 20, 4001)[:, None].expand(-1, len(levels))
    codes = quantizer(x)[0]
    for column, count in zip(codes.T, levels, strict=True):
        wanted = torch.arange(-(count // 2), (count - 1) // 2 + 1) / (count // 2)
        close(column.unique(), wanted)
    close(quantizer.bound(torch.zeros(1, len(levels))), torch.zeros(1, len(levels)))


@pytest.mark.parametrize("levels", LEVELS)
def test_ids_and_codes_are_one_to_one(levels):
    quantizer = fsq(levels)
    ids = torch.arange(math.prod(levels))
    codes = quantizer.codes(ids)
    assert len({tuple(code) for code in codes.tolist()}) == len(ids)
    assert codes.abs().max() <= 1
    digits = torch.tensor([numbers[::-1] for numbers in itertools.product(*map(range, reversed(levels)))])
    half = torch.tensor(levels) // 2
    close(codes, (digits - half) / half)  # the first number is the lowest digit
    # the middle of each level, back through the bound, is quantized to itself
    level = codes.double() * half
    span, offset = (torch.tensor(levels) - 1) * (1 - 1e-3) / 2, torch.where(torch.tensor(levels) % 2 == 0, 0.5, 0.0)
    x = torch.atanh(((level + offset) / span).clamp(-0.9999, 0.9999)) - torch.atanh(offset / span)
    again, found, _ = quantizer(x)
    assert torch.equal(found, ids)
    close(again, codes.double(), bound=1e-6)


def test_the_gradient_of_fsq_is_that_of_its_bound():
    quantizer = fsq([8, 5])
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, 2, dtype=torch.float64)
    (given,) = torch.autograd.grad((quantizer(x)[0] * weights).sum(), x)
    (expected,) = torch.autograd.grad((quantizer.bound(x) / torch.tensor([4, 2]) * weights).sum(), x)
    close(given, expected)


def test_vq_takes_the_nearest_vector_and_passes_the_gradient_on():
    quantizer = vq().eval()
    x = torch.randn(4, 5, 3, requires_grad=True)
    codes, ids, loss = quantizer(x)
    distances = (x.detach()[..., None, :] - quantizer.vectors).square().sum(-1)
    assert torch.equal(ids, distances.argmin(-1))
    close(codes.detach(), quantizer.codes(ids))
    close(loss.detach(), distances.min(-1).values.mean() / 3)
    (gradient,) = torch.autograd.grad((codes * 2).sum(), x)
    close(gradient, torch.full_like(x, 2.0))
    assert nearest_vectors(torch.zeros(1, 2), torch.ones(3, 2)).tolist() == [0]


def test_the_codebook_is_the_moving_averages_of_a_plain_loop():
    quantizer = vq(ema_decay=0.8, restart_below=0.0).train()
    counts, sums = quantizer.counts.tolist(), quantizer.sums.tolist()
    vectors = quantizer.vectors.tolist()
    for step in range(3):
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(step))
        quantizer(x)
        nearest = [min(range(7), key=lambda k: math.dist(row, vectors[k])) for row in x.tolist()]  # noqa: B023
        for k in range(7):
            mine = [row for row, place in zip(x.tolist(), nearest, strict=True) if place == k]
            counts[k] = 0.8 * counts[k] + 0.2 * len(mine)
            sums[k] = [0.8 * old + 0.2 * sum(row[i] for row in mine) for i, old in enumerate(sums[k])]
            vectors[k] = [one / counts[k] for one in sums[k]]
    close(quantizer.counts, torch.tensor(counts))
    close(quantizer.vectors, torch.tensor(vectors))


def test_a_vector_that_nothing_is_near_starts_again_as_an_encoded_position():
    quantizer = vq(restart_below=0.5, ema_decay=0.4).train()
    quantizer.vectors[0] = quantizer.sums[0] = 1000.0
    x = torch.randn(30, 3)
    quantizer(x)
    assert any(torch.equal(quantizer.vectors[0], row) for row in x)
    kept = vq(restart_below=0.0, ema_decay=0.4).train()
    kept.vectors[0] = kept.sums[0] = 1000.0
    kept(x)
    close(kept.vectors[0], torch.full((3,), 1000.0))


def test_the_codebook_moves_in_training_only():
    quantizer = vq().eval()
    before = quantizer.vectors.clone()
    quantizer(torch.randn(9, 3))
    assert torch.equal(quantizer.vectors, before)
    quantizer.train()(torch.randn(9, 3))
    assert not torch.equal(quantizer.vectors, before)


def test_the_norm_is_of_the_batch_in_training_and_of_moving_averages_later():
    norm: Any = MovingNorm(2, momentum=0.25)
    x = torch.randn(3, 4, 2, dtype=torch.float64) * 5 + 2
    flat = x.flatten(0, 1)
    mean, var = flat.mean(0), (flat - flat.mean(0)).square().mean(0)
    close(norm(x), (x - mean) / (var + 1e-5).sqrt(), bound=1e-9)
    close(norm.mean, (0.25 * mean).float())
    close(norm.var, (0.75 + 0.25 * var).float())
    norm.eval()
    expected = (x - norm.mean) / (norm.var + 1e-5).sqrt()
    close(norm(x), expected, bound=1e-6)
    close(norm(x[:1])[0], norm(x)[0])  # no row changes another
