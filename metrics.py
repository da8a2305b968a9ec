"""mm.metrics: every public metric, in one flat namespace; docs/metrics.md explains them."""

from .evaluation.bert_score import bert_score
from .evaluation.bleu import bleu
from .evaluation.captions import caption_scores, chrf, exact_match
from .evaluation.cider import cider, cider_d
from .evaluation.meteor import MeteorSettings, meteor
from .evaluation.perplexity import perplexity
from .evaluation.rouge import rouge_l
from .evaluation.scores import Score, mean_score
from .evaluation.significance import Comparison, compare, comparison_table, undecided_warnings
from .evaluation.speech import cer, wer
from .evaluation.tokens import tokenize

__all__ = [
    "Comparison",
    "MeteorSettings",
    "Score",
    "bert_score",
    "bleu",
    "caption_scores",
    "cer",
    "chrf",
    "cider",
    "cider_d",
    "compare",
    "comparison_table",
    "exact_match",
    "mean_score",
    "meteor",
    "perplexity",
    "rouge_l",
    "tokenize",
    "undecided_warnings",
    "wer",
]
