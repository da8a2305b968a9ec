"""draw(): pictures as rows of ids, from a text or any other context.

    MMDrawsInOrder        MMForConditionalGeneration: one id after another, by generate()       N steps, cached
    parallel_drawing.py   MMForMaskedLM: all at once, the least certain ones again (MaskGIT)    a few steps

What both share is here.

B contexts, R rows, n pictures of each, N codes of a picture, K codes of the codebook, T tokens of a prompt.
"""

import math
from typing import Any

import numpy as np
import torch
from transformers.generation.logits_process import LogitsProcessorList

from ..core.input_checks import MEDIA_INPUTS
from ..core.modes import evaluating
from .guidance import is_guided
from .picture_grammar import FREE, KnownIds, RowNoise, SeededChoice
from .row_ends import check_prompt_ends

# Settings of generate() by which a saved generation_config would change pictures that are not captions.
_NEUTRAL = {
    "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": None, "max_length": None,
    "return_dict_in_generate": False,
}  # fmt: skip


def row_seeds(seed: int | list[int] | None, rows: int, several: int) -> list[int] | None:
    """A seed for each of `several` pictures of R rows, only by the row's own seed and the number of the picture."""
    if seed is None:
        return None
    seeds = list(seed) if isinstance(seed, (list, tuple)) else [seed] * rows
    if len(seeds) != rows or not all(is_whole(one) and one >= 0 for one in seeds):
        raise ValueError(f"seed={seed!r:.80} is a whole number from 0, or a list of one for each of {rows} rows")
    return [
        int(np.random.SeedSequence([int(one), number]).generate_state(1)[0])
        for one in seeds
        for number in range(several)
    ]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or of NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_asked(several: Any, guidance_scale: Any, negative_ids: Any) -> None:
    """Raises ValueError or TypeError for a number of pictures or a guidance that draw() cannot follow."""
    if not is_whole(several) or several < 1:
        raise ValueError(f"num_return_sequences={several!r} is how many pictures of each row are drawn, 1 or more")
    if guidance_scale is not None:
        if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, (int, float, np.number)):
            raise TypeError(f"guidance_scale={guidance_scale!r} must be a number or None")
        if not 1 <= guidance_scale < math.inf:
            raise ValueError(f"guidance_scale={guidance_scale} must be above 1 and finite, or 1 or None for none")
    if negative_ids is not None and guidance_scale in (None, 1):
        raise ValueError("negative_prompt_ids are what guidance compares with; give guidance_scale above 1 too")


