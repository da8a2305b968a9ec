"""Transformers' own pipelines for MM's models: pictures go through MM's door, and tasks of texts take them too.

Transformers reads a picture before the processor sees it: transparent turns black, 16 bits turn white, and URLs are
fetched from any address. These classes replace Transformers' for its tasks: they leave the reading to MM and raise an
error for a head that was not in the checkpoint. For models of other libraries they return Transformers' own class.
"""

# The parts of a pipeline are never None: each of these tasks loads its own.

import copy
import warnings
from typing import Any

import torch
from transformers import AutoProcessor, BatchFeature
from transformers.pipelines.audio_classification import AudioClassificationPipeline
from transformers.pipelines.automatic_speech_recognition import AutomaticSpeechRecognitionPipeline
from transformers.pipelines.feature_extraction import FeatureExtractionPipeline
from transformers.pipelines.fill_mask import FillMaskPipeline
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.image_feature_extraction import ImageFeatureExtractionPipeline
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.video_classification import VideoClassificationPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from ..configuration.mm import MMConfig
from .images.load import load_image
from .images.processor import PictureOptions
from .media_kinds import ARGUMENT_OF as MEDIA
from .sounds.load import MAX_SECONDS, load_sound, long_enough, of_silence

LONGEST_SPEECH = 8 * MAX_SECONDS  # four hours; `mm transcribe` reads files of any length


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for given in (*args[:1], *(kwargs.get(name) for name in ("inputs", "images", "text"))):
            if isinstance(given, (list, tuple)) and not given:
                raise ValueError("the list of inputs is empty; give one or several")
        pipeline: Any = super()
        return pipeline.__call__(*args, **kwargs)

    def check_model_type(self, supported_models):
        """MM's classes are registered in addition to those that Transformers lists."""

    def processed(self, **given):
        """Model inputs by the processor, or by the one in the model's folder if the pipeline has none."""
        if self.processor is None:
            if not self.model.name_or_path:
                raise ValueError("a model without a folder brings no processor; pass processor=... to pipeline()")
            self.processor = AutoProcessor.from_pretrained(self.model.name_or_path)
        return self.processor(**given, return_tensors="pt").to(dtype=self.model.dtype)


class PictureFirst(ForMM):
    """A pipeline that takes one picture, which `load_image` reads by the settings of the image processor."""

    def preprocess(self, image, *args, **kwargs):
        own = isinstance(self.image_processor, PictureOptions)
        read = self.image_processor.load(image) if own else load_image(image)
        pipeline: Any = super()
        return pipeline.preprocess(read, *args, **kwargs)


class MMZeroShotImageClassification(PictureFirst, ZeroShotImageClassificationPipeline):
    """Labels as MMProcessor reads texts, closed and padded as the model learned them; the scores of a model that was
    trained by the sigmoid loss are the probabilities of each pair."""

    theirs = ZeroShotImageClassificationPipeline

    def preprocess(
        self, image, candidate_labels=None, hypothesis_template="This is a photo of {}.", timeout=None,
        tokenizer_kwargs=None,
    ):  # fmt: skip
        read = super().preprocess(image, candidate_labels, hypothesis_template, timeout, tokenizer_kwargs)
        if tokenizer_kwargs or (self.processor is None and not self.model.name_or_path):
            return read  # by the tokenizer alone
        processor = copy.copy(self.model._processor_for_items(self.processor))
        processor.tokenizer = self.tokenizer
        texts = [hypothesis_template.format(label) for label in candidate_labels or ()]
        made = processor(text=texts, return_tensors="pt")
        return {**read, "text_inputs": [BatchFeature({name: made[name] for name in ("input_ids", "attention_mask")})]}

    def postprocess(self, model_outputs):
        if self.model.config.contrastive_loss != "sigmoid":
            return super().postprocess(model_outputs)
        scores = model_outputs["logits"][0].float().sigmoid().tolist()
        found = zip(model_outputs["candidate_labels"], scores, strict=True)
        return [{"score": score, "label": label} for label, score in sorted(found, key=lambda pair: -pair[1])]


class MMImageClassification(PictureFirst, ImageClassificationPipeline):
    theirs = ImageClassificationPipeline


class MMVideoClassification(ForMM, VideoClassificationPipeline):
    """Videos as MMProcessor reads them: files, frames, arrays; with its own sampling of frames."""

    theirs = VideoClassificationPipeline

    def preprocess(self, video, num_frames=None, frame_sampling_rate=None):
        if frame_sampling_rate is not None:
            raise ValueError("frame_sampling_rate is not read: num_frames are taken by the processor's frame_sampling")
        return self.processed(videos=[[video]], num_frames=num_frames)


class MMAudioClassification(ForMM, AudioClassificationPipeline):
    """Sounds of any rate and number of channels, which `load_sound` reads; an array without a rate has the feature
    extractor's."""

    theirs = AudioClassificationPipeline

    def preprocess(self, inputs):
        rate, given = self.feature_extractor.sampling_rate, inputs
        if isinstance(inputs, dict):
            given = {"array" if name == "raw" else name: value for name, value in inputs.items()}
        return self.processed(audio=[[load_sound(given, rate, source_rate=rate)]], sampling_rate=rate)


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
    extractor's. Timestamps and languages are those of Transformers' pipeline for Whisper."""

    theirs = AutomaticSpeechRecognitionPipeline

    @property
    def type(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]: an attribute there
        is_whisper = self.model.config.audio_config.model_type == "whisper"
        return "seq2seq_whisper" if is_whisper else "seq2seq"

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
        sound = sound if self.type == "seq2seq_whisper" else long_enough(sound, self.feature_extractor)
        for read in super().preprocess({**more, "raw": sound, "sampling_rate": rate}, *args, **kwargs):
            floating = {name for name, value in read.items() if torch.is_tensor(value) and value.is_floating_point()}
            yield {name: of_silence(value) if name in floating else value for name, value in read.items()}


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
