"""MMForMaskedLM: fills in masked tokens of a text with its media in view.

B contexts, R rows, T text tokens, V vocabulary.
"""

# The base model's output has its states wherever there is a text: checked in words before.
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

from typing import Unpack

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from ...configuration.base import ConfigFaults
from ...configuration.checks.fields import REPRESENTATION_FUSIONS
from ...configuration.mm import MMConfig
from ..checks.text_inputs import check_labels, check_tensors
from ..core.model_inputs import MediaInputs, ModelInputs, RowInputs, reject_unknown, takes
from ..core.outputs import MMCausalLMOutput
from ..losses.token_losses import predicted
from ..model import MMModel
from .head import MMHead, build_head_transform


class MMForMaskedLM(MMHead):
    """The base model with BERT's head over a text that sees both ways."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MMConfig):
        super().__init__(config)
        faults = config.masked_lm_faults()
        if faults:
            raise ConfigFaults(type(self).__name__, faults)
        text = config.text_config
        self.model = MMModel(config)
        self.lm_head_transform = build_head_transform(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=config.lm_head_bias)
        self.post_init()
        reads_vector = config.has_text_encoder and config.fusion_type in REPRESENTATION_FUSIONS
        reader = "language_model" if config.share_text_encoder else "text_encoder"
        self.model.freeze_pooled(keep=(reader,) if reads_vector else ())

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
        return_logits: bool = True,
        **inputs: Unpack[ModelInputs],
    ) -> MMCausalLMOutput:
        """Predicts every token in its own place. Inputs as in `MMModel.forward`, without a cache, and:

        Args:
            labels: int64 (R, T), the ids that were masked in input_ids, -100 elsewhere; not shifted. Gives `loss`,
                their mean, or over `num_items_in_batch` of an accumulated batch.
            return_logits: False, with labels: the loss is made without the (R, T, V) logits, as in generation.
        """
        reject_unknown(inputs, MMForMaskedLM.forward)
        num_items_in_batch = inputs.pop("num_items_in_batch", None)
        if input_ids is None and inputs_embeds is None:
            raise ValueError("there is no text to fill in: pass input_ids or inputs_embeds")
        if labels is not None:
            check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
            check_labels(self.config, labels, (input_ids if inputs_embeds is None else inputs_embeds).shape[:2])
        output = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, use_cache=False, pooled=False,
            return_dict=True, **inputs,
        )  # fmt: skip
        states = self.lm_head_transform(output.last_hidden_state)
        how = num_items_in_batch, self.config.label_smoothing, return_logits
        loss, logits = predicted(self.lm_head, states, labels, *how)
        return MMCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            cross_attentions=output.cross_attentions,
            context_hidden_states=output.context_hidden_states,
            context_attention_mask=output.context_attention_mask,
        )
