"""The metrics beside public implementations, on generated captions and on the sentences of this package's pages.

sacrebleu and jiwer are there. The others are heavy or bring Java, and `make test-metrics` fetches them.
"""

import random
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from mm.evaluation.bleu import bleu
from mm.evaluation.captions import chrf
from mm.evaluation.cider import cider_d
from mm.evaluation.meteor import meteor
from mm.evaluation.rouge import rouge_l
from mm.evaluation.tokens import tokenize

WORDS = "a a a the man dog dogs runs running sits on in of red big small grass table with and two".split()


def generated() -> tuple[list[str], list[list[str]]]:
    draw = random.Random(0)
    captions = [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(1200)]
    return captions[:200], [captions[200 + n : 200 + n + draw.randint(1, 6)] for n in range(0, 1000, 5)]


def written() -> tuple[list[str], list[list[str]]]:
    """Sentences of the pages, as words, beside the same with words left out and moved."""
    draw = random.Random(1)
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    lines = [" ".join(tokenize(line, "words")) for page in pages for line in page.read_text("utf-8").splitlines()]
    lines = [line for line in lines if len(line.split()) > 5 and line.isascii() and "_" not in line][:300]

    def changed(line: str) -> str:
        words = [word for word in line.split() if draw.random() < 0.8] or ["none"]
        return " ".join(words[2:] + words[:2])

    return [changed(line) for line in lines], [[line, changed(line)] for line in lines]


CORPORA = {"generated": generated, "written": written}
both_corpora = pytest.mark.parametrize("told, truth", [make() for make in CORPORA.values()], ids=CORPORA)


def close(ours, theirs) -> None:
    assert np.allclose(ours, theirs, rtol=0, atol=1e-6), np.abs(np.subtract(ours, theirs)).max()


@both_corpora
def test_bleu_and_chrf_are_sacrebleus(told, truth):
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    most = max(map(len, truth))
    padded = [[one[n] if n < len(one) else None for one in truth] for n in range(most)]
    score = bleu(told, truth, tokenizer="space")
    close(score.value, BLEU(tokenize="none").corpus_score(told, padded).score / 100)
    alone = BLEU(tokenize="none", effective_order=True)
    close(score.per_item, [alone.sentence_score(p, r).score / 100 for p, r in zip(told, truth, strict=True)])
    close(chrf(told, truth).value, CHRF().corpus_score(told, padded).score)
    close(chrf(told, truth).per_item, [CHRF().sentence_score(p, r).score for p, r in zip(told, truth, strict=True)])


@pytest.mark.slow
@both_corpora
def test_bleu_cider_and_rouge_are_those_of_pycocoevalcap(told, truth):
    reason = "pip install --no-deps pycocoevalcap"
    theirs = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=reason).Bleu(4)
    given = dict(enumerate(truth)), {n: [caption] for n, caption in enumerate(told)}
    values, rows = theirs.compute_score(*given, verbose=0)
    for n in range(4):
        score = bleu(told, truth, n + 1, tokenizer="space", smoothing="coco")
        close(score.value, values[n])
        close(score.per_item, rows[n])
        if values[n] > 1e-3:  # some n-gram of each length matches, so that nothing is smoothed
            close(bleu(told, truth, n + 1, tokenizer="space").value, values[n])
    value, rows = pytest.importorskip("pycocoevalcap.cider.cider", reason=reason).Cider().compute_score(*given)
    close(cider_d(told, truth, tokenizer="space").value, value)
    close(cider_d(told, truth, tokenizer="space").per_item, rows)
    close(cider_d(told, truth, tokenizer="space", corpus=truth).per_item, rows)
    value, rows = pytest.importorskip("pycocoevalcap.rouge.rouge", reason=reason).Rouge().compute_score(*given)
    close(rouge_l(told, truth, tokenizer="space", best="coco").value, value)
    close(rouge_l(told, truth, tokenizer="space", best="coco").per_item, rows)


@pytest.mark.slow
@both_corpora
def test_rouge_l_is_that_of_rouge_score(told, truth):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install rouge-score").RougeScorer(["rougeL"])
    rows = [scorer.score_multi(refs, one)["rougeL"].fmeasure for one, refs in zip(told, truth, strict=True)]
    close(rouge_l(told, truth, tokenizer="words", beta=1).per_item, rows)


@pytest.mark.slow
@both_corpora
def test_meteor_is_that_of_nltk_or_finds_fewer_chunks(told, truth):
    theirs = pytest.importorskip("nltk.translate.meteor_score", reason="pip install nltk").meteor_score
    stemmer = pytest.importorskip("nltk.stem", reason="pip install nltk").PorterStemmer()

    class NoSynonyms:
        def synsets(self, word):
            return []

    rows = np.array(
        [
            theirs([one.split() for one in refs], caption.split(), stemmer=stemmer, wordnet=NoSynonyms())
            for caption, refs in zip(told, truth, strict=True)
        ]
    )
    ours = meteor(told, truth, tokenizer="space", stemmer=stemmer.stem).per_item
    assert (ours >= rows - 1e-6).all() and (np.abs(ours - rows) < 1e-6).mean() > 0.5
    once = [
        n
        for n, (caption, refs) in enumerate(zip(told, truth, strict=True))
        if all(len({*map(stemmer.stem, one.split())}) == len(one.split()) for one in (caption, *refs))
    ]
    close(ours[once], rows[once])  # where no word comes twice there is one alignment


@pytest.mark.slow
@both_corpora
def test_cider_d_is_that_of_aac_metrics(told, truth, monkeypatch):
    reason = "pip install --no-deps aac-metrics pythonwrench torchmetrics lightning-utilities"
    for heavy in ("msclap", "requests", "sentence_transformers"):  # its CIDEr-D does without, its package imports them
        monkeypatch.setitem(sys.modules, heavy, MagicMock())
    theirs = pytest.importorskip("aac_metrics.functional.cider_d", reason=reason, exc_type=ImportError).cider_d
    corpus, rows = theirs(told, truth)
    score = cider_d(told, truth, tokenizer="space")
    close(score.value, float(corpus["cider_d"]))
    close(score.per_item, rows["cider_d"].numpy())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Stanford's tokeniser needs Java")
def test_coco_words_are_those_of_stanfords_tokeniser():
    """On sentences of the pages without marks of code; names of files have other tokens."""
    stanford = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pip install pycocoevalcap")
    pages = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
    lines = [re.sub(r"[`*#|]", " ", line) for page in pages for line in page.read_text("utf-8").splitlines()]
    lines = [line for line in lines if 3 < len(line.split()) < 30 and line.isascii()]
    lines = [line for line in lines if not re.search(r"[_<>=/{}~@]|--|\.[\w.]", line)]
    found = stanford.PTBTokenizer().tokenize({n: [{"caption": line}] for n, line in enumerate(lines)})
    equal = [" ".join(tokenize(line, "coco")) == found[n][0] for n, line in enumerate(lines)]
    assert len(lines) > 300 and np.mean(equal) > 0.98, [
        line for line, same in zip(lines, equal, strict=True) if not same
    ]
