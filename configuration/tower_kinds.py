"""Which models of Transformers are towers, by model_type; tests/modeling_mm/towers/test_tower_kinds.py runs each."""

from typing import Any

# Pictures (n, C, H, W) to tokens (n, S, D) or a map (n, D, h, w).
VISION_KINDS = (
    "aimv2_vision_model", "align_vision_model", "beit", "bit", "chinese_clip_vision_model", "clip_vision_model",
    "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "dinov3_convnext",
    "dinov3_vit", "donut-swin", "dpt", "efficientnet", "focalnet", "glpn", "hiera", "ijepa", "internvl_vision",
    "levit", "maskformer-swin", "mlcd", "mlcd_vision_model", "mobilenet_v1", "mobilenet_v2", "mobilevit",
    "mobilevitv2", "pixio", "poolformer", "pvt", "pvt_v2", "qianfan_ocr_vision", "radio", "regnet", "resnet",
    "segformer", "siglip_vision_model", "swiftformer", "swin", "swin2sr", "swinv2", "textnet", "timm_wrapper",
    "tipsv2_vision_model", "vit", "vit_mae", "vit_msn", "vitdet", "yolos",
)  # fmt: skip
# Their configs do not say the width of the tokens.
MEASURED_WIDTH = (
    "align_vision_model", "bit", "cvt", "efficientnet", "focalnet", "glpn", "hiera", "levit", "maskformer-swin",
    "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "pvt", "pvt_v2", "segformer", "swiftformer", "swin2sr",
    "textnet", "timm_wrapper",
)  # fmt: skip

# Sounds of one length, (n, ...): a window, padded with silence that the tower hears.
WINDOW_KINDS = ("audio-spectrogram-transformer", "clap_audio_model", "whisper")
# Sounds of any length: (n, samples), or (n, frames, bands).
LENGTH_KINDS = (
    "data2vec-audio", "hubert", "lasr_encoder", "moonshine", "parakeet_encoder", "sew", "sew-d", "speech_to_text",
    "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer", "wavlm",
)  # fmt: skip
# Of these a row does not depend on what its mask hides, if feat_extract_norm="layer".
MASKED_KINDS = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")

# Towers that AutoModel does not know without their other half, by their class.
NOT_IN_AUTO = {"align_vision_model": "AlignVisionModel", "clap_audio_model": "ClapAudioModel"}
# Their image_size is read nowhere, and published files say another than that of their pictures.
ANY_SIZE = ("align_vision_model",)

# Frames of so many numbers, by the config's first of these; towers of LENGTH_KINDS without one hear samples.
FRAME_WIDTHS = ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins")


TOWER_KINDS = {"vision": VISION_KINDS, "audio": WINDOW_KINDS + LENGTH_KINDS}

_FILMS = "a tower of whole videos; MM encodes the frames of a video one by one, so use a tower of pictures"
# (model types, what they are): likely mistakes.
NO_TOWERS = (
    (
        ("pe_video_encoder", "timesformer", "videomae", "videoprism", "videoprism_vision_model", "vivit", "vjepa2"),
        _FILMS,
    ),
    (
        (
            "dac", "encodec", "higgs_audio_v2_tokenizer", "mimi", "mimi_encoder", "neucodec", "snac", "univnet",
            "vibevoice_acoustic_tokenizer", "xcodec", "xcodec2",
        ),
        "an audio codec, which gives codes and no states",
    ),
    (("clap", "align"), "a model of two towers"),
    (
        ("siglip2_vision_model",),
        "a tower of patches of many sizes; mm convert and from_towers make it MM's own ViT",
    ),
    (
        ("qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision", "glm4v_vision", "pixtral"),
        "a tower of patches of many sizes, which needs their shapes as well as the pixels",
    ),
    (
        ("detr", "conditional_detr", "deformable_detr", "rt_detr", "sam_vision_model", "sam2_vision_model", "seggpt"),
        "made to detect or segment objects, and gives no tokens of its width",
    ),
)  # fmt: skip


def heard_shape(config: Any) -> tuple[Any, ...]:
    """One sound as the audio tower of a config takes it: numbers, tuples of numbers that are all right, and names of
    sizes that may be any; () of raw samples, and of None."""
    kind = getattr(config, "model_type", None)
    if kind == "whisper":
        return config.num_mel_bins, "frames"
    if kind == "clap_audio_model":  # with fusion, a sound and three parts of it
        return (1, 4) if config.enable_fusion else 1, "frames", config.num_mel_bins
    for name in FRAME_WIDTHS:
        if hasattr(config, name):
            return "frames", getattr(config, name) * getattr(config, "input_channels", 1)
    return ()
