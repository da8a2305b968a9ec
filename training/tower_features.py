"""The features of a frozen image tower, made once before a training and kept in a FeatureStore.

samples ─ pictures, each once ─ chunks of 32, always the same ones ─ tower ─► store ─► MMDataCollator(features=store)
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..modeling_mm.core.input_checks import MediaItems
from ..modeling_mm.towers.any_tower import run_tower
from ..processing.batches import media_key, sources_of
from ..processing.collator import SAMPLE_COLUMNS
from ..processing.columns import check_columns, renamed
from ..processing.feature_store import FeatureStore, plain_settings, read_picture
from ..processing.images.limits import MediaDecodeError, check_count
from ..processing.media import media_tensors

CHUNK = 32  # pictures that go through the tower together
TRIED = 4  # runs of a tower as in training, that must give what it gives in evaluation
_FORMAT = 1


def store_features(
    model: Any,
    processor: Any,
    samples: Sequence[Any],
    folder: str | os.PathLike,
    *,
    columns: Any = None,
    dtype: torch.dtype | None = None,
    num_workers: int = 0,
    processes: tuple[int, int] = (0, 1),
    wait: Callable[[], object] = lambda: None,
    show_progress: bool = False,
) -> FeatureStore:
    """A store with the features of all pictures of the samples; those that it already has are not made again.

        model.freeze("vision")
        store = mm.store_features(model, processor, samples, "features")
        collator = mm.MMDataCollator(processor, features=store)

    Args:
        model: any MM model whose image tower is frozen (`model.freeze("vision")`), on the device that it trains on.
        samples: as MMDataCollator takes them; columns: as there.
        dtype: of autocast, where the training has one (torch.bfloat16).
        num_workers: processes that read pictures.
        processes: (number of this process, of all); each makes its part. wait: until all have come this far.

    Pictures that cannot be read are left out: in training the collator's on_error decides about them.

    Raises: ValueError where the tower is trained, or gives other features in training than in evaluation; OSError
        where the folder cannot be written, or its disk has too little room for all features.
    """
    check_count("num_workers", num_workers)
    is_pair = isinstance(processes, (tuple, list)) and [type(one) for one in processes] == [int, int]
    if not is_pair or not 0 <= processes[0] < processes[1]:
        raise ValueError(f"processes={processes!r}; accepted is (number of this process from 0, how many there are)")
    own, all_of_them = processes
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, such as torch.bfloat16, or None; got {dtype!r}")
    if isinstance(samples, str) or not hasattr(samples, "__len__"):
        raise TypeError(f"samples must be a list or a data set with a length; got {type(samples).__name__}")
    check_frozen(model)
    store = FeatureStore(folder, processor.image_processor, tower_fingerprint(model, processor, dtype))
    pictures = _Pictures(store, processor, samples, check_columns(columns, (*SAMPLE_COLUMNS, "id")))
    seen = _check_same_in_training(base_model(model), pictures.first_pixels())
    store.check_room(sum(key not in store for key in pictures.found), _bytes(seen, dtype))
    for last in (False, True):  # then again for all, where the processes do not share a disk
        lacking = [
            chunk
            for number, chunk in enumerate(pictures.chunks())
            if (last or number % all_of_them == own) and any(key not in store for key in chunk)
        ]
        _make(model, store, pictures, lacking, dtype, num_workers, show_progress)
        if all_of_them == 1:
            break
        wait()
        store.refresh()
    return store


def tower_fingerprint(model: Any, processor: Any, dtype: torch.dtype | None = None) -> str:
    """Names what the features of a picture depend on: a hash of processor, tower and weights, and the precision."""
    base, found = base_model(model), hashlib.sha256()
    settings = plain_settings(processor.image_processor)
    told = [_FORMAT, type(processor.image_processor).__name__, settings, base.config.vision_config.to_dict()]
    told += [base.tower_reads["vision"]]
    found.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in sorted(base.vision_tower.state_dict().items()):
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:40] + ("" if dtype is None else f"-{str(dtype).removeprefix('torch.')}")


def base_model(model: Any) -> Any:
    """The MMModel inside a head, an adapter (PEFT), or both."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(bare, bare.base_model_prefix, bare)


