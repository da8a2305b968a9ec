"""MMForMaskedLM: fills in masked tokens of a text with its media in view.

B contexts, R rows, T text tokens, V vocabulary.
"""

# The base model's output has its states wherever there is a text: checked in words before.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

from typing import Unpack

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from ...configuration.base import ConfigFaults
from ...configuration.checks.fields import REPRESENTATION_FUSIONS
from ...configuration.mm import MMConfig
from ..checks.text_inputs import check_labels, check_tensors
from ..core.base import MMKwargs, MMPreTrainedModel, reject_unknown
from ..core.outputs import MMCausalLMOutput, MMContextOutput
from ..losses.linear_cross_entropy import predicted
from ..model import MEDIA_INPUTS, TEXT_INPUTS, MMModel
from .generation import build_head_transform


class MMForMaskedLM(MMPreTrainedModel):
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

    def encode_context(self, *args, **kwargs) -> MMContextOutput | None:
        """See `MMModel.encode_context`; the result may be passed as encoder_outputs, as often as wanted."""
        return self.model.encode_context(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        media_index: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        context_index: torch.Tensor | None = None,
        context_ranges: torch.Tensor | None = None,
        encoder_outputs=None,
        encoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_logits: bool = True,
        **kwargs: Unpack[MMKwargs],
    ) -> MMCausalLMOutput:
        """Predicts every token in its own place. Inputs as in `MMModel.forward`, without a cache, and:

        Args:
            labels: int64 (R, T), the ids that were masked in input_ids, -100 elsewhere; not shifted. Gives `loss`,
                their mean, or over `num_items_in_batch` of an accumulated batch.
            return_logits: False, with labels: the loss is made without the (R, T, V) logits, as in generation.
        """
        reject_unknown(
            kwargs, {*MEDIA_INPUTS, *TEXT_INPUTS, "labels", "return_logits"} - {"past_key_values", "use_cache"}
        )
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        if input_ids is None and inputs_embeds is None:
            raise ValueError("there is no text to fill in: pass input_ids or inputs_embeds")
        if labels is not None:
            check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
            check_labels(self.config, labels, (input_ids if inputs_embeds is None else inputs_embeds).shape[:2])
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            pixel_attention_mask=pixel_attention_mask,
            visual_embeds=visual_embeds,
            pixel_values_videos=pixel_values_videos,
            video_attention_mask=video_attention_mask,
            input_features=input_features,
            input_features_mask=input_features_mask,
            context_input_ids=context_input_ids,
            context_attention_mask=context_attention_mask,
            media_index=media_index,
            interpolate_pos_encoding=interpolate_pos_encoding,
            context_index=context_index,
            context_ranges=context_ranges,
            encoder_outputs=encoder_outputs,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=False,
            return_dict=True,
            **kwargs,
        )
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
