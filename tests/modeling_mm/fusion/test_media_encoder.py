"""Videos, sounds and pictures of every size in one context: right whatever else is in the batch."""

# Fixtures build models whose types pyright cannot follow.

import warnings

import pytest
import torch
from transformers import AutoModel

from comparing import close
from mm import MMForSequenceClassification, MMModel
from mm.modeling_mm.core.input_checks import is_finite

IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 3, 9]])
ALL = {"modalities": ["image", "video", "audio"]}
RESAMPLER = {"hidden_size": 24, "num_latents": 3, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12,
             "intermediate_size": 24, "initializer_range": 0.3}  # fmt: skip


@pytest.fixture
def batch(pictures, videos, clips):
    """Every modality, for three contexts: all of everything; one of each; only a video and a clip."""
    return {
        "pixel_values": pictures,
        "pixel_attention_mask": torch.tensor([[1, 1], [0, 1], [0, 0]]).bool(),
        "pixel_values_videos": videos,
        "video_attention_mask": torch.tensor([[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]]),
        "input_features": clips("ast"),
        "input_features_mask": torch.tensor([[1, 1], [1, 0], [0, 1]]).bool(),
    }


def alone(batch: dict, context: int) -> dict:
    """One context of the batch with its absent items, and the absent frames of its videos, left out."""
    media, given = {}, {}
    pictures = batch["pixel_values"][context][batch["pixel_attention_mask"][context]]
    clips = batch["input_features"][context][batch["input_features_mask"][context]]
    frames = batch["video_attention_mask"][context].bool()
    present = frames.any(1)
    longest = int(frames.sum(1).max())
    videos = batch["pixel_values_videos"][context][present][:, :longest]
    given = {"pixel_values": pictures, "pixel_values_videos": videos, "input_features": clips}
    media = {name: values[None] for name, values in given.items() if len(values)}
    if len(videos):
        media["video_attention_mask"] = frames[present][None, :, :longest]
    return media


@pytest.mark.parametrize("pooling", ["none", "space", "time"])
@pytest.mark.parametrize("resampled", [False, True])
def test_each_row_reads_its_own_media_whatever_the_batch(tiny_model, batch, pooling, resampled):
    fields = {"vision_resampler_config": RESAMPLER} if resampled else {}
    model = tiny_model(
        cls=MMModel, audio_config="ast", video_pooling=pooling, max_frames=3, modality_embeddings=True, **ALL, **fields
    )
    output = model(input_ids=IDS, **batch)
    for context in range(3):
        expected = model(input_ids=IDS[context : context + 1], **alone(batch, context))
        close(output.last_hidden_state[context], expected.last_hidden_state[0])
        length = expected.context_hidden_states.shape[1]
        if expected.context_attention_mask is not None:
            length = int(expected.context_attention_mask.sum())
        assert int(output.context_attention_mask[context].sum()) == length
        close(output.context_hidden_states[context, :length], expected.context_hidden_states[0, :length])


def test_absent_items_and_frames_count_for_nothing(tiny_model, batch):
    model = tiny_model(cls=MMModel, audio_config="ast", max_frames=3, **ALL)
    expected = model(input_ids=IDS, **batch).last_hidden_state
    for name, mask in (("pixel_values", "pixel_attention_mask"), ("pixel_values_videos", "video_attention_mask"),
                       ("input_features", "input_features_mask")):  # fmt: skip
        real = batch[mask].bool()
        real = real.reshape(*real.shape, *[1] * (batch[name].ndim - real.ndim))
        changed = {**batch, name: torch.where(real, batch[name], 1e3)}
        assert torch.equal(model(input_ids=IDS, **changed).last_hidden_state, expected)


def test_a_context_without_anything_is_as_if_there_were_no_media(tiny_model, batch):
    model = tiny_model(cls=MMModel, audio_config="ast", **ALL)
    nothing = {n: torch.zeros_like(v) if n.endswith("mask") else v for n, v in batch.items()}
    close(model(input_ids=IDS, **nothing).last_hidden_state, model(input_ids=IDS).last_hidden_state)
    batch["input_features_mask"][1] = batch["pixel_attention_mask"][1] = False
    batch["video_attention_mask"][1] = 0
    mixed = model(input_ids=IDS, **batch)
    close(mixed.last_hidden_state[1], model(input_ids=IDS).last_hidden_state[1])


