"""Transformers' own pipelines for MM's models: pictures go through MM's door, and tasks of texts take them too.

Transformers reads a picture before the processor sees it: transparent turns black, 16 bits turn white, and URLs are
fetched from any address. These classes replace Transformers' for its tasks: they leave the reading to MM and raise an
error for a head that was not in the checkpoint. For models of other libraries they return Transformers' own class.
"""

# The parts of a pipeline are never None: each of these tasks loads its own.

import warnings
from typing import Any

from transformers import AutoProcessor
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline
from transformers.pipelines.feature_extraction import FeatureExtractionPipeline
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from ..configuration.mm import MMConfig
from .images.load import load_image
from .images.processor import PictureOptions
from .sounds.load import MAX_SECONDS, load_sound

LONGEST_SPEECH = 8 * MAX_SECONDS  # four hours; `mm transcribe` reads files of any length
# Media that a sample may have, by the arguments of MMProcessor.
MEDIA = {"image": "images", "images": "images", "video": "videos", "videos": "videos", "audio": "audio"}


class ForMM:
    """Of a pipeline's class the one for MM's models; others get the class that it stands in for."""

    theirs: type
    model: Any
    task: Any
    processor: Any
    image_processor: Any
    feature_extractor: Any

    def __new__(cls, *args: Any, model: Any = None, **kwargs: Any):
        if isinstance(getattr(model, "config", None), MMConfig):
            return super().__new__(cls)
        return cls.theirs(*args, model=model, **kwargs)

    def __init__(self, *args: Any, model: Any, **kwargs: Any):
        model.check_trained()
        pipeline: Any = super()
        pipeline.__init__(*args, model=model, **kwargs)


class PictureFirst(ForMM):
    """A pipeline that takes one picture, which `load_image` reads by the settings of the image processor."""

    def preprocess(self, image, *args, **kwargs):
        own = isinstance(self.image_processor, PictureOptions)
        read = self.image_processor.load(image) if own else load_image(image)
        pipeline: Any = super()
        return pipeline.preprocess(read, *args, **kwargs)


class MMZeroShotImageClassification(PictureFirst, ZeroShotImageClassificationPipeline):
    theirs = ZeroShotImageClassificationPipeline


class MMImageClassification(PictureFirst, ImageClassificationPipeline):
    theirs = ImageClassificationPipeline


class MMImageFeatureExtraction(PictureFirst, ImageFeatureExtractionPipeline):
    theirs = ImageFeatureExtractionPipeline


class MMImageTextToText(ForMM, ImageTextToTextPipeline):
    """Pictures as they come, for MMProcessor to read; chats went that way already."""

    theirs = ImageTextToTextPipeline

    def __call__(self, images: Any = None, text=None, **kwargs):
        paths: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
        if text is None and paths and all(isinstance(path, (str, bytes)) for path in paths):
            raise ValueError(  # Transformers takes a path without a text for the text
                f"text is missing with images={images!r:.80}: give text='' for a caption, or only text= for a text "
                "without a picture; pipeline('mm-captioning') takes only pictures"
            )
        pictures: Any = images  # of any kind: Transformers' annotation names paths and PIL images
        return super().__call__(pictures, text, **kwargs)

    def preprocess(self, inputs=None, timeout=None, continue_final_message=None, **options):
        if not isinstance(inputs, dict):
            return super().preprocess(inputs, timeout, continue_final_message, **options)
        given = options.pop("processor_kwargs", None) or options
        images = inputs["images"] if "images" in inputs else inputs["image"]
        read = self.processor(images=images, text=inputs["text"], return_tensors="pt", **given).to(dtype=self.dtype)
        return read | {"text": inputs["text"]}


