"""What generate() takes is what Transformers' takes, and it says where the logits are broken."""

# Fixtures build models whose types pyright cannot follow.

import json
import warnings
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerFast, StoppingCriteria, pipeline

from mm import MMForConditionalGeneration, MMProcessor
from mm.modeling_mm.tasks.generation_mixin import LogitsCheck

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "checkpoints" / "mm-tiny"
PICTURES = [str(ROOT / "examples" / "pictures" / f"{name}.png") for name in ("rocket", "smiling_face_with_sunglasses")]
IDS = torch.tensor([[1, 5, 6], [1, 9, 4]])
SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4}


@pytest.fixture(scope="module")
def shipped():
    return MMForConditionalGeneration.from_pretrained(MODEL).eval(), MMProcessor.from_pretrained(MODEL)


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A word per id of the tiny models, and no special tokens around a text: w5, and w50 begins as w5 does."""
    vocabulary = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2} | {f"w{number}": number for number in range(3, 50)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]", padding_side="left"
    )


# ---- what Transformers takes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 1}], ids=["greedy", "beams", "sample"]
)
def test_writing_stops_behind_a_string(shipped, way):
    model, processor = shipped
    inputs = processor(images=PICTURES, return_tensors="pt")
    given = {**inputs, **way, "tokenizer": processor.tokenizer}
    config = GenerationConfig.from_dict({**model.generation_config.to_dict(), "stop_strings": ["ing"]})
    for stop in ({"stop_strings": ["ing"]}, {"stop_strings": "ing"}, {"generation_config": config}):
        written = processor.batch_decode(model.generate(**given, **stop), skip_special_tokens=True)
        assert written == ["rocket", "smiling"]
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(**inputs, **way, stop_strings=["ing"])


def test_pipelines_stop_behind_a_string(shipped):
    model, processor = shipped
    by_transformers = pipeline("image-text-to-text", model=model, processor=processor)
    written = by_transformers(images=PICTURES[1], text="", stop_sequence="ing")
    assert written[0]["generated_text"].strip() == "smiling"
    captions = pipeline("mm-captioning", model=model, processor=processor)
    answers = pipeline("mm-vqa", model=model, processor=processor)
    for stop in ({"stop_sequence": "ing"}, {"stop_sequence": ["ing", "ck"]}, {"stop_strings": ["ing"]}):
        assert captions(PICTURES[1], **stop) == [{"caption": "smiling"}]
        assert answers(image=PICTURES[1], question="", **stop) == [{"answer": "smiling"}]
    with pytest.raises(ValueError, match="one thing"):
        captions(PICTURES[1], stop_sequence="a", stop_strings=["a"])


class Fixed(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.zeros_like(scores).index_fill(1, torch.tensor([7]), 1.0)


class Two(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 5)


def test_every_argument_of_generate_goes_where_transformers_sends_it(tiny_model, words, pictures):
    model, one = tiny_model(), {"input_ids": IDS[:1], "pixel_values": pictures[:1]}
    both = {"input_ids": IDS, "pixel_values": pictures[:2], **SETTINGS}
    written = model.generate(**both)
    for same in (
        {"tokenizer": words}, {"synced_gpus": False}, {"assistant_tokenizer": words}, {"max_time": 60.0},
        {"logits_processor": []}, {"stopping_criteria": []}, {"tokenizer": words, "cache_implementation": "static"},
        {"negative_prompt_ids": IDS[:, :1], "guidance_scale": 1.0}, {"use_cache": False, "tokenizer": words},
        {"tokenizer": words, "custom_generate": MMForConditionalGeneration._sample},
    ):  # fmt: skip
        assert torch.equal(model.generate(**both, **same), written), same
    assert torch.equal(model.generate(IDS, pixel_values=pictures[:2], **SETTINGS), written)
    assert (model.generate(**both, logits_processor=[Fixed()])[:, 3:] == 7).all()
    assert model.generate(**both, stopping_criteria=[Two()]).shape[1] == 5
    alone = model.generate(**one, **SETTINGS)
    for same in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 2}):
        assert torch.equal(model.generate(**one, **SETTINGS, **same), alone), same
    with pytest.raises(ValueError, match="tokeniser"):
        model.generate(**both, tokeniser=words)


def test_an_assistant_with_its_own_tokenizer_helps(tiny_model, words, pictures):
    model, assistant = tiny_model(), tiny_model(text_config={"num_hidden_layers": 1, "vocab_size": 51})
    given = {"input_ids": IDS[:1], "pixel_values": pictures[:1], **SETTINGS}
    tokenizers = {"tokenizer": words, "assistant_tokenizer": words}
    helped = model.generate(**given, assistant_model=assistant, **tokenizers)
    assert torch.equal(helped, model.generate(**given))


def test_tokens_are_healed_where_the_tokenizer_gives_the_prompt_back(tiny_model, words, pictures):
    model = tiny_model()
    prompt = words(["w9 w4", "w8 w3"], return_tensors="pt").input_ids
    healed = model.generate(
        input_ids=prompt, pixel_values=pictures[:2], token_healing=True, tokenizer=words, **SETTINGS
    )
    assert torch.equal(healed[:, 0], prompt[:, 0])
    tails = words.convert_ids_to_tokens(healed[:, 1].tolist())
    assert [tail[:2] for tail in tails] == ["w4", "w3"]  # it, or a word that begins so
    with pytest.raises(ValueError, match=r"token_healing .* gave \(2, 2\) for \(2, 3\)"):
        model.generate(input_ids=IDS, pixel_values=pictures[:2], token_healing=True, tokenizer=words)


# ---- broken logits --------------------------------------------------------------------------------------------------

WAYS = {
    "greedy": {}, "beams": {"num_beams": 2}, "static": {"cache_implementation": "static", "disable_compile": True},
    "no cache": {"use_cache": False},
}  # fmt: skip


def with_nan_weights(model, pixels):
    model.lm_head.weight.data[7, 0] = float("nan")
    return pixels


def with_nan_from_the_second_step(model, pixels):
    model.model.language_model.embed_positions.weight.data[3] = float("inf")
    return pixels


def overflowing(model, pixels):
    model.lm_head.weight.data.mul_(1e38)
    return pixels


BREAKS = {
    "NaN weights": with_nan_weights,
    "a position": with_nan_from_the_second_step,
    "overflow": overflowing,
    "pixels of 1e30": lambda model, pixels: pixels * 1e30,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", BREAKS)
def test_broken_logits_are_said_once_and_can_be_left_unsaid(tiny_model, pictures, fault, way):
    model = tiny_model(dtype=torch.float32)
    pixels = BREAKS[fault](model, pictures[:2].float())
    given = {"input_ids": IDS, "pixel_values": pixels, **SETTINGS, **WAYS[way]}
    with pytest.warns(RuntimeWarning, match=r"generate\(\): the logits are NaN or infinite") as told:
        model.generate(**given)
    assert len([one for one in told if one.category is RuntimeWarning]) == 1
    model.config.check_inputs = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model.generate(**given)


def test_float16_overflow_is_said(tiny_model, pictures):
    model = tiny_model(dtype=torch.float32)
    model.model.language_model.layers[0].mlp.up_proj.weight.data.mul_(1e6)
    with pytest.warns(RuntimeWarning, match="float16"):
        model.half().generate(input_ids=IDS, pixel_values=pictures[:2].half(), **SETTINGS)


def test_sampling_from_broken_logits_is_refused_in_words(tiny_model, pictures):
    model = tiny_model()
    with_nan_weights(model, None)
    with pytest.raises(ValueError, match=r"generate\(\): the logits are NaN or infinite"):
        model.generate(input_ids=IDS, pixel_values=pictures[:2], do_sample=True, **SETTINGS)


def test_one_broken_row_among_whole_ones_is_said(tiny_model, pictures):
    pixels = pictures[:2].float()
    pixels[1] = 1e30
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        tiny_model(dtype=torch.float32).generate(input_ids=IDS, pixel_values=pixels, **SETTINGS)


def test_tokens_that_are_ruled_out_are_not_broken(tiny_model, pictures):
    model = tiny_model()
    given = {"input_ids": IDS, "pixel_values": pictures[:2], **SETTINGS}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model.generate(**given, suppress_tokens=list(range(3, 49)))
        model.generate(**given, prefix_allowed_tokens_fn=lambda row, ids: [7, 8], num_beams=2)
        model.generate(**given, do_sample=True, top_k=3, top_p=0.5)
        with_nan_weights(model, None)
        model.generate(**given, remove_invalid_values=True)


@pytest.mark.parametrize("given", [{"eos_token_id": 50}, {"eos_token_id": [2, 99]}, {"eos_token_id": "[EOS]"},
                                   {"bos_token_id": 50}, {"pad_token_id": 50}], ids=str)  # fmt: skip
def test_ids_outside_of_the_vocabulary_are_refused_wherever_they_come_from(tiny_model, tmp_path, given):
    model = tiny_model(cls=MMForConditionalGeneration)
    name, value = next(iter(given.items()))
    with pytest.raises(ValueError, match=f"{name}=.* ids 0..49"):
        model.generate(IDS, **SETTINGS, **given)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps(settings | given))
    with pytest.raises(ValueError, match=f"{name}(=.* ids 0..49| is .* no id)"):  # no id: as it loads
        MMForConditionalGeneration.from_pretrained(tmp_path).generate(IDS, **SETTINGS)
    setattr(model.generation_config, name, torch.tensor([1, 2]) if "eos" in name else 2)
    assert model.generate(IDS, **SETTINGS).shape == (2, 7)


@pytest.mark.parametrize("step", [0, 31, 32, 33, 99, None])
def test_the_check_finds_a_broken_step_and_holds_no_more_for_a_longer_text(step):
    check, held = LogitsCheck(), []
    for number in range(100):
        scores = torch.randn(3, 7)
        scores[:, 1] = -torch.inf  # ruled out
        if number == step:
            scores[2, 4] = torch.nan if number % 2 else torch.inf
        assert check(IDS, scores) is scores
        held.append(sum(best.numel() for best in check.best))
    assert check.found_broken() is (step is not None)
    assert max(held) == max(held[:33])
