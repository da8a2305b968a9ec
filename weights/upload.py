"""One commit to a repository of the Hub, which adds files and deletes those that they replace.

`HfApi.upload_folder` makes several commits of a large folder, so that a reader may find new weights next to old ones;
`create_commit` makes one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError


@dataclass(frozen=True)
class Held:
    """What a branch of a repository holds: its newest commit, and the names of the files."""

    commit: str | None
    names: frozenset[str]


def held(api: HfApi, repository: str, revision: str | None) -> Held:
    """What the branch holds that a push goes to; of a branch that is still to be made, what main holds."""
    try:
        about = api.model_info(repository, revision=revision)
    except RevisionNotFoundError:
        if revision is None or revision.startswith("refs/"):
            raise
        about = api.model_info(repository)
    return Held(about.sha, frozenset(file.rfilename for file in about.siblings or ()))


def files_below(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """{name in a repository: file} of the named files, and of all files in the named folders."""
    found = {}
    for path in (folder / name for name in names):
        inside = [one for one in sorted(path.rglob("*")) if one.is_file()] if path.is_dir() else [path]
        found |= {one.relative_to(folder).as_posix(): one for one in inside}
    return found


def upload(
    repository: str,
    files: Mapping[str, Path],
    is_stale: Callable[[str], bool],
    *,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str,
    commit_description: str | None = None,
) -> Any:
    """Adds the files, and deletes the others that are stale, in one commit; returns huggingface_hub's CommitInfo.

    Raises: HfHubHTTPError (an OSError) with the words of the Hub; also where somebody else committed meanwhile.
    """
    api = HfApi(token=token)
    if revision is not None and not revision.startswith("refs/pr"):
        try:
            api.create_branch(repository, branch=revision, exist_ok=True)
        except HfHubHTTPError as error:
            if not (create_pr and error.response.status_code == 403):  # proposed by somebody who may make none
                raise
    before = held(api, repository, revision)
    gone = sorted(name for name in before.names - set(files) if is_stale(name))
    operations: list[Any] = [CommitOperationDelete(name, is_folder=False) for name in gone]
    operations += [CommitOperationAdd(name, file) for name, file in files.items()]
    return api.create_commit(
        repository,
        operations,
        commit_message=commit_message,
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
        parent_commit=before.commit,
    )
