"""MMModel in Transformers' feature-extraction pipelines: a text alone, a picture alone, and sounds alone by a call."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

from mm import MMModel

ROOT = Path(__file__).resolve().parents[1]
MODEL = str(ROOT / "checkpoints" / "mm-tiny")
PICTURE = str(ROOT / "examples" / "pictures" / "rocket.png")


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(MODEL).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(MODEL)


def assert_same(found, expected):
    torch.testing.assert_close(torch.tensor(found, dtype=expected.dtype), expected.detach(), rtol=0, atol=1e-5)


def test_a_text_alone_gives_its_states(model, processor):
    extract = pipeline("feature-extraction", model=model, tokenizer=processor.tokenizer)
    texts = ["a red apple", "a rocket"]
    for text, states in zip(texts, extract(texts), strict=True):
        assert_same(states, model(**processor.tokenizer(text, return_tensors="pt")).last_hidden_state)


def test_a_picture_alone_gives_its_tokens_and_its_vector(model, processor):
    picture = Image.open(PICTURE).convert("RGB")
    expected = model(**processor(images=picture, return_tensors="pt"))
    extract = pipeline("image-feature-extraction", model=model, image_processor=processor.image_processor)
    assert_same(extract(picture), expected.last_hidden_state)
    assert_same(extract(picture, pool=True), expected.pooler_output)


def test_sounds_alone_give_their_tokens_and_their_vector(tiny_model):
    model = tiny_model(cls=MMModel, modalities=["audio"], audio_config="whisper")
    sounds = torch.randn(2, 1, 12, 8, dtype=torch.float64)
    output = model(input_features=sounds)
    assert output.last_hidden_state.shape[:2] == (2, 4) and output.pooler_output.shape == (2, 20)
    assert output.past_key_values is None
    assert_same(output.last_hidden_state[1:].tolist(), model(input_features=sounds[1:]).last_hidden_state)
