"""VisionEncoderDecoder: a ViT, DeiT or BEiT and each decoder, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BeitConfig,
    BertConfig,
    DeiTConfig,
    GPT2Config,
    OPTConfig,
    RobertaConfig,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from comparing import close
from mm.conversion_scripts.engine import convert, convert_back

VIT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
STACK = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
WORDS = {"vocab_size": 26, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 20}
TROCR = {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 3, "decoder_ffn_dim": 40}
PAIRS = {
    "vit, gpt2": (ViTConfig(**VIT), GPT2Config(**GPT2, **WORDS)),
    "vit, gpt2 of equal width, odd": (
        ViTConfig(
            **{**VIT, "hidden_size": 24, "num_attention_heads": 2, "patch_size": 4, "image_size": (16, 26)},
            qkv_bias=False,
        ),
        GPT2Config(**GPT2, **WORDS, n_inner=20, activation_function="relu", tie_word_embeddings=False),
    ),
    "vit, bert": (ViTConfig(**VIT), BertConfig(**STACK, **WORDS, max_position_embeddings=20)),
    "deit, bert untied": (
        DeiTConfig(**{**VIT, "image_size": (24, 16)}),
        BertConfig(**STACK, **WORDS, max_position_embeddings=20, tie_word_embeddings=False),
    ),
    "vit, trocr": (
        ViTConfig(**VIT),
        TrOCRConfig(**TROCR, **WORDS, cross_attention_hidden_size=32, max_position_embeddings=20),
    ),
    "deit, trocr without a norm of its embeddings": (
        DeiTConfig(**VIT),
        TrOCRConfig(**TROCR, **WORDS, cross_attention_hidden_size=32, layernorm_embedding=False),
    ),
    "beit, gpt2": (BeitConfig(**VIT, use_relative_position_bias=True), GPT2Config(**GPT2, **WORDS)),
    "beit, bert, odd": (
        BeitConfig(
            **{**VIT, "num_attention_heads": 2, "patch_size": 4}, use_shared_relative_position_bias=True,
            use_absolute_position_embeddings=True, use_mask_token=True, use_mean_pooling=False,
        ),
        BertConfig(**STACK, **WORDS, max_position_embeddings=20),
    ),
    "beit, trocr": (
        BeitConfig(**VIT, use_absolute_position_embeddings=True, layer_scale_init_value=0.0),
        TrOCRConfig(**TROCR, **WORDS, cross_attention_hidden_size=32, max_position_embeddings=20),
    ),
}  # fmt: skip
IDS = torch.tensor([[2, 5, 9, 8, 12], [2, 6, 8, 7, 4]])


def pixels_of(theirs) -> torch.Tensor:
    """Two random pictures of its size, in fp64."""
    size = theirs.config.encoder.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def paired(encoder, decoder):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    return config


SLOW = ("beit, bert, odd", "beit, trocr")


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAIRS])
def pair(request, peer, saved):
    # Saved in fp64, so that the one sum in a conversion (DeiT's second token and its place) rounds no sooner;
    # from_pretrained, as published models are used: GPT-2's head is tied when it is loaded.
    theirs = peer(lambda config: VisionEncoderDecoderModel(config=config), paired(*PAIRS[request.param])).double()
    theirs.generation_config.update(decoder_start_token_id=2, eos_token_id=3, pad_token_id=0)
    source = saved(theirs)
    return VisionEncoderDecoderModel.from_pretrained(source, dtype=torch.float64).eval(), convert(source), source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_logits_and_picture_are_equal(pair, assert_close, dtype):
    theirs, ours = pair[0].to(dtype), pair[1].model.to(dtype)
    pixels = pixels_of(theirs).to(dtype)
    there = theirs(pixel_values=pixels, decoder_input_ids=IDS)
    here = ours(pixel_values=pixels, input_ids=IDS)
    assert_close(here.logits, there.logits)


@torch.no_grad()
def test_the_loss_of_their_labels_is_that_of_ours_behind_the_start(pair, assert_close):
    """Theirs puts the start before the labels; ours reads whole rows and shifts inside."""
    theirs, ours = pair[0].double(), pair[1].model.double()
    there = theirs(pixel_values=pixels_of(theirs), labels=IDS[:, 1:]).loss
    assert_close(ours(pixel_values=pixels_of(theirs), input_ids=IDS, labels=IDS).loss, there)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_tokens_are_written(pair, beams):
    theirs, ours = pair[0].double(), pair[1].model.double()
    settings = {"num_beams": beams, "max_new_tokens": 8, "do_sample": False}
    there = theirs.generate(pixel_values=pixels_of(theirs), **settings)
    assert torch.equal(ours.generate(pixel_values=pixels_of(theirs), **settings), there)


def layers_of(theirs) -> list:
    """Of both stacks, one after the other."""
    decoder = theirs.decoder
    stacks = {
        "gpt2": ("transformer", "h"),
        "bert": ("bert", "encoder", "layer"),
        "trocr": ("model", "decoder", "layers"),
    }
    for name in stacks[decoder.config.model_type]:
        decoder = getattr(decoder, name)
    return [*theirs.encoder.layers, *decoder]


@pytest.mark.slow
@torch.no_grad()
def test_the_states_of_every_layer_are_equal(pair, states_of, assert_close):
    theirs, ours = pair[0].double(), pair[1].model.double()
    layers = [*ours.model.vision_tower.layers, *ours.model.language_model.layers]
    there = states_of(layers_of(theirs), lambda: theirs(pixel_values=pixels_of(theirs), decoder_input_ids=IDS))
    here = states_of(layers, lambda: ours(pixel_values=pixels_of(theirs), input_ids=IDS))
    for one, two in zip(here, there, strict=True):
        assert_close(one, two)


@pytest.mark.slow
def test_every_gradient_is_equal(pair, assert_gradients):
    """But for the places of a DeiT: that of its second token is in the token here."""
    theirs, done, source = pair
    theirs(pixel_values=pixels_of(theirs), labels=IDS[:, 1:]).loss.backward()
    done.model(pixel_values=pixels_of(theirs), input_ids=IDS, labels=IDS).loss.backward()
    apart = ("position_embeddings",) if theirs.config.encoder.model_type == "deit" else ()
    assert_gradients(theirs, done.model, source, "vision-encoder-decoder", apart)


@pytest.mark.slow
def test_an_end_that_pads_too_is_trained_as_there(peer, saved, assert_gradients):
    """As published GPT-2s have it; BERT's padding is nothing else, and stays as it is."""
    config = paired(*PAIRS["vit, gpt2"])
    config.pad_token_id = config.eos_token_id
    theirs = peer(lambda c: VisionEncoderDecoderModel(config=c), config).double()
    source = saved(theirs)
    theirs, ours = VisionEncoderDecoderModel.from_pretrained(source).eval(), convert(source).model
    rows = torch.tensor([[2, 5, 9, 8, 3], [2, 6, 3, 8, 3]])
    theirs(pixel_values=pixels_of(theirs), decoder_input_ids=rows).logits.log_softmax(-1)[..., 7].sum().backward()
    ours(pixel_values=pixels_of(theirs), input_ids=rows).logits.log_softmax(-1)[..., 7].sum().backward()
    assert ours.model.language_model.embed_tokens.weight.grad[3].any()
    assert_gradients(theirs, ours, source, "vision-encoder-decoder")


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_unequal_length_are_continued_as_each_alone(pair, assert_prompts_alone, beams):
    """Theirs counts the padding of a batch as places."""
    theirs, ours = pair[0].double(), pair[1].model.double()
    prompts, settings = [[2, 5, 9, 8], [2, 6]], {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}

    def alone_there(row):
        ids = torch.tensor([prompts[row]])
        return theirs.generate(pixels_of(theirs)[row : row + 1], decoder_input_ids=ids, **settings)[
            0, len(prompts[row]) :
        ]

    assert_prompts_alone(ours, prompts, {"pixel_values": pixels_of(theirs)}, alone_there, **settings)


