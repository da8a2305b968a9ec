"""Tasks of MM for `transformers.pipeline`: mm-captioning, mm-vqa, mm-explanation, mm-text-to-image, mm-retrieval.
Importing this file registers them."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

from .classification import class_scores
from .row_ends import warn_of_other_ids

BEST = 5  # labels of a question that a classifier answers


@dataclass
class Asked:
    """One picture, or a list of the pictures of one sample, and its text. A batch of a pipeline is a list of these:
    the processor pads them together."""

    image: Any
    text: str | None

    def __post_init__(self):
        if not isinstance(self.text, (str, NoneType)):
            raise TypeError(f"each picture goes with one text, a string; got {self.text!r:.80}")
        self.text = composed(self.text)


def composed(text: Any) -> Any:
    """A string in NFC, the form that models are trained on: é in two letters has other tokens and other scores."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


def read_for_head(model: Any, processor: Any, text: str) -> Any:
    """A text as a classification head reads it with media: whole, closed as the processor closes texts, by the text
    encoder if there is one. Raises ValueError for one that is too long."""
    side = "context_text" if model.config.has_text_encoder else "text"
    return processor(**{side: [composed(text)]}, truncation=False, return_tensors="pt")


class MMPipeline(Pipeline):
    """The base of the tasks: MMProcessor reads pictures and texts. Options of other tasks raise an error, and so does
    a model whose heads were not in its checkpoint."""

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = False
    _pipeline_calls_generate = True
    model: Any
    processor: Any  # an MMProcessor

    def __init__(self, model, *args, **kwargs):
        model.check_trained()
        super().__init__(model, *args, **kwargs)
        warn_of_other_ids(model, self.processor)

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, (list, tuple)) and not inputs:
            raise ValueError("the list of inputs is empty; give one or several")
        return super().__call__(inputs, *args, **kwargs)

    def inputs(self, **given: Any) -> dict[str, Any]:
        """Tensors on the model's device, floating ones in its dtype."""
        read = self.processor(**given, return_tensors="pt").to(self.device)
        return {k: v.to(self.dtype) if torch.is_floating_point(v) else v for k, v in read.items()}

    def together(self, asked: Asked | list[Asked], side: str = "text") -> dict[str, Any]:
        """Inputs of one or of a batch; their texts have no eos, because the model continues them."""
        asked = asked if isinstance(asked, list) else [asked]
        given: dict[str, Any] = {"images": [one.image for one in asked]}
        in_text = self.model.config.media_in_text
        if asked[0].text is not None or in_text:
            texts: list[Any] = [one.text or "" for one in asked]
            if in_text:
                told = [self.processor.about("image", text) for text in texts]
                texts = [one.pop("text") for one in told]
                if any(one != told[0] for one in told):
                    raise ValueError(
                        "some texts of a batch name the place of their picture, which are taken as they are, and "
                        "others do not, which are asked by the chat template: put them into two calls"
                    )
                given |= told[0]
            given |= {side: texts, "add_eos_token": False}
        return self.inputs(**given)


def with_stop_strings(generation: dict[str, Any]) -> dict[str, Any]:
    """Arguments of generate(), `stop_sequence` among them by generate()'s name. Raises: ValueError for both names."""
    if "stop_sequence" not in generation:
        return generation
    if "stop_strings" in generation:
        raise ValueError("stop_sequence and stop_strings are one thing; pass one of them")
    stop = generation.pop("stop_sequence")
    return {**generation, "stop_strings": [stop] if isinstance(stop, str) else stop}


