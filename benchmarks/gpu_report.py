"""What the owner of an NVIDIA GPU runs once: is all of it right there, and how fast? `make gpu-report`.

    python benchmarks/gpu_report.py                     # build/gpu-report.md and .json
    python benchmarks/gpu_report.py --device cpu --tiny # only the models, small, to see that it runs

Three parts, each of which may fail without ending the others: the tests marked `gpu`; the calls of
gpu_cross_attention.py beside SDPA, eager, flex attention and flash-attn; BLIP and Whisper from pixels and sounds to
tokens beside Transformers' classes, of the same random weights, with the device drained before and after each run.
In fp32 tokens are equal before anything is timed; of random weights in bf16 the share of equal ones is told.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import peers
import torch
import transformers
import whisper_speed as whisper

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Pair = tuple[str, Any, Any]  # work, ours, Transformers': each gives tokens


def part(name: str, command: list[str]) -> dict[str, Any]:
    """Runs another program and shows what it prints."""
    print(f"== {name}", flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    return {"part": name, "command": command[1:], "exit": done.returncode, "printed": done.stdout}


def drained(device: torch.device, way: Any) -> harness.Cost:
    def run() -> None:
        way()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return harness.clocked(run)


def blip(device: torch.device, dtype: torch.dtype, tiny: bool) -> Iterator[Pair]:
    peer, ours, size = peers.blip(peers.MEDIUM if tiny else peers.FULL)
    ours, peer = ours.to(device, dtype), peer.to(device, dtype)
    for batch, beams in ((1, 1), (8, 5)):
        pixels = peers.pictures(batch, size).to(device, dtype)
        ids = peers.starts(peer, batch).to(device)
        settings = peers.search(beams)
        yield (
            f"BLIP, {beams} beams, batch {batch}",
            partial(ours.generate, pixel_values=pixels, input_ids=ids, **settings),
            partial(peer.generate, pixel_values=pixels, **settings),
        )


def speech(device: torch.device, dtype: torch.dtype, tiny: bool) -> Iterator[Pair]:
    peer = whisper.build(tiny)
    ours, peer = peers.converted(peer).to(device, dtype), peer.to(device, dtype)
    for batch, beams in ((1, 1), (4, 5)):
        parts = np.split(whisper.sound(30 * batch), batch)
        features = transformers.WhisperFeatureExtractor()(parts, sampling_rate=16000, return_tensors="pt")
        given, settings = features.input_features.to(device, dtype), whisper.search(beams, tiny)
        name = f"Whisper, {beams} beams, batch {batch}"
        yield name, partial(ours.generate, given, **settings), partial(peer.generate, given, **settings)


def models(report: harness.Report, device: torch.device) -> None:
    for name, dtype in DTYPES.items():
        for family in (blip, speech):
            for work, ours, peer in family(device, dtype, report.asked.tiny):
                mine, theirs = ours(), peer()
                if dtype == torch.float32:
                    report.equal(work, mine, theirs)
                width = min(mine.shape[1], theirs.shape[1])
                same = (mine[:, :width] == theirs[:, :width]).double().mean().item()
                report.race(harness.Row(f"{work}, {name}", ours, peer, cost=partial(drained, device)))
                report.rows[-1]["equal"] = same
                if dtype != torch.float32:
                    report.say(f"  {same:.0%} of the tokens are equal")


def page(report: harness.Report, parts: list[dict[str, Any]]) -> str:
    from page import surroundings, table

    told = [f"# {report.machine['device']}\n\n{surroundings(report.machine)}\n"]
    for one in parts:
        told.append(f"## {one['part']}: {'as it should be' if one['exit'] == 0 else 'NOT AS IT SHOULD BE'}\n")
        told.append(f"```\n{one['printed'].strip()}\n```\n" if one["part"] == "tests" else one["printed"])
    told.append("## Models\n\n" + "\n".join([*table(report.rows), "", *(f"* {fault}" for fault in report.faults)]))
    return "\n".join(told) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--device", default="cuda", help="cpu: only the models")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-report.md", help="and a .json beside it")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "this report is of an NVIDIA GPU, and torch.cuda.is_available() is False here\n")
    parts = []
    if device.type == "cuda":
        parts.append(part("tests", [sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "tests"]))
        measured = str(asked.output.with_name("gpu-cross-attention.json"))
        script = [sys.executable, "benchmarks/gpu_cross_attention.py", "--output", measured]
        parts.append(part("cross-attention", [*script, *(["--quick"] if asked.quick else [])]))
    report = harness.Report(asked)
    report.machine["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    try:
        with torch.no_grad():
            models(report, device)
    except RuntimeError as error:  # unequal tokens, or no memory: the parts before it are worth a page, too
        report.faults.append(str(error))
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(page(report, parts), encoding="utf-8")
    told = {"machine": report.machine, "parts": parts, "rows": report.rows, "faults": report.faults}
    asked.output.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"written to {asked.output}")
    return report.end() or int(any(one["exit"] for one in parts))


if __name__ == "__main__":
    sys.exit(main())
