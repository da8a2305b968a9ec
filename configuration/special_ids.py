"""The ids that begin, end and pad a text: a tokenizer's, and where a configuration has others."""

from typing import Any


def row_ends(tokenizer: Any) -> tuple[int | None, int | None]:
    """The ids that begin and end a text: bos or otherwise cls, eos or otherwise sep; None if the tokenizer has none of
    them."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return bos, eos


def text_ids(tokenizer: Any) -> dict[str, int | None]:
    """The ids of a tokenizer as fields of MMTextConfig; vocab_size is not among them."""
    bos, eos = row_ends(tokenizer)
    pad = tokenizer.pad_token_id
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}


def as_ids(value: int | list[int] | None) -> set[int]:
    """One id, several or none, as a set."""
    return set() if value is None else {value} if isinstance(value, int) else set(value)


def wrong_ids(settings: Any) -> list[str]:
    """The special ids of a configuration that are none: an id is an int or None; of ends there may be a list."""
    found = []
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(settings, name, None)
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in ids):
            found.append(f"{name} is {value!r:.60}, which is no id")
    return found


def id_faults(config: Any, generation_config: Any, tokenizer: Any, writes: bool = True) -> list[str]:
    """Where a model's texts begin or end with other ids than its tokenizer's; generation_config counts first.

    Args:
        config: the MMConfig. A model that draws after a text encoder's words need write none itself.
        writes: whether it must know where a text ends. One that only reads need not say it: SigLIP's does not.
    """
    (bos, eos), text, faults = row_ends(tokenizer), config.text_config, []
    begins = as_ids(text.bos_token_id if generation_config.bos_token_id is None else generation_config.bos_token_id)
    if bos is not None and begins and bos not in begins:
        faults.append(f"texts begin with {bos}, but the model's bos_token_id is {min(begins)}")
    ends = as_ids(text.eos_token_id if generation_config.eos_token_id is None else generation_config.eos_token_id)
    if eos is not None and eos not in ends and (ends or writes):
        faults.append(f"texts end with {eos}, but the model's eos_token_id is {sorted(ends) or None}")
    draws = getattr(config, "drawing_first_id", None) is not None
    reads = getattr(config, "text_encoder_config", None) if draws else None
    known = max(part.vocab_size for part in (text, reads) if part is not None)
    if len(tokenizer) > known:
        faults.append(f"the tokenizer has {len(tokenizer)} tokens, but the model's vocab_size is {known}")
    return faults
