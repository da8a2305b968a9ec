"""Beams: a beam search in numpy, over anything that gives logits.

R texts, k beams of each, V vocabulary, T tokens of a prompt, N new tokens.
"""

import numpy as np

NEVER = np.float32(-1e9)


class Beams:
    """The hypotheses of R texts, as Transformers' beam search has them with early_stopping=False.

    Of the 2k likeliest continuations of a text those that end may be kept as finished, if they are among the first k;
    the k best of the others continue. The score of a finished one is its log-probability / length ** length_penalty.

    Args:
        prompts: int64 (R, T). num_beams: k. ends: ids that end a text. pad: the id after an end.
        max_new_tokens: at most N; texts that have not ended by then end there.
    """

    def __init__(
        self,
        prompts: np.ndarray,
        num_beams: int,
        ends: list[int],
        pad: int,
        max_new_tokens: int,
        length_penalty: float,
    ):
        rows = len(prompts)
        self.prompts, self.ends, self.pad, self.limit = prompts, ends, pad, max_new_tokens
        self.num_beams, self.length_penalty = num_beams, length_penalty
        self.running = np.zeros((rows, num_beams, 0), np.int64)  # the new tokens of those that continue
        self.scores = np.full((rows, num_beams), NEVER)
        self.scores[:, 0] = 0  # all beams of a text are its prompt: one of them counts
        self.finished = np.zeros((rows, num_beams, max_new_tokens), np.int64)
        self.finished_scores = np.full((rows, num_beams), NEVER)
        self.is_finished = np.zeros((rows, num_beams), bool)
        self.may_improve = np.ones((rows, 1), bool)
        self.is_done = False

    def step(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Continues by one token.

        Args:
            logits: (R * k, V), of the beams in the order of the last step's.

        Returns: ids (R * k, 1) of the next call, and int64 (R * k,), the beam whose keys each of them continues.
        """
        rows, kept = len(self.prompts), max(2, 1 + len(self.ends)) * self.num_beams
        logits = logits - logits.max(-1, keepdims=True)
        likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        vocabulary = logits.shape[-1]
        total = (likely.reshape(rows, self.num_beams, -1) + self.scores[..., None]).reshape(rows, -1)
        best = _largest(total, kept)
        scores, beams, tokens = np.take_along_axis(total, best, 1), best // vocabulary, best % vocabulary
        texts = np.concatenate([_chosen(self.running, beams), tokens[..., None]], axis=-1)
        length = texts.shape[-1]
        ended = np.isin(tokens, self.ends) | (length == self.limit)
        self._finish(texts, scores, ended & (np.arange(kept) < self.num_beams))
        open_scores = scores + np.where(ended, NEVER, np.float32(0))
        going = _largest(open_scores, self.num_beams)
        self.running, self.scores = _chosen(texts, going), np.take_along_axis(open_scores, going, 1)
        worst = np.where(self.is_finished, self.finished_scores.min(1, keepdims=True), NEVER)
        self.may_improve &= (self.scores[:, :1] / length**self.length_penalty > worst).any(1, keepdims=True)
        self.is_done = not self.may_improve.any() or bool(ended.all())
        sources = np.take_along_axis(beams, going, 1) + np.arange(rows)[:, None] * self.num_beams
        return self.running[..., -1].reshape(-1, 1), sources.reshape(-1)

    def _finish(self, texts: np.ndarray, scores: np.ndarray, ended: np.ndarray) -> None:
        """Keeps the k best of those finished before and those that end now."""
        length = texts.shape[-1]
        scores = scores / np.float32(length**self.length_penalty)
        scores = scores + np.where(ended, np.float32(0), NEVER) + np.where(self.may_improve, np.float32(0), NEVER)
        padding = np.full((*texts.shape[:2], self.limit - length), self.pad)
        all_texts = np.concatenate([self.finished, np.concatenate([texts, padding], -1)], axis=1)
        all_scores = np.concatenate([self.finished_scores, scores], axis=1)
        are_finished = np.concatenate([self.is_finished, ended], axis=1)
        best = _largest(all_scores, self.num_beams)
        self.finished, self.finished_scores = _chosen(all_texts, best), np.take_along_axis(all_scores, best, 1)
        self.is_finished = np.take_along_axis(are_finished, best, 1)

    def best(self) -> np.ndarray:
        """int64 (R, T + N), the prompts with the likeliest text of each; as long as the longest of these."""
        texts = np.concatenate([self.prompts, self.finished[:, 0]], axis=1)
        used = (self.finished[:, 0] != self.pad).any(0).nonzero()[0]
        return texts[:, : self.prompts.shape[1] + (int(used[-1]) + 1 if len(used) else 0)]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places (R, count) of the largest of (R, n), the largest first."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def _chosen(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(R, n, ...) at places (R, m)."""
    return values[np.arange(len(values))[:, None], places]
