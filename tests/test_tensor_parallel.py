"""The tensor-parallel plan, run: two processes on the CPU answer as one does."""

import socket
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys, torch
from torch.distributed.tensor import DTensor
from mm import MMForConditionalGeneration

inputs = torch.load(sys.argv[2])
expected = MMForConditionalGeneration.from_pretrained(sys.argv[1]).eval()(**inputs).logits
split = MMForConditionalGeneration.from_pretrained(sys.argv[1], tp_plan="auto").eval()
for stack in (split.model.language_model, split.model.text_encoder):
    layers = [] if stack is None else stack.layers
    assert all(isinstance(layer.cross_attn.q_proj.weight, DTensor) for layer in layers)
assert isinstance(split.model.language_model.layers[0].self_attn.q_proj.weight, DTensor)
logits = split(**inputs).logits
assert ((logits - expected).abs() <= 1e-5 * expected.abs().clamp(min=1)).all()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "encoder"])
def test_two_processes_answer_as_one_does(tiny_model, pictures, name, tmp_path):
    fields = {"text_encoder_config": "tiny"} if name == "encoder" else {}
    tiny_model(dtype=torch.float32, **fields).save_pretrained(tmp_path / "model")
    ids = torch.tensor([[1, 5, 6], [0, 1, 8], [1, 3, 9]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "pixel_values": pictures.float()}
    if name == "encoder":
        inputs["context_input_ids"] = ids
    torch.save(inputs, tmp_path / "inputs.pt")
    (tmp_path / "run.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    command += [tmp_path / "run.py", tmp_path / "model", tmp_path / "inputs.pt"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("equal") == 2