# ---- what can be stored -------------------------------------------------------------------------------------------


def check_frozen(model: Any) -> None:
    """Raises ValueError where the image tower trains, or behaves otherwise in training than in evaluation."""
    tower = base_model(model).vision_tower
    if tower is None:
        raise ValueError("a store of features keeps what an image tower makes of pictures, and this model has none")
    trained = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    if trained:
        raise ValueError(
            f"a store of features is of a frozen image tower, and {len(trained)} of its weights are trained "
            f"({trained[0]}, ...); freeze it (freeze: vision, or model.freeze('vision')), or do without one"
        )
    random = next((name for name, part in tower.named_modules() if _changes(part)), None)
    if random is not None:
        raise ValueError(
            f"{random} of the image tower ({type(tower.get_submodule(random)).__name__}) gives other features each "
            "time in training, and stored ones stay the same; set its dropout to 0, or do without stored features"
        )


def _changes(part: nn.Module) -> bool:
    """Whether a module works otherwise in training: dropout, drop path, batch normalisation."""
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return True
    names = [name for name in ("p", "drop_prob") if isinstance(getattr(part, name, None), float)]
    is_dropout = isinstance(part, nn.modules.dropout._DropoutNd) or "drop" in type(part).__name__.lower()
    return is_dropout and any(getattr(part, name) > 0 for name in names)


def check_collator(collator: Any, model: Any, dtype: torch.dtype | None) -> None:
    """Raises ValueError where a collator's store holds features of another tower than the model's, of one that
    trains, or of another precision than that of the training."""
    store = getattr(collator, "features", None)
    if store is None:
        return
    check_frozen(model)
    if store.made_by != tower_fingerprint(model, collator.processor, dtype):
        raise ValueError(
            f"the features in {store.folder} are of another image tower, of pictures prepared in another way, or of "
            f"another precision; make them of this model: mm.store_features(..., dtype={dtype})"
        )


def autocast_dtype(training: Any) -> torch.dtype | None:
    """That of TrainingArguments; None: without autocast."""
    return torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None


def _check_same_in_training(base: Any, pixels: torch.Tensor) -> MediaItems:
    """Runs the tower as in training: it must give what it gives in evaluation, to a rounding; returns that."""
    tower = base.vision_tower
    was_training, buffers = tower.training, {name: value.clone() for name, value in tower.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng():
            wanted = _features(base, pixels, None)
            tower.train()
            found = [_features(base, pixels, None).values for _ in range(TRIED)]
    finally:
        tower.train(was_training)
        with torch.no_grad():
            for name, value in tower.named_buffers():
                value.copy_(buffers[name])
    if not all(torch.allclose(one, wanted.values, rtol=1e-3, atol=1e-4) for one in found):
        raise ValueError(
            f"the image tower ({type(tower).__name__}) gives other features in training than in evaluation (dropout, "
            "or statistics of the batch); set its dropout to 0, or do without stored features"
        )
    return wanted


# ---- making them --------------------------------------------------------------------------------------------------


@dataclass
class _Pictures:
    """The pictures of samples, each once, by what they hold. found: (sample, place in it) by key."""

    store: Any  # a FeatureStore, or None where pictures go by their names
    processor: Any
    samples: Sequence[Any]
    columns: Mapping[str, str | None]

    def __post_init__(self):
        self.found: dict[Any, tuple[int, int]] = {}
        for index in range(len(self.samples)):
            for place, source in enumerate(self.sources(index)):
                try:
                    key = media_key(source) if self.store is None else self.store.key(source)
                    self.found.setdefault(key, (index, place))
                except MediaDecodeError:
                    continue

    def sources(self, index: int) -> list[Any]:
        """The pictures of a sample."""
        sample = self.samples[index]
        if set(self.columns) & set(sample):
            sample = renamed([sample], self.columns)[0]
        return sources_of(index, sample)["images"]

    def read(self, key: Any) -> Any:
        index, place = self.found[key]
        return read_picture(self.processor.image_processor, self.sources(index)[place])

    def first_pixels(self) -> torch.Tensor:
        """Those of the first picture that can be read (1, C, H, W). ValueError where none can."""
        for key in self.found:
            try:
                return _pixels_of(self.processor, [self.read(key)])
            except MediaDecodeError:
                continue
        raise ValueError("a store keeps features of pictures, and the samples hold none that can be read")

    def chunks(self) -> Iterator[list[bytes]]:
        """Of CHUNK pictures, in the order of the data: the same ones whatever is stored already, so that a picture has
        the same features to the bit."""
        entries = list(self.found)
        return (entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK))


