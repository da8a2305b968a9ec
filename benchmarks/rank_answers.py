"""rank_answers over a closed list against scoring one pair of prompt and answer at a time, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/rank_answers.py --log benchmarks/logs/rank_answers.txt
    python benchmarks/rank_answers.py --tiny                  # the same on a small model, in seconds

128 answers of 1 to 6 tokens after a question of 8 tokens about a picture of 224 pixels. "One pair at a time" calls
`score` with the question and one answer, on a context that is encoded once; "the same from pixels" does so from the
picture each time, as a plain forward would. Weights are random. The scores are compared first; then the ways are timed
in alternation. Exits with 1 if scores differ or the wanted ratio is missed.
"""

import sys
from typing import Any

import harness
import torch

from mm import MMConfig, MMForConditionalGeneration

CANDIDATES, LONGEST, PROMPT, SEED = 128, 6, 8, 0
TOLERANCE, WANTED = 1e-5, 5.0
TEXT: dict[str, Any] = {
    "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6,
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def build(tiny: bool) -> tuple[Any, torch.Tensor]:
    """A model with random weights, and a picture."""
    torch.manual_seed(SEED)
    stack, size = (TINY, 64) if tiny else (TEXT, 224)
    model = MMForConditionalGeneration(
        MMConfig(
            vision_config={**stack, "image_size": size},
            text_config={**stack, "vocab_size": 1000 if tiny else 30522, "bos_token_id": 1, "eos_token_id": 2},
            initializer_range=0.05,
        )
    )
    return model.eval(), torch.randn(1, 3, size, size)


class Ways:
    """The three ways to score all answers: each returns (128,), the mean log-likelihood per token."""

    def __init__(self, model: Any, picture: torch.Tensor):
        draw = torch.Generator().manual_seed(SEED)
        vocabulary = model.config.text_config.vocab_size
        self.model, self.picture = model, picture
        self.prompt = torch.randint(3, vocabulary, (1, PROMPT), generator=draw)
        self.answers = torch.randint(3, vocabulary, (CANDIDATES, LONGEST), generator=draw)
        self.lengths = torch.randint(1, LONGEST + 1, (CANDIDATES,), generator=draw)

    @torch.no_grad()
    def ranked(self) -> torch.Tensor:
        mask = torch.arange(LONGEST) < self.lengths[:, None]
        return self.model.rank_answers(
            self.answers, mask, input_ids=self.prompt, pixel_values=self.picture
        ).scores[0]  # fmt: skip

    @torch.no_grad()
    def pairs(self) -> torch.Tensor:
        return self._pairs(encoder_outputs=self.model.encode_context(self.picture))

    @torch.no_grad()
    def pairs_from_pixels(self) -> torch.Tensor:
        return self._pairs(pixel_values=self.picture)

    def _pairs(self, **context) -> torch.Tensor:
        found = []
        for answer, length in zip(self.answers, self.lengths.tolist(), strict=True):
            ids = torch.cat([self.prompt, answer[None, :length]], dim=1)
            labels = ids.clone()
            labels[:, :PROMPT] = -100
            output = self.model.score(ids, labels=labels, **context)
            found.append(output.scores[0] / output.lengths[0])
        return torch.stack(found)


def race(ways: Ways, pairs: int, report: harness.Report) -> None:
    """Prints the medians; a ratio that is missed is a fault."""
    slow = {"one pair at a time": ways.pairs, "the same from pixels": ways.pairs_from_pixels}
    costs = harness.in_turn({"rank_answers": ways.ranked, **slow}, pairs, warm_up=0)
    report.say(
        f"\n{'medians of ' + str(pairs) + ' alternating runs':<34}{'seconds':>9}{'ratio':>9}  [least, greatest]"
    )
    for name, own in costs.items():
        ratio, seconds = harness.ratio(own, costs["rank_answers"], "wall"), harness.median(own, "wall")
        spread = f"[{ratio.least:.1f}, {ratio.greatest:.1f}]"
        report.say(f"{name:<34}{seconds:>9.3f}{ratio.median:>8.1f}x  {spread}")
        report.row(way=name, wall=seconds, ratio=ratio.median)
        if name in slow:
            report.want(name, ratio.median, WANTED)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 if anything is not as wanted."""
    asked = harness.options(__doc__).parse_args(arguments)
    report = harness.Report(asked)
    model, picture = build(asked.tiny)
    ways = Ways(model, picture)
    report.say(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters, float32")
    ranked, alone = ways.ranked(), ways.pairs()
    difference = report.equal("scores", ranked, alone, TOLERANCE)
    spread = f"from {alone.min():.2f} to {alone.max():.2f}"
    report.say(f"{CANDIDATES} answers score {spread} per token; ranked and alone differ by at most {difference:.1e}")
    race(ways, asked.pairs, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
