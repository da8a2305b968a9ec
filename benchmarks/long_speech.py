"""Long sounds of real speech through Whisper in Transformers and in MM, of the same weights: every token and time.

    OMP_NUM_THREADS=1 python benchmarks/long_speech.py --log benchmarks/logs/long_speech.txt
    python benchmarks/long_speech.py --only "5 beams"    # some of its settings
    python benchmarks/long_speech.py --tiny              # two short sounds

Twelve sounds of one to three minutes are the captions of Tux Paint's stamps as volunteers read them, in twelve
languages, joined with silences of up to 35 seconds. Where espeak-ng is installed it says twelve more of such captions,
for two of the settings. The weights are random and small, with windows of ten seconds, such that words, times, ends
and silence all happen; in float64, so that no token depends on the order of a sum. Sampling begins with one seed.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import torch
from peers import converted
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from mm.processing.sounds.load import load_sound
from mm.recipes.sources import debian_directory

RATE, WINDOW = 16000, 10  # seconds
NEAR = 0.02  # seconds that times may be apart
LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "lt", "nl", "ro", "ru")
WORDS = 256
EOT, SOT = WORDS, WORDS + 1
IDS = {f"<|{code}|>": SOT + 1 + number for number, code in enumerate(LANGUAGES)}
TRANSLATE, TRANSCRIBE, _, BEFORE, SILENT, NO_TIMES = range(SOT + 13, SOT + 19)
FALLBACK = {"temperature": (0.0, 0.4, 0.8), "compression_ratio_threshold": 1.35, "logprob_threshold": -1.5}
SILENCE = {"no_speech_threshold": 0.3, "logprob_threshold": -1.0, "temperature": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, in batches of 4": {},
    "language detected": {"language": None},
    "translate, after a prompt": {"task": "translate", "prompt_ids": torch.tensor([BEFORE, 5, 60, 7])},
    "5 beams": {"num_beams": 5},
    "fallback": FALLBACK,
    "previous text": {"condition_on_prev_tokens": True},
    "no speech": SILENCE,
    "word times": {"return_token_timestamps": True},
    "5 beams, word times": {"num_beams": 5, "return_token_timestamps": True},
    "all of them": {**FALLBACK, "no_speech_threshold": 0.3, "condition_on_prev_tokens": True, "num_beams": 2}
    | {"return_token_timestamps": True},
}  # fmt: skip
SAID = ("greedy", "5 beams, word times")  # of what espeak-ng says
SOURCES = ("read", "espeak-ng")
BATCH = 4


class Sound(NamedTuple):
    language: str
    samples: np.ndarray


@torch.no_grad()
def build() -> WhisperForConditionalGeneration:
    """The first number of a state is always 1, so that of a row of the head it is how likely its token is."""
    config = WhisperConfig(
        vocab_size=NO_TIMES + 2 + 50 * WINDOW, max_source_positions=50 * WINDOW, d_model=64, encoder_layers=1,
        decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, pad_token_id=EOT, bos_token_id=EOT, eos_token_id=EOT, decoder_start_token_id=SOT,
        tie_word_embeddings=False,
    )  # fmt: skip
    model, generator = WhisperForConditionalGeneration(config).double().eval(), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        is_scale = name.endswith("norm.weight")
        weight.copy_(0.2 * noise + is_scale if weight.ndim == 1 else noise * weight[0].numel() ** -0.5)
    decoder, head = model.model.decoder, model.proj_out.weight
    for layer in decoder.layers:
        layer.encoder_attn.out_proj.weight.mul_(5)
        layer.encoder_attn.q_proj.weight.mul_(4)
    model.model.encoder.conv1.weight.mul_(4)
    model.model.encoder.conv2.weight.mul_(3)
    decoder.embed_positions.weight.mul_(12)
    decoder.embed_tokens.weight.mul_(2)
    head.mul_(2)
    decoder.layer_norm.weight[0], decoder.layer_norm.bias[0] = 0, 1
    head[:, 0], head[EOT, 0], head[SILENT, 0], head[NO_TIMES + 1 :, 0] = 0, 0, 7, -3.5
    model.generation_config = GenerationConfig(
        decoder_start_token_id=SOT, bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT, is_multilingual=True,
        lang_to_id=IDS, task_to_id={"translate": TRANSLATE, "transcribe": TRANSCRIBE}, max_length=80,
        no_timestamps_token_id=NO_TIMES, prev_sot_token_id=BEFORE, max_initial_timestamp_index=50,
        suppress_tokens=[*range(SOT, NO_TIMES)], begin_suppress_tokens=[32, EOT], return_timestamps=False,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
    )  # fmt: skip
    return model


# -- sounds -----------------------------------------------------------------------------------------------------------


def joined(language: str, is_read: bool, seconds: float) -> Sound:
    """Captions of a language, in an order of its own, with pauses and one long silence."""
    rng = np.random.default_rng((LANGUAGES.index(language), is_read))
    root = debian_directory("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    ending = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
    files = sorted(root.rglob(f"*{ending}"))
    if not is_read:  # some recordings have no caption beside them
        files = [file for file in files if captions_of(file, ending).exists()]
    parts, length, long_pause = [], 0, rng.uniform(0.3, 0.6) * seconds
    for number in rng.permutation(len(files)):
        clip = load_sound(files[number], RATE) if is_read else said(files[number], ending, language)
        is_long = length > long_pause * RATE
        pause, long_pause = rng.uniform(*((15, 35) if is_long else (0.2, 3))), np.inf if is_long else long_pause
        parts += [clip, np.zeros(int(pause * RATE), np.float32)]
        length += len(parts[-2]) + len(parts[-1])
        if length >= seconds * RATE:
            break
    return Sound(language, np.concatenate(parts)[: int(seconds * RATE)])


def captions_of(file: Path, ending: str) -> Path:
    """The file of the captions of a recording in all languages."""
    return file.with_name(file.name.replace(ending, ".txt"))


def said(file: Path, ending: str, language: str) -> np.ndarray:
    """The caption of a recording, by espeak-ng."""
    lines = captions_of(file, ending).read_text("utf-8", "replace").splitlines()
    told = [line.partition("=")[2] for line in lines if line.startswith(f"{language}.utf8=")]
    command = ["espeak-ng", "-v", language, "--stdout", told[0] if told else lines[0]]
    wave = subprocess.run(command, capture_output=True, check=True).stdout[44:]  # its head tells no length
    return load_sound({"array": np.frombuffer(wave, np.int16), "sampling_rate": 22050}, RATE)


# -- what both write --------------------------------------------------------------------------------------------------


def written(model: Any, heard: dict[str, torch.Tensor], settings: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The segments of each sound."""
    torch.manual_seed(0)
    return model.generate(**heard, return_timestamps=True, return_segments=True, **settings)["segments"]


