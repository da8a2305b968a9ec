"""MMConfig: the towers, the texts, the fusion and the head of one model."""

import math
from typing import Any, Literal

from transformers.configuration_utils import SubConfigSpec

from .base import ConfigFaults, MMBaseConfig, checked, nearest
from .checks.fields import config_faults, own_faults
from .completion import completed
from .groups import DrawingSettings, FusionSettings, ObjectiveSettings, default_losses
from .presets import PRESETS, preset_fields
from .resampler import MMResamplerConfig
from .settings import setting, settings_of
from .text import MMTextConfig
from .towers import VISION_CONFIGS, TowerSpec, tower_width
from .vision import MMVisionConfig


@checked
class MMConfig(DrawingSettings, ObjectiveSettings, FusionSettings, MMBaseConfig):
    """A multimodal model: media towers, projectors, a fusion, a text decoder with its head, and maybe a text encoder.

    The defaults are mm-base (224.3 M parameters): ViT-B/16 at 224 pixels, a linear projector, and 12 post-norm layers
    (self, cross, mlp) with BERT's vocabulary and its tied, biased head. `MMConfig.preset(name)` gives other sizes.

    Only `fusion_type` chooses how media and text are joined. Where text_config is a dict, or not given, what
    has only one choice is filled in unless it is named: is_causal=False for a fusion that reads the whole text, and
    the widths by which one part reads another.
    """

    model_type = "mm"
    base_model_fsdp_plan = {}  # the towers and text stacks bring theirs; the rest is one group
    sub_configs_defaults = {
        "vision_config": TowerSpec(VISION_CONFIGS, "mm_vision", example="siglip_vision_model"),
        "audio_config": TowerSpec({}, None, example="audio-spectrogram-transformer"),
        "vision_resampler_config": SubConfigSpec(MMResamplerConfig, optional=True),
        "audio_resampler_config": SubConfigSpec(MMResamplerConfig, optional=True),
        "text_encoder_config": SubConfigSpec(MMTextConfig, optional=True),
        "text_config": SubConfigSpec(MMTextConfig),
    }  # in the order in which they are built: what follows from one is filled into the next
    keys_to_ignore_at_inference = [
        "past_key_values", "hidden_states", "attentions", "cross_attentions", "context_hidden_states",
        "context_attention_mask", "modality_embeds", "modality_logits", "fusion_weights", "loss_itc", "loss_itm",
        "loss_lm", "loss_mlm", "loss_mim", "logits_per_image", "logits_per_text",
    ]  # fmt: skip

    # What there is to look at.
    modalities: list[str] | None = setting(
        None,
        'any of "image", "video", "audio"; media of other kinds raise an error; []: a model of texts, with a text '
        'encoder; None: ["image"]',
        "MMModel",
    )
    vision_config: Any = setting(
        None,
        "of MMVisionConfig, MMConvConfig or a vision tower of Transformers; None: a ViT where modalities need one",
        "MMModel",
    )
    audio_config: Any = setting(None, "of an audio tower of Transformers; a dict names its model_type", "MMModel")
    vision_resampler_config: Any = setting(
        None, "of MMResamplerConfig, between tower and projector; None: no resampler", "MMModel"
    )
    audio_resampler_config: Any = setting(None, "as vision_resampler_config", "MMModel")
    vision_feature_layer: int = setting(
        -1, "which hidden state of the vision tower is read; -1: its last_hidden_state", "MMModel"
    )
    vision_feature_select_strategy: Literal["full", "default"] = setting(
        "full", "default drops the first token", "MMModel"
    )
    max_images: int = setting(
        0, "size of the table of picture numbers; 0: the pictures of a context have no order", "MMModel", values=">= 0"
    )
    max_frames: int = setting(0, "the same for the frames of a video", "MMModel", values=">= 0")
    temporal_layers: int = setting(
        0,
        "layers of self-attention, as vision_config's, over the tokens of all frames of a video, after the frame "
        "numbers; 0: only the text, or a resampler, reads several frames",
        "MMModel",
        values=">= 0",
    )
    max_clips: int = setting(0, "the same for sounds", "MMModel", values=">= 0")
    video_pooling: Literal["none", "space", "time"] = setting(
        "none", "the F*S tokens of a video become F (mean over space), or S (over time)", "MMModel"
    )
    modality_embeddings: bool = setting(False, "a learned vector per modality is added after the projector", "MMModel")
    projector_type: Literal["linear", "none", "linear_norm", "mlp"] = setting(
        "linear", "from the tower's width to the width that the text reads", "MMModel"
    )
    projector_norm_eps: float = setting(1e-5, "of linear_norm", "MMModel", values="> 0")
    projector_bias: bool = setting(True, "the projector's linear layers have biases", "MMModel")
    pixel_shuffle: int = setting(
        1,
        "sides of the squares of patches that become one token, side by side in its width, before the projector; 1: "
        "none (Idefics3, SmolVLM)",
        "MMModel",
        values="> 0",
    )
    image_newline: bool = setting(
        False,
        "the pictures of a context are tiles: image_grids says how they stand, and a learned vector ends each row of "
        "their tokens (LLaVA-NeXT)",
        "MMModel",
    )

    # The text, and how media join it.
    text_config: Any = setting(None, "of MMTextConfig: the decoder", "MMModel")
    text_encoder_config: Any = setting(
        None, "of MMTextConfig: reads a context text; is_causal=False if not given; None: no text encoder", "MMModel"
    )
    share_text_encoder: bool = setting(
        False,
        "the decoder's weights read the context text too, without a causal mask (as in BLIP); without context text "
        "the decoder reads the media themselves, under cross_attention",
        "MMModel",
    )

    # Heads.
    lm_head_transform: bool = setting(
        True,
        "BERT's head: a linear layer, activation and norm before the vocabulary",
        "MMForConditionalGeneration, MMForMaskedLM",
    )
    lm_head_act: str | None = setting(
        None,
        "activation of that transform; None: text_config.hidden_act",
        "MMForConditionalGeneration, MMForMaskedLM",
        values="a name of transformers.activations.ACT2FN",
    )
    lm_head_bias: bool = setting(
        True, "the layer over the vocabulary has a bias", "MMForConditionalGeneration, MMForMaskedLM"
    )
    final_logit_softcapping: float | int | None = setting(
        None,
        "logits z become cap * tanh(z / cap) (Gemma 2); None: they stay",
        "MMForConditionalGeneration, MMForMaskedLM",
        values="> 0",
    )
    unwritten_tokens: int = setting(
        0,
        "so many last ids of the vocabulary are read and never written: the layer over the vocabulary has no rows for "
        "them (Llama 3.2 Vision)",
        "MMForConditionalGeneration, MMForMaskedLM",
        values=">= 0",
    )
    tie_word_embeddings: bool = setting(
        True, "the layer over the vocabulary has the weights of the token embeddings", "PreTrainedModel"
    )
    label_smoothing: float | int = setting(
        0.0, "of losses over tokens", "MMForConditionalGeneration, MMForMaskedLM, MMForPreTraining", values="in [0, 1)"
    )
    classifier_dropout: float | int | None = setting(
        None, "dropout before the classifier; None: none", "MMForSequenceClassification", values="in [0, 1)"
    )
    check_inputs: bool = setting(
        True, "NaN pixels and ids outside of the vocabulary raise an error (not in compile or export)", "MMModel"
    )
    initializer_range: float = setting(
        0.02, "standard deviation of the initial weights", "MMPreTrainedModel", values="> 0"
    )
    converted_from: dict | None = setting(
        None, "what mm.convert read of a source and MM does not use, for the way back", "convert"
    )

    def __post_init__(self, **kwargs: Any):
        if self.modalities is None:
            self.modalities = ["image"]
        if self.vision_config is None and {"image", "video"} & set(self.modalities):
            self.vision_config = {}
        if self.fusion_type == "none" and self.projector_type == "linear":
            self.projector_type = "none"
        if self.pretraining_losses is None:
            self.pretraining_losses = default_losses(self.fusion_type)
        self._build_sub_configs()
        for text, crosses in ((self.text_config, self.decoder_crosses), (self.text_encoder_config, self.media_cross)):
            if isinstance(text, MMTextConfig) and text.cross_attention_layers is None:
                text.cross_attention_layers = list(range(text.num_hidden_layers)) if crosses else []
        if self.fusion_mask is None:
            is_causal = not self.has_text_encoder and getattr(self.text_config, "is_causal", True)
            self.fusion_mask = "prefix" if is_causal or self.fusion_type != "merged" else "bidirectional"
            self.fusion_mask = "causal" if self.media_in_text else self.fusion_mask
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """As in Transformers (and so in config.json); of the groups of settings only what is not the default.

        Each is saved under its own name (`fusion_mask`), as in files of earlier versions.
        """
        defaults = {name: one.default for name, one in settings_of(type(self)).items() if one.group}
        defaults |= {"fusion_mask": "prefix", "pretraining_losses": default_losses(self.fusion_type)}
        del defaults["fusion_type"]
        saved = super().to_diff_dict()
        return {name: value for name, value in saved.items() if name not in defaults or value != defaults[name]}

    def _build_sub_configs(self) -> None:
        """Builds every sub-config here, so that one error has the problems of all of them."""
        faults = []
        for key, spec in type(self).sub_configs_defaults.items():
            value = getattr(self, key)
            if value is None and spec.optional:
                continue
            try:
                setattr(self, key, spec.create_subconfig(key, completed(self, key, value))[0])
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
            tokenizer: gives the text its vocab_size and the ids of bos (or cls), eos (or sep) and padding, unless an
                override names them.
            overrides: replace fields. The dict of a sub-config is merged with the preset's, unless its model_type is
                another. A text encoder has the sizes of the decoder where the override does not name them.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; accepted: {', '.join(PRESETS)}")
        return cls(**preset_fields(name, tokenizer, cls.flat(overrides)))

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
    def decoder_sees_media(self) -> bool:
        """Whether the decoder can read media themselves, without a context text; a text encoder of its own shows it
        only what it makes of both."""
        return not self.has_text_encoder or (self.share_text_encoder and self.media_cross)

    @property
    def media_cross(self) -> bool:
        """Whether the reader looks at media by cross-attention."""
        return self.fusion_type == "cross_attention"

    @property
    def media_in_text(self) -> bool:
        """Whether media stand inside the decoder's text, in the place of their placeholders."""
        return self.fusion_type == "merged" and self.fusion_order == "in_text"

    @property
    def tokens_per_image(self) -> int | None:
        """How many tokens a context has of a picture, of a ViT of MM or a resampler; None: other towers', and where
        that follows from the size of the picture (image_newline)."""
        if self.image_newline or self.tokens_per_tile is None:
            return None
        return self.tokens_per_tile * max(self.max_tiles, 1)

    @property
    def max_tiles(self) -> int:
        """How many tiles of a picture the vision tower reads together; 0: it reads each picture by itself."""
        return self.vision_config.max_tiles if isinstance(self.vision_config, MMVisionConfig) else 0

    @property
    def tokens_per_tile(self) -> int | None:
        """The same of one tile."""
        if self.vision_resampler_config is not None:
            return self.vision_resampler_config.num_latents
        if not isinstance(self.vision_config, MMVisionConfig):
            return None
        rows, columns = self.vision_config.patch_grid
        first = int(self.vision_config.use_cls_token) + self.vision_config.num_register_tokens
        first -= self.vision_feature_select_strategy == "default"
        return rows * columns // self.pixel_shuffle**2 + first

    @property
    def written_tokens(self) -> int:
        """How many ids of the vocabulary can be written: the outputs of the layer over it."""
        return self.text_config.vocab_size - self.unwritten_tokens

    @property
    def placeholder_ids(self) -> dict[str, int | None]:
        """{kind: the id that stands in a text for each token of it}."""
        return {"image": self.image_token_id, "video": self.video_token_id, "audio": self.audio_token_id}

    @property
    def draws(self) -> bool:
        """Whether the vocabulary holds codes of pictures."""
        return self.drawing_first_id is not None

    @property
    def codes_per_picture(self) -> int:
        """How many codes a drawn picture has; 0 where none are drawn."""
        return math.prod(self.drawing_grid) if self.drawing_grid is not None else 0

    @property
    def decoder_crosses(self) -> bool:
        """Whether the decoder has a context for its cross-attention."""
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
    def max_source_positions(self) -> int:
        """Moments of the window that Whisper's encoder hears, where pipelines look for it."""
        return self.audio_config.max_source_positions

    @property
    def media_width(self) -> int:
        """Width that the projectors give: what the reader's cross-attention, or the reader itself, takes in.

        Where the text does not take media in ("decision", "none"), it is the tower's if there are no projectors.
        """
        if self.fusion_type in ("decision", "none") and self.projector_type == "none":
            return self.audio_size if self.vision_config is None else self.vision_size
        return self.reader.context_width if self.media_cross else self.reader.hidden_size

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
