"""OnnxGenerator: captions and answers from the files of `export_onnx`, with only numpy and ONNX Runtime.

B contexts, R prompts, T tokens of a prompt, N new tokens.
"""

import json
import logging
from pathlib import Path

import numpy as np

from .beams import Beams
from .onnx import check_installed

# Inputs of context.onnx, each with its mask, and how many dimensions say which contexts, items and frames there are.
MASKS = {
    "pixel_values": ("pixel_attention_mask", 2),
    "pixel_values_videos": ("video_attention_mask", 3),
    "input_features": ("input_features_mask", 2),
    "context_input_ids": ("context_attention_mask", 2),
}
Arrays = dict[str, np.ndarray]
# What generate() would read from a generation configuration and this loop does not, with the values that ask nothing.
NOT_FOLLOWED = {
    "do_sample": (None, False), "early_stopping": (None, False), "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0), "min_length": (None, 0), "min_new_tokens": (None, 0),
    "bad_words_ids": (None,), "suppress_tokens": (None,), "begin_suppress_tokens": (None,),
    "forced_bos_token_id": (None,), "forced_eos_token_id": (None,), "num_beam_groups": (None, 1),
    "num_return_sequences": (None, 1), "penalty_alpha": (None,), "sequence_bias": (None,), "max_time": (None,),
    "stop_strings": (None,), "guidance_scale": (None, 1.0), "exponential_decay_length_penalty": (None,),
}  # fmt: skip

logger = logging.getLogger(__name__)


