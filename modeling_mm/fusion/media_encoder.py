"""What comes between a tower and the context: item numbers, frames of a video, resampler and projector.

MMFeatures gives what the towers and the text stack make of one kind of input, before any fusion, alike in every class.

B contexts, N items per context (pictures, videos, clips), A clips, F frames, n items, S tokens of an item, L latents
that a resampler makes of them, R texts, T text tokens; D, Dv, Da, Dc, Dt: widths of the latents, the towers, the
context and the text; P projection_dim.
"""

import math
import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from ...configuration.checks.fields import REPRESENTATION_FUSIONS, UNJOINED
from ...configuration.mm import MMConfig
from ...configuration.resampler import MMResamplerConfig
from ...configuration.vision import MMVisionConfig
from ..core.attention import build_norm
from ..core.base import MMPreTrainedModel
from ..core.context_rows import MMReading, MMRows
from ..core.input_checks import MediaItems, check_media, check_tokens, may_read_values
from ..core.inputs_outputs import reject_unknown
from ..core.layers import MMLayer, masked_mean
from ..towers.any_tower import STATES, run_tower, scatter_present, select_present, select_present_masks


def build_projector(config: MMConfig, side: str) -> nn.Module | None:
    """From a tower ("vision" or "audio") or its resampler to the width that the reader of the media takes in; None
    without a tower."""
    if getattr(config, f"{side}_config") is None:
        return None
    resampler, outputs, bias = getattr(config, f"{side}_resampler_config"), config.media_width, config.projector_bias
    width = getattr(config, f"{side}_size") if resampler is None else resampler.hidden_size
    width *= config.pixel_shuffle**2 if side == "vision" else 1
    if config.projector_type == "none":
        return nn.Identity()
    first = nn.Linear(width, outputs, bias=bias)
    if config.projector_type == "linear":
        return first
    if config.projector_type == "linear_norm":
        norm = nn.LayerNorm(outputs, eps=config.projector_norm_eps)
        return nn.Sequential(OrderedDict(dense=first, norm=norm))
    layers = {"up_proj": first, "act": nn.GELU(), "down_proj": nn.Linear(outputs, outputs, bias=bias)}
    return nn.Sequential(OrderedDict(layers))


