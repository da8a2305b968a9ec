"""OnnxGenerator: captions and answers from the files of `export_onnx`, by numpy and ONNX Runtime alone.

B pictures and as many prompts, T tokens of a prompt, N new tokens.
"""

import json
from pathlib import Path

import numpy as np

from .onnx import check_installed


class OnnxGenerator:
    """Greedy decoding over context.onnx and decoder.onnx; the context is encoded once, the prompt in one call.

    Args:
        directory: what `export_onnx` wrote.
        num_threads: of ONNX Runtime; None: as many as it likes.
    """

    def __init__(self, directory: str | Path, num_threads: int | None = None):
        check_installed(("onnxruntime",))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        directory = Path(directory)
        self.context, self.decoder = (
            onnxruntime.InferenceSession(str(directory / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
            for name in ("context", "decoder")
        )
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))["text_config"]
        generation = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
        ids = {name: generation.get(name, config[name]) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        ends = ids["eos_token_id"]
        self.start, self.pad = ids["bos_token_id"], ids["pad_token_id"]
        self.ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.max_new_tokens = generation.get("max_new_tokens") or 20

    def generate(
        self,
        pixel_values: np.ndarray,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        max_new_tokens: int | None = None,
    ) -> np.ndarray:
        """int64 (B, T + N), the prompts and what follows; after its end a row is padded.

        Args:
            pixel_values: float32 (B, C, H, W), one picture for each row.
            input_ids: int64 (B, T), padded on the left; None: bos alone.
            attention_mask: (B, T), 1 = real; None: no padding.
            max_new_tokens: None: the generation configuration's, or 20.
        """
        ids = np.full((len(pixel_values), 1), self.start, np.int64) if input_ids is None else input_ids
        if ids.shape[0] != len(pixel_values):
            raise ValueError(f"{len(pixel_values)} pictures and {ids.shape[0]} prompts; pass one prompt a picture")
        mask = np.ones_like(ids) if attention_mask is None else attention_mask.astype(np.int64)
        context = self._run(self.context, pixel_values=pixel_values.astype(np.float32))
        past = self._nothing_before(len(ids))
        is_done = np.zeros(len(ids), bool)
        new = ids
        for _ in range(max_new_tokens or self.max_new_tokens):
            given = self._run(self.decoder, input_ids=new, attention_mask=mask, **past, **context)
            past = {"past_keys": given["keys"], "past_values": given["values"]}
            new = np.where(is_done, self.pad, given["logits"].argmax(-1))[:, None].astype(np.int64)
            ids, mask = np.concatenate([ids, new], 1), np.concatenate([mask, np.ones_like(new)], 1)
            is_done |= np.isin(new[:, 0], self.ends)
            if is_done.all():
                break
        return ids

    def first_logits(self, pixel_values: np.ndarray, input_ids: np.ndarray) -> np.ndarray:
        """float32 (B, V), those of the token behind prompts (B, T) without padding."""
        context = self._run(self.context, pixel_values=pixel_values.astype(np.float32))
        before = self._nothing_before(len(input_ids))
        prompt = {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
        return self._run(self.decoder, **prompt, **before, **context)["logits"]

    def _nothing_before(self, rows: int) -> dict[str, np.ndarray]:
        """Keys and values of no token, as the decoder takes them."""
        layers, _, heads, _, width = next(one.shape for one in self.decoder.get_inputs() if one.name == "past_keys")
        empty = np.zeros((layers, rows, heads, 0, width), np.float32)
        return {"past_keys": empty, "past_values": empty}

    @staticmethod
    def _run(session, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))
