"""Which text models of Transformers become MM's text model, by model_type, and why others cannot.

Each plan takes the source's config and the names of its tensors on disk.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from .config_table import LAYER_KINDS, Fields, TowerPlan, outer_prefix, prefix_of, untrained, windows
from .encoder_names import modernbert_plan, t5_plan
from .gemma_names import gemma_2_plan, gemma_3_plan, gemma_plan
from .key_table import KeyTable, change
from .reshapes import List, Reshape, skip_rows
from .text_names import (
    BART_LAYER,
    BUFFER,
    PRE_NORM,
    TROCR,
    TROCR_FIELDS,
    bert_plan,
    distilbert_plan,
    gpt2_plan,
    llama_plan,
    plain_head,
    roberta_plan,
    trocr_plan,
)
from .text_refusals import why_no_text

_IDS = {name: name for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

# ---- of Llama's kind -----------------------------------------------------------------------------------------------


def mistral_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Mistral: all layers see a window of the text (0.1), or the whole of it."""
    plan, window = llama_plan(config, names), config.sliding_window
    if window is None or window >= config.max_position_embeddings:
        return plan
    kinds = [LAYER_KINDS[1]] * config.num_hidden_layers
    return replace(plan, settings=plan.settings | windows(kinds, window))


def smollm3_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """SmolLM3, if all of its layers have positions."""
    bare = [layer for layer, has_positions in enumerate(config.no_rope_layers) if not has_positions]
    if bare:
        raise ValueError(f"no_rope_layers: the layers {bare} have no positions; all of MM's have the same")
    return llama_plan(config, names)


# ---- OPT -----------------------------------------------------------------------------------------------------------

_OPT_OFFSET = 2  # its table of positions starts with two rows that nothing reads
OPT = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        "embed_positions": change("embed_positions", by=skip_rows(_OPT_OFFSET)),
        **{f"layers.{{n}}.{old}": f"layers.{{n}}.{new}" for old, new in BART_LAYER.items() if "encoder" not in old},
        "final_layer_norm": "norm",
    },
)
OPT_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "hidden_size": "hidden_size", "ffn_dim": "intermediate_size",
        "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads",
        "activation_function": "hidden_act", "max_position_embeddings": "max_position_embeddings",
        "dropout": "hidden_dropout", "attention_dropout": "attention_dropout", "enable_bias": "attention_bias", **_IDS,
    },
    ours={**PRE_NORM, "layer_norm_eps": 1e-5, "is_causal": True},
    theirs={
        "do_layer_norm_before": True, "_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True,
    },
)  # fmt: skip


def opt_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """OPT of every size but 350 M, whose norms come after and whose embeddings are narrower."""
    if config.word_embed_proj_dim != config.hidden_size:
        raise ValueError(
            f"word_embed_proj_dim={config.word_embed_proj_dim}, but hidden_size={config.hidden_size}: its embeddings "
            "are projected, as in OPT-350m; MM's are not"
        )
    before = prefix_of(names, "embed_tokens.weight")
    settings = OPT_FIELDS.convert(config) | {"mlp_bias": config.enable_bias}
    name = f"{before.removesuffix('decoder.').removesuffix('model.')}lm_head.weight"
    return TowerPlan(settings, OPT.under(before, ""), *plain_head(config, f"{before}embed_tokens.weight", "", name))


# ---- the decoders of BART and mBART, by themselves or inside a VisionEncoderDecoder -------------------------------

_LEARNED = {name: ours for name, ours in TROCR_FIELDS.names.items() if name != "layernorm_embedding"}
BART_FIELDS = Fields(
    names=_LEARNED,
    ours={**TROCR_FIELDS.ours, "embedding_norm": True, "source_model_type": "bart"},
)
MBART = TROCR.adding(modules={"layer_norm": "norm"})
MBART_FIELDS = Fields(
    names=_LEARNED,
    ours={**TROCR_FIELDS.ours, "norm_position": "pre", "final_norm": "all", "embedding_norm": True},
)


