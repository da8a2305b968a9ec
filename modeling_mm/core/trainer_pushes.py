"""Older weights in a repository that Transformers' Trainer pushes to. It deletes nothing, so they would stand beside
the new ones, and loading refuses two sets. MMTrainer deletes them in the commit of the push itself.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationDelete, HfApi
from transformers.utils import logging

from ...configuration.hub_files import is_of_the_connection
from ...weights.files import stale_patterns
from ...weights.upload import held

logger = logging.get_logger(__name__)


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
