"""MMTextModel: the text decoder or encoder, with cross-attention to contexts.

R rows, B contexts, k rows per context, T text tokens, S context tokens, D hidden_size, Dc width of the context.
"""

import re
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.utils.output_capturing import OutputRecorder

from ...configuration.text import MMTextConfig
from ..core.attention import MM_TRITON, CallConfig, MMAttention, build_norm, kernels_run
from ..core.base import MMPreTrainedModel
from ..core.cache import MMCache, held_text
from ..core.context_rows import NOTHING, MMReading, MMRows, as_keys, as_mask, columns_of
from ..core.input_checks import check_positions, check_text, check_tokens
from ..core.inputs_outputs import MMKwargs, MMModelOutput, capture_when_asked, reject_unknown, takes
from ..core.layers import MMLayer, MMPooler, build_embedding
from ..core.positions import (
    MMRelativeBias,
    MMRotaryEmbedding,
    MMSegments,
    build_positions,
    check_growth,
    stretched,
)
from ..core.prefix import MMPlaced, MMPrefix, MMUnimodal, join_prefix, prompt_blocks, split


class MMTextPlan(NamedTuple):
    """What self-attention of one call needs.

    call: the implementation, and whether a token sees only those before it. position_ids: (R or 1, T); rotary: their
    cosines and sines. cache: what is held of `past` earlier tokens; returned: the same, where the caller gets it back.
    mask: of the implementation's kind. segments: those of a long text. local: mask and rotary of local layers.
    """

    call: Any  # a CallConfig, which Transformers' mask functions take for a config
    position_ids: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    cache: MMCache | None
    returned: MMCache | None
    past: int
    mask: Any
    segments: MMSegments | None = None
    local: Any = None


def default_positions(attention_mask, past, length: int, device: torch.device) -> torch.Tensor:
    """(R or 1, T): a token's number among the real tokens of its row, so padding on either side moves nothing."""
    if attention_mask is None or attention_mask.ndim != 2:
        return torch.arange(length, device=device)[None] + past
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


