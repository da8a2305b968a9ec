"""PaliGemma: SigLIP and Gemma, whose prompt sees itself both ways, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from mm import MMConfig, MMDataCollator, MMForConditionalGeneration
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *LETTERS]
IMAGE, TOKENS = len(WORDS), 4
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": IMAGE + 1 + 1024 + 128 + 4, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
CASES = {
    "usual": ({"vision_use_head": False}, {}),
    "odd": (
        {"vision_use_head": True, "image_size": 20, "patch_size": 6, "layer_norm_eps": 1e-4},
        {"num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": False, "hidden_act": "silu"},
    ),
    "the second": (
        {"vision_use_head": False},
        {
            "sliding_window": 5,
            "query_pre_attn_scalar": 11,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "the second, odd": (
        {"vision_use_head": True, "image_size": 20, "patch_size": 6},
        {
            "num_key_value_heads": 2,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "hidden_activation": "silu",
            "layer_types": ["full_attention", "sliding_attention"],
            "sliding_window": 3,
            "attn_logit_softcapping": None,
            "num_attention_heads": 6,
            "hidden_size": 36,
            "final_logit_softcapping": 1.5,
        },
    ),
}


def settings(case: str = "usual", **changes) -> PaliGemmaConfig:
    vision, text = CASES[case]
    text_class = Gemma2Config if "second" in case else GemmaConfig
    parts = {
        "vision_config": SiglipVisionConfig(**{**VISION, **vision}),
        "text_config": text_class(**{**TEXT, **text}),
        "tie_word_embeddings": text.get("tie_word_embeddings", True),
    }
    width = text.get("hidden_size", 32)
    sizes = {"image_token_index": IMAGE, "projection_dim": width, "hidden_size": width}
    return PaliGemmaConfig(**{**parts, **sizes, **changes})


@pytest.fixture(scope="module")
def processor():
    backend = Tokenizer(models.BPE({word: number for number, word in enumerate(WORDS)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ends = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **ends)
    images = SiglipImageProcessor(size={"height": 16, "width": 16})
    images.image_seq_length = TOKENS
    return PaliGemmaProcessor(images, tokenizer)


@pytest.fixture(
    params=[
        "usual",
        "the second",
        *(pytest.param(f"{odd}odd", marks=pytest.mark.slow) for odd in ("", "the second, ")),
    ]
)
def pair(request, peer, saved):
    theirs = peer(PaliGemmaForConditionalGeneration, settings(request.param))
    source = saved(theirs)
    return theirs, convert(source), source


@pytest.fixture
def done(peer, saved, processor):
    return convert(saved(peer(PaliGemmaForConditionalGeneration, settings()), processor))


def pictures(count: int) -> list[Image.Image]:
    made = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in made]


def test_logits_are_equal_and_it_is_written_back(pair, tmp_path):
    _, done, source = pair
    lines = verify(Checkpoint(source), done.model.eval(), FAMILIES["paligemma"])
    assert [line.split(" differ")[0] for line in lines] == [
        "verified: logits of a prompt",
        "verified: logits of an answer",
    ]
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "paligemma", tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_tokens_are_equal_with_every_cache_and_without(pair, beams):
    theirs, ours = pair[0].double().eval(), pair[1].model.double().eval()
    side = ours.config.vision_config.image_size
    holes = [IMAGE] * ours.config.tokens_per_image
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
    ids = torch.tensor([holes + [2, 7, 8, 5], holes + [2, 9, 11, 5]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    search = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE, 1]}
    search["no_repeat_ngram_size"] = 2
    there = theirs.generate(**given, token_type_ids=torch.zeros_like(ids), **search)
    assert there[:, -6:].unique().numel() > 2
    for caches in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(ours.generate(**given, **search, **caches), there)


def test_a_prompt_sees_itself_both_ways_and_an_answer_only_what_comes_before(done):
    model = done.model.double().eval()
    given = done.processor(pictures(1), "what", suffix="yes", return_tensors="pt")
    given["pixel_values"] = given["pixel_values"].double()
    with torch.no_grad():
        whole = model(**given).logits[0]
        places = given["labels"][0] != -100
        first = int(places.long().argmax())
        for changed, sees in ((first - 1, range(first + 4)), (first + 1, range(first + 1, first + 4))):
            ids = given["input_ids"].clone()
            ids[0, changed] += 1
            moved = (model(**{**given, "input_ids": ids}).logits[0] - whole).abs().amax(-1) > 1e-9
            assert moved.nonzero()[:, 0].tolist() == list(sees)


def test_the_processor_makes_their_ids_labels_and_pixels_and_comes_back(done, processor, tmp_path):
    for text, suffix in (("caption en", "a cat"), ("detect cat", "<loc0012><loc0901> cat"), ("", "x")):
        there = processor(pictures(1), "<image>" + text, suffix=suffix, return_tensors="pt")
        for own in (text, "<image>" + text):
            here = done.processor(pictures(1), own, suffix=suffix, return_tensors="pt")
            assert all(torch.equal(here[name], there[name]) for name in ("input_ids", "attention_mask", "labels"))
            assert (here["pixel_values"] - there["pixel_values"]).abs().max() < 1e-6
    texts, seen = ["<image><image>which ?", "<image>what"], [pictures(2), pictures(1)]
    there = processor(seen, texts, padding=True, return_tensors="pt")
    here = done.processor(seen, ["which ?", "what"], return_tensors="pt")
    assert torch.equal(here["input_ids"], there["input_ids"])
    done.save_pretrained(tmp_path / "mm")
    again = AutoProcessor.from_pretrained(tmp_path / "mm")
    assert again(pictures(1), "what")["input_ids"] == done.processor(pictures(1), "what")["input_ids"]
    assert "wrote PaliGemmaProcessor" in convert_back(tmp_path / "mm", "paligemma", tmp_path / "back")
    back = AutoProcessor.from_pretrained(tmp_path / "back")
    assert type(back) is PaliGemmaProcessor and back.image_seq_length == TOKENS
    assert back(pictures(1), "<image>what")["input_ids"] == processor(pictures(1), "<image>what")["input_ids"]


@torch.no_grad()
def test_a_batch_of_pictures_and_questions_is_each_one_alone(done, assert_close):
    model = done.model.eval()
    seen, texts = [pictures(3)[:2], [pictures(3)[2]], []], ["which ?", "what is it ?", "a"]
    together = done.processor(seen, texts, return_tensors="pt")
    logits, written = model(**together).logits, model.generate(**together, max_new_tokens=4)
    for number, (own, text) in enumerate(zip(seen, texts, strict=True)):
        alone = done.processor([own] if own else None, [text], return_tensors="pt")
        expected = model(**alone).logits[0]
        assert_close(logits[number, -len(expected) :], expected)
        assert torch.equal(model.generate(**alone, max_new_tokens=4)[0, -4:], written[number, -4:])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if "odd" not in case])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(peer, saved, processor, case, seed):
    rows_alone(convert(saved(peer(PaliGemmaForConditionalGeneration, settings(case)), processor)), "", seed=seed)


def test_training_and_scores_read_the_answer_as_an_answer(done, assert_close):
    samples = [{"image": pictures(1)[0], "text": "what", "suffix": "a cat"}, {"text": "is it", "suffix": "no"}]
    batch = MMDataCollator(done.processor)(samples)
    model = done.model.eval()
    assert not (batch["labels"] == IMAGE).any()
    types = (batch["labels"] != -100).cumsum(1).clamp(max=1)
    assert_close(model(**batch).loss, model(**batch, token_type_ids=types).loss)
    whole = {name: value for name, value in batch.items() if name != "labels"}
    scores = model.score(labels=batch["labels"], **whole)
    logits = model(**whole, token_type_ids=types).logits.log_softmax(-1)
    row = batch["labels"][0]
    expected = sum(logits[0, place - 1, row[place]] for place in (row != -100).nonzero()[:, 0])
    assert_close(scores.scores[0], expected)
    prompt = done.processor(pictures(1), "what", return_tensors="pt")
    answer = torch.tensor([row[row != -100].tolist()])
    assert_close(model.rank_answers(answer, **prompt).scores[0, 0] * answer.shape[1], expected)  # the mean


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": Gemma3TextConfig(**TEXT)}, "'gemma3_text'; known: gemma, gemma2"),
        ({"image_token_index": TEXT["vocab_size"] + 1}, "image_token_id in 0.."),
    ],
    ids=["PaliGemma 2", "outside"],
)
def test_what_mm_lacks_is_refused_by_name(peer, saved, changes, message):
    source = saved(peer(PaliGemmaForConditionalGeneration, settings(**changes)))
    with pytest.raises(ValueError, match=message):
        convert(source)


FAULTS = [
    ({"fusion_type": "merged"}, {}, "bidirectional_prompt=True is for media that stand in the text"),
    ({}, {"type_vocab_size": 2}, "needs type_vocab_size=0"),
    ({}, {"is_causal": False}, "needs is_causal=True"),
]


@pytest.mark.parametrize(("fields", "text", "message"), FAULTS)
def test_a_prompt_that_sees_itself_needs_settings_that_go_with_it(fields, text, message):
    placed = {"fusion_type": "merged", "fusion_order": "in_text", "image_token_id": 3}
    own = {"vocab_size": 9, "hidden_size": 24, "num_attention_heads": 3, "bos_token_id": 1, "eos_token_id": 2}
    with pytest.raises(ValueError, match=message):
        MMConfig(text_config={**own, "bidirectional_prompt": True, **text}, **(fields or placed))


def test_token_types_other_than_prompt_and_answer_are_refused(done):
    given = done.processor(pictures(1), "what", return_tensors="pt")
    with pytest.raises(ValueError, match="token_type_ids"):
        done.model(**given, token_type_ids=torch.full_like(given["input_ids"], 2))


def test_a_causal_model_is_not_written_as_a_paligemma(tmp_path):
    config = MMConfig(
        vision_config=VISION, text_config={"vocab_size": 60, "hidden_size": 24, "num_attention_heads": 3,
        "num_hidden_layers": 1, "intermediate_size": 20, "bos_token_id": 1, "eos_token_id": 2}, fusion_type="merged",
        fusion_order="in_text", image_token_id=50,
    )  # fmt: skip
    MMForConditionalGeneration(config).save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="bidirectional_prompt=False"):
        convert_back(tmp_path / "mm", "paligemma", tmp_path / "back")
