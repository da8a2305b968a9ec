"""model.explain: for each word of a text, the parts of the pictures, videos and sounds that it was read from.

R rows, B contexts, T tokens, S context tokens, W words of a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..modeling_mm.core.modes import evaluating
from . import methods
from .explanation import Explanation
from .pixels import METHODS_OF_PIXELS, items_by_pixels
from .placing import items_of, views_of
from .reading import Written, contexts_in, held_context, media_row, one_context, read_again, written_rows
from .shares import contributions, kinds_in, shares_of, without
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
                (squares of 2 x 2 of 64 parts); "integrated_gradients". The last two change pixels and read no
                attention; their shares say what each modality adds. Where a text encoder reads the media and the
                decoder its states, the first two go on from these to what they read, and "grad" takes its weights.
            layers, heads: numbers of the layers that read the media, and of their heads; None: all. Of "attention"
                and "grad"; "rollout" takes heads.
            prompt_length: the first column to explain; None: after the prompt of inputs, or column 1.
        Raises: ValueError or TypeError for other input, or where no token of the context lies at one place, with the
            methods that work there.
        """
        model: Any = self
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
        if model.config.media_in_text and method not in METHODS_OF_PIXELS:
            raise ValueError(
                f"method={method!r} reads weights over a context, which media inside the text "
                f"(fusion_order='in_text') do not have; accepted: {', '.join(METHODS_OF_PIXELS)}"
            )
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
    held = None if method == "grad" else held_context(model, inputs, tokens)
    with torch.enable_grad() if method == "grad" else torch.no_grad():
        reading = read_again(model, inputs, written, held, own_contexts=method == "grad")
        chosen, layers, heads = methods.choose(layers, heads, len(reading.of_media.weights))
        if method == "rollout" and layers is not None:
            raise ValueError("method='rollout' follows every layer: leave layers out")
        if method == "grad":
            count = max(map(len, words), default=0)
            columns = [_columns_of(words, number, written) for number in range(count)]
            flows = methods.by_gradient(reading, chosen, columns).transpose(0, 1).numpy(force=True) if count else flows
        else:
            orders = [sublayers_of(config) for config in (model.config.text_config, model.config.reader)]
            flow = methods.by_attention(reading, chosen) if method == "attention" else None
            flow = methods.by_rollout(reading, chosen, *orders) if flow is None else flow
            flows = flow.numpy(force=True)
    all_sources = reading.of_media.sources
    found = []
    for row, own in enumerate(words):
        if method == "grad":
            weights = flows[row, : len(own)] if own else np.zeros((0, all_sources.shape[1]), np.float32)
        else:
            rows = [flows[row, [column - 1 for column in word.tokens]].mean(0) for word in own]
            weights = np.stack(rows) if rows else np.zeros((0, flows.shape[-1]), np.float32)
        sources = all_sources[int(reading.contexts[row])].numpy(force=True)
        context = int(written.contexts[row])
        items, shares = items_of(model.config, inputs, context, weights, sources, views)
        found.append(_of_row(inputs, written, row, own, items, shares, method, views))
        found[-1].layers, found[-1].heads = layers, heads
    return found


def sublayers_of(config: Any) -> list[str]:
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


def _of_row(inputs, written: Written, row: int, words: list[Word], items, shares, method: str, views) -> Explanation:
    own = views[media_row(inputs, int(written.contexts[row]))] if views else []
    return Explanation(
        words=[word.text for word in words],
        tokens=[word.tokens for word in words],
        token_ids=written.ids[row].tolist(),
        items=items,
        shares=shares,
        method=method,
        pictures=[one.picture for one in own],
    )


def _by_pixels(model, inputs, written: Written, words, views, method: str) -> list[Explanation]:
    """The methods that change the pictures."""
    found = []
    for row, own in enumerate(words):
        context = int(written.contexts[row])

        def numbers(media: dict[str, Any], row: int = row, own: list[Word] = own) -> torch.Tensor:
            rows = written.repeated(row, contexts_in(media))
            log_probs = read_again(model, media, rows).log_probs
            columns = [log_probs[:, [column - 1 for column in word.tokens]].sum(1) for word in own]
            return torch.stack(columns, 1) if columns else log_probs[:, :0]

        def without_some(out: frozenset[str], numbers=numbers, context: int = context) -> torch.Tensor:
            media = without(model.config, one_context(inputs, context), out - {"text"})
            if "text" in out:
                media["context_attention_mask"] = torch.zeros_like(media["context_input_ids"])
            with torch.no_grad():
                return numbers(media)[0]

        items = items_by_pixels(model.config, inputs, context, numbers, views, method)
        names = [*kinds_in(inputs), *(["text"] if inputs.get("context_input_ids") is not None else [])]
        contributed = contributions(without_some, names)
        found.append(_of_row(inputs, written, row, own, items, shares_of(contributed), method, views))
        found[-1].contributions = contributed
    return found
