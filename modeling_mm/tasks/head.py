"""What the heads share: the base model as `model`, and the head over a vocabulary."""

from collections import OrderedDict

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
