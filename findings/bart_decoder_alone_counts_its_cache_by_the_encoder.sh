#!/bin/sh
# transformers 5.23.0: the decoders of BART and mBART as models of their own (BartForCausalLM, as in a VisionEncoderDecoder)
# make a cache of config.encoder_layers layers, though they have no encoder: with fewer of those than decoder_layers a call
# ends in IndexError, generate() too. With use_cache=False the same call gives logits.
# Guess before it was run: encoder_layers has no part in a decoder by itself.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import BartConfig, BartForCausalLM, MBartConfig, MBartForCausalLM

assert transformers.__version__ == "5.23.0"
SIZES = {f"{side}_{name}": 2 if "heads" in name else 16 for side in ("encoder", "decoder") for name in
         ("attention_heads", "ffn_dim")}
for config, cls in ((BartConfig, BartForCausalLM), (MBartConfig, MBartForCausalLM)):
    for layers in (1, 2):
        model = cls(config(vocab_size=50, d_model=16, encoder_layers=layers, decoder_layers=2, **SIZES)).eval()
        ids = torch.tensor([[2, 5, 6]])
        assert model(ids, use_cache=False).logits.shape == (1, 3, 50)
        try:
            seen = tuple(model(ids).logits.shape)
        except IndexError as error:
            seen = f"IndexError: {error}"
        print(f"{cls.__name__}, encoder_layers={layers}, decoder_layers=2: {seen}")
        assert (layers == 1) == isinstance(seen, str), "the behaviour changed"
PY
