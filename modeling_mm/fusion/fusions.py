"""Fusion: where media and text are joined. One module or function per `fusion_type`.

    fusion_type       level            what is computed
    cross_attention   attention        text attends to media inside its own layers: MMLayer's "cross" sublayer
    co_attention      attention        media attend to text, then text to media, fusion_num_layers times
    merged            early            one sequence of media and text tokens through the text's own layers
    concat            representation   concat(T, V) W on one vector per modality
    sum               representation   T W_t + V W_v
    gated             representation   T W_t + tanh(g(T, V)) * V W_v, g closed at the start
    decision          late             weighted mean of the logits of each modality

B contexts, R rows (texts), T text tokens, S media tokens, D their width, F fusion_size, L labels. A modality that a
row lacks adds nothing to that row; one that a call lacks is None. model.py calls this file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from ...configuration.mm import MMConfig
from ...configuration.text import MMTextConfig
from ..core.attention import CallConfig, build_norm
from ..core.context_rows import MMReading, MMRows
from ..core.layers import MMLayer

Vectors = Mapping[str, torch.Tensor | None]  # modality -> (R, D), zeros where the row has none; None: no row has it


# ---- attention, both ways ------------------------------------------------------------------------------------------


class MMCoAttentionFusion(nn.Module):
    """Alternating co-attention: in each of `fusion_num_layers` steps media read the text, then text the new media.

    Both streams are layers (self, cross, mlp) of the text's own settings: with `cross_attention_gate="tanh"` each
    starts as if there were no other. The text stream runs without media too; a row without media skips its cross
    sublayers. Streams of pre-norm layers end in a norm, that of the media if they are used later (after a text
    encoder).
    """

    def __init__(self, config: MMTextConfig, num_layers: int, reads_media: bool = True):
        super().__init__()
        self.config = config
        kind = ("self", "cross", "mlp")
        self.media_layers = nn.ModuleList(MMLayer(config, kind, i, i) for i in range(num_layers))
        self.text_layers = nn.ModuleList(MMLayer(config, kind, i, i) for i in range(num_layers))
        norm = config.norm_type if config.norm_position == "pre" else "none"
        self.text_norm = build_norm(norm, config.hidden_size, config.layer_norm_eps)
        self.media_norm = build_norm(norm if reads_media else "none", config.hidden_size, config.layer_norm_eps)

    def forward(
        self,
        text: torch.Tensor,  # (R, T, D)
        text_mask: torch.Tensor | None,  # (R, T), 1 = real; None: all
        media: torch.Tensor | None = None,  # (R, S, D), the context of each row; None: no context
        media_mask: torch.Tensor | None = None,  # (R, S)
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The fused text (R, T, D) and media (R, S, D)."""
        call = CallConfig(self.config, kwargs.get("output_attentions"), is_causal=None)
        text_sees_text = self._mask(call, text, text, text_mask)
        if media is None:
            for layer in self.text_layers:
                text = layer(text, attention_mask=text_sees_text, **kwargs)
            return self.text_norm(text), None
        rows = MMRows(text.shape[0], text.shape[0])
        has_media = None if media_mask is None else media_mask.bool().any(1)[:, None, None]
        of_media = MMReading(rows, has_media, mask=self._mask(call, text, media, media_mask))
        of_text = MMReading(rows, mask=self._mask(call, media, text, text_mask))
        media_sees_media = self._mask(call, media, media, media_mask)
        for media_layer, text_layer in zip(self.media_layers, self.text_layers, strict=True):
            media = media_layer(media, text, of_text, attention_mask=media_sees_media, **kwargs)
            text = text_layer(text, media, of_media, attention_mask=text_sees_text, **kwargs)
        return self.text_norm(text), self.media_norm(media)

    @staticmethod
    def _mask(call: Any, queries: torch.Tensor, keys: torch.Tensor, real: torch.Tensor | None):
        return create_bidirectional_mask(
            config=call, inputs_embeds=queries, attention_mask=real, encoder_hidden_states=keys
        )


# ---- representation: one vector per modality -----------------------------------------------------------------------


