"""LLaVA 1.5 (Liu et al. 2023, arXiv:2304.08485, arXiv:2310.03744): pictures in the text of a Llama, Mistral or Qwen.

The tokens of a picture stand where the text has its placeholder, one for each, and count in its positions: MM's
`fusion_order="in_text"`. Theirs also takes placeholders without pictures, and rows whose counts do not match.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import LlavaConfig

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.config_table import LAYER_KINDS, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import LLAMA_FIELDS
from ..weights.text_plans import TEXT_PLANS
from ..weights.vision_names import CLIP_FIELDS, SIGLIP_FIELDS, VISION_PLANS
from .family import Family, Layout, Plan, check_architecture

_ARCHITECTURE = "LlavaForConditionalGeneration"
_TEXTS = ("llama", "mistral", "qwen2", "qwen3")
_VISION = {"clip_vision_model": CLIP_FIELDS, "siglip_vision_model": SIGLIP_FIELDS}
_PROJECTOR = KeyTable(
    modules={
        "{before}multi_modal_projector.linear_1": "model.vision_projector.up_proj",
        "{before}multi_modal_projector.linear_2": "model.vision_projector.down_proj",
    }
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "llava"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another tower or text, and for settings that MM lacks."""
    return made_plan(checkpoint, _ARCHITECTURE)


