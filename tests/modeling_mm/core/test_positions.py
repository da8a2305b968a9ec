"""RoPE in MMTextModel: the turn written out, what it leaves alone, and its rules."""

# Fixtures build models whose types pyright cannot follow.

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from comparing import close, same_weights
from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.core.positions import MMRotaryEmbedding, rotate

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3]])
ROPE = {"position_embedding_type": "rope"}


@pytest.fixture
def stack(tiny_config, visible):
    """`stack(**fields)`: the Llama-like stack in fp64."""

    def build(**fields) -> MMTextModel:
        torch.manual_seed(0)
        config = MMTextConfig(**{**tiny_config("vit", "llama").text_config.to_dict(), **ROPE, **fields})
        return visible(MMTextModel._from_config(config, attn_implementation="eager")).double().eval()

    return build


def written_out(vector: list[float], position: int, size: int, theta: float) -> list[float]:
    """Pairs (i, i + size/2) turned by position * theta ** (-2 i / size)."""
    turned, half = list(vector), size // 2
    for i in range(half):
        angle = position * theta ** (-2 * i / size)
        x, y = vector[i], vector[i + half]
        turned[i] = x * math.cos(angle) - y * math.sin(angle)
        turned[i + half] = x * math.sin(angle) + y * math.cos(angle)
    return turned


@pytest.mark.parametrize(("share", "size"), [(1.0, 8), (0.5, 4)])
def test_pairs_turn_by_their_angles_and_the_rest_stays(share, size):
    parameters = {"rope_theta": 50.0, "partial_rotary_factor": share}
    config = MMTextConfig(hidden_size=32, num_attention_heads=4, **ROPE, rope_parameters=parameters)
    positions = torch.tensor([[0, 1, 5]])
    rotary = MMRotaryEmbedding(config)(positions, torch.float64)
    states = torch.randn(1, 2, 3, 8, dtype=torch.float64)
    turned = rotate(states, rotary)
    for head in range(2):
        for place, position in enumerate((0, 1, 5)):
            expected = written_out(states[0, head, place].tolist(), position, size, 50.0)
            torch.testing.assert_close(turned[0, head, place], torch.tensor(expected).double(), rtol=0, atol=1e-5)
    assert torch.equal(turned[..., size:], states[..., size:])


def test_queries_and_keys_are_normed_then_turned_and_keys_are_cached_so(stack):
    model = stack(qk_norm="rms_norm", cross_attention_layers=[])
    attn, length = model.layers[0].self_attn, IDS.shape[1]
    states = torch.randn(2, length, 32, dtype=torch.float64)
    rotary = model.rotary(torch.arange(length)[None], torch.float64)
    cache = model(IDS, use_cache=True).past_key_values
    hidden = model.layers[0].self_attn_norm(model.embed_norm(model.embed_tokens(IDS)))
    key = rotate(attn.k_norm(attn.k_proj(hidden).unflatten(-1, (-1, 16)).transpose(1, 2)), rotary)
    torch.testing.assert_close(cache.self_attention_cache.layers[0].keys, key, rtol=0, atol=1e-12)
    query, key = (
        rotate(norm(proj(states).unflatten(-1, (-1, 16)).transpose(1, 2)), rotary)
        for norm, proj in ((attn.q_norm, attn.q_proj), (attn.k_norm, attn.k_proj))
    )
    weights = (query @ key.repeat_interleave(2, 1).transpose(2, 3) / 4).softmax(-1)
    torch.testing.assert_close(attn(states, rotary=rotary)[1], weights, rtol=0, atol=1e-12)


def test_only_distances_count(stack):
    model = stack(cross_attention_layers=[])
    here = model(IDS, position_ids=torch.arange(4)[None]).last_hidden_state
    there = model(IDS, position_ids=torch.arange(4)[None] + 9).last_hidden_state
    torch.testing.assert_close(there, here, rtol=0, atol=1e-5)  # angles are of fp32
    apart = model(IDS, position_ids=torch.arange(4)[None] * 3).last_hidden_state
    assert (apart - here).abs().max() > 1e-3


def test_cross_attention_has_no_positions(stack):
    model = stack(cross_attention_layers=[0, 1])
    memory = torch.randn(2, 5, model.config.context_width, dtype=torch.float64)
    shuffled = memory[:, [3, 1, 4, 0, 2]]
    states = [model(IDS, encoder_hidden_states=m).last_hidden_state for m in (memory, shuffled)]
    torch.testing.assert_close(*states, rtol=0, atol=1e-12)


