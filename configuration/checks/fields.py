"""The rules between the fields of MMConfig. Each broken rule is a sentence that names the setting to change."""

# `config` is an MMConfig, which is defined above this file in the order of imports.
import math
from collections.abc import Iterator
from typing import Any

from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from ..base import nearest
from ..conv import MMConvConfig
from ..resampler import MMResamplerConfig
from ..settings import range_faults, settings_of
from ..text import MMTextConfig
from ..towers import VISION_CONFIGS, tower_faults, tower_width
from ..vision import MMVisionConfig
from .drawing import drawing_faults
from .objectives import objective_faults

MODALITIES = ("image", "video", "audio")
REPRESENTATION_FUSIONS = ("concat", "sum", "gated")  # one vector for all
UNJOINED = ("decision", "none")  # media and text do not see each other
_FILLED_IN = {"fusion_mask": "prefix"}  # what a field is that was not given, where that is not its default
_END_POOLERS = ("eos", "last", "before_last", "highest_id")

# What only some fusions, or some kinds of media, read; elsewhere it must stay at its default.
_ONLY_FOR_FUSIONS = {
    "fusion_num_layers": ("co_attention",),
    "fusion_size": REPRESENTATION_FUSIONS,
    "fusion_mask": ("merged",),
    "fusion_order": ("merged",),
    "fusion_embedding_norm": ("merged",),
    "fusion_weights": ("decision",),
}
_ONLY_FOR_MEDIA = {
    "max_images": ("image",),
    "max_frames": ("video",),
    "temporal_layers": ("video",),
    "max_clips": ("audio",),
    "video_pooling": ("video",),
    "vision_config": ("image", "video"),
    "vision_resampler_config": ("image", "video"),
    "vision_feature_layer": ("image", "video"),
    "vision_feature_select_strategy": ("image", "video"),
    "pixel_shuffle": ("image", "video"),
    "image_newline": ("image",),
    "audio_config": ("audio",),
    "audio_resampler_config": ("audio",),
}


def own_faults(config: Any) -> list[str]:
    """The broken rules of MMConfig's own fields."""
    faults = range_faults(config) + objective_faults(config)
    if config.lm_head_act is not None and config.lm_head_act not in ACT2FN:
        faults.append(f"lm_head_act={config.lm_head_act!r} is not an activation{nearest(config.lm_head_act, ACT2FN)}")
    faults += _modality_faults(config)
    faults += list(_unused(config, _ONLY_FOR_FUSIONS, [config.fusion_type], "fusion_type"))
    if config.share_text_encoder and config.text_encoder_config is not None:
        faults.append("share_text_encoder=True and text_encoder_config are two text encoders; keep one of them")
    if config.fusion_type in UNJOINED and config.has_text_encoder:
        faults.append(
            f"fusion_type={config.fusion_type!r} gives no tokens that a text encoder could hand on; leave out "
            "text_encoder_config and share_text_encoder"
        )
    if config.fusion_type == "none" and config.projector_type != "none":
        faults.append(
            f"projector_type={config.projector_type!r} has nothing to do under fusion_type='none'; leave it out"
        )
    return faults + _weight_faults(config)


def _modality_faults(config: Any) -> list[str]:
    faults, modalities = [], config.modalities or []
    only_texts = config.has_text_encoder and config.fusion_type == "cross_attention"
    if not set(modalities) <= set(MODALITIES) or not (modalities or only_texts):
        faults.append(
            f"modalities={modalities} must name one or more of {list(MODALITIES)}; none is for texts alone, with a "
            "text encoder and fusion_type='cross_attention'"
        )
    if len(set(modalities)) != len(modalities):
        faults.append(f"modalities={modalities} names one twice")
    if "audio" in modalities and config.audio_config is None:
        faults.append(
            "modalities names 'audio', but there is no audio tower; set audio_config, for example "
            "{'model_type': 'audio-spectrogram-transformer'}"
        )
    return faults + list(_unused(config, _ONLY_FOR_MEDIA, modalities, "modalities"))


def _unused(config: Any, only_for: dict[str, tuple[str, ...]], given: list[str], setting: str) -> Iterator[str]:
    """Fields that are set, but that nothing will read."""
    for name, readers in only_for.items():
        value, default = getattr(config, name), _FILLED_IN.get(name, settings_of(type(config))[name].default)
        if value not in (default, None) and not set(readers) & set(given):
            shown = f"={value!r}" if isinstance(value, int | str) else ""
            wanted = " or ".join(repr(reader) for reader in readers)
            yield f"{name}{shown} is only for {setting} {wanted}; leave it out, or change {setting}"