def tokens_of(segments: list[list[dict[str, Any]]]) -> list[list[list[int]]]:
    return [[one["tokens"].tolist() for one in row] for row in segments]


def seconds_apart(here: list[list[dict[str, Any]]], there: list[list[dict[str, Any]]]) -> float:
    """The greatest difference of a time of segments or words; of sounds with other tokens there is none."""
    pairs = [
        (torch.as_tensor(one[name]).double(), torch.as_tensor(two[name]).double())
        for row, told, same in zip(here, there, map(list.__eq__, tokens_of(here), tokens_of(there)), strict=True)
        for one, two in zip(row, told, strict=same)
        for name in ("start", "end", "token_timestamps")
        if same and name in two
    ]
    return max(((one - two).abs().max().item() for one, two in pairs), default=0.0)


def features(sounds: list[Sound]) -> dict[str, torch.Tensor]:
    heard = WhisperFeatureExtractor(chunk_length=WINDOW)(
        [sound.samples for sound in sounds], sampling_rate=RATE, return_tensors="pt", truncation=False,
        padding="longest", return_attention_mask=True,
    )  # fmt: skip
    return {"input_features": heard.input_features.double(), "attention_mask": heard.attention_mask}


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=SETTINGS, help="some of the settings")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, help="who speaks")
    asked = parser.parse_args(arguments)
    report, count = harness.Report(asked), 2 if asked.tiny else len(LANGUAGES)
    theirs = build()
    ours = converted(theirs)
    report.say(f"{'':30}{'segments':>9}{'tokens':>8}{'unlike greedy':>15}{'other tokens':>14}{'seconds apart':>15}")
    for source in asked.sources:
        if source == "espeak-ng" and shutil.which(source) is None:
            report.say("espeak-ng is not installed: it says nothing")
            continue
        lengths = np.array([25, 50]) if asked.tiny else 60 + 120 * np.linspace(0, 1, count) ** 6
        sounds = [joined(code, source == "read", one) for code, one in zip(LANGUAGES, lengths, strict=False)]
        report.say(
            f"{source}: {count} sounds of {lengths[0]:.0f} to {lengths[-1]:.0f} s, {lengths.sum() / 60:.0f} min"
        )
        plain, chosen = None, [name for name in SETTINGS if name in asked.only]
        for name in chosen if source == "read" else [name for name in chosen if name in SAID]:
            here, there, together = [], [], BATCH if name == "greedy, in batches of 4" else 1
            for start in range(0, count, together):
                some = sounds[start : start + together]
                settings, heard = {"language": [one.language for one in some], **SETTINGS[name]}, features(some)
                here, there = here + written(ours, heard, settings), there + written(theirs, heard, settings)
            told, seconds = tokens_of(there), seconds_apart(here, there)
            plain = told if name == "greedy" else plain
            segments, tokens = sum(map(len, told)), sum(len(one) for row in told for one in row)
            others = sum(map(list.__ne__, told, tokens_of(here)))
            unlike = None if plain is None else sum(map(list.__ne__, told, plain))
            report.say(
                f"  {name:28}{segments:9}{tokens:8}{'-' if unlike is None else unlike:>15}{others:14}{seconds:15.1e}"
            )
            numbers = {"segments": segments, "tokens": tokens, "unlike_greedy": unlike, "apart": others}
            report.row(source=source, setting=name, seconds=seconds, **numbers)
            if others or seconds > NEAR or segments < 3 * count:
                report.faults.append(
                    f"{source}, {name}: {segments} segments, {others} sounds with other tokens, {seconds:.2g} s"
                )
    return report.end()


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
