"""Recipes of programs: their words, what --resume leaves out, and what is refused before anything runs."""

import json
from pathlib import Path

import pytest
import yaml

import mm
from mm.cli import train as command
from mm.training import programs

RECIPES = Path(mm.__file__).parent / "recipes"


@pytest.fixture
def recipe(tmp_path):
    """A recipe of two programs that are only noted, not run."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        'programs:\n  emoji_captions: {output: "{output}/english", epochs: 12}\n'
        '  package: ["{output}/english/model", "{output}/out"]\n'
    )
    return path


@pytest.fixture
def ran(monkeypatch):
    """The programs that ran, with whether they were resumed; `ran.codes` holds what they end with."""

    class Ran(list):
        codes: dict[str, int] = {}

    found = Ran()

    def run(self, resume):
        found.append((self.name, resume))
        return found.codes.get(self.name, 0)

    monkeypatch.setattr(programs.Program, "run", run)
    return found


def test_options_are_words_and_output_is_filled_in(recipe, tmp_path, ran):
    said = []
    words = [str(recipe), "--output", str(tmp_path / "o"), "programs.emoji_captions.views=2", "--dry-run"]
    assert command.train(words, said.append) == 0 and not ran
    assert said == [
        f"python -m mm.recipes.emoji_captions --output {tmp_path}/o/english --epochs 12 --views 2",
        f"python -m mm.recipes.package {tmp_path}/o/english/model {tmp_path}/o/out",
    ]
    assert not (tmp_path / "o").exists()


def test_a_resumed_run_leaves_out_what_is_done_and_runs_all_after_what_changed(recipe, tmp_path, ran):
    words, say = [str(recipe), "--output", str(tmp_path / "o")], [].append
    ran.codes = {"package": 143}
    assert command.train(words, say) == 143 and [name for name, _ in ran] == ["emoji_captions", "package"]
    with pytest.raises(ValueError, match="holds a run already: --resume"):
        command.train(words, say)
    ran.clear()
    ran.codes = {}
    assert command.train([*words, "--resume"], say) == 0 and ran == [("package", True)]
    ran.clear()
    assert command.train([*words, "--resume"], say) == 0 and not ran
    assert command.train([*words, "--resume", "programs.emoji_captions.epochs=13"], say) == 0
    assert [name for name, _ in ran] == ["emoji_captions", "package"]


@pytest.mark.parametrize("held", ["{", "[]", "\x00"])
def test_a_broken_list_of_what_is_done_is_said(recipe, tmp_path, ran, held):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / programs.DONE).write_text(held)
    with pytest.raises(ValueError, match=r"programs\.json .*all programs run again"):
        command.train([str(recipe), "--output", str(tmp_path / "o"), "--resume"], print)
    assert not ran


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("programs: {}", "accepted are names with options"),
        ("programs: {os: {}}", "there is no program 'os'"),
        ("programs: {drawing: {}}", "there is no program 'drawing'"),  # a module without a command line
        ("programs: {tiny: 3}", "accepted are options"),
        ("programs: {tiny: {epochs: [1]}}", r"programs\.tiny\.epochs=\[1\]"),
        ("programs: {tiny: {resume: true}}", "give --resume to mm train"),
        ("programs: {tiny: {}}\nlearning_rate: 1e-3", "learning_rate: a recipe of programs has only"),
        ("programs: {tiny: {}}\ntask: caption", "task: a recipe of programs has only"),
        ("programs: {tiny: {epoks: 3}}", "programs.tiny has no --epoks.*--epochs.*accepted are"),
        ('programs: {package: ["a", "b", "--beams=2"]}', "programs.package has no --beams"),
        ("programs: {tiny: {output: a}, tiny: {output: b}}", "tiny stands twice"),
    ],
)
def test_what_is_no_recipe_is_refused_before_anything_runs(tmp_path, ran, held, told):
    path = tmp_path / "mine.yaml"
    path.write_text(f"output: {tmp_path / 'o'}\n{held}\n")
    with pytest.raises(ValueError, match=told):
        command.train([str(path)], print)
    assert not ran and not (tmp_path / "o").exists()


def test_a_folder_that_stands_for_itself_is_refused(tmp_path, ran):
    path = tmp_path / "mine.yaml"
    path.write_text('output: "{output}/x"\nprograms: {tiny: {output: "{output}/b"}}\n')
    with pytest.raises(ValueError, match=r"'\{output\}/x' holds \{output\}"):
        command.train([str(path), "--dry-run"], print)
    assert not ran


def test_a_program_runs_in_a_process_of_its_own_and_its_fault_is_the_commands(tmp_path, capfd):
    path = tmp_path / "mine.yaml"
    path.write_text('programs:\n  package: ["{output}/nothing", "{output}/out"]\n')
    assert command.train([str(path), "--output", str(tmp_path / "o")], print) == 1
    told = capfd.readouterr()
    assert "nothing" in told.err and "package ended with 1; the same command with --resume" in told.out
    assert json.loads((tmp_path / "o" / programs.DONE).read_text()) == {}
    with pytest.raises(RuntimeError, match="ended with 1"):
        mm.train(str(path), output=str(tmp_path / "o"), resume=True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_ones_give_their_programs_only_options_that_they_have(path, tmp_path, capsys):
    held = yaml.safe_load(path.read_text())
    for one in programs.plan({"output_dir": str(tmp_path), programs.PROGRAMS: held["programs"]}).programs:
        module = __import__(f"mm.recipes.{one.name}", fromlist=["main"])
        with pytest.raises(SystemExit) as ended:
            module.main([*one.words, "--help"])  # what comes before is read first
        assert ended.value.code == 0, capsys.readouterr().err
