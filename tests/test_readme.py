"""The README is correct, and quick-start.md with it: their Python runs as written, captions are those of the command,
and commands, links and numbers are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START, MEASURED = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("quick-start.md", "measured.md"))
BLOCKS = [*dict.fromkeys(re.findall(r"```python\n(.*?)```", README + START, re.DOTALL))]


@pytest.fixture()
def folder(tmp_path):
    """A working directory that looks like the checkout; what the code writes stays here."""
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_python_of_the_readme_runs_as_written(folder, number):
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=folder, capture_output=True, text=True, timeout=480
    )
    assert run.returncode == 0, run.stderr[-3000:]
    if "print(captions)" in BLOCKS[number]:
        assert "rocket" in run.stdout
    if "trainer.save_model" in BLOCKS[number]:
        assert (folder / "runs" / "mine" / "processor_config.json").exists()


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 120 and len(re.findall(r"^!\[", README, re.M)) == 1
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", README)
    for path, anchor in links:
        text = (ROOT / path).read_bytes()
        heads = re.findall(r"^#+ (.+)$", text.decode("utf-8"), re.M) if anchor else []
        assert not anchor or anchor in {head.lower().replace(" ", "-") for head in heads}, anchor
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= {path for path, _ in links}


@pytest.mark.slow
def test_the_captions_of_the_readme_are_those_of_the_command(folder):
    command = Path(sys.executable).with_name("mm")
    pictures = sorted(str(path) for path in (folder / "examples" / "pictures").glob("*.png"))
    run = subprocess.run([command, "caption", *pictures], cwd=folder, capture_output=True, text=True, check=True)
    shown = [re.split(r"\s{1,}", line, maxsplit=1) for line in README.splitlines() if re.match(r"\S+\.png +\S", line)]
    assert [line.split("\t") for line in run.stdout.splitlines()] == shown


def test_every_make_target_that_the_documents_name_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    documents = README + START + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]+)", documents, re.MULTILINE))
    assert {"caption", "test"} <= named
    targets = set(" ".join(re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE)).split())
    assert not named - targets


def test_the_numbers_of_the_packaged_model_are_those_of_the_logs():
    """In docs/measured.md, in short in the README, and on its card: exact match, interval, chrF, baseline."""
    log, baselines = (
        (ROOT / "benchmarks" / "logs" / f"emoji_{name}.txt").read_text(encoding="utf-8")
        for name in ("captions", "baselines")
    )
    card = (ROOT / "checkpoints" / "mm-tiny" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^seen names +1301 +0(\.\d+) \[0(\.\d+), 0(\.\d+)\] +([\d.]+) ", log, re.MULTILINE)
    ahead = re.search(r"^  minus HOG, soft bins, \+ crop +\+0(\.\d+) \[\+0(\.\d+), \+0(\.\d+)\]", log, re.MULTILINE)
    assert found is not None and ahead is not None
    exact, low, high, chrf = found.groups()
    assert f"**{exact}** [{low}, {high}] of 1301" in README
    assert f"| **{exact}** [{low}, {high}] |" in MEASURED and f"{chrf}, HOG + crop" in MEASURED
    assert f"| {exact} [{low}, {high}] | {chrf} |" in card
    assert "minus the stronger baseline on Twemoji: +{} [+{}, +{}]".format(*ahead.groups()) in card
    for name in ("HOG + crop", "HOG, soft bins, + crop"):
        words = re.search(
            rf"^{re.escape(name)} +0(\.\d+) \[0(\.\d+), 0(\.\d+)\] .* ([\d.]+)$", baselines, re.MULTILINE
        )
        assert words is not None
        exact, low, high, chrf = words.groups()
        assert f"| {exact} [{low}, {high}] |" in MEASURED and f"| {exact} [{low}, {high}] | {chrf} |" in card
