"""The static report of the kernels and its gate: figures, faults, entries, and one kernel from end to end."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import triton

from mm.kernels import tuning
from mm.tests.kernels.static import kernel_static, static_gate, static_report
from mm.tests.kernels.static.kernel_entries import DTYPES, FUNCTIONS, entries
from mm.tests.kernels.static.static_report import Case, Row

SCRIPT = Path(__file__).resolve().with_name("kernel_static.py")

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
HIDDEN = replace(MASKED, case=replace(MASKED.case, arch=100), mma={"UTCHMMA": 8}, per_mma=None)
GOOD = (DECODE, MASKED, GRADIENT, HIDDEN)
LIMITS = {DECODE.case: 299}


def test_rows_as_good_as_the_baseline_have_no_fault():
    assert static_gate.faults(GOOD, GOOD, LIMITS) == []


def test_spills_outside_the_loop_are_allowed_to_masked_kernels():
    spilled = replace(MASKED, spill_stores=100, spill_loads=100, local=40)
    assert static_gate.faults([DECODE, spilled], [DECODE, spilled], LIMITS) == []


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
        (MASKED, {"local": 2, "loop_local": 2}, "2 local-memory instructions in the main loop, none are allowed"),
        (MASKED, {"shared": 102400}, "102400 bytes of shared memory, at most 101376 are allowed"),
        (MASKED, {"local": 2}, "2 local-memory instructions, 0 in the baseline"),
        (MASKED, {"per_mma": 8.9}, "8.90 other instructions per MMA, 8.34 in the baseline"),
        (HIDDEN, {"loop": 442}, "the main loop has 442 instructions with 32 MMA, 420 with 32 in the baseline"),
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


def test_no_local_instruction_is_allowed_to_any_main_loop():
    for change in ({"dtype": "fp32", "head_dim": 256}, {"kernel": "dkdv"}, {"keys_given_by": "ranges"}):
        row = replace(MASKED, case=replace(MASKED.case, **change), local=1, loop_local=1)
        (fault,) = static_gate.row_faults(row)
        assert "1 local-memory instructions in the main loop, none are allowed" in fault


def test_a_tile_over_a_shared_prefix_is_held_to_the_same_tile_with_lengths():
    """By the loop, and without a spill; not by a baseline."""
    prefix = replace(DECODE, case=replace(DECODE.case, keys_given_by="prefix"), loop=328)
    assert static_gate.faults([DECODE, prefix], [DECODE], LIMITS) == []
    twice = replace(prefix, loop=500, apart=172)  # once more for lanes that are apart, which is not run
    assert static_gate.faults([DECODE, twice], [DECODE], LIMITS) == []
    for change, fault in (
        ({"loop": 329}, "the main loop has 329 instructions, 0 of them for lanes that are apart; with lengths 299"),
        ({"spill_loads": 4}, "4 bytes of spills, none are allowed"),
    ):
        (found,) = static_gate.faults([DECODE, replace(prefix, **change)], [DECODE], LIMITS)
        assert found.startswith(f"{prefix.case}: ") and fault in found
    (found,) = static_gate.prefix_faults([prefix])
    assert "there is no such tile with lengths" in found
    cases = {entry.case for entry in entries(tuning.ARCHS)}
    built = {case for case in cases if case.keys_given_by == "prefix"}
    assert {case.arch for case in built} == set(tuning.ARCHS)
    assert {replace(case, keys_given_by="lengths") for case in built} <= cases


def test_a_kernel_over_rows_alone_has_no_mma_and_no_spills():
    combine = replace(DECODE, case=replace(DECODE.case, kernel="combine", keys_given_by="no keys"), mma={}, loop=0)
    assert list(static_gate.row_faults(combine)) == []
    assert len(list(static_gate.row_faults(replace(combine, local=1)))) == 1


@pytest.mark.parametrize(
    ("kernel", "rows", "figure"),
    [("forward", 256, 4.15), ("forward", 128, 4.15), ("forward", 64, 8.34), ("decode", 16, 8.34), ("dq", 128, None)],
)
def test_a_tile_is_compared_with_the_anchor_of_as_many_rows_or_fewer(kernel, rows, figure):
    case = replace(DECODE.case, kernel=kernel, rows=rows)
    assert static_gate.anchor(case) == figure
    assert static_gate.anchor(replace(case, keys_given_by="mask")) is None
    assert static_gate.anchor(replace(case, dtype="fp32")) is None


def test_other_tiles_are_held_to_their_anchor_and_the_comparison_is_printed():
    other = replace(DECODE, case=replace(DECODE.case, kernel="forward", rows=64), per_mma=9.0)
    assert static_gate.against_anchors([other]) == [f"{other.case}: 9.00 per MMA, 1.08 of the anchor's 8.34"]
    assert list(static_gate.anchor_faults([other], LIMITS, 1.05)) == []
    (fault,) = static_gate.anchor_faults([other], LIMITS, 1.0)
    assert fault == f"{other.case}: 9.00 other instructions per MMA, at most 8.76 are allowed"
    assert list(static_gate.anchor_faults([replace(DECODE, per_mma=9.0)], LIMITS, 1.0)) == [], "it has a ceiling"


def test_twice_the_work_in_twice_the_instructions_is_no_step_back():
    assert list(static_gate.steps_back(replace(HIDDEN, loop=840, loop_mma=64), HIDDEN)) == []


def test_missing_and_new_entries_are_faults():
    assert static_gate.faults([DECODE, MASKED], [DECODE, MASKED, GRADIENT], LIMITS) == [
        f"{GRADIENT.case}: is in the baseline, but is not an entry now"
    ]
    assert static_gate.faults([DECODE, MASKED, GRADIENT], [DECODE, MASKED], LIMITS) == [
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
    assert text.splitlines()[1].split()[-5:] == ["1359", "299", "32", "0", "8.34"]
    assert text.splitlines()[2].endswith("does not compile: out of registers")


# -- entries ----------------------------------------------------------------------------------------------------------


def test_every_tile_of_the_tables_is_an_entry_in_every_element_type():
    found = {
        (case.kernel, case.dtype, case.head_dim, tile_of(case), case.arch)
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
    assert FUNCTIONS.keys() == tuning.TABLE.keys() | tuning.ROWS_ALONE.keys() | {"decode"}


def test_a_decode_tile_is_built_with_split_keys_and_without():
    cases = {entry.case for entry in entries(tuning.ARCHS)}
    split = {replace(case, keys_given_by="lengths", group=1) for case in cases if case.kernel == "decode"}
    unsplit = {replace(case, kernel="forward") for case in split if case.head_dim in tuning.WIDTHS}
    assert unsplit and unsplit <= cases


def test_kernels_over_rows_alone_are_entries_in_every_width_and_element_type():
    cases = {entry.case for entry in entries([80])}
    for kernel in tuning.ROWS_ALONE:
        mine = {(case.head_dim, case.dtype) for case in cases if case.kernel == kernel}
        assert mine == {(width, dtype) for width in tuning.WIDTHS for dtype in ("bf16", "fp16", "fp32")}


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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
