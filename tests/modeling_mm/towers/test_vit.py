"""MMVisionModel: the ViT written out once more, positions, pooling, and what it refuses."""

# A model under test has the positions that its config asks for.

import pytest
import torch
from torch.nn import functional

from comparing import close
from mm import MMVisionModel


@pytest.fixture
def tower(tiny_config, visible):
    """`tower(**fields)`: a ViT of two layers in fp64."""

    def build(**fields) -> MMVisionModel:
        torch.manual_seed(0)
        config = tiny_config("vit", vision_config=fields).vision_config
        return visible(MMVisionModel._from_config(config, attn_implementation="eager")).double().eval()

    return build


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def patches_of(model, pixels):
    """(n, rows*columns, D), patch by patch in row-major order, each a linear map of its pixels."""
    size, weight = model.config.patch_size, model.patch_embedding.weight.flatten(1)
    rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
    cut = [
        pixels[:, :, size * r : size * (r + 1), size * c : size * (c + 1)].flatten(1)
        for r in range(rows)
        for c in range(columns)
    ]
    bias = 0 if model.patch_embedding.bias is None else model.patch_embedding.bias
    return torch.stack(cut, 1) @ weight.T + bias


SHAPES = [
    ({}, 6),  # CLS, one register, four patches
    ({"num_register_tokens": 0}, 5),
    ({"use_cls_token": False, "pooler": "mean", "num_register_tokens": 2}, 6),
    ({"patch_bias": False, "position_embedding_type": "none", "embedding_norm": True, "num_register_tokens": 0}, 5),
]


