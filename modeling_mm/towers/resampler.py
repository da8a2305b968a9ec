"""MMResampler: many tokens of an item to a fixed few.

n items, S tokens of an item, Dv their width, L latents, D their width.
"""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from ...configuration.resampler import MMResamplerConfig
from ..checks.text_inputs import check_memory
from ..core.attention import build_norm
from ..core.base import MMPreTrainedModel
from ..core.context_rows import MMReading, MMRows
from ..core.layers import MMLayer


class MMResampler(MMPreTrainedModel):
    """Learned latents through layers of [cross, mlp] that read the tokens. See MMResamplerConfig for its kinds.

    Args:
        memory_size: Dv, the width of the tokens.
    """

    config: MMResamplerConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    main_input_name = "hidden_states"

    def __init__(self, config: MMResamplerConfig, memory_size: int):
        super().__init__(config)
        if config.append_latents and memory_size != config.hidden_size:
            raise ValueError(
                f"append_latents=True makes the latents keys beside the tokens, but they are {config.hidden_size} and "
                f"{memory_size} wide; set the resampler's hidden_size={memory_size} or append_latents=False"
            )
        self.memory_size = memory_size
        self.latents = nn.Parameter(torch.zeros(1, config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList(
            [MMLayer(config, config.sublayers(i), 0, i, memory_size) for i in range(config.num_hidden_layers)]
        )
        final_norm = "none" if config.final_norm == "none" else config.norm_type
        self.norm = build_norm(final_norm, config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def freeze_again(self) -> None:
        """A resampler freezes nothing."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Reads the tokens of each item.

        Args:
            hidden_states: float (n, S, Dv).
            attention_mask: bool (n, S), the real tokens; None: all.
        Returns: the latents (n, L, D) and None; with first_latent_pooled (n, L - 1, D) and the first (n, D).
        """
        check_memory(hidden_states, attention_mask, self.memory_size, "hidden_states")
        count = hidden_states.shape[0]
        latents = self.latents.expand(count, -1, -1)
        reading = MMReading(MMRows(count, count), mask=self._mask(latents, hidden_states, attention_mask))
        for layer in self.layers:
            latents = layer(latents, hidden_states, reading)
        latents = self.norm(latents)
        return (latents[:, 1:], latents[:, 0]) if self.config.first_latent_pooled else (latents, None)

    def _mask(self, latents: torch.Tensor, tokens: torch.Tensor, real: torch.Tensor | None):
        """Of the implementation's kind, over the keys of a layer: the latents, if they are keys, then the tokens."""
        if real is None:
            return None
        real, keys = real.bool(), tokens
        if self.config.append_latents:
            real = torch.cat([real.new_ones(latents.shape[:2]), real], dim=1)
            keys = torch.cat([latents, tokens], dim=1)
        return create_bidirectional_mask(self.config, latents, real, encoder_hidden_states=keys)
