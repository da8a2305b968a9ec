"""rank_answers with and without a prefix trie, over lists of answers that share their beginnings more or less.

    OMP_NUM_THREADS=1 python benchmarks/prefix_trie.py --log benchmarks/logs/prefix_trie.txt

The model is checkpoints/mm-tiny and the answers are names of emoji, after bos, about one picture that is encoded
before: 128 of them, all 1594, and 3000 draws of an adjective and a name. "read" counts the tokens that the decoder
reads: every token of an answer but its last, and with a trie each beginning once. The scores are compared first; then
both ways are timed in alternation, in CPU seconds.
"""

import argparse
import platform
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoProcessor

from mm import MMForConditionalGeneration
from mm.recipes.emoji import DEV_VENDOR, load_items

SEED, TOLERANCE, BATCH = 0, 1e-4, 512
ADJECTIVES = "red orange yellow green blue purple brown black white gray pink large small".split()


def answer_lists() -> dict[str, list[str]]:
    names = [item.label for item in load_items([DEV_VENDOR])]
    draw = random.Random(SEED)
    both = [f"{adjective} {name}" for adjective in ADJECTIVES for name in names]
    return {"128 names": draw.sample(names, 128), "1594 names": names, "3000 two": draw.sample(both, 3000)}


def read_tokens(ids: list[list[int]]) -> tuple[int, int]:
    """How many tokens are read without and with a trie."""
    beginnings = [tuple(row[:end]) for row in ids for end in range(1, len(row))]
    return len(beginnings), len(set(beginnings))


def main() -> None:
    parser = argparse.ArgumentParser(description="rank_answers with and without a prefix trie.")
    parser.add_argument("--pairs", type=int, default=5, help="alternating timed runs of each (default: 5)")
    parser.add_argument("--log", type=Path, help="also write the text to this file")
    options = parser.parse_args()
    model: Any = MMForConditionalGeneration.from_pretrained("checkpoints/mm-tiny").eval()
    tokenizer = AutoProcessor.from_pretrained("checkpoints/mm-tiny").tokenizer
    size = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(SEED))
    context = model.encode_context(pixel_values=pixels)
    lines = [
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{torch.get_num_threads()} threads; float32, {BATCH} rows at a time\n",
        f"{'answers':<14}{'read':>8}{'by trie':>9}{'CPU s':>8}{'by trie':>9}{'ratio':>8}  [least, greatest]",
    ]
    for title, names in answer_lists().items():
        rows = tokenizer(names, padding=True, return_tensors="pt")
        ids, mask = rows.input_ids[:, 1:], rows.attention_mask[:, 1:]

        def scores(prefix_trie: bool, ids=ids, mask=mask) -> tuple[torch.Tensor, float]:
            start = time.process_time()
            found = model.rank_answers(
                ids, mask, encoder_outputs=context, normalize="sum", batch_size=BATCH, prefix_trie=prefix_trie
            ).scores
            return found, time.process_time() - start

        difference = float((scores(False)[0] - scores(True)[0]).abs().max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"{title}: the scores differ by {difference:.1e}")
        plain, trie = zip(*((scores(False)[1], scores(True)[1]) for _ in range(options.pairs)), strict=True)
        ratios = [one / other for one, other in zip(plain, trie, strict=True)]
        counts = read_tokens([row[: int(real)] for row, real in zip(ids.tolist(), mask.sum(1), strict=True)])
        lines.append(
            f"{title:<14}{counts[0]:>8}{counts[1]:>9}{statistics.median(plain):>8.2f}{statistics.median(trie):>9.2f}"
            f"{statistics.median(ratios):>7.2f}x  [{min(ratios):.2f}, {max(ratios):.2f}]"
        )
        print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.log:
        options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