def _weight_faults(config: Any) -> list[str]:
    weights, names = config.fusion_weights, ["text", *(config.modalities or [])]
    if weights is None or config.fusion_type != "decision":
        return []
    if set(weights) != set(names):
        return [f"fusion_weights has the keys {sorted(weights)}; one weight for each of {names} is needed"]
    if min(weights.values()) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
        return [f"fusion_weights={weights} must be shares of 1; they sum to {sum(weights.values()):g}"]
    return []


def config_faults(config: Any) -> list[str]:
    """Every broken rule of an MMConfig, its sub-configs included."""
    faults = own_faults(config)
    wrong_kinds = list(_kind_faults(config))
    if wrong_kinds:
        return faults + wrong_kinds
    # They have been checked when they were made, but may have been changed since.
    for key in type(config).sub_configs_defaults:
        part = getattr(config, key)
        if hasattr(part, "faults"):  # a foreign config has checked itself
            faults += [f"{key}: {fault}" for fault in part.faults()]
    faults += [
        *_tower_faults(config),
        *_shuffle_faults(config),
        *_newline_faults(config),
        *_together_faults(config),
        *_unwritten_faults(config),
        *drawing_faults(config),
        *_cross_attention_faults(config),
        *_projector_faults(config),
    ]
    return faults + _mask_faults(config) + list(_reader_faults(config))


def _kind_faults(config: Any) -> Iterator[str]:
    """Sub-configs of a class that does not fit."""
    for key, what in (("text_config", "decoder"), ("text_encoder_config", "text encoder")):
        part = getattr(config, key)
        if part is not None and not isinstance(part, MMTextConfig):
            yield f"{key} is a {type(part).__name__}; MM's {what} needs MMTextConfig"
    for key in ("vision_resampler_config", "audio_resampler_config"):
        part = getattr(config, key)
        if part is not None and not isinstance(part, MMResamplerConfig):
            yield f"{key} is a {type(part).__name__}; it must be MMResamplerConfig"
    for key, own in (("vision_config", tuple(VISION_CONFIGS.values())), ("audio_config", ())):
        part = getattr(config, key)
        if part is None or isinstance(part, own):
            continue
        if not isinstance(part, PreTrainedConfig) or part.model_type.split("_")[0] == "mm":
            accepted = [*(c.__name__ for c in own), f"a Transformers {key.split('_')[0]} config"]
            yield f"{key} is a {type(part).__name__}; accepted: {', '.join(accepted)}"
            continue
        refused = tower_faults(part, key.split("_")[0])
        if refused:
            yield f"{key}: {refused[0]}"
            continue
        try:
            tower_width(part)
        except ValueError as error:
            yield f"{key}: {error}"


def _tower_faults(config: Any) -> Iterator[str]:
    """The vision tower must have the hidden state that is read, and layers as temporal_layers adds them."""
    tower, layer = config.vision_config, config.vision_feature_layer
    if config.temporal_layers and not isinstance(tower, MMVisionConfig):
        yield (
            f"temporal_layers={config.temporal_layers} are layers of MM's own ViT, and vision_config is "
            f"{type(tower).__name__}; set temporal_layers=0, or vision_resampler_config to read all frames at once"
        )
    if config.temporal_layers and not config.max_frames:
        yield (
            f"temporal_layers={config.temporal_layers} would read frames without positions; set max_frames to the "
            "largest number of frames of a video"
        )
    if isinstance(tower, MMConvConfig):
        if layer != -1:
            yield f"vision_feature_layer={layer} names a layer; a convolutional tower has only its last map, so use -1"
        if config.vision_feature_select_strategy == "default":
            yield "vision_feature_select_strategy='default' drops a CLS token, but vision_config has none; use 'full'"
    if isinstance(tower, MMVisionConfig):
        if not -tower.num_hidden_layers - 1 <= layer <= tower.num_hidden_layers:
            yield (
                f"vision_feature_layer={layer} is outside the {tower.num_hidden_layers + 1} hidden states of "
                f"vision_config; use {-tower.num_hidden_layers - 1}..{tower.num_hidden_layers}"
            )
        if config.vision_feature_select_strategy == "default" and not tower.use_cls_token:
            yield "vision_feature_select_strategy='default' drops a CLS token, but vision_config has none; use 'full'"


