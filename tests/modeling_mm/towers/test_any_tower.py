"""Towers by config: MM's own and those of Transformers, built and called in one way."""

# Fixtures build models whose types pyright cannot follow.

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    ASTConfig,
    AutoModel,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    ResNetConfig,
    SiglipVisionConfig,
    UniSpeechSatConfig,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from mm import MMConvConfig, MMVisionConfig
from mm.configuration.towers import map_tokens, tower_width
from mm.modeling_mm.core.input_checks import MediaItems
from mm.modeling_mm.towers.any_tower import build_tower, run_tower

_VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_PATCHES = {**_VIT, "image_size": 16, "patch_size": 8}
_MAPS = {"hidden_sizes": [8, 12, 16], "depths": [1, 1, 1]}
FOREIGN = {
    "vit": (ViTConfig(**_PATCHES), (3, 16, 16), (5, 16)),
    "siglip": (SiglipVisionConfig(**_PATCHES), (3, 16, 16), (4, 16)),
    "clip": (CLIPVisionConfig(**_PATCHES), (3, 16, 16), (5, 16)),
    "dinov2": (Dinov2Config(**_PATCHES), (3, 16, 16), (5, 16)),
    "resnet": (ResNetConfig(embedding_size=8, **_MAPS), (3, 32, 32), (4, 16)),
    "convnext": (ConvNextConfig(**_MAPS, num_stages=3, image_size=32), (3, 32, 32), (4, 16)),
    "ast": (ASTConfig(**_VIT, max_length=48, num_mel_bins=32), (48, 32), (10, 16)),
    "whisper": (
        WhisperConfig(
            d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8, max_source_positions=10, vocab_size=60,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        ),
        (8, 20),
        (10, 16),
    ),
    "wav2vec2": (
        Wav2Vec2Config(
            **_VIT, conv_dim=[8] * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0
        ),
        (4000,),
        (12, 16),
    ),
}  # fmt: skip
# What last_hidden_state does not depend on, or is no weight of training (Whisper's sinusoids).
UNREAD = {
    "vit": "pooler", "siglip": "head", "clip": "post_layernorm", "dinov2": "mask_token", "resnet": None,
    "convnext": "layernorm", "ast": None, "whisper": "embed_positions", "wav2vec2": None,
}  # fmt: skip


def built(name, layer=-1):
    torch.manual_seed(0)
    config, shape, _ = FOREIGN[name]
    generator = torch.Generator().manual_seed(0)
    return build_tower(config, layer).double().eval(), torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def tower_features(tower, values, mask=None, **settings):
    """The tower's (n, S, D) tokens, their mask and the pooled vectors of n items, one to a context."""
    items = MediaItems(values[:, None], mask=None if mask is None else mask[:, None])
    seen = run_tower(tower, items, **settings)
    flat = (None if one is None else one[:, 0] for one in (seen.values, seen.mask, seen.pooled))
    return SimpleNamespace(**dict(zip(("tokens", "mask", "pooled"), flat, strict=True)), output=seen.output)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_tower_gives_its_tokens_and_a_pooled_vector(name):
    tower, values = built(name)
    features = tower_features(tower, values)
    config, _, shape = FOREIGN[name]
    own = tower(values).last_hidden_state
    assert features.tokens.shape == (2, *shape) and shape[1] == tower_width(config)
    assert torch.equal(features.tokens, own if own.ndim == 3 else own.flatten(2).transpose(1, 2))
    assert features.pooled.shape == (2, 16) and features.mask is None
    pooled = features.output.get("pooler_output")
    assert torch.equal(features.pooled, features.tokens.mean(1) if pooled is None else pooled.flatten(1))


@pytest.mark.parametrize("name", FOREIGN)
def test_its_weights_keep_their_names_and_load(name):
    tower, values = built(name)
    model = AutoModel.from_config(FOREIGN[name][0])
    encoder = (model.get_encoder() if model.config.is_encoder_decoder else model).double().eval()
    encoder.load_state_dict(tower.state_dict())
    assert torch.equal(encoder(values).last_hidden_state, tower(values).last_hidden_state)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("layer", [-1, 1])
def test_a_parameter_is_frozen_exactly_if_the_tokens_do_not_depend_on_it(name, layer):
    if layer == 1 and name in ("resnet", "convnext"):
        with pytest.raises(ValueError, match=r"layer=1 of \w+ is (8|12) wide, but its last is 16; read layer=-1"):
            built(name, layer)
        return
    tower, values = built(name, layer)
    tower_features(tower, values, layer=layer).tokens.square().sum().backward()
    for parameter_name, parameter in tower.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name
    frozen = [n for n, parameter in tower.named_parameters() if not parameter.requires_grad]
    if layer == -1:
        assert all(UNREAD[name] in n for n in frozen) and bool(frozen) == (UNREAD[name] is not None)
    else:
        assert len(frozen) > len(list(tower.parameters())) // 4


