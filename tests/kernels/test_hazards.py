"""What goes wrong in attention kernels elsewhere, tried on ours through the interpreter: the order of sums, queries
without keys, empty sizes, huge and bad numbers, the mass of the keys, and gradients of the lse."""

# What is returned depends on flags, which the type does not say.

import pytest
import torch

from mm.kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, rounding
from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.reference import reference_attention
from mm.kernels.tuning import Tile, forced

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
KINDS = ["all keys", "lengths", "mask", "ranges", "everything"]


def output_and_limit(given):
    """The output in fp64, and how far from it that of a kernel may be."""
    truth = reference_attention(*(tensor.double() for tensor in given)).output
    return truth, allowed_error(truth, reference_attention(*given).output, FORWARD, rounding(*given)["output"])


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [*DTYPES[:1], *(pytest.param(one, marks=pytest.mark.kernel_full) for one in DTYPES[1:])]
)
def test_a_second_call_gives_the_same_bits(dtype, draw, settings_of, attend, same_bits):
    for kind, splits in (("everything", 1), ("lengths", 3), ("ragged", 2)):
        given, settings = draw(dtype, ragged=kind == "ragged"), settings_of(kind)
        assert same_bits(attend(given, settings, splits), attend(given, settings, splits))


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_else_is_in_the_batch_changes_no_bit(dtype, splits, draw, settings_of, attend, same_bits):
    given, settings = draw(dtype), settings_of("everything")
    together = attend(given, settings, splits)
    flipped = {name: value.flip(0) for name, value in settings.items()}
    swapped = attend([tensor.flip(0) for tensor in given], flipped, splits)
    first = {name: value[:1] for name, value in settings.items()}
    alone = attend([tensor[:1] for tensor in given], first, splits)
    assert same_bits(together, [part.flip(0) for part in swapped])
    assert same_bits([part[:1] for part in together], alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_the_order_of_keys_nor_splits_nor_tiles_matter_beyond_rounding(dtype, draw):
    given = draw(dtype, batch=1, keys=70)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    shuffled = [given[0], given[1][:, :, order], given[2][:, :, order]]
    truth, limit = output_and_limit(given)
    for tile, splits in (((16, 16), 1), ((16, 16), 2), ((16, 16), 4), ((16, 16), 9), ((16, 64), 2), ((32, 32), 1)):
        for tried in (given, shuffled):
            with forced(tile=Tile(*tile, 4, 1), splits=splits):
                output = flash_cross_attention(*tried)
            assert error(output, truth) <= limit, (splits, tile)


# -- queries without keys, empty sizes --------------------------------------------------------------------------------

WHOLE = [[0, 37]] * 5
NOTHING = {
    "length 0": {"key_lengths": torch.tensor([0, 37])},
    "a mask of nothing": {"key_mask": torch.arange(2)[:, None].expand(2, 37) == 1},
    "empty ranges": {"row_ranges": torch.tensor([[[9, 9]] * 5, WHOLE])},
    "ranges beyond the length": {
        "key_lengths": torch.tensor([8, 37]),
        "row_ranges": torch.tensor([[[8, 37]] * 5, WHOLE]),
    },
}


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NOTHING)
def test_a_context_without_keys_gives_exact_zeros(kind, dtype, splits, unwritten_is_nan, draw, attend):
    with unwritten_is_nan():
        output, lse, mass, *gradients = attend(draw(dtype), NOTHING[kind], splits)
    for zeros in (output, mass, *gradients):
        assert not zeros[0].any() and zeros[1].isfinite().all() and zeros[1].any()
    assert (lse[0] == -torch.inf).all() and lse[1].isfinite().all()


