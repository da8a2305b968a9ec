"""Text stacks of Transformers as MM's: names and settings of BERT, RoBERTa, DistilBERT, GPT-2, TrOCR and Llama.

Each `*_plan(config, names)` takes the source's config and the names of its tensors on disk.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from ..configuration.positions import SINUSOID_OFFSET
from .config_table import Fields, TowerPlan, outer_prefix, prefix_of, untrained, windows
from .key_table import KeyTable, change
from .reshapes import TRANSPOSE, skip_rows, split

_IDS = {name: name for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
_SIZES = {
    name: name
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
}
BUFFER = "a buffer, made anew"
ROBERTA_KINDS = ("roberta", "xlm-roberta", "camembert")
PRE_NORM = {"norm_position": "pre", "embedding_norm": False, "final_norm": "all", "pooler": "last"}
_POST_NORM = {"norm_position": "post", "embedding_norm": True, "final_norm": "none", "attention_bias": True}

# ---- BERT, and what is made of its layers --------------------------------------------------------------------------

BERT_LAYERS = {
    "encoder.layer.{n}.attention.self.query": "layers.{n}.self_attn.q_proj",
    "encoder.layer.{n}.attention.self.key": "layers.{n}.self_attn.k_proj",
    "encoder.layer.{n}.attention.self.value": "layers.{n}.self_attn.v_proj",
    "encoder.layer.{n}.attention.output.dense": "layers.{n}.self_attn.o_proj",
    "encoder.layer.{n}.attention.output.LayerNorm": "layers.{n}.self_attn_norm",
    "encoder.layer.{n}.crossattention.self.query": "layers.{n}.cross_attn.q_proj",
    "encoder.layer.{n}.crossattention.self.key": "layers.{n}.cross_attn.k_proj",
    "encoder.layer.{n}.crossattention.self.value": "layers.{n}.cross_attn.v_proj",
    "encoder.layer.{n}.crossattention.output.dense": "layers.{n}.cross_attn.o_proj",
    "encoder.layer.{n}.crossattention.output.LayerNorm": "layers.{n}.cross_attn_norm",
    "encoder.layer.{n}.intermediate.dense": "layers.{n}.mlp.up_proj",
    "encoder.layer.{n}.output.dense": "layers.{n}.mlp.down_proj",
    "encoder.layer.{n}.output.LayerNorm": "layers.{n}.mlp_norm",
}
BERT_EMBEDDINGS = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.token_type_embeddings": "embed_token_types",
    "embeddings.LayerNorm": "embed_norm",
}
BERT = KeyTable(
    modules={**BERT_EMBEDDINGS, **BERT_LAYERS, "pooler.dense": "pooler.dense"},
    dropped={"embeddings.position_ids": BUFFER, "embeddings.token_type_ids": BUFFER},
)
BERT_FIELDS = Fields(
    names={
        **_SIZES, **_IDS, "max_position_embeddings": "max_position_embeddings", "hidden_act": "hidden_act",
        "type_vocab_size": "type_vocab_size", "layer_norm_eps": "layer_norm_eps",
        "hidden_dropout_prob": "hidden_dropout", "attention_probs_dropout_prob": "attention_dropout",
    },
    ours=_POST_NORM,
)  # fmt: skip


def bert_head(names: Collection[str], tied: bool, embeddings: str, under: str = "") -> KeyTable:
    """BERT's prediction head, `under` a prefix, its matrix tied to the `embeddings` or not.

    The vocabulary's bias has two names. Tied it is one tensor; untied the one next to the matrix is read.
    """
    before = f"{under}cls.predictions."
    transform = (f"{before}transform.dense", f"{before}transform.LayerNorm")
    return _head(names, tied, embeddings, transform, f"{before}bias", f"{before}decoder")


def _head(
    names: Collection[str], tied: bool, embeddings: str, transform: tuple[str, str], outer: str, decoder: str
) -> KeyTable:
    """A head of BERT's kind: its dense layer and norm, the vocabulary's bias, and the matrix that has a bias too."""
    inner, matrix = f"{decoder}.bias", f"{decoder}.weight"
    head = KeyTable(modules=dict(zip(transform, ("lm_head_transform.dense", "lm_head_transform.norm"), strict=True)))
    if tied:
        return head.adding(tensors={outer: "lm_head.bias"}, tied={inner: outer, matrix: embeddings})
    head = head.adding(tensors={inner: "lm_head.bias", matrix: "lm_head.weight"})
    if inner in names:
        return head.adding(kept={outer: "nothing reads it: decoder.bias is read"})
    return head.adding(tied={outer: inner})


def bert_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """BERT, as encoder or decoder, with or without its pooler and its masked-language-model head."""
    before = prefix_of(names, "embeddings.word_embeddings.weight")
    pooled = f"{before}pooler.dense.weight" in names
    embeddings, tied = f"{before}embeddings.word_embeddings.weight", bool(config.tie_word_embeddings)
    head = bert_head(names, tied, embeddings, outer_prefix(before))
    settings = BERT_FIELDS.convert(config) | {"pooler": "cls_tanh" if pooled else "cls"}
    settings |= {"is_causal": bool(config.is_decoder)}
    kept = {f"{outer_prefix(before)}cls.seq_relationship.{{leaf}}": "the head for pairs of sentences"}
    head = head.adding(kept=kept)
    head_settings = {"lm_head_transform": True, "lm_head_bias": True, "tie_word_embeddings": tied}
    return TowerPlan(settings, BERT.under(before, ""), head, head_settings)


def unread_positions(pad: int | None, **ids: int | None) -> int:
    """How many rows of a RoBERTa's positions nothing reads: its texts begin after the id of its padding.

    Args:
        ids: by which texts open and end.
    Raises: ValueError without the id of padding, and where a text opens or ends with it.
    """
    if pad is None:
        raise ValueError("pad_token_id is None; the positions of a RoBERTa start after this id")
    same = [name for name, number in ids.items() if number == pad]
    if same:
        raise ValueError(
            f"{' and '.join(same)} and pad_token_id are {pad}: a RoBERTa counts no position for its padding, wherever "
            "it stands; MM goes by the mask"
        )
    return pad + 1


def roberta_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """RoBERTa: BERT whose positions start after the pad id, and whose head has one activation."""
    before = prefix_of(names, "embeddings.word_embeddings.weight")
    pooled = f"{before}pooler.dense.weight" in names
    end = None if config.is_decoder else config.eos_token_id  # nothing is read after the end that a decoder writes
    offset = unread_positions(config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=end)
    settings = BERT_FIELDS.convert(config) | {"pooler": "cls_tanh" if pooled else "cls", "is_causal": False}
    settings |= {"max_position_embeddings": config.max_position_embeddings - offset, "is_causal": config.is_decoder}
    table = BERT.adding(modules={"embeddings.position_embeddings": change("embed_positions", by=skip_rows(offset))})
    settings |= {"source_model_type": config.model_type}
    outer, tied = f"{outer_prefix(before)}lm_head.", bool(config.tie_word_embeddings)
    transform, embeddings = (f"{outer}dense", f"{outer}layer_norm"), f"{before}embeddings.word_embeddings.weight"
    head = _head(names, tied, embeddings, transform, f"{outer}bias", f"{outer}decoder")
    head_settings = {"lm_head_transform": True, "lm_head_act": "gelu", "lm_head_bias": True}
    return TowerPlan(settings, table.under(before, ""), head, head_settings | {"tie_word_embeddings": tied})


def bert_settings(text: Any) -> dict[str, Any]:
    """The config of BERT's stack, or of RoBERTa's where it was converted from one.

    A RoBERTa's positions start after the id of its padding; a BERT computes the same as such a stack of MM.
    """
    settings, kind = BERT_FIELDS.restore(text), text.source_model_type
    if kind not in ROBERTA_KINDS or text.pad_token_id is None:
        return settings | {"model_type": "bert"}
    longest = text.max_position_embeddings + text.pad_token_id + 1
    return settings | {"model_type": kind, "max_position_embeddings": longest}


DISTILBERT = KeyTable(
    modules={
        "embeddings.word_embeddings": "embed_tokens",
        "embeddings.position_embeddings": "embed_positions",
        "embeddings.LayerNorm": "embed_norm",
        "transformer.layer.{n}.attention.q_lin": "layers.{n}.self_attn.q_proj",
        "transformer.layer.{n}.attention.k_lin": "layers.{n}.self_attn.k_proj",
        "transformer.layer.{n}.attention.v_lin": "layers.{n}.self_attn.v_proj",
        "transformer.layer.{n}.attention.out_lin": "layers.{n}.self_attn.o_proj",
        "transformer.layer.{n}.sa_layer_norm": "layers.{n}.self_attn_norm",
        "transformer.layer.{n}.ffn.lin1": "layers.{n}.mlp.up_proj",
        "transformer.layer.{n}.ffn.lin2": "layers.{n}.mlp.down_proj",
        "transformer.layer.{n}.output_layer_norm": "layers.{n}.mlp_norm",
    },
    dropped={"embeddings.position_ids": BUFFER},
)
DISTILBERT_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "dim": "hidden_size", "hidden_dim": "intermediate_size",
        "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "activation": "hidden_act",
        "max_position_embeddings": "max_position_embeddings", "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout", **_IDS,
    },
    ours={**_POST_NORM, "layer_norm_eps": 1e-12, "is_causal": False, "pooler": "cls"},
)  # fmt: skip


def distilbert_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """DistilBERT."""
    before = prefix_of(names, "embeddings.word_embeddings.weight")
    matrix, tied = "vocab_projector.weight", bool(config.tie_word_embeddings)
    head = KeyTable(
        modules={"vocab_transform": "lm_head_transform.dense", "vocab_layer_norm": "lm_head_transform.norm"},
        tensors={"vocab_projector.bias": "lm_head.bias", **({} if tied else {matrix: "lm_head.weight"})},
        tied={matrix: f"{before}embeddings.word_embeddings.weight"} if tied else {},
    )
    settings = {"lm_head_transform": True, "lm_head_bias": True, "tie_word_embeddings": tied}
    return TowerPlan(DISTILBERT_FIELDS.convert(config), DISTILBERT.under(before, ""), head, settings)


# ---- GPT-2 ---------------------------------------------------------------------------------------------------------


def _projections(kind: str, letters: str) -> tuple[str, ...]:
    return tuple(f"layers.{{n}}.{kind}_attn.{letter}_proj" for letter in letters)


GPT2 = KeyTable(
    modules={
        "wte": "embed_tokens",
        "wpe": "embed_positions",
        "h.{n}.ln_1": "layers.{n}.self_attn_norm",
        "h.{n}.attn.c_attn": change(*_projections("self", "qkv"), by=split(3, transposed=True)),
        "h.{n}.attn.c_proj": change("layers.{n}.self_attn.o_proj", by=TRANSPOSE),
        "h.{n}.ln_cross_attn": "layers.{n}.cross_attn_norm",
        "h.{n}.crossattention.q_attn": change("layers.{n}.cross_attn.q_proj", by=TRANSPOSE),
        "h.{n}.crossattention.c_attn": change(*_projections("cross", "kv"), by=split(2, transposed=True)),
        "h.{n}.crossattention.c_proj": change("layers.{n}.cross_attn.o_proj", by=TRANSPOSE),
        "h.{n}.ln_2": "layers.{n}.mlp_norm",
        "h.{n}.mlp.c_fc": change("layers.{n}.mlp.up_proj", by=TRANSPOSE),
        "h.{n}.mlp.c_proj": change("layers.{n}.mlp.down_proj", by=TRANSPOSE),
        "ln_f": "norm",
    },
    dropped={
        f"h.{{n}}.{part}.{name}": "the causal mask, a buffer"
        for part in ("attn", "crossattention")
        for name in ("bias", "masked_bias")
    },
)
GPT2_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "n_embd": "hidden_size", "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads", "n_positions": "max_position_embeddings", "resid_pdrop": "hidden_dropout",
        "activation_function": "hidden_act", "layer_norm_epsilon": "layer_norm_eps", "attn_pdrop": "attention_dropout",
        **_IDS,
    },
    ours={**PRE_NORM, "is_causal": True, "attention_bias": True},
    theirs={
        "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    },
)  # fmt: skip


def gpt2_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """GPT-2: pre-norm, its linear layers kept with inputs first."""
    before = prefix_of(names, "wte.weight")
    settings = GPT2_FIELDS.convert(config) | {"intermediate_size": config.n_inner or 4 * config.n_embd}
    notes = ()
    if config.embd_pdrop != config.resid_pdrop:
        notes = (f"embd_pdrop={config.embd_pdrop} becomes hidden_dropout={config.resid_pdrop}, as resid_pdrop is",)
    return TowerPlan(settings, GPT2.under(before, ""), *plain_head(config, f"{before}wte.weight", before), notes)


def plain_head(config: Any, embeddings: str, before: str, name: str = "lm_head.weight") -> tuple[KeyTable, dict]:
    """A head of one matrix without a bias, tied to the embeddings or not, and its settings."""
    name = outer_prefix(before) + name
    tied = bool(config.tie_word_embeddings)
    settings = {"lm_head_transform": False, "lm_head_bias": False, "tie_word_embeddings": tied}
    table = KeyTable(tied={name: embeddings}) if tied else KeyTable(tensors={name: "lm_head.weight"})
    return table, settings


# ---- TrOCR's decoder, of layers that are named as BART's, as Whisper's are ------------------------------------------

TROCR_OFFSET = 2  # its table of positions starts with two rows that nothing reads
BART_LAYER = {
    "self_attn.out_proj": "self_attn.o_proj",
    "self_attn_layer_norm": "self_attn_norm",
    "encoder_attn.out_proj": "cross_attn.o_proj",
    "encoder_attn_layer_norm": "cross_attn_norm",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
    "final_layer_norm": "mlp_norm",
    **{f"self_attn.{letter}_proj": f"self_attn.{letter}_proj" for letter in "qkv"},
    **{f"encoder_attn.{letter}_proj": f"cross_attn.{letter}_proj" for letter in "qkv"},
}
TROCR = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        "embed_positions": change("embed_positions", by=skip_rows(TROCR_OFFSET)),
        "layernorm_embedding": "embed_norm",
        **{f"layers.{{n}}.{old}": f"layers.{{n}}.{new}" for old, new in BART_LAYER.items()},
    },
    dropped={"embed_positions._float_tensor": BUFFER},  # with fixed positions, in older files
)
TROCR_FIELDS = Fields(
    names={
        "vocab_size": "vocab_size", "d_model": "hidden_size", "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads", "decoder_ffn_dim": "intermediate_size",
        "activation_function": "hidden_act", "max_position_embeddings": "max_position_embeddings",
        "dropout": "hidden_dropout", "attention_dropout": "attention_dropout",
        "layernorm_embedding": "embedding_norm", **_IDS,
    },
    ours={
        "norm_position": "post", "final_norm": "none", "layer_norm_eps": 1e-5, "is_causal": True, "pooler": "last",
        "attention_bias": True,
    },
)  # fmt: skip


def trocr_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """TrOCR's decoder, its positions learned or fixed. Raises ValueError for fixed ones that start elsewhere."""
    before = prefix_of(names, "embed_tokens.weight")
    outer = before.removesuffix("model.decoder.")
    head, settings = plain_head(config, f"{before}embed_tokens.weight", "", f"{outer}output_projection.weight")
    stack = TROCR_FIELDS.convert(config)
    stack |= {"embedding_scale": math.sqrt(config.d_model) if config.scale_embedding else 1.0}
    if not config.use_learned_position_embeddings:
        if config.pad_token_id != SINUSOID_OFFSET - 1:
            raise ValueError(f"pad_token_id={config.pad_token_id}, after which fixed positions start; only 1 is known")
        stack |= {"position_embedding_type": "sinusoidal"}
    return TowerPlan(stack, TROCR.under(before, ""), head, settings, untrained(config))


