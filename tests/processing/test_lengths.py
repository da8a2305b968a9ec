"""Files that are cut off, headers that do not know the length, padding that is no sound: what is there is read."""

import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from mm import MediaDecodeError
from mm.processing.images import whole_files as wholeness
from mm.processing.sounds.load import load_sound
from mm.processing.videos.load import load_video

RATE = 16000
NOISE = (0.2 * np.random.default_rng(0).standard_normal(2 * RATE)).clip(-1, 1).astype(np.float32)


def sound(kind: str, subtype: str | None = None, samples: np.ndarray = NOISE, rate: int = RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype, **options)
    return buffer.getvalue()


def track(kind: str, codec: str, samples: np.ndarray = NOISE, rate: int = RATE, **options: str) -> bytes:
    with tempfile.NamedTemporaryFile() as file:  # an index is put in front by reading the file again
        with av.open(file.name, "w", format=kind, options=options) as out:
            stream: Any = out.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return Path(file.name).read_bytes()


class Pipe:
    """What is written to it, without a way back."""

    def __init__(self):
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += bytes(data)
        return len(data)


def write_film(target: Any, kind: str, codec: str, **options: str) -> None:
    rng = np.random.default_rng(0)
    with av.open(target, "w", format=kind, options=options) as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for number in range(40):
            noise = rng.integers(0, 60, (48, 64, 3)) + 4 * number
            out.mux(stream.encode(av.VideoFrame.from_ndarray(noise.astype(np.uint8), format="rgb24")))
        out.mux(stream.encode())


def film(kind: str, codec: str, **options: str) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        write_film(file.name, kind, codec, **options)
        return Path(file.name).read_bytes()


SOUNDS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"),
    ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", None),
]  # fmt: skip
LENGTHS = [("WAV", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16")]


@pytest.mark.parametrize(("kind", "subtype"), SOUNDS)
def test_a_cut_sound_is_an_error_wherever_it_is_cut(kind, subtype):
    data = sound(kind, subtype)
    assert abs(len(load_sound(data, RATE)) - len(NOISE)) <= 1024
    for share in (0.1, 0.37, 0.5, 0.83, 0.99):
        with pytest.raises(MediaDecodeError):
            load_sound(data[: int(share * len(data))], RATE)


@pytest.mark.parametrize(("kind", "subtype"), LENGTHS)
def test_the_error_names_both_lengths(kind, subtype):
    data = sound(kind, subtype)
    with pytest.raises(MediaDecodeError, match=r"it is cut off: it promises 2\.00 s, and 0\.99 s are there") as caught:
        load_sound(data[: len(data) // 2 - 400], RATE)
    assert caught.value.name and "cut off" in caught.value.cause


TRACKS = [("ipod", "aac"), ("mp4", "aac"), ("mov", "pcm_s16le"), ("matroska", "flac"), ("matroska", "aac")]


@pytest.mark.parametrize(("kind", "codec"), TRACKS)
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}])
def test_a_cut_soundtrack_is_an_error(kind, codec, options: dict[str, Any]):
    if kind == "matroska" and options:
        options = {"reserve_index_space": "200"}
    data = track(kind, codec, **options)
    assert abs(len(load_sound(data, RATE)) - len(NOISE)) <= 2048
    for share in (0.4, 0.75, 0.98):
        with pytest.raises(MediaDecodeError):
            load_sound(data[: int(share * len(data))], RATE)


FILMS = [
    ("mp4", "mpeg4", {}), ("mp4", "mpeg4", {"movflags": "faststart"}), ("mov", "libx264", {"movflags": "faststart"}),
    ("mp4", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}), ("matroska", "mpeg4", {}), ("webm", "libvpx", {}),
    ("avi", "mpeg4", {}), ("flv", "flv", {}), ("mpegts", "mpeg2video", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "options"), FILMS)
def test_a_cut_film_is_an_error_wherever_it_is_cut(kind, codec, options):
    data = film(kind, codec, **options)
    assert len(load_video(data, num_frames=8)) == 8
    for share in (0.31, 0.5, 0.73, 0.9):
        cut = int(share * len(data))
        with pytest.raises(MediaDecodeError):
            load_video(data[: cut - (cut % 188 == 0)], num_frames=8)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("matroska", "mpeg4"), ("webm", "libvpx"), ("avi", "mpeg4"), ("flv", "flv"), ("mpegts", "mpeg2video")],
)
def test_films_written_as_streams_are_read_though_their_length_is_not_told(kind, codec):
    pipe = Pipe()
    write_film(pipe, kind, codec)
    assert len(load_video(pipe.data, num_frames=8)) == 8


def field(data: bytes, name: bytes, new: bytes, offset: int = 4) -> bytes:
    place = data.index(name) + offset
    return data[:place] + new + data[place + len(new) :]


STREAMED = {
    "wav": lambda size: field(field(sound("WAV"), b"RIFF", size), b"data", size),
    "au": lambda size: field(sound("AU"), b".snd", size[::-1], 8),
}


@pytest.mark.parametrize("kind", STREAMED)
@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x80000000, 0x7FFFFFFF])
def test_sounds_written_as_streams_are_read_to_their_end(kind, size):
    found = load_sound(STREAMED[kind](size.to_bytes(4, "little")), RATE)
    assert np.array_equal(found, load_sound(sound("WAV"), RATE))


