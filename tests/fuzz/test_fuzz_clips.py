"""2,000 broken sounds and 1,000 broken films, each kind in a process of its own: MediaDecodeError or what it is."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from clip_seeds import FILMS, SOUNDS, TRACKS, film_seeds, sound_seeds  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]
from mutations import mutated  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]
from test_fuzz_images import run  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

from mm.processing.images.load import MediaDecodeError  # noqa: E402
from mm.processing.sounds.load import load_sound  # noqa: E402
from mm.processing.videos.load import load_video  # noqa: E402


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize(("kind", "cases"), [("audio", 2000), ("video", 1000)])
def test_broken_clips_give_what_they_are_or_a_typed_error(kind, cases):
    assert run(cases, seconds=300, kind=kind).startswith(f"{cases} cases, ")


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_hundred_of_them_as_a_taste(kind):
    seeds, refused = sound_seeds() if kind == "audio" else film_seeds(), 0
    for number in range(100):
        data = mutated(seeds, number)
        try:
            load_sound(data, 16000) if kind == "audio" else load_video(data, num_frames=2)
        except MediaDecodeError:
            refused += 1
    assert 10 < refused < 100


def test_the_seeds_are_good():
    sounds, films = sound_seeds(), film_seeds()
    assert len(sounds) == len(SOUNDS) + len(TRACKS) and len(films) == len(FILMS) + 3
    assert all(4000 < len(load_sound(seed, 16000)) < 9000 for seed in sounds)
    assert all(len(load_video(seed, num_frames=4)) == 4 for seed in films)
