"""BLIP-2: ViT, Q-Former and OPT, converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from mm import MMConfig, MMDataCollator, MMForConditionalGeneration
from mm.cli.ask import Asker
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "\n", *"Question : what is it ? Answer a red cat dog two of and".split()]
IMAGE, QUERIES = len(WORDS), 5
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
QFORMER = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28}
TEXT = {
    "vocab_size": IMAGE + 3, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 48, "num_attention_heads": 4,
    "max_position_embeddings": 48, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 4,
}  # fmt: skip
CASES = {
    "usual": ({}, {}, {}),
    "odd": (
        {"qkv_bias": False, "image_size": 20, "patch_size": 6, "hidden_act": "relu"},
        {"cross_attention_frequency": 3, "num_hidden_layers": 4, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5},
        {"tie_word_embeddings": False, "enable_bias": False, "activation_function": "gelu"},
    ),
}
TEXTS = ["Question : what is it ? Answer :", "a red", ""]


def settings(case: str = "usual", **changes) -> Blip2Config:
    vision, qformer, text = CASES[case]
    parts = {
        "vision_config": {**VISION, **vision},
        "qformer_config": {**QFORMER, **qformer},
        "text_config": OPTConfig(**{**TEXT, **text}),
        "tie_word_embeddings": text.get("tie_word_embeddings", True),
    }
    return Blip2Config(**{**parts, "num_query_tokens": QUERIES, "image_token_index": IMAGE, **changes})


@pytest.fixture
def processor():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##")
    ends = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **ends)
    return Blip2Processor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=QUERIES)


@pytest.fixture(params=["usual", pytest.param("odd", marks=pytest.mark.slow)])
def pair(request, peer, saved):
    theirs = peer(Blip2ForConditionalGeneration, settings(request.param))
    source = saved(theirs)
    return theirs, convert(source), source


def pictures(count: int) -> list[Image.Image]:
    made = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in made]


def test_logits_are_equal_and_it_is_written_back(pair, tmp_path):
    _, done, source = pair
    assert len(verify(Checkpoint(source), done.model.eval(), FAMILIES["blip-2"])) == 2
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "blip-2", tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert Blip2ForConditionalGeneration.from_pretrained(tmp_path / "back").config.num_query_tokens == QUERIES


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_tokens_are_equal_with_a_prompt_and_without(pair, beams):
    theirs, ours = pair[0].double().eval(), pair[1].model.double().eval()
    side = ours.config.vision_config.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
    search = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE, 4]}
    search["no_repeat_ngram_size"] = 2
    for text in ([[2], [2]], [[2, 5, 6, 7], [2, 9, 9, 11]]):
        ids = torch.tensor([[IMAGE] * QUERIES + row for row in text])
        there = theirs.generate(pixels, **({} if len(text[0]) == 1 else {"input_ids": ids}), **search)
        here = ours.generate(input_ids=ids, pixel_values=pixels, **search)
        assert torch.equal(here, there) and here[:, -6:].unique().numel() > 2


def test_the_processor_makes_their_ids_and_pixels_and_comes_back(peer, saved, processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path / "plain")
    source = saved(peer(Blip2ForConditionalGeneration, settings()), processor)
    done = convert(source)
    assert any("eos_token is" in line for line in done.report)  # theirs ends answers with a line, by its config
    for text in TEXTS:
        there = processor(pictures(1), text, return_tensors="pt", add_special_tokens=True)
        here = done.processor(pictures(1), text, return_tensors="pt")
        bos = (
            [] if 2 in there["input_ids"][0].tolist() else [2]
        )  # their OPT tokenizer opens with it, this one does not
        ids = there["input_ids"][0].tolist()
        assert here["input_ids"][0].tolist() == ids[:QUERIES] + bos + ids[QUERIES:]
        assert (here["pixel_values"] - there["pixel_values"]).abs().max() < 1e-6
    assert done.processor(pictures(2), return_tensors="pt")["input_ids"].tolist() == [[IMAGE] * QUERIES + [2]] * 2
    done.save_pretrained(tmp_path / "mm")
    assert "wrote Blip2Processor" in convert_back(tmp_path / "mm", "blip-2", tmp_path / "back")
    again = AutoProcessor.from_pretrained(tmp_path / "back")
    assert type(again) is Blip2Processor and again.num_query_tokens == QUERIES
    assert all(again(pictures(1), text)["input_ids"] == processor(pictures(1), text)["input_ids"] for text in TEXTS)


@torch.no_grad()
def test_a_batch_of_pictures_and_questions_is_each_one_alone(peer, saved, processor, assert_close):
    done = convert(saved(peer(Blip2ForConditionalGeneration, settings()), processor))
    seen, texts = [pictures(3)[:2], [pictures(3)[2]], []], ["what is it ?", "Question : a red cat", "a dog"]
    together = done.processor(seen, texts, return_tensors="pt")
    logits = done.model.eval()(**together).logits
    for number, (own, text) in enumerate(zip(seen, texts, strict=True)):
        alone = done.processor([own] if own else None, [text], return_tensors="pt")
        expected = done.model(**alone).logits[0]
        assert_close(logits[number, -len(expected) :], expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(peer, saved, processor, seed):
    done = convert(saved(peer(Blip2ForConditionalGeneration, settings()), processor))
    rows_alone(done, "", ["what is it ?", "a red cat", "two"], seed)


def test_mm_ask_writes_what_the_model_writes_of_picture_and_question(peer, saved, processor, tmp_path):
    done = convert(saved(peer(Blip2ForConditionalGeneration, settings()), processor))
    pictures(1)[0].save(tmp_path / "one.png")
    asker = Asker(done.model.eval(), done.processor, tmp_path / "one.png")
    given = done.processor(pictures(1), "what is it ?", return_tensors="pt")
    written = done.model.generate(**given, max_new_tokens=4)[:, given["input_ids"].shape[1] :]
    expected = " ".join(done.processor.batch_decode(written, skip_special_tokens=True)[0].split())
    assert expected and asker.write("what is it ?", {"max_new_tokens": 4}) == expected
    assert [answer for answer, _ in asker.rank("what is it ?", ["a cat", "a dog"])]


def test_a_collator_puts_pictures_before_the_text_and_learns_the_answers_alone(peer, saved, processor):
    done = convert(saved(peer(Blip2ForConditionalGeneration, settings()), processor))
    samples = [
        {"image": pictures(1)[0], "text": "what is it ?", "suffix": "a cat"},
        {"images": pictures(2), "suffix": "two"},
    ]
    batch = MMDataCollator(done.processor)(samples)
    assert [row.count(IMAGE) for row in batch["input_ids"].tolist()] == [QUERIES, 2 * QUERIES]
    assert batch["input_ids"][1, : 2 * QUERIES + 1].tolist() == [IMAGE] * 2 * QUERIES + [2]
    assert not (batch["labels"] == IMAGE).any() and (batch["labels"] != -100).sum(1).tolist() == [3, 2]
    loss = done.model.train()(**batch).loss
    loss.backward()
    assert torch.isfinite(loss) and done.model.model.vision_resampler.latents.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_token_index": None}, "image_token_index"),
        ({"text_config": T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=2)}, "'t5'"),
        ({"qformer_config": {**QFORMER, "use_qformer_text_input": True}}, "use_qformer_text_input=True"),
    ],
    ids=["old", "t5", "text in the Q-Former"],
)
def test_what_mm_lacks_is_refused_by_name(peer, saved, changes, message):
    source = saved(peer(Blip2ForConditionalGeneration, settings(**{"tie_word_embeddings": True, **changes})))
    with pytest.raises(ValueError, match=message):
        convert(source)


def test_a_model_without_a_q_former_is_not_written_as_a_blip_2(tmp_path):
    config = MMConfig(
        vision_config=VISION, text_config={**TEXT, "intermediate_size": 40, "vocab_size": 60}, fusion_type="merged",
        fusion_order="in_text", image_token_id=50, projector_type="linear",
    )  # fmt: skip
    MMForConditionalGeneration(config).save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="there is no vision_resampler_config"):
        convert_back(tmp_path / "mm", "blip-2", tmp_path / "back")
