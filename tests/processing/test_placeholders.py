"""Media that have a place in texts and chats: placeholders, counts, what is read, and LLaVA's processor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor, PreTrainedTokenizerFast, pipeline

from mm import (
    MMConfig,
    MMDataCollator,
    MMForConditionalGeneration,
    MMImageProcessorPil,
    MMProcessor,
    chat_inputs,
)
from mm.cli.caption import caption
from mm.cli.explain import Explainer
from mm.demo.tasks import captions

WORDS = "<pad> <s> </s> <unk> USER : what is it ? and this ASSISTANT a cat \ufffd".split()
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }} : {% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}<image> {% else %}{{ block['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT : {% endif %}"
)
SIZE, TOKENS = 16, 4


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **ends)
    made.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    return made


@pytest.fixture(scope="module")
def build(tokenizer):
    def build(**settings) -> MMProcessor:
        images = MMImageProcessorPil(size={"height": SIZE, "width": SIZE})
        own = {"placeholders": {"image": "<image>"}, "tokens_per_item": {"image": TOKENS}, "chat_template": CHAT}
        return MMProcessor(images, tokenizer, **{**own, **settings})

    return build


def picture(seed: int, side: int = 20) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + seed, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(*blocks: str | Image.Image) -> dict:
    """A turn of the user: texts and pictures, in their order."""
    content = [
        {"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "image": one} for one in blocks
    ]
    return {"role": "user", "content": content}


ANSWERED = {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}
CHATS = [
    [asked("what is", picture(1), "?")],
    [asked("what ?")],
    [
        asked(picture(2, 30), picture(3), "what is this ?"),
        ANSWERED,
        asked("and", picture(4), "?"),
        ANSWERED,
        asked("what ?"),
    ],
    [asked(*[picture(seed) for seed in range(5, 9)])],
]


def test_each_placeholder_becomes_the_tokens_of_its_picture(build, tokenizer):
    given = build()(
        images=[[picture(1), picture(2)], [picture(3)]], text=["what <image> and <image> ?", "<image> is it"]
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert given["input_ids"][0].count(image) == 2 * TOKENS and given["input_ids"][1].count(image) == TOKENS
    words = [tokenizer.convert_ids_to_tokens(row) for row in given["input_ids"]]
    assert words[0] == ["<s>", "what", *["<image>"] * TOKENS, "and", *["<image>"] * TOKENS, "?"]
    assert given["pixel_attention_mask"].tolist() == [[True, True], [True, False]]


def test_ids_and_pixels_are_those_of_llavas_processor(build, tokenizer):
    images = CLIPImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)
    theirs = LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="full")
    texts = ["<s> what <image> is it ?", "<s> <image> ?"]
    there = theirs(images=[picture(1), picture(2)], text=texts, padding=True, return_tensors="pt")
    here = build()(
        images=[picture(1), picture(2)], text=[text.removeprefix("<s> ") for text in texts], return_tensors="pt"
    )
    assert torch.equal(here["input_ids"], there["input_ids"])
    assert torch.equal(here["attention_mask"], there["attention_mask"])


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([picture(1)], "what is it ?"),
        ([picture(1)], "<image> <image>"),
        ([picture(1), picture(2)], "what <image>"),
        ([[picture(1)], None], ["<image>", "<image>"]),
    ],
)
def test_counts_that_do_not_match_are_refused(build, images, text):
    with pytest.raises(ValueError, match="<image>"):
        build()(images=images, text=text)


def test_what_a_user_writes_in_a_chat_is_no_place(build, tokenizer):
    chat = [asked("what <image> </s> is", picture(1))]
    given = build().apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    ids = given["input_ids"][0].tolist()
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == TOKENS and tokenizer.eos_token_id not in ids


def test_a_place_is_never_cut_off(build):
    with pytest.raises(ValueError, match="cut off"):
        build()(images=[picture(1)], text="what is <image>", max_length=5)


def test_other_special_tokens_of_a_text_with_places_stay_text(build, tokenizer):
    given = build()(images=[picture(1)], text="<image> </s> <video> ?")
    assert not {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<video>")} & set(given["input_ids"][0])


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("last", [[0, 0], [0, 0], [0, 4], [4, 8], [4, 8], [8, 12], [8, 12]]),
        ("before", [[0, 0], [0, 0], [0, 4], [0, 8], [0, 8], [0, 12], [0, 12]]),
        ("last_run", [[0, 0], [0, 0], [0, 4], [0, 8], [0, 8], [8, 12], [8, 12]]),
        ("all", None),
    ],
)
def test_what_a_text_reads_by_cross_attention(build, reading, expected):
    """<s> what <image> <image> is <image> ?"""
    given = build(media_reading=reading)(
        images=[[picture(1), picture(2), picture(3)]], text=["what <image> <image> is <image> ?"]
    )
    assert given.get("context_ranges", [None])[0] == expected


def test_settings_are_saved_and_checked(build, tmp_path):
    processor = build(media_reading="last")
    processor.save_pretrained(tmp_path)
    again = MMProcessor.from_pretrained(tmp_path)
    assert (again.placeholders, again.tokens_per_item, again.media_reading) == (
        {"image": "<image>"},
        {"image": 4},
        "last",
    )
    for wrong in (
        {"placeholders": {"image": "<film>"}}, {"placeholders": {"image": "cat"}}, {"tokens_per_item": None},
        {"tokens_per_item": {"image": 0}}, {"media_reading": "first"}, {"placeholders": None},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="placeholder|tokens_per_item|media_reading"):
            build(**wrong)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 24,
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "position_embedding_type": "rope",
        "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    config = MMConfig(
        vision_config={**vision, "image_size": SIZE, "patch_size": 8, "use_cls_token": False, "pooler": "mean"},
        text_config=text,
        fusion_type="merged", fusion_order="in_text", lm_head_transform=False,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    assert config.tokens_per_image == TOKENS
    model = MMForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4 if weight.ndim > 1 else 1 + 0.1 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize("beams", [1, 3])
def test_conversations_in_a_batch_equal_each_alone(build, model, beams):
    """Of 0 to 4 pictures of other sizes, in other places and turns."""
    processor = build()
    made = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    search = {
        "num_beams": beams,
        "max_new_tokens": 4,
        "do_sample": False,
        "suppress_tokens": [model.config.image_token_id],
    }

    def written(chats) -> torch.Tensor:
        inputs = processor.apply_chat_template(chats, **made, processor_kwargs={"padding": True})
        return model.generate(
            **{name: v.double() if v.is_floating_point() else v for name, v in inputs.items()}, **search
        )

    together = written(CHATS)
    for number, chat in enumerate(CHATS):
        assert torch.equal(together[number, -4:], written([chat])[0, -4:]), number


def test_tasks_put_the_picture_before_a_text_that_names_no_place(build, model, tmp_path):
    processor, path = build(), str(tmp_path / "a.png")
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    picture(1).save(path)
    tokenizer, size = processor.tokenizer, model.config.text_config.vocab_size
    silent = [*tokenizer.all_special_ids, *range(len(tokenizer), size)]  # what is written can be read
    settings = {"max_new_tokens": 3, "suppress_tokens": [model.config.image_token_id, *silent]}
    GenerationConfig(**settings, bos_token_id=1, pad_token_id=0).save_pretrained(tmp_path)
    asked = [processor.about("image", text) for text in ("", "what is")]
    read = [processor(images=[path], **one, add_eos_token=False, return_tensors="pt") for one in asked]
    ids = [model.generate(**{**one, "pixel_values": one["pixel_values"].double()}, **settings) for one in read]
    bare, words = (
        processor.decode(row[0, one["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, one in zip(ids, read, strict=True)
    )
    assert bare and words
    write = pipeline("mm-captioning", model=str(tmp_path))
    assert write(path, **settings) == [{"caption": bare}]
    assert write(path, prompt="what is", **settings) == [{"caption": words}]
    answer = pipeline("mm-vqa", model=str(tmp_path))
    assert answer(image=path, question="what is", **settings) == [{"answer": words}]
    ((_, own),) = Explainer(tmp_path, method="occlusion", text="a cat")([Path(path)])
    assert own.words[:2] == ["a", "cat"]
    ((_, found),) = Explainer(tmp_path, method="occlusion", prompt="what is")([Path(path)])
    assert " ".join(found.words) == words and found.contributions["image"].any()
    written = [next(caption([path], tmp_path, prompt=prompt)).caption for prompt in ("", "what is")]
    assert written == [" ".join(text.split()) for text in (bare, words)]
    shown, own = captions(MMForConditionalGeneration.from_pretrained(tmp_path).eval(), processor, path, 1)
    assert [text for text, _ in shown] == [" ".join(bare.split())] and own.words


def test_what_prompts_end_with_is_a_string(build):
    with pytest.raises(TypeError, match="prompt_ending=3; accepted is a string"):
        build(prompt_ending=3)


def test_pictures_before_the_text_stand_before_bos_and_any_that_a_text_names_in_it_stay(build, tokenizer):
    made = build(media_reading="before_text", prompt_ending=" ?")
    given = made(images=[[picture(1)], [picture(2), picture(3)]], text=["what", "<image> and <image> cat"])
    words = [tokenizer.convert_ids_to_tokens(row) for row in given["input_ids"]]
    assert [word for word in words[0] if word != "<pad>"] == [*["<image>"] * TOKENS, "<s>", "what", "?"]
    assert words[1] == [*["<image>"] * TOKENS, "<s>", "and", *["<image>"] * TOKENS, "cat", "?"]
    assert made(text=["what"])["input_ids"][0][0] == tokenizer.bos_token_id
    with pytest.raises(ValueError, match="1 '<image>', but its sample has 2"):
        made(images=[[picture(1), picture(2)]], text=["<image> what"])
    with pytest.raises(ValueError, match="a place of media would be cut off"):
        made(images=[picture(1)], text=["what <image>"], max_length=4)


USER = {"role": "user"}
FAULTS = {
    "nothing": ([], "a list of at least one message"),
    "a word": (["hi"], "message 0 of the conversation is 'hi'"),
    "no role": ([{"content": "a"}], "role=None"),
    "no content": ([asked("what ?"), USER], "message 1 of the conversation has content=None"),
    "no block": ([{**USER, "content": []}], r"content=\[\]"),
    "a number": ([{**USER, "content": 5}], "content=5"),
    "one block": ([{**USER, "content": {"type": "text", "text": "a"}}], "a list of blocks"),
    "a block of words": ([{**USER, "content": ["a"]}], "block 0 that is 'a'"),
    "a text without text": ([{**USER, "content": [{"type": "text"}]}], "text=None"),
    "a text of None": ([{**USER, "content": [{"type": "text", "text": None}]}], "text=None"),
    "another kind": (
        [{**USER, "content": [{"type": "film", "film": "a"}]}],
        "type='film'; accepted are text, image_url",
    ),
    "no kind": ([{**USER, "content": [{"image": picture(1)}]}], "type=None"),
}


@pytest.mark.parametrize(("chat", "words"), FAULTS.values(), ids=FAULTS)
def test_what_a_template_would_write_as_nothing_is_refused(build, chat, words):
    """By `apply_chat_template`, with labels, and as a sample of a collator, of which "skip" leaves it out."""
    processor = build()
    with pytest.raises(ValueError, match=words):
        processor.apply_chat_template(chat, tokenize=True)
    with pytest.raises(ValueError, match=words.replace("the conversation", "conversation 1")):
        processor.apply_chat_template([[asked("what ?")], chat], tokenize=True)
    if not chat:  # the answer alone is a conversation
        return
    said = [*chat, ANSWERED]
    with pytest.raises(ValueError, match=words.split(" of ")[0] if "film" not in words else "film"):
        chat_inputs(processor, [said])
    samples = [{"chat": said}, {"chat": [asked("what ?"), ANSWERED]}]
    assert len(MMDataCollator(processor, on_error="skip")(samples)["input_ids"]) == 1


def test_what_a_message_says_beside_its_content_and_columns_of_none_are_taken(build, tokenizer):
    """A call of a tool has no content; tables give each block every column, as None where it has none."""
    processor = build()
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    assert processor.apply_chat_template([asked("what ?"), call, asked("a cat")]) is not None
    blocks = [
        {"type": "image", "image": picture(1), "path": None, "text": None},
        {"type": "text", "image": None, "path": None, "text": "what ?"},
    ]
    made = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    given = processor.apply_chat_template([{**USER, "content": blocks}], **made)
    wanted = processor.apply_chat_template([asked(picture(1), "what ?")], **made)
    assert given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)
