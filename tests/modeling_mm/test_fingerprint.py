"""The fingerprint of a context tells any two inputs apart, and generate() refuses the cache of another context."""

# Fixtures build models whose types pyright cannot follow.

import itertools

import pytest
import torch

from mm.modeling_mm.core.fingerprint import ROW, fingerprint

IDS = torch.tensor([[1, 5], [1, 7], [1, 9]])
CUT = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]])


def of(values: torch.Tensor) -> str | None:
    return fingerprint({"pixel_values": values})


def all_differ(tensors) -> None:
    found = [of(tensor) for tensor in tensors]
    assert len(set(found)) == len(found)


def changed(base: torch.Tensor, places, value: float) -> torch.Tensor:
    changed = base.clone()
    changed[list(places)] = value
    return changed


@pytest.mark.parametrize("size", [2, 8, 24])
def test_a_black_square_that_moves_by_a_column_is_another_picture(size):
    def squares():
        white = torch.ones(3, 256, 256)
        for column in range(0, 80):
            white[:, 100 : 100 + size, column : column + size] = -1.0
            yield white
            white[:, 100 : 100 + size, column : column + size] = 1.0

    all_differ(squares())


# What a sum, a sum with a weight per place, or one modulo 2^64 with odd weights takes for equal.
@pytest.mark.parametrize(
    ("base", "other"), [(0.0, -0.0), (1.0, -1.0), (1.0, 2.0), (2.0**-126, 0.0), (float("nan"), 1.0)]
)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_upper_bits_alone_tell_apart_wherever_they_change(base, other, number):
    values = torch.full((64,), base)
    places = itertools.islice(itertools.combinations(range(1, 64, 2), number), 0, None, {1: 1, 2: 1, 4: 60}[number])
    all_differ([values, *(changed(values, chosen, other) for chosen in places)])


def test_places_count_within_a_row_of_words_and_across_rows():
    values = torch.randn(3, 4 * ROW, generator=torch.Generator().manual_seed(0))
    others = [values.flip(0), values.flip(1), values.roll(1), values[[1, 0, 2]], -values]
    blocks = values.view(6, 2 * ROW)
    swaps = [blocks[list(order)].view_as(values) for order in itertools.permutations(range(6))][:200]
    swapped = values.view(torch.int64)[:, torch.arange(2 * ROW).view(-1, 2).flip(1).flatten()].view(torch.float32)
    all_differ([*others, *swaps, swapped, (~values.view(torch.int32)).view(torch.float32)])


def test_bits_dtype_and_shape_count():
    one = torch.zeros(2, 6)
    bits = [torch.tensor([code], dtype=torch.int32).view(torch.float32) for code in (0x7FC00000, 0x7FC00001, -1)]
    all_differ(bits)  # three kinds of NaN
    shapes = [one, one.T.contiguous(), one.flatten(), one[None], one[:, :5], one[:, :5].bool(), one.bool()]
    all_differ(
        [*shapes, one.half(), one.bfloat16(), one.double(), one.int(), one.long(), torch.zeros(0), torch.zeros(())]
    )
    every_byte = torch.arange(256, dtype=torch.uint8)
    all_differ([torch.zeros(n, dtype=torch.uint8) for n in range(20)] + [every_byte[n : n + 1] for n in range(1, 256)])


def test_the_same_numbers_have_one_fingerprint_however_they_lie_in_memory():
    values = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    for view in (values, values[1:], values[:, :, 1:, 1:], values.transpose(1, 3), values.bfloat16()[1:], values > 0):
        assert of(view) == of(view.clone(memory_format=torch.contiguous_format))
        padded = torch.zeros(view.numel() + 3, dtype=view.dtype)
        padded[3:] = view.flatten()
        assert of(padded[3:].view(view.shape)) == of(view)


