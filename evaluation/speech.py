"""Word and character error rates of transcripts, counted by jiwer (the extra `eval`).

    WER = (substituted + deleted + inserted words) / words of the reference        CER: the same of characters

Lower is better; more than 1 is possible. See docs/metrics.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .scores import References, Score, check_several, share, sum_score
from .tokens import Tokenizer, splitter


def wer(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: Tokenizer = "space",
    normalize: Callable[[str], str] | None = None,
) -> Score:
    """Word error rate of the corpus: all errors over all words of the references.

    Args:
        references: a transcript for each prediction; of several the one that is nearest counts.
        tokenizer: see `tokens.splitter`; "characters" or "ptb" for Chinese. Texts are compared in lower case.
        normalize: of both sides before they are split, such as Whisper's normaliser, which removes punctuation.

    Returns: `per_item`, nan for a reference without words, whose inserted words count in `value`; `details`:
        substituted, deleted, inserted, words.

    Raises:
        TypeError, ValueError: for what is no sequence of strings, unequal numbers, or an unknown tokenizer.
        ModuleNotFoundError: jiwer is not installed.
    """
    import jiwer

    split = splitter(tokenizer)
    return _rate("wer", predictions, references, normalize, lambda text: _one_space(split(text)), jiwer.process_words)


def cer(predictions: Sequence[str], references: References, *, normalize: Callable[[str], str] | None = None) -> Score:
    """Character error rate of the corpus, spaces between words counted, as jiwer does. Arguments as for `wer`."""
    import jiwer

    split = splitter("space")
    return _rate(
        "cer", predictions, references, normalize, lambda text: " ".join(split(text)), jiwer.process_characters
    )


def _one_space(words: list[str]) -> str:
    return " ".join(words)  # what jiwer splits at, and no other space


def _rate(
    name: str,
    predictions: Sequence[str],
    references: References,
    normalize: Callable[[str], str] | None,
    spelled: Callable[[str], str],
    process: Callable[[list[str], list[str]], Any],
) -> Score:
    several = check_several(predictions, references)
    owner = np.array([number for number, truth in enumerate(several) for _ in truth])
    clean = spelled if normalize is None else lambda text: spelled(normalize(text))
    told = [clean(text) for text in predictions]
    counted = _errors(process([clean(text) for truth in several for text in truth], [told[item] for item in owner]))
    errors, length = counted[:, 0], counted[:, 1]
    rates = np.where(length > 0, errors / np.maximum(length, 1), np.where(errors > 0, np.inf, 0))
    order = np.lexsort((rates, owner))  # the nearest reference of each, the first of those that are equal
    rows = counted[order[np.searchsorted(owner[order], np.arange(len(told)))]]
    names = ("words" if name == "wer" else "characters", "substituted", "deleted", "inserted")
    details = dict(zip(names, rows[:, 1:].sum(0).tolist(), strict=True))
    return sum_score(name, rows, share, best=0.0, higher_is_better=False, details=details)


def _errors(output: Any) -> np.ndarray:
    """(R, 5): errors, length of the reference, substituted, deleted and inserted, of what jiwer found."""
    rows = np.zeros((len(output.alignments), 5))
    for row, truth, chunks in zip(rows, output.references, output.alignments, strict=True):
        for chunk in chunks:
            if chunk.type == "insert":
                row[4] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                row[2 if chunk.type == "substitute" else 3] += chunk.ref_end_idx - chunk.ref_start_idx
        row[0], row[1] = row[2:].sum(), len(truth)
    return rows
