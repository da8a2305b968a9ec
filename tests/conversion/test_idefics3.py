"""Idefics3 and SmolVLM: tiles inside the text, squares of patches as one token; converted and back, beside the
installed class."""

# Fixtures build models whose types pyright cannot follow.

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from comparing import close
from mm import MMDataCollator, MMProcessor
from mm.cli.ask import ask
from mm.cli.caption import caption
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.training.recipe import make_arguments, read_recipe
from mm.training.run import train
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone, served, used

IMAGE = 49
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CASES = {"idefics3": ("Idefics3", 2, False), "smolvlm": ("SmolVLM", 4, True)}


def settings(kind: str, **changes):
    name, scale, tied = CASES[kind]
    parts = {"vision_config": VISION, "text_config": {**TEXT, "tie_word_embeddings": tied}}
    fields = {**parts, "image_token_id": IMAGE, "scale_factor": scale, "tie_word_embeddings": tied, **changes}
    return getattr(transformers, f"{name}Config")(**fields)


def of_transformers(peer, kind: str, **changes):
    return peer(getattr(transformers, f"{CASES[kind][0]}ForConditionalGeneration"), settings(kind, **changes))


@pytest.fixture(params=CASES)
def pair(request, peer, saved):
    theirs = of_transformers(peer, request.param)
    source = saved(theirs)
    return theirs, convert(source), source, request.param


def test_logits_are_equal_and_it_is_written_back(pair, tmp_path):
    _, done, source, kind = pair
    lines = verify(Checkpoint(source), done.model.eval(), FAMILIES[kind])
    assert len(lines) == 2 and all("differ by" in line for line in lines)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", kind, tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_tokens_are_equal_where_rows_have_other_numbers_of_tiles(pair, beams):
    theirs, ours = pair[0].double().eval(), pair[1].model.double().eval()
    count = ours.config.tokens_per_image
    ids = [[1, 5] + [IMAGE] * count * 3 + [7, 8], [0] * count + [1, 5, 9] + [IMAGE] * count * 2 + [7]]
    ids = torch.tensor(ids)
    pixels = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    present = torch.tensor([[True] * 3, [True, True, False]])
    pixels[1, 2] = 0
    given = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "pixel_values": pixels}
    search = {"num_beams": beams, "max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE, 2]}
    found = ours.generate(**given, pixel_attention_mask=present, **search)
    assert torch.equal(found, theirs.generate(**given, **search))


def test_another_text_is_refused_by_name(peer, saved):
    text = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_layer": 1, "n_head": 4}
    with pytest.raises(ValueError, match="gpt2"):
        convert(saved(of_transformers(peer, "idefics3", text_config=text)))


SPECIAL = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
SPECIAL += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


@pytest.fixture(scope="module")
def words(character_tokenizer):
    """A tokenizer of single characters, with the tokens that stand around tiles."""
    plain = ["<pad>", "<s>", "</s>", "<unk>", "\n", *" abcdefghijklmnopqrstuvwxyz?:"]
    return character_tokenizer(plain, SPECIAL)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(peer, saved, words):
    """A source with its processor, whose tiles are of 32 pixels and whose pictures of at most 96."""
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 400}
    theirs = of_transformers(peer, "idefics3", text_config=text, image_token_id=words.convert_tokens_to_ids("<image>"))
    source = saved(theirs)
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4)
    processor.save_pretrained(source)
    return theirs, source, processor


PICTURES = [[picture(40, 90), picture(9, 8)], [picture(70, 20)]]
PROMPTS = ["what is <image> and <image>?", "<image>what?"]


def test_ids_and_tiles_are_those_of_the_source_and_its_processor_is_written_back(folder, tmp_path):
    theirs, source, processor = folder
    done = convert(source)
    found = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    wanted = processor(images=PICTURES, text=PROMPTS, padding=True, return_tensors="pt")
    without_bos = found["input_ids"][found["input_ids"] != 1]
    assert torch.equal(without_bos, wanted["input_ids"][wanted["input_ids"] != 1].flatten())
    close(found["pixel_values"], wanted["pixel_values"], 1e-5)
    assert torch.equal(found["pixel_attention_mask"], wanted["pixel_attention_mask"].flatten(2).bool().any(-1))
    done.save_pretrained(tmp_path / "mm")
    assert MMProcessor.from_pretrained(tmp_path / "mm").tiles == done.processor.tiles
    convert_back(tmp_path / "mm", "idefics3", tmp_path / "back")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "back")
    again.image_processor = transformers.Idefics3ImageProcessorPil.from_pretrained(tmp_path / "back")
    same = again(images=PICTURES, text=PROMPTS, padding=True, return_tensors="pt")
    assert all(torch.equal(same[name], wanted[name]) for name in wanted)


