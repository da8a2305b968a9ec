"""model.explain: the weights of attention under every implementation and cache, where they lie in a picture, words."""

import numpy as np
import pytest
import torch
from PIL import Image

import mm
from mm.explaining.explain import METHODS
from mm.explaining.words import words_of

TEXT = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 40}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 32}
VISION = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VISION |= {"image_size": 32, "patch_size": 8}


def captioner(fusion: str = "cross_attention", **settings) -> mm.MMForConditionalGeneration:
    torch.manual_seed(0)
    config = mm.MMConfig(
        vision_config={"model_type": "mm_vision", **VISION, **settings.pop("vision", {})},
        text_config={**TEXT, **settings.pop("text", {})},
        fusion_type=fusion,
        **settings,
    )
    return mm.MMForConditionalGeneration(config).eval()


def pictures(count: int = 2) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))}


def written(model, inputs, **settings):
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True, **settings}
    return model.generate(**inputs, **settings)


@pytest.mark.parametrize("beams", [1, 3])
def test_generate_returns_cross_attentions_as_a_forward_of_the_text_does(beams):
    model, inputs = captioner(), pictures()
    output = written(model, inputs, num_beams=beams, output_attentions=True)
    whole = model(**inputs, input_ids=output.sequences[:, :-1], output_attentions=True).cross_attentions
    for step in range(output.sequences.shape[1] - 1):
        for layer, weights in enumerate(output.cross_attentions[step]):
            rows = torch.arange(2) if beams == 1 else output.beam_indices[:, step]
            assert weights.shape == (2 * beams, 4, 1, 17)
            torch.testing.assert_close(weights[rows, :, -1], whole[layer][:, :, step], atol=1e-5, rtol=0)


def test_without_output_attentions_generate_returns_none():
    output = written(captioner(), pictures())
    assert output.get("cross_attentions") is None


@pytest.mark.parametrize("fusion", ["cross_attention", "merged"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3, "num_return_sequences": 2}, {"cache_implementation": "static"}],
    ids=["greedy", "beams", "static cache"],
)
def test_the_weights_are_those_of_eager_attention_whatever_wrote_the_text(fusion, settings):
    model, inputs = captioner(fusion), pictures()
    output = written(model, inputs, **settings)
    index = torch.arange(len(output.sequences)) * 2 // len(output.sequences)
    forward = model(
        **inputs, input_ids=output.sequences[:, :-1], context_index=index, output_attentions=True, use_cache=False
    )
    if fusion == "merged":
        weights = torch.stack([one[:, :, 17:, :17] for one in forward.attentions])
    else:
        weights = torch.stack(forward.cross_attentions)
    expected = weights.mean((0, 2)).detach()[..., 1:]  # without CLS
    for given in (output, output.sequences):  # with what the cache holds, and without
        found = model.explain(inputs, given)
        assert len(found) == len(output.sequences)
        for row, one in enumerate(found):
            torch.testing.assert_close(
                torch.from_numpy(one.items[0].weights).flatten(1), expected[row], atol=1e-5, rtol=0
            )
            if fusion == "cross_attention":
                np.testing.assert_allclose(one.shares["image"], 1, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "mm_triton"])
def test_no_implementation_changes_an_explanation_or_is_changed_by_one(implementation):
    model, inputs = captioner(), pictures()
    expected = model.explain(inputs, written(model, inputs))[0].items[0].weights
    model.set_attn_implementation(implementation)
    found = model.explain(inputs, written(model, inputs))[0].items[0].weights
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.config.text_config._attn_implementation == implementation


def test_no_tower_runs_for_what_generate_returned(monkeypatch):
    model, inputs = captioner(), pictures()
    output = written(model, inputs)
    monkeypatch.setattr(model.model.vision_tower, "forward", lambda **media: pytest.fail("encoded again"))
    assert len(model.explain(inputs, output)) == 2


def test_another_picture_than_the_text_was_written_for_is_refused():
    model, inputs = captioner(), pictures()
    output = written(model, inputs)
    with pytest.raises(ValueError, match="another picture"):
        model.explain({"pixel_values": inputs["pixel_values"] + 1}, output)


