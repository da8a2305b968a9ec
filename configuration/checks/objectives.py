"""The rules of contrastive, matching and masked losses. Each broken rule is a sentence that names the setting."""

# `config` is an MMConfig, which is defined above this file in the order of imports.
from typing import Any

from transformers.activations import ACT2FN

from ..base import nearest

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
    faults += _projection_faults(config) + _softmax_faults(config) + _queue_faults(config)
    if config.mim_momentum != 1 and config.mim_target == "pixels":
        faults.append(f"mim_momentum={config.mim_momentum} is for a target tower; set mim_target='features'")
    return faults + _loss_faults(config.pretraining_losses or {})


def _projection_faults(config: Any) -> list[str]:
    """What projections of two layers need."""
    widths, act, faults = config.projection_hidden_sizes, config.projection_act, []
    for side, width in (widths or {}).items():
        if side not in SIDES or isinstance(width, bool) or not isinstance(width, int) or width < 1:
            faults.append(
                f"projection_hidden_sizes[{side!r}]={width!r}; accepted: {', '.join(SIDES)} with whole numbers from 1"
            )
        elif config.projected_sides is not None and side not in config.projected_sides:
            faults.append(f"projection_hidden_sizes names {side!r}, which projected_sides leaves out; name it in both")
    if act is not None and act not in ACT2FN:
        faults.append(f"projection_act={act!r} is not an activation{nearest(act, ACT2FN)}")
    elif act is not None and not widths:
        faults.append(f"projection_act={act!r} is between two layers; set projection_hidden_sizes, or leave it out")
    return faults


def _softmax_faults(config: Any) -> list[str]:
    """What only a softmax over the batch has."""
    given = {
        "text_logit_scale": config.text_logit_scale,
        "contrastive_label_smoothing": config.contrastive_label_smoothing,
    }
    faults = []
    for name, value in given.items():
        if value and config.contrastive_loss == "sigmoid":
            faults.append(f"{name}={value} is for a softmax; set contrastive_loss='infonce', or leave it out")
        if value and config.contrastive_queue_size:
            faults.append(f"{name}={value} does not go with contrastive_queue_size; leave one of them out")
    return faults


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
