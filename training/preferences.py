"""Batches of preferred and rejected texts for TRL's DPOTrainer.

{image, prompt, chosen, rejected} ×R ─► the R chosen rows, then the R rejected ones; each picture is encoded once
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..modeling_mm.losses.token_losses import IGNORED
from ..processing.collator import MMDataCollator
from ..processing.processor import MMProcessor


class MMPreferenceCollator:
    """The data_collator of `trl.DPOTrainer` for a captioner of MM.

    A sample has media under the names that `MMDataCollator` reads, prompt (may be empty), chosen and rejected.

    Args:
        model: that is trained. Raises ValueError for one whose head TRL does not compute.
        settings: of MMDataCollator.
    """

    def __init__(self, processor: MMProcessor, model: Any, **settings: Any):
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not isinstance(getattr(bare, "lm_head_transform", None), nn.Identity):
            raise ValueError(
                f"{type(bare).__name__} has lm_head_transform, or no head that writes: TRL computes log-probabilities "
                "from the decoder's states and lm_head only, which would be those of another model. Models with "
                "lm_head_transform=False are accepted"
            )
        if bare.config.final_logit_softcapping is not None:
            raise ValueError(
                f"final_logit_softcapping={bare.config.final_logit_softcapping} caps this model's logits, which TRL "
                "computes from the decoder's states and lm_head without it. Models without it are accepted"
            )
        self.collate, self._prompt = MMDataCollator(processor, **settings), processor.prompt_side(bare.config)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = [self._row(sample, side) for side in ("chosen", "rejected") for sample in samples]
        batch = self.collate(rows)
        batch.pop("return_logits", None)
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        return batch

    def _row(self, sample: Mapping[str, Any], side: str) -> dict[str, Any]:
        lacking = [name for name in ("prompt", "chosen", "rejected") if name not in sample]
        if lacking:
            raise ValueError(f"a sample has prompt, chosen and rejected; this one lacks {', '.join(lacking)}")
        media = {name: value for name, value in sample.items() if name not in ("prompt", "chosen", "rejected")}
        prompt = {self._prompt: sample["prompt"]} if sample["prompt"] else {}
        return {**media, **prompt, "suffix": sample[side]}
