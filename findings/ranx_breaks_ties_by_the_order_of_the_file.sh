#!/bin/sh
# ranx 0.3.21 and trec_eval's measures (pytrec_eval-terrier 0.5.11, also behind ir_measures 0.4.3) disagree about equal
# scores. ranx keeps the order in which the documents were given: a model that gives every document the same score has
# recall@1 = MRR = 1.0 when the right document is written first, which is how runs made of (query, right picture, others)
# are written. trec_eval looks at the names and ranks the larger one first, whatever the order. Collapsed or
# half-precision embeddings tie often, so the same scores are 1.00 by one tool and 0.33 by the other.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q ranx==0.3.21 pytrec_eval-terrier==0.5.11
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import pytrec_eval
from ranx import Qrels, Run, evaluate

assert (version("ranx"), version("pytrec_eval-terrier")) == ("0.3.21", "0.5.11")
for right in "abc":
    for order in ("abc", "bca", "cab"):
        asked, scores = {"query": {right: 1}}, {"query": dict.fromkeys(order, 1.0)}
        by_ranx = float(evaluate(Qrels(asked), Run(scores), "mrr"))
        by_trec = pytrec_eval.RelevanceEvaluator(asked, {"recip_rank"}).evaluate(scores)["query"]["recip_rank"]
        print(f"all scores equal, given as {order}, right is {right}: MRR {by_ranx:.2f} in ranx, {by_trec:.2f} in trec_eval")
        assert by_ranx == 1 / (order.index(right) + 1), "the behaviour changed"
        assert by_trec == 1 / ("cba".index(right) + 1), "the behaviour changed"
PY
