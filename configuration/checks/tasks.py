"""What each head needs of a configuration that is right for others."""

# `config` is an MMConfig, which is defined above this file in the order of imports.
from typing import Any

from ..conv import MMConvConfig
from ..vision import MMVisionConfig
from .fields import UNJOINED

_TOKEN_FUSIONS = ("cross_attention", "co_attention", "merged")  # text tokens that have seen the media


def generation_faults(config: Any) -> list[str]:
    """What MMForConditionalGeneration needs."""
    faults = []
    if not config.text_config.is_causal:
        faults.append("it needs a causal decoder; set text_config.is_causal=True")
    if not config.has_text_encoder and config.fusion_type not in ("cross_attention", "merged"):
        faults.append(
            f"fusion_type={config.fusion_type!r} gives the decoder no tokens to read; use 'cross_attention' or "
            "'merged', or give the text that is fused to a text encoder (text_encoder_config, share_text_encoder)"
        )
    return faults


def classification_faults(config: Any) -> list[str]:
    """What MMForSequenceClassification needs."""
    faults, loss, problem = [], config.classification_loss, config.problem_type
    if config.fusion_type == "none":
        faults.append(
            "fusion_type='none' joins no media and text to classify; use 'decision' (an answer of each modality) or "
            "another fusion"
        )
    if config.text_config.pooler == "none":
        faults.append(
            "text_config.pooler='none' leaves no vector of the text to classify; set it, for example to 'mean'"
        )
    fitting = {"bce": "multi_label_classification", "mse": "regression"}.get(loss, "single_label_classification")
    if loss != "auto" and problem not in (None, fitting):
        faults.append(
            f"classification_loss={loss!r} is not a loss of problem_type={problem!r}; set problem_type={fitting!r}, "
            "or classification_loss='auto'"
        )
    return faults


def masked_lm_faults(config: Any) -> list[str]:
    """What MMForMaskedLM needs."""
    faults = []
    if config.text_config.is_causal:
        faults.append("masked tokens are filled in from both sides; set text_config.is_causal=False")
    if not config.has_text_encoder and config.fusion_type not in _TOKEN_FUSIONS:
        faults.append(_sees_no_media(config))
    return faults


def _sees_no_media(config: Any) -> str:
    return (
        f"fusion_type={config.fusion_type!r} does not show the media to the tokens of the text; use "
        f"{', '.join(map(repr, _TOKEN_FUSIONS))}"
    )


def matching_faults(config: Any, losses: dict[str, float]) -> list[str]:
    """What "itc" and "itm" need of the towers and the text."""
    faults, reader = [], config.reader
    setting = "text_config" if reader is config.text_config else "text_encoder_config"
    if {"itc", "itm"} & set(losses) and reader.pooler == "none":
        faults.append(f"{setting}.pooler='none' leaves no vector of the text; set it, for example to 'cls' or 'mean'")
    vision = config.vision_config
    if "itc" in losses and isinstance(vision, MMVisionConfig) and vision.pooler == "none":
        faults.append("vision_config.pooler='none' leaves no vector of a picture; set it, for example to 'cls'")
    if "itm" in losses and config.fusion_type in UNJOINED:
        faults.append(
            f"fusion_type={config.fusion_type!r} joins nothing that 'itm' could match; leave 'itm' out of "
            "pretraining_losses"
        )
    if "itc" in losses and config.projected_sides is not None:
        faults += _unprojected_faults(config)
    return faults + _itm_bos_faults(config, losses)


def _unprojected_faults(config: Any) -> list[str]:
    """A side without a projection must have the width of the others' embeddings."""
    return [
        f"projected_sides={config.projected_sides} leaves {side!r} without a projection, with width {width}; set "
        f"projection_dim={width}, or name {side!r} too"
        for side, width in config.pooled_widths.items()
        if side not in config.projected_sides and width != config.projection_dim
    ]