def shuffle_pixels(items: MediaItems, config: MMConfig, given: MediaItems) -> MediaItems:
    """Squares of patches as one token each, row by row in it: (B, N[, F], rows*columns, Dv) -> (B, N[, F], S, side^2 *
    Dv), side being pixel_shuffle.

    Args:
        given: what the tower read, whose pixels say how many rows and columns of patches there are.
    Raises: ValueError for tokens of no such grid, or where the real patches of a picture cut through a square.
    """
    tokens, side = items.values, config.pixel_shuffle
    rows = columns = math.isqrt(tokens.shape[-2])
    if isinstance(config.vision_config, MMVisionConfig):
        size = config.vision_config.image_sides if given.is_ready else given.values.shape[-2:]
        rows, columns = (pixels // config.vision_config.patch_size for pixels in size)
    if tokens.shape[-2] != rows * columns or rows % side or columns % side:
        raise ValueError(
            f"pixel_shuffle={side} reads squares of patches, but {tokens.shape[-2]} tokens came of a grid of "
            f"{rows} x {columns}; give sides of whole squares"
        )

    def squares(values: torch.Tensor) -> torch.Tensor:  # (..., rows*columns, D) -> (..., S, side^2, D)
        values = values.unflatten(-2, (rows // side, side, columns // side, side))
        return values.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)

    mask = items.mask
    if mask is not None:
        real = squares(mask[..., None])[..., 0]
        mask = real.all(-1)
        if may_read_values() and not torch.equal(mask, real.any(-1)):
            raise ValueError(f"pixel_attention_mask cuts through a square of {side} x {side} patches (pixel_shuffle)")
    return items._replace(values=squares(tokens).flatten(-2), mask=mask)


class MMSlots(nn.Embedding):
    """A learned vector per item number, added to tokens that a norm has brought to size 1: at the initializer_range of
    weights (0.02) a new table would be lost among them, and the order of items with it."""

    initial_std = 0.5


class MMFrameLayers(nn.Module):
    """Layers of self-attention over all tokens of all frames of a video, of the vision tower's kind."""

    def __init__(self, config: MMVisionConfig, number: int):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(MMLayer(config, self_idx=i) for i in range(number))
        is_normed = config.norm_position == "pre" and config.final_norm == "all"
        self.norm = build_norm(config.norm_type if is_normed else "none", config.hidden_size, config.layer_norm_eps)

    def forward(self, items: MediaItems) -> MediaItems:
        """(B, N, F, S, Dv) -> the same; an absent frame is read by no other, and its own tokens mean nothing."""
        tokens, there, real = items.values.flatten(0, 1), None, None
        if items.present is not None:
            there = items.present.flatten(0, 1).any(1)
            real = select_present(items.present.flatten(0, 1), there)
            tokens = select_present(tokens, there)
        states = tokens.flatten(1, 2)  # (n, F*S, Dv)
        mask = None
        if real is not None:
            real = real | ~real.any(1, keepdim=True)  # the blank video of a batch without any
            mask = create_bidirectional_mask(self.config, states, real.repeat_interleave(tokens.shape[2], dim=1))
        for layer in self.layers:
            states = layer(states, attention_mask=mask)
        states = self.norm(states).unflatten(1, tokens.shape[1:3])
        states = states if there is None else scatter_present(states, there)
        return items._replace(values=states.view_as(items.values))


# kind -> what is numbered, and the setting that says how many numbers there are
_NUMBERED = {
    "image": ("pictures per context", "max_images"),
    "video": ("frames per video", "max_frames"),
    "audio": ("clips per context", "max_clips"),
}


def build_slots(number: int, width: int) -> MMSlots | None:
    """None where items have no order."""
    return MMSlots(number, width) if number else None


def warn_of_lost_order(config: MMConfig) -> None:
    """A UserWarning where no part of the model can tell the frames of a video from the same frames shuffled."""
    if "video" not in (config.modalities or []):
        return
    means = config.fusion_type in (*REPRESENTATION_FUSIONS, *UNJOINED)
    if not config.max_frames:
        why = "max_frames=0 gives the frames no positions; set max_frames to the largest number of frames of a video"
    elif config.temporal_layers or config.vision_resampler_config is not None:
        return
    elif config.video_pooling == "time":
        why = "video_pooling='time' is their mean; set temporal_layers=1, or video_pooling='none'"
    elif means:
        why = f"fusion_type={config.fusion_type!r} reads the mean of all tokens; set temporal_layers=1"
    else:
        return
    warnings.warn(f"this model does not see the order of the frames of a video: {why}", UserWarning, stacklevel=2)


def add_numbers(items: MediaItems, slots: nn.Embedding) -> MediaItems:
    """Adds a learned vector per number of a picture, clip or frame, at tower width."""
    tokens, dim = items.values, 2 if items.kind == "video" else 1
    count = tokens.shape[dim]
    if count > slots.num_embeddings:
        what, setting = _NUMBERED[items.kind]
        raise ValueError(f"{count} {what} were given, but {setting}={slots.num_embeddings}")
    vectors = slots(torch.arange(count, device=tokens.device))
    return items._replace(values=tokens + vectors.reshape(count, *[1] * (tokens.ndim - dim - 2), -1))


def join_frames(items: MediaItems, video_pooling: str) -> MediaItems:
    """Frames to one item per video: (B, N, F, S, Dv) -> (B, N, F*S, Dv), or F or S tokens by `video_pooling`."""
    tokens, frames = items.values, items.present
    length = tokens.shape[3]
    present = None if frames is None else frames.any(-1)
    pooled = None if items.pooled is None else masked_mean(items.pooled, frames, dim=2)
    if video_pooling == "space":
        tokens, mask = tokens.mean(3), frames
    elif video_pooling == "time":
        mask = None if present is None else present[..., None].expand(*tokens.shape[:2], length)
        tokens = masked_mean(tokens, frames, dim=2)
    else:
        mask = None if frames is None else frames.repeat_interleave(length, dim=2)
        tokens = tokens.flatten(2, 3)
    return items._replace(values=tokens, mask=mask, pooled=pooled, present=present)


class MMResampler(MMPreTrainedModel):
    """Learned latents through layers of [self, cross, mlp] that read the tokens. See MMResamplerConfig for its kinds.

    Args:
        token_width: Dv, the width of the tokens.
    """

    config: MMResamplerConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    main_input_name = "hidden_states"

    def __init__(self, config: MMResamplerConfig, token_width: int):
        super().__init__(config)
        if config.append_latents and token_width != config.hidden_size:
            raise ValueError(
                f"append_latents=True makes the latents keys like the tokens, but they are {config.hidden_size} and "
                f"{token_width} wide; set the resampler's hidden_size={token_width} or append_latents=False"
            )
        self.token_width = token_width
        self.latents = nn.Parameter(torch.zeros(1, config.num_latents, config.hidden_size))
        self.embed_norm = build_norm(
            config.norm_type if config.embedding_norm else "none", config.hidden_size, config.layer_norm_eps
        )
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(
            [MMLayer(config, config.sublayers(i), i, i, token_width) for i in range(config.num_hidden_layers)]
        )
        final_norm = "none" if config.final_norm == "none" else config.norm_type
        self.norm = build_norm(final_norm, config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Reads the tokens of each item.

        Args:
            hidden_states: float (n, S, Dv).
            attention_mask: bool (n, S), the real tokens; None: all.
        Returns: the latents (n, L, D) and None; with first_latent_pooled (n, L - 1, D) and the first (n, D).
        """
        check_tokens(hidden_states, attention_mask, self.token_width, "hidden_states")
        count = hidden_states.shape[0]
        latents = self.dropout(self.embed_norm(self.latents.expand(count, -1, -1)))
        reading = MMReading(MMRows(count, count), mask=self._mask(latents, hidden_states, attention_mask))
        for layer in self.layers:
            latents = layer(latents, hidden_states, reading)
        latents = self.norm(latents)
        return (latents[:, 1:], latents[:, 0]) if self.config.first_latent_pooled else (latents, None)

    def _mask(self, latents: torch.Tensor, tokens: torch.Tensor, real: torch.Tensor | None):
        """Of the implementation's kind, over the keys of a layer: the latents, if they are keys, then the tokens."""
        if real is None:
            return None
        real, keys = real.bool(), tokens
        if self.config.append_latents:
            real = torch.cat([real.new_ones(latents.shape[:2]), real], dim=1)
            keys = torch.cat([latents, tokens], dim=1)
        return create_bidirectional_mask(self.config, latents, real, encoder_hidden_states=keys)


def build_resampler(config: MMConfig, side: str) -> MMResampler | None:
    """That of a tower ("vision" or "audio"); None where its tokens go on as they are."""
    settings = getattr(config, f"{side}_resampler_config")
    return None if settings is None else MMResampler(settings, getattr(config, f"{side}_size"))


def resample(items: MediaItems, resampler: nn.Module, projector: nn.Module) -> MediaItems:
    """Tokens (B, N, S, Dv) of the items present -> projected latents (B, N, L, Dc), zeros elsewhere."""
    slots, tokens = items.values.shape[:2], items.values.flatten(0, 1)
    mask = None if items.mask is None else items.mask.flatten(0, 1)
    if items.present is None:
        latents, vector = resampler(tokens, mask)
        latents, real = projector(latents).unflatten(0, slots), None
    else:
        present = items.present.flatten()
        mask = None if mask is None else select_present_masks(mask, present)
        latents, vector = resampler(select_present(tokens, present), mask)
        latents = scatter_present(projector(latents), present).unflatten(0, slots)
        vector = None if vector is None else scatter_present(vector, present)
        real = items.present[..., None].expand(latents.shape[:3])
    pooled = items.pooled if vector is None else vector.unflatten(0, slots)
    return items._replace(values=latents, mask=real, pooled=pooled)


# ---- features, before any fusion ------------------------------------------------------------------------------------


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
        image_grids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens (B, N*S, Dv) and one vector (B, Dv), with a contrastive head (B, P); absent pictures are 0.

        image_grids: as in `forward`, of a model that joins tiles or reads them together.
        """
        given = {"pixel_values": pixel_values, "pixel_attention_mask": pixel_attention_mask}
        given |= {} if image_grids is None else {"image_grids": image_grids}
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
        output = model.base_model.read_without_media(states, **text)
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
        found = check_media(base.config, present)
        if base.max_tiles:
            from ..towers.tiles import tiles_to_pictures

            found = tiles_to_pictures(found, given.get("image_grids"), base.max_tiles)
        (items,) = found
        tower = base.vision_tower if side == "vision" else base.audio_tower
        seen = run_tower(tower, items, **states, **settings, **base.tower_reads[side])
        output = {name: seen.output.get(name) for name in ("hidden_states", "attentions")}
        tokens = seen.values.flatten(1, -2)
        seen = join_frames(seen, "none") if seen.kind == "video" else seen
        pooled = None if seen.pooled is None else masked_mean(seen.pooled, seen.present)
        return BaseModelOutputWithPooling(tokens, self._embedded(pooled, side, {**given, **settings}), **output)

    def _embedded(self, pooled: torch.Tensor | None, side: str, given: dict[str, Any]) -> torch.Tensor | None:
        """What the model makes of "vision", "audio" or "text"; here the vector as the tower gave it."""
        return pooled
