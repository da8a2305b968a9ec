"""`feature_cache` of a run: refused where features would change, told by the plan, filled before the training."""

import shutil
from typing import Any

from ..processing.feature_store import FeatureStore, check_whole_pictures
from .arguments import RunArguments
from .plan import in_bytes
from .samples import RunData
from .start import Start
from .tower_features import autocast_dtype, check_frozen, feature_size, store_features, tower_fingerprint


def check_feature_cache(arguments: RunArguments, data: RunData, begun: Start) -> None:
    """Raises ValueError where the features of a picture would not stay the same in this run."""
    if arguments.data.feature_cache is None:
        return
    if not arguments.data.feature_cache:
        raise ValueError("feature_cache is the name of a folder; got none")
    if data.is_stream:
        raise ValueError("feature_cache makes the features before the training, and a stream is read in its course; "
                         "read the data as a whole (streaming: false), or leave feature_cache out")  # fmt: skip
    if arguments.task == "distill":
        raise ValueError(
            "feature_cache: the teacher of distill reads the pictures themselves; leave feature_cache out"
        )
    losses = (begun.model.config.pretraining_losses or {}) if arguments.task == "pretrain" else {}
    hidden = arguments.training.mim_ratio if "mim" in losses else 0
    check_whole_pictures(arguments.data.augment is not None, hidden, begun.processor.tiles)
    check_frozen(begun.model)


def planned(arguments: RunArguments, trainer: Any, begun: Start) -> list[str]:
    """What the plan says about the store, a line each."""
    folder = arguments.data.feature_cache
    if folder is None:
        return []
    each, pictures = feature_size(begun.model, begun.processor, trainer.train_dataset)
    made_by = tower_fingerprint(begun.model, begun.processor, autocast_dtype(arguments.training))
    store = FeatureStore(folder, begun.processor.image_processor, made_by)
    place = next(path for path in (store.folder, *store.folder.absolute().parents) if path.exists())
    return [
        f"features: {pictures:,} pictures, {in_bytes(each)} each, at most {in_bytes(each * pictures)} in {folder}, "
        f"where {in_bytes(shutil.disk_usage(place).free)} are free; {len(store):,} are stored already. Memory "
        "above counts the image tower too, which does not run"
    ]


def stored_features(arguments: RunArguments, trainer: Any, begun: Start, say: Any) -> None:
    """Fills the store of a run, and gives it to the collator of its trainer."""
    training, folder = arguments.training, str(arguments.data.feature_cache)
    store = store_features(
        trainer.model,
        begun.processor,
        trainer.train_dataset,
        folder,
        dtype=autocast_dtype(training),
        num_workers=training.dataloader_num_workers,
        processes=(training.process_index, training.world_size),
        wait=trainer.accelerator.wait_for_everyone,
        show_progress=training.should_log and not training.disable_tqdm,
    )
    trainer.data_collator.features = store
    for path in store.broken:
        say(f"not used, because it is broken: {path}")
    say(f"features of {len(store):,} pictures in {folder} ({in_bytes(store.size())}): the image tower does not run")
