"""Every bad input of forward() and generate() is refused with a sentence that names the argument."""

import inspect

import pytest
import torch
from transformers import DynamicCache

from mm import MMContextOutput, MMForMaskedLM
from mm.modeling_mm.core.input_checks import MEDIA_INPUTS

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 5, 6], [1, 7, 8]])
ONES = torch.ones_like(IDS)
EMBEDS = torch.zeros(2, 3, 32)
CONTEXT = torch.zeros(2, 5, 32)
NO_IDS = {"input_ids": None}
NO_PIXELS = {"pixel_values": None}

# name: (what replaces the good input, error, message); a good call gives input_ids, attention_mask and pixel_values.
MEDIA = {
    "channels": ({"pixel_values": torch.ones(2, 4, 16, 16)}, ValueError, r"pixel_values must be \(B, 3, .*2, 4, 16"),
    "channels last": ({"pixel_values": torch.ones(2, 16, 16, 3)}, ValueError, r"got .*\(2, 16, 16, 3\)"),
    "no batch": ({"pixel_values": PIXELS[0]}, ValueError, r"got .*\(3, 16, 16\)"),
    "size": ({"pixel_values": torch.ones(2, 3, 24, 24)}, ValueError, "24x24.* image_size=16"),
    "uint8": (
        {"pixel_values": PIXELS.to(torch.uint8)},
        ValueError,
        "pixel_values must be .*normalised floats.* got torch.uint8",
    ),
    "NaN": ({"pixel_values": PIXELS * float("nan")}, ValueError, "pixel_values hold NaN or infinite values"),
    "infinite": ({"pixel_values": PIXELS / 0}, ValueError, "pixel_values hold NaN or infinite values"),
    "list": ({"pixel_values": [PIXELS]}, TypeError, "pixel_values must be a tensor; got list"),
    "no picture": (
        {"pixel_values": torch.ones(2, 0, 3, 16, 16)},
        ValueError,
        "holds no picture.*leave pixel_values out",
    ),
    "no context": ({"pixel_values": torch.ones(0, 3, 16, 16)}, ValueError, "holds no picture"),
    "mask shape": (
        {"pixel_attention_mask": torch.ones(3)},
        ValueError,
        r"pixel_attention_mask must be \(2, 1\).*\(3,\)",
    ),
    "mask values": (
        {"pixel_attention_mask": torch.full((2,), 0.5)},
        ValueError,
        "pixel_attention_mask must hold only 0 and 1",
    ),
    "mask list": ({"pixel_attention_mask": [1, 1]}, TypeError, "pixel_attention_mask must be a tensor; got list"),
    "mask alone": (
        {**NO_PIXELS, "pixel_attention_mask": torch.ones(2)},
        ValueError,
        "pixel_attention_mask was given without pixel_values or visual_embeds",
    ),
    "pixels and embeds": (
        {"visual_embeds": torch.ones(2, 6, 24)},
        ValueError,
        "pixel_values or visual_embeds.*not both",
    ),
    "embeds width": (
        {**NO_PIXELS, "visual_embeds": torch.ones(2, 6, 23)},
        ValueError,
        r"\(B, S, 24\).*got .*2, 6, 23",
    ),
    "embeds NaN": ({**NO_PIXELS, "visual_embeds": torch.ones(2, 6, 24) / 0}, ValueError, "visual_embeds hold NaN"),
    "embeds list": ({**NO_PIXELS, "visual_embeds": [1]}, TypeError, "visual_embeds must be a tensor; got list"),
    "video": (
        {"pixel_values_videos": PIXELS},
        ValueError,
        r"pixel_values_videos was given, but .* modalities=\['image'\]",
    ),
    "video mask": ({"video_attention_mask": ONES}, ValueError, "video_attention_mask was given"),
    "audio": ({"input_features": PIXELS}, ValueError, "input_features was given, but this model accepts"),
    "audio mask": ({"input_features_mask": ONES}, ValueError, "input_features_mask was given"),
    "context text": ({"context_input_ids": IDS}, ValueError, "context_input_ids was given, but .* no text encoder"),
    "context mask": ({"context_attention_mask": ONES}, ValueError, "context_attention_mask was given"),
    "media index": (
        {"media_index": IDS[:, 0]},
        ValueError,
        "media_index was given, but this model has no text encoder",
    ),
}
CONTEXTS = {
    "2 pictures, 3 texts": (
        {"input_ids": IDS[[0, 1, 0]], "attention_mask": None},
        ValueError,
        "3 text rows and 2 contexts: without context_index",
    ),
    "index range": ({"context_index": torch.tensor([0, 2])}, ValueError, r"context_index must be in 0..1; got 0..2"),
    "index length": ({"context_index": torch.tensor([0])}, ValueError, r"context_index must be int64 \(2,\)"),
    "index list": ({"context_index": [0, 1]}, TypeError, "context_index must be a tensor; got list"),
    "index alone": (
        {**NO_PIXELS, "context_index": torch.tensor([0, 1])},
        ValueError,
        "there is no context for the rows",
    ),
    "ready and pixels": ({"encoder_outputs": CONTEXT}, ValueError, "ready context, so pixel_values cannot be given"),
    "ready width": (
        {**NO_PIXELS, "encoder_outputs": CONTEXT[..., 1:]},
        ValueError,
        r"encoder_outputs must be float .*32",
    ),
    "ready output width": (
        {**NO_PIXELS, "encoder_outputs": MMContextOutput(last_hidden_state=CONTEXT[..., 1:])},
        ValueError,
        r"encoder_outputs must be float \(B, S, 32\)",
    ),
    "ready empty": ({**NO_PIXELS, "encoder_outputs": CONTEXT[:, :0]}, ValueError, "at least one token each"),
    "ready type": (
        {**NO_PIXELS, "encoder_outputs": "a cat"},
        TypeError,
        "encoder_outputs must be what encode_context",
    ),
    "ready dict": ({**NO_PIXELS, "encoder_outputs": {"a": 1}}, TypeError, "encoder_outputs must be .* got dict"),
    "ready nothing": ({**NO_PIXELS, "encoder_outputs": ()}, TypeError, "encoder_outputs must be .* got tuple"),
    "ready mask": (
        {**NO_PIXELS, "encoder_outputs": CONTEXT, "encoder_attention_mask": torch.ones(2, 4)},
        ValueError,
        r"the mask of encoder_outputs must be \(2, 5\); got \(2, 4\)",
    ),
    "two masks": (
        {
            **NO_PIXELS,
            "encoder_outputs": MMContextOutput(last_hidden_state=CONTEXT),
            "encoder_attention_mask": torch.ones(2, 5),
        },
        ValueError,
        "holds its own attention_mask",
    ),
    "lonely mask": (
        {"encoder_attention_mask": ONES},
        ValueError,
        "encoder_attention_mask was given without encoder_out",
    ),
    "no cache": ({"past_key_values": "none"}, TypeError, "past_key_values must be a transformers Cache; got str"),
    "old cache": ({"past_key_values": ((IDS, IDS),)}, TypeError, "past_key_values must be a .* Cache; got tuple"),
}
TEXT = {
    "ids above": (
        {"input_ids": IDS + 42},
        ValueError,
        r"input_ids must be in 0..49 \(text_config.vocab_size\); got 43..50",
    ),
    "ids below": ({"input_ids": -IDS}, ValueError, "input_ids must be in 0..49"),
    "ids float": ({"input_ids": IDS.float()}, ValueError, r"input_ids must be int64 \(R, T\); got torch.float32"),
    "ids bool": ({"input_ids": IDS.bool()}, ValueError, "input_ids must be int64 .* got torch.bool"),
    "ids flat": ({"input_ids": IDS[0], "attention_mask": None}, ValueError, r"input_ids must be int64 \(R, T\)"),
    "ids list": ({"input_ids": IDS.tolist()}, TypeError, "input_ids must be a tensor; got list"),
    "no token": ({"input_ids": IDS[:, :0], "attention_mask": None}, ValueError, r"input_ids is empty: \(2, 0\)"),
    "no row": ({"input_ids": IDS[:0], "attention_mask": None}, ValueError, r"input_ids is empty: \(0, 3\)"),
    "too long": (
        {"input_ids": IDS.repeat(1, 11), "attention_mask": None},
        ValueError,
        "needs 33 positions, but max_position_embeddings=32; shorten the prompt",
    ),
    "mask longer": (
        {"attention_mask": torch.ones(2, 5)},
        ValueError,
        r"attention_mask must be \(R, T\).*got \(2, 5\)",
    ),
    "mask shorter": (
        {"attention_mask": torch.ones(2, 2)},
        ValueError,
        r"attention_mask must be \(R, T\).*got \(2, 2\)",
    ),
    "mask rows": ({"attention_mask": torch.ones(1, 3)}, ValueError, r"attention_mask must be .*got \(1, 3\)"),
    "mask flat": ({"attention_mask": torch.ones(3)}, ValueError, r"attention_mask must be .*got \(3,\)"),
    "mask cube": ({"attention_mask": torch.ones(2, 3, 3)}, ValueError, r"attention_mask must be .*got \(2, 3, 3\)"),
    "mask values": ({"attention_mask": 7 * ONES}, ValueError, "attention_mask must hold only 0 and 1 .*got 7.0..7.0"),
    "mask negative": ({"attention_mask": -ONES}, ValueError, "attention_mask must hold only 0 and 1"),
    "mask list": ({"attention_mask": ONES.tolist()}, TypeError, "attention_mask must be a tensor; got list"),
    "positions shape": ({"position_ids": IDS[:, :2]}, ValueError, r"position_ids must be int64 \(2, 3\).*\(2, 2\)"),
    "positions above": ({"position_ids": IDS + 30}, ValueError, "needs 39 positions"),
    "positions below": ({"position_ids": -IDS}, ValueError, "position_ids must not be negative; got -8"),
    "positions float": ({"position_ids": IDS.float()}, ValueError, "position_ids must be int64"),
    "positions list": ({"position_ids": [[0, 1, 2]]}, TypeError, "position_ids must be a tensor; got list"),
    "types above": (
        {"token_type_ids": IDS},
        ValueError,
        r"token_type_ids must be in 0..1 \(type_vocab_size\); got 1..8",
    ),
    "types shape": ({"token_type_ids": ONES[:, :2]}, ValueError, r"token_type_ids must be \(2, 3\).*got \(2, 2\)"),
    "types list": ({"token_type_ids": [[0]]}, TypeError, "token_type_ids must be a tensor; got list"),
    "embeds wide": ({**NO_IDS, "inputs_embeds": torch.ones(2, 3, 31)}, ValueError, r"inputs_embeds must be .*31\)"),
    "embeds flat": ({**NO_IDS, "inputs_embeds": torch.ones(2, 32)}, ValueError, "inputs_embeds must be float"),
    "embeds int": ({**NO_IDS, "inputs_embeds": EMBEDS.long()}, ValueError, "inputs_embeds must be float .*int64"),
    "embeds list": ({**NO_IDS, "inputs_embeds": [1.0]}, TypeError, "inputs_embeds must be a tensor; got list"),
}
FORWARD = {
    "ids and embeds": ({"inputs_embeds": EMBEDS}, ValueError, "exactly one of input_ids and inputs_embeds; got both"),
    "no text": ({**NO_IDS, "attention_mask": None}, ValueError, "text is needed to predict text"),
    "labels shape": ({"labels": IDS[:, :2]}, ValueError, r"labels must have the shape \(2, 3\).*got \(2, 2\)"),
    "labels above": ({"labels": IDS + 42}, ValueError, "labels must be in 0..49"),
    "labels -1": ({"labels": IDS * 0 - 1}, ValueError, "labels must be in 0..49.*got -1..-1"),
    "labels float": ({"labels": IDS.float()}, ValueError, "labels must be int64"),
    "labels list": ({"labels": IDS.tolist()}, TypeError, "labels must be a tensor; got list"),
    "labels alone": ({**NO_IDS, "attention_mask": None, "labels": IDS}, ValueError, "pass input_ids or inputs_embeds"),
    "labels, some logits": (
        {"labels": IDS, "logits_to_keep": 1},
        ValueError,
        "labels need the logits of every position",
    ),
    "logits -1": ({"logits_to_keep": -1}, ValueError, "logits_to_keep=-1 must not be negative"),
    "logits word": ({"logits_to_keep": "all"}, TypeError, "logits_to_keep must be an int or a tensor; got str"),
    "typo": ({"pixel_value": PIXELS}, TypeError, "no argument 'pixel_value' .did you mean 'pixel_values'"),
    "typo of labels": ({"label": IDS}, TypeError, "no argument 'label' .did you mean 'labels'"),
    "unknown": ({"colour": 3}, TypeError, r"forward\(\) has no argument 'colour'$"),
}
GENERATE = {
    "right padding": (
        {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])},
        ValueError,
        "generate.. continues after the last column, but attention_mask ends in 0; pad on the left",
    ),
    "typo": ({"pixel_value": PIXELS}, ValueError, "pixel_value"),
    "pixels as prompt": (
        {**NO_IDS, "inputs": PIXELS},
        ValueError,
        r"input_ids must be int64 \(R, T\); got torch.float32",
    ),
    "too many new tokens": (
        {"max_new_tokens": 31},
        ValueError,
        "max_position_embeddings=32.*ask for fewer new tokens",
    ),
}


