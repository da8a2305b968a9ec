"""Batch invariance: whatever else is in the batch, each row is what it would be alone, token for token.

A batch here is hard on purpose: contexts of two, one and no picture, rows on them ragged and unsorted, prompts of
unequal length padded on the left. The reference runs each row by itself: its prompt without padding, its pictures
without absent ones, no index, no padding anywhere. Logits agree to 1e-12 in fp64 and 1e-5 in fp32, times
max(1, |logit|).
"""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

from functools import cache

import pytest
import torch
from transformers import CompileConfig, DynamicCache

from mm import MMCache
from other_cpu import allowance

IDS = torch.tensor([[0, 1, 5, 6], [1, 7, 8, 9], [0, 0, 1, 4], [0, 1, 3, 3], [0, 0, 0, 1]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
READS = [1, 0, 2, 1, 1]
PRESENT = torch.tensor([[True, True], [False, True], [False, False]])
PIXELS = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NEW = 6
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
TEXTS = ["inside", "own", "llama"]
KINDS = [("vit", text) for text in TEXTS] + [("conv", "inside")]
IDENTITY = [f"{vision}-{text}" for vision, text in KINDS]


@pytest.fixture(scope="module")
def model_of(tiny_model):
    """`model_of(vision, text, dtype, attention)`: built once and shared by the tests of this file."""

    @cache
    def build(vision, text, dtype=torch.float64, attention="sdpa"):
        model = tiny_model(vision, text, dtype=dtype, attention=attention)
        model.generation_config.max_new_tokens = NEW
        return model

    return build


def whole_batch():
    return {
        "input_ids": IDS,
        "attention_mask": MASK,
        "pixel_values": PIXELS,
        "pixel_attention_mask": PRESENT,
        "context_index": torch.tensor(READS),
    }


def one_row(row, dtype=torch.float64):
    """The inputs of one row by itself."""
    pictures = PIXELS[READS[row]][PRESENT[READS[row]]]
    media = {"pixel_values": pictures[None].to(dtype)} if len(pictures) else {}
    return {"input_ids": IDS[row][MASK[row].bool()][None], **media}


def generated(model, inputs, **mode):
    """The new tokens of each row, up to and with eos, and all that generate() returns.

    `logits` is replaced by what the head gave, (rows, V) a step: generate() itself rounds logits to fp32.
    """
    seen = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output[:, -1]))
    output = model.generate(**inputs, **mode, return_dict_in_generate=True, output_logits=True, output_scores=True)
    handle.remove()
    output.logits = seen[-len(output.logits) :]  # a prefill in chunks asks the head more than once
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    rows = []
    for tokens in output.sequences[:, start:].tolist():
        rows.append(tokens[: tokens.index(2) + 1] if 2 in tokens else tokens)
    return rows, output


def assert_close(got, expected, dtype):
    limit = TOLERANCE[dtype] * allowance() * expected.abs().clamp(min=1)
    assert ((got - expected).abs() <= limit).all(), (got - expected).abs().max().item()


BEAMS = {"num_beams": 3}
MODES = {
    "greedy": {},
    "sampling from one": {"do_sample": True, "top_k": 1},
    "beams": BEAMS,
    "beams, three returned": {**BEAMS, "num_return_sequences": 3},
    "beams, penalty": {**BEAMS, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "early_stopping": True},
    "static cache": {"cache_implementation": "static"},
    "static cache, beams": {"cache_implementation": "static", **BEAMS},
    "no cache": {"use_cache": False},
    "no cache, beams": {"use_cache": False, **BEAMS},
    "prefill in chunks": {"prefill_chunk_size": 2},
    "repetition penalty": {"repetition_penalty": 1.7},
}


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("mode", MODES)
def test_a_ragged_batch_equals_its_rows_one_by_one(model_of, kind, mode):
    model, settings = model_of(*kind), MODES[mode]
    rows, output = generated(model, whole_batch(), **settings)
    returned = settings.get("num_return_sequences", 1)
    for row in range(len(READS)):
        plain = {name: value for name, value in settings.items() if name != "prefill_chunk_size"}
        alone, expected = generated(model, one_row(row), **plain)
        assert rows[row * returned : (row + 1) * returned] == alone
        if "num_beams" in settings:
            scores = output.sequences_scores[row * returned : (row + 1) * returned]
            torch.testing.assert_close(scores, expected.sequences_scores, rtol=0, atol=1e-11)
        else:
            for step in range(len(alone[0])):
                assert_close(output.logits[step][row], expected.logits[step][0], torch.float64)


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mode", ["greedy", "beams", "static cache"])
def test_the_same_in_fp32_and_by_either_implementation(model_of, kind, attention, mode):
    model, dtype = model_of(*kind, torch.float32, attention), torch.float32
    rows, output = generated(model, whole_batch() | {"pixel_values": PIXELS.float()}, **MODES[mode])
    for row in range(len(READS)):
        alone, expected = generated(model, one_row(row, dtype), **MODES[mode])
        assert rows[row : row + 1] == alone
        if mode != "beams":
            for step in range(len(alone[0])):
                assert_close(output.logits[step][row], expected.logits[step][0], dtype)


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_forward_of_a_padded_batch_equals_its_rows(model_of, kind, dtype, side):
    model, batch = model_of(*kind, dtype), whole_batch()
    if side == "right":
        for name in ("input_ids", "attention_mask"):
            rows = [torch.roll(line, int(real.sum()), 0) for line, real in zip(batch[name], MASK, strict=True)]
            batch[name] = torch.stack(rows)
    logits = model(**batch | {"pixel_values": PIXELS.to(dtype)}).logits
    for row in range(len(READS)):
        real = batch["attention_mask"][row].bool()
        assert_close(logits[row][real], model(**one_row(row, dtype)).logits[0], dtype)


