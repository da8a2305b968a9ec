"""Every sound and film here gives what it is or its error, quickly, and nothing else. `make.py` made the files."""

from pathlib import Path

import numpy as np
import pytest

from mm import MediaDecodeError
from mm.processing.images.load import load_image
from mm.processing.sounds.load import load_sound
from mm.processing.videos.load import load_video

FOLDER = Path(__file__).parent
RATE = 8000
BROKEN = "cannot decode"
CUT = "it is cut off: it promises"
INVALID = "Invalid data found"
UNKNOWN = "Format not recognised"
PLAIN = 800  # the samples of the tone that the files hold

# file: the fragment of a MediaDecodeError, or the number of samples at 8 kHz
SOUNDS = {
    "rate_0.wav": BROKEN,
    "rate_4_g.wav": BROKEN,
    "rate_1.wav": "its sampling rate is 1; accepted are 1000..384000",
    "channels_0.wav": "Channel count is zero",
    "channels_65535.wav": "Too many channels",
    "channels_17.wav": "it has 17 channels; accepted are 16 at most",
    "bits_0.wav": "unimplemented format",
    "bits_65535.wav": "unimplemented format",
    "block_0.wav": PLAIN,
    "coding_unknown.wav": BROKEN,
    "length_4_gb.wav": PLAIN,
    "length_0.wav": PLAIN,
    "length_odd.wav": PLAIN,
    "no_data.wav": "it is empty",
    "no_format.wav": BROKEN,
    "chunk_of_4_gb.wav": BROKEN,
    "nan.wav": "it holds NaN or Inf",
    "infinite.wav": "it holds NaN or Inf",
    "too_loud.wav": "it is 3e+38 times as loud as full scale",
    "length_2_63.rf64": PLAIN,
    "samples_68_g.flac": "max_seconds=1800.0 allows no more",
    "endless.flac": "it lasts 1835.0 s; max_seconds=1800.0 allows no more",
    "length_unknown.flac": 2 * 65_535 * 8,  # at 1 kHz
    "more_than_told.flac": 65_535 * 8,
    "truncated.flac": BROKEN,
    "granule_2_62.ogg": (PLAIN, 1024),
    "granule_negative.ogg": (700, 1024),
    "truncated.ogg": CUT,
    "tag_of_256_mb.mp3": BROKEN,
    "truncated.mp3": BROKEN,
    "frames_4_g.aiff": PLAIN,
    "rate_infinite.aiff": "its sampling rate is 67108864",
    "rate_negative.aiff": BROKEN,
    "offset_4_gb.au": BROKEN,
    "playlist.m4a": UNKNOWN,
    "page.wav": UNKNOWN,
    "polyglot_page.wav": PLAIN,
    "polyglot_archive.m4a": (PLAIN, 1024),
    "truncated.m4a": CUT,
    "duration_told.m4a": (PLAIN, 1024),
    "packet_of_74_hours.m4a": "it is empty",
    "time_scale_0.m4a": "it is empty",
    "packets_4_g.m4a": INVALID,
    "box_of_4_gb.m4a": "it is empty",
    "elsewhere.m4a": (PLAIN, 1024),  # what a reference names is not opened
    "channels_65535.m4a": (PLAIN, 1024),
    "codec_ac3.mka": "its codec ac3 is not accepted",
}

