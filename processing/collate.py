"""From samples to a batch for Trainer, or for a loop of one's own.

    {image, text, suffix} ×R ── read, augment, share ── MMProcessor ─┐
                                                                     ├─ dict of tensors, input_ids first
    {input_ids, labels, visual_embeds, …} ×R ── pad, stack ──────────┘

A sample is a row of text; samples with the same picture may share one context, which is then encoded once.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .augment import PictureAugmentation
from .masking import mask_patches, mask_tokens
from .media import MediaDecodeError
from .mm import MMProcessor, check_choice
from .rows import IGNORED_LABEL, pad_id, pad_rows
from .samples import column, label_tensor, picture_key, sources_of, stacked, texts

SAMPLE_COLUMNS = ("image", "images", "text", "suffix", "label")
# What a sample that went through the processor or a tower may hold, without batch dim: rows are padded, media stacked.
ROW_COLUMNS = ("input_ids", "attention_mask", "labels")
MEDIA_COLUMNS = ("pixel_values", "pixel_attention_mask", "visual_embeds")


class MMDataCollator:
    """Makes batches of samples.

    A sample is a dict with any of the columns
        image, images: one picture or a list of them, of any kind that `load_image` reads; None or [] for none;
        text, suffix: the prompt and what the model is to write; a list under text makes several rows;
        label: for classification, a number per sample or a vector;
        id: names the sample for augmentation, a whole number or a string;
    others are left aside. Or it holds the processor's output without batch dim: input_ids (T,), attention_mask (T,),
    labels (T,) or a label, pixel_values, pixel_attention_mask, visual_embeds (S, Dv), which are padded and stacked.

    Args:
        processor: an MMProcessor.
        max_length, pad_to_multiple_of: as in `MMProcessor.__call__`. padding_side: of training rows.
        blank_media: a batch without any picture gets one masked blank picture, so that every batch runs through the
            same modules (as gradient synchronisation between processes wants it).
        share_media: samples with the same picture (equal path, equal bytes, or the same object) share a context.
        augment: "saved" for the settings kept with the image processor (`mm.processing.augment.PictureAugmentation`,
            which also looks at the texts), or a callable(image, rng) -> image on upright RGB images. In mode "train"
            only; rng is a numpy Generator made of (seed, epoch, sample id). Without an id column the position in the
            batch stands for it. A shared picture is augmented once, for the first of its samples.
        seed: first part of that rng.
        on_error: for unreadable pictures: "raise", "skip" (the sample is left out) or "placeholder" (the picture is).
        return_loss: add return_loss=True to the batch, for models whose loss needs no labels; what a suffix makes is
            then called lm_targets.
        mlm_probability: hide so many of the tokens: masked_input_ids and mlm_targets, both (R, T). masked_lm: put
            them in the place of input_ids and labels, for MMForMaskedLM.
        mim_ratio: hide so many of the patches of each picture: bool_masked_pos (B[, N], L). patch_size: of the tower.
            What is hidden is drawn from (seed, epoch, sample id), as augmentation is.
        mode: "train", or "generate": prompts alone, padded at the left, without labels, ready for generate().
    """

    def __init__(
        self,
        processor: MMProcessor,
        *,
        max_length: int | None = None,
        padding_side: str = "right",
        pad_to_multiple_of: int | None = None,
        blank_media: bool = True,
        share_media: bool = True,
        augment: Callable[[Image.Image, np.random.Generator], Image.Image] | str | None = None,
        seed: int = 0,
        on_error: str = "raise",
        return_loss: bool = False,
        mlm_probability: float = 0.0,
        masked_lm: bool = False,
        mim_ratio: float = 0.0,
        patch_size: int | None = None,
        mode: str = "train",
    ):
        check_choice("padding_side", padding_side, ("left", "right"))
        check_choice("on_error", on_error, ("raise", "skip", "placeholder"))
        check_choice("mode", mode, ("train", "generate"))
        for name, share in {"mlm_probability": mlm_probability, "mim_ratio": mim_ratio}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share!r}; accepted are shares from 0 to 1")
        if mlm_probability and (processor.tokenizer is None or processor.tokenizer.mask_token_id is None):
            raise ValueError(f"mlm_probability={mlm_probability} needs a mask token: set tokenizer.mask_token")
        if masked_lm and not mlm_probability:
            raise ValueError(
                "masked_lm=True hides tokens by mlm_probability, which is 0; set it, for instance to 0.15"
            )
        if mim_ratio and patch_size is None:
            raise ValueError(f"mim_ratio={mim_ratio} hides patches; say patch_size, the vision tower's")
        self.processor = processor
        self.max_length = max_length
        self.padding_side = padding_side
        self.pad_to_multiple_of = pad_to_multiple_of
        self.blank_media = blank_media
        self.share_media = share_media
        self.augment = _saved_augmentation(processor) if augment == "saved" else augment
        self.seed = seed
        self.on_error = on_error
        self.return_loss = return_loss
        self.mlm_probability = mlm_probability
        self.masked_lm = masked_lm
        self.mim_ratio = mim_ratio
        self.patch_size = patch_size
        self.mode = mode
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Number of the epoch, for augmentation. Workers of a DataLoader take it over when they start."""
        self.epoch = epoch

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch: a dict of tensors as `MMProcessor.__call__` describes them, input_ids first.

        Raises ValueError or TypeError for samples that hold nothing to read or do not fit together, and what the
        processor raises.
        """
        if not samples:
            raise ValueError("no samples to make a batch of")
        columns = set().union(*samples)
        if columns & {"input_ids", *MEDIA_COLUMNS}:
            batch, rows, contexts = self._stack(samples)
        elif columns & set(SAMPLE_COLUMNS):
            batch, rows, contexts = self._process(samples)
        else:
            raise ValueError(
                f"the samples hold the columns {sorted(columns)}, none of {SAMPLE_COLUMNS}; under Trainer set "
                f"remove_unused_columns=False, since it drops columns that the model's forward does not name"
            )
        if self.mode == "train":
            batch = self._hidden(batch, rows, contexts)
        if self.return_loss:
            if "labels" in batch:
                batch["lm_targets"] = batch.pop("labels")
            batch["return_loss"] = True
        return batch

    def _hidden(self, batch: dict[str, Any], rows: list[str], contexts: list[str]) -> dict[str, Any]:
        """The batch with what the masked losses need; rows and contexts by names that their random numbers go by."""
        if self.mlm_probability and "input_ids" in batch:
            rngs = [sample_rng(self.seed, self.epoch, f"{name}/tokens") for name in rows]
            ids, mask = batch["input_ids"], batch["attention_mask"]
            masked, targets = mask_tokens(ids, mask, self.processor.tokenizer, self.mlm_probability, rngs)
            if self.masked_lm and "labels" in batch:
                raise ValueError("masked_lm=True makes labels, and so do suffix and label: drop one")
            names = ("input_ids", "labels") if self.masked_lm else ("masked_input_ids", "mlm_targets")
            batch |= dict(zip(names, (masked, targets), strict=True))
        if self.mim_ratio and "pixel_values" in batch:
            held = contexts[: len(batch["pixel_values"])]  # a blank stands for all
            rngs = [sample_rng(self.seed, self.epoch, f"{name}/patches") for name in held]
            hidden = mask_patches(batch["pixel_values"], self.patch_size or 1, self.mim_ratio, rngs)
            present = batch.get("pixel_attention_mask")
            batch["bool_masked_pos"] = hidden if present is None else hidden & present[..., None]
        return batch

    def _process(self, samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str], list[str]]:
        """A batch of raw samples, and the names of its rows and contexts."""
        sources = [sources_of(index, sample) for index, sample in enumerate(samples)]
        prompts, suffixes, labels = texts(samples, "text"), texts(samples, "suffix"), column(samples, "label")
        if prompts is None and suffixes is not None:
            prompts = [[""] * len(rows) for rows in suffixes]
        if labels is not None and suffixes is not None:
            raise ValueError("the samples have both suffix and label, and both make labels: drop one")
        keys = [index if prompts is None else self._context_key(index, found) for index, found in enumerate(sources)]
        pictures = self._read(samples, sources, keys)
        kept = [index for index, key in enumerate(keys) if self.on_error != "skip" or None not in pictures[key]]
        if not kept:
            raise MediaDecodeError("none of the samples has images that can be read; the log names each")
        counts = [1 if prompts is None else len(prompts[index]) for index in kept]
        contexts = list(dict.fromkeys(keys[index] for index in kept))

        batch = {} if prompts is None else self._rows(prompts, suffixes, kept)
        if labels is not None and self.mode == "train":
            batch["labels"] = label_tensor([labels[index] for index in kept], counts)
        media = self._media([pictures[key] for key in contexts], rows=prompts is not None)
        if prompts is not None and media:
            held = len(media["pixel_values"])
            place = {key: number for number, key in enumerate(contexts)}
            index = np.repeat([place[keys[index]] for index in kept], counts)
            if held < len(contexts):  # the blank stands for all
                index[:] = 0
            if not np.array_equal(index, np.arange(held)):
                media["context_index"] = torch.from_numpy(index)
        names = [str(sample.get("id", index)) for index, sample in enumerate(samples)]
        rows = [f"{names[index]}/{row}" for index, count in zip(kept, counts, strict=True) for row in range(count)]
        return batch | media, rows, [names[keys.index(key)] for key in contexts]

    def _context_key(self, index: int, sources: list) -> Any:
        """What samples that share a context have in common: the same pictures, or none at all."""
        if not self.share_media:
            return index
        return tuple(picture_key(source) for source in sources)

    def _read(self, samples: Sequence[Mapping[str, Any]], sources: list[list], keys: list) -> dict[Any, list]:
        """The pictures of each context, read and augmented once, for the first of its samples."""
        firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
        wanted = [
            found if firsts[key] == index else [] for index, (found, key) in enumerate(zip(sources, keys, strict=True))
        ]
        read = self.processor.read_pictures(wanted, self.on_error)
        if self.augment is not None and self.mode == "train":
            for index in firsts.values():
                rng = sample_rng(self.seed, self.epoch, samples[index].get("id", index))
                sharing = [sample for sample, key in zip(samples, keys, strict=True) if key == keys[index]]
                told = [words for sample in sharing for words in _texts_of(sample)]
                read[index] = [picture and _augmented(self.augment, picture, rng, told) for picture in read[index]]
        return {key: read[index] for key, index in firsts.items()}

    def _rows(self, prompts: list[list[str]], suffixes: list[list[str]] | None, kept: list[int]) -> dict[str, Any]:
        """input_ids, attention_mask and, in training with suffixes, labels."""
        train = self.mode == "train"
        return dict(
            self.processor(
                text=[prompts[index] for index in kept],
                suffix=[suffixes[index] for index in kept] if train and suffixes is not None else None,
                max_length=self.max_length,
                padding_side=self.padding_side if train else "left",
                pad_to_multiple_of=self.pad_to_multiple_of,
                add_eos_token=None if train else False,
                return_tensors="pt",
            )
        )

    def _media(self, pictures: list[list[Image.Image | None]], rows: bool) -> dict[str, torch.Tensor]:
        """pixel_values and pixel_attention_mask; of one masked blank picture where rows have none and want it."""
        if any(picture is not None for context in pictures for picture in context):
            return self.processor.picture_tensors(pictures)
        if not rows:
            raise ValueError("the samples hold neither texts nor images that can be read")
        if not self.blank_media or self.processor.image_processor is None:
            return {}
        blank = self.processor.picture_tensors([[Image.new("RGB", (16, 16))]])["pixel_values"]
        return {
            "pixel_values": torch.zeros_like(blank)[None],
            "pixel_attention_mask": torch.zeros(1, 1, dtype=torch.bool),
        }

    def _stack(self, samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str], list[str]]:
        """A batch of samples that went through the processor, or through a tower, before; rows are contexts."""
        names = [name for name in (*ROW_COLUMNS, *MEDIA_COLUMNS, "label") if name in samples[0]]
        for index, sample in enumerate(samples):
            if set(sample) - {"id"} != set(names):
                raise ValueError(
                    f"sample {index} holds the columns {sorted(sample)}; ready samples hold the same ones throughout, "
                    f"of {(*ROW_COLUMNS, *MEDIA_COLUMNS, 'label')}"
                )
        columns = {name: [torch.as_tensor(sample[name]) for sample in samples] for name in names}
        batch = self._padded_rows(columns) if "input_ids" in columns else {}
        given = columns.get("label") or columns.get("labels")
        if given and "labels" not in batch and self.mode == "train":
            batch["labels"] = label_tensor([label.numpy() for label in given], [1] * len(given))
        media = {name: stacked(name, columns[name]) for name in MEDIA_COLUMNS if name in columns}
        contexts = [str(sample.get("id", index)) for index, sample in enumerate(samples)]
        return batch | media, [f"{name}/0" for name in contexts], contexts

    def _padded_rows(self, columns: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and, where each token has a label, labels at one length."""
        ids = columns["input_ids"]
        if any(row.ndim != 1 for row in ids):
            raise ValueError(f"input_ids of a ready sample are (T,), without batch dim; got {tuple(ids[0].shape)}")
        rows = {
            "input_ids": ids,
            "attention_mask": columns.get("attention_mask") or [torch.ones_like(row) for row in ids],
        }
        labels = columns.get("labels")
        if labels and all(
            label.shape == row.shape and not label.is_floating_point() for label, row in zip(labels, ids, strict=True)
        ):
            rows["labels"] = labels
        if self.mode == "generate" and "labels" in rows:
            prompts = [label == IGNORED_LABEL for label in rows.pop("labels")]
            rows = {
                name: [row[keep] for row, keep in zip(values, prompts, strict=True)] for name, values in rows.items()
            }

        longest = max(len(row) for row in rows["input_ids"])
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"a ready sample has {longest} tokens, more than max_length={self.max_length}: cut it before"
            )
        length = longest + -longest % (self.pad_to_multiple_of or 1)
        side = self.padding_side if self.mode == "train" else "left"
        ragged = any(len(row) < length for row in rows["input_ids"])
        fills = {
            "input_ids": pad_id(self.processor.tokenizer) if ragged else 0,
            "attention_mask": 0,
            "labels": IGNORED_LABEL,
        }
        return {
            name: torch.tensor(pad_rows([row.tolist() for row in values], length, fills[name], side))
            for name, values in rows.items()
        }


def sample_rng(seed: int, epoch: int, sample_id: Any) -> np.random.Generator:
    """Random numbers that depend on (seed, epoch, sample id) alone, the same on every machine and in every order."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _saved_augmentation(processor: MMProcessor) -> PictureAugmentation:
    settings = getattr(processor.image_processor, "augmentation", None)
    if settings is None:
        raise ValueError('augment="saved", but the image processor has no augmentation; set its option to a dict')
    return PictureAugmentation(**settings)


def _texts_of(sample: Mapping[str, Any]) -> list[str]:
    """All that a sample says about its pictures."""
    values = [sample.get(name) for name in ("text", "suffix", "context_text")]
    return [words for value in values for words in (value if isinstance(value, (list, tuple)) else [value]) if words]


def _augmented(augment: Any, picture: Image.Image, rng: np.random.Generator, told: list[str]) -> Image.Image:
    changed = augment(picture, rng, told) if isinstance(augment, PictureAugmentation) else augment(picture, rng)
    if not isinstance(changed, Image.Image):
        raise TypeError(f"augment takes a PIL image and an rng and returns a PIL image; got {type(changed).__name__}")
    return changed
