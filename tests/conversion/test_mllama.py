"""Llama 3.2 Vision: tiles read together, and layers that only read pictures, converted and back, beside the installed
class."""

# Fixtures build models whose types pyright cannot follow.

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

from comparing import close
from mm import MMDataCollator, MMForConditionalGeneration, MMProcessor
from mm.cli.ask import ask
from mm.cli.caption import caption
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.verify import verify
from mm.exporting.onnx import export_onnx
from mm.processing.images.tiles import CanvasTiles
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone, served, used

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "<|python_tag|>", "\n", *" abcdefghijklmnopqrstuvwxyz?:"]
IMAGE = len(WORDS)
TEXT = {
    "vocab_size": IMAGE, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {"intermediate_size": 40, "image_size": 24, "patch_size": 8}
# The published shape, and an odd one: three tiles, other widths, heads and layers.
PARTS = {
    "usual": (
        {**VISION, "hidden_size": 24, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 3,
         "intermediate_layers_indices": [0, 2], "vision_output_dim": 72, "max_num_tiles": 4},
        {**TEXT, "num_hidden_layers": 5, "num_key_value_heads": 2, "cross_attention_layers": [1, 4],
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "odd": (
        {**VISION, "hidden_size": 20, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
         "intermediate_layers_indices": [1], "vision_output_dim": 40, "max_num_tiles": 3, "hidden_act": "relu",
         "image_size": 16, "patch_size": 4, "num_channels": 3,
         "supported_aspect_ratios": [list(pair) for pair in get_all_supported_aspect_ratios(3)]},
        {**TEXT, "hidden_size": 24, "num_hidden_layers": 3, "num_key_value_heads": 4, "cross_attention_layers": [0],
         "rms_norm_eps": 1e-3},
    ),
}  # fmt: skip
TEMPLATE = "{{ bos_token }}{% for m in messages %}{% for b in m['content'] %}{{ '<|image|>' if b['type'] == 'image' else b['text'] }}{% endfor %}{% endfor %}"  # noqa: E501


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [
    [picture(40, 90), picture(9, 8)], [], [picture(70, 20)],
    [picture(31, 29), picture(25, 70), picture(24, 24), picture(90, 31)],
]  # fmt: skip
PROMPTS = [
    "what is <|image|> and <|image|>?",
    "no picture",
    "<|image|>what?",
    "<|image|><|image|>or <|image|>a<|image|>",
]


@pytest.fixture(params=PARTS)
def source(request, peer, saved, character_tokenizer):
    """A source with its processor: (its model, its folder, its processor)."""
    vision, text = PARTS[request.param]
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    theirs = peer(transformers.MllamaForConditionalGeneration, config)
    folder = saved(theirs)
    tokenizer = character_tokenizer(WORDS, ["<|image|>"])
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    images = transformers.MllamaImageProcessorPil(size=size, max_image_tiles=vision["max_num_tiles"])
    processor = transformers.MllamaProcessor(images, tokenizer, chat_template=TEMPLATE)
    processor.save_pretrained(folder)
    return theirs, folder, processor


def test_it_is_verified_and_written_back(source, tmp_path):
    _, folder, processor = source
    done = convert(folder)
    lines = verify(Checkpoint(folder), done.model.eval(), FAMILIES["mllama"])
    assert len(lines) == 2 and all("differ by" in line for line in lines)
    done.save_pretrained(tmp_path / "mm")
    assert MMProcessor.from_pretrained(tmp_path / "mm").tiles == done.processor.tiles
    convert_back(tmp_path / "mm", "mllama", tmp_path / "back")
    before, after = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    old, new = (transformers.AutoConfig.from_pretrained(one).to_dict() for one in (folder, tmp_path / "back"))
    assert {**old, "_name_or_path": ""} == {**new, "_name_or_path": ""}
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "back")
    chosen = {"images": [PICTURES[0], PICTURES[3]], "text": [PROMPTS[0], PROMPTS[3]], "padding": True}
    wanted, same = (one(**chosen, return_tensors="pt") for one in (processor, again))
    assert all(torch.equal(same[name], wanted[name]) for name in wanted) and again.chat_template == TEMPLATE


def asked(processor, row: int) -> dict:
    """What their processor makes of one row."""
    held = PICTURES[row]
    return dict(processor(images=[held] if held else None, text=[PROMPTS[row]], return_tensors="pt"))


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_rows_in_a_batch_have_the_pixels_ids_logits_and_tokens_of_theirs_alone(source, beams):
    """Theirs alone: in a batch their tokens before a picture read the padding of other rows."""
    theirs, folder, processor = source
    done = convert(folder)
    theirs, ours = theirs.double().eval(), done.model.double().eval()
    found = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    found["pixel_values"] = found["pixel_values"].double()
    logits, search = ours(**found).logits, {"num_beams": beams, "max_new_tokens": 5, "do_sample": False}
    written = ours.generate(**found, **search, eos_token_id=None)
    for row in range(len(PROMPTS)):
        wanted = asked(processor, row)
        length = wanted["input_ids"].shape[1]
        assert torch.equal(found["input_ids"][row, -length:], wanted["input_ids"][0])
        if PICTURES[row]:
            tiles = found["pixel_values"][row][found["pixel_attention_mask"][row]]
            number = found["image_grids"][row].prod(-1)
            cut = [one[:tiles] for one, tiles in zip(wanted["pixel_values"][0], number.tolist(), strict=False)]
            close(tiles.float(), torch.cat(cut), 1.5 / 255 / 0.26)  # a grey level, of another library's resizing
            canvas = torch.zeros_like(wanted["pixel_values"][0]).double()
            for place, part in enumerate(tiles.split(number[number > 0].tolist())):
                canvas[place, : len(part)] = part
            wanted["pixel_values"] = canvas[None]
        close(logits[row, -length:], theirs(**wanted).logits[0], 1e-5)  # their turning of positions is fp32
        same = theirs.generate(**wanted, **search, eos_token_id=None)[0, length:]
        assert torch.equal(written[row, -len(same) :], same)


@torch.no_grad()
def test_rows_do_not_depend_on_the_batch_and_beams_not_on_the_cache(source, caplog):
    done = convert(source[1])
    found, model = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt"), done.model.eval()
    first = done.processor(images=[PICTURES[2]], text=[PROMPTS[2]], return_tensors="pt")
    model.generate(**first, max_new_tokens=1)
    assert "begins with bos_token_id" not in caplog.text  # pictures stand before it
    logits = model(**found).logits
    for row in range(len(PROMPTS)):
        alone = done.processor(images=[PICTURES[row]], text=[PROMPTS[row]], return_tensors="pt")
        close(logits[row, -alone["input_ids"].shape[1] :], model(**alone).logits[0])
    search = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**found, **search), model.generate(**found, **search, use_cache=False))


