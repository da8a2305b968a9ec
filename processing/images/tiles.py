"""A large picture as tiles of one size and a small picture of the whole, each of which a model reads as a picture.

    ┌──┬──┬──┐                               <row 1, column 1> tokens … <row 1, column 3> tokens \\n
    │  │  │  │  2 rows, 3 columns, whole     <row 2, column 1> …                                \\n
    ├──┼──┼──┤                               <whole> tokens
    └──┴──┴──┘

The sizes are those of Idefics3 (Laurençon et al. 2024, arXiv:2408.12637 §3.2).
"""

import math
from dataclasses import dataclass, fields
from string import Formatter
from typing import Any, NamedTuple

from PIL import Image

# Options that say how a picture gets its size.
_OF_WHOLE_PICTURES = ("size", "do_resize", "resize_mode", "do_center_crop", "crop_size", "do_crop_content")
_LARGEST = 4096  # the longest side of a picture that is cut


class Box(NamedTuple):
    """What a tile shows of a picture, in its pixels; of a tile with a black border more than there is."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def all_of(cls, rows: int, columns: int, width: float, height: float, left: float = 0, top: float = 0):
        """Those of tiles that are (width, height) each, row by row, the first at (left, top)."""
        places = [(row, column) for row in range(rows) for column in range(columns)]
        return [cls(left + column * width, top + row * height, width, height) for row, column in places]


@dataclass(frozen=True)
class Tiles:
    """size: sides of a tile in pixels. longest_edge: pixels of the longest side that a picture is resized to first.
    do_split: False makes one tile of each picture.

    tile, whole: what stands in the text for a tile, with {row} and {column} from 1, and for the whole picture, after
    it where there are tiles; {image} is the place of the tokens. row_end: after a row of tiles; before_whole: before
    the whole, after tiles.
    """

    size: int
    longest_edge: int
    do_split: bool = True
    tile: str = "{image}"
    row_end: str = ""
    before_whole: str = ""
    whole: str = "{image}"

    @classmethod
    def of(cls, settings: Any) -> "AnyTiles | None":
        """Of a processor's settings; None without. Raises ValueError for others than these, or those of the other
        kinds."""
        if settings is None:
            return None
        if isinstance(settings, dict) and "max_tiles" in settings:
            return CanvasTiles.of(settings)
        if isinstance(settings, dict) and "resolutions" in settings:
            return GridTiles.of(settings)
        known: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        if not isinstance(settings, dict) or not {"size", "longest_edge"} <= settings.keys() <= known.keys():
            raise ValueError(
                f"tiles={settings!r}; accepted is a dict with size, longest_edge and others of {list(known)}"
            )
        for name, value in settings.items():
            if type(value) is not known[name] or (known[name] is int and value < 1):
                raise ValueError(f"tiles[{name!r}]={value!r}; accepted is a {known[name].__name__}, numbers from 1")
        for name, may in (("tile", {"row", "column"}), ("whole", set())):
            _check_text(name, settings.get(name, "{image}"), may)
        return cls(**settings)

    def cut(self, picture: Image.Image, resample: int) -> tuple[list[Image.Image], int, int]:
        """The tiles row by row and the whole, of `size` pixels each, and the numbers of rows and columns; 0 and 0 for
        a picture that is one tile."""
        picture = picture.resize(_scaled(*picture.size, self.longest_edge), resample)
        if not self.do_split:
            return [picture.resize((self.size, self.size), resample)], 0, 0
        columns, rows = (side // self.size for side in _whole_tiles(*picture.size, self.size))
        picture = picture.resize((columns * self.size, rows * self.size), resample)
        if rows == columns == 1:
            return [picture], 0, 0
        corners = [(column * self.size, row * self.size) for row in range(rows) for column in range(columns)]
        cut = [picture.crop((left, top, left + self.size, top + self.size)) for left, top in corners]
        return [*cut, picture.resize((self.size, self.size), resample)], rows, columns

    def boxes(self, width: int, height: int) -> list[Box]:
        """What each tile of a picture shows, in the order of `cut`."""
        sides = _whole_tiles(*_scaled(width, height, self.longest_edge), self.size) if self.do_split else (0, 0)
        columns, rows = (side // self.size for side in sides)
        whole = Box(0, 0, width, height)
        return [whole] if rows * columns <= 1 else [*Box.all_of(rows, columns, width / columns, height / rows), whole]

    def text(self, rows: int, columns: int, image: str) -> str:
        """What stands for a picture in the text, `image` for the tokens of each tile."""
        lines = [
            "".join(self.tile.format(row=row + 1, column=column + 1, image=image) for column in range(columns))
            for row in range(rows)
        ]
        before = "".join(line + self.row_end for line in lines) + (self.before_whole if rows else "")
        return before + self.whole.format(image=image)


@dataclass(frozen=True)
class GridTiles:
    """Tiles that a model joins again, without a text around them (LLaVA-NeXT): the whole, then those of the picture in
    the best of some resolutions, in the middle of black.

    size: sides of a tile in pixels. resolutions: heights and widths in pixels, of whole tiles.
    """

    size: int
    resolutions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "GridTiles":
        """Of a processor's settings. Raises ValueError for others than these."""
        size: Any = settings.get("size")
        pairs: Any = settings["resolutions"]
        fits = settings.keys() == {"size", "resolutions"} and type(size) is int and size > 0
        fits = fits and isinstance(pairs, list | tuple) and len(pairs) > 0
        for pair in pairs if fits else ():
            fits = fits and isinstance(pair, list | tuple) and len(pair) == 2
            fits = fits and all(type(side) is int and side > 0 and side % size == 0 for side in pair)
        if not fits:
            raise ValueError(
                f"tiles={settings}; accepted with resolutions are size, a whole number of pixels from 1, and a list "
                "of [height, width] that are multiples of it"
            )
        return cls(size, tuple((high, wide) for high, wide in pairs))

    def cut(self, picture: Image.Image, resample: int) -> tuple[list[Image.Image], int, int, int, int]:
        """The whole and its tiles row by row, the numbers of their rows and columns, and height and width of the
        picture, which say how much of them is black."""
        high, wide = self.best(picture.height, picture.width)
        shrunk = picture.resize(_inside(*picture.size, wide, high), resample)
        canvas = Image.new("RGB", (wide, high))
        canvas.paste(shrunk, ((wide - shrunk.width) // 2, (high - shrunk.height) // 2))
        corners = [(left, top) for top in range(0, high, self.size) for left in range(0, wide, self.size)]
        cut = [canvas.crop((left, top, left + self.size, top + self.size)) for left, top in corners]
        whole = picture.resize((self.size, self.size), resample)
        return [whole, *cut], high // self.size, wide // self.size, picture.height, picture.width

    def boxes(self, width: int, height: int) -> list[Box]:
        """What each tile of a picture shows, in the order of `cut`."""
        high, wide = self.best(height, width)
        inside_wide, inside_high = _inside(width, height, wide, high)
        across, down = width / inside_wide, height / inside_high  # pixels of the picture in one of the canvas
        border = -((wide - inside_wide) // 2) * across, -((high - inside_high) // 2) * down
        rows, columns = high // self.size, wide // self.size
        cut = Box.all_of(rows, columns, self.size * across, self.size * down, *border)
        return [Box(0, 0, width, height), *cut]

    def best(self, height: int, width: int) -> tuple[int, int]:
        """The resolution in which most of a picture's pixels stay, and of those the one with the least black."""

        def kept(resolution: tuple[int, int]) -> tuple[int, int]:
            high, wide = resolution
            scale = min(wide / width, high / height)
            pixels = min(int(width * scale) * int(height * scale), width * height)
            return pixels, pixels - high * wide

        return max(self.resolutions, key=kept)

    def grid(self, cut: tuple[int, ...], count: int) -> list[int]:
        """A picture's row of image_grids: rows and columns of its tiles, of `count` tokens each, and of the tokens
        that are not black."""
        side = math.isqrt(count)
        rows, columns, height, width = cut
        high, wide = rows * side, columns * side
        if width / height > wide / high:
            high -= (high - int(round(height * (wide / width), 7))) // 2 * 2
        else:
            wide -= (wide - int(round(width * (high / height), 7))) // 2 * 2
        return [rows, columns, high, wide]

    def number(self, cut: tuple[int, ...], count: int) -> int:
        """How many tokens a picture has: those of the whole, and of the grid, whose rows end with one more."""
        _, _, high, wide = self.grid(cut, count)
        return count + high * (wide + 1)


@dataclass(frozen=True)
class CanvasTiles:
    """Tiles that a model reads together, without a text around them (Llama 3.2 Vision): those of the picture on a
    canvas, at its top left, black elsewhere.

    size: sides of a tile in pixels. max_tiles: of a canvas.
    """

    size: int
    max_tiles: int

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "CanvasTiles":
        """Of a processor's settings. Raises ValueError for others than these."""
        fits = settings.keys() == {"size", "max_tiles"}
        if not fits or any(type(value) is not int or value < 1 for value in settings.values()):
            raise ValueError(f"tiles={settings}; accepted with max_tiles is size, both whole numbers from 1")
        return cls(**settings)

    def cut(self, picture: Image.Image, resample: int) -> tuple[list[Image.Image], int, int]:
        """The tiles row by row, and the numbers of their rows and columns."""
        rows, columns = self.best(picture.height, picture.width)
        high, wide = rows * self.size, columns * self.size
        canvas = Image.new("RGB", (wide, high))
        canvas.paste(picture.resize(self._inside(*picture.size, wide, high), resample))
        corners = [(left, top) for top in range(0, high, self.size) for left in range(0, wide, self.size)]
        return [canvas.crop((left, top, left + self.size, top + self.size)) for left, top in corners], rows, columns

    def boxes(self, width: int, height: int) -> list[Box]:
        """What each tile of a picture shows, in the order of `cut`."""
        rows, columns = self.best(height, width)
        wide, high = self._inside(width, height, columns * self.size, rows * self.size)
        return Box.all_of(rows, columns, self.size * width / wide, self.size * height / high)

    def best(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the canvas that enlarges a picture least, or where none holds it, shrinks it least; of
        those that are alike the smallest."""
        sides = range(1, self.max_tiles + 1)
        canvases = [(rows, columns) for rows in sides for columns in sides if rows * columns <= self.max_tiles]
        scales = [min(rows * self.size / height, columns * self.size / width) for rows, columns in canvases]
        larger = [scale for scale in scales if scale >= 1]
        chosen = min(larger) if larger else max(scales)
        alike = [canvas for canvas, scale in zip(canvases, scales, strict=True) if scale == chosen]
        return min(alike, key=lambda canvas: canvas[0] * canvas[1])

    def _inside(self, width: int, height: int, wide: int, high: int) -> tuple[int, int]:
        """Sides in a picture's aspect: inside the canvas, and as large as a tile, but else no larger than it is."""
        most_wide, most_high = min(max(width, self.size), wide), min(max(height, self.size), high)
        by_width, by_height = most_wide / width, most_high / height
        if by_width < by_height:
            return most_wide, min(math.floor(height * by_width) or 1, most_high)
        return min(math.floor(width * by_height) or 1, most_wide), most_high

    def grid(self, cut: tuple[int, ...], count: int) -> list[int]:
        """A picture's row of image_grids: rows and columns of its tiles."""
        return list(cut)

    def number(self, cut: tuple[int, ...], count: int) -> int:
        """How many places a picture has in the text, which reads it by cross-attention."""
        return 1


AnyTiles = Tiles | GridTiles | CanvasTiles
TOLD = (GridTiles, CanvasTiles)  # of which the model is told where they stand


def told_columns(settings: dict[str, Any] | None) -> int:
    """How many numbers of image_grids a picture has by a processor's `tiles`; 0: the model is told none."""
    return 4 if "resolutions" in (settings or {}) else 2 if "max_tiles" in (settings or {}) else 0


def check_cutting(tiles: AnyTiles, images: Any, options: dict[str, Any]) -> None:
    """Raises ValueError for an image processor, and for options of a call, that make pixels of another size of a
    tile."""
    wanted = {"height": tiles.size, "width": tiles.size}
    size = {side: getattr(images.size, side, None) for side in wanted}
    if size != wanted:
        raise ValueError(f"tiles of size={tiles.size} need an image processor of that size; it has size={size}")
    given = [name for name in _OF_WHOLE_PICTURES if options.get(name) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: not read where pictures are cut into tiles; leave out, or set tiles=None"
        )


def _inside(width: int, height: int, wide: int, high: int) -> tuple[int, int]:
    """The largest sides in a picture's aspect inside of others."""
    if wide / width < high / height:
        return wide, min(math.ceil(height * (wide / width)), high)
    return min(math.ceil(width * (high / height)), wide), high


def _check_text(name: str, text: str, may: set[str]) -> None:
    try:
        found = [field for _, field, *_ in Formatter().parse(text) if field is not None]
    except ValueError as fault:
        raise ValueError(f"tiles[{name!r}]={text!r}: {fault}") from None
    if found.count("image") != 1 or not {*found} <= {"image", *may}:
        also = "".join(f", and {{{one}}} if you like" for one in sorted(may))
        raise ValueError(f"tiles[{name!r}]={text!r}; accepted is a text with {{image}} once{also}")


def _scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """The longest side at `longest` pixels, the other one even; both bounded."""
    aspect, is_wide = width / height, width >= height
    short = int(longest / aspect) if is_wide else int(longest * aspect)
    short = max(short + short % 2, 1)
    if longest > _LARGEST:
        aspect = longest / short if is_wide else short / longest
        longest, short = _LARGEST, max(1, int(_LARGEST / aspect) if is_wide else int(_LARGEST * aspect))
    return (longest, short) if is_wide else (short, longest)


def _whole_tiles(width: int, height: int, size: int) -> tuple[int, int]:
    """Sides that are multiples of a tile: the longest rounded up, the other in its aspect, rounded up too."""
    aspect = width / height

    def up(side: int) -> int:
        return math.ceil(side / size) * size

    if width >= height:
        return up(width), up(int(up(width) / aspect))
    return up(int(up(height) * aspect)), up(height)
