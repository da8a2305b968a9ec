"""Whether a conversion computes what its source does: both models run on the same random inputs, in fp32.

A model in half precision is converted again in fp32 for the comparison, because a sum of two tensors is rounded in
half precision. Each tensor of the model must equal the fp32 one, rounded once.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import transformers
from transformers import ClapAudioConfig

from ..configuration.mm import MMConfig
from ..configuration.tower_kinds import ANY_SIZE, LENGTH_KINDS, heard_shape
from ..configuration.towers import tower_width
from ..weights.checkpoint import Checkpoint
from ..weights.key_table import raise_faults
from .family import Family, Plan, Texts, own_shapes, skeleton
from .loading import loaded

TOLERANCE = 1e-5  # of max(1, |x|), x the largest of an output
LENGTH, REGIONS = 8, 3
SMALL = 96  # pixels of pictures that may have any size
SAMPLES, FRAMES = 8000, 90  # of sounds that may have any length
EVERY, LARGEST = 12, 512  # up to EVERY each length is tried; LARGEST is the longest
_OF_SOME = ("visual_embeds", "input_features")  # read only by the `compare` of the families that have them
_SAME = ("logits", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds", "itm_logits")


class Given(NamedTuple):
    """Some texts of one length, each with a picture, and with a sound where the model hears."""

    pixel_values: torch.Tensor  # (R, C, H, W)
    input_ids: torch.Tensor  # (R, T)
    attention_mask: torch.Tensor  # (R, T), 0 where a text is padded
    visual_embeds: torch.Tensor  # (R, S, Dv), in place of pixel_values
    input_features: torch.Tensor  # (R, 1, ...), a clip as the audio tower takes it; empty without


def examples(config: MMConfig, texts: Texts) -> Iterator[Given]:
    """Random inputs of the model's sizes, the same at every call: what a conversion is most likely to get wrong.

    Texts of many lengths (each, where the longest is short), up to the longest. At each length: one text with the
    model's bos and eos; one of random ids, without them and with pads inside; one with the last ids of the vocabulary
    before its end, as with added tokens. Then texts of two lengths are padded, as the source knows it.
    """
    generator = torch.Generator().manual_seed(0)
    text = config.text_config
    for length in _lengths(texts.shortest, text.max_position_embeddings):
        rows = torch.stack([row(text, length, texts, generator) for row in (_closed, _any, _grown)])
        mask = (rows != text.pad_token_id).long() if texts.skips_pads else torch.ones_like(rows)
        yield _with_media(config, rows, mask, generator)
    length = min(LENGTH, text.max_position_embeddings)
    for side in texts.padded if length > 2 else ():
        rows = torch.stack([_closed(text, length, texts, generator) for _ in range(2)])
        mask = torch.ones_like(rows)
        short = length // 2
        moved = _closed(text, length - short, texts, generator)
        place = slice(short, None) if side == "left" else slice(None, length - short)
        mask[1] = 0
        rows[1] = 0 if text.pad_token_id is None else text.pad_token_id
        mask[1, place], rows[1, place] = 1, moved
        yield _with_media(config, rows, mask, generator)


def _lengths(shortest: int, longest: int) -> list[int]:
    """Every one up to EVERY, or a few and the longest."""
    some = range(1, longest + 1) if longest <= EVERY else (1, 2, 3, LENGTH, min(LARGEST, longest))
    return [length for length in some if length >= shortest]


def _plain(text: Any, texts: Texts) -> torch.Tensor:
    """The ids that a text has inside."""
    pads = {text.pad_token_id} if not texts.pads_inside else set()
    return torch.tensor([number for number in range(text.vocab_size) if number not in pads])


def _closed(text: Any, length: int, texts: Texts, generator: torch.Generator) -> torch.Tensor:
    eos = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
    ends = (text.bos_token_id, eos, text.pad_token_id)
    ids = torch.tensor([number for number in range(text.vocab_size) if number not in ends])
    row = ids[torch.randint(len(ids), (length,), generator=generator)]
    for place, end in ((0, ends[0]), (-1, eos)):
        if end is not None:
            row[place] = end
    return row


def _any(text: Any, length: int, texts: Texts, generator: torch.Generator) -> torch.Tensor:
    ids = _plain(text, texts)
    row = ids[torch.randint(len(ids), (length,), generator=generator)]
    if texts.pads_inside and text.pad_token_id is not None and length > 2:
        row[length // 2] = text.pad_token_id
    return torch.cat([_closed(text, 1, texts, generator), row[1:]]) if texts.skips_pads else row


def _grown(text: Any, length: int, texts: Texts, generator: torch.Generator) -> torch.Tensor:
    row, last = _closed(text, length, texts, generator), _plain(text, texts)[-3:]
    for place in range(1, length - 1, 2):
        row[place] = last[torch.randint(len(last), (1,), generator=generator)]
    return row


def _with_media(config: MMConfig, ids: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> Given:
    vision: Any = config.vision_config
    side = getattr(vision, "image_size", 224)
    side = SMALL if getattr(vision, "model_type", "") in ANY_SIZE else side
    height, width = (side, side) if isinstance(side, int) else side
    pixels = torch.randn(len(ids), getattr(vision, "num_channels", 3), height, width, generator=generator)
    width = 1 if vision is None else tower_width(vision)
    regions = torch.randn(len(ids), REGIONS, width, generator=generator)
    heard = torch.randn(len(ids), 1, *_sound_shape(config.audio_config), generator=generator)
    return Given(pixels, ids, mask, regions, heard)


def _sound_shape(audio: Any) -> tuple[int, ...]:
    """Of one clip, as its tower takes it."""
    if audio is None:
        return (0, 0)
    if isinstance(audio, ClapAudioConfig):
        channels = 4 if audio.enable_fusion else 1
        return channels, audio.spec_size * (audio.spec_size // audio.num_mel_bins), audio.num_mel_bins
    if audio.model_type in LENGTH_KINDS:
        return (FRAMES, heard_shape(audio)[-1]) if heard_shape(audio) else (SAMPLES,)
    return audio.num_mel_bins, 2 * audio.max_source_positions


def same_calls(theirs: Any, ours: Any, given: Given) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name -> (ours, theirs) for models that take the same inputs and give outputs of the same names."""
    outputs = []
    for model in (ours, theirs):
        accepted = inspect.signature(model.forward).parameters
        outputs.append(model(**{n: v for n, v in given._asdict().items() if n in accepted and n not in _OF_SOME}))
    return same_outputs(*outputs)


