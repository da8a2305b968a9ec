"""MMResamplerConfig: many tokens of an item to a fixed few."""

from typing import Literal

from .base import MMStackConfig, checked
from .settings import setting


@checked
class MMResamplerConfig(MMStackConfig):
    """A resampler: learned latents cross-attend to the tokens of one item and take their place.

    The defaults are Flamingo's Perceiver resampler (Alayrac et al. 2022, arXiv:2204.14198). CoCa's pooler (Yu et al.
    2022, arXiv:2205.01917) has num_hidden_layers=1, residual=False, intermediate_size=0, append_latents=False,
    attention_bias=True and first_latent_pooled=True.
    """

    model_type = "mm_resampler"
    cross_attention_gate = "none"

    num_latents: int = setting(64, "latents, which are the tokens that come out", "MMResampler", values="> 0")
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    head_dim: int | None = 64
    intermediate_size: int = setting(3072, "inner width of the MLP; 0: no MLP", "MMMLP", values=">= 0")
    attention_bias: bool | str = False
    mlp_bias: bool = False
    memory_norm: bool = setting(True, "each layer has a norm on the tokens that it reads", "MMCrossAttention")
    append_latents: bool = setting(
        True, "the latents are keys too, beside the tokens, which must then have their width", "MMResampler"
    )
    residual: bool = setting(True, "False: the attention's output replaces the latents", "MMLayer")
    first_latent_pooled: bool = setting(
        False, "the first latent is the pooled vector, the others are the tokens", "MMResampler"
    )
    final_norm: Literal["all", "none"] = setting(  # pyright: ignore[reportIncompatibleVariableOverride]: fewer than a stack takes
        "all", "a norm after the last layer", "MMResampler"
    )
    position_embedding_type: Literal["none"] = setting(  # pyright: ignore[reportIncompatibleVariableOverride]: fewer than a stack takes
        "none", "latents have no positions", "nobody"
    )
    pooler: Literal["none"] = setting(  # pyright: ignore[reportIncompatibleVariableOverride]: fewer than a stack takes
        "none", "see first_latent_pooled", "nobody"
    )

    @property
    def cross_attention_memory_norm(self) -> bool:
        return self.memory_norm

    def cross_stack(self) -> "MMResamplerConfig":
        """A resampler is built as it says; see MMTextConfig."""
        return self

    def sublayers(self, layer: int) -> tuple[str, ...]:
        """The residual sublayers of each layer, in order."""
        return ("cross", "mlp") if self.intermediate_size else ("cross",)

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.first_latent_pooled and self.num_latents == 1:
            faults.append("first_latent_pooled=True leaves no latent for the tokens; set num_latents to 2 or more")
        if self.embedding_norm:
            faults.append("embedding_norm=True is a norm of embeddings, and latents have none; leave it out")
        return faults
