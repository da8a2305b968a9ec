"""Numbers that make no sense are refused where a processor is made, loaded or called, in words."""

import json
import math

import numpy as np
import pytest
from transformers import ASTFeatureExtractor, AutoTokenizer, ViTImageProcessor, Wav2Vec2FeatureExtractor

from mm import MMImageProcessorPil, MMProcessor

PICTURE = np.zeros((8, 8, 3), np.uint8)
PIXELS = [
    ("image_mean", [math.nan] * 3), ("image_mean", math.inf), ("image_std", [math.inf] * 3), ("image_std", [0.0] * 3),
    ("image_std", 0.0), ("image_std", [1.0, -1.0, 1.0]), ("rescale_factor", math.nan), ("rescale_factor", -math.inf),
    ("rescale_factor", 0.0), ("rescale_factor", math.inf),
]  # fmt: skip
OTHERS = [
    ("size", {"height": 0, "width": 5}), ("crop_size", {"height": -1, "width": 3}), ("content_margin", math.nan),
    ("augmentation", {"crop": [math.nan, 1.0]}), ("augmentation", {"rotation": math.inf}),
    ("augmentation", {"operations": math.nan}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [*PIXELS, *OTHERS])
def test_an_image_processor_refuses_it_when_made_and_called(name, value):
    with pytest.raises(ValueError, match="accepted are"):
        MMImageProcessorPil(**{name: value})
    if name != "augmentation":
        with pytest.raises(ValueError, match="accepted are"):
            MMImageProcessorPil()(PICTURE, **{name: value})


@pytest.mark.parametrize(("name", "value"), PIXELS)
def test_so_does_a_processor_of_a_foreign_image_processor(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*; accepted are finite numbers"):
        MMProcessor(ViTImageProcessor(**{name: value}))


@pytest.mark.parametrize(("name", "value"), PIXELS)
def test_and_one_that_is_loaded(name, value, tmp_path):
    MMProcessor(MMImageProcessorPil(), AutoTokenizer.from_pretrained("checkpoints/mm-tiny")).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    saved = json.loads(file.read_text())
    saved["image_processor"][name] = value
    file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=f"{name}=.*; accepted are finite numbers"):
        MMProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(("name", "value"), PIXELS)
def test_and_one_whose_setting_is_changed_later(name, value):
    processor = MMProcessor(MMImageProcessorPil())
    setattr(processor.image_processor, name, value)
    with pytest.raises(ValueError, match=f"{name}=.*; accepted are finite numbers"):
        processor(images=PICTURE)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_frames": math.nan}, {"frame_sampling": math.nan}, {"frame_jitter": math.nan}, {"fixed_length": math.nan},
        {"add_eos_token": math.nan}, {"audio_augmentation": {"time_width": math.nan}}, {"fixed_length": 0},
    ],
)  # fmt: skip
def test_a_processor_refuses_its_own(settings):
    with pytest.raises(ValueError, match="accepted are"):
        MMProcessor(MMImageProcessorPil(), **settings)


@pytest.mark.parametrize("name", ["max_seconds", "max_pixels", "max_bytes", "max_batch_pixels"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, 0])
def test_a_call_refuses_limits(name, value):
    with pytest.raises(ValueError, match=f"{name}=.*; accepted are numbers above 0"):
        MMProcessor(MMImageProcessorPil())(images=PICTURE, **{name: value})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ASTFeatureExtractor, "mean", math.nan), (ASTFeatureExtractor, "std", 0.0),
        (ASTFeatureExtractor, "std", math.inf), (Wav2Vec2FeatureExtractor, "sampling_rate", 0),
        (Wav2Vec2FeatureExtractor, "padding_value", math.nan),
    ],
)  # fmt: skip
def test_feature_extractors_are_looked_at_too(kind, name, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}: {name}={value!r}; accepted are finite numbers"):
        MMProcessor(None, None, kind(**{name: value}))


@pytest.mark.parametrize(
    ("fields", "prompt_to", "side"),
    [
        ({}, "decoder", "text"),
        ({}, "context", "text"),
        ({"text_encoder_config": "tiny"}, "decoder", "context_text"),
        ({"share_text_encoder": True}, "decoder", "text"),
        ({"share_text_encoder": True}, "context", "context_text"),
        ({"share_text_encoder": True, "fusion_type": "co_attention"}, "decoder", "context_text"),
    ],
)
def test_a_prompt_goes_where_the_model_reads_it(tiny_config, fields, prompt_to, side):
    tokenizer = AutoTokenizer.from_pretrained("checkpoints/mm-tiny")
    assert (
        MMProcessor(MMImageProcessorPil(), tokenizer, prompt_to=prompt_to).prompt_side(tiny_config(**fields)) == side
    )
