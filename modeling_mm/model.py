"""MMModel: media and text to a context, and a text over the context; the base of every head.

    pixel_values, visual_embeds ─┐  tower, item numbers, resampler, projector
    pixel_values_videos ─────────┼─► media (B, S, Dc) ─► text_encoder ⋈ ─► context ─► language_model ⋈ ─► (R, T, Dt)
    input_features ──────────────┘

⋈ is `_joined`: a text stack and what it reads, joined as fusion_type says. The text encoder is optional: without one
the media are the context.
B contexts, N items per context, R rows, T text tokens, S context tokens; Dv, Dc, Dt: widths of the tower, the context
and the text.
"""
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOptionalCall=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

import copy
from typing import Any, Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..configuration.checks.fields import REPRESENTATION_FUSIONS
from ..configuration.mm import MMConfig
from .checks.media_inputs import MediaItems, check_media
from .checks.text_inputs import check_tensors, check_text
from .core.attention import CallConfig
from .core.base import MMPreTrainedModel
from .core.cache import MMCache
from .core.context_rows import MMRows
from .core.model_inputs import (
    CONTEXT_TEXT,
    CacheInputs,
    MediaInputs,
    ModelInputs,
    RowInputs,
    pop_inputs,
    reject_unknown,
    takes,
)
from .core.outputs import MMContextOutput, MMModelOutput
from .core.pooling import masked_mean
from .core.prefix import MMPrefix, merged_mask
from .fusion.context import as_context, join, packed_ranges, text_context
from .fusion.fusions import build_fusion, modality_vectors
from .fusion.media_encoder import (
    add_numbers,
    build_projector,
    build_slots,
    encode_items,
    join_frames,
    placed_items,
    present_items,
    present_masks,
)
from .towers.any_tower import STATES, build_tower
from .towers.resampler import MMResampler
from .towers.text import MMTextModel
from .towers.vit import MMVisionModel


def _structure(config: MMConfig) -> dict[str, Any]:
    """What a model is built by and a call reads again."""
    names = ("fusion_type", "share_text_encoder", "modalities", "projector_type")
    return {name: copy.copy(getattr(config, name)) for name in names}