class MMTextModel(MMPreTrainedModel):
    """Embeddings, layers out of {self, cross, mlp}, a final norm and a pooler."""

    config: MMTextConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    unimodal: Any  # MMUnimodal where the config has unimodal_layers
    embed_positions: Any  # an embedding, MMSinusoids or None
    cross_head_dim: Any
    _tp_plan: Any
    input_modalities = ["text"]
    _can_record_outputs = {
        "hidden_states": MMLayer,
        "attentions": OutputRecorder(MMAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(MMAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: MMTextConfig):
        super().__init__(config)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.embed_tokens = build_embedding(config.vocab_size, width, config.unread_id, config.embedding_scale)
        self.embed_positions = build_positions(config)
        self.rotary = MMRotaryEmbedding(config) if config.position_embedding_type == "rope" else None
        is_relative = config.position_embedding_type == "relative"
        self.relative_attention_bias = MMRelativeBias(config) if is_relative else None
        self.needs_whole_text = config.needs_whole_text
        self.is_dynamic = self.rotary is not None and self.rotary.rope_type == "dynamic"
        types = config.type_vocab_size
        self.embed_token_types = nn.Embedding(types, width) if types else None
        self.embed_norm = build_norm(config.norm_type if config.embedding_norm else "none", width, eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(self._build_layers())
        local = config.local_attention_layers or []
        self.local = None
        if local:
            from ..core.local_attention import MMLocalAttention  # which few texts have

            self.local = MMLocalAttention(config)
        self.is_local = [number in local for number in range(config.num_hidden_layers)]
        self.is_narrowed = bool(local) and config.is_causal  # local layers take the others' mask, less what is far
        self.needs_plain_mask = self.is_narrowed or is_relative
        self.cross_head_dim = config.cross_stack().head_dim
        self.context_width = config.context_width
        self.norms_pooled_only = config.final_norm == "pooled"
        self.norm = build_norm("none" if config.final_norm == "none" else config.norm_type, width, eps)
        self.pooler = MMPooler(config, config.eos_token_id)
        self.unimodal = None if config.unimodal_layers is None else MMUnimodal(config)
        self.post_init()

    def _build_layers(self) -> list[MMLayer]:
        """Attention sublayers are numbered per kind: the caches of self and cross are dense lists of their own."""
        layers, self_idx, cross_idx = [], 0, 0
        for i in range(self.config.num_hidden_layers):
            sublayers = self.config.sublayers(i)
            layers.append(MMLayer(self.config, sublayers, self_idx, cross_idx))
            if i == 0 and not self.config.first_attention_norm:
                layers[0].self_attn_norm = nn.Identity()
            self_idx += "self" in sublayers
            cross_idx += "cross" in sublayers
        return layers

    def init_parallel_plans(self) -> None:
        """The part of the config's plan that this stack has, as cross-attention, gates and biases are settings. Heads
        that read relative positions are not divided."""
        super().init_parallel_plans()
        there = {re.sub(r"\.\d+\.", ".*.", name) for name, _ in self.named_modules()}
        self._tp_plan = {pattern: kind for pattern, kind in self._tp_plan.items() if pattern in there}
        if self.relative_attention_bias is not None:
            self._tp_plan = {name: kind for name, kind in self._tp_plan.items() if ".self_attn." not in name}

    def pooled_only(self) -> list[nn.Module]:
        pooled: list[nn.Module] = [self.pooler, self.norm] if self.norms_pooled_only else [self.pooler]
        return pooled if self.unimodal is None else [*pooled, self.unimodal]

    def multimodal_only(self) -> list[nn.Module]:
        """The parts that a text without media does not use, where `read_without_media` reads it."""
        return [] if self.unimodal is None else [*self.layers[self.config.unimodal_layers :], self.norm]

    @capture_when_asked
    def read_without_media(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> MMModelOutput:
        """A text (R, T) by only the first `unimodal_layers`: its states (R, T, D), and the token after it (R, D)."""
        length = input_ids.shape[1]
        if position_ids is None:
            position_ids = default_positions(attention_mask, 0, length, input_ids.device)
        text = self.unimodal.close(input_ids, attention_mask, position_ids)
        if token_type_ids is not None:
            token_type_ids = nn.functional.pad(token_type_ids, (0, 1))
        hidden_states = self._embed(self.embed_tokens(text.input_ids), text.position_ids, token_type_ids, False)
        hidden_states = self.unimodal.append(hidden_states)
        call: Any = CallConfig(self.config, kwargs.get("output_attentions"), is_causal=True)
        mask = create_causal_mask(
            config=call, inputs_embeds=hidden_states, attention_mask=text.attention_mask, past_key_values=None
        )
        for layer in self.layers[: self.config.unimodal_layers]:
            hidden_states = layer(hidden_states, attention_mask=mask, is_causal=True, **kwargs)
        return MMModelOutput(
            last_hidden_state=hidden_states[:, :length], pooler_output=self.unimodal.norm(hidden_states[:, -1])
        )

    @capture_when_asked
    @takes()
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        rows: MMRows | None = None,
        context_ranges: torch.Tensor | None = None,
        prefix: MMPrefix | None = None,
        placed: MMPlaced | None = None,
        is_causal: bool | None = None,
        pooled: bool = True,
        **kwargs: Unpack[MMKwargs],
    ) -> MMModelOutput:
        """Runs the stack.

        Args:
            input_ids, token_type_ids, position_ids: int64 (R, T); inputs_embeds: (R, T, D) instead of input_ids. With
                bidirectional_prompt token_type_ids are 0 in the prompt and 1 after it; None: all is prompt, or, where
                a cache holds earlier tokens, all comes after it.
            attention_mask: (R, past + T), 1 = real, or a ready 4-D mask; None: no padding.
            encoder_hidden_states: (B, S, Dc), the context; unread once the cache holds its keys and values.
            encoder_attention_mask: bool (B, S), **real tokens first**; None: all real.
            rows: which row reads which context; None: R = k*B, contiguous.
            context_ranges: int64 (R, n, 2), the half-open range of context tokens that each text column may see, the
                n-th column's also for all after it; unread once the cache holds them. None: all.
            prefix: media tokens (R, S, D) that join the text's sequence, in a call without a cache; with one the cache
                holds their keys and values, once per context (`hold_prefix`).
            placed: media that take the place of placeholders of input_ids.
            is_causal: False lets every token see every other for this call; None: the config's.
            pooled: False leaves pooler_output out (None), where nobody reads it.
        With segment_length a longer text attends in segments, without a cache.
        Returns: last_hidden_state (R, T, D), pooler_output (R, D), past_key_values when use_cache, and with a prefix
            its states (R, S, D) as context_hidden_states. Masks and positions are only of the text.
        """
        reject_unknown(kwargs, MMTextModel.forward)
        has_past, text = past_key_values is not None, (attention_mask, position_ids, token_type_ids)
        check_text(self.config, input_ids, inputs_embeds, *text, has_past=has_past, read_values=False)
        embeds: torch.Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if placed is not None and input_ids is not None:
            embeds = placed.put(input_ids, embeds, attention_mask)
        call = CallConfig(self.config, kwargs.get("output_attentions"), is_causal)
        cache = self._cache(embeds, past_key_values, use_cache, prefix)
        plan = self._plan(call, cache, input_ids, embeds, attention_mask, position_ids, token_type_ids, prefix)
        reading = self._reading(plan, embeds, rows, encoder_hidden_states, encoder_attention_mask, context_ranges)
        hidden_states = self._embed(embeds, plan.position_ids, token_type_ids, plan.cache is not None)
        if prefix is not None:
            hidden_states, plan = join_prefix(self, plan, prefix, hidden_states, attention_mask)
        for layer, is_local in zip(self.layers, self.is_local, strict=True):
            mask, rotary = plan.local if is_local else (plan.mask, plan.rotary)
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                reading,
                mask,
                is_causal=plan.call.is_causal,
                rotary=rotary,
                segments=plan.segments,
                past_key_values=plan.cache,
                implementation=plan.call._attn_implementation,
                **kwargs,
            )
        return self._output(plan, prefix, hidden_states, attention_mask, input_ids, pooled)

    def _cache(
        self, inputs_embeds, past_key_values, use_cache: bool | None, prefix
    ) -> tuple[MMCache | None, int, bool]:
        """The cache of a call, the caller's or a new one, how many tokens it holds, and whether the caller gets it."""
        segment_length = self.config.segment_length
        if use_cache is None:
            use_cache = self.config.use_cache and not (self.training and self.is_activation_checkpointing)
        is_whole = self.needs_whole_text is not None or segment_length is not None or prefix is not None
        use_cache = bool(use_cache) and not is_whole
        if past_key_values is None:
            return MMCache(DynamicCache(config=self.config), DynamicCache()) if use_cache else None, 0, use_cache
        if segment_length is not None:
            raise ValueError(
                f"segment_length={segment_length} carries states from segment to segment and uses no "
                "cache; leave past_key_values out, or set segment_length=None for a decoder"
            )
        if self.needs_whole_text is not None:
            raise ValueError(f"{self.needs_whole_text} reads a whole text, without a cache; leave past_key_values out")
        cache = MMCache.wrap(past_key_values)
        cache.check_rows(inputs_embeds.shape[0])
        return cache, cache.get_seq_length(), use_cache

    def _plan(
        self, call: Any, held, input_ids, inputs_embeds, attention_mask, position_ids, token_type_ids, prefix
    ) -> MMTextPlan:
        """Positions, segments and masks of self-attention; those of a prefix are made with it. A cache learns which
        tokens it holds."""
        (cache, past, is_returned), (num_rows, length) = held, inputs_embeds.shape[:2]
        if cache is not None and not cache.is_compileable and not torch.compiler.is_compiling():
            held_text(cache).add(inputs_embeds if input_ids is None else input_ids, attention_mask, past)
        if position_ids is None:
            position_ids = default_positions(attention_mask, past, length, inputs_embeds.device)
        if cache is not None and self.is_dynamic:
            check_growth(self.config, position_ids, past)
        rotary = None if self.rotary is None else self.rotary(position_ids, inputs_embeds.dtype)
        plan = MMTextPlan(call, position_ids, rotary, cache, cache if is_returned else None, past, attention_mask)
        segment_length = self.config.segment_length
        if segment_length is not None and length > segment_length:
            segments = MMSegments((num_rows, length), segment_length, self.config.memory_length, attention_mask)
            return plan._replace(segments=segments, mask=segments.self_mask(call, inputs_embeds))
        if prefix is not None:
            return plan
        prompt = prompt_blocks(inputs_embeds, token_type_ids, past) if self.config.bidirectional_prompt else None
        plan = plan._replace(mask=self._self_mask(plan, inputs_embeds, prompt))
        if self.local is None:
            return plan
        if self.is_narrowed:
            near = self.local.narrowed(plan.mask, attention_mask, inputs_embeds, cache, prompt)
        else:
            near = self.local.of_whole_text(call, inputs_embeds, attention_mask)
        return plan._replace(local=(near, self.local.turns(position_ids, rotary, inputs_embeds.dtype)))

    def _self_mask(self, plan: MMTextPlan, inputs_embeds, prompt: torch.Tensor | None) -> Any:
        """Who sees whom in self-attention, out of the mask (R, past + T) of padding: a plain tensor after a shared
        prefix, for local layers and for relative positions, else of the implementation's kind."""
        cache, length, mask = plan.cache, inputs_embeds.shape[1], plan.mask
        after_prefix = cache is not None and cache.prefix_length > 0
        if cache is not None and after_prefix:
            mask = cache.own_mask(mask, length)
        grows = cache is None or type(cache.self_attention_cache) is DynamicCache
        if mask is not None or length > 1 or not grows:  # else a single token, which sees itself and all before it
            kind: Any = plan.call.with_prefix() if after_prefix or self.needs_plain_mask else plan.call
            own = {"attention_mask": mask, "block_sequence_ids": prompt, "allow_is_causal_skip": not self.is_narrowed}
            own |= {"past_key_values": None if cache is None else cache.self_attention_cache}
            mask = create_causal_mask(config=kind, inputs_embeds=inputs_embeds, **own)
        if cache is not None and after_prefix:
            mask = cache.prefix_mask(mask, length)
        if self.relative_attention_bias is not None:
            mask = self.relative_attention_bias(plan.call, mask, plan.position_ids)
        return mask

    def _reading(self, plan: MMTextPlan, inputs_embeds, rows: Any, context: Any, context_mask, ranges) -> MMReading:
        """What each row may read of its context: of the cache's, once it holds one, or of that which is given."""
        cache, size = plan.cache, None
        if context is not None and not self.config.cross_attention_layers:
            raise ValueError("encoder_hidden_states was given, but cross_attention_layers names no layer to read it")
        if cache is not None and cache.holds_context:
            if cache.prefix_length:  # self-attention reads it
                return NOTHING
            rows, lengths, ranges = cache.rows, cache.context_lengths, cache.context_ranges
            size = None if lengths is None and ranges is None else cache.context_size
        elif context is None:
            return NOTHING
        else:
            check_tokens(context, context_mask, self.context_width, "encoder_hidden_states")
            rows = MMRows(len(inputs_embeds), len(context)) if rows is None else rows
            lengths, size = None if context_mask is None else context_mask.sum(-1), context.shape[1]
            if cache is not None:
                cache.rows, cache.context_lengths, cache.context_ranges = rows, lengths, ranges
        if lengths is None and ranges is None and plan.call._attn_implementation != MM_TRITON:
            return MMReading(rows)
        return self._narrowed(plan, inputs_embeds, rows, lengths, ranges, size)

    def _narrowed(self, plan: MMTextPlan, inputs_embeds, rows: MMRows, lengths, ranges, size: Any) -> MMReading:
        """The reading of contexts (B, S = `size`) with padding, in ranges, or by the kernels."""
        length = inputs_embeds.shape[1]
        ranges, without_mlp = None if ranges is None else columns_of(ranges, plan.past, length), None
        if ranges is not None and self.config.cross_attention_unread == "mlp":
            without_mlp = ranges[..., :1] >= ranges[..., 1:]
            ranges = torch.where(without_mlp, ranges.new_tensor([0, size]), ranges)
        has_context = None if lengths is None else rows.per_row(lengths > 0)[:, None, None]
        dropout = float(self.config.attention_dropout) if self.training else 0.0
        if plan.call._attn_implementation == MM_TRITON and kernels_run(inputs_embeds, self.cross_head_dim, dropout):
            keys = as_keys(rows, lengths, ranges, length)
            return MMReading(rows, has_context, keys=keys, without_mlp=without_mlp)
        mask = as_mask(plan.call, rows, lengths, ranges, size, inputs_embeds)
        return MMReading(rows, has_context, mask, without_mlp=without_mlp)

    def _embed(self, inputs_embeds, position_ids, token_type_ids, has_cache: bool) -> torch.Tensor:
        hidden_states = inputs_embeds
        if self.embed_positions is not None:
            if self.config.interpolate_positions and not has_cache:
                numbers = torch.arange(self.embed_positions.num_embeddings, device=position_ids.device)
                table = self.embed_positions(numbers)  # called, so that offloading hooks run
                check_positions(position_ids.clamp(max=len(table) - 1), self.config)  # none is negative
                hidden_states = hidden_states + stretched(table, position_ids)
            else:  # states in a cache could not move when the text grows
                check_positions(position_ids, self.config)
                hidden_states = hidden_states + self.embed_positions(position_ids).to(hidden_states.dtype)
        if self.embed_token_types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
            hidden_states = hidden_states + self.embed_token_types(token_type_ids)
        hidden_states = self.embed_norm(hidden_states)
        return self.dropout(hidden_states) if self.training else hidden_states

    def _output(
        self, plan: MMTextPlan, prefix: MMPrefix | None, states: torch.Tensor, attention_mask, input_ids, pooled: bool
    ) -> MMModelOutput:
        """The final norm, the media of a prefix apart from the text, and the text's own vector."""
        states = states if self.norms_pooled_only else self.norm(states)
        media = pooler_output = None
        if prefix is not None:
            media, states = split(states, prefix)
        if pooled:
            mask = None
            if attention_mask is not None and attention_mask.ndim == 2:  # else it is ready made
                mask = attention_mask[:, -states.shape[1] :]
            pooler_output = self.pooler(self.norm(states) if self.norms_pooled_only else states, mask, input_ids)
        return MMModelOutput(
            last_hidden_state=states,
            pooler_output=pooler_output,
            past_key_values=plan.returned,
            context_hidden_states=media,
        )
