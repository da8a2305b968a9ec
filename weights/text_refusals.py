"""Why a text model of Transformers cannot become MM's: what its settings name that MM's text model has not.

The settings are those of config.json, with the defaults of the installed class. A few families whose settings do not
show it are told in `NO_TEXTS`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING

from .config_table import LAYER_KINDS, source_config

NO_TEXTS = {
    "gemma3": "it is a text and a vision tower together; save its text, for instance from "
    "AutoModelForImageTextToText.from_pretrained(SOURCE).model.language_model.save_pretrained(FOLDER)",
    "phi3": "its projections of q, k and v are one tensor, and so are two of its MLP",
    "modernbert-decoder": "its tensors have other names than ModernBERT's, which are not known here",
    "umt5": "each layer has a table of distances of its own; MM's layers share one, as T5's",
    "bloom": "its scores fall with the distance between tokens (ALiBi); MM's have no such slopes",
    "rwkv": "a state runs along its text in place of attention",
    "fnet": "its layers mix tokens by a Fourier transform in place of attention",
    **dict.fromkeys(("deberta", "deberta-v2"),
                    "its scores are made of tokens and of distances, each with projections of its own"),
    "mpnet": "it has learned positions and learned distances at once; MM's texts have one of them",
}  # fmt: skip
# Settings (whole names), and what it means that one of them is there and says something.
_MEANS = (
    (r"alibi", "its scores fall with the distance between tokens (ALiBi)"),
    (r"(num|n)_(local_|routed_)?experts|moe_num_experts|expert_capacity", "its layers choose among experts"),
    (
        r"mamba_\w+|ssm_\w+|state_size|time_step_rank|lru_width|linear_\w+|qk_dim_factor|conv_L_cache|"
        r"short_conv_kernel_size|conv_kernel_size|cca_time0",
        "a state or a convolution runs along its text",
    ),
    (r"kv_lora_rank|q_lora_rank", "its keys and values are made of one narrow vector"),
    (
        r"max_relative_positions|position_bias_num_buckets|relative_max_distance|d_rel|relative_attention\w*|clamp_len",
        "its scores have terms of the distance between tokens",
    ),
    (
        r"index_topk\w*|block_size\w*|global_block_size|num_random_blocks|attention_window\w*|attention_types|"
        r"attn_layers|num_hash(es)?|num_landmarks|block_per_row|attention_chunk_size|local_radius|keep_window_size",
        "its tokens see blocks or a choice of the text",
    ),
    (r"num_hidden_groups|num_kv_shared_layers", "some of its layers share weights or keys"),
    (
        r"hidden_size_per_layer_input|ple_embed_dim|per_layer_config",
        "its layers have settings or embeddings of their own",
    ),
    (r"altup_num_inputs|hc_mult|hc_count", "it has several streams of states"),
    (r"lambda_std_dev", "its scores are differences of two attentions"),
    (r"(key_query_shared|use)_bottleneck|\w+_groups|head_ratio", "its layers are narrowed or cut into groups"),
    (
        r"\w+_multipliers?|logits?_scal(e|ing)|scale_(emb|depth)|rescale_every",
        "its states, scores or logits are multiplied by numbers of its config",
    ),
    (r"langs|languages|n_langs|entity_vocab_size|pronunciation_vocab_size|max_2d_position_embeddings|type_vocab_sizes",
     "its tokens have embeddings or layers of languages, places or other kinds"),
)  # fmt: skip
# Parts of tensors' names that say the same.
_NAMES = {
    r"query_key_value|qkv|c_attn": "its projections of q, k and v are one tensor",
    r"gate_up_proj": "two projections of its MLP are one tensor",
    r"sinks": "its scores have a sink",
}
_NARROW = ("embedding_size", "input_embedding_size", "embedding_rank", "word_embed_proj_dim")
_NOTHING = (None, 0, 1, -1, "", "absolute", [], {})  # False is 0, too


def why_no_text(
    kind: str | None, settings: Mapping[str, Any], known: Collection[str], tensors: Iterable[str] = ()
) -> str:
    """What a family has that MM's text model has not.

    Args:
        settings: of config.json. known: the model_types that MM reads. tensors: the names in the file.
    """
    if kind in NO_TEXTS:
        return NO_TEXTS[kind]
    if kind not in CONFIG_MAPPING:
        return "no class of the installed Transformers is of this kind"
    try:
        given = source_config({**settings, "model_type": kind}).to_dict()
    except (ValueError, TypeError, AttributeError, StrictDataclassError):  # settings that its own class does not take
        given = dict(settings)
    if parts := [name for name, value in given.items() if _is_model(value)]:
        return f"it is several models together ({', '.join(parts)}); save its text model, and give that"
    if "vocab_size" not in given:
        return "it has no vocabulary, so it is no text model"
    said = [name for name, value in given.items() if value is True or value not in _NOTHING]
    kinds = sorted(set(given.get("layer_types") or []) - set(LAYER_KINDS))
    found = [f"some of its layers are of another kind ({', '.join(kinds)})"] if kinds else []
    for pattern, words in _MEANS:
        if names := [name for name in said if re.fullmatch(pattern, name)]:
            found.append(f"{words} ({', '.join(f'{name}={_short(given[name])}' for name in names[:3])})")
    width = given.get("hidden_size")
    found += [
        f"its embeddings are narrower than its layers ({name}={given[name]}, hidden_size={width})"
        for name in _NARROW
        if width and given.get(name) not in (None, width)
    ]
    if given.get("is_encoder_decoder"):
        found.append("it is an encoder and a decoder, and MM's text model is one of them")
    names = [name for name in tensors if re.search(r"\.0\.", name)]
    for pattern, words in _NAMES.items():
        found += [f"{words} ({name})" for name in names if re.search(pattern, name)][:1]
    if found:
        return "; ".join(found[:3])
    others = {name for one in known for name in CONFIG_MAPPING[one]().to_dict()}
    if new := [name for name in said if name not in others]:
        told = ", ".join(f"{name}={_short(given[name])}" for name in new[:4])
        return f"its config has settings of no family that MM reads ({told})"
    shown = f" ({', '.join(names[:3])})" if names else ""
    return f"its settings show nothing that MM lacks, but no table says which of its tensors is which{shown}"


def _is_model(value: Any) -> bool:
    return isinstance(value, dict) and value.get("model_type") in CONFIG_MAPPING


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."