def test_the_order_is_pictures_videos_clips(tiny_model, batch):
    model = tiny_model(cls=MMModel, audio_config="ast", **ALL)
    context = model.encode_context(**batch)
    kinds = [context.token_sources[row, context.attention_mask[row], 0].tolist() for row in range(3)]
    assert kinds == [[0] * 12 + [1] * 36 + [2] * 16, [0] * 6 + [1] * 12 + [2] * 8, [1] * 6 + [2] * 8]
    row = context.token_sources[2][context.attention_mask[2]]
    assert row[:6].tolist() == [[1, 1, place] for place in range(6)] and row[6:, 1].tolist() == [1] * 8
    whole = model.encode_context(batch["pixel_values"], pixel_values_videos=batch["pixel_values_videos"])
    assert whole.attention_mask is None and whole.packed_offsets is None
    assert whole.token_sources[0, 12:15].tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]
    assert context.vision_output is not None and context.video_output is not None and context.audio_output is not None


def test_a_video_is_its_frames_with_their_numbers(tiny_model, videos):
    model = tiny_model(cls=MMModel, modalities=["video"], max_frames=4)
    context = model.encode_context(pixel_values_videos=videos[:, 0])
    frames = model.vision_tower(videos[:, 0].flatten(0, 1)).last_hidden_state.unflatten(0, (3, 3))
    numbered = frames + model.frame_slots.weight[:3, None]
    close(context.last_hidden_state, model.vision_projector(numbered).flatten(1, 2))
    features = model.get_video_features(videos, torch.tensor([[[1, 0, 0], [1, 1, 1]]] * 3))
    assert features.last_hidden_state.shape == (3, 2 * 3 * 6, 24)
    pooled = model.vision_tower(videos.flatten(0, 2)).pooler_output.unflatten(0, (3, 2, 3))
    close(features.pooler_output, (pooled[:, 0, 0] + pooled[:, 1].mean(1)) / 2)


@pytest.mark.parametrize(("pooling", "tokens"), [("space", 3), ("time", 6)])
def test_a_video_may_be_pooled_over_space_or_time(tiny_model, videos, pooling, tokens):
    model = tiny_model(cls=MMModel, modalities=["video"], video_pooling=pooling)
    frames = model.vision_tower(videos[:, 0].flatten(0, 1)).last_hidden_state.unflatten(0, (3, 3))
    expected = frames.mean(2) if pooling == "space" else frames.mean(1)
    context = model.encode_context(pixel_values_videos=videos[:, 0])
    close(context.last_hidden_state, model.vision_projector(expected))
    assert context.last_hidden_state.shape[1] == tokens
    masked = model.encode_context(pixel_values_videos=videos[:, 0], video_attention_mask=torch.tensor([[1, 1, 0]] * 3))
    expected = frames[:, :2].mean(2) if pooling == "space" else frames[:, :2].mean(1)
    close(masked.last_hidden_state[:, : expected.shape[1]], model.vision_projector(expected))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_temporal_layers_read_all_frames_of_a_video_and_no_absent_one(tiny_model, videos, layers):
    model = tiny_model(cls=MMModel, modalities=["video"], max_frames=4, temporal_layers=layers)
    whole = model.encode_context(pixel_values_videos=videos).last_hidden_state.unflatten(1, (2, 3, 6))
    changed = videos.clone()
    changed[:, 0, 2] += 1  # the last frame of the first video
    moved = (model.encode_context(pixel_values_videos=changed).last_hidden_state.view_as(whole) - whole).abs()
    assert bool((moved[:, 0, 0] > 1e-6).any()) == (layers > 0)
    assert moved[:, 1].max() < 1e-12 and moved[:, 0, 2].max() > 1e-3
    mask = torch.tensor([[[1, 1, 0], [0, 0, 0]]] * 3)
    masked = model.encode_context(pixel_values_videos=videos, video_attention_mask=mask)
    alone = model.encode_context(pixel_values_videos=videos[:, :1, :2]).last_hidden_state
    close(masked.last_hidden_state[:, :12], alone)
    assert masked.attention_mask.sum(1).tolist() == [12] * 3
    nothing = model.encode_context(pixel_values_videos=videos, video_attention_mask=torch.zeros_like(mask))
    assert not nothing.attention_mask.any() and torch.isfinite(nothing.last_hidden_state).all()