def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(pair, tmp_path, tensors_of):
    theirs, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "vision-encoder-decoder", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = VisionEncoderDecoderModel.from_pretrained(
        tmp_path / "back", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values())
    with torch.no_grad():
        there, here = (m(pixel_values=pixels_of(theirs), decoder_input_ids=IDS).logits for m in (theirs, again.eval()))
    close(there, here)


def test_a_trained_distillation_token_goes_back_as_what_it_does(peer, saved, tmp_path):
    source = saved(peer(lambda c: VisionEncoderDecoderModel(config=c), paired(*PAIRS["deit, bert untied"])))
    done = convert(source)
    with torch.no_grad():
        done.model.model.vision_tower.register_tokens += 1.0
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "vision-encoder-decoder", tmp_path / "back")
    theirs, ours = VisionEncoderDecoderModel.from_pretrained(tmp_path / "back").double().eval(), done.model.double()
    with torch.no_grad():
        there = theirs(pixel_values=pixels_of(theirs), decoder_input_ids=IDS).logits
        assert (ours(pixel_values=pixels_of(theirs), input_ids=IDS).logits - there).abs().max() <= 1e-6


def test_the_processor_gives_the_same_pixels_and_rows_start_as_the_decoder_does(peer, saved, tokenizer):
    images = ViTImageProcessor(size={"height": 16, "width": 16})
    theirs = peer(lambda config: VisionEncoderDecoderModel(config=config), paired(*PAIRS["vit, gpt2"]))
    done = convert(saved(theirs, images, tokenizer))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    inputs = done.processor(images=picture, text="a red dog", suffix="on a mat", return_tensors="pt")
    there = torch.as_tensor(np.asarray(images(picture)["pixel_values"]))
    assert (inputs["pixel_values"] - there).abs().max() <= 1e-6
    assert inputs["input_ids"][0, 0] == 2 and inputs["input_ids"][0, -1] == 3
    assert inputs["input_ids"][0, 1:4].tolist() == tokenizer("a red dog", add_special_tokens=False)["input_ids"]