W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
LEFT = {
    "wav": lambda: field(field(sound("WAV"), b"RIFF", bytes(4)), b"data", bytes(4)),
    "wav, only the samples": lambda: field(sound("WAV"), b"data", bytes(4)),
    "wavex": lambda: field(sound("WAVEX", "PCM_16"), b"data", bytes(4)),
    "rf64": lambda: field(sound("RF64"), b"ds64", bytes(24), 8),
    "w64": lambda: field(sound("W64"), W64_DATA, (24).to_bytes(8, "little"), 16),
    "au": lambda: field(sound("AU"), b".snd", bytes(4), 8),
    "aiff": lambda: field(field(sound("AIFF"), b"SSND", bytes(4)), b"COMM", bytes(4), 10),
    "aiff, its first 8 bytes": lambda: field(field(sound("AIFF"), b"SSND", b"\0\0\0\x08"), b"COMM", bytes(4), 10),
    "caf": lambda: field(sound("CAF", "PCM_16"), b"data", bytes(8)),
}


@pytest.mark.parametrize("kind", LEFT)
def test_samples_whose_header_was_never_written_are_read_with_a_warning(kind, caplog):
    found = load_sound(LEFT[kind](), RATE)
    assert np.array_equal(found, load_sound(sound("WAV"), RATE))
    assert "says that it has no samples; those that follow it are read" in caplog.text


def test_an_empty_sound_is_empty_though_other_chunks_follow():
    empty = sound("WAV", samples=NOISE[:0])
    for end in (b"", b"LIST\x04\0\0\0INFO", b"id3 \x03\0\0\0abc\0"):
        with pytest.raises(MediaDecodeError, match="it is empty"):
            load_sound(empty + end, RATE)


def test_what_follows_a_whole_file_does_no_harm():
    expected = load_sound(sound("WAV"), RATE)
    for data in (sound("WAV") + b"LIST\x04\0\0\0INFO", sound("WAV") + bytes(100), sound("AU") + bytes(4)):
        assert np.array_equal(load_sound(data, RATE)[: len(expected)], expected)
    ogg = sound("OGG")
    assert np.array_equal(load_sound(ogg + b"TAG" + bytes(125), RATE), load_sound(ogg, RATE))
    assert len(load_video(film("mp4", "mpeg4") + b"<html>" + bytes(40), num_frames=8)) == 8


def test_a_stream_without_its_last_page_is_read_with_a_warning(caplog):
    data = sound("OGG", samples=np.tile(NOISE, 4))
    assert not caplog.text
    load_sound(data[: data.rindex(b"OggS")], RATE)
    assert "ends without its last page" in caplog.text


def test_under_a_policy_a_cut_sound_is_logged_with_both_lengths(caplog):
    from transformers import BertTokenizer, WhisperFeatureExtractor

    import mm

    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate("[PAD] [UNK] [CLS] [SEP] a".split())})
    processor = mm.MMProcessor(tokenizer=tokenizer, feature_extractor=WhisperFeatureExtractor(chunk_length=2))
    whole = sound("WAV")
    batch = processor(audio=[whole, whole[: len(whole) // 2]], text=["a", "a"], on_error="skip", return_tensors="pt")
    assert len(batch["input_ids"]) == 1
    assert "audio[1][0]" in caplog.text and "it promises 2.00 s, and 1.00 s are there" in caplog.text


# ---------------------------------------------------------------------------------------------------------- padding


CLICK = np.zeros(44100, np.float32)
CLICK[20000:20400] = 0.8 * np.sin(2 * np.pi * 3000 * np.arange(400) / 44100)


def lateness(found: np.ndarray) -> int:
    return int(np.argmax(np.correlate(found, CLICK[20000:20400], "valid"))) - 20000


@pytest.mark.parametrize(
    ("kind", "codec"), [("ipod", "aac"), ("mp4", "aac"), ("mov", "aac"), ("mp4", "libmp3lame"), ("mp4", "alac")]
)
def test_what_an_edit_list_leaves_out_is_no_sound(kind, codec):
    found = load_sound(track(kind, codec, CLICK, 44100), 44100)
    assert lateness(found) == 0 and len(found) == 44100


def test_mp3_and_ogg_tell_their_padding():
    for data in (sound("MP3", samples=CLICK, rate=44100), sound("OGG", samples=CLICK, rate=44100)):
        found = load_sound(data, 44100)
        assert lateness(found) == 0 and abs(len(found) - 44100) <= 64


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def test_the_note_of_itunes_tells_the_padding():
    plain = track("ipod", "aac", CLICK, 44100, use_editlist="0")
    bare = load_sound(plain, 44100)
    assert lateness(bare) == 1024 and len(bare) == 44100 + 1024  # nothing tells it
    note = f" 00000000 {1024:08X} {956:08X} {44100:016X}" + " 00000000" * 8
    item = box(b"mean", bytes(4) + b"com.apple.iTunes") + box(b"name", bytes(4) + b"iTunSMPB")
    item = box(b"----", item + box(b"data", struct.pack(">II", 1, 0) + note.encode()))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    moov = plain.rindex(b"moov") - 4
    size = int.from_bytes(plain[moov : moov + 4], "big")
    content = plain[moov + 8 : moov + size] + box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", item)))
    found = load_sound(plain[:moov] + box(b"moov", content) + plain[moov + size :], 44100)
    assert lateness(found) == 0 and len(found) == 44100


def test_the_place_of_a_file_is_kept():
    for data in (sound("WAV"), sound("MP3"), sound("OGG"), film("avi", "mpeg4"), film("matroska", "mpeg4")):
        file = io.BytesIO(data)
        wholeness.check_whole(file)
        assert file.tell() == 0


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_files_that_were_put_one_after_the_other_are_refused(kind):
    one = sound(kind)
    assert len(load_sound(one, RATE)) > 0
    with pytest.raises(MediaDecodeError, match=f"several {kind} files"):
        load_sound(one + one, RATE)
    with pytest.raises(MediaDecodeError, match=f"several {kind} files"):
        load_sound(one + sound(kind, samples=NOISE[::-1].copy()), RATE)
