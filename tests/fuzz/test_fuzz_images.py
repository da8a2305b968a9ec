"""20,000 broken pictures in a process of their own: MediaDecodeError or an image, in time and in memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from mutations import image_seeds, mutated  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

from mm.processing.images.load import FORMATS, MediaDecodeError, load_image  # noqa: E402


def run(cases: int, seconds: float, kind: str = "image") -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "run_images.py"), "--cases", str(cases), "--kind", kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.linux
def test_twenty_thousand_broken_pictures_give_an_image_or_a_typed_error():
    assert run(20_000, seconds=600).startswith("20000 cases, ")


@pytest.mark.filterwarnings("ignore")  # Pillow on the damage it finds
def test_a_few_hundred_of_them_as_a_taste():
    seeds, refused = image_seeds(), 0
    for number in range(300):
        try:
            load_image(mutated(seeds, number))
        except MediaDecodeError:
            refused += 1
    assert 50 < refused < 300


def test_the_seeds_are_good_and_of_every_format():
    from io import BytesIO

    from PIL import Image

    assert {Image.open(BytesIO(seed)).format for seed in image_seeds()} == set(FORMATS)
    for seed in image_seeds():
        assert load_image(seed).mode == "RGB"


def test_a_case_is_always_the_same():
    seeds = image_seeds()
    assert [mutated(seeds, number) for number in (5, 9, 5)][::2] == [mutated(seeds, 5)] * 2
