"""Pictures as ids of a vocabulary: the processor's rows, the collator's columns, and back to pictures."""

import copy
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from mm import MediaDecodeError, MMDataCollator, MMImageTokenizer, MMImageTokenizerConfig
from small_drawer import NAMES, Squares, small_processor, squares

BOS, EOS, BEGIN, END, MASK, FIRST, CODES = 2, 3, 14, 15, 16, 17, 16
PICTURES = squares(8)


@pytest.fixture
def processor():
    return small_processor()


def same(some, others) -> bool:
    return [one.tobytes() for one in some] == [one.tobytes() for one in others]


def test_pictures_become_ids_after_the_words_and_pictures_again(processor):
    ids = processor.encode_images(PICTURES)
    assert ids.shape == (8, CODES) and ids.dtype == torch.int64
    assert int(ids.min()) >= FIRST and int(ids.max()) < FIRST + 27
    assert same(processor.decode_images(ids), PICTURES)
    assert torch.equal(processor.encode_images(PICTURES[3]), ids[3:4])


def test_alpha_is_white_and_another_aspect_is_laid_on_white(processor):
    clear, wide = Image.new("RGBA", (8, 8), (255, 0, 0, 0)), Image.new("RGB", (16, 8), "red")
    white = processor.encode_images(Image.new("RGB", (8, 8), "white"))
    assert torch.equal(processor.encode_images(clear), white)
    found = processor.encode_images(wide).view(4, 4)
    assert torch.equal(found[0], white.view(4, 4)[0]) and not torch.equal(found[1], found[0])


def test_a_row_is_bos_begin_the_picture_and_end(processor):
    made = processor(text=NAMES[:2], target_images=PICTURES[:2], return_tensors="pt")
    ids = processor.encode_images(PICTURES[:2])
    assert made["input_ids"].tolist() == [[BOS, BEGIN, *row, END] for row in ids.tolist()]
    assert made["labels"].tolist() == [[-100, -100, *row, END] for row in ids.tolist()]
    assert made["context_input_ids"].shape[0] == 2
    again = processor(text=NAMES[:2], target_images=list(ids.numpy()), return_tensors="pt")
    assert all(torch.equal(again[name], value) for name, value in made.items())


def test_ids_are_taken_as_encode_images_gives_them(processor):
    ids = processor.encode_images(PICTURES[:2])
    made = processor(text=NAMES[:2], target_images=PICTURES[:2], return_tensors="pt")
    for given in (ids, ids.numpy(), [ids[:1], ids[1:]], [row[None].numpy() for row in ids]):
        again = processor(text=NAMES[:2], target_images=given, return_tensors="pt")
        assert all(torch.equal(again[name], value) for name, value in made.items())
    collator = MMDataCollator(processor)
    for form in (lambda row: row, lambda row: row[None], lambda row: row.tolist(), lambda row: [row.tolist()]):
        samples = [{"text": name, "target_image": form(row)} for name, row in zip(NAMES, ids, strict=False)]
        assert torch.equal(collator(samples)["input_ids"], made["input_ids"])
    for several in (ids, ids.tolist(), PICTURES[:2]):
        with pytest.raises(ValueError, match="sample 0 has 2 pictures"):
            collator([{"text": NAMES[0], "target_image": several}])


def test_a_tokenizer_of_grey_pictures_is_refused_at_once():
    grey = MMImageTokenizerConfig(num_channels=1, image_size=8, patch_size=4, widths=[8], depth=1)
    with pytest.raises(ValueError, match="num_channels=1"):
        small_processor(image_tokenizer=MMImageTokenizer(grey))


def test_a_decoder_without_an_encoder_has_the_words_before_begin():
    processor = small_processor(prompt_to="decoder")
    made = processor(text="red apple", target_images=PICTURES[0], return_tensors="pt")
    words = processor.tokenizer("red apple", add_special_tokens=False).input_ids
    assert made["input_ids"][0].tolist()[:4] == [BOS, *words, BEGIN]
    assert made["labels"][0].tolist()[:5] == [-100] * 4 + made["input_ids"][0].tolist()[4:5]


def test_words_and_pictures_are_learned_in_one_call(processor):
    made = processor(context_text=["", "a"], suffix=["red", None], target_images=[None, PICTURES[0]])
    assert made["input_ids"][0][:3] == [BOS, 6, EOS] and made["input_ids"][1][1] == BEGIN
    with pytest.raises(ValueError, match="each row has a suffix or a target image"):
        processor(context_text=["", "a"], suffix=["red", "a"], target_images=[None, PICTURES[0]])


