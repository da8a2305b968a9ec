"""The files of weights in a folder: the sets in it, the one that loads, the files that a save replaces, broken files.

A set is one file, or an index and the shards that it names; a variant ("fp16") has sets of its own:

    model.safetensors              model.safetensors.index.json, model-00001-of-00002.safetensors ...
    model.fp16.safetensors         model.safetensors.index.fp16.json, model.fp16-00001-of-00002.safetensors ...
    pytorch_model.bin ...          the same as pickles; read without safetensors, or by use_safetensors=False
    adapter_config.json, adapter_model.safetensors      PEFT's, over the folder's own weights or another base
"""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

logger = logging.get_logger(__name__)


class CheckpointError(ValueError, RuntimeError):
    """A checkpoint that does not fit; a RuntimeError too, as Transformers raises for a weight of another shape."""


def listed(faults: list[str], most: int = 20) -> str:
    """Faults, a line each, for the end of an error."""
    more = [f"... and {len(faults) - most} more"] if len(faults) > most else []
    return "".join([*(f"\n  - {fault}" for fault in faults[:most]), *(f"\n  {line}" for line in more)])


ADAPTER = "adapter_config.json"
_KINDS = {"model": "safetensors", "pytorch_model": "bin"}
_SHARD = r"-\d{5}-of-\d{5}"
_OF_AN_ADAPTER = rf"adapter_config\.json|adapter_model({_SHARD})?\.(safetensors|bin)"
_OF_A_MANIFEST = r"manifest\.json|forward\.json"  # of the weights that a push replaces
_DISTRIBUTED = r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors"


def single_name(kind: str, variant: str | None = None) -> str:
    """model.safetensors, pytorch_model.bin, or that of a variant."""
    return f"{kind}.{variant}.{_KINDS[kind]}" if variant else f"{kind}.{_KINDS[kind]}"


def index_name(kind: str, variant: str | None = None) -> str:
    """The index of shards of `single_name`."""
    return f"{kind}.{_KINDS[kind]}.index.{variant}.json" if variant else f"{kind}.{_KINDS[kind]}.index.json"


def kind_read(names: Iterable[str], variant: str | None, use_safetensors: bool | None) -> str:
    """Which kind of set Transformers reads: safetensors if there are any, unless the call says otherwise."""
    there = {single_name("model", variant), index_name("model", variant)} & set(names)
    return "model" if use_safetensors or (use_safetensors is None and there) else "pytorch_model"


