"""Models that start from published towers: `from_towers(vision, text)` of any head.

A tower is read with its config and its tensors, strictly: tensors that the stack has and the source lacks are new for
a reason (cross-attention, a projector), or an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.checks.fields import MODALITIES
from ...configuration.mm import MMConfig
from ...configuration.special_ids import text_ids
from ...weights.checkpoint import Checkpoint
from ...weights.config_table import TowerPlan, source_config
from ...weights.flamingo import FlamingoWeights, Overlaid, inserted, with_rows
from ...weights.key_table import KeyTable, raise_faults
from ...weights.text_plans import text_plan_of
from ...weights.tower_files import file_plan, is_tower_file
from ...weights.vision_names import VISION_PLANS, WITH_VISION
from ..core.loading import filled
from ..towers.any_tower import build_tower

Source = str | Path
# The tensors that are new in a warm start, and why.
_NEW = {
    "layers.{n}.cross_attn.{rest}": "published text towers have no cross-attention",
    "layers.{n}.cross_attn_norm.{leaf}": "published text towers have no cross-attention",
    "layers.{n}.cross_attn_gate": "closed at the start",
    "layers.{n}.mlp_gate": "closed at the start",
    "pooler.{rest}": "the source has no pooler",
}
_NEW_IN_VISION = {
    "pooler.{rest}": _NEW["pooler.{rest}"],
    "mask_token": "the source has no mask token",
}
_NEW_HEAD = {
    "lm_head_transform.{rest}": "the source has no such head",
    "lm_head.{leaf}": "the source has no such head",
}
_NEW_BETWEEN = {
    f"model.{part}.{{rest}}": "between the towers"
    for part in (
        "vision_projector", "vision_resampler", "fusion", "image_slots", "frame_slots", "frame_layers", "clip_slots",
        "modality_embedding", "audio_projector", "audio_resampler",
    )
}  # fmt: skip


def text_tower(source: Source) -> tuple[Checkpoint, TowerPlan]:
    """A text tower's tensors and plan. Raises ValueError for a kind that is not known."""
    checkpoint = Checkpoint(source)
    plan = text_plan_of(checkpoint.config.get("model_type"), checkpoint.config, checkpoint)
    return checkpoint, plan(source_config(checkpoint.config), checkpoint)


def vision_tower(source: Source, given: Mapping[str, Any] | None = None) -> tuple[Checkpoint, TowerPlan] | None:
    """A vision tower's tensors and plan as MM's ViT, or what a file of torchvision or timm holds; None for another
    kind, which stays Transformers' own class.

    Args:
        given: settings of the tower that such a file does not hold.
    """
    checkpoint = Checkpoint(source)
    if is_tower_file(checkpoint):
        return checkpoint, file_plan(checkpoint, given)
    config = source_config(checkpoint.config)
    if config.model_type in WITH_VISION:
        config = config.vision_config
    if config.model_type not in VISION_PLANS:
        return None
    return checkpoint, VISION_PLANS[config.model_type](config, checkpoint)


def foreign_tower(source: Source, kind: str) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """Any vision or audio model of Transformers, of an encoder-decoder the encoder, and of an MM checkpoint its tower
    of that kind: its config and its tensors.

    Raises: ValueError for a checkpoint without a tensor that the tower's states depend on, and for an MM without such
        a tower.
    """
    model, info = AutoModel.from_pretrained(source, output_loading_info=True)
    config = model.config
    if isinstance(config, MMConfig):
        tower, config = getattr(model, f"{kind}_tower", None), getattr(config, f"{kind}_config")
        if tower is None:
            raise ValueError(f"{source} is an MM without a tower for {kind}")
    else:
        tower = model.get_encoder() if config.is_encoder_decoder else model
    within = next((f"{name}." for name, part in model.named_modules() if part is tower and name), "")
    with torch.device("meta"):
        read = {name for name, weight in build_tower(config).named_parameters() if weight.requires_grad}
    missing = {name.removeprefix(within) for name in info["missing_keys"] if name.startswith(within)}
    raise_faults(f"{source} does not hold all of its {type(tower).__name__}", sorted(missing & read))
    return config, tower.state_dict()


