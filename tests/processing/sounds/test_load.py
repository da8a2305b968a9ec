"""Sounds: the same samples from every kind of source, clips by the tower's window, features, limits and faults."""

import io
import math
import sys
import tracemalloc
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ASTFeatureExtractor, BertTokenizer, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from mm.processing.images.limits import MediaDecodeError
from mm.processing.processor import MMProcessor
from mm.processing.sounds.files import PADDING, _without_padding, read_sound, sound_stretches
from mm.processing.sounds.load import clips_of, load_sound, window_of

RATE = 8000


def tone(seconds=0.5, rate=RATE, pitch=440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def as_file(samples, rate=RATE, kind="WAV", **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, **options)
    return buffer.getvalue()


def in_container(kind="ipod", codec="aac", samples=None, rate=16000, layout="stereo") -> bytes:
    """A film's soundtrack without the film; "ipod" is what ends in .m4a."""
    buffer, samples = io.BytesIO(), tone(1.0, rate) if samples is None else samples
    with av.open(buffer, "w", format=kind) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        channels = np.stack([samples] * stream.codec_context.channels)
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["ipod", "adts", "matroska"])
def test_what_pyav_decodes_comes_in_stretches_and_none_is_kept(kind):
    file = io.BytesIO(
        in_container(kind, samples=np.random.default_rng(0).standard_normal(640_000).astype(np.float32) / 9)
    )
    whole, _ = read_sound(file, "sound", 60)
    file.seek(0)
    stretches, place = sound_stretches(file, "sound", math.inf, math.inf), 0
    tracemalloc.start()
    for stretch, _ in stretches:
        assert np.array_equal(stretch, whole[place : place + len(stretch)])
        place += len(stretch)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert place == len(whole) and most < whole.nbytes / 2


@given(st.lists(st.integers(0, 90_000), max_size=6), st.integers(0, 200_000))
@settings(max_examples=50, deadline=None)
def test_only_padding_after_the_stated_end_is_left_out(sizes, last):
    whole = np.arange(sum(sizes), dtype=np.float32)
    found = np.concatenate(list(_without_padding(np.split(whole, np.cumsum(sizes)[:-1]) if sizes else [], last)))
    assert np.array_equal(found, whole[:last] if 0 < last < len(whole) <= last + PADDING else whole)


EXACT = [("WAV", "FLOAT"), ("AIFF", "FLOAT"), ("AU", "FLOAT"), ("CAF", "FLOAT"), ("W64", "FLOAT")]


@pytest.mark.parametrize(("kind", "subtype"), EXACT)
def test_the_same_sound_is_the_same_from_every_kind_of_source(tmp_path, kind, subtype):
    samples = tone()
    data = as_file(samples, kind=kind, subtype=subtype)
    (tmp_path / "sound").write_bytes(data)
    sources = [data, io.BytesIO(data), tmp_path / "sound", str(tmp_path / "sound"), {"bytes": data, "path": None}]
    sources += [{"array": samples, "sampling_rate": RATE}, {"path": str(tmp_path / "sound"), "bytes": None}]
    for source in sources:
        found = load_sound(source, RATE)
        assert found.dtype == np.float32 and np.array_equal(found, samples)
    for array in (samples, samples[None], samples[:, None], np.stack([samples, samples]), torch.from_numpy(samples)):
        assert np.array_equal(load_sound(array, RATE, source_rate=RATE), samples)


@pytest.mark.parametrize(("kind", "options"), [("FLAC", {}), ("OGG", {}), ("MP3", {}), ("WAV", {"subtype": "PCM_16"})])
def test_compressed_formats_are_decoded(kind, options):
    found = load_sound(as_file(tone(1.0, 16000), 16000, kind, **options), 16000)
    middle = slice(4000, 12000)
    spectrum = np.abs(np.fft.rfft(found[middle]))
    assert abs(len(found) - 16000) <= 2304 and np.argmax(spectrum) * 16000 / 8000 == pytest.approx(440, abs=2)


