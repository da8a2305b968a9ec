"""MMImageTokenizer: ids of a fixed grid, pictures of an exact size, rows that depend on nothing else; saved whole."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from comparing import close, same_weights
from mm import MMImageTokenizer, MMImageTokenizerConfig
from mm.weights.files import CheckpointError

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 2, "widths": [8, 16], "depth": 1, "norm_groups": 4}
VQ = {"quantizer": "vq", "num_codes": 11, "code_size": 3}
KINDS = {
    "fsq": {},
    "odd levels": {"levels": [5, 3, 7]},
    "vq": VQ,
    "one stage": {"widths": [8], "patch_size": 4},
    "not square": {"image_size": [16, 32], "patch_size": [2, 4], "widths": [8, 8, 8]},
    "grey": {"num_channels": 1},
}


def tokenizer(**settings) -> Any:
    """A small one whose second convolutions are not at zero, where they start."""
    torch.manual_seed(0)
    model = MMImageTokenizer(MMImageTokenizerConfig(**{**SMALL, **settings})).eval()
    for name, weight in model.named_parameters():
        if "conv2" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def pictures(model, count=3) -> torch.Tensor:
    shape = (count, model.config.num_channels, *model.config.image_sides)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_a_grid_of_ids_and_ids_are_a_picture_of_its_size(kind):
    model = tokenizer(**KINDS[kind])
    x = pictures(model)
    ids = model.encode(x)
    rows, columns = model.grid
    down, across = model.config.downsampling
    assert (rows * down, columns * across) == model.config.image_sides
    assert ids.dtype == torch.long and ids.shape == (3, rows * columns) == (3, model.tokens_per_image)
    assert ids.min() >= 0 and ids.max() < model.codebook_size
    y = model.decode(ids)
    assert y.shape == x.shape and y.dtype == model.dtype and y.min() >= 0 and y.max() <= 1
    output = model(x)
    assert torch.equal(output.ids, ids)
    close(output.reconstruction.clamp(0, 1).detach(), y)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_nothing_else_in_the_batch(kind):
    model = tokenizer(**KINDS[kind])
    x = pictures(model)
    together = model(x)
    for number in range(3):
        alone = model(x[number : number + 1])
        assert torch.equal(alone.ids[0], together.ids[number])
        close(alone.reconstruction[0].detach(), together.reconstruction[number].detach())


def test_ids_are_in_the_order_of_reading():
    model = tokenizer(image_size=32)
    ids = model.encode(pictures(model, 1))
    changed = ids.clone()
    changed[0, model.grid[1]] = (ids[0, model.grid[1]] + 1000) % model.codebook_size  # the second row's first token
    difference = (model.decode(changed) - model.decode(ids)).abs().sum(1)[0]
    centre = difference[4:8, :4].mean()
    assert centre > 3 * difference[16:, 16:].mean() and centre > 3 * difference[:4, 16:].mean()


@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_the_loss_is_its_formula_and_reaches_every_weight(kind):
    model = tokenizer(**KINDS[kind], l1_weight=0.3, l2_weight=2.0, commitment_weight=0.7)
    x = pictures(model)
    output = model(x)
    error = output.reconstruction - x
    expected = 0.3 * error.abs().mean() + 2.0 * (error**2).mean() + 0.7 * output.commitment_loss
    close(output.loss.detach(), expected.detach())
    output.loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    assert (output.commitment_loss > 0) == (kind == "vq")
    assert model(x, return_loss=False).loss is None


@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_it_learns_to_show_a_picture(kind):
    model = tokenizer(**KINDS[kind]).train()
    x = pictures(model, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_encoding_moves_no_codebook_not_even_in_training():
    model = tokenizer(**VQ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encode(pictures(model))
    same_weights(before, model.state_dict())
    assert model.quantizer.training


@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_it_is_saved_whole_and_read_by_the_auto_classes(kind, tmp_path):
    model = tokenizer(**KINDS[kind])
    model.save_pretrained(tmp_path)
    read = AutoModel.from_pretrained(tmp_path).eval()
    assert type(read) is MMImageTokenizer
    same_weights(model, read)
    x = pictures(model)
    assert torch.equal(read.encode(x), model.encode(x))
    close(read.decode(read.encode(x)), model.decode(model.encode(x)))
    assert type(AutoConfig.from_pretrained(tmp_path)) is MMImageTokenizerConfig
    names = MMImageTokenizerConfig.__dataclass_fields__.keys() - {"architectures", "dtype", "transformers_version"}
    assert all(getattr(read.config, name) == getattr(model.config, name) for name in names)


def test_a_checkpoint_without_a_weight_is_an_error(tmp_path):
    model = tokenizer()
    held = {name: value for name, value in model.state_dict().items() if name != "decoder.stem.weight"}
    model.save_pretrained(tmp_path, state_dict=held)
    with pytest.raises(CheckpointError, match="decoder.stem.weight"):
        MMImageTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_works_in_other_dtypes(dtype):
    model, exact = tokenizer().to(dtype), tokenizer().double()
    x = pictures(model)
    ids, y = model.encode(x.to(dtype)), model.decode(exact.encode(x.double()))
    assert ids.dtype == torch.long and y.dtype == dtype
    bound = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-12}[dtype]
    close(y.double(), exact.decode(exact.encode(x.double())), bound)


WRONG_PIXELS = {
    "another size": (torch.rand(1, 3, 16, 8), "16x8; this tokenizer reads 16x16"),
    "another count of channels": (torch.rand(1, 1, 16, 16), r"float \(n, 3, height, width\)"),
    "bytes": (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float"),
    "no batch": (torch.rand(3, 16, 16), "float"),
    "below 0": (torch.rand(1, 3, 16, 16) - 1, r"in 0\.\.1; got -"),
    "above 1": (255 * torch.rand(1, 3, 16, 16), r"in 0\.\.1"),
    "nan": (torch.full((1, 3, 16, 16), torch.nan), r"in 0\.\.1; got nan"),
}


@pytest.mark.parametrize("case", WRONG_PIXELS)
def test_wrong_pixels_raise_an_error(case):
    pixels, words = WRONG_PIXELS[case]
    for read in (tokenizer().encode, tokenizer()):
        with pytest.raises(ValueError, match=words):
            read(pixels)


@pytest.mark.parametrize("given", [None, "a.png", [1.0]])
def test_what_is_no_tensor_is_told(given):
    for read in (tokenizer().encode, tokenizer()):
        with pytest.raises(TypeError, match="pixel_values must be a tensor; got"):
            read(given)


WRONG_IDS = {
    "floats": (torch.zeros(1, 16), TypeError, "int64 tensor; got torch.float32"),
    "a list": ([[0] * 16], TypeError, "int64 tensor; got list"),
    "too few": (torch.zeros(1, 15, dtype=torch.long), ValueError, r"\(B, 16\)"),
    "no batch": (torch.zeros(16, dtype=torch.long), ValueError, r"\(B, 16\)"),
    "none": (torch.zeros(0, 16, dtype=torch.long), ValueError, "at least 1"),
    "negative": (torch.full((1, 16), -1), ValueError, r"0\.\.4095; got -1\.\.-1"),
    "too large": (torch.full((2, 16), 4096), ValueError, r"0\.\.4095; got 4096"),
}


@pytest.mark.parametrize("case", WRONG_IDS)
def test_wrong_ids_raise_an_error(case):
    ids, kind, words = WRONG_IDS[case]
    with pytest.raises(kind, match=words):
        tokenizer().decode(ids)


WRONG_CONFIGS = {
    "size": ({"image_size": 18}, r"use \[16, 16\]"),
    "levels": ({"levels": [8, 2]}, "each 3 or more"),
    "no levels": ({"levels": []}, "at least one number"),
    "too many codes": ({"levels": [1000] * 4}, "at most"),
    "groups": ({"widths": [8, 10]}, "multiple of norm_groups=4"),
    "no widths": ({"widths": []}, "at least one number"),
    "patch": ({"patch_size": [2, 2, 2]}, r"\[height, width\]"),
    "no patch": ({"patch_size": 0}, "must be positive"),
    "act": ({"hidden_act": "sillu"}, "did you mean 'silu'"),
    "decay": ({"ema_decay": 1.0}, r"in \[0, 1\)"),
    "depth": ({"depth": 0}, r"1\.\.1000"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_wrong_settings_raise_an_error(case):
    settings, words = WRONG_CONFIGS[case]
    with pytest.raises(ValueError, match=words):
        MMImageTokenizerConfig(**{**SMALL, **settings})


def test_the_sizes_follow_from_the_settings():
    config = MMImageTokenizerConfig()
    assert (config.grid, config.tokens_per_image, config.codebook_size) == ((8, 8), 64, 4096)
    assert config.pixel_range == (0.0, 1.0)
    assert MMImageTokenizerConfig(**VQ).codebook_size == 11
