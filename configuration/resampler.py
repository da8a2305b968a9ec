"""MMResamplerConfig: many tokens of an item to a fixed few."""

from typing import Literal

from .base import MMStackConfig, checked
from .settings import setting


@checked
class MMResamplerConfig(MMStackConfig):
    """A resampler: learned latents cross-attend to the tokens of one item and take their place.

    The defaults are Flamingo's Perceiver resampler (Alayrac et al. 2022, arXiv:2204.14198). CoCa's pooler (Yu et al.
    2022, arXiv:2205.01917) has num_hidden_layers=1, residual=False, intermediate_size=0, append_latents=False,
    attention_bias=True and first_latent_pooled=True. BLIP-2's Q-Former (Li et al. 2023, arXiv:2301.12597) has
    self_attention=True, cross_attention_every=2, norm_position="post", embedding_norm=True, final_norm="none",
    memory_norm=False, append_latents=False, attention_bias=True and mlp_bias=True.
    """

    model_type = "mm_resampler"
    cross_attention_gate = "none"
    cross_attention_unread = "row"

    num_latents: int = setting(64, "latents, which are the tokens that come out", "MMResampler", values="> 0")
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    head_dim: int | None = 64
    intermediate_size: int = setting(3072, "inner width of the MLP; 0: no MLP", "MMMLP", values=">= 0")
    attention_bias: bool | str = False
    mlp_bias: bool = False
    memory_norm: bool = setting(True, "each layer has a norm on the tokens that it reads", "MMCrossAttention")
    append_latents: bool = setting(
        True, "the latents are keys too, like the tokens, which must then have their width", "MMResampler"
    )
    self_attention: bool = setting(
        False, "the latents attend to each other first, in every layer (BLIP-2's Q-Former)", "MMLayer"
    )
    cross_attention_every: int = setting(
        1,
        "self_attention: the first of so many layers reads the tokens, and so on; 1: every layer",
        "MMLayer",
        values="> 0",
    )
    embedding_norm: bool = setting(False, "a norm on the latents before the first layer", "MMResampler")
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
        reads = () if layer % self.cross_attention_every else ("cross",)
        return (
            *(("self",) if self.self_attention else ()),
            *reads,
            *(("mlp",) if self.intermediate_size else ()),
        )

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.first_latent_pooled and self.num_latents == 1:
            faults.append("first_latent_pooled=True leaves no latent for the tokens; set num_latents to 2 or more")
        if self.cross_attention_every > 1 and not self.self_attention:
            faults.append(
                f"cross_attention_every={self.cross_attention_every} leaves layers in which no latent learns from any "
                "other or from the tokens; set self_attention=True, or cross_attention_every=1"
            )
        if self.self_attention and not self.residual:
            faults.append("residual=False drops what self_attention=True made; set residual=True")
        return faults
