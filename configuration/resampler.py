"""MMResamplerConfig: many tokens of an item to a fixed few."""

from typing import Literal

from .base import MMStackConfig, checked, positive


@checked
class MMResamplerConfig(MMStackConfig):
    """Learned latents that cross-attend to the tokens of one item; `hidden_size` is their width.

    The defaults are Flamingo's Perceiver resampler (Alayrac et al. 2022, arXiv:2204.14198). CoCa's pooler (Yu et al.
    2022, arXiv:2205.01917) has num_hidden_layers=1, residual=False, intermediate_size=0, append_latents=False,
    attention_bias=True and first_latent_pooled=True.
    """

    model_type = "mm_resampler"
    cross_attention_gate = "none"

    num_latents: int = 64
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    head_dim: int | None = 64
    intermediate_size: int = 3072  # 0: no MLP
    attention_bias: bool | str = False
    mlp_bias: bool = False
    memory_norm: bool = True  # each layer norms the tokens that it reads
    append_latents: bool = True  # the latents are keys too, beside the tokens, which must then be as wide
    residual: bool = True  # False: the attention's output replaces the latents
    first_latent_pooled: bool = False  # the first latent is the pooled vector, the rest are the tokens
    final_norm: Literal["all", "none"] = "all"
    position_embedding_type: Literal["none"] = "none"
    pooler: Literal["none"] = "none"

    @property
    def mlp_sizes(self) -> tuple[str, ...]:
        return ("intermediate_size",) if self.intermediate_size else ()

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
        faults = super().faults() + positive(self, "num_latents")
        if self.first_latent_pooled and self.num_latents == 1:
            faults.append("first_latent_pooled=True leaves no latent for the tokens; set num_latents to 2 or more")
        if self.embedding_norm:
            faults.append(
                "embedding_norm=True norms what is embedded, but latents are learned as they are; leave it out"
            )
        return faults
