"""MMModel: towers, context and text stack; the base of every head.

B contexts, N pictures per context, R rows, T text tokens, S context tokens; Dv, Dc, Dt: widths of the tower, the
context and the text.
"""

# Of input_ids and inputs_embeds, and of pixels and embeddings, one is there: checked in words before.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..configuration.mm import MMConfig
from .base import MMPreTrainedModel, reject_unknown
from .cache import MMCache
from .context import (
    as_context,
    build_projector,
    build_tower,
    image_context,
    mean_present,
    place,
    run_present,
)
from .inputs import check_pixels, check_tensors, check_text, check_visual_embeds, picture_mask, refuse_absent
from .outputs import MMContextOutput, MMModelOutput
from .rows import MMRows
from .text import MMTextModel

MEDIA_INPUTS = (
    "pixel_values", "pixel_attention_mask", "visual_embeds", "pixel_values_videos", "video_attention_mask",
    "input_features", "input_features_mask", "context_input_ids", "context_attention_mask", "media_index",
    "interpolate_pos_encoding",
)  # fmt: skip
TEXT_INPUTS = (
    "input_ids", "attention_mask", "position_ids", "inputs_embeds", "token_type_ids", "context_index",
    "encoder_outputs", "encoder_attention_mask", "past_key_values", "use_cache",
)  # fmt: skip


