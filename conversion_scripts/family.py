"""A family of published models: how the engine recognises, plans and writes it back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import no_init_weights

from ..configuration.mm import MMConfig
from ..weights.checkpoint import Checkpoint
from ..weights.key_table import KeyTable, raise_faults

# Settings by which two configs may differ and describe the same model.
_BESIDE = (
    "transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path", "id2label", "label2id",
    "initializer_range", "problem_type", "use_cache", "check_inputs", "converted_from",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How one checkpoint becomes an MM model.

    model_class: of MM. table: names on disk -> names in the model. generation: settings of generate(). tokens: special
    tokens by id, which the tokenizer must know (added if it does not). processor: settings of MMProcessor.
    pictures: options of the image processor, if no file of the source has them. sounds: likewise, of Whisper's feature
    extractor. tokenizer: of the source's directory (None: a file) the tokenizer, or None; where it is not simply what
    AutoTokenizer reads there.
    hears: the source has a feature extractor of sounds in the place of an image processor.
    record: what `layout` needs of the source's file in addition to the model, kept in MMConfig.converted_from.
    """

    model_class: type
    config: MMConfig
    table: KeyTable
    generation: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] | None = None
    sounds: Mapping[str, Any] | None = None
    tokenizer: Callable[[Path | None], Any] | None = None
    hears: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How an MM model is written back: the source's config, its class's name, and the same table.

    names: of tensors that decide the layout (a prefix, a pooler), as `Plan` reads them from a file.
    processor_settings: of the source's processor, beside its parts. picture_settings: of its image processor.
    films: a processor of videos that the source's has too, which MM reads none of: its class and settings. Such a
    processor is written as its file, as its class needs packages that MM does not.
    files: of the config, and of the weights without its ending. beside: processor -> settings of that config.
    """

    config: Any
    architecture: str
    names: tuple[str, ...]
    image_processor: str
    processor: str | None = None
    files: tuple[str, str] = ("config.json", "model")
    beside: Callable[[Any], Mapping[str, Any]] | None = None
    processor_settings: Mapping[str, Any] = field(default_factory=dict)
    picture_settings: Mapping[str, Any] = field(default_factory=dict)
    films: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """The config; Transformers' names the class too."""
        named = {"architectures": [self.architecture]} if self.files[0] == "config.json" else {}
        return {**self.config.to_dict(), **named}


class Unwritten(dict[str, None]):
    """The names of a checkpoint that is not written yet, and its config."""

    def __init__(self, layout: Layout):
        super().__init__(dict.fromkeys(layout.names))
        self.config, self.source, self.directory = layout.settings(), "an MM model", None


@dataclass(frozen=True)
class Texts:
    """Which texts a source reads as MM does, for `--verify`; the rest is in docs/conversion.md, What differs.

    padded: sides of padding under a mask. pads_inside: the id of the padding may be in a text like any other.
    skips_pads: such a pad is not a token, and is masked here (RoBERTa's positions). shortest: that it can read.
    """

    padded: tuple[str, ...] = ("right",)
    pads_inside: bool = True
    skips_pads: bool = False
    shortest: int = 1


def texts_of(config: MMConfig) -> Texts:
    """RoBERTa and TrOCR's fixed positions find padding by the id, everywhere in a text. For other models only the tail
    of a text is padding."""
    text = config.text_config
    if text.source_model_type not in (None, "bart"):
        return Texts(padded=("right", "left") if config.decoder_crosses else ("right",), skips_pads=True)
    return Texts(pads_inside=text.position_embedding_type != "sinusoidal")


@dataclass(frozen=True)
class Family:
    """name: as in `mm convert --to`. recognises: by config.json, else by the names of tensors.

    layout: an MM model -> its layout there; raises ValueError for a model that the family cannot express.
    compare: (theirs, ours, `verify.Given`) -> {output: (ours, theirs)}; None where both take and give the same names.
    decodes_by_config: whether config.json has the generation settings if there is no generation_config.json (older
        files).
    texts: a config of MM -> the texts that are compared.
    original: a source -> its own model in fp32, or ValueError for what must be installed; None where it is of
    Transformers.
    """

    name: str
    recognises: Callable[[Mapping[str, Any], Iterable[str]], bool]
    plan: Callable[[Checkpoint], Plan]
    layout: Callable[[Any], Layout] | None = None
    compare: Callable[[Any, Any, Any], Mapping[str, tuple[torch.Tensor, torch.Tensor]]] | None = None
    original: Callable[[Checkpoint], Any] | None = None
    texts: Callable[[MMConfig], Texts] = texts_of
    decodes_by_config: bool = False


def check_architecture(checkpoint: Checkpoint, wanted: str) -> None:
    """Raises ValueError for a part of a model of two towers, or one with another head."""
    architecture = (checkpoint.config.get("architectures") or [wanted])[0]
    if architecture != wanted:
        kind = checkpoint.config.get("model_type")
        raise ValueError(f"{architecture} is not known; of model_type={kind!r} this is: {wanted}")


def skeleton(model_class: type, config: MMConfig) -> Any:
    """The model without its numbers."""
    with torch.device("meta"), no_init_weights():
        return model_class(config)


def own_shapes(model: Any) -> dict[str, torch.Size]:
    """Name -> shape of every tensor that a model holds for itself, as files name it (a BEiT's have older names)."""
    own = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    return {name: value.shape for name, value in revert_weight_conversion(model, own).items()}


def differences(one: Any, two: Any, path: str = "") -> list[str]:
    """Text that lists where two nested settings differ."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        names = sorted({*one, *two} - set(_BESIDE))
        return [d for name in names for d in differences(one.get(name), two.get(name), f"{path}.{name}".strip("."))]
    return [] if one == two else [f"{path}={one!r}, which would come back as {two!r}"]


def _unjoined(settings: dict[str, Any]) -> dict[str, Any]:
    """Dual encoders were written as "decision" without projectors before there was fusion_type="none"."""
    is_late = settings["fusion_type"] == "decision" and settings["projector_type"] == "none"
    if is_late and settings["pretraining_losses"] == {"itc": 1.0}:
        return {**settings, "fusion_type": "none", "fusion_weights": None}
    return settings


def config_differences(one: MMConfig, two: MMConfig) -> list[str]:
    """Text that lists where two configurations are not of the same model."""
    return differences(_unjoined(one.to_dict()), _unjoined(two.to_dict()))


def check_returns(config: MMConfig, planned: MMConfig, family: str) -> None:
    """Raises ValueError unless the layout, converted again, is the same model."""
    raise_faults(f"this model is not a {family}", config_differences(config, planned))
