"""Every kind of tower that MM takes from Transformers: its width, and a row alone as in a padded batch."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    ASTFeatureExtractor,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mm import MMConfig, MMForConditionalGeneration, MMProcessor
from mm.configuration.tower_kinds import LENGTH_KINDS, VISION_KINDS, WINDOW_KINDS
from mm.configuration.towers import tower_width
from mm.modeling_mm.core.input_checks import MediaItems
from mm.modeling_mm.towers.any_tower import build_tower, run_tower

_VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_PATCHES = {**_VIT, "image_size": 16, "patch_size": 8}
_MAPS = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1]}
_FOUR = {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1]}
_SWIN = {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
_PVT = {**_FOUR, "num_attention_heads": [1, 1, 1, 2], "image_size": 32}
_STAGES = {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3]}

# model_type -> (settings, side of its pictures, width of its tokens)
VISION: dict[str, tuple[dict[str, Any], int, int]] = {
    "aimv2_vision_model": (_PATCHES, 16, 16),
    "align_vision_model": (
        {"image_size": 600, "width_coefficient": 0.1, "depth_coefficient": 0.1}, 32, 32,
    ),
    "beit": (_PATCHES, 16, 16),
    "bit": ({**_FOUR, "embedding_size": 8, "num_groups": 2}, 32, 16),
    "chinese_clip_vision_model": (_PATCHES, 16, 16),
    "clip_vision_model": (_PATCHES, 16, 16),
    "convnext": ({**_MAPS, "num_stages": 3, "image_size": 32}, 32, 16),
    "convnextv2": ({**_MAPS, "num_stages": 3, "image_size": 32}, 32, 16),
    "cvt": (_STAGES, 32, 16),
    "data2vec-vision": (_PATCHES, 16, 16),
    "deit": (_PATCHES, 16, 16),
    "dinov2": (_PATCHES, 16, 16),
    "dinov2_with_registers": (_PATCHES, 16, 16),
    "dinov3_convnext": ({**_FOUR, "image_size": 32}, 32, 16),
    "dinov3_vit": (_PATCHES, 16, 16),
    "donut-swin": (_SWIN, 16, 16),
    "dpt": (_PATCHES, 16, 16),
    "efficientnet": (
        {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}, 32, 128,
    ),
    "focalnet": (
        {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "focal_levels": [2, 2],
         "focal_windows": [3, 3]},
        16, 16,
    ),
    "glpn": (
        {"hidden_sizes": [8, 8, 12, 16], "num_attention_heads": [1, 1, 1, 2], "depths": [1, 1, 1, 1]}, 32, 16,
    ),
    "hiera": ({"image_size": [32, 32], "embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 2]}, 32, 32),
    "ijepa": (_PATCHES, 16, 16),
    "internvl_vision": ({**_PATCHES, "image_size": [16, 16], "patch_size": [8, 8]}, 16, 16),
    "levit": (
        {"image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2], "key_dim": [4, 4, 4],
         "depths": [1, 1, 1]},
        64, 16,
    ),
    "maskformer-swin": (_SWIN, 16, 16),
    "mlcd_vision_model": (_PATCHES, 16, 16),
    "mobilenet_v1": ({"image_size": 32, "depth_multiplier": 0.1}, 32, 102),
    "mobilenet_v2": ({"image_size": 32, "depth_multiplier": 0.1}, 32, 1280),
    "mobilevit": ({"image_size": 64, "hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 20]}, 64, 20),
    "mobilevitv2": ({"image_size": 64, "width_multiplier": 0.1}, 64, 48),
    "pixio": (_PATCHES, 16, 16),
    "poolformer": (_FOUR, 32, 16),
    "pvt": (_PVT, 32, 16),
    "pvt_v2": (_PVT, 32, 16),
    "qianfan_ocr_vision": ({**_PATCHES, "image_size": [16, 16], "patch_size": [8, 8]}, 16, 16),
    "radio": (_PATCHES, 16, 16),
    "regnet": ({**_FOUR, "embedding_size": 8, "groups_width": 4}, 32, 16),
    "resnet": ({**_MAPS, "embedding_size": 8}, 32, 16),
    "segformer": ({**_FOUR, "num_attention_heads": [1, 1, 1, 2]}, 32, 16),
    "siglip_vision_model": (_PATCHES, 16, 16),
    "swiftformer": ({"image_size": 32, "embed_dims": [8, 8, 12, 16], "depths": [1, 1, 1, 1]}, 32, 16),
    "swin": (_SWIN, 16, 16),
    "swin2sr": ({"image_size": 16, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, 16, 8),
    "swinv2": (_SWIN, 16, 16),
    "textnet": ({"image_size": 32}, 32, 512),
    "tipsv2_vision_model": (_PATCHES, 16, 16),
    "vit": (_PATCHES, 16, 16),
    "vit_mae": (_PATCHES, 16, 16),
    "vit_msn": (_PATCHES, 16, 16),
    "vitdet": ({**{k: v for k, v in _PATCHES.items() if k != "intermediate_size"}, "pretrain_image_size": 16}, 16, 16),
    "yolos": ({**_PATCHES, "image_size": [16, 16], "num_detection_tokens": 3}, 16, 16),
}  # fmt: skip

_WAVES = {
    **_VIT, "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 4], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_LAYER = {**_WAVES, "feat_extract_norm": "layer"}
_SPEAKERS = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 30,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_FRAMES = {**_VIT, "num_mel_bins": 16, "subsampling_conv_channels": 8}

# name -> (settings, frames or samples, bands; None of raw waves)
AUDIO: dict[str, tuple[dict[str, Any], int, int | None]] = {
    **{
        f"{kind} {norm}": ({"model_type": kind, **settings}, 900, None)
        for kind in ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm", "wav2vec2-conformer")
        for norm, settings in (("group", _WAVES), ("layer", _LAYER))
    },
    "wav2vec2 stable": ({"model_type": "wav2vec2", **_LAYER, "do_stable_layer_norm": True}, 900, None),
    "wav2vec2 adapter": (
        {**_LAYER, "model_type": "wav2vec2", "add_adapter": True, "output_hidden_size": 12}, 900, None,
    ),
    "hubert batch norm": ({"model_type": "hubert", **_LAYER, "conv_pos_batch_norm": True}, 900, None),
    "sew": ({"model_type": "sew", **_WAVES, "squeeze_factor": 2}, 900, None),
    "sew-d": ({"model_type": "sew-d", **_WAVES, "squeeze_factor": 2}, 900, None),
    "data2vec-audio": (
        {"model_type": "data2vec-audio", **_LAYER, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}, 900, None,
    ),
    "moonshine": (
        {"model_type": "moonshine", "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 1,
         "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
         "vocab_size": 30},
        4000, None,
    ),
    "wav2vec2-bert": ({"model_type": "wav2vec2-bert", **_VIT, "feature_projection_input_dim": 16}, 40, 16),
    "speech_to_text": (
        {"model_type": "speech_to_text", **_SPEAKERS, "input_feat_per_channel": 16, "conv_channels": 8}, 40, 16,
    ),
    "parakeet_encoder": ({"model_type": "parakeet_encoder", **_FRAMES}, 80, 16),
    "lasr_encoder": ({"model_type": "lasr_encoder", **_FRAMES}, 80, 16),
}  # fmt: skip
# Windows of one length, (n, ...).
_CLAP = {
    "num_mel_bins": 8, "spec_size": 32, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2],
    "hidden_size": 16, "window_size": 4,
}  # fmt: skip
WINDOWS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "clap_audio_model": (_CLAP, (1, 101, 8)),
    "audio-spectrogram-transformer": ({**_VIT, "max_length": 48, "num_mel_bins": 32}, (48, 32)),
    "whisper": ({**_SPEAKERS, "num_mel_bins": 8, "max_source_positions": 10}, (8, 20)),
}

NOT_HERE = {"timm_wrapper", "mlcd"}  # needs the package timm; another name of mlcd_vision_model


def seeded(config):
    """The tower in float64, its vectors away from 0 and 1 where they start."""
    torch.manual_seed(0)
    tower = build_tower(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # some start from 0
            module.weight.data.fill_(1)
    for parameter in tower.parameters():
        noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5
        parameter.data += noise * (
            0.6 if parameter.ndim == 1 else 2 * (6 * len(parameter) / max(1, parameter.numel())) ** 0.5
        )
    return tower


def test_the_list_holds_every_kind_that_is_accepted():
    assert {*VISION} == set(VISION_KINDS) - NOT_HERE
    assert {settings["model_type"] for settings, *_ in AUDIO.values()} == set(LENGTH_KINDS)
    assert {*WINDOWS} == set(WINDOW_KINDS)


def tower_features(tower, values, mask=None, **settings):
    """The tower's (n, S, D) tokens, their mask and the pooled vectors of n items, one to a context."""
    items = MediaItems(values[:, None], mask=None if mask is None else mask[:, None])
    seen = run_tower(tower, items, **settings)
    flat = (None if one is None else one[:, 0] for one in (seen.values, seen.mask, seen.pooled))
    return SimpleNamespace(**dict(zip(("tokens", "mask", "pooled"), flat, strict=True)), output=seen.output)


