"""docs/presets.md says what docs/presets.py counts, and the counts are what one gets by hand."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "presets.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("presets_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def documented() -> list[str]:
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    return page.split("<!-- docs/presets.py -->\n")[1].split("<!-- end -->")[0].splitlines()


def test_the_page_has_a_row_for_every_preset(benchmark, documented):
    names = [line.split(" | ")[0].removeprefix("| ") for line in documented]
    assert names[0] == "preset" and names[2:] == list(benchmark.PRESETS)


@pytest.mark.slow
def test_the_row_of_the_smallest_preset_is_what_the_script_counts(benchmark, documented):
    assert documented[2] == "| " + " | ".join(benchmark.row("mm-tiny")) + " |"


@pytest.mark.slow
def test_the_page_holds_what_the_script_prints(benchmark, documented):
    assert documented == list(benchmark.lines())


@pytest.mark.slow
def test_counts_are_those_by_hand(benchmark, documented):
    """mm-small: a [self, cross, mlp] layer has 8 D^2 weights in attention and 8 D^2 in the MLP; D = 384, 6 layers."""
    width, layers, vocabulary, tokens = 384, 6, 30522, 197
    model = benchmark.build("mm-small")
    per_image, per_token, image_bytes, token_bytes = benchmark.generation(model)
    assert image_bytes == 2 * layers * tokens * width * 2
    assert token_bytes == 2 * layers * width * 2
    # of the 16 D^2 the cross-attention's keys and values are there already; scores and sums read all tokens
    products = layers * (14 * width**2 + 2 * width * (tokens + 32)) + width**2 + width * vocabulary
    assert per_token == 2 * products
    patches, vision_layers = 196, 12
    tower = patches * 3 * 16**2 * width + vision_layers * (tokens * 12 * width**2 + 2 * tokens**2 * width)
    projected = tokens * width**2 * (1 + 2 * layers)
    assert per_image == 2 * (tower + projected)
    assert benchmark.numbers(model) == sum(parameter.numel() for parameter in model.parameters())
