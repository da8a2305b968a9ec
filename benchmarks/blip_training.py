"""A training step of BLIP-base at 384 px beside transformers' class, of the same weights: time and memory.

    python benchmarks/blip_training.py --threads 2 --log benchmarks/logs/blip_training.txt

A step is forward, backward and AdamW (the same call on both sides), all weights trained, fp32, 20 tokens a caption.
Losses and gradients of the first step are equal before anything is timed. Memory is the most that a step holds above
weights, gradients and the state of the optimizer; activations are not checkpointed. transformers' BLIP has no other
attention than its own (transformers 5.23).
"""

import sys
from collections.abc import Callable
from typing import Any

import harness
import torch
import transformers
from inference import MEDIUM, converted, drawn, pictures, words

TIME, MEMORY = 1.2, 1 / 0.6  # wanted, peer / ours


def batch_of(count: int, size: int, start: int) -> dict[str, torch.Tensor]:
    ids = words(count, 20)
    ids[:, 0] = start
    return {"pixel_values": pictures(count, size), "input_ids": ids, "labels": ids.clone()}


def step_of(model: Any, batch: dict[str, torch.Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=False)
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def first_step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the norm of the gradients of all weights."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return loss.detach(), torch.stack(norms).norm()


def held(step: Callable[[], float]) -> int:
    """Bytes."""
    step()
    harness.settled()
    with harness.Peak() as peak:
        step()
    return peak.held


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__).parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = harness.Report(asked)
    size, sizes = (192, MEDIUM) if asked.tiny else (384, {})
    config = transformers.BlipConfig(vision_config={"image_size": size, **sizes}, text_config=sizes)
    peer = drawn(transformers.BlipForConditionalGeneration(config))
    ours = converted(peer)
    models = {"ours": ours.train(), "peer": peer.train()}
    report.titles()
    for count in (2, 4):
        batch = batch_of(count, size, config.text_config.bos_token_id)
        found, wanted = (first_step(models[side], batch) for side in ("ours", "peer"))
        report.equal("losses", found[0], wanted[0], atol=1e-5)
        report.equal("norms of gradients", found[1], wanted[1], atol=1e-4)
        steps = {side: step_of(model, batch) for side, model in models.items()}
        report.race(f"BLIP-base training step, batch {count}", *steps.values(), TIME)
        mib = {side: held(step) / 2**20 for side, step in steps.items()}
        ratio = mib["peer"] / mib["ours"]
        report.say(
            f"  memory above weights, gradients, AdamW: {mib['ours']:.0f} of {mib['peer']:.0f} MiB ({ratio:.2f}x)"
        )
        report.row(batch=count, mib=mib)
        if not asked.tiny:
            report.want(f"memory of a step of {count} pictures", ratio, MEMORY)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
