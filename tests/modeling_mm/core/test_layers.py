"""MMLayer and MMMLP: the order of norm, sublayer, gate and residual, written out once more."""

import pytest
import torch

from comparing import close
from mm.modeling_mm.core.context_rows import MMReading, MMRows
from mm.modeling_mm.core.layers import MMMLP, MMLayer

MEMORY = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STATES = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def built(tiny_config, visible, sublayers, **fields) -> MMLayer:
    config = tiny_config("vit", "inside", text_config=fields).text_config
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return visible(MMLayer(config, tuple(sublayers.split()))).double().eval()


def attend(layer, kind, states):
    if kind == "self":
        return layer.self_attn(states)[0]
    return layer.cross_attn(states, MEMORY, rows=MMRows(2, 2))[0]


def written_out(layer, states, position):
    """The sublayers by hand."""
    for kind in layer.sublayers:
        norm = layer.mlp_norm if kind == "mlp" else getattr(layer, f"{kind}_attn_norm")
        gate = {"self": None, "cross": getattr(layer, "cross_attn_gate", None), "mlp": layer.mlp_gate}[kind]
        before = states if position == "post" else norm(states)
        change = layer.mlp(before) if kind == "mlp" else attend(layer, kind, before)
        states = states + (change if gate is None else change * torch.tanh(gate))
        states = norm(states) if position == "post" else states
    return states


@pytest.mark.parametrize("sublayers", ["self mlp", "self cross mlp", "cross mlp"])
@pytest.mark.parametrize("position", ["pre", "post"])
@pytest.mark.parametrize("gate", ["none", "tanh", "tanh_vector"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_a_layer_is_its_sublayers_in_order(tiny_config, visible, sublayers, position, gate, norm):
    layer = built(tiny_config, visible, sublayers, norm_position=position, cross_attention_gate=gate, norm_type=norm)
    got = layer(STATES, MEMORY, MMReading(MMRows(2, 2)))
    torch.testing.assert_close(got, written_out(layer, STATES, position), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sublayers", ["self cross mlp", "cross mlp"])
@pytest.mark.parametrize("gate", ["none", "tanh", "tanh_vector"])
def test_gates_stand_on_cross_and_on_the_mlp_of_own_layers_and_start_closed(tiny_config, sublayers, gate):
    config = tiny_config("vit", "inside", text_config={"cross_attention_gate": gate}).text_config
    config._attn_implementation = "eager"
    layer = MMLayer(config, tuple(sublayers.split()))
    size = {"none": None, "tanh": 1, "tanh_vector": 32}[gate]
    for name, owned in (("cross_attn_gate", True), ("mlp_gate", sublayers == "cross mlp")):
        parameter = getattr(layer, name)
        if size is None or not owned:
            assert parameter is None
        else:
            assert parameter.shape == (size,) and (parameter == 0).all()


@pytest.mark.parametrize("sublayers", ["self cross mlp", "cross mlp"])
@pytest.mark.parametrize("position", ["pre", "post"])
def test_a_row_without_context_skips_cross_whole_and_an_own_layer_as_a_whole(
    tiny_config, visible, sublayers, position
):
    layer = built(tiny_config, visible, sublayers, norm_position=position, cross_attention_gate="tanh")
    has_context = torch.tensor([True, False])[:, None, None]
    mask = torch.zeros(2, 1, 1, 4, dtype=torch.float64)
    mask[1] = torch.finfo(torch.float64).min
    got = layer(STATES, MEMORY, MMReading(MMRows(2, 2), has_context, mask))
    alone = layer(STATES)  # no context at all
    close(got[1], alone[1])
    assert not torch.equal(got[0], alone[0])
    if sublayers == "cross mlp":
        assert torch.equal(alone, STATES)


def test_flamingos_layer_stands_in_another_stack_by_overrides(tiny_config, visible):
    llama = {"norm_type": "rms_norm", "norm_position": "pre", "gated_mlp": True, "hidden_act": "silu"}
    flamingo = {
        "num_attention_heads": 4, "head_dim": 6, "attention_bias": False, "norm_type": "layer_norm",
        "layer_norm_eps": 1e-5, "hidden_act": "gelu", "gated_mlp": False, "intermediate_size": 20, "mlp_bias": False,
    }  # fmt: skip
    fields = {
        **llama, "cross_attention_overrides": flamingo, "cross_attention_placement": "own",
        "cross_attention_layers": [1], "cross_attention_gate": "tanh",
    }  # fmt: skip
    own = built(tiny_config, visible, "cross mlp", **fields)
    assert own.cross_attn.q_proj.weight.shape == (24, 32) and own.cross_attn.q_proj.bias is None
    assert own.mlp.up_proj.weight.shape == (20, 32) and own.mlp.gate_proj is None and own.mlp.up_proj.bias is None
    assert isinstance(own.mlp_norm, torch.nn.LayerNorm) and own.mlp_norm.eps == 1e-5
    torch.testing.assert_close(own(STATES, MEMORY, MMReading(MMRows(2, 2))), written_out(own, STATES, "pre"))
    plain = built(tiny_config, visible, "self mlp", **fields)
    assert isinstance(plain.mlp_norm, torch.nn.RMSNorm) and plain.mlp.gate_proj is not None
    assert plain.self_attn.q_proj.weight.shape == (32, 32)


def test_the_mlp_is_plain_or_gated(tiny_config, visible):
    for gated in (False, True):
        config = tiny_config("vit", "inside", text_config={"gated_mlp": gated, "hidden_act": "silu"}).text_config
        mlp = visible(MMMLP(config)).double()
        inner = mlp.up_proj(STATES)
        silu = torch.nn.functional.silu
        inner = silu(mlp.gate_proj(STATES)) * inner if gated else silu(inner)
        torch.testing.assert_close(mlp(STATES), mlp.down_proj(inner), rtol=0, atol=1e-14)


def test_dropout_acts_on_what_a_sublayer_adds_and_only_in_training(tiny_config, visible):
    layer = built(tiny_config, visible, "self mlp", hidden_dropout=0.5, norm_position="pre")
    assert torch.equal(layer(STATES), layer(STATES))
    layer.train()
    assert not torch.equal(layer(STATES), layer(STATES))
    layer.dropout.p = 1.0
    assert torch.equal(layer(STATES), STATES)
