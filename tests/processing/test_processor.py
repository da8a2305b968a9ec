"""MMProcessor: what pairs with what, what each call gives, how it fails, saving, chats and pipelines."""

import base64
import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    BertTokenizer,
    GenerationConfig,
    GenerationMixin,
    ImageTextToTextPipeline,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessorPil,
)

import mm
from mm.processing.call_options import MMCallDefaults
from mm.processing.images.load import MediaDecodeError
from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of cat dog red ##s [ ] sep cls pad mask \ufffd".split()
PAD, UNK, CLS, SEP = range(4)
ID = {word: number for number, word in enumerate(WORDS)}
RED, BLUE, GREY = (Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "grey"))
TEMPLATE = (
    "[CLS]{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}[SEP]{% endfor %}"
)


def make_processor(**settings):
    tokenizer = BertTokenizer(vocab=dict(ID))
    return MMProcessor(MMImageProcessorPil(size={"height": 8, "width": 8}), tokenizer, **settings)


def ids(text):
    return [ID[word] for word in text.split()]


@pytest.fixture
def processor():
    return make_processor()


def call(processor, *args, **kwargs):
    return processor(*args, **({"return_tensors": "pt"} | kwargs))


def pixels_of(processor, image):
    return processor.image_processor(image, return_tensors="pt").pixel_values[0]


# -------------------------------------------------------------------------------------------------------- pairing


def test_each_picture_is_read_once_and_its_pixels_are_those_of_the_image_processor(processor, monkeypatch):
    read = []
    load = mm.processing.images.processor.load_image
    monkeypatch.setattr(
        mm.processing.images.processor, "load_image", lambda source, **o: read.append(source) or load(source, **o)
    )
    batch = call(processor, images=[RED, BLUE], text=["a", "a"], videos=[[GREY, RED], [BLUE]])
    assert len(read) == 5
    assert torch.equal(batch["pixel_values"][1], pixels_of(processor, BLUE))
    assert torch.equal(batch["pixel_values_videos"][0, 1], pixels_of(processor, RED))


def test_one_picture_each_makes_four_dimensions_and_no_mask(processor):
    images = [RED, [BLUE], np.asarray(GREY)]
    batch = call(processor, images, ["a", "cat", "dog"])
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    assert torch.equal(
        batch["pixel_values"], torch.stack([pixels_of(processor, image) for image in (RED, BLUE, GREY)])
    )


@pytest.mark.parametrize(
    "nest", [lambda pair: pair, lambda pair: [pair], lambda pair: np.stack(list(map(np.asarray, pair)))]
)
def test_one_string_takes_all_its_pictures(processor, nest):
    batch = call(processor, nest([RED, BLUE]), "a cat")
    assert batch["input_ids"].shape[0] == 1 and batch["pixel_values"].shape == (1, 2, 3, 8, 8)
    assert (
        batch["pixel_attention_mask"].tolist() == [[True, True]] and batch["pixel_attention_mask"].dtype == torch.bool
    )
    assert torch.equal(batch["pixel_values"][0, 1], pixels_of(processor, BLUE))


def test_uneven_counts_are_padded_to_slots_and_masked(processor):
    batch = call(processor, [[RED, BLUE], None, GREY, []], ["a", "a", "a", "a"])
    assert batch["pixel_attention_mask"].tolist() == [[True, True], [False, False], [True, False], [False, False]]
    assert batch["pixel_values"].shape == (4, 2, 3, 8, 8) and "context_index" not in batch
    assert torch.equal(batch["pixel_values"][2, 0], pixels_of(processor, GREY))
    assert batch["pixel_values"][~batch["pixel_attention_mask"]].abs().sum() == 0


