"""The ops of cross-attention in CUDA graphs, under torch.compile and autocast, and on a GPU that is not current."""

# What flash_cross_attention returns depends on its flags.

import pytest
import torch

from mm.kernels.cross_attention import attend, flash_cross_attention

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["all keys", "lengths", "ranges", "ragged"])
@pytest.mark.parametrize("queries", [4, 40])
def test_a_cuda_graph_replays_with_new_numbers(call, recorded, sizes, dtype, kind, queries):
    drawn = call(dtype, 64, kind, queries, sizes.keys)
    settings = {name: value.int() for name, value in drawn.settings.items() if name != "key_mask"}
    held = [tensor.clone() for tensor in drawn.given]
    replay = recorded(lambda: attend(*held, **settings))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for tensor in held:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if "key_lengths" in settings:
            settings["key_lengths"].copy_(torch.randint(sizes.keys + 1, (3,), generator=generator))
        assert torch.equal(replay(), attend(*held, **settings))


def test_a_cuda_graph_of_mask_lse_and_mass(call, recorded, sizes, dtype):
    drawn = call(dtype, 64, "everything", 4, sizes.keys)
    replay = recorded(lambda: flash_cross_attention(*drawn.given, **drawn.settings, return_lse=True, return_mass=True))
    expected = flash_cross_attention(*drawn.given, **drawn.settings, return_lse=True, return_mass=True)
    assert all(torch.equal(*pair) for pair in zip(replay(), expected, strict=True))


@pytest.mark.parametrize("kind", ["lengths", "everything", "ragged"])
def test_compiled_whole_it_gives_the_same(call, compute, device, sizes, dtype, kind):
    torch._dynamo.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"

    @torch.compile(fullgraph=True, backend=backend)
    def both(*given, **settings):
        got = flash_cross_attention(*given, **settings, return_lse=True)
        return got.output, got.lse

    for queries in (4, 5, 33):
        drawn = call(dtype, 64, kind, queries, sizes.keys)
        given = [tensor.detach().requires_grad_() for tensor in drawn.given]
        output, lse = both(*given, **drawn.settings)
        weights = [weight.to(part) for weight, part in zip(drawn.weights, (output, lse), strict=True)]
        gradients = torch.autograd.grad((output, lse), given, weights)
        expected = compute(drawn)
        names = ("output", "lse", "d_query", "d_key", "d_value")
        found = dict(zip(names, (output, lse, *gradients), strict=True))
        assert all(torch.equal(found[name], expected[name]) for name in names)


def test_attend_compiles_whole(call, device, sizes, dtype):
    torch._dynamo.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    drawn = call(dtype, 64, "lengths", 4, sizes.keys)
    compiled = torch.compile(attend, fullgraph=True, backend=backend)
    assert torch.equal(compiled(*drawn.given, **drawn.settings), attend(*drawn.given, **drawn.settings))


def test_autocast_casts_the_states(call, device):
    drawn = call(torch.float32)
    with torch.autocast(device.type, dtype=torch.float16):
        output = flash_cross_attention(*drawn.given, **drawn.settings)
    cast = [tensor.half() for tensor in drawn.given]
    assert output.dtype == torch.float16
    assert torch.equal(output, flash_cross_attention(*cast, **drawn.settings))


def test_launches_go_to_the_gpu_of_the_tensors(call, assert_right, device, dtype):
    """Whatever GPU is the current one; with one GPU in the machine this is that GPU alone."""
    drawn = call(dtype, 64, "everything")
    all_gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for gpu in all_gpus if device.type == "cuda" else [device]:
        (query, key, value), weights = ([one.to(gpu) for one in each] for each in (drawn.given, drawn.weights))
        settings = {name: value.to(gpu) for name, value in drawn.settings.items()}
        assert attend(query, key, value, settings["key_lengths"]).device == gpu
        assert_right(drawn._replace(given=[query, key, value], settings=settings, weights=tuple(weights)))


def test_a_stream_of_its_own_is_kept(call, device, dtype):
    drawn = call(dtype, 64, "lengths")
    expected = attend(*drawn.given, **drawn.settings)
    stream = torch.cuda.Stream() if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = attend(*drawn.given, **drawn.settings)
    if stream is not None:
        torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)
