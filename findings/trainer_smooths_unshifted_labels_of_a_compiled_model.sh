#!/bin/sh
# transformers 5.23.0: label_smoothing_factor with torch_compile=True trains Llama, and every other causal model, to repeat
# each token instead of predicting the next one, without a word. Trainer shifts the labels of classes that it finds by
# name in its table of causal models, and a compiled model is called OptimizedModule. Guess before it was run: the same
# loss with and without torch_compile. Needs a Python with torch, transformers and accelerate (PYTHON=...).
set -eu
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "${PYTHON:-python3}" -W ignore - <<'PY'
import copy
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
model = LlamaForCausalLM(LlamaConfig(vocab_size=50, initializer_range=0.3, **sizes))
rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 50, (4, 12))]
labels = torch.stack([row["labels"] for row in rows])
logits = model.eval()(labels).logits.detach()
nll, mean = -logits.log_softmax(-1), -logits.log_softmax(-1).mean(-1)


def smoothed(nll, mean, labels):
    return float((0.9 * nll.gather(-1, labels[..., None])[..., 0] + 0.1 * mean).mean())


shifted, not_shifted = smoothed(nll[:, :-1], mean[:, :-1], labels[:, 1:]), smoothed(nll, mean, labels)
print(f"shifted {shifted:.4f}, not shifted {not_shifted:.4f}")
losses = []
for compiled in (False, True):
    settings = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
    arguments = TrainingArguments(
        tempfile.mkdtemp(), label_smoothing_factor=0.1, per_device_eval_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True, **settings,
    )
    loss = Trainer(copy.deepcopy(model).eval(), arguments, eval_dataset=rows).evaluate()["eval_loss"]
    print(f"torch_compile={compiled}: {loss:.4f}")
    losses.append(loss)
assert abs(losses[0] - shifted) < 1e-3 < abs(losses[1] - shifted), "the behaviour changed"
# The sum is over all 12 tokens of a row, the count of the 11 that a shifted loss has.
assert abs(losses[1] - not_shifted * 12 / 11) < 1e-3, "the behaviour changed"
PY
