"""MMIndex: embeddings of files in a folder, searched exactly, a block of rows at a time.

index.json                   what made it, and the names of the two others; replaced last
embeddings-N.safetensors     float32 (M, P), memory-mapped
items-N.jsonl                {"path", "kind", "sha256"} of each row
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..weights.manifest import sync
from .exact import best_in_blocks
from .graph import candidates

NAME, FORMAT, KEY = "index.json", 1, "embeddings"
_NUMBERED = re.compile(r"(?:embeddings|items|graph)-(\d+)\.", re.ASCII)


class MMIndex:
    """An index that `mm embed` or `mm.embed_files` wrote.

    Args:
        folder: of the index.

    Attributes:
        items: {"path", "kind", "sha256"} of each row. embeddings: float32 (M, P), on the disk until they are read.
        settings: what index.json holds: the model, its hash, and so on.

    Raises: FileNotFoundError for a folder without an index, ValueError for a damaged one.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.settings = read_settings(self.folder)
        try:
            self._read()
        except ValueError:
            now = read_settings(self.folder)
            if now == self.settings:
                raise
            self.settings = now  # it was replaced meanwhile
            self._read()

    def _read(self) -> None:
        folder, path = str(self.folder), self.folder / self.settings["embeddings"]
        try:
            lines = (self.folder / self.settings["items"]).read_text(encoding="utf-8").splitlines()
            self.items: list[dict[str, Any]] = [json.loads(line) for line in lines]
            with safe_open(path, framework="pt") as file:
                self.embeddings: torch.Tensor = file.get_tensor(KEY)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"the index {folder!r} is damaged ({error}); make it again: mm embed") from error
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.items):
            raise ValueError(f"the index {folder!r} is damaged: {len(self.items)} files, {len(self.embeddings)} rows")

    def __len__(self) -> int:
        return len(self.items)

    def check_model(self, maker: str) -> None:
        """Raises ValueError where the index was not made by the model of this hash (`hash_of_model`)."""
        if self.settings.get("model_hash", maker) != maker:
            raise ValueError(
                f"the index {str(self.folder)!r} was made by another model or other weights, whose vectors do not "
                "compare with these; mm embed brings it up to date"
            )

    def search(self, query: torch.Tensor, top_k: int = 10, approximate: bool = False) -> list[list[dict[str, Any]]]:
        """The k most similar files of each query (Q, P) or (P,), best first; of equal ones the first in the index.

        Each hit is {"path", "kind", "score", "index"}, score the cosine similarity. With approximate=True the
        candidates come from the graph that `mm embed --approximate` made; their scores are exact.
        """
        query = check_query(query, self.embeddings, top_k)
        if approximate:
            scores, rows = candidates(self, query, top_k)
        else:
            scores, rows = best_in_blocks(query, self.embeddings, top_k)
        return [
            [{**self.hit(row), "score": score, "index": row} for row, score in zip(*one, strict=True)]
            for one in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def hit(self, row: int) -> dict[str, Any]:
        return {name: self.items[row][name] for name in ("path", "kind")}


def check_query(query: torch.Tensor, embeddings: torch.Tensor, top_k: int) -> torch.Tensor:
    """Queries (Q, P) of length 1, float32 on the CPU. Raises ValueError."""
    query = query[None] if query.ndim == 1 else query
    if query.ndim != 2 or query.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"the query has shape {tuple(query.shape)}, and the index holds vectors of {embeddings.shape[1]} numbers: "
            "it was made by another model"
        )
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k={top_k!r} must be a whole number from 1")
    if not torch.isfinite(query).all():
        raise ValueError("the query holds numbers that are not finite (NaN or infinity)")
    return torch.nn.functional.normalize(query.float().cpu(), dim=1)


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"there is no index in {str(folder)!r}: it holds no {NAME}; mm embed makes one")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != FORMAT or not all(isinstance(held[name], str) for name in ("embeddings", "items")):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no index of MM ({error})") from error
    return held


def write_index(
    folder: Path, items: Sequence[Mapping[str, Any]], embeddings: torch.Tensor, settings: Mapping[str, Any]
) -> None:
    """Replaces an index in one step: who is killed before index.json is replaced leaves the old one as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(name[1]) for path in folder.iterdir() if (name := _NUMBERED.match(path.name))), default=0)
    names = {"embeddings": f"embeddings-{number}.safetensors", "items": f"items-{number}.jsonl"}
    save_file({KEY: embeddings.contiguous()}, folder / names["embeddings"])
    lines = "".join(json.dumps(dict(item), ensure_ascii=True) + "\n" for item in items)
    (folder / names["items"]).write_text(lines, encoding="utf-8")
    held = {"format": FORMAT, "number": number, **names, "count": len(items), **settings}
    aside = folder / f".{NAME}.writing"
    aside.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    for path in (*map(folder.joinpath, names.values()), aside):
        sync(path)
    os.replace(aside, folder / NAME)
    sync(folder)
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".jsonl", ".usearch") and path.name not in names.values():
            if path.name.startswith(("embeddings-", "items-", "graph-")):
                path.unlink()
