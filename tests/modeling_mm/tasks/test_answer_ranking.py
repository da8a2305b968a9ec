"""rank_answers and score: equal to every pair scored alone, whatever the padding, the order and the blocks."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.nn.functional import log_softmax, pad
from torch.testing import assert_close

from mm import MMRankOutput, MMScoreOutput

PROMPTS = [[1], [1, 5, 6], [1, 7, 8, 9], [1, 5]]
INDEX = [2, 0, 2, 1]
ANSWERS = [[5, 6, 7, 2], [9, 2], [30], [5, 6, 2], [11, 12, 13, 14, 2], [5]]


CASES = {
    "merged": {"fusion_type": "merged"},
    "no cache by default": {"text_config": {"use_cache": False}},
    "a text encoder": {"text_encoder_config": "tiny"},
    "concat behind a text encoder": {"text_encoder_config": "tiny", "fusion_type": "concat"},
}


def padded(rows: list[list[int]], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and masks of rows of any length, padded on a side; "both": every second row on the other one."""
    length = max(map(len, rows)) + (1 if side == "both" else 0)
    ids, mask = [], []
    for number, row in enumerate(rows):
        spare = length - len(row)
        left = {"right": 0, "left": spare, "both": spare * (number % 2)}[side]
        ids.append([0] * left + row + [0] * (spare - left))
        mask.append([0] * left + [1] * len(row) + [0] * (spare - left))
    return torch.tensor(ids), torch.tensor(mask)


