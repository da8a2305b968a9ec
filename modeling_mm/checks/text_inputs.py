"""Checks of forward's text inputs. They read values on the host, so never inside compile or export.

B contexts, N pictures per context, R rows, T text tokens, S tokens, Dv vision tower width.
"""

# torch does not export is_tracing; callers have already checked that exactly one of the two tensors is given.

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration.mm import MMConfig
from ...configuration.text import MMTextConfig

INTEGERS = (torch.int64, torch.int32)


def may_read_values() -> bool:
    """False while tracing, where reading a value on the host would break the graph."""
    return not (is_torchdynamo_compiling() or torch.jit.is_tracing())  # pyright: ignore[reportPrivateImportUsage]: torch's


def check_tensors(**given) -> None:
    """TypeError for an input that is not a tensor; None passes."""
    for name, value in given.items():
        if value is not None and not torch.is_tensor(value):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")


def check_positions(position_ids: torch.Tensor, config: MMTextConfig) -> None:
    """Positions inside the table. On an accelerator single decode steps are trusted, to spare a sync per token."""
    if not may_read_values() or position_ids.is_meta or not position_ids.numel():
        return
    if position_ids.device.type != "cpu" and position_ids.shape[-1] == 1:
        return
    ends = (position_ids,) if position_ids.numel() == 1 else position_ids.aminmax()
    first, last = int(ends[0]), int(ends[-1])
    if first < 0:
        raise ValueError(f"position_ids must not be negative; got {first}")
    if last >= config.max_position_embeddings:
        raise ValueError(
            f"the text needs {last + 1} positions, but max_position_embeddings={config.max_position_embeddings}; "
            "shorten the prompt or ask for fewer new tokens"
        )


def check_text(
    config: MMTextConfig,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | BlockMask | None = None,
    position_ids: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    has_past: bool = False,
    read_values: bool = True,
    prefix: str = "",
) -> None:
    """The text side: exactly one of input_ids and inputs_embeds, and what goes with it, by shape, dtype and range.

    Args:
        has_past: a cache may hold earlier tokens, so the mask may be longer than the text.
        read_values: look at ids and masks, not only at shapes; never while tracing.
        prefix: of the names of input_ids and attention_mask, "context_" for the text encoder's.
    """
    check_tensors(**{f"{prefix}input_ids": input_ids}, inputs_embeds=inputs_embeds, position_ids=position_ids)
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"pass exactly one of input_ids and inputs_embeds; got {given}")
    read_values, shape = read_values and may_read_values(), (0, 0)
    if input_ids is not None:
        limit = "text_encoder_config.vocab_size" if prefix else "text_config.vocab_size"
        _check_ids(f"{prefix}input_ids", input_ids, config.vocab_size, read_values, limit=limit)
        shape = input_ids.shape[0], input_ids.shape[1]
    elif inputs_embeds is not None:
        shape = _check_embeds(inputs_embeds, config.hidden_size)
    if attention_mask is not None and not isinstance(attention_mask, BlockMask):
        _check_attention_mask(f"{prefix}attention_mask", attention_mask, shape, has_past, read_values)
    if position_ids is not None:
        rows, length = shape
        if tuple(position_ids.shape) not in ((rows, length), (1, length)) or position_ids.dtype not in INTEGERS:
            raise ValueError(
                f"position_ids must be int64 {shape}, as the text; got {position_ids.dtype} "
                f"{tuple(position_ids.shape)}"
            )
    if token_type_ids is not None:
        _check_token_types(token_type_ids, config.type_vocab_size, shape, read_values)


def _check_token_types(types: torch.Tensor, size: int, shape: tuple[int, int], read_values: bool) -> None:
    """Types inside the table. A text without one takes zeros, which many tokenizers give and which say nothing."""
    check_tensors(token_type_ids=types)
    if tuple(types.shape) != shape:
        raise ValueError(f"token_type_ids must be {shape}, as the text; got {tuple(types.shape)}")
    if not size and read_values and types.numel() and bool(types.any()):
        raise ValueError(
            f"token_type_ids hold {int(types.min())}..{int(types.max())}, but this model has no token types "
            "(type_vocab_size=0); leave them out"
        )
    _check_ids("token_type_ids", types, size or 1, read_values, limit="type_vocab_size")