def with_placeholders(plan: TowerPlan, ids: Iterable[Any]) -> TowerPlan:
    """A text's plan with a vocabulary that holds these ids, which stand for media; nothing reads the new rows."""
    largest = max([one for one in ids if isinstance(one, int)], default=-1)
    return plan if largest < plan.settings["vocab_size"] else with_rows(plan, largest + 1)


def from_towers(
    model_class: Any,
    vision: Source | None,
    text: Source,
    *,
    audio: Source | None = None,
    text_encoder: Source | None = None,
    cross_attention_every: int | None = None,
    flamingo: Source | None = None,
    tokenizer: Any = None,
    **overrides: Any,
) -> Any:
    """See `MMHead.from_towers`."""
    seen = None if vision is None else vision_tower(vision, overrides.get("vision_config"))
    words = text_tower(text)
    foreign = {} if seen is not None or vision is None else {"vision": foreign_tower(vision, "vision")}
    foreign |= {} if audio is None else {"audio": foreign_tower(audio, "audio")}
    words[1].settings.update(_ids(words, tokenizer, overrides.get("text_config") or {}))
    ids = (MMConfig.flat(overrides).get(f"{kind}_token_id") for kind in MODALITIES)
    words = (words[0], with_placeholders(words[1], ids))
    question = None if text_encoder is None else text_tower(text_encoder)
    weights = None if flamingo is None else FlamingoWeights(Checkpoint(flamingo))
    if weights is not None and (seen is None or cross_attention_every is not None):
        raise ValueError("flamingo is for a ViT, and its file says where its layers are; leave the other out")
    every = cross_attention_every if weights is None else weights.every
    words = words if every is None else (words[0], inserted(words[1], every, weights))
    if weights is not None and seen is not None:
        words = (Overlaid(words[0], weights.checkpoint), words[1])
        overrides = {**weights.settings(seen[1].settings), **overrides}
    writes = {"is_causal": True} if model_class.can_generate() else {}
    config = _config(None if seen is None else seen[1], foreign, words[1], question, writes, overrides)
    parts = [(words[0], words[1].table.adding(new=_NEW), "model.language_model.")]
    if question is not None:
        parts.append((question[0], question[1].table.adding(new=_NEW), "model.text_encoder."))
    if seen is not None:
        parts.append((seen[0], seen[1].table.adding(new=_NEW_IN_VISION), "model.vision_tower."))
    with torch.device("meta"):
        wanted = model_class(config)
    shapes = {n: v.shape for n, v in wanted.state_dict().items() if n not in wanted.all_tied_weights_keys}
    tensors, new = _heads(words, config, shapes)
    for kind, (_, values) in foreign.items():
        tensors |= {f"model.{kind}_tower.{name}": value for name, value in values.items()}
    for checkpoint, table, prefix in parts:
        inside = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        if not any(name.startswith(f"{prefix}pooler.") for name in inside):
            table = _without_pooler(table)
        done = table.under("", prefix).adding(dropped=_unread_heads(checkpoint, table)).convert(checkpoint, inside)
        tensors |= done.tensors
        new |= done.new
    if weights is not None:
        tensors |= weights.tensors(config.text_config.cross_attention_layers, shapes)
    new |= {name: "the task's own" for name in shapes if not name.startswith(("model.", "lm_head"))}
    new |= {name: "between the towers" for name in shapes if any(_is(name, t) for t in _NEW_BETWEEN)}
    return filled(model_class, config, tensors, new.keys() - tensors.keys(), words[0].dtype())


