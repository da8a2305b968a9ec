"""Beam search of MM against transformers' BlipForConditionalGeneration, of the same weights.

    OMP_NUM_THREADS=2 python benchmarks/beam_search_vs_blip.py --log benchmarks/logs/beam_search_vs_blip.txt
    python benchmarks/beam_search_vs_blip.py --check-only            # only equality and counts
    python benchmarks/beam_search_vs_blip.py --check-only --tiny     # the same on a small model, in seconds

The peer is `BlipConfig()` as it is: 224 M parameters, pictures of 384 pixels (577 tokens each), a text decoder of 12
layers with 8 heads. Its weights are drawn at random and copied into MM by a name map. Both search 5 beams over exactly
20 new tokens (the end token is forbidden until then), from the same start token.

Checked first, per batch size: logits and beam tokens are equal; the keys and values of a picture are stored once for
all its beams, projected once, and never gathered when beams are reordered. Then both are timed in alternation, by wall
and CPU: generate() from pixels, and decoding alone, from ready outputs of the vision tower. Exits with 1 if a check
fails or a wanted ratio is missed. B pictures, S tokens of a picture, T text tokens, H heads, D head width.
"""

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BlipConfig, BlipForConditionalGeneration

import mm

BEAMS, NEW_TOKENS, SEED = 5, 20, 0
SEARCH = {"num_beams": BEAMS, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "do_sample": False}
LOGIT_TOLERANCE = 1e-4  # absolute; the logits' standard deviation is about 1.4
WANTED = {8: (2.2, 4.0), 2: (1.4, 1.8)}  # batch size -> speed-up of (generate() from pixels, decoding alone)
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY: dict[str, Any] = {"vision_config": {**SMALL, "image_size": 96}, "text_config": SMALL}

# Parts of names, the peer's to MM's. Every part that occurs is replaced, in this order.
NAMES = (
    ("vision_model.embeddings.patch_embedding.", "model.vision_tower.patch_embedding."),
    ("vision_model.embeddings.class_embedding", "model.vision_tower.cls_token"),
    ("vision_model.embeddings.position_embedding", "model.vision_tower.embed_positions.weight"),
    ("vision_model.encoder.layers.", "model.vision_tower.layers."),
    ("vision_model.post_layernorm.", "model.vision_tower.norm."),
    (".self_attn.projection.", ".self_attn.o_proj."),
    (".layer_norm1.", ".self_attn_norm."), (".layer_norm2.", ".mlp_norm."),
    (".mlp.fc1.", ".mlp.up_proj."), (".mlp.fc2.", ".mlp.down_proj."),
    ("text_decoder.bert.embeddings.word_embeddings.", "model.language_model.embed_tokens."),
    ("text_decoder.bert.embeddings.position_embeddings.", "model.language_model.embed_positions."),
    ("text_decoder.bert.embeddings.LayerNorm.", "model.language_model.embed_norm."),
    ("text_decoder.bert.encoder.layer.", "model.language_model.layers."),
    (".attention.self.query.", ".self_attn.q_proj."), (".crossattention.self.query.", ".cross_attn.q_proj."),
    (".attention.self.key.", ".self_attn.k_proj."), (".crossattention.self.key.", ".cross_attn.k_proj."),
    (".attention.self.value.", ".self_attn.v_proj."), (".crossattention.self.value.", ".cross_attn.v_proj."),
    (".attention.output.dense.", ".self_attn.o_proj."), (".crossattention.output.dense.", ".cross_attn.o_proj."),
    (".attention.output.LayerNorm.", ".self_attn_norm."), (".crossattention.output.LayerNorm.", ".cross_attn_norm."),
    (".intermediate.dense.", ".mlp.up_proj."), (".output.dense.", ".mlp.down_proj."),
    (".output.LayerNorm.", ".mlp_norm."),
    ("text_decoder.cls.predictions.transform.dense.", "lm_head_transform.dense."),
    ("text_decoder.cls.predictions.transform.LayerNorm.", "lm_head_transform.norm."),
    ("text_decoder.cls.predictions.decoder.", "lm_head."),
)  # fmt: skip
# Peer tensors that MM does not read, with the reason.
UNUSED = {"text_decoder.cls.predictions.bias": "tied: it is text_decoder.cls.predictions.decoder.bias"}