@torch.no_grad()
def test_answers_are_ranked_by_what_their_prompt_reads_and_pictures_have_features(source):
    done = convert(source[1])
    model, answers = done.model.double().eval(), torch.tensor([[8, 9, 2], [11, 2, 2]])
    found = done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    found["pixel_values"] = found["pixel_values"].double()
    ranked = model.rank_answers(answers, **found, normalize="sum", batch_size=2)
    for place, answer in enumerate(answers):
        more = answer.expand(len(PROMPTS), -1)
        ids = torch.cat([found["input_ids"], more], dim=1)
        labels = torch.cat([torch.full_like(found["input_ids"], -100), more], dim=1)
        mask = torch.cat([found["attention_mask"], torch.ones_like(more)], dim=1)
        rest = {name: value for name, value in found.items() if name not in ("input_ids", "attention_mask")}
        close(ranked.scores[:, place], model.score(ids, mask, labels, **rest).scores, 1e-6)
    media = {name: found[name] for name in ("pixel_values", "pixel_attention_mask", "image_grids")}
    features = model.get_image_features(**media)
    assert torch.equal(features.pooler_output, model.encode_context(**media).last_hidden_state)


def test_sizes_are_theirs_for_any_picture():
    from transformers.models.mllama import image_processing_pil_mllama as theirs

    for most in (1, 3, 4):
        tiles = CanvasTiles.of({"size": 24, "max_tiles": most})
        for height in range(1, 130, 7):
            for width in range(1, 130, 5):
                rows, columns = tiles.best(height, width)
                canvas = theirs.get_optimal_tiled_canvas(height, width, most, 24)
                assert (rows * 24, columns * 24) == tuple(canvas)
                inside = theirs.get_image_size_fit_to_canvas(height, width, *canvas, 24)
                assert tiles._inside(width, height, columns * 24, rows * 24) == tuple(inside[::-1])


