"""model.explain: for each word of a text, the parts of the pictures, videos and sounds that it was read from.

R rows, B contexts, T tokens, S context tokens, W words of a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..modeling_mm.core.modes import evaluating
from . import methods
from .explanation import Explanation, ItemWeights
from .grids import KINDS, gathered, grid_of
from .pixels import METHODS_OF_PIXELS, items_by_pixels
from .placing import pixels_shape, place_of, views_of
from .reading import Reading, Written, held_context, read_again, written_rows
from .words import Word, words_of

METHODS = ("attention", "rollout", "grad", *METHODS_OF_PIXELS)


class MMExplaining:
    """`explain` of a model that writes texts."""

    def explain(
        self,
        inputs: Mapping[str, Any],
        tokens: Any,
        *,
        processor: Any = None,
        pictures: Sequence[Any] | None = None,
        method: str = "attention",
        layers: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        prompt_length: int | None = None,
    ) -> list[Explanation]:
        """What each word of each row was read from: one Explanation per row.

            inputs = processor(images=pictures, return_tensors="pt")
            output = model.generate(**inputs, return_dict_in_generate=True)
            explained = model.explain(inputs, output, processor=processor, pictures=pictures)
            explained[0].words, explained[0].maps    # W words, float32 (W, H, V) over the first picture

        The rows are read once more in one pass, whatever the attention implementation, the beams or the cache of
        generate() were. Given its whole output, the keys and values that it computed of the contexts are read again,
        and no tower runs.

        Args:
            inputs: what generate() was given: media or encoder_outputs, and the prompt if there was one.
            tokens: int64 (R, T), whole rows of prompt and text, any number per context; or what generate() returned
                with return_dict_in_generate=True.
            processor: names the words; without one each token is a word, named by its id.
            pictures: the picture of each context, in any form that the processor reads (a list of them where contexts
                have several). Maps then lie over the whole pictures, whatever was cut, padded or resized; without
                them over the model's own pixels.
            method: "attention", the mean of the weights with which the query that wrote the word read the context;
                "rollout", through earlier tokens and the residual stream, too; "grad", weights times the gradient of
                the word's log-probability; "occlusion", what that loses when a part of the picture is painted over
                (squares of 2 x 2 of 64 parts); "integrated_gradients". The last two change pixel_values and read no
                attention.
            layers, heads: numbers of the layers that read the context, and of their heads; None: all. Of "attention"
                and "grad"; "rollout" takes heads.
            prompt_length: the first column to explain; None: after the prompt of inputs, or column 1.
        Raises: ValueError or TypeError for other input, or where no token of the context lies at one place, with the
            methods that work there.
        """
        model: Any = self
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
        written = written_rows(model, inputs, tokens, prompt_length)
        tokenizer = getattr(processor, "tokenizer", processor if hasattr(processor, "all_special_ids") else None)
        words = [words_of(ids, tokenizer, written.first) for ids in written.ids.tolist()]
        views = views_of(processor, pictures, inputs)
        with evaluating(model):
            if method in METHODS_OF_PIXELS:
                if layers is not None or heads is not None:
                    raise ValueError(f"method={method!r} reads no attention: leave layers and heads out")
                return _by_pixels(model, inputs, written, words, views, method)
            return _by_weights(model, inputs, tokens, written, words, views, method, layers, heads)


def _by_weights(model, inputs, tokens, written: Written, words, views, method: str, layers, heads):
    """The methods that read the weights of attention."""
    flows: Any = None
    embeds, held = None, None if method == "grad" else held_context(model, inputs, tokens)
    with torch.enable_grad() if method == "grad" else torch.no_grad():
        if method == "grad":
            embeds = model.get_input_embeddings()(written.ids[:, :-1]).detach().requires_grad_()
        reading = read_again(model, inputs, written, held, embeds, own_contexts=method == "grad")
        chosen, layers, heads = methods.choose(layers, heads, len(reading.crossed))
        if method == "rollout" and layers is not None:
            raise ValueError("method='rollout' follows every layer: leave layers out")
        if method == "grad":
            count = max(map(len, words), default=0)
            columns = [_columns_of(words, number, written) for number in range(count)]
            flows = methods.by_gradient(reading, chosen, columns).transpose(0, 1).numpy(force=True) if count else flows
        else:
            order = _order(model.config.text_config)
            flow = methods.by_attention(reading, chosen) if method == "attention" else None
            flow = methods.by_rollout(reading, chosen, order) if flow is None else flow
            flows = flow.numpy(force=True)
    found = []
    for row, own in enumerate(words):
        if method == "grad":
            weights = flows[row, : len(own)] if own else np.zeros((0, reading.sources.shape[1]), np.float32)
        else:
            rows = [flows[row, [column - 1 for column in word.tokens]].mean(0) for word in own]
            weights = np.stack(rows) if rows else np.zeros((0, flows.shape[-1]), np.float32)
        found.append(_explained(model.config, inputs, written, row, own, weights, reading, views, method))
        found[-1].layers, found[-1].heads = layers, heads
    return found


def _order(config: Any) -> list[str]:
    """The attention sublayers of a text stack: "self" and "cross"."""
    every = [name for number in range(config.num_hidden_layers) for name in config.sublayers(number)]
    return [name for name in every if name in ("self", "cross")]


def _columns_of(words: list[list[Word]], number: int, written: Written):
    """Of the n-th word of each row the queries that wrote it, bool and float (R, T - 1)."""
    queries = torch.zeros(written.ids.shape[0], written.ids.shape[1] - 1, device=written.ids.device)
    for row, own in enumerate(words):
        if number < len(own):
            queries[row, [column - 1 for column in own[number].tokens]] = 1
    return queries / queries.sum(1, keepdim=True).clamp(min=1), queries


def _explained(
    config, inputs, written: Written, row: int, words: list[Word], weights, reading: Reading, views, method
):
    """The Explanation of a row, of weights (W, S) over its context."""
    context = int(written.contexts[row])
    sources = reading.sources[context].numpy(force=True)
    items, shares = [], {}
    for kind in KINDS:
        own = sources[sources[:, 0] == KINDS.index(kind)]
        if not len(own):
            continue
        shares[kind] = weights[:, sources[:, 0] == KINDS.index(kind)].sum(1)
        if kind == "text":
            continue
        for number in sorted(set(own[:, 1].tolist())):
            length = int(own[own[:, 1] == number, 2].max()) + 1
            grid = grid_of(config, kind, length, pixels_shape(inputs, kind))
            of_item = gathered(weights, sources, kind, number, grid)
            items.append(ItemWeights(kind, number, of_item, place_of(grid, inputs, kind, views, context, number)))
    if not items:
        raise ValueError(
            "the decoder of this model reads the states of its text encoder, none of which lies at a place of a "
            "picture; method='occlusion' and 'integrated_gradients' do without"
        )
    return _of_row(written, row, words, items, shares, method, views)


def _of_row(written: Written, row: int, words: list[Word], items, shares, method: str, views) -> Explanation:
    return Explanation(
        words=[word.text for word in words],
        tokens=[word.tokens for word in words],
        token_ids=written.ids[row].tolist(),
        items=items,
        shares=shares,
        method=method,
        pictures=[picture for picture, _ in views[int(written.contexts[row])]] if views else [],
    )


def _by_pixels(model, inputs, written: Written, words, views, method: str) -> list[Explanation]:
    """The methods that change the pictures."""
    found = []
    for row, own in enumerate(words):

        def numbers(media: dict[str, Any], row: int = row, own: list[Word] = own) -> torch.Tensor:
            rows = written.repeated(row, len(media["pixel_values"]))
            log_probs = read_again(model, media, rows).log_probs
            columns = [log_probs[:, [column - 1 for column in word.tokens]].sum(1) for word in own]
            return torch.stack(columns, 1) if columns else log_probs[:, :0]

        items = items_by_pixels(model.config, inputs, int(written.contexts[row]), numbers, views, method)
        found.append(_of_row(written, row, own, items, {}, method, views))
    return found