@pytest.mark.parametrize("fusion", ["cross_attention", "co_attention", "merged", "concat", "sum", "gated"])
@pytest.mark.parametrize("fields", [{}, {"max_frames": 3}, {"max_frames": 3, "temporal_layers": 1}])
def test_a_model_warns_exactly_where_shuffled_frames_are_the_same_to_it(tiny_model, videos, fusion, fields):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = tiny_model(
            cls=MMForSequenceClassification, modalities=["video"], fusion_type=fusion, num_labels=2, **fields,
            text_config={"is_causal": False},
        )  # fmt: skip
    found = [model(input_ids=IDS, pixel_values_videos=one).logits for one in (videos, videos.flip(2))]
    is_same = bool((found[0] - found[1]).abs().max() < 1e-10)
    assert is_same == any("does not see the order" in str(one.message) for one in told)


def test_temporal_layers_want_frames_with_positions_and_layers_of_mm(tiny_config):
    with pytest.raises(ValueError, match="temporal_layers=1 .*max_frames"):
        tiny_config(modalities=["video"], temporal_layers=1)
    with pytest.raises(ValueError, match="temporal_layers=1 .*MMConvConfig"):
        tiny_config("conv", modalities=["video"], temporal_layers=1, max_frames=2)
    with pytest.raises(ValueError, match="temporal_layers=1 is only for modalities 'video'"):
        tiny_config(temporal_layers=1)


def test_item_numbers_start_large_enough_to_be_seen_beside_tokens_of_size_1(tiny_config):
    torch.manual_seed(0)
    model = MMModel(tiny_config(modalities=["video"], max_frames=40))
    assert 0.4 < model.frame_slots.weight.std() < 0.6 and model.vision_tower.embed_positions.weight.std() < 0.1


@pytest.mark.parametrize("tower", ["ast", "whisper"])
def test_a_clip_is_what_the_audio_tower_hears(tiny_model, clips, tower):
    model, sounds = tiny_model(cls=MMModel, modalities=["audio"], audio_config=tower, max_clips=2), clips(tower)
    assert model.vision_tower is None
    heard = model.audio_tower(sounds.flatten(0, 1).to(model.dtype)).last_hidden_state.unflatten(0, (3, 2))
    context = model.encode_context(input_features=sounds)
    close(context.last_hidden_state, model.audio_projector(heard + model.clip_slots.weight[:, None]).flatten(1, 2))
    features = model.get_audio_features(sounds, torch.tensor([[1, 0]] * 3))
    close(features.last_hidden_state[:, : heard.shape[2]], heard[:, 0])
    output = model(input_features=sounds)
    assert output.pooler_output.shape == (3, 20) and torch.equal(output.last_hidden_state, context.last_hidden_state)
    assert model(input_ids=IDS, input_features=sounds).last_hidden_state.shape == (3, 3, 32)


def test_frames_of_a_clip_may_be_padding_where_the_tower_can_tell(tiny_model, clips):
    model = tiny_model(cls=MMModel, modalities=["audio"], audio_config="whisper")
    mask = torch.ones(3, 2, 8)
    mask[0, 1, 4:] = 0
    mask[2] = 0
    context = model.encode_context(input_features=clips("whisper"), input_features_mask=mask)
    assert context.attention_mask.sum(1).tolist() == [4 + 2, 8, 0]
    with pytest.raises(ValueError, match="cannot leave out a part of one; give one value per item"):
        tiny_model(cls=MMModel, modalities=["audio"], audio_config="ast").encode_context(
            input_features=clips("ast"), input_features_mask=torch.ones(3, 2, 12)
        )


def test_pictures_of_different_sizes_are_rectangles_of_patches(tiny_model, pictures):
    model = tiny_model(cls=MMModel, vision_config={"num_register_tokens": 0})
    mask = torch.ones(3, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, :, 1] = False  # 16 x 8 pixels
    mask[1, 0] = False
    context = model.encode_context(pictures, mask)
    assert context.attention_mask.sum(1).tolist() == [5 + 3, 5, 10]
    narrow = model.encode_context(pictures[:1, 1, :, :, :8], interpolate_pos_encoding=True)
    close(context.last_hidden_state[0, 5:8], narrow.last_hidden_state[0])
    single = model.encode_context(pictures[:, 0], mask[:, 0])
    assert single.attention_mask.sum(1).tolist() == [5, 0, 5]


