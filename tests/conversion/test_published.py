"""The settings of published checkpoints, their widths and depths made small: every family converts them."""

# Plain dictionaries of a config.json.

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, BertConfig, BertForMaskedLM, ViTConfig, ViTModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mm import MMForConditionalGeneration
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.family import Texts
from mm.conversion_scripts.processor import image_processor_of
from mm.conversion_scripts.verify import examples, verify
from mm.weights.checkpoint import Checkpoint

STACK = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WIDE = {**STACK, "hidden_size": 32}
VIT = {
    **STACK, "model_type": "vit", "image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-12, "qkv_bias": False,
    "hidden_act": "gelu", "encoder_stride": 16,
}  # fmt: skip
TROCR = {
    "model_type": "trocr", "vocab_size": 40, "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24, "activation_function": "gelu", "max_position_embeddings": 20, "dropout": 0.1,
    "use_cache": False, "scale_embedding": False, "use_learned_position_embeddings": True, "layernorm_embedding": True,
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "is_decoder": True,
    "cross_attention_hidden_size": 24, "add_cross_attention": True,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 40, "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 20, "n_ctx": 20,
    "n_inner": None, "bos_token_id": 39, "eos_token_id": 39, "pad_token_id": 39, "decoder_start_token_id": 39,
    "add_cross_attention": True, "is_decoder": True, "task_specific_params": {"text-generation": {"max_length": 50}},
}  # fmt: skip
BLIP_TEXT = {
    **STACK, "model_type": "blip_text_model", "vocab_size": 40, "bos_token_id": 38, "eos_token_id": 2,
    "sep_token_id": 32, "pad_token_id": 0, "is_decoder": True, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 20,
}  # fmt: skip
CLIP_VISION = {**STACK, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "projection_dim": 16}
CLIP_TEXT = {
    **STACK, "model_type": "clip_text_model", "vocab_size": 40, "max_position_embeddings": 20, "projection_dim": 16,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
BERT = {**STACK, "vocab_size": 40, "max_position_embeddings": 20, "pad_token_id": 0}
XLM_ROBERTA = {
    **BERT, "model_type": "xlm-roberta", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "type_vocab_size": 1,
    "max_position_embeddings": 22, "layer_norm_eps": 1e-5,
}  # fmt: skip
VISUAL_BERT = {
    **BERT, "model_type": "visual_bert", "bypass_transformer": False, "special_visual_initialize": True,
    "pad_token_id": 1,
}  # fmt: skip


def blip(architecture: str, width: int) -> dict:
    vision = {**STACK, "model_type": "blip_vision_model", "image_size": 32, "patch_size": 16, "hidden_size": width}
    text = {**BLIP_TEXT, "encoder_hidden_size": width}
    return {
        "model_type": "blip", "architectures": [architecture], "image_text_hidden_size": 8, "vision_config": vision,
        "text_config": text, "text_config_dict": None, "vision_config_dict": None,
    }  # fmt: skip


def pair(encoder: dict, decoder: dict, **more) -> dict:
    return {
        "model_type": "vision-encoder-decoder", "architectures": ["VisionEncoderDecoderModel"], "encoder": encoder,
        "decoder": decoder, "tie_word_embeddings": False, **more,
    }  # fmt: skip


def git(size: int, patch: int, frames: int | None = None, width: int = 24) -> dict:
    vision = {**STACK, "model_type": "git_vision_model", "image_size": size, "patch_size": patch, "hidden_size": width}
    return {
        **BERT, "model_type": "git", "architectures": ["GitForCausalLM"], "vision_config": vision, "bos_token_id": 31,
        "eos_token_id": 32, "num_image_with_embedding": frames, "tie_word_embeddings": False,
    }  # fmt: skip


def visual_bert(architecture: str, width: int, **more) -> dict:
    return {**VISUAL_BERT, "architectures": [architecture], "visual_embedding_dim": width, **more}


def clip(vision: dict, text: dict, **more) -> dict:
    return {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 16,
        "vision_config": {**CLIP_VISION, **vision}, "text_config": {**CLIP_TEXT, **text}, **more,
    }  # fmt: skip


def siglip(vision: dict, text: dict) -> dict:
    return {
        "model_type": "siglip", "architectures": ["SiglipModel"], "initializer_factor": 1.0,
        "vision_config": {**STACK, "model_type": "siglip_vision_model", **vision},
        "text_config": {**STACK, "model_type": "siglip_text_model", "vocab_size": 40, **text},
    }  # fmt: skip


PUBLISHED = {
    "blip-image-captioning-base": blip("BlipForConditionalGeneration", 24),
    "blip-image-captioning-large": blip("BlipForConditionalGeneration", 32),
    "blip-vqa-base": blip("BlipForQuestionAnswering", 24),
    "blip-itm-base-coco": blip("BlipForImageTextRetrieval", 24),
    "blip-itm-large-coco": blip("BlipForImageTextRetrieval", 32),
    "trocr-base-handwritten": pair(VIT, TROCR),
    "trocr-small-printed": pair(
        {**VIT, "model_type": "deit", "qkv_bias": True},
        {**TROCR, "scale_embedding": True, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    "trocr-large-printed": pair(
        VIT,
        {
            **TROCR, "scale_embedding": True, "activation_function": "relu", "tie_word_embeddings": False,
            "use_learned_position_embeddings": False, "layernorm_embedding": False, "max_position_embeddings": 22,
        },
    ),
    "a TrOCR that is scaled and tied": pair(VIT, {**TROCR, "scale_embedding": True}),
    "vit-gpt2-image-captioning": pair({**VIT, "qkv_bias": True}, GPT2, eos_token_id=39, pad_token_id=39),
    "git-base-coco": git(32, 16),
    "git-large-coco": git(28, 14, width=32),
    "git-base-vatex": git(32, 16, frames=6),
    "visualbert-vqa": visual_bert("VisualBertForQuestionAnswering", 20, num_labels=9),
    "visualbert-nlvr2": visual_bert("VisualBertForVisualReasoning", 10, num_labels=2),
    "visualbert-vqa-coco-pre": visual_bert("VisualBertForPreTraining", 20),
    "clip-vit-base-patch32": clip({}, {}, text_config_dict=None, vision_config_dict=None),
    "clip-vit-large-patch14-336": clip(
        {"image_size": 42}, {}, text_config_dict={**STACK, "projection_dim": 16},
        vision_config_dict={**STACK, "image_size": 42, "patch_size": 14, "projection_dim": 16},
    ),
    "CLIP-ViT-H-14": clip({**WIDE, "hidden_act": "gelu"}, {"hidden_act": "gelu"}),
    "siglip-base-patch16-224": siglip({"image_size": 32, "patch_size": 16}, {}),
    "siglip-so400m-patch14-384": siglip({"image_size": 32, "patch_size": 14}, {}),
    "a CLIP with XLM-RoBERTa": {
        "model_type": "vision-text-dual-encoder", "architectures": ["VisionTextDualEncoderModel"],
        "projection_dim": 16, "vision_config": CLIP_VISION, "text_config": XLM_ROBERTA,
    },
    "a ViT with XLM-RoBERTa": pair(
        VIT, {**XLM_ROBERTA, "is_decoder": True, "add_cross_attention": True}, decoder_start_token_id=0
    ),
    "siglip2-giant-opt": siglip({**WIDE, "image_size": 32, "patch_size": 16}, {"projection_size": 32}),
}  # fmt: skip


@pytest.fixture(params=PUBLISHED)
def source(request, peer, saved):
    """A folder with random weights, and the config.json as it is published: without what Transformers fills in."""
    settings = PUBLISHED[request.param]
    config = CONFIG_MAPPING[settings["model_type"]].from_dict(json.loads(json.dumps(settings)))
    cls = getattr(transformers, settings["architectures"][0])
    folder = saved(peer(lambda c: cls(config=c), config))
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_it_computes_what_transformers_does_and_goes_back(source, tmp_path, tensors_of):
    checkpoint = Checkpoint(source)
    family = next(family for family in FAMILIES.values() if family.recognises(checkpoint.config, checkpoint))
    done = convert(source)
    assert verify(checkpoint, done.model, family)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", family.name, tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert after.keys() <= before.keys() and all(torch.equal(before[name], value) for name, value in after.items())
    again = Checkpoint(tmp_path / "back")
    assert verify(again, done.model, family)


@pytest.mark.parametrize("name", ["trocr-small-printed", "trocr-large-printed"])
def test_scaled_tokens_and_fixed_positions_write_the_same_step_by_step(name, peer, saved, assert_close):
    settings = PUBLISHED[name]
    config = CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    theirs = peer(lambda c: transformers.VisionEncoderDecoderModel(config=c), config).double()
    ours = convert(saved(theirs)).model.double()
    given = list(examples(ours.config, Texts(pads_inside=False)))[3]
    pixels, ids = given.pixel_values.double(), given.input_ids
    assert_close(
        ours(input_ids=ids, pixel_values=pixels).logits, theirs(pixel_values=pixels, decoder_input_ids=ids).logits
    )
    for beams in (1, 3):
        written = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}
        there = theirs.generate(
            pixel_values=pixels, decoder_start_token_id=2, eos_token_id=2, pad_token_id=1, bos_token_id=0, **written
        )
        assert torch.equal(ours.generate(pixel_values=pixels, **written), there)


def test_a_norm_under_tensorflows_names_is_read(peer, saved):
    """As bert-base-uncased has it."""
    config = BertConfig(**BERT, bos_token_id=31, eos_token_id=32)
    theirs = peer(BertForMaskedLM, config)
    folder = saved(theirs, name="bert")
    file = folder / "model.safetensors"
    swaps = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, old in swaps:
            name = name.replace(new, old)
        tensors[name] = tensor
    assert sum(name.endswith("LayerNorm.gamma") for name in tensors) == 4
    save_file(tensors, file, metadata={"format": "pt"})
    vision = saved(peer(ViTModel, ViTConfig(**{k: v for k, v in VIT.items() if k != "model_type"})), name="vit")
    ours = MMForConditionalGeneration.from_towers(vision, folder)
    ids = torch.tensor([[31, 5, 6, 32]])
    here = ours.model.language_model(ids, is_causal=False).last_hidden_state
    there = theirs.eval().bert(ids).last_hidden_state
    assert (here - there).abs().max() <= 1e-5
    weight = theirs.cls.predictions.transform.LayerNorm.weight
    assert torch.equal(ours.lm_head_transform.norm.weight, weight)


def test_fixed_positions_behind_another_padding_are_refused(peer, saved):
    decoder = {**TROCR, "use_learned_position_embeddings": False, "pad_token_id": 3}
    config = CONFIG_MAPPING["vision-encoder-decoder"].from_dict(pair(VIT, decoder))
    with pytest.raises(ValueError, match="pad_token_id=3, after which fixed positions start; only 1 is known"):
        convert(saved(peer(lambda c: transformers.VisionEncoderDecoderModel(config=c), config)))


COLOURS = {"do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
SQUARE = {**COLOURS, "do_rescale": True, "resample": 3, "size": {"height": 24, "width": 24}}
CUT = {**SQUARE, "size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}
PREPROCESSORS = {
    "trocr-base": {**COLOURS, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 24},
    "trocr-small": {
        **COLOURS, "feature_extractor_type": "DeiTFeatureExtractor", "size": 24, "crop_size": 24,
        "do_center_crop": False,
    },
    "clip": {
        **COLOURS, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 24, "crop_size": 24,
        "do_center_crop": True,
    },
    "git-base-coco": {**CUT, "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True},
    "git-base-vatex": {**CUT, "image_processor_type": "VideoMAEImageProcessor"},
    "blip, which pads nothing": {
        **SQUARE, "image_processor_type": "BlipImageProcessor", "do_pad": True, "size_divisor": 8
    },
    "siglip2": {**SQUARE, "image_processor_type": "SiglipImageProcessor", "do_convert_rgb": None},
}  # fmt: skip


@pytest.mark.parametrize("settings", PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_their_pictures_become_the_same_pixels(settings, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (30, 50, 3), dtype=np.uint8))
    ours = image_processor_of(tmp_path)
    assert ours is not None
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    here, there = (np.asarray(processor(picture)["pixel_values"]) for processor in (ours, theirs))
    assert here.shape == (1, 3, 24, 24)
    assert np.abs(here - there.reshape(here.shape)).max() <= 1e-6


def test_padding_that_does_something_is_refused(tmp_path):
    settings = {**SQUARE, "image_processor_type": "BlipImageProcessor", "do_pad": True, "size_divisor": 32}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="pads pictures, which MM's image processor does not"):
        image_processor_of(tmp_path)
