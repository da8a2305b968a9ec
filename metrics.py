"""mm.metrics: every public metric, in one flat namespace; docs/metrics.md explains them."""

from .evaluation.answers import vqa_accuracy
from .evaluation.bert_score import bert_score
from .evaluation.bleu import bleu
from .evaluation.calibration import Calibration, calibrate, calibration_of
from .evaluation.captions import caption_scores, chrf, exact_match
from .evaluation.cider import cider, cider_d
from .evaluation.classes import auc, class_scores, label_scores, macro_auc_score, ordinal_scores, probability_scores
from .evaluation.groups import Gap, Group, GroupScores, group_scores
from .evaluation.meteor import MeteorSettings, meteor
from .evaluation.perplexity import perplexity
from .evaluation.pictures import frechet_distance, psnr, ssim
from .evaluation.retrieval import retrieval_scores, similarity_scores
from .evaluation.rouge import rouge_l
from .evaluation.scores import Score, mean_score, median_score
from .evaluation.significance import Comparison, compare, comparison_table, undecided_warnings
from .evaluation.speech import cer, wer
from .evaluation.tokens import tokenize

__all__ = [
    "Calibration",
    "Comparison",
    "Gap",
    "Group",
    "GroupScores",
    "MeteorSettings",
    "Score",
    "auc",
    "bert_score",
    "bleu",
    "calibrate",
    "calibration_of",
    "caption_scores",
    "cer",
    "chrf",
    "cider",
    "cider_d",
    "class_scores",
    "compare",
    "comparison_table",
    "exact_match",
    "frechet_distance",
    "group_scores",
    "label_scores",
    "macro_auc_score",
    "mean_score",
    "median_score",
    "meteor",
    "ordinal_scores",
    "perplexity",
    "probability_scores",
    "psnr",
    "retrieval_scores",
    "rouge_l",
    "similarity_scores",
    "ssim",
    "tokenize",
    "undecided_warnings",
    "vqa_accuracy",
    "wer",
]
