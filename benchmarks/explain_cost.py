"""What model.explain costs beside the generate() that it explains: BLIP-base size, 384 px, 5 beams, 20 tokens.

    OMP_NUM_THREADS=2 python benchmarks/explain_cost.py --log benchmarks/logs/explain_cost.txt
    python benchmarks/explain_cost.py --tiny                # a small model, to see that it runs

Weights are random, those of beam_search_vs_blip.py. The default method is given what generate() returned; the maps
over the picture are part of its cost. Beside it: the same with ids only, for which the tower runs again. Before
anything is timed the weights are compared with those of a forward with eager attention.
"""

import sys

import harness
import torch
from beam_search_vs_blip import build_ours, build_peer, draw_pictures

BEAMS, NEW_TOKENS = 5, 20


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__).parse_args(arguments)
    report = harness.Report(asked)
    model = build_ours(build_peer(asked.tiny)).eval()
    side = model.config.vision_config.image_size
    inputs = {"pixel_values": draw_pictures(1, side)[:, None]}
    settings = {"num_beams": BEAMS, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    made = {}

    def generate():
        made["output"] = model.generate(**inputs, **settings, return_dict_in_generate=True)

    def explain(given):
        (found,) = model.explain(inputs, given)
        return found.items[0].weights, found.maps

    generate()
    ids = made["output"].sequences
    with torch.no_grad():
        eager = model(**inputs, input_ids=ids[:, :-1], output_attentions=True).cross_attentions
    expected = torch.stack(eager).mean((0, 2))[0, :, 1:]  # without CLS
    for name, given in (("what generate() returned", made["output"]), ("ids", ids)):
        apart = report.equal(name, torch.from_numpy(explain(given)[0]).flatten(1), expected, atol=1e-5)
        report.say(f"weights given {name}: {apart:.1e} from eager attention's")

    ways = {"generate": generate, "explain": lambda: explain(made["output"]), "explain ids": lambda: explain(ids)}
    costs = harness.in_turn(ways, asked.pairs)
    for name, found in costs.items():
        part = harness.ratio(found, costs["generate"])
        cpu, wall = harness.median(found), harness.median(found, "wall")
        report.say(
            f"{name:<12} {cpu:7.3f} CPU s {wall:7.3f} s   {part.median:6.1%} of generate() "
            f"[{part.least:.1%}, {part.greatest:.1%}]"
        )
        report.row(way=name, cpu=cpu, wall=wall, part=part.median)
    if not asked.tiny:
        times = harness.ratio(costs["generate"], costs["explain"]).median
        report.want("generate() against explain()", times, 4)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
