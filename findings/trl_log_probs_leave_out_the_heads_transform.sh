#!/bin/sh
# TRL 1.16.0 computes the log-probabilities of its losses (DPO, KTO, GRPO, RLOO, SFT) from the decoder's states and the
# weight of get_output_embeddings(), in place of the model's own head. A head with a transform before the vocabulary, as
# BERT's and all that follow it, is left out without a word: the log-probabilities are those of another model. Guess
# before it was run: equal to the model's own, or an error. Needs a Python with torch and transformers (PYTHON=...); TRL is
# installed into a folder that is removed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m pip --disable-pip-version-check install -q --no-deps --target "$work/trl" trl==1.16.0
PYTHONPATH="$work/trl" "$python" -W ignore - <<'PY'
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel
from trl.trainer.utils import add_fused_lm_head

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODELS = {
    "GPT-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)),
    "BERT": lambda: BertLMHeadModel(BertConfig(vocab_size=50, is_decoder=True, **SMALL)),
}
ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
off = {}
for name, build in MODELS.items():
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        own = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        add_fused_lm_head(model)
        theirs = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
    off[name] = float((own - theirs).abs().max())
print({name: f"{value:.2g}" for name, value in off.items()})
assert off["GPT-2"] < 1e-5 and off["BERT"] > 1e-2, "the behaviour changed"
PY