CONTAINERS = [
    ("ipod", "aac", 16000), ("mp4", "aac", 44100), ("3gp", "aac", 16000), ("adts", "aac", 22050),
    ("mp4", "mp3", 16000),
    ("mov", "pcm_s16le", 16000), ("mp4", "alac", 16000), ("matroska", "flac", 16000), ("webm", "libopus", 48000),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "rate"), CONTAINERS, ids=lambda value: str(value))
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_sounds_in_containers_are_decoded(kind, codec, rate, layout):
    found = load_sound(in_container(kind, codec, rate=rate, layout=layout), 16000)
    spectrum = np.abs(np.fft.rfft(found[4000:12000]))
    assert 15000 < len(found) < 18400 and np.argmax(spectrum) * 16000 / 8000 == pytest.approx(440, abs=2)
    assert np.abs(found[4000:12000]).max() == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "alac"), ("mov", "pcm_f32le"), ("matroska", "pcm_s32le")])
def test_lossless_sounds_in_containers_are_exact(kind, codec):
    found = load_sound(in_container(kind, codec, layout="mono"), 16000)
    assert np.abs(found - tone(1.0, 16000)).max() <= 2.0**-23


MIXES = {
    1: np.array([1], np.float32), 2: np.array([0.5, 0.5], np.float32), 3: np.array([0.5, 0.5, 0.5**0.5], np.float32),
    4: np.array([0.5, 0.5, 0.5**1.5, 0.5**1.5], np.float32),
}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(rate=st.integers(1000, 48000), wanted=st.sampled_from([8000, 16000, 44100]), channels=st.integers(1, 4))
def test_any_rate_and_any_channels_become_one_channel_at_the_wanted_rate(rate, wanted, channels):
    samples = np.stack([tone(0.1, rate, 50 + 30 * channel) for channel in range(channels)], 1)
    found = load_sound(as_file(samples, rate, subtype="FLOAT"), wanted)
    mix = samples @ MIXES[channels]
    expected = mix if rate == wanted else soxr.resample(mix, rate, wanted, quality="HQ")
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 2e-6


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float64), [0, 0.5, -1]),
        (torch.tensor([0, 0.5, -1], dtype=torch.bfloat16), [0, 0.5, -1]),
    ],
)
def test_whole_numbers_are_scaled_by_their_type(array, expected):
    assert load_sound(array, RATE, source_rate=RATE).tolist() == expected


BAD = [
    (b"", {}, MediaDecodeError, "it is empty"),
    (b"not a sound", {}, MediaDecodeError, "cannot decode"),
    (as_file(tone())[:30], {}, MediaDecodeError, "cannot decode|empty"),
    (as_file(np.zeros(0, np.float32)), {}, MediaDecodeError, "it is empty"),
    (as_file(np.array([0, np.nan], np.float32), subtype="FLOAT"), {}, MediaDecodeError, "NaN or Inf"),
    (as_file(np.array([0, np.inf], np.float32), subtype="FLOAT"), {}, MediaDecodeError, "NaN or Inf"),
    (np.array([0, np.nan]), {"source_rate": RATE}, MediaDecodeError, "NaN or Inf"),
    (np.zeros(0), {"source_rate": RATE}, MediaDecodeError, "it is empty"),
    (as_file(tone(2.0)), {"max_seconds": 1.0}, MediaDecodeError, "it lasts 2.0 s; max_seconds=1.0"),
    (as_file(tone(0.1, 100), 100), {}, MediaDecodeError, "sampling rate is 100; accepted are 1000..384000"),
    (as_file(np.zeros((9, 17), np.float32)), {}, MediaDecodeError, "17 channels; accepted are 16"),
    (as_file(np.zeros(9, np.float32), 11025, "VOC", subtype="PCM_16"), {}, MediaDecodeError, "VOC is not accepted"),
    (in_container()[:-300], {}, MediaDecodeError, "it is cut off: it promises"),
    (in_container()[:40], {}, MediaDecodeError, "cannot decode the 40 bytes given"),
    (in_container(), {"max_seconds": 0.5}, MediaDecodeError, "max_seconds=0.5"),
    (in_container("adts"), {"max_seconds": 0.5}, MediaDecodeError, "max_seconds=0.5"),
    (in_container("matroska", "ac3", rate=48000), {}, MediaDecodeError, "its codec ac3 is not accepted"),
    (np.zeros(1, np.float32), {"source_rate": 384_000}, MediaDecodeError, "too few for"),
    (tone(), {}, ValueError, "an array has no rate of its own"),
    (tone(), {"source_rate": "8000"}, ValueError, "sampling_rate='8000'; accepted are numbers above 0"),
    (tone(), {"source_rate": 0}, ValueError, "sampling_rate=0; accepted are numbers above 0"),
    (np.zeros((6, 900)), {"source_rate": RATE}, ValueError, "6 channels .*speakers"),
    (np.zeros(()), {"source_rate": RATE}, ValueError, r"got \(\)"),
    (as_file(1000 * tone(), subtype="FLOAT"), {}, MediaDecodeError, "400 times as loud as full scale"),
    ({"array": tone()}, {}, ValueError, "an array has no rate of its own"),
    ({"text": "a"}, {}, ValueError, r"got \['text'\]"),
    (np.zeros((9, 9)), {"source_rate": RATE}, ValueError, "which of the two is not certain"),
    (np.zeros((99, 99)), {"source_rate": RATE}, ValueError, "which of the two is not certain"),
    (np.zeros((2, 2, 2)), {"source_rate": RATE}, ValueError, r"got \(2, 2, 2\)"),
    (np.zeros(9, bool), {"source_rate": RATE}, ValueError, "got bool"),
    (1000 * tone(), {"source_rate": RATE}, ValueError, "values up to 400. Divide by 32768"),
    ("missing.wav", {}, FileNotFoundError, "no file at the path"),
    ("https://example.org/a.wav", {}, ValueError, "URLs are not fetched without allow_urls"),
    (5, {}, TypeError, "a sound is a path, bytes, a binary file object or an array; got int"),
    (io.StringIO("a"), {}, MediaDecodeError, "open it in mode 'rb'"),
]


