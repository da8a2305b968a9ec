#!/bin/sh
# onnxoptimizer 0.4.2: optimize() with its own passes moves a Pad of zeros into the MaxPool behind it, whose own padding is
# minus infinity: where numbers are below zero the edge of each map is another, -3.7 in place of 0, and nothing is raised.
# (Models that pad by hand, to one side or for "same", are so.) Two Reshapes in a row become the second one, also where it
# has a 0 for "as before", which then is the size before the first: (2, 3, 4) to (3, 2, 4) to (0, 0, 4) has the shape (2,
# 3, 4). onnxslim 0.1.98 leaves both as they are; Pad before AveragePool or Conv is right in both. Guess before it was run:
# equal numbers.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnxoptimizer==0.4.2 onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnxoptimizer
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

assert (version("onnxoptimizer"), version("onnxslim")) == ("0.4.2", "0.1.98")
random = np.random.default_rng(0)
maps = random.normal(size=(1, 3, 6, 6)).astype(np.float32) - 5
rows = random.normal(size=(2, 3, 4)).astype(np.float32)
pads = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
reshapes = {"first": np.array([3, 2, 4]), "second": np.array([0, 0, 4])}
pad = helper.make_node("Pad", ["x", "pads"], ["h"])
CASES = {
    "Pad, MaxPool": (maps, [pad, helper.make_node("MaxPool", ["h"], ["y"], kernel_shape=[3, 3])], pads),
    "Pad, AveragePool": (maps, [pad, helper.make_node("AveragePool", ["h"], ["y"], kernel_shape=[3, 3])], pads),
    "Reshape, Reshape": (rows, [helper.make_node("Reshape", ["x", "first"], ["h"]),
                                helper.make_node("Reshape", ["h", "second"], ["y"])], reshapes),
}


def run(model, given):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": given})[0]


for name, (given, nodes, more) in CASES.items():
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, given.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in more.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    wanted, seen, slim = run(model, given), run(onnxoptimizer.optimize(model), given), run(onnxslim.slim(model), given)
    equal = wanted.shape == seen.shape and np.allclose(wanted, seen)
    print(f"{name}: {wanted.shape} {wanted.ravel()[:2]}, by onnxoptimizer {seen.shape} {seen.ravel()[:2]}")
    assert equal == (name == "Pad, AveragePool"), "the behaviour changed"
    assert wanted.shape == slim.shape and np.allclose(wanted, slim)
PY