@torch.no_grad()
def test_pictures_of_other_sizes_in_a_batch_change_nothing(folder):
    done = convert(folder[1])
    model, processor = done.model.double().eval(), done.processor
    given = processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    logits = model(**given).logits
    for row in range(2):
        alone = processor(images=[PICTURES[row]], text=[PROMPTS[row]], return_tensors="pt")
        length = alone["input_ids"].shape[1]
        close(logits[row, -length:], model(**alone).logits[0], 1e-10)


def test_places_of_tiles_without_their_pictures_are_refused(folder):
    processor = convert(folder[1]).processor
    with pytest.raises(ValueError, match="known by its size"):
        processor(text=["what is <image>?"])
    with pytest.raises(ValueError, match="2 pictures"):
        processor(images=[PICTURES[0]], text=["what is <image>?"])
    with pytest.raises(ValueError, match="longest_edge"):
        MMProcessor(processor.image_processor, processor.tokenizer, placeholders={"image": "<image>"},
                    tokens_per_item={"image": 4}, tiles={"size": 32})  # fmt: skip


def test_tiles_that_do_not_fit_are_refused(folder):
    processor = convert(folder[1]).processor

    def tiled(**settings) -> MMProcessor:
        return MMProcessor(
            processor.image_processor, processor.tokenizer, placeholders={"image": "<image>"},
            tokens_per_item={"image": 4}, tiles={"size": 32, "longest_edge": 96, **settings},
        )  # fmt: skip

    given = {"images": [picture(40, 90)], "text": ["<image>"]}
    with pytest.raises(ValueError, match="size=24 need an image processor of that size"):
        tiled(size=24)(**given)
    for option in ({"size": {"height": 16, "width": 16}}, {"do_resize": False}):
        with pytest.raises(ValueError, match="cut into tiles; leave out"):
            processor(**given, **option)
    for texts in ({"tile": "{image}{x}"}, {"tile": "{image}{image}"}, {"whole": "{row}{image}"}, {"tile": "{image"}):
        with pytest.raises(ValueError, match="tiles\\['(tile|whole)'\\]=.*"):
            tiled(**texts)
    assert tiled(tile="{row},{column}{image}", row_end="{")(**given)["input_ids"]


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>"
    "{% else %}{{ b['text'] }}{% endif %}{% endfor %}<end_of_utterance>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def chat(words: str, answer: str) -> list[dict]:
    """A question, "*" in whose words is the place of a picture, and its answer."""
    pieces = [piece for part in words.split("*") for piece in (part, "*")][:-1]
    blocks = [{"type": "image"} if piece == "*" else {"type": "text", "text": piece} for piece in pieces if piece]
    return [{"role": "user", "content": blocks}, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


SAMPLES = [
    {"images": [picture(40, 90), picture(9, 8), picture(30, 31)], "chat": chat("*what* is*?", "a cat")},
    {"image": None, "chat": chat("what?", "no")},
    {"image": picture(70, 20), "chat": chat("what is *?", "a dog")},
    {"images": [picture(70, 20), picture(21, 64)], "chat": chat("is*or*?", "a")},
]


@torch.no_grad()
def test_a_batch_of_chats_with_tiles_is_learned_from_as_each_alone(folder):
    done = convert(folder[1])
    model, processor = done.model.double().eval(), done.processor
    processor.chat_template = TEMPLATE
    collate = MMDataCollator(processor)
    batch = collate(SAMPLES)
    assert batch["pixel_values"].shape[:2] == (len(SAMPLES), 27) and "context_index" not in batch
    logits = model(**batch, return_logits=True).logits
    for row, sample in enumerate(SAMPLES):
        learned = batch["labels"][row]
        said = sample["chat"][1]["content"][0]["text"] + "<end_of_utterance>"
        assert processor.tokenizer.decode(learned[learned != -100]).replace(" ", "") == said.replace(" ", "")
        alone = collate([sample])
        real = alone["attention_mask"][0].bool()
        length = int(real.sum())
        assert torch.equal(batch["input_ids"][row, :length], alone["input_ids"][0])
        close(logits[row, :length], model(**alone, return_logits=True).logits[0], 1e-10)
    prompts = MMDataCollator(processor, mode="generate")(SAMPLES)
    assert "labels" not in prompts and model.generate(**prompts, max_new_tokens=2).shape[0] == len(SAMPLES)


def test_samples_share_a_picture_and_texts_without_a_place_have_it_in_front(folder):
    processor = convert(folder[1]).processor
    same = picture(40, 90)
    samples = [{"image": same, "text": "what?", "suffix": "a"}, {"image": same, "suffix": "cat"}]
    batch = MMDataCollator(processor)(samples)
    assert batch["context_index"].tolist() == [0, 0] and len(batch["pixel_values"]) == 1
    wanted = processor(images=[same, same], text=["<image>what?", "<image>"], suffix=["a", "cat"], return_tensors="pt")
    assert torch.equal(batch["input_ids"], wanted["input_ids"])
    assert torch.equal(batch["labels"], wanted["labels"])
    several = {"image": same, "text": ["<image>", "what <image>?"], "suffix": ["a", "b"]}
    assert MMDataCollator(processor)([several, samples[0]])["context_index"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="text 0 has 2 '<image>', but 1 pictures"):
        MMDataCollator(processor)([{"image": same, "text": "<image><image>", "suffix": "a"}])
    with pytest.raises(ValueError, match="places of broken media"):
        MMDataCollator(processor, on_error="placeholder")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["chat", "caption"])
