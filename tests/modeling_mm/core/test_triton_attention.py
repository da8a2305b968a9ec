"""mm_triton in whole models, its kernels through Triton's interpreter: eager's answers, and when SDPA computes."""

# Modules are stand-ins, and what logs once remembers by a cache that its type does not show.

import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import triton

from mm import MMForConditionalGeneration, MMForSequenceClassification, MMModel
from mm.kernels import launch
from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.interpreter import asks_for_interpreter
from mm.kernels.reference import reference_attention, reference_backward
from mm.modeling_mm.core import attention as mm_triton
from mm.modeling_mm.core.attention import mm_triton_forward

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randn(2, 3, 3, 16, 16, generator=GENERATOR)
PRESENT = torch.tensor([[True, True, True], [True, False, False]])
IDS = torch.randint(3, 50, (4, 5), generator=GENERATOR)
ROWS = {
    "two rows each": None,
    "one and three": torch.tensor([0, 1, 1, 1]),
    "one and three, mixed": torch.tensor([1, 0, 1, 1]),
    "two each, mixed": torch.tensor([1, 0, 0, 1]),
    "none and four": torch.tensor([1, 1, 1, 1]),
}


@pytest.fixture
def launched(monkeypatch):
    """A list that grows by one entry, what was visible, for each launch of the forward kernel."""
    calls, forward = [], launch.forward

    def spy(query, key, value, visible, scale):
        calls.append(SimpleNamespace(visible=visible, query=query, key=key))
        return forward(query, key, value, visible, scale)

    monkeypatch.setattr(launch, "forward", spy)
    return calls


def assert_close(mine, truth):
    bound = 1e-5 * truth.abs().clamp(min=1)
    assert ((mine - truth).abs() <= bound).all(), f"{(mine - truth).abs().max():.2e}"


