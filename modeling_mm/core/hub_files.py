"""What a source of from_pretrained holds, a folder or a repository of the Hub, looked at before anything is loaded."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils.hub import cached_file

from ...weights.files import (
    ADAPTER,
    CheckpointError,
    check_adapter_folder,
    check_folder,
    check_one_set,
    index_name,
    read_json_file,
    shards_named,
    single_name,
)

_HUB = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision")


def check_source(source: str | Path | None, options: Mapping[str, Any]) -> None:
    """Raises unless the source says clearly which weights load, and can be read.

    Args:
        source: of from_pretrained. The folder of an adapter is looked at with its base.
        options: the other arguments of from_pretrained.

    Raises: CheckpointError for two sets of weights, a broken index or one that leads out of its folder; OSError with
        what the server answered where the weights cannot be fetched.
    """
    adapter = (options.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if adapter is not None and os.path.isdir(adapter):
        check_adapter_folder(Path(adapter))
    if source is None or options.get("gguf_file") is not None:
        return
    folder = Path(source) / (options.get("subfolder") or "")
    variant, use_safetensors = options.get("variant"), options.get("use_safetensors")
    if folder.is_dir():
        check_folder(folder, variant, use_safetensors)
        if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
            base = read_json_file(folder / ADAPTER).get("base_model_name_or_path")
            check_source(base, {name: options[name] for name in _HUB if name in options and name != "revision"})
    elif not Path(source).exists() and use_safetensors is not False:
        _check_repository(str(source), variant, options)


def check_json_object(source: str | Path, name: str, options: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a file of a source that is not JSON or holds no object."""
    given = {key: options[key] for key in (*_HUB, "subfolder") if key in options}
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


def _check_repository(repository: str, variant: str | None, options: Mapping[str, Any]) -> None:
    """Fetches what names the weights, one file or the index of shards. What is not found is left to Transformers,
    which says so and reads other kinds of files."""
    _fetched(repository, "config.json", options)
    one = _fetched(repository, single_name("model", variant), options)
    index = _fetched(repository, index_name("model", variant), options)
    if one and index:
        check_one_set([Path(one).name, Path(index).name], "model", variant, repository)
    elif index:
        shards_named(Path(index))


def _fetched(repository: str, name: str, options: Mapping[str, Any]) -> str | None:
    """The path of a file in the Hub's cache; None: the repository has none of that name, or is not within reach."""
    given = {key: options[key] for key in _HUB if options.get(key) is not None}
    name = f"{options['subfolder']}/{name}" if options.get("subfolder") else name
    if is_offline_mode() or given.get("local_files_only"):
        cached = try_to_load_from_cache(repository, name, given.get("cache_dir"), given.get("revision"))
        return cached if isinstance(cached, str) else None
    try:
        return hf_hub_download(repository, name, **given)
    except LocalEntryNotFoundError as error:
        _say(repository, name, error.__cause__)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, ValueError):
        pass  # not there: Transformers says what is
    except HfHubHTTPError as error:
        _say(repository, name, error)
    return None


def _say(repository: str, name: str, error: BaseException | None) -> None:
    """Raises OSError with the answer of a server that was reached."""
    response = getattr(error, "response", None)
    if response is not None:
        raise OSError(
            f"{name} of {repository!r} could not be fetched: the Hub answered {response.status_code} "
            f"{response.reason_phrase}: {error}"
        ) from error
