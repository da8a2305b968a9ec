"""Whisper beside Transformers, openai-whisper, faster-whisper and CTranslate2, of the same random weights.

    OMP_NUM_THREADS=2 python benchmarks/whisper_speed.py --log benchmarks/logs/whisper_speed.txt
    python benchmarks/whisper_speed.py --peers FOLDER    # the rows of the other libraries, too
    python benchmarks/whisper_speed.py --only beams      # some of its rows
    python benchmarks/whisper_speed.py --tiny            # small models: only equality is wanted

FOLDER holds the other libraries, apart from this environment:

    pip install --target FOLDER --no-deps openai-whisper==20250625 tiktoken==0.14.0 more-itertools numba llvmlite
    pip install --target FOLDER --no-deps faster-whisper==1.2.1 ctranslate2==4.8.5

Weights are converted on the spot. Tokens are compared before anything is timed: they must equal Transformers'; of the
other libraries, whose search differs, it is said how many are equal. Each text has 60 tokens: its end is forbidden.
"decoding" is generate() from an encoded window. Peers in FOLDER run in processes of their own, with as many threads.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Row
from peers import drawn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from whisper_peers import Peer, tokens_of, write_vocabulary

import mm

SECONDS = 120
SMALL = {
    "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12,
    "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
}  # fmt: skip
TINY = {
    "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512,
}  # fmt: skip
WORKS = ("beams", "greedy", "long", "openai", "float32", "int8")  # the last three with --peers
TITLES = {"openai": "openai-whisper", "float32": "faster-whisper, fp32", "int8": "faster-whisper, int8"}
EOT, SOT, ENGLISH, TRANSCRIBE, NO_TIMES = 50257, 50258, 50259, 50359, 50363


def build(tiny: bool) -> WhisperForConditionalGeneration:
    """Random weights under which sounds and earlier tokens decide the next one; the decoding of a multilingual one."""
    model = drawn(WhisperForConditionalGeneration(WhisperConfig(**(TINY if tiny else SMALL))))
    with torch.no_grad():  # times are unlikely, so that every window has one, and the next begins where it ends
        norm, words = model.model.decoder.layer_norm, model.model.decoder.embed_tokens.weight
        norm.weight[0], norm.bias[0], words[:, 0], words[NO_TIMES + 1 :, 0] = 0, 3, 0, -10
    layers = model.config.decoder_layers
    model.generation_config = GenerationConfig(
        decoder_start_token_id=SOT, bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT, is_multilingual=True,
        lang_to_id={"<|en|>": ENGLISH}, task_to_id={"transcribe": TRANSCRIBE, "translate": TRANSCRIBE - 1},
        no_timestamps_token_id=NO_TIMES, prev_sot_token_id=50361, max_initial_timestamp_index=50, max_length=448,
        suppress_tokens=[EOT], begin_suppress_tokens=[220, EOT], return_timestamps=False,
        alignment_heads=[[layer, head] for layer in range(layers // 2, layers) for head in range(2)],
    )  # fmt: skip
    return model


def sound(seconds: float) -> np.ndarray:
    """Noise whose colour changes: float32 at 16 kHz."""
    rng = np.random.default_rng(0)
    steps = rng.standard_normal(int(seconds * 16000)).astype(np.float32)
    loud = np.repeat(10 ** rng.uniform(-2, -0.5, int(seconds * 4) + 1), 4000)[: len(steps)]
    smooth = np.convolve(steps, np.ones(4, np.float32) / 4, "same")
    dull = np.repeat(rng.random(int(seconds) + 1) < 0.5, 16000)[: len(steps)]
    return (np.where(dull, smooth, steps) * loud / 2).astype(np.float32)


def search(beams: int, tiny: bool) -> dict[str, Any]:
    settings = {"num_beams": beams, "max_new_tokens": tokens_of(tiny), "do_sample": False}
    return settings | {"language": "en", "task": "transcribe"}


# -- rows of Transformers ---------------------------------------------------------------------------------------------


def short(theirs: Any, ours: Any, tiny: bool, only: list[str], report: harness.Report) -> Iterator[Row]:
    extractor = WhisperFeatureExtractor()
    for beams, batch, whole, decoding in ((5, 4, 2.6, 5.0), (1, 8, 1.0, 1.2)):
        if ("greedy" if beams == 1 else "beams") not in only:
            continue
        parts = np.split(sound(30 * batch), batch)
        features = extractor(parts, sampling_rate=16000, return_tensors="pt").input_features
        name = f"{'greedy' if beams == 1 else f'{beams} beams'}, batch {batch}"
        settings = search(beams, tiny)
        yield Row(
            name, partial(ours.generate, features, **settings), partial(theirs.generate, features, **settings), whole
        )
        states, context = theirs.model.encoder(features), ours.model.encode_context(input_features=features[:, None])
        given = {"num_beams": beams, "max_new_tokens": tokens_of(tiny), "do_sample": False, "suppress_tokens": [EOT]}
        prompt = torch.tensor([[SOT, ENGLISH, TRANSCRIBE, NO_TIMES]]).expand(batch, -1)
        decode = partial(ours.write_rows, encoder_outputs=context, input_ids=prompt, **given)
        plain = partial(GenerationMixin.generate, theirs, encoder_outputs=states, decoder_input_ids=prompt, **given)
        yield Row(f"{name}, decoding", decode, plain, decoding)
        if beams > 1:
            caches = [way(return_dict_in_generate=True, max_new_tokens=2).past_key_values for way in (decode, plain)]
            held = [
                sum(layer.keys.nbytes + layer.values.nbytes for layer in one.cross_attention_cache.layers)
                for one in caches
            ]
            share = f"{held[0]:,} of {held[1]:,} ({held[0] / held[1]:.2f})"
            report.say(f"  keys and values of the sound: {share} bytes")
            report.want("bytes of the sound's keys and values, peer / ours", held[1] / held[0], beams)


def long(theirs: Any, ours: Any, tiny: bool) -> Iterator[Row]:
    seconds = 60 if tiny else SECONDS
    features = WhisperFeatureExtractor()(
        sound(seconds), sampling_rate=16000, return_tensors="pt", truncation=False, return_attention_mask=True
    )
    settings = search(5, tiny) | {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True}
    yield Row(
        f"{seconds:.0f} s, 5 beams, word times",
        lambda: of_segments(ours.generate(**features, **settings)),
        lambda: of_segments(theirs.generate(**features, **settings)),
        2.5,
    )


def of_segments(written: dict[str, Any]) -> torch.Tensor:
    """(N, 2): every token and its time."""
    found = written["segments"][0]
    tokens = torch.cat([one["tokens"] for one in found])
    return torch.stack([tokens.double(), torch.cat([one["token_timestamps"] for one in found]).double()], -1)


# -- rows of other libraries ------------------------------------------------------------------------------------------


def others(theirs: Any, ours: Any, folder: Path, asked: Any, report: harness.Report) -> Iterator[Row]:
    """Ours against each peer in its own process, of the same sound: windows from features, then a long sound."""
    seconds = 60 if asked.tiny else SECONDS
    extractor, four = WhisperFeatureExtractor(), np.split(sound(120), 4)
    features = extractor(four, sampling_rate=16000, return_tensors="pt").input_features
    np.savez(folder / "sounds.npz", long=sound(seconds), features=features.numpy())
    settings = search(5, asked.tiny)
    prompted = partial(ours.generate, features, **settings)
    whole = partial(heard, ours, sound(seconds), settings)
    wanted = {"openai": (0, 1.0), "float32": (0.8, 0.8), "int8": (0, 0)}
    threads = torch.get_num_threads()
    for name, (of_windows, of_long) in wanted.items():
        if name not in asked.only:
            continue
        with Peer(name, asked.peers, folder, threads, asked.tiny) as peer:
            for work, way, bar in (("windows", prompted, of_windows), ("long", whole, of_long)):
                if name == "openai" and work == "windows":
                    continue
                found = peer.tokens(work)
                told = way()
                rows = told.tolist() if work == "windows" else [told[:, 0].long().tolist()]
                pairs = zip([one for row in rows for one in row], [one for row in found for one in row], strict=False)
                same, most = sum(one == two for one, two in pairs), sum(map(len, rows))
                title = f"{TITLES[name]}: {'batch 4' if work == 'windows' else f'{seconds} s, word times'}, 5 beams"
                report.say(f"  {title}: {sum(map(len, found))} tokens beside {most}, {same} of them equal in place")
                theirs_cost = partial(peer.cost, work)
                yield Row(
                    title, way, theirs_cost, bar, None, TITLES[name], warm_up=0,
                    cost=lambda one, theirs=theirs_cost: one() if one is theirs else harness.clocked(one),
                )  # fmt: skip


def heard(ours: Any, samples: np.ndarray, settings: dict[str, Any]) -> torch.Tensor:
    """A long sound from its samples, as the other libraries take it."""
    features = WhisperFeatureExtractor()(
        samples, sampling_rate=16000, return_tensors="pt", truncation=False, return_attention_mask=True
    )
    asked = {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True}
    return of_segments(ours.generate(**features, **settings, **asked))


# -- the table --------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pairs=3)
    parser.add_argument("--peers", type=Path, help="folder of the other libraries")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS, help="some of the rows")
    asked = parser.parse_args(arguments)
    report = harness.Report(asked)
    with torch.no_grad(), tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        theirs = build(asked.tiny)
        theirs.save_pretrained(folder / "hf")
        ours = mm.convert(folder / "hf").model.eval()
        for row in short(theirs, ours, asked.tiny, asked.only, report):
            report.measure(row)
        for row in long(theirs, ours, asked.tiny) if "long" in asked.only else ():
            report.measure(row)
        if asked.peers:
            write_vocabulary(asked.peers, folder / "hf")
            for row in others(theirs, ours, folder, asked, report):
                report.measure(row)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
