"""The model and the processor that a run starts from, and which of its weights are new, frozen, or an adapter.

model            a saved model of MM, of any class: its own weights, the head of another task is new
preset, config   new weights
towers           published towers; what is between them is new
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging

from ..configuration.base import unknown_fields
from ..configuration.mm import MMConfig
from ..configuration.presets import PRESETS
from ..configuration.settings import nearest
from ..modeling_mm.core.loading import COPIES
from ..processing.images.processor import MMImageProcessorPil
from ..processing.processor import MMProcessor
from ..processing.vocabulary import new_vocabulary
from .arguments import ModelArguments, RunArguments, as_dict, as_names
from .chatting import IN_CHATS, placeholder_ids, with_chats
from .class_fields import class_fields
from .plan import parts_of
from .samples import RunData
from .tasks import KINDS, class_of

PACKAGED = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
TEXT_ATTENTION = r".*language_model\.layers\.\d+\.(self|cross)_attn\.[qkvo]_proj"
READ = 1000  # samples whose words are looked up
SOURCES = ("model", "vision_tower", "text_tower", "audio_tower", "text_encoder", "processor")  # folders or Hub ids
BETWEEN = ("vision_projector", "audio_projector")  # trained whole beside LoRA where they are new
NEW_HEADS = {"classify": ["classifier"], "retrieval": ["itc_head", "itm_head"]}


@dataclass
class Start:
    """told: what is printed of the start, a line each. new: names of the weights that were drawn."""

    model: Any
    processor: Any
    told: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def start(arguments: RunArguments, data: RunData) -> Start:
    """The model, processor and report of a run's start. ValueError or OSError where the source does not fit."""
    settings = arguments.model
    given = as_dict("config", settings.config) or {}
    by_labels = arguments.task == "classify" and not data.is_stream
    fields = {**given, **(class_fields(data, given) if by_labels else {})}
    with _naming(settings, SOURCES):
        if settings.preset:
            made = _of_preset(arguments, fields)
        elif settings.text_tower:
            made = _of_towers(arguments, fields)
        else:
            made = _of_model(arguments, fields)
    _check_parts(made.model.config, given)
    if getattr(getattr(made.model, "generation_config", None), "calibration", None) is not None:
        made.model.generation_config.calibration = None
        made.told.append("the calibration of the start is left out: it tells how sure its own weights may be")
    if settings.new_vocabulary:
        _renew_vocabulary(made, data, settings.new_vocabulary)
    _fit_processor(made, arguments)
    _tell_unknown(made, data)
    _tell_no_language(made)
    if unread := [name for name, _, trained in parts_of(made.model) if not trained]:
        made.told.append(f"frozen, because nothing that this task trains reads it: {', '.join(unread)}")
    if settings.freeze:
        made.model.freeze(*as_names(settings.freeze))
        made.told.append(f"frozen: {', '.join(as_names(settings.freeze))}")
    if settings.lora:
        _adapt(made, arguments)
    trained = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    if not trained:
        raise ValueError(f"freeze={settings.freeze} leaves nothing to train")
    made.told.append(f"{trained:,} of {sum(p.numel() for p in made.model.parameters()):,} weights are trained")
    return made


@contextmanager
def _naming(settings: ModelArguments, names: Iterable[str]) -> Iterator[None]:
    """An OSError names the settings that are no folder on this machine: Transformers says only that the Hub failed."""
    try:
        yield
    except OSError as error:
        given = {name: getattr(settings, name) for name in names}
        absent = [f"{name}={value!r}" for name, value in given.items() if value and not Path(value).exists()]
        if not absent:
            raise
        raise OSError(f"{', '.join(absent)}: no such folder, and the Hub did not give it: {error}") from error


def _check_parts(config: Any, given: dict[str, Any]) -> None:
    """Raises ValueError for a name in the settings of a part, such as text_config, that is no field of its class."""
    for name, fields in given.items():
        part = getattr(config, name, None)
        faults = unknown_fields(type(part), fields) if isinstance(part, PreTrainedConfig) else []
        if faults:
            raise ValueError(f"config.{name}: {'; '.join(faults)}")


