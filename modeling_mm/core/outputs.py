"""What the models return. Fields that are None are absent (ModelOutput).

B contexts, R rows (texts), T text tokens, S context tokens, H heads, V vocabulary, Dt text width, Dc context width,
Dv vision tower width.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput
from transformers.utils.output_capturing import capture_outputs


class MMOutput(ModelOutput):
    """Transformers' ModelOutput, whose fields are listed once per class instead of at each field that is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        if value is not None and name in getattr(type(self), "__dataclass_fields__", ()):
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        """The fields are items already; Transformers reads the first one as all of them where it is no tensor."""
        first = next(iter(vars(self).values()))
        if first is not None and not torch.is_tensor(first):
            super().__post_init__()


def capture_when_asked(forward: Callable) -> Callable:
    """Transformers' capture_outputs (hidden states and attentions by hooks), passed by where a call asks for none."""
    capturing = capture_outputs(forward)

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        asked = (
            kwargs[name] if name in kwargs else getattr(self.config, name)
            for name in ("output_hidden_states", "output_attentions")
        )
        if kwargs.get("return_dict") is not True or any(asked):
            return capturing(self, *args, **kwargs)
        del kwargs["return_dict"]
        return forward(self, *args, **kwargs)

    return wrapper


@dataclass
class MMContextOutput(MMOutput):
    """Everything the rows may look at, encoded once per context.

    last_hidden_state: (B, S, Dc), tokens at the width that the text's attention reads: of pictures, videos and clips,
        then of text; after a text encoder under cross_attention only the text's.
    attention_mask: bool (B, S), True = real, **real tokens first**; None: all are real.
    token_sources: int64 (B, S, 3): modality (0 image, 1 video, 2 audio, 3 text), item number, position within the
        item; padding is -1.
    pooler_output: (B, Dv), the tower's pooled vector averaged over the items present (zeros without any), or
        the text encoder's vector.
    vision_output, video_output, audio_output, text_output: the towers' own outputs for the items present; generate()
        drops them.
    packed_offsets: int64 (B, S + 1), the number of real tokens before each place when padding was between them; None:
        nothing was moved.
    pooler_outputs: {"vision": (B, Dv), "audio": (B, Da)} where both towers gave something; None otherwise.
    """

    last_hidden_state: torch.Tensor
    attention_mask: torch.Tensor | None = None
    token_sources: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    vision_output: BaseModelOutputWithPooling | None = None
    video_output: BaseModelOutputWithPooling | None = None
    audio_output: BaseModelOutputWithPooling | None = None
    text_output: ModelOutput | None = None
    packed_offsets: torch.Tensor | None = None
    pooler_outputs: dict[str, torch.Tensor] | None = None


@dataclass
class MMModelOutput(MMOutput):
    """The base model's output. Of only text: decoder states; of only media: the context; of both: fused states.

    last_hidden_state: (R, T, Dt), or (B, S, Dc) from only media.
    pooler_output: (R, Dt) by the text pooler, (R, fusion_size) under concat, sum and gated, or (B, Dv) from only
        media.
    hidden_states, attentions: of the text stack; cross_attentions: per cross layer (R, H, T, S), S in packed order
    (token_sources of the context says what each key is). Under merged without a cache they are of the whole sequence,
    media and text; with one, of the text.
    modality_embeds: {"text" or a modality: (R, width)}, what concat, sum, gated and decision join, and
    modality_present: {name: bool (R,)}, which rows have it.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None
    modality_embeds: dict[str, torch.Tensor] | None = None
    modality_present: dict[str, torch.Tensor] | None = None


@dataclass
class MMCausalLMOutput(MMOutput):
    """The generation head's output: loss when labels were given, logits (R, T or kept, V), then as MMModelOutput."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None


@dataclass
class MMRankOutput(MMOutput):
    """What `rank_answers` returns. C candidates, Ta tokens of a candidate.

    scores: (R, C), log-likelihoods in the candidates' order, summed or per token; -inf: left out by top_k.
    indices: int64 (R, C), the candidates best first; under top_k the (R, top_k) that were scored.
    token_scores: (R, C, Ta), of each token in its own column, 0 on padding; of those left out only the first token's.
    """

    scores: torch.Tensor | None = None
    indices: torch.Tensor | None = None
    token_scores: torch.Tensor | None = None


@dataclass
class MMScoreOutput(MMOutput):
    """What `score` returns.

    token_scores: (R, T - 1), the log-likelihood of tokens 1..T - 1, 0 where nothing is scored.
    scores: (R,), their sums; lengths: int64 (R,), how many they are.
    """

    token_scores: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    lengths: torch.Tensor | None = None


@dataclass
class MMClassifierOutput(MMOutput):
    """The classifier's output. L labels, M modalities, the text among them.

    loss when labels were given; logits (R, L). Under fusion_type="decision" also modality_logits {name: (R, L)}, the
    answer of each modality, and fusion_weights (M,), in the order of "text" and the config's modalities.
    hidden_states, attentions, cross_attentions: of the text stack, as in MMModelOutput.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    modality_logits: dict[str, torch.Tensor] | None = None
    fusion_weights: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMRetrievalOutput(MMOutput):
    """Pictures against texts. P projection_dim; a context of videos or clips takes the place of a picture.

    loss and its parts loss_itc, loss_itm, each without its weight; logits_per_image (B, R) and logits_per_text (R, B),
    scaled similarities within the call; itm_logits (R, 2), of each text with its own context, with a loss;
    image_embeds (B, P), zeros for a context without any media, and text_embeds (R, P), of length 1. hidden_states,
    attentions: of the texts read alone.
    """

    loss: torch.Tensor | None = None
    loss_itc: torch.Tensor | None = None
    loss_itm: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMSearchOutput(MMOutput):
    """What `retrieve` finds, best first. Q queries, k of the index for each.

    indices: int64 (Q, k); scores: (Q, k), cosine similarities; itm_scores: (Q, k), log-odds of a match, by which the k
    are then ordered.
    """

    indices: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    itm_scores: torch.Tensor | None = None


@dataclass
class MMPreTrainingOutput(MMOutput):
    """Each loss of `pretraining_losses`, without its weight, and loss, their weighted sum.

    logits (R, T, V) of "lm", mlm_logits (R, T, V), itm_logits (R, 2), image_embeds (B, P), text_embeds (R, P).
    hidden_states, attentions: of the texts read alone, for "itc".
    """

    loss: torch.Tensor | None = None
    loss_itc: torch.Tensor | None = None
    loss_itm: torch.Tensor | None = None
    loss_lm: torch.Tensor | None = None
    loss_mlm: torch.Tensor | None = None
    loss_mim: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
