"""The rules of contrastive, matching and masked losses. Each broken rule is a sentence that names the setting."""

# `config` is an MMConfig, which is defined above this file in the order of imports.
from typing import Any

LOSSES = ("itc", "itm", "lm", "mlm", "mim")
SIDES = ("text", "vision", "audio")


def objective_faults(config: Any) -> list[str]:
    """The broken rules of the settings of losses."""
    faults = []
    if config.logit_scale_max is not None and config.logit_scale_init_value > config.logit_scale_max:
        faults.append(
            f"logit_scale_init_value={config.logit_scale_init_value} is above "
            f"logit_scale_max={config.logit_scale_max}; both are logarithms of the scale"
        )
    if config.logit_bias_init_value is not None and config.contrastive_loss == "infonce":
        faults.append(
            f"logit_bias_init_value={config.logit_bias_init_value} changes nothing in a softmax; leave it out, or set "
            "contrastive_loss='sigmoid'"
        )
    unknown = sorted(set(config.projected_sides or []) - set(SIDES))
    if unknown:
        faults.append(f"projected_sides names {unknown}; accepted: {', '.join(SIDES)}")
    if config.contrastive_exchange == "ring" and config.contrastive_loss == "infonce":
        faults.append(
            "contrastive_exchange='ring' needs a loss of single pairs, and a softmax needs all pairs; set "
            "contrastive_loss='sigmoid', or contrastive_exchange='gather'"
        )
    faults += _queue_faults(config)
    if config.mim_momentum != 1 and config.mim_target == "pixels":
        faults.append(f"mim_momentum={config.mim_momentum} is for a target tower; set mim_target='features'")
    return faults + _loss_faults(config.pretraining_losses or {})


def _queue_faults(config: Any) -> list[str]:
    """What queues, and the copy that fills them, need."""
    size, faults = config.contrastive_queue_size, []
    if not size and config.contrastive_soft_targets:
        faults.append(
            f"contrastive_soft_targets={config.contrastive_soft_targets} come from the copy that fills queues; set "
            "contrastive_queue_size"
        )
    if size and config.contrastive_loss == "sigmoid":
        faults.append(f"contrastive_queue_size={size} is for a softmax; set contrastive_loss='infonce'")
    if size and config.contrastive_chunk_size is not None:
        faults.append(
            f"contrastive_queue_size={size} and contrastive_chunk_size={config.contrastive_chunk_size} are two ways "
            "to get many negatives; leave one out"
        )
    return faults


def _loss_faults(losses: dict[str, float]) -> list[str]:
    faults = []
    unknown = sorted(set(losses) - set(LOSSES))
    if unknown or not losses:
        faults.append(f"pretraining_losses names {unknown or 'no loss'}; accepted: {', '.join(LOSSES)}")
    for name, weight in losses.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            faults.append(f"pretraining_losses[{name!r}]={weight!r} must be a positive number; leave it out for none")
    return faults
