"""Every file of this folder gives its picture or its error, quickly, and nothing else. `make.py` made them."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor

from mm import MediaDecodeError
from mm.processing.images.load import load_image

FOLDER = Path(__file__).parent
RED, WHITE = (255, 0, 0), (255, 255, 255)
UNKNOWN = "its format is not recognised"
TOO_LARGE = "could be decompression bomb"
PRIVATE = "only public addresses are fetched"

# file: the fragment of a MediaDecodeError, a colour of every pixel, or a size (width, height) of a readable picture
EXPECTED = {
    "bomb_grey_1_bit.png": "72.0 megapixels; max_pixels=64000000",
    "bomb_header.png": TOO_LARGE,
    "bomb_sides.png": TOO_LARGE,
    "bomb_text.png": "Decompressed data too large",
    "bomb_text_after.png": "Decompressed data too large",
    "bomb_profile.png": "Decompressed data too large",
    "bomb_more_rows.png": RED,
    "bomb_frames.png": RED,
    "bomb_screen.gif": TOO_LARGE,
    "bomb_72_mp.gif": "72.0 megapixels; max_pixels=64000000",
    "bomb_frame_outside.gif": TOO_LARGE,
    "bomb_header.bmp": TOO_LARGE,
    "bomb_runs.bmp": TOO_LARGE,
    "bomb_header.tiff": TOO_LARGE,
    "bomb_strip.tiff": (4, 3),
    "bomb_canvas.webp": "could not create decoder object",
    "bomb_lossless.webp": "could not create decoder object",
    "bomb_header.jpg": TOO_LARGE,
    "bomb_header.avif": UNKNOWN,
    "truncated.png": "a PNG file (OSError: image file is truncated",
    "truncated.jpg": "a JPEG file (OSError: image file is truncated",
    "truncated.gif": "cannot decode",
    "truncated.webp": "could not create decoder object",
    "truncated.bmp": "a BMP file (OSError: image file is truncated",
    "truncated.tiff": "a TIFF file (OSError: image file is truncated",
    "truncated.avif": UNKNOWN,
    "empty.png": "it is empty",
    "broken_sum.png": UNKNOWN,
    "broken_length.png": "Truncated File Read",
    "no_data.png": "cannot load this image",
    "no_palette.png": "a PNG file (AssertionError",
    "ring_of_pages.tiff": (4, 3),
    "far_page.tiff": UNKNOWN,
    "tag_of_4_gb.tiff": UNKNOWN,
    "polyglot_script.gif": "a GIF file (OSError: image file is truncated",
    "polyglot_archive.jpg": (32, 24),
    "polyglot_page.png": RED,
    "polyglot_document.jpg": UNKNOWN,
    "page.png": UNKNOWN,
    "drawing.png": UNKNOWN,
    "postscript.png": UNKNOWN,
    "sky.png": UNKNOWN,
    "packed.png": UNKNOWN,
    "orientation_0.jpg": (32, 24),
    "orientation_6.jpg": (24, 32),
    "orientation_9.jpg": (32, 24),
    "orientation_text.jpg": (32, 24),
    "orientation_far.jpg": (32, 24),
    "ring_of_blocks.jpg": (32, 24),
    "ratio_by_zero.jpg": (32, 24),
    "block_cut_off.jpg": (32, 24),
    "two_pictures.png": WHITE,
    "hidden_red.webp": WHITE,
    "hidden_red.gif": WHITE,
    "hidden_red_key.png": WHITE,
    "hidden_red.tiff": WHITE,
    "path_above.txt": "cannot",
    "path_passwords.txt": "cannot decode '/etc/passwd'",
    "path_device.txt": "is a device, pipe or socket",
    "path_process.txt": "'/proc/self/environ'",
    "path_home.txt": "no file at the path '~/.ssh/id_rsa'",
    "path_command.txt": "no file at the path '|id>/tmp/x.png'",
    "path_stdin.txt": "no file at the path '-'",
    "path_nul.txt": "no file at the path",
    "url_file.txt": "accepted are http:// and https://",
    "url_loopback.txt": PRIVATE,
    "url_loopback_6.txt": PRIVATE,
    "url_mapped.txt": PRIVATE,
    "url_decimal.txt": PRIVATE,
    "url_octal.txt": PRIVATE,
    "url_short.txt": PRIVATE,
    "url_any.txt": PRIVATE,
    "url_metadata.txt": PRIVATE,
    "url_user.txt": "user name or a password",
    "url_header.txt": "stand in no URL",
    "url_script.txt": "accepted are http:// and https://",
    "url_gopher.txt": "accepted are http:// and https://",
    "url_data_page.txt": "its type is 'text/html'",
    "url_data_drawing.txt": UNKNOWN,
}
QUESTIONS = ("question_ends.txt", "question_tags.txt", "question_slots.txt", "question_invisible.txt")


def test_the_table_names_every_file_and_they_are_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    assert set(files) == {*EXPECTED, *QUESTIONS}
    assert len(files) >= 40 and sum(files.values()) < 300_000


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on the damage it finds
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", EXPECTED)
def test_every_file_gives_what_the_table_says(name):
    source, expected = FOLDER / name, EXPECTED[name]
    if name.endswith(".txt"):
        source = (FOLDER / name).read_bytes().decode()
    if isinstance(expected, str):
        with pytest.raises(MediaDecodeError) as caught:
            load_image(source, allow_urls=True)
        assert expected in str(caught.value)
    else:
        image = load_image(source, allow_urls=True)
        assert image.mode == "RGB"
        assert image.size == expected if len(expected) == 2 else (np.asarray(image) == expected).all()


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_text_of_a_user_becomes_a_special_token(name):
    processor = AutoProcessor.from_pretrained(FOLDER.parents[1] / "checkpoints" / "mm-tiny")
    text = (FOLDER / name).read_bytes().decode()
    tokenizer = processor.tokenizer
    row = processor(text=text, suffix="", return_tensors="pt")["input_ids"][0].tolist()
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & set(row[1:-1]) and row[0] in ends and row[-1] in ends
