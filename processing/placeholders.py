"""Media that have a place in the text: the tokens that stand for them, and what the text may read of each.

"a <image> b <image> c"     media_reading
a | p p p | b | p p p | c   "in_text": one placeholder for each token of a picture (LLaVA)
p p p p p p | bos a b c     "before_text": the same, and what opens the text comes after the pictures at its beginning
                            (BLIP-2, PaliGemma); a text that names no place has them there
a | p     | b | p     | c   else the picture is read by cross-attention, from its placeholder on:
-   0       0   1       1   "last": the last picture before a token (Flamingo); none before the first. A text that
                            names no place has them before it
-   0       0   0 1     0 1 "before": all pictures before it
                            "last_run": the pictures that stand together before it (Llama 3.2 Vision); those at the
                        beginning of a text stand before what opens it
all of them                 "all"
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .images.limits import check_choice
from .images.tiles import TOLD, AnyTiles, CanvasTiles, Tiles, check_cutting
from .pairing import Samples
from .row_faults import RowError

READINGS = ("in_text", "before_text", "last", "last_run", "before", "all")
_FRONT = ("before_text", "last", "last_run")  # where a text that names no place has its media before it
_INSIDE = ("in_text", "before_text")
_BESIDE = ("last", "last_run", "before")
BY_TOOLS = (*_FRONT, "in_text")  # where tools that make a text about a medium do so
_EMPTY = "on_error='placeholder' leaves the places of broken media empty; use 'skip'"
KINDS = {"image": "images", "video": "videos", "audio": "audio"}  # kind -> its argument of a call


@dataclass(frozen=True)
class Placeholders:
    """tokens: {kind: token of the vocabulary}; ids: {kind: its id}; counts: {kind: tokens of one item, as the model
    reads it, or of one tile}; reading: of READINGS. tiles: into which pictures are cut; None: into none. parts: of
    the rows of a call with tiles, ids that stand for each of its pictures; None: not known yet.
    told: what the model is told of the tiles of a call. separator: the id that stands before, between and after
    placeholders that stand together; None: none."""

    tokens: dict[str, str]
    ids: dict[str, int]
    counts: dict[str, int]
    reading: str
    tiles: AnyTiles | None = None
    parts: list[list[list[int]]] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    separator: int | None = None

    @classmethod
    def of_processor(cls, processor: Any) -> "Placeholders | None":
        """As `of`, of the settings of an MMProcessor, which may have a separator, or know what stands for pictures."""
        settings = (processor.placeholders, processor.tokens_per_item, processor.media_reading, processor.tiles)
        found, token = cls.of(processor.tokenizer, *settings), processor.placeholder_separator
        if found is not None and processor._parts is not None:
            found = replace(found, parts=processor._parts)
        if token is None:
            return found
        if found is None or found.tiles is not None:
            raise ValueError(f"placeholder_separator={token!r} stands beside placeholders, which have no tiles")
        return replace(found, separator=_id_of(processor.tokenizer, token))

    @classmethod
    def of(cls, tokenizer: Any, tokens: Any, counts: Any, reading: str, tiles: Any = None) -> "Placeholders | None":
        """Of a processor's settings; None without. Raises ValueError for what does not fit together."""
        check_choice("media_reading", reading, READINGS)
        tiles = Tiles.of(tiles)
        readings = _BESIDE if isinstance(tiles, CanvasTiles) else _INSIDE
        if tiles is not None and (
            not isinstance(tokens, dict) or tokens.keys() != {"image"} or reading not in readings
        ):
            raise ValueError(
                f'these tiles need placeholders={{"image": token}} and media_reading of {", ".join(readings)}; got '
                f"placeholders={tokens}, media_reading={reading!r}"
            )
        if tokens is None:
            if counts is not None or reading != "in_text":
                raise ValueError('tokens_per_item and media_reading need placeholders, such as {"image": "<image>"}')
            return None
        counts = {} if counts is None else counts
        for name, given in (("placeholders", tokens), ("tokens_per_item", counts)):
            if not isinstance(given, dict) or not given.keys() <= KINDS.keys():
                raise ValueError(f"{name}={given!r}; accepted is a dict with keys of {', '.join(KINDS)}")
        if reading != "all" and tokens.keys() != counts.keys():
            raise ValueError(
                f"media_reading={reading!r} needs tokens_per_item of {', '.join(tokens)}: how many tokens the model "
                f"reads of each; got {counts}"
            )
        if reading not in (*_INSIDE, "all") and tokens.keys() != {"image"}:
            raise ValueError(f"media_reading={reading!r} is for pictures only; placeholders={tokens}")
        for kind, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"tokens_per_item[{kind!r}]={count!r}; accepted are whole numbers from 1")
        if tokenizer is None:
            raise ValueError("placeholders need a tokenizer that has them")
        ids = {kind: _id_of(tokenizer, token) for kind, token in tokens.items()}
        return cls(dict(tokens), ids, dict(counts), reading, tiles)

    @property
    def is_inside(self) -> bool:
        """Whether the tokens of media stand in the text."""
        return self.reading in _INSIDE

    @property
    def repeats(self) -> dict[int, int]:
        """{id: how often it stands in a row for one item}."""
        return {self.ids[kind]: self.counts[kind] if self.reading in _INSIDE else 1 for kind in self.tokens}

    def in_front(
        self, prompts: list[list] | None, media: dict[str, list[list]], readings: tuple[str, ...] = _FRONT
    ) -> list[list] | None:
        """The prompts of each sample, where the media stand before the text: with their placeholders, unless they have
        some; samples without prompts get one. readings: for which of READINGS."""
        if self.reading not in readings or not media:
            return prompts
        counts = {kind: [len(held) for held in media[name]] for kind, name in KINDS.items() if name in media}
        prompts = [[""] for _ in next(iter(counts.values()))] if prompts is None else prompts
        tokens = [
            "".join(self.tokens.get(kind, "") * count[sample] for kind, count in counts.items())
            for sample in range(len(prompts))
        ]
        return [
            [
                row if any(token in (row or "") for token in self.tokens.values()) else opening + (row or "")
                for row in rows
            ]
            for rows, opening in zip(prompts, tokens, strict=True)
        ]

    def beside(
        self, samples: Samples, tokenizer: Any, images: Any, options: dict[str, Any]
    ) -> tuple[Samples, "Placeholders"]:
        """Samples with their media in front, where they stand there, and with pictures as their tiles; and the
        placeholders, which then know what stands for each picture. images, options: the image processor, and what the
        call asks of it."""
        samples = replace(samples, prompts=self.in_front(samples.prompts, samples.media))
        if self.tiles is None or "images" not in samples.media:
            return samples, self
        cut, parts, told = self.cut(samples.media["images"], tokenizer, images, options)
        of_rows = [own for own, prompts in zip(parts, samples.prompts or [], strict=False) for _ in prompts]
        return replace(samples, media={**samples.media, "images": cut}), replace(self, parts=of_rows, told=told)

    def cut(
        self, entries: list[list], tokenizer: Any, images: Any, options: dict[str, Any]
    ) -> tuple[list[list], list[list[list[int]]], dict[str, Any]]:
        """The pictures of each sample as their tiles, the ids that stand for each of its pictures, and what the model
        is told of them: image_grids, where it joins them again."""
        tiles = self.tiles
        assert tiles is not None
        check_cutting(tiles, images, options)
        count = self.counts["image"]
        cut, parts, grids, known = [], [], [], {}
        for pictures in entries:
            if any(picture is None for picture in pictures):
                raise ValueError(_EMPTY)
            split = [tiles.cut(picture, images.resample) for picture in pictures]
            cut.append([tile for made, *_ in split for tile in made])
            found = [tuple(grid) for _, *grid in split]
            for grid in found:
                if grid in known:
                    continue
                if isinstance(tiles, TOLD):
                    known[grid] = [self.ids["image"]] * tiles.number(grid, count)
                else:
                    rows, columns = grid
                    text = tiles.text(rows, columns, self.tokens["image"])
                    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                    known[grid] = self.expanded(ids, [])[0]
            parts.append([known[grid] for grid in found])
            grids.append([tiles.grid(grid, count) for grid in found] if isinstance(tiles, TOLD) else [])
        most = max(map(len, grids), default=0)
        none = [[0] * len(one) for own in grids for one in own][:1]
        told = {"image_grids": [own + none * (most - len(own)) for own in grids]} if most else {}
        return cut, parts, told

    def rows(self, rows: list[list[int]], spans: list[list]) -> tuple[list[list[int]], list[list]]:
        """Rows of ids, and their tokens' positions, with what stands for each item. Raises ValueError where texts with
        places for tiles come without their pictures, or with others than they have."""
        if self.tiles is None:
            done = [self.expanded(ids, own) for ids, own in zip(rows, spans, strict=True)]
        else:
            done = []
            for number, (ids, own) in enumerate(zip(rows, spans, strict=True)):
                parts = [] if self.parts is None else self.parts[number]
                if self.number(ids) != len(parts):
                    raise RowError(
                        f"text {number} has {self.number(ids)} {self.tokens['image']!r}, but {len(parts)} pictures "
                        f"came in the same call; how many tokens stand for one is known by its size (tiles)"
                    )
                left = iter(parts)
                filled = [next(left) if token in self.repeats else [token] for token in ids]
                places = zip(own, filled, strict=True) if own else ()
                done.append(([token for part in filled for token in part], [at for at, part in places for _ in part]))
        return [ids for ids, _ in done], [own for _, own in done]

    def opening(self, ids: list[int]) -> int:
        """How many placeholders of an expanded row stand before what opens its text."""
        if self.reading not in ("before_text", "last_run"):
            return 0
        return next((place for place, token in enumerate(ids) if token not in self.repeats), len(ids))

    def expanded(self, ids: list[int], spans: list) -> tuple[list[int], list]:
        """A row with each placeholder as often as its item has tokens, and the positions of its tokens in the text."""
        repeats = self.repeats
        if self.separator is not None:
            ids, spans = self._separated(ids, spans)
        many = [repeats.get(token, 1) for token in ids]
        spans = [span for span, times in zip(spans, many, strict=True) for _ in range(times)] if spans else spans
        return [token for token, times in zip(ids, many, strict=True) for _ in range(times)], spans

    def _separated(self, ids: list[int], spans: list) -> tuple[list[int], list]:
        """A row with separators around its placeholders, where it has none yet, each with the position of its own."""
        row, places, ends = [], [], self.separator
        for token, span in zip(ids, spans or [None] * len(ids), strict=True):
            is_place = token in self.repeats
            after = bool(row) and row[-1] in self.repeats and token != ends
            before = is_place and not (row and row[-1] == ends) and not after
            added = [ends] * (after or before)
            row += [*added, token]
            places += [span] * (1 + len(added))
        if row and row[-1] in self.repeats:
            row, places = [*row, ends], [*places, places[-1]]
        return row, places if spans else spans

    def number(self, ids: list[int]) -> int:
        """How many placeholders a row has."""
        return sum(token in self.repeats for token in ids)

    def columns(self, rows: list[list[int]], samples: Samples, on_error: str) -> dict[str, Any]:
        """What rows of ids need beside themselves: context_ranges, or nothing. Rows that come without any media are
        not compared with them (a collator reads texts and media apart); the model refuses what does not fit."""
        if samples.media:
            if on_error == "placeholder":
                raise ValueError(_EMPTY)
            self.check(rows, samples.media, [of for of, texts in enumerate(samples.prompts or []) for _ in texts])
        ranges = self.ranges(rows) if samples.media or any(map(self.number, rows)) else None
        return {} if ranges is None else {"context_ranges": ranges}

    def check(self, rows: list[list[int]], media: dict[str, list[list]], owners: list[int]) -> None:
        """Raises ValueError where a row has other places than its sample has media."""
        for kind, name in KINDS.items():
            entries = media.get(name)
            if kind not in self.tokens:
                if entries is not None:
                    raise ValueError(f"{name} were given, but placeholders={self.tokens} has no token for them")
                continue
            if self.parts is not None:  # pictures with tiles, which were counted by `rows`
                continue
            token_id = self.ids[kind]
            for number, (row, owner) in enumerate(zip(rows, owners, strict=True)):
                places = row.count(token_id) // self.repeats[token_id]
                given = 0 if entries is None else len(entries[owner])
                if places != given:
                    raise RowError(
                        f"text {number} has {places} {self.tokens[kind]!r}, but its sample has {given} of {name}: "
                        f"each has its place in the text"
                    )

    def ranges(self, rows: list[list[int]]) -> list[list[list[int]]] | None:
        """context_ranges: for each row and token the first and the last + 1 context token that it reads."""
        if self.reading in (*_INSIDE, "all"):
            return None
        size = self.counts["image"]
        marks = np.array(rows) == self.ids["image"]  # (R, T)
        end = marks.cumsum(1)
        if self.reading == "before":
            first = np.zeros_like(end)
        elif self.reading == "last":
            first = np.maximum(end - 1, 0)
        else:
            begins = marks & ~np.pad(marks, ((0, 0), (1, 0)))[:, :-1]  # the first of those that stand together
            first = np.maximum.accumulate(np.where(begins, end - 1, 0), axis=1)
        return (np.stack([first, end], axis=-1) * size).tolist()


def _id_of(tokenizer: Any, token: Any) -> int:
    found = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(f"the placeholder {token!r} is no token of the tokenizer's vocabulary")
    if token not in tokenizer.get_added_vocab():
        raise ValueError(f"the placeholder {token!r} is a plain word of the vocabulary; add it as a special token")
    return found