def test_a_row_is_explained_alone_as_in_a_batch():
    model, inputs = captioner(), pictures(3)
    ids = written(model, inputs).sequences
    whole = model.explain(inputs, ids)
    for row in range(3):
        one = {"pixel_values": inputs["pixel_values"][row : row + 1]}
        (alone,) = model.explain(one, ids[row : row + 1])
        np.testing.assert_allclose(alone.items[0].weights, whole[row].items[0].weights, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_only_part_of_the_picture_that_counts(method):
    """All of the picture has its mean colour but for one patch, so nothing else can change a word."""
    large = {"initializer_range": 0.3}  # what the patch changes is far above rounding
    model, inputs = captioner(vision=large, text=large), pictures(1)
    pixels = torch.zeros_like(inputs["pixel_values"])
    pixels[..., 8:16, 16:24] = inputs["pixel_values"][..., 8:16, 16:24] * 3  # patch (1, 2)
    explained = model.explain({"pixel_values": pixels}, torch.tensor([[1, *range(5, 15)]]), method=method)[0]
    maps = explained.maps
    assert maps.shape == (10, 32, 32) and (maps >= 0).all()
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-4)
    if method in ("occlusion", "integrated_gradients"):
        wide = 2 if method == "occlusion" else 0  # squares of two parts reach the parts beside
        inside = maps[:, 4 - wide : 20 + wide, 12 - wide : 28 + wide].sum((1, 2))
        assert ((inside > 0.99) | (np.ptp(maps, (1, 2)) < 1e-9)).all() and (inside > 0.99).any()


def test_a_word_is_the_mean_of_its_tokens():
    class Tokenizer:
        all_special_ids = [1, 2]
        pieces = {3: "a", 4: " app", 5: "le", 6: " 猫", 7: "狗", 8: " don't"}

        def decode(self, ids, skip_special_tokens):
            return "".join(self.pieces[one] for one in ids)

    assert [tuple(word) for word in words_of([1, 3, 4, 5, 6, 7, 8, 2, 2], Tokenizer(), 1)] == [
        ("a", (1,)),
        ("apple", (2, 3)),
        ("猫", (4,)),
        ("狗", (5,)),
        ("don't", (6,)),
    ]


def test_a_word_that_shares_a_token_is_left_to_the_first():
    class Tokenizer:
        all_special_ids: list[int] = []

        def decode(self, ids, skip_special_tokens):
            return "".join({1: "of the", 2: " sea"}[one] for one in ids)

    assert [word.text for word in words_of([1, 2], Tokenizer())] == ["of", "sea"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "rolout"}, "attention"),
        ({"layers": [2]}, "-2..1"),
        ({"heads": 4}, "-4..3"),
        ({"method": "rollout", "layers": [0]}, "every layer"),
        ({"method": "occlusion", "heads": [0]}, "no attention"),
        ({"prompt_length": 9}, "1..6"),
        ({"pictures": ["a.png"]}, "processor"),
    ],
)
def test_wrong_settings_are_refused_in_words(given, words):
    model, inputs = captioner(), pictures()
    ids = written(model, inputs).sequences
    with pytest.raises(ValueError, match=words):
        model.explain(inputs, ids, **given)


def test_wrong_tokens_are_refused_in_words():
    model, inputs = captioner(), pictures()
    with pytest.raises(TypeError, match="generate"):
        model.explain(inputs, [[1, 2]])
    with pytest.raises(ValueError, match="3 rows"):
        model.explain(inputs, torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="nothing to explain"):
        model.explain({}, torch.ones(2, 4, dtype=torch.long))


