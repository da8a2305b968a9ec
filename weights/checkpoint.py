"""Reading a published checkpoint: its config.json, and its tensors one at a time, without running anything of it."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import cached_file, cached_files

from ..configuration.hub_files import fetch, fetch_all, fetched
from .files import check_inside, opened, read_json_file, shards_named, unpickled

# In the order in which Transformers looks for them, then open_clip's.
CONFIG_FILES = ("config.json", "open_clip_config.json")
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "open_clip_model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin",
)  # fmt: skip
PICKLES = (".bin", ".pth", ".pt")
_SMALL_FILES = [
    "config.json", "open_clip_config.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "chat_template.jinja",
]  # fmt: skip
_READ_AT_ONCE = 2**25  # bytes of a mapped file, whose pages are then given back
# Where trainers put the weights of a model among their own things.
_NESTED = ("model", "state_dict", "model_state_dict")
_WRAPPER = "module."  # what training over several devices puts before every name
# What TensorFlow calls the weights of a norm, and the first BERTs have kept.
_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class _Whole(dict[str, torch.Tensor]):
    """The tensors of a file that cannot be mapped, all in memory."""


class Checkpoint(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint by name, each a part of its file in memory.

    `config` is its config.json or open_clip_config.json, else {}.

    Args:
        source: a directory, a Hub id, or one file of weights.

    Raises: ValueError for weights that need more than tensors to be unpickled, for a shard outside the directory, and
        for a directory without weights; FileNotFoundError for no such file.
    """

    def __init__(self, source: str | Path):
        path = Path(source)
        self.source = str(source)
        self.directory: Path | None = None
        if path.is_file():
            files = [path]
        else:
            self.directory = path if path.is_dir() else _fetched(str(source))
            files = list(_weight_files(self.directory))
        configs = (read_json(self.directory, name) for name in CONFIG_FILES)
        self.config: dict[str, Any] = next((config for config in configs if config), {})
        self._homes: dict[str, tuple[Path, str]] = {}  # by name: the file, and what it is called there
        self._file, self._opened, self._read = Path(), None, 0
        for file in files:
            self._homes |= {_modern(name): (file, name) for name in self._at(file).keys()}

    def _at(self, file: Path) -> Any:
        """The open file; one at a time, and opened again from time to time, so that pages already read leave
        memory."""
        if self._opened is None or self._file != file or self._read > _READ_AT_ONCE:
            self._file, self._opened, self._read = file, _opened(file), 0
        return self._opened

    def __getitem__(self, name: str) -> torch.Tensor:
        file, called = self._homes[name]
        opened = self._at(file)
        tensor = opened[called] if isinstance(opened, dict) else opened.get_tensor(called)
        self._read += 0 if isinstance(opened, _Whole) else tensor.nbytes
        return tensor

    def sibling(self, name: str) -> Path | None:
        """Another file of the source; None if it has none of that name."""
        if self.directory is not None and not Path(self.source).exists():
            cached_file(self.source, name, revision=self.directory.name, _raise_exceptions_for_missing_entries=False)
        file = None if self.directory is None else self.directory / name
        return file if file is not None and file.is_file() else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        file, called = self._homes[name]
        opened = self._at(file)
        return tuple(opened[called].shape if isinstance(opened, dict) else opened.get_slice(called).get_shape())

    def numbers(self) -> int:
        """How many numbers all tensors hold."""
        return sum(torch.Size(self.shape(name)).numel() for name in self)

    def dtype(self) -> torch.dtype:
        """That of the largest tensor."""
        largest = max(self, key=lambda name: torch.Size(self.shape(name)).numel())
        return self[largest].dtype


def _modern(name: str) -> str:
    """A name as Transformers has it today."""
    ending = next((old for old in _OLD_NORMS if name.endswith(old)), None)
    return name if ending is None else name.removesuffix(ending) + _OLD_NORMS[ending]


def read_json(directory: Path | None, name: str) -> dict[str, Any] | None:
    """A JSON file of the directory; None if it is missing."""
    if directory is None or not (directory / name).is_file():
        return None
    return read_json_file(directory / name)


def _fetched(repository: str) -> Path:
    """The files of a Hub repository at one commit, in Transformers' cache: its settings and one set of weights."""
    if repository.count("/") > 1 or repository.startswith((".", "/")):
        raise FileNotFoundError(f"no directory or file {repository!r}")
    fetch(repository, "|".join(map(re.escape, _SMALL_FILES)), {})
    found = cached_files(repository, _SMALL_FILES, _raise_exceptions_for_missing_entries=False)
    if not found:
        raise FileNotFoundError(f"no directory or file {repository!r}, and no such repository within reach")
    directory = Path(found[0]).parent  # called by the commit
    at_commit = {"revision": directory.name}
    for name in WEIGHT_FILES:
        if fetched(repository, name, at_commit):
            if name.endswith(".json"):
                fetch_all(repository, shards_named(directory / name), at_commit)
            break
    return directory


def _weight_files(directory: Path) -> Iterator[Path]:
    name = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if name is None:
        raise ValueError(f"no weights in {str(directory)!r}: looked for {', '.join(WEIGHT_FILES)}")
    if not name.endswith(".json"):
        yield directory / name
        return
    for shard in shards_named(directory / name):
        check_inside(directory, shard, name)
        yield directory / shard


def _opened(file: Path) -> Any:
    """An open safetensors file, or the tensors of a pickle."""
    if file.suffix == ".safetensors":
        return opened(file)
    if file.suffix not in PICKLES:
        raise ValueError(f"{file.name} is no file of weights; known are .safetensors, {', '.join(PICKLES)}")
    tensors = _tensors(unpickled(file, map_location="cpu", mmap=True), file)
    return tensors if zipfile.is_zipfile(file) else _Whole(tensors)


def _tensors(loaded: Any, file: Path) -> dict[str, torch.Tensor]:
    for name in _NESTED:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or not all(torch.is_tensor(value) for value in loaded.values()):
        raise ValueError(f"{file.name} is not a dictionary of tensors by name")
    is_wrapped = all(name.startswith(_WRAPPER) for name in loaded)
    return {name.removeprefix(_WRAPPER) if is_wrapped else name: value for name, value in loaded.items()}