class MMSpeechRecognition(ForMM, AutomaticSpeechRecognitionPipeline):
    """Sounds of any rate and number of channels, which `load_sound` reads; an array without a rate has the feature
    extractor's. Timestamps, languages and chunks are those of Transformers' pipeline for Whisper."""

    theirs = AutomaticSpeechRecognitionPipeline

    @property
    def type(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]: an attribute there
        return "seq2seq_whisper"

    @type.setter
    def type(self, value: str) -> None:
        """Transformers decides by the model's type, which is MM's."""

    def preprocess(self, inputs, *args, **kwargs):
        rate = self.feature_extractor.sampling_rate
        more: dict[str, Any] = {}
        if isinstance(inputs, dict):
            more = {name: value for name, value in inputs.items() if name not in ("raw", "array", "path", "bytes")}
            inputs = {"array" if name == "raw" else name: value for name, value in inputs.items() if name != "stride"}
        sound = load_sound(inputs, rate, source_rate=rate, max_seconds=LONGEST_SPEECH)
        return super().preprocess({**more, "raw": sound, "sampling_rate": rate}, *args, **kwargs)


class TextAndMedia(ForMM):
    """Takes {"text": ..., "image": ...} as well; for a text without media a warning says what else the model takes."""

    def preprocess(self, inputs, **options):
        if is_sample(inputs):
            media = media_of(inputs)
            if media:
                return self.read(inputs["text"], {k: [v] for k, v in media.items() if v is not None}, **options)
        config = self.model.config
        if config.modalities and config.fusion_type != "none":
            warnings.warn(
                f"{self.task} reads only the text, but this model also "
                f"takes {' and '.join(config.modalities)}: "
                'pass {"text": ..., "image": ...}, with None for a missing one',
                stacklevel=2,
            )
        return self.read_text(inputs, **options)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """Samples one by one where they may bring media: Transformers' batches lose which picture is whose."""
        pipeline: Any = super()
        size, steps = 1 if self.model.config.modalities else batch_size, (preprocess_params, forward_params)
        return pipeline.get_iterator(inputs, num_workers, size, *steps, postprocess_params)

    def read_text(self, text, **options):
        pipeline: Any = super()
        return pipeline.preprocess(text, **options)

    def read(self, text: str, media: dict[str, list], **options):
        return self.processed(text=[text], **media, **options)

    def processed(self, **given):
        """Model inputs by the processor, or by the one in the model's folder if the pipeline has none."""
        if self.processor is None:
            if not self.model.name_or_path:
                raise ValueError("a model without a folder brings no processor; pass processor=... to pipeline()")
            self.processor = AutoProcessor.from_pretrained(self.model.name_or_path)
        return self.processor(**given, return_tensors="pt").to(dtype=self.model.dtype)


class MMFeatureExtraction(TextAndMedia, FeatureExtractionPipeline):
    theirs = FeatureExtractionPipeline


class MMTextClassification(TextAndMedia, TextClassificationPipeline):
    """A question goes to the text encoder if the model has one, with a picture and without."""

    theirs = TextClassificationPipeline

    def read_text(self, text, **options):
        read = super().read_text(text, **options)
        if not self.model.config.has_text_encoder:
            return read
        if "token_type_ids" in read and not read["token_type_ids"].any():
            del read["token_type_ids"]  # the context has none, and zeros say nothing; a pair's raise an error
        renamed = {"input_ids", "attention_mask"}
        return {f"context_{name}" if name in renamed else name: ids for name, ids in read.items()}

    def read(self, text, media, **options):
        side = "context_text" if self.model.config.has_text_encoder else "text"
        return self.processed(**{side: [text]}, **media, **options)


class MMFillMask(TextAndMedia, FillMaskPipeline):  # pyright: ignore[reportIncompatibleMethodOverride]: by name only
    """The tokenizer reads the text: to the processor a mask that a user writes is plain text."""

    theirs = FillMaskPipeline

    def read(self, text, media, **options):
        return {**(self.processed(**media) if media else {}), **self.read_text(text, **options)}


def media_of(sample: dict[str, Any]) -> dict[str, Any]:
    """The media of a sample by the processor's names. Raises: ValueError for other keys, or for one twice."""
    media = {MEDIA[name]: value for name, value in sample.items() if name in MEDIA}
    if media and len(media) + 1 < len(sample):
        raise ValueError(f"a sample is a text and its media, {sorted(MEDIA)}, each kind once; got {sorted(sample)}")
    return media


def is_sample(inputs: Any) -> bool:
    return isinstance(inputs, dict) and "text" in inputs
