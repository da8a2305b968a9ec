#!/bin/sh
# transformers 5.23.0: ChineseCLIPModel.from_pretrained overwrites the embedding of the padding token with zeros, whatever
# the file holds, and saves the zeros. A text that holds the token without a mask gets another vector than before the
# model was saved. Its _init_weights zeroes a slice of a weight, and the guard against writing over loaded weights is on
# the weight. BertModel keeps the row. Guess before it was run: every weight comes back as it was saved. Needs a Python
# with torch and transformers (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
import tempfile

import torch
from transformers import BertConfig, BertModel, ChineseCLIPConfig, ChineseCLIPModel

torch.manual_seed(0)
text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 50}
vision = {key: value for key, value in text.items() if key != "vocab_size"}
config = ChineseCLIPConfig(text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8})
rows = {}
for model in (BertModel(BertConfig(**text)), ChineseCLIPModel(config)):
    name = "embeddings.word_embeddings.weight"
    name = f"text_model.{name}" if isinstance(model, ChineseCLIPModel) else name
    with torch.no_grad():
        model.state_dict()[name][0] = 0.5  # [PAD]
    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder)
    rows[type(model).__name__] = float(again.state_dict()[name][0].abs().max())
    print(f"{type(model).__name__}: the row of [PAD] was 0.5, and is {rows[type(model).__name__]} after loading")
assert rows == {"BertModel": 0.5, "ChineseCLIPModel": 0.0}, "the behaviour changed"
PY