def refused(call, inputs, error, message):
    good = {"input_ids": IDS, "attention_mask": ONES, "pixel_values": PIXELS}
    given = {name: value for name, value in {**good, **inputs}.items() if value is not None}
    if "inputs_embeds" in inputs:
        given.pop("attention_mask", None)
    with pytest.raises(error, match=message):
        call(**given)


@pytest.fixture(scope="module")
def model(tiny_model):
    model = tiny_model(dtype=torch.float32)
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("name", MEDIA | CONTEXTS | TEXT | FORWARD)
def test_forward_refuses(model, name):
    refused(model, *(MEDIA | CONTEXTS | TEXT | FORWARD)[name])


@pytest.mark.parametrize("name", MEDIA | CONTEXTS | TEXT | GENERATE)
def test_generate_refuses(model, name):
    refused(
        lambda **inputs: model.generate(**{"max_new_tokens": 2, **inputs}), *(MEDIA | CONTEXTS | TEXT | GENERATE)[name]
    )


@pytest.mark.parametrize("name", [name for name in MEDIA | CONTEXTS if "texts" not in name])
def test_generate_without_a_prompt_refuses(model, name):
    def generate(input_ids, attention_mask, **media):
        model.generate(**media, max_new_tokens=2)

    if name != "index length":  # without a prompt the index says how many rows there are
        refused(generate, *(MEDIA | CONTEXTS)[name])


