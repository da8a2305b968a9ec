"""Reading SASS: instructions, flow, dominators, the main loop, and MMA in units of one."""

import random

import pytest

from mm.tests.kernels.static import sass

# A loop that copies, a main loop with an exit and a wait out of line, the same work once more behind it, and the trap
# that ends every kernel. Its encodings, and what else nvdisasm prints, are no instructions.
SAMPLE = """
        .section        .text.kernel,"ax",@progbits
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R9], [R4.64], !P1 ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   LDL R7, [R1+0x8] ;  /* 0x0000000001077983 */
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0050*/                   HMMA.16816.F32.BF16 R16, R8, R14, R16 ;
        /*0060*/                   BRA.U UP0, `(.L_x_3) ;
.L_x_2:
        /*0070*/              @!P0 BRA `(.L_x_1) ;
        /*0080*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0090*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*00a0*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*00b0*/               @P4 EXIT ;
        /*00c0*/                   STG.E desc[UR4][R2.64], R4 ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R3 ;
        /*00f0*/              @!P1 BRA `(.L_x_3) ;
        /*0100*/                   BRA `(.L_x_2) ;
.L_x_4:
        /*0110*/                   BRA `(.L_x_4);
        /*0120*/                   NOP;
        /*0130*/                   NOP;
.L_x_5:
"""


def addresses(body) -> list[int]:
    return [instruction.address for instruction in body]


def test_instructions_are_read_with_their_guards_and_padding_is_dropped():
    program = sass.parse(SAMPLE)
    assert addresses(program.instructions) == list(range(0, 0x120, 0x10))
    jump = program.instructions[7]
    assert (jump.guard, jump.opcode, jump.operands, jump.base) == ("!P0", "BRA", "`(.L_x_1)", "BRA")
    assert program.instructions[1].opcode == "LDGSTS.E.BYPASS.128"
    assert program.instructions[program.labels[".L_x_3"]].base == "SYNCS"
    assert sass.opcodes(program.instructions, sass.MMA | sass.LOCAL_MEMORY) == {"HMMA": 5, "LDL": 1}


def test_text_without_instructions_is_refused():
    with pytest.raises(ValueError, match="no instruction"):
        sass.parse("nvdisasm fatal : cannot open file")


def test_only_unconditional_ends_stop_the_flow():
    stops = [i.address for i in sass.parse(SAMPLE).instructions if not i.falls_through]
    assert stops == [0xD0, 0x100, 0x110]


def test_the_main_loop_holds_its_wait_out_of_line_and_not_the_tail():
    body = sass.main_loop(sass.parse(SAMPLE))
    assert addresses(body) == [0x30, 0x40, 0x50, 0x60, 0x70, 0xE0, 0xF0, 0x100]


def test_the_main_loop_is_the_innermost_one_with_mma():
    text = """
.L_x_0:
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
.L_x_1:
        /*0010*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
.L_x_2:
        /*0020*/                   FADD R1, R1, R2 ;
        /*0030*/               @P0 BRA `(.L_x_2) ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/               @P2 BRA `(.L_x_0) ;
        /*0060*/                   EXIT ;
"""
    assert addresses(sass.main_loop(sass.parse(text))) == [0x10, 0x20, 0x30, 0x40]


def test_of_two_loops_with_as_many_mma_the_first_is_the_main_loop():
    text = """
.L_x_0:
        /*0000*/                   LDGSTS.E.BYPASS.128 [R9], [R4.64] ;
        /*0010*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
"""
    assert addresses(sass.main_loop(sass.parse(text))) == [0x0, 0x10, 0x20]


def test_the_whole_loop_is_the_outermost_around_the_main_loop_and_not_the_one_behind_it():
    text = """
.L_x_0:
        /*0000*/                   LDL R4, [R1] ;
.L_x_1:
        /*0010*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0050*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0060*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0070*/               @P2 BRA `(.L_x_2) ;
        /*0080*/                   EXIT ;
"""
    program = sass.parse(text)
    assert addresses(sass.main_loop(program)) == [0x10, 0x20, 0x30]
    assert addresses(sass.whole_loop(program)) == [0x0, 0x10, 0x20, 0x30, 0x40, 0x50]


def test_what_only_lanes_that_are_apart_run_is_told_from_the_rest_of_the_loop():
    """Behind BRA.DIV, up to where both ways meet; what another jump leads to as well is run."""
    text = """
.L_x_0:
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0010*/                   BRA.DIV ~URZ, `(.L_x_2) ;
        /*0020*/                   SHFL.BFLY PT, R1, R1, 0x1, 0x1f ;
.L_x_1:
        /*0030*/               @P0 BRA `(.L_x_0) ;
        /*0040*/                   EXIT ;
.L_x_2:
        /*0050*/                   CALL.REL.NOINC `($shuffle) ;
        /*0060*/                   BRA `(.L_x_1) ;
"""
    program = sass.parse(text)
    loop = sass.main_loop(program)
    assert len(loop) == 6 and addresses(sass.apart(program, loop)) == [0x50, 0x60]
    program = sass.parse(text.replace("SHFL.BFLY PT, R1, R1, 0x1, 0x1f", "@P1 BRA `(.L_x_2)"))
    assert sass.apart(program, sass.main_loop(program)) == []


def test_a_program_without_mma_in_a_loop_has_no_main_loop():
    program = sass.parse(SAMPLE.replace("HMMA.16816.F32.BF16", "FFMA"))
    assert sass.main_loop(program) == sass.whole_loop(program) == []


def reachable(follows: list[list[int]], without: int | None) -> set[int]:
    seen, waiting = set(), [0]
    while waiting:
        block = waiting.pop()
        if block not in seen and block != without:
            seen.add(block)
            waiting.extend(follows[block])
    return seen


def test_a_dominator_is_a_block_whose_removal_cuts_off_what_it_dominates():
    generator = random.Random(0)
    for _ in range(200):
        size = generator.randint(1, 9)
        follows = [generator.sample(range(size), generator.randint(0, min(2, size))) for _ in range(size)]
        found = sass.dominators(follows, [0])
        assert found.keys() == reachable(follows, None)
        for block, through in found.items():
            assert through == {d for d in found if d == block or block not in reachable(follows, d)}


@pytest.mark.parametrize(
    ("opcode", "units"),
    [
        ("HMMA.16816.F32.BF16", 1),
        ("HMMA.1688.F32.TF32", 1),  # half the depth at half the rate
        ("HGMMA.64x64x16.F32.BF16", 8),  # 64x64x16 by four warps
        ("HGMMA.64x128x8.F32.TF32", 16),
        ("UTCHMMA", None),
    ],
)
def test_mma_are_counted_in_units_of_one_warps_16x8x16(opcode, units):
    assert sass.mma_units(sass.Instruction(0, "", opcode, "R4, R8")) == units
