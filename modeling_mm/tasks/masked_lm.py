"""MMForMaskedLM: fills in masked tokens of a text with its media in view.

B contexts, R rows, T text tokens, V vocabulary.
"""

from typing import Unpack

import torch
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.tasks import masked_lm_faults
from ...configuration.mm import MMConfig
from ..core.inputs_outputs import MediaInputs, MMCausalLMOutput, ModelInputs, RowInputs, reject_unknown, takes
from .drawing import MMDrawsInParallel
from .head import MMVocabularyHead, check_task


class MMForMaskedLM(MMDrawsInParallel, MMVocabularyHead):  # pyright: ignore[reportIncompatibleMethodOverride]: device
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
