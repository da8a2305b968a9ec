"""Tiles and launch options by kernel, architecture, element size, head width and rows. Data, not search: nothing is
tuned at import or at a call.

The entries were chosen by the static report (tests/kernels/static): registers, spills, instructions per tensor-core
operation. Who owns a GPU can measure instead: `mm tune` writes a table that MM_KERNEL_TABLE names.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ARCHS = (80, 90, 100)  # compute capabilities that have entries of their own; others take the nearest that fits
MANY = 1 << 30
TABLE_VARIABLE = "MM_KERNEL_TABLE"
ENTRY_NAMES = ("kernel", "arch", "itemsize", "head_dim", "rows")  # the key of an entry in that table
WIDTHS = POWERS = (16, 32, 64, 128, 256)  # of a padded head; rows and keys of a tile


@dataclass(frozen=True)
class Tile:
    """Rows and keys of a tile, warps of a program, stages of the load pipeline, registers a thread may use.

    lean: the forward recomputes what it can after its loop, for fewer registers inside.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    # Never left to ptxas: without a limit it gave one backward kernel 32 registers and 5.9 KB of spills.
    maxnreg: int = 255
    lean: bool = True

    def options(self) -> dict[str, Any]:
        """Launch options. Fused multiply-adds are asked for, as the default changes between Triton versions."""
        return {
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.maxnreg,
            "enable_fp_fusion": True,
        }


def _rows(*tiles: Tile) -> dict[int, Tile]:
    """{most packed rows: tile}: 16 rows, 64 rows, and any number, with the last tile for the rest."""
    return dict(zip((16, 64, MANY), (*tiles, *[tiles[-1]] * (3 - len(tiles))), strict=True))


# {kernel: {(arch, bytes of an element): {head width, rounded up to a power of two: {most rows: tile}}}}; an arch
# lists what differs from sm_80.
TABLE: dict[str, dict[tuple[int, int], dict[int, dict[int, Tile]]]] = {
    "forward": {
        (80, 2): {
            **dict.fromkeys((16, 32, 64), _rows(Tile(16, 64, 2, 3), Tile(64, 64, 4, 3), Tile(128, 64, 4, 3))),
            # 248: with 255 the newest compilers schedule more loads ahead than fit, and spill (row ranges, sm_90).
            128: _rows(Tile(16, 64, 2, 3, maxnreg=248), Tile(32, 64, 4, 3), Tile(128, 64, 8, 3)),
            256: _rows(Tile(16, 32, 4, 2), Tile(64, 32, 8, 2, lean=False)),
        },
        (90, 2): {128: _rows(Tile(16, 64, 2, 3, maxnreg=248), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3, lean=False))},
        (100, 2): {
            64: _rows(Tile(16, 64, 2, 3), Tile(64, 64, 4, 3), Tile(128, 64, 4, 3, lean=False)),
            128: _rows(Tile(16, 64, 2, 3, maxnreg=248), Tile(64, 64, 8, 3), Tile(128, 64, 8, 3)),
        },
        (80, 4): {
            **dict.fromkeys((16, 32), _rows(Tile(16, 32, 2, 2), Tile(64, 32, 4, 2))),
            64: _rows(Tile(16, 32, 2, 2), Tile(64, 16, 4, 2)),
            128: _rows(Tile(16, 32, 8, 2), Tile(32, 16, 4, 2)),
            256: _rows(Tile(16, 16, 8, 2)),
        },
        (100, 4): {
            64: _rows(Tile(16, 32, 2, 2), Tile(32, 32, 8, 2)),
            128: _rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
        },
    },
    "dq": {
        (80, 2): {
            **dict.fromkeys((16, 32, 64), _rows(Tile(128, 32, 4, 3))),
            128: _rows(Tile(128, 32, 8, 2)),
            256: _rows(Tile(64, 32, 8, 1)),
        },
        (90, 2): {256: _rows(Tile(32, 32, 8, 1))},
        (80, 4): {
            **dict.fromkeys((16, 32), _rows(Tile(64, 32, 4, 2))),
            64: _rows(Tile(64, 16, 8, 2)),
            128: _rows(Tile(32, 16, 8, 1)),
            256: _rows(Tile(16, 16, 8, 1)),
        },
        (100, 4): {128: _rows(Tile(16, 16, 8, 1))},
    },
    "dkdv": {
        (80, 2): {
            **dict.fromkeys((16, 32), _rows(Tile(32, 128, 4, 3))),
            64: _rows(Tile(32, 128, 8, 3)),
            128: _rows(Tile(16, 128, 8, 2)),
            256: _rows(Tile(16, 64, 8, 1)),
        },
        (90, 2): {256: _rows(Tile(32, 32, 8, 1))},
        (80, 4): {
            **dict.fromkeys((16, 32), _rows(Tile(16, 64, 4, 2))),
            64: _rows(Tile(32, 32, 4, 2)),
            128: _rows(Tile(16, 32, 8, 1)),
            256: _rows(Tile(16, 16, 8, 1)),
        },
        (90, 4): {64: _rows(Tile(16, 32, 4, 2))},
        (100, 4): {64: _rows(Tile(16, 32, 4, 2))},
    },
    "mass": {
        (80, 2): {
            **dict.fromkeys((16, 32, 64, 128), _rows(Tile(32, 64, 4, 3))),
            256: _rows(Tile(32, 64, 8, 2)),
        },
        (80, 4): {
            **dict.fromkeys((16, 32, 64), _rows(Tile(32, 64, 4, 2))),
            128: _rows(Tile(16, 32, 4, 2)),
            256: _rows(Tile(16, 16, 4, 2)),
        },
        (100, 4): {64: _rows(Tile(16, 32, 4, 2))},
    },
}

