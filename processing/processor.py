"""Pictures and texts to model inputs.

    images, text, suffix ── paired by sample ─┬─ pictures ── image processor ── pixel_values [, pixel_attention_mask]
                                              ├─ videos ── frames, image processor ── pixel_values_videos [, mask]
                                              ├─ sounds ── clips, feature extractor ── input_features [, mask]
                                              ├─ context texts ── tokenizer ── context_input_ids [, media_index]
                                              └─ texts ── tokenizer ── input_ids, attention_mask [, labels]
                                                 rows of one sample (or context text) share it: context_index

B samples, Bc context texts, R texts (rows), N pictures per sample, T and Tc tokens.
"""

import copy
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack

import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature

from ..configuration.auto_map import SHIM
from .call_options import (
    CallOptions,
    MMCallDefaults,
    MMProcessorKwargs,
    call_options,
    checked_defaults,
    converted,
)
from .chat_template import check_conversation, media_of, question_about, unlisted_tokens, without_tokens
from .drawn_pictures import check_image_tokenizer, decoded_pictures, encoded_pictures, joined_targets, layout
from .images.limits import check_choice
from .images.options import check_normalisation
from .media import check_call, media_tensors, read_samples
from .media_kinds import encodable
from .pairing import pair_samples
from .placeholders import Placeholders
from .processor_files import PARTS, OwnParts
from .saved_processor import SavingProcessor
from .sounds.load import check_extractor
from .sounds.masks import SoundAugmentation
from .token_rows import RowOptions, encode_rows, token_id
from .videos.sampling import check_jitter


