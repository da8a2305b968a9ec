"""openai-whisper and faster-whisper for whisper_speed.py, each in a process of its own with FOLDER first on its path.

`Peer(name, FOLDER, ...)` is the side of the benchmark and gives tokens and costs; run as a script, this file is the
other side.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import harness

EOT = 50257
NAMES = ("openai", "float32", "int8")  # openai-whisper; CTranslate2 by its number type
OPENAI = {  # parts of names in openai's layout -> Transformers'
    "blocks": "layers", "attn": "self_attn", "cross_attn": "encoder_attn", "query": "q_proj", "key": "k_proj",
    "value": "v_proj", "out": "out_proj", "attn_ln": "self_attn_layer_norm", "mlp_ln": "final_layer_norm",
    "cross_attn_ln": "encoder_attn_layer_norm", "token_embedding": "embed_tokens",
    "positional_embedding": "embed_positions.weight", "ln_post": "layer_norm", "ln": "layer_norm",
}  # fmt: skip


def tokens_of(tiny: bool) -> int:
    """How many tokens a window has."""
    return 8 if tiny else 60


class Peer:
    """A library in another process."""

    def __init__(self, name: str, peers: Path, folder: Path, threads: int, tiny: bool):
        given = (name, peers, folder, threads, tokens_of(tiny))
        command = [sys.executable, "-W", "ignore", __file__, *map(str, given)]
        self.server = harness.Server(command)

    def tokens(self, work: str) -> list[list[int]]:
        return self.server.ask(f"tokens {work}")

    def cost(self, work: str) -> harness.Cost:
        return self.server.cost(f"cost {work}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.end()


def write_vocabulary(peers: Path, folder: Path) -> None:
    """Tokenizer and feature extractor of the multilingual models, made of the list of pieces in openai-whisper."""
    import base64

    from transformers import WhisperFeatureExtractor, WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    spelled = bytes_to_unicode()
    lines = (peers / "whisper/assets/multilingual.tiktoken").read_text(encoding="utf-8").split("\n")
    pairs = [line.split() for line in lines if line]
    vocabulary = {"".join(spelled[byte] for byte in base64.b64decode(piece)): int(rank) for piece, rank in pairs}
    tokenizer = WhisperTokenizer(vocab=vocabulary | {"<|endoftext|>": EOT}, merges=[])
    names = [f"<|{code}|>" for code in list(LANGUAGES)[:99]]
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    special = ["<|startoftranscript|>", *names, *(f"<|{name}|>" for name in tasks)]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(1501)])
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


# -- the other side ---------------------------------------------------------------------------------------------------


class OpenAI:
    def __init__(self, folder: Path, threads: int, tokens: int):
        import torch
        from safetensors.torch import load_file

        whisper = import_module("whisper")
        torch.set_num_threads(threads)
        self.tokens = tokens
        config = json.loads((folder / "hf/config.json").read_text(encoding="utf-8"))
        heads = json.loads((folder / "hf/generation_config.json").read_text(encoding="utf-8"))["alignment_heads"]
        of_audio = [config["encoder_attention_heads"], config["encoder_layers"]]
        of_text = [config["decoder_attention_heads"], config["decoder_layers"]]
        width = config["d_model"]
        dims = whisper.ModelDimensions(80, 1500, width, *of_audio, config["vocab_size"], 448, width, *of_text)
        self.model = whisper.model.Whisper(dims)
        theirs = load_file(folder / "hf/model.safetensors")
        self.model.load_state_dict({name: theirs[_of_transformers(name)] for name in self.model.state_dict()})
        mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
        mask[tuple(zip(*heads, strict=True))] = True
        self.model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
        self.model.eval()

    def long(self, sound: Any) -> list[list[int]]:
        found = self.model.transcribe(
            sound, language="en", beam_size=5, temperature=0.0, word_timestamps=True, fp16=False,
            sample_len=self.tokens, suppress_tokens=[EOT], condition_on_previous_text=False,
            compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None,
        )  # fmt: skip
        return [[token for one in found["segments"] for token in one["tokens"]]]


def _of_transformers(name: str) -> str:
    parts = name.replace("mlp.0", "fc1").replace("mlp.2", "fc2").split(".")
    return ".".join(["model", *(OPENAI.get(part, part) for part in parts)])


class CTranslate2:
    """It writes at most half of max_length, which counts the prompt, too (three tokens in faster-whisper)."""

    def __init__(self, folder: Path, threads: int, tokens: int, kind: str):
        ctranslate2, faster_whisper = (import_module(name) for name in ("ctranslate2", "faster_whisper"))

        made, self.tokens = folder / kind, tokens
        if not made.exists():
            converter = ctranslate2.converters.TransformersConverter(
                str(folder / "hf"), copy_files=["tokenizer.json", "preprocessor_config.json"]
            )
            converter.convert(str(made), quantization=kind)
        self.of_windows = ctranslate2
        self.model = faster_whisper.WhisperModel(str(made), device="cpu", compute_type=kind, cpu_threads=threads)

    def windows(self, features: Any) -> list[list[int]]:
        prompt = [[50258, 50259, 50359, 50363]] * len(features)
        found = self.model.model.generate(
            self.of_windows.StorageView.from_array(features), prompt, beam_size=5,
            max_length=2 * self.tokens, suppress_tokens=[EOT], suppress_blank=True,
        )  # fmt: skip
        return [one.sequences_ids[0] for one in found]

    def long(self, sound: Any) -> list[list[int]]:
        segments, _ = self.model.transcribe(
            sound, language="en", beam_size=5, temperature=0.0, word_timestamps=True,
            max_new_tokens=2 * self.tokens - 3,
            suppress_tokens=[EOT], condition_on_previous_text=False, compression_ratio_threshold=None,
            log_prob_threshold=None, no_speech_threshold=None,
        )  # fmt: skip
        return [[token for one in segments for token in one.tokens]]


def main(name: str, peers: str, folder: str, threads: str, tokens: str) -> None:
    os.environ["OMP_NUM_THREADS"] = threads
    sys.path.insert(0, peers)
    import numpy as np

    own, where = sys.stdout, Path(folder)
    sys.stdout = sys.stderr
    peer = (
        OpenAI(where, int(threads), int(tokens))
        if name == "openai"
        else CTranslate2(where, int(threads), int(tokens), name)
    )
    sounds = np.load(where / "sounds.npz")
    sys.stdout = own

    def answer(question: str) -> Any:
        kind, work = question.split()
        given = sounds["long" if work == "long" else "features"]
        way = getattr(peer, work)
        return way(given) if kind == "tokens" else harness.cost_of(lambda: way(given))

    harness.serve(name, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