def made_plan(checkpoint: Checkpoint, architecture: str, tiles: Any = None, **fields: Any) -> Plan:
    """A plan of LLaVA's layout. tiles: of its processor. fields: of MMConfig, beside those of the source.

    Raises: ValueError as `plan`.
    """
    check_architecture(checkpoint, architecture)
    config: Any = source_config(checkpoint.config)
    _check(config)
    names = list(checkpoint)
    of_vision = [name for name in names if "vision_tower." in name]
    of_text = [name for name in names if "language_model" in name or name.startswith("lm_head")]
    vision = VISION_PLANS[config.vision_config.model_type](config.vision_config, of_vision)
    text = TEXT_PLANS[config.text_config.model_type](config.text_config, of_text)
    projector = next(name for name in names if name.endswith("multi_modal_projector.linear_1.weight"))
    before = projector.removesuffix("multi_modal_projector.linear_1.weight")
    tensors = {f"{before}image_newline": "model.image_newline"} if fields.get("image_newline") else {}
    modules = {name.format(before=before): ours for name, ours in _PROJECTOR.modules.items()}
    made = MMConfig(
        vision_config={**vision.settings, "final_norm": _last_norm(config)},
        text_config={**text.settings, "is_causal": True},
        fusion_type="merged",
        fusion_order="in_text",
        image_token_id=config.image_token_index,
        projector_type="mlp",
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        **text.head_settings,
        **fields,
    )
    table = vision.table.under("", "model.vision_tower.") + text.table.under("", "model.language_model.") + text.head
    token = (read_json(checkpoint.directory, "processor_config.json") or {}).get("image_token") or "<image>"
    processor = {"placeholders": {"image": token}, "tokens_per_item": {"image": made.tokens_per_tile}}
    processor |= {} if tiles is None else {"tiles": tiles}
    template = chat_template(checkpoint)
    return Plan(
        MMForConditionalGeneration,
        made,
        table + KeyTable(modules=modules, tensors=tensors),
        tokens={token: config.image_token_index},
        processor=processor | ({} if template is None else {"chat_template": template}),
        notes=(*vision.notes, *text.notes),
    )


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The processor's; a tokenizer saved without one is read as its tokenizer."""
    folder = checkpoint.directory
    if folder is not None and (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return (read_json(folder, "chat_template.json") or {}).get("chat_template")


def _last_norm(config: Any) -> str:
    """At -1 theirs reads the state after the last layer, before the tower's last norm: there only the pooled vector of
    MM's has that norm, as a CLIP's always."""
    return (
        "pooled" if config.vision_feature_layer == -1 else _VISION[config.vision_config.model_type].ours["final_norm"]
    )


def _check(config: Any) -> None:
    faults = [
        f"{part}.model_type={kind!r}; known are {', '.join(known)}"
        for part, kind, known in (
            ("text_config", config.text_config.model_type, _TEXTS),
            ("vision_config", config.vision_config.model_type, tuple(_VISION)),
        )
        if kind not in known
    ]
    if not isinstance(config.vision_feature_layer, int):
        faults.append(
            f"vision_feature_layer={config.vision_feature_layer}: one layer is read, not several side by side"
        )
    if config.projector_hidden_act != "gelu":
        faults.append(f"projector_hidden_act={config.projector_hidden_act!r}; MM's projector has 'gelu'")
    if not config.multimodal_projector_bias:
        faults.append("multimodal_projector_bias=False; MM's projector has biases")
    raise_faults("this LLaVA has what MM lacks", faults)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a LLaVA; raises ValueError for another."""
    if model.config.image_newline:
        raise ValueError("image_newline=True is LLaVA-NeXT's: write it back --to llava_next")
    names = ["CLIPImageProcessor", "LlavaProcessor"]
    return made_layout(model, LlavaConfig, _ARCHITECTURE, names, image_seq_length=model.config.tokens_per_image)


def made_layout(model: Any, source_class: Any, architecture: str, classes: list[str], **fields: Any) -> Layout:
    """A layout as LLaVA's. classes: of the image processor and the processor. fields: of the source's config."""
    config, tower, text = model.config, model.config.vision_config, model.config.text_config
    wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
    wrong += [] if config.media_in_text else ["the media do not stand in the text (fusion_order='in_text')"]
    wrong += [] if config.modalities == ["image"] else [f"modalities={config.modalities}, not only pictures"]
    wrong += [] if config.projector_type == "mlp" else [f"projector_type={config.projector_type!r}, not 'mlp'"]
    wrong += [] if config.projector_bias else ["the projector has no biases"]
    raise_faults("LLaVA wants a ViT and pictures in the text", wrong)
    kind = "clip_vision_model" if tower.use_cls_token else "siglip_vision_model"
    as_theirs = copy.copy(tower)
    as_theirs.final_norm = _VISION[kind].ours["final_norm"]
    source = source_class(
        vision_config={**_VISION[kind].restore(as_theirs), "model_type": kind},
        text_config=text_settings(text) | {"tie_word_embeddings": config.tie_word_embeddings},
        image_token_index=config.image_token_id,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        tie_word_embeddings=config.tie_word_embeddings,
        **fields,
    )
    first = "embeddings.class_embedding" if kind == "clip_vision_model" else "embeddings.patch_embedding.weight"
    names = [f"vision_tower.{first}", "language_model.model.embed_tokens.weight"]
    names += ["multi_modal_projector.linear_1.weight"]
    if tower.pooler == "attention":
        names.append("vision_tower.head.probe")
    processor = {
        "patch_size": tower.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": int(tower.use_cls_token),
    }
    pictures, both = classes
    return Layout(source, architecture, tuple(names), pictures, both, processor_settings=processor)


def text_settings(text: Any) -> dict[str, Any]:
    """By what tells these texts apart: norms of q and k, biases, and layers with a window.

    Raises: ValueError for a window in some layers of a Llama, or one together with a Llama's biases.
    """
    kind = "qwen3" if text.qk_norm == "rms_norm" else "qwen2" if text.attention_bias == "qkv" else "llama"
    settings = LLAMA_FIELDS.restore(text) | {"model_type": kind, "head_dim": text.head_dim}
    if kind == "llama":
        settings |= {"attention_bias": bool(text.attention_bias), "mlp_bias": text.mlp_bias}
    layers, number = text.local_attention_layers, text.num_hidden_layers
    if not layers:
        return settings
    settings |= {"sliding_window": text.local_attention_window + 1}
    if kind != "llama":
        kinds = [LAYER_KINDS[layer in layers] for layer in range(number)]
        return settings | {"use_sliding_window": True, "layer_types": kinds}
    if len(layers) < number or settings.pop("attention_bias") or settings.pop("mlp_bias"):
        raise ValueError(
            f"local_attention_layers={layers} of a text as Llama's: known is a Mistral, all of whose {number} layers "
            "see a window, without biases"
        )
    return settings | {"model_type": "mistral"}


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """A picture before each text, and one in the middle of it."""
    return compare_placed(theirs, ours, given, given.pixel_values, ours.config.tokens_per_image)


def compare_placed(
    theirs: Any,
    ours: Any,
    given: Any,
    pixels: torch.Tensor,
    count: int,
    own: dict[str, torch.Tensor] | None = None,
    **media: torch.Tensor,
) -> dict[str, Any]:
    """Logits of texts with `count` placeholders before them, and with as many in the middle. The longest texts leave
    room for them. media: of both models, beside the pixels."""
    token, found = ours.config.image_token_id, {}
    room = max(1, ours.config.text_config.max_position_embeddings - count)
    ids, seen = given.input_ids[:, :room].clone(), given.attention_mask[:, :room]
    ids[ids == token] = (token + 1) % ours.config.text_config.vocab_size
    holes = ids.new_full((len(ids), count), token)
    for name, place in (("logits", 0), ("logits of a picture inside", ids.shape[1] // 2)):
        text = torch.cat([ids[:, :place], holes, ids[:, place:]], dim=1)
        mask = torch.cat([seen[:, :place], torch.ones_like(holes), seen[:, place:]], dim=1)
        calls: dict[str, Any] = {"input_ids": text, "attention_mask": mask, "pixel_values": pixels, "use_cache": False}
        real = mask.bool()
        here, there = (model(**calls, **more).logits for model, more in ((ours, own or media), (theirs, media)))
        found[name] = (here[real], there[real])
    return found


FAMILY = Family("llava", recognises, plan, layout, compare, decodes_by_config=True)
