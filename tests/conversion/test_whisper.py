"""Whisper converted and back, beside the installed class: every size, odd ones, halves, shards, older files."""

# Fixtures build models whose types pyright cannot follow.

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    GenerationConfig,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperProcessor,
)

from mm.conversion_scripts import whisper
from mm.conversion_scripts.engine import convert, convert_back, run
from mm.conversion_scripts.family import own_shapes, skeleton
from whispers import (
    EOT,
    IDS,
    SOT,
    sounds_of,
    whisper_config,
    whisper_decoding,
    whisper_extractor,
    whisper_tokenizer,
)

# As published: (layers of the encoder, of the decoder, width, heads, vocabulary, bands).
SIZES = {
    "tiny.en": (4, 4, 384, 6, 51864, 80), "tiny": (4, 4, 384, 6, 51865, 80), "base": (6, 6, 512, 8, 51865, 80),
    "small.en": (12, 12, 768, 12, 51864, 80), "medium": (24, 24, 1024, 16, 51865, 80),
    "large-v2": (32, 32, 1280, 20, 51865, 80), "large-v3": (32, 32, 1280, 20, 51866, 128),
    "large-v3-turbo": (32, 4, 1280, 20, 51866, 128), "distil-large-v3": (32, 2, 1280, 20, 51866, 128),
}  # fmt: skip
ODD = {
    "usual": {},
    "other sizes": {
        "d_model": 40, "encoder_layers": 1, "encoder_attention_heads": 5, "encoder_ffn_dim": 52, "decoder_layers": 3,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 28, "num_mel_bins": 7, "max_source_positions": 11,
        "max_target_positions": 21, "activation_function": "relu",
    },
    "scaled, untied, of few words": {
        "scale_embedding": True, "tie_word_embeddings": False, "vocab_size": 19, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 3, "activation_function": "gelu_new",
    },
    "with what only training reads": {
        "dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3, "encoder_layerdrop": 0.1,
        "decoder_layerdrop": 0.2, "apply_spec_augment": True, "classifier_proj_size": 9, "median_filter_width": 5,
    },
}  # fmt: skip


@pytest.fixture(params=list(ODD))
def pair(request, peer, saved):
    theirs = peer(WhisperForConditionalGeneration, whisper_config(**ODD[request.param])).double()
    source = saved(theirs)
    return theirs, convert(source), source


