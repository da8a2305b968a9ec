"""Chinese-CLIP, AltCLIP, ALIGN and CLAP beside the installed classes: there, verified, and back bit by bit."""

# Fixtures build models whose types pyright cannot follow.

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AlignConfig,
    AlignModel,
    AlignProcessor,
    AltCLIPConfig,
    AltCLIPModel,
    AutoProcessor,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    ChineseCLIPTextModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    EfficientNetImageProcessor,
)

from mm import MMForImageTextRetrieval
from mm.cli.classify import classify
from mm.cli.embed import embed
from mm.conversion_scripts.engine import convert, run
from mm.training.verify import verify

SEES = {
    "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 5, "image_size": 24,
    "patch_size": 8,
}  # fmt: skip
SEES_ODD = {**SEES, "image_size": 20, "patch_size": 6, "num_channels": 1, "layer_norm_eps": 1e-3, "hidden_act": "gelu"}
READS = {
    "hidden_size": 48, "intermediate_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 70,
    "max_position_embeddings": 14,
}  # fmt: skip
READS_ODD = {
    "hidden_size": 20, "intermediate_size": 33, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 41,
    "max_position_embeddings": 11, "type_vocab_size": 3, "hidden_act": "relu", "layer_norm_eps": 1e-4,
}  # fmt: skip
CONVOLVES = {"image_size": 600, "width_coefficient": 0.1, "depth_coefficient": 0.1}
HEARS = {
    "num_mel_bins": 8, "spec_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2],
    "hidden_size": 16, "window_size": 4,
}  # fmt: skip
HEARS_ODD = {
    **HEARS, "spec_size": 64, "num_mel_bins": 16, "depths": [1, 1, 1], "num_attention_heads": [1, 2, 4],
    "hidden_size": 32, "qkv_bias": False, "mlp_ratio": 2.0,
}  # fmt: skip
FUSES = {**HEARS, "enable_fusion": True, "fusion_type": "aff_2d"}
# name -> family, class, config
CASES = {
    "chinese-clip": (ChineseCLIPModel, ChineseCLIPConfig(text_config=READS, vision_config=SEES, projection_dim=18)),
    "altclip": (
        AltCLIPModel,
        AltCLIPConfig(text_config={**READS, "project_dim": 22}, vision_config=SEES, projection_dim=18),
    ),
    "align": (AlignModel, AlignConfig(text_config=READS, vision_config=CONVOLVES, projection_dim=32)),
    "clap": (ClapModel, ClapConfig(text_config=READS, audio_config=HEARS, projection_dim=18)),
}
# With a dtype, and in shards of 20 KB.
ODD = {
    "chinese-clip": (
        ChineseCLIPModel,
        ChineseCLIPConfig(
            text_config=READS_ODD, vision_config=SEES_ODD, projection_dim=7, logit_scale_init_value=1.5
        ),
        torch.bfloat16,
    ),
    "altclip": (
        AltCLIPModel,
        AltCLIPConfig(
            text_config={**READS_ODD, "project_dim": 13, "pad_token_id": 3}, vision_config=SEES_ODD, projection_dim=7
        ),
        torch.float16,
    ),
    "align": (
        AlignModel,
        AlignConfig(
            text_config=READS_ODD,
            vision_config={**CONVOLVES, "width_coefficient": 0.3, "pooling_type": "max", "hidden_act": "relu"},
            projection_dim=96,
            temperature_init_value=0.07,
        ),
        torch.float16,
    ),
    "clap": (
        ClapModel,
        ClapConfig(
            text_config={**READS_ODD, "pad_token_id": 4},
            audio_config=HEARS_ODD,
            projection_dim=11,
            projection_hidden_act="gelu",
            logit_scale_init_value=5.0,
        ),
        torch.bfloat16,
    ),
    "clap, fusion": (
        ClapModel, ClapConfig(text_config=READS, audio_config=FUSES, projection_dim=18), torch.float32,
    ),
}  # fmt: skip
IDS = torch.tensor([[0, 5, 9, 7, 2, 1], [0, 6, 8, 2, 1, 1], [0, 4, 11, 12, 13, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def counted(model):
    """Statistics of batch norm under which they count."""
    generator = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(1 + 0.4 * torch.rand(buffer.shape, generator=generator))
    return model


def there_and_back(source: Path, family: str, folder: Path) -> list[str]:
    """Verified both ways: the report of the way there."""
    report = run(str(source), str(folder / "mm"), compare=True)
    back = run(str(folder / "mm"), str(folder / "back"), to=family, compare=True)
    for lines in (report, back):
        assert sum(line.startswith("verified: ") for line in lines) == 4
    return report


@pytest.mark.parametrize("family", [f if f != "align" else pytest.param(f, marks=pytest.mark.slow) for f in CASES])
def test_it_computes_the_same_both_ways_and_comes_back_bit_by_bit(peer, saved, tensors_of, tmp_path, family):
    cls, config = CASES[family]
    source = saved(counted(peer(cls, config)))
    there_and_back(source, family, tmp_path)
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_dtypes_and_shards_come_back_bit_by_bit(peer, tmp_path, name):
    cls, config, dtype = ODD[name]
    theirs = counted(peer(cls, config)).to(dtype)
    theirs.save_pretrained(tmp_path / "source", max_shard_size="20KB")
    there_and_back(tmp_path / "source", name.split(",")[0], tmp_path)
    again, info = cls.from_pretrained(tmp_path / "back", dtype=dtype, output_loading_info=True)
    assert not any(info.values())
    before, after = cls.from_pretrained(tmp_path / "source", dtype=dtype).state_dict(), again.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    config, returned = theirs.config.to_dict(), again.config.to_dict()
    for part in (config, returned, *(c[k] for c in (config, returned) for k in c if k.endswith("_config"))):
        for key in ("architectures", "transformers_version", "dtype", "_name_or_path"):
            part.pop(key, None)
    assert config == returned


@pytest.mark.slow
@pytest.mark.parametrize("family", ["chinese-clip", "altclip", "align"])
def test_the_loss_and_every_gradient_are_equal(peer, saved, assert_close, assert_gradients, family):
    cls, config = CASES[family]
    theirs = counted(peer(cls, config)).double()
    source = saved(theirs)
    side = 24 if hasattr(config.vision_config, "patch_size") else 33
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {"input_ids": IDS, "attention_mask": MASK, "pixel_values": pixels}
    ours = convert(source).model
    there, here = theirs(**given, return_loss=True).loss, ours(**given, return_loss=True).loss
    with torch.no_grad():
        alone = {name: value[1:2] for name, value in given.items()}
        alone |= {name: alone[name][:, :4] for name in ("input_ids", "attention_mask")}
        for name in ("text_embeds", "image_embeds"):
            torch.testing.assert_close(ours(**alone)[name][0], ours(**given)[name][1], rtol=0, atol=1e-8)
    if family == "align":  # its text computes a softmax in fp32
        torch.testing.assert_close(here, there, rtol=0, atol=1e-8)
        return
    assert_close(here, there)
    there.backward()
    here.backward()
    assert_gradients(theirs, ours, source, family)


@pytest.mark.slow
@torch.no_grad()
def test_a_scale_that_was_trained_goes_back_as_a_temperature(peer, saved, tensors_of, tmp_path):
    source = saved(counted(peer(AlignModel, CASES["align"][1])))
    done = convert(source)
    done.model.itc_head.logit_scale.fill_(3.0)
    done.save_pretrained(tmp_path / "mm")
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to="align")
    torch.testing.assert_close(tensors_of(tmp_path / "back")["temperature"], torch.tensor(-3.0).exp())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("twice", [False, True])
def test_efficientnet_s_pictures_are_made_with_one_mean_and_deviation(peer, tokenizer, tmp_path, twice):
    """Its processor may take 1 off, and divide by the deviation twice."""
    options = {"include_top": True} if twice else {
        "include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False,
    }  # fmt: skip
    images = EfficientNetImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 33, "width": 33}, do_center_crop=True, **options
    )
    theirs = counted(peer(AlignModel, CASES["align"][1]))
    theirs.save_pretrained(tmp_path / "source")
    AlignProcessor(images, tokenizer).save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to="align")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8))
    pixels = images(picture, return_tensors="pt")["pixel_values"]
    again = AutoProcessor.from_pretrained(tmp_path / "back")
    assert type(again) is AlignProcessor
    given = AutoProcessor.from_pretrained(tmp_path / "mm")(images=[picture], text=["a red cat"], return_tensors="pt")
    step = 1 / 255 / 0.5  # a grey level
    for made in (given["pixel_values"], again.image_processor(picture, return_tensors="pt")["pixel_values"]):
        assert (made - pixels).abs().max() < 2 * step / (0.5 if twice else 1)
    ours = MMForImageTextRetrieval.from_pretrained(tmp_path / "mm")
    there = theirs(**tokenizer("a red cat", return_tensors="pt"), pixel_values=given["pixel_values"])
    torch.testing.assert_close(ours(**given).logits_per_text, there.logits_per_text, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_longer_sound_is_cut_into_clips_and_a_sound_depends_on_no_other(peer, tokenizer, tmp_path):
    """CLAP's own extractor cuts a part out at random."""
    theirs = counted(peer(ClapModel, ClapConfig(text_config=READS, audio_config=FUSES, projection_dim=18)))
    theirs.save_pretrained(tmp_path / "source")
    extractor = ClapFeatureExtractor(feature_size=64, max_length_s=1, truncation="fusion")
    extractor.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    done = convert(tmp_path / "source")
    assert "feature extractor: it makes (bands, channels) (64, 4)" in "\n".join(done.report)
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal(size).astype(np.float32) for size in (30000, 100000)]
    options = {"sampling_rate": 48000, "return_tensors": "pt"}
    together = done.processor(audio=sounds, text=["a cat", "a dog"], **options)
    again = done.processor(audio=sounds, text=["a cat", "a dog"], **options)
    assert together["input_features"].shape == (2, 3, 4, 101, 64)
    assert torch.equal(together["input_features"], again["input_features"])
    alone = done.processor(audio=sounds[:1], text=["a cat"], **options)["input_features"]
    torch.testing.assert_close(alone[0, 0], together["input_features"][0, 0])


