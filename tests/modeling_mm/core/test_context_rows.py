"""MMRows: rows folded into query positions give what a loop over rows gives."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch

from mm.modeling_mm.core.context_rows import MMRows

# (contexts, the context of each row, the index as given)
PLANS = {
    "one row each": (3, [0, 1, 2], None),
    "two rows each, contiguous": (3, [0, 0, 1, 1, 2, 2], None),
    "contiguous, said by an index": (3, [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
    "sorted, ragged": (3, [0, 0, 0, 1, 2, 2], [0, 0, 0, 1, 2, 2]),
    "unsorted, ragged": (3, [2, 0, 1, 0, 0], [2, 0, 1, 0, 0]),
    "unsorted, equal counts": (2, [1, 0, 1, 0], [1, 0, 1, 0]),
    "contexts that no row reads": (4, [3, 1, 1], [3, 1, 1]),
    "all rows on one context": (1, [0, 0, 0], [0, 0, 0]),
    "fewer rows than contexts": (3, [2], [2]),
}
HEADS, LENGTH, WIDTH, KEYS = 2, 3, 4, 5


@pytest.fixture(params=PLANS, ids=str)
def plan(request):
    """(MMRows, the context of each row)."""
    contexts, reads, index = PLANS[request.param]
    return MMRows(len(reads), contexts, None if index is None else torch.tensor(index)), reads


def test_folded_attention_is_the_attention_of_each_row(plan):
    rows, reads = plan
    torch.manual_seed(0)
    query = torch.randn(rows.num_rows, LENGTH, HEADS, WIDTH, dtype=torch.float64).transpose(1, 2)  # as projected
    key = torch.randn(rows.num_contexts, HEADS, KEYS, WIDTH, dtype=torch.float64)
    folded = rows.fold(query)
    assert folded.shape == (rows.num_contexts, HEADS, rows.rows_per_context * LENGTH, WIDTH)
    attended = (torch.softmax(folded @ key.transpose(2, 3), -1) @ key).transpose(1, 2)  # (B, k*T, H, D)
    unfolded = rows.unfold(attended, LENGTH)
    assert unfolded.shape == (rows.num_rows, LENGTH, HEADS, WIDTH)
    for row, context in enumerate(reads):
        expected = (torch.softmax(query[row] @ key[context].transpose(1, 2), -1) @ key[context]).transpose(0, 1)
        torch.testing.assert_close(unfolded[row], expected, rtol=0, atol=1e-14)


def test_unfold_undoes_fold(plan):
    rows, _ = plan
    states = torch.randn(rows.num_rows, HEADS, LENGTH, WIDTH)
    assert torch.equal(rows.unfold(rows.fold(states).transpose(1, 2), LENGTH), states.transpose(1, 2))


def test_per_row_gives_each_row_its_context(plan):
    rows, reads = plan
    values = torch.randn(rows.num_contexts, 2)
    assert torch.equal(rows.per_row(values), torch.stack([values[context] for context in reads]))
    assert rows.index().tolist() == reads


def test_gradients_pass_through_fold_and_unfold_to_each_row_once(plan):
    rows, _ = plan
    states = torch.randn(rows.num_rows, HEADS, LENGTH, WIDTH, requires_grad=True)
    rows.unfold(rows.fold(states).transpose(1, 2), LENGTH).sum().backward()
    assert torch.equal(states.grad, torch.ones_like(states))


@pytest.mark.parametrize("name", ["one row each", "contiguous, said by an index"])
def test_rows_in_order_are_folded_without_a_gather(name):
    contexts, reads, index = PLANS[name]
    rows = MMRows(len(reads), contexts, None if index is None else torch.tensor(index))
    assert rows.context_index is None and rows.row_at is None
    if name == "one row each":
        states = torch.randn(rows.num_rows, HEADS, LENGTH, WIDTH)
        assert rows.fold(states).data_ptr() == states.data_ptr()


def test_a_plan_agrees_with_an_index_that_says_the_same():
    rows = MMRows(4, 2)
    assert rows.agrees_with(torch.tensor([0, 0, 1, 1])) and not rows.agrees_with(torch.tensor([0, 1, 0, 1]))
    assert not rows.agrees_with(torch.tensor([0, 0, 1]))
    given = torch.tensor([1, 0, 1])
    ragged = MMRows(3, 2, given)
    assert ragged.agrees_with(given) and ragged.agrees_with(given.int()) and not ragged.agrees_with(1 - given)


@pytest.mark.parametrize(
    ("rows", "contexts", "index", "error", "message"),
    [
        (3, 2, None, ValueError, "3 text rows and 2 contexts: without context_index the rows must be a multiple"),
        (2, 3, None, ValueError, "2 text rows and 3 contexts"),
        (2, 0, None, ValueError, "2 text rows and 0 contexts"),
        (2, 2, torch.tensor([0, 2]), ValueError, r"context_index must be in 0..1; got 0..2"),
        (2, 2, torch.tensor([-1, 0]), ValueError, r"context_index must be in 0..1; got -1..0"),
        (2, 2, torch.tensor([0]), ValueError, r"context_index must be int64 \(2,\), one context per text row; got"),
        (2, 2, torch.tensor([[0, 1]]), ValueError, r"context_index must be int64 \(2,\)"),
        (2, 2, torch.tensor([0.0, 1.0]), ValueError, "context_index must be int64 .* got torch.float32"),
        (2, 2, torch.tensor([False, True]), ValueError, "context_index must be int64 .* got torch.bool"),
        (2, 2, [0, 1], TypeError, "context_index must be a tensor; got list"),
    ],
)
def test_a_wrong_mapping_is_refused_in_words(rows, contexts, index, error, message):
    with pytest.raises(error, match=message):
        MMRows(rows, contexts, index)
