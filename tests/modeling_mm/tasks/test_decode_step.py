"""A decode step gets the inputs that Transformers would make; an output holds what was set."""

import pytest
import torch
from transformers.cache_utils import DynamicCache
from transformers.generation.utils import GenerationMixin

from mm.modeling_mm.core.inputs_outputs import MMModelOutput

IDS = torch.tensor([[0, 1, 6, 2], [1, 7, 8, 9]])
PADDED = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize("given", [{}, {"num_beams": 2}, {"attention_mask": PADDED}, {"output_attentions": True}])
def test_a_decode_step_gets_the_inputs_that_transformers_makes(tiny_model, monkeypatch, given):
    model = tiny_model()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lean, steps = model._one_more_token, []

    def both(input_ids, **kwargs):
        own = lean(input_ids, **kwargs)
        theirs = GenerationMixin.prepare_inputs_for_generation(model, input_ids, **kwargs)
        assert own.keys() == theirs.keys()
        for name, value in own.items():
            assert torch.equal(value, theirs[name]) if torch.is_tensor(value) else value is theirs[name]
        steps.append(own)
        return own

    monkeypatch.setattr(model, "_one_more_token", both)
    model.generate(IDS, pixel_values=pixels, min_new_tokens=4, max_new_tokens=4, **given)
    assert len(steps) == 3


@pytest.mark.parametrize("given", [{}, {"attention_mask": PADDED}, {"token_type_ids": torch.zeros_like(IDS)}])
def test_what_a_step_carries_on_grows_as_in_transformers(tiny_model, given):
    model, output = tiny_model(), MMModelOutput(past_key_values=DynamicCache())
    carried = {"position_ids": torch.arange(4)[None].expand(2, 4), "use_cache": True, **given}
    for number in (1, 2):
        own = model._update_model_kwargs_for_generation(output, dict(carried), num_new_tokens=number)
        theirs = GenerationMixin._update_model_kwargs_for_generation(
            model, output, dict(carried), num_new_tokens=number
        )
        assert own.keys() == theirs.keys()
        for name, value in own.items():
            assert torch.equal(value, theirs[name]) if torch.is_tensor(value) else value is theirs[name]


def test_a_field_that_is_set_is_an_item_and_other_attributes_are_not():
    output = MMModelOutput(last_hidden_state=torch.ones(1))
    output.pooler_output = torch.zeros(1)
    output.note = "none of the fields"
    assert list(output) == ["last_hidden_state", "pooler_output"]
    assert output["pooler_output"] is output.pooler_output
    output.pooler_output = None
    assert output.pooler_output is None