def test_a_clap_without_fusion_refuses_what_an_extractor_fuses_in_words(peer, tokenizer, tmp_path):
    """The report of its conversion tells of it, and so do the commands."""
    config = ClapConfig(
        text_config=READS, audio_config={**HEARS, "num_mel_bins": 16, "spec_size": 64}, projection_dim=18
    )
    counted(peer(ClapModel, config)).save_pretrained(tmp_path / "source")
    fuses = ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation="fusion")
    for part in (fuses, tokenizer):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    sound = tmp_path / "one.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(30000) / 9)).astype("<i2").tobytes())
    words = r"\(B, 1, frames, 16\).*rand_trunc.*\(1, 1, 4, 101, 16\)"
    with pytest.raises(ValueError, match=words):
        embed([sound], tmp_path / "index", str(tmp_path / "mm"), print)
    with pytest.raises(ValueError, match=words):
        classify([str(sound)], model=str(tmp_path / "mm"), labels="a cat,a dog")


def test_mm_verify_finds_no_fault_in_a_model_whose_config_names_no_end_of_a_text(peer, saved, tokenizer, tmp_path):
    images = ChineseCLIPImageProcessor(size={"height": 24, "width": 24}, crop_size={"height": 24, "width": 24})
    cls, config = CASES["chinese-clip"]
    convert(saved(peer(cls, config), images, tokenizer)).save_pretrained(tmp_path / "mm")
    found = verify(tmp_path / "mm")
    assert [one.told for one in found if one.is_fault] == []
    assert any(one.name == "processor" and "tokens are the model's" in one.told for one in found)


@pytest.mark.parametrize("family", ["altclip", "clap"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"pad_token_id": 0}, "bos_token_id and pad_token_id are 0: a RoBERTa counts no position"),
        ({"pad_token_id": 2}, "eos_token_id and pad_token_id are 2"),
    ],
)
def test_padding_that_opens_or_ends_texts_is_refused(peer, saved, family, ids, message):
    """Theirs gives such a token no place of its own, whatever the mask says."""
    cls, config = CASES[family]
    settings = config.to_dict()
    settings["text_config"] |= ids
    with pytest.raises(ValueError, match=message):
        convert(saved(peer(cls, type(config).from_dict(settings))))


def test_a_part_of_a_pair_is_refused_by_name(peer, saved):
    with pytest.raises(ValueError, match="is not recognised"):
        convert(saved(peer(ChineseCLIPTextModel, CASES["chinese-clip"][1].text_config)))
