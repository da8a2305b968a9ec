"""MMMediaModel: towers, resamplers and projectors; media of every kind to tokens of the width that text joins.

B contexts, N items per context (pictures, videos, clips), F frames, S tokens; Dv, Da, Dc: widths of the vision tower,
the audio tower and the context.
"""

# A tower is there for every modality that passes refuse_absent.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ...configuration.mm import MMConfig
from ...configuration.resampler import MMResamplerConfig
from ..checks.media_inputs import Media, clips, pictures, ready_tokens, refuse_absent, videos
from ..core.base import MMPreTrainedModel, reject_unknown
from ..core.outputs import MMContextOutput
from ..towers.any_tower import STATES, TowerFeatures, build_tower, tower_features
from ..towers.resampler import MMResampler
from .context import Items, join, mean_present


def build_projector(config: MMConfig, width: int) -> nn.Module:
    """`width` of a tower or resampler -> the width that the reader of the media takes in."""
    outputs = config.media_width
    if config.projector_type == "none":
        return nn.Identity()
    if config.projector_type == "linear":
        return nn.Linear(width, outputs)
    if config.projector_type == "linear_norm":
        norm = nn.LayerNorm(outputs, eps=config.projector_norm_eps)
        return nn.Sequential(OrderedDict(dense=nn.Linear(width, outputs), norm=norm))
    layers = {"up_proj": nn.Linear(width, outputs), "act": nn.GELU(), "down_proj": nn.Linear(outputs, outputs)}
    return nn.Sequential(OrderedDict(layers))


def build_slots(number: int, width: int) -> nn.Embedding | None:
    """A learned vector per item number; None where items have no order."""
    return nn.Embedding(number, width) if number else None


