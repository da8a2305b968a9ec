"""Whisper: WhisperForConditionalGeneration of every size, with English or many languages.

The encoder is kept as Transformers' own class, an audio tower without a projector; the decoder is MM's. A text starts
from `decoder_start_token_id` (<|startoftranscript|>), which is MM's bos.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import WhisperConfig

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.config_table import prefix_of, source_config, untrained
from ..weights.key_table import KeyTable, raise_faults
from ..weights.text_names import BUFFER
from ..weights.whisper_names import HEARING, NO_DECODER, whisper_plan, whisper_settings
from .family import Family, Layout, Plan

_ARCHITECTURE = "WhisperForConditionalGeneration"
_ITSELF = KeyTable(modules={"{rest}": "{rest}"}, dropped={"embed_positions._float_tensor": BUFFER})
# Of both stacks, under MM's names and Whisper's: one number there.
_SHARED = {
    "hidden_size": "d_model", "hidden_act": "activation_function", "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
}  # fmt: skip


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "whisper"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for a Whisper that does not write, or that has no encoder."""
    config = source_config(checkpoint.config)
    _check_whole(config, checkpoint)
    text = whisper_plan(config, checkpoint)
    before = prefix_of(checkpoint, "decoder.embed_tokens.weight")
    decoding = read_json(checkpoint.directory, "generation_config.json") or {}
    start, eos, pad = (
        _id(name, decoding, config) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    )
    table = _ITSELF.under(f"{before}encoder.", "model.audio_tower.") + text.table.under("", "model.language_model.")
    made = MMConfig(
        modalities=["audio"],
        audio_config={"model_type": "whisper", **_of_the_encoder(config)},
        text_config={**text.settings, "bos_token_id": start, "eos_token_id": eos, "pad_token_id": pad},
        projector_type="none",
        **text.head_settings,
    )
    generation = {"decoder_start_token_id": start}
    prompt = checkpoint.config.get("forced_decoder_ids")
    if prompt is not None and "forced_decoder_ids" not in decoding:
        generation["forced_decoder_ids"] = prompt
    return Plan(MMForSpeechSeq2Seq, made, table + text.head, generation=generation, hears=True, notes=_notes(config))


def _check_whole(config: Any, names: Iterable[str]) -> None:
    """Raises ValueError where a part of a Whisper is missing, or its head is one of classes."""
    names = set(names)
    if any(name.startswith(("classifier.", "projector.")) for name in names):
        raise ValueError("this Whisper is an audio classifier, whose head MM lacks; use from_towers(..., audio=...)")
    for part in ("encoder.conv1.weight", "decoder.embed_tokens.weight"):
        if not any(name.endswith(part) for name in names):
            raise ValueError(f"no tensor is named ...{part}: only a whole Whisper, encoder and decoder, is converted")
    if not config.tie_word_embeddings and "proj_out.weight" not in names:
        raise ValueError("tie_word_embeddings=False, but the file has no proj_out.weight: a Whisper without its head")


def _id(name: str, decoding: Mapping[str, Any], config: Any) -> Any:
    """As generate() reads it: generation_config.json first."""
    return getattr(config, name) if decoding.get(name) is None else decoding[name]


def _of_the_encoder(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in HEARING} | NO_DECODER


def _notes(config: Any) -> tuple[str, ...]:
    """What of the source's training MM does otherwise."""
    notes = [*untrained(config)]
    if config.apply_spec_augment:
        notes.append(
            "apply_spec_augment=True: MM hides parts of sounds by MMDataCollator(augment=...), not in the model"
        )
    return tuple(notes)


# ---- back ----------------------------------------------------------------------------------------------------------


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a Whisper; raises ValueError for another."""
    config: MMConfig = model.config
    audio, text = config.audio_config, config.text_config
    if not isinstance(audio, WhisperConfig) or config.modalities != ["audio"]:
        raise ValueError(f"a Whisper has the audio tower of one and no other media; this has {config.modalities}")
    apart = [
        f"{theirs} is {getattr(audio, theirs)!r} in the encoder and {getattr(text, ours)!r} in the decoder"
        for ours, theirs in _SHARED.items()
        if getattr(audio, theirs) != getattr(text, ours)
    ]
    raise_faults("a Whisper has one setting for both stacks", apart)
    settings = {name: getattr(audio, name) for name in HEARING} | whisper_settings(text)
    settings |= {"decoder_start_token_id": text.bos_token_id, "bos_token_id": text.eos_token_id}
    settings |= {"tie_word_embeddings": config.tie_word_embeddings, "begin_suppress_tokens": None}
    names = ("model.encoder.conv1.weight", "model.decoder.embed_tokens.weight", "proj_out.weight")
    return Layout(WhisperConfig(**settings), _ARCHITECTURE, names, "", "WhisperProcessor")


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    sounds, ids, mask = given.input_features, given.input_ids, given.attention_mask
    there = theirs(sounds[:, 0], decoder_input_ids=ids, decoder_attention_mask=mask).logits[mask.bool()]
    states = theirs.model.encoder(sounds[:, 0]).last_hidden_state
    heard = ours.model.encode_context(input_features=sounds).last_hidden_state
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {"encoder states": (heard, states)}
    return found | {"logits": (ours(ids, mask, input_features=sounds).logits[mask.bool()], there)}


FAMILY = Family("whisper", recognises, plan, layout, compare, decodes_by_config=True)