def ids_of(theirs) -> torch.Tensor:
    """Two rows that begin as the decoder does."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(4, theirs.config.vocab_size, (2, 9), generator=generator)
    rows[:, 0] = theirs.config.decoder_start_token_id
    return rows


@torch.no_grad()
def test_logits_are_equal(pair, assert_close):
    theirs, ours, ids = pair[0], pair[1].model, ids_of(pair[0])
    sounds = sounds_of(theirs.config)
    there = theirs(sounds, decoder_input_ids=ids)
    assert_close(ours(ids, input_features=sounds[:, None]).logits, there.logits)
    assert_close(ours.model.encode_context(input_features=sounds[:, None])[0], there.encoder_last_hidden_state)


@pytest.mark.slow
@torch.no_grad()
def test_states_of_every_layer_and_the_loss_are_equal(pair, assert_close, states_of):
    theirs, ours, ids = pair[0], pair[1].model, ids_of(pair[0])
    sounds = sounds_of(theirs.config)
    there = states_of(theirs.model.decoder.layers, lambda: theirs(sounds, decoder_input_ids=ids))
    here = states_of(ours.model.language_model.layers, lambda: ours(ids, input_features=sounds[:, None]))
    for one, two in zip(here, there, strict=True):
        assert_close(one, two)
    loss = theirs(sounds, labels=ids[:, 1:]).loss
    assert_close(ours(ids, input_features=sounds[:, None], labels=ids).loss, loss)


@pytest.mark.slow
def test_every_gradient_is_equal(pair, assert_gradients):
    theirs, done, source = pair
    ids, sounds = ids_of(theirs), sounds_of(theirs.config)
    theirs(sounds, labels=ids[:, 1:]).loss.backward()
    done.model(ids, input_features=sounds[:, None], labels=ids).loss.backward()
    assert_gradients(theirs, done.model, source, "whisper")


def test_back_every_tensor_and_setting_is_the_sources(pair, tmp_path, tensors_of):
    theirs, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "whisper", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "back", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values())
    settings, own = again.config.to_dict(), theirs.config.to_dict()
    assert {name: settings[name] for name in own} == own | {"_name_or_path": settings["_name_or_path"]}


@pytest.mark.parametrize(
    "name", [name if name == "tiny.en" else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
)
def test_every_published_size_fits(name):
    heard, written, width, heads, words, bands = SIZES[name]
    eot = words - 1609 if words == 51864 else 50257
    sizes = {
        "d_model": width, "encoder_layers": heard, "decoder_layers": written, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "vocab_size": words, "num_mel_bins": bands, "decoder_start_token_id": eot + 1, "eos_token_id": eot,
        "bos_token_id": eot, "pad_token_id": eot,
    }  # fmt: skip
    with torch.device("meta"):
        tensors = WhisperForConditionalGeneration(WhisperConfig(**sizes)).state_dict()

    class Named(dict):
        config, directory = WhisperConfig(**sizes).to_dict(), None

    del tensors["proj_out.weight"]  # tied, so no file has it
    plan = whisper.plan(Named(tensors))
    wanted = own_shapes(skeleton(plan.model_class, plan.config))
    assert plan.table.convert(tensors, wanted).tensors.keys() == wanted.keys()
    assert whisper.layout(skeleton(plan.model_class, plan.config)).config.to_dict() == {
        **WhisperConfig(**sizes).to_dict(), "begin_suppress_tokens": None,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_and_shards_are_verified_both_ways(peer, tmp_path, dtype):
    theirs = peer(WhisperForConditionalGeneration, whisper_config()).to(dtype)
    theirs.save_pretrained(tmp_path / "source", max_shard_size="60KB")
    assert (tmp_path / "source/model.safetensors.index.json").is_file()
    report = run(str(tmp_path / "source"), str(tmp_path / "mm"), compare=True)
    report += run(str(tmp_path / "mm"), str(tmp_path / "back"), to="whisper", compare=True)
    assert sum("verified: logits" in line for line in report) == 2
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert again.dtype == dtype
    assert all(torch.equal(two, theirs.state_dict()[name]) for name, two in again.state_dict().items())


@torch.no_grad()
def test_a_file_of_transformers_4_is_read(peer, tmp_path, assert_close):
    """pytorch_model.bin with the tied head, the decoding in config.json, and its ids only there."""
    theirs = peer(WhisperForConditionalGeneration, whisper_config()).float()
    prompt = [[1, IDS["<|de|>"]], [2, IDS["<|transcribe|>"]], [3, IDS["<|notimestamps|>"]]]
    old = {
        "max_length": 37, "forced_decoder_ids": prompt, "suppress_tokens": [IDS["$"], IDS["*"]],
        "begin_suppress_tokens": [IDS["Ġ"], EOT], "num_hidden_layers": 2, "torch_dtype": "float32",
        "transformers_version": "4.23.0",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict() | old))
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours, sounds = convert(tmp_path).model, sounds_of(theirs.config, dtype=torch.float32)
    assert_close(
        ours(ids_of(theirs), input_features=sounds[:, None]).logits,
        theirs(sounds, decoder_input_ids=ids_of(theirs)).logits,
    )
    decoding = ours.generation_config
    assert (decoding.max_length, decoding.forced_decoder_ids) == (37, prompt)
    assert decoding.suppress_tokens == [IDS["$"], IDS["*"]]


@torch.no_grad()
def test_the_base_model_is_a_whole_whisper(peer, saved, assert_close):
    theirs = peer(WhisperModel, whisper_config()).double()
    ours, sounds, ids = convert(saved(theirs)).model, sounds_of(theirs.config), ids_of(theirs)
    there = theirs(sounds, decoder_input_ids=ids).last_hidden_state @ theirs.decoder.embed_tokens.weight.T
    assert_close(ours(ids, input_features=sounds[:, None]).logits, there)


def test_decoding_goes_along_and_comes_back(peer, saved, tmp_path):
    theirs = peer(WhisperForConditionalGeneration, whisper_config())
    theirs.generation_config = whisper_decoding()
    convert(saved(theirs)).save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "whisper", tmp_path / "back")
    before = json.loads((tmp_path / "source/generation_config.json").read_text())
    here = GenerationConfig.from_pretrained(tmp_path / "mm").to_dict()
    there = GenerationConfig.from_pretrained(tmp_path / "back").to_dict()
    assert {name: here[name] for name in before} == before | {"bos_token_id": SOT}  # of MM's texts
    assert {name: there[name] for name in before} == before


def test_the_processor_goes_along_and_comes_back(peer, saved, tmp_path):
    theirs = peer(WhisperForConditionalGeneration, whisper_config())
    source = saved(theirs, WhisperProcessor(whisper_extractor(), whisper_tokenizer()))
    done = convert(source)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "whisper", tmp_path / "back")
    sound = np.random.default_rng(0).standard_normal(9000).astype(np.float32) / 9
    before, after = (AutoProcessor.from_pretrained(folder) for folder in (source, tmp_path / "back"))
    assert isinstance(after, WhisperProcessor)
    ours = AutoProcessor.from_pretrained(tmp_path / "mm")
    there = before(sound, sampling_rate=16000, return_tensors="pt").input_features
    here = ours(audio=sound, sampling_rate=16000, text="", suffix="two words", return_tensors="pt")
    assert torch.equal(here.input_features[:, 0], there)
    assert torch.equal(after(sound, sampling_rate=16000, return_tensors="pt").input_features, there)
    assert here.input_ids[0, 0] == SOT and here.input_ids[0, -1] == EOT
    text = before.tokenizer("two words").input_ids
    assert after.tokenizer("two words").input_ids == text
    assert here.input_ids[0].tolist() == text
    assert here.labels[0].tolist() == [-100, -100, *text[2:]]  # after <|startoftranscript|><|notimestamps|>
    ours.tokenizer.set_prefix_tokens(language="en", task="translate")
    here = ours(audio=sound, sampling_rate=16000, text="", suffix="two words", return_tensors="pt")
    opening = ["<|startoftranscript|>", "<|en|>", "<|translate|>", "<|notimestamps|>"]
    assert ours.tokenizer.convert_ids_to_tokens(here.input_ids[0, :4]) == opening
    assert torch.equal(
        ours.get_prompt_ids("two", return_tensors="pt"), before.get_prompt_ids("two", return_tensors="pt")
    )
    ours.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again")
    assert torch.equal(again(text="", suffix="two words", return_tensors="pt").input_ids, here.input_ids)


def test_parts_and_other_models_are_refused_in_words(peer, saved, tmp_path):
    config = whisper_config()
    with pytest.raises(ValueError, match="audio classifier"):
        convert(saved(peer(WhisperForAudioClassification, config), name="classifier"))
    with pytest.raises(ValueError, match=r"conv1.*whole Whisper"):
        convert(saved(peer(WhisperForCausalLM, config), name="decoder"))
    done = convert(saved(peer(WhisperForConditionalGeneration, config), name="whole"))
    done.model.config.text_config.hidden_dropout = 0.5
    done.save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match=r"dropout is 0.0 in the encoder and 0.5 in the decoder"):
        convert_back(tmp_path / "mm", "whisper", tmp_path / "back")