def answers(model, implementation, **inputs):
    """Logits, gradients, greedy and beam tokens."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    output = model(IDS, labels=IDS, **inputs)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    prompt = IDS[:, :2]
    tokens = [model.generate(prompt, num_beams=beams, max_new_tokens=6, do_sample=False, **inputs) for beams in (1, 3)]
    return output.logits.detach(), gradients, tokens


# Triton's interpreter takes seconds for a model: the full run does the others.
FAST = {(rows, "llama") for rows in ROWS} | {("two rows each", "inside")}
EACH = [
    pytest.param(rows, text, marks=() if (rows, text) in FAST else pytest.mark.slow, id=f"{rows}-{text}")
    for rows in ROWS
    for text in ("inside", "own", "llama")
]


@pytest.mark.parametrize(("rows", "text"), EACH)
def test_a_model_gives_what_eager_gives(tiny_model, launched, text, rows):
    model = tiny_model("vit", text, dtype=torch.float32)
    inputs = {"pixel_values": PIXELS, "pixel_attention_mask": PRESENT, "context_index": ROWS[rows]}
    logits, gradients, tokens = answers(model, "eager", **inputs)
    assert not launched
    mine, my_gradients, my_tokens = answers(model, "mm_triton", **inputs)
    layers = len(model.config.text_config.cross_attention_layers)
    assert len(launched) == layers * (1 + 2 * 6), "every cross sublayer of every step runs the kernel"
    assert_close(mine, logits)
    assert my_gradients.keys() == gradients.keys()
    for name in gradients:
        assert_close(my_gradients[name], gradients[name])
    assert all(torch.equal(a, b) for a, b in zip(my_tokens, tokens, strict=True))


@pytest.mark.slow
def test_ranges_reach_the_kernel(tiny_model, launched):
    model = tiny_model("vit", "inside", dtype=torch.float32)
    tokens = model(IDS, pixel_values=PIXELS).context_hidden_states.shape[1]
    first = torch.randint(0, tokens - 2, (4, 5, 1), generator=GENERATOR)
    ranges = torch.cat([first, (first + 4).clamp(max=tokens)], -1)
    for index in (None, torch.tensor([1, 0, 1, 1])):
        inputs = {"pixel_values": PIXELS, "context_index": index, "context_ranges": ranges}
        logits, _, tokens_of = answers(model, "eager", **inputs)
        launched.clear()
        mine, _, my_tokens = answers(model, "mm_triton", **inputs)
        assert all(call.visible.ranges is not None for call in launched) and launched
        assert_close(mine, logits)
        assert all(torch.equal(a, b) for a, b in zip(my_tokens, tokens_of, strict=True))


def test_keys_are_never_copied_per_row_and_ragged_rows_never_padded(tiny_model, launched):
    model = tiny_model("vit", "inside", dtype=torch.float32, attention="mm_triton")
    model(IDS, pixel_values=PIXELS, context_index=torch.tensor([1, 0, 1, 1]))
    for call in launched:
        assert call.key.shape[0] == 2 and call.query.shape[::2] == (1, IDS.numel())
        assert call.visible.cu_rows.tolist() == [0, 5, 20] and call.visible.mask is None
    launched.clear()
    model(IDS, pixel_values=PIXELS, pixel_attention_mask=PRESENT)
    for call in launched:
        assert call.query.shape[::2] == (2, 10) and call.visible.cu_rows is None
        assert call.visible.lengths.dtype == torch.int32


@pytest.mark.parametrize("cls", [MMModel, MMForConditionalGeneration, MMForSequenceClassification])
@pytest.mark.parametrize("name", ["mm_triton", "sdpa", "eager"])
def test_every_class_takes_every_implementation(tiny_model, cls, name):
    model = tiny_model("vit", "inside", cls=cls, dtype=torch.float32)
    fields = ("logits",) if cls is not MMModel else ("last_hidden_state", "pooler_output")
    model.set_attn_implementation("eager")
    truth = model(IDS, pixel_values=PIXELS, pixel_attention_mask=PRESENT)
    model.set_attn_implementation(name)
    assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {name}
    mine = model(IDS, pixel_values=PIXELS, pixel_attention_mask=PRESENT)
    for field in fields:
        assert_close(mine[field], truth[field])


def test_a_tower_can_have_its_own(tiny_model, launched):
    model = tiny_model("vit", "inside", dtype=torch.float32)
    model.set_attn_implementation({"text_config": "mm_triton", "vision_config": "sdpa"})
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    model(IDS, pixel_values=PIXELS)
    assert len(launched) == 2


# -- when SDPA computes instead ---------------------------------------------------------------------------------------


@pytest.fixture
def warnings(caplog):
    """What is logged, each reason once: the memory of earlier tests is dropped."""
    mm_triton.logger.warning_once.cache_clear()
    mm_triton.logger.info_once.cache_clear()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("case", ["float64", "dropout"])
def test_the_reason_for_sdpa_is_logged_once(tiny_model, launched, warnings, case):
    dtype = torch.float64 if case == "float64" else torch.float32
    model = tiny_model("vit", "inside", dtype=dtype, text_config={"attention_dropout": 0.1 * (case == "dropout")})
    model.train(case == "dropout")
    model.set_attn_implementation("mm_triton")
    for _ in range(2):
        torch.manual_seed(0)
        mine = model(IDS, pixel_values=PIXELS.to(dtype), pixel_attention_mask=PRESENT).logits
    model.set_attn_implementation("sdpa")
    torch.manual_seed(0)
    truth = model(IDS, pixel_values=PIXELS.to(dtype), pixel_attention_mask=PRESENT).logits
    assert torch.equal(mine, truth) and not launched
    logged = [record.message for record in warnings.records if "mm_triton" in record.message]
    assert len(logged) == 1 and case in logged[0], logged


def attention_module(cross: bool, **attributes):
    return SimpleNamespace(is_cross_attention=cross, num_key_value_groups=1, layer_idx=0, training=False, **attributes)


def states(queries=3, keys=5):
    return [torch.randn(2, 2, n, 16, generator=GENERATOR) for n in (queries, keys, keys)]


def test_causality_is_never_taken_from_the_module(launched):
    """Transformers' SDPA asks module.is_causal where no mask is given: a cross-attention then sees too little."""
    query, key, value = states()
    truth = reference_attention(query, key, value).output.transpose(1, 2)
    module = attention_module(True, is_causal=True)
    output, weights = mm_triton_forward(module, query, key, value, None)
    assert weights is None and len(launched) == 1
    assert_close(output, truth)
    no_keys_mask = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    assert_close(mm_triton_forward(module, query, key, value, no_keys_mask)[0], truth)
    module = attention_module(False, is_causal=False)
    assert_close(mm_triton_forward(module, query, key, value, None)[0], truth)
    module = attention_module(False, is_causal=True)
    with pytest.raises(ValueError, match="takes causality only from the call; pass is_causal"):
        mm_triton_forward(module, query, key, value, None)
    assert len(launched) == 1


def test_lengths_beside_a_mask_or_without_the_kernel_raise():
    query, key, value = states()
    lengths = torch.tensor([5, 2], dtype=torch.int32)
    module = attention_module(True)
    with pytest.raises(ValueError, match="not both"):
        mm_triton_forward(module, query, key, value, torch.ones(2, 1, 3, 5).bool(), key_lengths=lengths)
    with pytest.raises(ValueError, match=r"attention_dropout > 0"):
        mm_triton_forward(module, query, key, value, None, dropout=0.5, key_lengths=lengths)