def test_tokens_of_ready_embeddings_may_be_padding(tiny_model):
    model = tiny_model(cls=MMModel)
    embeds = torch.randn(2, 4, 24, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]])
    context = model.encode_context(visual_embeds=embeds, pixel_attention_mask=mask)
    assert context.attention_mask.tolist() == [[True] * 3 + [False], [False] * 4]
    close(context.last_hidden_state[0, :3], model.vision_projector(embeds[0, [0, 2, 3]]))
    close(context.pooler_output[0], embeds[0, [0, 2, 3]].mean(0))


def test_a_modality_has_a_vector_of_its_own_behind_the_projector(tiny_model, batch):
    model = tiny_model(cls=MMModel, audio_config="ast", modality_embeddings=True, **ALL)
    context = model.encode_context(**batch)
    model.modality_embedding.weight.data[2] += 1.0
    moved = model.encode_context(**batch).last_hidden_state - context.last_hidden_state
    is_sound = context.token_sources[..., 0] == 2
    close(moved[is_sound], torch.ones_like(moved[is_sound]))
    assert (moved[context.attention_mask & ~is_sound] == 0).all()


def test_a_resampler_stands_between_tower_and_projector(tiny_model, pictures):
    model = tiny_model(cls=MMModel, vision_resampler_config=RESAMPLER, max_images=2)
    tokens = model.vision_tower(pictures.flatten(0, 1)).last_hidden_state.unflatten(0, (3, 2))
    latents, _ = model.vision_resampler((tokens + model.image_slots.weight[:, None]).flatten(0, 1))
    context = model.encode_context(pictures)
    close(context.last_hidden_state, model.vision_projector(latents).unflatten(0, (3, 2)).flatten(1, 2))
    assert context.token_sources[0, :, 1:].tolist() == [[item, place] for item in range(2) for place in range(3)]
    pooled = {**RESAMPLER, "first_latent_pooled": True}
    context = tiny_model(cls=MMModel, vision_resampler_config=pooled).encode_context(pictures[:, :1])
    assert context.last_hidden_state.shape == (3, 2, 32) and context.pooler_output.shape == (3, 24)