def test_a_converted_model_is_trained_on(folder, tmp_path, task):
    done = convert(folder[1])
    done.processor.chat_template = TEMPLATE
    done.save_pretrained(tmp_path / "mm")
    rows = []
    for number, size in enumerate(((40, 90), (70, 20), (9, 8), (21, 64))):
        picture(*size).save(tmp_path / f"{number}.png")
        asked, said = {"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a cat"}
        rows.append({"image": f"{number}.png", "conversations": [asked, said]})
    if task == "chat":
        rows[0] = {**rows[0], "image": None, "images": ["0.png", "1.png"]}
        rows[0]["conversations"] = [{"from": "human", "value": "<image>is<image>?"}, rows[1]["conversations"][1]]
        rows.append({"conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "no"}]})
    else:
        rows = [{"image": one["image"], "caption": "a cat"} for one in rows]
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "data": str(tmp_path / "data.json"), "model": str(tmp_path / "mm"), "output": str(tmp_path / "out"),
        "eval_data": str(tmp_path / "data.json"), "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        "max_steps": 3, "per_device_train_batch_size": 5, "logging_steps": 1, "generation_max_length": 4,
    }  # fmt: skip
    given |= {"lora": 0} if task == "chat" else {"columns": "caption=suffix"}
    result = train(make_arguments({**read_recipe(task), **given}), lambda line: None)
    losses = [line["loss"] for line in result.log_history if "loss" in line]
    assert losses[-1] < losses[0] and result.metrics["eval_loss"] > 0


def test_commands_and_pipelines_read_a_picture_with_its_text(folder, tmp_path):
    done = convert(folder[1])
    done.save_pretrained(tmp_path / "mm")
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, ((40, 90), (70, 20), (90, 40)), strict=True):
        picture(*size).save(path)
    wanted = []
    for path in paths:
        given = done.processor(images=[[path]], text=["<image>what?"], return_tensors="pt")
        ids = done.model.eval().generate(**given, max_new_tokens=3, do_sample=False)[0, given["input_ids"].shape[1] :]
        wanted.append(" ".join(done.processor.decode(ids, skip_special_tokens=True).split()))
    told: list[str] = []
    for path in paths:
        ask(path, ["what?"], told.append, model=str(tmp_path / "mm"), max_new_tokens=3)
    assert told == [f"what?\t{answer}" for answer in wanted]
    found = [
        one.caption for one in caption(paths, tmp_path / "mm", prompt="what?", max_new_tokens=3, with_scores=True)
    ]
    assert all(text.endswith(answer) for text, answer in zip(found, wanted, strict=True))
    write = transformers.pipeline("mm-vqa", model=str(tmp_path / "mm"))
    answers = [write(image=str(path), question="what?", max_new_tokens=3)[0]["answer"] for path in paths]
    assert [" ".join(answer.split()) for answer in answers] == wanted
    assert len(write(image=str(paths[0]), question="what?", answers=["a", "b"])) == 2
    told = transformers.pipeline("mm-captioning", model=str(tmp_path / "mm"))(str(paths[0]), max_new_tokens=3)
    assert told[0].keys() == {"caption"}


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_words_have_one_map_over_each_whole_picture(folder, method):
    done = convert(folder[1])
    model, processor, given = done.model.eval(), done.processor, {"images": [PICTURES[0]], "text": [PROMPTS[0]]}
    inputs = processor(**given, return_tensors="pt")
    told = processor.tokenizer.batch_decode([[number] for number in range(model.config.written_tokens)])
    no_words = [number for number, word in enumerate(told) if not word.strip().isalpha()]
    written = model.generate(**inputs, max_new_tokens=2, suppress_tokens=no_words, do_sample=False)
    (found,) = model.explain(inputs, written, processor=processor, pictures=[PICTURES[0]], method=method)
    assert [item.number for item in found.items] == [0, 1] and len(found.words) >= 1
    for item, one in zip(found.items, PICTURES[0], strict=True):
        maps = item.over_picture()
        assert maps.shape == (len(found.words), one.height, one.width)
        close(torch.tensor(maps).sum((1, 2)), torch.ones(len(maps)), 1e-4)
    assert any(item.weights.std() > 0 for item in found.items)
    with pytest.raises(ValueError, match="cut into .* tiles, but inputs holds"):
        model.explain(inputs, written, processor=processor, pictures=[PICTURES[0][:1]], method=method)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(folder, seed):
    rows_alone(convert(folder[1]), "<image>", seed=seed)


