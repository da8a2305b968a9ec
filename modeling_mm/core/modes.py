"""The mode of a model for one piece of work."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model without dropout, and afterwards every part of it in the mode that it had: some parts of a model in
    training may be in evaluation, such as a frozen tower. A model in evaluation is not touched, as another thread may
    run it.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
