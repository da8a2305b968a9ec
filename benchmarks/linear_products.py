"""A linear layer by oneDNN (mm.use_onednn) beside torch's own product, fp32 on this CPU.

    python benchmarks/linear_products.py --threads 2 --log benchmarks/logs/linear_products.txt

Rows are the tokens of a batch: some when a text is written, hundreds when a picture is encoded. Weights take turns, so
that none is in a cache from the turn before. Training is the product and its two gradients.
"""

import sys
from collections.abc import Callable

import harness
import torch
from torch import nn

import mm
from mm.modeling_mm.core.linear import is_faster, linear

SIZES = [(768, 768), (768, 3072), (3072, 768), (768, 50_257)]  # width, outputs
ROWS = [1, 4, 16, 40, 197, 788, 2304]
WEIGHTS = 1 << 26  # numbers in all weights of a size: 256 MiB


def passes(layers: list[nn.Linear], states: torch.Tensor, trains: bool, onednn: bool) -> Callable[[], None]:
    def run() -> None:
        mm.use_onednn(onednn)
        for layer in layers:
            output = linear(layer, states)
            if trains:
                layer.zero_grad()
                output.backward(output.detach())

    return run


def main() -> int:
    parser = harness.options(__doc__)
    asked = parser.parse_args()
    report = harness.Report(asked)
    report.say(f"used without being asked: {'yes' if is_faster() else 'no'}; ratio: torch / oneDNN, wall time\n")
    report.say(f"{'rows':>6}{'width':>7}{'outputs':>9}{'ms':>9}{'forward':>9}{'training':>10}{'apart':>10}")
    for width, outputs in SIZES[:2] if asked.tiny else SIZES:
        layers = [nn.Linear(width, outputs) for _ in range(1 if asked.tiny else max(1, WEIGHTS // (width * outputs)))]
        for rows in ROWS[:3] if asked.tiny else ROWS:
            states = torch.randn(rows, width, requires_grad=True)
            with torch.no_grad():
                mm.use_onednn(True)
                found = linear(layers[0], states)
                apart = report.equal("products", found, layers[0](states), atol=1e-4)
            ratios, taken = [], 0.0
            for trains in (False, True):
                given = states if trains else states.detach()
                with torch.set_grad_enabled(trains):
                    ways = {name: passes(layers, given, trains, name == "oneDNN") for name in ("torch", "oneDNN")}
                    costs = harness.in_turn(ways, asked.pairs)
                ratios.append(harness.ratio(costs["torch"], costs["oneDNN"], "wall").median)
                taken = taken or 1000 * harness.median(costs["oneDNN"], "wall") / len(layers)
            report.say(f"{rows:6}{width:7}{outputs:9}{taken:9.3f}{ratios[0]:8.2f}x{ratios[1]:9.2f}x{apart:10.1e}")
            report.row(rows=rows, width=width, outputs=outputs, ms=taken, forward=ratios[0], training=ratios[1])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
