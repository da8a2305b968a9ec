"""Every Python block of every page runs as written: block after block of a page in one process, imports included."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mm import MMConfig, MMForConditionalGeneration, MMProcessor

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("checkpoints/*/*.md")])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
PYTHON = {name: re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) for name, text in TEXTS.items()}
# Pages whose blocks another test runs, to look at what they give too.
ELSEWHERE = {
    "README.md": "test_readme.py",
    "docs/quick-start.md": "test_readme.py",
    "docs/fine-tuning.md": "docs/test_fine_tuning.py",
    "docs/processing.md": "docs/test_processing.py",
    "docs/tasks.md": "docs/test_tasks.py",
    "docs/texts-videos-sounds.md": "docs/test_texts_videos_sounds.py",
    "docs/objectives.md": "docs/test_objectives.py",
}
DEPLOYMENT, PUBLISHING = "docs/deployment.md", "docs/publishing.md"
TRAINING, LONG = ("docs/training.md", "docs/reports.md", "docs/checkpoints.md"), pytest.mark.slow
HERE = [name for name, blocks in PYTHON.items() if blocks and name not in {*ELSEWHERE, DEPLOYMENT, PUBLISHING}]


def test_every_page_with_blocks_has_a_test_that_runs_them():
    assert {"checkpoints/mm-tiny/README.md", "docs/presets.md"} <= set(HERE)
    for page, test in ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert PYTHON[page] and Path(page).name in text and ("exec(" in text or "subprocess" in text)


def test_no_block_is_hidden_from_these_tests():
    """Fences that are indented, or that name the language otherwise."""
    for page, text in TEXTS.items():
        fences = re.findall(r"^([ \t]*)(`{3,}|~{3,})([^`\n]*)$", text, re.M)
        assert {(indent, marks) for indent, marks, _ in fences} <= {("", "```")}, page
        assert {language for *_, language in fences} <= {"", "python", "bash", "text", "yaml"}, page


@pytest.mark.parametrize("page", [pytest.param(page, marks=LONG if page in TRAINING else ()) for page in HERE])
def test_the_blocks_of_a_page_run_in_their_order(page, tmp_path, monkeypatch):
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for number, block in enumerate(PYTHON[page]):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with runs/mine, a small captioner, and two photos."""
    stack = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    processor = MMProcessor.from_pretrained(ROOT / "checkpoints" / "mm-tiny")
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {"vocab_size": len(processor.tokenizer), **ids, **stack}
    torch.manual_seed(0)
    model = MMForConditionalGeneration(
        MMConfig(vision_config={"image_size": 128, "patch_size": 64, **stack}, text_config=text)
    )
    for part in (model, processor):
        part.save_pretrained(tmp_path / "runs" / "mine")
    for name in ("photo.jpg", "other.jpg"):
        Image.new("RGB", (60, 40), "red").save(tmp_path / name)
    return tmp_path


def run_page(page: str, folder: Path, hub, paths: str = "") -> None:
    """The blocks of the shell, then those of Python. Nothing is installed, nobody logs in."""
    page = TEXTS[page].replace("you/mine", "tester/mine")
    shell = "".join(re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M))
    shell = re.sub(r"^(hf auth|pip install) .*\n", "", shell, flags=re.M)
    python = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", **hub.environment(folder / "home"), "PATH": path}
    for command, places in zip([["bash", "-euc", shell], [sys.executable, "-c", python]], ("", paths), strict=True):
        given = {**environment, "PYTHONPATH": places}
        done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_blocks_of_deployment_run_in_their_order(mine, hub, torchao):
    assert "mm export out" in TEXTS[DEPLOYMENT] and "TorchAoConfig" in TEXTS[DEPLOYMENT]
    run_page(DEPLOYMENT, mine, hub, str(torchao))


@pytest.mark.slow
def test_the_blocks_of_publishing_run_in_their_order(mine, hub):
    run_page(PUBLISHING, mine, hub)
    assert hub.repositories["tester/mine"].tags.keys() == {"v1"} and hub.repositories["tester/mine"].private
    assert {"model.safetensors", "mm_remote_code.py"} < hub.files("tester/mine").keys()
    assert hub.files("tester/mine", "refs/pr/1")["README.md"].startswith(b"# Mine")


@pytest.mark.parametrize(
    "folder", ["docs", "processing", "exporting", "modeling_mm", "cli", "conversion_scripts", "."]
)
def test_what_is_to_be_installed_can_be_installed(folder):
    """The package is on no index: extras are installed from the checkout."""
    for file in [*(ROOT / folder).glob("*.md"), *(ROOT / folder).glob("*.py")]:
        if file.name != "CHANGELOG.md":
            assert "pip install mm" not in file.read_text(encoding="utf-8").replace("'", "").replace('"', ""), file


@pytest.mark.parametrize("page", [name for name, blocks in PYTHON.items() if blocks])
def test_the_blocks_of_a_page_import_what_the_front_door_gives(page):
    """`from mm import ...`, and of mm.losses and mm.metrics: where a file stands is nobody's business outside."""
    named = re.findall(r"^\s*(?:from|import) (mm(?:\.\w+)*)", "\n".join(PYTHON[page]), re.M)
    assert {*named} <= {"mm", "mm.losses", "mm.metrics"}
    assert not re.search(r"\bmm\.(modeling_mm|kernels|processing|configuration|exporting)\b", "".join(PYTHON[page]))
