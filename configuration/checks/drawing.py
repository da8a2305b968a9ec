"""The rules of the codes of pictures in a vocabulary."""

# `config` is an MMConfig, which is defined above this file in the order of imports.
from collections.abc import Iterator
from typing import Any

from ..groups import drawing_needs
from ..special_ids import as_ids

_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NEEDED = ("first_id", "codebook_size", "grid", "begin_id", "end_id")


def drawing_faults(config: Any) -> Iterator[str]:
    """The codes and the ids around them are apart, inside the vocabulary, and a whole picture has positions."""
    given = {name: getattr(config, f"drawing_{name}") for name in (*_NEEDED, "mask_id")}
    if all(value is None for value in given.values()):
        return
    lacking = [f"drawing_{name}" for name in _NEEDED if given[name] is None]
    if lacking:
        yield f"a model that draws needs {', '.join(lacking)} too; MMProcessor.drawing gives all of the group"
        return
    grid = given["grid"]
    if len(grid) != 2 or any(isinstance(side, bool) or side < 1 for side in grid):
        yield f"drawing_grid={grid} must be [rows, columns], both positive"
        return
    needs, text = drawing_needs(vars(config)), config.text_config
    if needs["vocab_size"] > config.written_tokens:
        yield (
            f"the last id of drawing is {needs['vocab_size'] - 1}, but the vocabulary that is written has "
            f"{config.written_tokens}; set text_config.vocab_size={needs['vocab_size'] + config.unwritten_tokens}"
        )
    yield from _taken(config, given)
    length, positions = needs["max_position_embeddings"], text.max_position_embeddings
    if text.position_embedding_type == "absolute" and positions < length:
        yield (
            f"a picture of {grid[0]}x{grid[1]} codes makes rows of {length} tokens and more, but "
            f"text_config.max_position_embeddings={positions}; set it to {length} at least"
        )


def _taken(config: Any, given: dict[str, Any]) -> Iterator[str]:
    """Ids that stand for two things."""
    codes = range(given["first_id"], given["first_id"] + given["codebook_size"])
    text = config.text_config
    taken = {f"text_config.{name}": as_ids(getattr(text, name)) for name in _ENDS}
    taken |= {f"{kind}_token_id": as_ids(one) for kind, one in config.placeholder_ids.items()}
    for name, ids in taken.items():
        for one in sorted(one for one in ids if one in codes):
            yield f"{name}={one} is a code of a picture, {codes.start}..{codes.stop - 1}; move drawing_first_id"
    for name in ("begin_id", "end_id", "mask_id"):
        one = given[name]
        if one is None:
            continue
        if one in codes:
            yield f"drawing_{name}={one} is a code of a picture, {codes.start}..{codes.stop - 1}; give another id"
        for other, ids in taken.items():
            if one in ids:
                yield f"drawing_{name}={one} is {other} too; give another id"
        taken[f"drawing_{name}"] = {one}
