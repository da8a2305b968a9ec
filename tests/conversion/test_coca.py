"""CoCa in open_clip's layout, converted and back, beside open_clip itself (fetched without its dependencies)."""

# Fixtures build models whose types pyright cannot follow; open_clip is there in its fixture alone.

import importlib
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPTokenizer

import mm
from mm import MMProcessor
from mm.conversion_scripts import coca_original
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back, run
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint

pytestmark = pytest.mark.slow
TEXT = {"context_length": 10, "vocab_size": 40, "width": 32, "heads": 4, "layers": 2}
COCA_TEXT = {**TEXT, "embed_cls": True, "output_tokens": True}
VISION = {"layers": 2, "width": 48, "head_width": 12, "patch_size": 8, "image_size": 24, "attn_pooler_heads": 4}
VISION |= {"attentional_pool": True, "output_tokens": True, "attn_pooler_queries": 6}
ODD = {"context_length": 7, "vocab_size": 31, "width": 24, "heads": 3, "layers": 1}
CONFIGS = {
    "usual": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": COCA_TEXT, "multimodal_cfg": TEXT},
    "odd": {  # a fused pooler, other depths, another activation, a bias
        "embed_dim": 24,
        "vision_cfg": {**VISION, "width": 24, "mlp_ratio": 3.0, "attn_pooler_heads": 2, "attn_pooler_queries": 3},
        "text_cfg": {**ODD, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**ODD, "layers": 3},
        "quick_gelu": True,
        "init_logit_bias": -2.0,
    },
}
LENGTHS = (3, 5, 0)  # of texts, 0 for one without padding


@pytest.fixture(params=CONFIGS)
def pair(request, open_clip, tmp_path):
    """open_clip's model in fp64, so that no sum of a conversion rounds; its directory, and its conversion."""
    return made(open_clip, CONFIGS[request.param], tmp_path, torch.float64)


def made(open_clip, settings, tmp_path, dtype):
    torch.manual_seed(0)
    theirs = open_clip.CoCa(**settings)
    scatter(theirs.double())
    theirs = theirs.to(dtype)
    source = tmp_path / "source"
    source.mkdir()
    tensors = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(tensors, source / "open_clip_model.safetensors", metadata={"format": "pt"})
    named = {name: value for name, value in settings.items() if name != "init_logit_bias"}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**named, "custom_text": True}}))
    return theirs.eval(), source, convert(source)


