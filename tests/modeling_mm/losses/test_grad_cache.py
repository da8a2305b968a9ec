"""Encoding in chunks: the loss and gradients of the large batch, from the memory of one chunk."""

import pytest
import torch
from torch import nn

from mm.modeling_mm.losses.contrastive import info_nce_loss
from mm.modeling_mm.losses.grad_cache import encode_in_chunks
from mm.modeling_mm.losses.positive_pairs import Pairs

ROWS, WIDTH = 7, 6


class Towers(nn.Module):
    """Two encoders and a scale, with dropout if wanted."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Dropout(dropout), nn.Linear(64, 4)) for _ in "it"]
        self.image, self.text = nn.ModuleList(layers).double()
        self.scale = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))

    def encode(self, images, texts):
        return nn.functional.normalize(self.image(images), dim=1), nn.functional.normalize(self.text(texts), dim=1)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) for name in ("images", "texts")}


def gradients(towers, embeds):
    images, texts = embeds
    loss = info_nce_loss(images, texts, Pairs(ROWS, ROWS), towers.scale)
    return [loss, *torch.autograd.grad(loss, list(towers.parameters()))]


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_give_the_loss_and_gradients_of_the_large_batch(inputs, chunk_size):
    towers = Towers()
    expected = gradients(towers, towers.encode(**inputs))
    got = gradients(towers, encode_in_chunks(towers.encode, chunk_size, **inputs))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_dropout_is_the_same_in_the_second_run(inputs):
    """Finite differences cannot see dropout; the same chunks, kept in memory under the same seed, can."""
    towers = Towers(dropout=0.5)
    torch.manual_seed(2)
    chunks = [towers.encode(*(x[i : i + 3] for x in inputs.values())) for i in range(0, ROWS, 3)]
    expected = gradients(towers, [torch.cat(parts) for parts in zip(*chunks, strict=True)])
    torch.manual_seed(2)
    for ours, theirs in zip(gradients(towers, encode_in_chunks(towers.encode, 3, **inputs)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_what_is_kept_for_backward_does_not_hold_the_encoder_s_states(inputs):
    towers, kept = Towers(), []

    def note(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        towers.encode(**inputs)
        assert (ROWS, 64) in kept
        kept.clear()
        encode_in_chunks(towers.encode, 3, **inputs)
    assert not any(shape[-1:] == (64,) for shape in kept)


def test_a_single_tensor_and_settings_pass(inputs):
    towers = Towers()

    def encode(images, factor, nothing):
        assert nothing is None
        return towers.image(images) * factor

    given = encode_in_chunks(encode, 2, images=inputs["images"], factor=2.0, nothing=None)
    torch.testing.assert_close(given, towers.image(inputs["images"]) * 2, rtol=0, atol=1e-12)


def test_without_gradients_chunks_are_encoded_once(inputs):
    towers, calls = Towers(), []
    towers.image.register_forward_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        images, _ = encode_in_chunks(towers.encode, 3, **inputs)
    assert len(calls) == 3 and not images.requires_grad


def test_a_model_s_retrieval_embeddings_go_through_chunks(tiny_model):
    """Any encoder of the package will do; here a tower with its pooled vector, each row a picture."""
    model = tiny_model()
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def encode(pixel_values):
        return model.model.get_image_features(pixel_values=pixel_values).pooler_output

    results = []
    for made in (encode(pixels), encode_in_chunks(encode, 2, pixel_values=pixels)):
        model.zero_grad()
        (made @ made.T).logsumexp(1).sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys() and results[0]
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "chunk_size, given, message",
    [
        (2, {"images": torch.zeros(3), "texts": torch.zeros(4)}, "one number of rows; got {'images': 3, 'texts': 4}"),
        (2, {"images": None}, "one number of rows; got no tensor"),
        (0, {"images": torch.zeros(3)}, "chunk_size must be 1 or more; got 0"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(chunk_size, given, message):
    with pytest.raises(ValueError, match=message):
        encode_in_chunks(lambda **inputs: inputs, chunk_size, **given)
