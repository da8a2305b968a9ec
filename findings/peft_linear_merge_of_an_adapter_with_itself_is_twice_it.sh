#!/bin/sh
# peft 0.21.2: add_weighted_adapter with "linear", which is what it does unless told otherwise, adds the two factors of
# each adapter and not their products: weights of .5 and .5 over an adapter and a copy of it give twice the adapter,
# and over two different ones something whose distance from the mean of both is about as long as the mean itself, with
# products of the one's A and the other's B in it. A difference (weights 1 and -1) of equal adapters is not zero either
# way. "cat" gives the weighted sum exactly, with a larger rank. Guess before it was run: the weighted sum of what the
# adapters do.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import copy

import torch
from peft import LoraConfig, get_peft_model

assert version("peft") == "0.21.2"


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, x):
        return self.layer(x)


torch.manual_seed(0)
settings = LoraConfig(r=4, lora_alpha=4, target_modules=["layer"])
model = get_peft_model(Model(), settings)
for name in ("copy", "other"):
    model.add_adapter(name, copy.deepcopy(settings))
layer = model.base_model.model.layer
with torch.no_grad():
    for name in ("default", "other"):
        layer.lora_A[name].weight.normal_()
        layer.lora_B[name].weight.normal_()
    layer.lora_A["copy"].weight.copy_(layer.lora_A["default"].weight)
    layer.lora_B["copy"].weight.copy_(layer.lora_B["default"].weight)
for second in ("copy", "other"):
    for kind in ("linear", "cat"):
        model.add_weighted_adapter(["default", second], [0.5, 0.5], f"{kind}_{second}", combination_type=kind)
        found = layer.get_delta_weight(f"{kind}_{second}")
        mean = (layer.get_delta_weight("default") + layer.get_delta_weight(second)) / 2
        size, off = float(found.norm() / mean.norm()), float((found - mean).norm() / mean.norm())
        print(f"{kind}, the adapter and its {second}: {size:.2f} times as long as the mean, off by {off:.2f} of it")
        if kind == "cat":
            assert off < 1e-5
        else:
            assert off > 0.5 and (second == "other" or abs(size - 2) < 1e-4), "the behaviour changed"
PY
