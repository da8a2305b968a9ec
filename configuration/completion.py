"""What follows from other settings, filled into a sub-config that is given as a dict and does not name it.

Only settings that would break a rule otherwise: a dict that is complete (of a config.json) is not changed.
"""

# `config` is an MMConfig, which is defined above this file in the order of imports.
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from .groups import drawing_needs
from .resampler import MMResamplerConfig
from .text import MMTextConfig
from .towers import tower_width

WHOLE_TEXT = ("co_attention", "concat", "sum", "gated")  # fusions that read the whole text at once
ONE_VECTOR = ("concat", "sum", "gated")


def completed(config: Any, key: str, given: Any) -> Any:
    """The dict of the sub-config `key`, completed; anything else unchanged. Those before it have been built."""
    if given is None and key == "text_config":
        given = {}
    if not isinstance(given, dict):
        return given
    if key.endswith("_resampler_config"):
        return _resampler(getattr(config, key.replace("_resampler", "")), given)
    return _text(config, key, given) if key.startswith("text") else given


def _resampler(tower: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Latents that are keys with the tokens have their width."""
    beside = given.get("append_latents", MMResamplerConfig.append_latents)
    return {"hidden_size": tower_width(tower), **given} if beside and isinstance(tower, PreTrainedConfig) else given


def _text(config: Any, key: str, given: dict[str, Any]) -> dict[str, Any]:
    """A text that is read as a whole has no causal mask, and cross-attention has the width of what it reads. The text
    of a model that draws has room for codes and rows."""
    given, filled = MMTextConfig.flat(given), {}
    if key == "text_encoder_config" or (config.fusion_type in WHOLE_TEXT and not config.has_text_encoder):
        filled["is_causal"] = False
    own = given.get("hidden_size", MMTextConfig.hidden_size)
    width = _context_width(config, own) if key == "text_config" and config.has_text_encoder else _media_width(config)
    if width not in (None, own):
        filled["cross_attention_hidden_size"] = width
    if key == "text_config":
        filled |= {name: n for name, n in drawing_needs(vars(config)).items() if n > getattr(MMTextConfig, name)}
    return {**filled, **given}


def _context_width(config: Any, own: int) -> int:
    """Of what a text encoder, perhaps of the decoder's own weights, hands on."""
    if config.fusion_type in ONE_VECTOR and config.fusion_size is not None:
        return config.fusion_size
    return getattr(config.text_encoder_config, "hidden_size", own)


def _media_width(config: Any) -> int | None:
    """Of the media, where cross-attention reads them as the tower or its resampler gives them; None elsewhere."""
    if config.projector_type != "none" or not config.media_cross:
        return None
    for side in ("vision", "audio"):
        tower, resampler = getattr(config, f"{side}_config"), getattr(config, f"{side}_resampler_config")
        if isinstance(resampler, MMResamplerConfig):
            return resampler.hidden_size
        if isinstance(tower, PreTrainedConfig):
            return tower_width(tower)
    return None
