"""BERTScore: how alike captions are in the token vectors of a text model that the caller has on disk.

    P = mean over tokens of the caption of the highest cosine with a token of the reference;  R: the other way round
    F = 2 P R / (P + R)

Of several references the one with the highest F counts (Zhang et al. 2020). Nothing is downloaded. See
docs/metrics.md.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .scores import References, Score, check_several, mean_score

PAIRS = 512  # whose vectors are in memory at a time


def bert_score(
    predictions: Sequence[str],
    references: References,
    model: str | PathLike,
    *,
    layer: int | None = None,
    idf: bool = False,
    batch_size: int = 64,
    device: str = "cpu",
) -> Score:
    """BERTScore F, at most 1; `per_item` is of each caption, `value` their mean, `details` holds precision and recall.

    Args:
        references: a caption for each prediction, or several.
        model: the folder of a text encoder and its tokenizer, as `save_pretrained` writes it.
        layer: whose vectors are compared, from 1; None: the last. The paper chose 9 for bert-base-uncased and 17 for
            roberta-large.
        idf: tokens that few references have count more.

    Texts are compared in NFC, with their case. Tokens such as [CLS] are there to be matched and count nothing, as in
    the package bert-score; an empty caption has 0. Cosines are not rescaled by a baseline.

    Raises:
        OSError: no folder, or without a model.
        ValueError: an unknown layer, idf of fewer than two references, or a text that is too long for the model.
    """
    import torch

    several = check_several(predictions, references)
    if not Path(model).is_dir():
        raise OSError(f"{model} is no folder; give one with a text encoder and its tokenizer, nothing is downloaded")
    told = [_clean(text) for text in predictions]
    truth = [_clean(text) for texts in several for text in texts]
    owner = np.array([number for number, texts in enumerate(several) for _ in texts])
    encoder = _Encoder(model, layer, batch_size, device)
    weights = _rarity(encoder, truth) if idf else None
    rows = np.zeros((len(truth), 3))
    with torch.inference_mode():
        for start in range(0, len(truth), PAIRS):
            chunk = range(start, min(start + PAIRS, len(truth)))
            vectors = encoder({told[owner[n]] for n in chunk} | {truth[n] for n in chunk})
            for n in chunk:
                rows[n] = _compared(vectors[told[owner[n]]], vectors[truth[n]], weights)
    order = np.lexsort((-rows[:, 2], owner))
    best = rows[order[np.searchsorted(owner[order], np.arange(len(told)))]]
    precision, recall, f = best.T
    return mean_score("bert_score", f, details={"precision": precision.mean(), "recall": recall.mean()})


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


class _Encoder:
    """{text: (token ids, whether each counts, unit vectors)} of a set of texts."""

    def __init__(self, model: str | PathLike, layer: int | None, batch_size: int, device: str):
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self.model: Any = AutoModel.from_pretrained(model, local_files_only=True).eval().to(device)
        layers = self.model.config.num_hidden_layers
        if layer is not None and not 1 <= layer <= layers:
            raise ValueError(f"layer={layer}; the model has layers 1 to {layers}")
        self.layer = layers if layer is None else layer
        self.batch_size = batch_size
        self.longest = min(
            getattr(self.model.config, "max_position_embeddings", None) or math.inf, self.tokenizer.model_max_length
        )

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        for text, tokens in zip(texts, found, strict=True):
            if len(tokens) > self.longest:
                raise ValueError(f"{text:.40}... has {len(tokens)} tokens; the model reads {self.longest}")
        return found

    def __call__(self, texts: set[str]) -> dict[str, tuple]:
        import torch

        ordered = sorted(texts, key=lambda text: (len(text), text))  # little padding
        vectors = {}
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            tokens = self.tokens(batch)
            inputs = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.model.device)
            states = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer].float().cpu()
            units = torch.nn.functional.normalize(states, dim=-1)
            for text, ids, mask, unit in zip(batch, tokens, inputs["attention_mask"].cpu(), units, strict=True):
                counts = [token not in self.tokenizer.all_special_ids for token in ids]
                vectors[text] = (ids, torch.tensor(counts, dtype=torch.float32), unit[mask.bool()])
        return vectors


def _rarity(encoder: _Encoder, truth: list[str]) -> Mapping[int, float]:
    """log((references + 1) / (references with the token + 1)) for each token."""
    if len(truth) < 2:
        raise ValueError(f"idf=True with {len(truth)} reference: every token is in all of them; give at least two")
    having = Counter(token for tokens in encoder.tokens(truth) for token in {*tokens})
    return {token: math.log((len(truth) + 1) / (count + 1)) for token, count in having.items()} | {
        -1: math.log(len(truth) + 1)  # of a token that no reference has
    }


def _compared(told: tuple, truth: tuple, rarity: Mapping[int, float] | None) -> tuple[float, float, float]:
    """(P, R, F) of two texts."""
    import torch

    cosines = told[2] @ truth[2].T
    parts = []
    for (ids, counts, _), best in ((told, cosines.amax(1)), (truth, cosines.amax(0))):
        weights = counts
        if rarity is not None:
            weights = counts * torch.tensor([rarity.get(token, rarity[-1]) for token in ids])
        parts.append(float(weights @ best / weights.sum()) if weights.sum() > 0 else 0.0)
    precision, recall = parts
    empty = not told[1].any() or not truth[1].any()
    if empty or precision + recall <= 0:
        return 0.0, 0.0, 0.0
    return precision, recall, 2 * precision * recall / (precision + recall)