def chosen(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """The items that are there, (M, ...) -> (n, ...). In an exported graph, which wants one shape, all of them.

    Of a batch without any, a blank stands in, which `placed` puts nowhere: so every rank of a distributed run uses the
    same parameters, with zero gradients.
    """
    if present is None or torch.compiler.is_exporting():
        return values
    there = values[present]
    if len(there):
        return there
    return values[:1].nan_to_num(0, 0, 0) * 0 if values.is_floating_point() else torch.zeros_like(values[:1])


def chosen_mask(mask: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """As `chosen`; the blank is whole."""
    if present is None:
        return mask
    if torch.compiler.is_exporting():
        return mask | ~present.reshape(-1, *[1] * (mask.ndim - 1))
    there = mask[present]
    return there if len(there) else torch.ones_like(mask[:1])


def placed(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """(n, ...) of the items that are there -> (M, ...), zeros where there is none; a blank lands nowhere."""
    if present is None:
        return values
    if torch.compiler.is_exporting():
        return values.masked_fill(~present.reshape(-1, *[1] * (values.ndim - 1)), 0)
    there = values.new_zeros(len(present), *values.shape[1:])
    there[present] = values
    return there


def asked_states(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of a method's further arguments those that ask a tower for its states; one that nobody knows raises."""
    reject_unknown(kwargs, STATES)
    return {name: kwargs[name] for name in STATES if name in kwargs}


class MMMediaModel(MMPreTrainedModel):
    """The media side of MMModel."""

    config: MMConfig
    # Modules, or None where the config has none.
    vision_tower: Any
    vision_resampler: Any
    vision_projector: Any
    audio_tower: Any
    audio_resampler: Any
    audio_projector: Any

    def __init__(self, config: MMConfig):
        super().__init__(config)
        vision, audio = config.vision_config is not None, config.audio_config is not None
        self.vision_tower = build_tower(config.vision_config, config.vision_feature_layer) if vision else None
        self.vision_resampler = self._resampler(config.vision_resampler_config, vision and config.vision_size)
        self.vision_projector = self._projector(config.vision_resampler_config, vision and config.vision_size)
        self.audio_tower = build_tower(config.audio_config) if audio else None
        self.audio_resampler = self._resampler(config.audio_resampler_config, audio and config.audio_size)
        self.audio_projector = self._projector(config.audio_resampler_config, audio and config.audio_size)
        self.image_slots = build_slots(config.max_images, vision and config.vision_size)
        self.frame_slots = build_slots(config.max_frames, vision and config.vision_size)
        self.clip_slots = build_slots(config.max_clips, audio and config.audio_size)
        kinds = len(config.modalities) if config.modality_embeddings else 0
        self.modality_embedding = build_slots(kinds, config.media_width)

    @staticmethod
    def _resampler(config: MMResamplerConfig | None, width: int) -> nn.Module | None:
        return None if config is None else MMResampler(config, width)

    def _projector(self, resampler: MMResamplerConfig | None, width: int) -> nn.Module | None:
        if not width:
            return None
        return build_projector(self.config, width if resampler is None else resampler.hidden_size)

    # ---- towers: (B, N, ...) -> tokens at tower width ---------------------------------------------------------------

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
        refuse_absent(self.config, pixel_values=pixel_values)
        seen = self._see(pixel_values, pixel_attention_mask, interpolate_pos_encoding, **asked_states(kwargs))
        return self._tower_output(seen)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        video_attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """What the vision tower gives for each frame: (B, N*F*S, Dv), pooled (B, Dv), absent frames 0; states too."""
        refuse_absent(self.config, pixel_values_videos=pixel_values_videos)
        states = asked_states(kwargs)
        seen = self._watch(pixel_values_videos, video_attention_mask, interpolate_pos_encoding, **states)
        return self._tower_output(seen._replace(tokens=seen.tokens.flatten(2, 3)))

    @can_return_tuple
    def get_audio_features(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """What the audio tower gives: last_hidden_state (B, A*S, Da), pooler_output (B, Da), absent clips 0; states
        too."""
        refuse_absent(self.config, input_features=input_features)
        return self._tower_output(self._hear(input_features, input_features_mask, **asked_states(kwargs)))

    @staticmethod
    def _tower_output(seen: Items) -> BaseModelOutputWithPooling:
        states = {name: seen.output.get(name) for name in ("hidden_states", "attentions")}
        return BaseModelOutputWithPooling(seen.tokens.flatten(1, 2), mean_present(seen.pooled, seen.present), **states)

    def _see(self, pixel_values, mask, interpolate: bool, bool_masked_pos=None, **states) -> Items:
        """Pictures: tokens (B, N, S, Dv), pooled (B, N, Dv). bool_masked_pos (B, N, L): patches that are hidden."""
        media, settings = pictures(self.config, pixel_values, mask), self._vision_settings(interpolate) | states
        if bool_masked_pos is not None:
            present = None if media.present is None else media.present.flatten()
            settings["bool_masked_pos"] = chosen(bool_masked_pos.flatten(0, 1), present).bool()
        return self._run("image", self.vision_tower, media, settings)

    def _watch(self, pixel_values, mask, interpolate: bool, **states) -> Items:
        """Videos: tokens (B, N, F, S, Dv), mask of frames (B, N, F), pooled (B, N, Dv), the mean over a video."""
        media = videos(self.config, pixel_values, mask)
        frames = Media(media.values.flatten(1, 2), None if media.mask is None else media.mask.flatten(1), None)
        seen = self._run("video", self.vision_tower, frames, self._vision_settings(interpolate) | states)
        grid = media.values.shape[1:3]
        pooled = None if seen.pooled is None else mean_present(seen.pooled.unflatten(1, grid), media.mask, dim=2)
        return Items("video", seen.tokens.unflatten(1, grid), media.mask, pooled, media.present, seen.output)

    def _hear(self, input_features, mask, **states) -> Items:
        """Clips: tokens (B, A, S, Da), pooled (B, A, Da)."""
        return self._run("audio", self.audio_tower, clips(self.config, input_features, mask), states)

    def _vision_settings(self, interpolate: bool) -> dict[str, Any]:
        return {
            "layer": self.config.vision_feature_layer,
            "strategy": self.config.vision_feature_select_strategy,
            "interpolate_pos_encoding": interpolate,
        }

    @staticmethod
    def _run(kind: str, tower: nn.Module, media: Media, settings: dict[str, Any]) -> Items:
        """Runs a tower on the items that are there."""
        grid = media.values.shape[:2]
        present = None if media.present is None else media.present.flatten()
        mask = None if media.mask is None else chosen_mask(media.mask.flatten(0, 1), present)
        features: TowerFeatures = tower_features(tower, chosen(media.values.flatten(0, 1), present), mask, **settings)
        token_mask = features.mask
        if token_mask is None and present is not None:
            token_mask = features.tokens.new_ones(features.tokens.shape[:2], dtype=torch.bool)
        return Items(
            kind,
            tokens=placed(features.tokens, present).unflatten(0, grid),
            mask=None if token_mask is None else placed(token_mask, present).unflatten(0, grid),
            pooled=None if features.pooled is None else placed(features.pooled, present).unflatten(0, grid),
            present=media.present,
            output=features.output,
        )

    # ---- the context: item numbers, resampler, projector, modality --------------------------------------------------

    def media_context(
        self,
        pixel_values=None,
        pixel_attention_mask=None,
        visual_embeds=None,
        pixel_values_videos=None,
        video_attention_mask=None,
        input_features=None,
        input_features_mask=None,
        interpolate_pos_encoding: bool = False,
        bool_masked_pos=None,
    ) -> MMContextOutput | None:
        """Everything given, as one packed context (B, S, Dc); None if nothing is. See `MMModel.encode_context`.

        bool_masked_pos: bool (B, N, L), the patches of pixel_values that a mask token stands for.
        """
        parts = []
        if pixel_values is not None and visual_embeds is not None:
            raise ValueError("pass pixel_values or visual_embeds (ready tower output), not both")
        if pixel_values is not None:
            seen = self._see(pixel_values, pixel_attention_mask, interpolate_pos_encoding, bool_masked_pos)
            parts.append(self._project(self._numbered(seen, self.image_slots, "pictures per context", "max_images")))
        elif visual_embeds is not None:
            seen = self._ready(visual_embeds, pixel_attention_mask)
            parts.append(self._project(self._numbered(seen, self.image_slots, "pictures per context", "max_images")))
        if pixel_values_videos is not None:
            watched = self._watch(pixel_values_videos, video_attention_mask, interpolate_pos_encoding)
            parts.append(self._project(self._pooled_video(watched)))
        if input_features is not None:
            heard = self._hear(input_features, input_features_mask)
            parts.append(self._project(self._numbered(heard, self.clip_slots, "clips per context", "max_clips")))
        return join(parts) if parts else None

    def _ready(self, visual_embeds: torch.Tensor, mask: torch.Tensor | None) -> Items:
        """Ready tower output as if a tower had just given it; its pooled vector is the mean of its tokens."""
        media = ready_tokens(self.config, visual_embeds, mask)
        tokens, token_mask = media.values.to(self.dtype), media.mask
        if token_mask is None and media.present is not None:
            token_mask = media.present[..., None].expand(tokens.shape[:3])
        return Items("image", tokens, token_mask, mean_present(tokens, token_mask, dim=2), media.present)

    @staticmethod
    def _numbered(seen: Items, slots: nn.Embedding | None, what: str, setting: str, dim: int = 1) -> Items:
        """Adds a learned vector per number along `dim`, at tower width."""
        if slots is None:
            return seen
        count = seen.tokens.shape[dim]
        if count > slots.num_embeddings:
            raise ValueError(f"{count} {what} were given, but {setting}={slots.num_embeddings}")
        vectors = slots(torch.arange(count, device=seen.tokens.device)).reshape(
            count, *[1] * (seen.tokens.ndim - dim - 2), -1
        )
        return seen._replace(tokens=seen.tokens + vectors)

    def _pooled_video(self, seen: Items) -> Items:
        """Frames get their numbers; (B, N, F, S, Dv) -> (B, N, F*S, Dv), or F or S tokens by `video_pooling`."""
        seen = self._numbered(seen, self.frame_slots, "frames per video", "max_frames", dim=2)
        tokens, frames = seen.tokens, seen.mask
        length = tokens.shape[3]
        if self.config.video_pooling == "space":
            return seen._replace(tokens=tokens.mean(3))
        if self.config.video_pooling == "time":
            mask = None if frames is None else seen.present[..., None].expand(*tokens.shape[:2], length)
            return seen._replace(tokens=mean_present(tokens, frames, dim=2), mask=mask)
        mask = None if frames is None else frames.repeat_interleave(length, dim=2)
        return seen._replace(tokens=tokens.flatten(2, 3), mask=mask)

    def _project(self, seen: Items) -> Items:
        """Tokens at tower width -> (B, N, S, Dc), resampled where there is a resampler."""
        audio = seen.kind == "audio"
        resampler = self.audio_resampler if audio else self.vision_resampler
        projector = self.audio_projector if audio else self.vision_projector
        grid, tokens, pooled, mask = seen.tokens.shape[:2], seen.tokens.to(self.dtype), seen.pooled, seen.mask
        if resampler is None:
            tokens = projector(tokens)
        else:
            present = None if seen.present is None else seen.present.flatten()
            inner = None if mask is None else chosen_mask(mask.flatten(0, 1), present)
            latents, vector = resampler(chosen(tokens.flatten(0, 1), present), inner)
            tokens = placed(projector(latents), present).unflatten(0, grid)
            pooled = pooled if vector is None else placed(vector, present).unflatten(0, grid)
            mask = None if seen.present is None else seen.present[..., None].expand(*grid, tokens.shape[2])
        if self.modality_embedding is not None:
            number = self.config.modalities.index(seen.kind)
            tokens = tokens + self.modality_embedding(torch.full((), number, device=tokens.device))
        return seen._replace(tokens=tokens, mask=mask, pooled=pooled)
