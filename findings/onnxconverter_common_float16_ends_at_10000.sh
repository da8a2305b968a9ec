#!/bin/sh
# onnxconverter-common 1.16.0: convert_float_to_float16 cuts every constant of a model at 10,000, though float16 goes up to
# 65,504: a sample rate of 16,000, 44,100 in a formula of frequencies, a position or a time in milliseconds become 10,000,
# in weights and in Constant nodes alike. A warning says so in the middle of those about small numbers; the model runs.
# -inf stays, and numbers below 1e-7 become 1.2e-7, also where they were 1e-12. onnxruntime's own copy of this program cuts
# at 65,504. max_finite_val=65504 is the way out. Guess before it was run: what float16 can hold stays.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16

assert version("onnxconverter-common") == "1.16.0"


def through(number, **settings):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "c"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.float32([number]), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    half = float16.convert_float_to_float16(model, keep_io_types=True, **settings)
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.ones(1, np.float32)})[0][0])


for number, wanted in ((9984, 9984), (16000, 10000), (44096, 10000), (-16000, -10000), (-np.inf, -np.inf)):
    cut, kept = through(number), through(number, max_finite_val=65504.0)
    print(f"times {number}: {cut}, with max_finite_val=65504 {kept}")
    assert cut == wanted, "the behaviour changed"
    assert kept == number
small = through(1e-12)
print("times 1e-12:", small)
assert 1e-7 < small < 1.3e-7, "the behaviour changed"
PY
