"""torch.compile: a decode step over a static cache is one graph, through inductor too, and writes the same tokens."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers import CompileConfig

IDS = torch.tensor([[1, 5, 6], [0, 1, 7], [1, 8, 9]])  # the second is padded on the left
RAGGED = {"context_index": torch.tensor([0, 1, 1])}


def compiled_alike(model, backend: str, **inputs) -> None:
    """Compares greedy tokens with and without the compiler, and asks for one graph without a break."""
    settings = {"max_new_tokens": 8, "do_sample": False}
    compiling = CompileConfig(backend=backend, fullgraph=True)
    compiling._compile_all_devices = True  # generate() compiles on accelerators alone unless told
    expected = model.generate(**inputs, **settings)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    given = model.generate(**inputs, **settings, cache_implementation="static", compile_config=compiling)
    assert torch.equal(given, expected) and len(set(given.flatten().tolist())) > 5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_inductor_compiles_a_decode_into_one_graph_that_writes_the_same(tiny_model, pictures):
    model = tiny_model("vit", "inside", dtype=torch.float32, attention="sdpa")
    compiled_alike(
        model, "inductor", input_ids=IDS, attention_mask=IDS.ne(0).long(), pixel_values=pictures[:, 0].float()
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", ["inside", "llama"])
def test_ragged_rows_are_one_graph_too(tiny_model, pictures, text):
    model = tiny_model("vit", text, attention="sdpa")
    inputs = {"input_ids": IDS, "attention_mask": IDS.ne(0).long(), "pixel_values": pictures[:2, 0], **RAGGED}
    compiled_alike(model, "eager", **inputs)
