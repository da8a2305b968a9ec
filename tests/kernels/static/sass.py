"""Reads SASS, the machine code of an NVIDIA GPU as `nvdisasm -c` prints it: instructions, blocks, loops, MMA work.

A line is an instruction or a label:

    .L_x_1:
            /*0190*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
            /*01a0*/                   BRA `(.L_x_1) ;

Loops are natural loops, found by dominators: an edge from u to v is a back edge if every way to u passes v, and the
loop of v is what reaches u without passing v. So code that waits out of line and jumps back is no loop of its own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"(\.[\w.]+):")
TARGET = re.compile(r"`\((\.[\w.]+)\)")

ENDS = {"BRA", "BRX", "JMP", "JMX", "EXIT", "RET"}  # what may leave a block other than at its end
WARP_MMA = {"HMMA", "IMMA", "DMMA", "QMMA", "OMMA"}  # mma.sync: a warp's own tile
GROUP_MMA = {"HGMMA", "QGMMA", "IGMMA", "BGMMA"}  # wgmma: a tile of four warps
TENSOR_MEMORY_MMA = {"UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"}  # tcgen05: the shape is not in the opcode
MMA = WARP_MMA | GROUP_MMA | TENSOR_MEMORY_MMA
LOCAL_MEMORY = {"LDL", "STL"}
UNIT = 16 * 8 * 16  # multiplications of the 16x8x16 MMA, the unit of `mma_units`
WARP_SHAPES = {"16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4), "884": (8, 8, 4), "16832": (16, 8, 32)}


@dataclass(frozen=True)
class Instruction:
    """One instruction: `HMMA.16816.F32.BF16 R4, R8, R12, R4` has opcode up to the space and base name HMMA."""

    address: int
    guard: str  # the predicate it runs under, "" if always
    opcode: str
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may follow: all except an unconditional jump, exit or return.

        Jumps are conditional by guard (`@P0 BRA`) or by an operand before the target (`BRA.U UP0, ...`).
        """
        if self.base not in ENDS or self.guard:
            return True
        return self.base in {"BRA", "JMP"} and bool(self.operands.partition("`")[0].strip())


@dataclass(frozen=True)
class Program:
    """The instructions of one kernel, and where each label points: label -> index, len(instructions) at the end."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


def parse(text: str) -> Program:
    """Instructions and labels of one kernel's SASS, without the padding at its end.

    Raises ValueError if there is no instruction: the text is then not what `nvdisasm -c` prints.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line.strip()):
            labels[label[1]] = len(instructions)
        elif found := LINE.match(line):
            address, guard, opcode, operands = found.groups()
            instructions.append(Instruction(int(address, 16), guard or "", opcode, operands))
    while instructions and instructions[-1].base == "NOP":
        instructions.pop()
    if not instructions:
        raise ValueError("no instruction in the SASS; expected the output of `nvdisasm -c`")
    return Program(tuple(instructions), labels)


def jump_target(program: Program, instruction: Instruction) -> int | None:
    """Index of the instruction that a direct jump leads to; None for everything else."""
    if instruction.base not in {"BRA", "JMP"}:
        return None
    label = TARGET.search(instruction.operands)
    index = program.labels.get(label[1]) if label else None
    return index if index is not None and index < len(program.instructions) else None


def flow(program: Program) -> tuple[list[range], list[list[int]]]:
    """Basic blocks as ranges of instruction indices, and per block the blocks that may follow it."""
    code = program.instructions
    targets = {n: jump_target(program, instruction) for n, instruction in enumerate(code)}
    starts = {0} | {target for target in targets.values() if target is not None}
    starts |= {n + 1 for n, instruction in enumerate(code) if instruction.base in ENDS and n + 1 < len(code)}
    bounds = [*sorted(starts), len(code)]
    blocks = [range(first, last) for first, last in zip(bounds, bounds[1:], strict=False)]
    number = {block.start: n for n, block in enumerate(blocks)}
    follows = []
    for n, block in enumerate(blocks):
        target = targets[block[-1]]
        jumps = [] if target is None else [number[target]]
        falls = [n + 1] if code[block[-1]].falls_through and n + 1 < len(blocks) else []
        follows.append([*jumps, *falls])
    return blocks, follows


