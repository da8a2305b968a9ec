#!/bin/sh
# OpenVINO 2026.4.1 (CPU of an x86 machine, float32): NaN goes into some functions and a number comes out: Relu and Clip
# make 0 of it, HardSigmoid 1, Exp infinity, and a Softmax over a row with a NaN is 0 at the others. onnxruntime 1.32.0
# has NaN for all of these. A model that overflowed gives plausible scores behind its first Relu, and a test that looks
# for NaN passes. Gelu makes the opposite of it: NaN of infinity. Sigmoid, Tanh, Elu and LeakyRelu keep NaN.
# Guess before it was run: NaN of NaN in each.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

assert (version("openvino"), version("onnxruntime")) == ("2026.4.1", "1.32.0")
core = openvino.Core()
given = np.array([np.nan, -1, 2], np.float32)


def both(operation, given, **settings):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, given.shape) for name in ("in", "out")]
    ends = [helper.make_tensor(name, TensorProto.FLOAT, (), [end]) for name, end in (("low", 0), ("high", 1))]
    names = ["in", "low", "high"] if operation == "Clip" else ["in"]
    graph = helper.make_graph([helper.make_node(operation, names, ["out"])], "graph", info[:1], info[1:], ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, "model.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    told = onnxruntime.InferenceSession("model.onnx", options).run(None, {"in": given})[0]
    compiled = core.compile_model(core.read_model("model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    request.infer({"in": given})
    found = np.array(request.get_output_tensor(0).data)
    print(f"{operation} of {given.tolist()}: onnxruntime {told.round(3).tolist()}, OpenVINO {found.round(3).tolist()}")
    return told, found


for operation, number in (("Relu", 0), ("Clip", 0), ("HardSigmoid", 1), ("Exp", np.inf)):
    told, found = both(operation, given)
    assert np.isnan(told[0]) and found[0] == number, "the behaviour changed"
    assert np.allclose(told[1:], found[1:], atol=1e-3)
told, found = both("Softmax", given)
assert np.isnan(told).all() and found[1:].tolist() == [0, 0], "the behaviour changed"
told, found = both("Gelu", np.array([np.inf, -1, 2], np.float32))
assert told[0] == np.inf and np.isnan(found[0]), "the behaviour changed"
for operation in ("Sigmoid", "Tanh", "Elu", "LeakyRelu"):
    told, found = both(operation, given)
    assert np.isnan(told[0]) and np.isnan(found[0]), "the behaviour changed"
PY
