"""Makes the files of this folder: sounds and films that lie about themselves, or hide something else.

python tests/attacks/clips/make.py   (`test_clip_attacks.py` says what each must give)

Headers are written by hand. What must be encoded comes from soundfile and PyAV, whose bytes differ from version to
version; the files are kept, and need to be made again only with this script.
"""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

FOLDER = Path(__file__).parent
TONE = (0.4 * np.sin(np.arange(800) / 5)).astype(np.float32)  # 0.1 s at 8 kHz
SILENCE = bytes(1600)
MOST = 2**32 - 1


# ------------------------------------------------------------------------------------------------------------ sounds


def riff(*chunks: tuple[bytes, bytes, int | None], kind: bytes = b"RIFF", form: bytes = b"WAVE") -> bytes:
    """Chunks of (name, body, the size that is told; None for the true one)."""
    body = b"".join(
        name + struct.pack("<I", len(data) if told is None else told) + data + b"\0" * (len(data) % 2)
        for name, data, told in chunks
    )
    return kind + struct.pack("<I", 4 + len(body)) + form + body


def wav(
    data: bytes = SILENCE,
    rate: int = 8000,
    channels: int = 1,
    bits: int = 16,
    coding: int = 1,
    block: int | None = None,
    told: int | None = None,
) -> bytes:
    frame = channels * bits // 8 % 65536 if block is None else block
    header = struct.pack("<HHIIHH", coding, channels, rate, rate * frame % 2**32, frame, bits)
    return riff((b"fmt ", header, None), (b"data", data, told))


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, TONE, 8000, format=kind, **options)
    return buffer.getvalue()


def flac_crc(data: bytes, polynomial: int, width: int) -> int:
    crc, top = 0, 1 << width - 1
    for byte in data:
        crc ^= byte << width - 8
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc & top else 0)) & (2 * top - 1)
    return crc


def flac(frames: int, total: int, rate: int = 1000, size: int = 65_535) -> bytes:
    """Constant silence, 15 bytes for each frame of `size` samples; `total` is what the header tells."""
    info = struct.pack(">HH", size, size) + bytes(6) + struct.pack(">Q", rate << 44 | 15 << 36 | total) + bytes(16)
    data = b"fLaC" + b"\x80\0\0\x22" + info
    for number in range(frames):
        head = b"\xff\xf8\x70\x08" + bytes([number]) + struct.pack(">H", size - 1)
        head += bytes([flac_crc(head, 0x07, 8)])
        frame = head + b"\0\0\0"  # a constant subframe, and its value
        data += frame + struct.pack(">H", flac_crc(frame, 0x8005, 16))
    return data


def aiff(frames: int, rate: bytes = b"\x40\x0b\xfa\0\0\0\0\0\0\0") -> bytes:
    common = struct.pack(">hIh", 1, frames, 16) + rate
    sound = struct.pack(">II", 0, 0) + SILENCE
    body = (
        b"AIFF" + b"COMM" + struct.pack(">I", len(common)) + common + b"SSND" + struct.pack(">I", len(sound)) + sound
    )
    return b"FORM" + struct.pack(">I", len(body)) + body


def patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """`data` with `value` so far behind the start of `mark`."""
    place = data.index(mark) + offset
    return data[:place] + value + data[place + len(value) :]


def last_page(ogg: bytes, granule: int) -> bytes:
    """An OGG whose last page says that so many samples came before; its checksum is made anew."""
    place = ogg.rindex(b"OggS")
    page = bytearray(ogg[place:])
    page[6:14], page[22:26] = struct.pack("<q", granule), bytes(4)
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 2**31 else 0)) & MOST
    page[22:26] = struct.pack("<I", crc)
    return ogg[:place] + bytes(page)


