"""BLIP: captioning and question answering, converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipModel,
)

from mm.conversion_scripts.engine import convert, convert_back
from mm.conversion_scripts.family import differences

CONFIGS = ("usual", "odd")
IDS = torch.tensor([[22, 5, 9, 8, 12, 3], [22, 6, 8, 3, 0, 0]])
MASK = (IDS != 0).long()
QUESTIONS = torch.tensor([[2, 13, 14, 5, 9, 3], [2, 15, 16, 3, 0, 0]])


def pixels_of(config: BlipConfig) -> torch.Tensor:
    size = config.vision_config.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(params=CONFIGS)
def captioners(request, peer, saved, blip_config):
    theirs = peer(BlipForConditionalGeneration, blip_config(request.param))
    source = saved(theirs)
    return theirs, convert(source), source


@pytest.fixture(params=CONFIGS)
def answerers(request, peer, saved, blip_config):
    theirs = peer(BlipForQuestionAnswering, blip_config(request.param, answers=True))
    source = saved(theirs)
    return theirs, convert(source), source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_captioning_gives_the_same_logits_loss_and_picture(captioners, assert_close, dtype):
    theirs, ours = captioners[0].to(dtype), captioners[1].model.to(dtype)
    pixels = pixels_of(theirs.config).to(dtype)
    labels = IDS.masked_fill(MASK == 0, -100)
    there = theirs(pixel_values=pixels, input_ids=IDS, attention_mask=MASK, labels=labels)
    here = ours(pixel_values=pixels, input_ids=IDS, attention_mask=MASK, labels=labels)
    assert_close(here.context_hidden_states, there.image_embeds)
    assert_close(here.logits[MASK.bool()], there.logits[MASK.bool()])
    assert_close(here.loss, there.loss)


@pytest.mark.slow
def test_captioning_gives_the_same_gradients(captioners, assert_gradients):
    theirs, done, source = captioners
    theirs, ours, pixels = theirs.double(), done.model.double(), pixels_of(theirs.config)
    theirs(pixel_values=pixels, input_ids=IDS, labels=IDS).loss.backward()
    ours(pixel_values=pixels, input_ids=IDS, labels=IDS).loss.backward()
    assert_gradients(theirs, ours, source, "blip")


@pytest.mark.slow
@torch.no_grad()
def test_captioning_has_the_same_states_in_every_layer(captioners, states_of, assert_close):
    theirs, ours = captioners[0].double(), captioners[1].model.double()
    given = {"pixel_values": pixels_of(theirs.config), "input_ids": IDS, "attention_mask": MASK}
    seen, read = theirs.vision_model.encoder.layers, theirs.text_decoder.bert.encoder.layer
    there = states_of([*seen, *read], lambda: theirs(**given))
    here = states_of([*ours.model.vision_tower.layers, *ours.model.language_model.layers], lambda: ours(**given))
    for place, (one, two) in enumerate(zip(here, there, strict=True)):
        real = ... if place < len(seen) else MASK.bool()
        assert_close(one[real], two[real])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_unequal_length_are_continued_as_each_alone(captioners, assert_prompts_alone, beams):
    """Theirs cuts the last column of a batch, which is no row's [SEP] but the longest one's."""
    theirs, ours = captioners[0].double(), captioners[1].model.double()
    pixels, prompts = pixels_of(theirs.config), [[22, 5, 9, 8], [22, 6]]
    settings = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}

    def alone_there(row):
        ids = torch.tensor([[2, *prompts[row][1:], 3]])  # it puts bos first and cuts the last token
        return theirs.generate(pixels[row : row + 1], input_ids=ids, **settings)[0, len(prompts[row]) :]

    assert_prompts_alone(ours, prompts, {"pixel_values": pixels}, alone_there, **settings)


@pytest.mark.parametrize("beams", [1, 3])
def test_captioning_writes_the_same_tokens(captioners, beams):
    theirs, ours = captioners[0].double(), captioners[1].model.double()
    pixels = pixels_of(theirs.config)
    settings = {"num_beams": beams, "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(
        ours.generate(pixel_values=pixels, **settings), theirs.generate(pixel_values=pixels, **settings)
    )
    prompt = torch.tensor([[2, 5, 9, 3], [2, 6, 8, 3]])  # theirs puts bos first and cuts the last token
    ours_ids = torch.tensor([[22, 5, 9], [22, 6, 8]])
    there = theirs.generate(pixel_values=pixels, input_ids=prompt, **settings)
    assert torch.equal(ours.generate(pixel_values=pixels, input_ids=ours_ids, **settings), there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_answering_gives_the_same_loss_for_each_question_and_a_batch_the_mean(answerers, assert_close, dtype):
    """One by one: what theirs makes of a question depends on the padding of its batch."""
    theirs, ours = answerers[0].to(dtype), answerers[1].model.to(dtype)
    pixels = pixels_of(theirs.config).to(dtype)
    answers = [IDS[:1, :4], IDS[1:, :4]]
    losses = []
    for row, length in enumerate((6, 4)):
        question, picture, answer = QUESTIONS[row : row + 1, :length], pixels[row : row + 1], answers[row]
        there = theirs(question, picture, decoder_input_ids=answer, labels=answer).loss
        losses.append(ours(answer, pixel_values=picture, context_input_ids=question, labels=answer).loss)
        assert_close(losses[-1], there)
    together = {"context_input_ids": QUESTIONS, "context_attention_mask": (QUESTIONS != 0).long()}
    both = ours(torch.cat(answers), pixel_values=pixels, labels=torch.cat(answers), **together).loss
    assert_close(both, (losses[0] + losses[1]) / 2)


@pytest.mark.slow
@torch.no_grad()
def test_answering_has_the_same_logits_and_states_in_every_layer(answerers, states_of, assert_close):
    """Theirs returns no logits, so they are its decoder's; without padding, which it reads."""
    theirs, ours = answerers[0].double(), answerers[1].model.double()
    pixels, question, answer = pixels_of(theirs.config), QUESTIONS[:, :4], IDS[:, :4]
    logits = []
    hook = theirs.text_decoder.register_forward_hook(lambda module, given, out: logits.append(out.logits))
    layers = [theirs.vision_model.encoder.layers, theirs.text_encoder.encoder.layer]
    layers = [layer for stack in (*layers, theirs.text_decoder.bert.encoder.layer) for layer in stack]
    there = states_of(layers, lambda: theirs(question, pixels, decoder_input_ids=answer, labels=answer))
    hook.remove()
    model = ours.model
    layers = [*model.vision_tower.layers, *model.text_encoder.layers, *model.language_model.layers]
    found = []
    here = states_of(
        layers, lambda: found.append(ours(answer, pixel_values=pixels, context_input_ids=question).logits)
    )
    assert_close(found[0], logits[0])
    for one, two in zip(here, there, strict=True):
        assert_close(one, two)