@pytest.mark.parametrize("kind", VISION)
def test_a_picture_alone_is_what_it_is_in_a_batch_and_its_tokens_have_the_width_told(kind):
    settings, size, width = VISION[kind]
    config = CONFIG_MAPPING[kind](**settings)
    tower = seeded(copy.deepcopy(config))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, size, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        whole, again = tower_features(tower, pixels), tower_features(tower, pixels)
        alone = tower_features(tower, pixels[1:2])
    assert whole.tokens.shape[-1] == width == tower_width(config)
    for name in ("tokens", "pooled"):
        together, one, twice = getattr(whole, name), getattr(alone, name), getattr(again, name)
        torch.testing.assert_close(one[0], together[1], rtol=0, atol=1e-10)
        torch.testing.assert_close(twice, together, rtol=0, atol=1e-10)  # no draw, as of ViTMAE's masks
    assert not torch.allclose(whole.tokens[0], whole.tokens[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", AUDIO)
def test_a_sound_alone_is_what_it_is_beside_longer_ones(kind):
    settings, length, bands = AUDIO[kind]
    tower = seeded(CONFIG_MAPPING[settings["model_type"]](**settings))
    lengths = [length // 4 + 1, length, length - 1, 1, length // 2]
    shape = (len(lengths), length) if bands is None else (len(lengths), length, bands)
    sounds = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sounds[-1] = 0  # silence
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        whole = tower_features(tower, sounds, mask)
        for row, own in enumerate(lengths):
            alone = tower_features(tower, sounds[row : row + 1, :own])
            real = alone.tokens.shape[1]
            assert real >= 1 and whole.mask[row].tolist() == [True] * real + [False] * (whole.mask.shape[1] - real)
            torch.testing.assert_close(alone.tokens[0], whole.tokens[row, :real], rtol=0, atol=1e-10)
            torch.testing.assert_close(alone.pooled[0], whole.pooled[row], rtol=0, atol=1e-10)
    assert whole.tokens.shape[-1] == tower_width(tower.config)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_alone_is_what_it_is_in_a_batch(kind):
    settings, shape = WINDOWS[kind]
    tower = seeded(CONFIG_MAPPING[kind](**settings))
    sounds = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, alone = tower_features(tower, sounds), tower_features(tower, sounds[1:2])
    torch.testing.assert_close(alone.tokens[0], whole.tokens[1], rtol=0, atol=1e-10)
    assert whole.tokens.shape[-1] == tower_width(tower.config)


REFUSED = {
    "videomae": ("vision", "whole videos"),
    "timesformer": ("vision", "whole videos"),
    "vivit": ("vision", "whole videos"),
    "vjepa2": ("vision", "whole videos"),
    "siglip2_vision_model": ("vision", "a tower of patches of many sizes"),
    "detr": ("vision", "detect or segment"),
    "bert": ("vision", "no tower of this kind"),
    "whisper": ("vision", "no tower of this kind"),
    "clip": ("vision", "no tower of this kind; pass its vision_config"),
    "encodec": ("audio", "codec"),
    "mimi": ("audio", "codec"),
    "clap": ("audio", "a model of two towers; pass its audio_config"),
    "vit": ("audio", "no tower of this kind"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_is_no_tower_is_refused_by_the_configuration(kind):
    side, why = REFUSED[kind]
    with pytest.raises(ValueError, match=f"{side}_config: model_type='{kind}' is .*{why}.*; accepted: "):
        MMConfig(modalities=["image" if side == "vision" else "audio"], **{f"{side}_config": {"model_type": kind}})


TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8,
    "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip


def hearing(settings):
    torch.manual_seed(0)
    fields = {"audio_config": settings, "text_config": TEXT, "initializer_range": 0.3}
    return MMForConditionalGeneration(MMConfig(modalities=["audio"], **fields)).eval()


def hearing_processor(extractor):
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "a": 3}, unk_token="a"))
    names = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    return MMProcessor(None, PreTrainedTokenizerFast(tokenizer_object=words, **names), extractor)


def sounds(*lengths):
    rng = np.random.default_rng(0)
    return [(0.3 * np.sin(np.arange(n) / 7) + 0.05 * rng.standard_normal(n)).astype(np.float32) for n in lengths]


EXTRACTORS = {
    "wav2vec2 group": Wav2Vec2FeatureExtractor(return_attention_mask=False),
    "wav2vec2 layer": Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "wav2vec2-bert": SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8),
    "speech_to_text": Speech2TextFeatureExtractor(feature_size=16, num_mel_bins=16),
    "moonshine": Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False),
}


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_sounds_through_processor_and_model_do_not_depend_on_their_neighbours(kind):
    model, processor = hearing(AUDIO[kind][0]), hearing_processor(EXTRACTORS[kind])
    heard = sounds(1600, 1, 24, 4000)
    options = {"sampling_rate": 16000, "return_tensors": "pt"}
    with torch.no_grad():
        whole = model(**processor(audio=heard, text=["a"] * 4, **options)).logits
        for row, sound in enumerate(heard):
            alone = model(**processor(audio=[sound], text=["a"], **options)).logits[0]
            torch.testing.assert_close(alone, whole[row], rtol=1e-4, atol=1e-4)
    assert (whole[0] - whole[3]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["wav2vec2 group", "wav2vec2 layer", "hubert group", "sew", "wav2vec2-bert"])
