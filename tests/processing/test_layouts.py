"""Sounds of several channels: each layout is mixed by the formula of ITU-R BS.775, from every format that tells it."""

import io
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from mm import MediaDecodeError
from mm.processing.sounds.layouts import mix_of
from mm.processing.sounds.load import load_sound

RATE = 16000
# Five channels become two: L' = L + c C + c Ls, R' = R + c C + c Rs, and these one by their mean.
C = 0.5**0.5
LEFT_AND_RIGHT = {"FL": (1, 0), "FR": (0, 1), "FC": (C, C), "LFE": (0, 0), "BL": (C, 0), "BR": (0, C), "SL": (C, 0),
                  "SR": (0, C), "BC": (0.5, 0.5), "FLC": (1, 0), "FRC": (0, 1)}  # fmt: skip
LAYOUTS = {
    "2.1": "FL FR LFE", "3.0": "FL FR FC", "quad": "FL FR BL BR", "4.0": "FL FR FC BC", "5.0": "FL FR FC BL BR",
    "5.0(side)": "FL FR FC SL SR", "5.1": "FL FR FC LFE BL BR", "5.1(side)": "FL FR FC LFE SL SR",
    "6.1": "FL FR FC LFE BC SL SR", "7.1": "FL FR FC LFE BL BR SL SR", "7.1(wide)": "FL FR FC LFE BL BR FLC FRC",
}  # fmt: skip
BITS: list[str] = [*"FL FR FC LFE BL BR FLC FRC BC SL SR".split()]


def expected_mix(names: str) -> np.ndarray:
    return np.array([sum(LEFT_AND_RIGHT[name]) / 2 for name in names.split()])


def tones(count: int) -> np.ndarray:
    """(samples, channels), half a second; each channel of its own pitch."""
    at = np.arange(RATE // 2)[:, None] / RATE
    return (0.1 * np.sin(2 * np.pi * (200 + 100 * np.arange(count)) * at)).astype(np.float32)


def levels(found: np.ndarray, count: int) -> np.ndarray:
    """How much of each channel's tone is in a sound."""
    middle = slice(1600, 6400)
    return np.linalg.lstsq(tones(count)[middle].astype(float), found[middle].astype(float), rcond=None)[0]


def wav(samples: np.ndarray, mask: int, kind: str = "WAVEX") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype="PCM_24")
    data = buffer.getvalue()
    place = data.index(b"fmt " if kind == "WAVEX" else b"fmt \xf3") + (8 if kind == "WAVEX" else 24) + 20
    return data[:place] + mask.to_bytes(4, "little") + data[place + 4 :]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_wav_files_say_the_speakers(layout):
    names = LAYOUTS[layout].split()
    data = wav(tones(len(names)), sum(1 << BITS.index(name) for name in names))
    found = levels(load_sound(data, RATE), len(names))
    assert np.abs(found - expected_mix(LAYOUTS[layout])).max() <= 1e-3
    assert np.abs(mix_of(names, len(names)) - expected_mix(LAYOUTS[layout])).max() <= 1e-7


TOLD = [("mov", "pcm_s16le", "2.1"), ("mov", "pcm_s16le", "quad"), ("mov", "pcm_s16le", "7.1"),
        ("ipod", "alac", "5.1"), ("mp4", "aac", "5.1"), ("mp4", "aac", "7.1"),
        *(("matroska", "flac", layout) for layout in ("2.1", "quad", "5.0", "5.1", "5.1(side)", "7.1"))]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec", "layout"), TOLD)
def test_layouts_of_containers_say_the_speakers(kind, codec, layout):
    samples, buffer = tones(LAYOUTS[layout].count(" ") + 1), io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        stream: Any = out.add_stream(codec, rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            (samples * 32767).astype(np.int16).reshape(1, -1), format="s16", layout=layout
        )
        frame.sample_rate, frame.pts = RATE, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    found = levels(load_sound(buffer.getvalue(), RATE), samples.shape[1])
    assert np.abs(found - expected_mix(LAYOUTS[layout])).max() <= (0.02 if codec == "aac" else 1e-3)


OGG = {3: "FL FC FR", 4: "FL FR BL BR", 5: "FL FC FR BL BR", 6: "FL FC FR BL BR LFE", 7: "FL FC FR SL SR BC LFE"}
FLAC = {3: "FL FR FC", 4: "FL FR BL BR", 5: "FL FR FC BL BR", 6: LAYOUTS["5.1"], 7: LAYOUTS["6.1"], 8: LAYOUTS["7.1"]}


@pytest.mark.parametrize("count", range(3, 9))
@pytest.mark.parametrize("kind", ["FLAC", "OGG", "WAV", "AIFF", "CAF", "W64"])
def test_formats_without_a_layout_of_their_own_have_their_order(kind, count):
    if kind == "OGG" and count == 8:
        kind = "AU"  # soundfile does not write so many
    buffer = io.BytesIO()
    soundfile.write(buffer, tones(count), RATE, format=kind)
    found = levels(load_sound(buffer.getvalue(), RATE), count)
    assert np.abs(found - expected_mix((OGG if kind == "OGG" else FLAC)[count])).max() <= (
        0.05 if kind == "OGG" else 1e-3
    )


def test_a_flac_file_may_name_its_speakers_in_a_comment():
    buffer = io.BytesIO()
    soundfile.write(buffer, tones(3), RATE, format="FLAC")
    data = buffer.getvalue()
    note = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x000B"
    block = (4).to_bytes(4, "little") + b"test" + (1).to_bytes(4, "little") + len(note).to_bytes(4, "little") + note
    streaminfo = data[4:42]
    assert streaminfo[0] & 127 == 0
    named = data[:4] + bytes([0]) + streaminfo[1:] + b"\x04" + len(block).to_bytes(3, "big") + block + data[42:]
    assert np.abs(levels(load_sound(named, RATE), 3) - expected_mix(LAYOUTS["2.1"])).max() <= 1e-3


def test_speech_in_the_centre_of_five_channels_is_as_loud_as_from_two_speakers():
    speech = np.zeros((8000, 6), np.float32)
    speech[:, 2] = 0.5
    found = load_sound(wav(speech, 0x3F), RATE)
    assert np.allclose(found, 0.5**1.5, atol=1e-6)


def test_one_and_two_channels_are_themselves_and_their_mean():
    assert mix_of(("FC",), 1).tolist() == [1] and mix_of(("FL", "FR"), 2).tolist() == [0.5, 0.5]
    assert mix_of(("FC", "LFE"), 2).tolist() == [1, 0] and mix_of(("BL", "BR"), 2).tolist() == [0.5, 0.5]
    assert mix_of(("NONE",) * 6, 6).tolist() == mix_of(None, 6).tolist()


def test_many_channels_without_a_layout_are_an_error_in_words():
    buffer = io.BytesIO()
    soundfile.write(buffer, tones(9), RATE, format="WAV")
    with pytest.raises(MediaDecodeError, match="9 channels .*speakers"):
        load_sound(buffer.getvalue(), RATE)
    with pytest.raises(ValueError, match="4 channels .*speakers"):
        load_sound(tones(4), RATE, source_rate=RATE)