class MMProcessor(SavingProcessor):
    """One image processor, one tokenizer and one feature extractor; each may be missing.

    Args:
        image_processor: an MMImageProcessorPil, or any Transformers image processor that gives pixel_values
            (n, C, H, W). None: pictures raise an error.
        tokenizer: any Transformers tokenizer. None: texts raise an error.
        feature_extractor: any Transformers feature extractor for sounds. None: sounds raise an error.
        chat_template: Jinja template for `apply_chat_template` and for chats in pipelines.
        defaults: of options that a call may have too (MMCallDefaults), saved with the processor.
        add_eos_token: close plain texts with eos; saved with checkpoints that read whole texts (retrieval,
            classification) rather than continue them.
        context_bos_token: token of the vocabulary that opens a context text (BLIP's [ENC]). None: bos or cls, as
            with rows.
        fixed_length: pad rows to this many tokens, pads attended, as checkpoints like SigLIP's were trained.
        num_frames: most frames taken of a video. frame_sampling: "uniform" over its length, its "keyframes", or a
            number of frames per second.
        prompt_to: "decoder", or "context": a plain text is then the context text (a question for the text encoder),
            and its row is only bos; so a model with a text encoder answers in pipelines.
        frame_jitter, audio_augmentation: kept for training, `MMDataCollator(augment="saved")` applies them, a call
            never does. How far the frames taken of a video move, 0..1 of the time from one to the next
            (`mm.processing.videos.load.load_video`); settings of a `mm.processing.sounds.masks.SoundAugmentation`.
        placeholders: tokens that stand for media in texts and chats, such as {"image": "<image>"}; each text then has
            one for each of its media. tokens_per_item: how many tokens the model reads of one ({"image": 576}).
            media_reading: "in_text", each placeholder becomes that many (`fusion_order="in_text"`); "before_text", and
            they come before bos, where a text that names none has them (BLIP-2); or what a text
            reads by cross-attention, as context_ranges: "last" picture before it, "last_run", "before" or "all".
            placeholder_separator: a token before, between and after those that stand together (Idefics).
        prompt_ending: what each plain prompt ends with, before a suffix: the line feed of PaliGemma.
        tiles: settings of `mm.processing.images.tiles.Tiles`, `GridTiles` or `CanvasTiles`; each picture becomes its
            tiles, of tokens_per_item each (of CanvasTiles all of a picture's).
        image_tokenizer: an MMImageTokenizer, for pictures that a model draws; it is evaluated, and saved with the
            processor in a folder of its own. drawing: where its codes stand among the ids, as the group `drawing` of
            MMConfig has it; None: after the tokenizer's.
    """

    valid_processor_kwargs = MMProcessorKwargs
    encodable = staticmethod(encodable)  # what an item of `model.encode` holds
    get_attributes = OwnParts()  # pyright: ignore[reportAssignmentType]: called alike, on class and instance
    _parts: list[list[list[int]]] | None = None  # of a copy that `with_parts` made
    read_from = SHIM  # the file that the saved processor named for its classes
    image_processor: Any
    tokenizer: Any
    feature_extractor: Any
    add_eos_token: bool
    num_frames: int
    frame_sampling: str | float

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        feature_extractor=None,
        chat_template=None,
        context_bos_token: str | None = None,
        fixed_length: int | None = None,
        prompt_to="decoder",
        frame_jitter: float = 0.0,
        audio_augmentation: dict[str, Any] | None = None,
        placeholders: dict[str, str] | None = None,
        tokens_per_item: dict[str, int] | None = None,
        media_reading: str = "in_text",
        placeholder_separator: str | None = None,
        prompt_ending: str = "",
        tiles: dict[str, Any] | None = None,
        image_tokenizer: Any = None,
        drawing: dict[str, Any] | None = None,
        **defaults: Unpack[MMCallDefaults],
    ):
        self.image_processor, self.tokenizer, self.feature_extractor = image_processor, tokenizer, feature_extractor
        own = {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}
        if not own:
            raise ValueError(f"{type(self).__name__} needs an image_processor, a tokenizer, or both")
        super().__init__(**own, chat_template=chat_template)
        if image_processor is not None:
            check_normalisation(vars(image_processor))
        check_extractor(feature_extractor)
        if chat_template is not None and not isinstance(chat_template, (str, dict)):
            raise TypeError(f"chat_template={chat_template!r:.80}; accepted is a template's text, or a dict of them")
        check_choice("prompt_to", prompt_to, ("decoder", "context"))
        check_jitter(frame_jitter)
        if audio_augmentation is not None:
            if not isinstance(audio_augmentation, dict):
                raise ValueError(f"audio_augmentation={audio_augmentation!r}; accepted: a dict of settings, or None")
            SoundAugmentation(**audio_augmentation)  # raises for what it does not know
        for name, value in checked_defaults(defaults).items():
            setattr(self, name, value)
        RowOptions(fixed_length=fixed_length, ending=prompt_ending)  # raises for what is no length, or no string
        self.context_bos_token, self.fixed_length, self.prompt_to = context_bos_token, fixed_length, prompt_to
        self.frame_jitter, self.prompt_ending, self.tiles = frame_jitter, prompt_ending, tiles
        self.audio_augmentation, self.placeholder_separator = audio_augmentation, placeholder_separator
        self.placeholders, self.tokens_per_item, self.media_reading = placeholders, tokens_per_item, media_reading
        token_id(tokenizer, "context_bos_token", context_bos_token)  # raises for what is none
        self.image_tokenizer = check_image_tokenizer(image_tokenizer)
        self.drawing = layout(tokenizer, self.image_tokenizer, drawing)
        self.places()

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]: Transformers' takes any keyword, unnamed
        self,
        images: Any = None,
        text: str | list[str] | list[list[str]] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        suffix: str | list[str] | list[list[str]] | None = None,
        context_text: str | list[str] | list[list[str]] | None = None,
        target_images: Any = None,
        **options: Any,
    ) -> BatchFeature:
        """Model inputs for B samples.

        Args:
            images: with one text: its picture, a flat list of its pictures, or [[...]]. With a list of texts: a list
                of the same length whose entries are a picture, a list of pictures, or None or [] for none. Without
                text: a picture, or a list of such entries. What a picture may be: `mm.load_image`.
            text: one string (one sample), a list (one row per sample), or lists of lists (rows per sample). Without
                it, and with a suffix, the prompts are empty. None in a list: that sample has no text. Its row is bos,
                masked; classifiers treat it as absent, generate() as a prompt of bos.
            suffix: the text to learn (an answer or caption), nested like text. Gives labels.
            context_text: the text for the text encoder, nested like text; it then sets the number of samples. Each
                is a context of its own, over the media of its sample. text and suffix are nested like it (a list in
                the place of one text makes several rows of that context); without them each has one row, of bos.
            target_images: the pictures to learn to draw, nested like text, or in place of suffix; None for texts whose
                suffix is learned. Each is a picture, or its ids int64 (N,) as `encode_images` gives them. The row is
                then bos, prompt, begin, ids, end, and max_length counts only what is before begin.
            videos, audio: nested as images are; a list of PIL images or arrays is one video, not several. What they
                may be: `mm.processing.videos.load.load_video`, `mm.processing.sounds.load.load_sound`.
            options (MMProcessorKwargs): by themselves, or nested by kind as text_kwargs, images_kwargs, videos_kwargs,
                audio_kwargs. Nested options of pictures and max_seconds count only for that kind.

            return_tensors: "pt", "np", or None (lists for texts, arrays for pictures).
            padding: True or "longest", "max_length", False; None takes the tokenizer's saved value, otherwise True.
                padding_side: None is "right" for rows that are closed or have a suffix and "left" for open prompts; no
                result depends on it.
            max_length: most tokens in a row or a context text; None takes the tokenizer's saved value, otherwise its
                limit. truncation: cut longer ones with a logged warning; False raises an error. pad_to_multiple_of:
                round the padded length up.
            add_eos_token: None takes the processor's. add_special_tokens: False leaves out bos, and eos of closed
                texts.
            sanitize_control_tokens: set by `apply_chat_template`: the text comes from a template, and its special
                tokens count, except those marked as the user's. return_offsets_mapping: of such texts.
            on_error: for media that are missing or broken: "raise", "skip" (their samples are left out, with a
                logged warning) or "placeholder" (their slots are masked, with a logged warning).
            allow_urls: fetch media from http(s) URLs, only from public addresses.
            sampling_rate: of arrays of sound that come without their own; None takes the feature extractor's, with a
                logged warning.
            num_frames, frame_sampling (or a number as fps): None takes the processor's. do_sample_frames: False takes
                every frame of videos given as frames; for others it raises an error. max_seconds: length of videos and
                sounds allowed.
            Any other is an option of the image processor, for this call; with MM's own also max_pixels, max_bytes and
            max_batch_pixels.

        Returns:
            input_ids, attention_mask int64 (R, T); labels int64 (R, T) with a suffix, -100 on prompt and padding;
            pixel_values float32, (B, C, H, W) where each sample has one picture, else (B, N, C, H, W) with
            pixel_attention_mask bool (B, N), True where there is one, and where a model joins tiles image_grids int64
            (B, M, 4); pixel_values_videos float32 (B, F, C, H, W), or
            (B, N, F, C, H, W), with video_attention_mask bool (B[, N], F) unless no frame is masked; input_features
            float32 (B, A, ...) of A clips with input_features_mask bool (B, A[, frames]) unless none is masked;
            context_index int64 (R,), the sample of each row, unless that is 0..B-1. With context texts
            context_input_ids, context_attention_mask int64 (Bc, Tc), closed and padded at the right; context_index
            then names the context text, and media_index int64 (Bc,) the sample of each, unless that is 0..B-1. Keys of
            texts are absent without texts, those of media without them.

        Raises:
            ValueError, TypeError: inputs that do not pair, or arguments that are not accepted.
            MediaDecodeError (a ValueError), FileNotFoundError: media, under on_error="raise".
        """
        call = call_options(options)
        check_call(self, call)
        row_options = self._row_options(call)
        context_options = replace(
            row_options,
            closed=True,
            bos=token_id(self.tokenizer, "context_bos_token", self.context_bos_token),
            padding_side="right",
            fixed_length=None,
            placeholders=None,
            ending="",
        )
        suffix = joined_targets(self, suffix, target_images)
        if self.prompt_to == "context" and context_text is None and text is not None:
            context_text, text = text, None
        else:
            context_options = replace(context_options, add_special_tokens=True, is_chat=False)
        if context_text is not None and text is None:
            row_options = replace(row_options, add_special_tokens=True, is_chat=False, closed=False)
        samples = pair_samples({"images": images, "videos": videos, "audio": audio}, text, suffix, context_text)
        samples = read_samples(self, samples, call)
        if (places := row_options.placeholders) is not None:
            options = call.options_of_images("images")
            samples, places = places.beside(samples, self.tokenizer, self.image_processor, options)
            row_options = replace(row_options, placeholders=places)
        data = self._rows(samples.prompts, samples.suffixes, row_options)
        if places is not None and data:
            data |= places.columns(data["input_ids"], samples, call.on_error)
        contexts = self._rows(samples.contexts, None, context_options)
        data |= {f"context_{name}": values for name, values in contexts.items()}
        for name, media in samples.media.items():
            data |= media_tensors(self, name, media, **call.options_of_images(name))
        data |= {} if places is None else places.told
        data |= samples.indices()
        return BatchFeature({name: converted(name, values, call.return_tensors) for name, values in data.items()})

    def _row_options(self, call: CallOptions) -> RowOptions:
        """How the rows of a call are made: the call's options, then the tokenizer's saved ones."""
        saved = {} if self.tokenizer is None else self.tokenizer.init_kwargs
        padding = saved.get("padding", True) if call.padding is None else call.padding
        return RowOptions(
            padding=True if padding is None else padding,
            padding_side=call.padding_side,
            max_length=saved.get("max_length") if call.max_length is None else call.max_length,
            truncation=call.truncation,
            pad_to_multiple_of=call.pad_to_multiple_of,
            fixed_length=self.fixed_length,
            closed=self.add_eos_token if call.add_eos_token is None else call.add_eos_token,
            add_special_tokens=call.add_special_tokens,
            is_chat=call.sanitize_control_tokens,
            offsets=call.return_offsets_mapping,
            placeholders=self.places(),
            ending=self.prompt_ending,
        )

    def places(self) -> Placeholders | None:
        return Placeholders.of_processor(self)

    def with_parts(self, parts: list[list[list[int]]]) -> "MMProcessor":
        """A copy for texts whose pictures came apart and were cut: what stands for each picture of each text."""
        other = copy.copy(self)
        other._parts = parts
        return other

    def about(self, kind: str, text: str) -> dict[str, Any]:
        """Arguments of a call for a text about one medium ("image", "video", "audio"), which the model goes on with.

        Where media stand in the text: as the turn of a user, by the chat template; without a template with the
        placeholder in front. A text that names the placeholder stays as it is.
        """
        return question_about(self, kind, text)

    def prompt_side(self, config: Any) -> str:
        """By which argument a question or prompt is given to a model of `config`: "context_text", for the text encoder
        that reads it together with the media, or "text", which the decoder goes on with. Where the decoder's weights
        are the text encoder, too (share_text_encoder), and the decoder sees the media, prompt_to says it."""
        both = config.has_text_encoder and config.decoder_sees_media
        return "context_text" if config.has_text_encoder and not (both and self.prompt_to == "decoder") else "text"

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]: the rest goes on by name
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        sanitize_control_tokens: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """ProcessorMixin's, but special tokens that stand in the messages stay text: only the template's own count.

        sanitize_control_tokens: None does so wherever ids are made (tokenize=True). Media are read as in `__call__`:
        paths, bytes, arrays and so on under "image", "video", "audio" or "path".

        Raises: ValueError for messages and blocks that the template would write as nothing, or as "None".
        """
        check_conversation(conversation, (chat_template, self.chat_template))
        sanitize = tokenize if sanitize_control_tokens is None else sanitize_control_tokens
        if sanitize and kwargs.get("return_assistant_tokens_mask"):
            # Transformers has no places of marked tokens: here none is left to be marked
            conversation = without_tokens(conversation, self.tokenizer.all_special_tokens)
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), "sanitize_control_tokens": True}
            sanitize = False
        elif sanitize:
            conversation = without_tokens(conversation, unlisted_tokens(self.tokenizer))
        return super().apply_chat_template(
            conversation, chat_template, tokenize=tokenize, sanitize_control_tokens=sanitize, **kwargs
        )

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        if load_audio_from_video:
            raise ValueError("load_audio_from_video=True: give the sound of a video as a block of its own")
        return *media_of(conversations), {}

    def encode_images(self, images: Any) -> torch.Tensor:
        """A picture or a list of R pictures -> int64 (R, N), their ids in the vocabulary, in raster order."""
        return encoded_pictures(self, images)

    def decode_images(self, ids: Any) -> list[Image.Image]:
        """R rows that `draw` or `generate` wrote, (R, N) or with what stands before and after the codes -> R pictures.

        Raises: ValueError for a row that is no whole picture.
        """
        return decoded_pictures(self, ids)

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @property
    def pad_token_id(self) -> int | None:
        """The tokenizer's, where Seq2SeqTrainer looks for it."""
        return None if self.tokenizer is None else self.tokenizer.pad_token_id

    @property
    def eos_token_id(self) -> int | None:
        return self.tokenizer and self.tokenizer.eos_token_id

    def get_prompt_ids(self, text: str, return_tensors: str = "np") -> Any:
        """Ids of words that a Whisper is to expect, for `generate(prompt_ids=...)`, as `WhisperProcessor` gives them.

        Raises: ValueError for a processor without Whisper's tokenizer, and for special tokens in `text`.
        """
        if not hasattr(self.tokenizer, "get_prompt_ids"):  # of Whisper alone
            raise ValueError(f"get_prompt_ids needs Whisper's tokenizer; this one is {type(self.tokenizer).__name__}")
        return self.tokenizer.get_prompt_ids(text, return_tensors=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """Those of the parts; the image processor reads the frames of videos, too."""
        names = super().model_input_names
        return names if self.image_processor is None else [*names, "pixel_values_videos"]

    def _rows(self, prompts: list[list] | None, suffixes: list[list] | None, options: RowOptions) -> dict[str, Any]:
        """input_ids, attention_mask and, with suffixes, labels: lists of rows."""
        if prompts is None:
            return {}
        if self.tokenizer is None:
            raise ValueError("text was given, but this processor has no tokenizer")
        return encode_rows(
            self.tokenizer, list(chain(*prompts)), None if suffixes is None else list(chain(*suffixes)), options
        )
