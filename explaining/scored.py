"""explain of models that write no text: from which parts of the pictures a class or the match of a pair comes.

R rows, B contexts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..modeling_mm.core.modes import evaluating
from .explanation import Explanation
from .pixels import METHODS_OF_PIXELS, items_by_pixels
from .placing import views_of
from .reading import contexts_in

TEXT = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


class MMScoreExplaining:
    """`explain` of a model that gives numbers. Its class says which: `explained_targets` and `explained_score`."""

    def explain(
        self,
        inputs: Mapping[str, Any],
        targets: Any = None,
        *,
        processor: Any = None,
        pictures: Sequence[Any] | None = None,
        method: str = "occlusion",
    ) -> list[Explanation]:
        """What the number of each row was read from: one Explanation per row, whose only word names the number.

            explained = model.explain(inputs, processor=processor, pictures=pictures)
            explained[0].words, explained[0].maps    # ["bicycle"], float32 (1, H, V) over the first picture

        Args:
            inputs: what forward was given: pixel_values, other media, and the texts if there are any.
            targets: which number; see the class.
            processor, pictures: as in `MMForConditionalGeneration.explain`.
            method: "occlusion", what the number loses when squares of 2 x 2 of 64 parts of the picture are
                painted over; or "integrated_gradients". Attention has no weights of a class or a pair.
        Raises: ValueError for other input.
        """
        model: Any = self
        if method not in METHODS_OF_PIXELS:
            raise ValueError(
                f"method={method!r} must be one of {', '.join(METHODS_OF_PIXELS)}: {type(model).__name__} gives "
                "numbers, and the others explain words by the attention that wrote them"
            )
        contexts = contexts_in(inputs)
        ids, given = inputs.get("input_ids"), inputs.get("context_index")
        rows = contexts if ids is None else len(ids)
        if given is None and rows % contexts:
            raise ValueError(f"inputs hold {rows} texts for {contexts} contexts; give context_index, too")
        index = torch.arange(rows) * contexts // rows if given is None else given
        views = views_of(processor, pictures, inputs)
        with evaluating(model):
            named = model.explained_targets(inputs, targets, rows)
            return [
                _explained(model, inputs, row, int(index[row]), *named[row], views=views, method=method)
                for row in range(rows)
            ]


def _explained(
    model: Any, inputs: Mapping[str, Any], row: int, context: int, name: str, target: Any, *, views: list, method: str
) -> Explanation:
    texts = {key: inputs[key][row] for key in TEXT if inputs.get(key) is not None}

    def numbers(media: dict[str, Any]) -> torch.Tensor:
        count = len(media["pixel_values"])
        repeated = {key: value.expand(count, *value.shape) for key, value in texts.items()}
        return model.explained_score({**repeated, **media}, target)[:, None]

    return Explanation(
        words=[name],
        tokens=[()],
        token_ids=texts["input_ids"].tolist() if "input_ids" in texts else [],
        items=items_by_pixels(model.config, inputs, context, numbers, views, method),
        shares={},
        method=method,
        pictures=[picture for picture, _ in views[context]] if views else [],
    )


def of_every_row(targets: Any, rows: int, accepted: str) -> list[Any]:
    """One target for all rows, or one for each."""
    given = targets.tolist() if torch.is_tensor(targets) else targets
    given = [given] * rows if isinstance(given, (int, str)) else given
    if not isinstance(given, (list, tuple)) or len(given) != rows:
        raise ValueError(f"targets={targets!r} must be {accepted}, or a list of one for each of the {rows} rows")
    return list(given)