def test_several_texts_of_one_sample_share_its_pictures(processor):
    batch = call(processor, [RED, BLUE], [["a", "cat"], ["dog"]], suffix=[["x", "cat"], ["a"]])
    assert batch["context_index"].tolist() == [0, 0, 1] and batch["context_index"].dtype == torch.int64
    assert batch["input_ids"].shape[0] == 3 and batch["pixel_values"].shape == (2, 3, 8, 8)
    single = call(processor, RED, [["a", "cat"]])
    assert single["context_index"].tolist() == [0, 0]
    assert "context_index" not in call(processor, [RED, BLUE], [["a"], ["cat"]])


@pytest.mark.parametrize("images", [None, [], [None, None], [[], None]])
def test_texts_without_pictures_give_text_keys_alone(processor, images):
    assert list(call(processor, images, ["a", "cat"])) == ["input_ids", "attention_mask"]
    assert list(call(processor, None, [["a", "cat"], ["dog"]])) == ["input_ids", "attention_mask"]


def test_pictures_without_text_give_media_keys_alone(processor):
    assert list(call(processor, RED)) == ["pixel_values"]
    assert call(processor, [RED, BLUE])["pixel_values"].shape == (2, 3, 8, 8)
    nested = call(processor, [[RED, BLUE], [], GREY])
    assert nested["pixel_attention_mask"].tolist() == [[True, True], [False, False], [True, False]]


def test_return_tensors_says_what_is_returned(processor):
    calls = {kind: processor([[RED], None], ["a", "cat"], return_tensors=kind) for kind in ("pt", "np", None)}
    assert all(isinstance(value, torch.Tensor) for value in calls["pt"].values())
    assert all(isinstance(value, np.ndarray) for value in calls["np"].values())
    assert isinstance(calls[None]["input_ids"], list) and isinstance(calls[None]["pixel_values"], np.ndarray)
    for name, value in calls["pt"].items():
        np.testing.assert_array_equal(value.numpy(), calls["np"][name])
        np.testing.assert_array_equal(value.numpy(), calls[None][name])
        assert value.numpy().dtype == calls["np"][name].dtype


def test_options_of_the_image_processor_pass_through(processor):
    assert call(processor, RED, "a", size={"height": 4, "width": 6})["pixel_values"].shape == (1, 3, 4, 6)
    array = np.zeros((3, 9, 3), np.uint8)
    assert call(processor, array, "a", input_data_format="channels_first")["pixel_values"].shape == (1, 3, 8, 8)


def test_another_image_processor_gets_pictures_read_by_the_same_rules(processor):
    other = MMProcessor(ViTImageProcessorPil(size={"height": 8, "width": 8}, resample=3), processor.tokenizer)
    clear = Image.new("RGBA", (9, 7), (0, 0, 0, 0))
    torch.testing.assert_close(
        call(other, clear, "a")["pixel_values"], call(processor, clear, "a")["pixel_values"], atol=1e-6, rtol=0
    )


# ---------------------------------------------------------------------------------------------------- broken files


def test_broken_pictures_are_masked_under_placeholder(processor, caplog):
    batch = call(processor, [RED, b"broken", "missing.png"], ["a", "a", "a"], on_error="placeholder")
    assert batch["pixel_attention_mask"].tolist() == [[True], [False], [False]] and batch["input_ids"].shape[0] == 3
    assert "images[1][0]: cannot decode" in caplog.text and "images[2][0]: no file" in caplog.text
    assert list(call(processor, b"broken", "a", on_error="placeholder")) == ["input_ids", "attention_mask"]


def test_samples_with_broken_pictures_are_left_out_under_skip(processor):
    batch = call(processor, [RED, [BLUE, b"broken"], GREY], [["a", "cat"], ["dog"], ["red"]], on_error="skip")
    assert batch["input_ids"][:, -1].tolist() == ids("a cat red") and batch["context_index"].tolist() == [0, 0, 1]
    assert torch.equal(batch["pixel_values"][1], pixels_of(processor, GREY))


@pytest.mark.parametrize("on_error", ["skip", "placeholder"])
def test_nothing_readable_at_all_raises_after_all(processor, on_error):
    with pytest.raises(MediaDecodeError, match="none of the images can be read"):
        call(processor, [b"broken", b"too"], on_error=on_error)


