"""What a teacher knows, as a loss: over classes or words (Hinton, arXiv:1503.02531), over similarities (2103.00020's
contrast, with the teacher's in place of the positives). Both are KL(teacher || student), 0 where the two agree.
"""

import torch

from .contrastive import mean_of_directions, similarities
from .positive_pairs import Pairs
from .token_losses import mean_over_items


def distillation_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """t^2 KL(softmax(teacher / t) || softmax(student / t)), the mean over the places that are not ignored.

    ALBEF's masked language modelling is (1 - a) `token_loss` + a times this.

    Args:
        logits, teacher_logits: (..., V); only the first get a gradient.
        targets: int64 (...), only -100 is used: ignored. Without any other the loss is 0.
        temperature: t.
        num_items_in_batch: to divide by, instead of the number of places.
    """
    if logits.shape != teacher_logits.shape or logits.shape[:-1] != targets.shape:
        shapes = [tuple(x.shape) for x in (logits, teacher_logits, targets)]
        raise ValueError(f"logits and teacher_logits must be (..., V), targets (...); got {shapes}")
    targets = targets.to(logits.device)
    real = targets != -100
    total = _kl(teacher_logits[real], logits[real], temperature)
    return mean_over_items(total * temperature**2, targets, num_items_in_batch)


def similarity_distillation_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    teacher_image_embeds: torch.Tensor,
    teacher_text_embeds: torch.Tensor,
    pairs: Pairs,
    scale: torch.Tensor | float,
    teacher_scale: torch.Tensor | float,
) -> torch.Tensor:
    """The teacher's softmax over the whole batch, for pictures and for texts; the mean of both directions.

    (B, P) and (R, P) of this process, normalised; the teacher's may be of another width. Gathered as `info_nce_loss`.
    """
    with torch.no_grad():
        of_teacher = _both_ways(teacher_image_embeds, teacher_text_embeds, pairs, teacher_scale)
    of_student = _both_ways(image_embeds, text_embeds, pairs, scale)
    with_text = pairs.positives(images=pairs.images).any(1)
    of_images = _kl(of_teacher[0][with_text], of_student[0][with_text])
    return mean_of_directions(of_images, _kl(of_teacher[1], of_student[1]), pairs)


def _both_ways(images, texts, pairs: Pairs, scale) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, M), (R, N)."""
    all_images, all_texts = pairs.gathered(images, pairs.image_sizes), pairs.gathered(texts, pairs.text_sizes)
    return similarities(images, all_texts, scale), similarities(texts, all_images, scale)


def _kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The sum over rows of KL(softmax(teacher / t) || softmax(student / t)), fp32 at least."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    known = (teacher.detach().to(dtype) / temperature).log_softmax(-1)
    asked = (student.to(dtype) / temperature).log_softmax(-1)
    return torch.nn.functional.kl_div(asked, known, reduction="sum", log_target=True)
