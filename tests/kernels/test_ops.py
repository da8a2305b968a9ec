"""flash_cross_attention as an op: derivatives of its reference path, opcheck, FakeTensor, torch.compile, export and
autocast."""

# torch.ops gets its members at run time, and export takes dimensions by name.

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.reference import reference_attention

KINDS = ["all keys", "lengths", "mask", "ranges", "everything", "ragged"]
OPS = ["cross_attention_forward", "cross_attention_backward", "cross_attention_mass"]


class Block(torch.nn.Module):
    """Projections around a cross-attention, as a model calls it."""

    def __init__(self, width: int = 32, heads: int = 2):
        super().__init__()
        self.heads, self.mass = heads, True
        self.q_proj, self.k_proj = torch.nn.Linear(width, width), torch.nn.Linear(width, width // 2)
        self.v_proj, self.o_proj = torch.nn.Linear(width, width // 2), torch.nn.Linear(width, width)

    def forward(self, states, context, lengths):
        query = self.q_proj(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = (
            proj(context).unflatten(-1, (self.heads // 2, -1)).transpose(1, 2) for proj in (self.k_proj, self.v_proj)
        )
        got = flash_cross_attention(query, key, value, key_lengths=lengths, return_lse=True, return_mass=self.mass)
        return self.o_proj(got.output.transpose(1, 2).flatten(2)), got.lse, got.mass


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block()


def block_inputs(queries=5, keys=9, batch=2):
    generator = torch.Generator().manual_seed(0)
    states, context = (torch.randn(batch, length, 32, generator=generator) for length in (queries, keys))
    return states, context, torch.arange(1, batch + 1)


def slow(*values):
    """A case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def arguments(op, given, settings):
    """What the public function hands to `op`."""
    query, key, value = given
    names = ("key_lengths", "key_mask", "row_ranges", "cu_rows")
    rest = [settings.get(name) for name in names]
    rest = [None if value is None else value.to(torch.int32).contiguous() for value in rest]
    rest.append(0.3)
    if op == "cross_attention_forward":
        return query, key, value, *rest
    output, lse = torch.ops.mm.cross_attention_forward(*(tensor.detach() for tensor in given), *rest)
    if op == "cross_attention_mass":
        return query, key, lse, *rest
    return torch.ones_like(output), torch.ones_like(lse), query, key, value, output, lse, *rest


# -- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_in_fp64_are_those_of_finite_differences(kind, draw, settings_of):
    given = draw(torch.float64, heads=2, kv_heads=1, keys=6, width=3, ragged=kind == "ragged")
    given = [tensor.requires_grad_() for tensor in given]
    settings = settings_of(kind, 6)

    def seen(query, key, value):
        output, lse, _ = flash_cross_attention(query, key, value, **settings, return_lse=True)
        return output, lse.masked_fill(lse == -torch.inf, 0.0)

    assert torch.autograd.gradcheck(seen, given)


@pytest.mark.parametrize("kind", KINDS)
def test_fp64_is_the_specification(kind, draw, settings_of):
    given, settings = draw(torch.float64, ragged=kind == "ragged"), settings_of(kind)
    got = flash_cross_attention(*given, **settings, return_lse=True, return_mass=True)
    for mine, truth in zip(got, reference_attention(*given, **settings), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


# -- registration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["heads inside", slow("columns")])
@pytest.mark.parametrize("kind", ["all keys", "everything", "ragged"])
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op, kind, layout, draw, settings_of, laid_out):
    given = [laid_out(tensor, layout) for tensor in draw(width=16, keys=20, ragged=kind == "ragged")]
    if op == "cross_attention_forward":
        given = [tensor.detach().requires_grad_() for tensor in given]
    function = getattr(torch.ops.mm, op).default
    torch.library.opcheck(function, arguments(op, given, settings_of(kind, 20)))


@pytest.mark.parametrize("dtype", [torch.float16, slow(torch.bfloat16), slow(torch.float32), torch.float64])
@pytest.mark.parametrize("kind", ["everything", "ragged"])
@pytest.mark.parametrize("op", OPS)
def test_fake_results_have_the_shapes_and_strides_of_the_real_ones(op, kind, dtype, draw, settings_of, laid_out):
    function = getattr(torch.ops.mm, op)
    for layout in ("dense", "heads inside", "gaps", "columns"):
        for heads in (1, 2):
            given = draw(dtype, heads=2 * heads, kv_heads=heads, width=16, keys=3, ragged=kind == "ragged")
            handed = arguments(op, [laid_out(tensor, layout) for tensor in given], settings_of(kind, 3))
            with FakeTensorMode() as mode:
                fake = function(*(mode.from_tensor(one) if isinstance(one, torch.Tensor) else one for one in handed))
            found, real = ((one,) if isinstance(one, torch.Tensor) else one for one in (fake, function(*handed)))
            for mine, true in zip(found, real, strict=True):
                assert (mine.shape, mine.stride(), mine.dtype) == (true.shape, true.stride(), true.dtype), layout


def test_nothing_is_computed_on_meta_tensors(draw, settings_of):
    given = [tensor.to("meta") for tensor in draw(torch.bfloat16)]
    settings = {name: value.to("meta") for name, value in settings_of("everything").items()}
    got = flash_cross_attention(*given, **settings, return_lse=True, return_mass=True)
    assert [part.device.type for part in got] == ["meta"] * 3 and got.output.shape == given[0].shape


# -- graphs -----------------------------------------------------------------------------------------------------------


SIZES = ((5, 9, 2), (1, 9, 2), (7, 20, 3))  # queries, keys, contexts


def gradients(module, inputs):
    output, lse, _ = module(*inputs)
    return torch.autograd.grad(output.square().sum() + lse.sum(), list(module.parameters()))


def assert_close(found, expected):
    for mine, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, eager, rtol=1e-5, atol=1e-5)


def test_compiled_whole_it_gives_what_it_gives_eagerly(block):
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in SIZES:
        with torch.no_grad():
            assert_close(compiled(*block_inputs(*sizes)), block(*block_inputs(*sizes)))


@pytest.mark.slow
@pytest.mark.parametrize("mass", [slow(False), True])
def test_compiled_for_training_it_has_the_same_gradients(mass, block):
    block.mass = mass
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for sizes in SIZES:
        assert_close(gradients(compiled, block_inputs(*sizes)), gradients(block, block_inputs(*sizes)))


def test_one_graph_serves_every_number_of_queries(block):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter, dynamic=True)
    with torch.no_grad():
        for queries in (5, 7, 12):
            compiled(*block_inputs(queries))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["everything", "ragged"])
def test_every_setting_compiles(kind, draw, settings_of):
    given, settings = draw(ragged=kind == "ragged"), settings_of(kind)
    compiled = torch.compile(flash_cross_attention, fullgraph=True, backend="aot_eager")
    for mine, eager in zip(
        compiled(*given, **settings, return_lse=True, return_mass=True),
        flash_cross_attention(*given, **settings, return_lse=True, return_mass=True),
        strict=True,
    ):
        assert torch.equal(mine, eager)


def test_an_exported_module_takes_other_sizes(block):
    batch, queries, keys = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "queries", "keys"))
    shapes = ({0: batch, 1: queries}, {0: batch, 1: keys}, {0: batch})
    program = torch.export.export(block.eval(), block_inputs(), dynamic_shapes=shapes)
    assert any("cross_attention_forward" in str(node.target) for node in program.graph.nodes)
    for sizes in ((5, 9, 2), (8, 21, 3)):
        assert_close(program.module()(*block_inputs(*sizes)), block(*block_inputs(*sizes)))


# -- autocast ---------------------------------------------------------------------------------------------------------


def test_autocast_computes_in_its_dtype(draw, settings_of):
    given, settings = draw(), settings_of("everything")
    with torch.autocast("cpu", torch.bfloat16):
        got = flash_cross_attention(*given, **settings, return_lse=True, return_mass=True)
    short = [tensor.bfloat16() for tensor in given]
    expected = flash_cross_attention(*short, **settings, return_lse=True, return_mass=True)
    assert got.output.dtype == torch.bfloat16
    for mine, plain in zip(got, expected, strict=True):
        assert torch.equal(mine, plain)


def test_autocast_takes_inputs_of_several_dtypes(draw):
    query, key, value = draw()
    with torch.autocast("cpu", torch.bfloat16):
        output = flash_cross_attention(query, key.bfloat16(), value.bfloat16())
    assert torch.equal(output, flash_cross_attention(query.bfloat16(), key.bfloat16(), value.bfloat16()))


def test_gradients_under_autocast_have_the_dtype_of_the_inputs(draw):
    given = [tensor.requires_grad_() for tensor in draw()]
    with torch.autocast("cpu", torch.bfloat16):
        output = flash_cross_attention(*given)
    found = torch.autograd.grad(output.float().sum(), given)
    short = [tensor.detach().bfloat16().requires_grad_() for tensor in given]
    expected = torch.autograd.grad(flash_cross_attention(*short).float().sum(), short)
    for mine, plain in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32 and torch.equal(mine, plain.float())
