"""MMForImageTextRetrieval: embeddings of media and texts, pairs that match, and search by one and then the other.

B contexts (pictures, or what stands in their place), R rows (texts), P projection_dim, Q queries, M index, k of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import torch
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.tasks import retrieval_faults
from ...configuration.mm import MMConfig
from ...explaining.scored import MMScoreExplaining, of_every_row
from ..core.context_rows import MMRows
from ..core.inputs_outputs import (
    COMPARED,
    NOT_COMPARED,
    MediaInputs,
    MMContextOutput,
    MMOutput,
    ModelInputs,
    RowInputs,
    pop_inputs,
    takes,
)
from ..fusion.context import select_contexts
from ..losses.grad_cache import encode_in_chunks
from .contrastive_head import normalised
from .contrastive_matching import Compared, MMMatchingModel, Text, contexts_with_media, given
from .encoding import MMEncoding
from .head import check_task
from .momentum_encoder import MMMomentumEncoder
from .row_ends import check_once, warn_of_text_ends
from .similarity_search import MMSearchOutput, best, check_embeds, rerank_sides


@dataclass
class MMRetrievalOutput(MMOutput):
    """Pictures against texts. P projection_dim; a context of videos or clips takes the place of a picture.

    loss and its parts loss_itc, loss_itm, each without its weight; logits_per_image (B, R) and logits_per_text (R, B),
    scaled similarities within the call; itm_logits (R, 2), of each text with its own context, with a loss;
    image_embeds (B, P), zeros for a context without any media, and text_embeds (R, P), of length 1. hidden_states,
    attentions: of the texts read without media.
    """

    loss: torch.Tensor | None = None
    loss_itc: torch.Tensor | None = None
    loss_itm: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Images(NamedTuple):
    """The contexts of a call: embeddings (B, P), bool (B,) which have any media, and their states, where kept."""

    embeds: torch.Tensor
    there: torch.Tensor
    context: MMContextOutput | None


class MMForImageTextRetrieval(MMEncoding, MMScoreExplaining, MMMatchingModel):
    """The base model with a contrastive head and, where pretraining_losses name "itm", a matching head.

    The loss is the sum of "itc" and "itm" by their weights in pretraining_losses: InfoNCE or sigmoid over the pictures
    and texts of all processes (contrastive_loss), and matching against hard negatives. Outside of training, or under
    no_grad, nothing is gathered and the negatives are the most similar ones of the batch.

    `from_towers(vision, text)` starts from published towers; new are the projections and the matching head.
    """

    head_modules = {**MMMatchingModel.head_modules, "slow": ("itc",)}
    slow: Any  # MMMomentumEncoder, under the name that checkpoints have; None without contrastive_queue_size

    def __init__(self, config: MMConfig):
        super().__init__(config)
        check_task(self, retrieval_faults(config))
        self.ends_checked: set[str] = set()
        self.losses = {name: weight for name, weight in self.losses.items() if name in ("itc", "itm")}
        self.slow = MMMomentumEncoder(config) if config.contrastive_queue_size else None
        self.post_init()
        if self.slow is not None:
            self.slow.start_as(self)
        self._freeze_unread()

    def after_loading(self, info: Mapping[str, Iterable]) -> None:
        """A momentum encoder that the checkpoint does not have starts as the model is."""
        if any(key.startswith("slow.model.") for key in info["missing_keys"]):
            self.slow.start_as(self)

    @can_return_tuple
    @takes(MediaInputs, RowInputs, without=NOT_COMPARED)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        matches: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **inputs: Unpack[ModelInputs],
    ) -> MMRetrievalOutput:
        """Compares every picture of the call with every text, and with a loss matches each text with its own picture.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (R, T).
            pixel_values ... interpolate_pos_encoding: as in `MMModel.encode_context`.
            context_index: int64 (R,), the context that a text belongs to; None: R = k*B, text r to context r // k.
                Used only with a loss: without one B and R may be anything.
            encoder_outputs: what encode_context() gave, instead of media.
            matches: (R,), 1 where a text matches its context, 0 where not; the matching loss is then of these pairs,
                and a text with 0 takes no part in the contrastive one. None: all match, and negatives are mined.
            return_loss: None: in training. True needs media and text.
        """
        states = self._asked_states(dict(inputs), MMForImageTextRetrieval.forward)
        index, ready = pop_inputs(inputs, ("context_index", "encoder_outputs")).values()
        media = pop_inputs(inputs, COMPARED)
        images = self._images(ready, **media)
        text = self._text(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, token_type_ids=token_type_ids
        )
        if images is None and text is None:
            raise ValueError("nothing to compare: pass pixel_values, input_ids, or both")
        output: Any = MMRetrievalOutput()
        if images is not None:
            output["image_embeds"] = images.embeds
        if text is not None:
            output["text_embeds"] = self._text_embeds(output, text, states)
        if images is not None and text is not None:
            both = self.itc_head.logits_both_ways(output.image_embeds, output.text_embeds)
            output["logits_per_image"], output["logits_per_text"] = both
        if self.training if return_loss is None else return_loss:
            if images is None or text is None:
                raise ValueError(
                    "a loss compares media with texts: pass both, or return_loss=False for embeddings (None asks for "
                    "a loss in training)"
                )
            keys = None
            if self.slow is not None and self.training and torch.is_grad_enabled():
                if ready is not None:
                    raise ValueError("the momentum encoder of contrastive_queue_size encodes media itself; pass them")
                keys = self.slow.keys(self, text, **media)
            compared = self._compared(images.there, text, index, matches)
            self._add_losses(output, images.context, text, compared, matches, keys)
        elif matches is not None:
            raise ValueError("matches are targets, but no loss is asked for; pass return_loss=True")
        return MMRetrievalOutput(**output)

    def _images(self, encoder_outputs, **media) -> Images | None:
        """Of a ready context, or of what the media make; with a chunk size their states are not kept."""
        is_given = any(torch.is_tensor(value) for value in media.values())
        if encoder_outputs is None and self.config.contrastive_chunk_size and is_given:
            embeds, there = self._in_chunks(self._image_embeds, **media)
            return Images(embeds, there, None)
        context = self._context(encoder_outputs, **media)
        if context is None:
            return None
        return Images(normalised(self.itc_head.of_context(context)), contexts_with_media(context), context)

    def _image_embeds(self, **media) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some contexts: (n, P), and bool (n,), which have any media."""
        context: Any = self._context(**media)
        return normalised(self.itc_head.of_context(context)), contexts_with_media(context)

    def _text_embeds(self, output: MMRetrievalOutput, text: Text, states: dict[str, Any]) -> torch.Tensor:
        """(R, P)."""
        if self.config.contrastive_chunk_size is None:
            return self._text_vectors(output, text, states)
        if any(states.values()):
            raise ValueError(f"{', '.join(states)}: contrastive_chunk_size keeps no states; set it to None")
        return self._in_chunks(lambda **part: self._text_vectors(MMRetrievalOutput(), part, {}), **text)

    def _in_chunks(self, encode: Callable[..., Any], **inputs) -> Any:
        size = self.config.contrastive_chunk_size
        return encode(**inputs) if size is None else encode_in_chunks(encode, size, **inputs)

    def _add_losses(
        self, output: Any, context: Any, text: Text, compared: Compared, matches, keys: tuple | None
    ) -> None:
        """keys: the momentum encoder's embeddings of all contexts and texts."""
        embeds = (output.image_embeds, output.text_embeds)
        if keys is None:
            output["loss_itc"] = self._itc_loss(*embeds, compared)
        else:
            images, image_keys = (side[compared.images] for side in (embeds[0], keys[0]))
            texts, text_keys = (side[compared.texts] for side in (embeds[1], keys[1]))
            how = compared.pairs, self.itc_head.scale(), self.slow.soft_targets
            output["loss_itc"] = self.slow.contrast(images, texts, image_keys, text_keys, *how)
        output["loss"] = self.losses["itc"] * output.loss_itc
        if self.itm_head is not None:
            output["loss_itm"], output["itm_logits"] = self._itm_loss(context, text, compared, embeds, matches)
            output["loss"] = output.loss + self.losses["itm"] * output.loss_itm
        elif matches is not None:
            raise ValueError("matches are targets of 'itm', which pretraining_losses does not name")

    # ---- embeddings -------------------------------------------------------------------------------------------------

    def encode_image(self, *args, **kwargs) -> torch.Tensor:
        """(B, P), of length 1; arguments as in `get_image_features`."""
        return normalised(self.get_image_features(*args, **kwargs, return_dict=True).pooler_output)

    def encode_video(self, *args, **kwargs) -> torch.Tensor:
        """(B, P), of length 1; arguments as in `get_video_features`."""
        return normalised(self.get_video_features(*args, **kwargs, return_dict=True).pooler_output)

    def encode_audio(self, *args, **kwargs) -> torch.Tensor:
        """(B, P), of length 1; arguments as in `get_audio_features`."""
        return normalised(self.get_audio_features(*args, **kwargs, return_dict=True).pooler_output)

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """(R, P), of length 1; arguments as in `get_text_features`."""
        check_once(self, "text ends", warn_of_text_ends, input_ids, attention_mask)
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        return normalised(self.get_text_features(**text, **{**kwargs, "return_dict": True}).pooler_output)

    # ---- what a pair's score comes from -----------------------------------------------------------------------------

    def explained_targets(self, inputs: Any, targets: Any, rows: int) -> list[tuple[str, str]]:
        """Of explain: "similarity" (None), or "match", the log-odds of the matching head."""
        if inputs.get("input_ids") is None:
            raise ValueError("explain() compares pictures with texts: inputs need input_ids")
        found = of_every_row("similarity" if targets is None else targets, rows, "'similarity' or 'match'")
        for one in found:
            if one not in ("similarity", "match"):
                raise ValueError(f"targets: {one!r} must be 'similarity' or 'match'")
        return [(one, one) for one in found]

    def explained_score(self, inputs: dict[str, Any], target: str, **states) -> tuple[torch.Tensor, Any]:
        """Of explain: the score (n,) of each text with its own picture, and of "match" the states asked for."""
        if target == "match":
            context, rows, text = self._pairs(**inputs)
            output = self._joined(context, rows, text, **states)
            logits = self.itm_head(output.pooler_output)
            return logits[:, 1] - logits[:, 0], output
        return self(**inputs, return_loss=False).logits_per_text.diagonal(), None

    def explained_without_text(self, target: str) -> bool:
        """Of explain: whether a row may have no text. A pair has one."""
        return False

    # ---- matching and search ----------------------------------------------------------------------------------------

    def match(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        context_index: torch.Tensor | None = None,
        encoder_outputs: MMContextOutput | None = None,
        interpolate_pos_encoding: bool = False,
        **media: torch.Tensor | None,
    ) -> torch.Tensor:
        """Logits (R, 2) of each text with its context: column 0 for no match, 1 for a match.

        Args: as in `forward`; media are pixel_values and so on, or encoder_outputs instead.
        """
        return self._match(
            *self._pairs(input_ids, attention_mask, context_index, encoder_outputs, interpolate_pos_encoding, **media)
        )

    def _pairs(
        self, input_ids, attention_mask=None, context_index=None, encoder_outputs=None,
        interpolate_pos_encoding=False, **media,
    ) -> tuple[MMContextOutput, MMRows, Text]:  # fmt: skip
        """The contexts, which text belongs to which, and the texts of `match`."""
        if self.itm_head is None:
            raise ValueError("this model has no matching head: its pretraining_losses do not name 'itm'")
        context = self._context(encoder_outputs, interpolate_pos_encoding=interpolate_pos_encoding, **media)
        if context is None:
            raise ValueError("match() needs media or encoder_outputs to match the texts with")
        text = self._text(input_ids, attention_mask=attention_mask)
        if text is None:
            raise ValueError("match() needs input_ids")
        check_once(self, "text ends", warn_of_text_ends, input_ids, attention_mask)
        return context, MMRows(len(input_ids), len(context.last_hidden_state), context_index), text

    @torch.no_grad()
    def retrieve(
        self,
        query: torch.Tensor,
        index: torch.Tensor,
        top_k: int = 10,
        rerank: dict[str, Any] | None = None,
        batch_size: int = 64,
    ) -> MMSearchOutput:
        """The k of the index that are most like each query, by embeddings; with `rerank` in the order of matching.

        Args:
            query: (Q, P), from encode_text, encode_image, ...; index: (M, P).
            top_k: k; M where that is smaller.
            rerank: {"input_ids", "attention_mask" (or none): (texts, T), "encoder_outputs": MMContextOutput of as many
                contexts as pictures}, one side for the queries and the other for the index, recognised by their
                numbers; if Q = M "query": "text" or "image" says which. Kept on any device, brought over by the batch.
                "order": "itm" (the default) sorts by the log-odds of a match; "itm+itc" by these and the scaled
                similarities. Mined negatives come in proportion to exp(scaled similarity), so the odds are what a pair
                has beyond its similarity, and the sum is its log-probability up to a number per query.
            batch_size: queries compared, and pairs matched, at a time.
        Returns: indices and scores (Q, k), and with rerank itm_scores (Q, k), the log-odds of a match.
        """
        check_embeds(query, index, top_k, batch_size)
        scores, indices = best(query, index, min(top_k, len(index)), batch_size)
        if rerank is None:
            return MMSearchOutput(indices=indices, scores=scores)
        text, context, query_is_text = rerank_sides(rerank, len(query), len(index))
        queries = torch.arange(len(query), device=indices.device)[:, None].expand_as(indices)
        texts, images = (queries, indices) if query_is_text else (indices, queries)
        odds = [
            self._match_pairs(text, context, *chunk)
            for chunk in zip(texts.flatten().split(batch_size), images.flatten().split(batch_size), strict=True)
        ]
        itm = torch.cat(odds).view_as(scores).to(scores.device)
        both = itm + self.itc_head.scale().to(itm) * scores if rerank.get("order") == "itm+itc" else itm
        order = both.argsort(dim=1, descending=True, stable=True)
        return MMSearchOutput(*(values.gather(1, order) for values in (indices, scores, itm)))

    def _match_pairs(self, text: Text, context: MMContextOutput, texts: torch.Tensor, images: torch.Tensor):
        """(n,), the log-odds that texts match pictures, both given by number; each picture is read once."""
        needed, places = images.unique(return_inverse=True)
        near = {name: value[texts.to(value.device)].to(self.device) for name, value in given(text)}
        seen = select_contexts(context, needed)
        seen = MMContextOutput(
            last_hidden_state=seen.last_hidden_state.to(self.device),
            attention_mask=None if seen.attention_mask is None else seen.attention_mask.to(self.device),
            token_sources=None if seen.token_sources is None else seen.token_sources.to(self.device),
        )
        where = {"context_index": places.to(self.device), "encoder_outputs": seen}
        logits = self.match(near["input_ids"], near.get("attention_mask"), **where)
        return logits[:, 1] - logits[:, 0]
