"""What flash_cross_attention refuses: in words, by the name of the argument, before anything is launched."""

# Wrong types are handed in on purpose.

import math

import numpy as np
import pytest
import torch

from mm.kernels.cross_attention import flash_cross_attention


def integers(*values):
    return torch.tensor(values)


RAGGED = {"ragged": True}
# what is wrong: (sizes of the inputs, argument that is replaced, what replaces it, words of the message)
VALUES = {
    "key of another dtype": ({}, "key", lambda x: x.half(), ["key", "float16", "float32"]),
    "value of another dtype": ({}, "value", lambda x: x.double(), ["value", "float64", "float32"]),
    "integer states": ({}, "query", lambda x: x.long(), ["query", "int64", "float16", "bfloat16", "float32"]),
    "complex states": ({}, "query", lambda x: x.to(torch.complex64), ["query", "complex64"]),
    "key elsewhere": ({}, "key", lambda x: x.to("meta"), ["key", "meta", "cpu"]),
    "value elsewhere": ({}, "value", lambda x: x.to("meta"), ["value", "meta", "cpu"]),
    "a flat query": ({}, "query", lambda x: x[0], ["query", "4"]),
    "a key of five dimensions": ({}, "key", lambda x: x[None], ["key", "4"]),
    "keys of another width": ({}, "key", lambda x: x[..., :-1], ["key", "40", "39"]),
    "values of another width": ({}, "value", lambda x: x[..., :-1], ["value", "40", "39"]),
    "fewer values than keys": ({}, "value", lambda x: x[:, :, :-1], ["value", "37", "36"]),
    "another number of contexts": ({}, "value", lambda x: x[:1], ["value", "2", "1"]),
    "keys of other contexts": ({}, "query", lambda x: x[:1], ["query", "key"]),
    "heads that do not divide": ({"heads": 4, "kv_heads": 3}, None, None, ["4", "3", "multiple"]),
    "no key heads": ({"kv_heads": 0}, None, None, ["head"]),
    "heads too wide": ({"width": 257}, None, None, ["257", "256"]),
    "heads of no width": ({"width": 0}, None, None, ["256"]),
    "a length beyond the keys": ({}, "key_lengths", integers(38, 1), ["key_lengths", "37", "38"]),
    "a negative length": ({}, "key_lengths", integers(3, -1), ["key_lengths", "-1"]),
    "float lengths": ({}, "key_lengths", torch.tensor([3.0, 1.0]), ["key_lengths", "float32", "int32", "int64"]),
    "bool lengths": ({}, "key_lengths", torch.tensor([True, False]), ["key_lengths", "bool", "int32"]),
    "lengths of other contexts": ({}, "key_lengths", integers(3, 1, 2), ["key_lengths", "(2,)", "(3,)"]),
    "lengths of one number": ({}, "key_lengths", torch.tensor(3), ["key_lengths", "(2,)"]),
    "lengths elsewhere": ({}, "key_lengths", integers(3, 1).to("meta"), ["key_lengths", "meta", "cpu"]),
    "a mask per query": ({}, "key_mask", torch.ones(2, 1, 5, 37) > 0, ["key_mask", "(2, 37)", "(2, 1, 5, 37)"]),
    "a mask of fewer keys": ({}, "key_mask", torch.ones(2, 36) > 0, ["key_mask", "(2, 37)"]),
    "a mask for all contexts": ({}, "key_mask", torch.ones(1, 37) > 0, ["key_mask", "(2, 37)"]),
    "a float mask": ({}, "key_mask", torch.zeros(2, 37), ["key_mask", "float32", "bool"]),
    "an integer mask": ({}, "key_mask", torch.ones(2, 37, dtype=torch.long), ["key_mask", "int64", "bool"]),
    "a mask elsewhere": ({}, "key_mask", (torch.ones(2, 37) > 0).to("meta"), ["key_mask", "meta", "cpu"]),
    "ranges of fewer queries": ({}, "row_ranges", torch.zeros(2, 4, 2).long(), ["row_ranges", "(2, 5, 2)"]),
    "ranges for all contexts": ({}, "row_ranges", torch.zeros(1, 5, 2).long(), ["row_ranges", "(2, 5, 2)"]),
    "ranges of three bounds": ({}, "row_ranges", torch.zeros(2, 5, 3).long(), ["row_ranges", "(2, 5, 2)"]),
    "float ranges": ({}, "row_ranges", torch.zeros(2, 5, 2), ["row_ranges", "float32", "int32"]),
    "ranges beyond the keys": ({}, "row_ranges", torch.full((2, 5, 2), 38), ["row_ranges", "37", "38"]),
    "negative ranges": ({}, "row_ranges", torch.full((2, 5, 2), -1), ["row_ranges", "-1"]),
    "ragged ranges in rows": (RAGGED, "row_ranges", torch.zeros(2, 5, 2).long(), ["row_ranges", "(1, 5, 2)"]),
    "bounds not from zero": (RAGGED, "cu_rows", integers(1, 3, 5), ["cu_rows", "0"]),
    "bounds that end early": (RAGGED, "cu_rows", integers(0, 3, 4), ["cu_rows", "5"]),
    "bounds that end late": (RAGGED, "cu_rows", integers(0, 3, 6), ["cu_rows", "5"]),
    "bounds that fall": (RAGGED, "cu_rows", integers(0, 6, 5), ["cu_rows"]),
    "a bound too few": (RAGGED, "cu_rows", integers(0, 5), ["cu_rows", "(3,)"]),
    "float bounds": (RAGGED, "cu_rows", torch.tensor([0.0, 3.0, 5.0]), ["cu_rows", "float32", "int32"]),
    "bounds elsewhere": (RAGGED, "cu_rows", integers(0, 3, 5).to("meta"), ["cu_rows", "meta", "cpu"]),
    "bounds with rows per context": ({}, "cu_rows", integers(0, 5, 5), ["query", "cu_rows"]),
    "rows of all contexts without bounds": (RAGGED, None, None, ["query"]),
    "scale nan": ({}, "scale", math.nan, ["scale", "nan"]),
    "scale inf": ({}, "scale", math.inf, ["scale", "inf"]),
    "scale 0": ({}, "scale", 0.0, ["scale", "0"]),
    "scale below 0": ({}, "scale", -0.5, ["scale", "-0.5"]),
}
TYPES = {
    "query None": ("query", None),
    "key a list": ("key", lambda x: x.tolist()),
    "value an array": ("value", lambda x: x.numpy()),
    "lengths a list": ("key_lengths", [3, 1]),
    "a mask in numpy": ("key_mask", np.ones((2, 37), dtype=bool)),
    "ranges a tuple": ("row_ranges", ((0, 1),) * 5),
    "bounds a list": ("cu_rows", [0, 3, 5]),
    "scale a word": ("scale", "0.5"),
    "scale a tensor": ("scale", torch.tensor(0.5)),
    "scale a bool": ("scale", True),
}