@pytest.mark.parametrize("size", [{"batch": 0}, {"queries": 0}, {"keys": 0}, {"batch": 0, "keys": 0, "queries": 0}])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_sizes_of_zero(dtype, size, unwritten_is_nan, draw, attend):
    given = draw(dtype, **size)
    with unwritten_is_nan():
        output, lse, mass, *gradients = attend(given, {})
    batch, heads, queries, _ = given[0].shape
    assert lse.shape == (batch, heads, queries) and (lse == -torch.inf).all()
    assert mass.shape == (batch, heads, given[1].shape[2]) and not mass.any()
    for zeros, like in zip((output, *gradients), (given[0], *given), strict=True):
        assert zeros.shape == like.shape and not zeros.any()


def test_contexts_without_rows_get_nothing(draw, attend, same_bits):
    query, key, value = draw(batch=4, ragged=True)
    ends = torch.tensor([0, 0, 5, 5, 5])
    output, lse, mass, d_query, d_key, d_value = attend([query, key, value], {"cu_rows": ends})
    alone = attend([query, key[1:2], value[1:2]], {})
    assert same_bits((output, lse, mass[1:2], d_query, d_key[1:2], d_value[1:2]), alone)
    for part in (mass, d_key, d_value):
        assert not part[[0, 2, 3]].any()


