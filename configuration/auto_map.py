"""How a saved folder is loaded where MM is not imported: `auto_map` in its JSON files, and the file that it names.

    import_mm.py         of save_pretrained: finds the classes in the installed package, or says to install it
    mm_remote_code.py    of export_for_hub: has the code of every class

Transformers reads these files only with trust_remote_code=True, and not at all where MM is imported. Without them it
would say that Transformers is too old, or give a bare tokenizer.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

SHIM, FRONT = "import_mm", "mm_remote_code"
IMAGE_TOKENIZER = "image_tokenizer"  # the setting of a processor, and the folder in the folder of its files
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
# How the file of each name is written into a folder. The package adds that of FRONT.
WRITERS: dict[str, Callable[[Path], Any]] = {
    SHIM: lambda folder: (folder / f"{SHIM}.py").write_text(_SHIM_TEXT, encoding="utf-8")
}


def is_remote(cls: type) -> bool:
    """Whether a class comes from the code of a repository; Transformers copies that code itself when it saves."""
    return cls.__module__.split(".")[0] == "transformers_modules"


def registered(config_class: type, architectures: Collection[str] = ()) -> AutoMap:
    """{Auto class: class of MM} of all that is registered for a configuration; of several classes the one that the
    checkpoint's "architectures" name, or the first."""
    found: AutoMap = {"AutoConfig": config_class}
    for name, auto in vars(modeling_auto).items():
        if isinstance(auto, type) and issubclass(auto, _BaseAutoModelClass):
            known = getattr(auto._model_mapping, "_extra_content", {})
            several = known.get(config_class, ())
            several = several if isinstance(several, tuple) else (several,)
            named = [cls for cls in several if cls.__name__ in architectures]
            found |= {name: (named or several)[0]} if several else {}
    if config_class in PROCESSOR_MAPPING._extra_content:
        found["AutoProcessor"] = PROCESSOR_MAPPING._extra_content[config_class]
    if config_class in IMAGE_PROCESSOR_MAPPING._extra_content:
        found["AutoImageProcessor"] = IMAGE_PROCESSOR_MAPPING._extra_content[config_class]
    return found


def references(classes: AutoMap, front: str) -> dict[str, Any]:
    """The auto_map that finds the classes in the file `front`."""
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
    """Settings without the auto_map of save_pretrained, which each save writes again. That of an export stays,
    so that a save of it is an export too."""
    plain = "auto_map" in settings and front_of(settings["auto_map"]) == SHIM
    return {name: value for name, value in settings.items() if not (plain and name == "auto_map")}


def local(auto_map: Any) -> Any:
    """An auto_map without the name of the repository that it was read from. Transformers writes [class, null] for
    each class with "Tokenizer" in its name, a model too, and does not read that again for one."""
    if isinstance(auto_map, list):
        return local(next((name for name in auto_map if name), None))
    if isinstance(auto_map, dict):
        return {name: local(value) for name, value in auto_map.items()}
    return auto_map.split("--")[-1] if isinstance(auto_map, str) else auto_map


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a JSON file in place, if it exists."""
    if file.is_file():
        saved = json.loads(file.read_text(encoding="utf-8"))
        change(saved)
        file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def finish_config(folder: Path, config: Any, front: str | None = None) -> None:
    """Writes the auto_map of a saved configuration, and the file that it names.

    Args:
        front: SHIM or FRONT; None: that of the folder which the configuration was read from.
    """

    def change(saved: dict[str, Any]) -> None:
        if is_remote(type(config)):
            saved["auto_map"] = local(saved.get("auto_map") or {})
        else:
            saved["auto_map"] = references(
                registered(type(config), saved.get("architectures") or ()), front or front_of(saved.get("auto_map"))
            )

    edit(folder / "config.json", change)
    if not is_remote(type(config)):
        WRITERS[front or front_of(getattr(config, "auto_map", None))](folder)


_BACKENDS = {"torchvision": "MMImageProcessor", "pil": "MMImageProcessorPil"}


def _image_auto_map(front: str) -> dict[str, Any]:
    return {"AutoImageProcessor": {backend: f"{front}.{name}" for backend, name in _BACKENDS.items()}}


def finish_processor(folder: Path, processor: Any, front: str | None = None) -> None:
    """As `finish_config`, for a processor and the image processor in it."""
    named: str = front or (FRONT if is_remote(type(processor)) else processor.read_from)

    def change(saved: dict[str, Any]) -> None:
        saved["auto_map"] = {"AutoProcessor": f"{named}.{type(processor).__name__}"}
        pictures = saved.get("image_processor")
        if isinstance(pictures, dict) and pictures.get("image_processor_type") in _BACKENDS.values():
            pictures["auto_map"] = _image_auto_map(named)

    edit(folder / "processor_config.json", change)
    _share_code(folder / IMAGE_TOKENIZER, named)
    if not is_remote(type(processor)):
        WRITERS[named](folder)


def _share_code(folder: Path, front: str) -> None:
    """A part of a processor in a folder of its own is loaded by the code of the folder above, where Transformers looks
    for the file of an auto_map. Parts of other packages stay as they are."""

    def change(saved: dict[str, Any]) -> None:
        found = local(saved.get("auto_map") or {})
        if any(name.startswith((f"{SHIM}.", f"{FRONT}.")) for name in found.values()):
            saved["auto_map"] = {auto: f"{front}.{name.split('.')[-1]}" for auto, name in found.items()}
            for file in folder.glob("*.py") if front == FRONT else ():
                file.unlink()

    edit(folder / "config.json", change)


def finish_image_processor(folder: Path, processor: Any) -> None:
    """As `finish_config`, for an image processor that is saved without a processor."""
    front = FRONT if is_remote(type(processor)) else front_of(getattr(processor, "auto_map", None))
    edit(folder / "preprocessor_config.json", lambda saved: saved.update(auto_map=_image_auto_map(front)))
    if not is_remote(type(processor)):
        WRITERS[front](folder)


def register_for_auto_class(cls, *auto_class, **named) -> None:
    """As in Transformers for the code of a repository; the classes of this package are not copied into folders."""
    if is_remote(cls):
        theirs = next(base for base in cls.__mro__ if base.__module__.startswith("transformers."))
        theirs.register_for_auto_class.__func__(cls, *auto_class, **named)