def track(container: str = "ipod", codec: str = "aac", rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def sounds() -> dict[str, bytes]:
    floats = struct.pack("<4f", 0.5, float("nan"), 0.5, 0)
    ogg, mp3, m4a = encoded("OGG"), encoded("MP3"), track()
    return {
        "rate_0.wav": wav(rate=0),
        "rate_4_g.wav": wav(rate=MOST),
        "rate_1.wav": wav(rate=1),
        "channels_0.wav": wav(channels=0),
        "channels_65535.wav": wav(channels=65_535),
        "channels_17.wav": wav(channels=17, data=bytes(340)),
        "bits_0.wav": wav(bits=0, block=2),
        "bits_65535.wav": wav(bits=65_535, block=2),
        "block_0.wav": wav(block=0),
        "coding_unknown.wav": wav(coding=0xFFFE - 1),
        "length_4_gb.wav": wav(told=MOST),
        "length_0.wav": wav(told=0),
        "length_odd.wav": wav(told=1601),
        "no_data.wav": wav(b""),
        "no_format.wav": riff((b"data", SILENCE, None)),
        "chunk_of_4_gb.wav": riff((b"LIST", b"INFO", MOST), (b"data", SILENCE, None)),
        "nan.wav": wav(floats, bits=32, coding=3),
        "infinite.wav": wav(floats.replace(struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))), bits=32,
                            coding=3),
        "too_loud.wav": wav(struct.pack("<2f", 3e38, -3e38), bits=32, coding=3),
        "length_2_63.rf64": riff((b"ds64", struct.pack("<QQQI", 2**63, 2**63, 2**63, 0), None),
                                 (b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16), None),
                                 (b"data", SILENCE, MOST), kind=b"RF64"),
        "samples_68_g.flac": flac(1, 2**36 - 1),
        "endless.flac": flac(40, 0),
        "length_unknown.flac": flac(2, 0),
        "more_than_told.flac": flac(40, 65_535),
        "truncated.flac": encoded("FLAC")[:300],
        "granule_2_62.ogg": last_page(ogg, 2**62),
        "granule_negative.ogg": last_page(ogg, -(2**62)),
        "truncated.ogg": ogg[: len(ogg) // 2],
        "tag_of_256_mb.mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + mp3,
        "truncated.mp3": mp3[:30],
        "frames_4_g.aiff": aiff(MOST),
        "rate_infinite.aiff": aiff(800, b"\x7f\xff\x80" + bytes(7)),
        "rate_negative.aiff": aiff(800, b"\xc0\x0b\xfa" + bytes(7)),
        "offset_4_gb.au": b".snd" + struct.pack(">IIIII", MOST, MOST, 3, 8000, 1) + SILENCE,
        "playlist.m4a": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "page.wav": b"<html><script>alert(1)</script></html>",
        "polyglot_page.wav": wav() + b"<script>alert(1)</script>",
        "polyglot_archive.m4a": m4a + b"PK\x05\x06" + bytes(18),
        "truncated.m4a": m4a[: len(m4a) // 2],
        "duration_told.m4a": patched(m4a, b"mdhd", 20, struct.pack(">I", 2**31 - 1)),
        "packet_of_74_hours.m4a": patched(m4a, b"stts", 16, struct.pack(">I", 2**31 - 1)),
        "time_scale_0.m4a": patched(m4a, b"mdhd", 16, bytes(4)),
        "packets_4_g.m4a": patched(m4a, b"stsz", 12, struct.pack(">I", MOST)),
        "box_of_4_gb.m4a": patched(m4a, b"stsd", -4, struct.pack(">I", MOST)),
        "elsewhere.m4a": patched(m4a, b"url ", 4, bytes(4)),
        "channels_65535.m4a": patched(m4a, b"mp4a", 20, b"\xff\xff"),
        "codec_ac3.mka": track("matroska", "ac3", 48_000),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- films


def film(
    container: str = "mp4", codec: str = "mpeg4", frames: int = 8, size: tuple[int, int] = (16, 16), step: int = 25
) -> bytes:
    """Brighter by `step` from frame to frame, and a keyframe every fourth; a still where step is 0."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 4 if step else 10_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), step * number % 250, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def growing_film() -> bytes:
    """A film of PNGs, 16 x 16 by its header and its first half, and much larger in the second."""
    small, large, buffer = (io.BytesIO() for _ in range(3))
    Image.new("L", (16, 16)).save(small, "PNG")
    Image.new("1", (5_000, 4_000)).save(large, "PNG", compress_level=9)
    with av.open(buffer, "w", format="mov") as out:
        stream: Any = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        for number in range(4):
            packet = av.Packet((small if number < 2 else large).getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 25)
            out.mux(packet)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    buffer, frames = io.BytesIO(), [Image.new("L", (4, 4), 80 * number) for number in range(3)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def boxes(depth: int) -> bytes:
    """MP4 boxes in boxes."""
    data = b""
    for _ in range(depth):
        data = struct.pack(">I", len(data) + 8) + b"moov" + data
    return b"\0\0\0\x10ftypisom\0\0\2\0" + data


def films() -> dict[str, bytes]:
    mp4, avi, mkv, mjpeg = film(), film("avi"), film("matroska"), film("mov", "mjpeg", 2)
    return {
        "truncated.mp4": mp4[: len(mp4) // 2],
        "no_pictures.mp4": track("mp4"),
        "no_index.mp4": mp4[: mp4.index(b"moov") - 4],
        "index_alone.mp4": b"\0\0\0\x10ftypisom\0\0\2\0" + mp4[mp4.index(b"moov") - 4 :],
        "boxes_in_boxes.mp4": boxes(2_000),
        "duration_told.mp4": patched(mp4, b"mdhd", 20, struct.pack(">I", 2**31 - 1)),
        "frame_of_46_hours.mp4": patched(mp4, b"stts", 16, struct.pack(">I", 2**31 - 1)),
        "time_scale_0.mp4": patched(mp4, b"mdhd", 16, bytes(4)),
        "frames_4_g.mp4": patched(mp4, b"stsz", 12, struct.pack(">I", MOST)),
        "times_4_g.mp4": patched(mp4, b"stts", 8, struct.pack(">I", MOST)),
        "chunks_elsewhere.mp4": patched(mp4, b"stco", 12, struct.pack(">I", MOST)),
        "elsewhere.mp4": patched(mp4, b"url ", 4, bytes(4)),
        "turned_by_nan.mp4": patched(mp4, b"tkhd", 44, b"\x7f\xff\xff\xff" * 9),
        "65535_square.mov": patched(mjpeg, b"jpeg", 28, b"\xff\xff\xff\xff"),
        "polyglot_archive.mp4": mp4 + b"PK\x05\x06" + bytes(18),
        "polyglot_page.mp4": mp4 + b"<script>alert(1)</script>",
        "65535_square.avi": patched(avi, b"strf", 12, struct.pack("<ii", 65_535, 65_535)),
        "8000_square.avi": patched(film("avi", "ffv1", 2), b"strf", 12, struct.pack("<ii", 8_000, 8_000)),
        "8000_square.mov": patched(mjpeg, b"\xff\xc0", 5, struct.pack(">HH", 8_000, 8_000)),
        "rate_0.avi": patched(avi, b"strh", 28, bytes(8)),
        "frames_4_g.avi": patched(avi, b"strh", 40, struct.pack("<I", MOST)),
        "truncated.avi": avi[:300],
        "growing.mov": growing_film(),
        "one_keyframe.mkv": film("matroska", "libx264", 1300, step=0),
        "duration_nan.mkv": patched(mkv, b"\x44\x89\x88", 3, struct.pack(">d", float("nan"))),
        "duration_infinite.mkv": patched(mkv, b"\x44\x89\x88", 3, struct.pack(">d", float("inf"))),
        "duration_long.mkv": patched(mkv, b"\x44\x89\x88", 3, struct.pack(">d", 1e15)),
        "element_of_72_pb.mkv": b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + mkv[5:],
        "truncated.mkv": mkv[: len(mkv) // 2],
        "codec_raw.mkv": film("matroska", "rawvideo", 1),
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "list_of_files.mp4": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "numbers.mp4": b"/etc/passwd%03d.png\n",
        "page.mp4": b"<html><script>alert(1)</script></html>",
        "screen_65535.gif": patched(animation("GIF"), b"GIF89a", 6, b"\xff\xff\xff\xff"),
        "frames_2_g.png": patched(animation("PNG"), b"acTL", 4, struct.pack(">I", 2**31 - 1)),
        "truncated.gif": animation("GIF")[:100],
    }  # fmt: skip


def main() -> None:
    for name, content in (sounds() | films()).items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
