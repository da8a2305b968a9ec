"""Context texts: what the text encoder reads, how rows belong to them, and prompts that go there by a setting."""
# Transformers types models and pipelines for its own classes and calls.

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, BertTokenizer, ImageTextToTextPipeline

from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [ENC] a photo of cat dog red what is it ##s [ ] sep enc".split()
PAD, UNK, CLS, SEP, _, ENC = range(6)
ID = {word: number for number, word in enumerate(WORDS)}
RED, BLUE = (Image.new("RGB", (9, 7), colour) for colour in ("red", "blue"))


def make_processor(**settings):
    tokenizer = BertTokenizer(vocab=dict(ID), extra_special_tokens=["[ENC]"])
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, **settings)


def ids(text):
    return [ID[word] for word in text.split()]


def call(processor, *args, **kwargs):
    return processor(*args, **({"return_tensors": "pt"} | kwargs))


def test_a_context_text_is_closed_padded_at_the_right_and_its_row_is_bos():
    batch = call(make_processor(), [RED, BLUE], context_text=["what is it", "a"])
    assert list(batch)[0] == "input_ids" and batch["input_ids"].tolist() == [[CLS], [CLS]]
    assert batch["context_input_ids"].tolist() == [[CLS, *ids("what is it"), SEP], [CLS, ID["a"], SEP, PAD, PAD]]
    assert batch["context_attention_mask"].sum(1).tolist() == [5, 3]
    assert batch["context_input_ids"].dtype == batch["context_attention_mask"].dtype == torch.int64
    assert "media_index" not in batch and "context_index" not in batch


def test_its_first_token_may_be_one_of_its_own():
    batch = call(make_processor(context_bos_token="[ENC]"), RED, context_text="a [ENC] [SEP]")
    assert batch["context_input_ids"].tolist() == [[ENC, *ids("a [ enc ] [ sep ]"), SEP]]
    assert batch["input_ids"].tolist() == [[CLS]]
    for settings in ({"context_bos_token": "[XYZ]"}, {"context_bos_token": ""}):
        with pytest.raises(ValueError, match="no token of the tokenizer's vocabulary"):
            make_processor(**settings)


def test_answers_are_labelled_rows_of_their_question():
    batch = call(make_processor(), RED, context_text="what is it", text="a", suffix="red cat")
    assert batch["input_ids"].tolist() == [[CLS, *ids("a red cat"), SEP]]
    assert batch["labels"].tolist() == [[-100, -100, *ids("red cat"), SEP]]
    assert call(make_processor(), RED, context_text="a", suffix="cat")["labels"].tolist() == [[-100, ID["cat"], SEP]]


def test_several_questions_of_a_picture_and_several_answers_of_a_question():
    questions = [["what", "it"], ["a"]]
    batch = call(make_processor(), [RED, BLUE], context_text=questions, suffix=[["cat", ["dog", "red"]], ["of"]])
    assert batch["media_index"].tolist() == [0, 0, 1] and batch["context_index"].tolist() == [0, 1, 1, 2]
    assert batch["input_ids"][:, 1].tolist() == ids("cat dog red of")
    assert batch["pixel_values"].shape[0] == 2 and batch["context_input_ids"].shape[0] == 3
    flat = call(make_processor(), None, context_text=["what", "it"], suffix=[["cat", "dog"], ["red"]])
    assert flat["context_index"].tolist() == [0, 0, 1] and "media_index" not in flat
    one = call(make_processor(), [RED, BLUE], context_text="it", text=["cat", "dog"])
    assert one["context_index"].tolist() == [0, 0] and one["pixel_values"].shape[:2] == (1, 2)