def bart_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Only the decoder: BART's with layers as TrOCR's, their norms after sublayers; mBART's as Donut and Nougat have
    it. Raises ValueError for a whole model."""
    is_bart = config.model_type == "bart"
    fields, table = (BART_FIELDS, TROCR) if is_bart else (MBART_FIELDS, MBART)
    if any(re.search(r"(^|\.)encoder\.layers\.", name) for name in names):
        kind = "Bart" if is_bart else "MBart"
        raise ValueError(
            f"model_type={config.model_type!r}: it is an encoder and a decoder, and MM's text model is one of them. "
            f"Save its decoder: {kind}ForCausalLM.from_pretrained(SOURCE).save_pretrained(FOLDER)"
        )
    before = prefix_of(names, "embed_tokens.weight")
    outer = before.removesuffix("model.decoder.")
    settings = fields.convert(config)
    settings |= {"embedding_scale": math.sqrt(config.d_model) if config.scale_embedding else 1.0}
    head = plain_head(config, f"{before}embed_tokens.weight", "", f"{outer}lm_head.weight")
    return TowerPlan(settings, table.under(before, ""), *head, untrained(config))


def bart_settings(text: Any) -> dict[str, Any]:
    """The config of a BART's or mBART's decoder of a stack."""
    fields = BART_FIELDS if text.source_model_type == "bart" else MBART_FIELDS
    return fields.restore(text) | {"scale_embedding": text.embedding_scale != 1.0}


# ---- GPT-NeoX ------------------------------------------------------------------------------------------------------


def _per_head(heads: int) -> Reshape:
    """A fused projection whose rows are q, k and v of the first head, then of the second, and so on."""

    def forward(old: List) -> tuple[List, List]:
        parts = old[0].unflatten(0, (heads, 3, -1))
        return [parts[:, place].flatten(0, 1).contiguous() for place in range(3)], []

    def backward(new: List, unread: List) -> List:
        return [torch.stack([part.unflatten(0, (heads, -1)) for part in new], dim=1).flatten(0, 2)]

    return Reshape(f"split in {heads} heads", forward, backward)


_NEOX_FIELDS = Fields(
    names={
        **{name: name for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                   "num_attention_heads", "hidden_act", "layer_norm_eps", "max_position_embeddings",
                                   "attention_dropout", "hidden_dropout", "attention_bias", "rope_parameters")},
        "use_parallel_residual": "parallel_residual", **_IDS,
    },
    ours={**PRE_NORM, "is_causal": True, "position_embedding_type": "rope"},
)  # fmt: skip


def neox_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """GPT-NeoX, its MLP after attention or beside it (Pythia)."""
    before = prefix_of(names, "embed_in.weight")
    fused = change(*(f"layers.{{n}}.self_attn.{x}_proj" for x in "qkv"), by=_per_head(config.num_attention_heads))
    table = KeyTable(
        modules={
            "embed_in": "embed_tokens",
            "layers.{n}.input_layernorm": "layers.{n}.self_attn_norm",
            "layers.{n}.attention.query_key_value": fused,
            "layers.{n}.attention.dense": "layers.{n}.self_attn.o_proj",
            "layers.{n}.post_attention_layernorm": "layers.{n}.mlp_norm",
            "layers.{n}.mlp.dense_h_to_4h": "layers.{n}.mlp.up_proj",
            "layers.{n}.mlp.dense_4h_to_h": "layers.{n}.mlp.down_proj",
            "final_layer_norm": "norm",
        },
        dropped={
            **{f"layers.{{n}}.attention.{name}": BUFFER for name in ("bias", "masked_bias", "rotary_emb.inv_freq")},
            "rotary_emb.inv_freq": BUFFER,
        },
    )
    head = plain_head(config, f"{before}embed_in.weight", before, "embed_out.weight")
    return TowerPlan(_NEOX_FIELDS.convert(config), table.under(before, ""), *head)


# ---- Phi -----------------------------------------------------------------------------------------------------------


def _same_twice(new: List, unread: List) -> List:
    if not torch.equal(new[0], new[1]):
        raise ValueError("the norms before attention and MLP differ; a Phi has one for both")
    return [new[0]]


# One norm before attention and MLP, which have one each here.
_TWICE = Reshape("copied", lambda old: ([old[0], old[0].clone()], []), _same_twice)
_PHI_LAYER = "layers.{n}."
PHI = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        f"{_PHI_LAYER}input_layernorm": change(f"{_PHI_LAYER}self_attn_norm", f"{_PHI_LAYER}mlp_norm", by=_TWICE),
        **{f"{_PHI_LAYER}self_attn.{x}_proj": f"{_PHI_LAYER}self_attn.{x}_proj" for x in "qkv"},
        **{f"{_PHI_LAYER}self_attn.{x}_layernorm": f"{_PHI_LAYER}self_attn.{x}_norm" for x in "qk"},
        f"{_PHI_LAYER}self_attn.dense": f"{_PHI_LAYER}self_attn.o_proj",
        f"{_PHI_LAYER}mlp.fc1": f"{_PHI_LAYER}mlp.up_proj",
        f"{_PHI_LAYER}mlp.fc2": f"{_PHI_LAYER}mlp.down_proj",
        "final_layernorm": "norm",
    },
    dropped={f"{_PHI_LAYER}self_attn.rotary_emb.inv_freq": BUFFER, "rotary_emb.inv_freq": BUFFER},
)
PHI_FIELDS = Fields(
    names={
        **{name: name for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                   "num_attention_heads", "num_key_value_heads", "hidden_act", "layer_norm_eps",
                                   "max_position_embeddings", "attention_dropout", "rope_parameters")},
        "resid_pdrop": "hidden_dropout", **_IDS,
    },
    ours={
        **PRE_NORM, "is_causal": True, "position_embedding_type": "rope", "parallel_residual": True,
        "attention_bias": True, "mlp_bias": True,
    },
)  # fmt: skip


def phi_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Phi-1 to Phi-2: attention and MLP side by side after one norm, a part of each head rotated, a head with a
    bias."""
    before = prefix_of(names, "embed_tokens.weight")
    settings = PHI_FIELDS.convert(config) | {"qk_norm": "layer_norm" if config.qk_layernorm else "none"}
    settings |= {"head_dim": getattr(config, "head_dim", None)}  # no field of its class, which reads one all the same
    head, head_settings = plain_head(config, f"{before}embed_tokens.weight", before)
    head = head.adding(tensors={f"{outer_prefix(before)}lm_head.bias": "lm_head.bias"})
    notes = ()
    if config.embd_pdrop != config.resid_pdrop:
        notes = (f"embd_pdrop={config.embd_pdrop} becomes hidden_dropout={config.resid_pdrop}, as resid_pdrop is",)
    return TowerPlan(settings, PHI.under(before, ""), head, head_settings | {"lm_head_bias": True}, notes)