def translated(peer: nn.Module) -> dict[str, torch.Tensor]:
    """The peer's state dict under MM's names and shapes. Raises ValueError if two tensors get one name."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in peer.state_dict().items():
        if name in UNUSED:
            continue
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        parts = {name: tensor}
        if ".self_attn.qkv." in name:  # (3*H*D, ...) -> three of (H*D, ...)
            split = zip("qkv", tensor.chunk(3), strict=True)
            parts = {name.replace(".qkv.", f".{letter}_proj."): part for letter, part in split}
        elif name.endswith("vision_tower.embed_positions.weight"):
            parts = {name: tensor[0]}  # (1, S, D) -> (S, D)
        if parts.keys() & found.keys():
            raise ValueError(f"two tensors of the peer are named {sorted(parts.keys() & found.keys())} in MM")
        found |= parts
    return found


def spread(name: str, weight: torch.Tensor) -> float:
    """Standard deviation of a random weight. Layers are weak, so that words, places and patches survive the stacks;
    with stronger ones every caption repeats one token, or attention is so sharp that rounding decides."""
    if "norm" in name.lower():
        return 0.1
    if weight.ndim == 1:
        return 0.02
    if "embedding" in name and weight.ndim < 4:
        return 1.0 if name.startswith("vision_model.") else 0.05
    gain = 0.7 if "crossattention" in name else 0.5 if ".encoder." in name else 1.0
    return gain * weight[0].numel() ** -0.5


def build_peer(tiny: bool) -> BlipForConditionalGeneration:
    """The peer, with random weights under which the picture and every earlier token decide the next one.

    BLIP's own initial weights would do for timing, not for equality: its vision tower starts at 1e-10, so all pictures
    look alike, and every caption repeats one token.
    """
    peer = BlipForConditionalGeneration(BlipConfig(**TINY) if tiny else BlipConfig()).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            center = float("norm" in name.lower() and name.endswith("weight"))
            weight.copy_(center + spread(name, weight) * torch.randn(weight.shape, generator=generator))
    return peer


def draw_pictures(batch: int, size: int) -> torch.Tensor:
    """float (B, 3, size, size): random fields of colour, the same for the same arguments."""
    fields = torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(SEED))
    return nn.functional.interpolate(fields, size=(size, size))


def build_ours(peer: Any) -> mm.MMForConditionalGeneration:
    """MM as the same architecture, holding the peer's weights; every tensor of both sides is accounted for."""
    vision, text = peer.config.vision_config, peer.config.text_config
    shared = (*SMALL, "hidden_act", "layer_norm_eps")
    ends = {"bos": text.bos_token_id, "eos": text.sep_token_id, "pad": text.pad_token_id}  # generate() ends at sep
    config = mm.MMConfig(
        vision_config={name: getattr(vision, name) for name in (*shared, "image_size", "patch_size")},
        text_config={
            **{name: getattr(text, name) for name in (*shared, "vocab_size", "max_position_embeddings")},
            **{f"{name}_token_id": token for name, token in ends.items()},
            "cross_attention_hidden_size": text.encoder_hidden_size,
        },
        projector_type="none",
    )
    model = mm.MMForConditionalGeneration(config).eval()
    model.load_state_dict(translated(peer), strict=True)
    return model


@dataclass
class Contest:
    """Both models on one batch, and the ways that are timed: each returns what generate() does, by default the tokens.

    pixel_values: float (B, 3, height, width). tokens: int64 (B, 1 + NEW_TOKENS).
    """

    model: Any  # MMForConditionalGeneration
    peer: Any  # BlipForConditionalGeneration
    pixel_values: torch.Tensor

    def __post_init__(self):
        # (B, 1): without a prompt BLIP's generate() starts from [bos, eos], of which it cuts the last column
        self.ids = torch.full((len(self.pixel_values), 1), self.peer.config.text_config.bos_token_id)
        with torch.no_grad():
            self.context = self.model.encode_context(pixel_values=self.pixel_values)
            self.embeds = self.peer.vision_model(self.pixel_values).last_hidden_state  # (B, S, width)

    def ours_whole(self, **options):
        return self.model.generate(pixel_values=self.pixel_values, input_ids=self.ids, **SEARCH, **options)

    def peer_whole(self, **options):
        return self.peer.generate(pixel_values=self.pixel_values, **SEARCH, **options)

    def ours_decoding(self, **options):
        return self.model.generate(encoder_outputs=self.context, input_ids=self.ids, **SEARCH, **options)

    def peer_decoding(self, **options):
        """What BLIP's generate() does once its vision tower has run."""
        text, mask = self.peer.config.text_config, torch.ones(self.embeds.shape[:2], dtype=torch.long)
        options |= {"eos_token_id": text.sep_token_id, "pad_token_id": text.pad_token_id, "attention_mask": None}
        options |= {"encoder_hidden_states": self.embeds, "encoder_attention_mask": mask}
        return self.peer.text_decoder.generate(input_ids=self.ids, **SEARCH, **options)


