"""MMModel: runs text over a context of media and text, or either alone; the base of every head.

B contexts, R rows, T text tokens, S context tokens; Dc, Dt: widths of the context and the text.
"""

# Of input_ids and inputs_embeds one is there: checked in words before.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

from typing import Unpack

import torch
from transformers.cache_utils import Cache
from transformers.utils.generic import can_return_tuple

from ..configuration.mm import MMConfig
from .checks.text_inputs import check_tensors, check_text
from .core.base import MMKwargs, reject_unknown
from .core.cache import MMCache
from .core.context_rows import MMRows
from .core.outputs import MMContextOutput, MMModelOutput
from .fusion.context import as_context, packed_ranges
from .joining import MMJoiningModel

MEDIA_INPUTS = (
    "pixel_values", "pixel_attention_mask", "visual_embeds", "pixel_values_videos", "video_attention_mask",
    "input_features", "input_features_mask", "context_input_ids", "context_attention_mask", "media_index",
    "interpolate_pos_encoding",
)  # fmt: skip
TEXT_INPUTS = (
    "input_ids", "attention_mask", "position_ids", "inputs_embeds", "token_type_ids", "context_index",
    "context_ranges", "encoder_outputs", "encoder_attention_mask", "past_key_values", "use_cache",
)  # fmt: skip


class MMModel(MMJoiningModel):
    """Encodes media and context text into a context and runs text over it; works on any subset of its inputs."""

    def __init__(self, config: MMConfig):
        super().__init__(config)
        self.post_init()

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
        context_ranges: torch.Tensor | None = None,
        encoder_outputs=None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[MMKwargs],
    ) -> MMModelOutput:
        """Runs on media alone, text alone, or both.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (R, T); inputs_embeds: (R, T, Dt) instead of ids.
            pixel_values ... interpolate_pos_encoding: as in `encode_context`.
            context_index: int64 (R,), row -> context; None: R = k*B, row r reads context r // k.
            context_ranges: int64 (R, n, 2), the half-open range of context tokens, as they are before packing, that
                text column t may see; columns behind the n-th see what the n-th sees. None: the whole context.
            encoder_outputs: a context made before, instead of media; unread once past_key_values holds it.
            encoder_attention_mask: (B, S), with encoder_outputs that bring no mask of their own.
            past_key_values: MMCache or any Transformers cache; use_cache None: config.use_cache, False in training.
        Raises: ValueError or TypeError in words for bad input; TypeError for unknown arguments.
        """
        reject_unknown(kwargs, MEDIA_INPUTS + TEXT_INPUTS)
        self.check_unchanged()
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
            return self._context_alone(
                context, {**text, "context_index": context_index, "context_ranges": context_ranges}
            )
        self._check_text(input_ids, inputs_embeds, past_key_values, **text)
        if context is not None and encoder_outputs is None:
            self.check_memory_made(media)
        decoder = self.config.text_config
        if use_cache is None:
            use_cache = decoder.use_cache and decoder.is_causal and not self.training
        num_rows = (input_ids if inputs_embeds is None else inputs_embeds).shape[0]
        rows = self._rows(num_rows, context, context_index, past_key_values)
        output = self._joined(
            self.language_model,
            "cross_attention" if self.config.has_text_encoder else self.config.fusion_type,
            context if rows is not None else None,
            rows,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            context_ranges=self._ranges(context_ranges, context, rows, past_key_values),
            return_dict=True,
            **text,
            **kwargs,
        )
        if rows is not None and isinstance(output.past_key_values, MMCache):
            output.past_key_values.rows = rows
        output.context_hidden_states = None if context is None else context.last_hidden_state
        output.context_attention_mask = None if context is None else context.attention_mask
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
        return as_context(encoder_outputs, encoder_attention_mask, self.config.context_width)

    def check_memory_made(self, media: dict) -> None:
        """Behind a text encoder the decoder reads text joined with media; media alone are not what it reads."""
        if self.config.has_text_encoder and media.get("context_input_ids") is None:
            given = [name for name, value in media.items() if value is not None]
            raise ValueError(
                f"{', '.join(given)} was given without context_input_ids: this model's decoder reads what its text "
                "encoder makes of a text and media; pass the question or passage as context_input_ids"
            )

    @staticmethod
    def _rows(num_rows: int, context: MMContextOutput | None, context_index, past_key_values) -> MMRows | None:
        """The row plan; None where there is no context or the cache holds the plan already."""
        if isinstance(past_key_values, MMCache) and past_key_values.holds_context:
            return None
        if context is None:
            if context_index is not None:
                raise ValueError("context_index was given, but there is no context for the rows to read")
            return None
        return MMRows(num_rows, context.last_hidden_state.shape[0], context_index)

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
