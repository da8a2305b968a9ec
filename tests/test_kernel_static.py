"""The static report of the kernels and its gate: SASS, loops, figures, faults, and one kernel from end to end."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import triton

from mm.benchmarks import kernel_static, sass, static_gate, static_report
from mm.benchmarks.kernel_entries import DTYPES, FUNCTIONS, entries
from mm.benchmarks.static_report import Case, Row
from mm.kernels import tuning

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "kernel_static.py"

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


# -- SASS -------------------------------------------------------------------------------------------------------------


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


def test_a_program_without_mma_in_a_loop_has_no_main_loop():
    assert sass.main_loop(sass.parse(SAMPLE.replace("HMMA.16816.F32.BF16", "FFMA"))) == []


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


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "arch", "ctas"),
    [
        (255, 48 * 1024, 4, 80, 2),  # registers: two warps per scheduler
        (168, 36 * 1024, 2, 80, 4),  # shared memory: 164 KiB / 37
        (168, 36 * 1024, 2, 90, 6),  # 228 KiB / 37
        (32, 0, 1, 80, 32),
        (32, 0, 32, 80, 2),  # threads
        (64, 163 * 1024, 4, 80, 1),
        (64, 164 * 1024, 4, 80, 0),
    ],
)
def test_ctas_are_limited_by_registers_shared_memory_and_threads(registers, shared, warps, arch, ctas):
    assert static_report.ctas_per_sm(registers, shared, warps, arch) == ctas


def test_registers_and_spills_are_read_from_the_log_of_ptxas():
    log = "    352 bytes stack frame, 36 bytes spill stores, 32 bytes spill loads\nptxas info : Used 168 registers"
    assert static_report.resources(log) == (168, 36, 32)
    with pytest.raises(ValueError, match="no register count"):
        static_report.resources("ptxas info : 0 bytes gmem")


def kernel_stub(*names: str, constants: tuple[str, ...] = ()) -> SimpleNamespace:
    parameters = [SimpleNamespace(name=name, is_constexpr=name in constants) for name in names]
    return SimpleNamespace(__name__="kernel", params=parameters)


def test_pointers_and_marked_integers_are_divisible_by_16_and_none_and_1_are_constants():
    function = kernel_stub("Q", "Mask", "n", "q_m", "q_d", "PRECISION", constants=("PRECISION",))
    given = {"Q": "*bf16", "Mask": None, "n": "i32", "q_m": "i32:16", "q_d": 1, "PRECISION": "tf32x3"}
    types, constants, hints = static_report.signature(function, given)
    assert list(types.values()) == ["*bf16", "constexpr", "i32", "i32", "constexpr", "constexpr"]
    assert constants == {"Mask": None, "q_d": 1, "PRECISION": "tf32x3"}
    assert hints == {(place,): [["tt.divisibility", 16]] for place in (0, 3)}


@pytest.mark.parametrize(
    ("given", "fault"),
    [({"Q": "*bf16"}, r"without an argument: \['n'\]"), ({"Q": "*bf16", "n": 7}, "n=7 is no constexpr of kernel")],
)
def test_arguments_that_are_not_the_kernels_are_refused(given, fault):
    with pytest.raises(ValueError, match=fault):
        static_report.signature(kernel_stub("Q", "n"), given)


# -- the gate ---------------------------------------------------------------------------------------------------------

DECODE = Row(
    Case("decode", "bf16", 64, 16, 64, 3, 2, "lengths", 1, 80),
    registers=168, shared=36864, ctas=4, mma={"HMMA": 64}, instructions=1359, loop=299, loop_mma=32, per_mma=8.34,
)  # fmt: skip
MASKED = replace(DECODE, case=replace(DECODE.case, keys_given_by="mask"), loop=420)
GRADIENT = replace(DECODE, case=replace(DECODE.case, kernel="dkdv", head_dim=128), loop=190)
GOOD = (DECODE, MASKED, GRADIENT)
LIMITS = {DECODE.case: 299}


def test_rows_as_good_as_the_baseline_have_no_fault():
    assert static_gate.faults(GOOD, GOOD, LIMITS) == []


def test_spills_outside_the_loop_are_allowed_to_masked_kernels():
    spilled = replace(MASKED, spill_stores=100, spill_loads=100, local=40)
    assert static_gate.faults([DECODE, spilled, GRADIENT], [DECODE, spilled, GRADIENT], LIMITS) == []


@pytest.mark.parametrize(
    ("good", "change", "fault"),
    [
        (DECODE, {"loop": 300}, "the main loop has 300 instructions, at most 299 are allowed"),
        (DECODE, {"spill_loads": 4}, "4 bytes of spills, none are allowed"),
        (DECODE, {"error": "out of registers"}, "does not compile: out of registers"),
        (DECODE, {"error": "out of registers"}, "has a ceiling of 299 instructions, and was not built"),
        (DECODE, {"mma": {"HGMMA": 8}}, "its MMA are HGMMA, in the baseline HMMA"),
        (DECODE, {"ctas": 3}, "3 CTAs fit on an SM, 4 in the baseline"),
        (DECODE, {"ctas": 0}, "36864 bytes of shared memory and 168 registers do not fit on an SM"),
        (MASKED, {"local": 2, "loop_local": 2}, "2 local-memory instructions in a loop, none are allowed"),
        (MASKED, {"local": 2}, "2 local-memory instructions, 0 in the baseline"),
        (MASKED, {"loop": 442}, "the main loop has 442 instructions with 32 MMA, 420 with 32 in the baseline"),
        (MASKED, {"loop": 0, "loop_mma": 0}, "no loop holds MMA"),
        (GRADIENT, {"loop": 191}, "the main loop has 191 instructions, at most 190 are allowed"),
        (GRADIENT, {"registers": 32, "spill_stores": 5860}, "ptxas fell back to 32 registers; set maxnreg"),
    ],
)
def test_each_fault_is_a_sentence_that_names_its_entry(good, change, fault):
    rows = [replace(row, **change) if row is good else row for row in GOOD]
    found = static_gate.faults(rows, GOOD, LIMITS)
    assert f"{good.case}: " in "".join(found) and fault in "\n".join(found)
    assert all(sentence.startswith(f"{good.case}: ") for sentence in found)


def test_twice_the_work_in_twice_the_instructions_is_no_step_back():
    assert list(static_gate.steps_back(replace(MASKED, loop=840, loop_mma=64), MASKED)) == []


def test_missing_and_new_entries_are_faults():
    assert static_gate.faults([DECODE, MASKED], GOOD, LIMITS) == [
        f"{GRADIENT.case}: is in the baseline, and no longer an entry"
    ]
    assert static_gate.faults(GOOD, GOOD[:2], LIMITS) == [
        f"{GRADIENT.case}: is not in the baseline; measure it again with --json"
    ]


def test_ceilings_are_five_percent_higher_on_the_pinned_triton_and_unknown_on_others():
    assert static_gate.ceilings("3.9.0")[DECODE.case] == 299
    assert static_gate.ceilings("3.7.1")[DECODE.case] == 313
    with pytest.raises(ValueError, match=r"known for Triton 3\.9\.0 and 3\.7\.1; this is 4\.0\.0"):
        static_gate.ceilings("4.0.0")


def test_a_baseline_reads_back_as_it_was_written(tmp_path):
    failed = Row(replace(DECODE.case, arch=100), error="out of registers")
    stored = {"3.7.1": [*GOOD, failed], "3.9.0": [DECODE]}
    static_gate.write_baseline(tmp_path / "base.json", stored)
    assert static_gate.read_baseline(tmp_path / "base.json") == stored


@pytest.mark.parametrize("text", ["{", "[]", '{"3.7.1": [{"kernel": "decode"}]}'])
def test_a_file_that_is_no_baseline_is_refused(tmp_path, text):
    (tmp_path / "base.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is no baseline of this report"):
        static_gate.read_baseline(tmp_path / "base.json")


def test_the_table_has_a_line_per_row_and_says_what_does_not_compile():
    text = static_report.table([DECODE, replace(MASKED, error="out of registers")])
    assert len(text.splitlines()) == 3
    assert text.splitlines()[1].split()[-4:] == ["1359", "299", "32", "8.34"]
    assert text.splitlines()[2].endswith("does not compile: out of registers")


# -- entries ----------------------------------------------------------------------------------------------------------


def test_every_tile_of_the_tables_is_an_entry_in_every_element_type():
    found = {
        ("forward" if case.kernel == "decode" else case.kernel, case.dtype, case.head_dim, tile_of(case), case.arch)
        for case in (entry.case for entry in entries(tuning.ARCHS))
        if case.keys_given_by == "lengths"
    }
    for arch in tuning.ARCHS:
        for kernel, itemsize, width, _, tile in tuning.entries(arch):
            shape = (tile.block_m, tile.block_n, tile.num_stages, tile.num_warps)
            assert {(kernel, dtype, width, shape, arch) for dtype in DTYPES[itemsize]} <= found


def tile_of(case: Case) -> tuple[int, int, int, int]:
    return case.rows, case.keys, case.stages, case.warps


def test_every_ceiling_has_its_entry_and_every_kernel_of_the_tables_its_function():
    cases = {entry.case for entry in entries(tuning.ARCHS)}
    assert static_gate.ceilings("3.9.0").keys() <= cases
    assert tuning.TABLE.keys() <= FUNCTIONS.keys()


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_kernel_is_built_measured_stored_and_checked_against_a_better_past(tmp_path):
    past, now = tmp_path / "past.json", tmp_path / "now.json"
    static_gate.write_baseline(past, {triton.__version__: [replace(DECODE, ctas=99)]})
    command = [sys.executable, str(SCRIPT), "--jobs", "1", "--arch", "80", "--only", f"^{DECODE.case.name}$"]
    # in a process of its own: in this one Triton interprets, and compiles nothing
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [*command, "--json", str(now), "--check", str(past)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    (row,) = static_gate.read_baseline(now)[triton.__version__]
    assert row.error is None and row.mma.keys() == {"HMMA"} and row.loop_mma > 0 and row.ctas > 0
    assert 0 < row.loop < row.instructions and 32 < row.registers <= 255
    assert static_report.table([row]) in result.stdout
    assert f"{row.case}: {row.ctas} CTAs fit on an SM, 99 in the baseline" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--arch", "70"], "70 not known; give some of 80,90,100"),
        (["--only", "("], "'(' is no regular expression"),
        (["--check", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
        ([], "TRITON_INTERPRET is set"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, fault, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit) as refusal:
        kernel_static.main(arguments)
    assert refusal.value.code == 2 and fault in capsys.readouterr().err


def test_a_baseline_of_other_tritons_alone_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    static_gate.write_baseline(tmp_path / "base.json", {"3.0.0": [DECODE]})
    with pytest.raises(SystemExit):
        kernel_static.main(["--check", str(tmp_path / "base.json")])
    assert f"the baseline knows Triton 3.0.0; --json adds {triton.__version__}" in capsys.readouterr().err
