"""What a step may write, and the noise of rows."""

import pytest
import torch
from transformers.generation.logits_process import LogitsProcessorList

from mm.modeling_mm.tasks.picture_grammar import FREE, KnownIds, PictureGrammar, RowNoise, SeededChoice
from small_drawer import small_drawer, small_processor

BEGIN, END, MASK, FIRST, EOS = 14, 15, 16, 17, 3
CONFIG = small_drawer(small_processor()).config


def allowed(row: list[int], ends: list[int] | None = None) -> list[int]:
    scores = PictureGrammar(CONFIG, [EOS] if ends is None else ends)(torch.tensor([row]), torch.zeros(1, 44))
    return scores[0].isfinite().nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([2], range(14)),
        ([2, 5, 6], range(14)),
        ([2, BEGIN], range(FIRST, 44)),
        ([0, 2, 5, BEGIN, *[FIRST] * 15], range(FIRST, 44)),
        ([2, BEGIN, *[FIRST] * 16], [END]),
        ([2, BEGIN, *[FIRST] * 16, END], [EOS]),
        ([2, BEGIN, *[FIRST] * 16, END, EOS, 0], [EOS]),
    ],
)
def test_what_follows(row, expected):
    assert allowed(row) == [*expected]


def test_without_an_end_of_texts_the_end_of_the_picture_stays():
    assert allowed([2, BEGIN, *[FIRST] * 16, END], []) == [END]


def test_rows_of_a_batch_have_their_own_states():
    rows = torch.tensor([[2, 5, 6], [0, 2, BEGIN]])
    scores = PictureGrammar(CONFIG, [EOS])(rows, torch.zeros(2, 44))
    assert scores.isfinite().sum(1).tolist() == [14, 27]


def test_known_ids_are_the_only_choice_at_their_place():
    known = torch.tensor([[FIRST + 1, FREE], [FREE, FREE]])
    rows = torch.tensor([[2, BEGIN]] * 2)
    scores = KnownIds(known, 2)(rows, torch.zeros(2, 44))
    assert scores.isfinite().sum(1).tolist() == [1, 44] and int(scores[0].argmax()) == FIRST + 1
    after = torch.cat([rows, rows], 1)
    assert torch.equal(KnownIds(known, 2)(after, torch.zeros(2, 44)), torch.zeros(2, 44))


def test_a_row_of_noise_is_the_same_beside_any_others():
    one = RowNoise([7]).gumbel((1, 5), torch.device("cpu"))
    three = RowNoise([1, 7, 2]).gumbel((3, 5), torch.device("cpu"))
    assert torch.equal(three[1:2], one) and bool(three.isfinite().all())


def test_a_seeded_choice_samples_by_the_scores():
    """Of codes with chances 1/2, 1/4, 1/4: counts within five standard deviations."""
    scores = torch.full((4000, 44), -torch.inf)
    scores[:, FIRST : FIRST + 3] = torch.tensor([0.5, 0.25, 0.25]).log()
    chosen = SeededChoice(RowNoise([*range(4000)]), CONFIG)(torch.zeros(4000, 2), scores)
    assert chosen.isfinite().sum(1).unique().tolist() == [1]
    counts = torch.bincount(chosen.argmax(1) - FIRST, minlength=3).tolist()
    assert abs(counts[0] - 2000) < 160 and abs(counts[1] - 1000) < 140


def test_the_choice_by_seeds_is_the_last_processor():
    """After temperature and top_k, which generate() adds after those of the caller."""
    model = small_drawer(small_processor())
    settings = model.generation_config
    settings.update(do_sample=True, top_k=5, temperature=0.7)
    choice = SeededChoice(RowNoise([0]), model.config)
    found = model._get_logits_processor(settings, 1, logits_processor=LogitsProcessorList([choice]), device="cpu")
    assert found[-1] is choice and isinstance(found[0], PictureGrammar)
