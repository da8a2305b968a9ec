"""What a source says beside its tensors: decoding, heads, poolers, image processors; and `--verify` on hard inputs."""

# Fixtures build models whose types pyright cannot follow.

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    ConvNextImageProcessor,
    DeiTConfig,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    LevitImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    TrOCRConfig,
    VideoMAEImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisualBertConfig,
    VisualBertForQuestionAnswering,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    XLMRobertaConfig,
)

from mm import MMForConditionalGeneration
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back, run
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SEES = {**SIZES, "image_size": 16, "patch_size": 8}
READS = {**SIZES, "vocab_size": 40, "max_position_embeddings": 12}
IDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
GPT2 = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=32, **IDS)
VED = "vision-encoder-decoder"


def pair(decoder, encoder=None, **settings) -> VisionEncoderDecoderConfig:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder or ViTConfig(**SEES), decoder)
    pad = decoder.pad_token_id
    for name, value in {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": pad, **settings}.items():
        setattr(config, name, value)
    return config


def pixels(rows: int = 3, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def rewritten(file, **settings) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def back(done, tmp_path, family: str = VED):
    done.save_pretrained(tmp_path / "mm")
    report = convert_back(tmp_path / "mm", family, tmp_path / "back")
    return tmp_path / "back", report


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "max_length": 9, "no_repeat_ngram_size": 2, "length_penalty": 0.7},
        {"decoder": {"max_length": 12}},
        {"max_length": 16, "decoder": {"max_length": 20, "forced_eos_token_id": 3, "num_beams": 3}},
        {"decoder": {"max_new_tokens": 5, "suppress_tokens": [7, 9], "repetition_penalty": 1.4}},
    ],
)
@torch.no_grad()
def test_decoding_settings_inside_an_old_config_count_there_and_back(peer, saved, tmp_path, settings):
    source = saved(peer(VisionEncoderDecoderModel, pair(GPT2)).double())
    (source / "generation_config.json").unlink()
    decoder = {**json.loads((source / "config.json").read_text())["decoder"], **settings.get("decoder", {})}
    rewritten(source / "config.json", **{**settings, "decoder": decoder})
    theirs = VisionEncoderDecoderModel.from_pretrained(source).eval()
    expected = theirs.generate(pixel_values=pixels())
    done = convert(source)
    assert torch.equal(done.model.generate(pixel_values=pixels()), expected)
    folder, _ = back(done, tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    assert torch.equal(again.generate(pixel_values=pixels()), expected)


@torch.no_grad()
def test_a_generation_config_goes_back_with_the_model(peer, saved, tmp_path):
    source = saved(peer(VisionEncoderDecoderModel, pair(GPT2)).double())
    more = {"eos_token_id": [3, 39], "num_beams": 4, "no_repeat_ngram_size": 2, "max_new_tokens": 8}
    rewritten(source / "generation_config.json", **more, suppress_tokens=[14], forced_eos_token_id=3)
    expected = VisionEncoderDecoderModel.from_pretrained(source).eval().generate(pixel_values=pixels())
    folder, _ = back(convert(source), tmp_path)
    written = json.loads((folder / "generation_config.json").read_text())
    assert {name: written[name] for name in more} == more and written["decoder_start_token_id"] == 2
    again = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    assert torch.equal(again.generate(pixel_values=pixels()), expected)


@pytest.mark.parametrize(("cls", "act"), [(RobertaConfig, "relu"), (XLMRobertaConfig, "silu"), (BertConfig, "relu")])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_head_has_the_activation_of_its_class(peer, saved, tmp_path, tensors_of, assert_close, cls, act, tied):
    """RoBERTa's is gelu, whatever hidden_act says; a head of its own matrix converts too."""
    decoder = cls(**READS, **{**IDS, "pad_token_id": 1}, hidden_act=act, tie_word_embeddings=tied)
    source = saved(peer(VisionEncoderDecoderModel, pair(decoder)).double())
    theirs, done = VisionEncoderDecoderModel.from_pretrained(source).eval(), convert(source)
    ids = torch.tensor([[2, 9, 5, 3], [2, 7, 39, 8], [2, 4, 3, 3]])
    there = theirs(pixels(), ids).logits
    assert_close(done.model(ids, pixel_values=pixels()).logits, there)
    folder, _ = back(done, tmp_path)
    before, after = tensors_of(source), tensors_of(folder)
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert type(VisionEncoderDecoderConfig.from_pretrained(folder).decoder) is cls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_verifies_and_a_changed_weight_does_not(peer, saved, tmp_path, dtype):
    """DeiT's second token is a sum, rounded in half precision: not an error, and no cloak for one."""
    source = saved(peer(VisionEncoderDecoderModel, pair(BertConfig(**READS, **IDS), DeiTConfig(**SEES))).to(dtype))
    report = run(str(source), str(tmp_path / "out"), compare=True)
    assert any(line.startswith("verified: logits") for line in report)
    done = convert(source)
    with torch.no_grad():
        weight = done.model.model.vision_tower.register_tokens
        weight.view(torch.int16)[..., 3] += 1  # the next number of this dtype
    with pytest.raises(ValueError, match="register_tokens is not the source's, rounded to torch"):
        verify(Checkpoint(source), done.model, FAMILIES[VED])


def test_verify_sees_a_text_that_is_read_elsewhere(peer, saved):
    """Texts without the end, with a higher id before it, with pads inside: only such show which token is pooled."""
    text = {**READS, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    source = saved(peer(CLIPModel, CLIPConfig(vision_config=SEES, text_config=text)))
    done = convert(source)
    assert any(
        line.startswith("verified: text_embeds") for line in verify(Checkpoint(source), done.model, FAMILIES["clip"])
    )
    pooler = done.model.model.language_model.pooler
    for kind in ("eos", "last", "cls"):
        pooler.kind, pooler.eos_token_id = kind, 39
        with pytest.raises(ValueError, match="text_embeds differ by"):
            verify(Checkpoint(source), done.model, FAMILIES["clip"])


def test_verify_sees_positions_that_pads_do_not_move(peer, saved):
    source = saved(peer(VisionEncoderDecoderModel, pair(RobertaConfig(**READS, **{**IDS, "pad_token_id": 1}))))
    done = convert(source)
    assert verify(Checkpoint(source), done.model, FAMILIES[VED])
    done.model.model.language_model.embed_positions.weight.data[-1, 0] += 0.5  # read by the longest text alone
    with pytest.raises(ValueError, match="logits differ by .* on 1 of"):
        verify(Checkpoint(source), done.model, FAMILIES[VED])


def with_images(saved, peer, processor, config=None):
    return saved(peer(VisionEncoderDecoderModel, config or pair(GPT2)), processor)


def test_whole_numbers_as_means_are_read(peer, saved):
    size = {"height": 16, "width": 16}
    source = with_images(saved, peer, ViTImageProcessor(size=size, image_mean=[0, 0, 0], image_std=[1, 1, 1]))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    here = convert(source).processor(images=picture, return_tensors="np")["pixel_values"]
    there = AutoImageProcessor.from_pretrained(source)(picture)["pixel_values"]
    assert np.abs(here - np.asarray(there)).max() <= 1e-6


@pytest.mark.parametrize(
    "processor",
    [
        ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=0.8),
        ConvNextImageProcessor(size={"shortest_edge": 384}),
        LevitImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    ],
    ids=["an option", "a rule by size", "a rule of the class"],
)
def test_an_image_processor_that_makes_other_pixels_is_refused(peer, saved, processor):
    with pytest.raises(ValueError, match="by rules that MM's image processor lacks"):
        convert(with_images(saved, peer, processor))


def test_an_image_processor_goes_back_as_its_own_class(peer, saved, tmp_path):
    """A GIT of videos reads frames: its processor gives five dimensions."""
    config = GitConfig(**READS, **IDS, vision_config=SEES, num_image_with_embedding=3)
    images = VideoMAEImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    folder, _ = back(convert(saved(peer(GitForCausalLM, config), images)), tmp_path, "git")
    again = AutoImageProcessor.from_pretrained(folder)
    assert np.asarray(again(Image.new("RGB", (30, 20)))["pixel_values"]).ndim == 5
    assert "VideoMAEImageProcessor" in (folder / "preprocessor_config.json").read_text()


def test_settings_that_nothing_here_reads_come_back(peer, saved, tmp_path):
    trocr = TrOCRConfig(
        vocab_size=40, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48,
        max_position_embeddings=16, decoder_layerdrop=0.2, cross_attention_hidden_size=32, **IDS,
    )  # fmt: skip
    done = convert(saved(peer(VisionEncoderDecoderModel, pair(trocr))))
    folder, _ = back(done, tmp_path)
    assert VisionEncoderDecoderConfig.from_pretrained(folder).decoder.decoder_layerdrop == 0.2


def test_a_setting_that_was_changed_here_is_not_overwritten(peer, saved, tmp_path):
    labels = {number: f"answer {number}" for number in range(5)}
    config = VisualBertConfig(
        **READS, **IDS, visual_embedding_dim=20, special_visual_initialize=False, id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )  # fmt: skip
    done = convert(saved(peer(VisualBertForQuestionAnswering, config)))
    kept = done.model.config.converted_from["settings"]
    assert kept["special_visual_initialize"] == [False, True] and kept["id2label"][0]["3"] == "answer 3"
    folder, _ = back(done, tmp_path, "visual-bert")
    again = VisualBertConfig.from_pretrained(folder)
    assert again.special_visual_initialize is False and again.id2label == labels
    clip = {**READS, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 5}
    done = convert(saved(peer(CLIPModel, CLIPConfig(vision_config=SEES, text_config=clip)), name="clip"))
    done.model.config.text_config.pooler, done.model.config.text_config.bos_token_id = "eos", 8
    done.model.config.text_config.eos_token_id = 9
    done.save_pretrained(tmp_path / "other")
    convert_back(tmp_path / "other", "clip", tmp_path / "clip_back")
    text = CLIPConfig.from_pretrained(tmp_path / "clip_back").text_config
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (8, 9, 5)


@pytest.mark.parametrize("settings", [{"pooler_output_size": 20}, {"pooler_act": "relu"}])
def test_a_pooler_that_a_decoder_does_not_read_goes_along(peer, saved, tmp_path, tensors_of, settings):
    source = saved(peer(VisionEncoderDecoderModel, pair(GPT2, ViTConfig(**SEES, **settings))))
    folder, _ = back(convert(source), tmp_path)
    before, after = tensors_of(source), tensors_of(folder)
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert VisionEncoderDecoderModel.from_pretrained(folder, output_loading_info=True)[1]["missing_keys"] == set()


LLAMA = {**READS, **IDS, "num_key_value_heads": 2}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 40, "max_position_embeddings": 12}


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (RobertaForMaskedLM, RobertaConfig(**READS, **{**IDS, "pad_token_id": 1}, hidden_act="relu")),
        (RobertaForMaskedLM, RobertaConfig(**READS, **{**IDS, "pad_token_id": 1}, tie_word_embeddings=False)),
        (DistilBertForMaskedLM, DistilBertConfig(**DISTIL, bos_token_id=2, eos_token_id=3, tie_word_embeddings=False)),
        (LlamaForCausalLM, LlamaConfig(**LLAMA, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5})),
    ],
    ids=["relu", "untied", "distilbert, untied", "llama, partial"],
)
@torch.no_grad()
def test_a_text_tower_gives_its_own_logits(peer, saved, assert_close, cls, config):
    """Transformers' Llama turns whole heads by default, whatever partial_rotary_factor says."""
    theirs = peer(cls, config).double()
    vision = saved(peer(ViTModel, ViTConfig(**SEES)), name="vision")
    ours = MMForConditionalGeneration.from_towers(vision, saved(theirs)).double()
    ids = torch.tensor([[2, 9, 5, 3, 8], [2, 7, 39, 8, 3]])
    states = ours.model.language_model(ids, is_causal=cls is LlamaForCausalLM, use_cache=False).last_hidden_state
    assert_close(ours.lm_head(ours.lm_head_transform(states)).float(), theirs(ids).logits.float())
