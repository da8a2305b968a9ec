"""BLIP-2 (Li et al. 2023, arXiv:2301.12597): a ViT, the Q-Former and an OPT.

    vision_model, qformer, language_projection       vision tower, resampler with self-attention, linear projector
    query_tokens                                     the resampler's latents
    language_model                                   an OPT, before whose text the latents stand as its placeholders

Theirs decodes with the settings of the OPT alone: a generation_config.json beside it is kept, and read here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from transformers import Blip2Config

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_plans import OPT_FIELDS, opt_plan
from .blip import VISION, VISION_FIELDS
from .family import Family, Layout, Plan, check_architecture
from .llava import compare

_ARCHITECTURE = "Blip2ForConditionalGeneration"
_TOKEN = "<image>"
_SEEN_FIELDS = replace(VISION_FIELDS, ours={n: v for n, v in VISION_FIELDS.ours.items() if n != "attention_bias"})
_BEFORE_OPT = "language_model.model.decoder."
_QFORMER_FIELDS = Fields(
    names={
        "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
        "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads",
        "hidden_act": "hidden_act", "layer_norm_eps": "layer_norm_eps", "hidden_dropout_prob": "hidden_dropout",
        "attention_probs_dropout_prob": "attention_dropout", "cross_attention_frequency": "cross_attention_every",
    },
    ours={
        "self_attention": True, "norm_position": "post", "embedding_norm": True, "final_norm": "none",
        "memory_norm": False, "append_latents": False, "residual": True, "first_latent_pooled": False,
        "attention_bias": True, "mlp_bias": True, "gated_mlp": False,
    },
    theirs={"use_qformer_text_input": False},
)  # fmt: skip


def _attention(theirs: str, ours: str) -> dict[str, str]:
    return {
        **{f"{theirs}.attention.{name}": f"{ours}.{name[0]}_proj" for name in ("query", "key", "value")},
        f"{theirs}.output.dense": f"{ours}.o_proj",
        f"{theirs}.output.LayerNorm": f"{ours}_norm",
    }


_QFORMER = KeyTable(
    modules={
        **_attention("attention", "self_attn"),
        **_attention("crossattention", "cross_attn"),
        "intermediate_query.dense": "mlp.up_proj",
        "output_query.dense": "mlp.down_proj",
        "output_query.LayerNorm": "mlp_norm",
    }
).under("encoder.layer.{n}.", "layers.{n}.")


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "blip-2"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another text than an OPT, and for settings that MM lacks."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config: Any = source_config(checkpoint.config)
    kind: str = config.text_config.model_type
    token_id: Any = config.image_token_index
    faults = [] if kind == "opt" else [f"text_config.model_type={kind!r}; known is opt (T5 has relative positions)"]
    if token_id is None:
        faults.append(
            "image_token_index is missing, as in files of before Transformers 4.46, whose vocabulary has no token for "
            "pictures; take the published model of today"
        )
    raise_faults("this BLIP-2 has what MM lacks", faults)
    assert token_id is not None
    text = opt_plan(config.text_config, [name for name in checkpoint if name.startswith("language_model.")])
    vision = _SEEN_FIELDS.convert(config.vision_config)
    resampler = _QFORMER_FIELDS.convert(config.qformer_config)
    made = MMConfig(
        vision_config={**vision, "attention_bias": True if config.vision_config.qkv_bias else "o"},
        vision_resampler_config={**resampler, "head_dim": None, "num_latents": config.num_query_tokens},
        text_config=text.settings,
        fusion_type="merged",
        fusion_order="in_text",
        image_token_id=token_id,
        projector_type="linear",
        **text.head_settings,
    )
    own = KeyTable(
        modules={
            "qformer.layernorm": "model.vision_resampler.embed_norm",
            "language_projection": "model.vision_projector",
        },
        tensors={"query_tokens": "model.vision_resampler.latents"},
    )
    table = VISION.under("vision_model.", "model.vision_tower.") + own
    table += _QFORMER.under("qformer.", "model.vision_resampler.")
    table += text.table.under("", "model.language_model.") + text.head
    return Plan(
        MMForConditionalGeneration,
        made,
        table,
        tokens={_TOKEN: token_id},
        processor={
            "placeholders": {"image": _TOKEN},
            "tokens_per_item": {"image": config.num_query_tokens},
            "media_reading": "before_text",
        },
    )


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a BLIP-2; raises ValueError for another."""
    config, tower = model.config, model.config.vision_config
    resampler: Any = config.vision_resampler_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    wrong += [] if resampler is not None else ["there is no vision_resampler_config"]
    wrong += [] if config.media_in_text else ["the media do not stand in the text (fusion_order='in_text')"]
    wrong += [] if config.modalities == ["image"] else [f"modalities={config.modalities}, not only pictures"]
    wrong += [] if config.projector_type == "linear" else [f"projector_type={config.projector_type!r}, not 'linear'"]
    raise_faults("BLIP-2 wants a ViT, a Q-Former and pictures in the text", wrong)
    assert resampler is not None
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    text = OPT_FIELDS.restore(config.text_config) | tied
    bias = {"qkv_bias": tower.attention_bias is True}
    source = Blip2Config(
        vision_config=_SEEN_FIELDS.restore(tower) | bias,
        qformer_config=_QFORMER_FIELDS.restore(resampler),
        text_config=text | {"model_type": "opt", "word_embed_proj_dim": config.text_config.hidden_size},
        num_query_tokens=resampler.num_latents,
        image_token_index=config.image_token_id,
        **tied,
    )
    return Layout(
        source,
        _ARCHITECTURE,
        (f"{_BEFORE_OPT}embed_tokens.weight",),
        "BlipImageProcessor",
        "Blip2Processor",
        processor_settings={"num_query_tokens": resampler.num_latents},
    )


FAMILY = Family("blip-2", recognises, plan, layout, compare)
