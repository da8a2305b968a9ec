"""Metrics of retrieval beside the plain matrix product: CPU seconds and memory, of 5,000 pictures and 25,000 captions.

    python benchmarks/retrieval_metrics.py --threads 1

Vectors of 256 numbers drawn at random, five captions to a picture: the hardest case, as most ranks are low. The
product is numpy's, whole, and the metrics use the same one by blocks. Their values are compared with those of the
whole matrix in fp64, to 1e-4: what is closer than rounding is a tie here. Memory is the most above what was before.
"""

import sys

import harness
import numpy as np
import torch

from mm.metrics import retrieval_scores, similarity_scores


def main() -> int:
    asked = harness.options(__doc__, pairs=5).parse_args()
    report = harness.Report(asked)
    pictures = 300 if asked.tiny else 5000
    rng = np.random.default_rng(0)
    images, noise = (rng.standard_normal((count, 256)).astype(np.float32) for count in (pictures, 5 * pictures))
    owner = np.repeat(np.arange(pictures), 5)
    texts = 0.1 * images[owner] + noise
    images, texts = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, texts))

    few = np.arange(5 * 200)
    ours = retrieval_scores(images[:200], texts[few], owner[few])
    theirs = similarity_scores(images[:200].astype(np.float64) @ texts[few].T.astype(np.float64), owner[few])
    values = [torch.tensor([one.value for one in found.values()]).double() for found in (ours, theirs)]
    report.equal("metrics of 200 pictures, by blocks and of the whole matrix in fp64", *values, 1e-4)

    ways = {
        "product": lambda: images @ texts.T,
        "one way": lambda: retrieval_scores(images, texts, owner, ways=("t2i",)),
        "other way": lambda: retrieval_scores(images, texts, owner, ways=("i2t",)),
        "both ways": lambda: retrieval_scores(images, texts, owner),
    }
    report.say(f"{pictures} pictures, {5 * pictures} captions")
    costs, memory = harness.in_turn(ways, asked.pairs), {}
    for name, way in ways.items():
        with harness.Peak() as peak:
            way()
        memory[name] = peak.held / 2**20
        report.say(f"{name:<10} {harness.median(costs[name]):6.2f} CPU-s, {memory[name]:5.0f} MiB")
        report.row(way=name, cpu=harness.median(costs[name]), memory=memory[name])
    for name, most in (("one way", 1.5), ("other way", 1.5), ("both ways", 2.0)):
        found = harness.ratio(costs[name], costs["product"])
        report.say(f"{name}: {found.median:.2f} of the product [{found.least:.2f}, {found.greatest:.2f}]")
        if not asked.tiny:  # a product of a few milliseconds says nothing
            report.want(f"{most} times the product against {name}", most / found.median, 1)
    if not asked.tiny:
        report.want(
            "memory of the whole matrix against that of the metrics",
            memory["product"] / max(memory["both ways"], 1),
            2,
        )
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
