"""Stacks against the installed originals on equal weights: what MM's one block says it can be, it is.

Each table maps the names of the original's weights to MM's; loading is strict, so every weight has its place.
"""

# Fixtures build models whose types pyright cannot follow.

import re

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from mm import (
    MMConfig,
    MMConvConfig,
    MMConvModel,
    MMForConditionalGeneration,
    MMTextConfig,
    MMTextModel,
    MMVisionConfig,
    MMVisionModel,
)

TOLERANCE = 1e-10  # fp64
IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
MEMORY = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PIXELS = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
PICTURE = {**SIZES, "image_size": 24, "patch_size": 8}
WORDS = {**SIZES, "vocab_size": 60, "max_position_embeddings": 24}
IDS_OF = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PRE = {"norm_position": "pre", "embedding_norm": False, "final_norm": "all"}

VIT = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "embed_positions.weight",
    r"embeddings\.patch_embeddings\.projection": "patch_embedding",
    r"layernorm_before": "self_attn_norm",
    r"layernorm_after": "mlp_norm",
    r"\.attention\.": ".self_attn.",
    r"mlp\.fc1": "mlp.up_proj",
    r"mlp\.fc2": "mlp.down_proj",
    r"^layernorm": "norm",
}
CLIP = {
    r"embeddings\.class_embedding": "cls_token",
    r"embeddings\.position_embedding\b": "embed_positions",
    r"embeddings\.patch_embedding": "patch_embedding",
    r"embeddings\.token_embedding": "embed_tokens",
    r"pre_layrnorm": "embed_norm",
    r"encoder\.": "",
    r"layer_norm1": "self_attn_norm",
    r"layer_norm2": "mlp_norm",
    r"out_proj": "o_proj",
    r"mlp\.fc1": "mlp.up_proj",
    r"mlp\.fc2": "mlp.down_proj",
    r"^(post|final)_layer_?norm": "norm",
    r"^head\.layernorm": "pooler.head.norm",
    r"^head\.": "pooler.head.",
}
BERT = {
    r"^bert\.": "",
    r"embeddings\.word_embeddings": "embed_tokens",
    r"embeddings\.position_embeddings": "embed_positions",
    r"embeddings\.token_type_embeddings": "embed_token_types",
    r"embeddings\.LayerNorm": "embed_norm",
    r"encoder\.layer\.": "layers.",
    r"attention\.self\.query": "attention.q_proj",
    r"attention\.self\.key": "attention.k_proj",
    r"attention\.self\.value": "attention.v_proj",
    r"attention\.output\.dense": "attention.o_proj",
    r"attention\.output\.LayerNorm": "attention_norm",
    r"crossattention": "cross_attn",
    r"\.attention": ".self_attn",
    r"intermediate\.dense": "mlp.up_proj",
    r"\.output\.dense": ".mlp.down_proj",
    r"\.output\.LayerNorm": ".mlp_norm",
}
GPT2 = {
    r"^transformer\.": "",
    r"^wte": "embed_tokens",
    r"^wpe": "embed_positions",
    r"^h\.": "layers.",
    r"ln_1": "self_attn_norm",
    r"ln_2": "mlp_norm",
    r"ln_cross_attn": "cross_attn_norm",
    r"mlp\.c_fc": "mlp.up_proj",
    r"mlp\.c_proj": "mlp.down_proj",
    r"crossattention\.c_proj": "cross_attn.o_proj",
    r"\.attn\.c_proj": ".self_attn.o_proj",
    r"^ln_f": "norm",
}
LLAMA = {r"input_layernorm": "self_attn_norm", r"post_attention_layernorm": "mlp_norm"}


def renamed(peer: nn.Module, table: dict[str, str]) -> dict[str, torch.Tensor]:
    """The original's weights under MM's names."""
    weights = {}
    for name, value in peer.state_dict().items():
        for pattern, replacement in table.items():
            name = re.sub(pattern, replacement, name)
        weights[name] = value[0] if name == "embed_positions.weight" and value.ndim == 3 else value
    return weights


def split(weights: dict, fused: str, parts: dict[str, str]) -> None:
    """Cuts a fused projection (outputs first) into equal parts."""
    for kind in ("weight", "bias"):
        for name in [name for name in weights if re.search(fused + kind + "$", name)]:
            pieces = weights.pop(name).chunk(len(parts))
            for part, piece in zip(parts, pieces, strict=True):
                weights[re.sub(fused, parts[part], name)] = piece


