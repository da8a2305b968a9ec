#!/bin/sh
# onnxruntime 1.32.0 (CPU): ReduceMax, ReduceMin, ArgMax and ArgMin of float32 pass over a NaN: of 1, 3, 2, NaN the maximum
# is 3 at place 1. A NaN that stands first is kept, so that one wrong number gives NaN or none by its place. A model that
# overflows in its logits goes on to write tokens as if all were well, where PyTorch gives NaN and its place, and a check
# that the maximum is finite passes. Max of two tensors, ReduceMean, Relu, Clip and MaxPool of onnxruntime keep NaN. Guess
# before it was run: NaN, as NumPy, PyTorch and ONNX's own reference have it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

assert version("onnxruntime") == "1.32.0"


def run(name, numbers):
    index = name.startswith("Arg")
    more = [] if index else [numpy_helper.from_array(np.array([1]), "axes")]
    graph = helper.make_graph(
        [helper.make_node(name, ["x"] + ["axes"] * (not index), ["y"], keepdims=0, **({"axis": 1} if index else {}))],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, numbers.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT64 if index else TensorProto.FLOAT, None)],
        more,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": numbers})[0][0]), float(ReferenceEvaluator(model).run(None, {"x": numbers})[0][0])


LOST = {"ReduceMax": 3, "ReduceMin": 1, "ArgMax": 1, "ArgMin": 0}
for name in (*LOST, "ReduceMean"):
    seen, reference = run(name, np.float32([[1, 3, 2, np.nan]]))
    first, _ = run(name, np.float32([[np.nan, 1, 3, 2]]))
    print(f"{name} of 1, 3, 2, NaN: {seen}, reference {reference}; with NaN first: {first}")
    assert reference == 3 if name.startswith("Arg") else np.isnan(reference)
    assert first == 0 if name.startswith("Arg") else np.isnan(first)
    assert seen == LOST[name] if name in LOST else np.isnan(seen), "the behaviour changed"
PY
