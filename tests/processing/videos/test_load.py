"""Videos: which frames are taken, from films of several containers, animations, lists, arrays; limits and faults."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from mm.processing.images.limits import PixelBudget
from mm.processing.images.load import MediaDecodeError
from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor
from mm.processing.videos import load as video
from mm.processing.videos.load import load_video
from mm.processing.videos.sampling import sample_times, shown_at, spread

FILMS = [
    ("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"),
    ("mpegts", "mpeg2video"), ("flv", "flv"), ("mpeg", "mpeg1video"),
]  # fmt: skip


def film(container="mp4", codec="libx264", frames=40, rate=25, gap=10, times=None, turn=0, size=(48, 32)) -> bytes:
    """A film whose frames get brighter, with a keyframe every `gap` frames; times: when each is shown, in 1/1000 s."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", gap
        if turn:
            stream.set_display_rotation(turn)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), 5 * number % 256, np.uint8)
            picture[:8] = 255 - 5 * number % 256
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def every_frame(data: bytes) -> tuple[list[float], list[Image.Image], list[bool]]:
    """All frames, the slow way: their times, pictures, and which are keyframes."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(container.streams.video[0]))
        return (
            [float(frame.time or 0) for frame in frames],
            [frame.to_image() for frame in frames],
            [frame.key_frame for frame in frames],
        )


def numbers(found: list[Image.Image], pictures: list[Image.Image]) -> list[int]:
    return [next(number for number, picture in enumerate(pictures) if picture == frame) for frame in found]


@pytest.fixture(scope="module", params=FILMS, ids=lambda kinds: "-".join(kinds))
def a_film(request):
    return film(*request.param)


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_uniform_frames_are_those_shown_in_the_middles_of_equal_parts(a_film, num_frames):
    times, pictures, _ = every_frame(a_film)
    found = numbers(load_video(a_film, num_frames=num_frames), pictures)
    assert len(found) == num_frames and found == sorted(found)
    middles = [(2 * part + 1) * 40 / (2 * num_frames) for part in range(num_frames)]
    # a container says its length to a frame or two
    assert all(abs(number - middle) <= 2.5 for number, middle in zip(found, middles, strict=True))


def test_keyframes_are_keyframes(a_film):
    _, pictures, keys = every_frame(a_film)
    expected = [number for number, key in enumerate(keys) if key]
    found = numbers(load_video(a_film, num_frames=100, frame_sampling="keyframes"), pictures)
    assert found == expected
    assert numbers(load_video(a_film, num_frames=2, frame_sampling="keyframes"), pictures) == [
        expected[number] for number in spread(len(expected), 2)
    ]


def test_a_rate_takes_the_frame_shown_at_each_tick():
    data = film()
    times, pictures, _ = every_frame(data)
    found = numbers(load_video(data, num_frames=20, frame_sampling=5), pictures)
    assert found == [0, 5, 10, 15, 20, 25, 30, 35]
    assert len(load_video(data, num_frames=3, frame_sampling=5)) == 3  # more than num_frames: uniform
    assert numbers(load_video(data, num_frames=2, frame_sampling=0.1), pictures) == [0]


def test_uneven_times_are_honoured():
    times = [0, 10, 20, 30, 40, 1000, 1010, 1020, 1900, 2000]
    data = film("matroska", "libx264", frames=10, times=times, rate=1000)
    starts, pictures, _ = every_frame(data)
    assert [round(1000 * start) for start in starts] == times
    found = numbers(load_video(data, num_frames=50, frame_sampling=2), pictures)
    assert found == [0, 4, 5, 7, 9][: len(found)] and len(found) >= 4  # at 0, 0.5, 1, 1.5 [, 2] s


def test_far_frames_are_reached_by_seeking(monkeypatch):
    data = film(frames=400, gap=10, size=(16, 16))
    decoded = []
    decode = video._Film._decode
    monkeypatch.setattr(video._Film, "_decode", lambda self: decoded.append(1) or decode(self))
    assert len(load_video(data, num_frames=4)) == 4
    assert len(decoded) <= 4 * 12  # a group of pictures each, not all 400


def test_fewer_frames_than_asked_are_each_taken_once():
    assert len(load_video(film(frames=3), num_frames=8)) == 3


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_films_are_upright(turn):
    upright = load_video(film(frames=2, turn=turn), num_frames=1)[0]
    flat = load_video(film(frames=2), num_frames=1)[0]
    assert upright.size == (flat.size if turn == 180 else flat.size[::-1])
    assert np.abs(np.asarray(upright, int) - np.asarray(flat.rotate(turn, expand=True), int)).max() <= 3


def animation(kind: str, frames=6) -> bytes:
    pictures = [Image.new("RGBA", (12, 9), (40 * number, 0, 0, 255)) for number in range(frames)]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], duration=100, **options)
    return buffer.getvalue()


def reds(frames: list[Image.Image]) -> list[int]:
    return [int(np.asarray(frame)[3, 3, 0]) for frame in frames]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video_of_all_its_frames_and_an_image_of_the_first(kind):
    data = animation(kind)
    frames = load_video(data, num_frames=8)
    assert reds(frames) == [0, 40, 80, 120, 160, 200]
    assert reds(load_video(data, num_frames=2)) == [40, 160]
    assert reds(load_video(data, num_frames=8, frame_sampling=5)) == [0, 80, 160]
    processor = make_processor()
    pixels = processor(data, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, processor(frames[0], return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("sampling", ["uniform", "keyframes", 2.0])
def test_jitter_moves_frames_within_their_intervals_and_keeps_their_order(sampling):
    data = film(frames=64, rate=16, gap=4)
    _, pictures, keys = every_frame(data)
    found = []
    for seed in range(8):
        options = {"frame_jitter": 1.0, "rng": np.random.default_rng(seed)}
        found.append(numbers(load_video(data, num_frames=8, frame_sampling=sampling, **options), pictures))
    assert len(set(map(tuple, found))) > 4
    for places in found:
        assert len(places) == 8 and places == sorted(set(places))
        counted = [number for number, key in enumerate(keys) if key or sampling != "keyframes"]
        width, back = len(counted) / 8, 0.5 if sampling == 2.0 else 0  # a rate takes the first of each part
        for part, place in enumerate(map(counted.index, places)):
            assert int((part - back) * width) <= place < (part + 1 - back) * width
    gif = animation("GIF")
    for seed in range(8):
        red, later = reds(load_video(gif, num_frames=2, frame_jitter=1.0, rng=np.random.default_rng(seed)))
        assert red in (0, 40, 80) and later in (120, 160, 200)


# ------------------------------------------------------------------------------------------------- in the processor


def make_processor(**settings):
    vocabulary = {word: number for number, word in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a cat".split())}
    return MMProcessor(
        MMImageProcessorPil(size={"height": 8, "width": 8}), BertTokenizer(vocab=vocabulary), **settings
    )


@pytest.fixture(scope="module")
def processor():
    return make_processor(num_frames=4)


def call(processor, **given):
    return processor(**given, return_tensors="pt")


def frames_of(count):
    return [Image.new("RGB", (9, 7), (50 * number, 0, 0)) for number in range(count)]


def test_one_video_each_makes_five_dimensions_and_a_mask_only_where_lengths_differ(processor):
    batch = call(processor, videos=[frames_of(4), frames_of(4)], text=["a", "cat"])
    assert batch["pixel_values_videos"].shape == (2, 4, 3, 8, 8) and "video_attention_mask" not in batch
    batch = call(processor, videos=[frames_of(4), frames_of(2)], text=["a", "cat"])
    assert batch["video_attention_mask"].tolist() == [[True] * 4, [True] * 2 + [False] * 2]
    assert batch["pixel_values_videos"].dtype == torch.float32 and not batch["pixel_values_videos"][1, 2:].any()
    pixels = processor.image_processor(frames_of(2), return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values_videos"][1, :2], pixels)


def test_several_videos_of_a_sample_and_samples_without(processor):
    batch = call(
        processor, videos=[[frames_of(2), frames_of(1)], None, frames_of(2)], text=[["a", "cat"], ["a"], ["a"]]
    )
    assert batch["pixel_values_videos"].shape == (3, 2, 2, 3, 8, 8)
    assert batch["video_attention_mask"].tolist() == [
        [[True, True], [True, False]], [[False] * 2] * 2, [[True, True], [False] * 2]
    ]  # fmt: skip
    assert batch["context_index"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "source",
    [
        lambda frames: frames,
        lambda frames: [np.asarray(frame) for frame in frames],
        lambda frames: np.stack([np.asarray(frame) for frame in frames]),
        lambda frames: torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2),
    ],
    ids=["pictures", "arrays", "array", "channels first"],
)
def test_frames_may_come_as_a_list_or_an_array_without_pyav(processor, monkeypatch, source):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    frames = frames_of(5)
    batch = call(processor, videos=source(frames), text="a")
    expected = processor.image_processor([frames[number] for number in spread(5, 4)], return_tensors="pt")
    assert torch.equal(batch["pixel_values_videos"][0], expected["pixel_values"])
    with pytest.raises(ImportError, match=r"PyAV is needed for video files: pip install '\.\[video\]'"):
        call(processor, videos=b"\0" * 64, text="a")


def test_a_film_is_the_same_from_every_kind_of_source_and_settings_may_be_given_with_the_call(processor, tmp_path):
    data = film(frames=10)
    (tmp_path / "film.mp4").write_bytes(data)
    batches = [call(processor, videos=source) for source in (data, io.BytesIO(data), tmp_path / "film.mp4")]
    assert all(torch.equal(batch["pixel_values_videos"], batches[0]["pixel_values_videos"]) for batch in batches)
    assert batches[0]["pixel_values_videos"].shape == (1, 4, 3, 8, 8)
    assert call(processor, videos=data, num_frames=2)["pixel_values_videos"].shape[1] == 2
    assert call(processor, videos=data, frame_sampling="keyframes")["pixel_values_videos"].shape[1] == 1


def test_images_and_videos_go_together_and_bad_videos_by_policy(processor, caplog):
    batch = call(processor, images=[frames_of(1)[0], None], videos=[None, frames_of(2)], text=["a", "cat"])
    assert batch["pixel_attention_mask"].tolist() == [[True], [False]]
    assert batch["video_attention_mask"].tolist() == [[[False, False]], [[True, True]]]
    broken = call(processor, videos=[b"broken", frames_of(2)], text=["a", "cat"], on_error="placeholder")
    assert broken["video_attention_mask"].tolist() == [[[False] * 2], [[True] * 2]]
    assert "videos[0][0]" in caplog.text and "1 of 2 videos cannot be read" in caplog.text
    skipped = call(processor, videos=[b"broken", frames_of(2)], text=["a", "cat"], on_error="skip")
    assert skipped["input_ids"].shape[0] == 1 and skipped["pixel_values_videos"].shape == (1, 2, 3, 8, 8)


# ------------------------------------------------------------------------------------------------ faults and limits


def sound_alone() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream: Any = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    return buffer.getvalue()


BAD = [
    (lambda: b"", {}, "it is empty"),
    (lambda: b"not a film at all", {}, "cannot decode"),
    (lambda: film()[:300], {}, "it is cut off: it promises [0-9]+ bytes, and 300 bytes are there"),
    (lambda: film()[:-200], {}, "it is cut off"),
    (sound_alone, {}, "no video stream"),
    (lambda: film("matroska", frames=60), {"max_seconds": 1.0}, "max_seconds=1.0"),
    (film, {"max_pixels": 1000}, "48 x 32.*max_pixels=1000"),
    (lambda: animation("GIF")[:40], {}, "cannot decode"),
    (lambda: animation("GIF"), {"max_pixels": 100}, "12 x 9"),
    (film, {"budget": PixelBudget(3000)}, "max_batch_pixels=3000"),
    (lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n", {}, "cannot decode"),
    (lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", {}, "cannot decode"),
]


@pytest.mark.parametrize(("make", "options", "message"), BAD)
def test_bad_films_raise_one_typed_error(make, options, message):
    with pytest.raises(MediaDecodeError, match=message) as caught:
        load_video(make(), **options)
    assert caught.value.name and caught.value.cause


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("missing.mp4", FileNotFoundError, "no file at the path"),
        ("https://example.org/a.mp4", ValueError, "URLs are not fetched without allow_urls"),
        (5, TypeError, "a video is a path, bytes, a binary file object or an array; got int"),
        (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "the video has no frames"),
        (np.full((2, 8, 8, 3), 7.0), ValueError, "floating pictures are in 0..1"),
        (io.StringIO("text"), MediaDecodeError, "open it in mode 'rb'"),
    ],
)
def test_other_bad_sources_raise_in_words(source, kind, message):
    with pytest.raises(kind, match=message):
        load_video(source)


@pytest.mark.parametrize(
    "option",
    [{"num_frames": 0}, {"num_frames": "4"}, {"max_seconds": 0}, {"max_seconds": "5"}, {"frame_sampling": -1}],
)
def test_settings_of_a_call_that_are_no_numbers_raise_in_words(processor, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.*accepted are"):
        call(processor, videos=[frames_of(3)], text="a", **option)


def test_grey_frames_may_come_as_one_array_beside_one_text(processor):
    grey = np.arange(5, dtype=np.uint8)[:, None, None] * np.full((1, 9, 7), 40, np.uint8)
    expected = call(processor, videos=[list(grey)], text=["a"])["pixel_values_videos"]
    assert torch.equal(call(processor, videos=grey, text="a")["pixel_values_videos"], expected)


def test_the_place_is_named_in_the_processor(processor):
    with pytest.raises(MediaDecodeError, match=r"videos\[1\]\[0\]: cannot decode") as caught:
        call(processor, videos=[frames_of(1), b"broken"], text=["a", "cat"])
    assert caught.value.index == "videos[1][0]" and caught.value.reason.startswith("cannot decode")
    with pytest.raises(ValueError, match="2 videos with 1 text"):
        call(processor, videos=[frames_of(1), frames_of(1)], text=["a"])
    with pytest.raises(ValueError, match="1 image and 2 videos: the modalities of a call"):
        call(processor, images=[frames_of(1)[0]], videos=[frames_of(1), frames_of(1)])


def test_the_choice_of_frames_by_number_and_time():
    assert spread(3, 8) == [0, 1, 2] and spread(8, 2) == [2, 6] and spread(1000, 1) == [500]
    assert sample_times(2.0, 4, "uniform") == [0.25, 0.75, 1.25, 1.75]
    assert sample_times(2.0, 8, 2) == [0.0, 0.5, 1.0, 1.5] and sample_times(0.0, 8, 2) == [0.0]
    assert sample_times(1e12, 2, 1e12) == [2.5e11, 7.5e11]
    assert shown_at([0.0, 1.0, 2.0], [0.5, 0.7, 1.0, 9.0]) == [0, 1, 2]
