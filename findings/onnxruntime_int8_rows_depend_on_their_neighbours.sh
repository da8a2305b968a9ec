#!/bin/sh
# onnxruntime 1.32.0: a model that quantize_dynamic made int8 takes one scale for the inputs of a whole batch, so that
# what it says of a picture depends on the pictures beside it: an answer with numbers up to 10.6 is right to .07 for
# the row alone, and beside a row a hundred times as large it is off by 5.7, since nearly all of the row is rounded to
# 0. One infinity in a row makes NaN of every row. Batch and single answers differ, and a padded or broken sample
# spoils those it is batched with. per_channel=True is about weights and helps nothing. torchao's
# Int8DynamicActivationInt8WeightConfig scales each row by itself. What one would expect: a row of a batch as the row
# alone, up to rounding.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

assert (version("onnxruntime"), version("onnx")) == ("1.32.0", "1.23.2")
logging.disable(logging.WARNING)
draw = np.random.default_rng(0)
weight, rows = draw.normal(size=(16, 16)).astype("float32"), draw.normal(size=(2, 16)).astype("float32")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 16]) for name in "xy"]
node = helper.make_node("MatMul", ["x", "w"], ["y"])
graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.save(model, "model.onnx")
right = rows[:1] @ weight
loud, broken = rows.copy(), rows.copy()
loud[1] *= 100
broken[1, 0] = np.inf
for per_channel in (False, True):
    quantize_dynamic("model.onnx", "int8.onnx", weight_type=QuantType.QInt8, per_channel=per_channel)
    session = onnxruntime.InferenceSession("int8.onnx", providers=["CPUExecutionProvider"])
    batches = {"alone": rows[:1], "beside one like it": rows, "beside a loud one": loud, "beside an infinity": broken}
    answers = {name: session.run(None, {"x": given})[0][0] for name, given in batches.items()}
    off = {name: round(float(np.abs(answer - right).max()), 3) for name, answer in answers.items()}
    print(f"per_channel={per_channel}: off by {off}; the largest number of the row is {np.abs(right).max():.2f}")
    assert off["alone"] < 0.15 and off["beside one like it"] < 0.15
    assert off["beside a loud one"] > 3, "the behaviour changed"
    assert np.isnan(answers["beside an infinity"]).all(), "the behaviour changed"
PY
