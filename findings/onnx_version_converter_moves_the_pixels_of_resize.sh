#!/bin/sh
# onnx 1.23.2: version_converter raises the version of a model and not the meaning of its Resize: in version 10 (and
# Upsample in 9) pixels lie at their corners, from 11 on at their middles unless told otherwise, and the converter does not
# tell. A linear Resize of 0, 1, 2, 3 to twice the size is 0, .5, 1, 1.5, ... before and 0, .25, .75, 1.25, ... after; the
# model still runs, with shapes as before, and a detector's or a decoder's maps are off by a quarter of a pixel at each
# step. Softmax is rewritten with care on the way up, and Hardmax beside it is not. Guess before it was run: a converted
# model gives equal numbers.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

assert version("onnx") == "1.23.2"
quiet = onnxruntime.SessionOptions()
quiet.log_severity_level = 4
line = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
maps = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
twice = {"scales": np.float32([1, 1, 1, 2])}
CASES = [
    ("Resize", 10, line, {"mode": "linear"}, twice, False),
    ("Upsample", 9, line, {"mode": "linear"}, twice, False),
    ("Hardmax", 11, maps, {"axis": 1}, {}, False),
    ("Softmax", 11, maps, {"axis": 1}, {}, True),
    ("ReduceSum", 11, maps, {"axes": [1]}, {}, True),
]


def run(model, given):
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": given})[0]


for name, old, given, attributes, more, equal in CASES:
    graph = helper.make_graph(
        [helper.make_node(name, ["x", *more], ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in more.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", old)], ir_version=6)
    before, after = run(model, given), run(version_converter.convert_version(model, 13), given)
    print(f"{name}: version {old} {before.ravel()[:6]}, version 13 {after.ravel()[:6]}")
    assert before.shape == after.shape
    assert np.allclose(before, after, atol=1e-5) == equal, "the behaviour changed"
PY
