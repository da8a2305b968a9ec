"""Processors of every family: the same pixels and ids in MM, and again in the source's class when they go back."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    TrOCRConfig,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    VisualBertConfig,
    VisualBertForPreTraining,
    ViTConfig,
    ViTImageProcessor,
    pipeline,
)

from mm import MMProcessor
from mm.conversion_scripts.engine import convert, convert_back
from mm.conversion_scripts.processor import spelling_notes

SQUARE = {"size": {"height": 16, "width": 16}}
CUT = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
SEES = {**SIZES, "image_size": 16, "patch_size": 8}
READS = {**SIZES, "vocab_size": 27, "max_position_embeddings": 12, "pad_token_id": 0}
LONG = {**READS, "max_position_embeddings": 64}
BERT = {**READS, "bos_token_id": 2, "eos_token_id": 3}
BLIP = BlipConfig(vision_config=SEES, text_config={**READS, "bos_token_id": 22, "sep_token_id": 3})
TWO = VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**SEES), BertConfig(**BERT))
TROCR = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
    ViTConfig(**SEES),
    TrOCRConfig(vocab_size=27, d_model=32, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48,
                max_position_embeddings=16, bos_token_id=2, eos_token_id=3, pad_token_id=0),
)  # fmt: skip
for name, value in {"decoder_start_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}.items():
    setattr(TROCR, name, value)
LETTERS = ["a", "b", "c", "d", "a</w>", "b</w>", "c</w>", "d</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
ENDS = {"bos_token_id": 9, "eos_token_id": 10}

# Family, class, config, image processor, name of the tokenizer, processor (None: the parts alone).
CASES = {
    "captions": ("blip", BlipForConditionalGeneration, BLIP, BlipImageProcessor(**SQUARE), "bert", BlipProcessor),
    "answers": ("blip", BlipForQuestionAnswering, BLIP, BlipImageProcessor(**SQUARE), "bert", BlipProcessor),
    "retrieval": ("blip", BlipForImageTextRetrieval, BLIP, BlipImageProcessor(**SQUARE), "bert", BlipProcessor),
    "git": ("git", GitForCausalLM, GitConfig(**BERT, vision_config=SEES), CLIPImageProcessor(**CUT), "bert",
            GitProcessor),
    "trocr": ("vision-encoder-decoder", VisionEncoderDecoderModel, TROCR, ViTImageProcessor(**SQUARE), "bert",
              TrOCRProcessor),
    "visual bert": ("visual-bert", VisualBertForPreTraining, VisualBertConfig(**BERT), None, "bert", None),
    "clip": ("clip", CLIPModel, CLIPConfig(vision_config=SEES, text_config={**READS, "vocab_size": 11, **ENDS}),
             CLIPImageProcessor(**CUT), "clip", CLIPProcessor),
    "old clip": ("clip", CLIPModel,
                 CLIPConfig(vision_config=SEES,
                            text_config={**READS, "vocab_size": 11, "bos_token_id": 0, "eos_token_id": 2}),
                 CLIPImageProcessor(**CUT), "clip", CLIPProcessor),
    "siglip": ("siglip", SiglipModel, SiglipConfig(vision_config=SEES, text_config=LONG),
               SiglipImageProcessor(**SQUARE), "sentences", SiglipProcessor),
    "siglip 2": ("siglip", SiglipModel, SiglipConfig(vision_config=SEES, text_config=LONG),
                 SiglipImageProcessor(**SQUARE), "unopened", SiglipProcessor),
    "two towers": ("vision-text-dual-encoder", VisionTextDualEncoderModel, TWO, ViTImageProcessor(**SQUARE), "bert",
                   VisionTextDualEncoderProcessor),
}  # fmt: skip
TEXTS = {"bert": ["a red dog", "what is on the mat ?"], "clip": ["ab cad", "c d ab b"], "words": ["a red dog", "mat"]}


@pytest.fixture(params=CASES)
def case(request, peer, saved, tokenizer, words_tokenizer):
    """The case, its directory as published, and its texts."""
    family, cls, config, images, words, whole = CASES[request.param]
    merges = [("a", "b</w>")]
    made = {
        "bert": lambda: tokenizer,
        "clip": lambda: CLIPTokenizer({word: number for number, word in enumerate(LETTERS)}, merges),
        "sentences": words_tokenizer,
        "unopened": lambda: words_tokenizer(bos_token="<bos>"),
    }[words]()
    parts = [part for part in (images, made) if part is not None]
    if whole is not None:
        parts = [whole(images, made)]
    directory = saved(peer(cls, config), *parts)
    return request.param, directory, images, AutoTokenizer.from_pretrained(directory), TEXTS.get(words, TEXTS["words"])


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))


def their_ids(name: str, tokenizer, text: str) -> list[int]:
    fixed = {"padding": "max_length"} if name.startswith("siglip") else {}
    return tokenizer(text, **fixed)["input_ids"]


def test_pixels_and_ids_are_the_source_s(case, picture):
    name, directory, images, tokenizer, texts = case
    processor = convert(directory).processor
    assert isinstance(processor, MMProcessor)
    for text in texts:
        inputs = processor(text=text, return_tensors="pt", **({} if images is None else {"images": picture}))
        expected = their_ids(name, tokenizer, text)
        if name == "answers":
            assert inputs["context_input_ids"][0].tolist() == expected
            assert inputs["input_ids"].tolist() == [[22]]
        elif name in ("captions", "git", "trocr"):  # the prompt of a decoder stays open
            first = {"captions": 22, "trocr": 3}.get(name, expected[0])
            assert inputs["input_ids"][0].tolist() == [first, *expected[1:-1]]
        else:
            assert inputs["input_ids"][0].tolist() == expected
        if images is not None:
            there = torch.as_tensor(np.asarray(images(picture)["pixel_values"]))
            assert (inputs["pixel_values"] - there).abs().max() <= 1e-6


def test_back_the_source_s_processor_gives_its_pixels_and_ids(case, picture, tmp_path):
    name, directory, images, tokenizer, texts = case
    family, _, _, _, _, whole = CASES[name]
    convert(directory).save_pretrained(tmp_path / "mm")
    report = convert_back(tmp_path / "mm", family, tmp_path / "back")
    if whole is not None:
        again = AutoProcessor.from_pretrained(tmp_path / "back")
        assert type(again) is whole and f"wrote {whole.__name__}" in report
        assert again.tokenizer(texts[0])["input_ids"] == tokenizer(texts[0])["input_ids"]
    back = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert [their_ids(name, back, text) for text in texts] == [their_ids(name, tokenizer, text) for text in texts]
    if images is not None:
        there = AutoImageProcessor.from_pretrained(tmp_path / "back")
        one, two = (np.asarray(part(picture)["pixel_values"]) for part in (there, images))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("case", ["clip", "two towers"], indirect=True)
def test_a_zero_shot_pipeline_gives_the_source_s_scores(case, picture, tmp_path):
    _, directory, _, _, texts = case
    convert(directory).save_pretrained(tmp_path / "mm")
    settings = {"candidate_labels": texts, "hypothesis_template": "{}"}
    there, here = (
        pipeline("zero-shot-image-classification", model=str(folder))(picture, **settings)
        for folder in (directory, tmp_path / "mm")
    )
    assert [found["label"] for found in here] == [found["label"] for found in there]
    for one, two in zip(here, there, strict=True):
        assert abs(one["score"] - two["score"]) <= 1e-5


@pytest.mark.parametrize("case", ["siglip", "siglip 2"], indirect=True)
@torch.no_grad()
def test_processor_and_model_together_give_siglip_s_logits(case, picture, assert_close, tmp_path):
    """The processor pads to one length, and so does the pipeline, whose scores are sigmoids."""
    _, directory, _, _, texts = case
    done, processor = convert(directory), AutoProcessor.from_pretrained(directory)
    given = processor(images=picture, text=texts, padding="max_length", return_tensors="pt")
    there = SiglipModel.from_pretrained(directory).eval()(**given).logits_per_image
    here = done.model(**done.processor(images=[picture, None], text=texts, return_tensors="pt"), return_loss=False)
    assert_close(here.logits_per_image[:1], there)
    done.model.save_pretrained(tmp_path)
    done.processor.save_pretrained(tmp_path)
    settings = {"candidate_labels": texts, "hypothesis_template": "{}"}
    found = pipeline("zero-shot-image-classification", model=str(tmp_path))(picture, **settings)
    scores = {one["label"]: one["score"] for one in found}
    assert_close(torch.tensor([scores[text] for text in texts]), there[0].sigmoid())
    assert [*scores.values()] == sorted(scores.values(), reverse=True)


def test_what_the_source_s_tokenizer_changes_is_said(peer, saved, tokenizer):
    """Of a model that writes; a dual encoder's texts are only read."""
    parts = (BlipImageProcessor(**SQUARE), tokenizer)
    report = convert(saved(peer(BlipForConditionalGeneration, BLIP), *parts)).report
    (note,) = [line for line in report if "tokenizer: it writes" in line]
    assert '"big" for "Big"' in note or "[UNK]" in note
    assert spelling_notes(tokenizer) == [note.removeprefix("note: ")]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(sorted(byte_level.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = byte_level, decoders.ByteLevel()
    assert spelling_notes(PreTrainedTokenizerFast(tokenizer_object=backend)) == []
    dual = convert(saved(peer(BlipForImageTextRetrieval, BLIP), *parts, name="dual")).report
    assert not any("it writes" in line for line in dual)


def test_pictures_cut_to_their_content_have_no_way_back(peer, saved, tokenizer, tmp_path):
    source = saved(peer(BlipForConditionalGeneration, BLIP), BlipImageProcessor(**SQUARE), tokenizer)
    done = convert(source)
    done.processor.image_processor.do_crop_content = True
    done.save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="do_crop_content=True .* BlipImageProcessor does not"):
        convert_back(tmp_path / "mm", "blip", tmp_path / "back")
