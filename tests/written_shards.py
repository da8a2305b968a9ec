"""Small shards of coloured squares with a text each."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def picture(number: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (40 * number % 256, 90, 200 - 7 * number % 200)).save(file, "PNG")
    return file.getvalue()


def write_shards(folder: Path, sizes: list[int], empty: tuple[int, ...] = ()) -> list[str]:
    """shard-0.tar, ... with so many samples; the texts "000", "001", ..., blank for the numbers in `empty`, sorted."""
    number, texts = 0, []
    for place, size in enumerate(sizes):
        with tarfile.open(folder / f"shard-{place}.tar", "w") as tar:
            for _ in range(size):
                texts.append(" " if number in empty else f"{number:03d}")
                for field, data in (("png", picture(number)), ("txt", texts[-1].encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{field}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                number += 1
    return sorted(texts)
