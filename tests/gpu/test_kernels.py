"""The Triton kernels on a GPU against the specification in fp64: what the interpreter cannot show."""

import pytest
import torch

from mm.kernels import tuning
from mm.kernels.cross_attention import attend, flash_cross_attention
from mm.kernels.tuning import forced

pytestmark = pytest.mark.gpu
KINDS = ["all keys", "lengths", "mask", "ranges", "everything", "ragged"]


@pytest.mark.parametrize("width", [5, 16, 32, 40, 64, 80, 96, 128, 192, 256])
def test_every_head_width(call, assert_right, sizes, dtype, width):
    for kind in ("lengths", "everything"):
        assert_right(call(dtype, width, kind, sizes.queries, sizes.keys))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask(call, assert_right, sizes, dtype, kind):
    for queries in (5, sizes.queries):
        assert_right(call(dtype, 64, kind, queries, sizes.keys))


@pytest.mark.parametrize("group", [1, 2, 3, 8])
@pytest.mark.parametrize("queries", [1, 8, 17, 65])
def test_rows_of_every_class(call, assert_right, dtype, queries, group):
    assert_right(call(dtype, 64, "lengths", queries, 70, kv_heads=1, group=group))


@pytest.mark.parametrize("keys", [1, 15, 31, 63, 64, 65, 127, 128, 129])
def test_keys_around_the_edges_of_blocks(call, assert_right, dtype, keys):
    for kind in ("lengths", "mask"):
        assert_right(call(dtype, 64, kind, 5, keys))


@pytest.mark.parametrize("splits", [1, 2, 5, 19, None])
def test_decoding_with_split_keys(call, assert_right, sizes, dtype, splits):
    for kind in ("lengths", "ranges", "ragged"):
        with forced(splits=splits):
            assert_right(call(dtype, 64, kind, 4, sizes.keys, group=4))


def test_few_rows_over_many_keys_are_split_by_themselves(call, assert_right, sizes, monkeypatch):
    rule, chosen = tuning.splits, []
    monkeypatch.setattr(tuning, "splits", lambda *given: chosen.append(rule(*given)) or chosen[-1])
    assert_right(call(torch.float16, 128, "lengths", 1, sizes.many_keys, kv_heads=1, group=4))
    assert chosen[0] > 1


def test_many_rows_over_many_keys(call, assert_right, sizes, dtype):
    assert_right(call(dtype, 64, "everything", sizes.many_queries // 4, sizes.many_keys))


@pytest.mark.parametrize(("queries", "keys"), [(0, 40), (5, 0), (0, 0)])
def test_nothing_to_attend_or_nobody_who_does(call, compute, dtype, queries, keys):
    got = compute(call(dtype, 64, "all keys", queries, keys))
    assert got["output"].shape[2] == queries and got["mass"].shape[2] == keys
    assert (got["lse"] == -torch.inf).all()
    assert not any(got[name].any() for name in ("output", "mass", "d_query", "d_key", "d_value"))


@pytest.mark.parametrize("kind", ["everything", "ragged"])
def test_strides_change_no_bit(call, compute, sizes, dtype, kind):
    drawn = call(dtype, 80, kind, sizes.queries, sizes.keys)
    dense = compute(drawn._replace(given=[tensor.contiguous() for tensor in drawn.given]))

    def with_gaps(tensor):
        batch, heads, length, width = tensor.shape
        buffer = tensor.new_full((batch, heads + 1, length + 2, width + 8), float("nan"))
        return buffer[:, 1:, 1:-1, 8:].copy_(tensor)

    def by_columns(tensor):
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)

    for strided in (lambda tensor: tensor, with_gaps, by_columns):
        given = [strided(tensor) for tensor in drawn.given]
        found = compute(drawn._replace(given=given))
        assert all(torch.equal(found[name], dense[name]) for name in dense)


def test_keys_and_values_of_one_buffer(call, compute, sizes, dtype):
    drawn = call(dtype, 64, "lengths", sizes.queries, sizes.keys)
    query, *pair = drawn.given
    key, value = torch.stack(pair, 3).unbind(3)
    assert not key.is_contiguous()
    mine, apart = compute(drawn._replace(given=[query, key, value])), compute(drawn)
    assert all(torch.equal(mine[name], apart[name]) for name in apart)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_gives_the_same_bits(call, compute, sizes, dtype, kind):
    drawn = call(dtype, 64, kind, sizes.many_queries // 4, sizes.keys)
    first = compute(drawn)
    for _ in range(2 if drawn.given[0].device.type == "cpu" else 20):
        again = compute(drawn)
        assert all(torch.equal(again[name], first[name]) for name in first)


def test_other_contexts_change_no_bit(call, compute, sizes, dtype):
    """With the number of splits fixed, which otherwise follows from the size of the batch."""
    drawn = call(dtype, 64, "lengths", 5, sizes.keys)
    with forced(splits=2):
        together = compute(drawn)
        for one in range(3):
            part = slice(one, one + 1)
            settings = {name: value[part] for name, value in drawn.settings.items()}
            given, weights = ([tensor[part] for tensor in tensors] for tensors in (drawn.given, drawn.weights))
            alone = compute(drawn._replace(given=given, settings=settings, weights=weights))
            assert all(torch.equal(alone[name], together[name][part]) for name in alone)


def test_padded_keys_are_never_read(call, compute, sizes, dtype):
    drawn = call(dtype, 64, "lengths", 5, sizes.keys)
    padded = torch.arange(sizes.keys, device=drawn.given[0].device) >= drawn.settings["key_lengths"][:, None]
    poisoned = [tensor.masked_fill(padded[:, None, :, None], float("nan")) for tensor in drawn.given[1:]]
    mine, truth = compute(drawn._replace(given=[drawn.given[0], *poisoned])), compute(drawn)
    assert all(torch.equal(mine[name], truth[name]) for name in truth)


def test_offsets_beyond_two_to_the_31(device, dtype):
    """Keys that lie 2^26 elements apart, the last of them beyond 2^31."""
    apart, keys, width = 2**26, 34, 16
    buffer = torch.empty(keys * apart, dtype=dtype, device=device)
    far = buffer.as_strided((1, 1, keys, width), (0, 0, apart, 1))
    near = torch.randn(1, 1, keys, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    far.copy_(near)
    assert torch.equal(attend(near, far, far), attend(near, near, near))


def test_inputs_on_several_devices_are_refused(call, device):
    drawn = call(torch.float16)
    elsewhere = drawn.settings["key_lengths"].to("cpu" if device.type == "cuda" else "meta")
    with pytest.raises(ValueError, match="key_lengths is on .*; move them to one device"):
        flash_cross_attention(*drawn.given, key_lengths=elsewhere)
