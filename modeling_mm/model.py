"""MMModel: media and text to a context, and a text over the context; the base of every head.

    pixel_values, visual_embeds ─┐  tower, item numbers, resampler, projector
    pixel_values_videos ─────────┼─► media (B, S, Dc) ─► text_encoder ⋈ ─► context ─► language_model ⋈ ─► (R, T, Dt)
    input_features ──────────────┘

⋈ is one of `_JOINED`: a text stack and what it reads, joined as fusion_type says. Without a text encoder the media are
the context. B contexts, N items per context, R rows, T text tokens, S context tokens; Dv, Dc, Dt: widths of the tower,
the context and the text.
"""

import copy
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils.generic import can_return_tuple

from ..configuration.checks.fields import REPRESENTATION_FUSIONS
from ..configuration.mm import MMConfig
from .core.attention import weights_of
from .core.base import MMPreTrainedModel
from .core.cache import MMCache, held_text, weights_mark
from .core.context_rows import MMRows
from .core.input_checks import MediaItems, check_media, check_text, without_padding
from .core.inputs_outputs import (
    CONTEXT_TEXT,
    CacheInputs,
    MediaInputs,
    MMContextOutput,
    MMModelOutput,
    ModelInputs,
    RowInputs,
    pop_inputs,
    reject_unknown,
    takes,
)
from .core.prefix import MMPrefix, hold_prefix
from .fusion.context import (
    as_context,
    check_sources,
    context_output,
    join,
    media_in_text,
    modality_vectors,
    plan_rows,
    text_context,
    text_vectors,
)
from .fusion.media_encoder import (
    MMFeatures,
    MMFrameLayers,
    add_numbers,
    build_projector,
    build_resampler,
    build_slots,
    join_frames,
    resample,
    shuffle_pixels,
    warn_of_lost_order,
)
from .towers.any_tower import build_tower, run_tower
from .towers.text import MMTextModel

# kind of media -> whose tower, resampler and projector encode it, and the learned vectors of its item numbers
SIDES = {"image": ("vision", "image_slots"), "video": ("vision", "frame_slots"), "audio": ("audio", "clip_slots")}
# Settings that a model is built from and that every call reads again.
_STRUCTURE = ("fusion_type", "share_text_encoder", "modalities", "projector_type")


