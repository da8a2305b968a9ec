"""MMVisionModel: a ViT. n pictures, S tokens (CLS, registers, patches in row-major order), D hidden_size."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...configuration.vision import MMVisionConfig
from ..core.attention import CallConfig, MMAttention, build_norm
from ..core.base import MMPreTrainedModel
from ..core.input_checks import check_mask_values, check_pixels, check_tensors, may_read_values, other_size
from ..core.inputs_outputs import MMKwargs, reject_unknown, takes
from ..core.layers import MMLayer, MMPooler


def check_patch_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    """A mask of patches (n, rows, columns): in each picture one rectangle at the top left, at least one patch."""
    check_tensors(pixel_attention_mask=mask)
    if tuple(mask.shape) != shape:
        raise ValueError(f"pixel_attention_mask must be {shape}, one per patch; got {tuple(mask.shape)}")
    if not may_read_values():
        return
    check_mask_values("pixel_attention_mask", mask)
    real = mask.bool()
    rows = torch.arange(shape[1], device=mask.device) < real.any(2).sum(1, keepdim=True)
    columns = torch.arange(shape[2], device=mask.device) < real.any(1).sum(1, keepdim=True)
    if not torch.equal(real, rows[:, :, None] & columns[:, None]) or not bool(real[:, 0, 0].all()):
        raise ValueError("pixel_attention_mask must be True in one rectangle at the top left of each picture")


def _packed(states: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tokens (n, L, D) of each picture without most of the canvas, their mask (n, L), and their places on it
    (n, L, 1). L: tokens of the largest. A tall and a wide picture have few tokens, and a canvas of many."""
    length = int(real.sum(1).max())
    places = real.long().argsort(dim=1, descending=True, stable=True)[:, :length, None]
    return states.gather(1, places.expand(-1, -1, states.shape[-1])), real.gather(1, places[..., 0]), places