@pytest.mark.parametrize(("source", "options", "kind", "message"), BAD, ids=[row[-1] for row in BAD])
def test_bad_sounds_raise_in_words(source, options, kind, message):
    with pytest.raises(kind, match=message):
        load_sound(source, RATE, **options)


def test_without_the_extra_it_is_named(monkeypatch):
    m4a = in_container()
    for name in ("soundfile", "soxr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert np.array_equal(load_sound(tone(), RATE, source_rate=RATE), tone())  # needs neither
    with pytest.raises(ImportError, match=r"soxr is needed for this sound: pip install '\.\[audio\]'"):
        load_sound(tone(), 16000, source_rate=RATE)
    with pytest.raises(ImportError, match="soundfile is needed"):
        load_sound(b"RIFF", RATE)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"PyAV is needed for sounds in MP4 \(m4a\).*\.\[video\]"):
        load_sound(m4a, RATE)


# ------------------------------------------------------------------------------------------- clips and the processor

EXTRACTORS = {
    "whisper": WhisperFeatureExtractor(feature_size=12, sampling_rate=16000, chunk_length=1),
    "ast": ASTFeatureExtractor(num_mel_bins=16, max_length=50),
    "wav2vec2": Wav2Vec2FeatureExtractor(return_attention_mask=True),
}