def dominators(follows: list[list[int]], roots: Iterable[int]) -> dict[int, set[int]]:
    """Per reachable block the blocks through which every way from a root leads, itself among them."""
    roots = set(roots)
    order, waiting = [], sorted(roots, reverse=True)
    while waiting:
        block = waiting.pop()
        if block not in order:
            order.append(block)
            waiting.extend(reversed(follows[block]))
    before = {block: [other for other in order if block in follows[other]] for block in order}
    found = {block: {block} if block in roots else set(order) for block in order}
    changed = True
    while changed:
        changed = False
        for block in order:
            if block in roots:
                continue
            through = set.intersection(*(found[other] for other in before[block])) | {block}
            changed |= through != found[block]
            found[block] = through
    return found


def natural_loops(follows: list[list[int]]) -> dict[int, set[int]]:
    """Per loop header the blocks of its loop. Loops that share a header are one.

    Blocks that nothing leads to are roots too, with block 0: they are reached by indirect jumps or calls.
    """
    named = {block for after in follows for block in after}
    through = dominators(follows, {0} | (set(range(len(follows))) - named))
    loops: dict[int, set[int]] = {}
    for latch in through:
        for header in set(follows[latch]) & through[latch]:
            body = loops.setdefault(header, {header})
            waiting = [latch]
            while waiting:
                block = waiting.pop()
                if block not in body:
                    body.add(block)
                    waiting.extend(other for other in through if block in follows[other])
    return loops


def mma_loops(program: Program, innermost: bool = False) -> Iterator[list[Instruction]]:
    """The instructions of every loop that holds MMA; innermost: and no smaller loop that holds MMA."""
    blocks, follows = flow(program)
    code = program.instructions
    holds = [any(code[n].base in MMA for n in block) for block in blocks]
    loops = [body for body in natural_loops(follows).values() if any(holds[block] for block in body)]
    for body in loops:
        if not (innermost and any(other < body for other in loops)):
            yield [code[n] for block in sorted(body) for n in blocks[block]]


def main_loop(program: Program) -> list[Instruction]:
    """The innermost loop with most MMA; empty if no loop holds any.

    Of several the first in the code: behind it stands the same work for what is left over, as a loop of one turn.
    """
    return max(mma_loops(program, innermost=True), key=lambda body: (count(body, MMA), -body[0].address), default=[])


def apart(program: Program, loop: Iterable[Instruction]) -> list[Instruction]:
    """Instructions of a loop that only a warp runs whose lanes are apart.

    Where ptxas cannot tell that they are together, it writes the work around a shuffle once more, behind BRA.DIV.
    """
    blocks, follows = flow(program)
    last = [program.instructions[block[-1]] for block in blocks]
    found = {0} | (set(range(len(blocks))) - {block for after in follows for block in after})
    waiting = sorted(found)
    while waiting:
        block = waiting.pop()
        divides = last[block].opcode.startswith("BRA.DIV")
        after = [block + 1] if divides and last[block].falls_through else follows[block]
        waiting += [other for other in after if other not in found]
        found |= set(after)
    together = {program.instructions[n] for block in found for n in blocks[block]}
    return [instruction for instruction in loop if instruction not in together]


def whole_loop(program: Program) -> list[Instruction]:
    """The outermost loop with the main loop inside, that itself if there is none; empty if no loop holds MMA."""
    inner = set(main_loop(program))
    return max((body for body in mma_loops(program) if inner <= set(body)), key=len, default=[])


def count(instructions: Iterable[Instruction], bases: set[str]) -> int:
    """How many instructions have one of these base names."""
    return sum(instruction.base in bases for instruction in instructions)


def opcodes(instructions: Iterable[Instruction], bases: set[str]) -> dict[str, int]:
    """How often each of these base names occurs, those that occur."""
    return dict(sorted(Counter(i.base for i in instructions if i.base in bases).items()))


def mma_units(instruction: Instruction) -> float | None:
    """One warp's share of an MMA, in 16x8x16 MMAs of 16-bit operands; None if the opcode does not give its shape.

    tf32 runs at half the rate, so its work counts twice. A wgmma is the work of four warps.
    """
    rate = 2 if ".TF32" in instruction.opcode else 1
    parts = instruction.opcode.split(".")
    if instruction.base in GROUP_MMA and (shape := re.fullmatch(r"(\d+)x(\d+)x(\d+)", parts[1])):
        return rate * int(shape[1]) * int(shape[2]) * int(shape[3]) / (4 * UNIT)
    if instruction.base in WARP_MMA and (known := WARP_SHAPES.get(parts[1])):
        rows, columns, depth = known
        return rate * rows * columns * depth / UNIT
    return None