def _flat(label: Any) -> Iterable[Any]:
    return label if isinstance(label, list) else [label]


# ---- where the weights come from ---------------------------------------------------------------------------------


def _of_model(arguments: RunArguments, fields: dict[str, Any]) -> Start:
    source = str(arguments.model.model or PACKAGED)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ValueError(f"no saved model in {source!r}: it holds no config.json")
    config: Any = AutoConfig.from_pretrained(source)
    if config.model_type != "mm":
        raise ValueError(
            f"{source!r} is no model of MM (its model_type is {config.model_type!r}); make one of it first: "
            f"mm convert {source} NEW_FOLDER"
        )
    named = (config.architectures or [None])[0]
    model_class = class_of(arguments.task, named)
    written_by = named or model_class.__name__
    labels = fields.get("num_labels")
    other = labels is not None and written_by == model_class.__name__ and labels != config.num_labels
    if other:
        raise ValueError(
            f"{source!r} is a classifier of {config.num_labels} classes, and the data have {labels}; start from a "
            "model of another task, or give data of the same classes"
        )
    with _without_their_table():
        model, info = model_class.from_pretrained(source, output_loading_info=True, **fields)
    new, lost = _checked(model_class, source, fields, info)
    made = Start(model, AutoProcessor.from_pretrained(arguments.model.processor or source), new=new)
    made.told.append(f"starts from {source}, written by {written_by}")
    _tell_new(made, f"{written_by} does not have them")
    if lost:
        made.told.append(f"not used by {model_class.__name__}: {_parts_of(lost)}")
    return made


@contextmanager
def _without_their_table() -> Iterator[None]:
    """Within, Transformers does not log which weights are new or unused: `Start.told` says it."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _checked(model_class: Any, source: str, fields: dict[str, Any], info: Any) -> tuple[list[str], list[str]]:
    """(new, unused) names of a loading whose faults were not raised: only heads may be either."""
    heads = {part for parts in model_class.head_modules_of.values() for part in parts}
    wrong = [name for name in info["missing_keys"] if name.split(".")[0] not in heads]
    if wrong or any(name.split(".")[0] not in heads for name in info["unexpected_keys"]):
        model_class.from_pretrained(source, **fields)  # raises, in its own words
        raise ValueError(f"{source!r} lacks {', '.join(sorted(wrong)[:5])}")
    new = [name for name in info["missing_keys"] if name.split(".")[0] not in COPIES]
    return sorted(new), sorted(info["unexpected_keys"])


def _of_preset(arguments: RunArguments, fields: dict[str, Any]) -> Start:
    name = str(arguments.model.preset)
    if name not in PRESETS:
        raise ValueError(f"preset={name!r}{nearest(name, PRESETS)}; accepted are {', '.join(PRESETS)}")
    processor = _processor_for(arguments.model, name)
    config = MMConfig.preset(name, tokenizer=processor.tokenizer, **fields)
    model = KINDS[arguments.task].model_class(config)
    processor.image_processor = _image_processor(processor, config)
    made = Start(model, processor, [f"starts from new weights: {name}"], [n for n, _ in model.named_parameters()])
    _tell_new(made, "the preset has none")
    return made


def _processor_for(settings: ModelArguments, name: str) -> MMProcessor:
    """The processor that was named, a new one around a tokenizer that was, or that of mm-tiny."""
    source = settings.processor
    if source is None:
        if name != "mm-tiny":
            raise ValueError(f"preset={name} needs the processor or tokenizer of its texts: --processor FOLDER")
        return MMProcessor.from_pretrained(PACKAGED)
    is_whole = Path(source).is_dir() and (Path(source) / "processor_config.json").is_file()
    if is_whole:
        return MMProcessor.from_pretrained(source)
    return MMProcessor(MMImageProcessorPil(), AutoTokenizer.from_pretrained(source))


def _image_processor(processor: MMProcessor, config: MMConfig) -> Any:
    """The processor's own, giving pictures of the size that the model reads."""
    vision: Any = config.vision_config
    size = getattr(vision, "image_size", None)
    own = processor.image_processor
    if own is None or size is None:
        return own
    height, width = (size, size) if isinstance(size, int) else size
    return type(own)(**{**own.to_dict(), "size": {"height": height, "width": width}})