def test_max_length_cuts_words_and_never_a_picture():
    processor = small_processor(prompt_to="decoder")
    made = processor(text="a red apple", target_images=PICTURES[0], max_length=3)
    assert len(made["input_ids"][0]) == 3 + CODES + 2
    assert made["input_ids"][0][3:] == [BEGIN, *processor.encode_images(PICTURES[0])[0].tolist(), END]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([FIRST] * 15, "row 0 is no whole picture: of the 16 ids that a picture has 15 are codes"),
        ([FIRST] * 15 + [5], "15 are codes"),
        ([BOS, BEGIN] + [FIRST] * 15 + [END], "15 are codes"),
        ([BOS, BEGIN] + [FIRST] * 17, "more than the 16 codes"),
        ([FIRST] * 17, "no whole picture"),
        ([BOS, 5, 6], "0 are codes"),
    ],
)
def test_a_row_that_is_no_whole_picture_is_told(processor, row, words):
    with pytest.raises(ValueError, match=words):
        processor.decode_images([row])


def test_whole_rows_of_generate_are_decoded_too(processor):
    ids = processor.encode_images(PICTURES[:2]).tolist()
    rows = torch.tensor([[0, BOS, BEGIN, *ids[0], END], [BOS, 5, BEGIN, *ids[1], END]])
    assert same(processor.decode_images(rows), PICTURES[:2])


@pytest.mark.parametrize("ids", [torch.rand(1, 16), None, [], "ids"])
def test_what_is_no_row_of_ids_is_told(processor, ids):
    with pytest.raises(TypeError, match="rows of whole numbers|whole numbers"):
        processor.decode_images(ids)


def test_ids_of_another_place_or_number_are_no_target(processor):
    with pytest.raises(ValueError, match=r"16 ids in 17\.\.43"):
        processor(text="a", target_images=np.zeros(16, dtype=np.int64))
    with pytest.raises(ValueError, match="got 3"):
        processor(text="a", target_images=[17, 18, 19])


def test_without_an_image_tokenizer_the_error_says_what_is_missing(processor):
    plain = small_processor(image_tokenizer=None)
    for call in (lambda: plain.encode_images(PICTURES[0]), lambda: plain.decode_images([[1]])):
        with pytest.raises(ValueError, match="no image_tokenizer"):
            call()
    with pytest.raises(ValueError, match="no image_tokenizer"):
        plain(text="a", target_images=PICTURES[0])
    ids = processor.encode_images(PICTURES[:1]).numpy()[0]
    known = small_processor(image_tokenizer=None, drawing=processor.drawing)  # enough for ids made before
    assert known(text="a", target_images=ids)["input_ids"][0][1] == BEGIN
    with pytest.raises(TypeError, match="MMImageTokenizer or None; got int"):
        small_processor(image_tokenizer=3)


def test_a_layout_of_another_tokenizer_is_refused(processor):
    with pytest.raises(ValueError, match="codebook_size=30, but the image tokenizer 27"):
        small_processor(drawing={**processor.drawing, "codebook_size": 30})
    with pytest.raises(ValueError, match="drawing lacks grid and has no place for rows"):
        small_processor(drawing={**processor.drawing, "grid": None, "rows": 4})


@pytest.mark.parametrize("has_tokenizer", [True, False])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"begin_id": 20}, "begin_id=20, a code of a picture: 17..43"),
        ({"mask_id": 43}, "mask_id=43, a code"),
        ({"first_id": 13}, "begin_id=14, a code of a picture: 13..39"),
        ({"end_id": 14}, "end_id=14, which is begin_id too"),
        ({"mask_id": 15}, "mask_id=15, which is end_id too"),
        ({"first_id": -1}, "first_id=-1; it is a whole number from 0"),
        ({"end_id": "15"}, "end_id='15'; it is a whole number"),
        ({"begin_id": True}, "begin_id=True; it is a whole number"),
        ({"grid": 16}, "grid=16; it is"),
        ({"grid": [4, 4, 1]}, "grid=.*; it is"),
    ],
)
def test_a_layout_whose_ids_stand_for_two_things_is_refused(processor, has_tokenizer, given, told):
    own = {} if has_tokenizer else {"image_tokenizer": None}
    with pytest.raises((ValueError, TypeError), match=f"drawing has {told}"):
        small_processor(drawing={**processor.drawing, **given}, **own)


def test_an_image_tokenizer_that_is_gone_is_named(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    place = tmp_path / "image_tokenizer"
    (place / "config.json").write_text('{"model_type": "of_nobody"}')
    with pytest.raises(
        ValueError, match=f"the image_tokenizer that processor_config.json names cannot be read from '{place}'"
    ):
        AutoProcessor.from_pretrained(tmp_path)
    shutil.rmtree(place)
    with pytest.raises(
        ValueError, match=f"the image_tokenizer that processor_config.json names cannot be read from '{place}'"
    ):
        AutoProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("ids", [[None], [[None]], [["a"]], [[1.5]], [[[1]]]])
def test_ids_that_are_no_numbers_are_told(processor, ids):
    with pytest.raises(TypeError, match=r"rows of whole numbers \(R, T\); row 0"):
        processor.decode_images(ids)


def test_the_processor_saves_its_image_tokenizer_and_finds_it_again(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again.image_tokenizer, Squares) and again.drawing == processor.drawing
    assert torch.equal(again.encode_images(PICTURES), processor.encode_images(PICTURES))
    own = Squares(again.image_tokenizer.config)
    assert AutoProcessor.from_pretrained(tmp_path, image_tokenizer=own).image_tokenizer is own
    again.save_pretrained(tmp_path / "copy")
    assert AutoProcessor.from_pretrained(tmp_path / "copy").drawing == processor.drawing


def test_words_added_later_do_not_move_the_codes(processor, tmp_path):
    processor.tokenizer.add_tokens(["rocket"])
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).drawing["first_id"] == FIRST