class MMCaptioningPipeline(MMPipeline):
    """`pipeline("mm-captioning")(image, prompt=None, **generation)` -> [{"caption": str}, ...] of each image.

    image: a picture or its path (all that MMProcessor reads), or a list of them.
    generation: arguments of generate(), which gets the tokenizer; num_return_sequences is the number of captions.
    stop_sequence: a string or a list of them, generate()'s stop_strings under the name of Transformers' pipelines.
    """

    def _sanitize_parameters(self, prompt: str | None = None, **generation):
        return {} if prompt is None else {"prompt": prompt}, with_stop_strings(generation), {}

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, image, prompt: str | None = None
    ):
        return {"asked": Asked(image, prompt)}

    def _forward(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_inputs, **generation
    ):
        return self.written(model_inputs["asked"], **generation)

    def written(self, asked: Asked | list[Asked], side: str = "text", **generation) -> dict[str, torch.Tensor]:
        """What generate() adds: ids (B, texts of each, N)."""
        read = self.together(asked, side)
        ids = self.model.generate(**read, **{"tokenizer": self.processor.tokenizer, **generation})
        prompt = read.get("input_ids")
        new = ids if prompt is None else ids[:, prompt.shape[1] :]
        return {"ids": new.unflatten(0, (len(asked) if isinstance(asked, list) else 1, -1))}

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_outputs
    ):
        return [{"caption": text.strip()} for text in self.decoded(model_outputs["ids"][0])]

    def decoded(self, ids) -> list[str]:
        return self.processor.batch_decode(ids, skip_special_tokens=True)


class MMVQAPipeline(MMCaptioningPipeline):
    """`pipeline("mm-vqa")(image=..., question=..., answers=None, **generation)` -> [{"answer": str}, ...], best first.

    Also of a list of {"image": ..., "question": ...}. With a list of `answers` no text is generated; they are ranked:
    [{"answer": str, "score": log-likelihood per token}, ...]. A model with a text encoder reads the question there,
    any other continues it. A classifier gives its best labels: [{"answer": str, "score": share}, ...].
    """

    def __call__(self, inputs=None, *, image=None, question=None, **kwargs):
        if (inputs is None) == (image is None or question is None):
            raise ValueError("mm-vqa takes image=... and question=..., or a dict of these two, or a list of dicts")
        return super().__call__({"image": image, "question": question} if inputs is None else inputs, **kwargs)

    def _sanitize_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, answers: list[str] | None = None, **generation
    ):
        if answers is not None and generation:
            raise ValueError(f"answers are ranked, not written, so {', '.join(generation)} would not be read")
        if answers is None:
            return {}, with_stop_strings(generation), {}
        if isinstance(answers, str) or not answers:
            raise ValueError(f"answers is a list of strings to rank; got {answers!r:.80}")
        return {}, {"answers": answers}, {"answers": answers}

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, inputs
    ):
        if not isinstance(inputs, dict) or set(inputs) != {"image", "question"}:
            raise ValueError(f'mm-vqa takes {{"image": ..., "question": ...}}; got {inputs!r:.80}')
        return {"asked": Asked(inputs["image"], inputs["question"])}

    def _forward(self, model_inputs, answers: list[str] | None = None, **generation):
        asked, config = model_inputs["asked"], self.model.config
        if not self.model.can_generate():
            side = "context_text" if config.has_text_encoder else "text"
            if answers is not None or generation:
                given = "answers" if answers is not None else ", ".join(generation)
                raise ValueError(f"this model has labels of its own and writes nothing, so {given} would not be read")
            asked = asked if isinstance(asked, list) else [asked]
            pairs = {"images": [one.image for one in asked], side: [one.text for one in asked]}
            return {"logits": self.model(**self.inputs(**pairs)).logits.float()}
        side = self.processor.prompt_side(config)
        if answers is None:
            return self.written(asked, side, **generation)
        eos = self.processor.tokenizer.eos_token or self.processor.tokenizer.sep_token or ""
        ends = self.processor.tokenizer(
            [composed(answer) + eos for answer in answers], add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.device)
        ranked = self.model.rank_answers(ends.input_ids, ends.attention_mask, **self.together(asked, side))
        return {"indices": ranked.indices, "scores": ranked.scores}

    def postprocess(self, model_outputs, answers: list[str] | None = None):
        if "logits" in model_outputs:
            best = class_scores(self.model.config, model_outputs["logits"])[0].sort(descending=True, stable=True)
            names = self.model.config.id2label
            found = zip(best.indices.tolist()[:BEST], best.values.tolist(), strict=False)
            return [{"answer": names[number], "score": score} for number, score in found]
        if answers is None:
            return [{"answer": text.strip()} for text in self.decoded(model_outputs["ids"][0])]
        scores = model_outputs["scores"][0].tolist()
        return [{"answer": answers[i], "score": scores[i]} for i in model_outputs["indices"][0].tolist()]


