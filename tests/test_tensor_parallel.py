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
    for layer in [] if stack is None else stack.layers:
        split_parts = [getattr(layer, f"{kind}_attn") for kind in ("self", "cross") if kind in layer.sublayers]
        assert split_parts and all(isinstance(part.q_proj.weight, DTensor) for part in split_parts)
        assert isinstance(layer.mlp.up_proj.weight, DTensor)
logits = split(**inputs).logits
assert ((logits - expected).abs() <= 1e-5 * expected.abs().clamp(min=1)).all()
media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
written = split.generate(**media, num_beams=3, max_new_tokens=4)
whole = MMForConditionalGeneration.from_pretrained(sys.argv[1]).eval().generate(**media, num_beams=3, max_new_tokens=4)
assert torch.equal(written, whole)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "encoder", "own"])
def test_two_processes_answer_as_one_does(tiny_model, pictures, name, tmp_path):
    fields = {"plain": {}, "encoder": {"text_encoder_config": "tiny"}, "own": {"text": "own"}}[name]
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
