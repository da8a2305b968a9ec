"""Frame jitter of videos, hidden parts of sounds: within bounds, by (seed, epoch, sample), in training alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import ASTFeatureExtractor, AutoProcessor, BertTokenizer, WhisperFeatureExtractor
from transformers import Wav2Vec2FeatureExtractor as WaveExtractor

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor
from mm.processing.sounds.load import clips_of, sound_tensors, window_of
from mm.processing.sounds.masks import SoundAugmentation
from mm.processing.videos.load import load_video
from mm.processing.videos.sampling import frame_shifts, sample_times, spread

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat".split()
SEEDS = st.integers(0, 2**32)
HIDING = {"time_masks": 2, "time_width": 0.2, "frequency_masks": 1, "frequency_width": 0.3}
FILM = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 3), 5, np.uint8)


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------------ frame jitter


@pytest.mark.parametrize(("name", "value"), [("frame_jitter", 5), ("num_frames", 0), ("frame_sampling", "all")])
def test_settings_that_are_set_later_are_checked_when_they_are_read(name, value):
    processor = MMProcessor(MMImageProcessorPil(size={"height": 8, "width": 8}), BertTokenizer(vocab={}))
    setattr(processor, name, value)
    with pytest.raises(ValueError, match=f"{name}={value!r}; accepted are"):
        MMDataCollator(processor)([{"video": FILM}])


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 1), SEEDS)
def test_jittered_frames_stay_in_their_parts_and_in_order(count, wanted, jitter, seed):
    found = spread(count, wanted, frame_shifts(wanted, jitter, rng(seed)))
    plain = spread(count, wanted)
    assert len(found) == len(plain) == min(count, wanted) and found == sorted(set(found))
    if count <= wanted:
        assert found == list(range(count))
    for part, (number, middle) in enumerate(zip(found, plain, strict=True)):
        assert 0 <= number < count
        if count > wanted:  # the frame shown at some time within the part
            assert int(part * count / wanted) <= number < (part + 1) * count / wanted
            assert abs(number - middle) <= jitter / 2 * count / wanted + 1


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.floats(0.1, 1e4), st.integers(1, 20), st.floats(0, 1), st.sampled_from(["uniform", 0.5, 3.0]), SEEDS)
def test_jittered_times_stay_in_their_intervals_and_in_order(seconds, num_frames, jitter, sampling, seed):
    found = sample_times(seconds, num_frames, sampling, frame_shifts(num_frames, jitter, rng(seed)))
    plain = sample_times(seconds, num_frames, sampling)
    assert len(found) == len(plain) and found == sorted(found) and 0 <= found[0] and found[-1] <= seconds
    between = 1 / sampling if isinstance(sampling, float) and plain[0] == 0 else seconds / num_frames
    moved = np.abs(np.subtract(found, plain))
    assert moved.max() <= jitter / 2 * between + 1e-12 * seconds  # rounding


def test_without_a_generator_or_without_jitter_nothing_moves():
    assert frame_shifts(3, 1.0, None) == frame_shifts(3, 0.0, rng()) == [0, 0, 0]
    plain = load_video(FILM, num_frames=4)
    assert load_video(FILM, num_frames=4, frame_jitter=1.0) == plain
    assert load_video(FILM, num_frames=4, frame_jitter=0.0, rng=rng()) == plain


def levels(frames) -> list[int]:
    return [frame.getpixel((0, 0))[0] // 5 for frame in frames]


def test_every_frame_of_a_part_is_taken_some_time():
    seen = [set(), set()]
    for seed in range(400):
        first, second = levels(load_video(FILM, num_frames=2, frame_jitter=1.0, rng=rng(seed)))
        seen[0].add(first)
        seen[1].add(second)
    assert seen == [set(range(25)), set(range(25, 50))]


# -------------------------------------------------------------------------------------------- hidden parts of sounds

EXTRACTORS = {
    "whisper": WhisperFeatureExtractor(feature_size=12, sampling_rate=16000, chunk_length=1),
    "ast": ASTFeatureExtractor(num_mel_bins=16, max_length=50),
    "wave": WaveExtractor(return_attention_mask=True),
}


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), *[st.integers(0, 3), st.floats(0, 1)] * 2, SEEDS)
def test_masks_are_bounded_and_only_over_valid_frames(frames, bands, times, time_width, count, width, seed):
    valid = torch.arange(frames) < 1 + seed % frames
    features = torch.from_numpy(rng(seed).normal(size=(frames, bands)))
    augmentation = SoundAugmentation(times, time_width, count, width)
    changed = augmentation(features, valid, rng(seed))
    hidden = changed != features
    assert not hidden[~valid].any()
    mean = features[valid].mean()
    assert torch.equal(changed[hidden], mean.expand(int(hidden.sum())))
    whole_rows, whole_columns = hidden.all(1).sum(), hidden[valid].all(0).sum()
    held = int(valid.sum())
    if whole_columns < bands:
        assert whole_rows <= times * int(time_width * held)
    if whole_rows < held:
        assert whole_columns <= (count * int(width * bands) if bands > 1 else 0)
    assert torch.equal(augmentation(features, valid, rng(seed)), changed)


def tone(seconds, pitch=440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * 16000)) / 16000)).astype(np.float32)


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("which", ["time", "frequency"])
def test_bands_and_stretches_are_those_of_the_extractors_own_axes(kind, which):
    extractor = EXTRACTORS[kind]
    sounds: list = [[tone(0.3), tone(1.2, 700)], [tone(0.45)]]
    other = "frequency" if which == "time" else "time"
    hiding = SoundAugmentation(**{f"{which}_masks": 1, f"{which}_width": 0.5, f"{other}_masks": 0})
    plain = sound_tensors(extractor, sounds)
    changed = sound_tensors(extractor, sounds, hiding, [rng(5), rng(6)])
    assert set(plain) == set(changed)
    hidden = plain["input_features"] != changed["input_features"]  # (2, A, ...)
    if kind == "wave" and which == "frequency":
        assert not hidden.any()
        return
    axis = {"whisper": -1, "ast": -2, "wave": -1}[kind]
    hidden = hidden.movedim(axis, 2)  # (2, A, T[, F])
    lengths = [[len(clip) for sound in sample for clip in clips_of(sound, window_of(extractor))] for sample in sounds]
    for sample, row in zip(lengths, hidden, strict=True):
        for clip, length in zip(row, sample, strict=False):
            share = length / (window_of(extractor) or length)
            valid = int(np.ceil(share * len(clip))) if kind != "wave" else length
            assert not clip[valid:].any()
            by_frame = clip[:valid].flatten(1).any(1) if clip.ndim > 1 else clip[:valid]
            assert by_frame.sum() <= (0.5 * valid if which == "time" else valid)
            if which == "frequency":
                assert clip.any(0).sum() <= 0.5 * clip.shape[-1]
    assert hidden.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frame_jitter": 1.5}, "frame_jitter=1.5; accepted are 0..1"),
        ({"frame_jitter": True}, "frame_jitter=True"),
        ({"audio_augmentation": 5}, "audio_augmentation=5; accepted.* a dict of settings"),
        ({"audio_augmentation": {"time_width": 2}}, "time_width=2; accepted are shares from 0 to 1"),
        ({"audio_augmentation": {"time_masks": -1}}, "time_masks=-1; accepted are whole numbers from 0"),
    ],
)
def test_bad_settings_raise_in_words(given, message):
    with pytest.raises(ValueError, match=message):
        MMProcessor(MMImageProcessorPil(), **given)
    with pytest.raises(TypeError, match="unexpected keyword argument 'warp'"):
        MMProcessor(MMImageProcessorPil(), audio_augmentation={"warp": 5})


def test_an_augmentation_that_is_none_is_refused_where_it_is_given():
    with pytest.raises(ValueError, match="augment='save'; accepted are \"saved\", a callable"):
        MMDataCollator(make_processor(), augment="save")


def test_an_axis_that_is_not_certain_is_refused():
    extractor = ASTFeatureExtractor(num_mel_bins=50, max_length=50)
    with pytest.raises(ValueError, match="holds its 50 bands of frequency is not certain"):
        sound_tensors(extractor, [[tone(0.2)]], SoundAugmentation(), [rng()])


# ------------------------------------------------------------------------------------------- processor and collator


def make_processor(**changes) -> MMProcessor:
    kept = {"frame_jitter": 1.0, "audio_augmentation": HIDING, "num_frames": 4} | changes
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    return MMProcessor(
        MMImageProcessorPil(size={"height": 8, "width": 8}), tokenizer, EXTRACTORS["whisper"], **kept
    )  # fmt: skip


SAMPLES = [
    {
        "id": f"sample {number}",
        "video": FILM.copy(),
        "audio": {"array": tone(0.7), "sampling_rate": 16000},
        "text": "a",
    }
    for number in range(6)
]
KEYS = ("pixel_values_videos", "input_features")


def collator(mode="train", epoch=0, **changes) -> MMDataCollator:
    made = MMDataCollator(make_processor(**changes), augment="saved", mode=mode, seed=3)
    made.set_epoch(epoch)
    return made


def test_it_is_saved_with_the_processor_and_off_outside_of_training(tmp_path):
    make_processor().save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.frame_jitter == 1.0 and loaded.audio_augmentation == HIDING
    bare = make_processor(frame_jitter=0.0, audio_augmentation=None)
    media = {name: [sample[name[:5]] for sample in SAMPLES[:2]] for name in ("videos", "audio")}
    expected = bare(**media, return_tensors="pt")
    seen = loaded(**media, return_tensors="pt")
    quiet = collator("generate")(SAMPLES[:2])
    unasked = MMDataCollator(make_processor())(SAMPLES[:2])
    for key in KEYS:
        assert torch.equal(seen[key], expected[key])
        assert torch.equal(quiet[key], expected[key]) and torch.equal(unasked[key], expected[key])
    trained = collator()(SAMPLES[:2])
    assert not any(torch.equal(trained[key], expected[key]) for key in KEYS)


def test_it_goes_by_seed_epoch_and_sample_and_not_by_the_batch():
    batch, again, later = collator()(SAMPLES), collator()(SAMPLES[::-1]), collator(epoch=1)(SAMPLES)
    for key in KEYS:
        assert len({row.numpy().tobytes() for row in batch[key]}) == 6
        assert torch.equal(again[key].flip(0), batch[key])
        assert not torch.equal(later[key], batch[key])
        alone = torch.cat([collator()([sample])[key] for sample in SAMPLES])
        assert torch.equal(alone, batch[key])


def test_each_setting_works_without_the_others():
    plain = MMDataCollator(make_processor())(SAMPLES)
    moved = collator(audio_augmentation=None)(SAMPLES)
    hidden = collator(frame_jitter=0.0)(SAMPLES)
    assert torch.equal(moved["input_features"], plain["input_features"])
    assert torch.equal(hidden["pixel_values_videos"], plain["pixel_values_videos"])
    assert not torch.equal(moved["pixel_values_videos"], plain["pixel_values_videos"])
    assert not torch.equal(hidden["input_features"], plain["input_features"])
    with pytest.raises(ValueError, match="frame_jitter or audio_augmentation"):
        collator(frame_jitter=0.0, audio_augmentation=None)


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_workers():
    def batches(workers):
        loader = DataLoader(SAMPLES, batch_size=2, num_workers=workers, collate_fn=collator())  # pyright: ignore[reportArgumentType]: a list is a data set
        return list(loader)

    for together, apart in zip(batches(0), batches(2), strict=True):
        assert all(torch.equal(together[key], apart[key]) for key in KEYS)
