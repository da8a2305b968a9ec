"""Answers out of a closed list, ranked by their likelihood, and the log-likelihood of given texts.

A log-likelihood is of the decoder's next-token distribution: log p(token | context, prompt, the tokens before it), in
fp32 at least. The eos of an answer is a token like any other: it counts if the ids contain it. Without it "red" is the
beginning of "red car" and not another answer.

B contexts, R rows (prompts), C candidates, T text tokens, Ta tokens of a candidate, V vocabulary, D hidden_size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from ...configuration.base import nearest
from ..core.cache import MMCache
from ..core.context_rows import MMRows
from ..core.input_checks import check_candidates, check_labels, check_tensors, check_text
from ..core.inputs_outputs import READY, MediaInputs, MMContextOutput, MMOutput
from ..core.linear import capped, linear
from ..core.prefix import answer_types
from ..fusion.context import slice_contexts, trim_context
from ..losses.token_losses import IGNORED
from ..model import MMModel
from .prefix_trie import alphabetical, trie_levels

_CONTEXT = (*MediaInputs.__annotations__, *READY)


def _reject(method: str, given: dict[str, Any], accepted: tuple[str, ...]) -> None:
    for name in given:
        if name not in accepted:
            raise TypeError(f"{method}() has no argument {name!r}{nearest(name, accepted)}")


def _real(name: str, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """bool (n, T), the real tokens. Raises ValueError if a row has none."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.ndim != 2:
        raise ValueError(f"{name} must be {tuple(ids.shape)}, 1 = real; got {tuple(mask.shape)}")
    real = mask.bool()
    empty = torch.nonzero(~real.any(1))[:, 0].tolist()
    if empty:
        raise ValueError(f"{name} has rows without any real token: {empty}; each needs one at least")
    return real


def _mask_of(real: torch.Tensor) -> torch.Tensor | None:
    """None where nothing is padding, which spares a mask."""
    return None if bool(real.all()) else real


def _previous(real: torch.Tensor) -> torch.Tensor:
    """int64 (n, T - 1): the column of the real token before each column except the first; -1: none."""
    columns = torch.arange(real.shape[1], device=real.device).expand_as(real)
    return columns.masked_fill(~real, -1).cummax(1).values[:, :-1]


@dataclass
class MMRankOutput(MMOutput):
    """What `rank_answers` returns. C candidates, Ta tokens of a candidate.

    scores: (R, C), log-likelihoods in the candidates' order, summed or per token; -inf: left out by top_k.
    indices: int64 (R, C), the candidates best first; under top_k the (R, top_k) that were scored.
    token_scores: (R, C, Ta), of each token in its own column, 0 on padding; of those left out only the first token's.
    """

    scores: torch.Tensor | None = None
    indices: torch.Tensor | None = None
    token_scores: torch.Tensor | None = None


@dataclass
class MMScoreOutput(MMOutput):
    """What `score` returns.

    token_scores: (R, T - 1), the log-likelihood of tokens 1..T - 1, 0 where nothing is scored.
    scores: (R,), their sums; lengths: int64 (R,), how many they are.
    """

    token_scores: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    lengths: torch.Tensor | None = None


