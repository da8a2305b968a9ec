"""Moonshine, Speech2Text and SpeechEncoderDecoder converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    BartConfig,
    BertConfig,
    Data2VecAudioConfig,
    GPT2Config,
    HubertConfig,
    MBartConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    RobertaConfig,
    SEWConfig,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    SpeechEncoderDecoderConfig,
    SpeechEncoderDecoderModel,
    TrOCRConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WavLMConfig,
    pipeline,
)

from comparing import close
from mm import MMForSpeechSeq2Seq
from mm.cli.transcribe import transcribe
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back, run
from mm.conversion_scripts.paired_decoder import compute_positions
from speakers import MOONSHINE, letters

WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SPEECH_TO_TEXT = {
    "d_model": 24, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 28, "decoder_layers": 2,
    "decoder_attention_heads": 3, "decoder_ffn_dim": 20, "vocab_size": 40, "input_feat_per_channel": 12,
    "conv_channels": 16, "max_source_positions": 60, "max_target_positions": 20, "decoder_start_token_id": 2,
}  # fmt: skip
WAVES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40, "conv_dim": [8, 8],
    "conv_stride": [5, 4], "conv_kernel": [10, 4], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
STACK = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 20,
}  # fmt: skip
BART = {
    "d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 3, "decoder_ffn_dim": 40,
    "max_position_embeddings": 20,
}  # fmt: skip


def paired(encoder, decoder):
    config = SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return config


FRAMES = ("speech to text", "speech to text, odd", "wav2vec2-bert, bert untied")  # the others hear samples
CASES = {
    "moonshine": MoonshineConfig(**MOONSHINE),
    "moonshine, odd": MoonshineConfig(
        **{**MOONSHINE, "encoder_num_attention_heads": 3, "decoder_num_attention_heads": 2}, attention_bias=True,
        tie_word_embeddings=False, pad_head_dim_to_multiple_of=8, decoder_hidden_act="gelu", encoder_hidden_act="relu",
    ),
    "speech to text": Speech2TextConfig(**SPEECH_TO_TEXT),
    "speech to text, odd": Speech2TextConfig(
        **SPEECH_TO_TEXT, scale_embedding=False, tie_word_embeddings=False, activation_function="gelu",
        num_conv_layers=3, conv_kernel_sizes=(3, 5, 3), activation_dropout=0.1, decoder_layerdrop=0.1,
    ),
    "wav2vec2, bert": paired(Wav2Vec2Config(**WAVES), BertConfig(**STACK, **WORDS)),
    "hubert, gpt2 of equal width": paired(
        HubertConfig(**WAVES, feat_extract_norm="layer", do_stable_layer_norm=True),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=20, **WORDS),
    ),
    "wav2vec2 with an adapter, mbart": paired(
        Wav2Vec2Config(**WAVES, add_adapter=True, num_adapter_layers=2),
        MBartConfig(**BART, **WORDS, scale_embedding=True, forced_eos_token_id=2),
    ),
    "wav2vec2, bart": paired(Wav2Vec2Config(**WAVES), BartConfig(**BART, **WORDS, activation_function="relu")),
    "sew, trocr": paired(SEWConfig(**WAVES), TrOCRConfig(**BART, **WORDS, cross_attention_hidden_size=32)),
    "data2vec, roberta": paired(Data2VecAudioConfig(**WAVES), RobertaConfig(**STACK, **WORDS)),
    "wavlm, bert": paired(WavLMConfig(**WAVES), BertConfig(**STACK, **WORDS)),
    "wav2vec2-bert, bert untied": paired(
        Wav2Vec2BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40,
            feature_projection_input_dim=12, conv_depthwise_kernel_size=3, left_max_position_embeddings=8,
        ),
        BertConfig(**STACK, **WORDS, tie_word_embeddings=False),
    ),
}  # fmt: skip
FAST = ("moonshine, odd", "speech to text", "wav2vec2, bert")
CLASSES = {
    "moonshine": (MoonshineForConditionalGeneration, "moonshine"),
    "speech_to_text": (Speech2TextForConditionalGeneration, "speech-to-text"),
    "speech-encoder-decoder": (SpeechEncoderDecoderModel, "speech-encoder-decoder"),
}


# No word twice, as random weights would write; no padding inside, after which Speech2Text counts places anew.
LIVELY = {"no_repeat_ngram_size": 1, "min_new_tokens": 5, "do_sample": False, "suppress_tokens": [0, 1]}


@dataclass
class Case:
    """theirs, ours in fp64; done: the conversion; source: its folder; sounds (2, ...); family."""

    theirs: Any
    done: Any
    source: Path
    sounds: torch.Tensor
    family: str


def build(name: str, folder: Path) -> Case:
    config = copy.deepcopy(CASES[name])  # models write into their configs
    cls, family = CLASSES[config.model_type]
    generator = torch.Generator().manual_seed(3)
    theirs = cls(config=config).double().eval()
    with torch.no_grad():
        for parameter, weight in theirs.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            scale = 0.3 if weight.ndim == 1 or len(weight) == 1 else 1.5 * weight[0].numel() ** -0.5
            weight.copy_(scale * noise + (weight.ndim == 1 and parameter.endswith("weight")))
        theirs.tie_weights()
    theirs.save_pretrained(folder)
    theirs = cls.from_pretrained(folder, dtype=torch.float64).eval()
    compute_positions(theirs)
    shape = (2, 60, 12) if name in FRAMES else (2, 3000)
    sounds = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Case(theirs, convert(folder), folder, sounds, family)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    built: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in built:
            built[name] = build(name, tmp_path_factory.mktemp("source"))
        return built[name]

    return case


every = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)


def ids_of(case: Case) -> torch.Tensor:
    ids = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = case.theirs.config.decoder_start_token_id
    return ids


@every
@torch.no_grad()
def test_logits_and_the_heard_are_equal(cases, name):
    case = cases(name)
    there = case.theirs(case.sounds, decoder_input_ids=ids_of(case))
    here = case.done.model(ids_of(case), input_features=case.sounds[:, None])
    close(here.logits, there.logits)
    assert isinstance(case.done.model, MMForSpeechSeq2Seq)
    heard = case.done.model.model.encode_context(input_features=case.sounds[:, None]).last_hidden_state
    close(heard, there.encoder_last_hidden_state)


@every
def test_the_same_tokens_are_written(cases, name):
    case = cases(name)
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 7, **LIVELY}
        there = case.theirs.generate(case.sounds, **settings)
        assert torch.equal(case.done.model.generate(case.sounds, **settings), there)
        assert len({*there[0].tolist()}) > 5
    assert torch.equal(case.done.model.generate(input_features=case.sounds[:, None], **settings), there)


@every
def test_back_every_tensor_and_setting_is_the_sources(cases, name, tmp_path):
    case = cases(name)
    case.done.save_pretrained(tmp_path / "mm")
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "mm")
    assert type(again) is MMForSpeechSeq2Seq
    convert_back(tmp_path / "mm", case.family, tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (case.source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[tensor], before[tensor]) for tensor in before)
    back, info = type(case.theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    there, own = back.config.to_dict(), type(case.theirs).from_pretrained(case.source).config.to_dict()
    apart = {key for key in own if own[key] != there.get(key)} - {"_name_or_path", "dtype"}
    if case.family == "speech-encoder-decoder":  # parts have what nobody reads: the encoder inside an mBART
        kinds = [(config["encoder"]["model_type"], config["decoder"]["model_type"]) for config in (own, there)]
        assert kinds[0] == kinds[1] and apart <= {"encoder", "decoder"}
    else:
        assert not apart


@every
def test_a_row_of_a_batch_is_as_alone(cases, name):
    """Transformers' own differ there: norms and convolutions look beyond the mask."""
    case = cases(name)
    mask = torch.ones(case.sounds.shape[:2], dtype=torch.long)
    short = case.sounds.shape[1] * 2 // 3
    sounds = case.sounds.clone()
    mask[1, short:], sounds[1, short:] = 0, 0
    settings = {"max_new_tokens": 6, "num_beams": 2, **LIVELY}
    together = case.done.model.generate(sounds, attention_mask=mask, **settings)
    alone = case.theirs.generate(sounds[1:, :short], **settings)
    pad = case.theirs.config.pad_token_id
    assert together[1, : alone.shape[1]].tolist() == alone[0].tolist()
    assert {*together[1, alone.shape[1] :].tolist()} <= {pad}
    ids = ids_of(case)
    with torch.no_grad():
        whole = case.done.model(ids, input_features=sounds[:, None], input_features_mask=mask[:, None]).logits
        close(whole[1:], case.theirs(sounds[1:, :short], decoder_input_ids=ids[1:]).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moonshine", "speech to text", "wav2vec2, bert"])
def test_every_gradient_is_equal(tmp_path, name, assert_gradients):
    case = build(name, tmp_path / "source")
    ids = ids_of(case)
    with torch.no_grad():  # Moonshine's is computed in fp32
        there = case.theirs(case.sounds, labels=ids[:, 1:].contiguous()).loss
        here = case.done.model(ids, input_features=case.sounds[:, None], labels=ids).loss
    assert abs(float(here) - float(there)) <= 1e-5 * max(1.0, float(there))
    case.theirs(case.sounds, decoder_input_ids=ids).logits.log_softmax(-1)[..., 7].sum().backward()
    case.done.model(ids, input_features=case.sounds[:, None]).logits.log_softmax(-1)[..., 7].sum().backward()
    assert_gradients(case.theirs, case.done.model, case.source, case.family)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moonshine, odd", "speech to text, odd", "wav2vec2 with an adapter, mbart"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_and_shards_are_verified_both_ways(cases, name, dtype, tmp_path):
    case = cases(name)
    copy.deepcopy(case.theirs).to(dtype).save_pretrained(tmp_path / "source", max_shard_size="30KB")
    assert (tmp_path / "source/model.safetensors.index.json").is_file()
    report = run(str(tmp_path / "source"), str(tmp_path / "mm"), compare=True)
    report += run(str(tmp_path / "mm"), str(tmp_path / "back"), to=case.family, compare=True)
    assert sum("verified: logits" in line for line in report) == 2
    assert type(case.theirs).from_pretrained(tmp_path / "back").dtype == dtype


OLDER = {
    "moonshine": {"model.decoder.rotary_emb.inv_freq": (5,), "model.encoder.rotary_emb.inv_freq": (5,)},
    "speech to text": {f"model.{part}coder.embed_positions.weights": (22, 24) for part in ("en", "de")},
    "wav2vec2, bert": {"decoder.bert.embeddings.position_ids": (1, 20)},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OLDER))
