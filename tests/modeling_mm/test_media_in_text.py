"""Pictures that stand inside the text (fusion_order="in_text"): rows, beams and questions that share a beginning."""

import copy

import pytest
import torch
from transformers import WhisperConfig
from transformers.cache_utils import DynamicCache

from comparing import close
from mm import Int8Context, MMCache, MMConfig, MMForConditionalGeneration
from mm.modeling_mm.tasks.shared_prompts import shared_prompts

IMAGE, TOKENS = 49, 4
ROWS = [[1] + [IMAGE] * 4 + [7, 8, 9], [1, 5] + [IMAGE] * 4 + [6] + [IMAGE] * 4 + [3], [1, 6, 7], [1, 4] + [IMAGE] * 4]
PRESENT = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]]).bool()
SETTINGS = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE]}
ABOUT = {"context_index": torch.zeros(2, dtype=torch.long)}  # two rows about one picture
ABOUT_ONE = [[1, 5] + [IMAGE] * 4 + end for end in ([7, 8, 9], [7, 3], [4], [7, 8, 9])]


WINDOWS = {
    "norm_position": "both", "norm_type": "rms_norm_from_one", "attn_logit_softcapping": 1.5,
    "local_attention_layers": [1], "local_attention_window": 3, "local_rope_theta": 20.0,
}  # fmt: skip


@pytest.fixture(scope="module", params=[{}, WINDOWS], ids=["sees all", "windows"])
def model(request):
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
        "num_key_value_heads": 2, "norm_position": "pre", "embedding_norm": False, "final_norm": "all",
        "position_embedding_type": "rope", "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
        **request.param,
    }  # fmt: skip
    config = MMConfig(
        vision_config={**vision, "image_size": 8, "patch_size": 4}, text_config=text,
        vision_feature_select_strategy="default",
        fusion_type="merged", fusion_order="in_text", image_token_id=IMAGE, lm_head_transform=False,
    )  # fmt: skip
    model = MMForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4 if weight.ndim > 1 else 1 + 0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": ids.ne(0).long()}


def test_logits_are_those_of_the_embeddings_with_media_put_in(model, pictures):
    context = model.encode_context(pixel_values=pictures[:1])
    embeds = model.get_input_embeddings()(torch.tensor(ROWS[1:2]))
    embeds[0, 2:6], embeds[0, 7:11] = context.last_hidden_state[0].split(TOKENS)
    given = model(input_ids=torch.tensor(ROWS[1:2]), pixel_values=pictures[:1]).logits
    torch.testing.assert_close(given, model(inputs_embeds=embeds).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "mode", [{}, {"num_beams": 3}, {"use_cache": False}, {"cache_implementation": "static", "num_beams": 2}], ids=str
)
def test_each_row_is_written_as_if_it_were_alone(model, pictures, mode):
    """Rows of no, one and two pictures in other places."""
    media = {"pixel_values": pictures, "pixel_attention_mask": PRESENT}
    batch = model.generate(**padded(ROWS), **media, **SETTINGS, **mode)
    for row, ids in enumerate(ROWS):
        own = {name: value[row : row + 1] for name, value in media.items()}
        alone = model.generate(input_ids=torch.tensor([ids]), **own, **SETTINGS, **mode)
        assert torch.equal(batch[row, -4:], alone[0, -4:]), row


@pytest.mark.parametrize("beams", [1, 3])
def test_questions_about_one_picture_share_their_beginning(model, pictures, beams):
    media = {"pixel_values": pictures[:1, :1], "context_index": torch.zeros(4, dtype=torch.long)}
    settings = {**SETTINGS, "num_beams": beams, "return_dict_in_generate": True}
    output = model.generate(**padded(ABOUT_ONE), **media, **settings)
    cache = output.past_key_values
    assert cache.cross_attention_cache.layers[0].keys.shape[::2] == (1, 2 + TOKENS)  # stored once
    assert cache.self_attention_cache.layers[0].keys.shape[::2] == (4 * beams, 3 + 3)  # the questions alone
    assert int(cache.get_seq_length()) == 9 + 3
    whole = model.generate(**padded(ABOUT_ONE), **media, **settings, use_cache=False)
    assert torch.equal(output.sequences, whole.sequences)
    if beams == 1:  # the cache goes on
        longer = output.sequences
        mask = torch.cat([padded(ABOUT_ONE)["attention_mask"], torch.ones(4, 4, dtype=torch.long)], dim=1)
        on = model.generate(input_ids=longer, attention_mask=mask, **media, past_key_values=cache, **settings)
        anew = model.generate(input_ids=longer, attention_mask=mask, **media, **settings)
        assert torch.equal(on.sequences, anew.sequences)


