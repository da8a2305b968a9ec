"""Writes docs/configuration.md out of what the code says of each field: python docs/configuration.py"""

from pathlib import Path

from mm import MMConfig, MMConvConfig, MMImageTokenizerConfig, MMResamplerConfig, MMTextConfig, MMVisionConfig
from mm.configuration.reference import markdown

CONFIGS = (MMConfig, MMTextConfig, MMVisionConfig, MMConvConfig, MMResamplerConfig, MMImageTokenizerConfig)
FILE = Path(__file__).with_suffix(".md")
INTRODUCTION = """\
# Configuration

Every field of every configuration: what it means, which values it takes, its default, and the class or function that
reads it. `help(mm.MMConfig)` prints the same. `make reference` writes this page from the code, so change it there.

```python
import mm

sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
vision, text = {**sizes, "image_size": 64}, {**sizes, "vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 2}
config = mm.MMConfig(vision_config=vision, text_config=text, fusion_type="merged")
```

## One word chooses a fusion

`fusion_type` is enough. Where a sub-config is a dict that does not name them, these settings follow:

* `is_causal=False` of the text, for `co_attention`, `concat`, `sum` and `gated` without a text encoder;
* `fusion_mask`, for `merged`: "prefix" for a causal text, else "bidirectional";
* `cross_attention_hidden_size`, and `hidden_size` of a resampler: the width of what is read;
* `projector_type="none"` and `pretraining_losses={"itc": 1.0}`, for `none`.

An `MMTextConfig` object is taken as it is, and an error names what to set. Heads do the same: `MMForMaskedLM` needs
`is_causal=False`. `MMForConditionalGeneration` needs tokens that the decoder can read: `concat`, `sum`, `gated` and
`co_attention` give them with `share_text_encoder=True` or `text_encoder_config`, `decision` and `none` never do.

## Groups

Fields that belong together may be given as one dict, and are read and set as one object:

```python
config = mm.MMConfig(fusion={"type": "merged", "mask": "causal"}, objectives={"projection_dim": 128})
assert config.fusion.mask == config.fusion_mask == "causal"
config.fusion.mask = "prefix"
assert dict(config.objectives)["projection_dim"] == config.projection_dim == 128
decoder = mm.MMTextConfig(cross_attention={"layers": [0, 6], "gate": "tanh"})
assert decoder.cross_attention_layers == [0, 6]
```

* A field that is given in both ways with two values is an error.
* `from_pretrained(path, fusion={"order": "text_first"})` changes only what it names.
* **config.json** has each field by its own name (`fusion_mask`). So earlier versions can read it, and so can scripts
  that change a field of `config.to_dict()`. A dict of a group is read there too.
* Fields of `fusion` and `objectives` are saved only if they differ from the default: the file of a captioner does not
  list losses that it never uses.

## Errors

* A field outside of its range, and fields that contradict each other, raise one `ValueError`. It lists every problem
  and the field to change. A wrong type raises a `TypeError`. An unknown field is a warning with the nearest name.
* `update` and `from_pretrained` check like the constructor. A field that is set by hand is checked when a model is
  built.

`num_labels`, `id2label`, `problem_type`, `dtype` and the other fields of Transformers' `PreTrainedConfig` mean what
they mean there.

"""


def page() -> str:
    return INTRODUCTION + "\n".join(markdown(cls) for cls in CONFIGS)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
