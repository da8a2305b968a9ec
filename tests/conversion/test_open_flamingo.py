"""OpenFlamingo's files, converted with their towers and back, beside the package, fetched without its dependencies."""

# Fixtures build models whose types pyright cannot follow; open_flamingo is there in its fixture alone.

import importlib
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

import mm_console
from mm import MMForConditionalGeneration
from mm.conversion_scripts import flamingo
from mm.conversion_scripts.engine import convert, convert_back, run
from mm.modeling_mm.tasks.warm_start import text_tower, vision_tower
from mm.processing.placeholders import Placeholders
from mm.weights.checkpoint import Checkpoint
from mm.weights.flamingo import FlamingoWeights, Insertion, Names

pytestmark = pytest.mark.slow
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
WORDS = {"vocab_size": 30, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 16}
ODD = {"hidden_size": 40, "intermediate_size": 28, "num_hidden_layers": 5, "num_attention_heads": 5}
DECODERS = {
    "llama": LlamaConfig(**SIZES, **WORDS, num_key_value_heads=2),
    "llama tied": LlamaConfig(**SIZES, **WORDS, tie_word_embeddings=True),
    "llama odd": LlamaConfig(
        **{**ODD, **WORDS, "vocab_size": 37}, num_key_value_heads=1, head_dim=6, attention_bias=True
    ),
}
PICTURE = {**SIZES, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
NEW_WORDS = 2  # <|endofchunk|> and <image> behind the decoder's own


def differ(here: torch.Tensor, there: torch.Tensor) -> bool:
    """In fp64, though Llama's norms reckon in fp32."""
    return bool((here - there).abs().max() > 1e-5 * max(1.0, float(there.abs().max())))


class Pair(NamedTuple):
    """OpenFlamingo's model, with every weight trainable; its file and towers; and what MM makes of those."""

    theirs: Any
    clip: Any
    ours: MMForConditionalGeneration
    file: Path
    towers: dict[str, Path]  # vision, text

    def words(self) -> int:
        """Of the decoder, before <|endofchunk|> and <image>."""
        return self.ours.config.text_config.vocab_size - NEW_WORDS

    def pixels(self) -> torch.Tensor:
        side = self.ours.config.vision_config.image_size
        return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def ids(self) -> torch.Tensor:
        """<image> first, so that every token sees the picture there too."""
        image = self.words() + 1
        return torch.tensor([[image, 5, 9, 8, 12], [image, 6, 8, 7, 4]])

    def tokens(self) -> torch.Tensor:
        """Every patch behind the last norm, as open_clip's ViT with output_tokens gives them."""
        vision = getattr(self.clip, "vision_model", self.clip)
        return vision.post_layernorm(vision(self.pixels()).last_hidden_state)[:, 1:]

    def run(self, ids: torch.Tensor, **given) -> Any:
        """Their output; a picture's rows stand together."""
        seen = self.theirs.perceiver(self.tokens()[:, None, None])
        for layer in self.theirs.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(seen.repeat_interleave(len(ids) // len(seen), dim=0))
        return self.theirs.lang_encoder(input_ids=ids, attention_mask=torch.ones_like(ids), **given)


ODD_CLIP = {**PICTURE, "hidden_size": 24, "num_attention_heads": 3, "image_size": 15, "patch_size": 5}
PAIRS = {
    "every second layer": ("llama", 2, PICTURE),
    "every layer, tied": ("llama tied", 1, PICTURE),
    "every third layer": ("llama", 3, PICTURE),
    "odd": ("llama odd", 2, ODD_CLIP),
}


@pytest.fixture(params=PAIRS)
def pair(request, open_flamingo, peer, saved, tmp_path):
    """With open gates; new rows of an untied head, which no file has, are ours in both."""
    kind, every, picture = PAIRS[request.param]
    clip = peer(CLIPVisionModel, CLIPVisionConfig(**picture)).double()
    towers = {
        "vision": saved(clip, name="vision"),
        "text": saved(peer(LlamaForCausalLM, DECODERS[kind]).double(), name="text"),
    }
    lang = LlamaForCausalLM.from_pretrained(towers["text"], dtype=torch.float64)
    parts = importlib.import_module("open_flamingo.src.flamingo_lm")
    importlib.import_module("open_flamingo.src.utils").extend_instance(lang, parts.FlamingoLMMixin)
    lang.set_decoder_layers_attr_name("model.layers")
    known = lang.config.vocab_size
    lang.resize_token_embeddings(known + NEW_WORDS)
    visual = types.SimpleNamespace(visual=nn.Identity())
    theirs = open_flamingo.Flamingo(visual, lang, known, known + 1, picture["hidden_size"], every)
    scatter(theirs)
    theirs = theirs.double().eval().requires_grad_(True)
    torch.save(published(theirs), tmp_path / "checkpoint.pt")
    ours = convert(tmp_path / "checkpoint.pt", **towers).model
    if not lang.config.tie_word_embeddings:
        lang.lm_head.weight.data[known:] = ours.lm_head.weight.data[known:]
    return Pair(theirs, clip, ours, tmp_path / "checkpoint.pt", towers)


def scatter(theirs) -> None:
    """Every weight that they train counts, and the gates are open."""
    generator = torch.Generator().manual_seed(0)
    trained = [*theirs.perceiver.parameters(), *theirs.lang_encoder.gated_cross_attn_layers.parameters()]
    with torch.no_grad():
        for weight in [*trained, theirs.lang_encoder.get_input_embeddings().weight]:
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(0.7 + 0.2 * noise if weight.ndim == 1 else noise * weight.shape[-1] ** -0.5)


def published(theirs) -> dict[str, torch.Tensor]:
    """What their training saves: trained tensors, under their names in the decoder's own layers."""
    state = theirs.state_dict()
    kept = ("perceiver.", "lang_encoder.model.embed_tokens.")
    return {
        name: value for name, value in state.items() if name.startswith(kept) or ".gated_cross_attn_layer." in name
    }


@torch.no_grad()
def test_openflamingo_gives_the_same_latents_logits_and_states(pair, states_of):
    pixels, ids = pair.pixels(), pair.ids()
    latents = pair.ours.encode_context(pixel_values=pixels).last_hidden_state
    assert not differ(latents, pair.theirs.perceiver(pair.tokens()[:, None, None])[:, 0])
    assert not differ(pair.ours(ids, pixel_values=pixels).logits, pair.run(ids).logits)
    layers, stack = pair.theirs.lang_encoder.model.layers, pair.ours.model.language_model
    gated = [layer.gated_cross_attn_layer for layer in layers if layer.gated_cross_attn_layer is not None]
    new = stack.config.cross_attention_layers
    own = [number for number in range(len(stack.layers)) if number not in new]
    there = states_of([*layers, *gated], lambda: pair.run(ids))
    here = states_of([stack.layers[n] for n in (*own, *new)], lambda: pair.ours(ids, pixel_values=pixels))
    for one, two in zip(here, there, strict=True):
        assert not differ(one, two)


@torch.no_grad()
def test_few_shot_prompts_read_the_last_picture_before_each_word_as_openflamingo(pair):
    """Words before the first picture read none; pictures of one row are told apart, in other places in each row."""
    image, end = pair.words() + 1, pair.words()
    ids = torch.tensor([[5, image, 9, 8, end, image, 7, 4], [image, 6, end, image, image, 8, 7, 5]])
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, *pair.pixels().shape[1:], generator=generator, dtype=torch.float64)
    there_are = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    vision = getattr(pair.clip, "vision_model", pair.clip)
    tokens = vision.post_layernorm(vision(pixels.flatten(0, 1)).last_hidden_state)[:, 1:].unflatten(0, (2, 3))
    latents = pair.ours.config.vision_resampler_config.num_latents
    rule = Placeholders({"image": "<image>"}, {"image": image}, {"image": latents}, "last")
    ranges = torch.tensor(rule.ranges(ids.tolist()))
    given = {"pixel_values": pixels, "pixel_attention_mask": there_are, "context_ranges": ranges}
    here = pair.ours(ids, **given).logits
    for row, count in enumerate((2, 3)):
        seen = pair.theirs.perceiver(tokens[row : row + 1, :count, None])
        for layer in pair.theirs.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(seen)
        one = ids[row : row + 1]
        expected = pair.theirs.lang_encoder(input_ids=one, attention_mask=torch.ones_like(one)).logits[0]
        assert not differ(here[row], expected)
        moved = pair.ours(one, pixel_values=pixels[row : row + 1, :count]).logits[0]
        assert differ(moved, expected)  # without ranges every word reads all of them
    written = pair.ours.generate(ids, **given, max_new_tokens=3, do_sample=False, eos_token_id=None)
    longer = torch.cat([ranges, ranges[:, -1:].expand(-1, 3, -1)], dim=1)
    again = pair.ours(written, **{**given, "context_ranges": longer}).logits[:, -4:-1].argmax(-1)
    assert torch.equal(written[:, -3:], again)


def test_openflamingo_has_the_same_loss_and_gradients(pair):
    """1e-4 relative, as Llama's norms reckon in fp32."""
    ids, pixels = pair.ids(), pair.pixels()
    labels = ids.masked_fill(ids == 8, -100)
    here = pair.ours(ids, pixel_values=pixels, labels=labels).loss
    there = pair.run(ids, labels=labels).loss
    assert abs(here - there) <= 1e-5
    here.backward()
    there.backward()
    found = {name: weight.grad for name, weight in pair.ours.named_parameters() if weight.grad is not None}
    seen, (tower, plan) = vision_tower(pair.towers["vision"]), text_tower(pair.towers["text"])
    names, new = Names.of(tower), pair.ours.config.text_config.cross_attention_layers
    every = FlamingoWeights(Checkpoint(pair.file)).every
    gradients = flamingo._trained(found, new, names)
    stack = {name: value for name, value in found.items() if name.startswith("model.language_model.")}
    own = Insertion(plan.settings["num_hidden_layers"], every).table(plan.table).under("", "model.language_model.")
    inside = own.adding(dropped={}).restore(
        {name: value for name, value in stack.items() if not any(f".layers.{n}." in name for n in new)}
    )
    inside |= plan.head.restore({name: value for name, value in found.items() if name.startswith("lm_head.")})
    gradients |= {names.inside(name): value for name, value in inside.items()}
    weights = dict(pair.theirs.named_parameters(remove_duplicate=False))
    vision = {name: value for name, value in found.items() if name.startswith("model.vision_tower.")}
    gradients |= seen[1].table.under("", "model.vision_tower.").restore(vision)
    weights |= dict(pair.clip.named_parameters())
    assert {id(weight) for weight in weights.values() if weight.grad is not None} == {
        id(weights[name]) for name in gradients
    }
    for name, gradient in gradients.items():
        expected = weights[name].grad
        assert (gradient - expected).abs().max() <= 1e-4 * max(float(expected.abs().max()), 1e-3), name


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_openflamingo_writes_the_same_tokens_and_rows_stand_alone(pair, written_by, beams):
    """Its own generate() is of Transformers 4 and fails on 5, whose search writes with its logits here."""
    pixels, ids, words = pair.pixels(), pair.ids(), pair.words() + NEW_WORDS
    settings = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False, "eos_token_id": 3, "pad_token_id": 0}
    there = written_by(lambda rows: pair.run(rows).logits, ids[:, :1], words, **settings)
    assert torch.equal(pair.ours.generate(ids[:, :1], pixel_values=pixels, **settings), there)
    together = pair.ours(ids, pixel_values=pixels).logits
    for row in range(2):
        alone = pair.ours(ids[row : row + 1], pixel_values=pixels[row : row + 1]).logits
        assert (together[row] - alone[0]).abs().max() <= 1e-12


def test_openflamingo_s_file_comes_back_bit_by_bit(pair, tmp_path):
    command = ["--vision", str(pair.towers["vision"]), "--text", str(pair.towers["text"])]
    out, back, runner = str(tmp_path / "mm"), tmp_path / "back.pt", CliRunner()
    done = runner.invoke(mm_console.app, ["convert", str(pair.file), out, *command])
    assert done.exit_code == 0 and "MMForConditionalGeneration" in done.output
    done = runner.invoke(mm_console.app, ["convert", "--to", "flamingo", out, str(back), *command])
    assert done.exit_code == 0 and "wrote OpenFlamingo" in done.output
    before, after = torch.load(pair.file), torch.load(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_towers_processor_gets_openflamingo_s_tokens(pair):
    vocabulary = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3}
    vocabulary |= {f"w{number}": number for number in range(4, pair.words())}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(pair.towers["text"])
    side = {"height": pair.ours.config.vision_config.image_size, "width": pair.ours.config.vision_config.image_size}
    CLIPImageProcessor(size=side, crop_size=side).save_pretrained(pair.towers["vision"])
    done = convert(pair.file, **pair.towers)
    assert done.processor.tokenizer.convert_tokens_to_ids(["<|endofchunk|>", "<image>"]) == [
        pair.words(), pair.words() + 1,
    ]  # fmt: skip
    rows = done.processor(images=Image.new("RGB", (20, 30)), text="w5 w6", return_tensors="pt")
    image = pair.words() + 1  # which theirs writes before a caption
    assert rows["input_ids"].tolist() == [[2, image, 5, 6]] and rows["pixel_values"].shape[-1] == side["width"]
    pictures, chat = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue", "green")], []
    for picture in pictures:
        words = {"type": "text", "text": " w5 w6"}
        chat.append({"role": "user", "content": [{"type": "image", "image": picture}, words]})
        chat.append({"role": "assistant", "content": " w7 w8"})
    few = done.processor.apply_chat_template([chat[:-1]], tokenize=True, return_dict=True, return_tensors="pt")
    prompt = "<image> w5 w6 w7 w8<|endofchunk|><image> w5 w6 w7 w8<|endofchunk|><image> w5 w6"
    assert few["input_ids"][0, 1:].tolist() == done.processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    latents = done.model.config.vision_resampler_config.num_latents
    seen = (few["input_ids"][0] == image).cumsum(0)
    assert few["context_ranges"][0, :, 1].tolist() == (seen * latents).tolist()
    assert few["context_ranges"][0, :, 0].tolist() == ((seen - 1).clamp(min=0) * latents).tolist()
    done.model.double()(**{name: v.double() if v.is_floating_point() else v for name, v in few.items()})
    assert f"note: tokenizer: <image> added as {pair.words() + 1}" in done.report


@torch.no_grad()
def test_what_was_trained_here_is_served_there_and_read_again(pair, tmp_path):
    """Of the decoder too, which OpenFlamingo leaves as it is; a vision tower has no place in its file."""
    pixels, ids = pair.pixels(), pair.ids()
    for name, weight in pair.ours.named_parameters():
        if not name.startswith("model.vision_tower."):
            weight.mul_(1 + 0.01 * weight)
    pair.ours.save_pretrained(tmp_path / "trained")
    report = convert_back(tmp_path / "trained", "flamingo", tmp_path / "trained.pt", **pair.towers)
    assert "of the decoder that differ" in report[0]
    assert not pair.theirs.load_state_dict(torch.load(tmp_path / "trained.pt"), strict=False).unexpected_keys
    assert not differ(pair.ours(ids, pixel_values=pixels).logits, pair.run(ids).logits)
    again = convert(tmp_path / "trained.pt", **pair.towers).model.state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in pair.ours.state_dict().items())
    pair.ours.model.vision_tower.embed_norm.bias.add_(1)
    pair.ours.save_pretrained(tmp_path / "trained")
    with pytest.raises(ValueError, match="no place for a vision tower that was trained"):
        convert_back(tmp_path / "trained", "flamingo", tmp_path / "more.pt", **pair.towers)
    assert not (tmp_path / "more.pt").exists()


def test_openflamingo_in_another_place_or_too_much_is_refused(pair, tmp_path):
    tensors = published(pair.theirs)
    torch.save({**tensors, "perceiver.frame_embs": torch.zeros(3, 32)}, tmp_path / "frames.pt")
    with pytest.raises(ValueError, match="mm convert FILE OUT --vision CLIP --text LLAMA, or .*from_towers.*flamingo"):
        convert(tmp_path / "frames.pt")
    with pytest.raises(ValueError, match="no place for perceiver.frame_embs"):
        convert(tmp_path / "frames.pt", **pair.towers)
    with pytest.raises(ValueError, match="--verify cannot run OpenFlamingo"):
        run(str(tmp_path / "frames.pt"), None, compare=True, vision="a", text="b")
    extra = {name.replace("layers.2.gated", "layers.9.gated"): value for name, value in tensors.items()}
    extra |= {name.replace("layers.1.gated", "layers.9.gated"): value for name, value in tensors.items()}
    torch.save({**tensors, **extra}, tmp_path / "moved.pt")
    with pytest.raises(ValueError, match="gated layers are elsewhere"):
        convert(tmp_path / "moved.pt", **pair.towers)
