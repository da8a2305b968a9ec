"""Whisper's rules of generate() over an MM model: prompts, languages, timestamps, long sounds, fallback.

    features (B, bands, frames) ── WhisperGenerationMixin ── one window and its prompts ── MM's generate()
              ▲                                                                                  │
              └────────────────── seek by timestamps, or the next temperature ◄──────────────────┘

The rules are Transformers' class, which asks a Whisper for some of its parts; `WhisperRules` answers for MM. B sounds.
"""

# Pyright cannot know what Transformers' mixin asks of its class.

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.generation.utils import (
    GenerateBeamEncoderDecoderOutput,
    GenerateEncoderDecoderOutput,
    GenerationMixin,
)
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

# MM's names of what a step gives -> those of an encoder-decoder.
_STEPS = {
    "sequences": "sequences", "sequences_scores": "sequences_scores", "scores": "scores", "logits": "logits",
    "beam_indices": "beam_indices", "attentions": "decoder_attentions", "hidden_states": "decoder_hidden_states",
    "cross_attentions": "cross_attentions",
}  # fmt: skip
_NOT_DONE = {
    "assistant_model": "assisted decoding",
    "past_key_values": "a cache of one's own",
    "encoder_outputs": "generation from states of the encoder",
    "decoder_inputs_embeds": "prompts as embeddings",
}


@contextmanager
def _without_own_warning() -> Iterator[None]:
    """The rules give generate() a configuration and lists of suppressed tokens at once, and prompts of equal length
    without a mask, and published settings hold a max_length beside the user's max_new_tokens. Transformers warns of
    each in every window, although they are not the user's doing."""
    told = (
        "Passing `generation_config` together",
        "The attention mask is not set with a batched input",
        "Both `max_new_tokens`",
    )

    def others(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in told)

    logger = logging.getLogger("transformers.generation.utils")
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


class OneWindow(GenerationMixin):
    """What Transformers' mixin calls for a window: MM's generate() and forward under an encoder-decoder's names."""

    def __init__(self, speech: Any):
        config = speech.config
        self.speech, self.device = speech, speech.device
        self.generation_config = speech.generation_config
        self.config: Any = SimpleNamespace(
            max_source_positions=config.audio_config.max_source_positions,
            median_filter_width=config.audio_config.median_filter_width,
            max_target_positions=config.text_config.max_position_embeddings,
            decoder_layers=config.text_config.num_hidden_layers,
            vocab_size=config.text_config.vocab_size,
        )
        # The mixin sets an attention implementation for good; MM takes the one that gives weights when it needs it.
        self.model = SimpleNamespace(encoder=speech.model.audio_tower, config=SimpleNamespace())
        speech.ends_checked.add("beginnings")  # a row begins with the text before it, where there is some
        self.frames = 2 * config.audio_config.max_source_positions
        self.heard: tuple[torch.Tensor, Any] | None = None

    def _prepare_generation_config(self, generation_config, **kwargs):
        return self.speech._prepare_generation_config(generation_config, **kwargs)

    def context_of(self, sounds: torch.Tensor) -> Any:
        """A window as the decoder reads it. Detection of the language, of silence and each temperature read the same
        one: it is encoded once. A short sound is filled up with zeros, as Transformers fills its windows."""
        missing = self.frames - sounds.shape[-1]
        sounds = nn.functional.pad(sounds, (0, missing)) if missing > 0 else sounds
        if self.heard is None or self.heard[0].shape != sounds.shape or not torch.equal(self.heard[0], sounds):
            self.heard = (sounds, self.speech.model.encode_context(input_features=sounds[:, None]))
        return self.heard[1]

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]: called by name
        self, inputs, *, decoder_input_ids, attention_mask=None, decoder_attention_mask=None, **kwargs
    ) -> Any:
        """MM's, of one window and its prompts; attention_mask is of the sound, where all of a window is heard."""
        context = self.context_of(inputs)
        rows = {"input_ids": decoder_input_ids, "attention_mask": decoder_attention_mask}
        with _without_own_warning():
            written = self.speech.write_rows(encoder_outputs=context, **rows, **kwargs)
        if torch.is_tensor(written):
            return written
        cls = GenerateBeamEncoderDecoderOutput if "beam_indices" in written else GenerateEncoderDecoderOutput
        return cls(**{theirs: written[ours] for ours, theirs in _STEPS.items() if ours in written})

    def forward(self, input_features, decoder_input_ids=None, decoder_attention_mask=None, **kwargs) -> Any:
        """Logits of prompts: for the language, and for silence."""
        context = self.context_of(input_features)
        return self.speech(decoder_input_ids, decoder_attention_mask, encoder_outputs=context, use_cache=False)

    __call__ = forward

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]: called by name
        self, input_ids, decoder_attention_mask=None, **kwargs
    ) -> dict[str, Any]:
        return {"decoder_input_ids": input_ids, "decoder_attention_mask": decoder_attention_mask}


