"""MMResampler: Flamingo's and CoCa's written out, masks, and what the config refuses."""

# Wrong values are handed in on purpose.

import pytest
import torch
from torch.nn import functional

from comparing import close, same_weights
from mm.configuration.resampler import MMResamplerConfig
from mm.modeling_mm.fusion.media_encoder import MMResampler

SMALL = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 6,
    "num_latents": 5, "initializer_range": 0.2, "layer_norm_eps": 1e-5,
}  # fmt: skip
COCA = {
    "num_hidden_layers": 1, "residual": False, "intermediate_size": 0, "append_latents": False, "attention_bias": True,
    "first_latent_pooled": True, "head_dim": 12,
}  # fmt: skip
QFORMER = {
    "self_attention": True, "cross_attention_every": 2, "norm_position": "post", "embedding_norm": True,
    "final_norm": "none", "memory_norm": False, "append_latents": False, "attention_bias": True, "mlp_bias": True,
    "head_dim": 12,
}  # fmt: skip
KINDS = {
    "perceiver": ({}, 24),
    "coca": (COCA, 16),
    "map": ({**COCA, "intermediate_size": 40, "mlp_bias": True}, 24),
    "q-former": ({**QFORMER, "num_hidden_layers": 3}, 16),
    "bare": ({"memory_norm": False, "append_latents": False, "norm_type": "rms_norm", "final_norm": "none"}, 16),
}


@pytest.fixture
def built(visible):
    """`built(kind, attention)`: a resampler in fp64."""

    def build(kind, attention="sdpa", **fields) -> MMResampler:
        torch.manual_seed(0)
        changes, width = KINDS[kind]
        config = MMResamplerConfig(**{**SMALL, **changes, **fields})
        resampler = MMResampler._from_config(config, token_width=width, attn_implementation=attention)
        return visible(resampler).double().eval()

    return build


def tokens_of(resampler, length=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, length, resampler.token_width, generator=generator, dtype=torch.float64)


def attended(attn, queries, keys):
    """Softmax attention with the weights of a sublayer."""

    def heads(states):
        return states.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)

    scores = heads(attn.q_proj(queries)) @ heads(attn.k_proj(keys)).transpose(2, 3) * attn.head_dim**-0.5
    return attn.o_proj((scores.softmax(-1) @ heads(attn.v_proj(keys))).transpose(1, 2).flatten(2))


def test_the_default_is_flamingos_perceiver(built):
    resampler = built("perceiver")
    tokens = tokens_of(resampler)
    latents = resampler.latents.expand(3, -1, -1)
    for layer in resampler.layers:
        queries = layer.cross_attn_norm(latents)
        keys = torch.cat([layer.cross_attn.memory_norm(tokens), queries], 1)
        latents = latents + attended(layer.cross_attn, queries, keys)
        inner = functional.gelu(layer.mlp.up_proj(layer.mlp_norm(latents)))
        latents = latents + layer.mlp.down_proj(inner)
    got, pooled = resampler(tokens)
    close(got, resampler.norm(latents))
    assert pooled is None and got.shape == (3, 5, 24)
    assert not [name for name, _ in resampler.named_parameters() if name.endswith("_proj.bias")]


def test_one_layer_without_residual_and_mlp_is_cocas_pooler(built):
    resampler = built("coca")
    tokens, layer = tokens_of(resampler), resampler.layers[0]
    queries = layer.cross_attn_norm(resampler.latents.expand(3, -1, -1))
    expected = resampler.norm(attended(layer.cross_attn, queries, layer.cross_attn.memory_norm(tokens)))
    rest, pooled = resampler(tokens)
    close(pooled, expected[:, 0])
    close(rest, expected[:, 1:])


def test_latents_of_a_q_former_attend_to_each_other_and_every_second_layer_reads_the_tokens(built):
    resampler = built("q-former")
    tokens, latents = tokens_of(resampler), resampler.embed_norm(resampler.latents.expand(3, -1, -1))
    for layer, reads in zip(resampler.layers, (True, False, True), strict=True):
        assert layer.has_cross == reads
        latents = layer.self_attn_norm(latents + attended(layer.self_attn, latents, latents))
        if reads:
            latents = layer.cross_attn_norm(latents + attended(layer.cross_attn, latents, tokens))
        inner = functional.gelu(layer.mlp.up_proj(latents))
        latents = layer.mlp_norm(latents + layer.mlp.down_proj(inner))
    close(resampler(tokens)[0], latents)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masked_tokens_count_for_nothing_wherever_they_stand(built, kind, attention):
    resampler = built(kind, attention)
    tokens = tokens_of(resampler)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1] * 7, [0, 0, 0, 0, 0, 0, 1]]).bool()
    together, pooled = resampler(tokens, mask)
    for item in range(3):
        alone, alone_pooled = resampler(tokens[item : item + 1, mask[item]])
        close(together[item], alone[0])
        if pooled is not None:
            close(pooled[item], alone_pooled[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_none(built, kind):
    gradients = []
    for reentrant in (None, False, True):
        resampler = built(kind).train()
        if reentrant is not None:
            resampler.gradient_checkpointing_enable({"use_reentrant": reentrant})
        tokens = tokens_of(resampler).requires_grad_()
        rest, pooled = resampler(tokens)
        (rest.square().sum() + (0 if pooled is None else pooled.square().sum())).backward()
        gradients.append({name: parameter.grad for name, parameter in resampler.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        close(gradients[1][name], gradient)
        close(gradients[2][name], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_changes_no_bit(built, kind, tmp_path):
    resampler = built(kind)
    resampler.save_pretrained(tmp_path)
    loaded = MMResampler.from_pretrained(tmp_path, token_width=resampler.token_width, dtype=torch.float64)
    tokens = tokens_of(resampler)
    same_weights(loaded, resampler)
    close(loaded(tokens)[0], resampler(tokens)[0])


FAULTS = [
    ({"num_latents": 0}, "num_latents=0 must be positive"),
    ({"num_latents": 1, "first_latent_pooled": True}, "leaves no latent for the tokens; set num_latents to 2 or more"),
    ({"cross_attention_every": 2}, "cross_attention_every=2 leaves layers .* set self_attention=True"),
    ({"cross_attention_every": 0}, "cross_attention_every=0 must be positive"),
    ({"self_attention": True, "residual": False}, "residual=False drops .* set residual=True"),
    ({"intermediate_size": -1}, "intermediate_size=-1"),
    ({"num_key_value_heads": 3}, "num_attention_heads=8 is not a multiple of num_key_value_heads=3"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS)
def test_a_broken_rule_is_named_with_the_setting_to_change(fields, message):
    with pytest.raises(ValueError, match=message):
        MMResamplerConfig(**fields)


@pytest.mark.parametrize("fields", [{"pooler": "mean"}, {"position_embedding_type": "rope"}, {"final_norm": "pooled"}])
def test_what_a_resampler_does_not_have_is_refused(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        MMResamplerConfig(**fields)


def test_latents_that_are_keys_must_be_as_wide_as_the_tokens():
    with pytest.raises(ValueError, match="they are 768 and 16 wide; set the resampler's hidden_size=16 or append"):
        MMResampler(MMResamplerConfig(num_hidden_layers=1), 16)


def test_tokens_of_another_width_are_refused(built):
    with pytest.raises(ValueError, match=r"must be float \(B, S, 24\)"):
        built("perceiver")(torch.zeros(1, 4, 16, dtype=torch.float64))
