"""Whether a conversion computes what its source does: both models run on the same random inputs, in fp32."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import transformers

from ..configuration.mm import MMConfig
from ..configuration.towers import tower_width
from ..modeling_mm.checkpoint import Checkpoint
from ..modeling_mm.key_mapping import raise_faults
from .family import Family

TOLERANCE = 1e-5  # of max(1, |x|), x the largest of an output
SAMPLES, LENGTH, REGIONS = 2, 8, 3
_SAME = ("logits", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds", "itm_logits")


class Given(NamedTuple):
    """Two samples without padding, which some sources read."""

    pixel_values: torch.Tensor  # (2, C, H, W)
    input_ids: torch.Tensor  # (2, T), opened and closed as the model's texts are
    visual_embeds: torch.Tensor  # (2, S, Dv), in place of pixel_values


def examples(config: MMConfig) -> Given:
    """Random inputs of the model's sizes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    vision: Any = config.vision_config
    side = getattr(vision, "image_size", 224)
    height, width = (side, side) if isinstance(side, int) else side
    pixels = torch.randn(SAMPLES, getattr(vision, "num_channels", 3), height, width, generator=generator)
    regions = torch.randn(SAMPLES, REGIONS, tower_width(vision), generator=generator)
    text = config.text_config
    eos = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
    plain = [i for i in range(text.vocab_size) if i not in (text.bos_token_id, eos, text.pad_token_id)]
    length = min(LENGTH, text.max_position_embeddings)
    ids = torch.tensor(plain)[torch.randint(len(plain), (SAMPLES, length), generator=generator)]
    for place, end in ((0, text.bos_token_id), (-1, eos)):
        if end is not None:
            ids[:, place] = end
    return Given(pixels, ids, regions)


def same_calls(theirs: Any, ours: Any, given: Given) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """name -> (ours, theirs) for models that take the same inputs and give outputs of the same names."""
    outputs = []
    for model in (ours, theirs):
        accepted = inspect.signature(model.forward).parameters
        outputs.append(model(**{n: v for n, v in given._asdict().items() if n in accepted and n != "visual_embeds"}))
    here, there = outputs
    return {name: (here[name], there[name]) for name in _SAME if name in here and name in there}


@torch.no_grad()
def verify(source: Checkpoint, model: Any, family: Family) -> list[str]:
    """Runs the source's own model and MM's on the same inputs; returns the largest difference of each output.

    Args:
        source: in the family's layout.
        model: of MM; a copy of it runs where it is not in fp32.

    Raises: ValueError where an output differs by more than TOLERANCE, or where nothing installed runs the source.
    """
    theirs = (family.original or _of_transformers)(source)
    ours = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    pairs = (family.compare or same_calls)(theirs.eval(), ours.eval(), examples(model.config))
    if not pairs:
        raise ValueError(f"--verify found no output that {type(theirs).__name__} and {type(model).__name__} both have")
    return _differences(pairs)


def _of_transformers(source: Checkpoint) -> Any:
    """The class that the source's config.json names, in fp32."""
    name = (source.config.get("architectures") or ["none"])[0]
    if source.directory is None or not hasattr(transformers, name):
        raise ValueError(f"--verify compares with the source's class, and Transformers has none for it ({name})")
    cls = getattr(transformers, name)
    theirs, info = cls.from_pretrained(source.directory, dtype=torch.float32, output_loading_info=True)
    raise_faults(f"{name} does not load the source whole", sorted(info["missing_keys"]))
    return theirs


def _differences(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> list[str]:
    lines, faults = [], []
    for name, (here, there) in pairs.items():
        bound = TOLERANCE * max(1.0, float(there.abs().max()))
        difference = float((here - there).abs().max())
        lines.append(f"verified: {name} differ by {difference:.1e} at most (bound {bound:.1e})")
        if not difference <= bound:  # a NaN is a fault too
            faults.append(f"{name} differ by {difference:.1e}, more than {bound:.1e}")
    raise_faults("the model does not compute what its source does", faults)
    return lines