def test_it_is_the_default_where_there_is_a_gpu_and_triton(tiny_model, monkeypatch):
    assert tiny_model().config._attn_implementation == "sdpa"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = tiny_model(dtype=torch.float32)
    assert model.config._attn_implementation == "mm_triton"
    assert model.model.language_model.config._attn_implementation == "mm_triton"
    monkeypatch.setattr(mm_triton, "HAS_TRITON", False)
    assert tiny_model().config._attn_implementation == "sdpa"


def test_bf16_is_right_in_tritons_own_interpreter(launched):
    """Triton 3.7 multiplies bf16 there as integers: output and gradients were wrong by 1e8, without a word."""
    query, key, value = (torch.randn(1, 2, n, 16, generator=GENERATOR).bfloat16() for n in (4, 8, 8))
    given = [tensor.requires_grad_() for tensor in (query, key, value)]
    got = flash_cross_attention(*given, return_lse=True, return_mass=True)
    grads = torch.autograd.grad(got.output.sum(), given)
    wide = [tensor.detach().double() for tensor in given]
    truth = reference_attention(*wide)
    ones = torch.ones_like(truth.output)
    query, key, value = wide
    wide_grads = reference_backward(ones, None, query, key, value, truth.output, truth.lse)
    for mine, right in zip((*got, *grads), (*truth, *wide_grads), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=2e-2, atol=4e-2)
    assert not launched
    half = [tensor.detach().half() for tensor in given]
    torch.testing.assert_close(flash_cross_attention(*half).double(), truth.output, rtol=1e-2, atol=1e-2)
    assert len(launched) == 1  # fp16 and fp32 it computes


def test_a_model_in_bf16_says_that_the_interpreter_cannot(tiny_model, launched):
    model = tiny_model(dtype=torch.bfloat16)
    answers = []
    for implementation in ("sdpa", "mm_triton"):
        model.set_attn_implementation(implementation)
        answers.append(model(IDS[:2], pixel_values=PIXELS[:, 0].bfloat16()).logits)
    assert (answers[0] - answers[1]).abs().max() <= 0.05 * answers[0].abs().max()
    reason = mm_triton.why_not(PIXELS.bfloat16(), 16)
    assert (reason, launched) == ("dtype torch.bfloat16 in Triton's interpreter", [])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_refused_in_words(dtype):
    states = torch.ones(1, 1, 4, 16).to(dtype)
    with pytest.raises(ValueError, match="query must be float16, bfloat16, float32 or float64; got torch.float8"):
        flash_cross_attention(states, states, states)


@pytest.mark.parametrize("setting", "1 true True TRUE on ON yes Yes y Y 0 false off no t 2".split() + ["", " 1"])
def test_the_interpreter_is_asked_for_as_triton_is(setting, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", setting)
    assert asks_for_interpreter(setting) == triton.knobs.runtime.interpret


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("0", "1"), ("yes", "0")])
def test_an_interpreter_that_comes_or_goes_after_the_import_is_refused(before, after):
    code = (
        f"import os, mm.kernels.cross_attention; os.environ['TRITON_INTERPRET'] = '{after}'; import mm.kernels.launch"
    )
    environment = {**os.environ, "TRITON_INTERPRET": before}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "RuntimeError: TRITON_INTERPRET was changed after mm was imported" in done.stderr


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import os
os.environ.pop("TRITON_INTERPRET", None)
import torch
def refuse(*args, **kwargs):
    raise AssertionError("a device was asked for")
torch.cuda.init = torch.cuda.current_device = torch.cuda.get_device_capability = torch.cuda.device_count = refuse
import mm
from mm.kernels.cross_attention import flash_cross_attention
query, key = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 5, 16)
print(flash_cross_attention(query, key, key).shape)
stack = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
text = dict(stack, vocab_size=20, bos_token_id=1, eos_token_id=2)
config = mm.MMConfig(vision_config=dict(stack, image_size=16), text_config=text)
model = mm.MMForConditionalGeneration(config).eval()
pixels, ids = torch.randn(1, 3, 16, 16), torch.tensor([[1, 5]])
truth = model(ids, pixel_values=pixels).logits
model.set_attn_implementation("mm_triton")
print((model(ids, pixel_values=pixels).logits - truth).abs().max().item() < 1e-5)
print([name for name in sys.modules if name.startswith("triton") and sys.modules[name] is not None])
"""


@pytest.mark.slow
def test_everything_works_on_a_cpu_where_triton_is_absent():
    """And nothing asks for a device at import."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["torch.Size([2, 4, 3, 16])", "True", "[]"], done.stderr