class MMRanking:
    """What MMForConditionalGeneration can say of texts that are given."""

    config: Any
    generation_config: Any
    device: Any
    model: MMModel
    lm_head: nn.Module
    lm_head_transform: nn.Module

    @torch.no_grad()
    def rank_answers(
        self,
        candidate_ids: torch.Tensor,
        candidate_attention_mask: torch.Tensor | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        context_index: torch.Tensor | None = None,
        context_ranges: torch.Tensor | None = None,
        encoder_outputs=None,
        normalize: str = "mean",
        top_k: int | None = None,
        batch_size: int = 128,
        prefix_trie: bool = False,
        **media,
    ) -> MMRankOutput:
        """Ranks a closed list of answers for every row: contexts are encoded once, prompts read once.

        Args:
            candidate_ids: int64 (C, Ta), the tokens that follow a prompt, eos too where an answer ends with it.
            candidate_attention_mask: (C, Ta), 1 = real, padding on either side; None: no padding.
            input_ids, attention_mask: (R, T), the prompts, padding on either side; None: only bos, for each entry of
                context_index or for each context.
            context_index: int64 (R,), row -> context; None: R = k*B, contiguous.
            context_ranges: of the prompts, as in `forward`; answers read what the last column of their prompt reads.
            encoder_outputs, media: the contexts, ready or to be encoded, as in `forward`.
            normalize: "sum": the log-likelihood of the whole answer; "mean": per token, so that long answers are not
                worse for their length.
            top_k: score only this number of answers of each row in full, those with the likeliest first token (BLIP's
                way with thousands of answers); the others score -inf. None: all of them, exactly.
            batch_size: rows of answers that the decoder reads at a time.
            prefix_trie: common beginnings of answers are read once, token by token: faster for thousands of answers
                that share their beginnings, slower for few. The same scores; not together with top_k.
        Returns: see `MMRankOutput`. Raises: ValueError or TypeError for bad input.
        """
        _reject("rank_answers", media, _CONTEXT)
        check_tensors(context_ranges=context_ranges)
        check_candidates(self.config, candidate_ids, candidate_attention_mask)
        _check_settings(normalize, top_k, batch_size, prefix_trie, len(candidate_ids))
        real = _real("candidate_attention_mask", candidate_ids, candidate_attention_mask)
        if input_ids is not None:
            check_text(self.config.text_config, input_ids, None, attention_mask, read_values=self.config.check_inputs)
        elif attention_mask is not None:
            raise ValueError("attention_mask was given without input_ids: it says which of their tokens are real")
        context = self._context(encoder_outputs, media)
        if input_ids is None:
            input_ids = self._bos_prompts(context, context_index)
        seen = _real("attention_mask", input_ids, attention_mask)
        places = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)  # real tokens first, order kept
        answers, real = candidate_ids.gather(1, places), real.gather(1, places)
        sizes = batch_size, prefix_trie
        blocks = [
            (rows, *self._answer(input_ids[rows], seen[rows], part, index, ranges, (answers, real), top_k, sizes))
            for rows, part, index in self._blocks(len(input_ids), context, context_index, batch_size)
            for ranges in [None if context_ranges is None else context_ranges[rows]]
        ]
        order, tokens, scored = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        order = torch.argsort(order)
        tokens, scored = tokens[order], scored[order]  # (R, C, Ta), (R, C)
        scores = tokens.sum(-1) / (real.sum(1) if normalize == "mean" else 1)
        scores = scores.masked_fill(~scored, -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        tokens = torch.zeros_like(tokens).scatter(2, places.expand_as(tokens), tokens)
        return MMRankOutput(scores=scores, indices=order, token_scores=tokens)

    def score(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        context_index: torch.Tensor | None = None,
        **context,
    ) -> MMScoreOutput:
        """The log-likelihood of each token of the rows, given their context and the tokens before it.

        Args:
            input_ids, attention_mask: (R, T), padding on either side.
            labels: int64 (R, T), the scored tokens, -100 where nothing is scored (a prompt); as in `forward`. None:
                every real token. The first real token of a row follows nothing and is never scored.
            context_index, context: as in `forward`: media, encoder_outputs, context_ranges, ...
        Keeps the graph where gradients are on: the scores may be a loss. Returns: see `MMScoreOutput`.
        """
        accepted = (*_CONTEXT, "context_ranges", "position_ids", "token_type_ids")
        _reject("score", context, accepted)
        check_text(self.config.text_config, input_ids, None, attention_mask, read_values=self.config.check_inputs)
        real = _real("attention_mask", input_ids, attention_mask)
        if labels is None:
            labels = input_ids.masked_fill(~real, IGNORED)
        check_labels(self.config, labels, input_ids.shape)
        if bool((labels[~real] != IGNORED).any()):
            raise ValueError("labels score padding; where attention_mask is 0 they must be -100")
        if self.config.text_config.bidirectional_prompt and context.get("token_type_ids") is None:
            context["token_type_ids"] = answer_types(labels)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            context_index=context_index,
            use_cache=False,
            return_dict=True,
            **context,
        )
        before = _previous(real)
        scored = (labels[:, 1:] != IGNORED) & (before >= 0)
        states = output.last_hidden_state
        states = states.gather(1, before.clamp(min=0)[..., None].expand(-1, -1, states.shape[2]))  # (R, T-1, D)
        tokens = self._log_likelihood(states, labels[:, 1:].clamp(min=0)) * scored
        return MMScoreOutput(token_scores=tokens, scores=tokens.sum(1), lengths=scored.sum(1))

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _log_likelihood(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """States (..., D) and what follows, int64 (...) or candidates (..., n) -> log-likelihoods of its shape."""
        logits = self._logits(states)
        own = targets if targets.ndim == logits.ndim else targets[..., None]
        found = logits.gather(-1, own) - logits.logsumexp(-1, keepdim=True)
        return found.reshape(targets.shape)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., D) -> (..., V), fp32 at least."""
        logits = linear(self.lm_head, self.lm_head_transform(states))
        logits = capped(logits, self.config.final_logit_softcapping)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _context(self, encoder_outputs, media: dict[str, Any]) -> MMContextOutput | None:
        """The texts of all rows, without columns that are only padding."""
        lonely_mask = media.pop("encoder_attention_mask", None)
        context = self.model.context_of(encoder_outputs, lonely_mask, **media)
        return None if context is None else trim_context(context)

    def _bos_prompts(self, context: MMContextOutput | None, context_index: torch.Tensor | None) -> torch.Tensor:
        """int64 (R, 1): bos for each entry of context_index, or for each context."""
        check_tensors(context_index=context_index)
        bos = self.generation_config.bos_token_id
        if bos is None:
            raise ValueError("without input_ids answers follow bos; set generation_config.bos_token_id")
        contexts = 1 if context is None else len(context.last_hidden_state)
        rows = contexts if context_index is None else len(context_index)
        return torch.full((rows, 1), int(bos), dtype=torch.long, device=self.device)

    @staticmethod
    def _blocks(
        num_rows: int, context: MMContextOutput | None, context_index: torch.Tensor | None, size: int
    ) -> Iterator[tuple[torch.Tensor, MMContextOutput | None, torch.Tensor | None]]:
        """Rows in blocks, those of one context side by side: their numbers, the contexts they read, which of those.

        Raises: ValueError if rows and contexts do not fit.
        """
        if context is None:
            if context_index is not None:
                raise ValueError("context_index was given, but there is no context for the rows to read")
            yield from ((rows, None, None) for rows in torch.arange(num_rows).split(size))
            return
        device = context.last_hidden_state.device
        index = MMRows(num_rows, len(context.last_hidden_state), context_index).index(device).to(device)
        for rows in torch.argsort(index, stable=True).split(size):
            first, end = int(index[rows[0]]), int(index[rows[-1]]) + 1
            yield rows, slice_contexts(context, first, end), index[rows] - first

    def _answer(
        self,
        prompts: torch.Tensor,
        seen: torch.Tensor,
        context: MMContextOutput | None,
        index: torch.Tensor | None,
        ranges: torch.Tensor | None,
        candidates: tuple[torch.Tensor, torch.Tensor],
        top_k: int | None,
        sizes: tuple[int, bool],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-likelihoods (r, C, Ta) of the candidates after r prompts, 0 on padding; bool (r, C), which are whole.

        prompts, seen: (r, T) ids and real tokens; index: (r,) into the contexts; ranges: (r, n, 2) of them;
        candidates: (C, Ta) ids and real tokens, those first; sizes: batch_size, prefix_trie.
        """
        (answers, real), (batch_size, prefix_trie) = candidates, sizes
        cache = MMCache(DynamicCache(config=self.config.text_config), DynamicCache())
        output = self.model(
            input_ids=prompts,
            attention_mask=_mask_of(seen),
            encoder_outputs=context,
            context_index=index,
            context_ranges=ranges,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        last = seen.shape[1] - 1 - seen.flip(1).long().argmax(1)
        rows = torch.arange(len(prompts), device=prompts.device)
        first = self._log_likelihood(output.last_hidden_state[rows, last], answers[:, 0].expand(len(rows), -1))
        found = first.new_zeros(len(rows), *answers.shape)
        found[..., 0] = first
        cache, size = output.past_key_values, max(batch_size // len(rows), 1)
        if prefix_trie:
            for part in alphabetical(answers).split(size):
                self._read_trie(cache, seen, answers[part], real[part].sum(1), found, part)
            return found, torch.ones_like(first, dtype=torch.bool)
        chosen = _shortlist(first, real.sum(1), top_k)
        for part in chosen.split(size, dim=1):  # (r, g), the longest answers first
            if not real[part][..., 1:].any():
                break
            found[rows[:, None], part] += self._read(cache, seen, answers[part], real[part])
        return found, torch.zeros_like(first, dtype=torch.bool).scatter(1, chosen, True)

    def _read(self, cache: MMCache, seen: torch.Tensor, answers: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Log-likelihoods (r, g, Ta) of all tokens of (r, g, Ta) answers but the first, which is left 0."""
        count, width = answers.shape[1], int(real.sum(-1).max()) - 1  # the last token is predicted, never read
        fed, there = answers.flatten(0, 1), real.flatten(0, 1)
        rows = torch.arange(len(seen), device=seen.device).repeat_interleave(count)
        states = self.model(
            input_ids=fed[:, :width],
            attention_mask=_mask_of(torch.cat([seen[rows], there[:, :width]], dim=1)),
            past_key_values=cache.select_rows(rows),
            use_cache=True,
            return_dict=True,
        ).last_hidden_state
        likelihood = self._log_likelihood(states, fed[:, 1 : width + 1]) * there[:, 1 : width + 1]
        return functional.pad(likelihood, (1, answers.shape[2] - 1 - width)).unflatten(0, (len(seen), count))

    def _read_trie(self, cache: MMCache, seen, answers, lengths, found: torch.Tensor, part: torch.Tensor) -> None:
        """As `_read` of (g, Ta) answers, the same after every prompt, each beginning once; into found[:, part]."""
        rows, count = torch.arange(len(seen), device=seen.device)[:, None], 1
        for depth, level in enumerate(trie_levels(answers, lengths)):
            mask = torch.cat([seen, seen.new_ones(len(rows), depth + 1)], dim=1)
            cache = cache.select_rows((rows * count + level.parents).flatten())
            count = len(level.tokens)
            states = self.model(
                input_ids=level.tokens.repeat(len(rows))[:, None],
                attention_mask=_mask_of(mask.repeat_interleave(count, 0)),
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            ).last_hidden_state
            logits = self._logits(states).view(len(rows), count, -1)
            chosen = logits[:, level.nodes, answers[level.longer, depth + 1]]
            found[:, part[level.longer], depth + 1] = chosen - logits.logsumexp(-1)[:, level.nodes]


def _shortlist(first: torch.Tensor, lengths: torch.Tensor, top_k: int | None) -> torch.Tensor:
    """int64 (r, k): for each row the candidates to score in full, the longest first, by their first token's
    log-likelihood (r, C)."""
    if top_k is None:
        return torch.argsort(lengths, descending=True, stable=True).expand(len(first), -1)
    best = first.topk(top_k, dim=1).indices
    return best.gather(1, torch.argsort(lengths[best], dim=1, descending=True, stable=True))


def _check_settings(normalize: str, top_k: int | None, batch_size: int, prefix_trie: bool, candidates: int) -> None:
    if prefix_trie and top_k is not None:
        raise ValueError("prefix_trie is of one list for all rows, and top_k takes another for each; leave one out")
    if normalize not in ("mean", "sum"):
        raise ValueError(f"normalize must be 'mean' or 'sum'; got {normalize!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size!r}")
    if top_k is not None and (not isinstance(top_k, int) or not 1 <= top_k <= candidates):
        raise ValueError(f"top_k must be in 1..{candidates}, the number of candidates; got {top_k!r}")
