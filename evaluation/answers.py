"""VQA accuracy by the rule of the VQA challenge: answers in one spelling, and the mean over nine of ten people.

The spelling and its table of contractions are those of vqaEval.py in github.com/GT-Vision-Lab/VQA (BSD-2-Clause,
Aishwarya Agrawal 2014), with its peculiarities: where all people gave the same answer nothing is spelled anew.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from .scores import Score, mean_score

SPELLINGS = ("official", "always", "lavis", "none")
ENOUGH = 4  # answers; with fewer of them, leaving one out cannot leave the three that agree
_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[: place.start()] + word[place.end() :]: word
    for word in CONTRACTED.split()
    for place in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # vqaEval.py removes no more


def _without_ends(answer: str) -> str:
    return unicodedata.normalize("NFC", answer).replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(answer: str) -> str:
    """An answer without periods; marks next to a space (or all, where a number has a comma) go, others are spaces."""
    kept = answer
    for mark in PUNCTUATION:
        apart = f"{mark} " in answer or f" {mark}" in answer or _COMMA.search(answer)
        kept = kept.replace(mark, "" if apart else " ")
    return _PERIOD.sub("", kept, _MOST_PERIODS)


def spelled_answer(answer: str) -> str:
    """An answer without punctuation and articles, in lower case, with digits for number words."""
    words = [NUMBERS.get(word, word) for word in without_punctuation(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _spelled_alike(told: str, given: list[str], spelling: str) -> tuple[str, list[str]]:
    """The prediction and the answers as they are compared."""
    several = len(set(given)) > 1
    if spelling == "lavis":
        return spelled_answer(told), [without_punctuation(answer) for answer in given] if several else given
    if spelling == "always" or (spelling == "official" and several):
        return spelled_answer(told), [spelled_answer(answer) for answer in given]
    return told, given


def vqa_score(
    prediction: str, answers: Sequence[str], spelling: str = "official", leave_one_out: bool = True
) -> float:
    """How right an answer is, 0..1, by the answers that people gave: the mean over all ways to leave one of them out
    of min(1, equal answers / 3).

    With fewer than four answers, which that rule is not made for: 1 if one of them is equal, both spelled anew.

    Args:
        spelling: "official", both sides are spelled anew unless all answers are equal; "always", both sides in any
            case; "lavis", the prediction in full and of the answers only the punctuation, so that "two" for ten
            times "two" is wrong; "none", as they are.
        leave_one_out: False: min(1, equal answers / 3) of all of them, by which three right ones have 1 and not 0.9.

    Raises: TypeError for one string instead of several answers; ValueError for none, and for another spelling.
    """
    if spelling not in SPELLINGS:
        raise ValueError(f"spelling={spelling!r}; accepted are {', '.join(SPELLINGS)}")
    if isinstance(answers, str):
        raise TypeError(f"answers is one string, {answers!r:.60}; give the list of all answers of the question")
    if not len(answers):
        raise ValueError("a question without answers has no accuracy; leave it out")
    for one in (prediction, *answers):
        if not isinstance(one, str):
            raise TypeError(f"predictions and answers are strings; got {one!r:.60}")
    told, given = _without_ends(prediction), [_without_ends(answer) for answer in answers]
    if len(given) < ENOUGH:
        told, given = _spelled_alike(told, given, "always" if spelling == "official" else spelling)
        return float(told in given)
    told, given = _spelled_alike(told, given, spelling)
    equal = np.array([answer == told for answer in given])
    others = equal.sum() - equal if leave_one_out else equal.sum()
    return float(np.minimum(1, others / 3).mean())


def vqa_accuracy(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    spelling: str = "official",
    leave_one_out: bool = True,
) -> Score:
    """VQA accuracy, 0..1: the mean of the `vqa_score` of each question. What is given is not changed."""
    if len(predictions) != len(answers) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions for the answers of {len(answers)} questions; give one each, and at least "
            "one"
        )
    if isinstance(predictions, str):
        raise TypeError(f"predictions is one string, {predictions!r:.60}; give a list with one for each question")
    pairs = zip(predictions, answers, strict=True)
    return mean_score("vqa_accuracy", [vqa_score(told, given, spelling, leave_one_out) for told, given in pairs])
