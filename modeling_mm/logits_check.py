"""What generate() looks at in its logits, so that nobody takes for a text what broken numbers leave: padding."""

import warnings

import torch
from transformers.generation.logits_process import LogitsProcessor

BROKEN = (
    "the logits are NaN or infinite, so what is written means nothing: look for NaN among the weights, an overflow of "
    "float16 (take bfloat16 or float32) or pixels that are not normalised. remove_invalid_values=True writes on "
    "without NaN; config.check_inputs=False does not look"
)


class LogitsCheck(LogitsProcessor):
    """Changes no score, and notes on the device whether each row of a step has a best token; read once, at the end."""

    def __init__(self):
        self.is_whole: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        is_whole = torch.isfinite(scores.amax(-1)).all()  # tokens that are ruled out are -inf
        self.is_whole = is_whole if self.is_whole is None else self.is_whole & is_whole
        return scores

    def found_broken(self) -> bool:
        return self.is_whole is not None and not bool(self.is_whole)

    def warn(self) -> None:
        """One RuntimeWarning, if any step was broken."""
        if self.found_broken():
            warnings.warn(f"generate(): {BROKEN}", RuntimeWarning, stacklevel=4)
