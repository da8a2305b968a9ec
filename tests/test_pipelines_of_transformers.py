"""Transformers' own pipelines with MM's models: MM reads the pictures, and a classifier gets them beside the text."""

# Fixtures build models whose types pyright cannot follow; tasks are registered at run time.

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTFeatureExtractor,
    AutoModelForVisualQuestionAnswering,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    CLIPImageProcessorPil,
    TextClassificationPipeline,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from mm import (
    MMForImageTextRetrieval,
    MMForMaskedLM,
    MMForSequenceClassification,
    MMImageProcessorPil,
    MMModel,
    MMProcessor,
)
from mm.weights.files import CheckpointError

ROOT = Path(__file__).resolve().parents[1]
MODEL = str(ROOT / "checkpoints" / "mm-tiny")
ROCKET = str(ROOT / "examples" / "pictures" / "rocket.png")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]


@pytest.fixture(scope="module")
def processor():
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]")
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, add_eos_token=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """One picture as files that Transformers' reader and MM's take for other pixels, and as some that they do not."""
    folder = tmp_path_factory.mktemp("pictures")
    rocket = Image.open(ROCKET).resize((32, 32))
    grey = np.asarray(rocket.convert("L")).astype(np.uint16) * 257
    made = {
        "rgb.png": rocket.convert("RGB"), "rgba.png": rocket, "la.png": rocket.convert("LA"),
        "palette.png": rocket.quantize(64), "grey16.png": Image.fromarray(grey), "cmyk.tif": rocket.convert("CMYK"),
    }  # fmt: skip
    for name, picture in made.items():
        picture.save(folder / name)
    return {name: str(folder / name) for name in made}


def seen_by(model) -> list[torch.Tensor]:
    """The pixel_values of every call of the model, as they come."""
    seen = []

    def note(module, args, kwargs):
        if kwargs.get("pixel_values") is not None:
            seen.append(kwargs["pixel_values"])

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


