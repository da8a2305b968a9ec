"""Small MM models on a GPU: mm_triton gives what eager gives, and is what a model gets by itself."""

import pytest
import torch

from mm import MMForConditionalGeneration
from mm.kernels import launch
from mm.kernels.accuracy import FORWARD, allowed_error, error

pytestmark = pytest.mark.gpu
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randn(2, 3, 3, 16, 16, generator=GENERATOR)
PRESENT = torch.tensor([[True, True, True], [True, False, False]])
IDS = torch.randint(3, 50, (4, 5), generator=GENERATOR)
ROWS = {"two rows each": None, "one and three, mixed": [1, 0, 1, 1], "none and four": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def exact_convolutions():
    """fp32 all through: cuDNN would use TF32 by itself, where a small difference may become a large one."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def inputs(device):
    """`inputs(rows)`: keyword arguments of a call."""

    def give(rows, dtype=torch.float32):
        index = None if rows is None else torch.tensor(rows, device=device)
        pixels = PIXELS.to(device, dtype)
        return {"pixel_values": pixels, "pixel_attention_mask": PRESENT.to(device), "context_index": index}

    return give


@pytest.fixture
def launches(monkeypatch):
    """A list that grows by one entry for each launch of the forward kernel."""
    calls, forward = [], launch.forward
    monkeypatch.setattr(launch, "forward", lambda *given: calls.append(given) or forward(*given))
    return calls


def assert_close(mine, truth):
    bound = 1e-5 * truth.abs().clamp(min=1)
    assert ((mine - truth).abs() <= bound).all(), f"{(mine - truth).abs().max():.2e}"


def answers(model, implementation, ids, given):
    """Logits, gradients, greedy and beam tokens."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    output = model(ids, labels=ids, **given)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    prompt = ids[:, :2]
    tokens = [model.generate(prompt, num_beams=beams, max_new_tokens=6, do_sample=False, **given) for beams in (1, 3)]
    return output.logits.detach(), gradients, tokens


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_model_gives_what_eager_gives(tiny_model, device, inputs, launches, text, rows):
    model, ids = tiny_model("vit", text, dtype=torch.float32).to(device), IDS.to(device)
    logits, gradients, tokens = answers(model, "eager", ids, inputs(rows))
    assert not launches
    mine, my_gradients, my_tokens = answers(model, "mm_triton", ids, inputs(rows))
    assert len(launches) == len(model.config.text_config.cross_attention_layers) * (1 + 2 * 6)
    assert_close(mine, logits)
    assert my_gradients.keys() == gradients.keys()
    for name in gradients:
        assert_close(my_gradients[name], gradients[name])
    assert all(torch.equal(*pair) for pair in zip(my_tokens, tokens, strict=True))


def test_ranges_of_the_context_reach_the_kernels(tiny_model, device, inputs, launches):
    model, ids = tiny_model("vit", "inside", dtype=torch.float32).to(device), IDS.to(device)
    tokens = model(ids, pixel_values=PIXELS.to(device)).context_hidden_states.shape[1]
    first = torch.randint(0, tokens - 2, (4, 5, 1), generator=torch.Generator().manual_seed(1))
    given = {"pixel_values": PIXELS.to(device)}
    given["context_ranges"] = torch.cat([first, (first + 4).clamp(max=tokens)], -1).to(device)
    logits, _, expected = answers(model, "eager", ids, given)
    launches.clear()
    mine, _, found = answers(model, "mm_triton", ids, given)
    assert launches
    assert_close(mine, logits)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_it_is_the_default_on_a_gpu(tiny_config, device):
    model = MMForConditionalGeneration(tiny_config())
    assert (model.config._attn_implementation == "mm_triton") == (device.type == "cuda")


def test_a_model_in_half_precision_is_as_near_to_fp64_as_eager(tiny_model, device, inputs, launches):
    model, ids = tiny_model("vit", "inside", dtype=torch.float64).to(device), IDS.to(device)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        truth = model(ids, **inputs(None, torch.float64)).logits
        model = model.half()
        plain = model(ids, **inputs(None, torch.float16)).logits
        model.set_attn_implementation("mm_triton")
        mine = model(ids, **inputs(None, torch.float16)).logits
    assert launches and error(mine, truth) <= allowed_error(truth, plain, FORWARD)


def test_it_says_what_the_cpu_says_in_fp64(tiny_model, device, inputs):
    model = tiny_model("vit", "inside", dtype=torch.float32)
    model.set_attn_implementation("mm_triton")
    given = {name: value for name, value in inputs(None).items() if value is not None}
    with torch.no_grad():
        mine = model.to(device)(IDS.to(device), **given).logits.cpu()
        model.cpu().set_attn_implementation("eager")
        truth = model.double()(IDS, pixel_values=PIXELS.double(), pixel_attention_mask=PRESENT).logits
    assert (mine.argmax(-1) == truth.argmax(-1)).all()