def _ids(words: tuple[Checkpoint, TowerPlan], tokenizer: Any, given: Mapping[str, Any]) -> dict[str, int]:
    """The ids of a text's ends and padding by `tokenizer`; without one, those that neither its config nor the caller
    names (BERT's bos and eos) by the tokenizer saved with it."""
    checkpoint, plan = words
    if tokenizer is not None:
        return {name: value for name, value in text_ids(tokenizer).items() if value is not None}
    missing = [name for name in ("bos_token_id", "eos_token_id") if {**plan.settings, **given}.get(name) is None]
    files = map(checkpoint.sibling, ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    beside = next((file for file in files if file is not None), None)
    if not missing or beside is None:
        return {}
    found = text_ids(AutoTokenizer.from_pretrained(beside.parent))
    return {name: value for name, value in found.items() if name in missing and value is not None}


def flamingo_config(seen: TowerPlan, words: TowerPlan, weights: FlamingoWeights) -> MMConfig:
    """What `from_towers(vision, text, flamingo=...)` makes of these towers' plans."""
    return _config(
        seen, {}, inserted(words, weights.every, weights), None, {"is_causal": True}, weights.settings(seen.settings)
    )


def _is(name: str, template: str) -> bool:
    return name.startswith(template.removesuffix("{rest}"))


def _config(
    seen: TowerPlan | None,
    foreign: dict[str, Any],
    words: TowerPlan,
    question,
    writes: dict[str, bool],
    overrides: dict[str, Any],
) -> MMConfig:
    """The towers' settings and the text's head; overrides replace fields, dicts of parts are merged."""
    towers = {f"{kind}_config": config.to_dict() for kind, (config, _) in foreign.items()}
    towers |= {} if seen is None else {"vision_config": seen.settings}
    if not towers:
        raise ValueError("no tower for media was given: pass vision, audio, or both")
    settings: dict[str, Any] = {
        **towers,
        "modalities": [kind for kind, part in (("image", "vision"), ("audio", "audio")) if f"{part}_config" in towers],
        "text_config": {**words.settings, **writes},
        **words.head_settings,
    }
    if question is not None:
        settings["text_encoder_config"] = {**question[1].settings, "is_causal": False}
        settings["text_config"]["cross_attention_hidden_size"] = question[1].settings["hidden_size"]
    for name, value in MMConfig.flat(overrides).items():
        merged = isinstance(value, Mapping) and isinstance(settings.get(name), dict)
        settings[name] = {**settings[name], **value} if merged else value
    text = settings["text_config"]
    ends = {"eos_token_id": ("sep", 102), **({"bos_token_id": ("cls", 101)} if words.opens else {})}
    missing = [
        f"text_config.{name} (BERT's {token} is {i})" for name, (token, i) in ends.items() if text[name] is None
    ]
    raise_faults("the text's config does not say what a text opens and closes with; pass it", missing)
    return MMConfig(**settings)


def _heads(words: tuple[Mapping[str, torch.Tensor], TowerPlan], config: MMConfig, shapes: Mapping[str, torch.Size]):
    """The language-modelling head, as far as the source has one of the model's kind; new otherwise."""
    checkpoint, plan = words
    inside = {name: shape for name, shape in shapes.items() if name.startswith(("lm_head.", "lm_head_transform."))}
    if not inside:  # a head without a vocabulary
        return {}, {}
    same = all(getattr(config, name) == value for name, value in plan.head_settings.items())
    names = [name for name in checkpoint if plan.head.knows(name)] if same else []
    done = plan.head.adding(new=_NEW_HEAD).convert({name: checkpoint[name] for name in names}, inside)
    return done.tensors, done.new


def _without_pooler(table: KeyTable) -> KeyTable:
    """Of a model that pools otherwise: the source's pooler is dropped."""
    dense = {old: new for old, new in table.modules.items() if new == "pooler.dense"}
    kept = {old: new for old, new in table.modules.items() if old not in dense}
    dropped = {f"{old}.{{leaf}}": "another pooler was asked for" for old in dense}
    return replace(table, modules=kept).adding(dropped=dropped)


def _unread_heads(checkpoint: Mapping[str, torch.Tensor], table: KeyTable) -> dict[str, str]:
    """Tensors of the source that are not its tower: heads of other tasks."""
    heads = re.compile(
        r"(cls|head|lm_head|vocab_\w+|qa_outputs|classifier|classification_head|score|pre_classifier|decoder|output_projection|embed_out"
        r"|discriminator_predictions|generator_predictions|generator_lm_head|logits_proj|sequence_summary)\b"
    )
    return {name: "a head" for name in checkpoint if heads.match(name) and not table.knows(name)}
