"""What a saved folder tells those who have not imported MM: `auto_map` in its JSON files, and the file that it names.

    import_mm.py         of a plain save: finds the classes in the installed package, or says to install it
    mm_remote_code.py    of an export (`export_for_hub`), which holds the code of every class

Transformers reads either with trust_remote_code=True alone, and neither where MM is imported. Without both it says
that the folder has code of its own; else it would say that Transformers is too old, or give a bare tokenizer.
"""

# Transformers' registries of third parties have no public way to be read.

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

SHIM, FRONT = "import_mm", "mm_remote_code"
AutoMap = dict[str, type | dict[str, type]]  # Auto class: a class, or one for each backend

_SHIM_TEXT = '''\
"""Finds the classes of this model in the package MM (mm-transformers), which has to be installed.

With MM imported (in Python: import mm) before from_pretrained, Transformers needs neither this file nor
trust_remote_code=True.
"""

try:
    import mm

    _found = mm.MMConfig  # another package of that name has none
except (ImportError, AttributeError) as error:
    raise ValueError(
        "this model needs the package MM: install mm-transformers, then `import mm` before from_pretrained. To share "
        "a model with those who do not have it, write it with mm.export_for_hub"
    ) from error


def __getattr__(name):
    return getattr(mm, name)
'''
# The file of that name into a folder, with all that it imports. That of exports comes from above (exporting/hub.py).
WRITERS: dict[str, Callable[[Path], Any]] = {
    SHIM: lambda folder: (folder / f"{SHIM}.py").write_text(_SHIM_TEXT, encoding="utf-8")
}


def is_remote(cls: type) -> bool:
    """Whether a class is of a repository's code, which Transformers itself copies as it saves, by _auto_class."""
    return cls.__module__.split(".")[0] == "transformers_modules"


def registered(config_class: type) -> AutoMap:
    """{Auto class: class of ours} for all that is registered for a configuration."""
    found: AutoMap = {"AutoConfig": config_class}
    for name, auto in vars(modeling_auto).items():
        if isinstance(auto, type) and issubclass(auto, _BaseAutoModelClass):
            known = getattr(auto._model_mapping, "_extra_content", {})
            found |= {name: known[config_class]} if config_class in known else {}
    if config_class in PROCESSOR_MAPPING._extra_content:
        found["AutoProcessor"] = PROCESSOR_MAPPING._extra_content[config_class]
    if config_class in IMAGE_PROCESSOR_MAPPING._extra_content:
        found["AutoImageProcessor"] = IMAGE_PROCESSOR_MAPPING._extra_content[config_class]
    return found


def references(classes: AutoMap, front: str) -> dict[str, Any]:
    """The auto_map that finds the classes through a file."""
    return {
        auto: {backend: f"{front}.{one.__name__}" for backend, one in cls.items()}
        if isinstance(cls, dict)
        else f"{front}.{cls.__name__}"
        for auto, cls in classes.items()
    }


def front_of(auto_map: dict[str, Any] | None) -> str:
    """The file that an auto_map names: FRONT of what was exported, else SHIM."""
    return FRONT if f"{FRONT}." in json.dumps(auto_map or {}) else SHIM


def kept(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as read, without an auto_map of a plain save: each save writes it anew, and an equal configuration is
    equal. That of an export stays, so that what is saved from one is one."""
    plain = "auto_map" in settings and front_of(settings["auto_map"]) == SHIM
    return {name: value for name, value in settings.items() if not (plain and name == "auto_map")}


def local(auto_map: Any) -> Any:
    """An auto_map as the folder has it itself, without the repository that it was read from."""
    if isinstance(auto_map, dict):
        return {name: local(value) for name, value in auto_map.items()}
    return auto_map.split("--")[-1] if isinstance(auto_map, str) else auto_map


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a JSON file in place, where it is there."""
    if file.is_file():
        saved = json.loads(file.read_text(encoding="utf-8"))
        change(saved)
        file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def finish_config(folder: Path, config: Any, front: str | None = None) -> None:
    """Names the classes of a configuration in its saved file, and writes the file that finds them.

    Args:
        front: SHIM or FRONT; None: as the configuration was read.
    """

    def change(saved: dict[str, Any]) -> None:
        if is_remote(type(config)):
            saved["auto_map"] = local(saved.get("auto_map") or {})
        else:
            saved["auto_map"] = references(registered(type(config)), front or front_of(saved.get("auto_map")))

    edit(folder / "config.json", change)
    if not is_remote(type(config)):
        WRITERS[front or front_of(getattr(config, "auto_map", None))](folder)


_BACKENDS = {"torchvision": "MMImageProcessor", "pil": "MMImageProcessorPil"}


def _image_auto_map(front: str) -> dict[str, Any]:
    return {"AutoImageProcessor": {backend: f"{front}.{name}" for backend, name in _BACKENDS.items()}}


def finish_processor(folder: Path, processor: Any, front: str | None = None) -> None:
    """As `finish_config`, of a processor and of the image processor in it."""
    named: str = front or (FRONT if is_remote(type(processor)) else processor.read_from)

    def change(saved: dict[str, Any]) -> None:
        saved["auto_map"] = {"AutoProcessor": f"{named}.{type(processor).__name__}"}
        pictures = saved.get("image_processor")
        if isinstance(pictures, dict) and pictures.get("image_processor_type") in _BACKENDS.values():
            pictures["auto_map"] = _image_auto_map(named)

    edit(folder / "processor_config.json", change)
    if not is_remote(type(processor)):
        WRITERS[named](folder)


def finish_image_processor(folder: Path, processor: Any) -> None:
    """As `finish_config`, of an image processor saved alone."""
    front = FRONT if is_remote(type(processor)) else front_of(getattr(processor, "auto_map", None))
    edit(folder / "preprocessor_config.json", lambda saved: saved.update(auto_map=_image_auto_map(front)))
    if not is_remote(type(processor)):
        WRITERS[front](folder)


def register_for_auto_class(cls, *auto_class, **named) -> None:
    """As in Transformers for code of a repository; the package's own classes are never copied from one to another."""
    if is_remote(cls):
        theirs = next(base for base in cls.__mro__ if base.__module__.startswith("transformers."))
        theirs.register_for_auto_class.__func__(cls, *auto_class, **named)
