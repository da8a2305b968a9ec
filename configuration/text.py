"""MMTextConfig: the text decoder or encoder."""

from typing import Literal

from .stack import MMStackConfig, checked, positive


@checked
class MMTextConfig(MMStackConfig):
    """A text stack with cross-attention. The defaults are BERT-base's, called as a causal decoder (as in BLIP)."""

    model_type = "mm_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values"]

    norm_position: Literal["pre", "post"] = "post"
    embedding_norm: bool = True
    final_norm: Literal["all", "pooled", "none"] = "none"
    pooler: Literal["none", "cls", "cls_tanh", "eos", "last", "mean"] = "last"
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 0  # 0: token_type_ids are ignored
    is_causal: bool = True
    use_cache: bool = True
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    pad_token_id: int | None = 0

    cross_attention_layers: list[int] | None = None  # None: MMConfig fills in every layer; standalone: no layer
    cross_attention_placement: Literal["inside", "own"] = "inside"  # (self, cross, mlp) or a layer (cross, mlp)
    cross_attention_hidden_size: int | None = None  # width of the memory; None: hidden_size
    cross_attention_gate: Literal["none", "tanh", "tanh_vector"] = "none"  # starts at 0; own layers gate their mlp too
    cross_attention_memory_norm: bool = False
    cross_attention_qk_norm: Literal["none", "rms_norm", "layer_norm"] = "none"

    def sublayers(self, layer: int) -> tuple[str, ...]:
        """The residual sublayers of one layer, in order: the only reader of the placement settings."""
        if layer not in (self.cross_attention_layers or []):
            return ("self", "mlp")
        return ("self", "cross", "mlp") if self.cross_attention_placement == "inside" else ("cross", "mlp")

    @property
    def memory_size(self) -> int:
        """Width of the context tokens that the cross-attention reads."""
        return self.cross_attention_hidden_size or self.hidden_size

    def faults(self) -> list[str]:
        faults = super().faults()
        faults += positive(self, "vocab_size", "max_position_embeddings", "cross_attention_hidden_size")
        if self.vocab_size > 0:
            faults += self._token_faults()
        if self.pooler == "eos" and self.eos_token_id in (None, []):
            faults.append("pooler='eos' reads the eos token, but there is none; set eos_token_id")
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
                "cross_attention_placement='own' turns every listed layer into (cross, mlp) and leaves none with "
                "self-attention; list fewer cross_attention_layers"
            )
        if self.type_vocab_size < 0:
            faults.append(f"type_vocab_size={self.type_vocab_size} must not be negative")
        return faults

    def _token_faults(self) -> list[str]:
        eos = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        ids = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        ids += [("eos_token_id", token) for token in eos]
        return [
            f"{name}={token} is outside the vocabulary 0..{self.vocab_size - 1}; set {name} or vocab_size"
            for name, token in ids
            if token is not None and not 0 <= token < self.vocab_size
        ]
