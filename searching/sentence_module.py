"""MMSentenceModule: a retrieval model of MM as a module of sentence-transformers.

    items ─┬─ texts ── input_ids ── encode_text ────────────┐
           └─ media, by kinds and counts ── encode_context ─┴─ an item's sum, at length 1 ── "sentence_embedding"

n items, P projection_dim.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

from ..modeling_mm.tasks.contrastive_head import normalised
from ..modeling_mm.tasks.pipelines import composed
from ..processing.media_kinds import Encodable, column_of

try:
    from sentence_transformers.base.modules import (  # pyright: ignore[reportMissingImports]: build/apps has it
        InputModule,
    )
except ImportError:
    InputModule = None

NOTE = "sentence_module.json"


_Base: Any = InputModule or torch.nn.Module


class MMSentenceModule(_Base):
    """The first and only module of a `SentenceTransformer`: `SentenceTransformer(modules=[MMSentenceModule(folder)])`.

    `encode`, `similarity`, the evaluators and the trainer of sentence-transformers then work as with their own models;
    `save_pretrained` writes a folder that both libraries load, `SentenceTransformer(folder, trust_remote_code=True)`
    among them (their rule for a module that is not one of theirs). Embeddings are those of `model.encode`.

    A string is a text, unless it ends as a medium's file does: then it must be the path of a file. Other items are as
    of `model.encode`. As is usual there, texts are cut at `max_seq_length`.

    Args:
        model: an MMForImageTextRetrieval, or its folder or Hub id.
        processor: an MMProcessor; None: that in the model's folder.
        max_seq_length: tokens that are read of a text; None: as many as the model has positions.

    Raises: TypeError for another model or processor; ValueError for a max_seq_length of no text or beyond the model's
    positions; ImportError without sentence-transformers ('.[sentence]').
    """

    def __init__(self, model: Any, processor: Any = None, max_seq_length: int | None = None):
        if InputModule is None:
            raise ImportError("MMSentenceModule needs sentence-transformers: pip install '.[sentence]'")
        super().__init__()
        if isinstance(model, (str, os.PathLike)):
            processor = AutoProcessor.from_pretrained(model) if processor is None else processor
            model = AutoModelForZeroShotImageClassification.from_pretrained(model)
        if not hasattr(model, "encode_labels"):
            raise TypeError(f"model must be an MMForImageTextRetrieval, or its folder; got {type(model).__name__}")
        self.model = model
        self.processor = model._processor_for_items(processor)
        self.max_seq_length = self._positions() if max_seq_length is None else max_seq_length

    @property
    def max_seq_length(self) -> int:
        return self._longest

    @max_seq_length.setter
    def max_seq_length(self, longest: int) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]: checked here
        most = self._positions()
        if type(longest) is not int or not 1 <= longest <= most:
            raise ValueError(f"max_seq_length={longest!r}; accepted are whole numbers from 1 to {most}")
        self._longest = longest

    def _positions(self) -> int:
        return self.model._whole_texts(self.processor, {"truncation": True})["max_length"]

    @property
    def tokenizer(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]: theirs is an annotation
        return self.processor.tokenizer

    @property
    def modalities(self) -> list[Any]:
        """Kinds of items. "message" is their word for batches of several kinds; chat messages are refused."""
        return ["text", *self.model.config.modalities, "message"]

    def get_embedding_dimension(self) -> int:
        return self.model.config.projection_dim

    # ---- items to tensors, and to embeddings -----------------------------------------------------------------------

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Tensors of each group of items that have the same kinds of media, and "rows" (of the group) of its places.

        The names of the first group are the processor's own, those of others begin with "groupK.".
        Args: prompt goes before each text; task, "query" or "document", is the same to these models.
        Raises: ValueError for what is no item, and for processing_kwargs; MediaDecodeError.
        """
        if processing_kwargs:
            raise ValueError(f"processing_kwargs={dict(processing_kwargs)!r:.80} are not read by a model of MM")
        items = [self._item(one, number) for number, one in enumerate(inputs)]
        groups: dict[Any, list[int]] = {}
        for number, item in enumerate(items):
            if item.text is not None:
                groups.setdefault(None, []).append(number)
            if item.media:
                kinds = tuple(sorted((name, len(sources)) for name, sources in item.media.items()))
                groups.setdefault(kinds, []).append(number)
        features: dict[str, Any] = {}
        for place, (kinds, numbers) in enumerate(groups.items()):
            if kinds is None:
                texts = [composed((prompt or "") + str(items[number].text)) for number in numbers]
                cut: dict[str, Any] = {"truncation": True, "max_length": self.max_seq_length}
                both = self.processor(text=texts, return_tensors="pt", **cut)
                read = {name: both[name] for name in ("input_ids", "attention_mask")}
            else:
                media = {name: [items[number].media[name] for number in numbers] for name, _ in kinds}
                read = dict(self.processor(**media, return_tensors="pt"))
            read["rows"] = torch.tensor(numbers)
            features |= {(f"group{place}." if place else "") + name: value for name, value in read.items()}
        return features

    def _item(self, item: Any, number: int) -> Encodable:
        """What an item holds. A string without a medium's ending is a text here, also "setup.py" or a link."""
        if isinstance(item, str) and item.strip() and column_of(item.strip()) is None:
            return Encodable({}, item)
        try:
            return self.processor.encodable(item)
        except (TypeError, ValueError) as fault:
            raise ValueError(f"inputs[{number}]: {fault}") from fault  # after a TypeError they would try again

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds "sentence_embedding" (n, P), of length 1 and with a gradient."""
        groups: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in features.items():
            if torch.is_tensor(value):
                group, _, own = name.rpartition(".")
                groups[group][own] = value
        rows = {group: read.pop("rows") for group, read in groups.items() if "rows" in read}
        places = torch.cat(list(rows.values())).unique()  # a part of a batch does not begin at 0
        found = None
        for group, own in rows.items():
            embeds = self._embeds(groups[group])
            found = embeds.new_zeros(len(places), embeds.shape[1]) if found is None else found
            found = found.index_add(0, torch.searchsorted(places, own), embeds)
        features["sentence_embedding"] = normalised(found)
        return features

    def _embeds(self, read: dict[str, torch.Tensor]) -> torch.Tensor:
        if "input_ids" in read:
            return self.model.encode_text(read["input_ids"], attention_mask=read["attention_mask"]).float()
        dtype = self.model.dtype
        media = {name: value.to(dtype) if value.is_floating_point() else value for name, value in read.items()}
        return normalised(self.model.itc_head.of_context(self.model._context(**media))).float()

    # ---- files -----------------------------------------------------------------------------------------------------

    def get_config_dict(self) -> dict[str, Any]:
        return {"max_seq_length": self.max_seq_length}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Model and processor in their usual files. Raises ValueError for safe_serialization=False."""
        if not safe_serialization:
            raise ValueError("models of MM are saved as safetensors; leave safe_serialization as it is")
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path, NOTE)

    @classmethod
    def load(
        cls, model_name_or_path: str, subfolder: str = "", token: bool | str | None = None,
        cache_folder: str | None = None, revision: str | None = None, local_files_only: bool = False,
        model_kwargs: Mapping[str, Any] | None = None, **kwargs: Any,
    ) -> "MMSentenceModule":  # fmt: skip
        """What `save` wrote. model_kwargs: of from_pretrained, such as dtype."""
        place: dict[str, Any] = {
            "subfolder": subfolder, "token": token, "revision": revision, "local_files_only": local_files_only,
        }  # fmt: skip
        held = cls.load_config(model_name_or_path, config_filename=NOTE, cache_folder=cache_folder, **place)
        found = {**place, "cache_dir": cache_folder}
        model = AutoModelForZeroShotImageClassification.from_pretrained(
            model_name_or_path, **found, **dict(model_kwargs or {})
        )
        return cls(model, AutoProcessor.from_pretrained(model_name_or_path, **found), **held)
