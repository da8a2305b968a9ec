"""MMAttention: the formula, and every implementation of it."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers.masking_utils import create_bidirectional_mask

from mm import (
    MMConvModel,
    MMForConditionalGeneration,
    MMModel,
    MMTextConfig,
    MMTextModel,
    MMVisionConfig,
    MMVisionModel,
)
from mm.configuration.resampler import MMResamplerConfig
from mm.modeling_mm.core.attention import MMAttention, MMCrossAttention, MMSelfAttention
from mm.modeling_mm.core.context_rows import MMRows
from mm.modeling_mm.fusion.media_encoder import MMResampler

TEXTS = ["inside", "own", "llama"]


def built(tiny_config, visible, text, cross, **fields) -> MMAttention:
    """One attention sublayer in fp64, eager."""
    config = tiny_config("vit", text, text_config=fields).text_config
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    attention = MMCrossAttention(config, 0, config.context_width) if cross else MMSelfAttention(config, 0)
    return visible(attention).double().eval()


def normed(module, states):
    """A norm by its formula; `states` (..., D)."""
    if module is None or isinstance(module, torch.nn.Identity):
        return states
    if isinstance(module, torch.nn.RMSNorm):
        return states / (states.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def projected(linear, states):
    return states @ linear.weight.T + (0 if linear.bias is None else linear.bias)


def by_the_formula(module, text, memory, allowed):
    """One row, head by head: text (T, width), memory (S, width), allowed bool (T, S) -> output, weights (H, T, S)."""
    config, width = module.config, module.head_dim
    heads, groups = config.num_attention_heads, module.num_key_value_groups
    scale = config.attention_scale or width**-0.5
    source = normed(module.memory_norm, memory) if module.is_cross_attention else memory
    query = projected(module.q_proj, text)
    key, value = projected(module.k_proj, source), projected(module.v_proj, source)
    outputs, weights = [], []
    for head in range(heads):
        own, shared = slice(head * width, (head + 1) * width), head // groups
        kv = slice(shared * width, (shared + 1) * width)
        q, k = normed(module.q_norm, query[:, own]), normed(module.k_norm, key[:, kv])
        exponents = (q @ k.T * scale).exp() * allowed
        weights.append(exponents / exponents.sum(-1, keepdim=True).clamp(min=1e-300))
        outputs.append(weights[-1] @ value[:, kv])
    return projected(module.o_proj, torch.cat(outputs, -1)), torch.stack(weights)


SETTINGS = [
    ("inside", {}),
    ("inside", {"attention_scale": 0.7, "attention_bias": "qvo"}),
    ("inside", {"num_key_value_heads": 1, "head_dim": 8, "attention_bias": False}),
    ("llama", {}),
    ("llama", {"qk_norm": "layer_norm", "cross_attention_qk_norm": "rms_norm", "num_key_value_heads": 4}),
]


@pytest.mark.parametrize(("text", "fields"), SETTINGS)
def test_self_attention_is_the_formula(tiny_config, visible, text, fields):
    module = built(tiny_config, visible, text, cross=False, **fields)
    states = torch.randn(2, 5, 32, dtype=torch.float64)
    causal = torch.ones(5, 5).tril().bool()
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.float64).masked_fill(~causal, torch.finfo(torch.float64).min)
    output, weights = module(states, attention_mask=mask, is_causal=True)
    for row in range(2):
        expected, expected_weights = by_the_formula(module, states[row], states[row], causal)
        torch.testing.assert_close(output[row], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[row], expected_weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("text", "fields"), SETTINGS)
def test_cross_attention_is_the_formula_for_each_row_and_its_context(tiny_config, visible, text, fields):
    module = built(tiny_config, visible, text, cross=True, **fields)
    reads, lengths = [1, 0, 1, 1], [3, 6]
    states = torch.randn(4, 5, 32, dtype=torch.float64)
    memory = torch.randn(2, 6, module.config.context_width, dtype=torch.float64)
    rows = MMRows(4, 2, torch.tensor(reads))
    real = torch.arange(6) < torch.tensor(lengths)[:, None]
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.float64).masked_fill(~real[:, None, None], torch.finfo().min)
    output, weights = module(states, memory, attention_mask=mask, rows=rows)
    for row, context in enumerate(reads):
        allowed = real[context].expand(5, 6)
        expected, expected_weights = by_the_formula(module, states[row], memory[context], allowed)
        torch.testing.assert_close(output[row], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[row], expected_weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_dropout_acts_on_the_weights_and_only_in_training(tiny_config, visible, name):
    module = built(tiny_config, visible, "inside", cross=False, attention_dropout=0.5)
    module.config._attn_implementation = name
    states = torch.randn(2, 5, 32, dtype=torch.float64)
    assert torch.equal(module(states)[0], module(states)[0])
    module.train()
    assert not torch.equal(module(states)[0], module(states)[0])
    kept = [module(states)[0] for _ in range(2000)]
    module.eval()
    torch.testing.assert_close(torch.stack(kept).mean(0), module(states)[0], rtol=0, atol=0.1)  # right on average


def test_cross_attention_is_never_causal(tiny_config, visible):
    module = built(tiny_config, visible, "inside", cross=True)
    module.config._attn_implementation = "sdpa"
    states, memory = torch.randn(1, 5, 32, dtype=torch.float64), torch.randn(1, 5, 32, dtype=torch.float64)
    both = [module(states, memory, rows=MMRows(1, 1), is_causal=causal)[0] for causal in (False, True)]
    assert torch.equal(*both)


@pytest.fixture(scope="module")
def batch():
    """Rows of unequal length, ragged and unsorted on contexts of two, one and no picture; padding to the left."""
    torch.manual_seed(0)
    ids = torch.tensor([[0, 1, 5, 6], [1, 7, 8, 9], [0, 0, 1, 4], [0, 1, 2, 3]])
    return {
        "input_ids": ids,
        "attention_mask": ids.ne(0).long(),
        "pixel_values": torch.randn(3, 2, 3, 16, 16),
        "pixel_attention_mask": torch.tensor([[True, True], [False, True], [False, False]]),
        "context_index": torch.tensor([1, 0, 1, 2]),
    }


@pytest.mark.parametrize("vision", ["vit", "conv"])
@pytest.mark.parametrize("text", TEXTS)
def test_sdpa_gives_what_eager_gives(tiny_model, batch, vision, text):
    model = tiny_model(vision, text)
    real = batch["attention_mask"].bool()
    logits = {}
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        logits[name] = model(**batch).logits[real]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], rtol=1e-12, atol=1e-12)


def flex_against_eager(tiny_model, batch, text, generates):
    model = tiny_model("vit", text, dtype=torch.float32, vision_config={"hidden_size": 32})  # head widths of 16
    real = batch["attention_mask"].bool()
    results = {}
    with torch.no_grad():
        for name in ("eager", "flex_attention"):
            model.set_attn_implementation(name)
            tokens = model.generate(**batch, max_new_tokens=4) if generates else None
            results[name] = model(**batch).logits[real], tokens
    (logits, tokens), (expected, expected_tokens) = results["flex_attention"], results["eager"]
    assert ((logits - expected).abs() <= 1e-5 * expected.abs().clamp(min=1)).all()
    assert not generates or torch.equal(tokens, expected_tokens)


@pytest.mark.parametrize("text", TEXTS)
def test_flex_attention_gives_what_eager_gives(tiny_model, batch, text, no_compiler):
    flex_against_eager(tiny_model, batch, text, generates=True)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_compiled_flex_attention_gives_what_eager_gives(tiny_model, batch, text):
    # torch 2.13 writes C++ that does not compile for flex attention with dynamic shapes on a CPU.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
        flex_against_eager(tiny_model, batch, text, generates=False)


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
def test_a_query_without_a_key_gives_exactly_zero(tiny_config, visible, name, no_compiler):
    module = built(tiny_config, visible, "inside", cross=True, attention_bias=False).float()
    module.config._attn_implementation = name
    states, memory = torch.randn(2, 3, 32), torch.randn(2, 4, 32)
    memory.requires_grad_(name != "flex_attention")  # on a CPU it has no backward
    real = torch.tensor([[True] * 4, [False] * 4])
    mask = create_bidirectional_mask(
        config=module.config, inputs_embeds=states, attention_mask=real, encoder_hidden_states=memory
    )
    with torch.set_grad_enabled(memory.requires_grad):
        output, _ = module(states, memory, attention_mask=mask, rows=MMRows(2, 2))
    assert torch.equal(output[1], torch.zeros(3, 32)) and output[0].abs().min() > 0
    if memory.requires_grad:
        output.sum().backward()
        assert torch.equal(memory.grad[1], torch.zeros(4, 32)) and torch.isfinite(memory.grad).all()


@pytest.mark.parametrize("cls", [MMModel, MMForConditionalGeneration, MMTextModel, MMVisionModel, MMConvModel])
def test_every_class_lets_the_implementation_be_set(cls):
    assert cls._can_set_attn_implementation()


def test_each_tower_may_have_an_implementation_of_its_own(tiny_model, batch):
    chosen = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}
    model = tiny_model(attention=chosen)
    attentions = {name: m for name, m in model.named_modules() if isinstance(m, MMAttention)}
    for name, module in attentions.items():
        assert module.config._attn_implementation == ("eager" if "language_model" in name else "sdpa")
    before = model(**batch).logits
    model.set_attn_implementation({"text_config": "sdpa", "vision_config": "eager"})
    for name, module in attentions.items():
        assert module.config._attn_implementation == ("sdpa" if "language_model" in name else "eager")
    torch.testing.assert_close(model(**batch).logits, before, rtol=1e-12, atol=1e-12)


def test_an_unknown_implementation_is_refused(tiny_model):
    with pytest.raises(ValueError, match="telepathy"):
        tiny_model(attention="telepathy")


@pytest.mark.parametrize(
    ("text", "layers", "heads", "cross_heads", "own", "cross"),
    [("inside", 2, 2, 2, 2, 2), ("own", 4, 2, 2, 2, 2), ("llama", 2, 4, 2, 2, 1)],
)
def test_attention_weights_are_per_row_and_sum_to_one(tiny_model, batch, text, layers, heads, cross_heads, own, cross):
    model = tiny_model("vit", text, attention="eager")
    output = model(**batch, output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in output.attentions] == [(4, heads, 4, 4)] * own
    assert [tuple(a.shape) for a in output.cross_attentions] == [(4, cross_heads, 4, 12)] * cross
    assert [tuple(h.shape) for h in output.hidden_states] == [(4, 4, 32)] * (layers + 1)
    for weights in output.cross_attentions:
        assert (weights[[0, 2], :, :, 6:] == 0).all()  # one picture of six tokens, packed to the front
        torch.testing.assert_close(weights[:3].sum(-1), torch.ones_like(weights[:3, ..., 0]))
        assert (weights[3] == 0).all()  # no picture, no weight
    for weights in output.attentions:
        assert (weights.triu(1) == 0).all()
        torch.testing.assert_close(weights[:, :, -1].sum(-1), torch.ones_like(weights[:, :, -1, 0]))


def test_asking_for_weights_changes_nothing_else(tiny_model, batch):
    model = tiny_model(attention="eager")
    assert torch.equal(model(**batch, output_attentions=True).logits, model(**batch).logits)
    assert model(**batch).attentions is None


@pytest.mark.parametrize("part", ["whole", "text", "vision"])
@pytest.mark.parametrize("name", ["sdpa", "mm_triton"])
def test_weights_under_another_implementation_are_those_of_eager_attention(tiny_model, batch, part, name):
    inputs = {
        "whole": batch,
        "text": {"input_ids": batch["input_ids"]},
        "vision": {"pixel_values": batch["pixel_values"][:, 0]},
    }[part]
    outputs = []
    for implementation in ("eager", name):
        model = tiny_model(attention=implementation)
        asked = {"whole": model, "text": model.model.language_model, "vision": model.model.vision_tower}[part]
        outputs.append(asked(**inputs, output_attentions=True))
        assert asked.config._attn_implementation == implementation
    eager, output = outputs
    assert len(output.attentions) == 2
    for found, expected in zip((*output.attentions, output[0]), (*eager.attentions, eager[0]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cache", [None, "static"])
def test_generate_gives_weights_under_sdpa_and_the_same_tokens(tiny_model, batch, cache):
    model = tiny_model(attention="sdpa")
    asked = {"return_dict_in_generate": True, "output_attentions": True}
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "cache_implementation": cache}
    output = model.generate(**batch, **settings, **asked)
    assert torch.equal(output.sequences, model.generate(**batch, **settings))
    model.set_attn_implementation("eager")
    expected = model.generate(**batch, **settings, **asked)
    for step, wanted in zip(output.attentions, expected.attentions, strict=True):
        for found, weights in zip(step, wanted, strict=True):
            torch.testing.assert_close(found, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_weights_beside_checkpointing_are_computed_again_by_eager_attention_too(tiny_model, batch, reentrant):
    settings = {"text_config": {"hidden_dropout": 0.0, "attention_dropout": 0.0}}
    settings["vision_config"] = settings["text_config"]
    model = tiny_model(attention="sdpa", **settings).train()
    labels = batch["input_ids"]
    expected = model(**batch, labels=labels, output_attentions=True)
    expected.loss.backward()
    wanted = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    found = model(**batch, labels=labels, output_attentions=True)
    for weights, once in zip(found.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(weights, once, rtol=1e-12, atol=1e-12)
    found.loss.backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            dict(model.named_parameters())[name].grad, gradient, rtol=1e-9, atol=1e-12, msg=name
        )


def stacks():
    """Each stack with a mask of its own kind: (model, inputs, which tokens are real)."""
    words = {"vocab_size": 50, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids, mask = torch.arange(3, 37).view(2, 17), torch.ones(2, 17, dtype=torch.long)
    mask[0, :4] = mask[1, 15:] = 0
    text = {"input_ids": ids, "attention_mask": mask}
    for is_causal in (True, False):
        segmented = {"segment_length": 5, "memory_length": 3, "is_causal": is_causal, "pooler": "attention"}
        yield MMTextModel(MMTextConfig(**sizes, **words, **segmented)), text, mask.bool()
    patches = torch.zeros(2, 4, 4, dtype=torch.bool)
    patches[0, :2, :3] = patches[1] = True
    tower = MMVisionModel(MMVisionConfig(**sizes, image_size=32, patch_size=8, pooler="attention"))
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    yield tower, {"pixel_values": pixels, "pixel_attention_mask": patches}, tower.token_mask(patches)
    resampler = MMResampler(MMResamplerConfig(**sizes, head_dim=16, num_latents=5), 32)
    yield resampler, {"hidden_states": torch.randn(2, 16, 32), "attention_mask": patches.flatten(1)}, slice(None)


@pytest.mark.parametrize("name", ["sdpa", "flex_attention"])
def test_every_stack_gives_what_it_gives_under_eager_attention(name, visible, no_compiler):
    torch.manual_seed(0)
    for model, inputs, real in stacks():
        model, results = visible(model).eval(), []
        for implementation in ("eager", name):
            model.set_attn_implementation(implementation)
            with torch.no_grad():
                output = model(**inputs)
            results.append([output[0][real], *([] if output[1] is None else [output[1]])])
        for found, expected in zip(*results, strict=True):
            assert ((found - expected).abs() <= 1e-5 * expected.abs().clamp(min=1)).all()
