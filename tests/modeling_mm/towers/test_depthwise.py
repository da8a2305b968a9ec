"""Depthwise convolutions in bf16 on a CPU: the result of bf16, the gradients of fp32."""

import pytest
import torch
import torch.nn.functional as F

from mm.modeling_mm.towers.depthwise import convolved


def gradients(way, *inputs: torch.Tensor | None) -> list[torch.Tensor]:
    made = way(*inputs)
    generator = torch.Generator().manual_seed(5)
    made.backward(torch.randn(made.shape, generator=generator).bfloat16().to(made.dtype))
    return [part.grad for part in inputs if part is not None and part.grad is not None]


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
@pytest.mark.parametrize("biased", [True, False])
def test_gradients_in_bf16_are_those_of_fp32_rounded_once(biased, frozen):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 8, 9, 11), (8, 1, 3, 3), (8,)
    held = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes[: 3 if biased else 2]]
    geometry = (2, 2), (1, 1), 8
    sides = []
    for dtype in (torch.bfloat16, torch.float32):
        parts = [
            part.detach().to(dtype, copy=True).requires_grad_(place not in frozen) for place, part in enumerate(held)
        ]
        parts += [] if biased else [None]
        sides.append(gradients(lambda *inputs: convolved(*inputs, *geometry), *parts))
    assert len(sides[0]) == len(sides[1]) > 0
    for grad, exact in zip(*sides, strict=True):
        assert torch.equal(grad, exact.bfloat16())
    plain = F.conv2d(held[0], held[1], held[2] if biased else None, *geometry[:2], groups=8)
    asked = [held[0].clone().requires_grad_(), held[1], held[2] if biased else None]
    assert torch.equal(convolved(*asked, *geometry), plain)


@pytest.mark.parametrize("size", [5, 7])
@pytest.mark.parametrize("sides", [(8, 8), (4, 4), (1, 7), (2, 1), (9, 9)])  # the last is too large for sums
def test_kernels_larger_than_their_map_have_the_gradients_of_fp32_too(size, sides):
    generator = torch.Generator().manual_seed(1)
    shapes = (3, 6, *sides), (6, 1, size, size), (6,)
    held = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    geometry = (1, 1), (size // 2, size // 2), 6
    grads = [
        gradients(
            lambda *inputs: convolved(*inputs, *geometry),
            *(part.detach().to(dtype, copy=True).requires_grad_() for part in held),
        )
        for dtype in (torch.bfloat16, torch.float32)
    ]
    for grad, exact in zip(*grads, strict=True):
        torch.testing.assert_close(grad.float(), exact, rtol=2**-8, atol=1e-5)


def test_only_depthwise_convolutions_in_bf16_that_learn_are_changed():
    pixels, kernel = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    learns = pixels.bfloat16().requires_grad_()
    names = [
        convolved(x, w, None, (1, 1), (1, 1), groups).grad_fn.name()
        for x, w, groups in (
            (learns, kernel.bfloat16(), 4),
            (pixels.requires_grad_(), kernel, 4),
            (learns, torch.randn(4, 4, 3, 3).bfloat16(), 1),
        )
    ]
    assert "Fp32" in names[0] and all("Fp32" not in name for name in names[1:])
    with torch.no_grad():
        assert convolved(learns, kernel.bfloat16(), None, (1, 1), (1, 1), 4).grad_fn is None
