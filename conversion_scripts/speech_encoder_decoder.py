"""SpeechEncoderDecoderModel: Wav2Vec2, HuBERT, WavLM and their kind with a decoder of GPT-2, BERT, RoBERTa, TrOCR or
mBART. The encoder stays Transformers' own class, an audio tower; see `paired_decoder` for the rest."""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import SpeechEncoderDecoderConfig

from ..configuration.mm import MMConfig
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from .family import Family, Layout, Plan
from .kept_towers import kept_tower
from .paired_decoder import check_decoder, compute_positions, decoder_plan, pair_settings, projection

_ARCHITECTURE = "SpeechEncoderDecoderModel"
_ENCODERS = (
    "data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert",
    "wav2vec2-conformer", "wavlm",
)  # fmt: skip


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "speech-encoder-decoder"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another encoder or decoder, and for settings that MM lacks."""
    config = source_config(checkpoint.config)
    encoder = config.encoder
    if encoder.model_type not in _ENCODERS:
        raise ValueError(
            f"model_type={encoder.model_type!r} inside {_ARCHITECTURE} is no encoder of sounds that is known; known "
            f"are {', '.join(_ENCODERS)}"
        )
    check_decoder(config, _ARCHITECTURE)
    text = decoder_plan(config, checkpoint)
    width = getattr(encoder, "output_hidden_size", encoder.hidden_size)
    projector, between = projection(text, config, width, "model.audio_projector")
    table = kept_tower(encoder).under("encoder.", "model.audio_tower.") + text.table + between
    made = MMConfig(
        modalities=["audio"], audio_config=encoder.to_dict(), text_config=text.settings, projector_type=projector,
        **text.head_settings,
    )  # fmt: skip
    return Plan(MMForSpeechSeq2Seq, made, table, hears=True, notes=text.notes)


def layout(model: Any) -> Layout:
    """The layout of an MM model built as one of these pairs; raises ValueError for another."""
    audio = model.config.audio_config
    if model.config.modalities != ["audio"] or audio.model_type not in _ENCODERS:
        raise ValueError(f"{_ARCHITECTURE} needs one of {', '.join(_ENCODERS)} as the only tower")
    settings, _, names = pair_settings("speech-encoder-decoder", audio.to_dict(), model.config)
    processor = "Wav2Vec2BertProcessor" if audio.model_type == "wav2vec2-bert" else "Wav2Vec2Processor"
    return Layout(SpeechEncoderDecoderConfig.from_dict(settings), _ARCHITECTURE, tuple(names), "", processor)


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    compute_positions(theirs)
    sounds, ids, mask = given.input_features, given.input_ids, given.attention_mask
    written = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    there = theirs(sounds[:, 0], **written, use_cache=False).logits[
        mask.bool()
    ]  # BART's cache counts another's layers
    return {"logits": (ours(ids, mask, input_features=sounds).logits[mask.bool()], there)}


FAMILY = Family("speech-encoder-decoder", recognises, plan, layout, compare, decodes_by_config=True)
