"""The pushes of MMTrainer: one commit each, with code and card; they leave nothing stale and name no token.

checkpoint-8 ─ hard links ─► .pushing-…/ ─ in the background ─► one commit: the model, and last-checkpoint/…
output/      ─ push_to_hub, waited for ──────────────────────► one commit: the model, card, code
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from huggingface_hub import HfApi
from transformers import Seq2SeqTrainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from .checkpoints import PUSHING
from .publish import CARD, push_of_training
from .verify import write_manifest

logger = logging.get_logger(__name__)


class PushingTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer whose pushes to the Hub are whole.

    * Each is one commit, which deletes what it replaces: older weights, and what only an earlier push wrote.
    * A README.md that was there before stays; Trainer would write its own over it.
    * `hub_token` is in no file; Trainer writes it into training_args.bin, and pushes that.
    * A push during the training that fails is logged; the training continues.
    """

    _own_card: str | None = None  # the text of the card that this trainer wrote
    _api: HfApi | None = None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, where there is no card yet, or only the one that this trainer wrote itself."""
        card = Path(str(self.args.output_dir)) / CARD
        if self.is_world_process_zero() and (not card.exists() or card.read_text("utf-8") == self._own_card):
            super().create_model_card(*args, **kwargs)
            self._own_card = card.read_text("utf-8")

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]: what is returned is as in Trainer
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in Trainer, in one commit; see the class."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero() or self.hub_model_id is None:
            return None
        tags = kwargs.pop("tags", None) or []
        tags = [*([tags] if isinstance(tags, str) else tags), *(getattr(self.model, "model_tags", None) or [])]
        kwargs.setdefault("model_name", self.hub_model_id.split("/")[-1])
        self.create_model_card(tags=list(dict.fromkeys(tags)) or None, **kwargs)
        self._finish_current_push()
        output = Path(str(self.args.output_dir))
        if (output / "config.json").is_file():  # not of an adapter
            write_manifest(output)
        push = partial(
            push_of_training,
            output,
            self.hub_model_id,
            token=token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message or "End of training",
        )
        return push() if blocking else self._background().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy, running = self.args.hub_strategy, self.push_in_progress if self.is_world_process_zero() else None
        if not self.is_world_process_zero() or strategy == HubStrategy.END or self.hub_model_id is None:
            return
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint = Path(checkpoint_folder)
        try:
            copy = _linked(checkpoint, Path(str(self.args.output_dir)))
        except OSError as error:  # the disk is full, and cannot link
            logger.error(f"{checkpoint.name} was not pushed to {self.hub_model_id}: {error}")
            return
        is_by_steps = self.args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if is_by_steps else f"epoch {int(self.state.epoch or 0)}"
        places = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        push = partial(
            push_of_training,
            copy,
            self.hub_model_id,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            commit_message=f"Training in progress, {when}",
            checkpoint=places.get(HubStrategy(strategy)),
        )
        job = self._background().run_as_future(self._push_in_background, checkpoint.name, copy, push)
        jobs: Any = [] if running is None or running.is_done() else running.jobs
        self.push_in_progress = PushInProgress([*jobs, job])  # pyright: ignore[reportArgumentType]: a list, as Trainer's

    def _push_in_background(self, name: str, copy: Path, push: Callable[[], Any]) -> Any:
        try:
            return push()
        except Exception as error:
            logger.error(f"{name} was not pushed to {self.hub_model_id}: {error}")
            raise  # into the future, which nobody asks
        finally:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def _background(self) -> HfApi:
        """One thread, so that pushes follow each other."""
        self._api = self._api or HfApi()
        return self._api


def _linked(checkpoint: Path, output: Path) -> Path:
    """The files of a checkpoint, and the card of the output folder, in a folder that no rotation deletes."""
    place = Path(mkdtemp(prefix=PUSHING, dir=output))
    copy = place / checkpoint.name
    try:
        try:
            shutil.copytree(checkpoint, copy, copy_function=os.link)
        except (OSError, shutil.Error):  # a disk without hard links
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(checkpoint, copy)
        if (output / CARD).is_file():
            shutil.copyfile(output / CARD, copy / CARD)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return copy
