"""MMConfig: how the towers, the text stacks, the fusion and the head of one model fit together."""

from typing import Any, Literal

from transformers.configuration_utils import SubConfigSpec

from .base import ConfigFaults, MMBaseConfig, checked, nearest
from .checks.fields import config_faults, own_faults
from .checks.tasks import (
    classification_faults,
    generation_faults,
    masked_lm_faults,
    pretraining_faults,
    retrieval_faults,
)
from .presets import PRESETS, preset_fields
from .resampler import MMResamplerConfig
from .text import MMTextConfig
from .towers import VISION_CONFIGS, TowerSpec, tower_width


class TextEncoderSpec(SubConfigSpec):
    """An encoder sees both ways unless it is told not to."""

    def create_subconfig(self, key: str, subconfig: Any = None, **kwargs):
        if isinstance(subconfig, dict):
            subconfig = {"is_causal": False, **subconfig}
        return super().create_subconfig(key, subconfig, **kwargs)


@checked
class MMConfig(MMBaseConfig):
    """One multimodal model: media towers, projectors, perhaps a text encoder, a fusion, a text decoder and its head.

    The defaults are mm-base (224.3 M parameters): ViT-B/16 at 224 pixels, a linear projector, and 12 post-norm layers
    (self, cross, mlp) with BERT's vocabulary and its tied, biased head. `MMConfig.preset(name)` gives other sizes.

    Two words of the rules: the **reader** is the text stack that media are joined with, the text encoder if there is
    one, else the decoder; the **memory** is what the decoder's cross-attention reads.
    """

    model_type = "mm"
    base_model_fsdp_plan = {}  # the towers and text stacks bring theirs; the rest is one group
    sub_configs_defaults = {
        "vision_config": TowerSpec(VISION_CONFIGS, "mm_vision", example="siglip_vision_model"),
        "audio_config": TowerSpec({}, None, example="audio-spectrogram-transformer"),
        "text_config": SubConfigSpec(MMTextConfig),
        "text_encoder_config": TextEncoderSpec(MMTextConfig, optional=True),
        "vision_resampler_config": SubConfigSpec(MMResamplerConfig, optional=True),
        "audio_resampler_config": SubConfigSpec(MMResamplerConfig, optional=True),
    }
    keys_to_ignore_at_inference = [
        "past_key_values", "hidden_states", "attentions", "cross_attentions", "context_hidden_states",
        "context_attention_mask", "modality_embeds", "modality_logits", "fusion_weights", "loss_itc", "loss_itm",
        "loss_lm", "loss_mlm", "loss_mim", "logits_per_image", "logits_per_text",
    ]  # fmt: skip

    # What there is to look at. None: ["image"]; media of other kinds are refused by name.
    modalities: list[str] | None = None
    vision_config: Any = None  # MMVisionConfig, MMConvConfig, any Transformers vision config, or a dict of one
    audio_config: Any = None  # any Transformers audio config, or a dict that names its model_type
    vision_resampler_config: Any = None  # MMResamplerConfig or a dict, between tower and projector
    audio_resampler_config: Any = None
    vision_feature_layer: int = -1  # which hidden state of the vision tower is read; -1: its last_hidden_state
    vision_feature_select_strategy: Literal["full", "default"] = "full"  # "default" drops the first token
    max_images: int = 0  # a learned vector per picture number; 0: the pictures of a context have no order
    max_frames: int = 0  # per frame number of a video
    max_clips: int = 0  # per number of an audio clip
    video_pooling: Literal["none", "space", "time"] = "none"  # F*S tokens of a video become F, or S
    modality_embeddings: bool = False  # one learned vector per modality, added behind the projector
    projector_type: Literal["linear", "none", "linear_norm", "mlp"] = "linear"  # tower width -> media_width
    projector_norm_eps: float = 1e-5

    # The text, and how media join it.
    text_config: Any = None  # the decoder: MMTextConfig or a dict
    text_encoder_config: Any = None  # MMTextConfig or a dict, is_causal=False unless it says otherwise
    share_text_encoder: bool = False  # the decoder's weights are the text encoder too, seeing both ways (as in BLIP)
    fusion_type: Literal["cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision"] = (
        "cross_attention"
    )
    fusion_num_layers: int = 2  # co_attention
    fusion_size: int | None = None  # concat, sum, gated: width of the fused vector; None: the reader's
    fusion_mask: Literal["prefix", "causal", "bidirectional"] = "prefix"  # merged: who sees whom
    fusion_order: Literal["media_first", "text_first"] = "media_first"  # merged
    fusion_embedding_norm: bool = False  # merged: the text's embedding norm over the media tokens too (VisualBERT)
    fusion_weights: dict[str, float] | None = None  # decision: fixed, of "text" and the modalities; None: learned

    # Heads.
    lm_head_transform: bool = True  # BERT's head: dense, activation, norm before the vocabulary
    lm_head_act: str | None = None  # of the transform; None: text_config.hidden_act
    lm_head_bias: bool = True
    tie_word_embeddings: bool = True
    label_smoothing: float | int = 0.0
    classifier_dropout: float | int | None = None  # None: none
    classification_loss: Literal["auto", "bce", "kl", "mse", "ordinal"] = "auto"
    projection_dim: int = 256  # width of the embeddings that are compared
    projection_bias: bool = False
    projected_sides: list[str] | None = None  # of "text", "vision", "audio"; others are compared as pooled; None: all
    logit_scale_init_value: float | int = 2.6592  # log of the scale of their similarities; it is learned,
    logit_scale_max: float | int | None = 4.6052  # up to here; None: without bound (SigLIP)
    logit_bias_init_value: float | int | None = None  # sigmoid: a learned number beside the scale; None: none
    contrastive_loss: Literal["infonce", "sigmoid"] = "infonce"
    contrastive_exchange: Literal["gather", "ring"] = (
        "gather"  # sigmoid: all texts at once, or one process's at a time
    )
    contrastive_queue_size: int = 0  # retrieval: negatives of earlier batches, by a slow copy (MoCo, ALBEF); 0: none
    contrastive_momentum: float | int = 0.995  # of the slow copy: it keeps that share of itself in every step
    contrastive_soft_targets: float | int = 0.0  # the share of the slow copy's own similarities in the targets
    contrastive_chunk_size: int | None = None  # retrieval: media and texts encoded at a time (GradCache); None: all
    pretraining_losses: dict[str, float | int] | None = None  # weights by name; None: itc, itm and lm, 1.0 each
    itm_bos_token_id: int | None = None  # opens a text that is matched with a picture (BLIP's [ENC]); None: its own
    mim_target: Literal["pixels", "features"] = "pixels"  # of masked patches: "features" are another tower's
    mim_momentum: float | int = 1.0  # that tower follows the model's own by so much; 1: it stays as it is
    # NaN pixels and ids outside the vocabulary raise, broken logits are said (never inside compile and export)
    check_inputs: bool = True
    initializer_range: float = 0.02
    converted_from: dict | None = None  # settings of a converted source that nothing here reads, for the way back

    def __post_init__(self, **kwargs: Any):
        if self.modalities is None:
            self.modalities = ["image"]
        if self.pretraining_losses is None:
            self.pretraining_losses = {"itc": 1.0, "itm": 1.0, "lm": 1.0}
        if self.vision_config is None and {"image", "video"} & set(self.modalities):
            self.vision_config = {}
        self._build_sub_configs()
        for text, crosses in ((self.text_config, self.decoder_crosses), (self.text_encoder_config, self.media_cross)):
            if isinstance(text, MMTextConfig) and text.cross_attention_layers is None:
                text.cross_attention_layers = list(range(text.num_hidden_layers)) if crosses else []
        super().__post_init__(**kwargs)

    def _build_sub_configs(self) -> None:
        """Builds every sub-config here, so that the faults of all of them come in one error."""
        faults = []
        for key, spec in type(self).sub_configs_defaults.items():
            value = getattr(self, key)
            if value is None and spec.optional:
                continue
            try:
                setattr(self, key, spec.create_subconfig(key, value)[0])
            except ConfigFaults as error:
                faults += [f"{key}: {fault}" for fault in error.faults]
            except (ValueError, TypeError) as error:
                faults.append(f"{key}: {error}")
        if faults:
            raise ConfigFaults(type(self).__name__, own_faults(self) + faults)

    @classmethod
    def preset(cls, name: str, *, tokenizer: Any = None, **overrides) -> "MMConfig":
        """The configuration of a named size.

        Args:
            tokenizer: the text has its number of tokens and its ids of bos (or cls), eos (or sep) and padding, unless
                an override names them.
            overrides: replace top-level fields; dicts of parts are merged, or stand alone if of another model_type.
                What then has one choice follows: a fusion that reads a text at once makes it see both ways, a text
                encoder is built like the decoder, and the decoder reads what is as wide as that.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; accepted: {', '.join(PRESETS)}")
        specs = cls.sub_configs_defaults

        def tower(side: str, given: Any) -> Any:
            return specs[f"{side}_config"].create_subconfig(f"{side}_config", given)[0]

        return cls(**preset_fields(name, tokenizer, overrides, tower))

    @property
    def decoder_fusion(self) -> str:
        """How the decoder is joined with what it reads: a text encoder's states, or the media."""
        return "cross_attention" if self.has_text_encoder else self.fusion_type

    @property
    def has_text_encoder(self) -> bool:
        """Whether context text is read by an encoder, of its own or with the decoder's weights."""
        return self.share_text_encoder or self.text_encoder_config is not None

    @property
    def reader(self) -> MMTextConfig:
        """The text stack that media are joined with."""
        return self.text_encoder_config if self.text_encoder_config is not None else self.text_config

    @property
    def media_cross(self) -> bool:
        """Whether the reader looks at media by cross-attention."""
        return self.fusion_type == "cross_attention"

    @property
    def decoder_crosses(self) -> bool:
        """Whether the decoder has a memory to cross-attend to."""
        return self.has_text_encoder or self.media_cross

    @property
    def vision_size(self) -> int:
        """Width of the vision tower's tokens."""
        return tower_width(self.vision_config)

    @property
    def audio_size(self) -> int:
        """Width of the audio tower's tokens."""
        return tower_width(self.audio_config)

    @property
    def media_width(self) -> int:
        """Width that the projectors give: what the reader's cross-attention, or the reader itself, takes in.

        Under "decision" no reader takes media in, so without projectors it is the tower's.
        """
        if self.fusion_type == "decision" and self.projector_type == "none":
            return self.audio_size if self.vision_config is None else self.vision_size
        return self.reader.memory_size if self.media_cross else self.reader.hidden_size

    @property
    def pooled_widths(self) -> dict[str, int]:
        """Width of the one vector of each side that is compared: a resampler's own, or the tower's; the reader's."""
        widths = {"text": self.reader.hidden_size}
        for side in ("vision", "audio"):
            tower, resampler = getattr(self, f"{side}_config"), getattr(self, f"{side}_resampler_config")
            if resampler is not None and resampler.first_latent_pooled:
                widths[side] = resampler.hidden_size
            elif tower is not None:
                widths[side] = tower_width(tower)
        return widths

    @property
    def fusion_width(self) -> int:
        """Width of the vector that concat, sum and gated make."""
        return self.fusion_size or self.reader.hidden_size

    @property
    def context_width(self) -> int:
        """Width of the context: fused text where a text encoder reads it, else the projected media."""
        if not self.has_text_encoder:
            return self.media_width
        return self.fusion_width if self.fusion_type in ("concat", "sum", "gated") else self.reader.hidden_size

    @property
    def pad_token_id(self) -> int | None:
        """The decoder's, where Trainer looks for it."""
        return getattr(self.text_config, "pad_token_id", None)

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.text_config.pad_token_id = value

    def faults(self) -> list[str]:
        return config_faults(self)

    def generation_faults(self) -> list[str]:
        """What keeps this model from writing text, though it is a sound configuration for other heads."""
        return generation_faults(self)

    def classification_faults(self) -> list[str]:
        """What keeps this model from classifying."""
        return classification_faults(self)

    def masked_lm_faults(self) -> list[str]:
        """What keeps this model from filling in masked tokens."""
        return masked_lm_faults(self)

    def retrieval_faults(self) -> list[str]:
        """What keeps this model from comparing pictures and texts."""
        return retrieval_faults(self)

    def pretraining_faults(self) -> list[str]:
        """What keeps this model from its `pretraining_losses`."""
        return pretraining_faults(self)