@pytest.mark.parametrize(
    "vision",
    [
        {"model_type": "vit", "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 16, "patch_size": 8},
        {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8,
         "layer_type": "basic"},
    ],
    ids=["vit", "resnet"],
)  # fmt: skip
def test_a_tower_of_transformers_sees_pictures_and_videos(tiny_config, visible, pictures, videos, vision, tmp_path):
    config = tiny_config(modalities=["image", "video"])
    config = type(config)(**{**config.to_dict(), "vision_config": vision})
    torch.manual_seed(0)
    model = visible(MMModel(config)).double().eval()
    output = model(input_ids=IDS, pixel_values=pictures, pixel_values_videos=videos)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(again) is MMModel and type(again.vision_tower) is type(model.vision_tower)
    same = again(input_ids=IDS, pixel_values=pictures, pixel_values_videos=videos)
    close(same.last_hidden_state, output.last_hidden_state)


def test_an_earlier_layer_and_all_tokens_but_the_first_may_be_read(tiny_model, pictures):
    model = tiny_model(cls=MMModel, vision_feature_layer=-2, vision_feature_select_strategy="default")
    states = model.vision_tower(pictures[:, 0], output_hidden_states=True).hidden_states[-2]
    close(model.encode_context(pictures[:, 0]).last_hidden_state, model.vision_projector(states[:, 1:]))
    assert not any(p.requires_grad for p in model.vision_tower.layers[-1].parameters())


REFUSED = {
    "other contexts": (
        {"pixel_values": torch.ones(2, 3, 16, 16), "pixel_values_videos": torch.ones(3, 2, 3, 16, 16)},
        "every modality must come for the same contexts; got 2 of image, 3 of video",
    ),
    "frames": ({"pixel_values_videos": torch.ones(2, 5, 3, 16, 16)}, "5 frames per video were given, but max_fr"),
    "video shape": ({"pixel_values_videos": torch.ones(2, 3, 16, 16)}, r"must be \(B, F, 3, height, width\)"),
    "video bytes": ({"pixel_values_videos": torch.ones(2, 1, 3, 16, 16).byte()}, "normalised floats.*torch.uint8"),
    "no frame": ({"pixel_values_videos": torch.ones(2, 0, 3, 16, 16)}, "pixel_values_videos holds no frame"),
    "video mask": (
        {"pixel_values_videos": torch.ones(2, 3, 3, 16, 16), "video_attention_mask": torch.ones(2, 2)},
        r"video_attention_mask must be \(2, 1, 3\), True for each frame present; got \(2, 2\)",
    ),
    "lonely video mask": ({"video_attention_mask": torch.ones(2, 2)}, "video_attention_mask was given without pi"),
    "no clip dimension": ({"input_features": torch.ones(2, 12)}, r"input_features must be float \(B, frames, 8\)"),
    "clips": ({"input_features": torch.ones(2, 4, 12, 8)}, "4 clips per context were given, but max_clips=3"),
    "both infinities": ({"pixel_values": torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16) / 0}, "NaN"),
    "NaN sound": ({"input_features": torch.ones(2, 1, 12, 8) / 0}, "input_features hold NaN or infinite values"),
    "sound mask": (
        {"input_features": torch.ones(2, 1, 12, 8), "input_features_mask": torch.ones(2, 3, 4, 5)},
        r"input_features_mask must be \(2, 1\), True for each clip present, or .*got \(2, 3, 4, 5\)",
    ),
    "patches": (
        {"pixel_values": torch.ones(2, 3, 16, 16), "pixel_attention_mask": torch.ones(2, 3, 2)},
        r"pixel_attention_mask must be \(2, 2, 2\), one per patch; got \(2, 3, 2\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_media_that_do_not_fit_are_refused_in_words(tiny_model, name):
    inputs, message = REFUSED[name]
    model = tiny_model(cls=MMModel, audio_config="ast", max_frames=4, max_clips=3, dtype=torch.float32, **ALL)
    with pytest.raises(ValueError, match=message):
        model.encode_context(**inputs)


@pytest.mark.parametrize("method", ["get_video_features", "get_audio_features"])
def test_features_of_a_modality_that_is_not_there_are_refused(tiny_model, method):
    with pytest.raises(ValueError, match=r"this model accepts modalities=\['image'\]"):
        getattr(tiny_model(cls=MMModel), method)(torch.ones(1, 1, 3, 16, 16))


def test_large_numbers_are_finite_even_if_their_sum_is_not():
    large = torch.full((4, 4), 3e38)
    assert not large.sum().isfinite() and is_finite(large)
    assert is_finite(torch.full((4, 4), 6e4, dtype=torch.float16))
    for broken in (float("nan"), float("inf")):
        assert not is_finite(torch.cat([large, torch.tensor([[broken] * 4])]))


PATCHES = {"use_cls_token": False, "num_register_tokens": 0, "pooler": "mean", "image_size": 32, "patch_size": 8}


@torch.no_grad()
def test_squares_of_patches_become_one_token_row_by_row(tiny_model):
    model = tiny_model(cls=MMModel, vision_config=PATCHES, pixel_shuffle=2, projector_bias=False)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()
    tokens = model.vision_tower(pixels).last_hidden_state.unflatten(1, (4, 4))
    squares = [tokens[:, i : i + 2, j : j + 2].flatten(1) for i in (0, 2) for j in (0, 2)]
    expected = torch.stack(squares, dim=1) @ model.vision_projector.weight.T
    close(model.encode_context(pixels).last_hidden_state, expected)
    assert model.config.tokens_per_image == 4


@torch.no_grad()
def test_squares_of_a_smaller_picture_are_the_same_on_a_larger_canvas(tiny_model):
    model = tiny_model(cls=MMModel, vision_config=PATCHES, pixel_shuffle=2)
    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(4)).double()
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[:, :2, :4] = True
    found = model.encode_context(pixels, mask)
    alone = model.encode_context(pixels[:, :, :16, :32], interpolate_pos_encoding=True)
    close(found.last_hidden_state[:, :2], alone.last_hidden_state)
    assert found.attention_mask.sum() == 2
    mask[:, 2, :4] = True
    with pytest.raises(ValueError, match="cuts through a square"):
        model.encode_context(pixels, mask)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixel_shuffle": 3}, "does not divide"),
        ({"vision_config": {**PATCHES, "use_cls_token": True}}, "only patches"),
        ({"projector_type": "none"}, "projector_type='linear'"),
        ({"vision_resampler_config": RESAMPLER}, "no vision_resampler_config"),
    ],
)
def test_squares_that_there_cannot_be_are_refused(tiny_model, fields, words):
    with pytest.raises(ValueError, match=words):
        tiny_model(cls=MMModel, **{"vision_config": PATCHES, "pixel_shuffle": 2, **fields})
