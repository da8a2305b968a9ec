"""A request's pictures and text as tensors of one row, read in a thread beside the model's; rows are joined later.

T tokens of a row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..modeling_mm.tasks.pipelines import composed, read_for_head
from .tower_cache import TowerCache, stacked

_LEFT = ("input_ids", "attention_mask", "context_ranges")  # padded on that side
_RIGHT = ("context_input_ids", "context_attention_mask")


@dataclass
class Read:
    """keys: of the pictures, SHA-256, and sources, their bytes; pixels: of those that were not known when they were
    read; media: of pictures that no cache keeps; rows: tensors (1, T) of the texts, context_ranges (1, T, 2)."""

    keys: list[str] = field(default_factory=list)
    sources: dict[str, bytes] = field(default_factory=dict)
    pixels: dict[str, torch.Tensor] = field(default_factory=dict)
    media: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def shape(self) -> tuple:
        """Rows of equal shape can be joined."""
        media = tuple((name, tuple(value.shape)) for name, value in sorted(self.media.items()))
        return len(self.keys), media, tuple(sorted(self.rows))


class Reader:
    """Reads by the processor of one model."""

    def __init__(self, model: Any, processor: Any, cache: TowerCache | None):
        self.model, self.processor, self.cache = model, processor, cache
        tokenizer = processor.tokenizer
        self.pad = 0 if tokenizer is None or tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def read(self, pictures: Sequence[bytes], text: str | None = None) -> Read:
        """text: a question for the text encoder, where there is one, or the beginning of what is written."""
        read, has_places = Read(), self.processor.placeholders is not None and bool(pictures)
        beside = self._beside(pictures, read)
        if text is not None or has_places:
            side = self.processor.prompt_side(self.model.config)
            given = self._asked(composed(text or ""), len(pictures)) if has_places else {"text": composed(text or "")}
            made = self.processor(
                **{side: [given.pop("text")]}, **given, **beside, add_eos_token=False, truncation=False,
                return_tensors="pt",
            )  # fmt: skip
            self._keep(made, read)
        return read

    def _asked(self, text: str, pictures: int) -> dict[str, Any]:
        """A text about pictures, with their places."""
        if pictures == 1:
            return self.processor.about("image", text)
        token = self.processor.placeholders["image"]
        return {"text": text if token in text else token * pictures + text}

    def _beside(self, pictures: Sequence[bytes], read: Read) -> dict[str, Any]:
        """Pictures that are cut into tiles are read in one call with their text, whose places are as many; here others
        are, by themselves."""
        if self.processor.tiles is None or not pictures:
            self._pictures(pictures, read)
            return {}
        self._check_sees()
        return {"images": [list(pictures)]}

    def _keep(self, made: Any, read: Read) -> None:
        read.rows = {name: made[name] for name in (*_LEFT, *_RIGHT) if name in made}
        if self.processor.tiles is not None:
            read.media |= {name: value for name, value in made.items() if name not in read.rows}

    def read_for_head(self, pictures: Sequence[bytes], text: str | None = None) -> Read:
        read = Read()
        self._pictures(pictures, read)
        if text is not None:
            made = read_for_head(self.model, self.processor, text)
            read.rows = {name: made[name] for name in (*_LEFT, *_RIGHT) if name in made}
        return read

    def whole_text(self, text: str) -> Read:
        """A text that is compared, closed as the processor closes it."""
        made = self.processor(text=[composed(text)], truncation=False, return_tensors="pt")
        return Read(rows={name: made[name] for name in _LEFT if name in made})

    def chat(self, pictures: Sequence[bytes], messages: list[dict[str, Any]]) -> Read:
        """Messages by the chat template; the places of pictures are blocks without a source."""
        read = Read()
        if self._beside(pictures, read):
            sources = iter(pictures)
            messages = [
                {**message, "content": [
                    {**block, "image": next(sources)} if block["type"] == "image" else block
                    for block in message["content"]
                ]}
                for message in messages
            ]  # fmt: skip
        made = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        self._keep(made, read)
        return read

    def _pictures(self, pictures: Sequence[bytes], read: Read) -> None:
        if not pictures:
            return
        self._check_sees()
        if self.cache is None:
            made = self.processor(images=[list(pictures)], return_tensors="pt")
            read.media = {name: value for name, value in made.items() if name.startswith("pixel")}
            return
        for picture in pictures:
            key = hashlib.sha256(picture).hexdigest()
            read.keys.append(key)
            read.sources[key] = picture
            if key not in self.cache and key not in read.pixels:
                read.pixels[key] = self._pixels(picture)

    def _check_sees(self) -> None:
        if "image" not in (self.model.config.modalities or ()):
            raise ValueError("this model reads no pictures")

    def _pixels(self, picture: bytes) -> torch.Tensor:
        return self.processor(images=[picture], return_tensors="pt")["pixel_values"]

    def inputs(self, reads: Sequence[Read]) -> dict[str, torch.Tensor]:
        """The model's inputs for several requests of one shape."""
        inputs: dict[str, torch.Tensor] = {}
        device, dtype = self.model.device, self.model.dtype
        if reads[0].keys:
            assert self.cache is not None
            keys = [key for read in reads for key in read.keys]
            pixels = {key: value for read in reads for key, value in read.pixels.items()}
            sources = {key: source for read in reads for key, source in read.sources.items()}
            for key in keys:
                if key not in self.cache and key not in pixels:  # it has left the cache since it was read
                    pixels[key] = self._pixels(sources[key])
            seen = iter(self.cache.of(keys, pixels))
            inputs |= stacked([[next(seen) for _ in read.keys] for read in reads])
        for name in reads[0].media:
            inputs[name] = torch.cat([read.media[name] for read in reads])
        for name in reads[0].rows:
            fill = self.pad if name.endswith("ids") else 0
            inputs[name] = _padded([read.rows[name] for read in reads], fill, left=name in _LEFT)
        return {
            name: value.to(device, dtype if torch.is_floating_point(value) else None) for name, value in inputs.items()
        }


def _padded(rows: Sequence[torch.Tensor], fill: int, left: bool) -> torch.Tensor:
    """Rows (1, T, ...) of unequal T as one tensor."""
    width = max(row.shape[1] for row in rows)
    padded = []
    for row in rows:
        empty = row.new_full((1, width - row.shape[1], *row.shape[2:]), fill)
        padded.append(torch.cat([empty, row] if left else [row, empty], dim=1))
    return torch.cat(padded)
