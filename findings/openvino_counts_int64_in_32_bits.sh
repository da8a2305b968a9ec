#!/bin/sh
# OpenVINO 2026.4.1 (CPU): int64 is counted in 32 bits, though inputs and outputs are int64: 2**40 + 3 goes in and 3 comes
# out, of Identity too, 2**31 is negative, and two ids whose lower 32 bits are equal are Equal. The largest of 2**40,
# 2**31 and 5 is 5. Hashes as ids, times in microseconds and products of sizes in a graph are others, without a word;
# onnxruntime 1.32.0 keeps them. uint8 stops at 255 and at 0 where ONNX has it go round: 200 + 100 is 255 and not 44, 10 -
# 100 is 0 and not 166. Guess before it was run: 64 bits, or an error that the plug-in has none; uint8 that goes round.
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


def both(operation, *given):
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in given]
    names = [f"in{place}" for place in range(len(given))]
    settings = {"keepdims": 0} if operation == "ReduceMax" else {}
    out = TensorProto.BOOL if operation == "Equal" else kinds[0]
    graph = helper.make_graph(
        [helper.make_node(operation, names, ["out"], **settings)],
        "graph",
        [helper.make_tensor_value_info(*one) for one in zip(names, kinds, [value.shape for value in given])],
        [helper.make_tensor_value_info("out", out, () if settings else given[0].shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, "model.onnx")
    feed = dict(zip(names, given))
    told = onnxruntime.InferenceSession("model.onnx").run(None, feed)[0].tolist()
    request = core.compile_model(core.read_model("model.onnx"), "CPU").create_infer_request()
    request.infer(feed)
    found = np.array(request.get_output_tensor(0).data)
    print(f"{operation} of {[value.tolist() for value in given]}: onnxruntime {told}, OpenVINO {found.tolist()} ({found.dtype})")
    return told, found.tolist()


ids = np.array([2**40 + 3, 2**31, 5])
small = np.array([200, 10], np.uint8)
assert both("Identity", ids) == (ids.tolist(), [3, -(2**31), 5]), "the behaviour changed"
assert both("Equal", ids, ids + 2**32) == ([False] * 3, [True] * 3), "the behaviour changed"
assert both("ReduceMax", ids) == (2**40 + 3, 5), "the behaviour changed"
assert both("Mul", np.array([70000]), np.array([70000])) == ([4900000000], [605032704]), "the behaviour changed"
assert both("Add", small, small // 2) == ([44, 15], [255, 15]), "the behaviour changed"
assert both("Sub", small, np.full(2, 100, np.uint8)) == ([100, 166], [100, 0]), "the behaviour changed"
PY
