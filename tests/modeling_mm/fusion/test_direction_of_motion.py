"""A square that crosses the picture: to the right or the left, down or up. Films of two opposite directions are the
same frames in the opposite order, so a model that does not see the order is right half of the time."""

import pytest
import torch

from mm import MMConfig, MMForSequenceClassification

FRAMES, SIDE, WIDTH = 4, 32, 48
START = {"initializer_range": 0.2}  # of a narrow model
SIZE = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, **START}
IDS = torch.tensor([[1, 5, 2]])


def films(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 1, F, 3, 32, 32), squares of any colour in any of four lanes, and their directions (n,)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randint(4, (number,), generator=generator)
    lanes = 8 * torch.randint(4, (number,), generator=generator)
    colours = 0.2 + 0.8 * torch.rand(number, 3, 1, 1, generator=generator)
    pixels = -torch.ones(number, 1, FRAMES, 3, SIDE, SIDE)
    for film, direction, lane, colour in zip(pixels[:, 0], directions.tolist(), lanes.tolist(), colours, strict=True):
        for frame in range(FRAMES):
            place = 8 * (frame if direction % 2 == 0 else FRAMES - 1 - frame)
            top, left = (lane, place) if direction < 2 else (place, lane)
            film[frame, :, top : top + 8, left : left + 8] = colour
    return pixels, directions


def held_out_accuracy(steps: int, **fields) -> float:
    """Of films that training did not see."""
    torch.manual_seed(0)
    text = {
        **SIZE, "vocab_size": 8, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "is_causal": False, "pooler": "mean", "norm_position": "pre", "final_norm": "all",
    }  # fmt: skip
    vision = {**SIZE, "image_size": SIDE, "patch_size": 8}
    model = MMForSequenceClassification(
        MMConfig(modalities=["video"], vision_config=vision, text_config=text, num_labels=4, **START, **fields)
    ).train()
    pixels, directions = films(600, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 10, 2 * (1 - step / steps))
        rows = torch.randint(len(pixels), (32,), generator=generator)
        loss = model(input_ids=IDS.expand(32, -1), pixel_values_videos=pixels[rows], labels=directions[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    pixels, directions = films(200, seed=1)
    with torch.no_grad():
        found = model.eval()(input_ids=IDS.expand(200, -1), pixel_values_videos=pixels).logits.argmax(1)
    return (found == directions).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"fusion_type": "cross_attention"},
        {"fusion_type": "co_attention"},
        {"fusion_type": "merged"},
        {"fusion_type": "concat", "temporal_layers": 1},
    ],
    ids=lambda fields: "+".join(map(str, fields.values())),
)
def test_direction_of_motion_is_learned(fields):
    assert held_out_accuracy(300, max_frames=FRAMES, **fields) >= 0.95


@pytest.mark.slow
def test_frames_without_positions_leave_it_at_one_of_two():
    with pytest.warns(UserWarning, match="max_frames=0"):
        assert held_out_accuracy(150, fusion_type="cross_attention") < 0.7