def gpt2_weights(peer: nn.Module) -> dict[str, torch.Tensor]:
    """Conv1D keeps inputs first, and q, k, v in one."""
    weights = {
        name: value.T if re.search(r"(attn|attention|mlp)\..*weight", name) else value
        for name, value in renamed(peer, GPT2).items()
    }
    own, cross = r"\.attn\.c_attn\.", r"crossattention\.c_attn\."
    split(weights, own, {letter: f".self_attn.{letter}_proj." for letter in "qkv"})
    split(weights, cross, {letter: f"cross_attn.{letter}_proj." for letter in "kv"})
    return {name.replace("crossattention.q_attn", "cross_attn.q_proj"): value for name, value in weights.items()}


def random_peer(cls, config, visible) -> nn.Module:
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"  # eager attention computes its softmax in fp32
    peer = visible(cls(config)).double().eval()
    for parameter in peer.parameters():
        if parameter.ndim > 1:
            parameter.data *= 4  # initial weights are so small that little would show
    return peer


def ours(cls, config, weights: dict[str, torch.Tensor]):
    model = cls._from_config(config, attn_implementation="sdpa").double().eval()
    model.load_state_dict(weights)
    return model


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape and expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("size", [24, 40])
def test_vit(visible, size):
    peer = random_peer(ViTModel, ViTConfig(**PICTURE), visible)
    model = ours(MMVisionModel, MMVisionConfig(**PICTURE, pooler="cls_tanh"), renamed(peer, VIT))
    pixels = PIXELS if size == 24 else torch.nn.functional.interpolate(PIXELS, size=(size, 32))
    found, expected = (each(pixels, interpolate_pos_encoding=True) for each in (model, peer))
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)


def test_clip_vision(visible):
    peer = random_peer(CLIPVisionModel, CLIPVisionConfig(**PICTURE), visible)
    weights = renamed(peer, CLIP)
    weights["cls_token"] = weights["cls_token"].view(1, 1, -1)
    config = MMVisionConfig(
        **PICTURE, embedding_norm=True, patch_bias=False, hidden_act="quick_gelu", layer_norm_eps=1e-5,
        final_norm="pooled",
    )  # fmt: skip
    found, expected = ours(MMVisionModel, config, weights)(PIXELS), peer(PIXELS)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)


def test_siglip_vision(visible):
    peer = random_peer(SiglipVisionModel, SiglipVisionConfig(**PICTURE), visible)
    weights = renamed(peer, CLIP)
    parts = {letter: f"attention.{letter}_proj." for letter in "qkv"}
    split(weights, r"attention\.in_proj_", parts)
    config = MMVisionConfig(
        **PICTURE, use_cls_token=False, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, pooler="attention"
    )
    found, expected = ours(MMVisionModel, config, weights)(PIXELS), peer(PIXELS)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)


def test_clip_text(visible):
    config = CLIPTextConfig(**WORDS, bos_token_id=1, eos_token_id=3, pad_token_id=0)
    peer = random_peer(CLIPTextModel, config, visible)
    settings = MMTextConfig(
        **WORDS, **PRE, bos_token_id=1, eos_token_id=3, pad_token_id=0, hidden_act="quick_gelu", layer_norm_eps=1e-5,
        pooler="eos",
    )  # fmt: skip
    model = ours(MMTextModel, settings, renamed(peer, CLIP))
    ids = IDS.masked_fill(IDS == 3, 4)
    ids[0, 5] = ids[1, 8] = 3
    found, expected = model(ids), peer(ids)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)


def test_siglip_text(visible):
    peer = random_peer(SiglipTextModel, SiglipTextConfig(**WORDS, **IDS_OF), visible)
    settings = MMTextConfig(
        **WORDS, **PRE, **IDS_OF, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, is_causal=False, pooler="last"
    )
    weights = {name: value for name, value in renamed(peer, CLIP).items() if not name.startswith("pooler")}
    found, expected = ours(MMTextModel, settings, weights)(IDS), peer(IDS)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(peer.head(found.pooler_output), expected.pooler_output)


BERT_SETTINGS = {**WORDS, **IDS_OF, "type_vocab_size": 2}


def test_bert_encoder(visible):
    peer = random_peer(BertModel, BertConfig(**WORDS), visible)
    settings = MMTextConfig(**BERT_SETTINGS, is_causal=False, pooler="cls_tanh")
    model = ours(MMTextModel, settings, renamed(peer, BERT))
    types = (torch.arange(9) > 4).long().expand(2, -1)
    found, expected = (each(IDS, attention_mask=MASK, token_type_ids=types) for each in (model, peer))
    close(found.last_hidden_state[MASK.bool()], expected.last_hidden_state[MASK.bool()])
    close(found.pooler_output, expected.pooler_output)


def generator_of(text: dict, **head) -> MMForConditionalGeneration:
    """A generator whose vision tower matters to nobody."""
    return MMForConditionalGeneration(
        MMConfig(vision_config={**PICTURE, "num_hidden_layers": 1}, text_config=text, **head)
    ).double().eval()  # fmt: skip