TASKS = {
    "zero-shot-image-classification": (MMForImageTextRetrieval, {"candidate_labels": ["w3", "w4"]}),
    "image-classification": (MMForSequenceClassification, {}),
    "image-feature-extraction": (MMModel, {}),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("foreign", [False, True], ids=["own", "foreign image processor"])
def test_one_picture_has_the_same_pixels_in_every_pipeline(tiny_model, processor, files, task, foreign):
    cls, given = TASKS[task]
    fields = {"text_config": {"is_causal": False, "pooler": "mean"}, "projection_dim": 8, "num_labels": 3}
    model = tiny_model(cls=cls, dtype=torch.float32, **fields)
    seen = seen_by(model)
    reader = processor.image_processor
    if foreign:
        reader = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    read = MMProcessor(reader, processor.tokenizer)
    pipe = pipeline(task, model=model, image_processor=reader, tokenizer=processor.tokenizer)
    for path in files.values():
        for source in (path, Image.open(path)):
            seen.clear()
            pipe(source, **given)
            torch.testing.assert_close(seen[-1], read(images=path, return_tensors="pt")["pixel_values"])
    with pytest.raises(ValueError, match="the list of inputs is empty"):
        pipe([], **given)


def test_image_text_to_text_reads_as_the_processor_does(files):
    pipe = pipeline("image-text-to-text", model=MODEL)
    assert pipe(images=ROCKET, text="", generate_kwargs={"num_beams": 3})[0]["generated_text"].strip() == "rocket"
    for path in files.values():
        for given in ({"images": path}, {"images": Image.open(path)}, {"images": [path], "text": ["a"]}):
            read = pipe.preprocess({"text": "a", **given})
            expected = pipe.processor(images=path, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(read["pixel_values"], expected)


@pytest.mark.parametrize("images", [ROCKET, [ROCKET], (ROCKET, ROCKET)])
def test_a_path_without_a_text_is_no_prompt(images):
    with pytest.raises(ValueError, match="text is missing"):
        pipeline("image-text-to-text", model=MODEL)(images)


ADDRESS = "http://127.0.0.1:9/a.png"


@pytest.mark.parametrize("task", ["image-text-to-text", *TASKS])
def test_no_pipeline_fetches_an_address(tiny_model, processor, monkeypatch, task):
    def fetched(*args, **kwargs):
        raise AssertionError("an address was fetched")

    monkeypatch.setattr("socket.socket.connect", fetched)
    if task == "image-text-to-text":
        pipe, given = pipeline(task, model=MODEL), {"text": "a"}
    else:
        cls, given = TASKS[task]
        fields = {"text_config": {"is_causal": False, "pooler": "mean"}, "projection_dim": 8}
        parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
        pipe = pipeline(task, model=tiny_model(cls=cls, **fields), **parts)
    with pytest.raises(ValueError, match="URLs are not fetched"):
        pipe(ADDRESS, **given)
    with pytest.raises(ValueError, match="URLs are not fetched"):
        processor.image_processor.fetch_images([[ADDRESS]])


# ---- classes of a text and a picture --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [False, True], ids=["decoder", "text encoder"])
def test_text_classification_takes_a_picture_beside_the_text(tiny_model, processor, files, encoder, tmp_path):
    fields = {"text_encoder_config": "tiny"} if encoder else {"fusion_type": "sum"}
    text_config = {} if encoder else {"is_causal": False, "pooler": "mean"}
    model = tiny_model(cls=MMForSequenceClassification, dtype=torch.float32, text_config=text_config, **fields)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    side = "context_text" if encoder else "text"
    built = pipeline("text-classification", model=model, tokenizer=processor.tokenizer, processor=processor)
    for pipe in (built, pipeline("text-classification", model=str(tmp_path))):
        for path in (files["rgba.png"], files["grey16.png"]):
            found = pipe({"text": "w3 w4", "image": path}, top_k=None)
            logits = model(**processor(images=[path], return_tensors="pt", **{side: ["w3 w4"]})).logits[0]
            scores = {one["label"]: one["score"] for one in found}
            expected = dict(zip(model.config.id2label.values(), logits.softmax(-1).tolist(), strict=True))
            assert scores == pytest.approx(expected, rel=1e-5)
        both = [{"text": "w3", "image": files["rgba.png"]}, {"text": "w5 w6", "image": files["grey16.png"]}]
        assert [one["score"] for one in pipe(both)] == pytest.approx([pipe(one)["score"] for one in both], rel=1e-5)


def test_a_text_by_itself_is_classified_and_said(tiny_model, processor):
    fields = {"fusion_type": "sum", "text_config": {"is_causal": False, "pooler": "mean"}}
    model = tiny_model(cls=MMForSequenceClassification, dtype=torch.float32, **fields)
    pipe = pipeline("text-classification", model=model, tokenizer=processor.tokenizer, processor=processor)
    with pytest.warns(UserWarning, match=r'only the text.*image: pass \{"text"'):
        said = pipe("w3 w4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        meant = pipe({"text": "w3 w4", "image": None})
    assert meant["score"] == pytest.approx(said[0]["score"], rel=1e-5)
    with pytest.raises(ValueError, match="each kind once; got"):
        pipe({"text": "w3", "picture": ROCKET, "image": ROCKET})
    with pytest.raises(ValueError, match="each kind once; got"):
        pipe({"text": "w3", "images": ROCKET, "image": ROCKET})
    with pytest.raises(ValueError, match="pass processor="):
        pipeline("text-classification", model=model, tokenizer=processor.tokenizer)({"text": "w3", "image": ROCKET})


@pytest.mark.parametrize("given", ["w3 w4", {"text": "w3 w4"}, {"text": "w3 w4", "image": None}])
def test_the_text_encoder_reads_a_question_by_itself_too(tiny_model, processor, given):
    model = tiny_model(cls=MMForSequenceClassification, text_encoder_config="tiny", dtype=torch.float32)
    pipe = pipeline("text-classification", model=model, tokenizer=processor.tokenizer, processor=processor)
    logits = model(**processor(context_text=["w3 w4"], return_tensors="pt")).logits[0]
    scores = {one["label"]: one["score"] for one in pipe(given, top_k=None)}
    expected = dict(zip(model.config.id2label.values(), logits.softmax(-1).tolist(), strict=True))
    assert scores == pytest.approx(expected, rel=1e-5)


def test_fill_mask_and_features_take_a_picture_beside_the_text(tiny_model, processor, files):
    fields = {"text_config": {"is_causal": False}, "dtype": torch.float32}
    parts = {"tokenizer": processor.tokenizer, "processor": processor}
    masked = pipeline("fill-mask", model=tiny_model(cls=MMForMaskedLM, **fields), **parts)
    states = pipeline("feature-extraction", model=tiny_model(cls=MMModel, **fields), **parts)
    for name in ("rgba.png", "grey16.png"):
        pixels = processor(images=[files[name]], return_tensors="pt")["pixel_values"]
        row = processor.tokenizer("w3 [MASK] w4", return_tensors="pt")
        best = masked.model(**row, pixel_values=pixels).logits[0, 2].softmax(-1).max().item()
        assert masked({"text": "w3 [MASK] w4", "image": files[name]})[0]["score"] == pytest.approx(best, rel=1e-5)
        read = processor(text=["w3 w4"], images=[files[name]], return_tensors="pt")
        found = states({"text": "w3 w4", "image": files[name]}, return_tensors=True)
        torch.testing.assert_close(found, states.model(**read)[0])
    for pipe, text in ((masked, "w3 [MASK]"), (states, "w3")):
        with pytest.warns(UserWarning, match="only the text.*image"):
            pipe(text)


def test_batches_of_samples_are_what_each_is_by_itself(tiny_model, processor, files):
    fields = {"fusion_type": "sum", "text_config": {"is_causal": False, "pooler": "mean"}, "dtype": torch.float32}
    model = tiny_model(cls=MMForSequenceClassification, **fields)
    pipe = pipeline("text-classification", model=model, tokenizer=processor.tokenizer, processor=processor)
    samples = [
        {"text": "w3", "images": [files["rgb.png"], files["grey16.png"]]},
        {"text": "w5 w6", "image": files["rgba.png"]},
        {"text": "w3", "image": None},
    ]
    each = [pipe(sample)["score"] for sample in samples]
    assert [one["score"] for one in pipe(samples, batch_size=3)] == pytest.approx(each, rel=1e-5)


HEADS = {**TASKS, "text-classification": (MMForSequenceClassification, {}), "image-text-to-text": (None, {"text": ""})}


@pytest.mark.parametrize("task", sorted(set(HEADS) - {"image-feature-extraction"}))
def test_a_head_that_was_not_in_the_checkpoint_answers_nothing(tiny_model, processor, tmp_path, task):
    fields = {"projection_dim": 8, "text_config": {"is_causal": task == "image-text-to-text", "pooler": "mean"}}
    tiny_model(cls=MMModel, **fields).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="would be random"):
        pipeline(task, model=str(tmp_path))


def test_models_of_others_get_transformers_own_pipelines(processor):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    pipe = pipeline("text-classification", model=bert, tokenizer=processor.tokenizer)
    assert type(pipe) is TextClassificationPipeline and len(pipe(["w3", "w4"])) == 2
    vit = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes))
    reader = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    assert len(pipeline("image-classification", model=vit, image_processor=reader)(ROCKET)) == 2


