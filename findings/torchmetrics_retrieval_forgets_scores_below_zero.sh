#!/bin/sh
# torchmetrics 1.9.0: in RetrievalMRR, RetrievalMAP, RetrievalRecall and RetrievalPrecision a document whose score is 0
# or below was not retrieved, so that a right picture with a cosine similarity of -.1 counts as missed though it is
# ranked first: all four are 0. RetrievalHitRate, RetrievalNormalizedDCG, RetrievalRPrecision and RetrievalAUROC of the
# same call go by the order and are 1. Log probabilities and minus distances are always below 0, logits and
# similarities of unlike pairs often, and two models with the same ranking differ by where their scores lie. Adding 2
# to all scores brings 1 everywhere. Guess before it was run: the order of the scores is all that counts.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
import torchmetrics.retrieval as retrieval

assert version("torchmetrics") == "1.9.0"
scores, right = torch.tensor([-0.1, -0.5, -0.9]), torch.tensor([1, 0, 0])
by_sign = {"RetrievalMRR", "RetrievalMAP", "RetrievalRecall", "RetrievalPrecision"}
by_order = {"RetrievalHitRate", "RetrievalNormalizedDCG", "RetrievalRPrecision", "RetrievalAUROC"}
for name in sorted(by_sign | by_order):
    more = {"top_k": 1} if name in ("RetrievalRecall", "RetrievalPrecision", "RetrievalHitRate") else {}
    found = []
    for moved in (scores, scores + 2):
        metric = getattr(retrieval, name)(**more)
        found.append(float(metric(moved, right, indexes=torch.zeros(3, dtype=torch.long))))
    print(f"{name}: {found[0]:.2f}, and {found[1]:.2f} with 2 added to each score")
    assert found == [0.0 if name in by_sign else 1.0, 1.0], "the behaviour changed"
PY
