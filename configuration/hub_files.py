"""Files of a repository on the Hub, fetched before Transformers asks for them.

A busy server is asked again, and the error says what it answered. Transformers takes some files that it could not
fetch for absent ones (tokenizer_config.json, a chat template, generation_config.json) and loads without them.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision")
MODEL_SETTINGS = r"config\.json|generation_config\.json|adapter_config\.json|manifest\.json"
PROCESSOR_FILES = (
    r"config\.json|\w*processor_config\.json|tokenizer_config\.json|tokenizer\.json|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.(json|txt)|merges\.txt|\w+(\.bpe)?\.model|"
    r"chat_template\.(jinja|json)|additional_chat_templates/.*"
)
_FIRST = ("config.json", "processor_config.json")  # of a model, of a processor
_FIRST_OF_PARTS = ("adapter_config.json", "preprocessor_config.json", "tokenizer_config.json")
WAITS = (1, 2, 4)  # seconds before each further try
_LONGEST = 15  # seconds after which no further try begins: a server that never answers takes ten for each
_BUSY = {408, 429, 500, 502, 503, 504}
_ASKED_AGAIN = {408, 429}  # by huggingface_hub, while it downloads
_NOT_THERE = (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError)


def fetch(repository: str, pattern: str, options: Mapping[str, Any]) -> set[str] | None:
    """Fetches the files whose whole names match; returns the names of all files of the repository's subfolder.

    None: offline; or the Hub lists no files, but gives them; or it is out of reach, and there are files of the
    repository in the cache.

    Args:
        options: those of from_pretrained.

    Raises: OSError with the server's answer: no such repository or revision for this token, or no files of it.
    """
    names = _names(repository, options)
    if names is not None:
        fetch_all(repository, sorted(name for name in names if re.fullmatch(pattern, name)), options)
    return names


def fetch_all(repository: str, names: Iterable[str], options: Mapping[str, Any]) -> None:
    """`fetched` of each, eight at a time."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: fetched(repository, name, options), names))


def fetched(repository: str, name: str, options: Mapping[str, Any], is_needed: bool = False) -> str | None:
    """The path of a file in the Hub's cache; None: the repository has none of that name, or is not within reach.

    Raises: OSError with what the server answered. With `is_needed` also where no server did.
    """
    given = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
    if is_offline_mode() or given.get("local_files_only"):
        if is_needed:
            _check_cached(repository, options)
        return cached(repository, name, options)
    name = _below(name, options)
    try:
        return _patiently(lambda: hf_hub_download(repository, name, **given), _BUSY - _ASKED_AGAIN)
    except LocalEntryNotFoundError as error:  # huggingface_hub has asked for it six times
        if is_needed or hasattr(error.__cause__, "response"):
            raise _failed(f"{name} of {repository!r} could not be fetched", error.__cause__ or error) from error
    except _NOT_THERE as error:
        if is_needed:
            _check_there(repository, options, error)  # of an optional file Transformers says it
    except Exception as error:
        if not isinstance(error, HfHubHTTPError) and not is_of_the_connection(error):
            raise
        raise _failed(f"{name} of {repository!r} could not be fetched", error) from error
    return None


def _names(repository: str, options: Mapping[str, Any]) -> set[str] | None:
    if is_offline_mode() or options.get("local_files_only"):
        _check_cached(repository, options)
        return None
    folder = _below("", options)
    asked = {"revision": options.get("revision"), "token": options.get("token"), "timeout": 10.0}
    # One of them in the cache: what is held there is used at once.
    is_held = any(cached(repository, name, options) for name in _FIRST)
    try:
        about = _patiently(lambda: HfApi().model_info(repository, **asked), _BUSY, () if is_held else WAITS)
    except _NOT_THERE as error:
        _check_there(repository, options, error)
        return None
    except Exception as error:
        is_answer = isinstance(error, HfHubHTTPError)
        if not is_answer and not is_of_the_connection(error):
            raise
        if is_answer and not is_held and error.response.status_code not in _BUSY:
            for name in _FIRST:  # the files themselves may be had; else what the Hub answers is said
                fetched(repository, name, options)
            return None
        if is_held:
            return None
        raise _failed(f"the files of {repository!r} could not be listed", error) from error
    paths = [file.rfilename for file in about.siblings or []]
    return {path.removeprefix(folder) for path in paths if path.startswith(folder)}


def cached(repository: str, name: str, options: Mapping[str, Any]) -> str | None:
    """The path of a file in the Hub's cache, without asking the Hub; None: it is missing."""
    try:
        found = try_to_load_from_cache(
            repository, _below(name, options), options.get("cache_dir"), options.get("revision")
        )
    except HFValidationError:
        return None
    return found if isinstance(found, str) else None


def _check_there(repository: str, options: Mapping[str, Any], error: Exception) -> None:
    """Raises OSError with what the Hub said of a repository or a revision that it has not, or does not give."""
    if isinstance(error, RevisionNotFoundError):
        raise _failed(f"{repository!r} has no revision {options.get('revision')!r}", error) from error
    if isinstance(error, RepositoryNotFoundError):
        raise _failed(f"{repository!r} is no folder here, and cannot be read from the Hub", error) from error


def _check_cached(repository: str, options: Mapping[str, Any]) -> None:
    """Raises OSError where the Hub may not be asked and the cache has no file to begin with."""
    if not any(cached(repository, name, options) for name in (*_FIRST, *_FIRST_OF_PARTS)):
        raise OSError(
            f"{repository!r} is no folder here and not in the cache, and the Hub may not be asked (HF_HUB_OFFLINE=1, "
            "local_files_only=True). Load it once with the Hub in reach"
        )


def _below(name: str, options: Mapping[str, Any]) -> str:
    return f"{options['subfolder']}/{name}" if options.get("subfolder") else name


def _patiently(ask: Callable[[], Any], busy: set[int], waits: tuple[int, ...] = WAITS) -> Any:
    """What `ask` gives; again after a while, where the server was busy or the connection broke."""
    began = time.monotonic()
    for wait in waits:
        try:
            return ask()
        except LocalEntryNotFoundError:
            raise
        except Exception as error:
            is_busy = isinstance(error, HfHubHTTPError) and error.response.status_code in busy
            is_late = time.monotonic() - began > _LONGEST
            if is_late or (not is_busy and not is_of_the_connection(error)):
                raise
        time.sleep(wait)
    return ask()


def is_of_the_connection(error: BaseException) -> bool:
    """Whether the client of huggingface_hub (httpx, by its version) says that the connection failed."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _failed(what: str, error: BaseException) -> OSError:
    response = getattr(error, "response", None)
    if response is None:
        return OSError(f"{what}: no answer from the Hub, {type(error).__name__}: {error}")
    return OSError(f"{what}: the Hub answered {response.status_code} {response.reason_phrase}: {error}")


def is_repository(source: Any) -> bool:
    """Whether from_pretrained would look for it on the Hub."""
    return source is not None and not Path(source).exists()