class MMExplanationPipeline(MMCaptioningPipeline):
    """`pipeline("mm-explanation")(image, prompt=None, method="attention", **generation)` -> of each image the words of
    its caption, [{"word": str, "map": float32 (H, V) over the picture, which adds up to 1}, ...].

    method: of `model.explain`. The others are those of mm-captioning.
    """

    def _sanitize_parameters(self, prompt: str | None = None, method: str = "attention", **generation):
        if generation.get("num_return_sequences", 1) != 1:
            raise ValueError("mm-explanation explains the best caption: leave num_return_sequences out")
        asked, generation, told = super()._sanitize_parameters(prompt, **generation)
        return asked, {"method": method, **generation}, told

    def _forward(self, model_inputs, method: str = "attention", **generation):
        asked = model_inputs["asked"]
        read = self.together(asked, self.processor.prompt_side(self.model.config))
        given = {"tokenizer": self.processor.tokenizer, **generation, "return_dict_in_generate": True}
        pictures = [one.image for one in (asked if isinstance(asked, list) else [asked])]
        written = self.model.generate(**read, **given)
        return {"found": self.model.explain(read, written, processor=self.processor, pictures=pictures, method=method)}

    def postprocess(self, model_outputs):
        found = model_outputs["found"]
        found = found[0] if isinstance(found, list) else found  # of a batch the pipeline takes each out
        return [{"word": word, "map": of_word} for word, of_word in zip(found.words, found.maps, strict=True)]


def drawing_texts(model: Any, processor: Any, texts: list[str]) -> dict[str, Any]:
    """What the processor takes of texts to draw: context texts for a text encoder, or prompts."""
    return {processor.prompt_side(model.config): [composed(text) for text in texts], "add_eos_token": False}


def check_draws(model: Any, processor: Any) -> None:
    """Raises ValueError for a model without codes of pictures, or a processor that cannot decode its codes."""
    if not (model.config.draws and hasattr(model, "draw")):
        raise ValueError(
            f"{type(model).__name__} of {model.name_or_path!r} does not draw: docs/drawing.md says how one learns"
        )
    own = {name: value for name, value in (processor.drawing or {}).items() if name != "mask_id"}
    told = {name: model.config.drawing[name] for name in own}
    if processor.image_tokenizer is None or own != told:
        lacks = "has no image_tokenizer" if processor.image_tokenizer is None else f"has its codes at {own}"
        raise ValueError(f"the model draws with codes at {dict(model.config.drawing)}, but its processor {lacks}")


class MMTextToImagePipeline(MMPipeline):
    """`pipeline("mm-text-to-image")(text, **drawing)` -> [{"image": a picture of PIL}, ...] of each text.

    text: a string, or a list of them. drawing: arguments of draw(), such as num_return_sequences (the number of
    pictures), guidance_scale and seed; a text's pictures then depend on neither the list nor batch_size.
    """

    _pipeline_calls_generate = False

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        check_draws(self.model, self.processor)

    def _sanitize_parameters(self, **drawing):
        return {}, drawing, {}

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, text
    ):
        if not isinstance(text, str):
            raise TypeError(f"mm-text-to-image takes a string or a list of strings; got {text!r:.80}")
        return {"text": text}

    def _forward(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_inputs, **drawing
    ):
        texts = [model_inputs["text"]] if isinstance(model_inputs["text"], str) else model_inputs["text"]
        ids = self.model.draw(**self.inputs(**drawing_texts(self.model, self.processor, texts)), **drawing)
        return {"ids": ids.unflatten(0, (len(texts), -1))}

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_outputs
    ):
        return [{"image": picture} for picture in self.processor.decode_images(model_outputs["ids"][0])]


