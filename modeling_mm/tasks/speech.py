"""MMForSpeechSeq2Seq: a Whisper that writes what was said, with Whisper's own arguments of generate()."""

from typing import Any

import torch
from transformers import WhisperConfig

from ...configuration.mm import MMConfig
from .generation import MMForConditionalGeneration
from .head import check_task
from .trainers import calling_trainer, check_no_labels, register_shifted

# A call with one of these continues rows of ids, as in every other model that writes.
_ROWS = ("input_ids", "inputs_embeds", "past_key_values", "context_index")

_RULES = (
    "language", "task", "prompt_ids", "return_timestamps", "return_segments", "return_token_timestamps",
    "condition_on_prev_tokens", "no_speech_threshold", "logprob_threshold", "compression_ratio_threshold",
)  # fmt: skip


class MMForSpeechSeq2Seq(MMForConditionalGeneration):
    """MMForConditionalGeneration with Whisper's encoder as its only tower: what `mm convert` makes of a Whisper."""

    def __init__(self, config: MMConfig):
        check_task(self, speech_faults(config))
        super().__init__(config)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, *args, **kwargs):
        """Transcribes or translates sounds as `WhisperForConditionalGeneration.generate` does, with its arguments:
        language, task, prompt_ids, return_timestamps, return_token_timestamps, temperature fallback, sounds of any
        length and so on. The rules are Transformers' own; each window of a sound is encoded once, and its beams share
        its keys and values.

        Args:
            inputs (or input_features): float (B, bands, frames) as the feature extractor makes them, longer than the
                encoder's window for long sounds; or (B, 1, bands, frames) as MMProcessor does.
            attention_mask: (B, frames), 1 where a sound is real; needed for several long sounds.
            input_ids (and other rows of ids): they are continued as in MMForConditionalGeneration, without Whisper's
                rules. So does Seq2SeqTrainer(predict_with_generate=True) with the prompts of its batches.

        Returns: ids (B, T) without the prompt, or a dict with "sequences" and with "segments" or "token_timestamps"
            where they are asked for. With return_dict_in_generate Transformers' output, without past_key_values and
            the encoder's states.
        Raises: ValueError for features of another shape, and for what MM does not do: assistant_model.
        """
        ids = kwargs.get("input_ids")
        if ids is not None and torch.is_tensor(ids) and ids.is_floating_point():  # pipelines give sounds by this name
            inputs = kwargs.pop("input_ids")
        is_sound = torch.is_tensor(inputs) and inputs.is_floating_point()
        goes_on = inputs is not None and not is_sound
        goes_on = goes_on or any(kwargs.get(name) is not None for name in _ROWS)
        if goes_on:
            _check_rows(kwargs)
        if goes_on or calling_trainer("prediction_step") is not None:
            return super().generate(inputs, generation_config, *args, **kwargs)
        check_no_labels(kwargs)
        if is_sound and kwargs.get("input_features") is not None:
            raise ValueError("sounds were given twice, as the first argument and as input_features")
        sounds = inputs if is_sound else kwargs.pop("input_features", None)
        from .whisper_rules import WhisperRules  # Transformers' Whisper is imported by those who transcribe

        return WhisperRules(self).write(sounds, generation_config, *args, **kwargs)

    @torch.no_grad()
    def detect_language(self, input_features: torch.Tensor) -> list[str]:
        """The token of the language, such as "<|en|>", of each sound's first window.

        Raises: ValueError for a model of one language, whose generation_config has no lang_to_id.
        """
        from .whisper_rules import WhisperRules

        known = getattr(self.generation_config, "lang_to_id", None)
        if not known:
            raise ValueError("generation_config.lang_to_id is missing: this model has one language")
        names = {number: name for name, number in known.items()}
        return [names[number] for number in WhisperRules(self).languages(input_features).tolist()]

    def write_rows(self, *args, **kwargs) -> Any:
        """generate() of given rows, for `WhisperRules`."""
        return super().generate(*args, **kwargs)


def _check_rows(given: dict[str, Any]) -> None:
    """Raises ValueError for Whisper's arguments beside rows of ids, and for several clips of a sample."""
    if others := [name for name in _RULES if given.get(name) is not None]:
        raise ValueError(
            f"{', '.join(others)} are of Whisper's rules, and input_ids (or another of {', '.join(_ROWS)}) are "
            "continued without them; leave one of the two out"
        )
    sounds = given.get("input_features")
    if torch.is_tensor(sounds) and sounds.ndim == 4 and sounds.shape[1] > 1:
        raise ValueError(
            f"input_features holds {sounds.shape[1]} clips of each sample, and a Whisper reads one; give a long sound "
            "whole, without input_ids, as the feature extractor makes it with truncation=False"
        )


def speech_faults(config: MMConfig) -> list[str]:
    """What makes a configuration no Whisper."""
    audio = type(config.audio_config).__name__
    if not isinstance(config.audio_config, WhisperConfig) or config.modalities != ["audio"]:
        return [f"it needs Whisper's encoder as its only tower; got {audio} and modalities={config.modalities}"]
    if config.has_text_encoder or config.fusion_type != "cross_attention":
        return [f"its decoder reads the sound by cross-attention; got fusion_type={config.fusion_type!r}"]
    return []


register_shifted(MMForSpeechSeq2Seq)
