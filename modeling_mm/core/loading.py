"""What from_pretrained checks: that the source says clearly which weights load, and that every weight was loaded.

No weight that a checkpoint should hold is filled in silently, and no unknown key is dropped silently.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.modeling_utils import PreTrainedModel
from transformers.utils.hub import cached_file

from ...configuration.hub_files import HUB_OPTIONS, MODEL_SETTINGS, cached, fetch, fetch_all, fetched, is_repository
from ...configuration.mm import MMConfig
from ...weights.files import (
    ADAPTER,
    CheckpointError,
    check_adapter,
    check_adapter_folder,
    check_folder,
    check_one_set,
    index_name,
    kind_read,
    listed,
    read_json_file,
    shards_named,
    single_name,
    weight_files,
)
from ...weights.manifest import check_weights

# Parts that start as a copy of the model where a checkpoint has none of them: what they hold is not new.
COPIES = {"slow", "mim_tower"}

# What torch says of tensors that it cannot make.
_TOO_LARGE = ("Overflow when unpacking", "can't allocate memory", "Storage size calculation overflowed")


@contextmanager
def naming_sizes(source: Any) -> Iterator[None]:
    """Weights too large for torch or the memory of the CPU become a CheckpointError that names the config.json, whose
    numbers they are. A full GPU stays torch's own error."""
    try:
        yield
    except (RuntimeError, TypeError, OverflowError) as error:
        if not any(words in str(error) for words in _TOO_LARGE):
            raise
        why = f"is too large: {str(error).splitlines()[0]}"
        raise CheckpointError(
            f"the model that config.json of {str(source)!r} describes is too large: {why}"
        ) from error


def check_loaded(
    model, info: Mapping[str, Iterable], ignore_mismatched_sizes: bool, files: Sequence[Path] = (), keys: bool = True
) -> None:
    """Raises CheckpointError unless every weight that the checkpoint's own class has was loaded unchanged.

    Args:
        model: the loaded model; `config.architectures` names the class that wrote the checkpoint.
        info: `missing_keys`, `unexpected_keys`, `mismatched_keys` of Transformers' loading.
        ignore_mismatched_sizes: the caller asked for new weights in place of those with another shape.
        files: what was read, for the error.
        keys: missing and unknown ones count; False if the caller gets them in the info.

    What may differ: a head key under a class without that head, and a new head over a checkpoint without it. Both are
    in `output_loading_info` and in Transformers' load report, which leaves out the other heads of an MMForPreTraining.
    A momentum encoder that a checkpoint lacks starts as the model, so that its queue can be switched on later.
    """
    written_by = (model.config.architectures or [type(model).__name__])[0]
    base = f"{model.base_model_prefix}."
    own = type(model).__name__
    heads = _heads_written(model, written_by)
    all_heads = {part for parts in model.head_modules_of.values() for part in parts}
    absent = set(info["missing_keys"]) - shared_weights(model, info["missing_keys"])
    copied = {"slow"} if all(name in absent for name in model.state_dict() if name.startswith("slow.")) else set()
    missing = [
        key
        for key in sorted(absent if keys else ())
        if _first(key, base) not in copied
        and (heads is None or written_by == own or _first(key, base) not in all_heads - heads)
    ]
    faults = [f"missing: {key}" for key in missing]
    if not ignore_mismatched_sizes:
        faults += [f"shape: {key} is {found}, expected {wanted}" for key, found, wanted in info["mismatched_keys"]]
    other_heads = all_heads - set(model.head_modules_of.get(own, ()))  # a head that this class has leaves no rest
    unknown = sorted(info["unexpected_keys"] if keys else ())
    faults += [f"unknown: {key}" for key in unknown if _first(key, base) not in other_heads]
    if faults:
        place = f" ({_told(files)}, as its config.json says)" if files else ""
        what = f"The checkpoint written by {written_by} does not fit {own}; nothing was filled in silently{place}"
        raise CheckpointError(f"{what}:{listed(faults)}")