class WhisperRules(  # pyright: ignore[reportIncompatibleMethodOverride]: the mixin calls the other by name
    WhisperGenerationMixin, OneWindow
):
    """Transformers' rules over `OneWindow`, for one call of generate()."""

    def write(self, sounds: Any, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        for name, what in _NOT_DONE.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"{name}: {what} is not done by MM for Whisper; leave it out")
        sounds, mask = self._checked(sounds), kwargs.pop("input_features_mask", None)
        if mask is not None and not bool(mask.all()):
            raise ValueError("input_features_mask hides a sound or a part of one; give whole sounds without it")
        goes_on = kwargs.get("condition_on_prev_tokens")
        if goes_on is None:
            told = self.generation_config if generation_config is None else generation_config
            goes_on = getattr(told, "condition_on_prev_tokens", False)
        if not goes_on or len(sounds) == 1 or sounds.shape[-1] <= self.frames:
            return self.generate(sounds, generation_config, *args, **kwargs)
        # In a batch the room for new tokens would be that after the longest text before any of the windows.
        lengths = _lengths(sounds, kwargs.pop("attention_mask", None))
        rows = [
            self.generate(sounds[row : row + 1, :, :length], generation_config, *args, **_of_row(kwargs, row, lengths))
            for row, length in enumerate(lengths)
        ]
        return _joined(rows, self.generation_config.pad_token_id)

    def languages(self, sounds: Any) -> torch.Tensor:
        """(B,) ids of the languages of sounds."""
        return self.detect_language(self._checked(sounds), num_segment_frames=self.frames)

    def _checked(self, sounds: Any) -> torch.Tensor:
        """(B, bands, frames). Raises ValueError for another shape, or several clips of one sample."""
        bands = self.speech.config.audio_config.num_mel_bins
        if torch.is_tensor(sounds) and sounds.ndim == 4 and sounds.shape[1] > 1:
            raise ValueError(
                f"input_features holds {sounds.shape[1]} clips of each sample; a long sound is given whole, (B, "
                "bands, frames), by the feature extractor with truncation=False"
            )
        if torch.is_tensor(sounds) and sounds.ndim == 4:
            sounds = sounds[:, 0]
        fits = torch.is_tensor(sounds) and sounds.is_floating_point() and sounds.ndim == 3 and sounds.numel()
        if not fits or sounds.shape[1] != bands:
            found = tuple(sounds.shape) if torch.is_tensor(sounds) else type(sounds).__name__
            raise ValueError(f"input_features must be float (B, {bands}, frames), some of each; got {found}")
        return sounds


def _lengths(sounds: torch.Tensor, mask: torch.Tensor | None) -> list[int]:
    """Frames of each sound. Raises ValueError without the mask that tells them, as Transformers does."""
    if mask is None:
        raise ValueError("several long sounds need attention_mask (B, frames), 1 where a sound is real")
    return mask.sum(-1).tolist()


def _of_row(given: dict[str, Any], row: int, lengths: list[int]) -> dict[str, Any]:
    """The arguments of a call for several sounds, for one of them: its own prompt and language."""
    own: dict[str, Any] = {}
    if torch.is_tensor(given.get("decoder_input_ids")):
        own["decoder_input_ids"] = given["decoder_input_ids"][row : row + 1]
    languages = given.get("language")
    if isinstance(languages, list) and len(languages) == len(lengths):
        own["language"] = languages[row]
    return {**given, **own}


def _joined(rows: list[Any], padding: int) -> Any:
    """What calls for one sound each returned, as one call for all returns it: ids are padded on the right."""
    if torch.is_tensor(rows[0]):
        return nn.utils.rnn.pad_sequence([ids for row in rows for ids in row], batch_first=True, padding_value=padding)
    fills = {"sequences": padding, "token_timestamps": 0.0}
    joined: dict[str, Any] = {}
    for name in rows[0]:
        values = [value for row in rows for value in row[name]]
        if name in fills:
            values = nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fills[name])
        joined[name] = values
    return joined
