"""From samples to a batch for Trainer, or for a loop of one's own.

    {image, text, suffix} ×R ── read, augment, share ── MMProcessor ─┐
                                                                     ├─ dict of tensors, input_ids first
    {input_ids, labels, visual_embeds, …} ×R ── pad, stack ──────────┘

A sample is a row of text; samples with the same picture may share one context, which is then encoded once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from .augmenting import Augment, MediaAugmentation, told_of_each
from .batches import (
    MEDIA_COLUMNS,
    MEDIA_OF,
    MEDIA_VALUES,
    READY_COLUMNS,
    column,
    label_tensor,
    media_key,
    nested_texts,
    row_index,
    sources_of,
    stack_ready,
)  # fmt: skip
from .call_options import check_processor
from .chat_labels import chat_batch
from .columns import check_columns, check_nothing_lost, check_spelling, renamed, unknown_columns
from .drawn_pictures import with_targets, without_words
from .epochs import Asked, Passes, warn_of_no_labels, who_asks
from .feature_store import FeatureStore, check_whole_pictures
from .images.limits import (
    ON_ERROR,
    MediaDecodeError,
    check_callable,
    check_choice,
    check_count,
    check_share,
    check_switch,
)
from .images.tiles import told_columns
from .masking import hide
from .media import blank_media, media_tensors, read_media
from .pairing import Samples, pair_samples
from .processor import MMProcessor
from .row_faults import sample_title, sound_rows
from .sample_seeds import Draws, sample_names, sample_rng  # noqa: F401  found here by callers of `augment`

TEXT_COLUMNS = ("text", "suffix", "context_text", "label", "chat", "target_image")
SAMPLE_COLUMNS = (*(name for own in MEDIA_OF.values() for name in own), *TEXT_COLUMNS)


@dataclass(eq=False, repr=False)
class MMDataCollator:
    """Makes batches of samples.

    A sample is a dict with any of the columns
        image, images: one picture or a list of them, of any kind that `load_image` reads; None or [] for none;
        video, videos, audio, audios: the same for `load_video` and `load_sound`. Files are read when their batch is
            made;
        text, suffix: the prompt and the text to learn; a list under text makes several rows. None for the
        text of some samples: they have none (their row is masked, or begins with its suffix);
        context_text: what the text encoder reads; text and suffix are then its rows; a list in place of one text makes
            several rows;
        chat: a conversation, {"role", "content"} messages with the place of each medium as a block such as
            {"type": "image"}; the loss is on what the assistant says (`mm.chat_inputs`);
        target_image: the picture to learn to draw, or its ids as `MMProcessor.encode_images` gives them, in place of a
            suffix;
        label: for classification, a number per sample or a vector;
        id: names the sample in draws, a whole number or a string;
    other columns are ignored, unless `columns` gives them one of these names. A sample can also be the processor's
    output without a batch dim, which is padded and stacked: input_ids (T,), attention_mask (T,), labels (T,) or a
    label, context_input_ids (Tc,), pixel_values, pixel_values_videos and input_features with their masks, if any;
    or visual_embeds (S, Dv). Such samples are not augmented.
    Samples with and without media, and with other kinds of media, may be mixed.

    Args:
        processor: an MMProcessor.
        max_length, pad_to_multiple_of: as in `MMProcessor.__call__`. padding_side: of training rows.
        blank_media: a batch without any picture gets one masked blank picture, so that every batch runs through the
            same modules (gradient synchronisation between processes needs this). If the samples have columns for other
            media (None is enough), the batch gets a blank of each kind that it lacks.
        share_media: samples with the same media (equal path, equal bytes, or the same object) share a context.
        augment: "saved" for all that is kept with the processor: the image processor's `augmentation` (settings of a
            `mm.processing.images.augment.PictureAugmentation`, which also looks at the texts), `frame_jitter` and
            `audio_augmentation`. Or a callable(image, rng) -> image, for pictures and frames only. For upright RGB
            images and the frames of videos, which all see the same random numbers, in mode "train" only, and not when
            Trainer evaluates; rng is a numpy Generator. Shared media are augmented once, for the first of their
            samples.
        seed: all random draws (augmentation, masked tokens and patches) depend on (seed, epoch, sample). The epoch is
            that of Trainer or accelerate, or the pass of a DataLoader (`Passes.current`), or what `set_epoch` is told;
            the sample its id, or its place in a map-style data set, or what it holds (`sample_names`).
        on_error: for unreadable pictures, and texts that make no row (a chat that has other places than pictures, or
            is cut at one): "raise", "skip" (the sample is left out) or "placeholder" (the picture is; not where media
            stand in the text).
        on_fault: called with the MediaDecodeError of each one that is left out, in the process that read it.
        return_loss: add return_loss=True to the batch, for models whose loss needs no labels; the labels of a suffix
            are then called lm_targets. When Trainer evaluates such a model, it is added automatically.
        mlm_probability: mask this share of the tokens: masked_input_ids and mlm_targets, both (R, T). masked_lm:
            return them as input_ids and labels, for MMForMaskedLM.
        mim_ratio: mask this share of the patches of each picture: bool_masked_pos (B[, N], L). patch_size: of the
            tower.
        masked_targets: hide some codes of each target_image and learn these, for MMForMaskedLM (`mask_codes`).
        guidance_dropout: this share of the texts of target images is empty, which guidance is to compare with.
        mode: "train", or "generate": only prompts, left-padded, without labels, ready for generate().
        features: of `mm.store_features`; batches of training hold visual_embeds out of it in place of pixel_values.
        columns: names of other columns, {"caption": "suffix"} or webdataset's {"jpg": "image", "txt": "suffix"}. None
            ignores a column. A column like "caption" raises an error if nothing makes labels.

    Where Trainer trains, a batch with labels gets return_logits if the model takes it: True where a Trainer with its
    own loss may read the logits, otherwise False.
    """

    processor: MMProcessor
    _: KW_ONLY
    max_length: int | None = None
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None
    blank_media: bool = True
    share_media: bool = True
    augment: Augment | str | None = None
    seed: int = 0
    on_error: str = "raise"
    on_fault: Callable[[MediaDecodeError], object] | None = None
    return_loss: bool = False
    mlm_probability: float = 0.0
    masked_lm: bool = False
    mim_ratio: float = 0.0
    patch_size: int | None = None
    masked_targets: bool = False
    guidance_dropout: float = 0.0
    mode: str = "train"
    columns: Mapping[str, str | None] | None = None
    features: FeatureStore | None = None

    def __post_init__(self):
        check_processor(self.processor)
        check_choice("padding_side", self.padding_side, ("left", "right"))
        check_choice("on_error", self.on_error, ON_ERROR)
        check_choice("mode", self.mode, ("train", "generate"))
        for name in ("blank_media", "share_media", "return_loss", "masked_lm", "masked_targets"):
            check_switch(name, getattr(self, name))
        for name in ("mlm_probability", "mim_ratio", "guidance_dropout"):
            check_share(name, getattr(self, name))
        for name in ("max_length", "pad_to_multiple_of", "patch_size"):
            check_count(name, getattr(self, name), least=1, none=True)
        check_count("seed", self.seed)
        check_callable("on_fault", self.on_fault, "a MediaDecodeError")
        if self.features is not None and not isinstance(self.features, FeatureStore):
            raise TypeError(f"features is what mm.store_features returns; got {type(self.features).__name__}")
        if self.on_error == "placeholder" and self.processor.placeholders is not None:
            raise ValueError("on_error='placeholder' leaves the places of broken media in texts empty; use 'skip'")
        tokenizer = self.processor.tokenizer
        if self.mlm_probability and (tokenizer is None or tokenizer.mask_token_id is None):
            raise ValueError(f"mlm_probability={self.mlm_probability} needs a mask token: set tokenizer.mask_token")
        if self.masked_lm and not self.mlm_probability:
            raise ValueError(
                "masked_lm=True hides tokens by mlm_probability, which is 0; set it, for instance to 0.15"
            )
        if self.mim_ratio and self.patch_size is None:
            raise ValueError(f"mim_ratio={self.mim_ratio} hides patches; say patch_size, the vision tower's")
        self._augmentation = MediaAugmentation(self.processor, self.augment)
        if self.features is not None:
            check_whole_pictures(self._augmentation.pictures is not None, self.mim_ratio, self.processor.tiles)
            self.features.check_processor(self.processor.image_processor)
        self._renaming = check_columns(self.columns, (*SAMPLE_COLUMNS, "id"))
        self._passes = Passes()

    @property
    def epoch(self) -> int | None:
        """The epoch that `set_epoch` was given; None: it was not called, and each pass over the data has its own
        draws."""
        return None if self._passes.told is None else int(self._passes.told)

    def set_epoch(self, epoch: int) -> None:
        """For draws by this number instead of the pass that is found; workers that run already follow."""
        check_count("epoch", epoch)
        self._passes.tell(epoch)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch: a dict of tensors as `MMProcessor.__call__` describes them, input_ids first.

        Raises ValueError or TypeError for samples that hold nothing to read or do not fit together, and what the
        processor raises.
        """
        if not samples:
            raise ValueError("no samples to make a batch of")
        if isinstance(samples, Mapping):
            raise TypeError(f"samples is one {type(samples).__name__}; accepted is a list of samples: [sample]")
        samples = renamed(samples, self._renaming)
        asked = who_asks(len(samples))
        caller, draws = self._passes.caller(asked), self._draws(samples, asked)
        columns = set().union(*samples)
        if columns & {"input_ids", "context_input_ids", *MEDIA_COLUMNS}:
            batch = stack_ready(samples, self.processor.tokenizer, train=self.mode == "train", **self._layout())
            contexts = draws.names
            rows = [f"{name}/0" for name in contexts]
        elif columns & set(SAMPLE_COLUMNS):
            check_spelling(columns, (*SAMPLE_COLUMNS, "id"))
            batch, rows, contexts = self._process(samples, draws)
            hides = self.mlm_probability or self.mim_ratio
            if self.mode == "train" and not hides and ("input_ids" if self.return_loss else "labels") not in batch:
                check_nothing_lost(columns, (*SAMPLE_COLUMNS, "id"))
        else:
            raise unknown_columns(columns, SAMPLE_COLUMNS)
        if self.mode == "train":
            batch = hide(self, batch, rows, contexts, draws)
        elif caller.task == "evaluate":
            warn_of_no_labels()
        pairs = "input_ids" in batch and not set(MEDIA_VALUES).isdisjoint(batch)
        if self.return_loss or (caller.needs_return_loss and pairs):
            if "labels" in batch:
                batch["lm_targets"] = batch.pop("labels")
            batch["return_loss"] = True
        if caller.keeps_logits is not None and not {"labels", "lm_targets", "mlm_targets"}.isdisjoint(batch):
            batch["return_logits"] = caller.keeps_logits
        return batch

    def _layout(self) -> dict[str, Any]:
        """How rows are cut and padded; prompts at the left."""
        side = self.padding_side if self.mode == "train" else "left"
        return {"max_length": self.max_length, "padding_side": side, "pad_to_multiple_of": self.pad_to_multiple_of}

    def _draws(self, samples: Sequence[Mapping[str, Any]], asked: Asked) -> Draws:
        """The random numbers of a batch, by the pass that it belongs to and what its samples are called."""
        made, epoch = self._passes.current(asked)
        augments = self.mode == "train" and self._passes.caller(asked).task not in ("evaluate", "predict")
        names = [str(index) for index in range(len(samples))]
        draws = (self.mlm_probability, self.mim_ratio, self.masked_targets, self.guidance_dropout)
        if self.augment is not None or any(draws):
            columns = (*SAMPLE_COLUMNS, *READY_COLUMNS)
            names = sample_names(samples, columns, asked.places, made, asked.is_stream)
        return Draws(self.seed, epoch, names, augments)

    def _process(
        self, samples: Sequence[Mapping[str, Any]], draws: Draws
    ) -> tuple[dict[str, Any], list[str], list[str]]:
        """A batch of raw samples, and the names of its rows and contexts."""
        samples, unread = with_targets(self.processor, samples, self.on_error, self.on_fault)
        if self.guidance_dropout and draws.augments:
            samples = without_words(samples, draws, self.guidance_dropout)
        sources = [sources_of(index, sample) for index, sample in enumerate(samples)]
        fields, labels = nested_texts(self.processor, samples, sources, self.mode == "train"), column(samples, "label")
        if labels is not None and column(samples, "suffix") is not None:
            raise ValueError("the samples have both suffix and label, and both make labels: drop one")
        chats = column(samples, "chat")
        if chats is not None and (column(samples, "context_text") or fields.get("suffix") or labels is not None):
            raise ValueError("the samples have a chat and a suffix, context_text or label: a chat has its own answers")
        fields = fields if chats is None else {"text": [[""] for _ in chats]}  # a row each, which the chat fills
        keys = [self._context_key(index, found) if fields else index for index, found in enumerate(sources)]
        media = self._read(samples, sources, keys, draws)
        kept = [
            index
            for index, key in enumerate(keys)
            if index not in unread
            and (self.on_error != "skip" or all(medium is not None for read in media.values() for medium in read[key]))
        ]
        if not kept:
            raise MediaDecodeError("none of the samples has media that can be read; the log names each")
        parts, grids = self._cut(media, {keys[index] for index in kept})

        def rows_of(numbers: list[int]) -> tuple[dict[str, Any], Samples | None]:
            about = None if parts is None else [parts[keys[number]] for number in numbers]
            given = [sources[number] for number in numbers]
            if chats is not None:
                made = self._chats([chats[number] for number in numbers], given, about)
                return made, pair_samples({}, [""] * len(numbers), None, None)
            return self._rows(
                {name: [values[index] for index in numbers] for name, values in fields.items()}, given, about
            )

        names = [
            sample_title(sample, found, name)
            for sample, found, name in zip(samples, sources, draws.names, strict=True)
        ]
        kept, (batch, paired) = sound_rows(rows_of, kept, names, self.on_error, self.on_fault)
        held = list(dict.fromkeys(keys[index] for index in kept))
        counts = [1] * len(kept) if paired is None else [len(rows) for rows in paired.prompts or []]
        if labels is not None and self.mode == "train":
            batch["labels"] = label_tensor([labels[index] for index in kept], counts)
        wanted = [name for name, own in MEDIA_OF.items() if set(own) & set().union(*samples)]
        contexts = [draws.names[keys.index(key)] for key in held]
        found = {name: [read[key] for key in held] for name, read in media.items()}
        batch |= self._media(
            found, wanted, bool(fields), self._augmentation.clip_rngs(contexts, "sounds", draws), draws
        )
        if grids:
            batch["image_grids"] = torch.tensor([grids[key] for key in held])
        elif (columns := told_columns(self.processor.tiles)) and "pixel_values" in batch:  # of blanks
            batch["image_grids"] = torch.zeros(len(batch["pixel_values"]), 1, columns, dtype=torch.long)
        if paired is not None:
            place = {key: number for number, key in enumerate(held)}
            batch |= row_index(batch, [place[keys[index]] for index in kept], len(held), counts, paired)
        rows = [
            f"{draws.names[index]}/{row}" for index, count in zip(kept, counts, strict=True) for row in range(count)
        ]
        return batch, rows, contexts

    def _context_key(self, index: int, sources: dict[str, list]) -> Any:
        """What samples that share a context have in common: the same media, or none at all."""
        if not self.share_media:
            return index
        return tuple((name, media_key(source)) for name, found in sources.items() for source in found)

    def _read(
        self, samples: Sequence[Mapping[str, Any]], sources: list[dict], keys: list, draws: Draws
    ) -> dict[str, dict]:
        """The media of each context by modality, read and augmented once, for the first of its samples."""
        firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
        media = {}
        for name in MEDIA_OF:
            wanted = [
                found[name] if firsts[key] == index else []
                for index, (found, key) in enumerate(zip(sources, keys, strict=True))
            ]
            rngs = self._augmentation.clip_rngs(draws.names, "frames", draws)
            changes = self._augmentation.pictures is not None and draws.augments and name != "audio"
            told = told_of_each(samples, keys) if changes else {}
            views = None
            if (
                changes and name == "images" and self._augmentation.is_own
            ):  # a crop is known before its picture is read
                views = {
                    index: self._augmentation.view(draws.rng(draws.names[index]), told[key])
                    for key, index in firsts.items()
                }
            if self.features is not None and draws.augments and name == "images":
                views = dict.fromkeys(range(len(wanted)), self.features.view)
            options = {"rngs": rngs, "on_fault": self.on_fault, "views": views}
            read = read_media(self.processor, name, wanted, self.on_error, **options)
            for key, index in firsts.items() if changes and views is None else ():
                own_name = draws.names[index]
                rng, changed = draws.rng(own_name), self._augmentation.changed
                read[index] = [changed(medium, rng, draws, own_name, told[key]) for medium in read[index]]
            media[name] = {key: read[index] for key, index in firsts.items()}
        return media

    def _cut(self, media: dict[str, dict], wanted: set) -> tuple[dict[Any, list] | None, dict[Any, Any]]:
        """Puts tiles in the place of the pictures of the `wanted` contexts, and gives what stands for each picture,
        and the image_grids of each context, where the model is told some."""
        places, held = self.processor.places(), media["images"]
        if places is None or places.tiles is None:
            return None, {}
        keys = [key for key in held if key in wanted]
        processor = self.processor
        cut, parts, told = places.cut([held[key] for key in keys], processor.tokenizer, processor.image_processor, {})
        held.update(zip(keys, cut, strict=True))
        return dict(zip(keys, parts, strict=True)), dict(zip(keys, told.get("image_grids", []), strict=False))

    def _rows(
        self, fields: dict[str, list], sources: list[dict], parts: list | None
    ) -> tuple[dict[str, Any], Samples | None]:
        """input_ids, attention_mask, in training with suffixes labels, and what comes of context texts; and how they
        are nested. parts: what stands for each picture of each sample, where pictures are cut."""
        if not fields:
            return {}, None
        paired = pair_samples({}, *(fields.get(name) for name in ("text", "suffix", "context_text")))
        owners = [number for number, rows in enumerate(paired.prompts or []) for _ in rows]
        processor = self.processor if parts is None else self.processor.with_parts([parts[owner] for owner in owners])
        ends = None if self.mode == "train" else False
        options: dict[str, Any] = {**fields, **self._layout(), "add_eos_token": ends, "return_tensors": "pt"}
        made = dict(processor(**options))
        places = processor.places()
        if places is not None and places.is_inside and "input_ids" in made:
            given = {name: [held[name] for held in sources] for name in MEDIA_OF if any(one[name] for one in sources)}
            places.check(made["input_ids"].tolist(), given, owners)
        return made, paired

    def _chats(self, chats: list, sources: list[dict], parts: list | None) -> dict[str, Any]:
        """As `_rows`, of conversations."""
        processor = self.processor if parts is None else self.processor.with_parts(parts)
        return chat_batch(processor, chats, sources, self.mode == "train", **self._layout())

    def _media(
        self, media: dict[str, list[list]], wanted: list[str], has_rows: bool, rngs: Any, draws: Draws
    ) -> dict[str, torch.Tensor]:
        """The tensors of the media of each context, masked blanks for the modalities that the batch has none of.

        wanted: the modalities that the samples have columns for; "images" where they have none.
        """
        found = {
            name: held for name, held in media.items() if any(medium is not None for row in held for medium in row)
        }
        if not found and not has_rows:
            raise ValueError("the samples hold no texts, images, videos or sounds that can be read")
        batch = {}
        stored = {} if self.features is None or not draws.augments else {"images": self.features}
        for name, held in found.items():
            store = stored.get(name)
            batch |= media_tensors(self.processor, name, held, rngs) if store is None else store.tensors(held)
        rows = len(next(iter(media.values()))) if found else 1
        for name in wanted or ["images"]:
            if self.blank_media and has_rows and name not in found:
                store = stored.get(name)
                batch |= blank_media(self.processor, name, rows) if store is None else store.blank(rows)
        return batch
