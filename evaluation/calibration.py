"""How sure a model may be of what it wrote: the mean log-probability of its tokens as the chance that it is right.

    chance = sigmoid((score - midpoint) / temperature)

fitted on pictures whose right texts are known, of a kind that training did not see (Platt 1999). The scores of two
models, or of one before and after more training, are not alike: each has a calibration of its own, which is kept in
its generation_config.json.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)
STEPS = 100
DIGESTED = 32  # numbers of a parameter


def mean_log_probabilities(model: Any, output: Any) -> list[float]:
    """Per row of what generate() gave with its scores, the mean log-probability of the new tokens up to and with the
    end token."""
    per_token = model.compute_transition_scores(
        output.sequences, output.scores, output.get("beam_indices"), normalize_logits=True
    )  # (B, new tokens)
    new = output.sequences[:, -per_token.shape[1] :]
    ends = model.generation_config.eos_token_id
    is_end = torch.isin(new, torch.tensor([] if ends is None else ends, dtype=new.dtype, device=new.device))
    is_real = is_end.cumsum(1) - is_end.long() == 0
    return ((per_token * is_real).sum(1) / is_real.sum(1)).tolist()


@dataclass(frozen=True)
class Calibration:
    """temperature > 0: how far scores spread; midpoint: the score of what is right half of the time; unsure_below:
    the chance, 0 to 1, below which `mm caption` says that it is unsure; weights: of which model, see `keep`."""

    temperature: float
    midpoint: float
    unsure_below: float = 0.5
    weights: str | None = None

    def __post_init__(self):
        for name in ("temperature", "midpoint", "unsure_below"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise TypeError(f"calibration: {name} must be a finite number; got {value!r}")
        if self.temperature <= 0:
            raise ValueError(f"calibration: temperature must be above 0; got {self.temperature}")
        if not 0 <= self.unsure_below <= 1:
            raise ValueError(f"calibration: unsure_below is a chance, 0 to 1; got {self.unsure_below}")

    def chance(self, score: float) -> float:
        """How likely a text with this score, a mean log-probability, is right: 0 to 1."""
        return 0.5 + 0.5 * math.tanh((score - self.midpoint) / self.temperature / 2)

    def keep(self, model: Any) -> None:
        """Gives a model this calibration: save_pretrained writes it into generation_config.json, with a digest of the
        weights, so that it is not used after more training."""
        numbers = {name: round(value, 6) for name, value in asdict(self).items() if name != "weights"}
        model.generation_config.calibration = {**numbers, "weights": weights_digest(model)}
        if getattr(model.generation_config, "_from_model_config", False):  # of such Transformers reads what it knows
            model.generation_config._from_model_config = False


def calibrate(
    scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, unsure_below: float = 0.5
) -> Calibration:
    """The calibration that makes what was seen most likely; counts are smoothed as Platt does, so that texts which are
    all right above some score give a finite temperature.

    Args:
        scores: N mean log-probabilities, of pictures that nothing was chosen on.
        right: bool (N,), both values among them.
    Raises: ValueError for other shapes, one kind only, and scores that do not rise with what is right.
    """
    found, truth = np.asarray(scores, np.float64), np.asarray(right)
    if found.ndim != 1 or truth.shape != found.shape or truth.dtype.kind != "b" or not np.isfinite(found).all():
        raise ValueError(
            f"scores {found.shape}, right {truth.dtype} {truth.shape}; give finite numbers and True or False"
        )
    if truth.all() or not truth.any():
        raise ValueError(f"{int(truth.sum())} of {len(truth)} texts are right; a calibration needs both kinds")
    targets = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    centre, spread = found.mean(), max(found.std(), 1e-12)
    rows = np.stack([(found - centre) / spread, np.ones_like(found)], 1)
    weights = np.zeros(2)
    for _ in range(STEPS):  # Newton's method; the loss is convex
        chances = 0.5 + 0.5 * np.tanh(rows @ weights / 2)
        curve = rows.T @ (rows * (chances * (1 - chances))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, rows.T @ (chances - targets))
        weights -= step / max(1.0, np.abs(step).max() / 4)
        if np.abs(step).max() < 1e-12:
            break
    slope, offset = weights
    if slope <= 0:
        raise ValueError("texts with higher scores are not right more often, so their scores tell nothing")
    return Calibration(float(spread / slope), float(centre - spread * offset / slope), unsure_below)


def calibration_of(model: Any) -> Calibration | None:
    """That of a model's generation_config; None: it has none, or one for other weights, of which it warns.

    Raises: TypeError or ValueError, naming the file, for a calibration that is none.
    """
    held = getattr(model.generation_config, "calibration", None)
    if held is None:
        return None
    if not isinstance(held, Mapping):
        raise TypeError(f"generation_config.json: calibration must be an object; got {held!r}")
    try:
        found = Calibration(**held)
    except (TypeError, ValueError) as error:
        raise type(error)(f"generation_config.json: {error}") from error
    if found.weights not in (None, weights_digest(model)):
        logger.warning(
            "the calibration in generation_config.json is not used: it was made before these weights were trained or "
            "changed (mm.metrics.calibrate makes another)"
        )
        return None
    return found


def weights_digest(model: Any) -> str:
    """A digest of the first numbers of every parameter, rounded to bfloat16, so that it is that of a loaded copy in
    float32, bfloat16, or whatever it was saved in."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        if type(parameter.data) is not torch.Tensor or not parameter.is_floating_point() or parameter.is_meta:
            continue  # quantized, or left on the disk: not the weights that it was made with
        first = parameter.detach().reshape(-1)[:DIGESTED].bfloat16().float().cpu()
        digest.update(name.encode() + first.numpy().tobytes())
    return digest.hexdigest()