def call(draw, sizes, name, other):
    given = dict(zip(("query", "key", "value"), draw(**sizes), strict=True))
    if sizes == RAGGED and name is not None:
        given["cu_rows"] = integers(0, 3, 5)
    if name is not None:
        given[name] = other(given[name]) if callable(other) else other
    return flash_cross_attention(**given)


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails the test where an op is reached."""

    def refuse(*args):
        raise AssertionError("something was launched")

    for op in ("cross_attention_forward", "cross_attention_mass"):
        monkeypatch.setattr(torch.ops.mm, op, refuse)


@pytest.mark.parametrize("fault", VALUES)
def test_a_bad_value_is_refused_by_name(fault, draw, nothing_runs):
    sizes, name, other, words = VALUES[fault]
    with pytest.raises(ValueError) as error:
        call(draw, sizes, name, other)
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


@pytest.mark.parametrize("fault", TYPES)
def test_a_wrong_type_is_refused_by_name(fault, draw, nothing_runs):
    name, other = TYPES[fault]
    with pytest.raises(TypeError, match=name):
        call(draw, {}, name, other)


def test_what_is_right_is_not_refused(draw):
    given = draw()
    for settings in (
        {"key_lengths": integers(0, 37)},
        {"key_lengths": integers(0, 37).int()},
        {"row_ranges": torch.tensor([[0, 37]] * 5).expand(2, 5, 2)},
        {"row_ranges": torch.tensor([[9, 3]] * 5).expand(2, 5, 2).int()},  # low above high: no key
        {"scale": 1},
        {"scale": 1e-3},
    ):
        flash_cross_attention(*given, **settings)
    flash_cross_attention(*draw(width=256, queries=1, keys=1))
    flash_cross_attention(*draw(width=1, queries=1, keys=1))
    flash_cross_attention(*draw(ragged=True), cu_rows=integers(0, 0, 5).int())
