"""Strict loading: no weight that a checkpoint should hold is filled in silently, no stray key is dropped silently."""

from collections.abc import Iterable, Mapping

from transformers.configuration_utils import PreTrainedConfig

from ...configuration.mm import MMConfig
from ...weights.files import CheckpointError

# The modules that a class owns beside the base model, by class name. A key is a head key if its first part is here.
HEADS: dict[str, tuple[str, ...]] = {
    "MMModel": (),
    "MMForConditionalGeneration": ("lm_head", "lm_head_transform"),
    "MMForSequenceClassification": ("classifier", "classifiers"),
    "MMForImageTextRetrieval": ("itc_head", "itm_head", "slow"),
    "MMForMaskedLM": ("lm_head", "lm_head_transform"),
    "MMForPreTraining": ("lm_head", "lm_head_transform", "itc_head", "itm_head", "mim_head", "mim_tower"),
}
# Heads that are there for losses of the config's pretraining_losses alone, in the classes that read it.
_OF_LOSSES = {
    "itc_head": {"itc"}, "itm_head": {"itm"}, "lm_head": {"lm", "mlm"}, "lm_head_transform": {"lm", "mlm"},
    "mim_head": {"mim"}, "mim_tower": {"mim"}, "slow": {"itc"},
}  # fmt: skip
_BY_LOSSES = ("MMForImageTextRetrieval", "MMForPreTraining")
_ALL_HEADS = {part for parts in HEADS.values() for part in parts}
# Parts that start as a copy of the model where a checkpoint has none of them: what they hold is not new.
_COPIES = {"slow", "mim_tower"}


def check_loaded(model, info: Mapping[str, Iterable], ignore_mismatched_sizes: bool, keys: bool = True) -> None:
    """Raises CheckpointError unless every weight that the checkpoint's own class has was loaded as it was saved.

    Args:
        model: the loaded model; `config.architectures` names the class that wrote the checkpoint.
        info: `missing_keys`, `unexpected_keys`, `mismatched_keys` of Transformers' loading.
        ignore_mismatched_sizes: the caller asked for weights of another shape to be made anew.
        keys: missing and unknown ones count; False where the caller is told of them.

    What may differ: a head key under a class without that head, and a new head over a checkpoint without it. Both are
    in Transformers' load report and in `output_loading_info`. A slow copy that a checkpoint has nothing of starts as
    the model, so that its queue can be switched on later.
    """
    written_by = (model.config.architectures or [type(model).__name__])[0]
    base = f"{model.base_model_prefix}."
    own = type(model).__name__
    heads = _heads_written(written_by, model.config)
    absent = set(info["missing_keys"]) - shared_weights(model, info["missing_keys"])
    copied = {"slow"} if all(name in absent for name in model.state_dict() if name.startswith("slow.")) else set()
    missing = [
        key
        for key in sorted(absent if keys else ())
        if _first(key, base) not in copied
        and (heads is None or written_by == own or _first(key, base) not in _ALL_HEADS - heads)
    ]
    faults = [f"missing: {key}" for key in missing]
    if not ignore_mismatched_sizes:
        faults += [f"shape: {key} is {found}, expected {wanted}" for key, found, wanted in info["mismatched_keys"]]
    other_heads = _ALL_HEADS - set(HEADS.get(own, ()))  # a head that this class has leaves no rest
    unknown = sorted(info["unexpected_keys"] if keys else ())
    faults += [f"unknown: {key}" for key in unknown if _first(key, base) not in other_heads]
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:20])
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise CheckpointError(
            f"The checkpoint written by {written_by} does not fit {own}; nothing was filled in "
            f"silently:\n{shown}{more}"
        )


def shared_weights(model, missing: Iterable[str]) -> set[str]:
    """Those of the missing names that are a second name of a weight that was there, as PEFT ties token adapters."""
    named = dict(model.named_parameters(remove_duplicate=False))
    lost = set(missing)
    there = {id(parameter) for name, parameter in named.items() if name not in lost}
    return {name for name in lost if name in named and id(named[name]) in there}


def note_new_heads(model) -> None:
    """Keeps on a model just loaded which of its heads the checkpoint's class does not have, and how often each of
    their weights had been written to by then."""
    written_by = (model.config.architectures or [type(model).__name__])[0]
    heads, own = _heads_written(written_by, model.config), _heads_written(type(model).__name__, model.config)
    new = set() if heads is None or own is None else own - heads - _COPIES
    named = model.named_parameters(remove_duplicate=False)
    versions = {name: weight._version for name, weight in named if name.split(".")[0] in new}
    model._new_heads = (written_by, versions)


def check_trained(model) -> None:
    """Raises CheckpointError for heads that were new at loading and that nothing has written to since."""
    written_by, versions = getattr(model, "_new_heads", (None, {}))
    held = dict(model.named_parameters(remove_duplicate=False))
    if versions and all(name in held and held[name]._version == version for name, version in versions.items()):
        own, new = type(model).__name__, ", ".join(sorted({name.split(".")[0] for name in versions}))
        raise CheckpointError(
            f"{new} of {own} would be random: the checkpoint was written by {written_by}, which has no such head. "
            f"Train {own} from it first, or name a task that {written_by} can do"
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
        heads -= set() if config.contrastive_queue_size else {"slow"}
    return heads
