"""The product by oneDNN is the product, its gradients are the gradients, and who watches a layer is asked."""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers.activations import ACT2FN

import mm
from mm.modeling_mm.core import linear as module
from mm.modeling_mm.core.linear import activated_linear, linear, product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """Every product goes through oneDNN that may."""
    if torch._C._len_torch_function_stack():
        pytest.skip("--other-cpu watches every product, and a watched one is torch's own")
    monkeypatch.setattr(module, "LEAST_WORK", 0)
    mm.use_onednn(True)
    yield
    mm.use_onednn(None)


@pytest.fixture
def calls(monkeypatch):
    """Counts what oneDNN is asked."""
    found = []
    original = module._by_onednn
    monkeypatch.setattr(module, "_by_onednn", lambda *given: found.append(1) or original(*given))
    return found


def layer(width: int = 24, outputs: int = 40, bias: bool = True) -> nn.Linear:
    return nn.Linear(width, outputs, bias=bias)


def rounding(reference: torch.Tensor, width: int) -> float:
    """What a sum of `width` products of fp32 may be off by."""
    return 4 * width**0.5 * torch.finfo(torch.float32).eps * reference.abs().max().item()


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (2, 1, 3, 24)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["nothing", "states", "weight"])
def test_the_product_and_its_gradients_are_those_in_fp64(calls, shape, bias, frozen):
    one = layer(bias=bias)
    one.weight.requires_grad_(frozen != "weight")
    states = torch.randn(shape, requires_grad=frozen != "states")
    exact = layer(bias=bias).double()
    exact.load_state_dict(one.state_dict())
    exact_states = states.detach().double().requires_grad_(frozen != "states")
    upstream = torch.randn(*shape[:-1], 40)

    linear(one, states).backward(upstream)
    exact(exact_states).backward(upstream.double())
    assert len(calls) == 1 + (frozen != "states") + (frozen != "weight")
    pairs = [(linear(one, states), exact(exact_states)), (states.grad, exact_states.grad)]
    pairs += [(one.weight.grad, exact.weight.grad)] if frozen != "weight" else []
    pairs += [(one.bias.grad, exact.bias.grad)] if bias else []
    for found, wanted in pairs:
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found.double(), wanted, rtol=0, atol=rounding(wanted, 40))


