"""VisionEncoderDecoderModel: any encoder of pictures with a decoder of GPT-2, BERT, RoBERTa, TrOCR, BART or mBART.

The decoder starts from `decoder_start_token_id`, which is MM's bos. The memory is every token of the encoder, through
`enc_to_dec_proj` where the widths differ and the decoder's cross-attention has no width of its own. A ViT and a DeiT
become MM's ViT; every other encoder (BEiT, Swin, DINOv2, Donut's and Nougat's Swin) stays Transformers' own class.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import VisionEncoderDecoderConfig

from ..configuration.mm import MMConfig
from ..configuration.tower_kinds import TOWER_KINDS
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import TowerPlan, source_config
from ..weights.vision_names import VISION_PLANS, VIT_FIELDS
from .family import Family, Layout, Plan
from .kept_towers import kept_tower
from .paired_decoder import check_decoder, compute_positions, decoder_plan, pair_settings, projection

_ARCHITECTURE = "VisionEncoderDecoderModel"
_OWN_ENCODERS = ("vit", "deit")  # as MM's ViT
_IMAGE_PROCESSORS = {"deit": "DeiTImageProcessor", "beit": "BeitImageProcessor", "donut-swin": "DonutImageProcessor"}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "vision-encoder-decoder"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another encoder or decoder, and for settings that MM lacks."""
    config = source_config(checkpoint.config)
    _check_known(config)
    if config.encoder.model_type in _OWN_ENCODERS:
        vision = VISION_PLANS[config.encoder.model_type](config.encoder, checkpoint)
    else:
        vision = TowerPlan(config.encoder.to_dict(), kept_tower(config.encoder).under("encoder.", ""))
    text = decoder_plan(config, checkpoint)
    projector, between = projection(text, config, config.encoder.hidden_size, "model.vision_projector")
    table = vision.table.under("", "model.vision_tower.") + text.table + between
    made = MMConfig(
        vision_config=vision.settings, text_config=text.settings, projector_type=projector, **text.head_settings
    )
    return Plan(MMForConditionalGeneration, made, table, notes=_notes(vision, text))


def _check_known(config: Any) -> None:
    """Raises ValueError for an encoder or a decoder that cannot be one here, with the reason."""
    encoder = config.encoder
    if encoder.model_type not in TOWER_KINDS["vision"]:
        raise ValueError(
            f"model_type={encoder.model_type!r} inside {_ARCHITECTURE} is no encoder of pictures that is known; known "
            f"are {', '.join(TOWER_KINDS['vision'])}"
        )
    if not isinstance(getattr(encoder, "hidden_size", None), int):
        raise ValueError(
            f"model_type={encoder.model_type!r} inside {_ARCHITECTURE} gives a map and no tokens of one width, so "
            "Transformers' class cannot run it; use from_towers(vision, text)"
        )
    check_decoder(config, _ARCHITECTURE)


def _notes(*parts: TowerPlan) -> tuple[str, ...]:
    return tuple(note for part in parts for note in part.notes)


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """The layout of an MM model built as one of these pairs; raises ValueError for another."""
    encoder, encoder_names = _encoder(model.config.vision_config)
    settings, kind, decoder_names = pair_settings("vision-encoder-decoder", encoder, model.config)
    source = VisionEncoderDecoderConfig.from_dict(settings)
    names = (*encoder_names, *decoder_names)
    processor = "TrOCRProcessor" if kind == "trocr" else None  # the others have none of their own
    images = _IMAGE_PROCESSORS.get(encoder["model_type"], "ViTImageProcessor")
    return Layout(source, _ARCHITECTURE, names, images, processor)


def _encoder(config: Any) -> tuple[dict[str, Any], list[str]]:
    """A ViT's config, or DeiT's with a second token, and the names that decide it; another class's own."""
    if not isinstance(config, MMVisionConfig):
        _check_kept(config)
        return config.to_dict(), []
    names = ["encoder.embeddings.cls_token"]
    names += ["encoder.embeddings.mask_token"] if config.use_mask_token else []
    names += ["encoder.pooler.dense.weight"] if config.pooler == "cls_tanh" else []
    kind = "deit" if config.num_register_tokens else "vit"
    return {**VIT_FIELDS.restore(config), "model_type": kind, "qkv_bias": config.attention_bias is True}, names


def _check_kept(config: Any) -> None:
    if config.model_type not in TOWER_KINDS["vision"] or not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(f"the vision tower is a {type(config).__name__}; {_ARCHITECTURE} needs a tower of tokens")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    compute_positions(theirs)
    pixels, ids, mask = given.pixel_values, given.input_ids, given.attention_mask
    there = theirs(pixels, ids, mask, use_cache=False).logits[mask.bool()]  # BART's cache counts another's layers
    return {"logits": (ours(ids, mask, pixel_values=pixels).logits[mask.bool()], there)}


FAMILY = Family("vision-encoder-decoder", recognises, plan, layout, compare, decodes_by_config=True)