class _Chunks(Dataset):
    def __init__(self, pictures: _Pictures, chunks: list):
        self.pictures, self.chunks = pictures, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[list[bytes], torch.Tensor]:
        keys, read = [], []
        for key in self.chunks[index]:
            try:
                read.append(self.pictures.read(key))
                keys.append(key)
            except MediaDecodeError:
                continue
        return keys, _pixels_of(self.pictures.processor, read) if read else torch.empty(0)


def feature_size(model: Any, processor: Any, samples: Sequence[Any]) -> tuple[int, int]:
    """(bytes of the features of one picture, pictures) that a store of these samples will hold; files with two names
    count twice, and numbers are counted as the tower's weights have them. Reads one picture."""
    base = base_model(model)
    pictures = _Pictures(None, processor, samples, {})
    with _tower_at_rest(base), torch.no_grad():
        seen = _features(base, pictures.first_pixels(), None)
    return _bytes(seen), len(pictures.found)


def _bytes(seen: MediaItems, dtype: torch.dtype | None = None) -> int:
    """Of features on disk."""
    held = [value for value in (seen.values, seen.pooled) if value is not None]
    return sum(value.numel() * (dtype or value.dtype).itemsize for value in held)


def _make(model, store: FeatureStore, pictures: _Pictures, chunks: list, dtype, workers: int, progress: bool) -> None:
    base = base_model(model)
    own_draws = torch.Generator()  # those of the training stay as they would be
    loader = DataLoader(_Chunks(pictures, chunks), batch_size=None, num_workers=workers, generator=own_draws)
    with _tower_at_rest(base), torch.no_grad():
        for keys, pixels in tqdm(loader, desc="features", disable=not progress):
            if not keys:
                continue
            seen = _features(base, pixels, dtype)
            lacking = [row for row, key in enumerate(keys) if key not in store]
            if lacking:
                pooled = None if seen.pooled is None else seen.pooled[lacking, 0]
                store.write([keys[row] for row in lacking], seen.values[lacking, 0], pooled)


def _pixels_of(processor: Any, pictures: list[Any]) -> torch.Tensor:
    """(n, C, H, W). ValueError where pictures have a mask of their patches."""
    made = media_tensors(processor, "images", [[picture] for picture in pictures])
    if "pixel_attention_mask" in made:
        raise ValueError(
            "this image processor gives pictures of many sizes with a mask of their patches, whose features depend on "
            "the batch; set a size, or do without stored features"
        )
    return made["pixel_values"]


def _features(base: Any, pixels: torch.Tensor, dtype: torch.dtype | None) -> MediaItems:
    device = next(base.vision_tower.parameters()).device
    with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
        seen = run_tower(base.vision_tower, MediaItems(pixels[:, None].to(device)), **base.tower_reads["vision"])
    if seen.mask is not None:
        raise ValueError(
            "this image tower masks some of its tokens, which a store of features does not keep; do without one"
        )
    return seen


@contextmanager
def _tower_at_rest(base: Any) -> Iterator[None]:
    was_training = base.vision_tower.training
    base.vision_tower.eval()
    try:
        yield
    finally:
        base.vision_tower.train(was_training)
