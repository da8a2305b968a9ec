"""A plan and a checkpoint's tensors as a model, without copies of what only changes its name."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from transformers.utils import logging

from ..modeling_mm.core.loading import filled
from ..weights.key_table import Converted, raise_faults
from .family import Plan

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class quiet:
    """Transformers' progress bar and load report are about files; ours is `Conversion.report`."""

    def __enter__(self):
        self.level, self.bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error):
        logging.set_verbosity(self.level)
        if self.bar:
            logging.enable_progress_bar()


def widest(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The dtype that holds all of them exactly. Raises ValueError for numbers that are no weights."""
    weights = {name: tensor for name, tensor in tensors.items() if not is_number(name, tensor)}
    wrong = [f"{name} is {tensor.dtype}" for name, tensor in weights.items() if tensor.dtype not in FLOATS]
    raise_faults(f"weights are of {', '.join(map(str, FLOATS))}", wrong)
    return reduce(torch.promote_types, {tensor.dtype for tensor in weights.values()})


def is_number(name: str, tensor: torch.Tensor) -> bool:
    """Whether it is a buffer of whole numbers, as batch norm's counter of batches and Swin's index of positions."""
    return tensor.dtype == torch.int64 and not name.endswith((".weight", ".bias"))


def loaded(plan: Plan, converted: Converted, dtype: torch.dtype) -> Any:
    """The model with these tensors themselves, not copies; what is new gets the model's own initial values."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        return filled(plan.model_class, plan.config, converted.tensors, converted.new, dtype)


def narrower(tensors: Mapping[str, torch.Tensor], wide: torch.dtype, names: Iterable[str]) -> dict[str, str]:
    """Name -> dtype of the source's tensors that are not of the model's."""
    found = {name: tensors[name] for name in names}
    return {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in found.items()
        if tensor.dtype != wide and not is_number(name, tensor)
    }


def narrowed(tensors: dict[str, torch.Tensor], dtypes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The tensors in the source's dtypes, except those that were trained since and would lose precision."""
    for name in dtypes.keys() & tensors.keys():
        narrow = tensors[name].to(getattr(torch, dtypes[name]))
        if torch.equal(narrow.to(tensors[name].dtype), tensors[name]):
            tensors[name] = narrow
    return tensors
