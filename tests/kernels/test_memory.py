"""Where the kernels read and write: between pages that nobody may touch, at offsets beyond 32 bits, any strides."""

# Memory is mapped by ctypes, which has no types that pyright knows; what is returned depends on flags.

import ctypes
import functools
import mmap
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.tuning import Tile, forced


def slow(*values):
    """A case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
NO_RESERVE = 0x4000


class Mapped:
    """Memory in which every access outside of a tensor kills the process, or of which only touched pages exist."""

    def __init__(self):
        self.regions = []

    def region(self, size: int) -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        address = LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        assert address not in (None, ctypes.c_void_p(-1).value), os.strerror(ctypes.get_errno())
        self.regions.append((address, size))
        return address

    def guarded(self, tensor: torch.Tensor, at_end: bool = True) -> torch.Tensor:
        """A copy, strides kept, whose memory ends (or begins) at a page that nobody may touch."""
        if not tensor.numel():
            return tensor
        size = (1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))) * (
            tensor.element_size()
        )
        page, inner = mmap.PAGESIZE, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        address = self.region(inner + 2 * page)
        for edge in (address, address + page + inner):
            assert LIBC.mprotect(edge, page, 0) == 0
        start = address + page + (inner - size if at_end else 0)
        memory = torch.frombuffer((ctypes.c_char * size).from_address(start), dtype=tensor.dtype)
        return memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor)

    def spread(self, tensor: torch.Tensor, axis: int, stride: int) -> torch.Tensor:
        """A copy of (B, H, N, D) in which `axis` has a stride of `stride` elements, gaps never touched."""
        strides = list(tensor.contiguous().stride())
        strides[axis] = stride
        size = (stride * (tensor.shape[axis] - 1) + tensor.numel()) * tensor.element_size()
        memory = (ctypes.c_char * size).from_address(self.region(size))
        return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, strides).copy_(tensor)


@pytest.fixture
def mapped() -> Iterator[Mapped]:
    memory = Mapped()
    yield memory
    for region in memory.regions:
        LIBC.munmap(*region)


def test_the_guard_kills_who_reads_past_the_end(mapped):
    tensor = mapped.guarded(torch.arange(5.0))
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os._exit(ctypes.string_at(tensor.data_ptr() + 20, 1)[0])
    assert os.waitpid(child, 0)[1] == signal.SIGSEGV


@pytest.fixture
def guarded_results(mapped, monkeypatch):
    """What kernels allocate stands between guards too."""

    def guard(create):
        @functools.wraps(create)
        def wrapped(*args, **kwargs):
            return mapped.guarded(create(*args, **kwargs))

        return wrapped

    for owner, names in ((torch, ("empty", "empty_like", "empty_strided")), (torch.Tensor, ("new_empty",))):
        for name in names:
            monkeypatch.setattr(owner, name, guard(getattr(owner, name)))


@pytest.mark.parametrize("at_end, layout", [(True, "dense"), slow(True, "heads inside"), slow(False, "dense")])
@pytest.mark.parametrize("kind", [slow("all keys"), "lengths", slow("mask"), slow("ranges"), "everything", "ragged"])
def test_nothing_outside_of_a_tensor_is_touched(
    kind, at_end, layout, mapped, guarded_results, laid_out, draw, settings_of, attend, same_bits
):
    dtype = torch.float16 if at_end else torch.float32
    for keys, splits in ((37, 3), (33, 1), (16, 2), (1, 1)):
        given = [laid_out(tensor, layout) for tensor in draw(dtype, keys=keys, ragged=kind == "ragged")]
        settings = settings_of(kind, keys)
        guarded = {name: mapped.guarded(value, at_end) for name, value in settings.items()}
        guarded_tensors = [mapped.guarded(tensor, at_end) for tensor in given]
        assert same_bits(attend(guarded_tensors, guarded, splits), attend(given, settings, splits))


@pytest.mark.parametrize("splits", [slow(1), 2])
@pytest.mark.parametrize("axis", [slow(0), 1, 2])
def test_offsets_beyond_32_bits(axis, splits, mapped, draw, attend, same_bits):
    sizes = {"batch": 3, "heads": 3, "kv_heads": 3, "queries": 3, "keys": 17 if axis < 2 else 3, "width": 16}
    given = draw(torch.float16, **sizes)
    far = [mapped.spread(tensor, axis, 2**30 + 64) for tensor in given]
    assert same_bits(attend(far, {}, splits), attend(given, {}, splits))


@pytest.mark.parametrize("kind", ["everything", slow("ragged")])
@pytest.mark.parametrize("layout", ["heads inside", "gaps", "columns"])
def test_strides_change_no_bit(layout, kind, laid_out, draw, settings_of, attend, same_bits):
    given, settings = draw(torch.float16, ragged=kind == "ragged"), settings_of(kind)
    strided = [laid_out(tensor, layout) for tensor in given]
    for splits in (1, 2):
        assert same_bits(attend(strided, settings, splits), attend(given, settings, splits))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["everything", "ragged"])
def test_strides_of_the_settings_change_no_bit(kind, draw, settings_of, attend, same_bits):
    def strided(value):
        apart = torch.stack([value, torch.full_like(value, 1)], -1)[..., 0]
        return apart.transpose(0, 1).contiguous().transpose(0, 1) if kind == "everything" and value.ndim > 1 else apart

    given, settings = draw(ragged=kind == "ragged"), settings_of(kind)
    others = {name: strided(value) for name, value in settings.items()}
    assert not any(value.is_contiguous() for value in others.values())
    assert same_bits(attend(given, others), attend(given, settings))


def test_the_gradient_may_come_with_any_strides(laid_out, draw, same_bits):
    weight, found = draw(torch.float16)[0], []
    for layout in ("dense", "heads inside", "gaps", "columns"):
        given = [tensor.requires_grad_() for tensor in draw(torch.float16)]
        found.append(torch.autograd.grad(flash_cross_attention(*given), given, laid_out(weight, layout)))
    assert all(same_bits(one, found[0]) for one in found)
    given = [tensor.requires_grad_() for tensor in draw(torch.float16)]
    summed = torch.autograd.grad(flash_cross_attention(*given).sum(), given)  # a gradient of stride 0
    assert same_bits(summed, torch.autograd.grad(flash_cross_attention(*given), given, torch.ones_like(weight)))


@pytest.mark.parametrize("kind", ["all keys", "ragged"])
def test_the_output_is_laid_out_as_the_next_projection_reads_it(kind, draw, settings_of):
    for splits in (1, 2):
        with forced(tile=Tile(16, 16, 4, 1), splits=splits):
            output = flash_cross_attention(*draw(ragged=kind == "ragged"), **settings_of(kind))
        assert output.transpose(1, 2).is_contiguous()


def test_key_and_value_may_be_one_tensor(draw, same_bits):
    query, key = (tensor.requires_grad_() for tensor in draw()[:2])
    mine = torch.autograd.grad(flash_cross_attention(query, key, key).sum(), (query, key))
    apart = key.detach().clone().requires_grad_()
    d_query, d_key, d_value = torch.autograd.grad(flash_cross_attention(query, key, apart).sum(), (query, key, apart))
    assert same_bits(mine, (d_query, d_key + d_value))


@pytest.mark.parametrize("kind", ["everything", "ragged"])
def test_neither_inputs_nor_settings_are_written_to(kind, draw, settings_of, attend, same_bits):
    given, settings = draw(torch.float16, ragged=kind == "ragged"), settings_of(kind)
    copies = [tensor.clone() for tensor in (*given, *settings.values())]
    attend(given, settings, 2)
    assert same_bits((*given, *settings.values()), copies)