def test_other_towers_and_settings_are_refused_in_words(peer, saved):
    decoder = GPT2Config(**GPT2, **WORDS)
    opt = OPTConfig(hidden_size=24, ffn_dim=20, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    with pytest.raises(ValueError, match="model_type='opt' .*cannot be the decoder: its class has no cross-attention"):
        convert(saved(peer(lambda c: VisionEncoderDecoderModel(config=c), paired(ViTConfig(**VIT), opt)), name="opt"))
    oblong = ViTConfig(**{**VIT, "patch_size": (8, 4)})
    with pytest.raises(ValueError, match=r"patch_size=\[8, 4\] has unequal sides; MM's patches are squares"):
        convert(saved(peer(lambda c: VisionEncoderDecoderModel(config=c), paired(oblong, decoder)), name="oblong"))
    scaled = GPT2Config(**GPT2, **WORDS, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True, but only False is known"):
        convert(saved(peer(lambda c: VisionEncoderDecoderModel(config=c), paired(ViTConfig(**VIT), scaled)), name="s"))


@torch.no_grad()
@pytest.mark.parametrize("ids", [{"pad_token_id": 1, "bos_token_id": 2}, {"pad_token_id": 1, "bos_token_id": 1}])
def test_robertas_positions_start_behind_its_pad_there_and_back(peer, saved, assert_close, tmp_path, tensors_of, ids):
    """Its own bos counts for nothing: a row opens with the pair's start."""
    config = paired(ViTConfig(**VIT), RobertaConfig(**STACK, **{**WORDS, **ids}, max_position_embeddings=22))
    config.pad_token_id = 1
    source = saved(peer(lambda c: VisionEncoderDecoderModel(config=c), config))
    done = convert(source)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "vision-encoder-decoder", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    theirs, ours = VisionEncoderDecoderModel.from_pretrained(source).double().eval(), done.model.double()
    there = theirs(pixel_values=pixels_of(theirs), decoder_input_ids=IDS).logits
    assert_close(ours(pixel_values=pixels_of(theirs), input_ids=IDS).logits, there)
    again, info = VisionEncoderDecoderModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert_close(again.double().eval()(pixel_values=pixels_of(theirs), decoder_input_ids=IDS).logits, there)


def test_a_roberta_whose_rows_open_with_padding_is_refused(peer, saved):
    config = paired(
        ViTConfig(**VIT), RobertaConfig(**STACK, **{**WORDS, "pad_token_id": 1}, max_position_embeddings=22)
    )
    config.decoder_start_token_id = 1
    with pytest.raises(ValueError, match="bos_token_id and pad_token_id are 1: a RoBERTa counts no position"):
        convert(saved(peer(lambda c: VisionEncoderDecoderModel(config=c), config)))