def alone(model, context, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-likelihoods of an answer's tokens, from one plain call of one row, by hand."""
    ids = torch.tensor([prompt + answer])
    logs = log_softmax(model(input_ids=ids, encoder_outputs=context, use_cache=False).logits[0], -1)
    return torch.stack([logs[at - 1, ids[0, at]] for at in range(len(prompt), ids.shape[1])])


def all_alone(model, pixels, prompts, index, answers) -> list[list[torch.Tensor]]:
    contexts = [model.encode_context(picture) for picture in pixels.split(1)]
    return [[alone(model, contexts[at], prompt, answer) for answer in answers]
            for prompt, at in zip(prompts, index, strict=True)]  # fmt: skip


def sums(expected: list[list[torch.Tensor]]) -> torch.Tensor:
    return torch.stack([torch.stack([tokens.sum() for tokens in row]) for row in expected])


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("batch_size", [1, 3, 128])
@pytest.mark.parametrize("prefix_trie", [False, True])
@torch.no_grad()
def test_ranked_answers_score_as_each_pair_alone(tiny_model, pixels, text, side, batch_size, prefix_trie):
    model = tiny_model("vit", text)
    ids, mask = padded(PROMPTS, side)
    answers, answers_mask = padded(ANSWERS, side)
    output = model.rank_answers(
        answers, answers_mask, input_ids=ids, attention_mask=mask, context_index=torch.tensor(INDEX),
        pixel_values=pixels, normalize="sum", batch_size=batch_size, prefix_trie=prefix_trie,
    )  # fmt: skip
    expected = all_alone(model, pixels, PROMPTS, INDEX, ANSWERS)
    assert isinstance(output, MMRankOutput)
    assert_close(output.scores, sums(expected), rtol=0, atol=1e-12)
    assert torch.equal(output.indices, output.scores.argsort(1, descending=True))
    for row, scores in zip(expected, output.token_scores, strict=True):
        for number, tokens in enumerate(row):
            assert_close(scores[number][answers_mask[number] == 1], tokens, rtol=0, atol=1e-12)
            assert bool((scores[number][answers_mask[number] == 0] == 0).all())


@pytest.mark.parametrize("case", ["inside", "merged", "a text encoder"])
@torch.no_grad()
def test_a_trie_reads_each_beginning_once_and_scores_alike(tiny_model, pixels, case):
    model = tiny_model(**CASES.get(case, {}))
    context = {"context_input_ids": torch.tensor([[1, 5], [1, 6], [1, 7]])} if case == "a text encoder" else {}
    ids, mask = padded(ANSWERS)
    given = {"input_ids": torch.tensor([[1, 5], [1, 7], [1, 9]]), "pixel_values": pixels, **context}
    read = []
    model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    expected = model.rank_answers(ids, mask, **given)
    read.clear()
    got = model.rank_answers(ids, mask, **given, prefix_trie=True)
    assert read[1:] == [3 * 3, 3 * 2, 3 * 2, 3 * 1]  # 5 9 11, 5 6 and 11 12, 5 6 7 and 11 12 13, 11 12 13 14
    assert_close(got.token_scores, expected.token_scores, rtol=0, atol=1e-12)
    assert torch.equal(got.indices, expected.indices)
    with pytest.raises(ValueError, match="leave one out"):
        model.rank_answers(ids, mask, **given, prefix_trie=True, top_k=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_a_hundred_and_twenty_eight_answers_score_as_each_alone(tiny_model, pixels, dtype):
    model = tiny_model(dtype=dtype)
    pixels = pixels.to(dtype)
    draw = torch.Generator().manual_seed(1)
    answers = [torch.randint(3, 50, (1 + number % 5,), generator=draw).tolist() + [2] for number in range(128)]
    ids, mask = padded(answers)
    got = model.rank_answers(ids, mask, input_ids=torch.tensor([[1, 5, 6]]), pixel_values=pixels[:1]).scores
    expected = all_alone(model, pixels[:1], [[1, 5, 6]], [0], answers)
    means = torch.stack([tokens.mean() for tokens in expected[0]])[None]
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    assert bool(((got - means).abs() <= limit * means.abs().clamp(min=1)).all())


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_way_of_reading_a_context_ranks_as_score_does(tiny_model, pixels, case):
    model = tiny_model(**CASES[case])
    media = {"pixel_values": pixels}
    if "encoder" in case:
        media["context_input_ids"] = torch.tensor([[1, 8, 9], [1, 3, 4], [1, 6, 2]])
    ids, mask = padded(PROMPTS)
    answers, answers_mask = padded(ANSWERS)
    index = torch.tensor(INDEX)
    got = model.rank_answers(
        answers, answers_mask, input_ids=ids, attention_mask=mask, context_index=index, normalize="sum", **media
    ).scores
    context = model.encode_context(**media)
    for number, answer in enumerate(ANSWERS):
        pairs, pairs_mask = padded([prompt + answer for prompt in PROMPTS])
        labels = pairs.masked_fill(pairs_mask == 0, -100)
        for row, prompt in zip(labels, PROMPTS, strict=True):
            row[: len(prompt)] = -100
        scored = model.score(pairs, pairs_mask, labels, index, encoder_outputs=context)
        assert scored.lengths.tolist() == [len(answer)] * 4
        assert_close(got[:, number], scored.scores, rtol=0, atol=1e-12)


@torch.no_grad()
def test_contexts_of_several_pictures_and_of_none_rank_as_alone(tiny_model, pixels):
    """Slots that hold no picture; a context without any is exactly the text alone."""
    model = tiny_model()
    slots = torch.stack([pixels, pixels.flip(0)], dim=1)
    present = torch.tensor([[True, True], [False, False], [False, True]])
    answers, mask = padded(ANSWERS)
    got = model.rank_answers(answers, mask, pixel_values=slots, pixel_attention_mask=present, normalize="sum").scores
    for at, context in enumerate([model.encode_context(slots[:1]), None, model.encode_context(slots[2:, 1])]):
        expected = sums([[alone(model, context, [1], answer) for answer in ANSWERS]])
        assert_close(got[at : at + 1], expected, rtol=0, atol=1e-12)
    without = model.rank_answers(answers, mask, normalize="sum").scores
    assert_close(without, got[1:2], rtol=0, atol=1e-12)


def test_without_prompts_answers_follow_bos(tiny_model, pixels):
    model = tiny_model()
    answers, mask = padded(ANSWERS)
    got = model.rank_answers(answers, mask, pixel_values=pixels, context_index=torch.tensor([2, 0]))
    bos = torch.tensor([[1], [1]])
    expected = model.rank_answers(
        answers, mask, input_ids=bos, pixel_values=pixels, context_index=torch.tensor([2, 0])
    )
    assert torch.equal(got.scores, expected.scores) and got.scores.shape == (2, 6)
    assert model.rank_answers(answers, mask, pixel_values=pixels).scores.shape == (3, 6)


def test_the_mean_does_not_punish_length_and_the_sum_is_the_probability(tiny_model, pixels):
    """Over all one-token answers the probabilities of "sum" are 1 together; "mean" is the sum over the length."""
    model = tiny_model()
    every = torch.arange(50)[:, None]
    total = model.rank_answers(every, pixel_values=pixels, normalize="sum").scores.exp().sum(1)
    assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    answers, mask = padded(ANSWERS)
    by_sum = model.rank_answers(answers, mask, pixel_values=pixels, normalize="sum").scores
    assert_close(model.rank_answers(answers, mask, pixel_values=pixels).scores, by_sum / mask.sum(1))


def test_a_shortlist_holds_the_likeliest_first_tokens_with_their_whole_scores(tiny_model, pixels):
    model = tiny_model()
    answers, mask = padded(ANSWERS)
    whole = model.rank_answers(answers, mask, pixel_values=pixels)
    short = model.rank_answers(answers, mask, pixel_values=pixels, top_k=3)
    first = whole.token_scores[..., 0]
    for row in range(3):
        kept = torch.isfinite(short.scores[row])
        assert kept.sum() == 3 and short.indices.shape == (3, 3)
        assert first[row][kept].min() >= first[row][~kept].max()
        assert_close(short.scores[row][kept], whole.scores[row][kept], rtol=0, atol=1e-12)
        assert set(short.indices[row].tolist()) == set(torch.nonzero(kept)[:, 0].tolist())


def test_contexts_are_encoded_once_and_prompts_read_once(tiny_model, pixels):
    model, towers, widths = tiny_model(), [], []
    model.model.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    model.model.language_model.embed_tokens.register_forward_hook(lambda _, given, __: widths.append(given[0].shape))
    projected = []
    model.model.language_model.layers[0].cross_attn.k_proj.register_forward_hook(lambda *_: projected.append(1))
    ids = torch.tensor([[1, 5, 6, 7]] * 3)
    model.rank_answers(*padded(ANSWERS), input_ids=ids, pixel_values=pixels)
    assert len(towers) == 1 and len(projected) == 1
    assert widths == [(3, 4), (18, 4)]  # the prompts, then all answers but their last token


def test_ranking_does_not_change_what_it_is_given(tiny_model, pixels):
    model = tiny_model()
    given = {"input_ids": padded(PROMPTS)[0], "context_index": torch.tensor(INDEX), "pixel_values": pixels}
    before = {name: value.clone() for name, value in given.items()}
    context = model.encode_context(pixels)
    held = context.last_hidden_state.clone()
    first = model.rank_answers(*padded(ANSWERS), **given)
    given.pop("pixel_values")
    second = model.rank_answers(*padded(ANSWERS), encoder_outputs=context, **given)
    assert_close(first.scores, second.scores, rtol=0, atol=1e-12)
    assert torch.equal(context.last_hidden_state, held)
    assert all(torch.equal(value, before[name]) for name, value in given.items())


@pytest.mark.parametrize("side", ["right", "left", "both"])
def test_score_is_the_log_softmax_by_hand(tiny_model, pixels, side):
    model = tiny_model()
    ids, mask = padded(PROMPTS, side)
    output = model.score(ids, mask, context_index=torch.tensor(INDEX), pixel_values=pixels)
    assert isinstance(output, MMScoreOutput) and output.token_scores.shape == (4, ids.shape[1] - 1)
    assert output.lengths.tolist() == [len(prompt) - 1 for prompt in PROMPTS]
    for row, (prompt, at) in enumerate(zip(PROMPTS, INDEX, strict=True)):
        logs = log_softmax(model(input_ids=torch.tensor([prompt]), pixel_values=pixels[at : at + 1]).logits[0], -1)
        expected = torch.stack([logs[i, token] for i, token in enumerate(prompt[1:])] or [logs.new_zeros(())])
        assert_close(output.scores[row], expected.sum(), rtol=0, atol=1e-12)
        scored = output.token_scores[row][(mask[row, 1:] * mask[row, :-1]) == 1]
        assert_close(scored, expected[: len(prompt) - 1], rtol=0, atol=1e-12)


def test_score_and_the_loss_say_the_same_and_score_has_a_gradient(tiny_model, pixels):
    model = tiny_model()
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 9], [1, 3, 2, 0]])
    labels = torch.tensor([[-100, -100, 6, 2], [-100, 7, 8, 9], [-100, 3, 2, -100]])
    output = model.score(ids, pad(torch.tensor([[1] * 3] * 3), (0, 1)).where(ids == 0, 1), labels, pixel_values=pixels)
    loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels, pixel_values=pixels).loss
    assert output.lengths.tolist() == [2, 3, 2]
    assert_close(-output.scores.sum() / output.lengths.sum(), loss, rtol=0, atol=1e-12)
    output.scores.sum().backward()
    assert model.model.language_model.embed_tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidate_ids": [[5]]}, "candidate_ids must be a tensor; got list"),
        ({"candidate_ids": torch.tensor([[50]])}, r"candidate_ids must be in 0..49 \(text_config.vocab_size\)"),
        ({"candidate_ids": torch.zeros(2, 0, dtype=torch.long)}, "candidate_ids is empty"),
        ({"candidate_attention_mask": torch.tensor([[1, 1], [0, 0]])}, r"without any real token: \[1\]"),
        ({"candidate_attention_mask": torch.ones(2, 3)}, r"candidate_attention_mask must be \(R, T\)"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask was given without input_ids"),
        ({"input_ids": torch.tensor([[1, 5]] * 2)}, "2 text rows and 3 contexts"),
        ({"context_index": torch.tensor([0, 3])}, r"context_index must be in 0..2"),
        ({"normalize": "max"}, "normalize must be 'mean' or 'sum'; got 'max'"),
        ({"top_k": 3}, r"top_k must be in 1..2, the number of candidates; got 3"),
        ({"batch_size": 0}, "batch_size must be 1 or more; got 0"),
        ({"pixel_value": torch.zeros(1)}, r"rank_answers\(\) has no argument 'pixel_value'.*pixel_values"),
        ({"encoder_outputs": torch.zeros(1, 2, 32)}, "encoder_outputs is a ready context, so pixel_values cannot"),
    ],
)
def test_bad_input_is_told_in_words(tiny_model, pixels, given, message):
    call = {"candidate_ids": torch.tensor([[5, 6], [7, 2]]), "pixel_values": pixels, **given}
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_model().rank_answers(**call)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "labels score padding"),
        ({"attention_mask": torch.tensor([[0, 0, 0]]), "labels": None}, r"without any real token: \[0\]"),
        ({"labels": torch.tensor([[5]])}, r"labels must have the shape \(1, 3\)"),
        ({"past_key_values": None}, r"score\(\) has no argument 'past_key_values'"),
        ({"context_index": torch.tensor([0])}, "there is no context for the rows to read"),
    ],
)
def test_bad_input_to_score_is_told_in_words(tiny_model, given, message):
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_model().score(**{"input_ids": ids, "labels": ids, **given})


def test_a_decoder_in_segments_has_no_states_to_keep(tiny_model, pixels):
    model = tiny_model(text_config={"segment_length": 8})
    with pytest.raises(ValueError, match="segment_length=8 carries states"):
        model.rank_answers(torch.tensor([[5, 6]]), pixel_values=pixels)
