"""Saving that leaves one set of weights: what a save or a push writes replaces what stood there before."""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.utils import logging

from ...weights.files import ADAPTER, stale_files, stale_patterns

logger = logging.get_logger(__name__)


def check_place(directory: str | os.PathLike, adapter_of: str | None) -> Path:
    """The folder that a model is to be saved to.

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


def upload(folder: str | os.PathLike, repository: str, names: list[str], is_adapter: bool, **commit: Any) -> Any:
    """One commit: the named files (and folders) are added, weights in the repository that they replace are deleted."""
    api, token = HfApi(), commit.get("token")
    revision = commit.get("revision")
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id=repository, branch=revision, token=token, exist_ok=True)
    held = api.list_repo_files(repository, revision=revision, token=token)
    old = re.compile(stale_patterns(names, is_adapter))
    return api.upload_folder(
        repo_id=repository,
        folder_path=Path(folder),
        allow_patterns=[pattern for name in names for pattern in (_literal(name), f"{_literal(name)}/*")],
        delete_patterns=[_literal(name) for name in held if old.fullmatch(name)] or None,
        **commit,
    )


def _literal(name: str) -> str:
    """A pattern of fnmatch that means this name."""
    return re.sub(r"([*?[])", r"[\1]", name)


def adapter_base(model: Any) -> str | None:
    """The base of the adapter that a model holds and save_pretrained therefore writes; None: it holds none."""
    if not model._hf_peft_config_loaded:
        return None
    active = model.active_adapters()
    named = model.peft_config[active[0]].base_model_name_or_path if active else None
    return named or model.config.name_or_path or ""