def check_candidates(config: MMConfig, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Answers to choose from: ids (C, Ta) inside the decoder's vocabulary, and a mask of their shape or none."""
    check_tensors(candidate_ids=ids)
    read_values = config.check_inputs and may_read_values()
    _check_ids("candidate_ids", ids, config.text_config.vocab_size, read_values)
    if mask is not None:
        shape = (ids.shape[0], ids.shape[1])
        _check_attention_mask("candidate_attention_mask", mask, shape, has_past=False, read_values=read_values)


def _check_embeds(inputs_embeds: torch.Tensor, width: int) -> tuple[int, int]:
    """(R, T) of embeddings (R, T, width)."""
    shape = tuple(inputs_embeds.shape)
    if len(shape) != 3 or shape[2] != width or not inputs_embeds.is_floating_point():
        raise ValueError(
            f"inputs_embeds must be float (R, T, {width}), hidden_size last; got {inputs_embeds.dtype} {shape}"
        )
    if not inputs_embeds.numel():
        raise ValueError(f"inputs_embeds is empty: {shape}; at least one row of one token is needed")
    return shape[0], shape[1]


def _check_attention_mask(
    name: str, mask: torch.Tensor, shape: tuple[int, int], has_past: bool, read_values: bool
) -> None:
    check_tensors(**{name: mask})
    if mask.ndim == 4:  # ready made, of the attention implementation's kind
        return
    rows, length = shape
    if mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] < length or (mask.shape[1] > length and not has_past):
        wanted = "(R, past + T)" if has_past else "(R, T)"
        raise ValueError(f"{name} must be {wanted} for text {shape}; got {tuple(mask.shape)}")
    if read_values:
        check_mask_values(name, mask)


def check_mask_values(name: str, mask: torch.Tensor) -> None:
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} must hold 0 and 1 alone (1 = real); got {float(mask.min())}..{float(mask.max())}")


def check_prompt_ends(attention_mask: torch.Tensor | None) -> None:
    """Generation continues after the last column, so it must hold a real token in every row."""
    if attention_mask is None or attention_mask.ndim != 2 or not may_read_values():
        return
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("generate() goes on behind the last column, but attention_mask ends in 0; pad on the left")


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


def check_labels(config: MMConfig, labels: torch.Tensor, shape: torch.Size) -> None:
    """Labels of the text's shape, ids inside the vocabulary or -100."""
    check_tensors(labels=labels)
    if labels.shape != shape:
        raise ValueError(f"labels must have the shape {tuple(shape)} of the text; got {tuple(labels.shape)}")
    read_values = config.check_inputs and may_read_values()
    _check_ids("labels", labels, config.text_config.vocab_size, read_values, ignored=-100)


def _check_ids(
    name: str,
    ids: torch.Tensor,
    size: int,
    read_values: bool,
    ignored: int | None = None,
    limit: str = "text_config.vocab_size",
) -> None:
    if ids.ndim != 2 or ids.dtype not in INTEGERS:
        raise ValueError(f"{name} must be int64 (R, T); got {ids.dtype} {tuple(ids.shape)}")
    if not ids.numel():
        raise ValueError(f"{name} is empty: {tuple(ids.shape)}; at least one row of one token (bos) is needed")
    if not read_values:
        return
    real = ids if ignored is None else ids.masked_fill(ids == ignored, 0)
    low, high = int(real.min()), int(real.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} must be in 0..{size - 1} ({limit}); got {low}..{high}")


def check_memory(states: torch.Tensor, mask: torch.Tensor | None, width: int, name: str) -> None:
    """A ready context: float (B, S, width), B and S at least 1, with a mask (B, S) or none."""
    if states.ndim != 3 or states.shape[-1] != width or not states.is_floating_point() or not states.numel():
        raise ValueError(
            f"{name} must be float (B, S, {width}), at least one token each (a mask says which are real); "
            f"got {states.dtype} {tuple(states.shape)}"
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise ValueError(f"the mask of {name} must be {tuple(states.shape[:2])}; got {tuple(mask.shape)}")


def check_logits_to_keep(logits_to_keep: int | torch.Tensor) -> None:
    if not isinstance(logits_to_keep, int | torch.Tensor) or isinstance(logits_to_keep, bool):
        raise TypeError(f"logits_to_keep must be an int or a tensor; got {type(logits_to_keep).__name__}")
    if isinstance(logits_to_keep, int) and logits_to_keep < 0:
        raise ValueError(f"logits_to_keep={logits_to_keep} must not be negative; 0 keeps all positions")


def check_patch_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    """A mask of patches (n, rows, columns): in each picture one rectangle at the top left, at least one patch."""
    check_tensors(pixel_attention_mask=mask)
    if tuple(mask.shape) != shape:
        raise ValueError(f"pixel_attention_mask must be {shape}, one per patch; got {tuple(mask.shape)}")
    if not may_read_values():
        return
    check_mask_values("pixel_attention_mask", mask)
    real = mask.bool()
    rows = torch.arange(shape[1], device=mask.device) < real.any(2).sum(1, keepdim=True)
    columns = torch.arange(shape[2], device=mask.device) < real.any(1).sum(1, keepdim=True)
    if not torch.equal(real, rows[:, :, None] & columns[:, None]) or not bool(real[:, 0, 0].all()):
        raise ValueError("pixel_attention_mask must be True in one rectangle at the top left of each picture")
