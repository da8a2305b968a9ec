"""The recipe for any language model: SigLIP, a new projector, an LLM with LoRA, and conversations about pictures."""

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    pipeline,
)

from comparing import close
from mm import MMDataCollator, MMForConditionalGeneration, MMProcessor, chat_inputs, load_data
from mm.cli.ask import ask
from mm.cli.caption import caption
from mm.processing.chat_template import PLAIN_CHAT, with_places
from mm.training.chatting import with_chats
from mm.training.recipe import make_arguments, read_recipe
from mm.training.run import train

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "USER:", "ASSISTANT:", "which", "colour", "?", "it", "is", *COLOURS]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def language_model(folder, kind="llama", template=None):
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **ends)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "llama":
        config = LlamaConfig(**SIZES, **IDS, vocab_size=len(WORDS), num_key_value_heads=2, initializer_range=0.3)
        model = LlamaForCausalLM(config)
    elif kind == "bert":
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 40}
        config = BertConfig(**sizes, **IDS, vocab_size=len(WORDS), is_decoder=True, tie_word_embeddings=False)
        model = BertLMHeadModel(config)
    else:
        model = GPT2LMHeadModel(
            GPT2Config(**IDS, vocab_size=len(WORDS), n_embd=32, n_layer=1, n_head=4, n_positions=64)
        )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(1)
    SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=16, patch_size=8)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Two questions about each of six squares, and a conversation without a picture."""
    folder, held = tmp_path_factory.mktemp("chats"), []
    for name in COLOURS:
        Image.new("RGB", (16, 16), name).save(folder / f"{name}.png")
        for number in range(2):
            asked = {"from": "human", "value": "<image>\nwhich colour ?" if number else "which colour ? <image>"}
            answered = {"from": "gpt", "value": f"it is {name}"}
            held.append({"id": f"{name}{number}", "image": f"{name}.png", "conversations": [asked, answered]})
    plain = [{"from": "human", "value": "which colour ?"}, {"from": "gpt", "value": "it is it"}]
    held.append({"id": "plain", "conversations": plain})
    (folder / "chats.json").write_text(json.dumps(held), encoding="utf-8")
    return folder


def run(chats, vision, text, output, **changes):
    settings = {
        "data": str(chats / "chats.json"), "vision_tower": str(vision), "text_tower": str(text), "output": str(output),
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "eval_share": 0.2, "logging_steps": 1,
    }  # fmt: skip
    said: list[str] = []
    return train(make_arguments({**read_recipe("chat"), **settings, **changes}), said.append), said


def test_the_recipe_trains_a_projector_and_lora_on_answers_and_the_model_talks(chats, vision, tmp_path):
    text = language_model(tmp_path / "llama")
    changes = {"max_steps": 40, "per_device_train_batch_size": 13, "learning_rate": "1e-2", "eval_share": 0}
    result, said = run(chats, vision, text, tmp_path / "out", **changes)
    assert any("LoRA of rank 16" in line and "trained whole: vision_projector" in line for line in said)
    losses = [line["loss"] for line in result.log_history if "loss" in line]
    assert losses[-1] < losses[0] / 2
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert model.config.media_in_text and model.config.image_token_id == len(WORDS)
    assert model.config.text_config.vocab_size == len(WORDS) + 1
    for name in ("red", "blue"):
        blocks = [{"type": "image", "path": str(chats / f"{name}.png")}, {"type": "text", "text": "which colour ?"}]
        given = processor.apply_chat_template(
            [{"role": "user", "content": blocks}], tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True,
        )  # fmt: skip
        written = model.generate(**given, max_new_tokens=4, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert processor.tokenizer.convert_ids_to_tokens(written.tolist()) == ["it", "is", name, "</s>"]
    check_that_it_is_asked_by_its_template(chats, tmp_path / "out")


def check_that_it_is_asked_by_its_template(chats, folder):
    """By the commands, a pipeline and the code of its card."""
    asked, settings = "which colour ?", {"max_new_tokens": 4}
    for name in ("red", "blue"):
        picture, said = chats / f"{name}.png", []
        ask(picture, [asked], said.append, model=str(folder), **settings)
        assert said == [f"{asked}\tit is {name}"]
        (one,) = caption([picture], folder, prompt=asked, with_scores=True, **settings)
        assert one.caption == f"it is {name}" and one.score > -1
    pipe = pipeline("mm-vqa", model=str(folder))
    pairs = [{"image": str(chats / f"{name}.png"), "question": asked} for name in ("red", "blue")]
    assert pipe(pairs, batch_size=2, **settings) == [[{"answer": "it is red"}], [{"answer": "it is blue"}]]
    raw = {"image": str(chats / "red.png"), "question": "USER: <image> which colour ? ASSISTANT:"}
    assert pipe(raw, **settings) == [{"answer": "it is red"}]  # a text with the place of its picture is the prompt
    with pytest.raises(ValueError, match="put them into two calls"):
        pipe([raw, pairs[0]], batch_size=2, **settings)
    card = (folder / "README.md").read_text()
    assert 'processor.about("image", ' in card and "was not run" not in card


def test_what_asks_for_an_answer_ends_where_its_first_token_begins(tmp_path):
    """The space before an answer is a part of its first token, in most vocabularies: it is learned, and not given."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = ["USER: which colour? ASSISTANT: it is red"] * 9
    special = ["<pad>", "<s>", "</s>", "<image>"]
    made.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<image>"], **ends)
    processor = MMProcessor(tokenizer=tokenizer, chat_template=with_places(PLAIN_CHAT, {"image": "<image>"}))
    chat = [{"role": "user", "content": "which colour?"}, {"role": "assistant", "content": "it is red"}]
    (whole,) = chat_inputs(processor, [chat])["input_ids"]
    (asked,) = processor.apply_chat_template([chat[:1]], tokenize=True, add_generation_prompt=True)
    assert whole[: len(asked)] == asked
    labels = chat_inputs(processor, [chat])["labels"][0]
    assert [label != -100 for label in labels] == [False] * len(asked) + [True] * (len(whole) - len(asked))
    assert tokenizer.decode(whole[len(asked) :]) == " it is red</s>"