class MMModel(MMFeatures, MMPreTrainedModel):
    """Encodes media and context text into a context and runs text over it; works on any subset of its inputs."""

    config: MMConfig
    head_modules = {}
    # Modules, or None where the config has none.
    vision_tower: Any
    audio_tower: Any
    fusion: Any

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.built_for = {name: copy.copy(getattr(config, name)) for name in _STRUCTURE}
        self.decoder_sees_media, self.decoder_fusion = config.decoder_sees_media, config.decoder_fusion
        self.media_in_text, self.max_tiles = config.media_in_text, config.max_tiles
        # The settings of `run_tower` that say which of a tower's states are read.
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        self.tower_reads: dict[str, dict[str, Any]] = {"vision": {"layer": layer, "strategy": strategy}, "audio": {}}
        vision, audio = config.vision_config is not None, config.audio_config is not None
        self.vision_tower = build_tower(config.vision_config, config.vision_feature_layer) if vision else None
        self.vision_resampler = build_resampler(config, "vision")
        self.vision_projector = build_projector(config, "vision")
        self.audio_tower = build_tower(config.audio_config) if audio else None
        self.audio_resampler = build_resampler(config, "audio")
        self.audio_projector = build_projector(config, "audio")
        self.image_slots = build_slots(config.max_images, vision and config.vision_size)
        self.frame_slots = build_slots(config.max_frames, vision and config.vision_size)
        layers = config.temporal_layers
        self.frame_layers = MMFrameLayers(config.vision_config, layers) if layers else None
        self.clip_slots = build_slots(config.max_clips, audio and config.audio_size)
        self.image_newline = nn.Parameter(torch.zeros(config.media_width)) if config.image_newline else None
        self.modalities = list(config.modalities or ())
        kinds = len(self.modalities) if config.modality_embeddings else 0
        self.modality_embedding = nn.Embedding(kinds, config.media_width) if kinds else None
        encoder = config.text_encoder_config
        self.text_encoder = None if encoder is None else MMTextModel._from_config(encoder)
        self.fusion = None
        if config.fusion_type in ("co_attention", "decision", *REPRESENTATION_FUSIONS):
            from .fusion.fusions import build_fusion  # of their own modules; the text's layers do the others' work

            self.fusion = build_fusion(config)
        self.language_model = MMTextModel._from_config(config.text_config)
        self.post_init()
        warn_of_lost_order(config)

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
        **inputs: Unpack[ModelInputs],  # pyright: ignore[reportGeneralTypeIssues]: two are spelled out
    ) -> MMModelOutput:
        """Runs on only media, only text, or both.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (R, T); inputs_embeds: (R, T, Dt) instead of ids.
            pooled: False leaves pooler_output out (None).
        Raises: ValueError or TypeError for bad input; TypeError for unknown arguments.
        """
        reject_unknown(inputs, MMModel.forward)
        self.check_unchanged()
        media = pop_inputs(inputs, MediaInputs)
        index, ranges, ready, ready_mask = pop_inputs(inputs, RowInputs).values()
        text = {"attention_mask": attention_mask, "position_ids": position_ids, "token_type_ids": token_type_ids}
        words = input_ids if inputs_embeds is None else inputs_embeds
        needs_text = not self.decoder_sees_media and words is not None
        check_sources(media, ready, ready_mask, needs_text, past_key_values, index)
        if ready is None:
            context = self.encode_context(**media)
        else:
            context = as_context(ready, ready_mask, self.config.context_width)
        if words is None:
            return context_output(context, context_index=index, context_ranges=ranges, **text)
        # Values are read on the CPU, elsewhere only in calls without a cache: generate() checks its prompt itself.
        decoder = self.config.text_config
        has_past, on_cpu = past_key_values is not None, torch.is_tensor(words) and words.is_cpu
        reads = {"has_past": has_past, "read_values": self.config.check_inputs and (not has_past or on_cpu)}
        check_text(decoder, input_ids, inputs_embeds, **text, **reads)
        to_read, rows, ranges = plan_rows(self.config, words.shape[0], context, index, ranges, past_key_values)
        if use_cache is None:
            use_cache = decoder.use_cache and decoder.is_causal and not self.training
        text |= {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
        text |= {"use_cache": use_cache, "pooled": pooled, "context_ranges": ranges, "return_dict": True, **inputs}
        output = self._JOINED[self.decoder_fusion](self, self.language_model, to_read, rows, text)
        self._complete(output, context, rows)
        return output

    def _complete(self, output: MMModelOutput, context: MMContextOutput | None, rows: MMRows | None) -> None:
        """Adds the context to an output, and to its cache what a later call compares."""
        cache = output.past_key_values
        if context is not None:
            output.context_hidden_states = context.last_hidden_state
            output.context_attention_mask = context.attention_mask
            if rows is not None and isinstance(cache, MMCache) and not self.media_in_text:
                cache.rows, cache.token_sources = rows, context.token_sources
        if cache is not None and not torch.compiler.is_compiling() and held_text(cache).weights is None:
            held_text(cache).weights = weights_mark(self)

    # ---- the context: encoded once, read by every row ---------------------------------------------------------------

    def context_of(
        self, encoder_outputs=None, encoder_attention_mask=None, **media: Unpack[MediaInputs]
    ) -> MMContextOutput | None:
        """What the decoder reads: the context that the caller gave, or the one that the media make; not both."""
        check_sources(media, encoder_outputs, encoder_attention_mask, needs_text=not self.decoder_sees_media)
        if encoder_outputs is None:
            return self.encode_context(**media)
        return as_context(encoder_outputs, encoder_attention_mask, self.config.context_width)

    @takes(MediaInputs)
    def encode_context(
        self,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        *,
        bool_masked_pos: torch.Tensor | None = None,
        **inputs: Unpack[MediaInputs],  # pyright: ignore[reportGeneralTypeIssues]: three are spelled out
    ) -> MMContextOutput | None:
        """Encodes everything the rows may look at, once. None if nothing is given.

        Args:
            bool_masked_pos: bool (B, N, L), the patches of pixel_values that the tower's mask token replaces.
        Raises: ValueError or TypeError; inputs of a modality that the model lacks raise an error naming it.
        """
        reject_unknown(inputs, MMModel.encode_context, "encode_context")
        interpolate = inputs.pop("interpolate_pos_encoding", False)
        inputs |= {
            "pixel_values": pixel_values,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_embeds": visual_embeds,
        }
        given: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
        if not given:
            return None
        items, grids = check_media(self.config, given, bool_masked_pos), given.get("image_grids")
        if self.max_tiles or self.image_newline is not None or grids is not None:
            items = self._encode_tiles(items, grids, interpolate)
        else:
            items = [self._encode(one, interpolate) for one in items]
        context = join(items) if items else None
        if "context_input_ids" in given:
            context = self.read_context_text(context, *(given.get(name) for name in CONTEXT_TEXT))
        return context

    def _encode(self, items: MediaItems, interpolate: bool) -> MediaItems:
        """Items of one kind -> tokens (B, N, S, Dc): tower, item numbers, resampler, projector, modality embedding."""
        side, slots = SIDES[items.kind]
        tower, resampler, projector = (getattr(self, f"{side}_{part}") for part in ("tower", "resampler", "projector"))
        given, items = items, run_tower(tower, items, interpolate_pos_encoding=interpolate, **self.tower_reads[side])
        if getattr(self, slots) is not None:
            items = add_numbers(items, getattr(self, slots))
        if items.kind == "video" and self.frame_layers is not None:
            items = self.frame_layers(items)
        if side == "vision" and self.config.pixel_shuffle > 1:
            items = shuffle_pixels(items, self.config, given)
        if items.kind == "video":
            items = join_frames(items, self.config.video_pooling)
        items = items._replace(values=items.values.to(self.dtype))
        if resampler is None:
            items = items._replace(values=projector(items.values))
        else:
            items = resample(items, resampler, projector)
        if self.modality_embedding is not None:
            number = torch.full((), self.modalities.index(items.kind), device=items.values.device)
            items = items._replace(values=items.values + self.modality_embedding(number))
        return items

    def _encode_tiles(
        self, items: list[MediaItems], grids: torch.Tensor | None, interpolate: bool
    ) -> list[MediaItems]:
        """As `_encode`, where pictures come in tiles, which are read together or joined after the tower."""
        from .towers.tiles import join_tiles, mark_missing_tiles, tiles_to_pictures  # which few models need

        if self.max_tiles:
            items = tiles_to_pictures(items, grids, self.max_tiles)
            return [mark_missing_tiles(self._encode(one, interpolate), self.max_tiles) for one in items]
        items = [self._encode(one, interpolate) for one in items]
        return [join_tiles(one, grids, self.image_newline, self.config) for one in items]

    def read_context_text(
        self, media: MMContextOutput | None, context_input_ids, context_attention_mask, media_index, **states
    ) -> MMContextOutput:
        """Context text (Bc, Tc), joined with the media in the text encoder -> the context of the decoder.

        `states` says which states of the text encoder are wanted, as in forward; they are in its text_output.
        """
        ids, mask = context_input_ids, context_attention_mask
        check_text(self._reader().config, ids, None, mask, read_values=self.config.check_inputs, prefix="context_")
        rows = None
        if media is not None:
            rows = MMRows(ids.shape[0], media.last_hidden_state.shape[0], media_index, name="media_index")
        elif media_index is not None:
            raise ValueError("media_index was given, but there are no media for the context text to read")
        output: Any = self.read(media, rows, input_ids=ids, attention_mask=mask, **states)
        tokens = output.last_hidden_state
        if self.config.fusion_type in REPRESENTATION_FUSIONS:
            tokens, mask = output.pooler_output[:, None], None  # a context of one token
        return text_context(tokens, mask, output, media, rows)

    # ---- texts: read from both sides, or written --------------------------------------------------------------------

    def _reader(self) -> MMTextModel:
        """The stack that reads context text: the text encoder, or the decoder in its place."""
        return self.language_model if self.text_encoder is None else self.text_encoder

    def read(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text joined with media by the stack that `get_text_features` reads with; None: without any."""
        joined = self._JOINED[self.config.fusion_type]
        return joined(self, self._reader(), media, rows, {**self._both_ways(text), "return_dict": True})

    def read_without_media(self, states: dict | None = None, **text) -> MMModelOutput:
        """A text read by the same stack without a fusion; `states` says which states are wanted, as in forward."""
        stack = self._reader()
        check_text(stack.config, inputs_embeds=None, read_values=self.config.check_inputs, **text)
        if stack.unimodal is not None:
            return stack.read_without_media(**text, **(states or {}))
        length = text["input_ids"].shape[1]
        if not any((states or {}).values()):
            text = without_padding(text)
        output = stack(**self._both_ways(text), return_dict=True, **(states or {}))
        added = length - output.last_hidden_state.shape[1]
        if added:  # the states of padding: zeros
            output["last_hidden_state"] = F.pad(output.last_hidden_state, (0, 0, 0, added))
        return output

    def write(self, media: MMContextOutput | None, rows: MMRows | None, **text) -> MMModelOutput:
        """A text that the decoder continues, joined with the media themselves; None: without media."""
        text |= {"use_cache": False, "return_dict": True}
        return self._JOINED[self.decoder_fusion](self, self.language_model, media, rows, text)

    def _both_ways(self, text: dict) -> dict:
        """A text that is read whole, without a cache; a decoder that is the text encoder, too, then sees both ways."""
        return {"use_cache": False, "is_causal": False if self.config.share_text_encoder else None, **text}

    # ---- a text and its context, joined -----------------------------------------------------------------------------

    # Each runs a text stack joined with a context; None: only the text, or a cache that holds the context. It returns
    # the text's states (under co_attention and merged the context's, as context_hidden_states, too) and, as
    # pooler_output, the text's own vector or that of a representation fusion.

    def _cross_attended(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """The text reads the context inside its own layers."""
        if context is not None:
            text["encoder_hidden_states"] = context.last_hidden_state
            text["encoder_attention_mask"] = context.attention_mask
        return stack(rows=rows, **text)

    def _merged(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """Media and text in one sequence; with a cache the media run once per context, and the text after them."""
        text.pop("context_ranges", None)
        if self.media_in_text:
            return stack(placed=media_in_text(self.config, context, rows, text), **text)
        if context is None:
            return stack(**text)
        config, states, mask = self.config, context.last_hidden_state, context.attention_mask
        settings = (config.fusion_mask or "prefix", config.fusion_order, config.fusion_embedding_norm)
        cache = text.get("past_key_values")
        if cache is None and not text.get("use_cache"):
            mask = None if mask is None else rows.per_row(mask)
            return stack(prefix=MMPrefix(rows.per_row(states), mask, *settings), **text)
        cache = MMCache(DynamicCache(config=stack.config), DynamicCache()) if cache is None else MMCache.wrap(cache)
        hold_prefix(stack, MMPrefix(states, mask, *settings), rows, cache)
        return stack(**{**text, "past_key_values": cache})

    def _co_attended(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """Text states and media, each attending to the other; a text without media only runs through its layers."""
        text.pop("context_ranges", None)
        output = stack(**text)
        media = media_mask = None
        if context is not None:
            media = rows.per_row(context.last_hidden_state)
            media_mask = None if context.attention_mask is None else rows.per_row(context.attention_mask)
        mask, asked = text.get("attention_mask"), text.get("output_attentions")
        with weights_of([layer.cross_attn for layer in self.fusion.text_layers] if asked else []) as weights:
            states, media = self.fusion(output.last_hidden_state, mask, media, media_mask, output_attentions=asked)
        if weights:
            output.cross_attentions = tuple(weights)
        output.last_hidden_state, output.context_hidden_states = states, media
        if text.get("pooled", True):
            output.pooler_output = stack.pooler(states, mask, text.get("input_ids"))
        return output

    def _pooled_vectors(self, stack: MMTextModel, context, rows, text: dict) -> MMModelOutput:
        """The text without media, and one vector of each modality."""
        text.pop("context_ranges", None)
        output = stack(**text)
        vectors, present = text_vectors(output.pooler_output, text.get("attention_mask"))
        if context is not None:
            media, there = modality_vectors(context, self.modalities)
            vectors |= {name: rows.per_row(vector) for name, vector in media.items()}
            present |= {name: rows.per_row(has_it) for name, has_it in there.items()}
        output.modality_embeds, output.modality_present = vectors, present
        return output

    def _fused_vectors(self, *joined) -> MMModelOutput:
        """One vector, computed from those of all modalities."""
        output = self._pooled_vectors(*joined)
        output.pooler_output = self.fusion(output.modality_embeds, output.modality_present)
        return output

    _JOINED = {
        "cross_attention": _cross_attended,
        "co_attention": _co_attended,
        "merged": _merged,
        **dict.fromkeys(REPRESENTATION_FUSIONS, _fused_vectors),
        "decision": _pooled_vectors,
        "none": _pooled_vectors,
    }

    def check_unchanged(self) -> None:
        """Raises ValueError where the configuration now describes another model than this one."""
        for name, value in self.built_for.items():
            if getattr(self.config, name) != value:
                raise ValueError(
                    f"this model was built with {name}={value!r}, but its configuration now says "
                    f"{getattr(self.config, name)!r}; set it back, or build a new model from the configuration"
                )
