"""The sigmoid loss of all processes with the texts of one of them at a time (SigLIP, arXiv:2303.15343, section 3.3).

The texts go round a ring, and their gradient goes with them:

    step 0    own texts against own pictures
    step t    the texts of rank - t, which come from the left neighbour and leave to the right one
    at last   every process has its texts back, with what all pictures say about them

so that B x (the longest share of texts) logits are held at a time, and backward needs no communication.
"""

import torch
import torch.distributed as dist
from torch.nn.functional import logsigmoid, pad

from .gather import Group, own_slice
from .positive_pairs import Pairs


def ring_sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    pairs: Pairs,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """The same number and gradients as `sigmoid_loss`; the arguments too.

    All processes must weigh the loss alike: a text's gradient is complete before the weight is known.
    """
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    device = image_embeds.device
    numbers = [torch.as_tensor(0.0 if x is None else x, dtype=dtype, device=device) for x in (scale, bias)]
    inputs = image_embeds.to(dtype), text_embeds.to(dtype), *numbers
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _Ring.apply(*inputs, pairs, wanted)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, texts, scale, bias, pairs, wanted):
        world, width = pairs.world_size, texts.shape[1]
        factor = world / pairs.count_texts()
        grads = {"images": torch.zeros_like(images), "scale": torch.zeros_like(scale), "bias": torch.zeros_like(bias)}
        loss = torch.zeros_like(scale)
        guests = pad(texts, (0, width if wanted else 0, 0, max(pairs.text_sizes) - len(texts)))
        with torch.autocast(images.device.type, enabled=False):
            for step in range(world):
                texts_here, own = _guests_of(guests, pairs, step)
                loss += _share(images, texts_here, scale, bias, pairs.positives(pairs.images, own), wanted, grads)
                if world > 1 and (wanted or step < world - 1):
                    guests = _to_the_right(guests, pairs.group)
        if wanted:
            ready = grads["images"], guests[: len(texts), width:], grads["scale"], grads["bias"]
            ctx.save_for_backward(*(grad * factor for grad in ready))
        return loss * factor

    @staticmethod
    def backward(ctx, *upstream):
        return *(grad * upstream[0] for grad in ctx.saved_tensors), None, None


def _guests_of(guests: torch.Tensor, pairs: Pairs, step: int) -> tuple[torch.Tensor, slice]:
    """The texts (with their gradients) that are here at a step, and their place among all."""
    owner = (pairs.rank - step) % pairs.world_size
    return guests[: pairs.text_sizes[owner]], own_slice(pairs.text_sizes, owner)


def _share(images, guests, scale, bias, positives, wanted: bool, grads: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of the pictures (B, P) against texts (n, P); its gradients are added where they belong.

    guests: (n, P), or (n, 2P) with the texts' gradient after them if gradients are needed.
    """
    width = images.shape[1]
    texts = guests[:, :width]
    cosines = images @ texts.T
    signs = positives.to(cosines.dtype) * 2 - 1
    signed = signs * (scale * cosines + bias)
    if wanted:
        slopes = -signs * torch.sigmoid(-signed)  # of the loss, by each logit
        grads["images"] += scale * slopes @ texts
        guests[:, width:] += scale * slopes.T @ images
        grads["scale"] += (slopes * cosines).sum()
        grads["bias"] += slopes.sum()
    return -logsigmoid(signed).sum()


def _to_the_right(rows: torch.Tensor, group: Group) -> torch.Tensor:
    """Every process hands its rows to the next one and gets those of the one before."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    right, left = (rank + 1) % world, (rank - 1) % world
    if group is not None:
        right, left = dist.get_global_rank(group, right), dist.get_global_rank(group, left)
    arriving = torch.empty_like(rows)
    moves = [dist.P2POp(dist.isend, rows, right, group), dist.P2POp(dist.irecv, arriving, left, group)]
    for move in dist.batch_isend_irecv(moves):
        move.wait()
    return arriving