@torch.no_grad()
def test_files_of_transformers_4_are_read(cases, name, tmp_path):
    """A pickle with the tied head and buffers, a weight norm under its older names, decoding in config.json."""
    case = cases(name)
    tensors = {key: tensor.clone() for key, tensor in load_file(case.source / "model.safetensors").items()}
    tensors |= {key: torch.zeros(shape) for key, shape in OLDER[name].items()}
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, before in old.items():
        for key in [key for key in tensors if new in key]:
            tensors[key.replace(new, before)] = tensors.pop(key)
    heads = {"moonshine": "proj_out.weight", "speech to text": "lm_head.weight"}
    if name in heads:
        tensors[heads[name]] = tensors["model.decoder.embed_tokens.weight"].clone()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    settings = json.loads((case.source / "config.json").read_text())
    settings |= {"max_length": 13, "num_beams": 4, "torch_dtype": "float64"}
    settings.pop("dtype", None)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    done = convert(tmp_path)
    assert done.model.generation_config.num_beams == 4 and done.model.generation_config.max_length == 13
    close(
        done.model(ids_of(case), input_features=case.sounds[:, None]).logits,
        case.done.model(ids_of(case), input_features=case.sounds[:, None]).logits,
    )


# ---- processors and the pipeline ------------------------------------------------------------------------------------


