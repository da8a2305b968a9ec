#!/bin/sh
# A sample of several texts makes several rows of a batch. Trainer 5.23.0 with accelerate 1.15.0, in one process, keeps as
# many rows of the last batch as that batch has samples, so compute_metrics silently sees fewer rows than were predicted:
# here 5 rows go in and 4 come out. Seq2SeqTrainer, which gathers otherwise, keeps all 5.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments


class Rows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, rows, labels):
        return {"loss": self.weight.sum(), "logits": rows[:, None] * self.weight}


def collate(samples):  # (k,) each: a picture with k texts
    rows = torch.cat([torch.tensor(sample["rows"]) for sample in samples])
    return {"rows": rows, "labels": rows}


samples = [{"rows": [1.0, 2.0]}, {"rows": [3.0]}, {"rows": [4.0, 5.0]}]
seen = {}
settings = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "remove_unused_columns": False}
for trainer, arguments in ((Trainer, TrainingArguments), (Seq2SeqTrainer, Seq2SeqTrainingArguments)):
    trainer(
        Rows(), arguments("out", per_device_eval_batch_size=2, **settings), collate, eval_dataset=samples,
        compute_metrics=lambda found: seen.update({trainer.__name__: found.predictions.flatten().tolist()}) or {},
    ).evaluate()
for name, rows in seen.items():
    print(f"{name:15}{rows}")
assert seen == {"Trainer": [1, 2, 3, 4], "Seq2SeqTrainer": [1, 2, 3, 4, 5]}, "the behaviour changed"
PY
