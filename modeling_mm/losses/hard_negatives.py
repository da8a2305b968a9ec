"""Hard negatives for matching: pictures and texts that look alike to the embeddings, but do not belong together.

N pictures and M texts of all processes. Every process works out the same pairs of the whole batch, and keeps those of
its own pictures: ids of texts travel between processes, the states of pictures never do.
"""

from typing import NamedTuple

import torch

from .gather import gather_rows
from .positive_pairs import Pairs


class MinedPairs(NamedTuple):
    """n pairs that do not match. images, texts: int64 (n,), numbers over all processes."""

    images: torch.Tensor
    texts: torch.Tensor


def hard_negatives(
    similarities: torch.Tensor, pairs: Pairs, sample: bool = True, hard_share: float = 1.0
) -> MinedPairs:
    """For each text one picture, and for the picture of each text one text, both not belonging to it.

    Drawn with the probabilities softmax(similarities) of those allowed (Li et al. 2021, arXiv:2107.07651, §3.2), the
    random numbers being those of the first process. A text or picture that everything belongs to has no negative.

    Args:
        similarities: (N, M), scaled, over all processes.
        pairs: which of them belong together, duplicates of a text included.
        sample: False takes the most similar one.
        hard_share: with this probability a negative is drawn by similarity, else evenly from all that are allowed.
    """
    count = similarities.shape[1]
    none = torch.empty(0, dtype=torch.long, device=similarities.device)
    if not similarities.numel():
        return MinedPairs(none, none)
    allowed = ~pairs.positives().to(similarities.device)
    own = pairs.text_numbers.to(similarities.device)  # (M,), the picture of each text
    of_texts = similarities.masked_fill(~allowed, -torch.inf).T  # (M, N)
    of_images = similarities.masked_fill(~allowed, -torch.inf)[own]  # (M, M)
    if sample:
        generator = _common_generator(similarities.device, pairs)
        of_texts, of_images = (_perturbed(_evened(s, hard_share, generator), generator) for s in (of_texts, of_images))
    texts = torch.arange(count, device=similarities.device)
    has_image, has_text = allowed.any(0), allowed[own].any(1)
    images = torch.cat([of_texts.argmax(1)[has_image], own[has_text]])
    return MinedPairs(images, torch.cat([texts[has_image], of_images.argmax(1)[has_text]]))


def _evened(scores: torch.Tensor, hard_share: float, generator: torch.Generator) -> torch.Tensor:
    """All that is allowed scores 0 in the rows (probability 1 - hard_share) whose negative is drawn evenly."""
    if hard_share == 1:
        return scores
    is_even = torch.rand(len(scores), 1, generator=generator, device=scores.device) >= hard_share
    return scores.masked_fill(is_even & scores.isfinite(), 0)


def _perturbed(scores: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """scores + Gumbel noise: the largest is a draw from softmax(scores)."""
    noise = torch.empty_like(scores).exponential_(generator=generator)
    return scores - noise.clamp(min=torch.finfo(scores.dtype).tiny).log()


def _common_generator(device: torch.device, pairs: Pairs) -> torch.Generator:
    """Random numbers that are the same on every process."""
    seed = torch.randint(2**62, (1,)).to(device)
    seed = gather_rows(seed, group=pairs.group)[:1] if pairs.gather else seed
    return torch.Generator(device).manual_seed(int(seed))
