"""Operations of one step of pre-training, forward and backward, by which losses it has and what "mim" runs on.

    python benchmarks/pretraining_cost.py | tee benchmarks/logs/pretraining_cost.txt

mm-base, two pictures with a text of 16 tokens each. Counted by torch.utils.flop_counter, so the same on every machine.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

import mm

LOSSES = ("itc", "itm", "lm", "mlm", "mim")
PICTURES, TOKENS = 2, 16


def operations(losses: tuple[str, ...], mim_pass: str = "own") -> int:
    """Of a forward and a backward pass."""
    config = mm.MMConfig.preset(
        "mm-base",
        vision_config={"use_mask_token": True},
        share_text_encoder=True,
        mim_pass=mim_pass,
        pretraining_losses=dict.fromkeys(losses, 1.0),
    )
    torch.manual_seed(0)
    model = mm.MMForPreTraining(config).train()
    vision = config.vision_config
    ids = torch.randint(5, config.text_config.vocab_size, (PICTURES, TOKENS))
    given = {"input_ids": ids, "pixel_values": torch.randn(PICTURES, 3, vision.image_size, vision.image_size)}
    if "mlm" in losses:
        given |= {"masked_input_ids": ids, "mlm_targets": ids}
    if "mim" in losses:
        given["bool_masked_pos"] = torch.rand(PICTURES, (vision.image_size // vision.patch_size) ** 2) < 0.5
    with FlopCounterMode(display=False) as counter:
        model(**given, return_loss=True).loss.backward()
    return counter.get_total_flops()


def main() -> None:
    counted = {
        "itc, itm, lm, mlm": operations(LOSSES[:4]),
        'all five, mim_pass="own"': operations(LOSSES),
        'all five, mim_pass="shared"': operations(LOSSES, "shared"),
    }
    for name, count in counted.items():
        print(f"| {name} | {count / 1e9:.0f} | {count / counted['itc, itm, lm, mlm']:.2f} |")


if __name__ == "__main__":
    main()
