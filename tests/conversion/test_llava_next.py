"""LLaVA-NeXT: tiles joined to one grid with ends of rows, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from comparing import close
from mm import MMDataCollator, MMProcessor
from mm.cli.ask import ask
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.modeling_mm.core.input_checks import MediaItems
from mm.modeling_mm.towers.tiles import join_tiles
from mm.processing.images.tiles import GridTiles
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone, served, used

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "\n", *" abcdefghijklmnopqrstuvwxyz?:"]
IMAGE = len(WORDS)
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 24,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": IMAGE + 2, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 300, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MISTRAL, QWEN2 = transformers.MistralConfig(**TEXT, sliding_window=None), transformers.Qwen2Config(**TEXT)
PARTS = {
    "clip and mistral": (transformers.CLIPVisionConfig(**VISION), MISTRAL, "default", -2),
    "siglip and qwen2": (transformers.SiglipVisionConfig(**VISION), QWEN2, "full", -1),
}
RESOLUTIONS = [[24, 48], [48, 24], [48, 48], [72, 24]]
TEMPLATE = "{% for m in messages %}{% for b in m['content'] %}{{ '<image>' if b['type'] == 'image' else b['text'] }}{% endfor %}{% endfor %}"  # noqa: E501


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [[picture(40, 90), picture(9, 8)], [picture(70, 20)], [picture(31, 29), picture(25, 70), picture(24, 24)]]
PROMPTS = ["what is <image> and <image>?", "<image>what?", "<image><image>or<image>"]


@pytest.fixture(params=PARTS)
def source(request, peer, saved, character_tokenizer):
    """A source with its processor: (its model, its folder, its processor)."""
    vision, text, strategy, layer = PARTS[request.param]
    config = transformers.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_select_strategy=strategy,
        vision_feature_layer=layer, image_grid_pinpoints=RESOLUTIONS,
    )  # fmt: skip
    theirs = peer(transformers.LlavaNextForConditionalGeneration, config)
    folder = saved(theirs)
    tokenizer = character_tokenizer(WORDS, ["<image>"])
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=RESOLUTIONS
    )
    reads = {"patch_size": 8, "vision_feature_select_strategy": strategy}
    more = {"num_additional_image_tokens": int(strategy == "default"), "chat_template": TEMPLATE}
    processor = transformers.LlavaNextProcessor(images, tokenizer, **reads, **more)
    if strategy == "full":  # theirs counts a token too few only under "default"
        processor.num_additional_image_tokens = 0
    processor.save_pretrained(folder)
    return theirs, folder, processor


def test_it_is_verified_and_written_back(source, tmp_path):
    _, folder, processor = source
    done = convert(folder)
    lines = verify(Checkpoint(folder), done.model.eval(), FAMILIES["llava_next"])
    assert len(lines) == 2 and all("differ by" in line for line in lines)
    done.save_pretrained(tmp_path / "mm")
    assert MMProcessor.from_pretrained(tmp_path / "mm").tiles == done.processor.tiles
    convert_back(tmp_path / "mm", "llava_next", tmp_path / "back")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    read = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    assert read["image_grid_pinpoints"] == RESOLUTIONS
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "back")
    flat = {"images": [one for row in PICTURES for one in row], "text": PROMPTS, "padding": True}
    wanted, same = (one(**flat, return_tensors="pt") for one in (processor, again))
    assert all(torch.equal(same[name], wanted[name]) for name in wanted) and again.chat_template == TEMPLATE


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_ids_tiles_logits_and_tokens_are_theirs_and_rows_alone_those_of_the_batch(source, beams):
    theirs, folder, processor = source
    done = convert(folder)
    theirs, ours = theirs.double().eval(), done.model.double().eval()
    found = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    flat = [one for row in PICTURES for one in row]
    wanted = processor(images=flat, text=PROMPTS, padding=True, return_tensors="pt")
    for name in ("input_ids", "pixel_values", "image_sizes"):
        assert name in wanted
    here, there = ([row[row > 1] for row in one["input_ids"]] for one in (found, wanted))
    assert all(torch.equal(*pair) for pair in zip(here, there, strict=True))
    tiles = found["pixel_values"][found["pixel_attention_mask"]]
    numbers = [1 + rows * columns for row in found["image_grids"].tolist() for rows, columns, *_ in row if rows]
    cut = torch.cat([one[:number] for one, number in zip(wanted["pixel_values"], numbers, strict=True)])
    close(tiles, cut, 1e-5)
    given = {**wanted, "input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}
    given["pixel_values"] = torch.zeros(len(numbers), max(numbers), *cut.shape[1:])
    for place, (part, number) in enumerate(zip(tiles.split(numbers), numbers, strict=True)):
        given["pixel_values"][place, :number] = part
    given["pixel_values"], found["pixel_values"] = given["pixel_values"].double(), found["pixel_values"].double()
    real = found["attention_mask"].bool()
    logits = ours(**found).logits
    close(logits[real], theirs(**given).logits[real], 1e-5)  # their turning of positions is fp32
    search = {"num_beams": beams, "max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE, 2]}
    assert torch.equal(ours.generate(**found, **search), theirs.generate(**given, **search))
    for row in range(len(PROMPTS) if beams == 1 else 0):
        alone = done.processor(images=[PICTURES[row]], text=[PROMPTS[row]], return_tensors="pt")
        alone["pixel_values"] = alone["pixel_values"].double()
        close(logits[row, -alone["input_ids"].shape[1] :], ours(**alone).logits[0], 1e-10)


def test_a_model_that_came_from_nowhere_goes_back_with_its_processors_resolutions(source, tmp_path):
    done = convert(source[1])
    done.model.config.converted_from = None
    done.processor.tiles = {"size": 24, "resolutions": [[48, 72]]}
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "llava_next", tmp_path / "back")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "back")
    images = transformers.AutoImageProcessor.from_pretrained(tmp_path / "back")
    assert config.image_grid_pinpoints == images.image_grid_pinpoints == [[48, 72]]
    assert convert(tmp_path / "back").processor.tiles["resolutions"] == [[48, 72]]
    with pytest.raises(ValueError, match="--to llava_next"):
        convert_back(tmp_path / "mm", "llava", tmp_path / "other")


def test_it_is_learned_from_asked_and_read_by_a_pipeline(source, tmp_path):
    done = convert(source[1])
    done.processor.chat_template = None
    done.save_pretrained(tmp_path)
    path = tmp_path / "a.png"
    PICTURES[0][0].save(path)
    samples = [{"images": PICTURES[0], "text": PROMPTS[0], "suffix": "a"}, {"text": "a", "suffix": "b", "image": None}]
    collate = MMDataCollator(done.processor)
    loss = done.model(**collate(samples)).loss
    loss.backward()
    assert done.model.model.image_newline.grad.abs().sum() > 0
    alone = [done.model(**collate([sample])).loss.item() for sample in samples]  # two learned tokens each
    close(loss, torch.tensor(sum(alone) / 2))
    told: list[str] = []
    ask(path, ["what?"], told.append, model=str(tmp_path), max_new_tokens=3)
    write = transformers.pipeline("mm-vqa", model=str(tmp_path))
    answer = write(image=str(path), question="what?", max_new_tokens=3)[0]["answer"]
    assert told == [f"what?\t{' '.join(answer.split())}"]


def test_grids_that_do_not_fit_are_refused(source):
    done = convert(source[1])
    model, found = done.model, done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    grids = found.pop("image_grids")
    with pytest.raises(ValueError, match="image_grids was not given"):
        model(**found)
    with pytest.raises(ValueError, match=r"must be int64 \(3, M, 4\)"):
        model(**found, image_grids=grids[:, 0])
    with pytest.raises(ValueError, match="context 0 has 6 tiles|context 0 has 7 tiles|context 0 has 8 tiles"):
        model(**found, image_grids=torch.where(grids == grids[0, 0], grids, 0))
    odd = grids.clone()
    odd[0, 0, 2] -= 1
    with pytest.raises(ValueError, match="less by even numbers"):
        model(**found, image_grids=odd)
    for settings in ({"size": 24}, {"size": 24, "resolutions": []}, {"size": 24, "resolutions": [[24, 30]]}):
        with pytest.raises(ValueError, match="tiles=|resolutions"):
            MMProcessor(done.processor.image_processor, done.processor.tokenizer, placeholders={"image": "<image>"},
                        tokens_per_item={"image": 9}, tiles=settings)  # fmt: skip


def test_a_line_whose_height_is_all_padding_keeps_its_whole():
    items, line = MediaItems(torch.rand(1, 3, 9, 4)), torch.tensor([[[2, 1, 0, 3]]])
    config: Any = SimpleNamespace(pixel_shuffle=1, vision_config=SimpleNamespace(patch_grid=(3, 3)))
    joined = join_tiles(items, line, torch.ones(4), config)
    assert torch.equal(joined.values[0, 0], items.values[0, 0]) and bool(joined.mask.all())


def test_resolutions_and_kept_tokens_are_theirs_for_any_size():
    from transformers.image_processing_utils import select_best_resolution

    tiles, theirs = GridTiles.of({"size": 24, "resolutions": RESOLUTIONS}), transformers.LlavaNextProcessor
    for height in range(1, 120, 7):
        for width in range(1, 120, 5):
            best = tiles.best(height, width)
            assert best == select_best_resolution((height, width), RESOLUTIONS)
            scales = best[0] // 24, best[1] // 24
            kept, ends = theirs._get_unpadded_features(None, height, width, 3, 3, *scales)
            assert tiles.number((*scales, height, width), 9) == 9 + kept + ends


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_words_have_one_map_over_each_whole_picture(source, method):
    done = convert(source[1])
    model, processor, given = done.model.eval(), done.processor, {"images": [PICTURES[0]], "text": [PROMPTS[0]]}
    inputs = processor(**given, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    (found,) = model.explain(inputs, written, processor=processor, pictures=[PICTURES[0]], method=method)
    assert [item.number for item in found.items] == [0, 1] and len(found.words) >= 1
    for item, one in zip(found.items, PICTURES[0], strict=True):
        maps = item.over_picture()
        assert maps.shape == (len(found.words), one.height, one.width)
        close(torch.tensor(maps).sum((1, 2)), torch.ones(len(maps)), 1e-4)
    assert any(item.weights.std() > 0 for item in found.items)
    with pytest.raises(ValueError, match="cut into .* tiles, but inputs holds"):
        model.explain(inputs, written, processor=processor, pictures=[PICTURES[0][:1]], method=method)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(source, seed):
    rows_alone(convert(source[1]), "<image>", seed=seed)


def test_it_is_served(source):
    done = convert(source[1])
    done.processor.chat_template = TEMPLATE
    served(done, [PICTURES[0][0], PICTURES[1][0]])


@pytest.mark.slow
def test_trainer_a_pipeline_and_the_hub_take_it(source, hub, tmp_path):
    used(convert(source[1]), hub, tmp_path, PICTURES[0][0], TEMPLATE)
