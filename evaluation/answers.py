"""VQA accuracy by the rule of the VQA challenge: answers in one spelling, and the mean over nine of ten people.

The spelling and its table of contractions are those of vqaEval.py in github.com/GT-Vision-Lab/VQA (BSD-2-Clause,
Aishwarya Agrawal 2014), with its peculiarities: where all people gave the same answer nothing is spelled anew.
"""

import re
from collections.abc import Sequence

import numpy as np

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
    return answer.replace("\n", " ").replace("\t", " ").strip()


def spelled_answer(answer: str) -> str:
    """An answer without punctuation and articles, in lower case, with digits for number words."""
    kept = answer
    for mark in PUNCTUATION:
        apart = f"{mark} " in answer or f" {mark}" in answer or _COMMA.search(answer)
        kept = kept.replace(mark, "" if apart else " ")
    kept = _PERIOD.sub("", kept, _MOST_PERIODS)
    words = [NUMBERS.get(word, word) for word in kept.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """How right an answer is, 0..1, by the answers that people gave: the mean over all ways to leave one of them out
    of min(1, equal answers / 3).

    With fewer than four answers, which that rule is not made for: 1 if one of them is equal, both spelled anew.

    Raises: TypeError for one string instead of several answers; ValueError for none.
    """
    if isinstance(answers, str):
        raise TypeError(f"answers is one string, {answers!r:.60}; give the list of all answers of the question")
    if not answers:
        raise ValueError("a question without answers has no accuracy; leave it out")
    told, given = _without_ends(prediction), [_without_ends(answer) for answer in answers]
    if len(given) < ENOUGH:
        return float(spelled_answer(told) in {spelled_answer(answer) for answer in given})
    if len(set(given)) > 1:
        told, given = spelled_answer(told), [spelled_answer(answer) for answer in given]
    equal = np.array([answer == told for answer in given])
    return float(np.minimum(1, (equal.sum() - equal) / 3).mean())


def vqa_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 (n,): `vqa_score` of each question. VQA accuracy is their mean."""
    if len(predictions) != len(answers) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions for the answers of {len(answers)} questions; give one each, and at least "
            "one"
        )
    return np.array([vqa_score(told, given) for told, given in zip(predictions, answers, strict=True)])
