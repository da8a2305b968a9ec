"""MMJoiningModel: the text encoder, the fusion and the decoder; here a text and its context are joined (`_joined`).

Behind a text encoder it is joined with the media, and the decoder with what it makes of them; else the decoder is
joined with the media. B contexts, R rows, T text tokens, S context tokens; Dv, Dc, Dt: widths of the tower, the
context and the text.
"""

# A context has its states, and rows come with it.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalCall=false
# pyright: reportOptionalSubscript=false

import copy

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..configuration.checks.fields import REPRESENTATION_FUSIONS
from ..configuration.mm import MMConfig
from .checks.media_inputs import refuse_absent, refuse_lonely
from .checks.text_inputs import check_text
from .core.attention import CallConfig
from .core.base import MMPreTrainedModel
from .core.cache import MMCache
from .core.context_rows import MMRows
from .core.outputs import MMContextOutput, MMModelOutput
from .core.prefix import MMPrefix, merged_mask
from .fusion.context import text_context
from .fusion.fusions import build_fusion, modality_vectors
from .fusion.media_encoder import MMMediaModel, asked_states
from .towers.text import MMTextModel
from .towers.vit import MMVisionModel


def _structure(config: MMConfig) -> dict:
    """What a model is built by and a call reads again."""
    names = ("fusion_type", "share_text_encoder", "modalities", "projector_type")
    return {name: copy.copy(getattr(config, name)) for name in names}


