"""CLAP (Wu et al. 2023, arXiv:2211.06687): a sound and a text, each as one vector, compared.

The sound's tower (HTSAT) stays Transformers' own class; the text is a RoBERTa with its pooler. Each side is projected
by two layers, and sounds with texts have another scale than texts with sounds.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import ClapAudioConfig

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.towers.foreign_towers import is_longer
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import Fields, prefix_of, source_config
from ..weights.key_table import KeyTable, change
from ..weights.reshapes import skip_rows
from ..weights.text_names import BERT, BERT_FIELDS, unread_positions
from .clip import COMPARED
from .family import Family, Layout, Plan, check_architecture
from .kept_towers import kept_tower

_ARCHITECTURE = "ClapModel"
_TEXT_FIELDS = Fields(
    names=BERT_FIELDS.names,
    ours={
        **BERT_FIELDS.ours, "is_causal": False, "pooler": "cls_tanh", "source_model_type": "clap_text_model",
    },
)  # fmt: skip
_BUFFERS = {name: "a buffer that its class saves, made anew here" for name in BERT.dropped}
_HEADS = KeyTable(
    modules={
        f"{side}_projection.linear{number}": f"itc_head.{side}.{layer}"
        for side in ("audio", "text")
        for number, layer in ((1, "first"), (2, "second"))
    },
    tensors={"logit_scale_a": "itc_head.logit_scale", "logit_scale_t": "itc_head.text_logit_scale"},
)


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "clap"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    config = source_config(checkpoint.config)
    check_architecture(checkpoint, _ARCHITECTURE)
    words = config.text_config
    offset = unread_positions(words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    text = _TEXT_FIELDS.convert(words)
    text["max_position_embeddings"] -= offset
    made = MMConfig(
        modalities=["audio"],
        audio_config=config.audio_config.to_dict(),
        text_config=text,
        projection_dim=config.projection_dim,
        projection_bias=True,
        projection_hidden_sizes={side: config.projection_dim for side in ("audio", "text")},
        projection_act=config.projection_hidden_act,
        text_logit_scale=True,
        **COMPARED,
    )
    read = prefix_of(checkpoint, "embeddings.word_embeddings.weight")
    positions = change("embed_positions", by=skip_rows(offset))
    reader = KeyTable(modules={**BERT.modules, "embeddings.position_embeddings": positions}, kept=_BUFFERS)
    table = (
        kept_tower(config.audio_config).under("audio_model.", "model.audio_tower.")
        + reader.under(read, "model.language_model.")
        + _HEADS
    )
    return Plan(
        MMForImageTextRetrieval, made, table, processor={"add_eos_token": True}, hears=True, notes=_notes(config)
    )


def _notes(config: Any) -> tuple[str, ...]:
    if not config.audio_config.enable_fusion:
        return ()
    return ("enable_fusion=True: a longer sound is cut into clips here, so the fusion of random parts is not needed",)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a CLAP; raises ValueError for another."""
    config, tower, text = model.config, model.config.audio_config, model.config.text_config
    if not isinstance(tower, ClapAudioConfig) or config.modalities != ["audio"]:
        raise ValueError(f"CLAP has its own audio tower and no other media; this has {config.modalities}")
    words = _TEXT_FIELDS.restore(text)
    words["max_position_embeddings"] = text.max_position_embeddings + unread_positions(text.pad_token_id)
    settings = {
        "model_type": "clap",
        "audio_config": tower.to_dict(),
        "text_config": words,
        "projection_dim": config.projection_dim,
        "projection_hidden_act": config.projection_act,
    }
    names = ("text_model.embeddings.word_embeddings.weight",)
    return Layout(source_config(settings), _ARCHITECTURE, names, "", "ClapProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    sounds, ids, mask = given.input_features, given.input_ids, given.attention_mask
    there = theirs(ids, sounds[:, 0], is_longer(sounds[:, 0]), mask)
    here = ours(ids, mask, input_features=sounds)
    pairs = {"logits_per_audio": "logits_per_image", "logits_per_text": "logits_per_text"}
    pairs |= {"audio_embeds": "image_embeds", "text_embeds": "text_embeds"}
    return {name: (here[own], there[name]) for name, own in pairs.items()}


FAMILY = Family("clap", recognises, plan, layout, compare)
