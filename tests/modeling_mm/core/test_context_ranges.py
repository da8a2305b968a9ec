"""context_ranges: each text column sees its own range of context tokens, counted before packing."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch

from mm import MMModel
from mm.modeling_mm.core.context_rows import MMReading, MMRows

IDS = torch.tensor([[1, 5, 6, 7], [1, 7, 8, 9], [1, 3, 9, 4], [1, 8, 8, 8]])
READS = torch.tensor([1, 0, 1, 2])
PRESENT = torch.tensor([[1, 1], [0, 1], [1, 0]]).bool()
# Of two pictures of 6 tokens each: the first, both, the second, nothing.
RANGES = torch.tensor(
    [[[0, 6], [0, 12], [6, 12]], [[0, 0], [0, 6], [6, 12]], [[6, 12]] * 3, [[0, 12], [0, 6], [3, 9]]]
)


def close(got, expected, bound=1e-12):
    torch.testing.assert_close(got, expected, rtol=bound, atol=bound)


def by_hand(model, pictures, row: int) -> torch.Tensor:
    """The states of one row, by a mask made here for its unpacked context."""
    context = int(READS[row])
    tokens = model.encode_context(pictures[context : context + 1]).last_hidden_state  # both pictures, in place
    place = torch.arange(12)
    there = PRESENT[context].repeat_interleave(6)
    seen = torch.zeros(4, 12, dtype=torch.bool)
    for column in range(4):
        first, end = RANGES[row, min(column, 2)]
        seen[column] = (place >= first) & (place < end) & there
    mask = torch.zeros(4, 12, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)[None, None]
    stack = model.language_model
    rows = MMRows(1, 1)
    stack._reading = lambda *args: MMReading(rows, mask=mask)
    states = stack(input_ids=IDS[row : row + 1], encoder_hidden_states=tokens, use_cache=False).last_hidden_state
    del stack._reading
    return states[0]


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_column_sees_its_range_and_what_is_absent_stays_out(tiny_model, pictures, text, attention):
    model = tiny_model("vit", text, cls=MMModel, attention=attention)
    eager = tiny_model("vit", text, cls=MMModel, attention="eager")
    inputs = {"pixel_values": pictures, "pixel_attention_mask": PRESENT, "context_index": READS}
    states = model(input_ids=IDS, context_ranges=RANGES, **inputs).last_hidden_state
    for row in range(4):
        close(states[row], by_hand(eager, pictures, row))
    moved = (states - model(input_ids=IDS, **inputs).last_hidden_state).abs().amax((1, 2))
    assert moved[[0, 1, 3]].min() > 1e-6 and moved[2] < 1e-12  # row 2 sees all that is there


@pytest.fixture
def no_compiler():
    """Flex attention in its own plain version: the masks are the same, and no compiler runs."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def test_flex_attention_takes_ranges_through_sdpa(tiny_model, pictures, no_compiler):
    heads = {"text_config": {"head_dim": 16}, "vision_config": {"hidden_size": 32, "num_attention_heads": 2}}
    flex, sdpa = (tiny_model(cls=MMModel, attention=name, dtype=torch.float32, **heads)
                  for name in ("flex_attention", "sdpa"))  # fmt: skip
    inputs = {"input_ids": IDS, "pixel_values": pictures.float(), "context_index": READS, "context_ranges": RANGES,
              "pixel_attention_mask": PRESENT}  # fmt: skip
    with torch.no_grad():
        close(flex(**inputs).last_hidden_state, sdpa(**inputs).last_hidden_state, 1e-5)


@pytest.mark.parametrize("index", [None, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 0, 1, 0, 2, 0])])
def test_a_range_of_everything_is_no_range(tiny_model, pictures, index):
    model = tiny_model(cls=MMModel)
    ids = IDS[[0, 1, 2, 3, 0, 1]]
    inputs = {"input_ids": ids, "pixel_values": pictures, "context_index": index}
    whole = torch.tensor([0, 12]).expand(6, 1, 2)
    close(model(**inputs, context_ranges=whole).last_hidden_state, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("text", ["inside", "own"])
def test_with_a_cache_the_text_goes_on_with_its_columns(tiny_model, pictures, text):
    model = tiny_model("vit", text, cls=MMModel)
    inputs = {"pixel_values": pictures, "pixel_attention_mask": PRESENT, "context_index": READS}
    expected = model(input_ids=IDS, context_ranges=RANGES, **inputs).last_hidden_state
    output = model(input_ids=IDS[:, :2], context_ranges=RANGES, **inputs, use_cache=True)
    close(output.last_hidden_state, expected[:, :2])
    for column in (2, 3):
        output = model(input_ids=IDS[:, column : column + 1], past_key_values=output.past_key_values)
        close(output.last_hidden_state[:, 0], expected[:, column])


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False},
                                  {"cache_implementation": "static"}], ids=str)  # fmt: skip
def test_generation_goes_on_with_the_last_range(tiny_model, pictures, mode):
    model = tiny_model()
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": 4, "do_sample": False, **mode}
    inputs = {"pixel_values": pictures, "pixel_attention_mask": PRESENT, "context_index": READS}
    batch = model.generate(input_ids=IDS, context_ranges=RANGES, **inputs, **settings)
    per_row = mode.get("num_return_sequences", 1)
    plain = model.generate(input_ids=IDS, **inputs, **settings)
    assert not torch.equal(batch, plain)
    for row in range(4):
        context = int(READS[row])
        single = model.generate(
            input_ids=IDS[row : row + 1],
            context_ranges=RANGES[row : row + 1],
            pixel_values=pictures[context : context + 1],
            pixel_attention_mask=PRESENT[context : context + 1],
            **settings,
        )
        assert torch.equal(batch[row * per_row : (row + 1) * per_row], single)


REFUSED = {
    "shape": ({"context_ranges": RANGES[0]}, ValueError, r"context_ranges must be int64 \(4, n, 2\)"),
    "type": ({"context_ranges": RANGES.float()}, ValueError, "context_ranges must be int64 .* got torch.float32"),
    "list": ({"context_ranges": RANGES.tolist()}, TypeError, "context_ranges must be a tensor; got list"),
    "outside": ({"context_ranges": RANGES + 1}, ValueError, "0 <= first <= end <= 12.* got 1..13"),
    "backwards": ({"context_ranges": RANGES.flip(2)}, ValueError, "0 <= first <= end <= 12"),
    "nothing": ({"pixel_values": None, "context_index": None, "pixel_attention_mask": None}, ValueError,
                "context_ranges was given, but there is no context"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_ranges_that_do_not_fit_are_refused_in_words(tiny_model, pictures, name):
    changed, error, message = REFUSED[name]
    inputs = {"input_ids": IDS, "pixel_values": pictures, "pixel_attention_mask": PRESENT, "context_index": READS}
    with pytest.raises(error, match=message):
        tiny_model(cls=MMModel)(**{**inputs, "context_ranges": RANGES, **changed})


def test_ranges_are_refused_where_nothing_cross_attends(tiny_model, pictures):
    model = tiny_model(cls=MMModel, fusion_type="merged")
    with pytest.raises(ValueError, match="context_ranges are for cross-attention; fusion_type='merged' does without"):
        model(input_ids=IDS[:3], pixel_values=pictures, context_ranges=RANGES[:3])