def test_after_a_resampler_words_say_which_methods_work():
    resampler = {"num_latents": 4, "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    model, inputs = captioner(vision_resampler_config=resampler), pictures(1)
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(ValueError, match="occlusion"):
        model.explain(inputs, ids)
    assert model.explain(inputs, ids, method="occlusion")[0].items[0].weights.shape == (2, 8, 8)


def test_a_vector_of_a_text_encoder_leaves_the_methods_without_attention():
    encoder = {**TEXT, "is_causal": False}
    model = captioner("concat", text_encoder_config=encoder)
    inputs = {**pictures(1), "context_input_ids": torch.tensor([[1, 7, 2]])}
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(ValueError, match="text encoder.*occlusion"):
        model.explain(inputs, ids)
    (found,) = model.explain(inputs, ids, method="occlusion")
    assert found.items[0].weights.shape == (2, 8, 8)
    assert set(found.shares) == {"image", "text"} and np.allclose(sum(found.shares.values()), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"resize_mode": "squash"},
        {"resize_mode": "crop"},
        {"resize_mode": "pad"},
        {"resize_mode": "squash", "do_crop_content": True, "content_margin": 0.1},
        {"resize_mode": "pad", "do_crop_content": True},
        {"resize_mode": "squash", "do_center_crop": True, "crop_size": {"height": 24, "width": 24}},
        {"resize_mode": "native", "patch_size": 8, "max_patches": 24},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 96, "width": 128}},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_the_view_tells_where_each_pixel_came_from(options):
    """A square in the picture lies in the pixels where the view says, under every way of resizing and cutting."""
    processor = mm.MMImageProcessorPil(
        size={"height": 64, "width": 64}, resample=0, do_normalize=False, background="white", **options
    )
    picture = Image.new("RGB", (120, 80), "white")
    picture.paste((0, 0, 255), (30, 20, 90, 70))
    picture.paste((255, 0, 0), (50, 30, 70, 50))
    view = processor.view(processor.load(picture))
    pixels = processor(picture, return_tensors="np")["pixel_values"][0]
    assert pixels.shape[1:] == (view.height, view.width)
    down, across = np.nonzero((pixels[0] > 0.5) & (pixels[2] < 0.5))  # the red square
    left, right = view.left + view.across * across.min(), view.left + view.across * (across.max() + 1)
    top, bottom = view.top + view.down * down.min(), view.top + view.down * (down.max() + 1)
    for found, true, step in (
        (left, 50, view.across),
        (right, 70, view.across),
        (top, 30, view.down),
        (bottom, 50, view.down),
    ):
        assert abs(found - true) <= max(step, 1)


def test_a_map_lies_where_the_patch_was_seen():
    model = captioner()
    processor = mm.MMImageProcessorPil(size={"height": 32, "width": 32}, resize_mode="crop")
    picture = Image.new("RGB", (200, 100), "white")
    inputs = processor([picture], return_tensors="pt")
    inputs = {"pixel_values": inputs["pixel_values"][:, None]}
    (found,) = model.explain(inputs, torch.tensor([[1, 5, 6]]), processor=processor, pictures=[picture])
    assert found.picture_size == (100, 200) and found.maps.shape == (2, 100, 200)
    assert not found.maps[:, :, :50].any() and not found.maps[:, :, 150:].any()  # cropped away: never seen
    np.testing.assert_allclose(found.maps.sum((1, 2)), 1, atol=1e-4)
    found.items[0].weights[:] = 0
    found.items[0].weights[:, 3, 0] = 1  # the patch at the bottom left
    down, across = np.unravel_index(found.maps[0].argmax(), (100, 200))
    assert down >= 75 and 50 <= across < 75


def test_videos_have_a_map_for_each_frame():
    model = captioner(max_frames=4, modalities=["image", "video"])
    inputs = {"pixel_values_videos": torch.randn(1, 1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    (found,) = model.explain(inputs, torch.tensor([[1, 5, 6]]))
    assert found.items[0].kind == "video" and found.items[0].weights.shape == (2, 3, 4, 4)
    assert found.items[0].over_picture((8, 8)).shape == (2, 3, 8, 8)


def test_absent_pictures_are_left_out_and_two_are_told_apart():
    model = captioner(max_images=2)
    pixels = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there = torch.tensor([[True, True], [True, False]])
    found = model.explain(
        {"pixel_values": pixels, "pixel_attention_mask": there}, torch.tensor([[1, 5, 6], [1, 5, 6]])
    )
    assert [item.number for item in found[0].items] == [0, 1] and [item.number for item in found[1].items] == [0]
    (alone,) = model.explain({"pixel_values": pixels[1:, :1]}, torch.tensor([[1, 5, 6]]))
    np.testing.assert_allclose(found[1].items[0].weights, alone.items[0].weights, atol=1e-5)


def test_a_model_in_training_stays_in_training_and_its_frozen_parts_as_they_were():
    model = captioner().train()
    model.model.vision_tower.eval()
    before = [module.training for module in model.modules()]
    model.explain(pictures(1), torch.tensor([[1, 5, 6]]))
    assert [module.training for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_prompt_may_hold_an_id_that_is_never_written():
    """As <|image|> of Llama 3.2 Vision, which has no row in the layer over the vocabulary."""
    model = captioner(unwritten_tokens=1, tie_word_embeddings=False)
    inputs = {**pictures(), "input_ids": torch.tensor([[1, 39, 5], [1, 4, 39]])}
    output = written(model, inputs)
    for method in ("attention", "grad", "occlusion"):
        for row in model.explain(inputs, output.sequences, method=method):
            assert row.items[0].weights.shape[0] == 6 and np.isfinite(row.items[0].weights).all()
