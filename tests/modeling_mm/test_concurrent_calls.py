"""No call changes what another reads: in the midst of one a thread's call is as it is alone, and no setting moves."""

import threading

import pytest
import torch

from mm import MMModel

IDS = torch.tensor([[0, 0, 1, 5], [1, 7, 8, 9]])
PADDED = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


def in_the_midst(module: torch.nn.Module, other) -> list:
    """Runs `other` in a thread of its own when `module` is first called; what it returned, once it has."""
    found = []

    def hook(*_):
        if not found:
            found.append(None)
            thread = threading.Thread(target=lambda: found.append(other()))
            thread.start()
            thread.join()

    module.register_forward_pre_hook(hook)
    return found


def settings(model: torch.nn.Module) -> list[dict]:
    """Every configuration in a model, and every attribute of its modules that is plain data."""
    kinds = (bool, int, float, str, tuple, type(None))
    plain = [
        {key: value for key, value in vars(module).items() if isinstance(value, kinds)} for module in model.modules()
    ]
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    return [*plain, *(dict(vars(config)) for config in configs.values())]


CALLS = {
    "cross": ({}, "forward"),
    "merged": ({"fusion_type": "merged"}, "forward"),
    "causal beside bidirectional": ({"share_text_encoder": True}, "get_text_features"),
    "merged, causal beside bidirectional": (
        {"share_text_encoder": True, "fusion_type": "merged", "fusion_mask": "bidirectional"},
        "encode_context",
    ),
    "encoder": ({"text_encoder_config": "tiny", "fusion_type": "co_attention"}, "forward"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("attention", ["sdpa", "mm_triton"])
def test_a_call_in_the_midst_of_another_is_what_it_is_alone(tiny_model, pictures, name, attention):
    fields, method = CALLS[name]
    model = tiny_model(cls=MMModel, attention=attention, **fields)
    media = {"pixel_values": pictures[:2, 0]}
    if model.config.has_text_encoder:
        media |= {"context_input_ids": IDS, "context_attention_mask": PADDED}

    def plain():
        with torch.no_grad():
            return model(input_ids=IDS, attention_mask=PADDED, **media).last_hidden_state

    def asked():
        if method == "forward":
            return model(input_ids=IDS, attention_mask=PADDED, **media, output_attentions=True).last_hidden_state
        if method == "encode_context":
            return model.encode_context(**media).last_hidden_state
        return model.get_text_features(IDS, PADDED, output_attentions=True).last_hidden_state

    with torch.no_grad():
        alone, whole = plain(), asked()
        found = in_the_midst(model.language_model.layers[-1].mlp, plain)
        torch.testing.assert_close(asked(), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], alone, rtol=1e-12, atol=1e-12)


def test_generate_in_the_midst_of_a_call_with_weights_writes_what_it_writes_alone(tiny_model, pictures):
    model = tiny_model(attention="sdpa")
    inputs = {"input_ids": IDS, "attention_mask": PADDED, "pixel_values": pictures[:2, 0]}

    def write(**asked):
        return model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True, **asked)

    alone = write(output_logits=True)
    found = in_the_midst(model.model.vision_tower.layers[-1], lambda: write(output_logits=True))
    again = in_the_midst(model.model.language_model.layers[-1], lambda: write(output_logits=True))
    asked = write(output_attentions=True)
    for other in (found[1], again[1]):
        assert torch.equal(other.sequences, alone.sequences) and torch.equal(asked.sequences, alone.sequences)
        for logits, expected in zip(other.logits, alone.logits, strict=True):
            torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_no_setting_moves_while_a_call_runs(tiny_model, pictures, name):
    model = tiny_model(cls=MMModel, attention="sdpa", **CALLS[name][0])
    media = {"pixel_values": pictures[:2, 0]}
    if model.config.has_text_encoder:
        media |= {"context_input_ids": IDS, "context_attention_mask": PADDED}

    def run():
        with torch.no_grad():
            model(input_ids=IDS, attention_mask=PADDED, **media, output_attentions=True)
            model.get_text_features(IDS, PADDED)

    run()  # hooks that read the weights are put in once
    before, seen = settings(model), []
    for part in (model.vision_tower.layers[0], model.language_model.layers[0], model.language_model.pooler):
        part.register_forward_pre_hook(lambda *_: seen.append(settings(model)))
    run()
    assert len(seen) >= 3 and all(during == before for during in seen)
