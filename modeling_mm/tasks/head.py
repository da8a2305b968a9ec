"""What the heads share: the base model as `model`, its context, published towers, and the head over a vocabulary.

R rows, T text tokens, V vocabulary, D hidden_size.
"""

from collections import OrderedDict
from typing import Any, Self

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import slice_logits_to_keep

from ...configuration.base import ConfigFaults
from ...configuration.checks.fields import REPRESENTATION_FUSIONS
from ...configuration.mm import MMConfig
from ...configuration.text import MMTextConfig
from ..core.attention import build_norm
from ..core.base import MMPreTrainedModel
from ..core.input_checks import check_labels, check_tensors
from ..core.inputs_outputs import MMCausalLMOutput, MMContextOutput
from ..core.linear import capped, linear
from ..fusion.media_encoder import MMFeatures
from ..losses.token_losses import is_plain_head, loss_without_logits, token_loss
from ..model import MMModel
from ..towers.vit import MMVisionModel


def build_vocabulary_head(config: MMConfig) -> tuple[nn.Module, nn.Linear]:
    """States (..., D) -> (..., D) as BERT's head does before the vocabulary (dense, activation, norm; nothing where
    the config has none), and (..., D) -> logits (..., V)."""
    text: MMTextConfig = config.text_config
    transform: nn.Module = nn.Identity()
    if config.lm_head_transform:
        dense = nn.Linear(text.hidden_size, text.hidden_size)
        norm = build_norm(text.norm_type, text.hidden_size, text.layer_norm_eps)
        act = ACT2FN[config.lm_head_act or text.hidden_act]
        transform = nn.Sequential(OrderedDict(dense=dense, act=act, norm=norm))
    return transform, nn.Linear(text.hidden_size, config.written_tokens, bias=config.lm_head_bias)


def check_task(head: MMPreTrainedModel, faults: list[str]) -> None:
    """Raises ConfigFaults for a configuration that a head cannot be built of."""
    if faults:
        raise ConfigFaults(type(head).__name__, faults)


