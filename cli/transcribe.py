"""Sounds to text with times, as it comes, of sounds of any length in constant memory, one or several at a time.

stretches of samples ── a window at its place ── generate() ── segments
                                 ▲                                 │
                                 └──── the end of the last one ◄───┘
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.images.limits import MediaDecodeError

# What openai/whisper does where a window comes out as loops, as unlikely text, or as silence.
FALLBACK = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}


# A model without times hears this much at once, cut where it is quiet.
WINDOW_SECONDS = 20


class Segment(NamedTuple):
    """A stretch of speech: seconds from the start of the file. words: (text, start, end) of each, if asked for."""

    start: float
    end: float
    text: str
    words: list[tuple[str, float, float]] | None = None


def transcribe(
    samples: Iterable[np.ndarray], model: MMForSpeechSeq2Seq, processor: Any, *, language: str | None = None,
    words: bool = False, **settings: Any,
) -> Iterator[Segment]:  # fmt: skip
    """Segments of one sound, window after window: each begins where the last whole segment ended. Of a model that
    is no Whisper a segment is a window of up to WINDOW_SECONDS, cut where it is quiet.

    Args:
        samples: stretches of float32 (n,) at the rate of the feature extractor (`stream_sound`); two windows of them
            are held at most, and what one stretch has beyond.
        language: None: that of the first window, which stays.
        words: fill in `Segment.words`; only a Whisper tells them.
        settings: of generate(), such as task, num_beams, prompt_ids and those of FALLBACK.

    Raises: what `samples` raises, after the segments of all that came before.
    """
    for _, found in transcribe_all([samples], model, processor, language=language, words=words, **settings):
        if isinstance(found, Segment):
            yield found
        elif found is not None:
            raise found


def transcribe_all(
    sounds: Iterable[Iterable[np.ndarray]], model: MMForSpeechSeq2Seq, processor: Any, *, batch_size: int = 1,
    language: str | None = None, words: bool = False, **settings: Any,
) -> Iterator[tuple[int, Segment | MediaDecodeError | None]]:  # fmt: skip
    """(number of the sound, Segment) of several sounds, each as `transcribe` tells it; after the last segment of a
    sound (its number, None), or in place of None the fault of its file.

    Args:
        sounds: each as `samples` of `transcribe`; one is taken from there when another has ended.
        batch_size: windows heard at a time, each of another sound: segments of several sounds come mixed. It changes
            no text, but not together with temperatures, which draw at random.
    """
    if batch_size > 1 and "temperature" in settings:
        raise ValueError("a fallback draws at random, sound by sound: leave the batch size at 1")
    if words and not model.has_rules:
        raise ValueError("times of words are a Whisper's; this model writes none")
    hear = _hear_by_rules if model.has_rules else _hear_whole
    window = processor.feature_extractor.n_samples if model.has_rules else WINDOW_SECONDS * _rate(processor)
    waiting = enumerate(sounds)
    live: list[_Sound] = []
    while True:
        while len(live) < batch_size and (new := next(waiting, None)) is not None:
            live.append(_Sound(new[0], _windows(new[1], window), language))
        ended = [sound for sound in live if not (sound.waits or sound.listen())]
        yield from ((sound.number, sound.fault) for sound in ended)
        live = [sound for sound in live if sound not in ended]
        if ended:
            continue
        if not live:
            return
        for sound, segments in zip(live, hear(live, model, processor, words, settings), strict=True):
            yield from ((sound.number, one) for one in segments if one.text)


class _Sound:
    """A sound that is heard window by window.

    Attributes:
        piece: the samples of its window. waits: whether that is still to be heard. place: of the window, in samples
            from the start. fault: of its file.
    """

    def __init__(self, number: int, windows: Iterator, language: str | None):
        self.number, self.windows, self.language = number, windows, language
        self.place, self.fault, self.waits = 0, None, False
        self.piece, self.take = np.zeros(0, np.float32), lambda taken: None

    def listen(self) -> bool:
        """Whether there is another window."""
        try:
            self.piece, self.take = next(self.windows)
        except StopIteration:
            return False
        except MediaDecodeError as error:
            self.fault = error
            return False
        self.waits = True
        return True

    def go_on(self, taken: int) -> None:
        self.take(taken)
        self.place += taken
        self.waits = False


def _rate(processor: Any) -> int:
    return processor.feature_extractor.sampling_rate


def _hear_by_rules(
    sounds: list[_Sound], model: MMForSpeechSeq2Seq, processor: Any, words: bool, settings: dict[str, Any]
) -> Iterator[list[Segment]]:
    """Segments of a window of each sound, of a Whisper."""
    rate, extractor = _rate(processor), processor.feature_extractor
    moment = extractor.n_samples / rate / model.config.max_source_positions
    pieces = [sound.piece for sound in sounds]
    features = extractor(pieces, sampling_rate=rate, return_tensors="pt", return_attention_mask=True)
    heard = {name: features[name].to(model.device) for name in ("input_features", "attention_mask")}
    heard["input_features"] = heard["input_features"].to(model.dtype)
    told = {}
    if getattr(model.generation_config, "lang_to_id", None):
        if any(sound.language is None for sound in sounds):
            for sound, name in zip(sounds, model.detect_language(heard["input_features"]), strict=True):
                sound.language = sound.language or name
    if sounds[0].language is not None:
        told["language"] = [sound.language for sound in sounds] if len(sounds) > 1 else sounds[0].language
    written = model.generate(
        **heard, **told, **settings, return_timestamps=True, return_segments=True, return_token_timestamps=words,
        force_unique_generate_call=True,
    )  # fmt: skip
    for sound, found in zip(sounds, written["segments"], strict=True):
        length = len(sound.piece)
        seconds = _seconds_read(found, model.generation_config, length / rate)
        yield [
            _segment(segment, processor.tokenizer, sound.place / rate, length / rate, words, moment)
            for segment in found
        ]
        sound.go_on(min(round(seconds * rate), length) or length)


def _hear_whole(
    sounds: list[_Sound], model: MMForSpeechSeq2Seq, processor: Any, words: bool, settings: dict[str, Any]
) -> Iterator[list[Segment]]:
    """A segment of a window of each sound, of a model that writes no times."""
    rate = _rate(processor)
    lengths = [
        _quiet_place(sound.piece, rate) if len(sound.piece) == WINDOW_SECONDS * rate else len(sound.piece)
        for sound in sounds
    ]
    pieces = [[sound.piece[:length]] for sound, length in zip(sounds, lengths, strict=True)]
    heard = processor(audio=pieces, sampling_rate=rate, return_tensors="pt").to(model.device)
    heard["input_features"] = heard["input_features"].to(model.dtype)
    written = model.generate(**heard, language=sounds[0].language, **settings)
    texts = processor.batch_decode(written, skip_special_tokens=True)
    for sound, length, text in zip(sounds, lengths, texts, strict=True):
        yield [Segment(sound.place / rate, (sound.place + length) / rate, " ".join(text.split()))]
        sound.go_on(length)


def _quiet_place(piece: np.ndarray, rate: int) -> int:
    """Where a window is cut: in the middle of the quietest tenth of a second of its last quarter."""
    step, start = rate // 10, len(piece) * 3 // 4
    blocks = piece[start : start + (len(piece) - start) // step * step].reshape(-1, step)
    return start + int((blocks**2).sum(1).argmin()) * step + step // 2


def _windows(samples: Iterable[np.ndarray], window: int) -> Iterator[tuple[np.ndarray, Callable[[int], None]]]:
    """(up to `window` samples, take): the next begins after as many as take() was called with. A fault of the file is
    raised after what could be read before it."""
    source, held, fault = iter(samples), np.zeros(0, np.float32), None
    taken: list[int] = []
    while True:
        parts, length = [held], len(held)
        while length < window and source is not None:
            try:
                parts.append(next(source))
                length += len(parts[-1])
            except StopIteration:
                source = None
            except MediaDecodeError as error:
                source, fault = None, error
        held = np.concatenate(parts)
        if not len(held):
            break
        yield held[:window], taken.append
        held = held[taken.pop() :]
    if fault is not None:
        raise fault


def _seconds_read(segments: list[dict[str, Any]], decoding: Any, whole: float) -> float:
    """How far into a window its segments go: to the end of the last whole one, or to its own end where the text ends
    with one time, or has no two together (so do Whisper's rules)."""
    if not segments:
        return whole
    result = segments[-1]["result"]
    ids = result["sequences"] if isinstance(result, dict) else result
    ids = ids[segments[0]["idxs"][0] :]
    begin = decoding.no_timestamps_token_id + 1
    is_time = (ids[ids != decoding.eos_token_id] >= begin).tolist()
    pairs = any(one and two for one, two in zip(is_time, is_time[1:], strict=False))
    if not pairs or is_time[-2:] == [False, True]:
        return whole
    return float(segments[-1]["end"])


def _segment(found: dict, tokenizer: Any, offset: float, longest: float, words: bool, moment: float) -> Segment:
    """A segment of generate() as text, at its place in the file."""
    start, end = (min(max(float(found[name]), 0.0), longest) for name in ("start", "end"))
    text = " ".join(tokenizer.decode(found["tokens"], skip_special_tokens=True).split())
    if start >= longest:  # heard in the silence that fills a window up
        text = ""
    spoken = None
    if words:
        output = {"tokens": found["tokens"][None], "token_timestamps": found["token_timestamps"][None]}
        _, more = tokenizer._decode_asr(
            [output], return_timestamps="word", return_language=None, time_precision=moment
        )
        spoken = [
            (word["text"].strip(), offset + word["timestamp"][0], offset + word["timestamp"][1])
            for word in more["chunks"]
            if word["text"].strip()
        ]
    return Segment(offset + start, offset + max(end, start + moment), text, spoken)  # a cue has some length