def load_text(model, weights: dict, head: dict) -> None:
    model.model.language_model.load_state_dict(weights)
    missing = model.load_state_dict(head, strict=False)
    assert not missing.unexpected_keys
    model.tie_weights()


def test_bert_decoder_with_cross_attention_and_its_head(visible):
    config = BertConfig(**WORDS, is_decoder=True, add_cross_attention=True)
    peer = random_peer(BertLMHeadModel, config, visible)
    weights = renamed(peer, BERT)
    head = {
        name.replace("cls.predictions.transform.LayerNorm", "lm_head_transform.norm")
        .replace("cls.predictions.transform", "lm_head_transform")
        .replace("cls.predictions.decoder", "lm_head"): weights.pop(name)
        for name in list(weights)
        if name.startswith("cls.")
    }
    head.pop("cls.predictions.bias")  # tied to decoder.bias
    model = generator_of(BERT_SETTINGS)
    load_text(model, weights, head)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    expected = peer(IDS, attention_mask=MASK, encoder_hidden_states=MEMORY).logits
    found = model(IDS, attention_mask=MASK, encoder_outputs=MEMORY).logits
    close(found[MASK.bool()], expected[MASK.bool()])


def test_gpt2_with_cross_attention_and_its_head(visible):
    config = GPT2Config(
        n_embd=32, n_inner=48, n_layer=3, n_head=4, vocab_size=60, n_positions=24, add_cross_attention=True, **IDS_OF
    )
    peer = random_peer(GPT2LMHeadModel, config, visible)
    text = {**WORDS, **IDS_OF, **PRE, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5}
    model = generator_of(text, lm_head_transform=False, lm_head_bias=False)
    weights = gpt2_weights(peer)
    load_text(model, weights, {"lm_head.weight": weights.pop("lm_head.weight")})
    close(model(IDS, encoder_outputs=MEMORY).logits, peer(IDS, encoder_hidden_states=MEMORY).logits)


ROPES = {
    "plain": {},
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 100.0,
        "original_max_position_embeddings": 12,
    },
    "yarn": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 100.0, "original_max_position_embeddings": 12},
}  # fmt: skip


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("head_dim", [None, 16])
def test_llama(visible, rope, head_dim):
    parameters = ROPES[rope] or None
    config = LlamaConfig(
        **WORDS, **IDS_OF, num_key_value_heads=2, head_dim=head_dim,
        rope_parameters=None if parameters is None else dict(parameters),
    )  # fmt: skip
    peer = random_peer(LlamaModel, config, visible)
    settings = MMTextConfig(
        **WORDS, **IDS_OF, **PRE, norm_type="rms_norm", gated_mlp=True, mlp_bias=False, attention_bias=False,
        hidden_act="silu", rms_norm_eps=1e-6, num_key_value_heads=2, head_dim=head_dim,
        position_embedding_type="rope", rope_parameters=parameters,
    )  # fmt: skip
    model = ours(MMTextModel, settings, renamed(peer, LLAMA))
    positions = MASK.cumsum(1) - 1
    found = model(IDS, attention_mask=MASK).last_hidden_state
    expected = peer(IDS, attention_mask=MASK, position_ids=positions).last_hidden_state
    # Llama's RMSNorm computes in fp32 whatever the dtype, so it is as exact as that.
    found, expected = found[MASK.bool()], expected[MASK.bool()]
    assert expected.abs().max() > 0.1
    assert ((found - expected).abs() / expected.abs().clamp(min=1)).max() < 1e-5


VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def test_vgg16_under_torchvisions_names():
    torch.manual_seed(0)
    layers, channels = [], 3
    for width in VGG16:
        if width == "M":
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
            channels = width
    peer = nn.Sequential(*layers).double().eval()
    for layer in peer:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.1)
    stages = [
        {"block": "plain", "depth": depth, "channels": width, "pool": 2}
        for depth, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    ]
    config = MMConvConfig(image_size=64, stages=stages, batch_norm=False, position_embedding_type="none")
    # features.N, convolutions in order -> stages.s.b
    places = [f"stages.{s}.{b}.conv.conv" for s, stage in enumerate(stages) for b in range(stage["depth"])]
    numbers = [number for number, layer in enumerate(peer) if isinstance(layer, nn.Conv2d)]
    weights = {
        f"{place}.{kind}": getattr(peer[number], kind)
        for place, number in zip(places, numbers, strict=True)
        for kind in ("weight", "bias")
    }
    model = ours(MMConvModel, config, weights)
    pixels = torch.nn.functional.interpolate(PIXELS, size=64)
    close(model(pixels).last_hidden_state, peer(pixels).flatten(2).transpose(1, 2))