class MMJoiningModel(MMMediaModel):
    """The side of MMModel where text is read."""

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.built_for = _structure(config)
        encoder = config.text_encoder_config
        self.text_encoder = None if encoder is None else MMTextModel._from_config(encoder)
        self.fusion = build_fusion(config)
        self.language_model = MMTextModel._from_config(config.text_config)

    def check_unchanged(self) -> None:
        """Raises ValueError where the configuration now describes another model than this one."""
        for name, value in self.built_for.items():
            if getattr(self.config, name) != value:
                raise ValueError(
                    f"this model was built with {name}={value!r}, but its configuration now says "
                    f"{getattr(self.config, name)!r}; set it back, or build a new model from the configuration"
                )

    # ---- the context ------------------------------------------------------------------------------------------------

    def encode_context(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        media_index: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        bool_masked_pos: torch.Tensor | None = None,
    ) -> MMContextOutput | None:
        """Encodes everything the rows may look at, once. None if nothing is given.

        Args:
            pixel_values: float (B, C, H, W), one picture each, or (B, N, C, H, W) in slots.
            pixel_attention_mask: bool per picture (B[, N]), True for each one present, or per patch (B[, N], rows,
                columns), real patches a rectangle at the top left; None: all are real.
            visual_embeds: float (B[, N], S, Dv), ready tower output instead of pixel_values; a mask may be per token.
            pixel_values_videos: float (B[, N], F, C, H, W); video_attention_mask: bool (B[, N], F), the real frames.
            input_features: float (B, A, ...), A clips and then what the audio tower takes; input_features_mask: bool
                (B, A), or (B, A, frames) where the tower can leave out frames.
            context_input_ids: int64 (Bc, Tc), a question or passage for the text encoder; the context is then its
                states, joined with the media, and every B is Bc for the decoder.
            context_attention_mask: (Bc, Tc), 1 = real.
            media_index: int64 (Bc,), context text -> row of the media; None: Bc = k*B, contiguous.
            interpolate_pos_encoding: accept pictures of another size than image_size.
            bool_masked_pos: bool (B, N, L), the patches of pixel_values that the tower's mask token stands for.
        Raises: ValueError or TypeError in words; inputs of a modality that the model has not are refused by name.
        """
        media = {
            "pixel_values": pixel_values,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_embeds": visual_embeds,
            "pixel_values_videos": pixel_values_videos,
            "video_attention_mask": video_attention_mask,
            "input_features": input_features,
            "input_features_mask": input_features_mask,
        }
        texts = {
            "context_input_ids": context_input_ids,
            "context_attention_mask": context_attention_mask,
            "media_index": media_index,
        }
        refuse_absent(self.config, **media, **texts)
        refuse_lonely(**media, **texts)
        context = self.media_context(
            **media, interpolate_pos_encoding=interpolate_pos_encoding, bool_masked_pos=bool_masked_pos
        )
        return context if context_input_ids is None else self._read(context, **texts)

    def _read(self, media: MMContextOutput | None, context_input_ids, context_attention_mask, media_index):
        """Context text (Bc, Tc), joined with the media in the text encoder -> the context of the decoder."""
        ids, mask = context_input_ids, context_attention_mask
        check_text(self._encoder().config, ids, None, mask, read_values=self.config.check_inputs, prefix="context_")
        rows = None
        if media is not None:
            rows = MMRows(ids.shape[0], media.last_hidden_state.shape[0], media_index, name="media_index")
        elif media_index is not None:
            raise ValueError("media_index was given, but there are no media for the context text to read")
        output = self.read(media, rows, input_ids=ids, attention_mask=mask)
        if self.config.fusion_type in REPRESENTATION_FUSIONS:  # one token, the seed formula literally
            states, mask = output.pooler_output[:, None], None
        else:
            states = output.last_hidden_state
        return text_context(states, mask, output, media, rows)

    def _encoder(self) -> MMTextModel:
        """The stack that reads context text: the text encoder, or the decoder in its place."""
        return self.language_model if self.text_encoder is None else self.text_encoder

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """A text alone, as the text encoder reads it (or, without one, the decoder): (R, T, Dt) and (R, Dt), and its
        states with output_hidden_states or output_attentions."""
        output = self.read_alone(asked_states(kwargs), input_ids=input_ids, attention_mask=attention_mask)
        states = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return BaseModelOutputWithPooling(output.last_hidden_state, output.pooler_output, **states)

    def read(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text joined with media by the stack that `get_text_features` reads with; None: without any."""
        return self._joined(self._encoder(), self.config.fusion_type, media, rows, **self._both_ways(text))

    def read_alone(self, states: dict | None = None, **text) -> MMModelOutput:
        """A text by that stack, past every fusion; `states` says which states are wanted, as in forward."""
        stack = self._encoder()
        check_text(stack.config, inputs_embeds=None, read_values=self.config.check_inputs, **text)
        if stack.unimodal is not None:
            return stack.read_alone(**text, **(states or {}))
        return stack(**self._both_ways(text), return_dict=True, **(states or {}))

    def write(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text that the decoder goes on with, joined with the media themselves; None: without any."""
        fusion = "cross_attention" if self.config.has_text_encoder else self.config.fusion_type
        return self._joined(self.language_model, fusion, media, rows, use_cache=False, **text)

    def _both_ways(self, text: dict) -> dict:
        """The decoder's weights see both ways where they are the text encoder's."""
        return {"use_cache": False, "is_causal": False if self.config.share_text_encoder else None, **text}

    # ---- a text and its context, joined -----------------------------------------------------------------------------

    def _joined(
        self, stack: MMTextModel, fusion: str, context: MMContextOutput | None, rows: MMRows | None, **text
    ) -> MMModelOutput:
        """Runs a text stack joined with a context; None: the text alone, or a cache that holds the context.

        Returns the text's states (under co_attention and merged the context's, as context_hidden_states, too) and, as
        pooler_output, the text's own vector or that of a representation fusion.
        """
        if fusion == "cross_attention":
            if context is not None:
                text["encoder_hidden_states"] = context.last_hidden_state
                text["encoder_attention_mask"] = context.attention_mask
            return stack(rows=rows, **text)
        text.pop("context_ranges", None)
        if fusion == "merged":
            return self._merged(stack, context, rows, text)
        output = stack(**text)
        if fusion == "co_attention":
            return self._co_attend(stack, output, context, rows, text)
        vectors, present = self.modality_vectors(output.pooler_output, context, rows, text.get("attention_mask"))
        output.modality_embeds, output.modality_present = vectors, present
        if fusion in REPRESENTATION_FUSIONS:
            output.pooler_output = self.fusion(vectors, present)
        return output

    def _merged(self, stack: MMTextModel, context: MMContextOutput | None, rows, text: dict) -> MMModelOutput:
        """Media and text in one sequence; with a cache the media run once per context, and the text behind them."""
        if context is None:
            return stack(**text)
        states, mask = context.last_hidden_state, context.attention_mask
        settings = (self.config.fusion_mask, self.config.fusion_order, self.config.fusion_embedding_norm)
        cache = text.get("past_key_values")
        if cache is None and not text.get("use_cache"):
            mask = None if mask is None else rows.per_row(mask)
            return stack(prefix=MMPrefix(rows.per_row(states), mask, *settings), **text)
        cache = MMCache(DynamicCache(config=stack.config), DynamicCache()) if cache is None else MMCache.wrap(cache)
        self.remember(stack, MMPrefix(states, mask, *settings), rows, cache)
        return stack(**{**text, "past_key_values": cache})

    @staticmethod
    def remember(stack: MMTextModel, prefix: MMPrefix, rows: MMRows, cache: MMCache) -> None:
        """Runs media (B, S, D) alone, as they see no text, and keeps their keys and values in the cache.

        Raises: ValueError where media see the text, or where the cache holds text already.
        """
        if prefix.mask_kind == "bidirectional":
            raise ValueError("fusion_mask='bidirectional' lets media see the text, so no cache can hold them")
        if cache.get_seq_length():
            raise ValueError("past_key_values holds text already; media cannot be put before it")
        states = stack.dropout(stack.embed_norm(prefix.states)) if prefix.embedding_norm else prefix.states
        mask = merged_mask(CallConfig(stack.config, is_causal=True), states, prefix, None)
        places = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        rotary = None if stack.rotary is None else stack.rotary(places, states.dtype)
        kept = MMCache(cache.cross_attention_cache, DynamicCache())
        for layer in stack.layers:
            states = layer(states, attention_mask=mask, past_key_values=kept, is_causal=True, rotary=rotary)
        cache.hold_prefix(prefix.length, None if prefix.mask is None else prefix.mask.sum(-1), rows)

    def _co_attend(self, stack: MMTextModel, output: MMModelOutput, context, rows, text: dict) -> MMModelOutput:
        """Text states and media, each reading the other; a text without media runs through its own layers alone."""
        media = media_mask = None
        if context is not None:
            media = rows.per_row(context.last_hidden_state)
            media_mask = None if context.attention_mask is None else rows.per_row(context.attention_mask)
        mask = text.get("attention_mask")
        states, media = self.fusion(output.last_hidden_state, mask, media, media_mask)
        output.last_hidden_state, output.context_hidden_states = states, media
        output.pooler_output = stack.pooler(states, mask, text.get("input_ids"))
        return output

    def modality_vectors(
        self,
        text: torch.Tensor | None,
        context: MMContextOutput | None,
        rows: MMRows | None,
        text_mask: torch.Tensor | None = None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """One vector (R, width) per modality that is given, and bool (R,), which rows have it.

        text_mask: (R, T), 1 = real; a row without any real token has no text. None: all have.
        """
        vectors, present = {}, {}
        if text is not None:
            has_text = text.new_ones(text.shape[0], dtype=torch.bool)
            if text_mask is not None and text_mask.ndim == 2:
                has_text = text_mask.bool().any(1)
            vectors["text"], present["text"] = text.masked_fill(~has_text[:, None], 0), has_text
        if context is not None:
            media, there = modality_vectors(context, self.config.modalities)
            for name, vector in media.items():
                vectors[name] = vector if rows is None else rows.per_row(vector)
                present[name] = there[name] if rows is None else rows.per_row(there[name])
        return vectors, present

    def freeze_pooled(self, keep: tuple[str, ...] = ()) -> None:
        """Freezes what only a pooled vector needs, of every part but those named: kept, so that AutoModel finds it.

        The mask token of a vision tower goes with it, unless "mask_token" is named.
        """
        parts = {"vision_tower", "audio_tower", "text_encoder", "language_model"} - set(keep)
        for part in (getattr(self, name) for name in parts):
            if isinstance(part, MMPreTrainedModel):  # a foreign tower is frozen as it is built
                for unread in part.pooled_only():
                    unread.requires_grad_(False)
        tower = self.vision_tower
        if isinstance(tower, MMVisionModel) and tower.mask_token is not None and "mask_token" not in keep:
            tower.mask_token.requires_grad_(False)
