"""MMFeatures: what the towers and the text stack give of one kind of input, before any fusion, alike in every class.

B contexts, N pictures, A clips, F frames, R texts, T text tokens, S tokens of an item; Dv, Da, Dt: widths of the
towers and the text; P projection_dim.
"""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ..core.input_checks import check_media
from ..core.model_inputs import reject_unknown
from ..core.pooling import masked_mean
from ..towers.any_tower import STATES, run_tower
from .media_encoder import join_frames


class MMFeatures:
    """get_image_features, get_video_features, get_audio_features and get_text_features.

    Each returns last_hidden_state, the tokens of the tower or text, and pooler_output, what the model makes of them,
    as the classes of Transformers do: with a contrastive head the vector that is compared, projected to P and not
    normalised (CLIPModel); in MMForConditionalGeneration the projected tokens (B, S, Dc) that the decoder reads of
    media (LlavaForConditionalGeneration); in every other class the tower's own vector.

    output_hidden_states and output_attentions give the tower's own states of the items present, too.
    """

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens (B, N*S, Dv) and one vector (B, Dv), with a contrastive head (B, P); absent pictures are 0."""
        given = {"pixel_values": pixel_values, "pixel_attention_mask": pixel_attention_mask}
        return self._media_features("vision", given, kwargs, interpolate_pos_encoding=interpolate_pos_encoding)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens (B, N*F*S, Dv) and one vector (B, Dv), with a contrastive head (B, P); absent frames are 0."""
        given = {"pixel_values_videos": pixel_values_videos, "video_attention_mask": video_attention_mask}
        return self._media_features("vision", given, kwargs, interpolate_pos_encoding=interpolate_pos_encoding)

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Tokens (B, A*S, Da) and one vector (B, Da), with a contrastive head (B, P); absent clips are 0."""
        given = {"input_features": input_features, "input_features_mask": input_features_mask}
        return self._media_features("audio", given, kwargs)

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Tokens (R, T, Dt) and one vector (R, Dt), with a contrastive head (R, P), of a text without media.

        The text encoder reads it, or the decoder of a model without one.
        """
        reject_unknown(kwargs, STATES)
        states = {name: kwargs[name] for name in STATES if name in kwargs}
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        model: Any = self
        output = model.base_model.read_alone(states, **text)
        vector = self._embedded(output.pooler_output, "text", text)
        states = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return BaseModelOutputWithPooling(output.last_hidden_state, vector, **states)

    def _media_features(self, side: str, given: dict, kwargs: dict, **settings: bool) -> BaseModelOutputWithPooling:
        """The output of one tower for one kind of media; kwargs may ask for its hidden states and attentions."""
        reject_unknown(kwargs, STATES)
        model: Any = self
        base = model.base_model
        states = {name: kwargs[name] for name in STATES if name in kwargs}
        present = {name: value for name, value in given.items() if value is not None}
        (items,) = check_media(base.config, present)
        tower = base.vision_tower if side == "vision" else base.audio_tower
        seen = run_tower(tower, items, **states, **settings, **base.tower_reads(side))
        output = {name: seen.output.get(name) for name in ("hidden_states", "attentions")}
        tokens = seen.values.flatten(1, -2)
        seen = join_frames(seen, "none") if seen.kind == "video" else seen
        pooled = None if seen.pooled is None else masked_mean(seen.pooled, seen.present)
        return BaseModelOutputWithPooling(tokens, self._embedded(pooled, side, {**given, **settings}), **output)

    def _embedded(self, pooled: torch.Tensor | None, side: str, given: dict[str, Any]) -> torch.Tensor | None:
        """What the model makes of "vision", "audio" or "text"; here the vector as the tower gave it."""
        return pooled