class MMModel(MMPreTrainedModel):
    """Encodes media into a context and runs text over it; works on media alone, text alone, or both."""

    config: MMConfig

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.vision_tower = build_tower(config.vision_config)
        self.vision_projector = build_projector(config)
        slots = config.max_images
        self.image_slots = torch.nn.Embedding(slots, config.vision_size) if slots else None
        self.language_model = MMTextModel._from_config(config.text_config)
        self.post_init()

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
    ) -> MMContextOutput | None:
        """Encodes everything the rows may look at, once. None if nothing is given.

        Args:
            pixel_values: float (B, C, H, W), one picture each, or (B, N, C, H, W) in slots.
            pixel_attention_mask: bool (B,) or (B, N), True for each picture present; None: all are.
            visual_embeds: float (B, S, Dv) or (B, N, S, Dv), ready tower output instead of pixel_values.
            interpolate_pos_encoding: accept pictures of another size than image_size.
            The rest are refused by name unless the model was built with the modality or a text encoder.
        """
        refuse_absent(
            self.config,
            pixel_values_videos=pixel_values_videos,
            video_attention_mask=video_attention_mask,
            input_features=input_features,
            input_features_mask=input_features_mask,
            context_input_ids=context_input_ids,
            context_attention_mask=context_attention_mask,
            media_index=media_index,
        )
        if pixel_values is None and visual_embeds is None:
            if pixel_attention_mask is not None:
                raise ValueError("pixel_attention_mask was given without pixel_values or visual_embeds")
            return None
        if pixel_values is not None and visual_embeds is not None:
            raise ValueError("pass pixel_values or visual_embeds (ready tower output), not both")
        if visual_embeds is not None:
            check_visual_embeds(self.config, visual_embeds)
            tokens = visual_embeds[:, None] if visual_embeds.ndim == 3 else visual_embeds  # (B, N, S, Dv)
            mask = picture_mask(pixel_attention_mask, tokens, "pixel_attention_mask")
            pooled, output = tokens.mean(2), None
        else:
            tokens, pooled, mask, output = self._see(pixel_values, pixel_attention_mask, interpolate_pos_encoding)
        if self.image_slots is not None:
            tokens = tokens + self._slot_vectors(tokens.shape[1])
        tokens = self.vision_projector(tokens.to(self.dtype))
        return image_context(tokens, pooled, mask, output)

    def _see(self, pixel_values: torch.Tensor, mask: torch.Tensor | None, interpolate_pos_encoding: bool):
        """Runs the tower: tokens (B, N, S, Dv), pooled (B, N, Dv), mask bool (B, N) or None, the tower's output."""
        check_pixels(self.config, pixel_values)
        pictures = pixel_values[:, None] if pixel_values.ndim == 4 else pixel_values
        mask = picture_mask(mask, pictures, "pixel_attention_mask")
        output, present = run_present(
            self.vision_tower, pictures, mask, interpolate_pos_encoding=interpolate_pos_encoding
        )
        grid = pictures.shape[:2]
        tokens = place(output.last_hidden_state, present).unflatten(0, grid)
        pooled = output.pooler_output
        return tokens, None if pooled is None else place(pooled, present).unflatten(0, grid), mask, output

    def _slot_vectors(self, slots: int) -> torch.Tensor:
        """(N, 1, Dv), one learned vector per picture number."""
        if slots > self.config.max_images:
            raise ValueError(f"{slots} pictures per context were given, but max_images={self.config.max_images}")
        return self.image_slots.weight[:slots, None]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> BaseModelOutputWithPooling:
        """What the vision tower gives: last_hidden_state (B, N*S, Dv), pooler_output (B, Dv), absent pictures 0."""
        tokens, pooled, mask, _ = self._see(pixel_values, pixel_attention_mask, interpolate_pos_encoding)
        return BaseModelOutputWithPooling(tokens.flatten(1, 2), mean_present(pooled, mask))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
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
        context_index: torch.Tensor | None = None,
        encoder_outputs=None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> MMModelOutput:
        """Runs on media alone, text alone, or both.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (R, T); inputs_embeds: (R, T, Dt) instead of ids.
            pixel_values ... interpolate_pos_encoding: as in `encode_context`.
            context_index: int64 (R,), row -> context; None: R = k*B, row r reads context r // k.
            encoder_outputs: a context made before, instead of media; unread once past_key_values holds it.
            encoder_attention_mask: (B, S), with encoder_outputs that bring no mask of their own.
            past_key_values: MMCache or any Transformers cache; use_cache None: config.use_cache, False in training.
        Raises: ValueError or TypeError in words for bad input; TypeError for unknown arguments.
        """
        reject_unknown(kwargs, MEDIA_INPUTS + TEXT_INPUTS)
        media = {
            "pixel_values": pixel_values,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_embeds": visual_embeds,
            "pixel_values_videos": pixel_values_videos,
            "video_attention_mask": video_attention_mask,
            "input_features": input_features,
            "input_features_mask": input_features_mask,
            "context_input_ids": context_input_ids,
            "context_attention_mask": context_attention_mask,
            "media_index": media_index,
        }
        text = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
        }
        self._check_held(past_key_values, encoder_outputs, context_index, media)
        context = self.context_of(encoder_outputs, encoder_attention_mask, interpolate_pos_encoding, **media)
        if input_ids is None and inputs_embeds is None:
            return self._context_alone(context, {**text, "context_index": context_index})
        self._check_text(input_ids, inputs_embeds, past_key_values, **text)
        if use_cache is None:
            use_cache = self.config.text_config.use_cache and not self.training
        states = None if context is None else context.last_hidden_state
        mask = None if context is None else context.attention_mask
        num_rows = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
        output = self.language_model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            rows=self._rows(num_rows, states, context_index, past_key_values),
            return_dict=True,
            **text,
            **kwargs,
        )
        output.context_hidden_states, output.context_attention_mask = states, mask
        return output

    def context_of(
        self, encoder_outputs, encoder_attention_mask, interpolate_pos_encoding: bool = False, **media
    ) -> MMContextOutput | None:
        """The context that the caller gave, or the one that the media make; not both."""
        if encoder_outputs is None:
            if encoder_attention_mask is not None:
                raise ValueError("encoder_attention_mask was given without encoder_outputs")
            return self.encode_context(**media, interpolate_pos_encoding=interpolate_pos_encoding)
        given = [name for name, value in media.items() if value is not None]
        if given:
            raise ValueError(f"encoder_outputs is a ready context, so {', '.join(given)} cannot be given beside it")
        return as_context(encoder_outputs, encoder_attention_mask, self.config.text_config.memory_size)

    @staticmethod
    def _rows(num_rows: int, states, context_index, past_key_values) -> MMRows | None:
        """The row plan; None where there is no context or the cache holds the plan already."""
        if isinstance(past_key_values, MMCache) and past_key_values.holds_context:
            return None
        if states is None:
            if context_index is not None:
                raise ValueError("context_index was given, but there is no context for the rows to read")
            return None
        return MMRows(num_rows, states.shape[0], context_index)

    def _check_text(self, input_ids, inputs_embeds, past_key_values, **text) -> None:
        """Values are read on the CPU, else in calls without a cache alone (generate() checks its prompt itself)."""
        check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds)
        device = (input_ids if inputs_embeds is None else inputs_embeds).device
        has_past = past_key_values is not None
        read_values = self.config.check_inputs and (not has_past or device.type == "cpu")
        check_text(
            self.config.text_config, input_ids, inputs_embeds, **text, has_past=has_past, read_values=read_values
        )

    @staticmethod
    def _check_held(cache, encoder_outputs, context_index, media: dict) -> None:
        """A cache that holds a context reads nothing else, so nothing else may be given beside it."""
        if not isinstance(cache, MMCache) or not cache.holds_context:
            return
        given = [name for name, value in media.items() if value is not None]
        if given:
            raise ValueError(
                f"past_key_values already holds a context, so {', '.join(given)} would not be read; leave that out, "
                "or call past_key_values.reset() for another context"
            )
        context = encoder_outputs if torch.is_tensor(encoder_outputs) or not encoder_outputs else encoder_outputs[0]
        cache.check_context(None if context is None else context.shape[0], context_index)

    @staticmethod
    def _context_alone(context: MMContextOutput | None, text: dict) -> MMModelOutput:
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
