"""Models with a broken file: the model that the file describes, or an error that names it; mm verify finds each."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from checkpoint_mutations import JSON_FILES, mutated_header, mutated_json  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]
from run_checkpoints import WEIGHTS, Cases, Fallen  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

import mm  # noqa: E402


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Cases:
    return Cases(tmp_path_factory.mktemp("models"))


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize("kind", ["weights", "json"])
def test_five_hundred_broken_files_give_the_model_they_describe_or_an_error_that_names_them(kind):
    command = [sys.executable, str(FOLDER / "run_checkpoints.py"), "--kind", kind, "--cases", "500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"500 cases of {kind}: " in done.stdout and " loads" in done.stdout and "Error" in done.stdout


@pytest.mark.parametrize("kind", ["weights", "json"])
def test_a_few_of_them_as_a_taste(cases, kind):
    results = {cases.run(kind, number) for number in range(1000, 1016)}
    assert results <= {"loads", "OSError", "ValueError"} and results & {"OSError", "ValueError"}


def test_a_reader_that_takes_another_model_falls(cases, monkeypatch):
    """The comparison is worth something: a model whose numbers are not those of the file is found."""
    good = (cases.good / "one" / WEIGHTS).read_bytes()
    model = mm.MMForConditionalGeneration.from_pretrained(cases.good / "one", dtype=torch.float32)
    cases._compare(model, WEIGHTS, good)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    with pytest.raises(Fallen, match="other numbers"):
        cases._compare(model, WEIGHTS, good)
    model.generation_config.max_new_tokens = 7
    with pytest.raises(Fallen, match="max_new_tokens"):
        cases._compare(model, "generation_config.json", b'{"max_new_tokens": 8}')


def test_the_folders_that_cases_break_are_good(cases):
    for place in (cases.good / "one", cases.good / "shards"):
        assert not [check for check in mm.verify(place) if check.is_fault]


def test_a_case_is_always_the_same_and_never_the_good_file(cases):
    good = (cases.good / "one" / WEIGHTS).read_bytes()
    assert len({mutated_header(good, number) for number in range(50)}) > 40
    assert good not in {mutated_header(good, number) for number in range(50)}
    for name in set(JSON_FILES) - {"model.safetensors.index.json"}:
        text = (cases.good / "one" / name).read_bytes()
        assert mutated_json(text, 3) == mutated_json(text, 3) != text


def damaged(whole: bytes, kind: str, luck: random.Random) -> bytes:
    """One flipped bit anywhere, or other bytes of equal size in the numbers of a file of weights."""
    place = luck.randrange(len(whole))
    if kind == "bit":
        return whole[:place] + bytes([whole[place] ^ 1 << luck.randrange(8)]) + whole[place + 1 :]
    size = luck.choice((1, 16, 512))
    place = luck.randrange(8 + int.from_bytes(whole[:8], "little"), len(whole) - size)
    other = bytes(byte ^ 255 for byte in whole[place : place + size])
    return whole[:place] + other + whole[place + size :]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bit", "bytes"])
def test_mm_verify_and_hashes_find_a_hundred_of_a_hundred(cases, kind):
    luck, place = random.Random(0), cases.broken / "one"
    whole = (place / WEIGHTS).read_bytes()
    found = 0
    for _ in range(100):
        (place / WEIGHTS).write_bytes(damaged(whole, kind, luck))
        in_the_report = any(check.is_fault and WEIGHTS in check.told for check in mm.verify(place))
        try:
            mm.MMForConditionalGeneration.from_pretrained(place, verify_hashes=True)
        except (OSError, ValueError) as error:
            found += in_the_report and WEIGHTS in str(error)
    (place / WEIGHTS).write_bytes(whole)
    assert found == 100 and not any(check.is_fault for check in mm.verify(place))


@pytest.mark.slow
def test_mm_verify_finds_a_hundred_numbers_of_a_hundred_that_are_none_without_a_manifest(cases, tmp_path):
    luck, place = random.Random(0), cases.broken / "one"
    whole, manifest = (place / WEIGHTS).read_bytes(), (place / "manifest.json").read_bytes()
    (place / "manifest.json").unlink()
    found = 0
    for _ in range(100):
        (place / WEIGHTS).write_bytes(whole)
        tensors = {name: value.clone() for name, value in load_file(place / WEIGHTS).items()}
        name = luck.choice(sorted(tensors))
        flat = tensors[name].view(-1)
        flat[luck.randrange(len(flat))] = float(luck.choice(("nan", "inf", "-inf")))
        save_file(tensors, place / WEIGHTS, {"format": "pt"})
        found += any(check.is_fault and name in check.told for check in mm.verify(place))
    (place / WEIGHTS).write_bytes(whole)
    (place / "manifest.json").write_bytes(manifest)
    assert found == 100
