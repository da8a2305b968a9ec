"""Sheets of pictures: those that a search found, with rank, score and name, and those that were drawn of texts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

from ..processing.images.limits import MediaDecodeError
from ..processing.images.load import load_image
from ..processing.videos.load import load_video

SIDE, LINE, ACROSS = 192, 14, 5
DRAWN_SIDE = 128


def draw_sheet(hits: Sequence[dict[str, Any]], output: str | os.PathLike, title: str = "") -> None:
    """Writes a picture of the hits, five in a row, the best first; .png, .jpg or .webp by the ending.

    Raises: ValueError for another ending, or no hits.
    """
    path = check_sheet(output)
    if not hits:
        raise ValueError("nothing was found, so there is nothing to draw")
    rows = -(-len(hits) // ACROSS)
    cell = SIDE + 2 * LINE + 8
    sheet = Image.new("RGB", (min(ACROSS, len(hits)) * (SIDE + 8) + 8, rows * cell + LINE + 12), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 4), _fitting(draw, title, sheet.width - 16), fill="black")
    for number, hit in enumerate(hits):
        left, top = 8 + number % ACROSS * (SIDE + 8), LINE + 8 + number // ACROSS * cell
        sheet.paste(_thumbnail(hit), (left, top))
        score = f"{number + 1}.  {hit['score']:.3f}" + (f"  match {hit['match']:.3f}" if "match" in hit else "")
        draw.text((left, top + SIDE + 2), score, fill="black")
        draw.text((left, top + SIDE + LINE), _fitting(draw, Path(hit["path"]).name, SIDE), fill="#555555")
    sheet.save(path)


def check_sheet(output: str | os.PathLike) -> Path:
    """The path of a sheet. Raises ValueError for another ending, or no folder to write it in."""
    path = Path(output)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"the sheet {str(path)!r} must end in .png, .jpg or .webp")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} for the sheet {path.name!r}")
    if path.is_dir():
        raise ValueError(f"the sheet {str(path)!r} is a folder")
    return path


def draw_rows(rows: Sequence[tuple[str, Sequence[Image.Image]]], output: str | os.PathLike) -> None:
    """Writes a picture with a row for each text, its pictures side by side, small ones at whole multiples of their
    size.

    Raises: ValueError as `draw_sheet`.
    """
    path = check_sheet(output)
    side = DRAWN_SIDE
    across, height = max(len(pictures) for _, pictures in rows), side + LINE + 8
    sheet = Image.new("RGB", (across * (side + 8) + 8, len(rows) * height + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (text, pictures) in enumerate(rows):
        top = 8 + number * height
        draw.text((8, top), _fitting(draw, text, sheet.width - 16), fill="black")
        for place, picture in enumerate(pictures):
            times = max(1, side // max(picture.size))
            large = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
            sheet.paste(ImageOps.contain(large, (side, side)), (8 + place * (side + 8), top + LINE))
    sheet.save(path)


def _thumbnail(hit: dict[str, Any]) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE), "#eeeeee")
    try:
        if hit["kind"] == "image":
            picture = load_image(hit["path"], draft_size=SIDE)
        elif hit["kind"] == "video":
            picture = load_video(hit["path"], num_frames=1)[0]
        else:
            raise MediaDecodeError("a sound")
    except (MediaDecodeError, ImportError) as error:
        ImageDraw.Draw(tile).text((8, SIDE // 2), str(error)[:28], fill="black")
        return tile
    small = ImageOps.contain(picture, (SIDE, SIDE))
    tile.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return tile


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """A text in one line of at most `width` pixels; letters that the font lacks become question marks."""
    text = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    while text and draw.textlength(text) > width:
        text = text[:-2].rstrip(".") + "." if len(text) > 2 else ""
    return text
