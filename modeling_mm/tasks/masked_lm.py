"""MMForMaskedLM: fills in masked tokens of a text with its media in view.

B contexts, R rows, T text tokens, V vocabulary.
"""

from typing import Any, Unpack

import torch
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.tasks import masked_lm_faults
from ...configuration.mm import MMConfig
from ..core.inputs_outputs import MediaInputs, MMCausalLMOutput, ModelInputs, RowInputs, reject_unknown, takes
from .head import MMVocabularyHead, check_task


class MMForMaskedLM(MMVocabularyHead):
    """The base model with BERT's head over a text that sees both ways; draw() where the vocabulary holds codes of
    pictures.

    `from_towers(vision, text)` starts from published towers, and takes the head of a BERT over with its text.
    """

    def __init__(self, config: MMConfig):
        super().__init__(config)
        check_task(self, masked_lm_faults(config))
        self.build()

    @can_return_tuple
    @takes(MediaInputs, RowInputs)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        return_logits: bool | None = None,
        **inputs: Unpack[ModelInputs],
    ) -> MMCausalLMOutput:
        """Predicts every token in its own place. Inputs as in `MMModel.forward`, without a cache, and:

        Args:
            labels: int64 (R, T), the ids that were masked in input_ids, -100 elsewhere; not shifted. Gives `loss`,
                their mean, or over `num_items_in_batch` of an accumulated batch.
            return_logits: False, with labels: the loss is made without the (R, T, V) logits, as in generation. None:
                False in training with labels, else True.
        """
        reject_unknown(inputs, MMForMaskedLM.forward)
        num_items_in_batch = inputs.pop("num_items_in_batch", None)
        if input_ids is None and inputs_embeds is None:
            raise ValueError("there is no text to fill in: pass input_ids or inputs_embeds")
        if labels is not None:
            self.check_targets(labels, input_ids, inputs_embeds)
        inputs["use_cache"] = False
        output = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, pooled=False, return_dict=True,
            **inputs,
        )  # fmt: skip
        return self.predict(output, labels, num_items_in_batch, return_logits)

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
        steps: int = 8,
        do_sample: bool = True,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
        top_k: int = 0,
        top_p: float = 1.0,
        negative_prompt_ids: torch.Tensor | None = None,
        negative_prompt_attention_mask: torch.Tensor | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Draws pictures in a few steps (MaskGIT, Chang et al. 2022: arXiv:2202.04200); trained by
        `MMDataCollator(masked_targets=True)`. As `MMForConditionalGeneration.draw`, and:

        Args:
            steps: how often all codes are predicted, 1..N. After step t of them cos(pi/2 * t / steps) of the codes are
                hidden again, the least certain ones.
            choice_temperature: of the Gumbel noise on that certainty, which falls to 0 in the last step.
            known_ids: what is known is seen from everywhere.
        Raises: ValueError for a model without a mask id, and for guidance without a context.
        """
        from .parallel_drawing import Choice, draw_in_parallel  # files that only models of pictures need

        return draw_in_parallel(
            self,
            input_ids,
            attention_mask,
            inputs,
            known_ids,
            negative=(negative_prompt_ids, negative_prompt_attention_mask),
            choice=Choice(temperature, top_k, top_p, choice_temperature, do_sample),
            several=num_return_sequences,
            steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
        )
