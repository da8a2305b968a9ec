"""The most memory that `mm convert` takes, over the size of the checkpoint, beside what its imports take.

    python benchmarks/convert_memory.py        # the table of docs/conversion.md

The checkpoint is a VisionEncoderDecoder with GPT-2's decoder in fp32, in shards: most of its tensors are turned or
split on the way, so nothing can be written as it is in the file. Each run is a process of its own. `held` is
memory that the process wrote itself, `with files` counts pages of the files that it reads too, which the system may
drop. Both are the largest of samples 5 ms apart, less what stands there when `import mm` is done.
"""

# Configs of Transformers take fields that their signatures do not name.

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from harness import Peak
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

LAYERS, WIDTH, SHARD = 20, 1024, "200MB"
LARGEST_RATIO = 1.2
RUNS = {"mm.convert": "memory", "mm convert": "files", "mm convert --to": "back"}


def write_checkpoint(directory: Path, layers: int = LAYERS, width: int = WIDTH, shard: str = SHARD) -> int:
    """Writes the checkpoint; returns its bytes."""
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    words = GPT2Config(vocab_size=8192, n_embd=width, n_layer=layers, n_head=8, is_decoder=True, **ends)
    words.add_cross_attention = True
    sizes = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**sizes), words)
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    VisionEncoderDecoderModel(config).save_pretrained(directory, max_shard_size=shard)
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def measure(kind: str, source: str, out: str) -> None:
    """Prints both peaks in bytes; to be run in a process of its own."""
    import mm
    from mm.conversion_scripts.engine import run

    mm.MMForConditionalGeneration  # noqa: B018  imported when it is asked for
    with Peak() as peak:
        if kind == "memory":
            kept = mm.convert(source)
            assert kept.model is not None
        else:
            run(source, out, "vision-encoder-decoder" if kind == "back" else None)
    print(peak.held, peak.with_files)


def peaks(kind: str, source: Path, out: Path) -> tuple[int, int]:
    command = [sys.executable, __file__, kind, str(source), str(out)]
    held, with_files = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
    return int(held), int(with_files)


def lines(layers: int = LAYERS, width: int = WIDTH, shard: str = SHARD):
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        source, out, back = (Path(folder) / name for name in ("source", "out", "back"))
        size = write_checkpoint(source, layers, width, shard)
        shards = len(list(source.glob("*.safetensors")))
        yield f"| {size / 2**20:.0f} MiB in {shards} shards | held | with files |"
        yield "|---|---|---|"
        for name, kind in RUNS.items():
            found = peaks(kind, out if kind == "back" else source, back if kind == "back" else out)
            yield f"| `{name}` | " + " | ".join(f"{peak / size:.2f}" for peak in found) + " |"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        for line in lines():
            print(line, flush=True)