class OnnxGenerator:
    """Greedy decoding, or beams, over context.onnx and decoder.onnx; contexts are encoded once, a prompt in one call.

    Args:
        directory: what `export_onnx` wrote.
        num_threads: of ONNX Runtime; None: as many as it likes.
    """

    def __init__(self, directory: str | Path, num_threads: int | None = None):
        check_installed(("onnxruntime",))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        options.log_severity_level = 3  # errors: its warnings are about constants that it does not fold
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
        self.fill = next(iter(self.ends), 0) if self.pad is None else self.pad  # after the end of a text
        self.generation = generation
        asked = [
            f"{name}={generation.get(name)}" for name, same in NOT_FOLLOWED.items() if generation.get(name) not in same
        ]
        if asked:
            logger.warning("generation_config.json asks for %s, which this loop does not do", ", ".join(asked))

    def generate(
        self,
        pixel_values: np.ndarray | None = None,
        input_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        max_new_tokens: int | None = None,
        *,
        num_beams: int | None = None,
        length_penalty: float | None = None,
        context_index: np.ndarray | None = None,
        **media: np.ndarray,
    ) -> np.ndarray:
        """int64 (R, T + N), the prompts and what follows; after its end a row is padded.

        Args:
            pixel_values: float (B, C, H, W), one picture for each context, or (B, N, C, H, W).
            media: other inputs of the model, as MMProcessor returns them (`return_tensors="np"`): pixel_attention_mask
                bool (B, N), True for real pictures, pixel_values_videos, video_attention_mask,
                input_features, input_features_mask, context_input_ids, context_attention_mask.
            input_ids: int64 (R, T), padded on the left; None: only bos, a row for each context.
            attention_mask: (R, T), 1 = real; None: all except pad tokens, as in generate().
            max_new_tokens: None: the generation configuration's, or what its max_length leaves, or 20.
            num_beams, length_penalty: as in generate() with early_stopping=False; None: as configured.
            context_index: int64 (R,), the context of each row; None: R = k*B, row r reads context r // k.

        Raises: ValueError for inputs that the graphs do not have, or counts that do not fit.
        """
        given = {"pixel_values": pixel_values, **media}
        context = self._context({name: value for name, value in given.items() if value is not None})
        ids, mask, context = self._rows(context, input_ids, attention_mask, context_index)
        limit = max_new_tokens or self._most_new(ids.shape[1])
        beams: int = num_beams or self.generation.get("num_beams") or 1
        if beams > 1:
            configured = self.generation.get("length_penalty")
            configured = 1.0 if configured is None else configured
            penalty = configured if length_penalty is None else length_penalty
            return self._search(ids, mask, context, Beams(ids, beams, self.ends, self.fill, limit, penalty))
        past, new, is_done = self._nothing_before(len(ids)), ids, np.zeros(len(ids), bool)
        for _ in range(limit):
            logits, past = self._step(new, mask, past, context)
            new = np.where(is_done, self.fill, logits.argmax(-1))[:, None].astype(np.int64)
            ids, mask = np.concatenate([ids, new], 1), np.concatenate([mask, np.ones_like(new)], 1)
            is_done |= np.isin(new[:, 0], self.ends)
            if is_done.all():
                break
        return ids

    def first_logits(self, input_ids: np.ndarray, **media: np.ndarray) -> np.ndarray:
        """float32 (R, V), those of the token after prompts (R, T) without padding."""
        ids, mask, context = self._rows(self._context(media), input_ids, None, None)
        return self._step(ids, mask, self._nothing_before(len(ids)), context)[0]

    def _search(self, ids: np.ndarray, mask: np.ndarray, context: Arrays, beams: Beams) -> np.ndarray:
        """The prompts run once; from then on each beam is a row."""
        logits, past = self._step(ids, mask, self._nothing_before(len(ids)), context)
        spread = np.arange(len(ids)).repeat(beams.num_beams)
        logits, mask = logits[spread], mask[spread]
        past = {name: value[:, spread] for name, value in past.items()}
        context = _taken(context, spread)
        new, sources = beams.step(logits)
        while not beams.is_done:
            past = {name: value[:, sources] for name, value in past.items()}
            mask = np.concatenate([mask, np.ones_like(new)], 1)
            logits, past = self._step(new, mask, past, context)
            new, sources = beams.step(logits)
        return beams.best()

    def _step(self, new: np.ndarray, mask: np.ndarray, past: Arrays, context: Arrays) -> tuple[np.ndarray, Arrays]:
        given = self._run(self.decoder, input_ids=new, attention_mask=mask, **past, **context)
        if not np.isfinite(given["logits"].max(-1)).all():  # a NaN among them is their greatest
            raise ValueError(
                "the graph's logits are NaN or infinite, so the text means nothing: look for NaN among the weights "
                "or pixels that are not normalised"
            )
        return given["logits"], {"past_keys": given["keys"], "past_values": given["values"]}

    def _most_new(self, length: int) -> int:
        """How many tokens may follow prompts of `length`, by the generation configuration."""
        most, whole = self.generation.get("max_new_tokens"), self.generation.get("max_length")
        return most or (max(1, whole - length) if whole else 20)

    def _rows(
        self, context: Arrays, ids: np.ndarray | None, mask: np.ndarray | None, index: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, Arrays]:
        """Prompts and their mask, and a context for each of them."""
        contexts = len(context["context_lengths"])
        if ids is None:
            if self.start is None:
                raise ValueError("the model has no bos_token_id to start from: give input_ids")
            ids = np.full((contexts if index is None else len(index), 1), self.start, np.int64)
        if index is None:
            if len(ids) % contexts:
                raise ValueError(
                    f"{len(ids)} prompts and {contexts} contexts: without context_index the prompts must be a "
                    "multiple of the contexts"
                )
            index = np.arange(len(ids)) // (len(ids) // contexts)
        if len(index) != len(ids) or not ((index >= 0) & (index < contexts)).all():
            raise ValueError(f"context_index must be ({len(ids)},), numbers in 0..{contexts - 1}; got {index}")
        if mask is None:
            mask = np.ones_like(ids) if self.pad in (None, *self.ends) else np.not_equal(ids, self.pad)
        mask = np.asarray(mask, dtype=np.int64)
        whole = len(index) == contexts and (index == np.arange(contexts)).all()
        return ids.astype(np.int64), mask, context if whole else _taken(context, index)

    def _context(self, given: Arrays) -> Arrays:
        """context_keys, context_values and context_lengths of B contexts."""
        wanted = {one.name: one for one in self.context.get_inputs()}
        unknown = sorted(set(given) - set(wanted))
        if unknown:
            raise ValueError(f"the graphs take no {', '.join(unknown)}; they take {', '.join(wanted)}")
        if "context_input_ids" in wanted and "context_input_ids" not in given:
            raise ValueError("this model's decoder reads a text and its media: give context_input_ids")
        given = {name: _slotted(name, value) for name, value in given.items()}
        for name, value in given.items():
            _check_shape(name, value.shape, wanted[name].shape)
        contexts = {len(value) for value in given.values()}
        if len(contexts) != 1:
            raise ValueError(f"every input must come for the same contexts; got {sorted(contexts) or 'none'}")
        inputs: Arrays = {}
        for name, (mask, leading) in MASKS.items():
            if name not in wanted:
                continue
            if name in given:
                values, real = given[name], given.get(mask)
                real = np.ones(values.shape[:leading]) if real is None else real
            else:
                shape = [*contexts, *[1] * (leading - 1), *wanted[name].shape[leading:]]
                values, real = np.zeros(shape, np.float32), np.zeros(shape[:leading])
            if real.shape != values.shape[:leading]:
                raise ValueError(f"{mask} must be {values.shape[:leading]} here; got {real.shape}")
            is_text = name == "context_input_ids"
            inputs |= {name: values.astype(np.int64 if is_text else np.float32)}
            inputs |= {mask: real.astype(np.int64 if is_text else bool)}
        return self._run(self.context, **inputs)

    def _nothing_before(self, rows: int) -> Arrays:
        """Keys and values of no token, as the decoder takes them."""
        layers, _, heads, _, width = next(one.shape for one in self.decoder.get_inputs() if one.name == "past_keys")
        empty = np.zeros((layers, rows, heads, 0, width), np.float32)
        return {"past_keys": empty, "past_values": empty}

    @staticmethod
    def _run(session, **inputs: np.ndarray) -> Arrays:
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))


def _slotted(name: str, values: np.ndarray) -> np.ndarray:
    """With the dimension of the items: one picture or video of each context may come without."""
    single = {"pixel_values": 4, "pixel_values_videos": 5, "pixel_attention_mask": 1, "video_attention_mask": 2}
    return values[:, None] if values.ndim == single.get(name) else values


def _check_shape(name: str, found: tuple[int, ...], wanted: list[int | str]) -> None:
    fits = len(found) == len(wanted) and all(
        isinstance(size, str) or size == own for size, own in zip(wanted, found, strict=True)
    )
    if not fits:
        sizes = ", ".join(str(size) for size in wanted)
        raise ValueError(f"{name} is {found}; the graph takes ({sizes}), where sizes with a name may be any")


def _taken(context: Arrays, index: np.ndarray) -> Arrays:
    """The contexts that an index names, in its order."""
    return {name: value[index] if name == "context_lengths" else value[:, index] for name, value in context.items()}