@pytest.mark.parametrize("name", ["vit", "clip", "ast", "whisper"])
def test_another_layer_and_a_dropped_first_token(name):
    tower, values = built(name)
    states = tower(values, output_hidden_states=True).hidden_states
    for layer in (0, 1, -2):
        assert torch.equal(tower_features(tower, values, layer=layer).tokens, states[layer])
    dropped = tower_features(tower, values, layer=-2, strategy="default")
    assert torch.equal(dropped.tokens, states[-2][:, 1:])
    with pytest.raises(ValueError, match="layer=9 is outside the tower's 3 hidden states"):
        tower_features(tower, values, layer=9)


@pytest.mark.parametrize("name", ["vit", "siglip", "clip", "dinov2", "convnext"])
def test_another_size_is_refused_unless_asked_for(name):
    tower, _ = built(name)
    larger = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with pytest.raises(ValueError, match="48x48, but image_size=.*interpolate_pos_encoding=True"):
        tower_features(tower, larger)
    tokens = tower_features(tower, larger, interpolate_pos_encoding=True).tokens
    assert tokens.shape[1] in ({9} if name == "convnext" else {36, 37})


def test_pixels_are_cast_to_the_towers_type():
    tower, values = built("vit")
    assert tower_features(tower.to(torch.bfloat16), values).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["whisper", "wav2vec2"])
def test_frames_that_are_padding_give_masked_tokens(name):
    tower, values = built(name)
    mask = torch.ones(2, values.shape[-1], dtype=torch.bool)
    mask[1, values.shape[-1] // 2 :] = False
    features = tower_features(tower, values, mask)
    real = tower._get_feat_extract_output_lengths(torch.tensor(values.shape[-1] // 2))
    assert features.mask[0].all() and features.mask[1].sum() == real and features.mask[1, :real].all()
    torch.testing.assert_close(features.pooled[1], features.tokens[1, :real].mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "shape"), [("vit", (2, 2, 2)), ("ast", (2, 48)), ("resnet", (2, 1, 1))])
def test_a_mask_that_a_tower_cannot_use_is_refused(name, shape):
    tower, values = built(name)
    with pytest.raises(ValueError, match=rf"a mask \({shape[0]}, .* cannot leave out a part of one"):
        tower_features(tower, values, torch.ones(shape, dtype=torch.bool))


OWN = {
    "mm_vision": MMVisionConfig(**_PATCHES, num_register_tokens=1),
    "mm_conv": MMConvConfig(image_size=16, stages=[{"block": "plain", "channels": 16, "stride": 4, "depth": 1}]),
}


@pytest.mark.parametrize("name", OWN)
def test_mms_own_towers_are_called_alike(name):
    tower = build_tower(OWN[name]).double().eval()
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    features, output = tower_features(tower, pixels), tower(pixels)
    assert torch.equal(features.tokens, output.last_hidden_state)
    assert torch.equal(features.pooled, output.pooler_output)
    assert features.tokens.shape[-1] == tower_width(OWN[name])
    assert tower_features(tower, torch.randn(1, 3, 24, 16), interpolate_pos_encoding=True).tokens.ndim == 3


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2])
def test_an_own_tower_freezes_what_lies_above_the_layer_that_is_read(layer):
    tower = build_tower(OWN["mm_vision"], layer).double().eval()
    pixels = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    tower_features(tower, pixels, layer=layer).tokens.square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    states = tower(pixels, output_hidden_states=True).hidden_states
    assert torch.equal(tower_features(tower, pixels, layer=layer).tokens, states[layer])


def test_a_patch_mask_becomes_a_mask_of_tokens():
    tower = build_tower(OWN["mm_vision"]).double().eval()
    mask = torch.tensor([[[1, 1], [1, 1]], [[1, 0], [1, 0]]]).bool()
    features = tower_features(tower, torch.randn(2, 3, 16, 16), mask)
    assert features.mask.tolist() == [[True] * 6, [True, True, True, False, True, False]]
    dropped = tower_features(tower, torch.randn(2, 3, 16, 16), mask, strategy="default")
    assert torch.equal(dropped.mask, features.mask[:, 1:])


def test_a_convolutional_tower_has_no_other_layer():
    with pytest.raises(ValueError, match="layer=-2 names a hidden state, but a convolutional tower"):
        build_tower(OWN["mm_conv"], layer=-2)


def test_a_feature_map_is_read_by_where_its_channels_are():
    """timm's convolutional models give (n, C, h, w), its Swin and others (n, h, w, C)."""
    expected = torch.randn(2, 6, 5)
    last, first = expected.unflatten(1, (2, 3)), expected.mT.unflatten(2, (2, 3))
    tower = SimpleNamespace(timm_model=SimpleNamespace(num_features=5))
    for features in (last, first):
        assert torch.equal(map_tokens(tower, features), expected)
    assert torch.equal(map_tokens(SimpleNamespace(), first), expected)


def test_a_setting_of_an_adapter_that_a_tower_has_not_changes_no_width():
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 20}
    without, with_one = UniSpeechSatConfig(**sizes, add_adapter=True), Wav2Vec2Config(**sizes, add_adapter=True)
    with_one.output_hidden_size = 16
    assert (tower_width(without), tower_width(with_one)) == (24, 16)
