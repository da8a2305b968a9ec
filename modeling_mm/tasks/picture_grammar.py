"""What a step of generate() may write where a vocabulary holds codes of pictures beside words.

    bos  word …  eos                       a row without begin writes only words
    bos  word …  begin  code × N  end      a row whose prompt has begin writes one whole picture

R rows, T tokens so far, N codes of a picture, V vocabulary.
"""

import math
from typing import Any

import torch
from transformers.generation.logits_process import LogitsProcessor

from ...configuration.mm import MMConfig

FREE = -100  # among known ids: a place that is drawn


class PictureGrammar(LogitsProcessor):
    """Rules out what does not follow: (R, V) scores by the (R, T) tokens before them.

    Args:
        ends: ids that end a text; after a whole picture only these follow, or its end again where there are none.
    """

    def __init__(self, config: MMConfig, ends: list[int]):
        first, size = config.drawing_first_id, config.drawing_codebook_size
        assert first is not None and size is not None, "checked with the configuration"
        self.begin, self.count = config.drawing_begin_id, math.prod(config.drawing_grid or ())
        no_words = [config.drawing_begin_id, config.drawing_end_id, config.drawing_mask_id]
        words, codes, end, after = allowed = torch.zeros(4, config.written_tokens, dtype=torch.bool)
        words.fill_(True)
        words[[one for one in no_words if one is not None]] = False
        words[first : first + size] = False
        codes[first : first + size] = True
        end[config.drawing_end_id] = True
        after[[one for one in ends if one < len(after)] or config.drawing_end_id] = True
        self.allowed = allowed

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.allowed = self.allowed.to(scores.device)  # moved once
        length = input_ids.shape[1]
        places = torch.arange(1, length + 1, device=input_ids.device)
        begun = (places * (input_ids == self.begin)).amax(1)  # 0: not at all
        written = length - begun
        state = torch.where(written < self.count, 1, torch.where(written == self.count, 2, 3))
        return scores.masked_fill(~self.allowed[torch.where(begun == 0, 0, state)], -torch.inf)


class KnownIds(LogitsProcessor):
    """Writes the ids of a picture that are known, int64 (R, N), FREE where they are not; after prompts of length P."""

    def __init__(self, known: torch.Tensor, prompt_length: int):
        self.known, self.start = known, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place = input_ids.shape[1] - self.start
        if place >= self.known.shape[1]:
            return scores
        ids = self.known[:, place, None]
        forced = torch.full_like(scores, -torch.inf).scatter(1, ids.clamp(min=0), 0.0)
        return torch.where(ids >= 0, forced, scores)


class RowNoise:
    """Noise for R rows: each row has a generator of its own, so that no row changes another's; None: torch's own, for
    all rows together. Made on the CPU: the same numbers on every device."""

    def __init__(self, seeds: list[int] | None):
        self.generators = None if seeds is None else [torch.Generator().manual_seed(seed) for seed in seeds]

    def gumbel(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Standard Gumbel noise (R, ...): the argmax of log-probabilities and it is a sample."""
        if self.generators is None:
            drawn = torch.rand(shape)
        else:
            drawn = torch.stack([torch.rand(shape[1:], generator=one) for one in self.generators])
        tiny = torch.finfo(torch.float32).tiny
        return -(-drawn.clamp(min=tiny).log()).clamp(min=tiny).log().to(device)


class SeededChoice(LogitsProcessor):
    """Chooses the token of each row by the row's own noise, after all that shapes the scores: one score stays finite,
    so that generate(do_sample=True) has no other to draw. Only codes are drawn; elsewhere the best id is taken."""

    def __init__(self, noise: RowNoise, config: Any):
        self.noise, self.codes = noise, slice(config.drawing_first_id, None)
        self.size = config.drawing_codebook_size

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noisy = scores.float().clone()
        codes = noisy[:, self.codes][:, : self.size]
        codes += self.noise.gumbel(tuple(codes.shape), scores.device)
        best = noisy.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)