def test_it_is_learned_from_asked_and_read_by_a_pipeline(source, tmp_path):
    done = convert(source[1])
    done.save_pretrained(tmp_path)
    path = tmp_path / "a.png"
    PICTURES[0][0].save(path)
    samples = [{"images": PICTURES[0], "text": PROMPTS[0], "suffix": "a"}, {"text": "a", "suffix": "b", "image": None}]
    collate = MMDataCollator(done.processor)
    loss = done.model(**collate(samples)).loss
    loss.backward()
    assert done.model.model.vision_tower.tiles.before.gate.grad.abs() > 0
    alone = [done.model(**collate([sample])).loss.item() for sample in samples]  # two learned tokens each
    close(loss, torch.tensor(sum(alone) / 2))
    told: list[str] = []
    ask(path, ["what?"], told.append, model=str(tmp_path), max_new_tokens=3)
    write = transformers.pipeline("mm-vqa", model=str(tmp_path))
    answer = write(image=str(path), question="what?", max_new_tokens=3)[0]["answer"]
    assert told == [f"what?\t{' '.join(answer.split())}"]
    (tmp_path / "answers.txt").write_text("yes\nno\n", encoding="utf-8")
    ranked: list[str] = []
    ask(path, ["what?"], ranked.append, model=str(tmp_path), answers=tmp_path / "answers.txt")
    assert any("yes" in line for line in ranked) and any("no" in line for line in ranked)
    (found,) = caption([path], model=str(tmp_path), max_new_tokens=3)
    assert isinstance(found.caption, str)


def test_what_does_not_fit_is_refused(source, tmp_path):
    _, folder, _ = source
    done = convert(folder)
    model, found = done.model, done.processor(images=PICTURES, text=PROMPTS, return_tensors="pt")
    grids, most = found.pop("image_grids"), done.model.config.max_tiles
    with pytest.raises(ValueError, match="image_grids was not given"):
        model(**found)
    with pytest.raises(ValueError, match=r"must be int64 \(4, M, 2\)"):
        model(**found, image_grids=grids[:, 0])
    with pytest.raises(ValueError, match=f"at most max_tiles={most}"):
        model(**found, image_grids=torch.where(grids == grids[0, 0], most + 1, grids))
    with pytest.raises(ValueError, match="context 0 has . tiles, and its image_grids name"):
        model(**found, image_grids=torch.where(torch.arange(4)[:, None] == 0, 0, grids))
    labels = torch.full_like(found["input_ids"], IMAGE)
    with pytest.raises(ValueError, match="without unwritten_tokens"):
        model(**found, image_grids=grids, labels=labels)
    with pytest.raises(ValueError, match="cannot get one new size"):
        model.resize_token_embeddings(99)
    with pytest.raises(ValueError, match="max_tiles: a tower that reads the tiles"):
        export_onnx(model, None, tmp_path / "onnx")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings["vision_config"]["supported_aspect_ratios"] = [[1, 1], [2, 1]]
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match="supported_aspect_ratios"):
        convert(folder)
    with pytest.raises(ValueError, match="reads no tiles together"):
        FAMILIES["mllama"].layout(MMForConditionalGeneration(model.config.preset("mm-tiny")))


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_words_have_one_map_over_each_whole_picture(source, method):
    done = convert(source[1])
    model, processor, given = done.model.eval(), done.processor, {"images": [PICTURES[0]], "text": [PROMPTS[0]]}
    inputs = processor(**given, return_tensors="pt")
    told = processor.tokenizer.batch_decode([[number] for number in range(model.config.written_tokens)])
    no_words = [number for number, word in enumerate(told) if not word.strip().isalpha()]
    written = model.generate(**inputs, max_new_tokens=2, suppress_tokens=no_words, do_sample=False)
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
    rows_alone(convert(source[1]), "<|image|>", seed=seed)


def test_it_is_served(source):
    done = convert(source[1])
    done.processor.chat_template = TEMPLATE
    served(done, [PICTURES[0][0], PICTURES[3][1]])


@pytest.mark.slow
def test_trainer_a_pipeline_and_the_hub_take_it(source, hub, tmp_path):
    used(convert(source[1]), hub, tmp_path, PICTURES[0][0], TEMPLATE)
