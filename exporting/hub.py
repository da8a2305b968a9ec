"""export_for_hub: a model with its code in one directory, for those who have Transformers but not MM.

They load it with `trust_remote_code=True`, which means that the repository's code runs on their machine; without it
Transformers raises an error. If MM is installed, its own classes are used and the code in the repository is not read.
"""

# Transformers' registries of third parties have no public way to be read.

import hashlib
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.processing_utils import ProcessorMixin

from ..configuration.auto_map import FRONT, SHIM, finish_config, finish_processor, registered
from ..modeling_mm.core.base import MMPreTrainedModel
from .flat_source import flat_name, flat_sources

# All classes are found through one file: from a directory Transformers loads the files of an auto_map one by one, each
# with a copy of all it imports, and the classes of two copies are not the same. Each class says that it is of that
# file: Transformers saves a class with its file and all that it imports, so what is trained from an export and saved
# is an export again.
_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = __name__.split(".")[0]


def export_for_hub(
    model: MMPreTrainedModel, processor: ProcessorMixin | None, directory: str | Path, max_shard_size: str = "50GB"
) -> list[Path]:
    """Writes weights, configuration, processor and all the code they need into one flat directory.

    Args:
        model: any model or tower of MM.
        processor: its processor; None writes none.
        directory: created if missing; files of the same names are replaced.
        max_shard_size: of a file of weights, as in save_pretrained.

    Returns: the files of code, the one that names every class first. `HfApi().upload_folder` pushes the directory.

    Raises: TypeError for a model or processor of another library; ValueError for a model with adapters, whose
        save_pretrained writes only those.
    """
    if not isinstance(model, MMPreTrainedModel):
        merge = "; merge it first: model.merge_and_unload()" if hasattr(model, "merge_and_unload") else ""
        raise TypeError(f"model must be a model or a tower of MM; got {type(model).__name__}{merge}")
    if model._hf_peft_config_loaded:
        raise ValueError(
            f"the model holds adapters ({', '.join(model.peft_config)}): export what PeftModel's merge_and_unload() "
            "gives, or the base model, over which the adapter's own folder is then loaded"
        )
    if processor is not None and not _is_ours(type(processor)):
        raise TypeError(f"processor must be an MMProcessor or None; got {type(processor).__name__}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    finish_config(directory, model.config, FRONT)
    if processor is not None:
        processor.save_pretrained(directory)
        finish_processor(directory, processor, FRONT)
    (directory / f"{SHIM}.py").unlink(missing_ok=True)
    return write_code(directory)


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == _PACKAGE


def write_code(directory: Path) -> list[Path]:
    """Writes the code of every class that an Auto class finds, the file that names them first."""
    tables = [registered(config) for config in CONFIG_MAPPING._extra_content.values() if _is_ours(config)]
    found = [cls.values() if isinstance(cls, dict) else [cls] for table in tables for cls in table.values()]
    homes = {cls.__name__: cls.__module__.removeprefix(f"{_PACKAGE}.") for cls in chain(*found)}
    files = _code(tuple(sorted(homes.items())))
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]


@cache
def _code(homes: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The files of code for the named classes, given with the modules that they are in."""
    made_by = f"mm-transformers {version('mm-transformers')} (Apache-2.0)"
    lines = [f'"""The classes of {made_by}, as mm.export_for_hub wrote them for remote code."""', ""]
    lines += [f"from .{flat_name(module)} import {name}" for name, module in homes]
    lines += ["", f"__all__ = {[name for name, _ in homes]!r}"]
    lines += [
        "for _name in __all__:",
        "    globals()[_name].__module__ = __name__  # Transformers saves this file, and so all",
    ]
    files = {f"{FRONT}.py": "\n".join(lines) + "\n"}
    for name, text in _with_own_ops(flat_sources(_ROOT, [module for _, module in homes])).items():
        files[name] = f"# Written by mm.export_for_hub from {made_by}.\n{text}"
    return files


def _with_own_ops(sources: dict[str, str]) -> dict[str, str]:
    """The sources with torch's custom ops in their own namespace, named by a hash of the content. A process may load
    several repositories and the package, and torch has one registry of ops."""
    digest = hashlib.sha256("".join(sources.values()).encode()).hexdigest()[:12]
    for place in ('"{}::', "torch.ops.{}.", 'Library("{}", '):
        old, new = place.format("mm"), place.format(f"mm_{digest}")
        sources = {name: text.replace(old, new) for name, text in sources.items()}
    return sources