class MMVisionModel(MMPreTrainedModel):
    """Patches to tokens, learned positions, layers of [self, mlp], a final norm and a pooler.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929) §3.1.
    """

    config: MMVisionConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    embed_positions: Any  # nn.Embedding; None where the config has no positions
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _can_record_outputs = {
        "hidden_states": MMLayer,
        "attentions": OutputRecorder(MMAttention, index=1, layer_name="self_attn"),
    }

    def __init__(self, config: MMVisionConfig):
        super().__init__(config)
        width, patch = config.hidden_size, config.patch_size
        self.image_sides, self.patch_grid = config.image_sides, config.patch_grid
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=config.patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.use_cls_token else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if config.use_mask_token else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.embed_positions = None
        if config.position_embedding_type == "absolute":
            self.embed_positions = nn.Embedding(config.use_cls_token + math.prod(self.patch_grid), width)
        self.embed_norm = build_norm(
            config.norm_type if config.embedding_norm else "none", width, config.layer_norm_eps
        )
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([MMLayer(config, self_idx=i) for i in range(config.num_hidden_layers)])
        final_norm = "none" if config.final_norm == "none" else config.norm_type
        self.norm = build_norm(final_norm, width, config.layer_norm_eps)
        self.pooler = MMPooler(config)
        self.tiles = None
        if config.max_tiles:
            from .tiles import MMTiles  # which few towers have

            self.tiles = MMTiles(config, config.use_cls_token + math.prod(self.patch_grid))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embedding

    def pooled_only(self) -> list[nn.Module]:
        return [self.pooler, self.norm] if self.config.final_norm == "pooled" else [self.pooler]

    @capture_outputs
    @takes()
    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        **kwargs: Unpack[MMKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes pictures.

        Args:
            pixel_values: float (n, C, height, width), normalised as the processor does; cast to the weights' dtype.
            interpolate_pos_encoding: accept another size than image_size by resampling the learned positions
                (`position_resampling`); multiples of patch_size, or with drop_partial_patches any from one patch up.
            pixel_attention_mask: bool (n, height/p, width/p) of patches of p pixels, True in a rectangle at the top
                left: pictures of several sizes on one canvas of any size. Each picture gets the positions of its own
                rectangle, and pixels outside change nothing; the states of such tokens mean nothing.
            bool_masked_pos: bool (n, height/p * width/p), True for each patch that the mask token replaces.
            image_grids: with max_tiles, whose pixel_values are (n, max_tiles, C, height, width), tiles that a picture
                lacks as zeros: int64 (n, 2), rows and columns of tiles.
        Returns: last_hidden_state (n, S, D) and pooler_output (n, D); with max_tiles (n, max_tiles * S, D times 1 and
            the number of feature_layers) and None.
        Raises: ValueError for another shape or size; TypeError for an unknown argument.
        """
        reject_unknown(kwargs, MMVisionModel.forward)
        if self.tiles is not None:
            others = (pixel_attention_mask, bool_masked_pos, interpolate_pos_encoding or None)
            return self._read_together(self.tiles, pixel_values, image_grids, others, **kwargs)
        self._check_size(pixel_values, interpolate_pos_encoding or pixel_attention_mask is not None)
        hidden_states = self._embed(pixel_values, pixel_attention_mask, bool_masked_pos)
        real, mask, places, canvas = None, None, None, hidden_states.shape
        if pixel_attention_mask is not None:
            real = self.token_mask(pixel_attention_mask)
            if may_read_values() and not self._is_recorded(kwargs):
                hidden_states, real, places = _packed(hidden_states, real)
            call: Any = CallConfig(self.config, kwargs.get("output_attentions"))
            mask = create_bidirectional_mask(call, hidden_states, real)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, **kwargs)
        normed = self.norm(hidden_states)
        pooled = self.pooler(normed, real)
        hidden_states = hidden_states if self.config.final_norm == "pooled" else normed
        if places is not None:
            hidden_states = hidden_states.new_zeros(canvas).scatter(1, places.expand_as(hidden_states), hidden_states)
        return BaseModelOutputWithPooling(hidden_states, pooled)

    def _read_together(
        self, tiles: Any, pixels: torch.Tensor, grids: torch.Tensor | None, others: tuple, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Pictures (n, max_tiles, C, height, width)."""
        if grids is None or pixels.ndim != 5 or pixels.shape[1] != tiles.most or any(o is not None for o in others):
            raise ValueError(
                f"tiles that are read together (max_tiles={tiles.most}) are pixel_values (n, {tiles.most}, C, height, "
                f"width) with image_grids (n, 2), without masks of patches or other sizes; got {tuple(pixels.shape)}"
            )
        pixels, numbers = pixels.flatten(0, 1), tiles.numbers(grids)
        self._check_size(pixels, False)
        states, mask = tiles.pad(self._embed(pixels, None, None, numbers), grids)
        wanted, kept = self.config.feature_layers or [], {}
        for number, layer in enumerate(self.layers):
            states = layer(states, attention_mask=mask, **kwargs)
            kept |= {number: states} if number in wanted else {}
        features = [kept[number] for number in wanted]
        states = tiles.run_layers(self.norm(states), numbers, mask, **kwargs)
        if features:  # channel by channel, as the original has them
            states = torch.cat([states, torch.stack(features, dim=-1).flatten(-2)], dim=-1)
        return BaseModelOutputWithPooling(tiles.unpad(states), None)

    def _is_recorded(self, asked: Mapping[str, Any]) -> bool:
        """Whether states or weights of layers are asked for, which lie on the canvas."""
        names = ("output_hidden_states", "output_attentions")
        return any(asked.get(name) or getattr(self.config, name) for name in names)

    def token_mask(self, pixel_attention_mask: torch.Tensor) -> torch.Tensor:
        """bool (n, rows, columns) of patches -> bool (n, S) of tokens; CLS and registers are always real."""
        patches = pixel_attention_mask.bool().flatten(1)
        lead = self.config.use_cls_token + self.config.num_register_tokens
        return torch.cat([patches.new_ones(patches.shape[0], lead), patches], dim=1)

    def _embed(
        self,
        pixel_values: torch.Tensor,
        mask: torch.Tensor | None,
        replaced: torch.Tensor | None,
        numbers: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(n, C, height, width) -> (n, S, D). numbers: of the arrangements of tiles that are read together."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        grid = tuple(patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2)  # (n, D, rows, columns) -> (n, rows*columns, D)
        if replaced is not None:
            tokens = self._with_mask_token(tokens, replaced)
        if self.tiles is not None and numbers is not None:
            tokens = tokens + self.tiles.before(numbers).flatten(0, 1)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if mask is not None:
            check_patch_mask(mask, (tokens.shape[0], *grid))
        if self.tiles is not None and numbers is not None:
            gate = torch.tanh(self.tiles.positions.gate)
            tokens = tokens + (1 - gate) * self._positions(grid, tokens.device)
            tokens = tokens + self.tiles.positions(numbers).flatten(0, 1)
        elif self.embed_positions is not None:
            tokens = tokens + (self._positions(grid, tokens.device) if mask is None else self._positions_of_each(mask))
        if self.register_tokens is not None:
            lead = self.config.use_cls_token
            registers = self.register_tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :lead], registers, tokens[:, lead:]], dim=1)
        return self.dropout(self.embed_norm(tokens))

    def _with_mask_token(self, patches: torch.Tensor, replaced: torch.Tensor) -> torch.Tensor:
        """(n, L, D), the mask token where `replaced` (n, L) is True."""
        if self.mask_token is None:
            raise ValueError("bool_masked_pos was given, but this tower has no mask token; set use_mask_token=True")
        check_tensors(bool_masked_pos=replaced)
        if replaced.shape != patches.shape[:2] or replaced.dtype != torch.bool:
            raise ValueError(
                f"bool_masked_pos must be bool {tuple(patches.shape[:2])}, one per patch; got {replaced.dtype} "
                f"{tuple(replaced.shape)}"
            )
        return torch.where(replaced[..., None], self.mask_token, patches)

    def _check_size(self, pixel_values: torch.Tensor, interpolate: bool) -> None:
        config, patch = self.config, self.config.patch_size
        check_pixels(pixel_values, config.num_channels)
        height, width = pixel_values.shape[-2:]
        whole = config.drop_partial_patches or not (height % patch or width % patch)
        if interpolate and whole and min(height, width) >= patch:
            return
        if (height, width) != self.image_sides:
            accepted = f"of at least {patch}" if config.drop_partial_patches else f"that are multiples of {patch}"
            raise other_size(pixel_values, config.image_size, f" with sides {accepted}")

    def _positions_of_each(self, mask: torch.Tensor) -> torch.Tensor:
        """(n, CLS + rows*columns, D): the positions of each picture's own rectangle, zeros outside it.

        Reads the rectangles' sizes on the host, as resampling needs them.
        """
        if not may_read_values():
            raise ValueError(
                "pixel_attention_mask reads the size of each picture, which cannot be traced; leave it out"
            )
        lead, (count, rows, columns) = int(self.config.use_cls_token), mask.shape
        sizes = torch.stack([mask.bool().any(2).sum(1), mask.bool().any(1).sum(1)], dim=1).tolist()
        trained = self._positions(self.patch_grid, mask.device)
        placed, first = trained.new_zeros(count, rows, columns, trained.shape[1]), trained[:lead]
        for height, width in {tuple(size) for size in sizes}:
            positions = self._positions((height, width), mask.device)
            of_size = torch.tensor([size == [height, width] for size in sizes], device=mask.device)
            patches = functional.pad(
                positions[lead:].unflatten(0, (height, width)), (0, 0, 0, columns - width, 0, rows - height)
            )
            placed = torch.where(of_size[:, None, None, None], patches, placed)
        return torch.cat([first.expand(count, -1, -1), placed.flatten(1, 2)], dim=1)

    def _positions(self, grid: tuple[int, int], device: torch.device) -> torch.Tensor:
        """(CLS + rows*columns, D), resampled when the picture's grid is not the trained one."""
        numbers = torch.arange(self.embed_positions.num_embeddings, device=device)
        table, trained = self.embed_positions(numbers), self.patch_grid  # called, so that offloading hooks run
        if grid == trained:
            return table
        lead = self.config.use_cls_token
        patches = table[lead:].T.reshape(1, -1, *trained).to(torch.promote_types(table.dtype, torch.float32))
        antialias = self.config.position_resampling == "bilinear"
        patches = functional.interpolate(
            patches, size=grid, mode=self.config.position_resampling, align_corners=False, antialias=antialias
        )
        return torch.cat([table[:lead], patches.flatten(2)[0].T.to(table.dtype)])
