"""The decoder of a VisionEncoderDecoder or SpeechEncoderDecoder: GPT-2, BERT, RoBERTa, TrOCR, BART or mBART.

It starts from `decoder_start_token_id`, which is MM's bos. It reads every token of the encoder, through
`enc_to_dec_proj` where the widths differ and its cross-attention has no width of its own.
"""

import copy
from dataclasses import replace
from typing import Any, Literal

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from ..configuration.mm import MMConfig
from ..configuration.text import MMTextConfig
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.config_table import TowerPlan
from ..weights.key_table import KeyTable
from ..weights.text_names import GPT2_FIELDS, bert_settings, trocr_settings
from ..weights.text_plans import TEXT_PLANS, bart_settings
from ..weights.text_refusals import why_no_text

_DECODERS = ("gpt2", "bert", "roberta", "xlm-roberta", "camembert", "trocr", "bart", "mbart")


def check_decoder(config: Any, architecture: str) -> None:
    """Raises ValueError for a decoder that cannot be one here, with the reason."""
    kind = config.decoder.model_type
    if kind not in _DECODERS:
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            why = "Transformers has no decoder of this kind (AutoModelForCausalLM)"
        elif kind in TEXT_PLANS:
            why = "its class has no cross-attention"
        else:
            why = why_no_text(kind, config.decoder.to_dict(), TEXT_PLANS)
        raise ValueError(
            f"model_type={kind!r} inside {architecture} cannot be the decoder: {why}; known are {', '.join(_DECODERS)}"
        )


def decoder_plan(config: Any, checkpoint: Checkpoint) -> TowerPlan:
    """The decoder of a pair, with its ids, under its names in the whole file and the whole model."""
    ids, decoder = _ids(config, checkpoint), copy.copy(config.decoder)
    decoder.bos_token_id = ids["bos_token_id"]
    text = TEXT_PLANS[decoder.model_type](decoder, [name for name in checkpoint if name.startswith("decoder.")])
    memory = getattr(decoder, "cross_attention_hidden_size", None)
    settings = {**text.settings, **ids, "cross_attention_hidden_size": memory, "is_causal": True}
    return replace(text, settings=settings, table=text.table.under("", "model.language_model.") + text.head)


def projection(plan: TowerPlan, config: Any, width: int, projector: str) -> tuple[Literal["linear", "none"], KeyTable]:
    """MMConfig.projector_type and the table of the layer between encoder and decoder, if there is one.

    width: of the encoder's tokens, as the class reads it from the config.
    """
    if plan.settings["cross_attention_hidden_size"] is not None or width == config.decoder.hidden_size:
        return "none", KeyTable()
    return "linear", KeyTable(modules={"enc_to_dec_proj": projector})


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


def compute_positions(theirs: Any) -> None:
    """Transformers 5 loads a TrOCR's fixed positions without values; this makes it compute them."""
    for module in theirs.modules():
        if isinstance(module, TrOCRSinusoidalPositionalEmbedding):
            vars(module)["weights"] = None


# ---- back ----------------------------------------------------------------------------------------------------------


def pair_settings(model_type: str, encoder: dict[str, Any], config: MMConfig) -> tuple[dict[str, Any], str, list[str]]:
    """The config of a whole pair, the kind of its decoder, and the names of tensors that decide it."""
    kind, decoder, names = _decoder(config)
    text = config.text_config
    settings = {
        "model_type": model_type,
        "encoder": encoder,
        "decoder": {**decoder, "model_type": kind, "is_decoder": True, "add_cross_attention": True},
        "tie_word_embeddings": False,
        "decoder_start_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "pad_token_id": text.pad_token_id,
    }
    return settings, kind, names


def _decoder(config: MMConfig) -> tuple[str, dict[str, Any], list[str]]:
    """The decoder's kind, its config and the names that decide it: by its head and the place of its norms."""
    text: MMTextConfig = config.text_config
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    if config.lm_head_transform:
        settings = bert_settings(text)
        kind = settings.pop("model_type")
        base = "bert" if kind == "bert" else "roberta"
        return kind, settings | tied, [f"decoder.{base}.embeddings.word_embeddings.weight"]
    if text.norm_position == "pre" and text.embedding_norm:
        return "mbart", bart_settings(text) | tied, ["decoder.model.decoder.embed_tokens.weight"]
    if text.norm_position == "pre":
        inner = {"n_inner": text.intermediate_size, "embd_pdrop": text.hidden_dropout}
        return "gpt2", GPT2_FIELDS.restore(text) | inner | tied, ["decoder.transformer.wte.weight"]
    if text.source_model_type == "bart":
        return "bart", bart_settings(text) | tied, ["decoder.model.decoder.embed_tokens.weight"]
    return "trocr", trocr_settings(text) | tied, ["decoder.model.decoder.embed_tokens.weight"]
