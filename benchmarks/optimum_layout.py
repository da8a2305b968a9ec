"""Transformers' BLIP in ONNX Runtime, in the layout that Hugging Face's optimum writes for encoders with a decoder.

Three graphs: the tower; the decoder on a first token, which makes the keys and values of every layer, those of the
picture among them; and the decoder on a further token, with all of them as inputs, a tensor each. Each beam has the
keys and values of its picture, and all are gathered when beams change places. optimum itself has no BLIP.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from mm.exporting.beams import Beams

Arrays = list[np.ndarray]


class First(nn.Module):
    """(B, 1) ids and (B, S, D) states -> logits (B, V), then four tensors of keys and values a layer."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.run(input_ids, states, EncoderDecoderCache(DynamicCache(), DynamicCache()))

    def run(self, input_ids: torch.Tensor, states: torch.Tensor, cache: Any) -> tuple[torch.Tensor, ...]:
        out = self.decoder(
            input_ids=input_ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True, return_dict=True
        )
        held = out.past_key_values
        halves = (held.self_attention_cache, held.cross_attention_cache)
        return out.logits[:, -1], *(
            one for half in halves for layer in half.layers for one in (layer.keys, layer.values)
        )


class Next(First):
    def forward(self, input_ids: torch.Tensor, states: torch.Tensor, past: list[torch.Tensor]):  # type: ignore[override]
        cache, half = EncoderDecoderCache(DynamicCache(), DynamicCache()), len(past) // 2
        for place in range(0, half, 2):
            cache.self_attention_cache.update(past[place], past[place + 1], place // 2)
            cache.cross_attention_cache.update(past[half + place], past[half + place + 1], place // 2)
            cache.is_updated[place // 2] = True
        return self.run(input_ids, states, cache)[: 1 + half]


def exported(peer: Any, folder: Path, threads: int, pixels: torch.Tensor) -> "Graphs":
    """pixels: float (2, 3, H, W), an example."""
    from torch.export import Dim

    rows, length, batch = Dim("rows", min=2, max=4096), Dim("length", min=1, max=512), {0: Dim("batch", min=2)}
    tower, first, further = peer.vision_model, First(peer.text_decoder), Next(peer.text_decoder)
    ids, states = torch.full((2, 1), 7), tower(pixels).last_hidden_state
    past = list(first(ids, states)[1:])
    shapes = [{0: rows, 2: length} if place < len(past) // 2 else {0: rows} for place in range(len(past))]
    works = {
        "encoder": (Tower(tower), (pixels,), (batch,)),
        "first": (first, (ids, states), ({0: rows}, {0: rows})),
        "next": (further, (ids, states, past), ({0: rows}, {0: rows}, shapes)),
    }
    for name, (module, example, dynamic) in works.items():
        torch.onnx.export(
            module.eval(), example, str(folder / f"{name}.onnx"), dynamo=True, dynamic_shapes=dynamic, verbose=False
        )
    return Graphs(folder, threads)


class Tower(nn.Module):
    def __init__(self, tower: Any):
        super().__init__()
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.tower(pixels).last_hidden_state


class Graphs:
    """Greedy decoding and beams over the three graphs."""

    def __init__(self, folder: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.first, self.next = (
            onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "first", "next")
        )

    @staticmethod
    def run(session: Any, given: Arrays) -> Arrays:
        names = [one.name for one in session.get_inputs()]
        return session.run(None, dict(zip(names, given, strict=True)))

    def write(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, num_beams: int, max_new_tokens: int, **_: Any
    ) -> torch.Tensor:
        """int64 (B, 1 + max_new_tokens)."""
        (states,) = self.run(self.encoder, [pixel_values.numpy()])
        ids = input_ids.numpy()
        beams = Beams(ids, num_beams, [], 0, max_new_tokens, 1.0)
        states, new = states.repeat(num_beams, 0), ids.repeat(num_beams, 0)
        logits, *past = self.run(self.first, [new, states] if len(self.first.get_inputs()) == 2 else [new])
        half = len(past) // 2
        new, sources = beams.step(logits)
        takes_states = len(self.next.get_inputs()) == 2 + len(past)
        while not beams.is_done:
            past = [one[sources] for one in past]
            given = [new, *([states] if takes_states else []), *past]
            logits, *own = self.run(self.next, given)
            past[:half] = own
            new, sources = beams.step(logits)
        return torch.from_numpy(beams.best())
