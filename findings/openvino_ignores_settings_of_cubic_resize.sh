#!/bin/sh
# OpenVINO 2026.4.1 (CPU, float32): what a Resize of ONNX says of its edges and of its filter is not heeded where it is
# cubic: exclude_outside=1 and antialias=1 give the very numbers that the node gives without them, and nothing is said.
# onnxruntime 1.32.0 and the reference of ONNX follow both. A picture that is made half as large with antialias (what
# Pillow, and PyTorch with antialias=True, do) is another picture: 2.03 in place of 2.45 of 0 to 15 in the first pixel.
# Without the two all are equal.
# Guess before it was run: the numbers of onnxruntime, or an error for what is not supported.
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
pixels = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
found = {}
for scale in (0.5, 2.0):
    for settings in ({}, {"exclude_outside": 1}, {"antialias": 1}):
        size = int(4 * scale)
        graph = helper.make_graph(
            [helper.make_node("Resize", ["in", "", "scales"], ["out"], mode="cubic", **settings)],
            "graph",
            [helper.make_tensor_value_info("in", TensorProto.FLOAT, (1, 1, 4, 4))],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 1, size, size))],
            [helper.make_tensor("scales", TensorProto.FLOAT, (4,), [1, 1, scale, scale])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, "model.onnx")
        told = onnxruntime.InferenceSession("model.onnx").run(None, {"in": pixels})[0]
        compiled = core.compile_model(core.read_model("model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        request.infer({"in": pixels})
        found[scale, str(settings)] = np.array(request.get_output_tensor(0).data)
        off = abs(told - found[scale, str(settings)]).max()
        first = told.flat[0], found[scale, str(settings)].flat[0]
        print(f"scale {scale}, {settings or 'as it is made'}: first pixel {first[0]:.3f} and {first[1]:.3f}, off by up to {off:.3f}")
        same = not settings or (scale == 2 and "antialias" in settings)
        assert off < 1e-4 if same else off > 0.1, "the behaviour changed"
        assert (found[scale, str(settings)] == found[scale, "{}"]).all(), "the behaviour changed"
PY
