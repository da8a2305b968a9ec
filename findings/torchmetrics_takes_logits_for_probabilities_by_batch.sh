#!/bin/sh
# torchmetrics 1.9.0: BinaryAveragePrecision, and the other metrics of two classes, decide for each batch by itself
# whether it holds logits: one with a number outside 0 to 1 goes through the sigmoid, one whose logits all happen to
# lie inside does not. The two kinds are then ranked together: a logit of .9 stays .9 beside a logit of 2, which is
# .88. Of the same five rows the average precision is .7 in one batch and .5 in two, and accuracy changes as well, so
# that the number depends on the batch size and on the order of the rows. Logits that go through the sigmoid before
# give one number. What one would expect: update() in parts gives what one update gives.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAveragePrecision

assert version("torchmetrics") == "1.9.0"
logits, labels = torch.tensor([0.9, 0.2, -1.0, 2.0, -0.5]), torch.tensor([0, 0, 1, 1, 0])


def measured(kind, scores, parts):
    metric = kind()
    for some, truth in zip(scores.split(parts), labels.split(parts)):
        metric.update(some, truth)
    return round(float(metric.compute()), 3)


for kind, expected in ((BinaryAveragePrecision, [0.7, 0.5]), (BinaryAccuracy, [0.4, 0.6])):
    found = [measured(kind, logits, parts) for parts in ([5], [2, 3])]
    safe = [measured(kind, logits.sigmoid(), parts) for parts in ([5], [2, 3])]
    print(f"{kind.__name__}: {found[0]} in one batch, {found[1]} in two; of probabilities {safe}")
    assert found == expected and safe == [expected[0]] * 2, "the behaviour changed"
PY