def test_no_rows_at_all_in_any_context(draw, attend):
    ends = torch.tensor([0, 0, 0])
    output, lse, *zeros = attend(draw(queries=0, ragged=True), {"cu_rows": ends})
    assert output.shape == (1, 2, 0, 40) and lse.shape == (1, 2, 0) and not any(part.any() for part in zeros)


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [60.0, -60.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_neither_overflow_nor_vanish(dtype, factor, draw):
    query, key, value = draw(dtype, width=64)
    given = (query * factor, key, value)
    truth, limit = output_and_limit(given)
    assert error(flash_cross_attention(*given), truth) <= limit


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_scores_give_the_mean_however_far_below_zero(dtype, splits, draw):
    query, key, value = draw(dtype, width=64)
    with forced(tile=Tile(16, 16, 4, 1), splits=splits):
        output = flash_cross_attention(
            torch.full_like(query, 200.0), torch.full_like(key, -200.0), torch.ones_like(value)
        )
    assert torch.equal(output, torch.ones_like(output))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_finite_where_all_scores_are_far_below_zero(dtype, kind, draw, settings_of, attend):
    query, key, value = draw(dtype)
    _, lse, mass, *gradients = attend([query + 20.0, key - 20.0, value], settings_of(kind))  # 2^-lse overflows
    assert lse[lse != -torch.inf].max() < -1000
    assert all(part.isfinite().all() for part in (mass, *gradients))


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # the interpreter's maximum
def test_a_bad_number_stays_where_it_is_and_is_not_hidden(draw):
    query, key, value = draw(heads=4, kv_heads=2)
    good = flash_cross_attention(query, key, value)
    spoiled = query.clone()
    spoiled[0, 1, 2] = torch.nan
    output = flash_cross_attention(spoiled, key, value)
    assert output[0, 1, 2].isnan().all()
    output[0, 1, 2] = good[0, 1, 2]
    assert torch.equal(output, good)
    for tensor in (key, value):
        spoiled = tensor.clone()
        spoiled[1, 0, 20] = torch.nan  # the heads 0 and 1 of the second context read it
        output = flash_cross_attention(query, *(spoiled if one is tensor else one for one in (key, value)))
        assert output[1, :2].isnan().all()
        output[1, :2] = good[1, :2]
        assert torch.equal(output, good)


def test_fp32_is_as_precise_as_torch_is_told_to_be(draw):
    given, matmul = draw(queries=16), torch.backends.cuda.matmul
    exact, before = flash_cross_attention(*given), matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        short = flash_cross_attention(*given)
    finally:
        matmul.fp32_precision = before
    truth = reference_attention(*(tensor.double() for tensor in given)).output
    assert 2.0**-18 < (short - truth).abs().max() < 2.0**-7  # 10 bits of mantissa
    assert (exact - truth).abs().max() < 2.0**-18
    assert torch.equal(flash_cross_attention(*given), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_mass_of_all_keys_is_the_number_of_queries_that_see_any(kind, dtype, draw, settings_of, attend):
    _, lse, mass, *_ = attend(draw(dtype), settings_of(kind))
    attending = (lse != -torch.inf).sum(-1)
    torch.testing.assert_close(mass.sum(-1), attending.float(), rtol=1e-5, atol=1e-5)


# -- what is returned, gradients --------------------------------------------------------------------------------------


def test_only_what_is_asked_for_is_returned(draw):
    given = draw()
    alone = flash_cross_attention(*given)
    assert isinstance(alone, torch.Tensor)
    for lse in (False, True):
        for mass in (False, True):
            if lse or mass:
                got = flash_cross_attention(*given, return_lse=lse, return_mass=mass)
                assert type(got).__name__ == "Attended" and got._fields == ("output", "lse", "mass")
                assert torch.equal(got.output, alone)
                assert (got.lse is not None, got.mass is not None) == (lse, mass)


@pytest.mark.parametrize("asked", ["output", "lse"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_and_lse_have_gradients_of_their_own(dtype, asked, draw, settings_of):
    generator = torch.Generator().manual_seed(5)
    weights = {name: torch.zeros(2, 2, 5, size).to(dtype) for name, size in (("output", 40), ("lse", 1))}
    weights[asked].copy_(torch.randn(weights[asked].shape, generator=generator))

    def gradients(attention, precision, kind, **options):
        given = [tensor.to(precision).requires_grad_() for tensor in draw(dtype)]
        result = getattr(attention(*given, **settings_of(kind), **options), asked)
        weight = weights[asked].reshape(result.shape).to(result.dtype)
        return torch.autograd.grad(result, given, weight, materialize_grads=True)

    for kind in KINDS:
        truth, plain = (gradients(reference_attention, precision, kind) for precision in (torch.float64, dtype))
        mine = gradients(flash_cross_attention, dtype, kind, return_lse=True)
        bounds = rounding(*draw(dtype), weights["output"], weights["lse"][..., 0], **settings_of(kind))
        names = ("d_query", "d_key", "d_value")
        for name, one, expected, other in zip(names, mine, truth, plain, strict=True):
            assert error(one, expected) <= allowed_error(expected, other, BACKWARD, bounds[name]), (kind, name)
        if asked == "lse":
            assert not mine[2].any()  # an lse knows nothing of values


@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 1], [0, 2], [1, 2]])
def test_an_input_has_the_same_gradient_whoever_else_asks(wanted, draw, settings_of, same_bits):
    def gradients(places):
        given = draw()
        for place in places:
            given[place].requires_grad_()
        output = flash_cross_attention(*given, **settings_of("lengths"))
        return torch.autograd.grad(output.square().sum(), [given[place] for place in places])

    every = gradients([0, 1, 2])
    assert same_bits(gradients(wanted), [every[place] for place in wanted])


def test_nothing_is_kept_for_a_gradient_that_nobody_wants(draw):
    assert not flash_cross_attention(*draw()).requires_grad
    given = [tensor.requires_grad_() for tensor in draw()]
    with torch.no_grad():
        assert not flash_cross_attention(*given).requires_grad
    with torch.inference_mode():
        assert flash_cross_attention(*given).is_inference()


def test_a_gradient_through_mass_is_refused_in_words(draw):
    given = [tensor.requires_grad_() for tensor in draw()]
    got = flash_cross_attention(*given, return_mass=True)
    assert got.output.requires_grad
    with pytest.raises(RuntimeError, match="mass"):
        got.mass.sum().backward()


def test_a_second_derivative_is_refused_in_words(draw):
    given = [tensor.requires_grad_() for tensor in draw()]
    output = flash_cross_attention(*given)
    (d_query,) = torch.autograd.grad(output.square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="(?i)second|double|twice"):
        d_query.square().sum().backward()