@pytest.mark.parametrize("name", MEDIA)
def test_encode_context_refuses(model, name):
    def encode(input_ids, attention_mask, **media):
        return model.encode_context(**media)

    refused(encode, *MEDIA[name])


GOOD = {
    "int32 ids": {"input_ids": IDS.int()},
    "bool mask": {"attention_mask": ONES.bool()},
    "float mask": {"attention_mask": ONES.float()},
    "4-D mask": {"attention_mask": torch.ones(2, 1, 3, 3, dtype=torch.bool).tril()},
    "one row of positions": {"position_ids": torch.arange(3)[None]},
    "token types": {"token_type_ids": ONES - 1},
    "int pixel mask": {"pixel_attention_mask": torch.ones(2, dtype=torch.long)},
    "half pixels": {"pixel_values": PIXELS.half()},
    "double pixels": {"pixel_values": PIXELS.double()},
    "labels of nothing": {"labels": torch.full_like(IDS, -100)},
    "logits of a tensor": {"logits_to_keep": torch.tensor([1])},
    "transformers' own": {"output_hidden_states": True, "num_items_in_batch": 3, "return_dict": True},
    "an empty cache": {"past_key_values": DynamicCache()},
}


@pytest.mark.parametrize("name", GOOD)
def test_forward_accepts(model, name):
    model(**{"input_ids": IDS, "attention_mask": ONES, "pixel_values": PIXELS, **GOOD[name]})