# file: the fragment of a MediaDecodeError, or the number of frames, each 16 x 16 (4 x 4 of animations)
FILMS = {
    "truncated.mp4": "cannot use",
    "no_pictures.mp4": "it has no video stream",
    "no_index.mp4": INVALID,
    "index_alone.mp4": "cannot",
    "boxes_in_boxes.mp4": INVALID,
    "duration_told.mp4": 4,
    "frame_of_46_hours.mp4": (1, 4),
    "time_scale_0.mp4": "no frame of it can be decoded",
    "frames_4_g.mp4": INVALID,
    "times_4_g.mp4": BROKEN,
    "chunks_elsewhere.mp4": "cannot",
    "elsewhere.mp4": 4,
    "turned_by_nan.mp4": 4,
    "65535_square.mov": 2,
    "8000_square.mov": "cannot",
    "growing.mov": "it is 5000 x 4000, 20.0 megapixels; max_pixels=16000000",
    "polyglot_archive.mp4": 4,
    "polyglot_page.mp4": 4,
    "65535_square.avi": 4,
    "8000_square.avi": "it is 8000 x 8000, 64.0 megapixels; max_pixels=16000000",
    "rate_0.avi": 4,
    "frames_4_g.avi": "max_seconds=21600.0 allows no more",
    "truncated.avi": CUT,
    "one_keyframe.mkv": "its keyframes are too far apart",
    "duration_nan.mkv": 4,
    "duration_infinite.mkv": 4,
    "duration_long.mkv": "max_seconds=21600.0 allows no more",
    "element_of_72_pb.mkv": BROKEN,
    "truncated.mkv": CUT,
    "codec_raw.mkv": "its codec rawvideo is not accepted",
    "playlist.mp4": BROKEN,
    "list_of_files.mp4": BROKEN,
    "session.mp4": BROKEN,
    "numbers.mp4": BROKEN,
    "page.mp4": BROKEN,
    "screen_65535.gif": "could be decompression bomb",
    "frames_2_g.png": BROKEN,
    "truncated.gif": BROKEN,
}


def test_the_tables_name_every_file_and_they_are_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    assert set(files) == {*SOUNDS, *FILMS}
    assert len(files) >= 80 and sum(files.values()) < 250_000


def assert_refused(load, source, fragment):
    with pytest.raises(MediaDecodeError) as caught:
        load(source)
    assert fragment in str(caught.value) and caught.value.name and caught.value.cause


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # soundfile on a place it cannot seek
@pytest.mark.parametrize("name", SOUNDS)
def test_every_sound_gives_what_the_table_says(name):
    expected = SOUNDS[name]
    if isinstance(expected, str):
        assert_refused(lambda path: load_sound(path, RATE), FOLDER / name, expected)
    else:
        low, high = expected if isinstance(expected, tuple) else (expected, expected)
        found = load_sound(FOLDER / name, RATE)
        assert low <= len(found) <= high and np.isfinite(found).all() and np.abs(found).max() <= 1


@pytest.mark.parametrize("name", FILMS)
def test_every_film_gives_what_the_table_says(name):
    expected = FILMS[name]
    count = 1 if name == "one_keyframe.mkv" else 4
    if isinstance(expected, str):
        assert_refused(lambda path: load_video(path, num_frames=count), FOLDER / name, expected)
    else:
        low, high = expected if isinstance(expected, tuple) else (expected, expected)
        found = load_video(FOLDER / name, num_frames=4)
        assert low <= len(found) <= high and {frame.size for frame in found} == {(16, 16)}


STRINGS = sorted(path.name for path in FOLDER.parent.glob("*.txt") if path.name.startswith(("path_", "url_")))


@pytest.mark.parametrize("name", STRINGS)
def test_tricks_with_paths_and_urls_fail_alike_for_every_kind_of_media(name):
    text = (FOLDER.parent / name).read_bytes().decode()

    def cause(load):
        with pytest.raises(MediaDecodeError) as caught:
            load(text, allow_urls=True)
        return type(caught.value).__name__

    kinds = {
        cause(load_image),
        cause(load_video),
        cause(lambda source, **options: load_sound(source, RATE, **options)),
    }
    assert len(kinds) == 1


def test_a_film_is_no_sound_and_a_sound_is_no_film():
    film, sound = FOLDER / "elsewhere.mp4", FOLDER / "polyglot_page.wav"
    assert_refused(lambda path: load_sound(path, RATE), film, "it has no stream of sound")
    assert_refused(load_video, sound, BROKEN)
    for path in (film, sound):
        assert_refused(load_image, path, "its format is not recognised")
