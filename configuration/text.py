"""MMTextConfig: the text decoder or encoder."""

import copy
from typing import Any, Literal

from .base import MMStackConfig, checked, nearest
from .groups import CrossAttentionSettings
from .positions import position_faults
from .settings import setting

_ATTENTION_OVERRIDES = ("num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias")
_OWN_OVERRIDES = ("norm_type", "layer_norm_eps", "hidden_act", "gated_mlp", "intermediate_size", "mlp_bias")


@checked
class MMTextConfig(CrossAttentionSettings, MMStackConfig):
    """A text decoder or encoder, with or without cross-attention. The defaults are a causal BERT-base, as in BLIP."""

    model_type = "mm_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values"]
    ignore_keys_at_rope_validation = {"partial_rotary_factor"}
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.cross_attn.q_proj": "colwise",
        "layers.*.cross_attn.k_proj": "colwise",
        "layers.*.cross_attn.v_proj": "colwise",
        "layers.*.cross_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    norm_position: Literal["pre", "post", "both"] = "post"
    embedding_norm: bool = True
    final_norm: Literal["all", "pooled", "none"] = "none"
    pooler: Literal["none", "cls", "cls_tanh", "eos", "highest_id", "last", "before_last", "mean", "attention"] = (
        "last"
    )
    vocab_size: int = setting(30522, "number of tokens", "MMTextModel", values="> 0")
    max_position_embeddings: int = setting(
        512, "longest text in tokens, where positions are learned", "MMTextModel", values="> 0"
    )
    embedding_scale: float | int = setting(
        1.0, "factor of the token embeddings; sqrt(hidden_size) in fairseq's models", "MMTextModel", values="> 0"
    )
    interpolate_positions: bool = setting(
        False, "a text longer than the learned positions stretches them", "MMTextModel"
    )
    rope_parameters: dict | None = setting(
        None, 'Transformers\' {"rope_type": ..., "rope_theta": ...}; None: theta 10000', "MMTextModel"
    )
    relative_attention_num_buckets: int = setting(
        32, "relative positions: for how many ranges of distances a number is learned", "MMTextModel", values="> 0"
    )
    relative_attention_max_distance: int = setting(
        128, "relative positions: in tokens; all that are farther are in one range", "MMTextModel", values="> 0"
    )
    type_vocab_size: int = setting(
        0, "number of token types; 0: token_type_ids other than 0 raise an error", "MMTextModel", values=">= 0"
    )
    is_causal: bool = setting(
        True,
        "a token sees only those before it. Not given: False where fusion_type reads a whole text, and in a text "
        "encoder",
        "MMTextModel",
    )
    bidirectional_prompt: bool = setting(
        False,
        "a prefix language model (PaliGemma): a prompt and the media in it see each other both ways, what is written "
        "after it only what comes before; token_type_ids are 0 in the prompt and 1 after it",
        "MMTextModel",
    )
    use_cache: bool = setting(True, "keys and values are kept between decoding steps", "MMTextModel")
    segment_length: int | None = setting(
        None, "of a text encoder: longer texts attend in segments of so many tokens", "MMTextModel", values="> 0"
    )
    memory_length: int = setting(
        0, "tokens before its own that a segment sees, without gradient (Transformer-XL)", "MMTextModel", values=">= 0"
    )
    local_attention_layers: list[int] | None = setting(
        None,
        "layers that see only the tokens near their own: on both sides in a text that is read whole, without a cache "
        "(ModernBERT), before it in a causal one (Gemma 2 and 3), where all see the media before the text; None: none",
        "MMTextModel",
    )
    local_attention_window: int | None = setting(
        None,
        "how many tokens on either side of its own such a layer sees; in a causal text so many before it",
        "MMTextModel",
        values="> 0",
    )
    local_rope_theta: float | int | None = setting(
        None,
        "rope_theta of such layers, whose angles are then of rope_type 'default'; None: as the other layers",
        "MMTextModel",
        values="> 0",
    )
    attn_logit_softcapping: float | int | None = setting(
        None,
        "scores s of self-attention become cap * tanh(s / cap) (Gemma 2), in eager attention; None: they stay",
        "MMSelfAttention",
        values="> 0",
    )
    first_attention_norm: bool = setting(
        True, "False: the attention of the first layer has no norm before it (ModernBERT)", "MMTextModel"
    )
    unimodal_layers: int | None = setting(
        None, "CoCa: so many first layers read the text without media, with a learned token after it", "MMTextModel"
    )
    unimodal_cls: Literal["text", "shifted"] = setting(
        "text",
        "what that token sees: the text and itself, or what open_clip's weights were trained with",
        "MMTextModel",
    )
    bos_token_id: int | None = setting(101, "id that begins a text", "MMForConditionalGeneration")
    eos_token_id: int | list[int] | None = setting(102, "id that ends a text, or several", "MMTextModel")
    pad_token_id: int | None = setting(0, "id of the padding", "MMForConditionalGeneration")
    source_model_type: str | None = setting(
        None, "what it was converted from, where its tensors do not tell", "texts_of"
    )

    def __post_init__(self, **kwargs: Any):
        given = self.rope_parameters is not None or any(kwargs.get(key) for key in ("rope_theta", "rope_scaling"))
        self.rope_parameters = None if self.rope_parameters is None else dict(self.rope_parameters)
        super().__post_init__(**kwargs)
        if not given and self.position_embedding_type != "rope":
            self.rope_parameters = None  # Transformers fills in a default that nothing reads

    def sublayers(self, layer: int) -> tuple[str, ...]:
        """The residual sublayers of one layer, in order."""
        if layer not in (self.cross_attention_layers or []):
            return ("self", "mlp")
        return ("self", "cross", "mlp") if self.cross_attention_placement == "inside" else ("cross", "mlp")

    def cross_stack(self) -> "MMTextConfig":
        """The settings of cross-attention, and of a layer with only that: these with cross_attention_overrides.

        With another number of heads, head_dim and num_key_value_heads follow from it unless they are named too.
        """
        settings = copy.copy(self)
        changes = dict(self.cross_attention_overrides or {})
        if "num_attention_heads" in changes:
            changes.setdefault("num_key_value_heads", changes["num_attention_heads"])
            changes.setdefault("head_dim", self.hidden_size // changes["num_attention_heads"])
        for name, value in {**changes, "qk_norm": self.cross_attention_qk_norm}.items():
            object.__setattr__(settings, name, value)
        return settings

    def local_stack(self) -> "MMTextConfig":
        """The settings of local_attention_layers: these with the angles of local_rope_theta."""
        settings = copy.copy(self)
        parameters = {"rope_type": "default", "rope_theta": self.local_rope_theta}
        object.__setattr__(settings, "rope_parameters", parameters)
        return settings

    @property
    def needs_whole_text(self) -> str | None:
        """The setting with which a text is read at once: both ways and without a cache; None: there is none."""
        if self.local_attention_layers and not self.is_causal:
            return "local_attention_layers"
        return "position_embedding_type='relative'" if self.position_embedding_type == "relative" else None

    @property
    def unread_id(self) -> int | None:
        """The padding's id, whose vector no text reads; None where it ends texts or CoCa's last token reads it."""
        eos = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        is_read = self.unimodal_cls == "shifted" or self.pad_token_id in (self.bos_token_id, *eos)
        return None if is_read else self.pad_token_id

    @property
    def context_width(self) -> int:
        """Width of the tokens that cross-attention reads."""
        return self.cross_attention_hidden_size or self.hidden_size

    def validate_rope(self) -> None:
        """Nothing: Transformers' check stops at its first problem, so `faults` calls it."""

    def check_rope(self) -> None:
        """Transformers' own check of rope_parameters."""
        super().validate_rope()

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.vocab_size > 0:
            faults += self._token_faults()
        if self.pooler == "eos" and self.eos_token_id in (None, []):
            faults.append("pooler='eos' reads the eos token; set eos_token_id")
        if self.bidirectional_prompt:
            wanted = {"is_causal": True, "type_vocab_size": 0, "segment_length": None, "unimodal_layers": None}
            faults += [
                f"bidirectional_prompt=True needs {name}={value!r}; {name}={getattr(self, name)!r}"
                for name, value in wanted.items()
                if getattr(self, name) != value
            ]
        if self.memory_length > 0 and self.segment_length is None:
            faults.append(f"memory_length={self.memory_length} is for texts in segments; set segment_length")
        faults += position_faults(self) + self._whole_text_faults() + self._local_faults() + self._norm_faults()
        return faults + self._cross_faults() + self._unimodal_faults()

    def _norm_faults(self) -> list[str]:
        """What the first layer needs to go without its norm."""
        if self.first_attention_norm:
            return []
        faults = []
        if self.norm_position != "pre":
            faults.append("first_attention_norm=False leaves out a norm before attention; set norm_position='pre'")
        if "self" not in self.sublayers(0):
            faults.append("first_attention_norm=False, but the first layer has no self-attention")
        return faults

    def _whole_text_faults(self) -> list[str]:
        """What a text that is read at once does not go with."""
        setting, faults = self.needs_whole_text, []
        if setting is None:
            return faults
        if self.is_causal:
            faults.append(
                f"{setting} needs the tokens on both sides, which a decoder has not written yet; set is_causal=False, "
                "as in a text encoder, or in a model that classifies or compares texts"
            )
        if self.segment_length is not None:
            faults.append(f"{setting} does not go with segment_length={self.segment_length}; leave one out")
        return faults

    def _local_faults(self) -> list[str]:
        """What local_attention_layers need of other settings, and these of them."""
        layers = self.local_attention_layers
        if not layers:
            given = [
                name for name in ("local_attention_window", "local_rope_theta") if getattr(self, name) is not None
            ]
            return [f"{name} is for local_attention_layers; name layers there, or leave it out" for name in given]
        faults = []
        wrong = [i for i in layers if not 0 <= i < self.num_hidden_layers or "self" not in self.sublayers(i)]
        if wrong:
            faults.append(
                f"local_attention_layers names {wrong}, which are no layers with self-attention; there are "
                f"{self.num_hidden_layers} layers, counted from 0"
            )
        if len(set(layers)) != len(layers):
            faults.append(f"local_attention_layers={layers} names a layer twice")
        if self.local_attention_window is None:
            faults.append("local_attention_layers see a window of the text; set local_attention_window")
        if self.local_rope_theta is not None and self.position_embedding_type != "rope":
            faults.append("local_rope_theta is of rotary positions; set position_embedding_type='rope'")
        if self.position_embedding_type == "relative":
            faults.append("local_attention_layers do not go with position_embedding_type='relative'; leave one out")
        if self.segment_length is not None and self.is_causal:
            faults.append(f"local_attention_layers do not go with segment_length={self.segment_length}; leave one out")
        return faults

    def _unimodal_faults(self) -> list[str]:
        """What unimodal_layers needs of other settings."""
        count, faults = self.unimodal_layers, []
        if count is None:
            if self.unimodal_cls != "text":
                faults.append(f"unimodal_cls={self.unimodal_cls!r} is only for unimodal_layers; set unimodal_layers")
            return faults
        if not 0 < count < self.num_hidden_layers:
            faults.append(
                f"unimodal_layers={count} must be at least 1 and below num_hidden_layers={self.num_hidden_layers}"
            )
        early = [layer for layer in self.cross_attention_layers or [] if layer < count]
        if early:
            faults.append(
                f"cross_attention_layers names {early}, but the first unimodal_layers={count} layers read no media"
            )
        wanted = {
            "is_causal": True, "position_embedding_type": "absolute", "segment_length": None,
            "local_attention_layers": None,
        }  # fmt: skip
        if self.unimodal_cls == "shifted" and self.pad_token_id is None:
            faults.append("unimodal_cls='shifted' reads a padding token; set pad_token_id")
        return faults + [
            f"{name}={getattr(self, name)!r} does not go with unimodal_layers; set {name}={value!r}"
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]

    def _token_faults(self) -> list[str]:
        eos = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        ids = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        ids += [("eos_token_id", token) for token in eos]
        return [
            f"{name}={token} is outside the vocabulary 0..{self.vocab_size - 1}; set {name} or vocab_size"
            for name, token in ids
            if token is not None and not 0 <= token < self.vocab_size
        ]

    def _cross_faults(self) -> list[str]:
        faults = []
        layers = self.cross_attention_layers or []
        outside = [i for i in layers if not 0 <= i < self.num_hidden_layers]
        if outside:
            faults.append(
                f"cross_attention_layers names {outside}, but num_hidden_layers={self.num_hidden_layers} allows "
                f"0..{self.num_hidden_layers - 1}"
            )
        if len(set(layers)) != len(layers):
            faults.append(f"cross_attention_layers={layers} names a layer twice")
        if self.cross_attention_placement == "own" and len(set(layers)) >= self.num_hidden_layers:
            faults.append(
                "cross_attention_placement='own' makes every listed layer (cross, mlp), and none is left with "
                "self-attention; list fewer cross_attention_layers"
            )
        if self.cross_attention_unread != "row" and self.cross_attention_placement != "own":
            faults.append(
                f"cross_attention_unread={self.cross_attention_unread!r} is for layers of their own; set "
                "cross_attention_placement='own'"
            )
        return faults + self._override_faults()

    def _override_faults(self) -> list[str]:
        """Only some settings may differ, and their values follow the rules of every stack."""
        overrides, where = self.cross_attention_overrides or {}, "cross_attention_overrides"
        accepted = _ATTENTION_OVERRIDES
        if self.cross_attention_placement == "own":
            accepted += _OWN_OVERRIDES
        faults = []
        for key in overrides:
            if key in accepted:
                continue
            if key in _OWN_OVERRIDES:
                faults.append(f"{where}: {key} may differ only with cross_attention_placement='own'")
            else:
                known = f"{nearest(str(key), accepted)}; accepted: {', '.join(accepted)}"
                faults.append(f"{where} has an unknown key {key!r}{known}")
        if overrides and not faults and self.hidden_size > 0:
            faults = [f"{where}: {fault}" for fault in self._overridden_faults(overrides)]
        return faults

    def _overridden_faults(self, overrides: dict) -> list[str]:
        fields = {name: getattr(self, name) for name in _ATTENTION_OVERRIDES + _OWN_OVERRIDES}
        if "num_attention_heads" in overrides:
            fields["num_key_value_heads"] = fields["head_dim"] = None
        try:
            _MMCrossConfig(**{**fields, **overrides, "hidden_size": self.hidden_size})
        except TypeError as error:
            return [str(error)]
        except ValueError as error:
            mine = super().faults()  # reported already
            return [fault for fault in getattr(error, "faults", [str(error)]) if fault not in mine]
        return []


@checked
class _MMCrossConfig(MMStackConfig):
    """A stack with the overrides, to check them by the rules of every stack."""