class MMRetrievalPipeline(MMPipeline):
    """`pipeline("mm-retrieval")(text=..., images=[...], top_k=5)`, or `(image=..., texts=[...])`.

    Returns the best of the list first: [{"index": number in the list, "score": cosine similarity}, ...]. With
    match=True picture and text are read together, and the score is the probability of a match.
    """

    _pipeline_calls_generate = False

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.processor = self.model._processor_for_items(self.processor)

    def __call__(self, *, text=None, images=None, image=None, texts=None, **kwargs):
        by_text, by_image = text is not None and images is not None, image is not None and texts is not None
        if by_text == by_image or (by_text and (image is not None or texts is not None)):
            raise ValueError("mm-retrieval takes text=... and images=[...], or image=... and texts=[...]")
        sides: Any = ([text], images) if by_text else (texts, [image])
        name, held = ("images", images) if by_text else ("texts", texts)
        if isinstance(held, (str, bytes)) or (isinstance(held, (list, tuple)) and not held):
            raise ValueError(f"mm-retrieval takes {name}=[...], a list of one or several; got {held!r:.80}")
        given = {"text": list(sides[0]), "images": list(sides[1])}
        return super().__call__({**given, "by_text": by_text}, **kwargs)

    def _sanitize_parameters(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, top_k: int = 5, match: bool = False
    ):
        return {}, {"match": match}, {"top_k": top_k}

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, inputs
    ):
        read = {"by_text": inputs["by_text"]}
        read["text"] = self.inputs(text=[composed(text) for text in inputs["text"]])
        read["images"] = self.inputs(images=inputs["images"])
        return read

    def _forward(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_inputs, match: bool = False
    ):
        read = {name: model_inputs["text"][name] for name in ("input_ids", "attention_mask")}
        if match:
            contexts = torch.arange(len(model_inputs["images"]["pixel_values"]), device=self.device)
            rows = max(len(contexts), len(read["input_ids"]))  # one of the two is 1
            read = {name: value.expand(rows, -1) for name, value in read.items()}
            logits = self.model.match(**read, context_index=contexts.expand(rows), **model_inputs["images"])
            return {"scores": logits.float().softmax(1)[:, 1]}
        texts = self.model.encode_text(**read)
        images = self.model.encode_image(**model_inputs["images"])
        scores = texts @ images.T
        return {"scores": scores[0] if model_inputs["by_text"] else scores[:, 0]}

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]: own options
        self, model_outputs, top_k: int = 5
    ):
        scores, indices = model_outputs["scores"].sort(descending=True, stable=True)
        found = zip(indices.tolist(), scores.tolist(), strict=True)
        return [{"index": index, "score": score} for index, score in list(found)[:top_k]]


# The model in the package writes; a copy of this code beside a model has none.
_PACKAGED = Path(__file__).resolve().parents[2] / "checkpoints" / "mm-tiny"
for _task, _pipeline, _model in (
    ("mm-captioning", MMCaptioningPipeline, AutoModelForImageTextToText),
    ("mm-vqa", MMVQAPipeline, (AutoModelForVisualQuestionAnswering, AutoModelForImageTextToText)),
    ("mm-explanation", MMExplanationPipeline, AutoModelForImageTextToText),
    ("mm-text-to-image", MMTextToImagePipeline, (AutoModelForImageTextToText, AutoModelForMaskedLM)),
    ("mm-retrieval", MMRetrievalPipeline, AutoModelForZeroShotImageClassification),
):
    _loaders: Any = _model  # one class, or several that are tried
    _writes = issubclass(_pipeline, MMCaptioningPipeline)
    _default: Any = {"model": (str(_PACKAGED), "main")} if _writes and _PACKAGED.is_dir() else None
    if _task not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(_task, _pipeline, pt_model=_loaders, default=_default, type="multimodal")

# Transformers' own tasks, whose classes are imported when they are asked for.
_READ_BY_MM = {
    "image-text-to-text": "MMImageTextToText",
    "audio-classification": "MMAudioClassification",
    "image-classification": "MMImageClassification",
    "image-feature-extraction": "MMImageFeatureExtraction",
    "zero-shot-image-classification": "MMZeroShotImageClassification",
    "text-classification": "MMTextClassification",
    "feature-extraction": "MMFeatureExtraction",
    "fill-mask": "MMFillMask",
    "automatic-speech-recognition": "MMSpeechRecognition",
    "video-classification": "MMVideoClassification",
}


def read_by_mm(module: str) -> None:
    """Puts the classes of a module in the place of Transformers' for the tasks that it reads itself."""
    for task, name in _READ_BY_MM.items():
        PIPELINE_REGISTRY.supported_tasks[task]["impl"] = f"{module}.{name}"
