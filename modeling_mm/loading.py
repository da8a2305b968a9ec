"""Strict loading: no weight that a checkpoint should hold is filled in silently, no stray key is dropped silently."""

from collections.abc import Iterable, Mapping

from transformers.configuration_utils import PreTrainedConfig

from ..configuration.mm import MMConfig

# The modules that a class owns beside the base model, by class name. A key is a head key if its first part is here.
HEADS: dict[str, tuple[str, ...]] = {
    "MMModel": (),
    "MMForConditionalGeneration": ("lm_head", "lm_head_transform"),
    "MMForSequenceClassification": ("classifier", "classifiers"),
    "MMForImageTextRetrieval": ("itc_head", "itm_head"),
    "MMForMaskedLM": ("lm_head", "lm_head_transform"),
    "MMForPreTraining": ("lm_head", "lm_head_transform", "itc_head", "itm_head", "mim_head", "mim_tower"),
}
# Heads that are there for losses of the config's pretraining_losses alone, in the classes that read it.
_OF_LOSSES = {
    "itc_head": {"itc"}, "itm_head": {"itm"}, "lm_head": {"lm", "mlm"}, "lm_head_transform": {"lm", "mlm"},
    "mim_head": {"mim"}, "mim_tower": {"mim"},
}  # fmt: skip
_BY_LOSSES = ("MMForImageTextRetrieval", "MMForPreTraining")
_ALL_HEADS = {part for parts in HEADS.values() for part in parts}


class CheckpointError(ValueError, RuntimeError):
    """A checkpoint that does not fit; a RuntimeError too, as Transformers raises for a weight of another shape."""


def check_loaded(model, info: Mapping[str, Iterable], ignore_mismatched_sizes: bool, keys: bool = True) -> None:
    """Raises CheckpointError unless every weight that the checkpoint's own class has was loaded as it was saved.

    Args:
        model: the loaded model; `config.architectures` names the class that wrote the checkpoint.
        info: `missing_keys`, `unexpected_keys`, `mismatched_keys` of Transformers' loading.
        ignore_mismatched_sizes: the caller asked for weights of another shape to be made anew.
        keys: missing and unknown ones count; False where the caller is told of them.

    What may differ: a head key under a class without that head, and a new head over a checkpoint without it. Both are
    in Transformers' load report and in `output_loading_info`.
    """
    written_by = (model.config.architectures or [type(model).__name__])[0]
    base = f"{model.base_model_prefix}."
    heads = _heads_written(written_by, model.config)
    missing = [
        key
        for key in sorted(info["missing_keys"] if keys else ())
        if heads is None or written_by == type(model).__name__ or _first(key, base) not in _ALL_HEADS - heads
    ]
    faults = [f"missing: {key}" for key in missing]
    if not ignore_mismatched_sizes:
        faults += [f"shape: {key} is {found}, expected {wanted}" for key, found, wanted in info["mismatched_keys"]]
    other_heads = _ALL_HEADS - set(HEADS.get(type(model).__name__, ()))  # a head that this class has leaves no rest
    unknown = sorted(info["unexpected_keys"] if keys else ())
    faults += [f"unknown: {key}" for key in unknown if _first(key, base) not in other_heads]
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:20])
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise CheckpointError(
            f"The checkpoint written by {written_by} does not fit {type(model).__name__}; nothing was filled in "
            f"silently:\n{shown}{more}"
        )


def _first(key: str, base: str) -> str:
    return key.removeprefix(base).split(".")[0]


def _heads_written(written_by: str, config: PreTrainedConfig) -> set[str] | None:
    """The heads that a class writes, by its own config; None: not a class of ours."""
    if written_by not in HEADS:
        return None
    heads = set(HEADS[written_by])
    if written_by in _BY_LOSSES and isinstance(config, MMConfig):
        losses = set(config.pretraining_losses or ())
        heads = {head for head in heads if _OF_LOSSES[head] & losses}
    return heads
