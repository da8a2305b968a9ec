"""One commit to a repository of the Hub, which adds files and deletes those that they replace.

Transformers' Trainer deletes nothing, so older weights would stand beside those that it pushes, and loading refuses
two sets: `make_room_for_push` takes them out before. MMTrainer deletes them in the commit of the push itself.

`HfApi.upload_folder` makes several commits of a large folder, so that a reader may find new weights next to old ones;
`create_commit` makes one.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from transformers.utils import logging

from ..configuration.hub_files import is_of_the_connection
from .files import stale_patterns

logger = logging.get_logger(__name__)


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


# ---- room for what Trainer pushes -----------------------------------------------------------------------------------


def make_room_for_push(saved: Path, is_adapter: bool) -> None:
    """Deletes the older weights that a push of Trainer would leave, if it is Trainer that just saved to push.

    The commit before its own takes them out of the repository, where the history keeps them.

    Args:
        saved: the folder that was written: the output folder, or a checkpoint, which Trainer copies there.
    """
    trainer = _pushing_trainer()
    if trainer is None:
        return
    written = set(os.listdir(saved))
    stale = re.compile(stale_patterns(written, is_adapter))
    output = Path(trainer.args.output_dir)
    for name in set(os.listdir(output)) - written if output.is_dir() else ():
        if stale.fullmatch(name):
            (output / name).unlink()
    if isinstance(trainer.args.hub_token, str):
        logger.warning(
            "Trainer writes hub_token into training_args.bin and pushes that file: whoever reads the repository has "
            "your token. Use `hf auth login` or HF_TOKEN instead, or mm.MMTrainer, which keeps it out"
        )
    try:
        _delete(HfApi(token=trainer.args.hub_token), trainer.hub_model_id, trainer.args.hub_revision, written, stale)
    except Exception as error:
        if not isinstance(error, OSError) and not is_of_the_connection(error):
            raise
        logger.warning(f"older weights of {trainer.hub_model_id!r} could not be looked for: {error}")


def _delete(api: HfApi, repository: str, revision: str | None, written: set[str], stale: re.Pattern[str]) -> None:
    there = held(api, repository, revision)
    gone = sorted(name for name in there.names - written if stale.fullmatch(name))
    if gone:
        logger.warning(f"{repository}: deleting {', '.join(gone)}, which the coming push of Trainer replaces")
        api.create_commit(
            repository,
            [CommitOperationDelete(name, is_folder=False) for name in gone],
            commit_message="Delete the weights that the next commit replaces",
            revision=revision,
            parent_commit=there.commit,
        )


def _pushing_trainer() -> Any:
    """The Trainer of Transformers whose `push_to_hub`, or whose checkpoint that is then pushed, leads here."""
    if "transformers.trainer" not in sys.modules:
        return None
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if name in ("push_to_hub", "_save_checkpoint") and frame.f_globals.get("__name__") == "transformers.trainer":
            trainer = frame.f_locals["self"]
            is_pushed = name == "push_to_hub" or (trainer.args.push_to_hub and trainer.args.hub_strategy != "end")
            return trainer if is_pushed and trainer.hub_model_id is not None else None
        frame = frame.f_back
    return None
