"""CPU seconds and memory of `mm convert`, and of from_pretrained and save_pretrained of the class that it reads.

    python benchmarks/convert_cost.py                 # BLIP's base and large captioner
    python benchmarks/convert_cost.py --runs 9 base
    python benchmarks/convert_cost.py families        # donut, chinese-clip, altclip, align, clap: published sizes

The checkpoint is a BlipForConditionalGeneration, or what the name says, in fp32 with random numbers, one file. Either
side runs in a process of its own with one thread, the two by turns; what counts begins when everything is imported.
`held` is memory that the process wrote itself, `with files` counts pages of the files that it maps too. Writing the
file costs both sides the same, and differs most from run to run, so the ratio is that of the medians.
"""

# Configs of Transformers take fields that their signatures do not name.

import argparse
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from harness import Peak

LARGEST_RATIO = 1.5
SIZES = {
    "base": {},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
_MBART = {
    "decoder_layers": 4, "encoder_layers": 4, "d_model": 1024, "vocab_size": 57580, "max_position_embeddings": 768,
    "scale_embedding": True, "is_decoder": True, "add_cross_attention": True,
}  # fmt: skip
_DONUT_SWIN = {
    "image_size": [2560, 1920], "depths": [2, 2, 14, 2], "window_size": 10, "embed_dim": 128,
    "num_heads": [4, 8, 16, 32],
}  # fmt: skip
# Name -> the class, and its config in the sizes of the first published model.
FAMILIES = {
    "donut": ("VisionEncoderDecoderModel", lambda t: _donut(t)),
    "chinese-clip": (
        "ChineseCLIPModel",
        lambda t: t.ChineseCLIPConfig(vision_config={"patch_size": 16}, text_config={"vocab_size": 21128}),
    ),
    "altclip": (
        "AltCLIPModel",
        lambda t: t.AltCLIPConfig(vision_config={
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
            "patch_size": 14,
        }),
    ),
    "align": ("AlignModel", lambda t: t.AlignConfig()),
    "clap": ("ClapModel", lambda t: t.ClapConfig()),
}  # fmt: skip
TEXT = {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102, "pad_token_id": 0, "eos_token_id": 2}


def processor() -> str:
    """What this machine calls its processor."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", about.read_text()) if about.exists() else []
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _donut(t: Any) -> Any:
    encoder, decoder = t.DonutSwinConfig(**_DONUT_SWIN), t.MBartConfig(**_MBART)
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    return config


def class_of(size: str) -> Any:
    """The peer's class."""
    return getattr(transformers, FAMILIES[size][0] if size in FAMILIES else "BlipForConditionalGeneration")


def write_checkpoint(directory: Path, size: str) -> int:
    """Writes the checkpoint; returns its bytes."""
    if size in FAMILIES:
        model = class_of(size)(config=FAMILIES[size][1](transformers))  # its buffers hold numbers of their own
    else:
        vision = {"image_size": 384, "patch_size": 16, **SIZES[size]}
        with torch.device("meta"):
            model = class_of(size)(transformers.BlipConfig(text_config=TEXT, vision_config=vision))
        model.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0) if name == "temperature" else weight.normal_(std=0.02)
    model.tie_weights()
    model.save_pretrained(directory)
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def measure(side: str, source: str, out: str, size: str) -> None:
    """Prints CPU seconds and both peaks in bytes; to be run in a process of its own."""
    import mm
    from mm.conversion_scripts.engine import run

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    peer = class_of(size)
    assert mm.MMForConditionalGeneration  # imported when it is asked for
    with Peak() as peak:
        start = time.process_time()
        if side == "mm convert":
            run(source, out)
        else:
            peer.from_pretrained(source).save_pretrained(out)
        seconds = time.process_time() - start
    print(seconds, peak.held, peak.with_files)


def once(side: str, source: Path, out: Path, size: str) -> list[float]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--side", side, str(source), str(out), size]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in printed.split()[-3:]]


def lines(size: str, runs: int):
    """The rows of one size; raises SystemExit where the ratio is above its bar."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        written = write_checkpoint(source, size)
        sides = {"peer": [], "mm convert": []}
        for run in range(runs + 1):
            for side, found in sides.items():
                measured = once(side, source, out, size)
                if run > 0:  # the first fills the caches of the system
                    found.append(measured)
    yield f"{size if size in FAMILIES else f'BLIP-{size}'}, {written / 2**20:.0f} MiB, {runs} runs each, by turns"
    middle = {}
    for side, found in sides.items():
        seconds, held, with_files = zip(*found, strict=True)
        middle[side] = statistics.median(seconds)
        yield (
            f"  {side:10}  {middle[side]:.2f} CPU s (from {min(seconds):.2f} to {max(seconds):.2f}), "
            f"held {max(held) / written:.2f}, with files {max(with_files) / written:.2f} of the checkpoint"
        )
    ratio = middle["mm convert"] / middle["peer"]
    yield f"  ratio of the medians {ratio:.2f} (at most {LARGEST_RATIO})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--side", nargs=4, metavar=("SIDE", "SOURCE", "OUT", "SIZE"), help="one measurement, for itself"
    )
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    options = parser.parse_args()
    if options.side:
        measure(*options.side)
        sys.exit()
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "safetensors": safetensors.__version__}
    print(f"{processor()}, {', '.join(f'{name} {version}' for name, version in versions.items())}")
    wanted = [name for size in options.sizes for name in (FAMILIES if size == "families" else [size])]
    for size in wanted:
        for line in lines(size, options.runs):
            print(line, flush=True)