class GatherCounter(TorchDispatchMode):
    """Counts the operations that gather along rows out of cross-attention keys or values.

    They are known by their shape, (rows, H, S, D): no self-attention cache here gets as long as a picture.
    """

    GATHERS = (torch.ops.aten.index_select, torch.ops.aten.index, torch.ops.aten.gather)

    def __init__(self, num_tokens: int):
        super().__init__()
        self.num_tokens, self.count = num_tokens, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in self.GATHERS and args[0].ndim == 4 and args[0].shape[2] == self.num_tokens:
            self.count += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Counts:
    """What one generate() did with the keys and values of the pictures."""

    tokens: torch.Tensor  # int64 (B, 1 + NEW_TOKENS)
    cross_bytes: int  # of all keys and values in the cross-attention cache at the end
    gathers: int
    projected: set[tuple[int, ...]]  # per key or value projection, the rows of each of its calls


def stored_bytes(cache: Any) -> int:
    """Bytes of memory of all keys and values of a cache; memory that two of them share counts once."""
    storages = [states.untyped_storage() for layer in cache.layers for states in (layer.keys, layer.values)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def counted(generate: Callable, model: nn.Module, projections: tuple[str, str], num_tokens: int) -> Counts:
    """Runs `generate` once under the counters; modules named so project keys and values of `num_tokens` tokens."""
    parts = [part for name, part in model.named_modules() if name.endswith(projections)]
    calls: list[list[int]] = [[] for _ in parts]
    hooks = [
        part.register_forward_hook(lambda _, inputs, __, rows=rows: rows.append(inputs[0].shape[0]))
        for part, rows in zip(parts, calls, strict=True)
    ]
    with GatherCounter(num_tokens) as gathers:
        output = generate(return_dict_in_generate=True)
    for hook in hooks:
        hook.remove()
    held = output.past_key_values.cross_attention_cache
    return Counts(output.sequences, stored_bytes(held), gathers.count, set(map(tuple, calls)))


def check(contest: Contest, say: Callable[[str], None]) -> list[str]:
    """Prints equality and counts on one batch; returns what is wrong."""
    batch, num_tokens = contest.embeds.shape[:2]
    names = ("cross_attn.k_proj", "cross_attn.v_proj"), ("crossattention.self.key", "crossattention.self.value")
    ours = counted(contest.ours_whole, contest.model, names[0], num_tokens)
    peer = counted(contest.peer_whole, contest.peer, names[1], num_tokens)
    with torch.no_grad():
        inputs = {"pixel_values": contest.pixel_values, "input_ids": peer.tokens}
        logits = contest.peer(**inputs).logits  # (B, T, vocabulary)
        difference = float((contest.model(**inputs).logits - logits).abs().max())
    equal, captions = torch.equal(ours.tokens, peer.tokens), len(set(map(tuple, peer.tokens.tolist())))
    words = min(len(set(row)) for row in peer.tokens[:, 1:].tolist())

    say(f"batch {batch}: {BEAMS} beams, {NEW_TOKENS} new tokens, {num_tokens} tokens per picture")
    say(f"  logits      differ by at most {difference:.1e}, standard deviation {float(logits.std()):.2f}")
    same = "equal" if equal else "DIFFER"
    say(f"  beam tokens {same}; {captions} different captions, each of at least {words} different tokens")
    sizes = f"MM {ours.cross_bytes / 2**20:.1f} MiB, BLIP {peer.cross_bytes / 2**20:.1f} MiB"
    say(f"  cross K/V   {sizes} ({peer.cross_bytes / ours.cross_bytes:.3f}x)")
    say(f"  gathers     of cross K/V: MM {ours.gathers}, BLIP {peer.gathers}")
    say(f"  projected   rows, per K/V projection and call: MM {ours.projected}, BLIP {peer.projected}")
    wrong = {
        f"logits differ by {difference:.1e}, more than {LOGIT_TOLERANCE}": not difference <= LOGIT_TOLERANCE,
        "beam tokens differ": not equal,
        f"not exactly {NEW_TOKENS} new tokens": ours.tokens.shape[1] != 1 + NEW_TOKENS,
        "pictures share a caption, so equality says little": captions < batch,
        f"cross K/V are not exactly 1/{BEAMS} of BLIP's bytes": ours.cross_bytes * BEAMS != peer.cross_bytes,
        "MM gathers from cross K/V": ours.gathers != 0,
        "the counter of gathers missed BLIP's": peer.gathers == 0,
        "MM projects K/V not exactly once per picture and layer": ours.projected != {(batch,)},
    }
    return [f"batch {batch}: {fault}" for fault, is_so in wrong.items() if is_so]


def clocked(generate: Callable, expected: torch.Tensor) -> tuple[float, float]:
    """Seconds of wall and CPU (all threads). Raises RuntimeError unless the tokens are `expected`."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = generate()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not torch.equal(tokens, expected):
        raise RuntimeError("a timed run gave other tokens than the runs before; its time means nothing")
    return wall, cpu


def race(name: str, ours: Callable, peer: Callable, pairs: int, wanted: float, say: Callable[[str], None]) -> float:
    """Times `pairs` alternating runs of each and prints the medians; returns the ratio of the wall's medians."""
    expected = peer()
    clocked(ours, expected)  # both are warm now
    runs = [clocked(ours, expected) + clocked(peer, expected) for _ in range(pairs)]
    ours_wall, ours_cpu, peer_wall, peer_cpu = (statistics.median(column) for column in zip(*runs, strict=True))
    by_pair = [run[2] / run[0] for run in runs]
    wall = f"{ours_wall:9.2f}{peer_wall:9.2f}{peer_wall / ours_wall:8.2f}x"
    cpu = f"{ours_cpu:9.2f}{peer_cpu:9.2f}{peer_cpu / ours_cpu:8.2f}x"
    say(f"{name:26}{wall}  {f'[{min(by_pair):.2f}, {max(by_pair):.2f}]':14}{wanted:6.1f}x{cpu}")
    return peer_wall / ours_wall


def time_all(contests: list[Contest], pairs: int, say: Callable[[str], None]) -> list[str]:
    """Prints the table of medians; returns the ratios that were missed."""
    say(f"\nmedians of {pairs} alternating pairs, seconds; [least, greatest] ratio of a pair")
    say(f"{'':26}{'wall MM':>9}{'BLIP':>9}{'ratio':>9}{'':16}{'wanted':>7}{'CPU MM':>9}{'BLIP':>9}{'ratio':>9}")
    faults = []
    for contest in contests:
        batch = len(contest.ids)
        ways = (
            ("generate()", contest.ours_whole, contest.peer_whole),
            ("decoding alone", contest.ours_decoding, contest.peer_decoding),
        )
        for (way, ours, peer), wanted in zip(ways, WANTED.get(batch, (0.0, 0.0)), strict=True):
            ratio = race(f"batch {batch}, {way}", ours, peer, pairs, wanted, say)
            if ratio < wanted:
                faults.append(f"batch {batch}, {way}: {ratio:.2f}x, wanted {wanted}x")
    return faults


def surroundings(peer: nn.Module) -> str:
    """Versions, machine and size of the model, in one line."""
    libraries = (
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {version('transformers')}"
    )
    info = Path("/proc/cpuinfo")  # Linux: the processor as the system calls it
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")] or [platform.machine()]
    size = f"{sum(weight.numel() for weight in peer.parameters()) / 1e6:.1f} M parameters, float32"
    return f"{libraries}; {names[0]}, {torch.get_num_threads()} threads; {size}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 if anything is not as wanted."""
    parser = argparse.ArgumentParser(description="Beam search of MM against BLIP in transformers, weights shared.")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 2], help="pictures per batch (default: 8 2)")
    parser.add_argument("--pairs", type=int, default=5, help="alternating timed runs of each (default: 5)")
    parser.add_argument("--check-only", action="store_true", help="equality and counts, no timing")
    parser.add_argument("--tiny", action="store_true", help="a small model in place of BlipConfig()")
    parser.add_argument("--log", type=Path, help="also write the text to this file")
    options = parser.parse_args(arguments)

    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    peer: Any = build_peer(options.tiny)
    model = build_ours(peer)
    say(surroundings(peer))
    say("".join(f"not copied: {name} ({reason})\n" for name, reason in UNUSED.items()))
    size = peer.config.vision_config.image_size
    contests = [Contest(model, peer, draw_pictures(batch, size)) for batch in options.batches]
    faults = [fault for contest in contests for fault in check(contest, say)]
    if not faults and not options.check_only:
        faults += time_all(contests, options.pairs, say)
    say("\n" + ("\n".join(f"NOT AS WANTED: {fault}" for fault in faults) or "all as wanted"))
    if options.log:
        options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
