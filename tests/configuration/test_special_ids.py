"""A model's ids of bos, eos and padding, and its tokenizer's: read from it, and a warning where they are others."""

import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTModel,
)
from transformers import pipeline as make_pipeline

import mm

VISION = {"model_type": "mm_vision", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "vocab_size": 12}  # fmt: skip
BERT_LIKE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
GPT_LIKE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}


def tokenizer(names=BERT_LIKE):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "dot"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def processor(names=BERT_LIKE):
    return mm.MMProcessor(mm.MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer(names))


def model(bos, eos, **more):
    torch.manual_seed(0)
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": 0}
    return mm.MMForConditionalGeneration(mm.MMConfig(vision_config=VISION, text_config={**TEXT, **ids, **more}))


POOLING = "mm.modeling_mm.core.layers"
LOGGERS = ("mm.modeling_mm.tasks.row_ends", POOLING, "mm.processing.processor_files", "transformers")
ROWS = [
    {"image": np.full((16, 16, 3), 40 * n, np.uint8), "suffix": text} for n, text in enumerate(["a red dot", "blue"])
]


@pytest.fixture
def heard():
    """The warnings of MM's loggers and of Transformers', which pass nothing on."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


def trained(own, made, path):
    arguments = TrainingArguments(
        path, max_steps=2, per_device_train_batch_size=2, remove_unused_columns=False, report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    collator = mm.MMDataCollator(made)
    Trainer(own, arguments, train_dataset=ROWS, data_collator=collator, processing_class=made).train()


def about_ids(records):
    return [record for record in records if "_token_id" in record and "No text of the first batch" in record]


@pytest.mark.parametrize(("bos", "eos"), [(1, 2), (10, 11), (3, 2)])
def test_trainer_warns_once_of_each_end_that_the_tokenizer_has_otherwise(bos, eos, heard, tmp_path):
    trained(model(bos, eos), processor(), tmp_path)
    assert about_ids(heard) == [
        f"No text of the first batch begins with bos_token_id={bos}, but with 2. If the tokenizer has ids of its own, "
        "give them to the model: MMConfig.preset(..., tokenizer=tokenizer), or text_config.bos_token_id of the "
        "configuration and generation_config.bos_token_id of the model.",
        f"No text of the first batch ends with eos_token_id={eos}, but with 3. If the tokenizer has ids of its own, "
        "give them to the model: MMConfig.preset(..., tokenizer=tokenizer), or text_config.eos_token_id of the "
        "configuration and generation_config.eos_token_id of the model.",
    ]


@pytest.mark.parametrize(("names", "eos"), [(BERT_LIKE, 3), (GPT_LIKE, [7, 3])])
def test_the_right_ids_warn_of_nothing(names, eos, heard, tmp_path):
    own, made = model(2, eos), processor(names)
    trained(own, made, tmp_path)
    own.eval()
    for text in ([""], ["a"], ["a red", "a"]):
        images = [row["image"] for row in ROWS[: len(text)]]
        own.generate(**made(images=images, text=text, return_tensors="pt"), max_new_tokens=2)
    make_pipeline("mm-captioning", model=own, processor=made)(ROWS[0]["image"], max_new_tokens=2)
    assert about_ids(heard) == [] and not [record for record in heard if "made for one another" in record]


def test_generate_warns_of_a_prompt_that_begins_otherwise(heard):
    own = model(1, 3).eval()
    inputs = processor()(images=[row["image"] for row in ROWS], text=["", "a red"], return_tensors="pt")
    for _ in range(2):
        own.generate(**inputs, max_new_tokens=2)
    assert len(about_ids(heard)) == 1 and "begins with bos_token_id=1, but with 2" in about_ids(heard)[0]


@pytest.mark.parametrize(("bos", "eos", "words"), [(2, 3, ()), (10, 3, ("bos_token_id",)), (2, 11, ("eos_token_id",)),
                                                   (10, 11, ("bos_token_id", "eos_token_id"))])  # fmt: skip
def test_a_processor_warns_of_the_ids_of_the_model_in_its_folder(bos, eos, words, heard, tmp_path):
    model(bos, eos).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    heard.clear()
    mm.MMProcessor.from_pretrained(tmp_path)
    told = [record for record in heard if str(tmp_path) in record]
    assert len(told) == len(words) and all(word in record for word, record in zip(words, told, strict=True))


def test_a_processor_leaves_a_broken_or_other_model_in_its_folder_to_who_loads_it(heard, tmp_path):
    processor().save_pretrained(tmp_path)
    for held in ('{"model_type": "bert"}', '{"model_type": "mm", "fusion_type": "none at all"}'):
        (tmp_path / "config.json").write_text(held)
        mm.MMProcessor.from_pretrained(tmp_path)
    assert not [record for record in heard if "not made for" in record]


def test_a_pipeline_warns_of_ids_and_words_that_the_model_has_not(heard):
    make_pipeline("mm-captioning", model=model(1, 2, vocab_size=6).eval(), processor=processor())
    assert [record.split(": ", 1)[1] for record in heard if "made for one another" in record] == [
        "texts begin with 2, but the model's bos_token_id is 1",
        "texts end with 3, but the model's eos_token_id is [2]",
        "the tokenizer has 8 tokens, but the model's vocab_size is 6",
    ]


@pytest.mark.parametrize("name", ["mm-tiny", "mm-small", "mm-base", "mm-large"])
@pytest.mark.parametrize("names", [BERT_LIKE, GPT_LIKE])
def test_a_preset_reads_the_ids_and_the_size_of_a_tokenizer(name, names):
    config = mm.MMConfig.preset(name, tokenizer=tokenizer(names), text_encoder_config={})
    for text in (config.text_config, config.text_encoder_config):
        assert (text.bos_token_id, text.eos_token_id, text.pad_token_id, text.vocab_size) == (2, 3, 0, 8)
    named = mm.MMConfig.preset(name, tokenizer=tokenizer(names), text_config={"vocab_size": 64, "eos_token_id": 9})
    assert (named.text_config.vocab_size, named.text_config.eos_token_id, named.text_config.bos_token_id) == (64, 9, 2)


def test_from_towers_reads_the_ids_that_a_bert_does_not_name_from_its_tokenizer(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=16, patch_size=8), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    BertModel(BertConfig(**size, vocab_size=8, max_position_embeddings=16)).save_pretrained(tmp_path / "bert")
    sources = tmp_path / "vit", tmp_path / "bert"
    build = mm.MMForConditionalGeneration.from_towers
    with pytest.raises(ValueError, match="does not say what a text opens and closes with"):
        build(*sources)
    given = build(*sources, tokenizer=tokenizer())
    tokenizer().save_pretrained(tmp_path / "bert")
    beside, named = build(*sources), build(*sources, text_config={"bos_token_id": 5, "eos_token_id": 6})
    for made, ids in ((given, (2, 3)), (beside, (2, 3)), (named, (5, 6))):
        text = made.config.text_config
        assert (text.bos_token_id, text.eos_token_id) == ids
        assert (made.generation_config.bos_token_id, made.generation_config.eos_token_id) == ids


@pytest.mark.parametrize("cls", ["MMForImageTextRetrieval", "MMForSequenceClassification"])
@pytest.mark.parametrize(("eos", "times"), [(3, 0), (9, 1)])
def test_a_pooler_that_finds_no_end_in_any_text_says_so_once(cls, eos, times, heard):
    """Every text would be read at its first token, the same one."""
    text = {**TEXT, "bos_token_id": 2, "eos_token_id": eos, "pad_token_id": 0, "is_causal": False, "pooler": "eos"}
    own = getattr(mm, cls)(mm.MMConfig(vision_config=VISION, text_config=text))
    made = processor()
    made.add_eos_token = True
    batch = made(images=[ROWS[0]["image"]], text=["a red dot"], return_tensors="pt")
    for _ in range(2):
        own(**batch)
    assert len([record for record in heard if "pooler='eos'" in record]) == times