def _told(files: Sequence[Path]) -> str:
    """The files that were read, with the index that names them where they are shards."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    indexes = [path.name for path in files[0].parent.glob("*.index*.json") if "-of-" in files[0].name]
    return f"{str(files[0])!r}{more}{''.join(f', of {name}' for name in sorted(indexes))}"


def filled(model_class: Any, config: Any, tensors: Mapping[str, Any], new: Collection[str], dtype: Any) -> Any:
    """A model of these tensors themselves, not copies; those named in `new` get the model's own initial values.

    Raises: ValueError that lists the tensors of the model that are missing, and the tensors that it does not have.
    """
    config.architectures = [model_class.__name__]
    load: Any = PreTrainedModel.from_pretrained  # the strict one takes no new tensors
    options = {"config": config, "state_dict": tensors, "dtype": dtype, "output_loading_info": True}
    model, info = load.__func__(model_class, None, **options)
    wrong = {*info["missing_keys"]} ^ set(new) | {*info["unexpected_keys"]}
    if wrong:
        raise ValueError(f"the model was not filled; {len(wrong)} fault(s):{listed(sorted(wrong))}")
    model.after_loading(info)
    model.freeze_again()
    model._drawn = sorted(new)  # for those who tell which weights are new
    return model.eval()


def shared_weights(model, missing: Iterable[str]) -> set[str]:
    """Missing names that are a second name of a loaded weight, as PEFT ties token adapters."""
    named = dict(model.named_parameters(remove_duplicate=False))
    lost = set(missing)
    there = {id(parameter) for name, parameter in named.items() if name not in lost}
    return {name for name in lost if name in named and id(named[name]) in there}


def of_other_heads(model, keys: Iterable[str]) -> set[str]:
    """Which keys are of heads that a checkpoint of several losses has for other classes, as its config says."""
    written_by = (model.config.architectures or [type(model).__name__])[0]
    several = isinstance(model.config, MMConfig) and bool(model.config.pretraining_losses)
    heads = (_heads_written(model, written_by) or set()) if several else set()
    return {key for key in keys if _first(key, f"{model.base_model_prefix}.") in heads}


def note_new_heads(model) -> None:
    """Keeps on a model just loaded which of its heads the checkpoint's class does not have, and how often each of
    their weights had been written to by then."""
    written_by = (model.config.architectures or [type(model).__name__])[0]
    heads, own = _heads_written(model, written_by), _heads_written(model, type(model).__name__)
    new = set() if heads is None or own is None else own - heads - COPIES
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


def _heads_written(model, written_by: str) -> set[str] | None:
    """The heads that a class writes of the model's config; None: not a class of ours."""
    heads, config = model.head_modules_of.get(written_by), model.config
    if heads is None or not isinstance(config, MMConfig):
        return None if heads is None else set(heads)
    losses = set(config.pretraining_losses or ())
    found = {head for head, of in heads.items() if not of or losses & {*of}}
    return found if config.contrastive_queue_size else found - {"slow"}


# ---- before loading: what the source holds -----------------------------------------------------------------------


def check_source(source: str | Path | None, options: Mapping[str, Any], hashes: bool = False) -> None:
    """Raises unless the source says clearly which weights load, can be read, and is as its manifest says.

    Args:
        source: of from_pretrained. The folder of an adapter is looked at with its base.
        options: the other arguments of from_pretrained.
        hashes: compare the SHA-256 of the weight files too, not only their sizes.

    Raises: CheckpointError for two sets of weights, a broken index or one that leads out of its folder; ValueError
        for a weight file that is not as the manifest says; OSError with what the server answered where the weights
        cannot be fetched.
    """
    if hashes and (source is None or options.get("gguf_file") is not None or options.get("state_dict") is not None):
        raise ValueError("verify_hashes=True compares the weight files of a folder or repository; here are none")
    adapter = (options.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if adapter is not None and os.path.isdir(adapter):
        check_adapter_folder(Path(adapter))
        check_weights(Path(adapter), weight_files(Path(adapter), "model", None), hashes=hashes)
    if source is None or options.get("gguf_file") is not None:
        return
    folder = Path(source) / (options.get("subfolder") or "")
    variant, use_safetensors = options.get("variant"), options.get("use_safetensors")
    if folder.is_dir():
        check_folder(folder, variant, use_safetensors)
        kind = kind_read(os.listdir(folder), variant, use_safetensors)
        check_weights(folder, weight_files(folder, kind, variant), hashes=hashes)
        if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
            _check_base(read_json_file(folder / ADAPTER), options, hashes)
    elif is_repository(source):
        _check_repository(str(source), variant, use_safetensors, options, hashes)


def _check_base(adapter: Any, options: Mapping[str, Any], hashes: bool) -> None:
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    if base is not None:
        given = {name: options[name] for name in HUB_OPTIONS if name in options and name != "revision"}
        check_source(base, given, hashes)


def check_json_object(source: str | Path, name: str, options: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a file of a source that is not JSON or holds no object."""
    given = {key: options[key] for key in (*HUB_OPTIONS, "subfolder") if key in options}
    file = cached_file(
        source,
        name,
        **given,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is not None and not isinstance(read_json_file(Path(file)), dict):
        raise CheckpointError(f"{str(file)!r} holds no JSON object")


def _check_repository(
    repository: str, variant: str | None, use_safetensors: bool | None, options: Mapping[str, Any], hashes: bool
) -> None:
    """Fetches the settings and the weights, one file or an index and its shards. Files that are not found are left to
    Transformers, which raises the error and reads other kinds of files."""
    sets = {name(kind, variant) for name in (single_name, index_name) for kind in ("model", "pytorch_model")}
    names = fetch(repository, MODEL_SETTINGS, options)
    read = fetched if names is not None else cached
    if names is None:
        names = {name for name in (*sets, "config.json", ADAPTER) if cached(repository, name, options)}
    kind = kind_read(names, variant, use_safetensors)
    check_one_set(names, kind, variant, repository)
    if ADAPTER in names:
        file = read(repository, ADAPTER, options)
        adapter = None if file is None else read_json_file(Path(file))
        check_adapter(
            adapter, bool(sets & names) and "config.json" in names, repository, lambda base: base == repository
        )
        if "config.json" not in names:
            _check_base(adapter, options, hashes)
    if single_name(kind, variant) in names:
        read(repository, single_name(kind, variant), options)
    elif index_name(kind, variant) in names and (index := read(repository, index_name(kind, variant), options)):
        shards = shards_named(Path(index))
        fetch_all(repository, shards if read is fetched else [], options)
    held = cached(repository, "config.json", options) or cached(repository, ADAPTER, options)
    if held is not None:
        folder = Path(held).parent
        check_weights(folder, weight_files(folder, kind, variant), hashes=hashes)
