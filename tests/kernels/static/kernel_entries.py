"""What the static report builds: every tile of the tuning tables, per architecture, element type and kind of mask.

Nothing is listed by hand. The tiles come from mm.kernels.tuning, and a kernel's arguments get their types by name, as
the launches in mm.kernels.launch pass them: pointers of the tensors' element type, strides divisible by 16.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mm.kernels import backward, decode, forward, tuning
from mm.kernels import key_mass as mass
from mm.tests.kernels.static.static_gate import CEILINGS, GROUPS
from mm.tests.kernels.static.static_report import Case, Entry

# Name in the tables -> its jit function. A forward of few rows is built with split keys and called "decode".
FUNCTIONS: dict[str, Any] = {
    "forward": forward.forward_kernel,
    "decode": forward.forward_kernel,
    "dq": backward.query_gradient_kernel,
    "dkdv": backward.key_value_gradient_kernel,
    "mass": mass.mass_kernel,
    "combine": decode.combine_kernel,
    "delta": backward.delta_kernel,
}
DECODE_ROWS = 16  # a forward tile of so few rows is used with split keys, and without where there are few keys
DTYPES = {2: ("bf16", "fp16"), 4: ("fp32",)}  # by bytes of an element
PADDED_HEADS = (40, 80)  # widths that are no power of two, computed at the next
CONTEXTS = 8  # of ragged rows

# Types by name of the argument, the first that matches in full; DTYPE is the case's.
TYPES = (
    (r"Q|K|V|Out|GradOut|GradQ|GradK|GradV", "*DTYPE"),
    (r"Lse|Lse2|GradLse|Delta|Mass|Parts|PartLse", "*fp32"),
    (r"scale", "fp32"),
    (r"num_\w+|mask_b", "i32"),
    (r"[a-z]+_([bhmn]|step)", "i32:16"),  # strides, and how far a block of keys is
)
# keys_given_by -> the arguments it needs, the others are None; ranges come with ragged rows. "prefix" is of ragged
# rows that share a prefix, whose result and log-sum-exp are merged with those of the rows' own keys.
VISIBLE = {
    "no keys": {},
    "lengths": {"Lengths": "*i32"},
    "mask": {"Mask": "*i32"},
    "ranges": {"Lengths": "*i32", "Ranges": "*i32", "CuRows": "*i32"},
    "prefix": {"Lengths": "*i32", "CuRows": "*i32"},
}


def argument(name: str, case: Case, tile: tuning.Tile) -> Any:
    """Triton type or value of one kernel argument. Raises ValueError for a name that no rule knows."""
    if name in {"Lengths", "Mask", "Ranges", "CuRows"}:
        return VISIBLE[case.keys_given_by].get(name)
    constants = {
        "D": case.head_dim,
        "BLOCK_D": tuning.padded_head(case.head_dim),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "GROUP": case.group,
        "CONTEXTS": CONTEXTS if "CuRows" in VISIBLE[case.keys_given_by] else 1,
        "SPLIT": case.kernel == "decode",
        "LEAN": tile.lean,
        "PRECISION": "tf32x3",
    }
    if name in constants:
        return constants[name]
    if name == "Out" and case.kernel == "decode":
        return "*fp32"  # the parts of a split
    for pattern, kind in TYPES:
        if re.fullmatch(pattern, name):
            return kind.replace("DTYPE", case.dtype)
    raise ValueError(f"kernel_entries knows no type for the argument {name} of {case.kernel}: add its name to TYPES")


def entry(case: Case, tile: tuning.Tile) -> Entry:
    """The entry of a case; the tile gives the launch options."""
    function = FUNCTIONS[case.kernel]
    arguments = {name: argument(name, case, tile) for name in function.arg_names}
    return Entry(case, f"{function.fn.__module__}:{function.fn.__name__}", arguments, tile.options())


def cases_of(kernel: str, itemsize: int, width: int, tile: tuning.Tile, arch: int) -> Iterator[Case]:
    """The cases of one tile: lengths in every element type, masks and row ranges in bf16 and fp32; with bf16 also
    shared key heads and padded head widths. fp16 differs from bf16 by the names of instructions alone, a decode tile
    without split keys from one with them by what is behind the loop; a tile over rows alone sees no keys."""
    shape = (tile.block_m, tile.block_n, tile.num_stages, tile.num_warps)
    split = kernel == "forward" and tile.block_m <= DECODE_ROWS
    for dtype in DTYPES[itemsize]:
        case = Case(kernel, dtype, width, *shape, "lengths", 1, arch)
        if kernel in tuning.ROWS_ALONE:
            yield replace(case, keys_given_by="no keys")
            continue
        yield case
        if split:
            case = replace(case, kernel="decode")
            yield case
        if dtype != "fp16":
            yield replace(case, keys_given_by="mask")
            yield replace(case, keys_given_by="ranges", group=max(GROUPS))
        if dtype == "bf16":
            yield replace(case, group=max(GROUPS))
            if split:
                yield replace(case, group=max(GROUPS), keys_given_by="prefix")
            yield from (replace(case, head_dim=d) for d in PADDED_HEADS if tuning.padded_head(d) == width)


def entries(archs: Sequence[int]) -> list[Entry]:
    """Everything that the tables can give on these architectures, and the cases that have a ceiling.

    Raises ValueError if two tiles of a table would be one case.
    """
    found: dict[Case, Entry] = {}
    for arch in archs:
        alone = [
            (kernel, itemsize, width, tuning.MANY, tile)
            for kernel, tile in tuning.ROWS_ALONE.items()
            for itemsize in DTYPES
            for width in tuning.WIDTHS
        ]
        for kernel, itemsize, width, _, tile in [*tuning.entries(arch), *alone]:
            for case in cases_of(kernel, itemsize, width, tile, arch):
                new = entry(case, tile)
                if found.setdefault(case, new) != new:
                    raise ValueError(f"two tiles of the tables are {case}, with different options")
    for _, rows, keys, stages, warps, width, arch in CEILINGS:
        if arch in archs:
            tile = tuning.Tile(rows, keys, warps, stages)
            for case in cases_of("forward", 2, width, tile, arch):
                found.setdefault(case, entry(case, tile))
    return list(found.values())
