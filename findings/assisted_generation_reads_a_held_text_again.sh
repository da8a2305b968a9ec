#!/bin/sh
# transformers 5.23.0: generate() with prompt_lookup_num_tokens or an assistant_model, and a past_key_values that holds the
# beginning of the text, reads the whole text on top of what is held, without a word: the cache then holds its beginning
# twice, and the logits are others. Guess before it was run: it goes on from there, as greedy generation does. Needs a
# Python with torch and transformers (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)).eval()
ids = torch.tensor([[1, 5, 6, 7, 8, 9, 5, 6, 7, 8]])
with torch.no_grad():
    held = model(ids[:, :6], use_cache=True).past_key_values
settings = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
for name, more in {"greedy": {}, "prompt lookup": {"prompt_lookup_num_tokens": 2}}.items():
    fresh = model.generate(ids, **settings, **more)
    given = model.generate(ids, past_key_values=copy.deepcopy(held), **settings, **more)
    off = float((fresh.logits[0] - given.logits[0]).abs().max())
    print(f"{name}: held at the end {fresh.past_key_values.get_seq_length()} without and "
          f"{given.past_key_values.get_seq_length()} tokens with a cache of 6, first logits differ by {off:.1e}")
    assert (off > 0.1) == bool(more), "the behaviour changed"
PY