class MMModel(MMPreTrainedModel):
    """Encodes media and context text into a context and runs text over it; works on any subset of its inputs."""

    config: MMConfig
    # Modules, or None where the config has none.
    vision_tower: Any
    audio_tower: Any

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.built_for = _structure(config)
        vision, audio = config.vision_config is not None, config.audio_config is not None
        self.vision_tower = build_tower(config.vision_config, config.vision_feature_layer) if vision else None
        self.vision_resampler = self._resampler("vision")
        self.vision_projector = self._projector("vision")
        self.audio_tower = build_tower(config.audio_config) if audio else None
        self.audio_resampler = self._resampler("audio")
        self.audio_projector = self._projector("audio")
        self.image_slots = build_slots(config.max_images, vision and config.vision_size)
        self.frame_slots = build_slots(config.max_frames, vision and config.vision_size)
        self.clip_slots = build_slots(config.max_clips, audio and config.audio_size)
        kinds = len(config.modalities) if config.modality_embeddings else 0
        self.modality_embedding = build_slots(kinds, config.media_width)
        encoder = config.text_encoder_config
        self.text_encoder = None if encoder is None else MMTextModel._from_config(encoder)
        self.fusion = build_fusion(config)
        self.language_model = MMTextModel._from_config(config.text_config)
        self.post_init()

    def _resampler(self, side: str) -> nn.Module | None:
        config = getattr(self.config, f"{side}_resampler_config")
        return None if config is None else MMResampler(config, getattr(self.config, f"{side}_size"))

    def _projector(self, side: str) -> nn.Module | None:
        if getattr(self.config, f"{side}_config") is None:
            return None
        resampler = getattr(self.config, f"{side}_resampler_config")
        width = getattr(self.config, f"{side}_size") if resampler is None else resampler.hidden_size
        return build_projector(self.config, width)

    @can_return_tuple
    @takes(MediaInputs, RowInputs, CacheInputs)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        pooled: bool = True,
        **inputs: Unpack[ModelInputs],
    ) -> MMModelOutput:
        """Runs on media alone, text alone, or both.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (R, T); inputs_embeds: (R, T, Dt) instead of ids.
            pooled: False leaves pooler_output out (None), where nobody reads it.
        Raises: ValueError or TypeError in words for bad input; TypeError for unknown arguments.
        """
        reject_unknown(inputs, MMModel.forward)
        self.check_unchanged()
        media = pop_inputs(inputs, MediaInputs)
        index, ranges, ready, ready_mask = pop_inputs(inputs, RowInputs).values()
        text = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        has_text = input_ids is not None or inputs_embeds is not None
        self._check_held(past_key_values, ready, index, media)
        self._check_media(media, ready, ready_mask, has_text)
        context = self.encode_context(**media) if ready is None else self._given(ready, ready_mask)
        if not has_text:
            return self._context_alone(context, context_index=index, context_ranges=ranges, **text)
        self._check_text(input_ids, inputs_embeds, past_key_values, **text)
        rows = self._rows(input_ids if inputs_embeds is None else inputs_embeds, context, index, past_key_values)
        output = self._joined(
            self.language_model,
            self.config.decoder_fusion,
            None if rows is None else context,
            rows,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=self._uses_cache(use_cache),
            pooled=pooled,
            context_ranges=self._ranges(ranges, context, rows, past_key_values),
            **text,
            **inputs,
        )
        if rows is not None and isinstance(output.past_key_values, MMCache):
            output.past_key_values.rows = rows
        output.context_hidden_states = None if context is None else context.last_hidden_state
        output.context_attention_mask = None if context is None else context.attention_mask
        return output

    # ---- the context: encoded once, read by every row ---------------------------------------------------------------

    def context_of(
        self, encoder_outputs=None, encoder_attention_mask=None, **media: Unpack[MediaInputs]
    ) -> MMContextOutput | None:
        """What the decoder reads: the context that the caller gave, or the one that the media make; not both."""
        self._check_media(media, encoder_outputs, encoder_attention_mask)
        if encoder_outputs is None:
            return self.encode_context(**media)
        return self._given(encoder_outputs, encoder_attention_mask)

    def _given(self, encoder_outputs, encoder_attention_mask: torch.Tensor | None) -> MMContextOutput:
        return as_context(encoder_outputs, encoder_attention_mask, self.config.context_width)

    @takes(MediaInputs)
    def encode_context(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        *,
        bool_masked_pos: torch.Tensor | None = None,
        **inputs: Unpack[MediaInputs],
    ) -> MMContextOutput | None:
        """Encodes everything the rows may look at, once. None if nothing is given.

        Args:
            bool_masked_pos: bool (B, N, L), the patches of pixel_values that the tower's mask token stands for.
        Raises: ValueError or TypeError in words; inputs of a modality that the model lacks raise an error naming it.
        """
        reject_unknown(inputs, MMModel.encode_context, "encode_context")
        interpolate = inputs.pop("interpolate_pos_encoding", False)
        if all(value is None for value in (pixel_values, pixel_attention_mask, visual_embeds, *inputs.values())):
            return None
        texts = pop_inputs(inputs, CONTEXT_TEXT)
        items = check_media(
            self.config,
            texts,
            bool_masked_pos,
            pixel_values=pixel_values,
            pixel_attention_mask=pixel_attention_mask,
            visual_embeds=visual_embeds,
            **inputs,
        )
        seen = [
            encode_items(self._tower(one.kind), one.to(self.dtype), **self._settings(one.kind, interpolate))
            for one in items
        ]
        media = join([self._to_context(one) for one in seen]) if seen else None
        return media if texts["context_input_ids"] is None else self._read_context_text(media, **texts)

    def _tower(self, kind: str) -> nn.Module:
        return self.audio_tower if kind == "audio" else self.vision_tower

    def _settings(self, kind: str, interpolate: bool) -> dict[str, Any]:
        """What a tower is asked for besides its items."""
        if kind == "audio":
            return {}
        return {
            "layer": self.config.vision_feature_layer,
            "strategy": self.config.vision_feature_select_strategy,
            "interpolate_pos_encoding": interpolate,
        }

    def _to_context(self, items: MediaItems) -> MediaItems:
        """Tokens (B, N[, F], S, Dv) -> (B, N, S, Dc): numbered, resampled, projected, marked by their modality."""
        items = self._numbered(items)
        side = "audio" if items.kind == "audio" else "vision"
        resampler, projector = getattr(self, f"{side}_resampler"), getattr(self, f"{side}_projector")
        grid, tokens, pooled, mask = items.values.shape[:2], items.values.to(self.dtype), items.pooled, items.mask
        if resampler is None:
            tokens = projector(tokens)
        else:
            present = None if items.present is None else items.present.flatten()
            inner = None if mask is None else present_masks(mask.flatten(0, 1), present)
            latents, vector = resampler(present_items(tokens.flatten(0, 1), present), inner)
            tokens = placed_items(projector(latents), present).unflatten(0, grid)
            pooled = pooled if vector is None else placed_items(vector, present).unflatten(0, grid)
            mask = None if items.present is None else items.present[..., None].expand(*grid, tokens.shape[2])
        if self.modality_embedding is not None:
            number = self.config.modalities.index(items.kind)
            tokens = tokens + self.modality_embedding(torch.full((), number, device=tokens.device))
        return items._replace(values=tokens, mask=mask, pooled=pooled)

    def _numbered(self, items: MediaItems) -> MediaItems:
        """Pictures, clips and frames get a learned vector per number; the frames of a video become one item."""
        if items.kind == "video":
            tokens = add_numbers(items.values, self.frame_slots, "frames per video", "max_frames", dim=2)
            return join_frames(items._replace(values=tokens), self.config.video_pooling)
        image = (self.image_slots, "pictures per context", "max_images")
        slots = image if items.kind == "image" else (self.clip_slots, "clips per context", "max_clips")
        return items._replace(values=add_numbers(items.values, *slots))

    def _read_context_text(
        self, media: MMContextOutput | None, context_input_ids, context_attention_mask, media_index
    ):
        """Context text (Bc, Tc), joined with the media in the text encoder -> the context of the decoder."""
        ids, mask = context_input_ids, context_attention_mask
        check_text(self._reader().config, ids, None, mask, read_values=self.config.check_inputs, prefix="context_")
        rows = None
        if media is not None:
            rows = MMRows(ids.shape[0], media.last_hidden_state.shape[0], media_index, name="media_index")
        elif media_index is not None:
            raise ValueError("media_index was given, but there are no media for the context text to read")
        output = self.read(media, rows, input_ids=ids, attention_mask=mask)
        if self.config.fusion_type in REPRESENTATION_FUSIONS:  # a context of one token
            return text_context(output.pooler_output[:, None], None, output, media, rows)
        return text_context(output.last_hidden_state, mask, output, media, rows)

    # ---- one modality alone -----------------------------------------------------------------------------------------

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """What the vision tower gives: last_hidden_state (B, N*S, Dv), pooler_output (B, Dv), absent pictures 0.

        output_hidden_states, output_attentions: the tower's own, of the items that are there, come too.
        """
        media = {"pixel_values": pixel_values, "pixel_attention_mask": pixel_attention_mask}
        return self._features(media, kwargs, interpolate_pos_encoding=interpolate_pos_encoding)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """What the vision tower gives for each frame: (B, N*F*S, Dv), pooled (B, Dv), absent frames 0; states too."""
        media = {"pixel_values_videos": pixel_values_videos, "video_attention_mask": video_attention_mask}
        return self._features(media, kwargs, interpolate_pos_encoding=interpolate_pos_encoding)

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """What the audio tower gives: last_hidden_state (B, A*S, Da), pooler_output (B, Da), absent clips 0; states
        too."""
        return self._features({"input_features": input_features, "input_features_mask": input_features_mask}, kwargs)

    def _features(self, media: dict, states: dict, interpolate_pos_encoding: bool = False):
        """The tower's output for one kind of media; `states` may ask for its hidden states and attentions."""
        reject_unknown(states, STATES)
        (items,) = check_media(self.config, {}, **media)
        settings = {name: states[name] for name in STATES if name in states}
        settings |= self._settings(items.kind, interpolate_pos_encoding)
        seen = encode_items(self._tower(items.kind), items, **settings)
        output = {name: seen.output.get(name) for name in ("hidden_states", "attentions")}
        tokens = seen.values.flatten(1, -2)
        seen = join_frames(seen, "none") if seen.kind == "video" else seen
        pooled = None if seen.pooled is None else masked_mean(seen.pooled, seen.present)
        return BaseModelOutputWithPooling(tokens, pooled, **output)

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """A text alone, as the text encoder reads it (or, without one, the decoder): (R, T, Dt) and (R, Dt), and its
        states with output_hidden_states or output_attentions."""
        reject_unknown(kwargs, STATES)
        states = {name: kwargs[name] for name in STATES if name in kwargs}
        output = self.read_alone(states, input_ids=input_ids, attention_mask=attention_mask)
        states = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return BaseModelOutputWithPooling(output.last_hidden_state, output.pooler_output, **states)

    # ---- texts: read from both sides, or written --------------------------------------------------------------------

    def _reader(self) -> MMTextModel:
        """The stack that reads context text: the text encoder, or the decoder in its place."""
        return self.language_model if self.text_encoder is None else self.text_encoder

    def read(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text joined with media by the stack that `get_text_features` reads with; None: without any."""
        return self._joined(self._reader(), self.config.fusion_type, media, rows, **self._both_ways(text))

    def read_alone(self, states: dict | None = None, **text) -> MMModelOutput:
        """A text by that stack, past every fusion; `states` says which states are wanted, as in forward."""
        stack = self._reader()
        check_text(stack.config, inputs_embeds=None, read_values=self.config.check_inputs, **text)
        if stack.unimodal is not None:
            return stack.read_alone(**text, **(states or {}))
        return stack(**self._both_ways(text), return_dict=True, **(states or {}))

    def write(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text that the decoder goes on with, joined with the media themselves; None: without any."""
        return self._joined(self.language_model, self.config.decoder_fusion, media, rows, use_cache=False, **text)

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
        return self._JOINS[fusion](self, stack, context, rows, {**text, "return_dict": True})

    def _cross_attended(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """The text reads the context inside its own layers."""
        if context is not None:
            text["encoder_hidden_states"] = context.last_hidden_state
            text["encoder_attention_mask"] = context.attention_mask
        return stack(rows=rows, **text)

    def _merged(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """Media and text in one sequence; with a cache the media run once per context, and the text after them."""
        text.pop("context_ranges", None)
        if context is None:
            return stack(**text)
        config, states, mask = self.config, context.last_hidden_state, context.attention_mask
        settings = (config.fusion_mask, config.fusion_order, config.fusion_embedding_norm)
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

    def _co_attended(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """Text states and media, each reading the other; a text without media runs through its own layers alone."""
        text.pop("context_ranges", None)
        output = stack(**text)
        media = media_mask = None
        if context is not None:
            media = rows.per_row(context.last_hidden_state)
            media_mask = None if context.attention_mask is None else rows.per_row(context.attention_mask)
        mask = text.get("attention_mask")
        states, media = self.fusion(output.last_hidden_state, mask, media, media_mask)
        output.last_hidden_state, output.context_hidden_states = states, media
        if text.get("pooled", True):
            output.pooler_output = stack.pooler(states, mask, text.get("input_ids"))
        return output

    def _beside_vectors(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """The text alone, with one vector of each modality beside it."""
        text.pop("context_ranges", None)
        output = stack(**text)
        vectors, present = self.modality_vectors(output.pooler_output, context, rows, text.get("attention_mask"))
        output.modality_embeds, output.modality_present = vectors, present
        return output

    def _fused_vectors(self, *joined) -> MMModelOutput:
        """One vector, made of those of all modalities."""
        output = self._beside_vectors(*joined)
        output.pooler_output = self.fusion(output.modality_embeds, output.modality_present)
        return output

    _JOINS = {
        "cross_attention": _cross_attended,
        "co_attention": _co_attended,
        "merged": _merged,
        **dict.fromkeys(REPRESENTATION_FUSIONS, _fused_vectors),
        "decision": _beside_vectors,
        "none": _beside_vectors,
    }

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

    def check_unchanged(self) -> None:
        """Raises ValueError where the configuration now describes another model than this one."""
        for name, value in self.built_for.items():
            if getattr(self.config, name) != value:
                raise ValueError(
                    f"this model was built with {name}={value!r}, but its configuration now says "
                    f"{getattr(self.config, name)!r}; set it back, or build a new model from the configuration"
                )

    # ---- what forward checks and decides ----------------------------------------------------------------------------

    def _uses_cache(self, use_cache: bool | None) -> bool:
        decoder = self.config.text_config
        return decoder.use_cache and decoder.is_causal and not self.training if use_cache is None else use_cache

    @staticmethod
    def _rows(text: torch.Tensor, context: MMContextOutput | None, context_index, past_key_values) -> MMRows | None:
        """The row plan; None where there is no context or the cache holds the plan already."""
        if isinstance(past_key_values, MMCache) and past_key_values.holds_context:
            return None
        if context is None:
            if context_index is not None:
                raise ValueError("context_index was given, but there is no context for the rows to read")
            return None
        return MMRows(len(text), context.last_hidden_state.shape[0], context_index)

    def _ranges(self, context_ranges, context: MMContextOutput | None, rows: MMRows | None, past_key_values):
        """context_ranges over the packed context; None where there are none or the cache holds them."""
        if context_ranges is None or (isinstance(past_key_values, MMCache) and past_key_values.holds_context):
            return None
        if not self.config.decoder_crosses:
            raise ValueError(
                f"context_ranges are for cross-attention; fusion_type={self.config.fusion_type!r} does without"
            )
        if context is None:
            raise ValueError("context_ranges was given, but there is no context for the rows to read")
        return packed_ranges(context_ranges, context, rows)

    def _check_text(self, input_ids, inputs_embeds, past_key_values, **text) -> None:
        """Values are read on the CPU, elsewhere only in calls without a cache: generate() checks its prompt itself."""
        check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
        device = (input_ids if inputs_embeds is None else inputs_embeds).device
        has_past = past_key_values is not None
        read_values = self.config.check_inputs and (not has_past or device.type == "cpu")
        check_text(
            self.config.text_config, input_ids, inputs_embeds, **text, has_past=has_past, read_values=read_values
        )

    def _check_media(self, media: dict, encoder_outputs, encoder_attention_mask, has_text: bool = True) -> None:
        """Media or a ready context, and what goes with either.

        has_text: False where no decoder reads the context: only then may media come without the text encoder's text.
        """
        given = [name for name, value in media.items() if value is not None and value is not False]
        names = ", ".join(given)
        if encoder_outputs is not None and given:
            raise ValueError(f"encoder_outputs is a ready context, so {names} cannot be given beside it")
        if encoder_outputs is None and encoder_attention_mask is not None:
            raise ValueError("encoder_attention_mask was given without encoder_outputs")
        if has_text and given and self.config.has_text_encoder and media.get("context_input_ids") is None:
            raise ValueError(
                f"{names} was given without context_input_ids: this model's decoder reads what its text "
                "encoder makes of a text and media; pass the question or passage as context_input_ids"
            )

    @staticmethod
    def _check_held(cache, encoder_outputs, context_index, media: dict) -> None:
        """A cache that holds a context reads nothing else, so nothing else may be given beside it."""
        if not isinstance(cache, MMCache) or not cache.holds_context:
            return
        given = [name for name, value in media.items() if value is not None and value is not False]
        if given:
            raise ValueError(
                f"past_key_values already holds a context, so {', '.join(given)} would not be read; leave that out, "
                "or call past_key_values.reset() for another context"
            )
        context = encoder_outputs if torch.is_tensor(encoder_outputs) or not encoder_outputs else encoder_outputs[0]
        cache.check_context(None if context is None else context.shape[0], context_index)

    @staticmethod
    def _context_alone(context: MMContextOutput | None, **text) -> MMModelOutput:
        if context is None:
            raise ValueError("nothing to run on: pass input_ids or inputs_embeds, pixel_values, or both")
        given = [name for name, value in text.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)} was given without a text; pass input_ids or inputs_embeds too")
        return MMModelOutput(
            last_hidden_state=context.last_hidden_state,
            pooler_output=context.pooler_output,
            context_hidden_states=context.last_hidden_state,
            context_attention_mask=context.attention_mask,
        )

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
