"""The group `drawing` of MMConfig: where a vocabulary holds the codes of pictures."""

import tracemalloc

import pytest

from mm import MMConfig

DRAWING = {"first_id": 60, "codebook_size": 32, "grid": [4, 4], "begin_id": 57, "end_id": 58, "mask_id": 59}
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 92,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def test_a_model_that_writes_only_words_saves_nothing_of_drawing():
    config = MMConfig()
    assert not config.draws and config.codes_per_picture == 0
    assert not any("drawing" in name for name in config.to_diff_dict())


def test_checking_ids_takes_no_memory_for_each_code():
    many = DRAWING | {"codebook_size": 2**31 - 100}
    tracemalloc.start()
    with pytest.raises(ValueError, match="vocab_size"):
        MMConfig(drawing=many, text_config=TEXT)
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


def test_the_group_is_saved_and_read_again(tmp_path):
    config = MMConfig(drawing=DRAWING, text_config=TEXT)
    assert config.draws and config.codes_per_picture == 16
    config.save_pretrained(tmp_path)
    assert MMConfig.from_pretrained(tmp_path).drawing == config.drawing == DRAWING


@pytest.mark.parametrize(
    ("changed", "text", "words"),
    [
        ({"grid": None}, {}, "drawing_grid"),
        ({"grid": [4]}, {}, r"\[rows, columns\]"),
        ({"grid": [4, 0]}, {}, r"\[rows, columns\]"),
        ({"codebook_size": 33}, {}, "vocab_size=93"),
        ({"begin_id": 61}, {}, "drawing_begin_id=61 is a code"),
        ({"mask_id": 91}, {}, "drawing_mask_id=91 is a code"),
        ({"end_id": 57}, {}, "drawing_end_id=57 is drawing_begin_id"),
        ({"begin_id": 1}, {}, "drawing_begin_id=1 is text_config.bos_token_id"),
        ({}, {"eos_token_id": [2, 70]}, "eos_token_id=70 is a code"),
        ({}, {"max_position_embeddings": 18}, "max_position_embeddings=18"),
        ({"first_id": -1}, {}, "drawing_first_id=-1"),
    ],
)
def test_what_cannot_be_drawn_is_told_when_the_config_is_made(changed, text, words):
    with pytest.raises(ValueError, match=words):
        MMConfig(drawing={**DRAWING, **changed}, text_config={**TEXT, **text})


def test_half_a_group_names_the_rest():
    with pytest.raises(ValueError, match="drawing_codebook_size, drawing_grid, drawing_begin_id, drawing_end_id"):
        MMConfig(drawing={"first_id": 60}, text_config=TEXT)


def test_room_for_codes_and_rows_is_made_where_nobody_says_how_much():
    far = {**DRAWING, "first_id": 40_000, "grid": [32, 32]}
    text = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    made = MMConfig(drawing=far, text_config=text).text_config
    assert made.vocab_size == 40_032 and made.max_position_embeddings == 32 * 32 + 3


def test_a_preset_that_draws_keeps_the_codes_out_of_its_text_encoder():
    after = {**DRAWING, "first_id": 1672, "begin_id": 1669, "end_id": 1670, "mask_id": 1671, "grid": [16, 16]}
    config = MMConfig.preset("mm-tiny", drawing=after, text_encoder_config={}, modalities=[])
    assert config.text_config.vocab_size == 1672 + 32 and config.text_config.max_position_embeddings == 259
    assert config.text_encoder_config.vocab_size == 1669 and config.vision_config is None


def test_no_modality_is_for_a_text_encoder_under_cross_attention():
    assert MMConfig(modalities=[], text_config=TEXT, share_text_encoder=True).vision_config is None
    with pytest.raises(ValueError, match=r"modalities=\[\] must name"):
        MMConfig(modalities=[], text_config=TEXT, text_encoder_config=TEXT, fusion_type="concat")
