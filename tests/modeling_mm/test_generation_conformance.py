"""What Transformers' own generation tests ask of a model, over every kind of decoder: modes, shapes, caches, hooks.

Upstream's GenerationTesterMixin is in no package; this suite asks the same of the same hooks. That rows equal what
they would be alone is in test_invariance.py.
"""

# Fixtures build models whose types pyright cannot follow.

from functools import cache

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

from mm import MMCache

IDS = torch.tensor([[1, 7, 8, 9], [0, 0, 1, 4]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
QUESTION = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
NEW = 5
KINDS = {
    "inside": ("vit", "inside", {}),
    "own layers": ("vit", "own", {}),
    "llama": ("vit", "llama", {}),
    "convolutions": ("conv", "inside", {}),
    "merged": ("vit", "inside", {"fusion_type": "merged"}),
    "windows": ("vit", "windows", {"final_logit_softcapping": 2.0}),
    "windows, merged": ("vit", "windows", {"fusion_type": "merged"}),
    "text encoder": ("vit", "inside", {"text_encoder_config": "tiny"}),
}

FAST = ("text encoder",)


@pytest.fixture(scope="module")
def model_of(tiny_model):
    @cache
    def build(kind):
        vision, text, fields = KINDS[kind]
        model = tiny_model(vision, text, attention="eager", **fields)
        model.generation_config.update(max_new_tokens=NEW, min_new_tokens=NEW)
        return model

    return build


@pytest.fixture(params=[kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def case(request, model_of, pictures):
    """A model, and inputs of two rows, the second shorter."""
    inputs = {"input_ids": IDS, "attention_mask": MASK, "pixel_values": pictures[:2]}
    if request.param == "text encoder":
        inputs |= {"context_input_ids": QUESTION, "context_attention_mask": (QUESTION != 0).long()}
    return model_of(request.param), inputs


MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 3},
    "beam-sample": {"num_beams": 3, "do_sample": True},
    "sample, two returned": {"do_sample": True, "num_return_sequences": 2},
    "beams, two returned": {"num_beams": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_rows_of_the_length_asked_for_and_all_outputs(case, mode):
    model, inputs = case
    settings = MODES[mode]
    torch.manual_seed(0)
    plain = model.generate(**inputs, **settings)
    torch.manual_seed(0)
    asked = ("output_scores", "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate")
    output = model.generate(**inputs, **settings, **dict.fromkeys(asked, True))
    returned, beams = settings.get("num_return_sequences", 1), settings.get("num_beams", 1)
    assert torch.equal(output.sequences, plain) and plain.shape == (2 * returned, IDS.shape[1] + NEW)
    assert torch.equal(plain[:, : IDS.shape[1]], IDS.repeat_interleave(returned, 0))
    assert isinstance(output, GenerateBeamDecoderOnlyOutput if beams > 1 else GenerateDecoderOnlyOutput)
    rows = 2 * (beams if beams > 1 else returned)
    assert [tuple(scores.shape) for scores in output.scores] == [(rows, 50)] * NEW
    assert [tuple(logits.shape) for logits in output.logits] == [(rows, 50)] * NEW
    check_states(model, output, rows)
    if beams > 1:
        assert output.sequences_scores.shape == (2 * returned,) and output.beam_indices.shape[0] == 2 * returned


def check_states(model, output, rows):
    """Of each step: hidden states, and weights over the text so far (behind media that are merged with it)."""
    text = model.config.text_config
    own = sum("self" in layer.sublayers for layer in model.model.language_model.layers)
    merged = output.past_key_values.prefix_length
    for step, (states, weights) in enumerate(zip(output.hidden_states, output.attentions, strict=True)):
        length = IDS.shape[1] if step == 0 else 1
        assert [tuple(s.shape) for s in states] == [(rows, length, text.hidden_size)] * (text.num_hidden_layers + 1)
        shape = (rows, text.num_attention_heads, length, merged + IDS.shape[1] + step)
        assert [tuple(w.shape) for w in weights] == [shape] * own


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_the_cache_holds_the_text_per_row_and_the_context_once(case, mode):
    model, inputs = case
    output = model.generate(**inputs, **MODES[mode], return_dict_in_generate=True)
    held, rows = output.past_key_values, 2 * MODES[mode].get("num_beams", 1)
    assert isinstance(held, MMCache) and held.get_seq_length() == IDS.shape[1] + NEW - 1
    written = [layer for layer in held.self_attention_cache.layers if layer.keys is not None]
    assert len(written) == sum("self" in layer.sublayers for layer in model.model.language_model.layers)
    for layer in written:
        assert layer.keys.shape[0] == rows and layer.keys.shape[2] == IDS.shape[1] + NEW - 1
    for layer in held.cross_attention_cache.layers:
        assert layer.keys is None or layer.keys.shape[0] == 2
    assert "past_key_values" not in model.generate(
        **inputs, **MODES[mode], use_cache=False, return_dict_in_generate=True
    )


@pytest.mark.parametrize("mode", ["greedy", "beams", "beams, two returned"])
@pytest.mark.parametrize(
    "way",
    [{"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 3}],
    ids=["static", "no cache", "prefill in chunks"],
)
def test_however_states_are_kept_the_tokens_are_the_same(case, mode, way):
    model, inputs = case
    expected = model.generate(**inputs, **MODES[mode])
    assert torch.equal(model.generate(**inputs, **MODES[mode], **way), expected)


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_padding_on_the_left_changes_no_logit(case, mode):
    model, inputs = case
    settings = {**MODES[mode], "output_logits": True, "return_dict_in_generate": True}
    expected = model.generate(**inputs, **settings)
    ids, mask = (torch.nn.functional.pad(inputs[name], (3, 0)) for name in ("input_ids", "attention_mask"))
    output = model.generate(**{**inputs, "input_ids": ids, "attention_mask": mask}, **settings)
    assert torch.equal(output.sequences[:, 3:], expected.sequences)
    for found, logits in zip(output.logits, expected.logits, strict=True):
        assert ((found - logits).abs() <= 1e-6 * logits.abs().clamp(min=1)).all()  # generate() rounds logits to fp32


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_embeddings_stand_for_ids(case, mode):
    model, inputs = case
    expected = model.generate(**inputs, **MODES[mode])[:, IDS.shape[1] :]
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(model.generate(**rest, inputs_embeds=embeds, **MODES[mode]), expected)
    both = model.generate(**inputs, inputs_embeds=embeds, **MODES[mode])
    assert torch.equal(both[:, IDS.shape[1] :], expected)


@pytest.mark.parametrize("way", ["prompt lookup", "assistant"])
def test_assisted_decoding_writes_what_greedy_decoding_does(case, tiny_model, request, way):
    model, inputs = case
    row = {name: value[:1] for name, value in inputs.items()}
    helper = {"prompt_lookup_num_tokens": 2}
    if way == "assistant":
        vision, text, fields = KINDS[request.node.callspec.params["case"]]
        helper = {"assistant_model": tiny_model(vision, text, **fields)}
        helper["assistant_model"].model.language_model.layers[0].mlp.up_proj.weight.data.mul_(0.5)
    assert torch.equal(model.generate(**row, **helper), model.generate(**row))


def test_going_on_from_a_cache_is_going_on(case):
    model, inputs = case
    whole = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)
    first = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True)
    mask = torch.nn.functional.pad(MASK, (0, 2), value=1)
    settings = {"max_new_tokens": 2, "min_new_tokens": 2, "past_key_values": first.past_key_values}
    assert torch.equal(model.generate(input_ids=first.sequences, attention_mask=mask, **settings), whole)


def test_without_a_prompt_each_context_starts_from_bos(case):
    model, inputs = case
    rest = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    bos = torch.full((2, 1), model.config.text_config.bos_token_id)
    assert torch.equal(model.generate(**rest), model.generate(**rest, input_ids=bos))


class Collected(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_streamer_sees_every_token_as_it_comes(case, mode):
    model, inputs = case
    row, streamer = {name: value[:1] for name, value in inputs.items()}, Collected()
    sequences = model.generate(**row, **MODES[mode], streamer=streamer)
    assert streamer.ended and streamer.tokens == sequences[0].tolist()


class AfterToken(StoppingCriteria):
    """Stops each row once it has written a token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, IDS.shape[1] :] == self.token).any(1)


def test_stopping_criteria_stop_each_row_by_itself(case):
    model, inputs = case
    whole = model.generate(**inputs)
    token = int(whole[0, IDS.shape[1] + 1])
    stopped = model.generate(**inputs, stopping_criteria=StoppingCriteriaList([AfterToken(token)]))
    for row, expected in zip(stopped[:, IDS.shape[1] :].tolist(), whole[:, IDS.shape[1] :].tolist(), strict=True):
        end = expected.index(token) + 1 if token in expected else NEW
        assert row[:end] == expected[:end] and set(row[end:]) <= {0}
    limit = StoppingCriteriaList([MaxLengthCriteria(IDS.shape[1] + 2)])
    assert torch.equal(model.generate(**inputs, stopping_criteria=limit), whole[:, : IDS.shape[1] + 2])


class Only(LogitsProcessor):
    """Leaves the tokens of a set."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, input_ids, scores):
        left = torch.full_like(scores, float("-inf"))
        left[:, self.tokens] = scores[:, self.tokens]
        return left


@pytest.mark.parametrize("mode", MODES)
def test_logits_processors_of_the_caller_and_of_transformers_are_obeyed(case, mode):
    model, inputs = case
    settings, allowed = MODES[mode], [11, 12, 13, 14]
    only = LogitsProcessorList([Only(allowed)])
    written = model.generate(**inputs, **settings, logits_processor=only)[:, IDS.shape[1] :]
    assert set(written.flatten().tolist()) <= set(allowed)
    written = model.generate(**inputs, **settings, logits_processor=only, bad_words_ids=[[11], [12]])
    assert set(written[:, IDS.shape[1] :].flatten().tolist()) <= {13, 14}
    written = model.generate(**inputs, **settings, suppress_tokens=list(range(3, 48)))[:, IDS.shape[1] :]
    assert set(written.flatten().tolist()) <= {0, 1, 2, 48, 49}
    written = model.generate(**inputs, **settings, no_repeat_ngram_size=1)[:, IDS.shape[1] :]
    assert all(len(set(row)) == NEW for row in written.tolist())
    written = model.generate(**inputs, **settings, forced_eos_token_id=2)
    assert (written[:, -1] == 2).all()


def test_scores_of_transitions_are_those_of_the_tokens(case):
    model, inputs = case
    output = model.generate(**inputs, output_scores=True, return_dict_in_generate=True)
    scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    expected = torch.stack(output.scores, 1).log_softmax(-1)
    tokens = output.sequences[:, IDS.shape[1] :, None]
    torch.testing.assert_close(scores, expected.gather(2, tokens)[..., 0])


def test_a_generation_config_of_the_call_is_read(case):
    model, inputs = case
    config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, num_beams=2, pad_token_id=0, eos_token_id=2)
    expected = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, num_beams=2)
    assert torch.equal(model.generate(**inputs, generation_config=config), expected)
