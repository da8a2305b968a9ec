#!/bin/sh
# transformers 5.23.0: generate(encoder_outputs=...) with several beams repeats the rows of the caller's own object, in
# place. A second call with the same object returns num_beams times as many rows, a third the square of that, each a right
# text of a picture that is there again: nothing is raised, and memory grows with every call. A new BaseModelOutput around
# the same tensor for each call is safe; the tensor itself is not changed.
# Guess before it was run: the encoder is run once, its outputs are kept, and every search gives one row a picture.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
import transformers
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

assert transformers.__version__ == "5.23.0"
torch.manual_seed(0)
tower = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
text = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(tower, text, decoder_start_token_id=1, pad_token_id=2)
model = VisionEncoderDecoderModel(config=config).eval()
search = {"num_beams": 3, "max_new_tokens": 4, "decoder_start_token_id": 1, "pad_token_id": 2, "eos_token_id": 2}
with torch.no_grad():
    seen = model.encoder(torch.randn(2, 3, 32, 32))
    rows = [len(model.generate(encoder_outputs=seen, **search)) for _ in range(3)]
    states = model.encoder(torch.randn(2, 3, 32, 32)).last_hidden_state
    fresh = [len(model.generate(encoder_outputs=transformers.modeling_outputs.BaseModelOutput(states), **search))
             for _ in range(3)]
print("rows of three calls with one object:", rows, "with a new one for each:", fresh)
assert rows == [2, 6, 18] and fresh == [2, 2, 2], "the behaviour changed"
PY
