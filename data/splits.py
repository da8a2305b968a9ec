"""Parts of a data set by a hash of the media: no picture is in two parts, and a picture's part never changes."""

import hashlib
import os
from typing import Any

from ..processing.call_options import check_choice
from .sources import content, media_names


def part_of(name: str, shares: dict[str, float], seed: int = 0) -> str:
    """The part that a medium of this name belongs to: by SHA-256 of the seed and the name, nothing else."""
    place = (
        int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
    )
    total = 0.0
    for part, share in shares.items():
        total += share
        if place < total:
            return part
    return next(reversed(shares))  # place is below 1, the sum may fall short of it by a rounding


def split_samples(
    samples: list[dict], root: os.PathLike | None, shares: dict[str, float], seed: int, by: str
) -> dict[str, list[dict]]:
    """The samples of each part. ValueError where the shares do not sum to 1."""
    check_choice("by", by, ("name", "bytes"))
    if not shares or any(not share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares of a split are above 0 and sum to 1, as train=0.9, test=0.1; got {shares}")
    parts: dict[str, list[dict]] = {name: [] for name in shares}
    keys = [_keys(sample, root, by) for sample in samples]
    for sample, key in zip(samples, connected(keys), strict=True):
        parts[part_of(key, shares, seed)].append(sample)
    return parts


def _keys(sample: dict[str, Any], root: os.PathLike | None, by: str) -> list[str]:
    """What names the media of a sample; its id where it has none."""
    found = []
    for source in media_names(sample):
        if by == "bytes" or not isinstance(source, str):
            found.append(hashlib.sha256(content(source)).hexdigest())
        else:
            found.append(source if root is None else os.path.relpath(source, root).replace(os.sep, "/"))
    return found or [str(sample["id"])]


def connected(keys: list[list[str]]) -> list[str]:
    """For each sample the smallest key among all samples that are linked to it by shared keys."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for own in keys:
        for other in own[1:]:
            one, two = sorted((root(own[0]), root(other)))
            parent[two] = one
    return [root(own[0]) for own in keys]