def scatter(model: nn.Module) -> None:
    """Weights under which every tensor counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim:
                weight.copy_(0.3 * noise if weight.ndim == 1 else noise * weight[0].numel() ** -0.5)


def inputs(theirs, dtype=torch.float64):
    """Pictures, texts padded to the whole context as open_clip's are, and their mask."""
    generator = torch.Generator().manual_seed(1)
    words, context = theirs.text.vocab_size, theirs.text.context_length
    ids = torch.randint(1, words - 2, (len(LENGTHS), context), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(LENGTHS):
        length = length or context
        ids[row, 0], ids[row, length - 1] = words - 2, words - 1
        ids[row, length:], mask[row, length:] = 0, 0
    side = theirs.visual.image_size
    pixels = torch.randn(len(LENGTHS), 3, *side, generator=generator, dtype=torch.float64)
    return pixels.to(dtype), ids, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_embeddings_and_logits_are_equal(pair, assert_close, dtype):
    theirs, ours = pair[0].to(dtype), pair[2].model.to(dtype)
    pixels, ids, mask = inputs(theirs, dtype)
    there = theirs(pixels, ids, output_labels=False)
    here = ours(ids, mask, pixel_values=pixels)
    assert_close(here.image_embeds, there["image_features"])
    assert_close(here.text_embeds, there["text_features"])
    assert_close(here.logits[mask.bool()], there["logits"][mask.bool()])
    memory = ours.encode_context(pixel_values=pixels).last_hidden_state
    assert_close(memory, theirs._encode_image(pixels)[1])
    states = ours.model.get_text_features(ids, mask).last_hidden_state
    assert_close(states[mask.bool()], theirs._encode_text(ids)[1][mask.bool()])


@torch.no_grad()
def test_the_mask_as_it_was_meant_is_the_other_setting(pair, assert_close):
    """open_clip has it as an attribute of the text tower, not in its config."""
    theirs, ours = pair[0], pair[2].model
    pixels, ids, mask = inputs(theirs)
    before = ours(ids, mask).text_embeds
    theirs.text.correct_cls_mask, ours.config.text_config.unimodal_cls = True, "text"
    here, there = ours(ids, mask).text_embeds, theirs.encode_text(ids)
    assert_close(here, there)
    differs = (here - before).abs().amax(1) > 1e-3
    assert differs.tolist() == [length > 0 for length in LENGTHS]  # without padding both masks are one


def test_loss_and_every_gradient_are_equal(pair, open_clip, assert_close, assert_gradients):
    theirs, source, done = pair
    pixels, ids, mask = inputs(theirs)
    there = theirs(pixels, ids)
    loss = importlib.import_module("open_clip.loss").CoCaLoss(caption_loss_weight=2, clip_loss_weight=1)
    names = ("image_features", "text_features", "logits", "labels", "logit_scale")
    contrastive, caption = loss(**{name: there[name] for name in names})
    here = done.model(ids, mask, pixel_values=pixels, return_loss=True)
    assert_close(here.loss, contrastive + caption)
    here.loss.backward()
    (contrastive + caption).backward()
    places = theirs.text.positional_embedding.grad
    token = done.model.model.language_model.unimodal.cls_token.grad[0, 0]
    assert_close(places[-1], token)  # the last place is in the token here
    places[-1] = 0
    assert_gradients(theirs, done.model, source, "coca")


@torch.no_grad()
def test_the_states_of_every_layer_are_equal(pair, states_of, assert_close):
    theirs, ours = pair[0], pair[2].model
    pixels, ids, mask = inputs(theirs)
    decoder, stack = theirs.text_decoder, ours.model.language_model
    blocks = [*theirs.visual.transformer.resblocks, *theirs.text.transformer.resblocks]
    blocks += [block for two in zip(decoder.resblocks, decoder.cross_attn, strict=True) for block in two]
    there = states_of(blocks, lambda: theirs(pixels, ids, output_labels=False))
    here = states_of([*ours.model.vision_tower.layers, *stack.layers], lambda: ours(ids, mask, pixel_values=pixels))
    seen, real = len(ours.model.vision_tower.layers), mask.bool()
    for one, two in zip(here[:seen], there[:seen], strict=True):
        assert_close(one, two)
    for one, two in zip(here[seen:], there[seen:], strict=True):
        assert_close(one[:, : ids.shape[1]][real], two[:, : ids.shape[1]][real])


@torch.no_grad()
def test_what_a_row_gets_depends_on_no_other_row_and_no_padding(pair, assert_close):
    theirs, ours = pair[0], pair[2].model
    pixels, ids, mask = inputs(theirs)
    together = ours(ids, mask, pixel_values=pixels)
    for row in range(len(ids)):
        length = int(mask[row].sum())
        alone = ours(ids[row : row + 1, :length], pixel_values=pixels[row : row + 1])
        assert_close(alone.logits[0], together.logits[row, :length])
        assert_close(alone.text_embeds[0], together.text_embeds[row])
        assert_close(alone.image_embeds[0], together.image_embeds[row])


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_the_same_tokens_are_written(pair, written_by, tmp_path, beams):
    """open_clip's generate() needs a scorer that Transformers has no more, and searches in groups of beams; so
    Transformers' own search writes with its logits. The id 0 is padding to it wherever it stands."""
    theirs, source, done = pair
    done.save_pretrained(tmp_path / "mm")
    ours = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "mm", dtype=torch.float64)
    pixels, ids, _ = inputs(theirs)
    words = theirs.text.vocab_size

    def logits_of(rows):
        seen = pixels.repeat_interleave(len(rows) // len(pixels), dim=0)
        return theirs(seen, rows, output_labels=False)["logits"]

    settings = {
        "num_beams": beams, "max_new_tokens": theirs.text.context_length - 2, "do_sample": False,
        "suppress_tokens": [0], "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip
    there = written_by(logits_of, ids[:, :1], words, **settings)
    assert torch.equal(ours.generate(pixel_values=pixels, **settings), there)
    assert ours.generation_config.pad_token_id == words - 1  # and not "!"


def test_back_every_tensor_is_bit_equal_and_open_clip_loads_it(pair, open_clip, tmp_path):
    theirs, source, done = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "coca", tmp_path / "back")
    before, after = (load_file(folder / "open_clip_model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    settings = json.loads((tmp_path / "back/open_clip_config.json").read_text())["model_cfg"]
    del settings["custom_text"]
    again = open_clip.CoCa(**settings, init_logit_bias=None if theirs.logit_bias is None else 0.0).double()
    again.load_state_dict(after)


def test_a_file_of_weights_alone_is_read_by_its_sizes(open_clip, tmp_path, assert_close):
    wide = {"width": 64, "layers": 1, "context_length": 8, "vocab_size": 20, "heads": 1}
    vision = {**VISION, "width": 128, "head_width": 64, "attn_pooler_heads": 8}
    settings = {"embed_dim": 64, "vision_cfg": vision, "multimodal_cfg": wide}
    theirs = open_clip.CoCa(**settings, text_cfg={**wide, "embed_cls": True, "output_tokens": True}).double().eval()
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "coca.pt")
    ours = convert(tmp_path / "coca.pt").model
    pixels, ids, mask = inputs(theirs)
    with torch.no_grad():
        there, here = theirs(pixels, ids), ours(ids, mask, pixel_values=pixels)
    assert_close(here.text_embeds, there["text_features"])
    assert_close(here.image_embeds, there["image_features"])


def test_pictures_are_cut_as_clips_are(pair):
    size = pair[2].model.config.vision_config.image_size
    theirs = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    there = torch.as_tensor(np.asarray(theirs(picture)["pixel_values"]))
    here = pair[2].processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    assert (here - there).abs().max() <= 1e-6


@pytest.mark.parametrize(
    "part, change, match",
    [
        ("vision_cfg", {"ls_init_value": 0.1}, "vision_cfg.ls_init_value=0.1, but only None is known"),
        ("text_cfg", {"qk_norm": True}, "text_cfg.qk_norm=True is not known"),
        ("multimodal_cfg", {"heads": 8}, "multimodal_cfg.heads=8, text_cfg.heads=4"),
    ],
)
def test_settings_without_a_counterpart_are_refused(open_clip, pair, part, change, match):
    _, source, _ = pair
    config = {name: dict(value) if isinstance(value, dict) else value for name, value in CONFIGS["usual"].items()}
    config[part] |= change
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ValueError, match=match):
        convert(source)


# ---- verify --------------------------------------------------------------------------------------------------------


def test_both_ways_are_verified_beside_open_clip(pair, saved_in_fp32, tmp_path, monkeypatch):
    source, out, back = saved_in_fp32(pair), str(tmp_path / "out"), str(tmp_path / "back")
    monkeypatch.setattr(coca_original, "find_spec", lambda name: object())
    for report in (run(str(source), out, compare=True), run(out, back, to="coca", compare=True)):
        assert [line.split()[1] for line in report if line.startswith("verified:")] == [
            "logits", "image_embeds", "text_embeds",
        ]  # fmt: skip
    done = convert(source)
    with torch.no_grad():
        done.model.model.vision_resampler.latents[0, 0, 0] += 0.1
    with pytest.raises(ValueError, match="image_embeds differ by"):
        verify(Checkpoint(source), done.model, FAMILIES["coca"])


@pytest.fixture
def saved_in_fp32(tmp_path):
    """`saved_in_fp32(pair)`: the pair's source in another folder, as published models are."""

    def save(pair) -> Path:
        folder = tmp_path / "published"
        folder.mkdir()
        (folder / "open_clip_config.json").write_text((pair[1] / "open_clip_config.json").read_text())
        tensors = {name: value.float().contiguous() for name, value in pair[0].state_dict().items()}
        save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        return folder

    return save


def test_without_open_clip_it_is_told_what_to_install(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(coca_original, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install open-clip-torch, or leave --verify out"):
        run(str(pair[1]), str(tmp_path / "out"), compare=True)
    assert not (tmp_path / "out").exists()


# ---- texts ---------------------------------------------------------------------------------------------------------

TEXTS = [
    "a diagram", "two cats on a mat, what else?", "A  Red\tDOG's   hat !", "!?! 3.14 x2", "", "naïve café — 北京 🙂",
    "<start_of_text>", "it's we'll you're I'd " * 9, "word " * 100,
]  # fmt: skip


@pytest.mark.parametrize("where", ["the package", "the folder"])
def test_texts_get_open_clip_s_ids_and_are_cut_and_padded_as_there(open_clip, tmp_path, monkeypatch, where):
    words = importlib.import_module("open_clip.tokenizer")
    package = Path(words.__file__).parent
    context, home = 24, tmp_path
    if where == "the package":
        spec = types.SimpleNamespace(submodule_search_locations=[str(package)])
        monkeypatch.setattr(coca_original, "find_spec", lambda name: spec)
        home = None
    else:
        (tmp_path / coca_original.BPE_FILE).write_bytes((package / coca_original.BPE_FILE).read_bytes())
    tokenizer = coca_original.tokenizer(home, {"vocab_size": 49408}, context)
    assert type(tokenizer) is CLIPTokenizer and len(tokenizer) == 49408
    processor = MMProcessor(tokenizer=tokenizer, add_eos_token=True)
    texts = [text for text in TEXTS if "<" not in text]
    there = words.SimpleTokenizer(context_length=context)(texts)
    for given in (tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt"),
                  processor(text=texts, padding="max_length", return_tensors="pt")):  # fmt: skip
        real = given["attention_mask"].bool()
        assert torch.equal(given["input_ids"].masked_fill(~real, 0), there)
        assert set(given["input_ids"][~real].tolist()) == {49407}  # and not "!", which is a word's beginning too
    assert coca_original.tokenizer(home, {"vocab_size": 32000}, context) is None
    assert coca_original.tokenizer(home, {"hf_tokenizer_name": "bert-base-uncased"}, context) is None


def test_a_folder_s_own_tokenizer_goes_along_both_ways(pair, tmp_path):
    """As open_clip's Hub folders have it: CLIP's, whose rows are cut to the model's length."""
    theirs, source, _ = pair
    words = theirs.text.vocab_size
    letters = {f"{chr(97 + number)}</w>": number for number in range(words - 2)}
    CLIPTokenizer(letters | {"<|startoftext|>": words - 2, "<|endoftext|>": words - 1}, []).save_pretrained(source)
    done = convert(source)
    rows = done.processor(text=["a b c", "b " * 90], return_tensors="pt")
    assert rows["input_ids"].shape[1] == theirs.text.context_length
    assert rows["input_ids"][0, :5].tolist() == [words - 2, 0, 1, 2, words - 1]
    assert rows["input_ids"][1, -1] == words - 1
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "coca", tmp_path / "back")
    assert AutoTokenizer.from_pretrained(tmp_path / "back")("a b c")["input_ids"] == [words - 2, 0, 1, 2, words - 1]


@torch.no_grad()
def test_oblong_pictures_convert_without_an_image_processor(open_clip, tmp_path, assert_close):
    """open_clip fills two different sides by a rule that MM's image processor has not."""
    settings = {**CONFIGS["usual"], "vision_cfg": {**VISION, "image_size": [24, 16]}}
    theirs, source, done = made(open_clip, settings, tmp_path, torch.float64)
    pixels, ids, mask = inputs(theirs)
    assert pixels.shape[-2:] == (24, 16)
    here, there = done.model(ids, mask, pixel_values=pixels), theirs(pixels, ids, output_labels=False)
    assert_close(here.image_embeds, there["image_features"])
    assert_close(here.logits[mask.bool()], there["logits"][mask.bool()])
    assert done.processor is None or done.processor.image_processor is None
    assert any("image_size=[24, 16]: MM's image processor" in line for line in done.report)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "coca", tmp_path / "back")
    said = json.loads((tmp_path / "back" / "open_clip_config.json").read_text())["model_cfg"]
    assert said["vision_cfg"]["image_size"] == [24, 16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_a_coca_verifies(open_clip, tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(coca_original, "find_spec", lambda name: object())
    _, source, _ = made(open_clip, CONFIGS["odd"], tmp_path, dtype)
    report = run(str(source), None, dry_run=True, compare=True)
    assert [line.split()[1] for line in report if line.startswith("verified:")] == [
        "logits", "image_embeds", "text_embeds",
    ]  # fmt: skip
