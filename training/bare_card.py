"""The card of a model that has none: what its files say, how to load it, and what only its maker can fill in."""

from typing import Any

from huggingface_hub import ModelCardData

# class: (Auto class, the Hub's name of the task)
USES = {
    "MMForConditionalGeneration": ("AutoModelForImageTextToText", "image-text-to-text"),
    "MMForSequenceClassification": ("AutoModelForSequenceClassification", None),
    "MMForImageTextRetrieval": ("AutoModelForZeroShotImageClassification", "zero-shot-image-classification"),
    "MMForMaskedLM": ("AutoModelForMaskedLM", None),
    "MMForPreTraining": ("AutoModelForPreTraining", None),
    "MMForSpeechSeq2Seq": ("AutoModelForSpeechSeq2Seq", "automatic-speech-recognition"),
}


def bare_card(repository: str, config: Any, has_processor: bool, code: bool) -> str:
    """A README.md in the Hub's format. It names no license: only the maker knows it."""
    kind = (config.architectures or ["MMModel"])[0]
    auto, task = USES.get(kind, ("AutoModel", None))
    about = ModelCardData(library_name="transformers", pipeline_tag=task, tags=["mm"])
    trusted = ", trust_remote_code=True" if code else ""
    names = f"{auto}, AutoProcessor" if has_processor else auto
    lines = ["import mm  # the package mm-transformers"] if not code else []
    lines += [f"from transformers import {names}", ""]
    lines += [f'model = {auto}.from_pretrained("{repository}"{trusted})']
    lines += [f'processor = AutoProcessor.from_pretrained("{repository}"{trusted})'] if has_processor else []
    snippet = "\n".join(lines)
    return f"""---
{about.to_yaml()}
---

# {repository.split("/")[-1]}

A `{kind}` of MM (mm-transformers), a package for Hugging Face Transformers.

```python
{snippet}
```

## Training data, intended use, limits, bias

*To be filled in by whoever trained this model, with `license:` and `datasets:` in the head of this file.*
"""
