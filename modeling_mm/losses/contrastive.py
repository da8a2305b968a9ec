"""Losses of pictures against texts: InfoNCE (CLIP, arXiv:2103.00020) and sigmoid (SigLIP, arXiv:2303.15343).

B pictures and R texts of this process, N and M of all, P their width, W processes, s the scale.

Every process computes its own share and multiplies it by W. So the mean of the losses over the processes, and the
gradients averaged by DDP or FSDP, are those of one process that holds the whole batch.
"""

import torch
from torch.nn.functional import logsigmoid

from .positive_pairs import Pairs


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, high):
        ctx.save_for_backward(value > high)
        return value.clamp(max=high)

    @staticmethod
    def backward(ctx, *grads):
        (above,) = ctx.saved_tensors
        return grads[0].masked_fill(above & (grads[0] < 0), 0), None


def logit_scale(log_scale: torch.Tensor, high: float | None) -> torch.Tensor:
    """exp(min(log_scale, high)), fp32 at least; None: no bound.

    Above `high` a step of descent may lead down but not up, so a scale that went too far is not stuck there.
    """
    log_scale = log_scale.to(torch.promote_types(log_scale.dtype, torch.float32))
    return (log_scale if high is None else _Clamp.apply(log_scale, high)).exp()


def similarities(left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """s * left @ right.T, fp32 at least, also under autocast: a scale of 100 leaves half precision no digit."""
    dtype = torch.promote_types(left.dtype, torch.float32)
    with torch.autocast(left.device.type, enabled=False):
        return scale * (left.to(dtype) @ right.to(dtype).T)


def info_nce_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    pairs: Pairs,
    scale: torch.Tensor | float | tuple[torch.Tensor, torch.Tensor],
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean of both directions: -sum_j q_ij log softmax_j(s x_i.y_j), q_i spread evenly over the positives of i.

    Args:
        image_embeds: (B, P), normalised, of this process.
        text_embeds: (R, P), normalised, of this process.
        pairs: what belongs together; a picture without a text is a negative for the texts and has no loss itself.
        scale: s; of two the first is of pictures with texts, the second of texts with pictures.
        label_smoothing: share of q that is spread evenly over all.
    """
    all_images = pairs.gathered(image_embeds, pairs.image_sizes)
    all_texts = pairs.gathered(text_embeds, pairs.text_sizes)
    of_images, of_texts = scale if isinstance(scale, tuple) else (scale, scale)
    to_texts = similarities(image_embeds, all_texts, of_images)
    to_images = similarities(text_embeds, all_images, of_texts)
    images_own = even_shares(pairs.positives(images=pairs.images), to_texts.dtype, label_smoothing)
    texts_own = even_shares(pairs.positives(texts=pairs.texts).T, to_images.dtype, label_smoothing)
    return mean_of_directions(soft_nll(to_texts, images_own), soft_nll(to_images, texts_own), pairs)


def even_shares(positives: torch.Tensor, dtype: torch.dtype, label_smoothing: float = 0.0) -> torch.Tensor:
    """bool (n, m) -> q (n, m), each row spread evenly over its positives, smoothed over all; 0 without a positive."""
    shares = positives.to(dtype)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1)
    evenly = positives.any(1, keepdim=True).to(dtype) / positives.shape[1]
    return (1 - label_smoothing) * shares + label_smoothing * evenly


def soft_nll(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """-sum_ij q_ij log softmax_j(logits) of (n, m); a logit of -inf stands for nothing."""
    logs = logits.log_softmax(1)
    return -(shares * logs.masked_fill(logs == -torch.inf, 0)).sum()


def mean_of_directions(of_images: torch.Tensor, of_texts: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Sums over the pictures and the texts of this process -> its share of the mean of both directions."""
    return (of_images / pairs.count_images() + of_texts / pairs.count_texts()) * pairs.world_size / 2


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    pairs: Pairs,
    scale: torch.Tensor | float,
    bias: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """-sum_ij log sigmoid(z_ij (s x_i.y_j + b)) / M, z = 1 for what belongs together, else -1.

    Arguments as in `info_nce_loss`, and bias: b, None for 0. The texts of all processes are gathered; see
    `ring_sigmoid.py` for the exchange that needs one share of them at a time.
    """
    all_texts = pairs.gathered(text_embeds, pairs.text_sizes)
    logits = similarities(image_embeds, all_texts, scale) + (0 if bias is None else bias)
    signs = pairs.positives(images=pairs.images).to(logits.dtype) * 2 - 1
    return -logsigmoid(signs * logits).sum() / pairs.count_texts() * pairs.world_size
