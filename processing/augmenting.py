"""What training changes of the media of samples: pictures and frames, the times of videos, stretches of sounds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .images.augment import PictureAugmentation
from .images.processor import PictureOptions
from .sample_seeds import Draws

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


class MediaAugmentation:
    """The `augment` of MMDataCollator: "saved", a callable(image, rng), or None.

    Attributes:
        pictures: for pictures and the frames of videos: a PictureAugmentation, a callable, or None.
        clips: whether the times of videos and stretches of sounds change too, as the processor's settings say.
    """

    def __init__(self, processor: Any, augment: Augment | str | None):
        if augment is not None and augment != "saved" and not callable(augment):
            raise ValueError(f'augment={augment!r}; accepted are "saved", a callable(image, rng), or None')
        self.processor = processor
        self.clips = augment == "saved"
        self.pictures: Any = _saved(processor) if augment == "saved" else augment

    def clip_rngs(self, names: list[str], use: str, draws: Draws) -> list[np.random.Generator] | None:
        """Random numbers for the times of videos, or for sounds, of samples of these names; None outside of training,
        and where none are wanted."""
        return draws.rngs(names, use) if self.clips and draws.augments else None

    @property
    def is_own(self) -> bool:
        return isinstance(self.pictures, PictureAugmentation)

    def view(self, rng: np.random.Generator, told: list[str]) -> Callable[[Callable], Callable]:
        """Of a function that reads a picture, one that reads another view of it, no larger than the view needs."""

        def reader(load: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
            def read(source: Any, **options: Any) -> Image.Image:
                picture = load(source, box_of=lambda size: self.pictures.box(size, rng), **options)
                return self.pictures.changed(picture, rng, told)

            return read

        return reader

    def changed(self, medium: Any, rng: np.random.Generator, draws: Draws, name: str, told: list[str]) -> Any:
        """A picture, or frames that all see the same random numbers; None stays None.

        name: the sample's, in draws. told: all texts of the sample.
        """
        if isinstance(medium, list):
            return [self.changed(frame, draws.rng(name), draws, name, told) for frame in medium]
        if medium is None:
            return None
        picture = self.pictures(medium, rng, told) if self.is_own else self.pictures(medium, rng)
        if not isinstance(picture, Image.Image):
            kind = type(picture).__name__
            raise TypeError(f"augment takes a PIL image and an rng and returns a PIL image; got {kind}")
        reader = self.processor.image_processor
        return (
            picture if self.is_own or not isinstance(reader, PictureOptions) else reader.load(picture)
        )  # of any mode


def _saved(processor: Any) -> PictureAugmentation | None:
    """That of pictures. Raises ValueError where the processor keeps none for any kind of media."""
    settings = getattr(processor.image_processor, "augmentation", None)
    if settings is None and not processor.frame_jitter and processor.audio_augmentation is None:
        raise ValueError(
            'augment="saved", but the processor has no image_processor.augmentation, frame_jitter or '
            "audio_augmentation; set one of them"
        )
    return None if settings is None else PictureAugmentation(**settings)


def told_of_each(samples: Sequence[Mapping[str, Any]], keys: Sequence[Any]) -> dict[Any, list[str]]:
    """All that the samples of each key say about its pictures."""
    told = {key: [] for key in keys}
    for sample, key in zip(samples, keys, strict=True):
        told[key] += _told_of(sample)
    return told


def _told_of(sample: Mapping[str, Any]) -> list[str]:
    values = [sample.get(name) for name in ("text", "suffix", "context_text")]
    return [words for value in values for words in (value if isinstance(value, (list, tuple)) else [value]) if words]