def make_processor(kind="whisper", **settings):
    vocabulary = {word: number for number, word in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a cat".split())}
    return MMProcessor(tokenizer=BertTokenizer(vocab=vocabulary), feature_extractor=EXTRACTORS[kind], **settings)


def call(processor, **given):
    return processor(**({"return_tensors": "pt", "sampling_rate": 16000} | given))


def test_long_sounds_are_cut_into_clips_that_join_to_the_whole():
    samples = tone(2.3, 16000)
    assert window_of(EXTRACTORS["whisper"]) == 16000 and window_of(EXTRACTORS["ast"]) == 8000
    assert window_of(EXTRACTORS["wav2vec2"]) is None
    clips = clips_of(samples, 16000)
    assert [len(clip) for clip in clips] == [16000, 16000, 4800] and np.array_equal(np.concatenate(clips), samples)
    assert len(clips_of(samples[:16000], 16000)) == len(clips_of(samples, None)) == 1


@pytest.mark.parametrize("kind", ["whisper", "ast"])
def test_features_are_those_of_the_extractor_for_each_clip(kind):
    processor, extractor, samples = make_processor(kind), EXTRACTORS[kind], tone(1.7, 16000)
    batch = call(processor, audio=samples, text="a")
    clips = clips_of(samples, window_of(extractor))
    expected = [
        extractor(clip, sampling_rate=16000, return_tensors="pt")[extractor.model_input_names[0]][0] for clip in clips
    ]
    assert batch["input_features"].dtype == torch.float32 and "input_features_mask" not in batch
    torch.testing.assert_close(batch["input_features"], torch.stack(expected)[None], rtol=0, atol=1e-5)


def test_several_sounds_and_uneven_lengths_are_padded_to_clips_and_masked():
    short, long = tone(0.5, 16000), tone(1.5, 16000)
    batch = call(make_processor(), audio=[[short, long], None, long], text=[["a", "cat"], ["a"], ["a"]])
    assert batch["input_features"].shape[:2] == (3, 3) and batch["context_index"].tolist() == [0, 0, 1, 2]
    assert batch["input_features_mask"].tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    alone = call(make_processor(), audio=long, text="a")["input_features"]
    torch.testing.assert_close(batch["input_features"][2:, :2], alone, rtol=0, atol=1e-5)


def test_towers_without_a_window_get_a_mask_by_frame():
    batch = call(make_processor("wav2vec2"), audio=[tone(0.2, 16000), tone(0.1, 16000)], text=["a", "cat"])
    assert batch["input_features"].shape == (2, 1, 3200)
    assert batch["input_features_mask"].sum(-1).tolist() == [[3200], [1600]]


def test_a_model_hears_the_clips(tiny_model):
    model = tiny_model(modalities=["audio"], audio_config="whisper", dtype=torch.float32)
    extractor = WhisperFeatureExtractor(feature_size=12, sampling_rate=16000, hop_length=160, chunk_length=1)
    extractor.n_samples = 8 * 160  # the window of the tiny tower: eight frames
    processor = make_processor()
    processor.feature_extractor = extractor
    batch = call(processor, audio=[tone(0.1, 16000), tone(0.2, 16000)], text=["a", "cat"])
    assert batch["input_features"].shape == (2, 3, 12, 8)
    single = call(processor, audio=tone(0.1, 16000), text="a")
    together, alone = model(**batch).logits[0, -2:], model(**single).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_bad_sounds_follow_the_policy_and_are_named(caplog):
    processor, good = make_processor(), tone(0.1, 16000)
    with pytest.raises(MediaDecodeError, match=r"audio\[1\]\[0\]: cannot decode") as caught:
        call(processor, audio=[good, b"broken"], text=["a", "cat"])
    assert caught.value.index == "audio[1][0]" and caught.value.name
    batch = call(processor, audio=[good, b"broken"], text=["a", "cat"], on_error="placeholder")
    assert batch["input_features_mask"].tolist() == [[True], [False]]
    assert "1 of 2 audio cannot be read" in caplog.text
    assert call(processor, audio=[good, b"broken"], text=["a", "cat"], on_error="skip")["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="2 sounds with 1 text"):
        call(processor, audio=[good, good], text=["a"])


def test_sounds_in_chats_are_read_by_the_same_rules(tmp_path):
    template = "{% for m in messages %}{% for c in m['content'] %}{{ c.get('text', '') }}{% endfor %}{% endfor %}"
    processor = make_processor(chat_template=template)
    (tmp_path / "a.wav").write_bytes(as_file(tone(0.3)))

    def chat(*blocks):
        return [{"role": "user", "content": [*blocks, {"type": "text", "text": "a cat"}]}]

    chats = [
        chat({"type": "audio", "path": str(tmp_path / "a.wav")}, {"type": "audio", "audio": tone(0.2, 16000)}),
        chat(),
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chats, **options)
    assert batch["input_features_mask"].tolist() == [[True, True], [False, False]]
    expected = call(processor, audio=[[str(tmp_path / "a.wav"), tone(0.2, 16000)], []], text=["a cat", "a cat"])
    assert torch.equal(batch["input_features"], expected["input_features"])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert "input_features" not in processor.apply_chat_template([chat(), chat()], **options)
