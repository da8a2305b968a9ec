"""What a text stack read of its sources, layer by layer, and the text encoder that may be between media and decoder.

n sequences, R rows, H heads, T tokens, S tokens that are read.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..modeling_mm.core.context_rows import MMRows
from ..modeling_mm.core.inputs_outputs import CONTEXT_TEXT, MediaInputs
from ..modeling_mm.fusion.context import select_contexts
from .grids import KINDS

EVERYTHING = slice(None)


class Stack(NamedTuple):
    """The weights of a text stack.

    weights: of each layer that reads the sources, as the model computed them, (n, H, queries, keys).
    own: of each layer of self-attention, (n, H, T, T). sources: int64 (n, S, 3), what is read.
    queries, keys: where in `weights` the text and the sources are.
    """

    weights: list[torch.Tensor]
    own: list[torch.Tensor]
    sources: torch.Tensor
    queries: slice = EVERYTHING
    keys: slice = EVERYTHING

    def cut(self, weights: torch.Tensor) -> torch.Tensor:
        """(n, H, queries, keys) -> (n, H, T, S)."""
        return weights[:, :, self.queries, self.keys]

    @property
    def crossed(self) -> list[torch.Tensor]:
        """Of each layer that reads the sources (n, H, T, S)."""
        return [self.cut(weights) for weights in self.weights]


def stack_of(output: Any, sources: torch.Tensor, length: int, order: str = "media_first") -> Stack:
    """Of an output with attentions, whose text has `length` tokens."""
    own: list[torch.Tensor] = list(output.attentions or ())
    if output.cross_attentions:
        return Stack(list(output.cross_attentions), own, sources)
    size = sources.shape[1]  # media and text in one sequence; with a cache only the text asks
    asks_alone = own[0].shape[2] == length
    media = slice(0, size) if order == "media_first" else slice(own[0].shape[3] - size, None)
    text = slice(size, None) if order == "media_first" else slice(0, length)
    queries = EVERYTHING if asks_alone else text
    return Stack(own, [weights[:, :, queries, text] for weights in own], sources, queries, media)


def encoded_context(
    model: Any, inputs: Mapping[str, Any], index: torch.Tensor | None = None
) -> tuple[Any, Stack | None]:
    """The context that the decoder reads, and what its text encoder read of the media, (Bc, H, Tc, S).

    The second is None where no text encoder stands between them, or where its states come with the media.

    Args:
        index: contexts to take, one for each row, whose states begin a graph of gradients; None: all as they are.
    """
    media = {name: inputs[name] for name in MediaInputs.__annotations__ if inputs.get(name) is not None}
    reads = model.config.has_text_encoder and model.config.media_cross
    ids, mask, owners = (media.get(name) for name in CONTEXT_TEXT)
    seen = {name: value for name, value in media.items() if name not in CONTEXT_TEXT}
    if (
        not reads
        or ids is None
        or inputs.get("encoder_outputs") is not None
        or not any(map(torch.is_tensor, seen.values()))
    ):
        context = model.model.context_of(inputs.get("encoder_outputs"), inputs.get("encoder_attention_mask"), **media)
        return _begun(context, index), None
    read = model.model.encode_context(**seen)
    if index is not None:
        owners = MMRows(len(ids), len(read.last_hidden_state), owners).index(index.device)[index]
        ids, mask = ids[index], None if mask is None else mask[index]
        read, owners = _begun(read, owners), None
    context = model.model.read_context_text(read, ids, mask, owners, output_attentions=True)
    rows = MMRows(len(ids), len(read.last_hidden_state), owners)
    return context, stack_of(context.text_output, rows.per_row(read.token_sources), ids.shape[1])


def _begun(context: Any, index: torch.Tensor | None) -> Any:
    if index is None:
        return context
    context = select_contexts(context, index)
    context.last_hidden_state = context.last_hidden_state.detach().requires_grad_()
    return context


def followed(flow: torch.Tensor, sources: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """From the states of a text encoder on to the media that they were read from: (R, T, S).

    flow: (R, T, Sc) over the encoder's states, of which sources (R, Sc, 3) says where they stood; inner: (R, Tc, S),
    what each of them read.
    """
    place = torch.where(sources[..., 0] == KINDS.index("text"), sources[..., 2], -1)
    in_order = inner.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, inner.shape[2]))
    return flow @ (in_order * (place >= 0)[..., None])