# ---- films, sounds, questions of a classifier, the model in the package ---------------------------------------------


@pytest.fixture(scope="module")
def labelling(tiny_model, processor):
    """A classifier of three labels, and its processor, that of videos or sounds too."""

    def build(extractor=None, **fields):
        names = {0: "good", 1: "bad", 2: "odd"}
        text = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 2}
        settings = {"cls": MMForSequenceClassification, "dtype": torch.float32, "id2label": names, "text_config": text}
        parts = (processor.image_processor, processor.tokenizer, extractor)
        return tiny_model(**settings, **fields), MMProcessor(*parts, add_eos_token=True, num_frames=3)

    return build


def shares_of(model, inputs) -> dict[str, float]:
    shares = model(**inputs).logits.softmax(1)[0].tolist()
    return dict(zip(model.config.id2label.values(), shares, strict=True))


def assert_labels(found, expected, name="label"):
    assert {one[name]: one["score"] for one in found} == pytest.approx(expected, abs=1e-5)
    assert [one["score"] for one in found] == sorted(expected.values(), reverse=True) or len(found) == 3


@pytest.mark.filterwarnings("ignore:this model does not see the order")
def test_videos_are_classified_as_the_processor_reads_them(labelling, tmp_path):
    model, processor = labelling(modalities=["video"])
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue", "black", "white")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    pipe = pipeline("video-classification", model=str(tmp_path))
    assert type(pipe.model) is MMForSequenceClassification
    read = processor(videos=[[str(tmp_path / "film.gif")]], return_tensors="pt")
    assert_labels(pipe(str(tmp_path / "film.gif")), shares_of(model, read))
    read = processor(videos=[[str(tmp_path / "film.gif")]], num_frames=2, return_tensors="pt")
    assert_labels(pipe(str(tmp_path / "film.gif"), num_frames=2, top_k=3), shares_of(model, read))
    with pytest.raises(ValueError, match="frame_sampling_rate"):
        pipe(str(tmp_path / "film.gif"), frame_sampling_rate=2)


def test_sounds_of_any_rate_are_classified(labelling, tmp_path):
    extractor = ASTFeatureExtractor(num_mel_bins=8, max_length=12)
    model, processor = labelling(extractor, modalities=["audio"], audio_config="ast")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    pipe = pipeline("audio-classification", model=str(tmp_path))
    sound = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 9
    for given in (sound, {"raw": sound, "sampling_rate": 8000}):
        whole = {"array": sound, "sampling_rate": 8000} if isinstance(given, dict) else given
        read = processor(audio=[[whole]], sampling_rate=16000, return_tensors="pt")
        assert_labels(pipe(given), shares_of(model, read))


def test_a_classifier_answers_questions_with_its_labels(labelling, tmp_path):
    model, processor = labelling()
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    assert type(AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)) is MMForSequenceClassification
    pipe = pipeline("mm-vqa", model=str(tmp_path))
    pairs = [{"image": ROCKET, "question": "w3 w4"}, {"image": ROCKET, "question": "w5"}]
    for pair, found in zip(pairs, pipe(pairs, batch_size=2), strict=True):
        read = processor(images=[ROCKET], text=[pair["question"]], return_tensors="pt")
        assert_labels(found, shares_of(model, read), "answer")
    with pytest.raises(ValueError, match="labels of its own"):
        pipe(pairs[0], answers=["yes", "no"])


@pytest.mark.parametrize("task", ["mm-captioning", "mm-vqa"])
def test_without_a_model_the_one_in_the_package_is_taken(task):
    pipe = pipeline(task)
    assert type(pipe.model).__name__ == "MMForConditionalGeneration"
    assert type(AutoModelForVisualQuestionAnswering.from_pretrained(MODEL)) is type(pipe.model)
    (found,) = pipe(ROCKET) if task == "mm-captioning" else pipe(image=ROCKET, question="a")
    assert found["caption" if task == "mm-captioning" else "answer"]