def _shuffle_faults(config: Any) -> Iterator[str]:
    """Squares of patches need whole ones, and nothing but patches."""
    tower, side = config.vision_config, config.pixel_shuffle
    if side < 2:  # the range is checked with the fields'
        return
    if config.projector_type == "none" or config.vision_resampler_config is not None:
        yield (
            f"pixel_shuffle={side} makes tokens of {side * side} times the tower's width, which a projector reads; "
            "set projector_type='linear', and no vision_resampler_config"
        )
    if isinstance(tower, MMVisionConfig):
        if any(count % side for count in tower.patch_grid):
            yield f"pixel_shuffle={side} does not divide vision_config's grid of patches, {tower.patch_grid}"
        others = int(tower.use_cls_token) + tower.num_register_tokens
        if others != (config.vision_feature_select_strategy == "default"):
            yield (
                f"pixel_shuffle={side} reads only patches, but vision_config has {others} tokens before them; set "
                "use_cls_token=False and num_register_tokens=0, or vision_feature_select_strategy='default' for one"
            )


def _newline_faults(config: Any) -> Iterator[str]:
    """Grids of tiles need the patches of a ViT of MM, where they stand."""
    if not config.image_newline:
        return
    tower = config.vision_config
    if config.vision_resampler_config is not None or config.modalities != ["image"] or config.max_images:
        yield (
            "image_newline=True reads the patches of tiles: set modalities=['image'], max_images=0 and no "
            "vision_resampler_config"
        )
    if not isinstance(tower, MMVisionConfig):
        yield "image_newline=True needs a vision_config of MMVisionConfig, whose grid of patches is known"
    elif config.tokens_per_tile != math.prod(tower.patch_grid) // config.pixel_shuffle**2:
        yield (
            "image_newline=True reads only patches, but vision_config has other tokens before them; set "
            "use_cls_token=False and num_register_tokens=0, or vision_feature_select_strategy='default' for one"
        )


def _together_faults(config: Any) -> Iterator[str]:
    """Tiles that a tower reads together are the pictures of a text that reads them by cross-attention."""
    if not config.max_tiles:
        return
    wanted = {
        "fusion_type": "cross_attention", "modalities": ["image"], "max_images": 0, "vision_resampler_config": None,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "pixel_shuffle": 1,
        "image_newline": False,
    }  # fmt: skip
    for name, value in wanted.items():
        if getattr(config, name) != value:
            yield f"vision_config.max_tiles={config.max_tiles} needs {name}={value!r}; it is {getattr(config, name)!r}"


def _unwritten_faults(config: Any) -> Iterator[str]:
    """A layer over the vocabulary that lacks some of its rows."""
    if not config.unwritten_tokens:
        return
    if config.tie_word_embeddings:
        yield (
            f"unwritten_tokens={config.unwritten_tokens} leaves the layer over the vocabulary without rows that the "
            "embeddings have; set tie_word_embeddings=False"
        )
    if config.unwritten_tokens >= config.text_config.vocab_size:
        yield (
            f"unwritten_tokens={config.unwritten_tokens} must be below text_config.vocab_size="
            f"{config.text_config.vocab_size}"
        )


def _cross_attention_faults(config: Any) -> Iterator[str]:
    """A text has cross-attention only if there is something to read, and then of the same width."""
    decoder, encoder, fusion = config.text_config, config.text_encoder_config, f"fusion_type={config.fusion_type!r}"
    stacks = [("text_config", "a decoder", decoder, config.decoder_crosses)]
    if encoder is not None:
        stacks.append(("text_encoder_config", "a text encoder", encoder, config.media_cross))
    for setting, what, stack, crosses in stacks:
        layers = f"{setting}.cross_attention_layers"
        if crosses and not stack.cross_attention_layers:
            why = "the text encoder" if setting == "text_config" and config.has_text_encoder else fusion
            yield f"{why} needs {what} that cross-attends, but {layers}=[]; list a layer, or None for all"
        if not crosses and stack.cross_attention_layers:
            yield f"{layers} has nothing to read under {fusion}; set it to []"
        if not crosses and stack.cross_attention_hidden_size is not None:
            yield f"{setting}.cross_attention_hidden_size has nothing to read under {fusion}; leave it out"
    if config.has_text_encoder and decoder.context_width != config.context_width:
        yield (
            f"the decoder reads {decoder.context_width}, but the text encoder and its fusion give "
            f"{config.context_width}; set text_config.cross_attention_hidden_size={config.context_width}"
        )


