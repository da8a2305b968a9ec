"""MaskGIT's decoding (Chang et al. 2022: arXiv:2202.04200, §3.2): all codes at once, the least certain ones again.

    hidden codes ─ predict ─ sample ─ certainty + noise ─ of F free codes the F cos(pi/2 t/steps) least: hidden again

R rows, N codes of a picture, K codes of the codebook. Each row is its own: no step reads another row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .picture_grammar import FREE, RowNoise


class Choice(NamedTuple):
    """How a code is chosen from its logits, and how much chance there is in which codes stay."""

    temperature: float
    top_k: int
    top_p: float
    choice_temperature: float
    do_sample: bool

    def warpers(self) -> LogitsProcessorList:
        """Transformers' own, which refuse what is out of range."""
        made = LogitsProcessorList()
        if self.do_sample and self.temperature != 1.0:
            made.append(TemperatureLogitsWarper(self.temperature))
        if self.do_sample and self.top_k:
            made.append(TopKLogitsWarper(self.top_k))
        if self.do_sample and self.top_p < 1.0:
            made.append(TopPLogitsWarper(self.top_p))
        return made


def draw_in_parallel(
    predict: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, int],
    device: torch.device,
    steps: int,
    choice: Choice,
    noise: RowNoise,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """Codes int64 (R, N).

    Args:
        predict: of codes (R, N), FREE where they are hidden, the logits (R, N, K).
        known: codes (R, N) that stay as they are, FREE where there are none.
    """
    codes = torch.full(shape, FREE, device=device) if known is None else known.clone()
    free = (codes == FREE).sum(1, keepdim=True)
    warpers = choice.warpers()
    for step in range(1, steps + 1):
        hidden = codes == FREE
        logits = predict(codes)
        scores = warpers(codes, logits.flatten(0, 1)).view_as(logits).log_softmax(-1)
        noisy = scores + noise.gumbel(tuple(scores.shape), device) if choice.do_sample else scores
        chosen = noisy.argmax(-1)
        certainty = scores.gather(-1, chosen[..., None])[..., 0]
        if choice.do_sample:
            left = choice.choice_temperature * (1 - step / steps)
            certainty = certainty + left * noise.gumbel(shape, device)
        count = (free * math.cos(math.pi / 2 * step / steps)).floor().long()  # hidden again, one less at least
        count = torch.minimum(count, hidden.sum(1, keepdim=True) - 1).clamp(min=0)
        order = torch.argsort(certainty.masked_fill(~hidden, torch.inf), dim=1, stable=True)
        rank = torch.argsort(order, dim=1)
        codes = torch.where(hidden & (rank >= count), chosen, codes)
    return codes