def test_it_is_served(folder):
    done = convert(folder[1])
    done.processor.chat_template = TEMPLATE
    served(done, [picture(40, 90), picture(70, 20)])


@pytest.mark.slow
def test_trainer_a_pipeline_and_the_hub_take_it(folder, hub, tmp_path):
    used(convert(folder[1]), hub, tmp_path, PICTURES[0][0], TEMPLATE)


def of_smolvlm(peer, saved, words):
    """A SmolVLM with the files that its processor writes, but for those of films."""
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 400}
    token = words.convert_tokens_to_ids("<image>")
    source = saved(of_transformers(peer, "smolvlm", text_config=text, image_token_id=token, scale_factor=2))
    sizes = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    transformers.SmolVLMImageProcessorPil(**sizes, image_mean=[0.4, 0.5, 0.6]).save_pretrained(source)
    words.save_pretrained(source)
    return source


def test_a_smolvlm_gets_its_processor_back(peer, saved, words, tmp_path):
    """As files: its class needs torchvision and num2words (`make test-newest` loads it)."""
    done = convert(of_smolvlm(peer, saved, words))
    done.processor.chat_template = TEMPLATE
    done.save_pretrained(tmp_path / "mm")
    report = convert_back(tmp_path / "mm", "smolvlm", tmp_path / "back")
    assert "SmolVLMProcessor" in str(report)
    held = json.loads((tmp_path / "back" / "processor_config.json").read_text(encoding="utf-8"))
    assert (held["processor_class"], held["image_seq_len"]) == ("SmolVLMProcessor", 4)
    assert held["image_processor"]["image_processor_type"] == "SmolVLMImageProcessor"
    assert held["video_processor"]["video_processor_type"] == "SmolVLMVideoProcessor"
    assert held["video_processor"]["max_image_size"] == {"longest_edge": 32}
    for part in ("image_processor", "video_processor"):
        assert held[part]["image_mean"] == [0.4, 0.5, 0.6]
    again = convert(tmp_path / "back").processor
    assert again.tiles == done.processor.tiles and again.chat_template == TEMPLATE
    wanted, same = (one(images=PICTURES, text=PROMPTS, return_tensors="pt") for one in (done.processor, again))
    assert all(torch.equal(same[name], wanted[name]) for name in wanted)


@pytest.mark.newest
def test_the_class_of_a_smolvlm_s_processor_reads_those_files(peer, saved, words, tmp_path):
    done = convert(of_smolvlm(peer, saved, words))
    done.processor.chat_template = TEMPLATE
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "smolvlm", tmp_path / "back")
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path / "back", use_fast=False)
    assert type(theirs).__name__ == "SmolVLMProcessor" and theirs.chat_template == TEMPLATE
    wanted = theirs(images=PICTURES, text=PROMPTS, padding=True, return_tensors="pt")
    found = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    assert torch.equal(found["input_ids"][found["input_ids"] > 1], wanted["input_ids"][wanted["input_ids"] > 1])
    close(
        found["pixel_values"], wanted["pixel_values"], 1.5 / 255 / 0.26
    )  # a grey level, of another library's resizing
    film = np.zeros((2, 40, 60, 3), np.uint8)
    made = theirs(videos=[film], text=["<video>what?"], return_tensors="pt")
    assert int((made["input_ids"] == theirs.image_token_id).sum()) == 2 * 4
    assert made["pixel_values"].shape[-2:] == (32, 32)