HEARS = {
    "moonshine": Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True),
    "speech to text": Speech2TextFeatureExtractor(feature_size=12, num_mel_bins=12),
    "wav2vec2, bert": Wav2Vec2FeatureExtractor(),
}
SOUND = (np.random.default_rng(0).standard_normal(9000) / 5).astype(np.float32)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "moonshine" else pytest.mark.slow) for n in HEARS])
def test_the_processor_and_the_pipeline_go_along(cases, name, tmp_path):
    case, tokenizer = cases(name), letters()
    case.theirs.save_pretrained(tmp_path / "source")
    for part in (HEARS[name], tokenizer):
        part.save_pretrained(tmp_path / "source")
    task, options = "automatic-speech-recognition", {"max_new_tokens": 9, "num_beams": 2, **LIVELY}
    parts = {"feature_extractor": HEARS[name], "tokenizer": tokenizer}
    theirs = pipeline(task, model=case.theirs, **parts)
    there = theirs(SOUND.copy(), generate_kwargs=options)
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    ours = pipeline(task, model=str(tmp_path / "mm"), dtype=torch.float64)
    assert ours(SOUND.copy(), generate_kwargs=options) == there and len(there["text"]) > 3
    several = ours([SOUND.copy(), SOUND[:5000].copy()], batch_size=2, generate_kwargs=options)
    assert several[0] == there and several[1] == theirs(SOUND[:5000].copy(), generate_kwargs=options)
    with pytest.raises(ValueError, match="timestamps"):
        ours(SOUND.copy(), return_timestamps=True)
    processor = AutoProcessor.from_pretrained(tmp_path / "mm")
    read = processor(audio=SOUND, sampling_rate=16000, text="", suffix="ab", return_tensors="pt")
    features = HEARS[name](SOUND, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(read.input_features[0, 0], next(iter(features.values()))[0])
    start, end = case.theirs.config.decoder_start_token_id, 2
    assert read.input_ids[0].tolist() == [start, *tokenizer("ab", add_special_tokens=False).input_ids, end]
    convert_back(tmp_path / "mm", case.family, tmp_path / "back")
    if name != "speech to text":  # whose processor wants a tokenizer of its own
        assert isinstance(AutoProcessor.from_pretrained(tmp_path / "back"), Wav2Vec2Processor)


def test_silence_and_the_shortest_sounds_are_heard_and_nothing_after_them_is_lost(cases, tmp_path):
    """Speech2Text's extractor divides by the deviation of each band, which silence lacks, and wants a whole frame."""
    case = cases("speech to text")
    case.theirs.save_pretrained(tmp_path / "source")
    for part in (HEARS["speech to text"], letters()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    pipe = pipeline("automatic-speech-recognition", model=str(tmp_path / "mm"))
    settings = {"max_new_tokens": 7, "num_beams": 1, **LIVELY}
    silence = np.zeros(16000, np.float32)
    short = [SOUND[:1].copy(), SOUND[:10].copy(), SOUND[:400].copy(), silence]
    alone = [pipe(sound.copy(), generate_kwargs=settings)["text"] for sound in short]
    assert all(len(text) > 3 for text in alone)
    assert [one["text"] for one in pipe(short, batch_size=4, generate_kwargs=settings)] == alone
    model, processor = pipe.model, AutoProcessor.from_pretrained(tmp_path / "mm")
    film = [np.zeros(20 * 16000, np.float32), SOUND]
    segments = list(transcribe(film, model, processor, **settings))
    assert len(segments) == 2 and segments[-1].end == 20 + len(SOUND) / 16000
    read = processor(audio=[silence], sampling_rate=16000, text=[""], return_tensors="pt")
    assert not read.input_features.any()


def test_what_cannot_go_is_refused_in_words(cases, tmp_path, peer, saved):
    case = cases("wav2vec2, bert")
    model = case.done.model
    for wrong, words in (
        ({"language": "en"}, "language are of Whisper's rules, and Wav2Vec2Config"),
        ({"return_timestamps": True}, "return_timestamps are of Whisper's rules"),
    ):
        with pytest.raises(ValueError, match=words):
            model.generate(case.sounds, **wrong)
    with pytest.raises(ValueError, match="given twice"):
        mask = torch.ones(case.sounds.shape, dtype=torch.long)
        model.generate(case.sounds, attention_mask=mask, input_features_mask=mask)
    with pytest.raises(ValueError, match="one language"):
        model.detect_language(case.sounds)
    grouped = MoonshineConfig(**MOONSHINE, encoder_num_key_value_heads=2, decoder_num_key_value_heads=2)
    with pytest.raises(ValueError, match="only as many heads of keys and values"):
        convert(saved(peer(MoonshineForConditionalGeneration, grouped), name="grouped"))
    turned = {"rope_type": "dynamic", "rope_theta": 100.0, "partial_rotary_factor": 0.9, "factor": 2.0}
    dynamic = MoonshineConfig(**{**MOONSHINE, "rope_parameters": turned})
    with pytest.raises(ValueError, match="rope_type='dynamic': .*by the longest sound that it has heard"):
        convert(saved(peer(MoonshineForConditionalGeneration, dynamic), name="dynamic"))
    padded = Speech2TextConfig(**SPEECH_TO_TEXT, pad_token_id=0, bos_token_id=1)
    with pytest.raises(ValueError, match="pad_token_id=0.*only 1 is known"):
        convert(saved(peer(Speech2TextForConditionalGeneration, padded), name="padded"))
    (tmp_path / "mm").mkdir()
    moonshine = cases("moonshine, odd")
    moonshine.done.save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="needs one of data2vec-audio"):
        convert_back(tmp_path / "mm", "speech-encoder-decoder", tmp_path / "back")
    with pytest.raises(ValueError, match="a speech_to_text has the audio tower of one"):
        convert_back(tmp_path / "mm", "speech-to-text", tmp_path / "back")
    assert {"moonshine", "speech-to-text", "speech-encoder-decoder"} <= FAMILIES.keys()