def trocr_settings(text: Any) -> dict[str, Any]:
    """The config of TrOCR's decoder of a stack."""
    return TROCR_FIELDS.restore(text) | {
        "scale_embedding": text.embedding_scale != 1.0,
        "use_learned_position_embeddings": text.position_embedding_type == "absolute",
        "cross_attention_hidden_size": text.cross_attention_hidden_size,
    }


# ---- Llama and its kind --------------------------------------------------------------------------------------------

LLAMA = KeyTable(
    modules={
        "embed_tokens": "embed_tokens",
        "layers.{n}.input_layernorm": "layers.{n}.self_attn_norm",
        **{f"layers.{{n}}.self_attn.{x}_proj": f"layers.{{n}}.self_attn.{x}_proj" for x in "qkvo"},
        **{f"layers.{{n}}.self_attn.{x}_norm": f"layers.{{n}}.self_attn.{x}_norm" for x in "qk"},
        "layers.{n}.post_attention_layernorm": "layers.{n}.mlp_norm",
        **{f"layers.{{n}}.mlp.{x}_proj": f"layers.{{n}}.mlp.{x}_proj" for x in ("gate", "up", "down")},
        "norm": "norm",
    },
    dropped={"layers.{n}.self_attn.rotary_emb.inv_freq": BUFFER, "rotary_emb.inv_freq": BUFFER},
)