def test_the_names_count_and_what_is_not_given_does_not():
    one, other = torch.ones(2), torch.zeros(2)
    assert fingerprint({"a": one, "b": other}) == fingerprint({"b": other, "c": None, "a": one, "d": False})
    found = [{"a": one}, {"b": one}, {"a": one, "b": other}, {"a": other, "b": one}, {"a": one, "d": True}]
    assert len({fingerprint(inputs) for inputs in found}) == len(found)
    assert fingerprint({}) is None and fingerprint({"a": None, "interpolate_pos_encoding": False}) is None


def nudged(values: torch.Tensor) -> torch.Tensor:
    """The same but for the last bit of one number; of a mask or of ids, for one."""
    values = values.clone()
    if values.is_floating_point():
        values.view(-1)[-1] = torch.nextafter(values.view(-1)[-1], torch.tensor(9.0, dtype=values.dtype))
    elif values.dtype == torch.bool:
        values.view(-1)[-1] ^= True
    else:
        values.view(-1)[-1] = 1 if values.view(-1)[-1] != 1 else 0
    return values


@pytest.fixture
def inputs(pictures, videos, clips):
    """Of each kind of input: (fields of the model, a context of three)."""
    here = torch.ones(3, 2, dtype=torch.bool)
    return {
        "pictures": ({}, {"pixel_values": pictures, "pixel_attention_mask": here}),
        "embeds": ({}, {"visual_embeds": pictures.view(3, 64, 24), "pixel_attention_mask": torch.ones(3, 64) > 0}),
        "videos": (
            {"modalities": ["video"]},
            {"pixel_values_videos": videos, "video_attention_mask": torch.ones(3, 2, 3, dtype=torch.bool)},
        ),
        "sounds": (
            {"modalities": ["audio"], "audio_config": "ast"},
            {"input_features": clips("ast"), "input_features_mask": here},
        ),
        "texts": (
            {"text_encoder_config": "tiny"},
            {
                "pixel_values": pictures, "context_input_ids": torch.tensor([[5, 6, 7], [8, 9, 3], [4, 4, 4]]),
                "context_attention_mask": CUT, "media_index": torch.tensor([0, 1, 2]),
            },
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["pictures", "embeds", "videos", "sounds", "texts"])
def test_the_cache_of_one_context_is_refused_for_another_that_differs_in_a_bit(tiny_model, inputs, kind):
    fields, context = inputs[kind]
    model = tiny_model(**fields)
    settings = {"max_new_tokens": 2, "min_new_tokens": 2, "return_dict_in_generate": True}
    first = model.generate(input_ids=IDS, **context, **settings)
    ids = torch.cat([first.sequences, torch.full((3, 1), 7)], 1)
    for name, values in context.items():
        for other in ({**context, name: nudged(values)}, {**context, name: values.to(torch.float32)}):
            if name != "pixel_values" and other[name].dtype != values.dtype:
                continue
            with pytest.raises(ValueError, match="keys and values of another context"):
                model.generate(input_ids=ids, **other, past_key_values=first.past_key_values, **settings)
    again = model.generate(
        input_ids=ids, **context, past_key_values=first.past_key_values, output_logits=True, **settings
    )
    whole = model.generate(input_ids=ids, **context, output_logits=True, **settings)
    for found, expected in zip(again.logits, whole.logits, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_ready_context_is_told_apart_by_its_states_and_by_its_mask(tiny_model, pictures):
    model = tiny_model()
    states, mask = model.encode_context(pixel_values=pictures).last_hidden_state, torch.ones(3, 12)
    shorter = mask.clone()
    shorter[1, 6:] = 0
    settings = {"max_new_tokens": 2, "min_new_tokens": 2, "return_dict_in_generate": True}
    first = model.generate(input_ids=IDS, encoder_outputs=states, encoder_attention_mask=mask, **settings)
    ids = torch.cat([first.sequences, torch.full((3, 1), 7)], 1)
    asked = {"input_ids": ids, "past_key_values": first.past_key_values, **settings}
    for other in ((nudged(states), mask), (states, shorter)):
        with pytest.raises(ValueError, match="keys and values of another context"):
            model.generate(**asked, encoder_outputs=other[0], encoder_attention_mask=other[1])
    model.generate(**asked, encoder_outputs=states, encoder_attention_mask=mask)