def _projector_faults(config: Any) -> Iterator[str]:
    """The widths from a tower through its resampler and projector to the text that reads it."""
    for name in ("vision", "audio"):
        tower, resampler = getattr(config, f"{name}_config"), getattr(config, f"{name}_resampler_config")
        if tower is None:
            continue
        if resampler is not None and resampler.append_latents and resampler.hidden_size != tower_width(tower):
            yield (
                f"{name}_resampler_config: append_latents=True adds latents to the tokens, but their widths are "
                f"{resampler.hidden_size} and {tower_width(tower)}; set {name}_resampler_config.hidden_size="
                f"{tower_width(tower)} or append_latents=False"
            )
        if config.projector_type != "none" or config.fusion_type == "none":  # no text reads the tokens
            continue
        width = tower_width(tower) if resampler is None else resampler.hidden_size
        if width == config.media_width:
            continue
        reader = "text encoder" if config.has_text_encoder else "decoder"
        setting = "text_encoder_config" if config.text_encoder_config is not None else "text_config"
        part = f"{name} tower" if resampler is None else f"{name} resampler"
        fix = f"{setting}.cross_attention_hidden_size={width}" if config.media_cross else f"{setting}.hidden_size"
        yield (
            f"projector_type='none' needs equal widths, but the {part} gives {width} and the {reader} reads "
            f"{config.media_width}; set projector_type='linear' or {fix}"
        )


def _placeholder_faults(config: Any) -> list[str]:
    """Media inside a text: each kind has an id of the vocabulary, and the whole sequence is causal."""
    faults, vocab_size = [], config.text_config.vocab_size
    if config.has_text_encoder:
        faults.append("fusion_order='in_text' is for a decoder without a text encoder")
    if config.fusion_mask != "causal":
        faults.append(f"fusion_order='in_text' needs fusion_mask='causal'; fusion_mask={config.fusion_mask!r}")
    for kind in config.modalities:
        token_id = getattr(config, f"{kind}_token_id")
        if token_id is None or token_id >= vocab_size:
            faults.append(
                f"fusion_order='in_text' needs {kind}_token_id in 0..{vocab_size - 1}, the ids of the text; "
                f"{kind}_token_id={token_id}"
            )
    return faults


def _mask_faults(config: Any) -> list[str]:
    """Which tokens see which: where a token sees those after it, the text cannot be causal."""
    fusion, mask, faults = config.fusion_type, config.fusion_mask, []
    if config.text_config.bidirectional_prompt and not config.media_in_text:
        faults.append(
            "text_config.bidirectional_prompt=True is for media that stand in the text; set fusion_type='merged' and "
            "fusion_order='in_text'"
        )
    is_causal = not config.has_text_encoder and config.text_config.is_causal
    reader = "text_encoder_config" if config.text_encoder_config is not None else "text_config"
    if fusion == "merged":
        if config.fusion_order == "text_first" and mask != "bidirectional":
            faults.append(
                f"fusion_order='text_first' needs fusion_mask='bidirectional', or the text would not see the media "
                f"after it; fusion_mask={mask!r}"
            )
        if config.fusion_order == "in_text":
            faults += _placeholder_faults(config)
        if mask == "bidirectional" and is_causal:
            faults.append(f"fusion_mask='bidirectional' needs {reader}.is_causal=False")
        if mask != "bidirectional" and not is_causal:
            faults.append(
                f"fusion_mask={mask!r} is causal over the text, but the text sees both ways; set "
                f"fusion_mask='bidirectional'" + ("" if config.has_text_encoder else ", or text_config.is_causal=True")
            )
    elif fusion in UNJOINED and is_causal:
        if config.text_config.pooler not in _END_POOLERS:
            faults.append(
                f"fusion_type={fusion!r} reads one vector of the text, and only the last token of a causal text has "
                f"seen all of it; set text_config.pooler to one of {', '.join(map(repr, _END_POOLERS))}, or "
                "text_config.is_causal=False"
            )
    elif fusion != "cross_attention" and is_causal:
        faults.append(
            f"fusion_type={fusion!r} reads the whole text at once; set text_config.is_causal=False, or give the model "
            "a text encoder (text_encoder_config or share_text_encoder)"
        )
    return faults


def _reader_faults(config: Any) -> Iterator[str]:
    """What a fusion needs of the text that media are joined with."""
    reader, fusion = config.reader, f"fusion_type={config.fusion_type!r}"
    setting = "text_config" if reader is config.text_config else "text_encoder_config"
    if config.share_text_encoder and reader.unimodal_layers is not None:
        yield "share_text_encoder=True and text_config.unimodal_layers do not go together; keep one of them"
    if config.fusion_type == "merged" and reader.segment_length is not None:
        yield (
            f"{fusion} puts media and text into one sequence, and {setting}.segment_length={reader.segment_length} "
            "would cut it; set it to None"
        )
    if config.fusion_type == "merged" and reader.needs_whole_text is not None:
        yield (
            f"{fusion} puts media and text into one sequence, but {setting}.{reader.needs_whole_text} is only for "
            "texts; set fusion_type='cross_attention' or another"
        )
    if config.fusion_type in (*REPRESENTATION_FUSIONS, *UNJOINED) and reader.pooler == "none":
        yield f"{fusion} reads one vector of the text, but {setting}.pooler='none'; use 'cls', 'last' or 'mean'"
