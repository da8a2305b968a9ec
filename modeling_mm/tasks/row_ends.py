"""How rows of text begin and end: what generate() needs, and warnings where the configuration says otherwise.

A model with a tokenizer of another vocabulary trains without an error, then starts to generate at an id that it never
saw and never stops. The ids of the batches show it. T text tokens, R rows.
"""

from typing import Any

import torch
from transformers.utils import logging

from ...configuration.mm import MMConfig
from ...configuration.special_ids import as_ids, id_faults
from ..core.input_checks import may_read_values

logger = logging.get_logger(__name__)

_ADVICE = (
    "If the tokenizer has ids of its own, give them to the model: MMConfig.preset(..., tokenizer=tokenizer), or "
    "text_config.{name} of the configuration and generation_config.{name} of the model."
)


def _settings(model: Any, name: str) -> set[int]:
    """The ids that the model begins or ends with, by its two configurations."""
    return as_ids(getattr(model.config.text_config, name)) | as_ids(getattr(model.generation_config, name))


def first_ids(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(R,) the first real token of each row."""
    if mask is None or mask.shape != ids.shape:
        return ids[:, 0]
    return ids.gather(1, mask.long().argmax(1, keepdim=True))[:, 0]


def warn_of_beginnings(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Warns if no row begins with bos, maybe after media, which generate() begins with where it has no prompt."""
    bos, config = _settings(model, "bos_token_id"), model.config
    media = [one for one in config.placeholder_ids.values() if one is not None]
    media += range(config.written_tokens, config.text_config.vocab_size)  # a placeholder of pictures is among these
    if media:
        text = ~torch.isin(ids, torch.tensor(media, device=ids.device))
        mask = text if mask is None or mask.shape != ids.shape else mask.bool() & text
    found = set(first_ids(ids, mask).tolist())
    if bos and not bos & found:
        _warn("bos_token_id", f"begins with bos_token_id={_shown(bos)}, but with {_shown(found)}")


def warn_of_endings(model: Any, labels: torch.Tensor) -> None:
    """Warns if no row of (R, T) labels ends with eos: the model does not learn to stop."""
    places = torch.arange(1, labels.shape[1] + 1, device=labels.device) * (labels != -100)
    last = labels.gather(1, places.argmax(1, keepdim=True))[:, 0]
    found, eos = set(last.tolist()) - {-100}, _settings(model, "eos_token_id")
    eos |= as_ids(model.config.drawing_end_id) if eos else set()
    if found and not eos & found:
        _warn("eos_token_id", f"ends with eos_token_id={_shown(eos)}, but with {_shown(found)}")


def warn_of_text_ends(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Warns if no row of (R, T) texts ends with eos, for a model that reads a text at its last token."""
    stack = model.base_model._reader().config
    eos = as_ids(stack.eos_token_id)
    if stack.pooler != "last" or not eos or ids.ndim != 2:
        return
    real = torch.ones_like(ids) if mask is None or mask.shape != ids.shape else mask
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * (real != 0)
    found = set(ids.gather(1, places.argmax(1, keepdim=True))[:, 0].tolist())
    if found and not (eos | as_ids(stack.pad_token_id)) & found:
        logger.warning(
            "No text of the first call ends with eos_token_id=%s, but with %s, and pooler='last' reads a text there. "
            "Texts of MMDataCollator end with it; make others with processor(text=..., add_eos_token=True)",
            _shown(eos),
            _shown(found),
        )


def warn_of_other_ids(model: Any, processor: Any) -> None:
    """Warns if a model that writes has other ids than the processor that it is used with."""
    tokenizer, settings = processor.tokenizer, getattr(model, "generation_config", None)
    if tokenizer is None or settings is None or not isinstance(model.config, MMConfig):
        return
    for fault in id_faults(model.config, settings, tokenizer):
        logger.warning("%s and its processor are not made for one another: %s", type(model).__name__, fault)


def check_once(model: Any, what: str, check: Any, *tensors: torch.Tensor | None) -> None:
    """Runs a check that reads values the first time that a model meets `what`, never while tracing."""
    if what in model.ends_checked or not model.config.check_inputs or not may_read_values():
        return
    if any(tensor is not None and tensor.is_meta for tensor in tensors):
        return
    model.ends_checked.add(what)
    check(model, *tensors)


def check_prompt_ends(attention_mask: torch.Tensor | None) -> None:
    """Generation continues after the last column, so it must hold a real token in every row."""
    if attention_mask is None or attention_mask.ndim != 2 or not may_read_values():
        return
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("generate() continues after the last column, but attention_mask ends in 0; pad on the left")


def bos_where_absent(
    input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, bos: int | None
) -> torch.Tensor | None:
    """The mask (R, T), where a row without any real token has one: its last bos. Other masks, or no ids, stay."""
    if input_ids is None or bos is None or not torch.is_tensor(attention_mask) or not torch.is_tensor(input_ids):
        return attention_mask
    if attention_mask.shape != input_ids.shape or attention_mask.ndim != 2:
        return attention_mask
    absent = ~attention_mask.bool().any(1, keepdim=True)
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    last = torch.where(input_ids == bos, columns, 0).amax(1, keepdim=True)
    return attention_mask.masked_fill(absent & (columns == last), 1)


def check_every_text(config: MMConfig, name: str, attention_mask: torch.Tensor | None) -> None:
    """Raises ValueError where a row has no text, for heads that cannot do without."""
    if attention_mask is None or attention_mask.ndim != 2 or not config.check_inputs or not may_read_values():
        return
    absent = torch.nonzero(~attention_mask.bool().any(1))[:, 0].tolist()
    if absent:
        raise ValueError(f"{name} needs a text in every row, and rows {absent} have none (attention_mask is 0)")


def _shown(ids: set[int]) -> str:
    shown = ", ".join(map(str, sorted(ids)[:3])) or "None"
    return shown + (", ..." if len(ids) > 3 else "")


def _warn(name: str, what: str) -> None:
    logger.warning("No text of the first batch %s. %s", what, _ADVICE.format(name=name))
