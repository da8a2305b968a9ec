"""The parts of open_clip's CoCa other than its tensors: how pictures and texts are read, and the model for `--verify`.

open_clip pads with the id 0, which is "!" in the middle of a word too; the tokenizer here pads with <|endoftext|>,
as Transformers' does, under a mask. The caller must clean texts (ftfy, HTML entities).
"""

import gzip
import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.nn.functional import pad
from transformers import CLIPTokenizer
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..weights.checkpoint import Checkpoint
from ..weights.key_table import raise_faults
from .coca_names import sizes_of
from .processor import tokenizer_of

PACKAGE = "open_clip"
BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
_WORDS, _BYTES = 49408, 256
# The bytes that stand for themselves in the file; each of the others is called by a letter from U+0100 on.
_PRINTED = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


def tokenizer(directory: Path | None, text: Mapping[str, Any], longest: int) -> Any:
    """The directory's tokenizer, else CLIP's from open_clip's file of words, there or in the installed package.

    Args:
        text: open_clip's text_cfg; another vocabulary than CLIP's is not built from that file.
        longest: tokens of a text, ends included.
    Returns: None if the source has neither.
    """
    found = tokenizer_of(directory)
    is_clips = text.get("vocab_size", _WORDS) == _WORDS and text.get("hf_tokenizer_name") in (None, "")
    if found is None and is_clips:
        homes = [] if directory is None else [directory]
        package = find_spec(PACKAGE)
        homes += [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
        file = next((home / BPE_FILE for home in homes if (home / BPE_FILE).is_file()), None)
        found = None if file is None else clip_tokenizer(file)
    if found is not None:
        found.model_max_length = longest
    return found


def clip_tokenizer(file: Path) -> CLIPTokenizer:
    """CLIP's tokenizer from open_clip's compressed list of merges: bytes, bytes that end a word, merges, two ends."""
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges: Any = [tuple(line.split()) for line in lines[1 : _WORDS - 2 * _BYTES - 2 + 1]]
    others = [chr(_BYTES + number) for number in range(_BYTES - len(_PRINTED))]
    letters = [*map(chr, _PRINTED), *others]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, merges)


def ends(text: Any) -> dict[str, int]:
    """Of captions; positions after their end are padded with it, because id 0 would be read as "!"."""
    eos = text.eos_token_id
    return {"bos_token_id": text.bos_token_id, "eos_token_id": eos, "pad_token_id": eos}


def pictures(checkpoint: Checkpoint, size: Any) -> dict[str, Any] | None:
    """Settings of the image processor: the shorter side to `size`, the middle, and CLIP's colours.

    None for pictures of two different sides: open_clip fills those by a rule that MM's image processor lacks.
    """
    if not isinstance(size, int) and len(set(size)) > 1:
        return None
    size = size if isinstance(size, int) else size[0]
    said = checkpoint.config.get("preprocess_cfg", {})
    known = {"mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", "size": said.get("size")}
    faults = [
        f"preprocess_cfg.{k}={said[k]!r}, but only {v!r} is known" for k, v in known.items() if said.get(k, v) != v
    ]
    raise_faults("pictures are prepared otherwise", faults)
    return {
        "size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, "do_center_crop": True,
        "resample": PILImageResampling.BICUBIC, "image_mean": list(said.get("mean") or OPENAI_CLIP_MEAN),
        "image_std": list(said.get("std") or OPENAI_CLIP_STD),
    }  # fmt: skip


def colours(processor: Any) -> dict[str, Any]:
    """Settings for pictures in open_clip_config.json other than their size."""
    pictures = None if processor is None else processor.image_processor
    return {} if pictures is None else {"preprocess_cfg": {"mean": pictures.image_mean, "std": pictures.image_std}}


def original(source: Checkpoint) -> Any:
    """open_clip's own model of a source. Raises ValueError where open_clip is not installed."""
    if find_spec(PACKAGE) is None:
        raise ValueError("--verify compares with open_clip's CoCa: pip install open-clip-torch, or leave --verify out")
    settings = dict(source.config.get("model_cfg") or sizes_of(source))
    settings.pop("custom_text", None)
    if "multimodal_cfg" in settings and not source.config:  # settings of a CoCa other than its sizes
        settings["vision_cfg"] |= {"attentional_pool": True, "output_tokens": True}
        settings["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    bias = 0.0 if "logit_bias" in source else None
    model = importlib.import_module(f"{PACKAGE}.coca_model").CoCa(**settings, init_logit_bias=bias)
    model.load_state_dict({name: source[name].float() for name in source})
    return model


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """Texts are padded to the whole context, as open_clip's always are."""
    more = ours.config.text_config.max_position_embeddings - given.input_ids.shape[1]
    ids, mask = (pad(value, (0, more)) for value in (given.input_ids, given.attention_mask))
    ids = ids.masked_fill(mask == 0, ours.config.text_config.pad_token_id)
    there = theirs(given.pixel_values, ids, output_labels=False)
    here = ours(ids, mask, pixel_values=given.pixel_values)
    return {
        "logits": (here.logits[mask.bool()], there["logits"][mask.bool()]),
        "image_embeds": (here.image_embeds, there["image_features"]),
        "text_embeds": (here.text_embeds, there["text_features"]),
    }