def predicted(
    model: Any,
    states: torch.Tensor,
    targets: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None,
    return_logits: bool | None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The loss (None without targets) and the logits (..., V) that a vocabulary head gives states (..., D); only the
    loss without `return_logits`.

    None: in training with targets, where gradients are made, only the loss, if the head is a plain linear layer.

    Raises: ValueError if nothing is asked for.
    """
    head, states = model.lm_head, model.lm_head_transform(states)
    smoothing, softcap = model.config.label_smoothing, model.config.final_logit_softcapping
    if return_logits is None:
        trains = head.training and torch.is_grad_enabled() and targets is not None
        return_logits = not (trains and is_plain_head(head))
    if not return_logits:
        if targets is None:
            raise ValueError("return_logits=False gives only the loss, and the loss needs labels")
        return loss_without_logits(head, states, targets, num_items_in_batch, smoothing, softcap), None
    logits = capped(linear(head, states), softcap)
    return None if targets is None else token_loss(logits, targets, num_items_in_batch, smoothing), logits


class MMHead(MMFeatures, MMPreTrainedModel):
    """A task on top of MMModel."""

    model: MMModel

    def encode_context(self, *args, **kwargs) -> MMContextOutput | None:
        """See `MMModel.encode_context`; the result may be passed as encoder_outputs, as often as wanted."""
        return self.model.encode_context(*args, **kwargs)

    def freeze_pooled(self, keep: tuple[str, ...] = ()) -> None:
        """Freezes what only a pooled vector needs, of every part except those named; kept, so that AutoModel finds it.

        The mask token of a vision tower goes with it, unless "mask_token" is named.
        """
        parts = {"vision_tower", "audio_tower", "text_encoder", "language_model"} - set(keep)
        for part in (getattr(self.model, name) for name in parts):
            if isinstance(part, MMPreTrainedModel):  # a foreign tower is frozen when it is built
                for unread in part.pooled_only():
                    unread.requires_grad_(False)
        tower = self.model.vision_tower
        if isinstance(tower, MMVisionModel) and tower.mask_token is not None and "mask_token" not in keep:
            tower.mask_token.requires_grad_(False)

    @classmethod
    def from_towers(
        cls,
        vision,
        text,
        *,
        audio=None,
        text_encoder=None,
        cross_attention_every=None,
        flamingo=None,
        tokenizer=None,
        **config_overrides,
    ) -> Self:
        """A model that starts from published towers; what no tower has (cross-attention, projector, head) is new.

        `MMForConditionalGeneration` writes, so its text is causal; for every other head the text reads as its source
        did (`text_config={"is_causal": ...}` says otherwise). A head over the vocabulary is read with the text, where
        the source has one.

        Args:
            vision: directory or Hub id of a ViT, DeiT, CLIP or SigLIP, of any vision model of Transformers, or of an
                MM, whose image tower is taken; None with only `audio`.
            text: of a BERT, RoBERTa, DistilBERT, GPT-2, Llama, Qwen2 or Qwen3, with or without its head.
            audio: of any audio model of Transformers (AST, Whisper), or of an MM; of an encoder-decoder the encoder.
            text_encoder: of one that reads context text.
            cross_attention_every: put a gated [cross, mlp] layer, closed at first, before every so many-th layer of
                `text` (Flamingo).
            flamingo: a file of OpenFlamingo, whose `vision` and `text` are given too: its resampler, gated
                layers and embeddings.
            tokenizer: whose ids open, close and pad a text. None: those that the text's config does not name (BERT's)
                are read from the tokenizer saved with it.
            config_overrides: fields of MMConfig; those of a part (`text_config={...}`) are merged with the tower's.

        Raises: ValueError for a tower that is not known, or tensors too many, too few or of another shape.
        """
        from .warm_start import from_towers  # other libraries' names, which no other call needs

        return from_towers(
            cls,
            vision,
            text,
            audio=audio,
            text_encoder=text_encoder,
            cross_attention_every=cross_attention_every,
            flamingo=flamingo,
            tokenizer=tokenizer,
            **config_overrides,
        )


class MMVocabularyHead(MMHead):
    """A task that predicts tokens, by a matrix over the vocabulary that may be tied to the text's embeddings."""

    head_modules = {"lm_head": (), "lm_head_transform": ()}
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def build(self) -> None:
        """The parts of the model, with their first weights; what nothing reads is frozen."""
        self.model = MMModel(self.config)
        self.lm_head_transform, self.lm_head = build_vocabulary_head(self.config)
        self.post_init()
        # Of the poolers only that of a text encoder whose one vector is fused is read here.
        reads_vector = self.config.has_text_encoder and self.config.fusion_type in REPRESENTATION_FUSIONS
        reader = "language_model" if self.config.share_text_encoder else "text_encoder"
        self.freeze_pooled(keep=(reader,) if reads_vector else ())

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs):
        """As in Transformers. Raises ValueError where the layer over the vocabulary lacks rows of the embeddings."""
        if new_num_tokens is not None and self.config.unwritten_tokens:
            raise ValueError(
                f"unwritten_tokens={self.config.unwritten_tokens}: the last rows of the embeddings have none in the "
                "layer over the vocabulary, so that both cannot get one new size"
            )
        parent: Any = super()
        return parent.resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def check_targets(self, targets: torch.Tensor, input_ids, inputs_embeds) -> None:
        """Raises ValueError or TypeError unless targets are int64 (R, T), ids of the vocabulary or -100."""
        check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
        check_labels(self.config, targets, (input_ids if inputs_embeds is None else inputs_embeds).shape[:2])

    def predict(
        self,
        output: Any,
        targets: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
        return_logits: bool | None,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> MMCausalLMOutput:
        """The loss (with targets) and the logits of the base model's output, in addition to the fields of that
        output."""
        states = slice_logits_to_keep(output.last_hidden_state, logits_to_keep)
        loss, logits = predicted(self, states, targets, num_items_in_batch, return_logits)
        return MMCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            cross_attentions=output.cross_attentions,
            context_hidden_states=output.context_hidden_states,
            context_attention_mask=output.context_attention_mask,
        )
