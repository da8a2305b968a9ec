"""MMModel: any subset of its inputs, and contexts that are right whatever else is in the batch."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch

from comparing import close
from mm import MMContextOutput, MMForConditionalGeneration, MMForPreTraining, MMForSequenceClassification, MMModel

VISIONS, TEXTS = ["vit", "conv"], ["inside", "own", "llama"]
IDS = torch.tensor([[1, 5, 6], [1, 7, 8]])
TOKENS = {"vit": 6, "conv": 4}  # of one picture


@pytest.fixture
def pixels():
    """Three contexts of two pictures each."""
    return torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
def test_media_alone_text_alone_and_both_give_what_the_table_says(tiny_model, pixels, vision, text):
    model = tiny_model(vision, text, cls=MMModel)
    tower, context = model.config.vision_config.hidden_size, model.config.text_config.context_width
    media = model(pixel_values=pixels[:2, 0])
    assert media.last_hidden_state.shape == (2, TOKENS[vision], context) and media.pooler_output.shape == (2, tower)
    assert torch.equal(media.context_hidden_states, media.last_hidden_state)
    alone, both = model(input_ids=IDS), model(input_ids=IDS, pixel_values=pixels[:2, 0])
    for output in (alone, both):
        assert output.last_hidden_state.shape == (2, 3, 32) and output.pooler_output.shape == (2, 32)
        assert torch.equal(output.pooler_output, output.last_hidden_state[:, -1])
    assert alone.context_hidden_states is None
    close(both.context_hidden_states, media.last_hidden_state)
    assert (alone.last_hidden_state - both.last_hidden_state).abs().max() > 1e-3


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_whose_context_is_empty_is_as_if_there_were_no_media(tiny_model, pixels, vision, text, attention):
    model = tiny_model(vision, text, cls=MMModel, attention=attention)
    mask = torch.tensor([[False, False], [True, True]])
    mixed = model(input_ids=IDS, pixel_values=pixels[:2], pixel_attention_mask=mask)
    alone = model(input_ids=IDS)
    close(mixed.last_hidden_state[0], alone.last_hidden_state[0])
    assert (mixed.last_hidden_state[1] - alone.last_hidden_state[1]).abs().max() > 1e-3
    none = model(input_ids=IDS, pixel_values=pixels[:2], pixel_attention_mask=torch.zeros(2, 2, dtype=torch.bool))
    close(none.last_hidden_state, alone.last_hidden_state)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("text", TEXTS)
def test_each_row_reads_its_context_whatever_the_batch(tiny_model, pixels, vision, text):
    model = tiny_model(vision, text, cls=MMModel)
    ids = torch.tensor([[0, 1, 5, 6], [1, 7, 8, 9], [0, 0, 1, 4], [0, 1, 2, 3], [1, 8, 8, 8]])
    attention_mask, reads = ids.ne(0).long(), [1, 0, 2, 1, 1]
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    batch = model(
        input_ids=ids,
        attention_mask=attention_mask,
        pixel_values=pixels,
        pixel_attention_mask=mask,
        context_index=torch.tensor(reads),
    )
    for row, context in enumerate(reads):
        real, present = attention_mask[row].bool(), pixels[context][mask[context]]
        media = {"pixel_values": present[None]} if len(present) else {}
        alone = model(input_ids=ids[row][real][None], **media)
        close(batch.last_hidden_state[row][real], alone.last_hidden_state[0])
        close(batch.pooler_output[row], alone.pooler_output[0])


@pytest.mark.parametrize("text", TEXTS)
def test_rows_without_an_index_are_contiguous(tiny_model, pixels, text):
    model = tiny_model("vit", text, cls=MMModel)
    ids = IDS.repeat(3, 1)
    batch = model(input_ids=ids, pixel_values=pixels)
    named = model(input_ids=ids, pixel_values=pixels, context_index=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.equal(batch.last_hidden_state, named.last_hidden_state)
    close(batch.last_hidden_state[3], model(input_ids=ids[3:4], pixel_values=pixels[1:2]).last_hidden_state[0])


def test_absent_pictures_are_as_if_dropped_and_their_pixels_count_for_nothing(tiny_model, pixels):
    model = tiny_model(cls=MMModel)
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    context = model.encode_context(pixels, mask)
    changed = torch.where(mask[..., None, None, None], pixels, torch.full_like(pixels, 1e3))
    again = model.encode_context(changed, mask)
    assert torch.equal(context.last_hidden_state, again.last_hidden_state)
    for number in range(3):
        alone = model.encode_context(pixels[number][mask[number]][None])
        length = alone.last_hidden_state.shape[1]
        close(context.last_hidden_state[number, :length], alone.last_hidden_state[0])
        assert context.attention_mask[number].tolist() == [True] * length + [False] * (12 - length)
        close(context.pooler_output[number], alone.pooler_output[0])


def test_absent_pictures_do_not_pass_through_the_tower(tiny_model, pixels):
    model, seen = tiny_model(cls=MMModel), []
    model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model.encode_context(pixels, torch.tensor([[True, False], [False, False], [True, True]]))
    model.encode_context(pixels, torch.zeros(3, 2))  # none: one blank picture, so that every parameter is used
    model.encode_context(pixels)
    assert seen == [3, 1, 6]


def test_token_sources_say_what_each_token_is(tiny_model, pixels):
    context = tiny_model(cls=MMModel).encode_context(pixels[:2], torch.tensor([[True, True], [False, True]]))
    expected = [[0, item, position] for item in range(2) for position in range(6)]
    assert context.token_sources[0].tolist() == expected
    assert context.token_sources[1].tolist() == expected[6:] + [[-1, -1, -1]] * 6


def test_pictures_have_an_order_only_with_max_images(tiny_model, pixels):
    text = {"input_ids": IDS[:1]}
    for slots in (0, 2):
        model = tiny_model(cls=MMModel, max_images=slots)
        there, back = (model(**text, pixel_values=p).last_hidden_state for p in (pixels[:1], pixels[:1].flip(1)))
        assert ((there - back).abs().max() < 1e-12) == (slots == 0)
    with pytest.raises(ValueError, match="3 pictures per context were given, but max_images=2"):
        model(**text, pixel_values=pixels[:, 0][None])


def test_one_picture_may_come_with_or_without_its_slot(tiny_model, pixels):
    model = tiny_model(cls=MMModel)
    bare, slotted = model.encode_context(pixels[:, 0]), model.encode_context(pixels[:, :1])
    assert torch.equal(bare.last_hidden_state, slotted.last_hidden_state)
    for mask in (torch.tensor([True, False, True]), torch.tensor([[1], [0], [1]])):
        assert model.encode_context(pixels[:, 0], mask).attention_mask.sum(1).tolist() == [6, 0, 6]


@pytest.mark.parametrize("vision", VISIONS)
def test_visual_embeds_stand_for_the_tower(tiny_model, pixels, vision):
    model = tiny_model(vision, cls=MMModel, max_images=2)
    features = model.get_image_features(pixels).last_hidden_state.unflatten(1, (2, TOKENS[vision]))
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    by_pixels, by_embeds = model.encode_context(pixels, mask), model.encode_context(None, mask, features)
    real = by_pixels.attention_mask
    assert torch.equal(by_embeds.attention_mask, real)
    close(by_embeds.last_hidden_state[real], by_pixels.last_hidden_state[real])
    single = model.encode_context(visual_embeds=features[:, 0])
    close(single.last_hidden_state, model.encode_context(pixels[:, 0]).last_hidden_state)


def test_image_features_are_the_tower_s_own(tiny_model, pixels):
    model = tiny_model(cls=MMModel)
    features = model.get_image_features(pixels, torch.tensor([[True, True], [False, True], [False, False]]))
    tower = model.vision_tower(pixels.flatten(0, 1))
    assert features.last_hidden_state.shape == (3, 12, 24)
    close(features.last_hidden_state[0], tower.last_hidden_state[:2].flatten(0, 1))
    close(features.pooler_output[0], tower.pooler_output[:2].mean(0))
    close(features.pooler_output[1], tower.pooler_output[3])
    assert (features.last_hidden_state[1, :6] == 0).all() and (features.pooler_output[2] == 0).all()


@pytest.mark.parametrize("cls", [MMForConditionalGeneration, MMForSequenceClassification, MMForPreTraining])
def test_every_head_gives_the_features_of_its_base_and_projects_those_that_it_compares(tiny_model, pixels, cls):
    losses = {"pretraining_losses": {"itc": 1.0}, "projection_dim": 8} if cls is MMForPreTraining else {}
    model = tiny_model(cls=cls, **losses)
    pairs = {
        "vision": (model.get_image_features(pixels), model.model.get_image_features(pixels)),
        "text": (model.get_text_features(IDS), model.model.get_text_features(IDS)),
    }
    for side, (own, base) in pairs.items():
        close(own.last_hidden_state, base.last_hidden_state)
        compared = base.pooler_output
        if side == "vision" and cls is MMForConditionalGeneration:
            compared = model.model.encode_context(pixels).last_hidden_state  # what its decoder reads
        if losses:
            compared = model.itc_head.get_submodule(side)(compared)
            assert own.pooler_output.shape[-1] == 8
        close(own.pooler_output, compared)


def test_a_context_may_be_encoded_once_and_used_often(tiny_model, pixels):
    model = tiny_model(cls=MMModel)
    mask = torch.tensor([[True, True], [False, True]])
    context = model.encode_context(pixels[:2], mask)
    assert isinstance(context, MMContextOutput) and model.encode_context() is None
    expected = model(input_ids=IDS, pixel_values=pixels[:2], pixel_attention_mask=mask).last_hidden_state
    states, real = context.last_hidden_state, context.attention_mask
    for _ in range(2):
        close(model(input_ids=IDS, encoder_outputs=context).last_hidden_state, expected)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0))  # padding anywhere: packed again
    for form in (lambda x: x, lambda x: (x,), lambda x: [x]):
        ready = {"encoder_outputs": form(states[:, shuffled]), "encoder_attention_mask": real[:, shuffled].long()}
        close(model(input_ids=IDS, **ready).last_hidden_state, expected)


@pytest.mark.parametrize("kind", ["linear", "linear_norm", "mlp", "none"])
def test_the_projector_brings_the_tower_to_the_reader_s_width(tiny_model, pixels, kind):
    fields = {"text_config": {"cross_attention_hidden_size": 24}} if kind == "none" else {}
    model = tiny_model(cls=MMModel, projector_type=kind, **fields)
    projector, tokens = model.vision_projector, model.vision_tower(pixels[:, 0]).last_hidden_state
    expected = {
        "none": lambda: tokens,
        "linear": lambda: tokens @ projector.weight.T + projector.bias,
        "linear_norm": lambda: projector.norm(projector.dense(tokens)),
        "mlp": lambda: projector.down_proj(torch.nn.functional.gelu(projector.up_proj(tokens))),
    }[kind]()
    close(model.encode_context(pixels[:, 0]).last_hidden_state, expected)


def test_another_size_is_accepted_when_positions_are_interpolated(tiny_model):
    larger = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    for vision, tokens in (("vit", 14), ("conv", 12)):
        model = tiny_model(vision, cls=MMModel)
        output = model(input_ids=IDS, pixel_values=larger, interpolate_pos_encoding=True)
        assert output.context_hidden_states.shape[1] == tokens
        with pytest.raises(ValueError, match="image_size=16"):
            model(input_ids=IDS, pixel_values=larger)


def test_outputs_come_as_tuples_when_asked(tiny_model, pixels):
    model = tiny_model(cls=MMModel)
    output = model(input_ids=IDS, pixel_values=pixels[:2, 0], use_cache=False)
    plain = model(input_ids=IDS, pixel_values=pixels[:2, 0], use_cache=False, return_dict=False)
    assert isinstance(plain, tuple)
    close(plain[0], output.last_hidden_state)
    model.config.text_config.return_dict = False
    close(model(input_ids=IDS, pixel_values=pixels[:2, 0])[0], output.last_hidden_state)
    model.config.return_dict = False
    assert isinstance(model(input_ids=IDS), tuple)


def test_transformers_finds_the_parts_by_its_own_names(tiny_model):
    model = tiny_model(cls=MMModel)
    assert model.get_input_embeddings() is model.language_model.embed_tokens
    assert model.get_encoder("image") is model.vision_tower and model.get_decoder() is model.language_model
    assert model.vision_tower.get_input_embeddings() is model.vision_tower.patch_embedding
    whole = tiny_model(cls=MMModel, modalities=["image", "audio"], audio_config="ast", text_encoder_config="tiny")
    assert whole.get_encoder("audio") is whole.audio_tower and whole.get_encoder() is whole.text_encoder
    assert whole.get_decoder() is whole.language_model


ALONE = {"attention_mask": IDS, "position_ids": IDS, "token_type_ids": IDS, "context_index": IDS[0]}


@pytest.mark.parametrize("name", ALONE)
def test_what_belongs_to_a_text_is_refused_without_one(tiny_model, pixels, name):
    with pytest.raises(ValueError, match=f"{name} was given without a text; pass input_ids or inputs_embeds"):
        tiny_model(cls=MMModel)(pixel_values=pixels, **{name: ALONE[name]})


def test_nothing_at_all_is_refused(tiny_model):
    with pytest.raises(ValueError, match="nothing to run on: pass input_ids or inputs_embeds, pixel_values, or both"):
        tiny_model(cls=MMModel)()
