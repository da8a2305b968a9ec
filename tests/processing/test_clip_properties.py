"""Whatever the films and sounds: a batch holds what each gives alone, in any order, and masks what it adds."""

import io

import numpy as np
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from mm import MMImageProcessorPil, MMProcessor
from mm.processing.sounds.load import load_sound
from mm.processing.videos.load import load_video

IMAGES = MMImageProcessorPil(size={"height": 6, "width": 5})
PROCESSORS = {
    "window": MMProcessor(IMAGES, feature_extractor=WhisperFeatureExtractor(feature_size=4, chunk_length=1)),
    "frames": MMProcessor(
        IMAGES, feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=True), num_frames=3
    ),
}  # fmt: skip
LENGTHS = st.lists(st.lists(st.integers(1, 6), max_size=3), min_size=1, max_size=3).filter(any)
SEEDS = st.integers(0, 2**32)


def film(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 5, 7, 3), dtype=np.uint8)


def sound(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 4000 * length).astype(np.float32)


def told(batch, sample: int, name: str, mask: str) -> torch.Tensor:
    """What a batch says of a sample: its values where they are not masked, one after the other."""
    values = batch[name][sample]
    if mask not in batch:
        return values.flatten()
    present = batch[mask][sample]
    return values[present].flatten()


@settings(max_examples=40, derandomize=True, deadline=None)
@given(LENGTHS, SEEDS, st.sampled_from(sorted(PROCESSORS)), st.booleans())
def test_a_batch_of_clips_is_each_of_them_alone(lengths, seed, kind, turned):
    processor = PROCESSORS[kind]
    for name, make, keys in (
        ("videos", film, ("pixel_values_videos", "video_attention_mask")),
        ("audio", sound, ("input_features", "input_features_mask")),
    ):
        nested = [[make(length, seed + place) for place, length in enumerate(row)] for row in lengths]
        options = {"return_tensors": "pt", "sampling_rate": 16000}
        batch = processor(**{name: nested[::-1] if turned else nested}, **options)
        for row, entries in enumerate(nested[::-1] if turned else nested):
            if not entries:
                assert not batch[keys[1]][row].any() and not batch[keys[0]][row].any()
                continue
            alone = processor(**{name: [entries]}, **options)
            torch.testing.assert_close(told(batch, row, *keys), told(alone, 0, *keys), rtol=0, atol=1e-5)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(1, 6), SEEDS, st.integers(1, 8))
def test_a_film_is_the_same_as_array_tensor_list_and_lossless_file(length, seed, num_frames):
    array = film(length, seed)
    pictures = [Image.fromarray(frame) for frame in array]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PNG", save_all=True, append_images=pictures[1:], duration=100)
    expected = load_video(pictures, num_frames=num_frames)
    sources = [array, torch.from_numpy(array), list(array), torch.from_numpy(array).permute(0, 3, 1, 2), array / 255]
    sources += [buffer.getvalue(), io.BytesIO(buffer.getvalue())]
    for source in sources:
        found = load_video(source, num_frames=num_frames)
        assert [frame.tobytes() for frame in found] == [frame.tobytes() for frame in expected]


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(1, 3), SEEDS, st.sampled_from(["FLAC", "WAV", "CAF", "AIFF"]))
def test_a_sound_is_the_same_as_array_tensor_and_lossless_file(length, seed, kind):
    whole = (sound(length, seed) * 2**15).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, whole, 8000, format=kind, subtype="PCM_16")
    expected = (whole / 2**15).astype(np.float32)
    arrays = [whole, torch.from_numpy(whole), whole[None], expected, expected.astype(np.float64)]
    for source in [buffer.getvalue(), *({"array": array, "sampling_rate": 8000} for array in arrays)]:
        assert np.array_equal(load_sound(source, 8000), expected)