def test_short_sounds_train_under_spec_augment(kind):
    settings, length, bands = AUDIO[kind]
    model = hearing({**settings, "mask_time_prob": 0.5}).train()
    shape = (3, 1, length) if bands is None else (3, 1, length, bands)
    mask = torch.arange(length) < torch.tensor([60, length, 3])[:, None, None]
    ids = torch.tensor([[1, 3, 2]] * 3)
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=ids, labels=ids, input_features=features, input_features_mask=mask).loss
    loss.backward()
    assert torch.isfinite(loss) and model.model.audio_projector.weight.grad.abs().sum() > 0


# One sound: name -> settings, how it is heard, how that is written.
HEARD = {
    "clap_audio_model": ({**_CLAP, "model_type": "clap_audio_model"}, (1, 101, 8), r"\(B, 1, frames, 8\)"),
    "clap, fusion": (
        {**_CLAP, "model_type": "clap_audio_model", "enable_fusion": True, "fusion_type": "aff_2d"},
        (4, 101, 8), r"\(B, 1 or 4, frames, 8\)",
    ),
    "audio-spectrogram-transformer": (
        {**WINDOWS["audio-spectrogram-transformer"][0], "model_type": "audio-spectrogram-transformer"},
        (48, 32), r"\(B, frames, 32\)",
    ),
    "whisper": ({**WINDOWS["whisper"][0], "model_type": "whisper"}, (8, 20), r"\(B, 8, frames\)"),
    **{
        name: (settings, (length, bands), rf"\(B, frames, {bands}\)")
        for name, (settings, length, bands) in AUDIO.items() if bands is not None
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", HEARD)
def test_features_of_another_shape_than_the_tower_hears_are_refused_in_words(kind):
    """Some towers cut or fold what they cannot hear, and others fail inside."""
    settings, shape, words = HEARD[kind]
    model, ids = hearing(settings), torch.tensor([[1]])
    good = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = {mode: model(ids, input_features=value).logits for mode, value in ((1, good), (2, good[:, None]))}
    assert torch.equal(given[1], given[2])  # with and without the dimension of the clips
    others = [good[:, :1].repeat_interleave(count, 1) for count in ((2, 3) if shape[0] == 4 else (2, 4))]
    bands = 1 if kind == "whisper" else -1
    wrong = [torch.cat([good, good], bands), good.narrow(bands, 0, good.shape[bands] - 1), good[None, None]]
    for features in [*wrong, *(others if len(shape) == 3 else ())]:
        for clips in (features, features[:, None]) if features.ndim == good.ndim else (features,):
            with pytest.raises(ValueError, match=f"input_features must be float {words}.*got torch.float32") as error:
                model(ids, input_features=clips)
            assert str(tuple(clips.shape)) in str(error.value)
            assert ('truncation="rand_trunc"' in str(error.value)) == (kind == "clap_audio_model")


def test_a_mask_with_holes_is_refused():
    model = hearing(AUDIO["wav2vec2 group"][0])
    mask = torch.arange(900)[None, None] != 5
    with pytest.raises(ValueError, match="input_features_mask must be True from the start of each clip to its end"):
        model(input_ids=torch.tensor([[1]]), input_features=torch.zeros(1, 1, 900), input_features_mask=mask)


def test_states_of_sounds_of_unequal_length_come_in_one_batch():
    model = hearing(AUDIO["wav2vec2 group"][0])
    features = torch.randn(2, 1, 900, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(900) < torch.tensor([300, 900])[:, None, None]
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        whole = model.model.get_audio_features(features, mask)
        model.model.audio_tower.set_attn_implementation("eager")
        seen = model.model.get_audio_features(features, mask, **asked)
        alone = model.model.get_audio_features(features[:1, :, :300], **asked)
    real = alone.last_hidden_state.shape[1]
    assert whole.last_hidden_state.shape == seen.hidden_states[-1].shape
    for name in ("hidden_states", "attentions"):
        for one, both in zip(getattr(alone, name), getattr(seen, name), strict=True):
            inside = both[0, :real] if one.ndim == 3 else both[0, :, :real, :real]
            torch.testing.assert_close(one[0], inside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 100, 399])
@pytest.mark.parametrize("on_error", ["raise", "skip", "placeholder"])
def test_a_sound_shorter_than_a_frame_is_followed_by_silence(samples, on_error):
    processor = hearing_processor(ASTFeatureExtractor(max_length=20, num_mel_bins=16))
    short, long = sounds(samples, 16000)
    options = {"sampling_rate": 16000, "return_tensors": "pt", "on_error": on_error}
    made = processor(audio=[short, long[:3000]], text=["a", "a"], **options)
    silent = np.concatenate([short, np.zeros(560 - samples, np.float32)])
    wanted = processor(audio=[silent, long[:3000]], text=["a", "a"], **options)["input_features"]
    assert torch.equal(made["input_features"], wanted) and not torch.allclose(wanted[0], wanted[1])


def test_vit_mae_sees_every_patch_in_training_too():
    tower = build_tower(CONFIG_MAPPING["vit_mae"](**{**VISION["vit_mae"][0], "mask_ratio": 0.75})).train()
    pixels = torch.randn(2, 3, 16, 16)
    seen, again = (tower_features(tower, pixels).tokens for _ in range(2))
    assert seen.shape[1] == 5 and torch.equal(seen, again)
