"""Pictures and texts to model inputs.

    images, text, suffix ── paired by sample ─┬─ pictures ── image processor ── pixel_values [, pixel_attention_mask]
                                              ├─ videos ── frames, image processor ── pixel_values_videos [, mask]
                                              ├─ sounds ── clips, feature extractor ── input_features [, mask]
                                              ├─ context texts ── tokenizer ── context_input_ids [, media_index]
                                              └─ texts ── tokenizer ── input_ids, attention_mask [, labels]
                                                 rows of one sample (or context text) share it: context_index

B samples, Bc context texts, R texts (rows), N pictures per sample, T and Tc tokens.
"""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature

from .media import MediaDecodeError
from .options import flat_options
from .pairing import Samples, pair_samples
from .reading import ReadingProcessor
from .rows import RowOptions, encode_rows
from .sampling import check_frame_settings, check_jitter
from .sound_masks import SoundAugmentation


class MMProcessor(ReadingProcessor):
    """One image processor, one tokenizer and one feature extractor, any of which may be absent.

    Args:
        image_processor: an MMImageProcessorPil, or any Transformers image processor that gives pixel_values
            (n, C, H, W). None: pictures are refused.
        tokenizer: any Transformers tokenizer. None: texts are refused.
        feature_extractor: any Transformers feature extractor for sounds. None: sounds are refused.
        chat_template: Jinja template for `apply_chat_template` and for chats in pipelines.
        add_eos_token: close plain texts with eos; saved with checkpoints that read whole texts (retrieval,
            classification) rather than go on with them.
        context_bos_token: token of the vocabulary that opens a context text (BLIP's [ENC]). None: bos or cls, as
            with rows.
        fixed_length: pad rows to this many tokens, pads attended, as checkpoints like SigLIP's were trained.
        num_frames: most frames taken of a video. frame_sampling: "uniform" over its length, its "keyframes", or a
            number of frames per second.
        prompt_to: "decoder", or "context": a plain text is then the context text (a question for the text encoder),
            and its row starts from bos alone; so a model with a text encoder answers in pipelines.
        frame_jitter, audio_augmentation: kept for training, `MMDataCollator(augment="saved")` applies them and a call
            never does. How far the frames taken of a video move, 0..1 of the time from one to the next
            (`mm.processing.video.load_video`); settings of a `mm.processing.sound_masks.SoundAugmentation`.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        feature_extractor=None,
        chat_template=None,
        add_eos_token=False,
        context_bos_token: str | None = None,
        fixed_length: int | None = None,
        num_frames=8,
        frame_sampling: str | float = "uniform",
        prompt_to="decoder",
        frame_jitter: float = 0.0,
        audio_augmentation: dict[str, Any] | None = None,
    ):
        super().__init__(
            image_processor=image_processor,
            tokenizer=tokenizer,
            feature_extractor=feature_extractor,
            chat_template=chat_template,
        )
        check_choice("prompt_to", prompt_to, ("decoder", "context"))
        check_frame_settings(num_frames, frame_sampling)
        check_jitter(frame_jitter)
        if audio_augmentation is not None:
            SoundAugmentation(**audio_augmentation)  # raises for what it does not know
        self.add_eos_token = add_eos_token
        self.context_bos_token = context_bos_token
        self.fixed_length = fixed_length
        self.num_frames = num_frames
        self.frame_sampling = frame_sampling
        self.prompt_to = prompt_to
        self.frame_jitter = frame_jitter
        self.audio_augmentation = audio_augmentation
        self._context_bos()

    @flat_options
    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | list[list[str]] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        suffix: str | list[str] | list[list[str]] | None = None,
        context_text: str | list[str] | list[list[str]] | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        truncation: bool = True,
        pad_to_multiple_of: int | None = None,
        add_eos_token: bool | None = None,
        add_special_tokens: bool = True,
        sanitize_control_tokens: bool = False,
        on_error: str = "raise",
        allow_urls: bool = False,
        sampling_rate: int | None = None,
        num_frames: int | None = None,
        frame_sampling: str | float | None = None,
        do_sample_frames: bool = True,
        max_seconds: float | None = None,
        **image_options: Any,
    ) -> BatchFeature:
        """Model inputs for B samples.

        Args:
            images: with one text: its picture, a flat list of its pictures, or [[...]]. With a list of texts: a list
                of the same length whose entries are a picture, a list of pictures, or None or [] for none. Without
                text: a picture, or a list of such entries. What a picture may be: `mm.processing.media.load_image`.
            text: one string (one sample), a list (one row per sample), or lists of lists (rows per sample). Without
                it, and with a suffix, the prompts are empty.
            suffix: what the model is to write, nested like text. Gives labels.
            context_text: what the text encoder is to read, nested as text may be; samples then come by its count. Each
                is a context of its own, over the media of its sample. text and suffix are nested like it (a list in
                the place of one text makes several rows of that context); without them each has one row, of bos.
            videos, audio: nested as images are; a list of PIL images or arrays is one video, not several. What they
                may be: `mm.processing.video.load_video`, `mm.processing.audio.load_sound`.
            return_tensors: "pt", "np", or None (lists for texts, arrays for pictures).
            padding: True or "longest", "max_length", False. padding_side: None is "right" for rows that are closed or
                have a suffix and "left" for open prompts; no result depends on it.
            max_length: most tokens in a row or a context text; None takes the tokenizer's own limit. truncation: cut
                longer ones with a logged warning; False raises. pad_to_multiple_of: round the padded length up.
            add_eos_token: None takes the processor's. add_special_tokens: False leaves away bos and the eos
                of closed texts.
            sanitize_control_tokens: set by `apply_chat_template`: the text comes from a template, and its special
                tokens count but for those marked as the user's.
            on_error: for media that are missing or broken: "raise", "skip" (their samples are left out, with a
                logged warning) or "placeholder" (their slots are masked, with a logged warning).
            allow_urls: fetch media behind http(s) URLs, from public addresses alone.
            sampling_rate: of arrays of sound that come without their own. num_frames, frame_sampling: None takes the
                processor's. do_sample_frames: False is refused, videos are always sampled. max_seconds: length of
                videos and sounds allowed.
            image_options: options of the image processor, for this call; with MM's own also max_pixels,
                max_bytes and max_batch_pixels.

        Returns:
            input_ids, attention_mask int64 (R, T); labels int64 (R, T) with a suffix, -100 on prompt and padding;
            pixel_values float32, (B, C, H, W) where each sample has one picture, else (B, N, C, H, W) with
            pixel_attention_mask bool (B, N), True where there is one; pixel_values_videos float32 (B, F, C, H, W), or
            (B, N, F, C, H, W), with video_attention_mask bool (B[, N], F) unless all frames are there; input_features
            float32 (B, A, ...) of A clips with input_features_mask bool (B, A[, frames]) unless all are there;
            context_index int64 (R,), the sample of each
            row, unless that is 0..B-1. With context texts context_input_ids, context_attention_mask int64 (Bc, Tc),
            closed and padded at the right; context_index then names the context text, and media_index int64 (Bc,) the
            sample of each, unless that is 0..B-1. Keys of texts are absent without texts, those of media without them.

        Raises:
            ValueError, TypeError: inputs that do not pair, or arguments that are not accepted.
            MediaDecodeError (a ValueError), FileNotFoundError: media, under on_error="raise".
        """
        check_choice("on_error", on_error, ("raise", "skip", "placeholder"))
        check_choice("return_tensors", return_tensors, (None, "pt", "np"))
        self._check_image_options(image_options)
        check_frame_settings(num_frames or self.num_frames, frame_sampling or self.frame_sampling)
        if not do_sample_frames:
            raise ValueError("do_sample_frames=False: videos are always sampled; raise num_frames instead")
        row_options = RowOptions(
            padding=padding,
            padding_side=padding_side,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            fixed_length=self.fixed_length,
            closed=self.add_eos_token if add_eos_token is None else add_eos_token,
            add_special_tokens=add_special_tokens,
            is_chat=sanitize_control_tokens,
        )
        context_options = replace(row_options, closed=True, bos=self._context_bos(), padding_side="right")
        if self.prompt_to == "context" and context_text is None and text is not None:
            context_text, text = text, None
        else:
            context_options = replace(context_options, add_special_tokens=True, is_chat=False)
        if context_text is not None and text is None:
            row_options = replace(row_options, add_special_tokens=True, is_chat=False, closed=False)
        media_options = {
            "allow_urls": allow_urls, "sampling_rate": sampling_rate, "num_frames": num_frames,
            "frame_sampling": frame_sampling, "max_seconds": max_seconds, **image_options,
        }  # fmt: skip
        samples = pair_samples({"images": images, "videos": videos, "audio": audio}, text, suffix, context_text)
        samples = self._read_samples(samples, on_error, media_options)
        data = self._rows(samples, row_options) | self._context_rows(samples, context_options)
        for name, media in samples.media.items():
            data |= self.media_tensors(name, media, **image_options)
        data |= self._indices(samples)
        return BatchFeature({name: _converted(name, values, return_tensors) for name, values in data.items()})

    def _read_samples(self, samples: Samples, on_error: str, options: dict[str, Any]) -> Samples:
        """`samples` with their media read (None where one is unreadable), less those that on_error skips."""
        if not samples.media:
            return samples
        read = {name: self.read_media(name, sources, on_error, **options) for name, sources in samples.media.items()}
        kept = [
            index
            for index in range(len(next(iter(read.values()))))
            if on_error != "skip" or all(medium is not None for media in read.values() for medium in media[index])
        ]
        seen = {
            name: media
            for name, media in read.items()
            if any(medium is not None for index in kept for medium in media[index])
        }
        if not seen and not (kept and samples.prompts):
            raise MediaDecodeError(f"none of the {' and '.join(read)} can be read; the log names each")
        return replace(samples, media=seen).keep(kept)

    def _rows(self, samples: Samples, options: RowOptions) -> dict[str, Any]:
        """input_ids, attention_mask and, with suffixes, labels: lists of R rows."""
        if samples.prompts is None:
            return {}
        if self.tokenizer is None:
            raise ValueError("text was given, but this processor has no tokenizer")
        suffixes = None if samples.suffixes is None else list(chain(*samples.suffixes))
        return encode_rows(self.tokenizer, list(chain(*samples.prompts)), suffixes, options)

    def _context_rows(self, samples: Samples, options: RowOptions) -> dict[str, Any]:
        """context_input_ids and context_attention_mask: lists of Bc rows."""
        if samples.contexts is None:
            return {}
        options = replace(options, fixed_length=None)
        rows = encode_rows(self.tokenizer, list(chain(*samples.contexts)), None, options)
        return {f"context_{name}": values for name, values in rows.items()}

    def _indices(self, samples: Samples) -> dict[str, list[int]]:
        """context_index and media_index, where they are not 0..B-1."""
        held, found = len(next(iter(samples.media.values()), [])), {}
        if samples.contexts is not None and held:
            found["media_index"] = (samples.media_index(), held)
        contexts = held if samples.contexts is None else sum(map(len, samples.contexts))
        if samples.prompts is not None and contexts:
            found["context_index"] = (samples.context_index(), contexts)
        return {name: index for name, (index, count) in found.items() if index != list(range(count))}

    def _context_bos(self) -> int | None:
        """The id of context_bos_token."""
        if self.context_bos_token is None:
            return None
        token = self.tokenizer and self.tokenizer.convert_tokens_to_ids(self.context_bos_token)
        if token is None or (
            token == self.tokenizer.unk_token_id and self.context_bos_token != self.tokenizer.unk_token
        ):
            raise ValueError(f"context_bos_token={self.context_bos_token!r} is no token of the tokenizer's vocabulary")
        return token


def check_choice(name: str, value: Any, accepted: tuple) -> None:
    """Raises ValueError unless `value` is one of those accepted."""
    if value not in accepted:
        raise ValueError(f"{name}={value!r}; accepted are {', '.join(map(repr, accepted))}")


def _converted(name: str, values: Any, kind: str | None) -> Any:
    """Lists or a tensor as "pt" tensor, "np" array, or (None) as plain lists for texts and an array for pictures."""
    if isinstance(values, torch.Tensor):
        return values if kind == "pt" else values.numpy()
    if kind is None:
        return values
    if isinstance(values[0], list) and len({len(row) for row in values}) > 1:
        raise ValueError(f"{name} has rows of unequal length, which make no tensor; pass padding=True")
    return torch.tensor(values) if kind == "pt" else np.array(values)