@pytest.mark.slow
def test_answering_gives_the_same_gradients(answerers, assert_gradients):
    theirs, done, source = answerers
    theirs, ours, pixels = theirs.double(), done.model.double(), pixels_of(theirs.config)
    question, answer = QUESTIONS[:, :4], IDS[:, :4]
    theirs(question, pixels, decoder_input_ids=answer, labels=answer).loss.mean().backward()
    ours(answer, pixel_values=pixels, context_input_ids=question, labels=answer).loss.backward()
    assert_gradients(theirs, ours, source, "blip")


@pytest.mark.parametrize("beams", [1, 3])
def test_answering_writes_the_same_tokens_for_each_question(answerers, beams):
    """One by one: with questions of two lengths in a batch theirs reads the padding, ours does not."""
    theirs, ours = answerers[0].double(), answerers[1].model.double()
    pixels = pixels_of(theirs.config)
    settings = {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}
    for row, length in enumerate((6, 4)):
        question, picture = QUESTIONS[row : row + 1, :length], pixels[row : row + 1]
        there = theirs.generate(input_ids=question, pixel_values=picture, **settings)
        here = ours.generate(context_input_ids=question, pixel_values=picture, **settings)
        assert torch.equal(here, there)
    both = {"context_input_ids": QUESTIONS, "context_attention_mask": (QUESTIONS != 0).long()}
    together = ours.generate(pixel_values=pixels, **both, **settings)
    assert torch.equal(together[1:, : here.shape[1]], here)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("cls", [BlipForConditionalGeneration, BlipForQuestionAnswering])
