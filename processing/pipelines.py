"""Transformers' own pipelines for MM's models: pictures go through MM's door, and classifiers get them beside a text.

Transformers reads a picture before the processor sees it: what is transparent turns black, 16 bits turn white, and
URLs are fetched from any address. The front door puts these classes, which leave the reading to MM, in the place of
Transformers' for its tasks; for a model of anybody else they make Transformers' own.
"""

# The parts of a pipeline are there: each of these tasks loads its own.
# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false, reportCallIssue=false
# pyright: reportOptionalCall=false, reportOptionalMemberAccess=false

import warnings
from typing import Any

from transformers import AutoProcessor
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from ..configuration.mm import MMConfig
from .images.load import load_image
from .images.processor import PictureOptions

# What a sample may bring beside its text, by the arguments of MMProcessor.
MEDIA = {"image": "images", "images": "images", "video": "videos", "videos": "videos", "audio": "audio"}


class ForMM:
    """Of a pipeline's class the one for MM's models; others get the class that it stands in for."""

    theirs: type

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any):
        if isinstance(getattr(model, "config", None), MMConfig):
            return super().__new__(cls)
        return cls.theirs(*args, model=model, **kwargs)


class PictureFirst(ForMM):
    """A pipeline that takes one picture, which `load_image` reads by the settings of the image processor."""

    def preprocess(self, image, *args, **kwargs):
        own = isinstance(self.image_processor, PictureOptions)
        read = self.image_processor.load(image) if own else load_image(image)
        return super().preprocess(read, *args, **kwargs)


class MMZeroShotImageClassification(PictureFirst, ZeroShotImageClassificationPipeline):
    theirs = ZeroShotImageClassificationPipeline


class MMImageClassification(PictureFirst, ImageClassificationPipeline):
    theirs = ImageClassificationPipeline


class MMImageFeatureExtraction(PictureFirst, ImageFeatureExtractionPipeline):
    theirs = ImageFeatureExtractionPipeline


class MMImageTextToText(ForMM, ImageTextToTextPipeline):
    """Pictures as they come, for MMProcessor to read; chats went that way already."""

    theirs = ImageTextToTextPipeline

    def preprocess(self, inputs=None, timeout=None, continue_final_message=None, **options):
        if not isinstance(inputs, dict):
            return super().preprocess(inputs, timeout, continue_final_message, **options)
        given = options.pop("processor_kwargs", None) or options
        images = inputs["images"] if "images" in inputs else inputs["image"]
        read = self.processor(images=images, text=inputs["text"], return_tensors="pt", **given).to(dtype=self.dtype)
        return read | {"text": inputs["text"]}


class MMTextClassification(ForMM, TextClassificationPipeline):
    """Takes {"text": ..., "image": ...} as well; a text by itself is classified, and a warning says so."""

    theirs = TextClassificationPipeline

    def preprocess(self, inputs, **options):
        media = {MEDIA[name]: value for name, value in inputs.items() if name in MEDIA} if is_sample(inputs) else {}
        if not media and self.model.config.modalities:
            kinds = " and ".join(self.model.config.modalities)
            warnings.warn(
                f"text-classification reads the text alone, and this model takes {kinds} beside it: pass "
                '{"text": ..., "image": ...}, with None for what there is not',
                stacklevel=2,
            )
        if not media:
            return super().preprocess(inputs, **options)
        unknown = sorted(set(inputs) - {"text", *MEDIA})
        if unknown or len(media) < len(set(inputs) & set(MEDIA)):
            raise ValueError(
                f"a sample is a text and its media, {sorted(MEDIA)}, each kind once; got {sorted(inputs)}"
            )
        side = "context_text" if self.model.config.has_text_encoder else "text"
        given = {name: [value] for name, value in media.items() if value is not None}
        if self.processor is None:
            if not self.model.name_or_path:
                raise ValueError("a model without a folder brings no processor; pass processor=... to pipeline()")
            self.processor = AutoProcessor.from_pretrained(self.model.name_or_path)
        return self.processor(**given, **{side: [inputs["text"]]}, return_tensors="pt", **options).to(dtype=self.dtype)


def is_sample(inputs: Any) -> bool:
    return isinstance(inputs, dict) and "text" in inputs
