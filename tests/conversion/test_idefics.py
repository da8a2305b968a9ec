"""Idefics, the first: gated layers in a Llama, a resampler, and two tables of words, converted and back, beside the
installed class."""

# Fixtures build models whose types pyright cannot follow.

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from comparing import close
from mm import MMDataCollator, MMForConditionalGeneration, MMProcessor
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone, served, used

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "\n", *" abcdefghijklmnopqrstuvwxyz?:"]
AROUND, IMAGE = "<fake_token_around_image>", "<image>"
TEXT = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "embed_dim": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
# As published, and an odd one: no resampler, gates of one number, tied words in one table.
PARTS = {
    "usual": {
        **TEXT, "additional_vocab_size": 2, "num_hidden_layers": 4, "cross_layer_interval": 2, "qk_layer_norms": True,
        "alpha_type": "vector", "use_resampler": True, "vision_config": VISION,
        "perceiver_config": {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 2,
                             "resampler_head_dim": 10, "qk_layer_norms_perceiver": True, "use_resampler": True},
    },
    "odd": {
        **TEXT, "vocab_size": len(WORDS) + 2, "num_hidden_layers": 2, "cross_layer_interval": 1, "rms_norm_eps": 1e-3,
        "tie_word_embeddings": True, "hidden_size": 24, "num_attention_heads": 2,
        "vision_config": {**VISION, "patch_size": 4, "hidden_act": "relu", "layer_norm_eps": 1e-3},
    },
    "tied": {
        **TEXT, "additional_vocab_size": 2, "num_hidden_layers": 3, "cross_layer_interval": 3, "qk_layer_norms": True,
        "tie_word_embeddings": True, "use_resampler": True, "vision_config": VISION,
        "perceiver_config": {"resampler_n_latents": 5, "resampler_depth": 1, "resampler_n_heads": 3,
                             "resampler_head_dim": 8},
    },
}  # fmt: skip


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


ONE, TWO, THREE = picture(40, 30), picture(9, 8), picture(16, 16)
ROWS = [["what", ONE, "and", TWO, "?"], ["no picture"], [THREE, "what?"], [ONE, TWO, "or", THREE, "a", ONE]]


@pytest.fixture(params=PARTS)
def source(request, peer, saved, character_tokenizer):
    """A source with its processor: (its model, its folder, its processor)."""
    theirs = peer(transformers.IdeficsForVisionText2Text, transformers.IdeficsConfig(**PARTS[request.param]))
    folder = saved(theirs)
    tokenizer = character_tokenizer(WORDS, [AROUND, IMAGE])
    images = transformers.IdeficsImageProcessorPil(image_size=16)
    processor = transformers.IdeficsProcessor(images, tokenizer)
    processor.save_pretrained(folder)
    return theirs, folder, processor


def ours_of(row: list) -> tuple[list, str]:
    """The pictures and the text of a row."""
    return [one for one in row if not isinstance(one, str)], "".join(
        one if isinstance(one, str) else IMAGE for one in row
    )


def test_it_is_verified_and_written_back(source, tmp_path):
    _, folder, processor = source
    done = convert(folder)
    lines = verify(Checkpoint(folder), done.model.eval(), FAMILIES["idefics"])
    assert len(lines) == 3 and all("differ by" in line for line in lines)
    done.save_pretrained(tmp_path / "mm")
    assert MMProcessor.from_pretrained(tmp_path / "mm").placeholder_separator == AROUND
    convert_back(tmp_path / "mm", "idefics", tmp_path / "back")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    old, new = (transformers.AutoConfig.from_pretrained(one).to_dict() for one in (folder, tmp_path / "back"))
    assert {**old, "_name_or_path": ""} == {**new, "_name_or_path": ""}
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "back")
    wanted, same = (one(text=ROWS, return_tensors="pt") for one in (processor, again))
    assert all(torch.equal(same[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_rows_in_a_batch_have_the_pixels_ids_logits_and_tokens_of_theirs_alone(source, beams):
    theirs, folder, processor = source
    done = convert(folder)
    theirs, ours = theirs.double().eval(), done.model.double().eval()
    images, text = zip(*map(ours_of, ROWS), strict=True)
    found = done.processor(images=list(images), text=list(text), return_tensors="pt")
    pixels, there = found["pixel_values"], found["pixel_attention_mask"]
    found["pixel_values"] = pixels.double()
    search = {"num_beams": beams, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    logits, written = ours(**found).logits, ours.generate(**found, **search)
    for row, asked in enumerate(ROWS):
        wanted = processor(text=[asked], return_tensors="pt")
        length = wanted["input_ids"].shape[1]
        assert torch.equal(found["input_ids"][row, -length:], wanted["input_ids"][0])
        if images[row]:
            close(pixels[row][there[row]], wanted["pixel_values"][0].float(), 1e-5)
        wanted["pixel_values"] = wanted["pixel_values"].double()
        close(logits[row, -length:], theirs(**wanted).logits[0], 1e-5)  # their norms compute in fp32
        same = theirs.generate(**wanted, **search)[0, length:]
        assert torch.equal(written[row, -len(same) :], same)
        alone = done.processor(images=[images[row]], text=[text[row]], return_tensors="pt")
        alone["pixel_values"] = alone["pixel_values"].double() if images[row] else None
        given = {name: value for name, value in alone.items() if value is not None}
        close(logits[row, -length:], ours(**given).logits[0], 1e-6)


def test_separators_stand_once_around_pictures_and_are_learned_with(source):
    done = convert(source[1])
    samples = [{"images": [ONE, TWO], "text": f"a{IMAGE}{IMAGE}b", "suffix": "c"}, {"text": "a", "suffix": "b"}]
    batch = MMDataCollator(done.processor)(samples)
    words = done.processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert words == ["<s>", "a", AROUND, IMAGE, AROUND, IMAGE, AROUND, "b", "c", "</s>"]
    done.model(**batch).loss.backward()
    gates = [layer.mlp_gate.grad for layer in done.model.model.language_model.layers if layer.is_cross_only]
    assert all(gate.abs().sum() > 0 for gate in gates)
    with pytest.raises(ValueError, match="placeholder_separator"):
        MMProcessor(tokenizer=done.processor.tokenizer, placeholder_separator=AROUND)(text="a")


def test_what_does_not_fit_is_refused(source, tmp_path):
    folder = source[1]
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, "cross_layer_interval": 5}), encoding="utf-8")
    with pytest.raises(ValueError, match="does not divide"):
        convert(folder)
    with pytest.raises(ValueError, match="not one before every"):
        FAMILIES["idefics"].layout(MMForConditionalGeneration(transformers.AutoConfig.for_model("mm")))


TEMPLATE = (
    "{% for m in messages %}{% for b in m['content'] %}{% if b['type'] == 'image' %}<image>{% else %}{{ b['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(source, seed):
    rows_alone(convert(source[1]), IMAGE, seed=seed)


def test_it_is_served(source):
    done = convert(source[1])
    done.processor.chat_template = TEMPLATE
    served(done, [ONE, TWO])


@pytest.mark.slow
def test_trainer_a_pipeline_and_the_hub_take_it(source, hub, tmp_path):
    used(convert(source[1]), hub, tmp_path, ONE, TEMPLATE)