def check_folder(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> None:
    """Raises CheckpointError unless the folder says clearly which weights load and its index is whole."""
    names = set(os.listdir(folder))
    kind = kind_read(names, variant, use_safetensors)
    check_one_set(names, kind, variant, str(folder))
    if any(re.fullmatch(_DISTRIBUTED, name) for name in names) and single_name(kind, variant) in names:
        raise _two_sets(str(folder), "shard-...-model-...safetensors (distributed)", single_name(kind, variant))
    if index_name(kind, variant) in names:
        check_index(folder / index_name(kind, variant))
    if ADAPTER in names:
        check_adapter_folder(folder)


def weight_files(folder: Path, kind: str, variant: str | None) -> list[str]:
    """The names of the files of one set in the folder, those of an adapter too."""
    names = set(os.listdir(folder))
    one, index = single_name(kind, variant), index_name(kind, variant)
    found = [one] if one in names else shards_named(folder / index) if index in names else []
    adapters = (name for name in names if name != ADAPTER and re.fullmatch(_OF_AN_ADAPTER, name))
    return [*found, *sorted(adapters)]


def check_one_set(names: Iterable[str], kind: str, variant: str | None, place: str) -> None:
    """Raises CheckpointError if a folder has both a single file of weights and an index of shards."""
    one, index = single_name(kind, variant), index_name(kind, variant)
    if {one, index} <= set(names):
        raise _two_sets(place, one, f"{index} with its shards")


def _two_sets(place: str, one: str, other: str) -> CheckpointError:
    return CheckpointError(
        f"{place!r} holds two sets of weights, {one} and {other}, and nothing says which of them is meant; remove the "
        "older one"
    )


def shards_named(index: Path) -> list[str]:
    """The files that an index names, each without a path.

    Raises: CheckpointError for a file that is no index, or that leads out of its folder.
    """
    saved = read_json_file(index)
    weight_map = saved.get("weight_map") if isinstance(saved, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{str(index)!r} is no index of shards: it needs a weight_map, {{name: file}}")
    for shard in weight_map.values():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{str(index)!r} is no index of shards: it names {shard!r:.60}, which is no file name"
            )
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard or shard.startswith(".") or "\\" in shard:
            raise CheckpointError(
                f"{index.name} names the shard {shard!r}; a shard is in the folder of its index, without a path"
            )
    return shards


def check_index(index: Path) -> None:
    """Raises CheckpointError, or FileNotFoundError, unless Transformers can read the index and its shards."""
    for shard in shards_named(index):
        check_inside(index.parent, shard, index.name)
    if not isinstance(read_json_file(index).get("metadata"), dict):
        raise CheckpointError(f"{str(index)!r} is no index of shards: it needs metadata, a dict that may be empty")


def check_inside(folder: Path, shard: str, index: str) -> None:
    """Raises CheckpointError for a shard that a link takes out of the folder (or, in a snapshot of the Hub's cache,
    out of the blobs that its files are links to), FileNotFoundError for one that is missing."""
    file = folder / shard
    if not file.is_file():
        raise FileNotFoundError(f"{index} names the shard {shard!r}, which is not there ({str(folder)!r})")
    real, home = file.resolve(), folder.resolve()
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not real.is_relative_to(home) and not real.is_relative_to(blobs):
        raise CheckpointError(
            f"{index} names the shard {shard!r}, a link that leads out of its folder, to {str(real)!r}"
        )


def check_adapter_folder(folder: Path) -> None:
    """`check_adapter` of a folder that holds one."""
    weights = any((folder / name("model")).is_file() for name in (single_name, index_name))
    is_whole = weights and (folder / "config.json").is_file()
    check_adapter(
        read_json_file(folder / ADAPTER), is_whole, str(folder), lambda base: Path(base).resolve() == folder.resolve()
    )


def check_adapter(saved: Any, is_whole: bool, place: str, is_here: Callable[[str], bool]) -> None:
    """Raises CheckpointError if a folder has a whole model and an adapter of another base, which Transformers would
    put on that model.

    Args:
        saved: what adapter_config.json holds.
        is_whole: the folder also has a whole model.
        is_here: whether a base is that model.
    """
    base = saved.get("base_model_name_or_path") if isinstance(saved, dict) else None
    if base and is_whole and not is_here(base):
        raise CheckpointError(
            f"{place!r} holds a whole model and an adapter of another one, {base!r} ({ADAPTER}), and nothing says "
            "which of them is meant; remove one, or make this place the base_model_name_or_path of the adapter"
        )


def read_json_file(file: Path) -> Any:
    """Raises: CheckpointError, naming the file, for one that is not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(file)!r} is not JSON: {error}") from error


# ---- what a save replaces -------------------------------------------------------------------------------------------


def stale_files(folder: Path, variant: str | None, is_adapter: bool) -> list[Path]:
    """What an earlier save left, after a new one: the other layout of the same variant, and pickles. Of a whole model
    also an adapter, which would be laid over it.

    A save of one file has removed all shards, so an index whose shards are all there is the new one.
    """
    if is_adapter:
        return []
    names = set(os.listdir(folder))
    gone = {name for name in names if re.fullmatch(_set_of("pytorch_model", variant), name)}
    one, index = single_name("model", variant), index_name("model", variant)
    gone |= {name for name in names if re.fullmatch(f"{_OF_AN_ADAPTER}|{_DISTRIBUTED}", name)}
    if {one, index} <= names:
        named = _named_or_none(folder / index)
        own = re.compile(_set_of("model", variant))
        is_whole = bool(named) and all(own.fullmatch(name) and name in names for name in named)
        gone |= {one} if is_whole else {index, *(set(named) & names)} - {one}
    return [folder / name for name in sorted(gone)]


def stale_patterns(written: Iterable[str], is_adapter: bool) -> str:
    """A pattern for whole names: the other files in the repository that a push replaces."""
    if is_adapter:
        return f"{_OF_AN_ADAPTER}|{_OF_A_MANIFEST}"
    stem = rf"model(?:\.(?P<variant>.+?))?({_SHARD})?\.safetensors"
    found = (re.fullmatch(stem, name) for name in written)
    variants = {match["variant"] for match in found if match}
    sets = [_set_of(kind, variant) for variant in variants for kind in _KINDS]
    return "|".join([_OF_AN_ADAPTER, _OF_A_MANIFEST, *sets] if sets else [r"(?!)"])


def _set_of(kind: str, variant: str | None) -> str:
    stem = re.escape(f"{kind}.{variant}" if variant else kind)
    return rf"{stem}({_SHARD})?\.{_KINDS[kind]}|{re.escape(index_name(kind, variant))}"


def _named_or_none(index: Path) -> list[str]:
    try:
        return shards_named(index)
    except CheckpointError:
        return []  # broken, so it was not just written


def check_place(directory: str | os.PathLike, adapter_of: str | None) -> Path:
    """The folder to save a model to.

    Args:
        adapter_of: the base of the adapter that is saved; None: a whole model is.

    Raises: NotADirectoryError for a file; ValueError for an adapter over another whole model, which would then be
        loaded with it.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(directory)!r} is a file; a model is saved to a folder")
    is_whole = (folder / "config.json").is_file() and not (folder / ADAPTER).is_file()
    if adapter_of is not None and is_whole and Path(adapter_of).resolve() != folder.resolve():
        raise ValueError(
            f"{str(directory)!r} holds a whole model, over which this adapter of {adapter_of!r} would be loaded; save "
            "the adapter to a folder of its own"
        )
    return folder


