"""mm.losses: every public loss and its tools, in one flat namespace; docs/objectives.md shows them."""

from .modeling_mm.losses.class_losses import classification_loss, ordinal_loss
from .modeling_mm.losses.contrastive import info_nce_loss, sigmoid_loss
from .modeling_mm.losses.distillation import distillation_loss, similarity_distillation_loss
from .modeling_mm.losses.grad_cache import encode_in_chunks
from .modeling_mm.losses.hard_negatives import hard_negatives
from .modeling_mm.losses.image_losses import (
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge_loss,
    generator_hinge_loss,
)
from .modeling_mm.losses.momentum import EmbeddingQueue, MomentumContrast, momentum_copy, momentum_update
from .modeling_mm.losses.positive_pairs import Pairs, row_ids
from .modeling_mm.losses.ring_sigmoid import ring_sigmoid_loss
from .modeling_mm.losses.token_losses import causal_lm_loss, chunked_cross_entropy, token_loss

__all__ = [
    "EmbeddingQueue",
    "MomentumContrast",
    "Pairs",
    "PatchDiscriminator",
    "PerceptualLoss",
    "adaptive_weight",
    "causal_lm_loss",
    "chunked_cross_entropy",
    "classification_loss",
    "discriminator_hinge_loss",
    "distillation_loss",
    "encode_in_chunks",
    "generator_hinge_loss",
    "hard_negatives",
    "info_nce_loss",
    "momentum_copy",
    "momentum_update",
    "ordinal_loss",
    "ring_sigmoid_loss",
    "row_ids",
    "sigmoid_loss",
    "similarity_distillation_loss",
    "token_loss",
]
