"""MMMatchingModel: pictures and texts as embeddings that are compared, and as pairs that match or do not.

B contexts and R rows (texts) of this process, T text tokens, P projection_dim. A context may hold videos or clips
instead of pictures. The text encoder reads the text, or the decoder of a model without one.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.utils.generic import ModelOutput

from ...configuration.checks.fields import REPRESENTATION_FUSIONS
from ...configuration.conv import MMConvConfig
from ...configuration.mm import MMConfig
from ...configuration.vision import MMVisionConfig
from ..core.context_rows import MMRows
from ..core.input_checks import INTEGERS, check_mask_values, check_tensors, may_read_values
from ..core.inputs_outputs import MMContextOutput, MMModelOutput, reject_unknown
from ..fusion.context import TOWER_KINDS, as_context, check_sources
from ..losses.gather import gather_rows, gather_sizes
from ..losses.hard_negatives import hard_negatives
from ..losses.positive_pairs import Pairs, row_ids
from ..model import MMModel
from ..towers.any_tower import STATES
from .contrastive_head import MMContrastiveHead, normalised
from .head import MMHead
from .row_ends import check_every_text
from .trainers import check_smoothing_reaches

_ONE_TEXT = "a text is compared with media, not with media joined with another text; pass one text, as input_ids"
_OTHER_CLASSES = {
    "inputs_embeds": "equal texts are found by their ids, and negatives are sent as ids; pass input_ids",
    "context_input_ids": _ONE_TEXT,
    "context_attention_mask": _ONE_TEXT,
    "media_index": _ONE_TEXT,
    "context_ranges": "a text is matched with its whole context; leave it out",
    "labels": "targets have names of their own: matches, and in pre-training lm_targets and mlm_targets",
}
Text = dict[str, Any]  # input_ids, attention_mask, position_ids, token_type_ids: (R, T) or None


def shared_mean(total: torch.Tensor, count: torch.Tensor | int, gather: bool) -> torch.Tensor:
    """total / count over all processes; the mean over them is that of the whole batch, and so are DDP's gradients."""
    count = torch.as_tensor(count, device=total.device)[None]
    counts = gather_rows(count) if gather else count
    return total / counts.sum().clamp(min=1) * len(counts)


def given(text: Text) -> list[tuple[str, torch.Tensor]]:
    """The names and tensors (R, T) of a text, without those that are None."""
    return [(name, value) for name, value in text.items() if value is not None]


def contexts_with_media(context: MMContextOutput) -> torch.Tensor:
    """bool (B,), which contexts have any media."""
    states, mask = context.last_hidden_state, context.attention_mask
    return states.new_ones(len(states), dtype=torch.bool) if mask is None else mask.bool().any(1)


class Compared(NamedTuple):
    """Which rows and contexts are compared, by number (all except contexts without media), and which belong
    together."""

    rows: MMRows  # of all R rows
    images: torch.Tensor  # (B',)
    texts: torch.Tensor  # (R',)
    there: torch.Tensor  # bool (R,), whether the context of a row has any media
    pairs: Pairs  # of B' pictures and R' texts


