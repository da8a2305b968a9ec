"""rank_answers with and without a prefix trie, over lists of answers that share their beginnings more or less.

    OMP_NUM_THREADS=1 python benchmarks/prefix_trie.py --log benchmarks/logs/prefix_trie.txt

The model is checkpoints/mm-tiny and the answers are names of emoji, after bos, about one picture that is encoded
before: 128 of them, all 1594, and 3000 draws of an adjective and a name. "read" counts the tokens that the decoder
reads: every token of an answer but its last, and with a trie each beginning once. The scores are compared first; then
both ways are timed in alternation, in CPU seconds.
"""

import random
import sys
from functools import partial
from typing import Any

import harness
import torch
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


def main() -> int:
    asked = harness.options(__doc__).parse_args()
    report = harness.Report(asked)
    model: Any = MMForConditionalGeneration.from_pretrained("checkpoints/mm-tiny").eval()
    tokenizer = AutoProcessor.from_pretrained("checkpoints/mm-tiny").tokenizer
    size = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(SEED))
    context = model.encode_context(pixel_values=pixels)
    report.say(f"float32, {BATCH} rows at a time\n")
    report.say(f"{'answers':<14}{'read':>8}{'by trie':>9}{'CPU s':>8}{'by trie':>9}{'ratio':>8}  [least, greatest]")
    for title, names in answer_lists().items():
        rows = tokenizer(names[:64] if asked.tiny else names, padding=True, return_tensors="pt")
        ids, mask = rows.input_ids[:, 1:], rows.attention_mask[:, 1:]

        def scores(prefix_trie: bool, ids=ids, mask=mask) -> torch.Tensor:
            settings = {"normalize": "sum", "batch_size": BATCH, "prefix_trie": prefix_trie}
            return model.rank_answers(ids, mask, encoder_outputs=context, **settings).scores

        report.equal(title, scores(False), scores(True), TOLERANCE)
        ways = {"plain": partial(scores, False), "trie": partial(scores, True)}
        costs = harness.in_turn(ways, asked.pairs, warm_up=0)
        ratio = harness.ratio(costs["plain"], costs["trie"])
        read = read_tokens([row[: int(real)] for row, real in zip(ids.tolist(), mask.sum(1), strict=True)])
        plain, trie = (harness.median(own) for own in costs.values())
        report.row(answers=title, read=read, plain=plain, trie=trie, ratio=ratio.median)
        report.say(
            f"{title:<14}{read[0]:>8}{read[1]:>9}{plain:>8.2f}{trie:>9.2f}{ratio.median:>7.2f}x"
            f"  [{ratio.least:.2f}, {ratio.greatest:.2f}]"
        )
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