def test_gradients_of_gradients():
    one, states = layer(), torch.randn(3, 24, requires_grad=True)

    def penalty(multiplied) -> torch.Tensor:
        grad = torch.autograd.grad(multiplied(states).pow(2).sum(), states, create_graph=True)[0]
        return torch.autograd.grad(grad.pow(2).sum(), one.weight)[0]

    wanted = penalty(one)
    torch.testing.assert_close(penalty(lambda given: linear(one, given)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("states", [torch.randn(5, 2, 24).transpose(0, 1), torch.randn(3, 48)[:, ::2]])
def test_states_and_weights_that_are_views(calls, states):
    weight = torch.randn(24, 40).t()
    torch.testing.assert_close(product(states, weight), nn.functional.linear(states, weight), rtol=1e-5, atol=1e-5)
    assert calls


def test_two_runs_give_the_same_bits():
    one, states = layer(512, 768), torch.randn(300, 512, requires_grad=True)

    def run() -> list[torch.Tensor]:
        return list(torch.autograd.grad(linear(one, states).sin().sum(), [states, one.weight, one.bias]))

    assert all(map(torch.equal, run(), run()))


# -- activated states -------------------------------------------------------------------------------------------------


def both_ways(run) -> tuple[list, list]:
    """What a function of `activated_linear` or of plain modules returns."""

    def plainly(one, act, states, factor=None):
        return one(act(states) if factor is None else act(states) * factor)

    return run(activated_linear), run(plainly)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("frozen", ["nothing", "states", "weight", "all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_activated_states_have_the_same_gradients(gated, frozen, dtype):
    one, act = layer().to(dtype), ACT2FN["gelu"]
    one.requires_grad_(frozen not in ("weight", "all"))
    given = [
        torch.randn(2, 3, 24, dtype=dtype, requires_grad=frozen not in ("states", "all")) for _ in range(1 + gated)
    ]
    sources = [tensor for tensor in (*given, *one.parameters()) if tensor.requires_grad]

    def run(way) -> list[torch.Tensor]:
        output = way(one, act, *given)
        grads = torch.autograd.grad(output.sin().sum(), sources) if sources else ()
        return [output.detach(), *grads]

    for found, wanted in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(found, wanted, **({"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}))


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_of_gradients_of_activated_states(gated):
    one, act = layer().double(), ACT2FN["silu"]
    given = [torch.randn(3, 24, dtype=torch.float64, requires_grad=True) for _ in range(1 + gated)]
    assert torch.autograd.gradgradcheck(lambda *tensors: activated_linear(one, act, *tensors), given)


def test_what_an_activation_gave_is_not_kept():
    one, act, states = layer(64, 32), ACT2FN["gelu"], torch.randn(5, 64, requires_grad=True)

    def run(way) -> int:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t.numel()), lambda t: t):
            way(one, act, states)
        return sum(kept.values())

    less, more = both_ways(run)
    assert more - less == 5 * 64


def test_an_activation_with_weights_or_hooks_is_called_once_a_forward(calls):
    one, states, seen = layer(), torch.randn(3, 24, requires_grad=True), []
    prelu = nn.PReLU()
    activated_linear(one, prelu, states).sum().backward()
    assert prelu.weight.grad is not None
    act = nn.GELU()
    act.register_forward_hook(lambda module, given, output: seen.append(output.requires_grad))
    activated_linear(one, act, states).sum().backward()
    assert seen == [True]


# -- as torch's own layer ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["linear", "activated"])
def way(request):
    """(ours, plainly), of a layer and states."""
    act = ACT2FN["gelu"]
    if request.param == "linear":
        return linear, lambda one, states: one(states)
    return lambda one, states: activated_linear(one, act, states), lambda one, states: one(act(states))


def test_the_output_may_be_changed_in_place(way):
    one, states = layer(), torch.randn(2, 3, 24)
    grads = []
    for multiplied in way:
        one.zero_grad()
        multiplied(one, states).add_(1).sin().sum().backward()
        grads.append(one.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_other_data_of_the_weight_before_the_backward_pass(way):
    states, grads = torch.randn(2, 3, 24, requires_grad=True), []
    for multiplied in way:
        torch.manual_seed(0)
        one = layer()
        output = multiplied(one, states)
        one.weight.data = one.weight.data * 2
        grads.append(torch.autograd.grad(output.sum(), states)[0])
    torch.testing.assert_close(*grads)


def test_many_gradients_at_once(way):
    one, states = layer(), torch.randn(2, 3, 24)

    def jacobian(multiplied) -> torch.Tensor:
        return torch.autograd.functional.jacobian(
            lambda given: multiplied(one, given)[:, -1, :4], states, vectorize=True
        )

    torch.testing.assert_close(jacobian(way[0]), jacobian(way[1]))


class Watching(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_a_layer_is_computed_again_in_its_backward_pass_whatever_mode_was_around_the_forward_pass(way):
    """In loss.backward() the modes of torch functions are not active."""
    one, states = layer(), torch.randn(2, 3, 24, requires_grad=True)
    grads = []
    for multiplied in way:
        for mode in (Watching(), FlopCounterMode(display=False)):
            with mode:
                output = checkpoint(multiplied, one, states, use_reentrant=False)
                output.sin().sum().backward()
            grads.append(one.weight.grad.clone())
            one.zero_grad()
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0])


def test_one_row_without_a_batch_and_states_of_inference_mode(way):
    (ours, plainly), one = way, layer()
    with torch.inference_mode():
        frozen = torch.randn(3, 24)
    torch.testing.assert_close(ours(one, torch.ones(24)), plainly(one, torch.ones(24)))
    torch.testing.assert_close(ours(one.requires_grad_(False), frozen), plainly(one, frozen))


# -- who is asked -----------------------------------------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


def hooked() -> nn.Module:
    one = layer()
    one.register_forward_hook(lambda layer, given, output: output * 3)
    return one


def replaced() -> nn.Module:
    one = layer()
    one.forward = lambda states: states.new_ones(*states.shape[:-1], 40)
    return one


def adapted() -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=2, target_modules=["proj"], init_lora_weights=False)
    one = inject_adapter_in_model(settings, nn.ModuleDict({"proj": layer()}))["proj"]
    assert isinstance(one, LoraLinear)
    return one.eval()


@pytest.mark.parametrize("make", [hooked, replaced, adapted, lambda: Doubled(24, 40), lambda: weight_norm(layer())])
def test_a_layer_that_is_more_than_its_weight_is_called(calls, make):
    one, states = make(), torch.randn(3, 24)
    assert torch.equal(linear(one, states), one(states)) and not calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_torchs(calls, dtype):
    one, states = layer().to(dtype), torch.randn(3, 24, dtype=dtype)
    assert torch.equal(linear(one, states), one(states)) and not calls


def test_autocast_keeps_its_dtype(calls):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(layer(), torch.randn(3, 24)).dtype == torch.bfloat16
    assert not calls


def test_transforms_modes_and_graphs_see_the_plain_operator(calls):
    one, states = layer(), torch.randn(3, 24)
    wanted = one(states)
    assert torch.equal(vmap(lambda row: linear(one, row[None])[0])(states), vmap(one)(states))
    weights = dict(one.named_parameters())
    gradient = torch.func.grad(lambda given: functional_call(one, given, states).sum())(weights)
    assert gradient["bias"].tolist() == [3.0] * 40
    with FlopCounterMode(display=False) as counter:
        linear(one, states)
    assert counter.get_total_flops() == 2 * 3 * 24 * 40
    compiled = torch.compile(lambda given: linear(one, given), backend="eager", fullgraph=True)
    assert torch.equal(compiled(states), wanted)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            mlp = torch.compile(lambda given: activated_linear(one, nn.GELU(), given), backend="eager", fullgraph=True)
            assert torch.equal(mlp(states), one(nn.functional.gelu(states)))
    one.requires_grad_(False)
    traced = torch.jit.trace(lambda given: linear(one, given), (states,), check_trace=False)
    assert torch.equal(traced(states), wanted) and "mkldnn" not in str(traced.graph)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(states, torch.ones_like(states))
        tangent = torch.autograd.forward_ad.unpack_dual(linear(one, dual)).tangent
    torch.testing.assert_close(tangent, one.weight.sum(1).expand(3, -1), rtol=1e-5, atol=1e-5)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(linear(one, states), wanted)
    assert not calls


def test_no_rows_and_wrong_widths():
    assert linear(layer(), torch.empty(0, 24)).shape == (0, 40)
    with pytest.raises(RuntimeError, match="shapes"):
        linear(layer(), torch.randn(3, 23))


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_gives_the_same_logits_and_gradients_either_way(calls, tiny_model):
    model = tiny_model().float().train()
    ids = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3]])
    inputs = {"input_ids": ids, "labels": ids, "pixel_values": torch.randn(2, 3, 16, 16), "return_logits": True}

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        torch.manual_seed(0)
        output = model(**inputs)
        output.loss.backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return output.logits.detach(), grads

    logits, grads = run()
    assert len(calls) > 20
    mm.use_onednn(False)
    plain, plain_grads = run()
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-5)
    assert grads.keys() == plain_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain_grads[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_products_of_a_tower_of_transformers_too_without_gradients(calls):
    """Its layers are torch's own; what is made of a graph, of gradients or of a watcher is left to torch."""
    tower = {
        "model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    ids = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {**ids, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = mm.MMForConditionalGeneration(mm.MMConfig(vision_config=tower, text_config=text)).eval()
    pixels = torch.randn(2, 3, 28, 28)

    def tokens() -> torch.Tensor:
        calls.clear()
        return model.encode_context(pixel_values=pixels).last_hidden_state

    with torch.no_grad():
        found, count = tokens(), len(calls)
        assert count >= 2 * 6
        mm.use_onednn(False)
        plain = tokens()
        assert not calls
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
        mm.use_onednn(True)
        with FlopCounterMode(display=False) as counter:
            assert torch.equal(tokens(), plain) and not calls
        assert counter.get_total_flops() > 0
        compiled = torch.compile(model.model.encode_context, backend="eager", fullgraph=True)
        assert torch.equal(compiled(pixel_values=pixels).last_hidden_state, plain)
    with_gradient = tokens()
    assert with_gradient.requires_grad and len(calls) < count
    torch.testing.assert_close(with_gradient.detach(), plain, rtol=1e-5, atol=1e-5)


def test_the_setting():
    mm.use_onednn(False)
    assert not module._is_wanted()
    mm.use_onednn(None)
    assert module._is_wanted() == module.is_faster()
    with pytest.raises(TypeError, match="True, False or None"):
        mm.use_onednn("yes")


def test_a_torch_without_the_operator_is_left_to_its_own_product(monkeypatch):
    def renamed(*given):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(module, "_by_onednn", renamed)
    module._works.cache_clear()
    module.is_faster.cache_clear()
    try:
        mm.use_onednn(None)
        assert not module.is_faster() and linear(layer(), torch.randn(3, 24)).shape == (3, 40)
        with pytest.raises(ValueError, match="oneDNN"):
            mm.use_onednn(True)
    finally:
        module._works.cache_clear()
        module.is_faster.cache_clear()