class MMMatchingModel(MMHead):
    """The base model with the heads of "itc" and "itm"; what the classes for retrieval and pre-training share."""

    head_modules = {"itc_head": ("itc",), "itm_head": ("itm",)}
    accepts_loss_kwargs = False  # every loss is a mean over the batch of all processes
    itc_head: Any  # MMContrastiveHead; None without the loss "itc"
    itm_head: Any  # nn.Linear; None without the loss "itm"

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.losses: dict[str, float] = dict(config.pretraining_losses or {})
        self.model = MMModel(config)
        self.itc_head = MMContrastiveHead(config) if "itc" in self.losses else None
        is_vector = config.fusion_type in REPRESENTATION_FUSIONS
        width = config.fusion_width if is_vector else config.reader.hidden_size
        self.itm_head = nn.Linear(width, 2) if "itm" in self.losses else None

    def train(self, mode: bool = True):
        check_smoothing_reaches(self)
        return super().train(mode)

    def pools_latents(self, tower: str) -> bool:
        """Whether a resampler after the tower "vision" or "audio" gives the pooled vector."""
        resampler = getattr(self.config, f"{tower}_resampler_config")
        return resampler is not None and resampler.first_latent_pooled

    def _embedded(self, pooled: torch.Tensor | None, side: str, given: dict[str, Any]) -> torch.Tensor | None:
        """The one vector of "vision", "audio" or "text", or that of the resampler, projected to (B or R, P)."""
        if self.itc_head is None:
            return pooled
        if side == "text":
            check_every_text(self.config, type(self).__name__, given["attention_mask"])
        elif self.pools_latents(side):
            pooled = self.model.encode_context(**given).pooler_output  # pyright: ignore[reportOptionalMemberAccess]: given
        return self.itc_head.get_submodule(side)(pooled)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def _context(self, encoder_outputs: Any = None, bool_masked_pos=None, **media) -> MMContextOutput | None:
        """The context that was given, or the one that the media make."""
        self._check_pooled(media)
        check_sources(media, encoder_outputs, None, needs_text=False)
        if encoder_outputs is None:
            return self.model.encode_context(**media, bool_masked_pos=bool_masked_pos)
        if bool_masked_pos is not None:
            raise ValueError("bool_masked_pos hides patches from the tower, but encoder_outputs is a ready context")
        return as_context(encoder_outputs, None, self.config.media_width)

    def _check_pooled(self, media: dict[str, Any]) -> None:
        """Ready tower output brings no pooled vector; the mean of its tokens is one only for towers that pool so."""
        vision = self.config.vision_config
        if self.itc_head is None or media.get("visual_embeds") is None or self.pools_latents("vision"):
            return
        if media.get("visual_pooler_output") is not None:
            return
        is_own = isinstance(vision, MMVisionConfig | MMConvConfig)
        is_normed_after = isinstance(vision, MMVisionConfig) and vision.final_norm == "pooled"
        if not is_own or vision.pooler != "mean" or is_normed_after:
            raise ValueError(
                "visual_embeds hold tokens and no pooled vector, from which embeddings are computed; "
                "pass visual_pooler_output too, or pixel_values, or "
                "encoder_outputs of encode_context(), or set vision_config.pooler='mean' (and final_norm='all')"
            )

    def _text(self, input_ids, **masks) -> Text | None:
        """The rows; None where there is no text. Raises: ValueError where some rows have one and others have none."""
        if input_ids is None:
            given = [name for name, value in masks.items() if value is not None]
            if given:
                raise ValueError(f"{', '.join(given)} was given without a text; pass input_ids too")
            return None
        check_tensors(input_ids=input_ids, **masks)
        check_every_text(self.config, type(self).__name__, masks.get("attention_mask"))
        positions = masks.get("position_ids")
        if positions is not None and len(positions) == 1:
            masks["position_ids"] = positions.expand(len(input_ids), -1)
        return {"input_ids": input_ids, **masks}

    def _asked_states(self, kwargs: dict[str, Any], accepted: Any) -> dict[str, Any]:
        """Which states are asked for: only of the text without media, as the text runs several times.

        Raises an error for inputs that other classes take and this one cannot, with the reason, and for unknown ones.
        """
        for name in kwargs:
            if name in _OTHER_CLASSES:
                raise TypeError(f"forward() of this class has no argument {name!r}: {_OTHER_CLASSES[name]}")
        reject_unknown(kwargs, accepted)
        states = {name: kwargs[name] for name in STATES if name in kwargs}
        if self.itc_head is None and any(states.values()):
            raise ValueError(
                f"{', '.join(states)}: without 'itc' no text is read without media; ask MMModel for its states"
            )
        return states

    def _text_vectors(self, output: ModelOutput, text: Text, states: dict[str, Any]) -> torch.Tensor:
        """Embeddings of the texts (R, P); their states, where asked for, go into the output."""
        read = self.model.read_without_media(states, **text)
        output["hidden_states"], output["attentions"] = read.hidden_states, read.attentions
        return normalised(self.itc_head.text(read.pooler_output))

    # ---- what belongs together --------------------------------------------------------------------------------------

    def _compared(self, has_media: torch.Tensor, text: Text, context_index, matches) -> Compared:
        """has_media: bool (B,). matches: a text whose match is 0 is of no picture, and is not compared."""
        ids = text["input_ids"]
        rows = MMRows(len(ids), len(has_media), context_index)
        index = rows.index(ids.device)
        there = has_media[index]
        if matches is not None:
            self._check_matches(matches, len(ids))
        images = has_media.nonzero()[:, 0]
        texts = (there if matches is None else there & matches.bool()).nonzero()[:, 0]
        number = has_media.long().cumsum(0) - 1
        pairs = Pairs(
            len(images),
            len(texts),
            number[index[texts]],
            text_ids=row_ids(ids, text["attention_mask"])[texts],
            gather=torch.is_grad_enabled(),
        )
        return Compared(rows, images, texts, there, pairs)

    @staticmethod
    def _check_matches(matches: torch.Tensor, count: int) -> None:
        check_tensors(matches=matches)
        if tuple(matches.shape) != (count,) or matches.dtype not in (*INTEGERS, torch.bool):
            raise ValueError(f"matches must be int64 ({count},), 0 or 1; got {matches.dtype} {tuple(matches.shape)}")
        if may_read_values():
            check_mask_values("matches", matches)

    def _itc_loss(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, compared: Compared) -> torch.Tensor:
        return self.itc_head.loss(image_embeds[compared.images], text_embeds[compared.texts], compared.pairs)

    # ---- matching ---------------------------------------------------------------------------------------------------

    def _match(self, context: MMContextOutput, rows: MMRows, text: Text) -> torch.Tensor:
        """(n, 2) logits of n rows: no match, match."""
        return self.itm_head(self._joined(context, rows, text).pooler_output)

    def _joined(self, context: MMContextOutput, rows: MMRows, text: Text, **states) -> MMModelOutput:
        """Each text as it is read with its context."""
        text = {**text, "input_ids": self._opened(text["input_ids"], text["attention_mask"])}
        return self.model.read(context, rows, **text, **states)

    def _opened(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(n, T), the first real token of each row replaced by itm_bos_token_id where the config names one."""
        token = self.config.itm_bos_token_id
        if token is None:
            return input_ids
        first = torch.zeros_like(input_ids[:, :1]) if attention_mask is None else attention_mask.long().argmax(1, True)
        return input_ids.scatter(1, first, token)

    def _itm_loss(
        self, context: MMContextOutput, text: Text, compared: Compared, embeds: tuple | None, matches
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the logits (R, 2) of the rows with their own contexts.

        Without `matches` these all match, and as many pairs that do not are mined from the embeddings (image (B, P),
        text (R, P)), over all processes; itm_hard_negatives says which share of them in training. Without embeddings
        any other picture and any other text will do.
        """
        rows, pairs = compared.rows, compared.pairs
        index = rows.index(text["input_ids"].device)
        targets, counted = torch.ones_like(index), compared.there
        if matches is not None:
            targets = matches.to(index)
        else:
            text, numbers = self._with_negatives(text, compared, embeds)
            index = torch.cat([index, numbers])
            targets = functional.pad(targets, (0, len(numbers)))
            counted = functional.pad(counted, (0, len(numbers)), value=True)
        logits = self._match(context, MMRows(len(index), rows.num_contexts, index), text)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        each = functional.cross_entropy(wide, targets, reduction="none")
        loss = shared_mean((each * counted).sum(), counted.sum(), pairs.gather)
        return loss, logits[: rows.num_rows]

    def _with_negatives(self, text: Text, compared: Compared, embeds: tuple | None) -> tuple[Text, torch.Tensor]:
        """The rows and, after them, the texts of mined pairs, with the numbers (n,) of their contexts here."""
        pairs = compared.pairs
        text, everyone = self._gathered_text(text, compared)
        with torch.no_grad():
            if embeds is None:
                scores = torch.zeros(sum(pairs.image_sizes), sum(pairs.text_sizes), device=compared.images.device)
            else:
                images = pairs.gathered(embeds[0][compared.images], pairs.image_sizes)
                texts = pairs.gathered(embeds[1][compared.texts], pairs.text_sizes)
                scores = self.itc_head.logits(images, texts)
            mined = hard_negatives(scores, pairs, self.training, self.config.itm_hard_negatives)
        own = pairs.images
        here = (mined.images >= own.start) & (mined.images < own.stop)
        numbers = compared.images[mined.images[here] - own.start]
        negatives = mined.texts[here]
        joined = {name: torch.cat([value, everyone[name][negatives]]) for name, value in given(text)}
        return {**text, **joined}, numbers

    @staticmethod
    def _gathered_text(text: Text, compared: Compared) -> tuple[Text, Text]:
        """The rows at the length that they have on all processes, and the compared rows of all."""
        pairs = compared.pairs
        if pairs.world_size > 1:
            length = text["input_ids"].shape[1]
            spare = max(gather_sizes([length], text["input_ids"].device, pairs.group)[0]) - length
            if text["attention_mask"] is None:
                text = {**text, "attention_mask": torch.ones_like(text["input_ids"])}
            text = {**text, **{name: functional.pad(value, (0, spare)) for name, value in given(text)}}
        return text, {name: pairs.gathered(value[compared.texts], pairs.text_sizes) for name, value in given(text)}

    # ---- training ---------------------------------------------------------------------------------------------------

    def _freeze_unread(self) -> None:
        """Freezes what none of the losses reads; it is kept, so that AutoModel finds the model whole."""
        config, model, losses = self.config, self.model, set(self.losses)
        joins = bool(losses & {"itm", "lm", "mlm"})
        reader = "language_model" if config.text_encoder_config is None else "text_encoder"
        kept = [reader] if losses & {"itc", "itm"} else []
        if "itc" in losses:
            kept += [f"{tower}_tower" for tower in TOWER_KINDS if not self.pools_latents(tower)]
        self.freeze_pooled(keep=(*kept, *(["mask_token"] if "mim" in losses else [])))
        unread: list[Any] = [model.language_model] if reader == "text_encoder" else []
        if losses <= {"mim"}:
            unread.append(getattr(model, reader))
        if not joins:
            unread += getattr(model, reader).multimodal_only()
            unread += [model.vision_projector, model.audio_projector, model.fusion, model.modality_embedding]
            unread += [model.image_slots, model.frame_slots, model.frame_layers, model.clip_slots]
            read = {tower for tower in TOWER_KINDS if "itc" in losses and self.pools_latents(tower)}
            unread += [getattr(model, f"{tower}_resampler") for tower in TOWER_KINDS.keys() - read]
        elif config.fusion_type == "co_attention":
            unread.append(model.get_submodule("fusion.media_norm"))  # of media for a decoder after a text encoder
        for part in unread:
            if part is not None:
                part.requires_grad_(False)
        crosses = [stack.cross_attention_layers for stack in (config.text_config, config.text_encoder_config) if stack]
        if any(crosses) and not (joins and config.media_cross):
            self.freeze("cross_attention")