def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(
    cls, kind, peer, saved, tmp_path, tensors_of, blip_config
):
    theirs = peer(cls, blip_config(kind, answers=cls is BlipForQuestionAnswering))
    source = saved(theirs)
    done = convert(source)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "blip", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), theirs.parameters(), strict=True))
    for part in ("vision_config", "text_config"):
        before, after = getattr(theirs.config, part).to_dict(), getattr(again.config, part).to_dict()
        beside = ("eos_token_id", "initializer_range", "projection_dim", "dtype", "_name_or_path", "use_cache")
        assert {k: v for k, v in after.items() if k not in beside} == {
            k: v for k, v in before.items() if k not in beside
        }


def test_the_directory_loads_through_the_auto_classes_with_the_same_pixels_and_ids(
    peer, saved, tokenizer, tmp_path, blip_config
):
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    done = convert(saved(peer(BlipForConditionalGeneration, blip_config("usual")), images, tokenizer))
    done.save_pretrained(tmp_path / "mm")
    processor = AutoProcessor.from_pretrained(tmp_path / "mm")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    inputs = processor(images=picture, text="a red dog", return_tensors="pt")
    there = torch.as_tensor(np.asarray(images(picture)["pixel_values"]))
    assert (inputs["pixel_values"] - there).abs().max() <= 1e-6
    assert inputs["input_ids"][0, 1:].tolist() == tokenizer("a red dog", add_special_tokens=False)["input_ids"]
    assert inputs["input_ids"][0, 0] == 22 and processor.tokenizer.convert_ids_to_tokens([22, 23]) == [
        "[DEC]",
        "[ENC]",
    ]
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "mm")
    assert torch.equal(model.generate(**inputs, max_new_tokens=5), done.model.generate(**inputs, max_new_tokens=5))
    assert "tokenizer: [DEC] added as 22" in "\n".join(done.report)


def test_a_source_of_weights_and_config_alone_says_so(captioners):
    assert captioners[1].processor is None
    assert "the source has no image_processor and no tokenizer" in captioners[1].report[-1]


WIDE = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ORIGINALS = {
    "usual": ({"image_size": 16, "patch_size": 8}, {"vocab_size": 110, "max_position_embeddings": 24}),
    "odd": (
        {"image_size": 15, "patch_size": 5, "num_hidden_layers": 1, "intermediate_size": 40},
        {"vocab_size": 117, "max_position_embeddings": 19, "num_hidden_layers": 3, "intermediate_size": 28},
    ),
}


@pytest.mark.parametrize("kind", ORIGINALS)
@pytest.mark.parametrize("cls", [BlipForConditionalGeneration, BlipForQuestionAnswering])
def test_a_file_of_the_original_code_gives_the_same_model(
    cls, kind, peer, saved, tensors_of, original_names, tmp_path
):
    """Bit by bit and in every setting that of the same tensors in Transformers' layout."""
    sees, reads = ORIGINALS[kind]
    ends = {"bos_token_id": reads["vocab_size"] - 2, "sep_token_id": 102, "pad_token_id": 0, "label_smoothing": 0.1}
    config = BlipConfig(
        vision_config={**WIDE, **sees, "layer_norm_eps": 1e-6},
        text_config={
            **WIDE, **reads, **ends, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "layer_norm_eps": 1e-12,
        },
    )  # fmt: skip
    source = saved(peer(cls, config))
    torch.save({"model": original_names(tensors_of(source)), "epoch": 3}, tmp_path / "model.pth")
    here, there = convert(tmp_path / "model.pth").model, convert(source).model
    assert not differences(here.config.to_dict(), there.config.to_dict())
    assert here.state_dict().keys() == there.state_dict().keys()
    assert all(torch.equal(value, there.state_dict()[name]) for name, value in here.state_dict().items())
    assert here.generation_config.num_beams == 3 and here.generation_config.eos_token_id == 102


def test_a_blip_of_another_task_and_a_pickle_of_more_are_refused(peer, saved, tmp_path, blip_config):
    other = saved(peer(BlipModel, blip_config("usual")))
    with pytest.raises(ValueError, match="BlipModel is not known; of BLIP these are: .*BlipForImageTextRetrieval"):
        convert(other)
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        convert(tmp_path / "bad.pth")
