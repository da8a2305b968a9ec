"""`mm explain`: a caption of a picture, and for each word of it where in the picture it was read."""

from pathlib import Path
from typing import Any

from ..explaining.explanation import Explanation
from ..explaining.plot import plot_explanation
from .caption import without_other_bars
from .models import load_model
from .printing import printable


def explain_picture(
    picture: str | Path,
    model: str | Path | None = None,
    *,
    text: str | None = None,
    prompt: str = "",
    method: str = "attention",
    num_beams: int | None = None,
    output: str | Path | None = None,
) -> Explanation:
    """Captions a picture and explains the caption; or explains `text`, as if the model had written it.

    Args:
        model: folder or Hub id (see `load_model`); None: the one in the package.
        prompt: words that the caption starts with; a model with a text encoder is asked them instead.
        method: as in `model.explain`.
        output: a file for the drawing (.png, .svg, .pdf).
    """
    with without_other_bars():
        loaded, processor = load_model(model)
    if "image" not in loaded.config.modalities:
        raise ValueError(f"the model reads {' and '.join(loaded.config.modalities)}; mm explain gives it a picture")
    asked: dict[str, Any] = {}
    if prompt:
        asked = {"context_text" if loaded.config.has_text_encoder else "text": [prompt]}
    if text is not None and "text" in asked:
        raise ValueError("the text that is explained holds its own beginning: leave the prompt out")
    inputs = processor(images=[picture], **asked, add_eos_token=False, return_tensors="pt").to(loaded.device)
    if text is None:
        settings = {} if num_beams is None else {"num_beams": num_beams}
        tokens = loaded.generate(**inputs, **settings, return_dict_in_generate=True)
    else:
        tokens = processor(text=[text], return_tensors="pt")["input_ids"].to(loaded.device)
    (found, *_) = loaded.explain(inputs, tokens, processor=processor, pictures=[picture], method=method)
    if output is not None:
        plot_explanation(found, output)
    return found


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