def llama_layers(places: Mapping[int, int]) -> KeyTable:
    """Llama's table with its layers, {number there: number here}, under other numbers."""
    table = KeyTable(
        modules={old: new for old, new in LLAMA.modules.items() if "{n}" not in old}, dropped=dict(LLAMA.dropped)
    )
    layer = {
        old: str(new) for old, new in LLAMA.modules.items() if "{n}" in old and not old.endswith(("q_norm", "k_norm"))
    }
    for there, here in places.items():
        names = {old.replace("{n}", str(there)): new.replace("{n}", str(here)) for old, new in layer.items()}
        table = table.adding(modules=names)
    return table


LLAMA_FIELDS = Fields(
    names={
        **_SIZES, **_IDS, "num_key_value_heads": "num_key_value_heads", "max_position_embeddings":
        "max_position_embeddings", "hidden_act": "hidden_act", "rms_norm_eps": "layer_norm_eps",
        "attention_dropout": "attention_dropout", "rope_parameters": "rope_parameters",
    },
    ours={
        **PRE_NORM, "norm_type": "rms_norm", "gated_mlp": True, "position_embedding_type": "rope", "is_causal": True,
    },
)  # fmt: skip


def llama_plan(config: Any, names: Collection[str]) -> TowerPlan:
    """Llama, Qwen2 (biases at q, k and v), Qwen3 (norms of q and k), and what has the same layers."""
    before = prefix_of(names, "embed_tokens.weight")
    bias = {"qwen2": "qkv"}.get(config.model_type) or getattr(config, "attention_bias", False)  # Mistral has none
    settings = LLAMA_FIELDS.convert(config) | {"attention_bias": bias, "head_dim": getattr(config, "head_dim", None)}
    settings |= {"mlp_bias": getattr(config, "mlp_bias", False), "rope_parameters": _rope(config)}
    settings |= {"qk_norm": "rms_norm" if config.model_type == "qwen3" else "none"}
    settings |= windows(getattr(config, "layer_types", None), getattr(config, "sliding_window", None))
    return TowerPlan(settings, LLAMA.under(before, ""), *plain_head(config, f"{before}embed_tokens.weight", before))


def _rope(config: Any) -> dict[str, Any]:
    """The source's parameters; by default its class rotates whole heads, for any partial_rotary_factor."""
    parameters = dict(config.rope_parameters)
    if parameters.get("rope_type", "default") == "default":
        parameters.pop("partial_rotary_factor", None)
    return parameters