def same_outputs(here: Any, there: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name -> (here, there) of what two models both give."""
    return {name: (here[name], there[name]) for name in _SAME if name in here and name in there}


@torch.no_grad()
def verify(source: Checkpoint, model: Any, family: Family) -> list[str]:
    """Runs the source's own model and MM's on the same inputs; returns the largest difference of each output.

    Args:
        source: in the family's layout.
        model: of MM; a copy of it runs where it is not in fp32.

    Raises: ValueError where an output differs by more than TOLERANCE, or where nothing installed runs the source.
    """
    theirs = (family.original or _of_transformers)(source).eval()
    ours, compare = _in_fp32(source, model, family).eval(), family.compare or same_calls
    found: dict[str, list[tuple[float, float]]] = {}
    for given in examples(model.config, family.texts(model.config)):
        for name, (here, there) in compare(theirs, ours, given).items():
            found.setdefault(name, []).append(_difference(here, there))
    if not found:
        raise ValueError(f"--verify found no output that {type(theirs).__name__} and {type(model).__name__} both have")
    return _told(found)


class _Wide(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint in fp32."""

    def __init__(self, source: Checkpoint):
        self.source = source

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.source[name]
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


def _in_fp32(source: Checkpoint, model: Any, family: Family) -> Any:
    """The model in fp32. Raises ValueError if a model in half precision is not this one, rounded."""
    if model.dtype == torch.float32:
        return model
    if model.dtype == torch.float64:
        return copy.deepcopy(model).float()
    plan: Plan = family.plan(source)
    empty = skeleton(plan.model_class, plan.config)
    wide = loaded(plan, plan.table.convert(_Wide(source), own_shapes(empty)), torch.float32)
    there, new = wide.state_dict(), [name for name in plan.table.new]
    faults = [
        f"{name} is not the source's, rounded to {tensor.dtype}"
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
        and not _is_new(name, new)
        and not torch.equal(there[name].to(tensor.dtype), tensor)
    ]
    raise_faults("the model does not hold what its source does", faults)
    return wide


def _is_new(name: str, templates: list[str]) -> bool:
    return any(name.startswith(template.split("{")[0]) for template in templates)


def _of_transformers(source: Checkpoint) -> Any:
    """The class that the source's config.json names, in fp32."""
    name = (source.config.get("architectures") or ["none"])[0]
    if source.directory is None or not hasattr(transformers, name):
        raise ValueError(f"--verify compares with the source's class, and Transformers has none for it ({name})")
    cls = getattr(transformers, name)
    theirs, info = cls.from_pretrained(source.directory, dtype=torch.float32, output_loading_info=True)
    raise_faults(f"{name} does not load the source whole", sorted(info["missing_keys"]))
    return theirs


def _difference(here: torch.Tensor, there: torch.Tensor) -> tuple[float, float]:
    """The largest difference, and the bound on it."""
    return float((here - there).abs().max()), TOLERANCE * max(1.0, float(there.abs().max()))


def _told(found: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    """A line of every output. Raises ValueError for those that differ on any inputs."""
    lines, faults = [], []
    for name, pairs in found.items():
        difference, bound = max(pairs, key=lambda pair: pair[0] - pair[1] if pair[0] == pair[0] else float("inf"))
        lines.append(f"verified: {name} differ by {difference:.1e} at most (bound {bound:.1e})")
        wrong = [pair for pair in pairs if not pair[0] <= pair[1]]  # a NaN is a fault too
        if wrong:
            faults.append(
                f"{name} differ by {difference:.1e}, more than {bound:.1e}, on {len(wrong)} of {len(pairs)} inputs"
            )
    raise_faults("the model does not compute what its source does", faults)
    return lines