@pytest.mark.parametrize(("fields", "length"), SHAPES)
def test_tokens_are_cls_then_registers_then_patches_with_positions(tower, pixels, fields, length):
    model = tower(**fields)
    tokens = patches_of(model, pixels)
    if model.cls_token is not None:
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], 1)
    if model.embed_positions is not None:
        tokens = tokens + model.embed_positions.weight
    if model.register_tokens is not None:
        lead = int(model.config.use_cls_token)
        tokens = torch.cat([tokens[:, :lead], model.register_tokens.expand(2, -1, -1), tokens[:, lead:]], 1)
    tokens = model.embed_norm(tokens)
    for layer in model.layers:
        tokens = tokens + layer.self_attn(layer.self_attn_norm(tokens))[0]
        tokens = tokens + layer.mlp(layer.mlp_norm(tokens))
    output = model(pixels)
    assert output.last_hidden_state.shape == (2, length, 24)
    torch.testing.assert_close(output.last_hidden_state, model.norm(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooler", ["cls", "cls_tanh", "mean", "none"])
def test_the_pooled_vector_is_of_the_kind_asked_for(tower, pixels, pooler):
    model = tower(pooler=pooler)
    output = model(pixels)
    states, expected = output.last_hidden_state, None
    if pooler == "cls":
        expected = states[:, 0]
    elif pooler == "cls_tanh":
        expected = torch.tanh(model.pooler.dense(states[:, 0]))
    elif pooler == "mean":
        expected = states.mean(1)
    if expected is None:
        assert output.pooler_output is None
    else:
        close(output.pooler_output, expected)


@pytest.mark.parametrize("final_norm", ["all", "pooled", "none"])
def test_the_final_norm_reaches_what_the_config_says(tower, pixels, final_norm):
    model = tower(final_norm=final_norm)
    output = model(pixels, output_hidden_states=True)
    bare = tower(final_norm="none")(pixels).last_hidden_state
    norm = torch.nn.LayerNorm(24, eps=1e-12).double()
    if final_norm != "none":
        norm.load_state_dict(model.norm.state_dict())
    assert torch.equal(output.last_hidden_state, norm(bare) if final_norm == "all" else bare)
    assert torch.equal(output.pooler_output, bare[:, 0] if final_norm == "none" else norm(bare)[:, 0])
    assert len(output.hidden_states) == 3


def test_positions_are_resampled_for_another_size_only_when_asked(tower):
    model = tower()
    larger = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match="24x32, but image_size=16; resize them, or pass interpolate_pos_encoding"):
        model(larger)
    assert model(larger, interpolate_pos_encoding=True).last_hidden_state.shape == (2, 2 + 3 * 4, 24)
    table = model.embed_positions.weight
    grid = table[1:].T.reshape(1, 24, 2, 2)
    expected = functional.interpolate(grid, size=(3, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(
        model._positions((3, 4), torch.device("cpu"))[1:], expected[0].flatten(1).T, rtol=0, atol=1e-12
    )
    assert torch.equal(model._positions((3, 4), torch.device("cpu"))[0], table[0])


def test_pictures_of_two_sides_are_rows_and_columns_of_patches(tower, pixels):
    """Of tall pictures too, and what is behind the last whole patch is not read."""
    wide = torch.cat([pixels, pixels[..., :8]], 3)  # 16x24: two rows of three
    for given in (wide, wide.transpose(2, 3), torch.nn.functional.pad(wide, (0, 5, 0, 7), value=9.0)):
        model = tower(image_size=list(given.shape[2:]), num_register_tokens=0, drop_partial_patches=True)
        embedded = model._embed(given, None, None)[:, 1:]
        assert torch.allclose(embedded, patches_of(model, given) + model.embed_positions.weight[1:], atol=1e-12)
        assert model(given).last_hidden_state.shape[1] == 7
        with pytest.raises(ValueError, match=r"pixel_values are 16x16, but image_size=\["):
            model(pixels)


def test_resampling_leaves_the_trained_size_as_it_is(tower, pixels):
    model = tower()
    assert torch.equal(model(pixels, interpolate_pos_encoding=True).last_hidden_state, model(pixels).last_hidden_state)


def test_a_picture_does_not_depend_on_its_batch(tower, pixels):
    model = tower()
    together = model(pixels).last_hidden_state
    for number in range(2):
        alone = model(pixels[number : number + 1]).last_hidden_state
        torch.testing.assert_close(together[number : number + 1], alone, rtol=0, atol=1e-12)


def test_pixels_are_cast_to_the_weights(tower, pixels):
    assert tower().to(torch.bfloat16)(pixels).last_hidden_state.dtype == torch.bfloat16


REFUSED = [
    (
        torch.ones(2, 4, 16, 16),
        ValueError,
        r"must be float \(n, 3, height, width\), n at least 1; got .* \(2, 4, 16, 16\)",
    ),
    (torch.ones(3, 16, 16), ValueError, r"got torch.float32 \(3, 16, 16\)"),
    (torch.ones(0, 3, 16, 16), ValueError, "n at least 1"),
    (torch.ones(2, 3, 16, 16, dtype=torch.uint8), ValueError, "must be float .* got torch.uint8"),
    ([[1.0]], TypeError, "pixel_values must be a tensor; got list"),
    (torch.ones(2, 3, 16, 24), ValueError, "16x24, but image_size=16"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_bad_pictures_are_refused_in_words(tower, given, error, message):
    with pytest.raises(error, match=message):
        tower()(given)


def test_sides_that_are_no_multiple_of_the_patch_are_refused_when_resampling_too(tower):
    with pytest.raises(ValueError, match="20x24.* multiples of 8"):
        tower()(torch.ones(1, 3, 20, 24), interpolate_pos_encoding=True)


def test_an_unknown_argument_is_refused_with_the_nearest_name(tower, pixels):
    with pytest.raises(TypeError, match="'interpolate_pos_encodin' .did you mean 'interpolate_pos_encoding'"):
        tower()(pixels, interpolate_pos_encodin=True)


def masked_canvas(sizes, side=5, fill=7.0):
    """Pictures of (rows, columns) patches on a canvas, `fill` outside, with the mask of their patches."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.full((len(sizes), 3, 8 * side, 8 * side), fill, dtype=torch.float64)
    mask, pictures = torch.zeros(len(sizes), side, side, dtype=torch.bool), []
    for number, (rows, columns) in enumerate(sizes):
        pictures.append(torch.randn(1, 3, 8 * rows, 8 * columns, generator=generator, dtype=torch.float64))
        pixels[number, :, : 8 * rows, : 8 * columns] = pictures[-1][0]
        mask[number, :rows, :columns] = True
    return pixels, mask, pictures


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "fields",
    [
        {}, {"pooler": "mean"}, {"pooler": "attention", "final_norm": "pooled"},
        {"use_cls_token": False, "pooler": "mean", "position_embedding_type": "none"}, {"embedding_norm": True},
    ],
    ids=str,
)  # fmt: skip
def test_pictures_of_several_sizes_on_one_canvas_equal_each_alone(tower, fields, attention):
    model = tower(**fields)
    model.set_attn_implementation(attention)
    sizes = [(2, 2), (5, 1), (3, 4), (2, 2), (5, 5)]
    pixels, mask, pictures = masked_canvas(sizes)
    together = model(pixels, pixel_attention_mask=mask)
    real = model.token_mask(mask)
    for number, picture in enumerate(pictures):
        alone = model(picture, interpolate_pos_encoding=True)
        states = together.last_hidden_state[number][real[number]]
        torch.testing.assert_close(states, alone.last_hidden_state[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together.pooler_output[number], alone.pooler_output[0], rtol=0, atol=1e-12)


def test_a_tall_and_a_wide_picture_cost_their_patches_and_not_their_canvas(tower):
    """Layers see 12 patches of each, and the canvas has 144; states that are asked for lie on it and are the same."""
    model, seen = tower(), []
    model.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    pixels, mask, _ = masked_canvas([(12, 1), (1, 12)], side=12)
    packed = model(pixels, pixel_attention_mask=mask)
    whole = model(pixels, pixel_attention_mask=mask, output_hidden_states=True)
    real = model.token_mask(mask)
    assert seen == [real.shape[1] - 132, real.shape[1]] and len(whole.hidden_states) == len(model.layers) + 1
    close(packed.last_hidden_state[real], whole.last_hidden_state[real])
    close(packed.pooler_output, whole.pooler_output)


def test_patches_outside_the_rectangle_change_nothing_and_get_no_gradient(tower):
    model = tower(pooler="attention")
    pixels, mask, _ = masked_canvas([(2, 3), (4, 1)])
    pixels.requires_grad_()
    model(pixels, pixel_attention_mask=mask).pooler_output.sum().backward()
    inside = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(pixels)
    assert pixels.grad[~inside].abs().max() == 0 and pixels.grad[inside].abs().min() > 0
    assert model.embed_positions.weight.grad.abs().min() > 0


BAD_MASKS = [
    (torch.ones(1, 4, 5), r"must be \(1, 5, 5\), one per patch; got \(1, 4, 5\)"),
    (torch.zeros(1, 5, 5), "one rectangle at the top left"),
    (torch.ones(1, 5, 5).triu(), "one rectangle at the top left"),
    (torch.ones(1, 5, 5).flip(2).cumsum(2).gt(2), "one rectangle at the top left"),
    (torch.ones(1, 5, 5).cumsum(1).gt(2), "one rectangle at the top left"),
    (torch.eye(5)[None] + torch.eye(5).flip(0)[None], "must hold only 0 and 1|one rectangle at the top left"),
    (torch.ones(1, 5, 5) * 2, "must hold only 0 and 1"),
]


@pytest.mark.parametrize(("mask", "message"), BAD_MASKS)
def test_a_patch_mask_that_is_no_rectangle_is_refused(tower, mask, message):
    with pytest.raises(ValueError, match=message):
        tower()(torch.ones(1, 3, 40, 40, dtype=torch.float64), pixel_attention_mask=mask)


def test_the_mask_token_stands_for_the_patches_that_are_named(tower, pixels):
    model = tower(use_mask_token=True)
    replaced = torch.tensor([[False, True, False, False], [True, True, True, True]])
    tokens = patches_of(model, pixels)
    tokens[replaced] = model.mask_token[0, 0]
    model_tokens = model._with_mask_token(patches_of(model, pixels), replaced)
    assert torch.equal(model_tokens, tokens)
    changed = pixels.clone()
    changed[1] = 3.0
    changed[0, :, :8, 8:] = -2.0
    outputs = [model(each, bool_masked_pos=replaced).last_hidden_state for each in (pixels, changed)]
    assert torch.equal(*outputs)
    none = torch.zeros_like(replaced)
    assert torch.equal(model(pixels, bool_masked_pos=none).last_hidden_state, model(pixels).last_hidden_state)


@pytest.mark.parametrize(
    ("fields", "given", "message"),
    [
        ({}, torch.ones(2, 4, dtype=torch.bool), "no mask token; set use_mask_token=True"),
        ({"use_mask_token": True}, torch.ones(2, 3, dtype=torch.bool), r"bool \(2, 4\), one per patch.*\(2, 3\)"),
        ({"use_mask_token": True}, torch.ones(2, 4), r"must be bool \(2, 4\).*got torch.float32"),
    ],
)
def test_masked_positions_are_refused_in_words(tower, pixels, fields, given, message):
    with pytest.raises(ValueError, match=message):
        tower(**fields)(pixels, bool_masked_pos=given)
