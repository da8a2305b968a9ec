"""The tests' own tools: comparing within rounding, where weights begin in a file, the CPU that rounds otherwise."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import comparing
import other_cpu

ONES = torch.ones(3, 4, dtype=torch.float64)


def test_rounding_is_close_and_all_else_is_not():
    comparing.close(ONES * (1 + 1e-13), ONES)
    comparing.close(1000 * ONES + 1e-10, 1000 * ONES)
    comparing.close(torch.tensor([-torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0]))
    one = ONES.clone()
    one[2, 3] += 1e-11
    wrong = [one, ONES.float(), ONES[:2], ONES.masked_fill(ONES > 0, torch.nan), ONES.masked_fill(one > 1, torch.inf)]
    for got in wrong:
        with pytest.raises(AssertionError):
            comparing.close(got, ONES)
    with pytest.raises(AssertionError):
        comparing.close(torch.tensor([3]), torch.tensor([4]))


def test_same_weights_are_the_same_names_types_and_bits():
    linear = torch.nn.Linear(2, 3)
    state = {name: value.clone() for name, value in linear.state_dict().items()}
    comparing.same_weights(linear, state)
    off_by_a_bit = torch.nextafter(state["bias"], torch.tensor(9.0))
    for changed in (
        {**state, "bias": off_by_a_bit},
        {**state, "bias": state["bias"].double()},
        {**state, "more": ONES},
    ):
        with pytest.raises(AssertionError):
            comparing.same_weights(linear, changed)


@pytest.mark.parametrize("size", range(1, 20))
def test_weights_begin_in_their_file_where_a_test_says(tmp_path, data_begins, size):
    """Whatever the length of the header."""
    tensors = {"n" * size: torch.arange(4.0), "other": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: value.tolist() for name, value in loaded.items()} == {n: v.tolist() for n, v in tensors.items()}
    assert min(value.data_ptr() % 4096 for value in loaded.values()) % 16 == data_begins


def test_on_another_cpu_equal_weights_elsewhere_give_other_bits_and_the_same_ones_the_same():
    states, weight = torch.randn(5, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)
    elsewhere = torch.cat([torch.zeros(1, dtype=torch.float64), weight.flatten()])[1:].view(8, 8)
    with other_cpu.OtherCpu():
        here, again, there = (torch.nn.functional.linear(states, x) for x in (weight, weight, elsewhere))
        alone = torch.nn.functional.linear(states[:1], weight)
    assert torch.equal(here, again) and not torch.equal(here, there) and not torch.equal(here[:1], alone)
    comparing.close(there, here)
    comparing.close(alone, here[:1])