def test_token_type_ids_other_than_zeros_are_refused_where_the_model_has_none(tiny_model):
    model = tiny_model("vit", "own").eval()
    zeros = torch.zeros_like(IDS)
    assert torch.equal(model(input_ids=IDS, token_type_ids=zeros).logits, model(input_ids=IDS).logits)
    refused = r"token_type_ids hold 0..1, but this model has no token types \(type_vocab_size=0\); leave them out"
    types = torch.zeros_like(IDS).index_fill(1, torch.tensor([1]), 1)
    with pytest.raises(ValueError, match=refused):
        model(input_ids=IDS, token_type_ids=types)
    with pytest.raises(ValueError, match=refused):
        model.generate(input_ids=IDS, token_type_ids=types, max_new_tokens=1)
    with pytest.raises(ValueError, match="token_type_ids must be"):
        model(input_ids=IDS, token_type_ids=zeros[:, :1])


def test_values_are_not_read_with_check_inputs_off(tiny_model):
    model = tiny_model(dtype=torch.float32, check_inputs=False)
    logits = model(input_ids=IDS, pixel_values=PIXELS * float("nan")).logits
    assert torch.isnan(logits).all()


def test_an_input_of_media_says_its_kind_and_the_name_of_its_mask():
    accepted = inspect.signature(MMForMaskedLM.forward).parameters
    assert {what.kind for what in MEDIA_INPUTS.values()} == {"image", "video", "audio"}
    assert set(MEDIA_INPUTS) | {what.mask for what in MEDIA_INPUTS.values()} <= set(accepted)
    assert all(accepted[name].annotation == torch.Tensor | None for name in MEDIA_INPUTS)