# Kernels that only go over rows: the same tile everywhere, of no keys.
ROWS_ALONE = {"combine": Tile(16, 0, 4, 1), "delta": Tile(32, 0, 4, 1)}


def padded_head(head_dim: int) -> int:
    """The power of two, 16 or more, that a head width is computed at."""
    return max(16, 1 << (head_dim - 1).bit_length())


def nearest_arch(arch: int) -> int:
    """The entries that a GPU of compute capability arch / 10 uses. Consumer Blackwell (12.x) has the tensor-core
    instructions and the shared memory of 8.x."""
    if arch >= 120:
        return 80
    return max(known for known in ARCHS if known <= max(arch, ARCHS[0]))


_forced: dict[str, Any] = {}


@contextlib.contextmanager
def forced(tile: Tile | dict[str, Tile] | None = None, splits: int | None = None) -> Iterator[None]:
    """For tests and tuning: every launch inside uses this tile (or the one of its kernel) and number of splits."""
    before = dict(_forced)
    _forced.update(tile=tile, splits=splits)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def tile(kernel: str, arch: int, itemsize: int, head_dim: int, rows: int) -> Tile:
    """The tile of a launch. kernel: "forward", "dq", "dkdv", "mass"; rows: packed rows per context and key head."""
    wanted = _forced.get("tile")
    if isinstance(wanted, dict):
        wanted = wanted.get(kernel)
    if wanted is not None:
        return wanted
    arch, width = nearest_arch(arch), padded_head(head_dim)
    size = next(size for size in (16, 64, MANY) if rows <= size)
    measured = user_table().get((kernel, arch, itemsize, width, size))
    return measured or _entry(kernel, arch, itemsize)[width][size]


def _entry(kernel: str, arch: int, itemsize: int) -> dict[int, dict[int, Tile]]:
    known = TABLE[kernel]
    return {**known[(80, itemsize)], **known.get((arch, itemsize), {})}