def test_a_text_may_be_longer_than_the_number_of_positions(stack):
    model = stack(max_position_embeddings=3, cross_attention_layers=[])
    assert model.embed_positions is None and model(IDS).last_hidden_state.shape == (2, 4, 32)


@pytest.mark.parametrize("meta", [False, True])
def test_saving_and_loading_changes_no_bit(stack, tmp_path, meta):
    parameters = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = stack(cross_attention_layers=[], rope_parameters={**parameters, "rope_theta": 300.0})
    model.save_pretrained(tmp_path)
    options = {"low_cpu_mem_usage": True} if meta else {}
    loaded = MMTextModel.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager", **options)
    assert loaded.config.rope_parameters == model.config.rope_parameters
    same_weights(loaded, model)
    close(loaded(IDS).last_hidden_state, model(IDS).last_hidden_state)
    assert not [name for name in model.state_dict() if "rotary" in name]


def test_a_half_precision_model_still_computes_its_angles_in_fp32(stack):
    model = stack(cross_attention_layers=[]).to(torch.bfloat16)
    cosines, _ = model.rotary(torch.tensor([[3001]]), torch.float32)
    exact = torch.cos(3001 * MMRotaryEmbedding(model.config).inv_freq)
    assert torch.equal(cosines[0, 0, 0, :8], exact)
    assert model(IDS).last_hidden_state.dtype == torch.bfloat16


def test_a_kind_of_rope_set_behind_the_config_s_back_is_refused(stack):
    config = stack(cross_attention_layers=[]).config
    config.rope_parameters["rope_type"] = "longrope"
    with pytest.raises(ValueError, match="rope_type='longrope' .*accepted: default, linear"):
        MMTextModel(config)


DYNAMIC = {
    "max_position_embeddings": 6, "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 50.0}
}  # fmt: skip
LONG = torch.randint(3, 50, (1, 11), generator=torch.Generator().manual_seed(0))


def test_dynamic_angles_are_those_of_transformers_for_a_row_alone():
    config = MMTextConfig(hidden_size=32, num_attention_heads=4, **ROPE, **DYNAMIC)
    rope = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=6, **{
            "rope_parameters": DYNAMIC["rope_parameters"]
        })
    )  # fmt: skip
    for length in (3, 6, 7, 11):
        positions = torch.arange(length)[None]
        given = MMRotaryEmbedding(config)(positions, torch.float32)
        for found, expected in zip(given, rope(torch.zeros(1), positions), strict=True):
            torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_dynamic_angles_of_a_row_do_not_depend_on_its_neighbours(stack, side):
    model = stack(cross_attention_layers=[], **DYNAMIC)
    rows = [LONG[:, :4], LONG[:, 3:], LONG[:, :7]]
    pads = [torch.zeros(1, 8 - row.shape[1], dtype=torch.long) for row in rows]
    pairs = zip(rows, pads, strict=True)
    ids = torch.cat([torch.cat((pad, row) if side == "left" else (row, pad), 1) for row, pad in pairs])
    states = model(ids, attention_mask=(ids != 0).long(), use_cache=False).last_hidden_state
    for number, row in enumerate(rows):
        alone = model(row, use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(states[number][ids[number] != 0], alone, rtol=0, atol=1e-12)


def test_a_cache_that_dynamic_angles_would_make_wrong_is_refused(stack, tiny_model):
    model = stack(cross_attention_layers=[], **DYNAMIC)
    cache = model(LONG[:, :5], use_cache=True).past_key_values
    whole = model(LONG[:, :6], use_cache=False).last_hidden_state[:, 5:]
    step = model(LONG[:, 5:6], past_key_values=cache, use_cache=True).last_hidden_state
    torch.testing.assert_close(step, whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="a text of 7 tokens needs use_cache=False"):
        model(LONG[:, 6:7], past_key_values=cache, use_cache=True)
    writer = tiny_model("vit", "llama", text_config=DYNAMIC)
    given = {"input_ids": IDS, "pixel_values": torch.zeros(2, 3, 16, 16, dtype=torch.float64), "min_new_tokens": 5}
    with pytest.raises(ValueError, match="needs use_cache=False"):
        writer.generate(**given, max_new_tokens=5)
    assert writer.generate(**given, max_new_tokens=5, use_cache=False).shape == (2, 9)
