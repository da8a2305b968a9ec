"""What the heads share: the base model as `model`, and the head over a vocabulary."""

from collections import OrderedDict
from typing import Self

from torch import nn
from transformers.activations import ACT2FN

from ...configuration.mm import MMConfig
from ...configuration.text import MMTextConfig
from ..core.attention import build_norm
from ..core.base import MMPreTrainedModel
from ..core.outputs import MMContextOutput
from ..model import MMModel


def build_head_transform(config: MMConfig) -> nn.Module:
    """BERT's prediction head before the vocabulary: dense, activation, norm; nothing where the config has none."""
    if not config.lm_head_transform:
        return nn.Identity()
    text: MMTextConfig = config.text_config
    dense = nn.Linear(text.hidden_size, text.hidden_size)
    norm = build_norm(text.norm_type, text.hidden_size, text.layer_norm_eps)
    return nn.Sequential(OrderedDict(dense=dense, act=ACT2FN[config.lm_head_act or text.hidden_act], norm=norm))


class MMHead(MMPreTrainedModel):
    """A task on top of MMModel."""

    model: MMModel

    def encode_context(self, *args, **kwargs) -> MMContextOutput | None:
        """See `MMModel.encode_context`; the result may be passed as encoder_outputs, as often as wanted."""
        return self.model.encode_context(*args, **kwargs)

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
            vision: directory or Hub id of a ViT, DeiT, CLIP or SigLIP, or of any vision model of Transformers; None
                with `audio` alone.
            text: of a BERT, RoBERTa, DistilBERT, GPT-2, Llama, Qwen2 or Qwen3, with or without its head.
            audio: of any audio model of Transformers (AST, Whisper); of an encoder-decoder the encoder.
            text_encoder: of one that reads context text.
            cross_attention_every: put a gated [cross, mlp] layer, closed at first, before every so many-th layer of
                `text` (Flamingo).
            flamingo: a file of OpenFlamingo, whose `vision` and `text` are given beside it: its resampler, gated
                layers and embeddings.
            tokenizer: whose ids open, close and pad a text. None: those that the text's config does not name (BERT's)
                are read from the tokenizer that is saved beside it.
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