def entries(arch: int) -> Iterator[tuple[str, int, int, int, Tile]]:
    """(kernel, itemsize, padded head width, most rows, tile) of everything that an architecture can be given."""
    for kernel in TABLE:
        for itemsize in (2, 4):
            for width, by_rows in _entry(kernel, arch, itemsize).items():
                chosen = {tile: rows for rows, tile in by_rows.items()}  # equal tiles are one entry
                yield from ((kernel, itemsize, width, rows, tile) for tile, rows in chosen.items())


def splits(rows: int, num_keys: int, tiles: int, tile: Tile, head_dim: int, itemsize: int, processors: int) -> int:
    """Over how many programs the keys are split: about two programs per multiprocessor, at least two key blocks each,
    and partial results (fp32, written and read once) of at most a tenth of the bytes of the keys and values.

    tiles: programs without a split. The rule uses only shapes, never lengths, so nothing is read from the device.
    """
    if _forced.get("splits") is not None:
        return _forced["splits"]
    wanted = -(-2 * processors // max(tiles, 1))
    key_bytes = 2 * num_keys * head_dim * itemsize
    partial_bytes = 2 * min(rows, tile.block_m) * (head_dim + 1) * 4
    affordable = key_bytes // (10 * max(partial_bytes, 1))
    return max(1, min(wanted, affordable, -(-num_keys // tile.block_n) // 2))


@functools.cache
def user_table() -> dict[tuple, Tile]:
    """The measured table that MM_KERNEL_TABLE names, read once at the first launch; empty without one.

    Raises: ValueError if the file is not what `mm tune` writes, or has an entry that no launch could use.
    """
    path = os.environ.get(TABLE_VARIABLE)
    if not path:
        return {}
    try:
        listed = json.loads(Path(path).read_text(encoding="utf-8"))["entries"]
        entries = [_read_entry(written) for written in listed]
        if len(entries) != len(dict(entries)):
            raise ValueError("two entries have the same kernel, arch, itemsize, head_dim and rows")
        return dict(entries)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{TABLE_VARIABLE}={path!r} is not a table that `mm tune` wrote: {error!r}") from error


def _read_entry(written: dict[str, Any]) -> tuple[tuple, Tile]:
    """(key of `user_table`, tile) of one entry. Raises ValueError naming a value that cannot be."""
    key = {name: written[name] for name in ENTRY_NAMES}
    accepted = {
        "kernel": tuple(TABLE),
        "arch": ARCHS,
        "itemsize": (2, 4),
        "head_dim": WIDTHS,
        "rows": (16, 64, None),
        "block_m": POWERS,
        "block_n": POWERS,
        "num_warps": (1, 2, 4, 8, 16),
        "num_stages": range(1, 9),
        "maxnreg": range(32, 256),
        "lean": (True, False),
    }
    for name, value in {**key, **written["tile"]}.items():
        # by type too: True would pass for 1, and 16.0 for 16
        if name in accepted and not any(value == one and type(value) is type(one) for one in accepted[name]):
            raise ValueError(f"{name}={value!r} in {written}; accepted: {', '.join(map(str, accepted[name]))}")
    key["rows"] = key["rows"] or MANY
    return tuple(key.values()), Tile(**written["tile"])


def write_table(path: str | Path, device: str, versions: dict[str, str], measured: dict[tuple, Tile]) -> None:
    """Writes what `user_table` reads. measured: (kernel, arch, itemsize, padded head width, most rows) -> tile."""
    listed = [
        {
            **dict(zip(ENTRY_NAMES, key, strict=True)),
            "rows": None if key[-1] == MANY else key[-1],
            "tile": asdict(tile),
        }
        for key, tile in measured.items()
    ]
    content = {"device": device, "versions": versions, "entries": listed}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine(device: torch.device) -> tuple[int, int]:
    """(compute capability * 10, multiprocessors) of a GPU; an A100's under the interpreter."""
    if device.type != "cuda":
        return 80, 108
    properties = torch.cuda.get_device_properties(device)
    return properties.major * 10 + properties.minor, properties.multi_processor_count