def prompts_with_begin(
    head: Any, input_ids, attention_mask, inputs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows (R, T) that end with begin, and their mask; without input_ids a row of bos for each context.

    Raises: ValueError for a model without codes of pictures, or without anything to draw.
    """
    config = head.config
    if not config.draws:
        raise ValueError(
            "this model's vocabulary holds no codes of pictures: MMConfig(drawing=processor.drawing) makes one "
            "that draws (docs/drawing.md)"
        )
    if input_ids is None:
        input_ids = _bos_rows(head, inputs)
    begins = input_ids[:, -1] == config.drawing_begin_id
    if bool(begins.all()):
        return input_ids, attention_mask
    if bool(begins.any()):
        raise ValueError("some rows end with begin and others do not; leave it out, draw() adds it")
    check_prompt_ends(attention_mask)
    column = torch.full_like(input_ids[:, :1], config.drawing_begin_id)
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], 1)
    return torch.cat([input_ids, column], 1), attention_mask


def _bos_rows(head: Any, inputs: dict[str, Any]) -> torch.Tensor:
    bos = head.config.text_config.bos_token_id
    ready = inputs.get("encoder_outputs")
    given = [inputs.get(name) for name in ("context_index", "context_input_ids", *MEDIA_INPUTS)]
    given.append(ready if ready is None or torch.is_tensor(ready) else ready[0])
    rows = next((len(value) for value in given if value is not None), None)
    if rows is None or bos is None:
        what = "nothing to draw: give context_input_ids or input_ids" if rows is None else "no bos_token_id"
        raise ValueError(f"{what}; processor(text=...) makes what draw() takes")
    return torch.full((rows, 1), bos, device=head.device)


def known_codes(head: Any, known_ids: torch.Tensor | None, rows: int, several: int) -> torch.Tensor | None:
    """int64 (R * n, N). Raises: ValueError or TypeError for other shapes, dtypes and ids."""
    if known_ids is None:
        return None
    first, size, count = head.config.drawing_first_id, head.config.drawing_codebook_size, head.config.codes_per_picture
    if not torch.is_tensor(known_ids) or known_ids.is_floating_point() or known_ids.dtype == torch.bool:
        raise TypeError(f"known_ids is an int64 tensor (R, {count}), {FREE} where ids are drawn")
    if known_ids.ndim != 2 or known_ids.shape[1] != count or known_ids.shape[0] not in (1, rows):
        raise ValueError(
            f"known_ids is ({rows}, {count}), or (1, {count}) for all rows, {FREE} where ids are drawn; got "
            f"{tuple(known_ids.shape)}"
        )
    is_code = (known_ids >= first) & (known_ids < first + size)
    if bool((~is_code & (known_ids != FREE)).any()):
        raise ValueError(
            f"known_ids are ids of codes, {first}..{first + size - 1} as processor.encode_images gives them, or "
            f"{FREE} where ids are drawn"
        )
    return known_ids.long().to(head.device).expand(rows, -1).repeat_interleave(several, 0)


class MMDrawsInOrder:
    """Pictures by generate(): id after id in raster order."""

    config: Any
    device: Any
    generate: Any

    @torch.no_grad()
    def draw(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        num_return_sequences: int = 1,
        guidance_scale: float | None = None,
        seed: int | list[int] | None = None,
        known_ids: torch.Tensor | None = None,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        **inputs: Any,
    ) -> torch.Tensor:
        """Draws pictures: `processor.decode_images(model.draw(**processor(text=..., return_tensors="pt")))`.

        Args:
            input_ids, attention_mask: (R, T) prompts, for models without a text encoder; None: bos. begin is added.
            num_return_sequences: n, pictures of each row.
            guidance_scale: above 1 it keeps nearer to the text, at twice the work; None or 1: none. It needs training
                with empty texts now and then (`MMDataCollator(guidance_dropout=0.1)`).
            seed: a whole number, or one for each row: a row's n pictures then depend only on its seed and its text,
                not on the other rows (within rounding). None: torch's own random numbers.
            known_ids: int64 (R, N) or (1, N), ids of `processor.encode_images`, -100 where they are drawn: inpainting.
                In raster order a code sees only those before it.
            do_sample, temperature, top_k, top_p: as in generate(); do_sample=False takes the likeliest id each time.
            inputs: context_input_ids and other media, context_index, or encoder_outputs; more arguments of generate().

        Returns: int64 (R * n, N), ids of the vocabulary in raster order, the n of a row one after another.
        """
        check_asked(num_return_sequences, guidance_scale, inputs.get("negative_prompt_ids"))
        fixed = sorted({*_NEUTRAL, "max_new_tokens", "eos_token_id"} & inputs.keys())
        if fixed:
            raise ValueError(f"draw() sets {', '.join(fixed)} itself, since it writes whole pictures; leave it out")
        prompts, mask = prompts_with_begin(self, input_ids, attention_mask, inputs)
        rows, length = prompts.shape
        choosers = LogitsProcessorList(inputs.pop("logits_processor", None) or [])
        known = known_codes(self, known_ids, rows, num_return_sequences)
        if known is not None:
            choosers.append(KnownIds(known, length))
        if seed is not None:
            if not do_sample:
                raise ValueError(f"seed={seed!r:.80} with do_sample=False: nothing is drawn at random; leave it out")
            choosers.append(SeededChoice(RowNoise(row_seeds(seed, rows, num_return_sequences)), self.config))
        shape = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if do_sample else {}
        sources = ("encoder_outputs", "context_input_ids", *MEDIA_INPUTS)
        if is_guided(guidance_scale) and all(inputs.get(name) is None for name in sources):
            inputs |= self._negative_prompts(inputs, rows, num_return_sequences)
        elif inputs.get("negative_prompt_ids") is not None and not self.config.has_text_encoder:
            raise ValueError("negative_prompt_ids are context texts, and this model has no text encoder to read them")
        module: Any = self
        with evaluating(module):
            written = self.generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts) if mask is None else mask,
                logits_processor=choosers,
                eos_token_id=self.config.drawing_end_id,
                max_new_tokens=self.config.codes_per_picture + 1,
                **{**_NEUTRAL, **shape, "do_sample": do_sample, "guidance_scale": guidance_scale},
                num_return_sequences=num_return_sequences,
                **inputs,
            )
        return written[:, length : length + self.config.codes_per_picture]

    def _negative_prompts(self, inputs: dict[str, Any], rows: int, several: int) -> dict[str, torch.Tensor]:
        """Prompts (R * n, T) of rows without a context: the given ones, with begin, or bos and begin, the empty text.

        Raises: ValueError for another number of prompts.
        """
        given, mask = (inputs.get(f"negative_prompt_{name}") for name in ("ids", "attention_mask"))
        ids = torch.full((1, 1), self.config.text_config.bos_token_id, device=self.device) if given is None else given
        if not torch.is_tensor(ids) or ids.dtype != torch.long or ids.ndim != 2 or len(ids) not in (1, rows):
            shape = tuple(ids.shape) if torch.is_tensor(ids) else type(ids).__name__
            raise ValueError(f"negative_prompt_ids is int64 (1, T) or ({rows}, T), prompts as input_ids; got {shape}")
        ids, mask = prompts_with_begin(self, ids, torch.ones_like(ids) if mask is None else mask, {})
        each = {"negative_prompt_ids": ids, "negative_prompt_attention_mask": mask}
        return {name: one.expand(rows, -1).repeat_interleave(several, 0) for name, one in each.items()}