def remove_stale(folder: Path, variant: str | None, is_adapter: bool) -> None:
    """Removes the weights of earlier saves, after a new one is whole."""
    for file in stale_files(folder, variant, is_adapter):
        logger.info(f"removing {file}, which this save replaces")
        file.unlink(missing_ok=True)


# ---- reading a file -------------------------------------------------------------------------------------------------


def opened(file: Path) -> Any:
    """An open safetensors file. Raises: CheckpointError, naming it, for one that is broken."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OverflowError) as error:
        raise broken(file, error) from error


def broken(file: Path, error: Exception) -> CheckpointError:
    size = file.stat().st_size if file.is_file() else 0
    return CheckpointError(
        f"{str(file)!r} ({size} bytes) is not a whole file of weights: {error}. Was the download or the copy cut?"
    )


def unpickled(file: Path, **how: Any) -> Any:
    """The content of a file of torch.save, only tensors. Raises: CheckpointError, naming the file."""
    if not zipfile.is_zipfile(file):
        how.pop("mmap", None)  # an old file, not a zip archive, cannot be mapped
    try:
        return torch.load(file, weights_only=True, **how)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{str(file)!r} holds more than tensors, or is no file of torch.save; unpickling it could run any code. "
            "If you trust it, save only its tensors, as safetensors"
        ) from error
    except (RuntimeError, IndexError, EOFError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise broken(file, error) from error


def dtypes(file: Path) -> dict[str, str]:
    """The dtype of each tensor by name, as safetensors call them ("F32", "I64", "F8_E4M3"), or as torch does."""
    if file.suffix == ".safetensors":
        with opened(file) as tensors:
            return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    held = unpickled(file, map_location="meta")
    return {name: str(value.dtype) for name, value in held.items() if torch.is_tensor(value)}


_FLOATS = {"F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16"}
_INTEGERS = re.compile(r"(torch\.)?(I|U|int|uint)\d+")


def check_dtypes(files: Iterable[Path], expected: dict[str, torch.dtype] | None, base: str) -> None:
    """Raises CheckpointError for a tensor whose numbers mean something else than the model's: integers, booleans or
    scaled fp8 where it has weights, and the reverse. Another width of float is a plain cast.

    Args:
        expected: of the model's tensors by name, with or without the prefix `base`; None: all are weights.
    """
    faults, seen = [], {}
    for file in files:
        for name, found in dtypes(file).items():
            if seen.setdefault(name, file) != file:
                faults.append(f"{name} is in {seen[name].name} and in {file.name}")
            wanted = torch.float32 if expected is None else _expected(name, expected, base)
            if wanted is not None and not _may_hold(found, wanted):
                faults.append(f"{name} in {file.name} is {found.removeprefix('torch.')}, expected {wanted}")
    if faults:
        found = listed(faults)
        raise CheckpointError(f"The checkpoint holds tensors twice, or of another kind than the model's:{found}")


def _expected(name: str, expected: dict[str, torch.dtype], base: str) -> torch.dtype | None:
    known = (expected.get(key) for key in (name, f"{base}.{name}", name.removeprefix(f"{base}.")))
    return next((dtype for dtype in known if dtype is not None), None)


def _may_hold(found: str, wanted: torch.dtype) -> bool:
    if wanted.is_floating_point:
        return found in _FLOATS
    return found in ("BOOL", "torch.bool") if wanted == torch.bool else _INTEGERS.fullmatch(found) is not None
