"""VisionEncoderDecoderModel: a ViT, DeiT or BEiT with a decoder of GPT-2, BERT, RoBERTa or TrOCR.

The decoder starts from `decoder_start_token_id`, which is MM's bos. The memory is every token of the ViT, through
`enc_to_dec_proj` where the widths differ and the decoder's cross-attention has no width of its own. A BEiT stays
Transformers' own class, as its relative positions are none of MM's ViT.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import BeitConfig, VisionEncoderDecoderConfig
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from ..configuration.mm import MMConfig
from ..configuration.text import MMTextConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.config_table import TowerPlan, source_config
from ..weights.key_table import KeyTable
from ..weights.text_names import BUFFER, GPT2_FIELDS, TEXT_PLANS, bert_settings, trocr_settings
from ..weights.vision_names import VISION_PLANS, VIT_FIELDS
from .family import Family, Layout, Plan

_ARCHITECTURE = "VisionEncoderDecoderModel"
_ENCODERS = ("vit", "deit", "beit")
_DECODERS = ("gpt2", "bert", "roberta", "xlm-roberta", "trocr")
_IMAGE_PROCESSORS = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor", "beit": "BeitImageProcessor"}
# A tower that is kept unchanged: every tensor under its own name. Older files also contain tensors computed from its
# size.
_ITSELF = KeyTable(
    modules={"{rest}": "{rest}"},
    tensors={
        f"{{rest}}.{name}": f"{{rest}}.{name}"
        for name in (
            "cls_token", "mask_token", "position_embeddings", "lambda_1", "lambda_2", "relative_position_bias_table",
        )
    },
    dropped={"{rest}.relative_position_index": BUFFER},
)  # fmt: skip


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "vision-encoder-decoder"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another encoder or decoder, and for settings that MM lacks."""
    config = source_config(checkpoint.config)
    for part, known in ((config.encoder, _ENCODERS), (config.decoder, _DECODERS)):
        if part.model_type not in known:
            raise ValueError(f"model_type={part.model_type!r} inside {_ARCHITECTURE}; known are {', '.join(known)}")
    if isinstance(config.encoder, BeitConfig):
        vision = TowerPlan(config.encoder.to_dict(), _ITSELF.under("encoder.", ""))
    else:
        vision = VISION_PLANS[config.encoder.model_type](config.encoder, checkpoint)
    decoder = config.decoder
    text = TEXT_PLANS[decoder.model_type](decoder, checkpoint)
    memory = getattr(decoder, "cross_attention_hidden_size", None)
    projected = memory is None and config.encoder.hidden_size != decoder.hidden_size
    settings = {**text.settings, **_ids(config, checkpoint), "cross_attention_hidden_size": memory, "is_causal": True}
    table = vision.table.under("", "model.vision_tower.") + text.table.under("", "model.language_model.") + text.head
    if projected:
        table += KeyTable(modules={"enc_to_dec_proj": "model.vision_projector"})
    made = MMConfig(
        vision_config=vision.settings,
        text_config=settings,
        projector_type="linear" if projected else "none",
        **text.head_settings,
    )
    return Plan(MMForConditionalGeneration, made, table, notes=_notes(vision, text))


def _ids(config: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """bos is what the decoder starts from. The ids stand in the whole's config, in generation_config or inside."""
    decoding = read_json(checkpoint.directory, "generation_config.json") or {}

    def first(name: str) -> Any:
        found = (decoding.get(name), getattr(config, name, None), getattr(config.decoder, name, None))
        return next((value for value in found if value is not None), None)

    start = first("decoder_start_token_id")
    start = first("bos_token_id") if start is None else start
    if start is None:
        raise ValueError("decoder_start_token_id is in none of config.json, its decoder and generation_config.json")
    return {"bos_token_id": start, "eos_token_id": first("eos_token_id"), "pad_token_id": first("pad_token_id")}


def _notes(*parts: TowerPlan) -> tuple[str, ...]:
    return tuple(note for part in parts for note in part.notes)


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """The layout of an MM model built as one of these pairs; raises ValueError for another."""
    config = model.config
    if not isinstance(config.vision_config, MMVisionConfig | BeitConfig):
        tower = type(config.vision_config).__name__
        raise ValueError(f"the vision tower is a {tower}; {_ARCHITECTURE} needs a ViT, a DeiT or a BEiT")
    kind, decoder, decoder_names = _decoder(config)
    encoder, encoder_names = _encoder(config.vision_config)
    text = config.text_config
    settings = {
        "model_type": "vision-encoder-decoder",
        "encoder": encoder,
        "decoder": {**decoder, "model_type": kind, "is_decoder": True, "add_cross_attention": True},
        "tie_word_embeddings": False,
        "decoder_start_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }
    source = VisionEncoderDecoderConfig.from_dict(settings)
    names = (*encoder_names, *decoder_names)
    processor = "TrOCRProcessor" if kind == "trocr" else None  # the others have none of their own
    return Layout(source, _ARCHITECTURE, names, _IMAGE_PROCESSORS[encoder["model_type"]], processor)


def _encoder(config: MMVisionConfig | BeitConfig) -> tuple[dict[str, Any], list[str]]:
    """A BEiT's own config, a ViT's, or DeiT's with a second token, and the names that decide it."""
    if isinstance(config, BeitConfig):
        return config.to_dict(), []
    names = ["encoder.embeddings.cls_token"]
    names += ["encoder.embeddings.mask_token"] if config.use_mask_token else []
    names += ["encoder.pooler.dense.weight"] if config.pooler == "cls_tanh" else []
    kind = "deit" if config.num_register_tokens else "vit"
    return {**VIT_FIELDS.restore(config), "model_type": kind, "qkv_bias": config.attention_bias is True}, names


def _decoder(config: MMConfig) -> tuple[str, dict[str, Any], list[str]]:
    """The decoder's kind, its config and the names that decide it: by its head and the place of its norms."""
    text: MMTextConfig = config.text_config
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    if config.lm_head_transform:
        settings = bert_settings(text)
        kind = settings.pop("model_type")
        base = "bert" if kind == "bert" else "roberta"
        return kind, settings | tied, [f"decoder.{base}.embeddings.word_embeddings.weight"]
    if text.norm_position == "pre":
        inner = {"n_inner": text.intermediate_size, "embd_pdrop": text.hidden_dropout}
        return "gpt2", GPT2_FIELDS.restore(text) | inner | tied, ["decoder.transformer.wte.weight"]
    return "trocr", trocr_settings(text) | tied, ["decoder.model.decoder.embed_tokens.weight"]


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Transformers 5 loads a TrOCR's fixed positions without values; this makes it compute them."""
    for module in theirs.modules():
        if isinstance(module, TrOCRSinusoidalPositionalEmbedding):
            vars(module)["weights"] = None
    pixels, ids, mask = given.pixel_values, given.input_ids, given.attention_mask
    there = theirs(pixels, ids, mask).logits[mask.bool()]
    return {"logits": (ours(ids, mask, pixel_values=pixels).logits[mask.bool()], there)}


FAMILY = Family("vision-encoder-decoder", recognises, plan, layout, compare, decodes_by_config=True)