def test_beams_hold_a_prompt_once(model, pictures):
    media = {"pixel_values": pictures, "pixel_attention_mask": PRESENT}
    output = model.generate(**padded(ROWS), **media, **SETTINGS, num_beams=3, return_dict_in_generate=True)
    cache = output.past_key_values
    assert cache.cross_attention_cache.layers[0].keys.shape[::2] == (4, 11)
    assert cache.self_attention_cache.layers[0].keys.shape[::2] == (12, 1 + 3)


def test_what_rows_share_is_what_saves_most():
    assert shared_prompts([[1, 2, 3, 4], [1, 2, 3, 5]], [0, 0]) == ([[1, 2, 3]], [0, 0], [0])
    assert shared_prompts([[1, 2, 3, 4], [1, 7, 8], [1, 2, 3, 4]], [0, 0, 0]) == (
        [[1, 2, 3], [1, 7]], [0, 1, 0], [0, 0],
    )  # fmt: skip
    assert shared_prompts([[1, 2], [1, 2]], [0, 1]) is None


@pytest.mark.parametrize(
    ("row", "count", "words"), [(0, 2, "8 tokens"), (1, 1, "8 placeholders"), (0, 0, "no image media")]
)
def test_counts_that_do_not_match_are_refused(model, pictures, row, count, words):
    media = {"pixel_values": pictures[:1, :count]} if count else {}
    with pytest.raises(ValueError, match=words):
        model(input_ids=torch.tensor(ROWS[row : row + 1]), **media)


def test_a_configuration_without_placeholders_is_refused(model):
    settings = model.config.to_dict()
    for wrong in ({"image_token_id": None}, {"image_token_id": 50}, {"fusion_mask": "prefix"}):
        with pytest.raises(ValueError, match="in_text"):
            MMConfig(**{**settings, **wrong})


def test_ways_that_do_not_take_media_in_the_text_say_so(model, pictures):
    ids = torch.tensor(ROWS[:1])
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(inputs_embeds=model.get_input_embeddings()(ids), pixel_values=pictures[:1, :1])
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        model.generate(input_ids=ids, pixel_values=pictures[:1, :1], prefill_chunk_size=2, **SETTINGS)
    with pytest.raises(ValueError, match="generate_batch"):
        model.generate_batch([ROWS[2]])
    with pytest.raises(ValueError, match="in_text"):
        model.explain({"input_ids": ids, "pixel_values": pictures[:1, :1]}, torch.tensor([ROWS[0] + [5]]))


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_too_few_placeholders_are_refused_where_a_prompt_is_shared_too(model, pictures, mode):
    for row in ([1, 5] + [IMAGE] * 3 + [7, 8, 9], [1, 5, 6, 7]):
        with pytest.raises(ValueError, match="placeholders"):
            model.generate(torch.tensor([row]), pixel_values=pictures[:1, :1], **{**SETTINGS, **mode})
        with pytest.raises(ValueError, match="placeholders"):
            model.generate(torch.tensor([row, row]), pixel_values=pictures[:1, :1], **ABOUT, **{**SETTINGS, **mode})


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"use_cache": False}], ids=str)
def test_placeholders_that_the_mask_hides_are_padding(model, pictures, mode):
    ids = torch.tensor([[IMAGE] * 2 + ROWS[0]])
    mask = (torch.arange(ids.shape[1]) > 1).long()[None]
    given = {"pixel_values": pictures[:1, :1]}
    padded_logits = model(input_ids=ids, attention_mask=mask, **given).logits[:, 2:]
    torch.testing.assert_close(padded_logits, model(input_ids=ids[:, 2:], **given).logits, rtol=1e-12, atol=1e-12)
    model(input_ids=ids, attention_mask=ids.ne(IMAGE).long())  # nothing but padding: no media are missed
    written = model.generate(ids, attention_mask=mask, **given, **SETTINGS, **mode)
    assert torch.equal(written[:, 2:], model.generate(ids[:, 2:], **given, **SETTINGS, **mode))
    hidden = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="attention_mask hides 1"):
        model.generate(ids[:, 2:], attention_mask=hidden, **given, **SETTINGS, **mode)