def _itm_bos_faults(config: Any, losses: dict[str, float]) -> list[str]:
    token, vocabulary = config.itm_bos_token_id, config.reader.vocab_size
    if token is None:
        return []
    if "itm" not in losses:
        return [f"itm_bos_token_id={token} is for 'itm', which pretraining_losses does not name; leave it out"]
    if not 0 <= token < vocabulary:
        return [f"itm_bos_token_id={token} is outside the vocabulary 0..{vocabulary - 1} of the text that is matched"]
    return []


def retrieval_faults(config: Any) -> list[str]:
    """What MMForImageTextRetrieval needs."""
    if "itc" not in config.pretraining_losses:
        return ["retrieval compares embeddings; pretraining_losses must name 'itc' (and 'itm' for a matching head)"]
    return matching_faults(config, config.pretraining_losses) + _chunk_faults(config)


def _chunk_faults(config: Any) -> list[str]:
    """Chunks keep no states, and each must give what the whole batch gives."""
    size, faults, vision = config.contrastive_chunk_size, [], config.vision_config
    if size is not None and "itm" in config.pretraining_losses:
        faults.append(
            f"contrastive_chunk_size={size} keeps only embeddings, and 'itm' reads the states of all pictures; leave "
            "'itm' out of pretraining_losses, or contrastive_chunk_size"
        )
    if size is not None and isinstance(vision, MMConvConfig) and vision.batch_norm and not vision.frozen_batch_norm:
        faults.append(
            f"contrastive_chunk_size={size} would give batch norm the statistics of a chunk; set "
            "vision_config.frozen_batch_norm=True"
        )
    return faults


def pretraining_faults(config: Any) -> list[str]:
    """What the losses of MMForPreTraining need; each reads the media and the same text."""
    losses, text = config.pretraining_losses, config.text_config
    faults = matching_faults(config, losses)
    for name in ("contrastive_chunk_size", "contrastive_queue_size"):
        if getattr(config, name):
            faults.append(f"{name} is only for MMForImageTextRetrieval; leave it out")
    if {"lm", "mlm"} & set(losses) and config.text_encoder_config is not None:
        faults.append(
            "'lm' and 'mlm' are losses of the decoder, which has no media to read under text_encoder_config; use "
            "share_text_encoder=True, or leave them out of pretraining_losses"
        )
    elif "lm" in losses:
        if not text.is_causal:
            faults.append("'lm' needs text_config.is_causal=True (with 'mlm': share_text_encoder=True)")
        if text.bidirectional_prompt:
            faults.append(
                "'lm' learns whole texts, which bidirectional_prompt=True takes for prompts; set it to False"
            )
        if config.fusion_type != "cross_attention" and (config.has_text_encoder or config.fusion_type != "merged"):
            faults.append(
                f"'lm' cannot read the media under fusion_type={config.fusion_type!r}; use 'cross_attention'"
            )
    if "mlm" in losses and config.text_encoder_config is None:
        if text.is_causal and not config.share_text_encoder:
            faults.append(
                "'mlm' reads a text from both sides; set share_text_encoder=True (the same weights for both), or "
                "text_config.is_causal=False without 'lm'"
            )
        if config.fusion_type not in _TOKEN_FUSIONS:
            faults.append(f"'mlm': {_sees_no_media(config)}")
    if "mim" in losses:
        faults += _masked_image_faults(config)
    return faults


def _masked_image_faults(config: Any) -> list[str]:
    vision = config.vision_config
    if not isinstance(vision, MMVisionConfig):
        return [f"'mim' masks patches of MM's own ViT; vision_config is {type(vision).__name__}"]
    faults = []
    if not vision.use_mask_token:
        faults.append("'mim' replaces patches by a mask token; set vision_config.use_mask_token=True")
    if config.vision_feature_layer != -1:
        faults.append(
            f"'mim' reads the tower's last states; set vision_feature_layer=-1, not {config.vision_feature_layer}"
        )
    return faults
