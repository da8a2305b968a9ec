"""Conversations about pictures: LLaVA's files and those of chat APIs, to samples and to batches with labels."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm import MMConfig, MMDataCollator, MMForConditionalGeneration, MMImageProcessorPil, MMProcessor, load_data
from mm.data.errors import DataError
from mm.training.samples import in_one_order

WORDS = "<pad> <s> </s> <unk> USER: ASSISTANT: what is it ? and this a cat dog no picture hi \ufffd".split()
TEMPLATE = (
    "{% for m in messages %}{{ 'USER:' if m['role'] == 'user' else 'ASSISTANT:' }} "
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}<image> {% else %}{{ b['text'] }} {% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}</s> {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
TOKENS = 4
LLAVA = [
    {
        "id": "one", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": "a cat"},
            {"from": "human", "value": "and this ?"}, {"from": "gpt", "value": "a dog"},
        ],
    },
    {"id": "two", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hi"}]},
    {
        "id": "three", "images": ["a.png", "b.png"], "messages": [
            {"role": "user", "content": "what is <image> and <image> ?"},
            {"role": "assistant", "content": "no picture"},
        ],
    },
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a", "b")):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture(scope="module")
def processor():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **ends)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = MMImageProcessorPil(size={"height": 16, "width": 16})
    places = {"placeholders": {"image": "<image>"}, "tokens_per_item": {"image": TOKENS}}
    return MMProcessor(images, tokenizer, chat_template=TEMPLATE, **places)


def written(folder, held, name="chats.json"):
    lines = "".join(json.dumps(one) + "\n" for one in held)
    (folder / name).write_text(lines if name.endswith("l") else json.dumps(held), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", ["chats.json", "chats.jsonl"])
def test_conversations_are_read_with_the_places_of_their_pictures(folder, name):
    data = load_data(written(folder, LLAVA, name))
    assert data.report.format == "chats" and [sample["id"] for sample in data.samples] == ["one", "two", "three"]
    first, second, third = data.samples
    assert first["image"] == str(folder / "a.png") and "image" not in second
    assert first["chat"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "what is it ?"}]
    kinds = [block.get("text", block["type"]) for block in third["chat"][0]["content"]]
    assert kinds == ["what is", "image", "and", "image", "?"]
    assert [message["role"] for message in first["chat"]] == ["user", "assistant"] * 2


def test_conversations_about_one_picture_stay_apart_and_in_one_order(folder):
    again = {**LLAVA[0], "id": "other", "conversations": LLAVA[0]["conversations"][:2]}
    held = [*LLAVA, again, {**LLAVA[1], "id": "more", "conversations": [*LLAVA[1]["conversations"]] * 2}]
    data = load_data(written(folder, held))
    ordered, reverse = (in_one_order(load_data(written(folder, list(one)))) for one in (held, held[::-1]))
    assert len(data) == len(ordered) == 5
    assert [sample["chat"] for sample in ordered.samples] == [sample["chat"] for sample in reverse.samples]
    assert data.fingerprint() == load_data(written(folder, held[::-1])).fingerprint()
    assert data.fingerprint() != load_data(written(folder, held[:-1])).fingerprint()


FAULTS = [
    ({"image": "a.png", "conversations": LLAVA[1]["conversations"]}, "0 <image>, and it has 1 files"),
    ({"conversations": LLAVA[0]["conversations"]}, "1 <image>, and it has 0 files"),
    ({"image": "no.png", "conversations": LLAVA[0]["conversations"]}, "no.png"),
    ({"conversations": [{"from": "human", "value": "hi"}]}, "nothing to learn"),
    ({"conversations": [{"from": "robot", "value": "hi"}]}, "of 'robot'; known are human"),
    ({"conversations": [{"from": ["human"], "value": "hi"}]}, "of ['human']; known are human"),
    ({"image": "a.png", "messages": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]},
     "a place with image"),
    ({"conversations": [{"from": "human", "value": 3}]}, "holds int"),
    ({"conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "hi"}]}, "turn 0 is empty"),
    ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": " "}]}, "assistant's, is empty"),
    ({"image": "a.png", "images": ["b.png"], "conversations": LLAVA[0]["conversations"]}, "both image and images"),
    ({"image": "a.png", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a <image>"}]},
     "only a user's has"),
    ({"conversations": [*LLAVA[1]["conversations"], {"from": "system", "value": "hi"}]}, "turn 2 is the system's"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_what_makes_no_conversation_is_named_and_can_be_left_out(folder, entry, reason):
    path = written(folder, [LLAVA[0], entry])
    with pytest.raises(DataError, match="entry 1.*" + re.escape(reason)):
        load_data(path)
    with pytest.warns(UserWarning, match="1 row left out"):
        assert len(load_data(path, on_error="skip")) == 1


def test_a_batch_has_labels_of_the_assistant_alone_and_each_picture_once(folder, processor):
    data = load_data(written(folder, LLAVA))
    samples = [data[number] for number in range(3)]
    batch = MMDataCollator(processor)([*samples, samples[0]])
    names = processor.tokenizer.convert_ids_to_tokens
    learned = [names(row[row != -100].tolist()) for row in batch["labels"]]
    assert learned[0] == learned[3] == ["a", "cat", "</s>", "a", "dog", "</s>"]
    assert learned[1:3] == [["hi", "</s>"], ["no", "picture", "</s>"]]
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == image).sum(1).tolist() == [TOKENS, 0, 2 * TOKENS, TOKENS]
    assert batch["context_index"].tolist() == [0, 1, 2, 0] and len(batch["pixel_values"]) == 3
    prompts = MMDataCollator(processor, mode="generate")(samples)
    assert "labels" not in prompts and names(prompts["input_ids"][:, -1].tolist()) == ["ASSISTANT:"] * 3
    assert [names(row.tolist()).count("ASSISTANT:") for row in prompts["input_ids"]] == [2, 1, 1]


def test_conversations_in_a_batch_have_the_loss_that_they_have_alone(folder, processor):
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**vision, "vocab_size": len(WORDS) + 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = MMConfig(
        vision_config={**vision, "image_size": 16, "patch_size": 8, "use_cls_token": False, "pooler": "mean"},
        text_config=text,
        fusion_type="merged",
        fusion_order="in_text",
        image_token_id=len(WORDS),
    )
    torch.manual_seed(0)
    model, data = MMForConditionalGeneration(config).double().train(), load_data(written(folder, LLAVA))
    samples = [data[number] for number in range(3)]

    def loss(batch):
        batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
        found = model(**batch).loss
        return found * (batch["labels"] != -100).sum()

    collate = MMDataCollator(processor)
    together, alone = loss(collate(samples)), sum(loss(collate([sample])) for sample in samples)
    assert abs(float(together - alone)) <= 1e-9
    together.backward()
    gradient = model.model.vision_projector.weight.grad
    assert gradient is not None and float(gradient.abs().max()) > 0


BAD = [
    ({"chat": LLAVA[0]["conversations"], "image": "a.png"}, "0 places of images"),
    ({"chat": "hi"}, "chat 0 is 'hi'"),
    ({"chat": [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]}, "holds media itself"),
    (
        {"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}], "suffix": "a"},
        "own answers",
    ),
]


@pytest.mark.parametrize(("sample", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_samples_that_are_no_conversation_are_refused(folder, processor, sample, reason):
    given = {**sample, **({"image": str(folder / sample["image"])} if "image" in sample else {})}
    with pytest.raises(ValueError, match=reason):
        MMDataCollator(processor)([given])
