"""What a user meets before any model runs: what `mm --help` and `import mm` need and say.

How long they take is measured by .ci/speed.py.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

import mm_console

MM = str(Path(sysconfig.get_path("scripts")) / "mm")


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run_python(code: str) -> str:
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_warning_is_one_line_without_its_place_in_the_code():
    code = "import warnings, mm_console\nwith mm_console._warnings_in_a_line():\n    warnings.warn('half \\x1b of it')"
    done = run(sys.executable, "-c", f"{code}\nwarnings.warn('after')")
    first, *rest = done.stderr.splitlines()
    assert first == "mm: warning: half \\x1b of it" and "UserWarning: after" in rest[0]


def test_the_console_imports_neither_mm_nor_torch():
    code = "import sys, mm_console; print(sorted({'mm', 'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


def test_a_shell_completes_commands_and_options():
    def completed(line: str) -> list[str]:
        asked = {"_MM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        found = subprocess.run([MM], env={**os.environ, **asked}, capture_output=True, text=True, timeout=300)
        return found.stdout.split()

    assert completed("mm cap") == ["caption"]
    assert "--num-beams" in completed("mm caption --num")
    assert "_MM_COMPLETE=complete_bash" in run(MM, "--show-completion", "bash").stdout


def test_every_command_tells_its_exit_codes_and_takes_the_same_options():
    command = typer.main.get_command(mm_console.app)
    assert command.epilog == mm_console.EXIT_CODES
    for name, one in command.commands.items():
        assert re.match("Exit codes: 0.* 2 for", one.epilog or ""), name
        assert "130" in one.epilog or name in ("serve", "demo"), name
    assert {*mm_console.OTHER_CODES} <= {*command.commands}
    told = run(MM, "embed", "--help").stdout
    assert "Exit codes: 0; 2 for bad input" in " ".join(told.split())
    options = {name: {word for one in command.commands[name].params for word in one.opts} for name in command.commands}
    for name in ("caption", "ask", "classify", "embed", "search", "match", "transcribe", "explain"):
        assert {"--model", "--device", "--dtype", "--json", "--output", "-o", "--resume"} <= options[name], name
        assert {"--batch-size", "--workers", "--recursive", "-r"} <= options[name], name  # go through your files
    for name in ("caption", "ask", "transcribe", "explain", "evaluate"):  # write texts
        assert "--num-beams" in options[name], name
    for name in ("draw", "evaluate", "audit"):
        assert {"--device", "--dtype", "--json", "--output", "-o", "--resume", "--batch-size"} <= options[name], name
    for name, held in options.items():
        assert ("--recursive" in held) == ("-r" in held), name


IMPORT_MM = """
import json, sys
import mm
modules = sorted(sys.modules)  # before MMTrainer is asked for, which imports Transformers' Trainer
missing = [name for name in mm.__all__ if not hasattr(mm, name)]
print(json.dumps({"modules": modules, "names": mm.__all__, "missing": missing}))
"""


@pytest.fixture(scope="module")
def imported() -> subprocess.CompletedProcess:
    """A fresh process that imported mm and told what came of it."""
    return run(sys.executable, "-c", IMPORT_MM)


def test_importing_mm_says_nothing(imported):
    assert (imported.returncode, imported.stderr, imported.stdout.count("\n")) == (0, "", 1)


def test_importing_mm_imports_no_package_of_an_extra(imported):
    extras = {"torchvision", "sacrebleu", "resvg_py", "peft"}  # torch and Transformers import triton and accelerate
    assert extras.isdisjoint(json.loads(imported.stdout)["modules"])


def test_every_public_name_is_there_and_listed_in_order(imported):
    told = json.loads(imported.stdout)
    assert told["missing"] == []
    assert told["names"] == sorted(told["names"])


def test_mm_imports_and_answers_without_optional_packages():
    code = """
import sys
sys.modules.update(dict.fromkeys(("torchvision", "triton", "accelerate", "peft")))  # None: an import of them fails
import mm
import mm.cli.caption, mm.cli.env
print(len(mm.cli.env.environment()))
"""
    assert int(run_python(code)) >= 10


def test_version_is_that_of_the_distribution():
    assert run(MM, "--version").stdout.strip() == f"mm {version('mm-transformers')}"


@pytest.mark.slow
def test_env_names_the_versions_and_the_hardware():
    done = run(MM, "env")
    assert done.returncode == 0, done.stderr
    shown = dict(line.split("\t") for line in done.stdout.splitlines())
    assert {"mm", "python", "torch", "transformers", "pillow", "triton", "cpu", "gpu", "attention"} <= set(shown)
    assert shown["attention"] in {"sdpa", "mm_triton"}
    assert json.loads(run(MM, "env", "--json").stdout) == shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such/picture.png"], "no/such/picture.png"),
        ([], "PATH"),
        (["--num-beams", "0", "."], "num-beams"),
        (["--batch-size", "many", "."], "batch-size"),
        (["--colour", "."], "--colour"),
    ],
)
def test_a_wrong_command_line_is_answered_in_words_with_exit_code_2(arguments, words):
    done = run(MM, "caption", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_connection_that_fails_is_one_line_and_another_error_keeps_its_traceback(capsys):
    from huggingface_hub.utils import get_session
    from typer import Exit

    import mm_console

    failed = sys.modules[type(get_session()).__module__.partition(".")[0]].ConnectError("no such host")
    with pytest.raises(Exit), mm_console._errors_in_words():
        raise failed
    assert capsys.readouterr().err == "mm: the Hub cannot be reached: no such host\n"
    with pytest.raises(ZeroDivisionError), mm_console._errors_in_words():
        raise ZeroDivisionError


def test_no_bracket_of_a_help_text_is_taken_for_markup():
    """Rich leaves out what it takes for a style: '.[ray]' was shown as '.'."""
    commands = typer.main.get_command(mm_console.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    texts = [(name, text) for name, one in commands.items() for text in (one.help, *(p.help for p in one.params))]
    assert len(texts) > 100
    assert [told for told in texts if re.search(r"(?<!\\)\[[a-z]", told[1] or "")] == []
