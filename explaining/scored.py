"""explain of models that write no text: from which parts of the media a class or the match of a pair comes.

R rows, B contexts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..modeling_mm.core.modes import evaluating
from . import methods
from .explanation import Explanation
from .grids import PIXELS
from .pixels import METHODS_OF_PIXELS, items_by_pixels
from .placing import items_of, views_of
from .reading import Reading, contexts_in, media_row, one_context
from .shares import contributions, kinds_in, shares_of, without
from .stacks import encoded_context, stack_of

METHODS = (*METHODS_OF_PIXELS, "attention", "grad")
JOINED_BY_ATTENTION = ("cross_attention", "merged", "co_attention")
TEXT = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


class MMScoreExplaining:
    """`explain` of a model that gives numbers. Its class says which: `explained_targets`, `explained_score` and
    `explained_without_text`."""

    def explain(
        self,
        inputs: Mapping[str, Any],
        targets: Any = None,
        *,
        processor: Any = None,
        pictures: Sequence[Any] | None = None,
        method: str = "occlusion",
        layers: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
    ) -> list[Explanation]:
        """What the number of each row was read from: one Explanation per row, whose only word names the number.

            explained = model.explain(inputs, processor=processor, pictures=pictures)
            explained[0].words, explained[0].maps    # ["bicycle"], float32 (1, H, V) over the first picture
            explained[0].contributions               # {"image": [1.3], "text": [-0.2]}, what each adds to the number

        Args:
            inputs: what forward was given: pixel_values, other media, and the texts if there are any.
            targets: which number; see the class.
            processor, pictures: as in `MMForConditionalGeneration.explain`.
            method: "occlusion", what the number loses when squares of 2 x 2 of 64 parts of the picture are
                painted over; "integrated_gradients"; "attention", the mean of the weights with which the tokens of
                the text read the media; "grad", these weights times the gradient of the number. The last two where
                text and media are joined by attention (cross_attention, merged, co_attention). Without pictures or
                videos the first two give contributions and no items.
            layers, heads: of "attention" and "grad": numbers of the layers that read the media, and of their heads.
        Raises: ValueError for other input, or for a method of attention where none joins text and media.
        """
        model: Any = self
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
        if method in METHODS_OF_PIXELS and (layers is not None or heads is not None):
            raise ValueError(f"method={method!r} reads no attention: leave layers and heads out")
        if inputs.get("encoder_outputs") is not None:
            raise ValueError("encoder_outputs are ready, and explain() leaves media out and changes them; give these")
        contexts = contexts_in(inputs)
        ids, given = inputs.get("input_ids"), inputs.get("context_index")
        rows = contexts if ids is None else len(ids)
        if given is None and rows % contexts:
            raise ValueError(f"inputs hold {rows} texts for {contexts} contexts; give context_index, too")
        index = torch.arange(rows) * contexts // rows if given is None else given
        views = views_of(processor, pictures, inputs)
        found = []
        with evaluating(model):
            for row, (name, target) in enumerate(model.explained_targets(inputs, targets, rows)):
                one = Row(model, inputs, row, int(index[row]), target)
                items, shares = (
                    (items_by_pixels(model.config, inputs, one.context, one.of_media, views, method), None)
                    if method in METHODS_OF_PIXELS
                    else one.by_weights(method, layers, heads, views)
                )
                own = views[media_row(inputs, one.context)] if views else []
                contributed = one.contributions()
                found.append(
                    Explanation(
                        words=[name],
                        tokens=[()],
                        token_ids=one.texts["input_ids"].tolist() if "input_ids" in one.texts else [],
                        items=items,
                        shares=shares_of(contributed) if shares is None else shares,
                        method=method,
                        layers=one.layers,
                        heads=one.heads,
                        contributions=contributed,
                        pictures=[one.picture for one in own],
                    )
                )
        return found


class Row:
    """A row of a call, whose number is `model.explained_score(inputs, target)`."""

    def __init__(self, model: Any, inputs: Mapping[str, Any], row: int, context: int, target: Any):
        self.model, self.inputs, self.context, self.target = model, inputs, context, target
        self.texts = {key: inputs[key][row] for key in TEXT if inputs.get(key) is not None}
        self.layers: list[int] | None = None
        self.heads: list[int] | None = None

    def of_media(self, media: dict[str, Any]) -> torch.Tensor:
        """The number (n, 1) with each of n contexts in place of the row's own."""
        count = contexts_in(media)
        repeated = {key: value.expand(count, *value.shape) for key, value in self.texts.items()}
        return self.model.explained_score({**repeated, **media}, self.target)[0][:, None]

    def contributions(self) -> dict[str, np.ndarray]:
        """What each modality adds to the number; the text counts where a row may lack it."""
        own = one_context(self.inputs, self.context)
        has_text = "input_ids" in self.texts and self.model.explained_without_text(self.target)
        token = self.model.config.text_config.bos_token_id
        none = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        texts = {key: value[None] for key, value in self.texts.items()}

        def without_some(out: frozenset[str]) -> torch.Tensor:
            media = without(self.model.config, own, out - {"text"})
            given = texts
            if "text" in out or ("input_ids" not in texts and set(kinds_in(own)) <= out):
                given = {"input_ids": none + (token or 0), "attention_mask": none}
            with torch.no_grad():
                return self.model.explained_score({**given, **media}, self.target)[0].reshape(1)

        return contributions(without_some, [*kinds_in(own), *(["text"] if has_text else [])])

    def by_weights(self, method: str, layers: Any, heads: Any, views: list) -> tuple[list[Any], dict[str, Any]]:
        """The items, and the shares of the kinds of media, by the weights with which the text's tokens read them."""
        model, config = self.model, self.model.config
        self._check_attention(method)
        texts = {key: value[None] for key, value in self.texts.items()}
        length = texts["input_ids"].shape[1] if "input_ids" in texts else 1
        own = one_context(self.inputs, self.context)
        with torch.enable_grad() if method == "grad" else torch.no_grad():
            start = torch.zeros(1, dtype=torch.long, device=model.device) if method == "grad" else None
            context, encoder = encoded_context(model, own, start)
            call = {**texts, "encoder_outputs": context}
            score, output = model.explained_score(call, self.target, output_attentions=True)
            stack = stack_of(output, context.token_sources, length, config.fusion_order)
            of_media = stack if encoder is None else encoder
            chosen, self.layers, self.heads = methods.choose(layers, heads, len(of_media.weights))
            if method == "grad":
                read = methods.of_gradient(score, of_media, chosen)
            else:
                reading = Reading(score[:, None], stack, encoder, torch.zeros(1, dtype=torch.long))
                read = methods.by_attention(reading, chosen)
        real = torch.ones_like(read[:, :, :1])
        if method == "attention" or encoder is None:
            mask = texts.get("attention_mask")
            real = real if mask is None else mask[:, :length, None].to(read)
        weights = (read * real).sum(1)
        weights = weights / real.sum(1).clamp(min=1) if method == "attention" else weights
        sources = of_media.sources[0].numpy(force=True)
        return items_of(config, self.inputs, self.context, weights.detach().float().numpy(force=True), sources, views)

    def _check_attention(self, method: str) -> None:
        fusion, name = self.model.config.fusion_type, type(self.model).__name__
        if fusion not in JOINED_BY_ATTENTION or self.target == "similarity":
            why = "compares two vectors" if self.target == "similarity" else f"joins by fusion_type={fusion!r}"
            others = "method='occlusion' and 'integrated_gradients' do without"
            if not any(self.inputs.get(pixels) is not None for pixels in PIXELS.values()):
                others = "method='occlusion' does without, and gives contributions: what each modality adds"
            raise ValueError(f"method={method!r} needs attention between text and media, and {name} {why}; {others}")


def of_every_row(targets: Any, rows: int, accepted: str) -> list[Any]:
    """One target for all rows, or one for each."""
    given = targets.tolist() if torch.is_tensor(targets) else targets
    given = [given] * rows if isinstance(given, (int, str)) else given
    if not isinstance(given, (list, tuple)) or len(given) != rows:
        raise ValueError(f"targets={targets!r} must be {accepted}, or a list of one for each of the {rows} rows")
    return list(given)
