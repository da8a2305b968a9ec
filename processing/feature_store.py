"""What a frozen image tower makes of pictures, kept on disk and read back instead of computing it again.

    FOLDER/<what makes them>/<pictures>.safetensors    tokens (n, S, Dv), pooled (n, Dv); keys, SHA-256 in its header

A picture goes by the SHA-256 of its file's bytes, or of its pixels where it is no file; the folder by what makes the
features of it (image processor, tower, weights). A file is written aside and renamed, so that several processes may
write into one folder; one that is broken counts as not there.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .images.load import load_image
from .images.processor import PictureOptions

logger = logging.getLogger(__name__)

SUFFIX, ASIDE = ".safetensors", ".writing"
ABANDONED = 3600  # seconds after which a file that is still aside belongs to a process that was killed

NOT_SEEN = ("augmentation", "processor_class", "image_processor_type")  # settings that do not change a plain picture


class Features(NamedTuple):
    """Of one picture: tokens (S, Dv), and the tower's own vector (Dv,) or None."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None


class FeatureStore:
    """Features of pictures by what the pictures hold.

    Args:
        folder: where they are kept; made if it is not there.
        image_processor: the one that reads the pictures.
        made_by: names everything that the features depend on besides the picture, as `tower_fingerprint` does.

    All that the folder holds is checked once, when the store is made. Attributes: broken, the files that are left out.
    """

    def __init__(self, folder: str | os.PathLike, image_processor: Any, made_by: str):
        self.root, self.made_by, self.image_processor = Path(folder), made_by, image_processor
        self.folder = self.root / made_by
        self.broken: list[Path] = []
        self._places: dict[bytes, tuple[str, int]] = {}
        self._known: dict[tuple, bytes] = {}  # a file that has not changed is hashed once
        self._open: dict[str, Any] = {}
        self._is_clean = False
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*" + SUFFIX)) if self.folder.is_dir() else 0

    def check_room(self, pictures: int, each: int) -> None:
        """Raises OSError where the disk has no room for the features of so many pictures, of `each` bytes."""
        place = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        needed, free = pictures * each, shutil.disk_usage(place).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"features of {pictures:,} pictures take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are "
                "free; give another folder, or do without stored features",
                str(self.root),
            )

    def _remove_unfinished(self) -> None:
        """Files that a killed process left half written: those that nobody has written to for long."""
        if self._is_clean:
            return
        for path in self.folder.glob("*" + ASIDE):
            with suppress(FileNotFoundError):  # another process may be first
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        self._is_clean = True

    def refresh(self) -> None:
        """Finds what was written since the store was made, by other processes too."""
        seen = {name for name, _ in self._places.values()}
        for path in sorted(self.folder.glob("*" + SUFFIX)):
            if path.name in seen or path in self.broken:
                continue
            try:
                keys = _checked_keys(path)
            except (OSError, ValueError, SafetensorError) as fault:
                logger.warning("%s is broken and not used; delete it. What it held is made again: %s", path, fault)
                self.broken.append(path)
                continue
            self._places |= {key: (path.name, row) for row, key in enumerate(keys) if key not in self._places}

    def check_processor(self, image_processor: Any) -> None:
        """Raises ValueError for an image processor with other settings than those that the features were made with."""
        ours, theirs = plain_settings(self.image_processor), plain_settings(image_processor)
        other = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if other or type(image_processor) is not type(self.image_processor):
            raise ValueError(
                f"the features were made of pictures from {type(self.image_processor).__name__}, and this processor's "
                f"{type(image_processor).__name__} has another {', '.join(other) or 'class'}; make them with it"
            )

    # ---- pictures -----------------------------------------------------------------------------------------------

    def key(self, source: Any, load: Callable[[Any], Any] | None = None) -> bytes:
        """What a picture goes by. `load` reads one that is neither a path nor bytes; None: as the processor does.

        Raises what reading the picture raises.
        """
        if isinstance(source, (str, os.PathLike)) and os.path.isfile(source):
            stat = os.stat(source)
            known = (os.fspath(source), stat.st_size, stat.st_mtime_ns, stat.st_ino)
            if known not in self._known:
                with open(source, "rb") as file:
                    self._known[known] = hashlib.file_digest(file, "sha256").digest()
            return self._known[known]
        if isinstance(source, (bytes, bytearray, memoryview)):
            return hashlib.sha256(source).digest()
        picture = read_picture(self.image_processor, source) if load is None else load(source)
        pixels = np.asarray(picture)
        return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).digest()

    def view(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """Of a function that reads a picture, one that reads its features in place of it."""

        def read(source: Any, **options: Any) -> Features:
            key = self.key(source, lambda one: load(one, **options))
            if key in self:
                return self.read(key)
            load(source, **options)  # says why, of a picture that cannot be read
            raise ValueError(
                f"its features are not in {self.folder}: the picture was changed or added after they were made. Begin "
                "the run again, which makes them"
            )

        return read

    # ---- features -----------------------------------------------------------------------------------------------

    def read(self, key: bytes) -> Features:
        """The features of a picture that is in the store."""
        name, row = self._places[key]
        try:
            if name not in self._open:
                self._open[name] = safe_open(str(self.folder / name), framework="pt")
            file = self._open[name]
            pooled = file.get_slice("pooled")[row].clone() if "pooled" in file.keys() else None  # noqa: SIM118
            return Features(file.get_slice("tokens")[row].clone(), pooled)
        except (OSError, SafetensorError) as fault:
            raise OSError(
                f"{self.folder / name} cannot be read now, and could when the store was opened ({fault}); begin the "
                "run again, which makes its features again"
            ) from fault

    def write(self, keys: Sequence[bytes], tokens: torch.Tensor, pooled: torch.Tensor | None) -> None:
        """Keeps the features of some pictures, tokens (n, S, Dv) and pooled (n, Dv), in one file.

        Raises OSError that names the folder where they cannot be written.
        """
        held = {"tokens": tokens.detach().cpu().contiguous()}
        if pooled is not None:
            held["pooled"] = pooled.detach().cpu().contiguous()
        told = json.dumps([key.hex() for key in keys])
        metadata = {"keys": told, "sha256": _digest(held, told), "made_by": self.made_by}
        name = hashlib.sha256(told.encode()).hexdigest()[:32] + SUFFIX
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            handle, aside = tempfile.mkstemp(dir=self.folder, suffix=ASIDE)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(save(held, metadata))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(aside, self.folder / name)
            except BaseException:
                os.unlink(aside)
                raise
        except OSError as fault:
            raise OSError(fault.errno, f"features cannot be written: {fault.strerror}", str(self.folder)) from fault
        self._open.pop(name, None)
        self.broken = [path for path in self.broken if path.name != name]
        self._places |= {key: (name, row) for row, key in enumerate(keys)}

    # ---- batches ------------------------------------------------------------------------------------------------

    def tensors(self, held: list[list[Features | None]]) -> dict[str, torch.Tensor]:
        """Features nested by context as visual_embeds, with pixel_attention_mask where not every context has one."""
        found = [features for row in held for features in row if features is not None]
        shapes = sorted({tuple(features.tokens.shape) for features in found})
        if len(shapes) > 1:
            raise ValueError(f"the features of pictures have one shape; got {shapes}")
        values = {"visual_embeds": torch.stack([features.tokens for features in found])}
        pooled = [features.pooled for features in found if features.pooled is not None]
        if len(pooled) == len(found):
            values["visual_pooler_output"] = torch.stack(pooled)
        if all(len(row) == 1 for row in held) and len(found) == len(held):
            return values
        slots = max(len(row) for row in held)
        mask = torch.tensor(
            [[one is not None for one in row] + [False] * (slots - len(row)) for row in held], dtype=torch.bool
        )
        placed = {}
        for name, there in values.items():
            placed[name] = there.new_zeros(*mask.shape, *there.shape[1:])
            placed[name][mask] = there
        return {**placed, "pixel_attention_mask": mask}

    def blank(self, rows: int) -> dict[str, torch.Tensor]:
        """A masked blank for each of `rows` contexts, for a batch without any picture."""
        if not self._places:
            raise ValueError(f"there are no features in {self.folder}, and so nothing says how large they are")
        one = self.read(next(iter(self._places)))
        blank = Features(torch.zeros_like(one.tokens), None if one.pooled is None else torch.zeros_like(one.pooled))
        made = {name: value[:, None] for name, value in self.tensors([[blank]] * rows).items()}
        return made | {"pixel_attention_mask": torch.zeros(rows, 1, dtype=torch.bool)}


def plain_settings(image_processor: Any) -> dict[str, Any]:
    """The settings that change what is made of a picture that is not augmented."""
    return {name: value for name, value in image_processor.to_dict().items() if name not in NOT_SEEN}


def read_picture(image_processor: Any, source: Any) -> Any:
    """A picture as the image processor reads it."""
    return image_processor.load(source) if isinstance(image_processor, PictureOptions) else load_image(source)


def check_whole_pictures(is_augmented: bool, mim_ratio: float, tiles: Any = None) -> None:
    """Raises ValueError where the tower would see a picture in another way each time, or as several."""
    if tiles is not None:
        raise ValueError("stored features are of whole pictures, and this processor cuts them into tiles")
    if is_augmented:
        raise ValueError(
            "augment changes the pictures in each epoch, and stored features are those of one view of them; leave "
            "augment out, or the stored features (feature_cache)"
        )
    if mim_ratio:
        raise ValueError(
            f"mim_ratio={mim_ratio} hides patches from the tower, and stored features are those of whole pictures; "
            "leave the stored features (feature_cache) out, or the loss 'mim'"
        )


def _digest(tensors: dict[str, torch.Tensor], keys: str) -> str:
    found = hashlib.sha256(keys.encode())
    for name in sorted(tensors):
        found.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _checked_keys(path: Path) -> list[bytes]:
    """The pictures of a file, in the order of its rows. ValueError, OSError or SafetensorError for one that is not
    as it was written."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = metadata.get("keys", "[]")
    if _digest(tensors, told) != metadata.get("sha256"):
        raise ValueError("its SHA-256 is another than when it was written")
    keys = [bytes.fromhex(key) for key in json.loads(told)]
    if "tokens" not in tensors or not keys or any(len(values) != len(keys) for values in tensors.values()):
        raise ValueError("it holds no features")
    return keys