@pytest.mark.slow
def test_the_loss_of_what_is_held_out_is_measured(chats, vision, tmp_path):
    text = language_model(tmp_path / "llama", template=CHATML)
    result, _ = run(chats, vision, text, tmp_path / "out", max_steps=2, eval_data=str(chats / "chats.json"))
    assert result.metrics["eval_loss"] > 0 and (tmp_path / "out" / "README.md").is_file()
    assert "<|im_start|>" in AutoProcessor.from_pretrained(tmp_path / "out").chat_template


@pytest.mark.slow
def test_a_chat_longer_than_the_text_has_positions_is_cut_and_the_run_goes_on(chats, vision, tmp_path):
    """GPT-2's tokenizer here names no length, and its model has 64 positions."""
    turns = [{"from": "human", "value": "which"}, {"from": "gpt", "value": "it is " * 40}]
    asked = [{"from": "human", "value": "which " * 80}, {"from": "gpt", "value": "it"}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": turns}, {"conversations": asked}]))
    text = language_model(tmp_path / "gpt2", "gpt2")
    changes = {"data": str(tmp_path / "chats.json"), "media": str(chats), "max_steps": 2, "eval_share": 0}
    result, _ = run(chats, vision, text, tmp_path / "out", **changes)
    assert any(line.get("train_loss", 0) > 0 for line in result.log_history)
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.model_max_length == 64


@pytest.mark.slow
def test_without_lora_and_with_frozen_towers_only_the_projector_learns(chats, vision, tmp_path):
    text = language_model(tmp_path / "llama")
    run(chats, vision, text, tmp_path / "out", max_steps=2, eval_share=0, lora=0, freeze="vision,text,lm_head")
    model = MMForConditionalGeneration.from_pretrained(tmp_path / "out")
    theirs = LlamaForCausalLM.from_pretrained(text).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: len(WORDS)], theirs)
    start = MMForConditionalGeneration.from_towers(
        vision, text, fusion_type="merged", fusion_order="in_text", projector_type="mlp", image_token_id=len(WORDS)
    )
    assert all(
        torch.equal(own, start.get_parameter(name))
        for name, own in model.named_parameters()
        if "projector" not in name
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@torch.no_grad()
def test_a_vocabulary_that_grows_for_placeholders_changes_no_text(vision, tmp_path, kind):
    text = language_model(tmp_path / kind, kind)
    places = {"fusion_type": "merged", "fusion_order": "in_text", "image_token_id": len(WORDS) + 2}
    ours = MMForConditionalGeneration.from_towers(vision, text, **places).eval()
    theirs = AutoModelForCausalLM.from_pretrained(text).eval()
    ids = torch.tensor([[1, 6, 7, 8, 5]])
    close(ours(ids).logits[..., : len(WORDS)], theirs(ids).logits)
    rows = ours.get_input_embeddings().weight
    close(rows[len(WORDS) :], theirs.get_input_embeddings().weight.mean(0).expand(3, -1))


def test_a_language_models_own_chat_template_takes_pictures(chats, vision, tmp_path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(language_model(tmp_path / "llama"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = SiglipImageProcessor(size={"height": 16, "width": 16})
    data = load_data(chats / "chats.json")
    sample = next(one for one in data.samples if one["id"] == "red0")
    for template, wanted in (
        (PLAIN_CHAT, "USER: which colour ?<image>\n ASSISTANT: it is red</s>"),
        (CHATML, "<|im_start|> user which colour ?<image>\n <|im_end|> <|im_start|> assistant it is red <|im_end|> "),
    ):
        processor = MMProcessor(
            images, tokenizer, chat_template=with_places(template, {"image": "<image>"}),
            placeholders={"image": "<image>"}, tokens_per_item={"image": 4},
        )  # fmt: skip
        assert processor.apply_chat_template(sample["chat"]) == wanted
        plain = [{"role": message["role"], "content": "which"} for message in sample["chat"]]
        assert "which" in processor.apply_chat_template(plain)
        batch = MMDataCollator(processor)([sample])
        assert (batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum() == 4


def test_a_tower_of_an_unknown_number_of_tokens_is_refused(vision, tmp_path):
    class Config:
        modalities, placeholder_ids, tokens_per_image = ["image"], {"image": 3}, None

    tokenizer = PreTrainedTokenizerFast.from_pretrained(language_model(tmp_path / "llama"))
    with pytest.raises(ValueError, match="how many tokens a text reads of image is not known"):
        with_chats(MMProcessor(tokenizer=tokenizer), Config())


def test_bad_conversations_are_left_out_and_listed_and_end_no_run(chats, vision, tmp_path):
    text = language_model(tmp_path / "llama")
    held = json.loads((chats / "chats.json").read_text(encoding="utf-8"))[:2]
    asked = {"from": "human", "value": "<image> " + "which colour ? " * 9}
    cut = {"id": "cut", "image": "red.png", "conversations": [asked, {"from": "gpt", "value": "it is red"}]}
    late = {"id": "late", "image": "red.png", "conversations": [{"from": "human", "value": "which " * 30 + "<image>"},
                                                                {"from": "gpt", "value": "it is red"}]}  # fmt: skip
    (chats / "broken.png").write_bytes(b"no picture")
    broken = {**held[0], "id": "broken", "image": "broken.png"}
    path = chats / "bad.json"
    path.write_text(json.dumps([*held, cut, late]), encoding="utf-8")
    changes = {"data": str(path), "num_train_epochs": 1, "per_device_train_batch_size": 1, "eval_share": 0, "lora": 0}
    changes |= {"max_length": 24, "on_error": "skip", "freeze": "vision"}
    with pytest.raises(ValueError, match="nothing to learn|place of media would be cut off"):
        run(chats, vision, text, tmp_path / "raised", **{**changes, "on_error": "raise"})
    path.write_text(json.dumps([*held, cut, late, broken]), encoding="utf-8")
    result, said = run(chats, vision, text, tmp_path / "out", **changes, eval_data=str(path))
    assert "3 media or samples could not be read:" in said
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()]
    reasons = {one["reason"] for one in listed if str(chats / "red.png") in one["name"]}
    assert len({one["name"] for one in listed}) == 3 and {reason[:18] for reason in reasons} == {
        "conversation 0 has", "text 0 has 41 toke",
    }  # fmt: skip
    assert sum(line.startswith("not evaluated: ") for line in said) == 3
    assert result.metrics["eval_loss"] > 0 and (tmp_path / "out" / "model.safetensors").is_file()
