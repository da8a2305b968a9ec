"""The shipped models: what a folder of 15 MB does with the sample pictures, its card's numbers, and the one that
hears."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoProcessor, pipeline
from typer.testing import CliRunner

import mm
import mm_console
from mm.cli.caption import caption
from mm.recipes.languages import LANGUAGES, token_of
from mm.recipes.package import LIMIT
from mm.recipes.spoken_names import LIMIT as SPOKEN_LIMIT
from mm.recipes.spoken_names_data import SAID
from mm.recipes.spoken_names_scores import FINDER

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "checkpoints" / "mm-tiny"
SPOKEN = ROOT / "checkpoints" / "mm-tiny-spoken"
NAMES = {
    "red_apple": {
        "en": "red apple", "de": "roter Apfel", "fr": "pomme rouge", "es": "manzana roja", "ru": "красное яблоко",
        "zh": "红苹果",
    },
    "penguin": {"en": "penguin", "de": "Pinguin", "fr": "pingouin", "es": "pingüino", "ru": "пингвин", "zh": "企鹅"},
}  # fmt: skip


@pytest.fixture(scope="module")
def captioner():
    return pipeline("mm-captioning", model=str(MODEL))


def picture(name: str) -> str:
    return str(ROOT / "examples" / "pictures" / f"{name}.png")


def test_the_folder_is_small():
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= LIMIT


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_it_names_a_drawing_in_every_language(captioner, name, language):
    (found,) = captioner(picture(name), **({"prompt": token_of(language)} if token_of(language) else {}))
    assert found["caption"] == NAMES[name][language]


def test_the_command_prints_names_without_the_mark_of_their_language():
    names = [found.caption for found in caption([picture("penguin"), picture("red_apple")], prompt="<de>")]
    assert names == ["Pinguin", "roter Apfel"]
    (found,) = caption([picture("red_apple")], prompt="red")
    assert found.caption == "red apple"  # words are a part of it


@pytest.mark.parametrize("color", ["red", "blue"])
def test_it_answers_questions_about_a_shape(color):
    canvas = Image.new("RGB", (64, 64), (240, 240, 240))
    ImageDraw.Draw(canvas).rectangle((20, 20, 44, 44), fill=color)
    (answer,) = pipeline("mm-vqa", model=str(MODEL))(image=canvas, question="what color is the shape?")
    assert answer["answer"] == color


def test_it_finds_a_picture_by_its_name():
    finder = mm.MMForImageTextRetrieval.from_pretrained(MODEL).eval()
    processor = mm.MMProcessor.from_pretrained(MODEL)
    names = ["penguin", "guitar"]
    vectors = finder.encode([*map(picture, names), *names], processor=processor)
    likeness = finder.similarity(vectors[:2], vectors[2:])
    assert torch.as_tensor(likeness).argmax(-1).tolist() == [0, 1]


def test_the_card_tells_what_was_measured():
    log = json.loads((ROOT / "benchmarks" / "logs" / "results.json").read_text(encoding="utf-8"))
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for row in log["models"][MODEL.name]["results"]:
        mean, low, high = (f"{one:.3f}".replace("0.", ".", 1) for one in row["right"])
        assert f"| {row['what']} | {row['number']} | {mean} [{low}, {high}] |" in card, row["what"]


def test_texts_are_compared_closed_as_it_learned_them_and_prompts_are_open():
    finder = mm.MMForImageTextRetrieval.from_pretrained(MODEL).eval()
    processor, names = mm.MMProcessor.from_pretrained(MODEL), ["penguin", "guitar"]
    read = processor(text=names, add_eos_token=True, return_tensors="pt")
    with torch.no_grad():
        closed = finder.encode_text(read["input_ids"], attention_mask=read["attention_mask"])
    for given in ({}, {"processor": processor}):
        found = finder.encode([{"text": name} for name in names], **given)
        torch.testing.assert_close(found, closed, rtol=0, atol=1e-5)
    find = pipeline("mm-retrieval", model=str(MODEL))
    seen = finder.encode(Path(picture("penguin")), processor=processor)
    scores = {one["index"]: one["score"] for one in find(image=picture("penguin"), texts=names)}
    assert [scores[0], scores[1]] == pytest.approx((closed @ seen).tolist(), abs=1e-5)
    assert processor.add_eos_token is False


# -- the one that hears -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken():
    """(the model that finds, its processor, mm-tiny's embeddings of the sample pictures by name)."""
    finder = mm.MMForImageTextRetrieval.from_pretrained(SPOKEN, subfolder=FINDER).eval()
    sees = mm.MMForImageTextRetrieval.from_pretrained(MODEL).eval()
    files = sorted((ROOT / "examples" / "pictures").glob("*.png"))
    pictures = sees.encode([str(file) for file in files])
    return finder, AutoProcessor.from_pretrained(SPOKEN, subfolder=FINDER), [file.stem for file in files], pictures


def test_what_hears_is_small():
    assert sum(file.stat().st_size for file in SPOKEN.rglob("*") if file.is_file()) <= SPOKEN_LIMIT


@pytest.mark.parametrize("name", ["penguin", "red_apple"])
def test_its_texts_find_what_mm_tiny_sees(spoken, name):
    finder, reads, names, pictures = spoken
    texts = [NAMES[name][language].lower() for language in ("en", "fr", "es", "ru")]
    found = (finder.encode(texts, processor=reads) @ pictures.T).argmax(1)
    assert [names[place] for place in found] == [name] * 4


def test_it_tells_its_languages_and_sounds_and_texts_have_one_embedding_in_any_batch(spoken):
    finder, reads, _, pictures = spoken
    noise = torch.randn(3, 24000, generator=torch.Generator().manual_seed(0)).numpy() / 50
    lengths = (8000, 24000, 23000)
    sounds = [{"audio": {"array": one[:n], "sampling_rate": 16000}} for one, n in zip(noise, lengths, strict=True)]
    sounds += ["un pez", "a very small red bird on a branch", "кот"]
    together = finder.encode(sounds, processor=reads)
    alone = torch.cat([finder.encode([one], processor=reads) for one in sounds])
    assert together.shape == (6, pictures.shape[1]) and (together - alone).abs().max() < 1e-5
    writer = mm.MMForSpeechSeq2Seq.from_pretrained(SPOKEN).eval()
    features = AutoProcessor.from_pretrained(SPOKEN).feature_extractor(
        list(noise), sampling_rate=16000, return_tensors="pt"
    )
    assert set(writer.detect_language(features["input_features"])) <= {f"<|{language}|>" for language in SAID}


def test_the_command_and_the_pipeline_write_sounds_of_any_length(tmp_path):
    """Longer than a window, in two channels at another rate: through the shell and Transformers' pipeline."""
    import soundfile

    noise = torch.randn(7 * 22050, 2, generator=torch.Generator().manual_seed(1)).numpy() / 50
    soundfile.write(tmp_path / "long.wav", noise, 22050)
    soundfile.write(tmp_path / "short.wav", noise[:22050], 22050)
    files = [str(tmp_path / f"{name}.wav") for name in ("short", "long")]
    done = CliRunner().invoke(mm_console.app, ["transcribe", "--model", str(SPOKEN), "--format", "json", *files])
    assert done.exit_code == 0 and len(done.stdout.strip().splitlines()) >= 2, done.output
    writer = pipeline("automatic-speech-recognition", model=str(SPOKEN))
    (told,) = writer([{"raw": noise[:22050, 0], "sampling_rate": 22050}])
    assert told["text"].strip()
