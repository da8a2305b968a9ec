"""Idefics3 (Laurençon et al. 2024, arXiv:2408.12637) and SmolVLM (Marafioti et al. 2025, arXiv:2504.05299): tiles of a
picture inside the text of a Llama, squares of whose patches are one token.

Their tower reads whole tiles of one size: of such a tile each patch has its own learned position, as in MM's ViT.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AutoImageProcessor, Idefics3Config, SmolVLMConfig

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import plain_head
from ..weights.text_plans import TEXT_PLANS
from ..weights.vision_names import SIGLIP_FIELDS, siglip_vision_plan
from .family import Family, Layout, Plan, check_architecture
from .llava import chat_template, compare_placed, text_settings
from .processor import is_splitting

_CONFIGS = {"idefics3": Idefics3Config, "smolvlm": SmolVLMConfig}
_CLASS = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}
_ARCHITECTURES = {kind: f"{name}ForConditionalGeneration" for kind, name in _CLASS.items()}
_IMAGE, _AROUND = "<image>", "<fake_token_around_image>"
_WRITTEN = {
    "tile": f"{_AROUND}<row_{{row}}_col_{{column}}>{{image}}",
    "row_end": "\n",
    "before_whole": "\n",
    "whole": f"{_AROUND}<global-img>{{image}}{_AROUND}",
}
_TEXTS = ("llama", "mistral", "qwen2", "qwen3")


def _recognises(kind: str):
    def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
        return config.get("model_type") == kind

    return recognises


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another text, and for settings that MM lacks."""
    config: Any = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURES[config.model_type])
    if config.text_config.model_type not in _TEXTS:
        raise ValueError(f"text_config.model_type={config.text_config.model_type!r}; known are {', '.join(_TEXTS)}")
    names = list(checkpoint)
    vision = siglip_vision_plan(config.vision_config, [name for name in names if "vision_model." in name])
    of_text = [name for name in names if "text_model" in name or name.startswith("lm_head")]
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    text = TEXT_PLANS[config.text_config.model_type](config.text_config, of_text)
    head, head_settings = plain_head(config, "model.text_model.embed_tokens.weight", "")
    made = MMConfig(
        vision_config=vision.settings,
        text_config={**text.settings, "is_causal": True},
        fusion_type="merged",
        fusion_order="in_text",
        image_token_id=config.image_token_id,
        projector_type="linear",
        projector_bias=False,
        pixel_shuffle=config.scale_factor,
        **head_settings,
    )
    tiles = _tiles(checkpoint)
    places = {"placeholders": {"image": _IMAGE}, "tokens_per_item": {"image": made.tokens_per_image}}
    template = chat_template(checkpoint)
    return Plan(
        MMForConditionalGeneration,
        made,
        vision.table.under("", "model.vision_tower.")
        + text.table.under("", "model.language_model.")
        + head
        + KeyTable(modules={"model.connector.modality_projection.proj": "model.vision_projector"}),
        tokens={_IMAGE: config.image_token_id},
        processor={**places, "tiles": tiles} | ({} if template is None else {"chat_template": template}),
        notes=(*vision.notes, *text.notes),
    )


def _tiles(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The settings of MMProcessor's tiles: how the source cuts pictures, and what its processor writes for them; None
    for a source without an image processor."""
    folder = checkpoint.directory
    files = ("preprocessor_config.json", "processor_config.json")
    if folder is None or not any((folder / name).is_file() for name in files):
        return None
    images: Any = AutoImageProcessor.from_pretrained(folder)
    if not is_splitting(images) or not images.size.longest_edge:
        raise ValueError(f"{type(images).__name__} with size={images.size}: known are those that cut by longest_edge")
    sizes = {"size": images.max_image_size["longest_edge"], "longest_edge": images.size.longest_edge}
    return {**sizes, "do_split": bool(images.do_image_splitting), **_WRITTEN}


def _layout(kind: str):
    def layout(model: Any) -> Layout:
        """The layout of an MM model built as one of these; raises ValueError for another."""
        config, tower = model.config, model.config.vision_config
        wrong = [] if isinstance(tower, MMVisionConfig) else [f"the vision tower is a {type(tower).__name__}"]
        wrong += [] if config.media_in_text else ["the media do not stand in the text (fusion_order='in_text')"]
        wrong += [] if config.modalities == ["image"] else [f"modalities={config.modalities}, not only pictures"]
        if config.projector_type != "linear" or config.projector_bias:
            wrong.append("the projector is not one linear layer without a bias")
        raise_faults(f"{kind} wants a ViT and pictures in the text", wrong)
        tied = config.tie_word_embeddings
        source = _CONFIGS[kind](
            vision_config=SIGLIP_FIELDS.restore(tower),
            text_config=text_settings(config.text_config) | {"tie_word_embeddings": tied},
            image_token_id=config.image_token_id,
            scale_factor=config.pixel_shuffle,
            tie_word_embeddings=tied,
        )
        names = ("model.vision_model.embeddings.patch_embedding.weight", "model.text_model.embed_tokens.weight")
        size = {"longest_edge": tower.image_size}  # each frame is one tile
        films = {"video_processor_type": "SmolVLMVideoProcessor", "size": size, "max_image_size": size}
        return Layout(
            source,
            _ARCHITECTURES[kind],
            names,
            f"{_CLASS[kind]}ImageProcessor",
            f"{_CLASS[kind]}Processor",
            processor_settings={"image_seq_len": config.tokens_per_image},
            films=films if kind == "smolvlm" else None,
        )

    return layout


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Two tiles of a picture."""
    tiles = torch.stack([given.pixel_values, given.pixel_values.flip(-1)], dim=1)
    return compare_placed(theirs, ours, given, tiles, 2 * ours.config.tokens_per_image)


FAMILIES = tuple(
    Family(kind, _recognises(kind), plan, _layout(kind), compare, decodes_by_config=True) for kind in _CONFIGS
)
