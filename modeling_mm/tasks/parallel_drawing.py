"""MaskGIT's decoding (Chang et al. 2022: arXiv:2202.04200, §3.2): all codes at once, the least certain ones again.

    hidden codes ─ predict ─ sample ─ certainty + noise ─ of F free codes the F cos(pi/2 t/steps) least: hidden again

R rows, N codes of a picture, K codes of the codebook. Each row is its own: no step reads another row.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.generation.logits_process import (
    ClassifierFreeGuidanceLogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..core.inputs_outputs import MediaInputs, pop_inputs, reject_unknown
from ..core.linear import capped, linear
from ..core.modes import evaluating
from .drawing import check_asked, is_whole, known_codes, prompts_with_begin, row_seeds
from .guidance import is_guided, negative_prompt, with_empty
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
    head: Any,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    inputs: dict[str, Any],
    known_ids: torch.Tensor | None,
    negative: tuple[torch.Tensor | None, torch.Tensor | None],
    choice: Choice,
    several: int,
    steps: int,
    guidance_scale: float | None,
    seed: int | list[int] | None,
) -> torch.Tensor:
    """`MMForMaskedLM.draw`: int64 (R * n, N), n being `several`; `negative` the ids and mask of negative prompts."""
    reject_unknown(inputs, (*MediaInputs.__annotations__, "context_index", "encoder_outputs"), "draw")
    check_asked(several, guidance_scale, negative[0])
    if negative[0] is not None and not head.config.has_text_encoder:
        raise ValueError("negative_prompt_ids are context texts, and this model has no text encoder to read them")
    prompts, mask = prompts_with_begin(head, input_ids, attention_mask, inputs)
    if head.config.drawing_mask_id is None:
        raise ValueError("drawing in parallel hides codes by drawing_mask_id, which the configuration lacks")
    count = head.config.codes_per_picture
    if not is_whole(steps) or not 1 <= steps <= count:
        raise ValueError(f"steps={steps} must be in 1..{count}, the codes of a picture")
    index, ready = inputs.pop("context_index", None), inputs.pop("encoder_outputs", None)
    rows = len(prompts)
    known = known_codes(head, known_ids, rows, several)
    with evaluating(head), negative_prompt(*negative):
        context = head.model.context_of(ready, None, **pop_inputs(inputs, MediaInputs))
        if is_guided(guidance_scale):
            if context is None:
                raise ValueError("guidance_scale compares with the empty context, but there is none to read")
            context, index = with_empty(head.model, context, index, rows)
        index = None if index is None else index.repeat_interleave(several)
        prompts = prompts.repeat_interleave(several, 0)
        mask = None if mask is None else mask.repeat_interleave(several, 0)
        seeds = row_seeds(seed, rows, several)
        predict = _predictor(head, prompts, mask, context, index, guidance_scale)
        shape = (rows * several, count)
        first = head.config.drawing_first_id
        codes = None if known is None else torch.where(known == FREE, known, known - first)
        return first + choose_in_steps(predict, shape, head.device, steps, choice, RowNoise(seeds), codes)


def _predictor(head: Any, prompts, mask, context, index, guidance_scale):
    """Of codes (R, N), FREE where hidden, the logits (R, N, K)."""
    config, count = head.config, head.config.codes_per_picture
    first, size = config.drawing_first_id, config.drawing_codebook_size
    end = torch.full_like(prompts[:, :1], config.drawing_end_id)
    guide: Any = ClassifierFreeGuidanceLogitsProcessor(guidance_scale) if is_guided(guidance_scale) else None

    def predict(codes: torch.Tensor) -> torch.Tensor:
        inside = torch.where(codes == FREE, config.drawing_mask_id, codes + first)
        ids = torch.cat([prompts, inside, end], 1)
        real = None if mask is None else torch.cat([mask, torch.ones_like(ids[:, mask.shape[1] :])], 1)
        if guide is not None:
            ids, real = torch.cat([ids, ids]), None if real is None else torch.cat([real, real])
        output = head.model(
            ids,
            real,
            encoder_outputs=context,
            context_index=index,
            use_cache=False,
            pooled=False,
            return_dict=True,
        )
        states = output.last_hidden_state[:, -count - 1 : -1]
        logits = linear(head.lm_head, head.lm_head_transform(states))[..., first : first + size].float()
        logits = capped(logits, config.final_logit_softcapping)
        if guide is not None:
            logits = guide(prompts, logits)
        return logits

    return predict


def choose_in_steps(
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
