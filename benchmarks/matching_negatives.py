"""Matching in a short run of pre-training, by how its negatives are drawn and how large the first weights are.

    OMP_NUM_THREADS=1 python benchmarks/matching_negatives.py | tee benchmarks/logs/matching_negatives.txt

120 drawn pictures, each with a text of its own (colour, shape, row, column); "itc" and "itm", batches of 32, width 64.
Two of three pairs do not match, so a model that has learned their share alone has a matching loss of 0.637. The table
gives the mean of that loss over 20 steps that end at each step named; the last column is how often the right text is
the likelier match, beside another one of the 120, of pictures that were drawn anew. Losses of different shares are of
different negatives: hard ones have a higher loss in a model that is as good.
"""

import torch

from mm import MMConfig, MMForPreTraining

COLOURS = torch.tensor([[0.9, 0, 0], [0, 0.7, 0], [0, 0.2, 0.9], [0.9, 0.8, 0], [0.6, 0, 0.7], [0, 0, 0]])
SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def shapes() -> torch.Tensor:
    """bool (5, 12, 12): a disc, a square, a triangle, a cross and a ring."""
    y, x = torch.meshgrid(torch.arange(12) - 5.5, torch.arange(12) - 5.5, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    cross = (x.abs() < 2) | (y.abs() < 2)
    return torch.stack([radius < 6, x.abs() < 9, x.abs() * 2 < y + 6.5, cross, (radius < 6) & (radius > 3)])


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (120, 3, 32, 32), never in quite one place, and texts (120, 6): bos colour shape row column eos."""
    generator, forms = torch.Generator().manual_seed(seed), shapes()
    pictures, texts = [], []
    for number in range(120):
        colour, shape, row, column = number % 6, number // 6 % 5, number // 30 % 2, number // 60
        picture = 0.8 + 0.2 * torch.rand(3, 1, 1, generator=generator).expand(-1, 32, 32)
        top, left = (16 * place + int(torch.randint(0, 4, (), generator=generator)) for place in (row, column))
        picture = picture.clone()
        picture[:, top : top + 12, left : left + 12][:, forms[shape]] = COLOURS[colour][:, None]
        pictures.append((picture - 0.5) * 4)
        texts.append([1, 4 + colour, 10 + shape, 15 + row, 17 + column, 2])
    return torch.stack(pictures), torch.tensor(texts)


def trained(steps: int, initializer_range: float = 0.1, **fields) -> tuple[MMForPreTraining, list[float]]:
    """A model after that many steps of 32 pictures, and the matching losses."""
    torch.manual_seed(0)
    start = {"initializer_range": initializer_range}
    config = MMConfig(
        vision_config={**SIZE, **start, "image_size": 32, "patch_size": 8},
        text_config={
            **SIZE, **start, "vocab_size": 19, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0, "norm_position": "pre", "final_norm": "all",
        },
        share_text_encoder=True, projection_dim=64, pretraining_losses={"itc": 1.0, "itm": 1.0}, **start, **fields,
    )  # fmt: skip
    model = MMForPreTraining(config).train()
    pictures, texts = drawn(seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        rows = torch.randperm(len(pictures), generator=generator)[:32]
        output = model(input_ids=texts[rows], pixel_values=pictures[rows])
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(output.loss_itm.item())
    return model, losses


@torch.no_grad()
def share_of_right_order(model: MMForPreTraining) -> float:
    """How often the own text of a picture, drawn anew, is likelier to match than another one."""
    pictures, texts = drawn(seed=1)
    matches = torch.cat([torch.ones(120), torch.zeros(120)]).long()
    logits = model.eval()(
        input_ids=torch.cat([texts, texts.roll(37, 0)]), pixel_values=pictures, matches=matches, return_loss=True,
        context_index=torch.arange(120).repeat(2),
    ).itm_logits  # fmt: skip
    own, other = (logits[:, 1] - logits[:, 0]).view(2, 120)
    return (own > other).float().mean().item()


def main() -> None:
    for initializer_range in (0.02, 0.1):
        for share in (1.0, 0.5, 0.0):
            model, losses = trained(300, initializer_range, itm_hard_negatives=share)
            means = [sum(losses[step - 20 : step]) / 20 for step in (60, 120, 200, 300)]
            cells = [f"{initializer_range}", f"{share}", *(f"{mean:.3f}" for mean in means)]
            print(f"| {' | '.join(cells)} | {share_of_right_order(model):.2f} |", flush=True)


if __name__ == "__main__":
    main()