SHARINGS = {
    "one row each": [0, 1, 2],
    "contiguous, no index": None,
    "sorted, ragged": [0, 0, 0, 1, 2, 2],
    "unsorted, ragged": [2, 0, 1, 0, 0],
    "some contexts unread": [1, 1],
}


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_shared_keys_and_values_equal_expanded_ones_token_for_token(model_of, kind, sharing, mode):
    """The oracle repeats the pictures, so that each row has a context of its own."""
    model, reads = model_of(*kind), SHARINGS[sharing]
    index = {} if reads is None else {"context_index": torch.tensor(reads)}
    reads = reads or [0, 0, 1, 1, 2, 2]
    ids = torch.cat([IDS, IDS])[: len(reads)]
    text = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    shared, output = generated(
        model, {**text, "pixel_values": PIXELS, "pixel_attention_mask": PRESENT, **index}, **MODES[mode]
    )
    media = {"pixel_values": PIXELS[reads], "pixel_attention_mask": PRESENT[reads]}
    expanded, expected = generated(model, {**text, **media}, **MODES[mode])
    assert shared == expanded
    for got, wanted in zip(output.logits, expected.logits, strict=True):
        assert_close(got, wanted, torch.float64)


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("mode", ["greedy", "beams", "static cache, beams", "no cache"])
def test_a_ready_context_and_embeddings_equal_pictures_and_ids(model_of, kind, mode):
    model, batch = model_of(*kind), whole_batch()
    expected, _ = generated(model, batch, **MODES[mode])
    media = {name: batch.pop(name) for name in ("pixel_values", "pixel_attention_mask")}
    context = model.encode_context(**media)
    assert generated(model, {**batch, "encoder_outputs": context}, **MODES[mode])[0] == expected
    plain = {"encoder_outputs": context.last_hidden_state, "encoder_attention_mask": context.attention_mask}
    assert generated(model, {**batch, **plain}, **MODES[mode])[0] == expected
    if mode != "no cache":  # generate() keeps a cache whenever it starts from embeddings
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        assert generated(model, {**batch, **media, "inputs_embeds": embeds}, **MODES[mode])[0] == expected


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("way", ["assistant", "prompt lookup"])
def test_assisted_decoding_equals_greedy(model_of, tiny_model, kind, row, way):
    model = model_of(*kind)
    helper = {"prompt_lookup_num_tokens": 3}
    if way == "assistant":  # it shares the towers and differs after them
        assistant = tiny_model(*kind)
        assistant.model.language_model.layers[0].mlp.up_proj.weight.data.mul_(0.5)
        helper = {"assistant_model": assistant}
    expected, _ = generated(model, one_row(row))
    assert generated(model, one_row(row), **helper)[0] == expected


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
def test_sampling_returns_rows_in_order_each_on_its_own_context(model_of, kind):
    """What was sampled is scored again, each row by itself: the same logits at every step."""
    model = model_of(*kind)
    torch.manual_seed(0)
    rows, output = generated(model, whole_batch(), do_sample=True, top_k=0, num_return_sequences=3)
    assert len(rows) == 15 and len({tuple(row) for row in rows}) > 5
    for number, tokens in enumerate(rows):
        prompt = one_row(number // 3)
        ids = torch.cat([prompt["input_ids"], torch.tensor([tokens])], 1)
        logits = model(**{**prompt, "input_ids": ids}).logits[0, -len(tokens) - 1 : -1]
        got = torch.stack([output.logits[step][number] for step in range(len(tokens))])
        assert_close(got, logits, torch.float64)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("mode", ["greedy", "beams", "static cache, beams"])
def test_contexts_are_projected_stored_and_kept_once(model_of, text, mode, monkeypatch):
    """One entry per context, one projection per layer and generate(), and no reordering of either."""
    model, calls, reordered = model_of("vit", text), [], []
    crosses = [layer.cross_attn for layer in model.model.language_model.layers if "cross" in layer.sublayers]
    projections = [projection for cross in crosses for projection in (cross.k_proj, cross.v_proj)]
    handles = [p.register_forward_hook(lambda module, args, output: calls.append(len(output))) for p in projections]
    select = torch.Tensor.index_select
    monkeypatch.setattr(
        torch.Tensor, "index_select", lambda self, *a, **k: reordered.append(self.data_ptr()) or select(self, *a, **k)
    )
    output = generated(model, whole_batch(), **MODES[mode], min_new_tokens=NEW)[1]
    for handle in handles:
        handle.remove()
    held = output.past_key_values
    assert isinstance(held, MMCache) and calls == [3] * 2 * len(crosses)
    layers = held.cross_attention_cache.layers[: len(crosses)]
    assert {layer.keys.shape[0] for layer in layers} == {layer.values.shape[0] for layer in layers} == {3}
    beams = MODES[mode].get("num_beams", 1)
    assert held.self_attention_cache.layers[0].keys.shape[0] == 5 * beams and held.rows.num_rows == 5 * beams
    cross = {state.data_ptr() for layer in layers for state in (layer.keys, layer.values)}
    assert not cross & set(reordered)
    assert (beams > 1) == bool(reordered)


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
def test_a_batch_without_any_picture_equals_text_alone(model_of, kind):
    model, batch = model_of(*kind), whole_batch()
    batch["pixel_attention_mask"] = torch.zeros(3, 2, dtype=torch.bool)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for mode in ("greedy", "beams", "static cache", "no cache"):
        assert generated(model, batch, **MODES[mode])[0] == generated(model, text, **MODES[mode])[0]


@pytest.mark.parametrize("kind", KINDS, ids=IDENTITY)
def test_going_on_from_a_cache_equals_starting_again(model_of, kind):
    """A conversation: three turns on one cache, rows of unequal length on shared contexts."""
    model, batch = model_of(*kind), whole_batch()
    held, more = MMCache(DynamicCache(), DynamicCache()), torch.tensor([[3, 9]] * 5)
    for _ in range(3):
        going_on, _ = generated(model, batch, past_key_values=held, max_new_tokens=2, min_new_tokens=2)
        again, output = generated(model, batch, max_new_tokens=2, min_new_tokens=2)
        assert going_on == again
        batch["input_ids"] = torch.cat([output.sequences, more], 1)
        batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 4), value=1)
    assert held.get_seq_length() == 4 + 2 + 2 * 4 - 1


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_a_compiled_decode_is_one_graph_and_equals_the_plain_one(model_of, text):
    model, batch = model_of("vit", text), whole_batch()
    compiling = CompileConfig(backend="eager", fullgraph=True, dynamic=False)
    compiling._compile_all_devices = True  # generate() compiles on accelerators alone unless told
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected = model.generate(**batch, **MODES["static cache"])
    assert torch.equal(model.generate(**batch, **MODES["static cache"], compile_config=compiling), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [(v, t) for v in ("vit", "conv") for t in TEXTS], ids=lambda kind: "-".join(kind))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_batches_drawn_at_random_equal_their_rows(model_of, kind, attention, mode, seed):
    model, settings = model_of(*kind, torch.float64, attention), MODES[mode]
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, shape):
        return torch.randint(low, high, shape, generator=generator)

    contexts, slots, rows = (int(draw(1, 5, ())) for _ in range(3))
    present, lengths = draw(0, 2, (contexts, slots)).bool(), draw(1, 6, (rows,))
    pixels = torch.randn(contexts, slots, 3, 16, 16, generator=generator, dtype=torch.float64)
    index, longest = draw(0, contexts, (rows,)), int(lengths.max())
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    ids = draw(3, 50, (rows, longest)) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "pixel_attention_mask": present}
    got, _ = generated(model, {**inputs, "context_index": index}, **settings)
    returned = settings.get("num_return_sequences", 1)
    for row, context in enumerate(index.tolist()):
        pictures = pixels[context][present[context]]
        media = {"pixel_values": pictures[None]} if len(pictures) else {}
        settings = {name: value for name, value in settings.items() if name != "prefill_chunk_size"}
        alone, _ = generated(model, {"input_ids": ids[row, longest - lengths[row] :][None], **media}, **settings)
        assert got[row * returned : (row + 1) * returned] == alone
