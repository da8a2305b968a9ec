"""VisionEncoderDecoders of other towers and decoders, Donut and Nougat among them: there and back."""

# Fixtures build models whose types pyright cannot follow.

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    BartConfig,
    BertConfig,
    CamembertConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    DonutImageProcessor,
    DonutProcessor,
    DonutSwinConfig,
    GenerationConfig,
    GPT2Config,
    MBartConfig,
    NougatImageProcessor,
    NougatProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    Swinv2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from mm import MMForConditionalGeneration
from mm.conversion_scripts.engine import run
from mm.conversion_scripts.vision_encoder_decoder import plan

START = 5
WORDS = {"vocab_size": 50, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
STACK = {"hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = BertConfig(**STACK, **WORDS, max_position_embeddings=30)
GPT2 = GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=30, **WORDS)
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 6, "depths": [1, 1], "num_heads": [2, 3], "window_size": 4}
VIT = {
    "hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def mbart(kind: Any = MBartConfig, **more) -> Any:
    sizes = {
        "d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 30, "encoder_layers": 2,
        "encoder_attention_heads": 4, "encoder_ffn_dim": 8, "max_position_embeddings": 30, "scale_embedding": True,
    }  # fmt: skip
    return kind(**{**sizes, **WORDS, **more})


def bart(**more) -> BartConfig:
    return mbart(BartConfig, **more)


# name -> encoder, decoder
PAIRS = {
    "donut": (DonutSwinConfig(**{**SWIN, "image_size": [32, 48]}), mbart()),
    "donut, odd": (
        DonutSwinConfig(**{**SWIN, "embed_dim": 12}),
        mbart(decoder_layers=1, decoder_layerdrop=0.1, activation_dropout=0.1, activation_function="relu",
              scale_embedding=False, tie_word_embeddings=False, max_position_embeddings=21),
    ),
    "swinv2, gpt2": (Swinv2Config(**SWIN), GPT2),
    "dinov2, camembert": (
        Dinov2Config(**VIT), CamembertConfig(**STACK, **WORDS, max_position_embeddings=30, type_vocab_size=1),
    ),
    "dinov3, bert": (DINOv3ViTConfig(**VIT), BERT),
    "clip, bert": (CLIPVisionConfig(**VIT), BERT),
    "siglip, mbart": (SiglipVisionConfig(**VIT), mbart()),
    "clip, bart": (CLIPVisionConfig(**VIT), bart()),
    "swinv2, bart, odd": (
        Swinv2Config(**SWIN),
        bart(d_model=20, decoder_layers=1, activation_function="relu", scale_embedding=False,
             tie_word_embeddings=False, max_position_embeddings=21),
    ),
}  # fmt: skip


def paired(encoder, decoder) -> VisionEncoderDecoderConfig:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, 1, 2
    return config


@pytest.fixture
def published(peer, tmp_path):
    """`published(name, dtype)`: the model, saved with how it decodes."""

    def build(name: str, dtype=torch.float32):
        theirs = peer(lambda config: VisionEncoderDecoderModel(config=config), paired(*PAIRS[name])).to(dtype)
        theirs.generation_config = GenerationConfig(
            decoder_start_token_id=START, pad_token_id=1, eos_token_id=2, num_beams=3, max_new_tokens=7,
            no_repeat_ngram_size=2,
        )  # fmt: skip
        theirs.save_pretrained(tmp_path / "source")
        return theirs

    return build


@pytest.mark.parametrize("name", [n if n == "donut" else pytest.param(n, marks=pytest.mark.slow) for n in PAIRS])
@torch.no_grad()
def test_logits_and_tokens_are_equal_and_it_comes_back_bit_by_bit(published, tensors_of, tmp_path, name):
    theirs = published(name, torch.bfloat16 if name == "donut, odd" else torch.float32)
    source, ours, back = (tmp_path / part for part in ("source", "mm", "back"))
    report = run(str(source), str(ours), compare=True)
    assert any(line.startswith("verified: logits") for line in report)
    told = "note: activation_dropout=0.1, decoder_layerdrop=0.1: MM's decoder is trained without"
    assert (told in report) == (name == "donut, odd")
    run(str(ours), str(back), to="vision-encoder-decoder", compare=True)
    before, after = tensors_of(source), tensors_of(back)
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    again = VisionEncoderDecoderModel.from_pretrained(back)
    for part in ("encoder", "decoder"):
        here, there = (getattr(model.config, part).to_dict() for model in (again, theirs))
        assert {k for k in there if here.get(k) != there[k]} <= {"dtype", "architectures", "_name_or_path"}
    size = getattr(theirs.config.encoder, "image_size", 16)
    sides = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model, theirs = MMForConditionalGeneration.from_pretrained(ours).double(), theirs.double()
    again = again.double().eval()
    for settings in ({}, {"num_beams": 1}):
        written = theirs.generate(pixels, **settings)
        assert torch.equal(model.generate(pixel_values=pixels, **settings), written)
        assert torch.equal(again.generate(pixels, **settings), written)


def test_a_decoder_deeper_than_the_encoder_that_its_config_also_tells_of_is_verified(peer, saved, tmp_path):
    """Transformers' cache has as many layers as that encoder, which nothing builds."""
    config = paired(PAIRS["donut"][0], mbart(encoder_layers=1))
    source = saved(peer(lambda config: VisionEncoderDecoderModel(config=config), config))
    report = run(str(source), str(tmp_path / "mm"), compare=True)
    report += run(str(tmp_path / "mm"), str(tmp_path / "back"), to="vision-encoder-decoder", compare=True)
    assert sum(line.startswith("verified: logits") for line in report) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DonutProcessor, NougatProcessor])
def test_documents_are_made_ready_by_their_own_image_processor_both_ways(published, tmp_path, kind):
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "<s_doc>", *(f"w{number}" for number in range(44))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    size = {"height": 32, "width": 48}
    images = {
        DonutProcessor: DonutImageProcessor(size=size, do_align_long_axis=True),
        NougatProcessor: NougatImageProcessor(size=size),
    }[kind]
    theirs = published("donut")
    kind(images, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)).save_pretrained(tmp_path / "source")
    run(str(tmp_path / "source"), str(tmp_path / "mm"))
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to="vision-encoder-decoder")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8))
    pixels = images(picture, return_tensors="pt")["pixel_values"]
    again = AutoProcessor.from_pretrained(tmp_path / "back")
    assert type(again) is kind
    given = AutoProcessor.from_pretrained(tmp_path / "mm")(images=picture, text="", return_tensors="pt")
    assert given["input_ids"].tolist() == [[START]]
    for made in (given["pixel_values"], again.image_processor(picture, return_tensors="pt")["pixel_values"]):
        assert torch.equal(made, pixels)
    ours = MMForConditionalGeneration.from_pretrained(tmp_path / "mm")
    assert torch.equal(ours.generate(**given), theirs.generate(pixels))


def test_a_tower_of_maps_is_refused_with_the_way_that_works():
    class Checkpoint(dict):
        config = {
            "model_type": "vision-encoder-decoder",
            "encoder": ConvNextConfig().to_dict(),
            "decoder": BERT.to_dict(),
        }

    with pytest.raises(ValueError, match="model_type='convnext' .*gives a map.*use from_towers"):
        plan(Checkpoint())