# ----------------------------------------------------------------------------------------------------- bad inputs

BAD_CALLS = [
    (([RED, BLUE], ["a", "b", "c"]), {}, ValueError, "2 images with 3 texts"),
    ((RED, ["a", "b"]), {}, ValueError, "1 image with 2 texts"),
    (([RED, BLUE], ["a"]), {}, ValueError, "2 images with 1 text"),
    (([[RED], [BLUE]], "a"), {}, ValueError, "2 samples, but text is one string"),
    ((RED, [["a"], ["b"]]), {}, ValueError, "1 image with 2 texts"),
    (("a cat", RED), {}, TypeError, "are images and text swapped"),
    ((RED, [RED]), {}, TypeError, "are images and text swapped"),
    ((RED, 5), {}, TypeError, "text is no string, got int"),
    ((RED, ["a"]), {"suffix": [None]}, ValueError, r"suffix\[0\] is None; give ''"),
    ((None, [None]), {}, ValueError, "nothing to read"),
    ((RED, ["a", ["b"]]), {}, TypeError, r"mixes single texts and lists of texts: text\[1\] is list"),
    ((RED, []), {}, ValueError, "text is an empty list"),
    (([RED, BLUE], [["a"], []]), {}, ValueError, r"text\[1\] is an empty list"),
    ((RED, ["a"]), {"suffix": ["b", "c"]}, ValueError, r"got \[1, 1\] suffixes per sample for \[1\] texts"),
    ((RED, [["a", "b"]]), {"suffix": [["c"]]}, ValueError, "suffix is nested like text"),
    ((RED, "a"), {"suffix": 3}, TypeError, "suffix is no string, got int"),
    ((), {}, ValueError, "nothing to read"),
    (([],), {}, ValueError, "no images"),
    (([[], None],), {}, ValueError, "no images"),
    (([RED, 5], ["a", "b"]), {}, TypeError, r"images\[1\]\[0\]: a picture is a path"),
    (([[RED, None]], ["a"]), {}, TypeError, r"images\[0\]\[1\]: .*got NoneType"),
    (([RED, b"broken"], ["a", "b"]), {}, MediaDecodeError, r"images\[1\]\[0\]: cannot decode"),
    (("missing.png", "a"), {}, FileNotFoundError, r"images\[0\]\[0\]: no file"),
    (("https://example.org/cat.png", "a"), {}, ValueError, "URLs are not fetched"),
    (("https://127.0.0.1/cat.png", "a"), {"allow_urls": True}, MediaDecodeError, "only public addresses are fetched"),
    ((RED, "a", "clip.mp4"), {}, FileNotFoundError, r"videos\[0\]\[0\]: no file"),
    ((RED, "a"), {"audio": np.zeros(9)}, ValueError, "audio were given, but this processor has no feature_extractor"),
    ((RED, "a"), {"maxlength": 3}, TypeError, r"unknown arguments \['maxlength'\]"),
    ((RED, "a"), {"size": "large"}, TypeError, "'size' with value 'large'"),
    ((RED, "a"), {"max_length": 0}, ValueError, "max_length=0; accepted are whole numbers from 1"),
    ((RED, "a"), {"padding": "longer"}, ValueError, "padding='longer'; accepted are"),
    ((RED, "a"), {"padding": "max_length"}, ValueError, "needs max_length"),
    ((RED, "a"), {"padding_side": "top"}, ValueError, "padding_side='top'"),
    ((RED, "a"), {"truncation": "only_first"}, ValueError, "truncation='only_first'"),
    ((RED, "a"), {"on_error": "ignore"}, ValueError, "on_error='ignore'; accepted are 'raise', 'skip'"),
    ((RED, "a"), {"return_tensors": "tf"}, ValueError, "return_tensors='tf'; accepted are None, 'pt', 'np'"),
    ((None, ["a", "a cat"]), {"padding": False}, ValueError, "rows of unequal length"),
]