def _of_towers(arguments: RunArguments, fields: dict[str, Any]) -> Start:
    settings = arguments.model
    text = str(settings.text_tower)
    if settings.processor:
        processor = AutoProcessor.from_pretrained(settings.processor)
    else:
        pictures = None if settings.vision_tower is None else AutoImageProcessor.from_pretrained(settings.vision_tower)
        sounds = None
        if settings.audio_tower is not None:
            from transformers import AutoFeatureExtractor

            sounds = AutoFeatureExtractor.from_pretrained(settings.audio_tower)
        processor = MMProcessor(pictures, AutoTokenizer.from_pretrained(text), sounds)
    if arguments.task == "chat":
        fields = {**IN_CHATS, **fields, **placeholder_ids(processor, settings)}
    towers = {"audio": settings.audio_tower, "text_encoder": settings.text_encoder}
    model_class = KINDS[arguments.task].model_class
    model = model_class.from_towers(settings.vision_tower, text, tokenizer=processor.tokenizer, **towers, **fields)
    said = " and ".join(str(one) for one in (settings.vision_tower, settings.audio_tower, text) if one)
    new = list(model._drawn)
    if arguments.task == "chat":
        processor = with_chats(processor, model.config)
        most, tokenizer = model.config.text_config.max_position_embeddings, processor.tokenizer
        tokenizer.model_max_length = min(most, tokenizer.model_max_length)  # many language models' name no length
    made = Start(model, processor, [f"starts from the towers {said}"], new)
    _tell_new(made, "no tower has them")
    return made


# ---- what is told ------------------------------------------------------------------------------------------------


def _tell_new(made: Start, why: str) -> None:
    if not made.new:
        return
    sizes = dict(made.model.named_parameters()) | dict(made.model.named_buffers())
    count = sum(sizes[name].numel() for name in made.new if name in sizes)
    made.told.append(
        f"NEW WEIGHTS ({count:,}, {why}): {_parts_of(made.new)}. They know nothing until they are trained"
    )


def _parts_of(names: Iterable[str]) -> str:
    """The modules that weights belong to: layers of a stack as one, without the names of weights."""
    found = dict.fromkeys(
        re.sub(r"\.\d+(?=\.)", ".*", name.removeprefix("model.")).rpartition(".")[0] for name in names
    )
    parts = list(found)
    if len(parts) > 8:
        parts = list(dict.fromkeys(part.partition(".")[0] for part in parts))
    return ", ".join(parts)


# ---- what fits the processor and the model to the task -------------------------------------------------------------


def _fit_processor(made: Start, arguments: RunArguments) -> None:
    if made.processor.tokenizer is None:
        raise ValueError("the processor has no tokenizer, so no text can be learned; give another processor")
    if KINDS[arguments.task].whole_texts and not made.processor.add_eos_token:
        made.processor.add_eos_token = True
        made.told.append("texts are read to their end: the processor closes them with eos")
    config = made.model.config
    asks = KINDS[arguments.task].writes and config.has_text_encoder and not config.decoder_sees_media
    if asks and made.processor.prompt_to != "context":
        made.processor.prompt_to = "context"
        made.told.append("questions go to the text encoder (prompt_to='context')")


def _renew_vocabulary(made: Start, data: RunData, size: int) -> None:
    if data.is_stream:
        raise ValueError(
            "new_vocabulary reads all texts before training; a stream does not have them (streaming=false)"
        )
    old = len(made.processor.tokenizer)
    made.processor = new_vocabulary(made.model, made.processor, _texts(data), size)
    new = len(made.processor.tokenizer)
    made.told.append(
        f"NEW VOCABULARY: {new:,} byte-level pieces, made of the data's texts, in place of {old:,}; each starts as "
        "the mean of the old ones that spell it"
    )


