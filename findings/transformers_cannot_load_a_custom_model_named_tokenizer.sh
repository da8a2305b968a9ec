#!/bin/sh
# transformers 5.23.0: save_pretrained writes the auto_map of every custom class with "Tokenizer" in the name of the class
# or of its file as that of a tokenizer, a pair [class, null]: a model's and a configuration's too. So an image tokenizer
# (a VQ-VAE) with its own code is saved without a word and cannot be loaded again: AutoModel.from_pretrained ends in
# AttributeError. It loads when the pairs in its config.json are replaced by their first halves.
# What one would expect: what is saved after register_for_auto_class() can be loaded, whatever its name.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 venv/bin/python -W ignore - <<'PY'
import importlib
import json
import sys
from pathlib import Path

import transformers
from transformers import AutoModel

assert transformers.__version__ == "5.23.0"
transformers.logging.disable_progress_bar()
CODE = """import torch
from transformers import PreTrainedConfig, PreTrainedModel


class CodesConfig(PreTrainedConfig):
    model_type = "codes"


class NAME(PreTrainedModel):
    config_class = CodesConfig

    def __init__(self, config):
        super().__init__(config)
        self.codebook = torch.nn.Embedding(4, 2)
        self.post_init()
"""
sys.path.insert(0, ".")


def load(folder):
    try:
        return type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for file, name, pairs in (
    ("codes", "ImageCodes", ()),
    ("other_codes", "ImageTokenizer", ("AutoModel",)),
    ("ImageTokenizer", "ImageCodes", ("AutoConfig", "AutoModel")),
):
    Path(f"{file}.py").write_text(CODE.replace("NAME", name))
    module = importlib.import_module(file)
    module.CodesConfig.register_for_auto_class()
    getattr(module, name).register_for_auto_class("AutoModel")
    folder = f"saved_{file}_{name}"
    getattr(module, name)(module.CodesConfig()).save_pretrained(folder)
    config = Path(folder, "config.json")
    written = json.loads(config.read_text())
    seen = load(folder)
    print(f"{name} in {file}.py: auto_map {written['auto_map']}, loading gives {seen}")
    assert [one for one, entry in written["auto_map"].items() if isinstance(entry, list)] == [*pairs], "the behaviour changed"
    assert seen.startswith("AttributeError: 'list' object" if pairs else name), "the behaviour changed"
    for one in pairs:
        written["auto_map"][one] = written["auto_map"][one][0]
    config.write_text(json.dumps(written))
    print("    with the first half of each pair:", load(folder))
    assert load(folder) == name
PY
