"""model.encode: strings, paths, pictures, sounds and dicts to embeddings, in batches of one kind.

    items ─┬─ texts, by length ── tokens ───── encode_text ──┐
           └─ media, by kind ──── tensors ── encode_context ─┴─ sum of an item's vectors, at length 1

n items, P projection_dim.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor

from ...weights.model_hash import hash_of_model
from ..core.modes import evaluating
from .contrastive_head import normalised
from .pipelines import composed
from .similarity_search import best, check_embeds


class MMEncoding:
    """encode(), similarity() and search() of a model that compares media with texts."""

    config: Any
    name_or_path: str
    itc_head: Any
    encode_text: Callable[..., torch.Tensor]
    _context: Callable[..., Any]

    @property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        model: Any = self  # a PreTrainedModel
        return model.device, model.dtype

    @torch.no_grad()
    def encode(
        self, inputs: Any, *, processor: Any = None, batch_size: int = 32, show_progress: bool = False, **options: Any
    ) -> torch.Tensor:
        """Embeddings of items, float32 (n, P) of length 1 on the CPU; (P,) of one item that is not in a list.

        An item is a text or path, a picture, a sound, or a dict with some of "text", "image", "video", "audio" (one
        of a kind, or a list); see `mm.processing.media_kinds.encodable`. A string that ends as a file's name does must
        be a file, any other is a text: what could be either raises an error. A dict of media and a text has the sum of
        both embeddings, at length 1. What else is in the list does not change an item's embedding.

        Args:
            processor: an MMProcessor; None: that in the model's folder.
            batch_size: items encoded at a time; texts of similar length go together.
            options: of the processor, such as truncation=True (cuts texts at the model's last position, or at
                max_length) or allow_urls=True.

        Raises: ValueError or TypeError, naming the item, for what is no item; MediaDecodeError (a ValueError) for a
            file that cannot be read.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} must be a whole number from 1")
        self._check_compares()
        if not isinstance(inputs, (list, tuple)):
            return self.encode([inputs], processor=processor, batch_size=batch_size, **options)[0]
        processor = self._processor_for_items(processor)
        options = self._whole_texts(processor, options)
        items = [_known(processor, item, number) for number, item in enumerate(inputs)]
        parts: list[tuple[list[int], torch.Tensor]] = []
        with evaluating(self), tqdm(total=len(items), unit=" items", disable=not show_progress) as bar:  # pyright: ignore[reportArgumentType]: a model
            for numbers in _media_batches(items, batch_size):
                media = [items[number].media for number in numbers]  # of the same kinds
                nested = {kind: [one[kind] for one in media] for kind in media[0]}
                parts.append((numbers, self.embed_read(processor(**nested, return_tensors="pt", **options))))
                bar.update(sum(items[number].text is None for number in numbers))
            for numbers in _text_batches(items, batch_size):
                texts = [composed(items[number].text) for number in numbers]
                read = processor(text=texts, return_tensors="pt", **options).to(self._place[0])
                embeds = self.encode_text(read["input_ids"], attention_mask=read["attention_mask"])
                parts.append((numbers, embeds.float().cpu()))
                bar.update(len(numbers))
        found = torch.zeros(len(items), parts[0][1].shape[1] if parts else self.config.projection_dim)
        for numbers, embeds in parts:
            found[numbers] += embeds
        return normalised(found)

    def similarity(self, a: Any, b: Any, **options: Any) -> torch.Tensor:
        """Cosine similarities (n, m) of embeddings (n, P) and (m, P), or of items, which `encode` reads."""
        a, b = (_rows(self._embeds(one, options)) for one in (a, b))
        check_embeds(a, b, 1, 1)
        return normalised(a) @ normalised(b.to(a)).T

    def search(
        self, query: Any, index: Any, top_k: int = 10, *, approximate: bool = False, **options: Any
    ) -> list[list[dict[str, Any]]]:
        """The best of an index for each query, best first: [{"index": its number, "score": cosine}, ...].

        Args:
            query: items, which `encode` reads, or embeddings (Q, P).
            index: embeddings (M, P); or an `mm.MMIndex`, whose hits have "path" and "kind", too.
            approximate: ask the graph of an MMIndex, which `mm embed --approximate` makes.
            options: of `encode`.

        Raises: ValueError for an MMIndex that another model, or other weights, made.
        """
        if not torch.is_tensor(index) and not hasattr(index, "check_model"):
            raise TypeError(
                f"index must be embeddings (M, P), a tensor, or an mm.MMIndex; got {type(index).__name__}: "
                "torch.from_numpy(...), torch.stack(...) or mm.MMIndex(folder)"
            )
        if torch.is_tensor(query) and set(options) - {"processor"}:
            raise TypeError(f"options of encode, {sorted(set(options) - {'processor'})}, are not read with embeddings")
        if not torch.is_tensor(index):
            index.check_model(hash_of_model(self, options.get("processor")))
            return index.search(_rows(self._embeds(query, options)), top_k, approximate)
        if approximate:
            raise ValueError("approximate=True asks the graph of an mm.MMIndex; the index is a tensor")
        query = _rows(self._embeds(query, options))
        check_embeds(query, index, top_k, 64)
        if not torch.isfinite(query).all():
            raise ValueError("the query holds numbers that are not finite (NaN or infinity)")
        scores, numbers = best(normalised(query), normalised(index), min(top_k, len(index)), 64)
        return [
            [{"index": number, "score": score} for number, score in zip(*row, strict=True)]
            for row in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]

    def _embeds(self, given: Any, options: dict[str, Any]) -> torch.Tensor:
        """Embeddings as they are, items encoded."""
        if torch.is_tensor(given):
            return given
        alike = given if isinstance(given, (list, tuple)) else [given]
        for one in alike:
            if isinstance(one, (np.ndarray, torch.Tensor)) and one.ndim in (1, 2) and "float" in str(one.dtype):
                if one.shape[-1] == self.config.projection_dim:
                    raise TypeError(
                        f"{type(one).__name__} of shape {tuple(one.shape)} could be embeddings, which are one tensor: "
                        'torch.from_numpy(...), torch.stack(...); a picture is {"image": ...}, a sound {"audio": ...}'
                    )
        return self.encode(given, **options)

    def encode_labels(self, labels: Sequence[str], template: str = "a photo of {}", **options: Any) -> torch.Tensor:
        """Embeddings (L, P) of labels for zero-shot classification, each in the place of {} in the template.

        options: of `encode`. Raises: ValueError for a template without {}, or labels that are none or twice.
        """
        if template.count("{}") != 1:
            raise ValueError(f"template={template!r} must have one {{}}, where the label goes")
        is_list = not isinstance(labels, str) and labels
        if not is_list or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ValueError(f"labels must be a list of texts; got {labels!r:.80}")
        if len({" ".join(label.split()) for label in labels}) < len(labels):
            raise ValueError(f"a label is given twice: {list(labels)!r:.80}")
        return self.encode([{"text": template.replace("{}", label)} for label in labels], **options)

    @torch.no_grad()
    def label_scores(self, embeds: torch.Tensor, label_embeds: torch.Tensor) -> torch.Tensor:
        """How well labels (L, P) fit media (n, P), float32 (n, L): shares that sum to 1 by softmax; of a model trained
        by the sigmoid loss the probability of each pair."""
        logits = self.itc_head.logits(embeds, label_embeds.to(embeds)).float()
        return logits.sigmoid() if self.config.contrastive_loss == "sigmoid" else logits.softmax(1)

    @torch.no_grad()
    def embed_read(self, read: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings float32 (n, P) of length 1 on the CPU, of media that a processor has read (its tensors)."""
        self._check_compares()
        device, dtype = self._place
        inputs = {
            name: value.to(device, dtype if torch.is_floating_point(value) else None) for name, value in read.items()
        }
        with evaluating(self):  # pyright: ignore[reportArgumentType]: a model
            return normalised(self.itc_head.of_context(self._context(**inputs))).float().cpu()

    def _check_compares(self) -> None:
        if self.itc_head is None:
            raise ValueError("this model has no contrastive head: its pretraining_losses do not name 'itc'")

    def _whole_texts(self, processor: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Options with the limit that truncation=True cuts at: the tokenizer may not know the model's positions."""
        if not options.get("truncation") or options.get("max_length") is not None or processor.tokenizer is None:
            return options
        limit = min(processor.tokenizer.model_max_length, self.config.text_config.max_position_embeddings)
        return {**options, "max_length": limit}

    def _processor_for_items(self, processor: Any) -> Any:
        if processor is None:
            processor = self.__dict__.get("_read_processor")
        if processor is None:
            if not self.name_or_path:
                raise ValueError("a model without a folder brings no processor; pass processor=..., an MMProcessor")
            processor = self.__dict__["_read_processor"] = AutoProcessor.from_pretrained(self.name_or_path)
        if not hasattr(processor, "encodable"):
            raise TypeError(f"processor must be an MMProcessor; got {type(processor).__name__}")
        if "MMForPreTraining" in (self.config.architectures or ()) and not processor.add_eos_token:
            processor = copy.copy(processor)
            processor.add_eos_token = True  # pre-training compares closed texts, and its prompts are open
        return processor


def _known(processor: Any, item: Any, number: int) -> Any:
    try:
        return processor.encodable(item)
    except (TypeError, ValueError) as fault:
        raise type(fault)(f"inputs[{number}]: {fault}") from fault


def _rows(embeds: torch.Tensor) -> torch.Tensor:
    return embeds[None] if embeds.ndim == 1 else embeds


def _media_batches(items: Sequence[Any], batch_size: int) -> list[list[int]]:
    """Numbers of items with media, in batches of the same kinds and counts."""
    groups: dict[Any, list[int]] = {}
    for number, item in enumerate(items):
        if item.media:
            key = tuple(sorted((name, len(sources)) for name, sources in item.media.items()))
            groups.setdefault(key, []).append(number)
    return [
        group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
    ]


def _text_batches(items: Sequence[Any], batch_size: int) -> list[list[int]]:
    numbers = [number for number, item in enumerate(items) if item.text is not None]
    numbers.sort(key=lambda number: len(items[number].text))
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
