"""How much each word depends on each part of a picture, by changing the picture: no attention is read.

occlusion              a part is replaced by the mean colour; what the word's log-probability loses
integrated_gradients   the gradient, averaged on the way from the mean colour to the picture, times their difference
                       (Sundararajan, Taly and Yan 2017, arXiv:1703.01365)

R rows, T tokens, W words, N pictures per context.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .reading import Written, media_in, read_again

CELLS = 8  # of a side, that are occluded one by one
STEPS = 16  # from the mean colour to the picture
AT_ONCE = 16  # changed pictures in one call

# (log-probabilities (n, T - 1), of the same row read with n changed pictures) -> (n, W), those of its words
Scores = Callable[[torch.Tensor], torch.Tensor]


def by_occlusion(model: Any, inputs: Mapping[str, Any], written: Written, row: int, item: int, scores: Scores):
    """(W, CELLS, CELLS) of picture `item` of the row's context, not negative."""
    pixels, media = _picture_of(inputs, written, row, item)
    height, width = pixels.shape[-2:]
    tops = [height * step // CELLS for step in range(CELLS + 1)]
    lefts = [width * step // CELLS for step in range(CELLS + 1)]
    changed = []
    for down in range(CELLS):
        for across in range(CELLS):
            one = pixels.clone()
            one[..., item, :, tops[down] : tops[down + 1], lefts[across] : lefts[across + 1]] = 0
            changed.append(one)
    whole = scores(_log_probs(model, pixels, media, written, row))
    parts = [
        scores(_log_probs(model, torch.cat(changed[start : start + AT_ONCE]), media, written, row))
        for start in range(0, len(changed), AT_ONCE)
    ]
    lost = (whole - torch.cat(parts)).clamp(min=0)  # (CELLS * CELLS, W)
    return lost.T.reshape(-1, CELLS, CELLS)


def by_integrated_gradients(
    model: Any,
    inputs: Mapping[str, Any],
    written: Written,
    row: int,
    item: int,
    scores: Scores,
    shape: tuple[int, int],
) -> torch.Tensor:
    """(W, *shape) of picture `item` of the row's context, where positive."""
    pixels, media = _picture_of(inputs, written, row, item)
    total: Any = None
    for step in range(STEPS):
        share = (step + 0.5) / STEPS
        changed = pixels.clone()
        changed[:, item] *= share
        changed.requires_grad_()
        with torch.enable_grad():
            words = scores(_log_probs(model, changed, media, written, row))[0]
            found = [torch.autograd.grad(word, changed, retain_graph=True)[0][0, item] for word in words]
        total = torch.stack(found) + (0 if total is None else total)
    parts = (total / STEPS * pixels[0, item]).sum(1)  # (W, H, V)
    pooled = torch.nn.functional.adaptive_avg_pool2d(parts[:, None], shape)[:, 0]
    return pooled.clamp(min=0)


def _picture_of(inputs: Mapping[str, Any], written: Written, row: int, item: int) -> tuple[torch.Tensor, dict]:
    """pixel_values (1, N, C, H, V) of a row's context, and its other media."""
    pixels = inputs.get("pixel_values")
    if not torch.is_tensor(pixels):
        raise ValueError("inputs holds no pixel_values, which this method changes; use method='attention'")
    context = int(written.contexts[row])
    media = {
        name: value[context : context + 1] if torch.is_tensor(value) and name != "media_index" else value
        for name, value in media_in(inputs).items()
        if name not in ("pixel_values", "media_index")
    }
    own = pixels[context : context + 1]
    return (own if own.ndim == 5 else own[:, None]).clone(), media


def _log_probs(model: Any, pixels: torch.Tensor, media: dict, written: Written, row: int) -> torch.Tensor:
    """(n, T - 1) of the row's tokens, read with n changed pictures."""
    count = len(pixels)
    repeated = {
        name: value.expand(count, *value.shape[1:]) if torch.is_tensor(value) else value
        for name, value in media.items()
    }
    rows = written._replace(
        ids=written.ids[row].expand(count, -1),
        mask=None if written.mask is None else written.mask[row].expand(count, -1),
        types=None if written.types is None else written.types[row].expand(count, -1),
        contexts=torch.arange(count, device=pixels.device),
    )
    return read_again(model, {**repeated, "pixel_values": pixels}, rows).log_probs