def test_positions_of_the_caller_are_those_of_the_whole_prompt(model, pictures):
    batch, media = padded(ABOUT_ONE[:2]), {"pixel_values": pictures[:1, :1]}
    batch["position_ids"] = ((batch["attention_mask"].cumsum(1) - 1) * 3).clamp(min=0)
    asked = {**media, **SETTINGS, "output_logits": True, "return_dict_in_generate": True}
    cached = torch.stack(model.generate(**batch, **ABOUT, **asked).logits, 1)
    whole = torch.stack(model.generate(**batch, **ABOUT, **asked, use_cache=False).logits, 1)
    torch.testing.assert_close(cached, whole, rtol=1e-10, atol=1e-10)
    for row, ids in enumerate(ABOUT_ONE[:2]):
        places = torch.arange(len(ids))[None] * 3
        alone = model.generate(input_ids=torch.tensor([ids]), position_ids=places, **asked).logits
        torch.testing.assert_close(cached[row], torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_states_and_attention_that_are_asked_for_do_not_depend_on_other_rows(model, pictures):
    asked = {**SETTINGS, "output_hidden_states": True, "output_attentions": True, "return_dict_in_generate": True}
    media = {"pixel_values": pictures[:1, :1]}
    alone = model.generate(torch.tensor(ABOUT_ONE[:1]), **media, **asked)
    both = model.generate(torch.tensor([ABOUT_ONE[0], ABOUT_ONE[3]]), **media, **ABOUT, **asked)
    for name in ("hidden_states", "attentions"):
        for one, of_two in zip(getattr(alone, name), getattr(both, name), strict=True):
            torch.testing.assert_close(of_two[-1][:1], one[-1], rtol=1e-10, atol=1e-10)


TWO_EACH = [[4, 1] + [IMAGE] * 4 + [5, 6, end] for end in (7, 8)] + [[1] + [IMAGE] * 4 + [5, 6, end] for end in (7, 8)]


@pytest.mark.parametrize(
    ("count", "is_chosen"), [(2, False), (4, True), (6, False), (8, True), (11, False), (12, False)]
)
def test_a_shared_cache_is_cropped_by_as_many_tokens_as_asked(model, pictures, count, is_chosen):
    """To what was written, to the beginning (4), inside of it, inside of the picture (8), to nothing (12)."""
    media, index = {"pixel_values": pictures[:2, :1]}, torch.tensor([0, 0, 1, 1])
    asked = {**SETTINGS, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(**padded(TWO_EACH), **media, context_index=index, **asked)
    ids, cache = output.sequences, output.past_key_values
    cache.crop(-count)
    length = 12 - count
    assert int(cache.get_seq_length()) == length
    if is_chosen:
        chosen = torch.tensor([3, 1])
        cache.batch_select_indices(chosen)
        ids, index = ids[chosen], index[chosen]
    new = torch.arange(10, 10 + 2 * len(ids)).view(-1, 2)
    ids = torch.cat([ids[:, : max(length, 6)], new], dim=1)
    text = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "context_index": index}
    on = model.generate(**text, **media, **asked, past_key_values=cache).logits
    whole = model.generate(**text, **media, **asked, use_cache=False).logits
    torch.testing.assert_close(torch.stack(on), torch.stack(whole), rtol=1e-10, atol=1e-10)


def test_a_beginning_that_ends_in_other_columns_of_other_rows_is_not_cut(model, pictures):
    given = {**padded(ABOUT_ONE), "pixel_values": pictures[:1, :1], "context_index": torch.zeros(4, dtype=torch.long)}
    cache = model.generate(**given, **SETTINGS, return_dict_in_generate=True).past_key_values
    cache.crop(-4)
    with pytest.raises(ValueError, match="crop"):
        cache.crop(-1)
    assert int(cache.get_seq_length()) == 8


@pytest.mark.parametrize(
    "mode",
    [{}, {"use_cache": False}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2, "top_k": 1}],
    ids=str,
)
def test_placeholders_are_never_written(model, pictures, mode):
    """However likely the model thinks them to be."""
    likely = model.lm_head.register_forward_hook(
        lambda _, __, logits: logits.index_fill(-1, torch.tensor(IMAGE), 50.0)
    )
    try:
        settings = {"max_new_tokens": 3, "do_sample": False, **mode}
        written = model.generate(torch.tensor(ROWS[:1]), pixel_values=pictures[:1, :1], **settings)
    finally:
        likely.remove()
    assert not (written[:, -3:] == IMAGE).any()


def test_an_assistant_reads_the_pictures_in_its_prompt(model, pictures):
    """Its guesses are those of the model itself here, so one call of the model takes many."""
    assistant, calls = copy.deepcopy(model), []
    assistant.generation_config.assistant_confidence_threshold = 0
    media, settings = {"pixel_values": pictures[:1, :1]}, {"max_new_tokens": 12, "do_sample": False}
    ids = torch.tensor([[IMAGE] * 2 + ROWS[0]])  # placeholders that the mask hides, too
    text = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) > 1).long()[None]}
    plain = model.generate(**text, **media, **settings)
    counted = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        written = model.generate(**text, **media, **settings, assistant_model=assistant)
    finally:
        counted.remove()
    assert torch.equal(written, plain) and len(calls) < 4