@pytest.mark.parametrize(("args", "kwargs", "kind", "message"), BAD_CALLS)
def test_bad_calls_raise_in_words(processor, args, kwargs, kind, message):
    with pytest.raises(kind, match=message):
        call(processor, *args, **kwargs)


def test_a_processor_lacking_a_part_says_so(processor):
    with pytest.raises(ValueError, match="no image_processor"):
        MMProcessor(tokenizer=processor.tokenizer)(RED, "a")
    with pytest.raises(ValueError, match="no tokenizer"):
        MMProcessor(processor.image_processor)(RED, "a")
    with pytest.raises(ValueError, match="needs an image_processor, a tokenizer, or both"):
        MMProcessor()
    with pytest.raises(TypeError, match="BertTokenizer for argument image_processor"):
        MMProcessor(processor.tokenizer, processor.image_processor)


# ------------------------------------------------------------------------------------------- saving, chat, pipelines


def test_save_and_load_keep_settings_parts_and_template(tmp_path):
    processor = make_processor(chat_template=TEMPLATE, add_eos_token=True, fixed_length=7)
    processor.save_pretrained(tmp_path)
    assert {"processor_config.json", "tokenizer.json", "chat_template.jinja"} <= {p.name for p in tmp_path.iterdir()}
    parts = {"image_processor", "tokenizer", "feature_extractor", "chat_template", "defaults"}
    settings = inspect.signature(MMProcessor).parameters.keys() - parts | MMCallDefaults.__annotations__.keys()
    assert set(processor.to_dict()) == {"image_processor", "processor_class"} | settings
    assert mm.MMProcessor is MMProcessor  # importing mm registers it
    for loaded in (MMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is MMProcessor and loaded.to_dict() == processor.to_dict()
        assert loaded.chat_template == TEMPLATE
        for name, value in call(processor, [RED, BLUE], ["a", "a cat"]).items():
            assert torch.equal(call(loaded, [RED, BLUE], ["a", "a cat"])[name], value)


@pytest.mark.parametrize("absent", ["image_processor", "tokenizer"])
def test_a_processor_of_one_part_saves_and_loads(tmp_path, absent):
    whole = make_processor()
    parts = {"image_processor": whole.image_processor, "tokenizer": whole.tokenizer, absent: None}
    MMProcessor(**parts).save_pretrained(tmp_path)
    loaded = MMProcessor.from_pretrained(tmp_path)
    assert getattr(loaded, absent) is None
    assert "input_ids" in loaded(text="a") if absent == "image_processor" else "pixel_values" in loaded(RED)


def test_decoding_is_inherited(processor):
    batch = call(processor, None, "a photo of cats")
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["a photo of cats"]
    assert processor.decode(batch["input_ids"][0], skip_special_tokens=True) == "a photo of cats"
    assert processor.post_process_image_text_to_text(batch["input_ids"]) == ["a photo of cats"]
    names = ["pixel_values", "input_ids", "attention_mask", "pixel_values_videos"]
    assert processor.model_input_names == names


def chat(text, *images):
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def test_a_chat_template_writes_special_tokens_and_its_users_do_not(processor):
    options = {"chat_template": TEMPLATE, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chat("a [SEP] cat", RED, BLUE), **options)
    assert batch["input_ids"].tolist() == [[CLS, *ids("a [ sep ] cat"), SEP]]
    assert batch["pixel_values"].shape == (1, 2, 3, 8, 8)
    two = processor.apply_chat_template([chat("a", RED), chat("a cat")], **options)
    assert two["input_ids"].tolist() == [[PAD, CLS, ID["a"], SEP], [CLS, *ids("a cat"), SEP]]
    assert two["pixel_attention_mask"].tolist() == [[True], [False]]
    assert processor.apply_chat_template(chat("a cat"), chat_template=TEMPLATE) == "[CLS]a cat[SEP]"


class Parrot(PreTrainedModel, GenerationMixin):
    """Stands for a model in a pipeline: keeps what generate() was given, and goes on with "cat dog"."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float32))
        self.generation_config = GenerationConfig()
        self.calls = []

    def generate(self, input_ids, attention_mask, pixel_values=None, pixel_attention_mask=None, **options):
        self.calls.append({"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values})
        answer = torch.tensor([ids("cat dog")]).expand(len(input_ids), -1)
        return torch.cat([input_ids, answer], dim=1)


@pytest.fixture
def parrot(processor):
    return ImageTextToTextPipeline(model=Parrot(PreTrainedConfig()), processor=processor)


def test_the_pipeline_takes_one_picture_and_one_text(parrot, tmp_path):
    path = tmp_path / "red.png"
    RED.save(path)
    for image in (RED, str(path)):
        assert parrot(image, text="a photo of")[0]["generated_text"].split() == "a photo of cat dog".split()
        assert parrot.model.calls[-1]["input_ids"].tolist() == [[CLS, *ids("a photo of")]]
        assert torch.equal(parrot.model.calls[-1]["pixel_values"][0], pixels_of(parrot.processor, RED))
    assert parrot(RED, text="")[0]["generated_text"] == "cat dog"


def test_the_pipeline_takes_lists_and_pads_prompts_at_the_left(parrot):
    answers = parrot([RED, BLUE], text=["a", "a photo of"], return_full_text=False)
    assert [answer["generated_text"].strip() for answer in answers] == ["cat dog"] * 2
    assert parrot.model.calls[-1]["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert parrot(text="a")[0]["generated_text"].split() == ["a", "cat", "dog"]
    assert parrot.model.calls[-1]["pixel_values"] is None


def test_the_pipeline_takes_chats(parrot):
    parrot.processor.chat_template = TEMPLATE
    answer = parrot(text=chat("a photo of", RED, BLUE), return_full_text=False)
    assert answer[0]["generated_text"].strip() == "cat dog"
    assert parrot.model.calls[-1]["input_ids"].tolist() == [[CLS, *ids("a photo of"), SEP]]
    assert parrot.model.calls[-1]["pixel_values"].shape == (1, 2, 3, 8, 8)


def test_the_pipeline_takes_several_chats(parrot):
    parrot.processor.chat_template = TEMPLATE
    answers = parrot(text=[chat("a photo of", RED), chat("a [SEP] cat")], return_full_text=False)
    assert [answer["generated_text"].strip() for (answer,) in answers] == ["cat dog"] * 2
    assert parrot.model.calls[0]["input_ids"].tolist() == [[CLS, *ids("a photo of"), SEP]]
    assert parrot.model.calls[1]["input_ids"].tolist() == [[CLS, *ids("a [ sep ] cat"), SEP]]
    assert parrot.model.calls[1]["pixel_values"] is None


def test_videos_and_base64_pictures_in_chats_are_read_by_the_same_rules(processor):
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    blocks = [
        {"type": "image", "base64": base64.b64encode(buffer.getvalue()).decode()},
        {"type": "video", "video": [RED, BLUE]},
        {"type": "text", "text": "a cat"},
    ]
    options = {"chat_template": TEMPLATE, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template([{"role": "user", "content": blocks}], **options)
    assert torch.equal(batch["pixel_values"][0], pixels_of(processor, RED))
    assert torch.equal(batch["pixel_values_videos"][0, 1], pixels_of(processor, BLUE))
    for block, message in (
        ({"type": "image", "base64": "no base64!"}, "base64 cannot be decoded"),
        ({"type": "image", "image": RED, "url": "a.png"}, "has image and url; give one"),
    ):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template([{"role": "user", "content": [block]}], **options)


def test_a_file_object_and_bytes_are_pictures_too(processor):
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    batch = call(processor, [buffer, buffer.getvalue()], ["a", "a"])
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])