def _texts(data: RunData, most: int | None = None) -> list[str]:
    """What the samples say, of the first `most`."""
    return [
        text
        for sample in data.train.samples[:most]
        for name in ("text", "suffix")
        for text in _flat(sample.get(name))
        if isinstance(text, str)
    ]


def _tell_unknown(made: Start, data: RunData) -> None:
    """Tells how many texts have words that the tokenizer does not know; of the first samples."""
    tokenizer = made.processor.tokenizer
    if data.is_stream or tokenizer.unk_token_id is None:
        return
    texts = _texts(data, READ)
    if not texts:
        return
    # Without what opens and ends a row: a Whisper's end is also its unknown word. Their lengths are told elsewhere.
    read = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    unknown = [text for text, ids in zip(texts, read, strict=True) if tokenizer.unk_token_id in ids]
    if unknown:
        told = f"{len(unknown)} of {len(texts)} texts have words that the tokenizer does not know"
        made.told.append(
            f"UNKNOWN WORDS: {told}, such as {unknown[0][:60]!r}; the model reads {tokenizer.unk_token} for "
            "them. Another model or processor may know them"
        )


def _tell_no_language(made: Start) -> None:
    """Tells of a Whisper of several languages whose rows open with none of them, unlike what is asked of it later."""
    languages = getattr(getattr(made.model, "generation_config", None), "lang_to_id", None) or {}
    opening = getattr(made.processor.tokenizer, "prefix_tokens", None)
    if isinstance(opening, list) and languages and set(languages.values()).isdisjoint(opening):
        made.told.append(
            f"NO LANGUAGE: transcription asks for a language and a task, and rows that open with "
            f"{made.processor.tokenizer.decode(opening)} do not teach them. Save the processor after "
            "processor.tokenizer.set_prefix_tokens(language='en', task='transcribe'), and train from it"
        )


def _adapt(made: Start, arguments: RunArguments) -> None:
    """Puts LoRA adapters around the model; heads that are new are trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as fault:
        raise ModuleNotFoundError("lora needs PEFT: pip install '.[peft]' in the checkout") from fault
    settings = arguments.model
    targets = settings.lora_targets or TEXT_ATTENTION
    names = as_names(targets) if "," in targets else targets
    new = {part for name in made.new for part in name.split(".")[:2]}
    heads = [name for name in (*NEW_HEADS.get(arguments.task, []), *BETWEEN) if name in new]
    if settings.lora_save == "adapter" and not (made.model.config.name_or_path or heads):
        raise ValueError("an adapter needs the folder of its base model; give model, or lora_save=merged")
    lora = LoraConfig(
        r=int(settings.lora or 0),
        lora_alpha=settings.lora_alpha or 2 * int(settings.lora or 0),  # pyright: ignore[reportArgumentType]: floats too
        target_modules=names,
        modules_to_save=heads or None,
    )
    made.model = get_peft_model(made.model, lora)
    saved = {"merged": "merged into the weights at the end", "adapter": "saved without the base model"}
    whole = f"; trained whole: {', '.join(heads)}" if heads else ""
    made.told.append(f"LoRA of rank {settings.lora}, {saved[settings.lora_save]}{whole}")


def load_teacher(arguments: RunArguments, student: Any) -> Any:
    """The teacher of a distillation, in eval mode. ValueError where its words are not the student's."""
    from ..modeling_mm.tasks.generation import MMForConditionalGeneration

    source = str(arguments.model.teacher)
    with _naming(arguments.model, ["teacher"]):
        teacher = MMForConditionalGeneration.from_pretrained(source)
    theirs, own = teacher.config.text_config.vocab_size, student.config.text_config.vocab_size
    if theirs != own:
        raise ValueError(f"teacher {source!r} has {theirs} words and the model {own}; both need one vocabulary")
    return teacher.eval().requires_grad_(False)
