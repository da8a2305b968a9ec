"""`mm explain`: a caption of a picture, and for each word of it where in the picture it was read."""

from pathlib import Path
from typing import Any

import torch

from ..explaining.explanation import Explanation
from ..explaining.plot import plot_explanation
from .caption import without_other_bars
from .long_work import check_new
from .media_lists import in_words, kind_of, other_kind
from .models import load_model
from .printing import printable

DRAWN = (".png", ".svg", ".pdf")


def explain_picture(
    picture: str | Path,
    model: str | Path | None = None,
    *,
    text: str | None = None,
    prompt: str = "",
    method: str = "attention",
    num_beams: int | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Explanation:
    """Captions a picture and explains the caption; or explains `text`, as if the model had written it.

    Args:
        model: folder or Hub id (see `load_model`); None: the one in the package.
        prompt: words that the caption starts with; a model with a text encoder is asked them instead.
        method: as in `model.explain`.
        output: a new file for the drawing (.png, .svg, .pdf).
        device, dtype: as `load_model`.
    """
    if output is not None:
        if Path(output).suffix.lower() not in DRAWN:
            raise ValueError(f"--output {output} must end in {', '.join(DRAWN)}")
        if not Path(output).parent.is_dir():
            raise ValueError(f"there is no folder {str(Path(output).parent)!r} for --output {Path(output).name}")
        check_new(output, "--output")
    if (kind := kind_of(Path(picture))) != "image":
        raise ValueError(f"{picture}: {other_kind(kind, ['image'])}")
    with without_other_bars():
        loaded, processor = load_model(model, device=device, dtype=dtype)
    if "image" not in loaded.config.modalities:
        raise ValueError(f"the model reads {in_words(loaded.config.modalities)}; mm explain gives it a picture")
    inputs, tokens = explained_inputs(loaded, processor, picture, text, prompt)
    if tokens is None:
        settings = {} if num_beams is None else {"num_beams": num_beams}
        tokens = loaded.generate(**inputs, **settings, return_dict_in_generate=True)
    (found, *_) = loaded.explain(inputs, tokens, processor=processor, pictures=[picture], method=method)
    if output is not None:
        plot_explanation(found, output)
    return found


def explained_inputs(
    model: Any, processor: Any, picture: Any, text: str | None = None, prompt: str = ""
) -> tuple[Any, torch.Tensor | None]:
    """What generate() and explain() are given for a picture, and the whole row int64 (1, T) of `text`; None without.

    Where media stand in the text the picture is asked about by the chat template, as `MMProcessor.about` does.

    Raises: ValueError for a text with a prompt, where the text itself is the whole row.
    """
    config, asked = model.config, {}
    if config.media_in_text:
        asked = processor.about("image", prompt)
        asked["text"] = [asked["text"]]
    elif prompt:
        asked = {"context_text" if config.has_text_encoder else "text": [prompt]}
        if text is not None and not config.has_text_encoder:
            raise ValueError("the text that is explained holds its own beginning: leave the prompt out")
    inputs = processor(images=[picture], **asked, add_eos_token=False, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    if text is None:
        return inputs, None
    if not config.media_in_text:
        return inputs, processor(text=[text], truncation=False, return_tensors="pt")["input_ids"].to(model.device)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [] if processor.tokenizer.eos_token_id is None else [processor.tokenizer.eos_token_id]
    row = torch.tensor([[*ids, *ends]], device=model.device)
    return inputs, torch.cat([inputs["input_ids"], row], dim=1)


def lines_of(found: Explanation) -> list[str]:
    """A heading, and of each word: the word, where its map is greatest (across and down, in percent of the picture),
    and how much of the map lies in the tenth of the picture that has most of it."""
    lines = ["word\tacross\tdown\tin a tenth"]
    for word, of_word in zip(found.words, found.maps, strict=True):
        down, across = divmod(int(of_word.argmax()), of_word.shape[1])
        ordered = sorted(of_word.ravel().tolist(), reverse=True)
        top = sum(ordered[: max(1, len(ordered) // 10)])
        height, width = of_word.shape
        where = f"{100 * (across + 0.5) / width:.0f} %\t{100 * (down + 0.5) / height:.0f} %"
        lines.append(f"{printable(word)}\t{where}\t{top:.2f}")
    return lines