# ---- ELECTRA -------------------------------------------------------------------------------------------------------


def electra_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """ELECTRA, generator or discriminator, whose embeddings are as wide as its layers: BERT without a pooler."""
    if config.embedding_size != config.hidden_size:
        raise ValueError(
            f"embedding_size={config.embedding_size}, but hidden_size={config.hidden_size}: its embeddings are "
            "projected, as in ELECTRA-small; MM's are not"
        )
    plan = bert_plan(config, names)
    before = prefix_of(names, "embeddings.word_embeddings.weight")
    outer, tied = outer_prefix(before), bool(config.tie_word_embeddings)
    matrix = f"{outer}generator_lm_head"
    head = KeyTable(
        modules={
            f"{outer}generator_predictions.dense": "lm_head_transform.dense",
            f"{outer}generator_predictions.LayerNorm": "lm_head_transform.norm",
        },
        tensors={f"{matrix}.bias": "lm_head.bias", **({} if tied else {f"{matrix}.weight": "lm_head.weight"})},
        tied={f"{matrix}.weight": f"{before}embeddings.word_embeddings.weight"} if tied else {},
    )
    settings = {"lm_head_transform": True, "lm_head_act": "gelu", "lm_head_bias": True, "tie_word_embeddings": tied}
    return TowerPlan(plan.settings, plan.table, head, settings)


# ---- all -----------------------------------------------------------------------------------------------------------

TEXT_PLANS: dict[str, Callable[[Any, Collection[str]], TowerPlan]] = {
    "bert": bert_plan,
    "roberta": roberta_plan,
    "xlm-roberta": roberta_plan,
    "camembert": roberta_plan,
    "distilbert": distilbert_plan,
    "electra": electra_plan,
    "modernbert": modernbert_plan,
    "t5": t5_plan,
    "mt5": t5_plan,
    "gpt2": gpt2_plan,
    "opt": opt_plan,
    "gpt_neox": neox_plan,
    "phi": phi_plan,
    "trocr": trocr_plan,
    "bart": bart_plan,
    "mbart": bart_plan,
    "llama": llama_plan,
    "qwen2": llama_plan,
    "qwen3": llama_plan,
    "mistral": mistral_plan,
    "smollm3": smollm3_plan,
    "gemma": gemma_plan,
    "gemma2": gemma_2_plan,
    "gemma3_text": gemma_3_plan,
}


def text_plan_of(
    kind: str | None, settings: Mapping[str, Any] | None = None, tensors: Iterable[str] = ()
) -> Callable[[Any, Collection[str]], TowerPlan]:
    """The plan of a model_type. Raises ValueError for another, with the reason, which its settings in config.json and
    the names of its tensors tell."""
    if kind in TEXT_PLANS:
        return TEXT_PLANS[kind]
    whole = str(kind).startswith(("clip", "siglip"))
    more = "; the text tower of a CLIP or SigLIP comes with the whole model, by mm convert" if whole else ""
    why = why_no_text(kind, settings or {}, TEXT_PLANS, tensors)
    raise ValueError(
        f"text: model_type={kind!r} cannot become MM's text model: {why}; these are: {', '.join(TEXT_PLANS)}{more}"
    )
