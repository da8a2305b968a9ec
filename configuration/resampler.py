"""MMResamplerConfig: many tokens of an item to a fixed few."""

from typing import Literal

from .stack import MMStackConfig, checked, positive


@checked
class MMResamplerConfig(MMStackConfig):
    """Learned latents that cross-attend to the tokens of one item. The defaults are Flamingo's Perceiver resampler."""

    model_type = "mm_resampler"

    num_latents: int = 64
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    head_dim: int | None = 64
    attention_bias: bool | str = False
    mlp_bias: bool = False
    memory_norm: bool = True
    append_latents: bool = True  # keys and values of the item's tokens and of the latents; False: of the tokens alone
    residual: bool = True
    first_latent_pooled: bool = False  # the first latent is the pooled vector, the rest are the tokens
    pooler: Literal["none"] = "none"

    def faults(self) -> list[str]:
        return super().faults() + positive(self, "num_latents")