def test_a_processor_without_one_saves_as_before(tmp_path):
    small_processor(image_tokenizer=None).save_pretrained(tmp_path)
    assert not (tmp_path / "image_tokenizer").exists()
    assert AutoProcessor.from_pretrained(tmp_path).image_tokenizer is None


# ---- the collator ---------------------------------------------------------------------------------------------------


def samples():
    return [{"id": name, "text": name, "target_image": one} for name, one in zip(NAMES, PICTURES, strict=True)]


def test_samples_with_a_target_image_become_the_processors_rows(processor):
    batch = MMDataCollator(processor)(samples())
    expected = processor(text=NAMES, target_images=PICTURES, return_tensors="pt")
    assert set(batch) == set(expected) and all(torch.equal(batch[name], value) for name, value in expected.items())


def test_captions_and_drawings_share_a_batch(processor):
    mixed = [samples()[0], {"text": "a", "suffix": "red boat"}]
    rows = MMDataCollator(processor)(mixed)["input_ids"].tolist()
    assert rows[0][1] == BEGIN and rows[1][:4] == [BOS, 6, 11, EOS]
    with pytest.raises(ValueError, match="sample 0 has a target_image and a suffix"):
        MMDataCollator(processor)([{**samples()[0], "suffix": "a"}])


def test_a_target_that_cannot_be_read_is_left_out_where_asked(processor, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    given = [samples()[0], {"text": "a", "target_image": broken}]
    with pytest.raises(MediaDecodeError):
        MMDataCollator(processor)(given)
    told = []
    batch = MMDataCollator(processor, on_error="skip", on_fault=told.append)(given)
    assert len(batch["input_ids"]) == 1 and len(told) == 1


def test_masked_targets_hide_codes_and_learn_only_these(processor):
    batch = MMDataCollator(processor, masked_targets=True)(samples())
    whole = MMDataCollator(processor)(samples())
    hidden = batch["input_ids"] == MASK
    assert torch.equal(batch["labels"] != -100, hidden) and bool(hidden.any(1).all())
    assert torch.equal(torch.where(hidden, batch["labels"], batch["input_ids"]), whole["input_ids"])
    alone = MMDataCollator(processor, masked_targets=True)(samples()[3:4])
    assert torch.equal(alone["input_ids"][0], batch["input_ids"][3])  # by the sample's id, not by its place
    with pytest.raises(ValueError, match="a row here learns words"):
        MMDataCollator(processor, masked_targets=True)([samples()[0], {"text": "a", "suffix": "red boat"}])


def test_the_share_of_hidden_codes_follows_the_cosine(processor):
    """Mean of cos(pi/2 u) over u in 0..1 is 2/pi."""
    many = [{**samples()[0], "id": number} for number in range(400)]
    ids = MMDataCollator(processor, masked_targets=True)(many)["input_ids"]
    share = (ids == MASK).float().mean(1) * 19 / CODES
    assert abs(float(share.mean()) - 2 / np.pi) < 0.06 and float(share.min()) > 0 and float(share.max()) == 1


def test_guidance_dropout_empties_texts_of_drawings_alone(processor):
    given = [*samples(), {"id": "words", "text": "a", "suffix": "red boat"}]
    batch = MMDataCollator(processor, guidance_dropout=1.0)(given)
    lengths = batch["context_attention_mask"].sum(1).tolist()
    assert lengths == [2] * 8 + [3] and [item["text"] for item in given] == [*NAMES, "a"]
    some = MMDataCollator(processor, guidance_dropout=0.5)([{**samples()[0], "id": number} for number in range(200)])
    assert 60 < int((some["context_attention_mask"].sum(1) == 2).sum()) < 140
    for name in ("guidance_dropout", "mlm_probability", "mim_ratio"):
        for share in (2, "a", None, True, [0.1], float("nan")):
            with pytest.raises(ValueError, match=f"{name}=.*; accepted are shares"):
                MMDataCollator(processor, **{name: share})


def test_the_caller_keeps_its_samples(processor):
    given = samples()
    before = copy.copy(given[0])
    MMDataCollator(processor, masked_targets=True, guidance_dropout=1.0)(given)
    assert given[0] == before