class MMConcatFusion(nn.Module):
    """CrossModalFusion(T, V) = concat(T, V) W."""

    def __init__(self, widths: Mapping[str, int], size: int):
        super().__init__()
        self.widths = dict(widths)
        self.dense = nn.Linear(sum(widths.values()), size, bias=False)

    def forward(self, vectors: Vectors, present: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """{modality: (R, D)} -> (R, F)."""
        return self.dense(torch.cat(ordered_vectors(vectors, self.widths), dim=-1))


class MMSumFusion(nn.Module):
    """T W_t + V W_v + ..., one matrix per modality."""

    def __init__(self, widths: Mapping[str, int], size: int):
        super().__init__()
        self.dense = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, width in widths.items()})

    def forward(self, vectors: Vectors, present: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """{modality: (R, D)} -> (R, F)."""
        given = (dense(vectors[name]) for name, dense in self.dense.items() if vectors.get(name) is not None)
        fused: Any = sum(given)
        return fused


class MMGatedFusion(nn.Module):
    """T W_t + tanh(gate(T, V)) * V W_v, summed over the media; gate(T, V) = concat(T, V) G + g.

    G and g start at zero, so a new fusion gives the answer of the text without media. In a row without text nothing is
    gated.
    """

    def __init__(self, widths: Mapping[str, int], size: int):
        super().__init__()
        self.dense = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, width in widths.items()})
        gated = {name: widths["text"] + width for name, width in widths.items() if name != "text"}
        self.gates = nn.ModuleDict({name: MMGate(width, size) for name, width in gated.items()})

    def forward(self, vectors: Vectors, present: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """{modality: (R, D)}, {modality: bool (R,), None: in every row} -> (R, F)."""
        text, has_text = vectors.get("text"), None if present is None else present.get("text")
        fused: Any = 0 if text is None else self.dense["text"](text)
        for name, gate in self.gates.items():
            vector = vectors.get(name)
            if vector is not None:
                opened = 1 if text is None else torch.tanh(gate(torch.cat([text, vector], dim=-1)))
                if text is not None and has_text is not None:
                    opened = torch.where(has_text[:, None], opened, 1.0)
                fused = fused + opened * self.dense[name](vector)
        return fused


class MMGate(nn.Module):
    """A linear map that starts at zero."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.gate_weight = nn.Parameter(torch.zeros(size, width))
        self.gate_bias = nn.Parameter(torch.zeros(size))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states, self.gate_weight, self.gate_bias)


def ordered_vectors(vectors: Vectors, widths: Mapping[str, int]) -> list[torch.Tensor]:
    """The vectors in the order of `widths`, zeros for those that are not given."""
    given = next(vector for vector in vectors.values() if vector is not None)
    values = [(vectors.get(name), width) for name, width in widths.items()]
    return [given.new_zeros(given.shape[0], width) if vector is None else vector for vector, width in values]


# ---- late: one answer per modality ---------------------------------------------------------------------------------


class MMDecisionFusion(nn.Module):
    """The weighted mean of what each modality answers, over the modalities that the row has.

    Args:
        names: "text" and the media.
        fixed: a weight per name, summing to 1; None: learned, softmax of `gate_bias`, equal at the start.
    """

    def __init__(self, names: list[str], fixed: Mapping[str, float] | None = None):
        super().__init__()
        self.names = names
        self.fixed = None if fixed is None else [float(fixed[name]) for name in names]
        self.gate_bias = nn.Parameter(torch.zeros(len(names))) if fixed is None else None

    def _weights(self, like: torch.Tensor) -> torch.Tensor:
        """(M,), in the order of the names, summing to 1."""
        return like.new_tensor(self.fixed) if self.gate_bias is None else torch.softmax(self.gate_bias, dim=0)

    def forward(
        self, logits: Vectors, present: Mapping[str, torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """{modality: (R, L)}, {modality: bool (R,), None: in every row} -> (R, L) and the weights (M,).

        Zeros where a row has nothing.
        """
        like = next(answer for answer in logits.values() if answer is not None)
        weighted, total = torch.zeros_like(like), like.new_zeros(len(like))
        weights = self._weights(like)
        for name, weight in zip(self.names, weights, strict=True):
            answer, here = logits.get(name), present.get(name)
            if answer is not None:
                share = weight.expand_as(total) if here is None else weight * here.to(total.dtype)  # (R,)
                weighted, total = weighted + share[:, None] * answer, total + share
        return weighted / torch.where(total > 0, total, torch.ones_like(total))[:, None], weights


REPRESENTATION = {"concat": MMConcatFusion, "sum": MMSumFusion, "gated": MMGatedFusion}


def build_fusion(config: MMConfig) -> nn.Module:
    """The fusion's own module. cross_attention and merged have none: the text's layers do the work."""
    if config.fusion_type == "co_attention":
        return MMCoAttentionFusion(config.reader, config.fusion_num_layers, reads_media=config.has_text_encoder)
    if config.fusion_type == "decision":
        return MMDecisionFusion(["text", *(config.modalities or [])], config.fusion_weights)
    widths = dict.fromkeys(["text", *(config.modalities or [])], config.reader.hidden_size)
    return REPRESENTATION[config.fusion_type](widths, config.fusion_width)