@pytest.mark.parametrize("rows", [1, 2])
def test_a_cache_goes_on_with_no_more_placeholders_than_media(model, pictures, rows):
    """Where the first words of two rows are held once, and where they are not."""
    media = {"pixel_values": pictures[:1, :1], "context_index": torch.zeros(rows, dtype=torch.long)}
    asked = {**SETTINGS, "return_dict_in_generate": True}
    output = model.generate(torch.tensor(ROWS[:1] * rows), **media, **asked)
    new = torch.tensor([[3] + [IMAGE] * 4 + [5]] * rows)
    ids, cache = torch.cat([output.sequences, new], dim=1), output.past_key_values
    with pytest.raises(ValueError, match="8 placeholders"):
        model.generate(ids, **media, past_key_values=cache, **SETTINGS)
    if rows == 2:  # it holds its media itself
        for text in ({"input_ids": ids}, {"input_ids": new, "attention_mask": torch.ones_like(ids)}):
            with pytest.raises(ValueError, match="no image media"):
                model.generate(**text, past_key_values=cache, **SETTINGS)


def test_prompt_lookup_proposes_no_placeholders(model, pictures):
    ids, media = torch.tensor([[1] + [IMAGE] * 4 + [5, 1]]), {"pixel_values": pictures[:1, :1]}
    settings = {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(ids, **media, **settings, prompt_lookup_num_tokens=3)
    assert torch.equal(written, model.generate(ids, **media, **settings))


def test_a_context_in_int8_does_not_round_what_rows_share(model, pictures):
    """One row alone shares nothing, and a row is the same alone and beside others."""
    asked = {**SETTINGS, "pixel_values": pictures[:1, :1], "output_logits": True, "return_dict_in_generate": True}
    empty = [MMCache(DynamicCache(config=model.config.text_config), Int8Context()) for _ in range(2)]
    both = model.generate(torch.tensor(ROWS[:1] * 2), **ABOUT, **asked, past_key_values=empty[0]).logits
    alone = model.generate(torch.tensor(ROWS[:1]), **asked, past_key_values=empty[1]).logits
    torch.testing.assert_close(torch.stack(both)[:, :1], torch.stack(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beams", [1, 3])
def test_films_and_sounds_stand_in_the_text_too(beams):
    """Rows of pictures, films and sounds in other places, and of none, are what each is alone."""
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
        "position_embedding_type": "rope", "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    audio = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=24, num_mel_bins=8, max_source_positions=5,
    )  # fmt: skip
    config = MMConfig(
        vision_config={**vision, "image_size": 8, "patch_size": 4, "use_cls_token": False, "pooler": "mean"},
        text_config=text, audio_config=audio.to_dict(), modalities=["image", "video", "audio"], max_frames=3,
        fusion_type="merged", fusion_order="in_text", image_token_id=47, video_token_id=48, audio_token_id=49,
    )  # fmt: skip
    model = MMForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4 if weight.ndim > 1 else 1 + 0.1 * torch.randn_like(weight))
    seen, film, heard = [47] * 4, [48] * 12, [49] * 5
    rows = [
        [1, *seen, 5, *film, 6, *heard, 7, *seen, 8, *film, 9],
        [1, 3, *film, *seen, 4],
        [1, 5, 6],
        [1, *heard, 3, 3, *film, *film],
    ]
    media = {
        "pixel_values": torch.randn(4, 2, 3, 8, 8).double(),
        "pixel_attention_mask": torch.tensor([[1, 1], [0, 1], [0, 0], [0, 0]]).bool(),
        "pixel_values_videos": torch.randn(4, 2, 3, 3, 8, 8).double(),
        "video_attention_mask": torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]]).bool()[..., None].expand(-1, -1, 3),
        "input_features": torch.randn(4, 1, 8, 10).double(),
        "input_features_mask": torch.tensor([[1], [0], [0], [1]]).bool(),
    }
    given, search = padded(rows), {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    with torch.no_grad():
        logits, written = model(**given, **media).logits, model.generate(**given, **media, **search)
        for row, ids in enumerate(rows):
            own = {"input_ids": torch.tensor([ids]), **{name: value[row : row + 1] for name, value in media.items()}}
            close(logits[row, -len(ids) :], model(**own).logits[0])
            assert torch.equal(written[row, -4:], model.generate(**own, **search)[0, -4:])
