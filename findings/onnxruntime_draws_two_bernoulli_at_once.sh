#!/bin/sh
# onnxruntime 1.32.0: two Bernoulli nodes with one input are one at the settings that a session has unless told otherwise,
# so that two draws are always equal: the difference of two masks of probability .5 is 0 everywhere. With the
# optimizations off it is not, and RandomNormalLike, RandomUniformLike and Multinomial are left apart at every level. Two
# masks for two views of one picture, or stochastic layers at two places, drop the same things. A seed for each node keeps
# them apart. Guess before it was run: nodes that draw are never merged.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

assert version("onnxruntime") == "1.32.0"
levels = onnxruntime.GraphOptimizationLevel


def differ(operation, level, first={}, second={}):
    nodes = [
        helper.make_node(operation, ["in"], ["a"], **first),
        helper.make_node(operation, ["in"], ["b"], **second),
        helper.make_node("Sub", ["a", "b"], ["out"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1000,)) for name in ("in", "out")]
    graph = helper.make_graph(nodes, "graph", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    share = float((session.run(None, {"in": np.full(1000, 0.5, np.float32)})[0] != 0).mean())
    print(f"two {operation} {first or ''} {second or ''} at {level.name}: {share:.0%} of the numbers differ")
    return share


assert differ("Bernoulli", levels.ORT_DISABLE_ALL) > 0.3
for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
    assert differ("Bernoulli", level) == 0, "the behaviour changed"
    for operation in ("RandomNormalLike", "RandomUniformLike"):
        assert differ(operation, level) > 0.9, "the behaviour changed"
assert differ("Bernoulli", levels.ORT_ENABLE_ALL, {"seed": 1.0}, {"seed": 2.0}) > 0.3
PY
