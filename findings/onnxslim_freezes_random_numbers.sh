#!/bin/sh
# onnxslim 0.1.98: slim() takes nodes that draw random numbers for constants and for copies of each other. A RandomNormal
# (the noise of a VAE or of a diffusion step) is replaced by one draw that is stored in the file: each call of the model
# then has the same noise, where the model before had another in each call. Two RandomNormalLike or RandomUniformLike over
# one input become one node, so that their difference is 0. slim() says nothing.
# Guess before it was run: such nodes stay as they are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper

assert (version("onnxslim"), version("onnxruntime")) == ("0.1.98", "1.32.0")


def model(*nodes):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (4,)) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node(*node, **more) for *node, more in nodes], "graph", info[:1], info[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def calls(made):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return [session.run(None, {"in": np.zeros(4, np.float32)})[0].round(3).tolist() for _ in range(2)]


noise = model(("RandomNormal", [], ["a"], {"shape": [4]}), ("Add", ["a", "in"], ["out"], {}))
slim = onnxslim.slim(noise)
print("noise, two calls:", calls(noise), "slim:", calls(slim), [node.op_type for node in slim.graph.node])
first, second = calls(noise)
assert first != second
assert [node.op_type for node in slim.graph.node] == ["Add"], "the behaviour changed"
first, second = calls(slim)
assert first == second, "the behaviour changed"
for draw in ("RandomNormalLike", "RandomUniformLike"):
    two = model((draw, ["in"], ["a"], {}), (draw, ["in"], ["b"], {}), ("Sub", ["a", "b"], ["out"], {}))
    slim = onnxslim.slim(two)
    print(f"difference of two {draw}: {calls(two)[0]}, slim: {calls(slim)[0]}")
    assert any(calls(two)[0]) and calls(slim) == [[0.0] * 4] * 2, "the behaviour changed"
PY
