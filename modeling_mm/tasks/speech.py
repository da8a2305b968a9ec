"""MMForSpeechSeq2Seq: writes what was said. A Whisper takes Whisper's own arguments of generate()."""

from typing import Any

import torch
from transformers import WhisperConfig

from ...configuration.mm import MMConfig
from ...configuration.tower_kinds import heard_shape
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
    """MMForConditionalGeneration with one audio tower: what `mm convert` makes of a Whisper, Moonshine, Speech2Text or
    SpeechEncoderDecoder."""

    def __init__(self, config: MMConfig):
        check_task(self, speech_faults(config))
        super().__init__(config)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, *args, **kwargs):
        """Transcribes or translates sounds as `WhisperForConditionalGeneration.generate` does, with its arguments:
        language, task, prompt_ids, return_timestamps, return_token_timestamps, temperature fallback, sounds of any
        length and so on. The rules are Transformers' own; each window of a sound is encoded once, and its beams share
        its keys and values. With another tower than Whisper's there are no such rules: a sound is written whole.

        Args:
            inputs (or input_features): float (B, bands, frames) as the feature extractor makes them, longer than the
                encoder's window for long sounds; or (B, 1, bands, frames) as MMProcessor does. Of other towers as
                theirs makes them: (B, samples) or (B, frames, bands).
            attention_mask: (B, frames), 1 where a sound is real; needed for several long sounds. Of other towers
                (B, samples) or (B, frames), needed where sounds are padded.
            input_ids (and other rows of ids): they are continued as in MMForConditionalGeneration, without Whisper's
                rules. So does Seq2SeqTrainer(predict_with_generate=True) with the prompts of its batches.

        Returns: ids (B, T) without the prompt, or a dict with "sequences" and with "segments" or "token_timestamps"
            where they are asked for. With return_dict_in_generate Transformers' output, without past_key_values and
            the encoder's states. Of other towers than Whisper's: as MMForConditionalGeneration, ids from bos on.
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
        if not self.has_rules:
            return super().generate(None, generation_config, *args, **self._heard(sounds, kwargs))
        from .whisper_rules import WhisperRules  # Transformers' Whisper is imported by those who transcribe

        return WhisperRules(self).write(sounds, generation_config, *args, **kwargs)

    def _heard(self, sounds: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of generate() for sounds of a tower without rules, with their mask under its name."""
        check_no_rules(given, f"{type(self.config.audio_config).__name__} is heard without them")
        mask, of_sounds = given.pop("attention_mask", None), given.pop("input_features_mask", None)
        if mask is not None and of_sounds is not None:
            raise ValueError("the mask of the sounds was given twice, as attention_mask and as input_features_mask")
        mask = of_sounds if mask is None else mask
        tower = self.model.audio_tower
        one = 1 + len(heard_shape(tower.config) or "T")  # dimensions of (B, ...)
        if torch.is_tensor(sounds) and sounds.ndim == one:
            sounds = sounds[:, None]
        if torch.is_tensor(mask) and mask.ndim == 2:
            mask = mask[:, None]
        heard = {"input_features": sounds, "input_features_mask": mask}
        given = {name: value for name, value in given.items() if name not in _RULES}  # those that ask for nothing
        return {**given, **{name: value for name, value in heard.items() if value is not None}}

    @property
    def has_rules(self) -> bool:
        """Whether its tower is Whisper's: languages, times and windows of long sounds are written by rules."""
        return isinstance(self.config.audio_config, WhisperConfig)

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


def check_no_rules(given: dict[str, Any], why: str) -> None:
    """Raises ValueError for Whisper's arguments."""
    if others := [name for name in _RULES if given.get(name) is not None and given[name] is not False]:
        raise ValueError(f"{', '.join(others)} are of Whisper's rules, and {why}")


def _check_rows(given: dict[str, Any]) -> None:
    """Raises ValueError for Whisper's arguments together with rows of ids, and for several clips of a sample."""
    rows = f"input_ids (or another of {', '.join(_ROWS)}) are continued without them; leave one of the two out"
    check_no_rules(given, rows)
    sounds = given.get("input_features")
    if torch.is_tensor(sounds) and sounds.ndim == 4 and sounds.shape[1] > 1:
        raise ValueError(
            f"input_features holds {sounds.shape[1]} clips of each sample, and a Whisper reads one; give a long sound "
            "whole, without input_ids, as the feature extractor makes it with truncation=False"
        )


def speech_faults(config: MMConfig) -> list[str]:
    """What makes a configuration none that writes what it hears."""
    if config.audio_config is None or config.modalities != ["audio"]:
        return [f"it needs an audio tower and no other; got modalities={config.modalities}"]
    if config.has_text_encoder or config.fusion_type != "cross_attention":
        return [f"its decoder reads the sound by cross-attention; got fusion_type={config.fusion_type!r}"]
    return []


register_shifted(MMForSpeechSeq2Seq)
