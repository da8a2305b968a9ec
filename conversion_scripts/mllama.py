"""Llama 3.2 Vision (Grattafiori et al. 2024, arXiv:2407.21783 §7): a ViT over all tiles of a picture, a linear
projector, and a Llama with gated layers that only read pictures.

A token reads the pictures that stand together before it, without the tiles that they lack. One before the first
picture reads all, those tiles too, and only the MLP of such a layer is left out (`cross_attention_unread="mlp"`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import AutoImageProcessor, MllamaConfig

from ..configuration.mm import MMConfig
from ..configuration.vision import MMVisionConfig
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import prefix_of, source_config
from ..weights.key_table import KeyTable, raise_faults
from ..weights.mllama_names import TEXT_FIELDS, UNWRITTEN, VISION, VISION_FIELDS, text_settings, text_table
from .family import Family, Layout, Plan, check_architecture
from .llava import chat_template
from .processor import has_image_processor

_ARCHITECTURE = "MllamaForConditionalGeneration"
_TOKEN = "<|image|>"


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "mllama"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for settings that MM lacks."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config: Any = source_config(checkpoint.config)
    vision, text = config.vision_config, config.text_config
    _check(config)
    names = list(checkpoint)
    made = MMConfig(
        vision_config=VISION_FIELDS.convert(vision),
        text_config=text_settings(text),
        fusion_type="cross_attention",
        projector_type="linear",
        lm_head_transform=False,
        lm_head_bias=False,
        unwritten_tokens=UNWRITTEN,
        tie_word_embeddings=False,
    )
    seen, read = prefix_of(names, "class_embedding"), prefix_of(names, "embed_tokens.weight")
    head = next(name for name in names if name.endswith("lm_head.weight"))
    projector = next(name for name in names if name.endswith("multi_modal_projector.weight"))
    layers = text_table(text.num_hidden_layers, text.cross_attention_layers)
    table = VISION.under(seen, "model.vision_tower.") + layers.under(read, "model.language_model.")
    own = {projector.removesuffix(".weight"): "model.vision_projector", head.removesuffix(".weight"): "lm_head"}
    places = {
        "placeholders": {"image": _TOKEN},
        "tokens_per_item": {"image": made.tokens_per_image},
        "media_reading": "last_run",
        "tiles": _tiles(checkpoint, vision),
    }
    template = chat_template(checkpoint)
    return Plan(
        MMForConditionalGeneration,
        made,
        table + KeyTable(modules=own),
        tokens={_TOKEN: config.image_token_index},
        processor=places | ({} if template is None else {"chat_template": template}),
    )


def _check(config: Any) -> None:
    vision, text = config.vision_config, config.text_config
    known = MMVisionConfig(max_tiles=vision.max_num_tiles, pooler="none").tile_arrangements
    faults = []
    if [tuple(pair) for pair in vision.supported_aspect_ratios] != known:
        faults.append(
            f"supported_aspect_ratios={vision.supported_aspect_ratios}; its processor numbers all of at most "
            f"max_num_tiles={vision.max_num_tiles} tiles, {[list(pair) for pair in known]}"
        )
    if vision.vision_output_dim != (wide := vision.hidden_size * (1 + len(vision.intermediate_layers_indices))):
        faults.append(f"vision_output_dim={vision.vision_output_dim}, but its tower makes {wide} numbers of a token")
    if text.tie_word_embeddings:
        faults.append("tie_word_embeddings=True, but its head has fewer rows than its embeddings")
    if not text.vocab_size <= config.image_token_index < text.vocab_size + UNWRITTEN:
        faults.append(
            f"image_token_index={config.image_token_index} is none of the {UNWRITTEN} rows after vocab_size="
            f"{text.vocab_size}"
        )
    raise_faults("this Llama 3.2 Vision has what MM lacks", faults)


def _tiles(checkpoint: Checkpoint, vision: Any) -> dict[str, int]:
    """The settings of MMProcessor's tiles. Raises ValueError for an image processor of other tiles."""
    tiles = {"size": vision.image_size, "max_tiles": vision.max_num_tiles}
    if has_image_processor(checkpoint.directory):
        images: Any = AutoImageProcessor.from_pretrained(checkpoint.directory)
        own = {"size": images.size.height, "max_tiles": images.max_image_tiles}
        if own != tiles:
            raise ValueError(f"the model reads tiles of {tiles}, and its image processor makes {own}")
    return tiles


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a Llama 3.2 Vision; raises ValueError for another."""
    config, tower, text = model.config, model.config.vision_config, model.config.text_config
    wrong = [] if config.max_tiles else ["its vision tower reads no tiles together (vision_config.max_tiles)"]
    wrong += [] if config.unwritten_tokens == UNWRITTEN else [f"unwritten_tokens={config.unwritten_tokens}, not 8"]
    wrong += [] if config.projector_type == "linear" else [f"projector_type={config.projector_type!r}, not 'linear'"]
    raise_faults("Llama 3.2 Vision wants a ViT of tiles, a linear projector and a Llama", wrong)
    vision = VISION_FIELDS.restore(tower) | {
        "vision_output_dim": tower.token_size,
        "supported_aspect_ratios": [list(pair) for pair in tower.tile_arrangements],
    }
    vocabulary = config.written_tokens
    words = TEXT_FIELDS.restore(text) | {"vocab_size": vocabulary, "tie_word_embeddings": False}
    source = MllamaConfig(vision_config=vision, text_config=words, image_token_index=vocabulary)
    names = ("vision_model.class_embedding", "language_model.model.embed_tokens.weight")
    return Layout(
        source,
        _ARCHITECTURE,
        (*names, "multi_modal_projector.weight", "language_model.lm_head.weight"),
        "MllamaImageProcessor",
        "MllamaProcessor",
    )


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """A picture of two tiles before each text, and in the middle of it another of one tile."""
    config, found = ours.config, {}
    most, size, token = config.max_tiles, config.tokens_per_image, theirs.config.image_token_index
    rows, length = given.input_ids.shape
    first = (min(2, most), 1)
    tiles = given.pixel_values[:, None].repeat(1, first[0] + 1, 1, 1, 1)
    tiles[:, 1:] = tiles[:, 1:].flip(-1)
    pixels = tiles.new_zeros(rows, 2, most, *tiles.shape[2:])
    pixels[:, 0, : first[0]], pixels[:, 1, 0] = tiles[:, : first[0]], tiles[:, -1]
    sees = torch.zeros(rows, length, 2, most, dtype=torch.long)
    for name, start in (("logits", 0), ("logits of pictures inside", length // 3)):
        second = start + max(1, (length - start) // 2)
        ids, mask = given.input_ids.clone(), sees.clone()
        ranges = torch.zeros(rows, length, 2, dtype=torch.long)
        ids[:, start], mask[:, start:second, 0, : first[0]] = token, 1
        ranges[:, start:second] = torch.tensor([0, size])
        if second < length:
            ids[:, second], mask[:, second:, 1, 0] = token, 1
            ranges[:, second:] = torch.tensor([size, 2 * size])
        text = {"input_ids": ids, "attention_mask": given.attention_mask, "use_cache": False}
        grids = torch.tensor([first, (1, 1)]).expand(rows, -1, -1)
        here = ours(**text, pixel_values=tiles, image_grids=grids, context_ranges=ranges).logits
        there = theirs(
            **text,
            pixel_values=pixels,
            aspect_ratio_ids=ours.model.vision_tower.tiles.numbers(grids),
            aspect_ratio_mask=(torch.arange(most) < grids.prod(-1)[..., None]).long(),
            cross_attention_mask=mask,
        ).logits
        real = given.attention_mask.bool()
        found[name] = (here[real], there[real])
    return found


FAMILY = Family("mllama", recognises, plan, layout, compare, decodes_by_config=True)