@pytest.mark.parametrize("name", ["text", "suffix"])
@pytest.mark.parametrize(
    ("context", "given"),
    [
        (["a", "it"], "cat"),
        (["a", "it"], ["cat"]),
        ([["a", "it"]], ["cat", "dog"]),
        ([["a"], ["it"]], [["a", "b"], []]),
    ],
)
def test_texts_that_are_not_nested_like_the_context_raise(name, context, given):
    with pytest.raises(ValueError, match=f"{name} is nested like context_text"):
        call(make_processor(), None, context_text=context, **{name: given})


def test_counts_that_do_not_match_raise():
    with pytest.raises(ValueError, match="2 images with 3 texts"):
        call(make_processor(), [RED, BLUE], context_text=["a", "it", "of"])
    with pytest.raises(ValueError, match=r"got \[1\] suffixes per sample for \[2\] texts"):
        call(make_processor(), RED, context_text="it", text=["a", "of"], suffix="cat")
    with pytest.raises(ValueError, match="no tokenizer"):
        MMProcessor(MMImageProcessorPil())(RED, context_text="a")


def test_long_context_texts_are_cut_with_their_end_kept(caplog):
    batch = call(make_processor(), RED, context_text="a photo of a cat", max_length=4)
    assert batch["context_input_ids"].tolist() == [[CLS, *ids("a photo"), SEP]] and "were cut" in caplog.text
    with pytest.raises(ValueError, match="more than 4"):
        call(make_processor(), RED, context_text="a photo of a cat", max_length=4, truncation=False)


def test_a_prompt_may_go_to_the_context_by_a_setting_that_is_saved(tmp_path):
    settings = {"prompt_to": "context", "context_bos_token": "[ENC]", "num_frames": 4, "frame_sampling": 0.5}
    make_processor(**settings).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert {name: getattr(processor, name) for name in settings} == settings
    batch = call(processor, [RED, BLUE], ["what is it", "a"])
    assert batch["context_input_ids"][0].tolist() == [ENC, *ids("what is it"), SEP]
    assert batch["input_ids"].tolist() == [[CLS], [CLS]]
    answered = call(processor, RED, [["it", "what"]], suffix=[["cat", "dog"]])
    assert answered["media_index"].tolist() == [0, 0] and "context_index" not in answered
    assert answered["labels"][:, 1].tolist() == ids("cat dog")
    both = call(processor, RED, "a photo", context_text="it")
    assert both["input_ids"].tolist() == [[CLS, *ids("a photo")]]


def test_a_chat_goes_to_the_context_with_the_templates_own_special_tokens():
    template = "[CLS]{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}[SEP]{% endfor %}"
    chat = [{"role": "user", "content": [{"type": "text", "text": "a [SEP] cat"}]}]
    processor = make_processor(prompt_to="context", chat_template=template)
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert batch["context_input_ids"].tolist() == [[CLS, *ids("a [ sep ] cat"), SEP]]
    assert batch["input_ids"].tolist() == [[CLS]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_to": "encoder"}, "prompt_to='encoder'; accepted are 'decoder', 'context'"),
        ({"num_frames": 0}, "num_frames=0; accepted are whole numbers from 1"),
        ({"frame_sampling": "random"}, "frame_sampling='random'; accepted are 'uniform', 'keyframes', or a number"),
        ({"frame_sampling": 0}, "frame_sampling=0"),
    ],
)
def test_settings_that_are_not_accepted_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**settings)


def test_a_model_with_a_text_encoder_answers_in_the_pipeline(tiny_model):
    model = tiny_model(
        text_encoder_config="tiny", text_config={"bos_token_id": CLS, "eos_token_id": SEP}, dtype=torch.float32
    )
    processor = make_processor(prompt_to="context")
    ask = ImageTextToTextPipeline(model=model, processor=processor)
    answers = ask([RED, BLUE], text=["what is it", "a"], max_new_tokens=3, return_full_text=False)
    inputs = call(processor, [RED, BLUE], ["what is it", "a"])
    expected = processor.batch_decode(model.generate(**inputs, max_new_tokens=3), skip_special_tokens=True)
    assert [answer["generated_text"] for answer in answers] == expected
