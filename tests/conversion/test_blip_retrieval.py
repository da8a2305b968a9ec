"""BLIP's retrieval, comparing and matching, converted and back, beside the installed class and from the original."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

from comparing import close
from mm import MMForImageTextRetrieval
from mm.conversion_scripts.engine import convert, convert_back

IDS = torch.tensor([[2, 5, 9, 8, 12, 3], [2, 6, 8, 3, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture(params=["usual", "odd"])
def pair(request, peer, saved, blip_config):
    theirs = peer(BlipForImageTextRetrieval, blip_config(request.param))
    source = saved(theirs)
    return theirs, convert(source), source


def pixels_of(config: BlipConfig) -> torch.Tensor:
    size = config.vision_config.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def both(theirs, pixels, ids, mask):
    """Their matching logits, their cosines, and what is behind them."""
    given = {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask}
    return theirs(**given), theirs(**given, use_itm_head=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_matching_logits_and_cosines_are_equal(pair, assert_close, dtype):
    theirs, ours = pair[0].to(dtype), pair[1].model.to(dtype)
    assert type(ours) is MMForImageTextRetrieval
    pixels = pixels_of(theirs.config).to(dtype)
    matched, compared = both(theirs, pixels, IDS, MASK)
    assert_close(ours.match(IDS, MASK, pixel_values=pixels), matched.itm_score)
    output = ours(input_ids=IDS, attention_mask=MASK, pixel_values=pixels)
    assert_close(output.image_embeds @ output.text_embeds.T, compared.itm_score)
    context = ours.encode_context(pixel_values=pixels)
    assert_close(context.last_hidden_state, matched.last_hidden_state)


@torch.no_grad()
def test_the_states_of_every_layer_are_equal(pair, assert_close):
    theirs, ours = pair[0].double(), pair[1].model.model.double()
    pixels = pixels_of(theirs.config)
    seen = theirs.vision_model(pixels, output_hidden_states=True)
    here = ours.vision_tower(pixels, output_hidden_states=True)
    for one, two in zip(here.hidden_states[:-1], seen.hidden_states[:-1], strict=True):
        assert_close(one, two)
    memory = {"encoder_hidden_states": here.last_hidden_state, "output_hidden_states": True}
    there = theirs.text_encoder(IDS, attention_mask=MASK, **memory)
    here = ours.language_model(IDS, attention_mask=MASK, **memory)
    for one, two in zip(here.hidden_states, there.hidden_states, strict=True):
        assert_close(one[MASK.bool()], two[MASK.bool()])


def test_every_gradient_is_equal(pair, assert_gradients):
    """Of cosines and matching logits together: theirs has no loss."""
    theirs, done, source = pair
    theirs, ours, pixels = theirs.double(), done.model.double(), pixels_of(pair[0].config)
    weights = torch.tensor([[0.3, -1.0], [0.7, 0.2]], dtype=torch.float64)
    sum((weights * output.itm_score).sum() for output in both(theirs, pixels, IDS, MASK)).backward()
    images, texts = ours.encode_image(pixels), ours.encode_text(IDS, MASK)
    here = (weights * (images @ texts.T)).sum() + (weights * ours.match(IDS, MASK, pixel_values=pixels)).sum()
    here.backward()
    assert_gradients(theirs, ours, source, "blip")


@torch.no_grad()
def test_what_a_pair_gets_depends_on_no_other_row_and_no_padding(pair, assert_close):
    ours = pair[1].model.double()
    pixels = pixels_of(pair[0].config)
    together = ours.match(IDS, MASK, pixel_values=pixels)
    for row, length in enumerate((6, 4)):
        text, picture = IDS[row : row + 1, :length], pixels[row : row + 1]
        assert_close(ours.match(text, pixel_values=picture)[0], together[row])
        left = torch.nn.functional.pad(text, (3, 0))
        assert_close(ours.match(left, (left != 0).long(), pixel_values=picture)[0], together[row])


def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(pair, tmp_path, tensors_of):
    theirs, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "blip", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    pixels = pixels_of(theirs.config).float()
    with torch.no_grad():
        close(again.eval()(IDS, pixels).itm_score, theirs.float()(IDS, pixels).itm_score)


# What else a file of the original code holds: a temperature, momentum models and queues.
TRAINING = {
    "temp": torch.tensor(0.05), "image_queue": torch.zeros(4, 8), "ptr_queue": torch.zeros(1),
    "text_encoder_m.x": torch.zeros(1), "vision_proj_m.weight": torch.zeros(1),
}  # fmt: skip
WIDE = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ORIGINALS = {
    "usual": ({"image_size": 16, "patch_size": 8}, {"vocab_size": 110, "max_position_embeddings": 24}),
    "odd": (
        {"image_size": 15, "patch_size": 5, "num_hidden_layers": 1},
        {"vocab_size": 117, "max_position_embeddings": 19, "num_hidden_layers": 3, "intermediate_size": 28},
    ),
}


@pytest.mark.parametrize("kind", ORIGINALS)
@torch.no_grad()
def test_a_file_of_the_original_code_opens_what_it_matches_with_enc(
    kind, peer, saved, tensors_of, original_names, tmp_path, assert_close
):
    sees, reads = ORIGINALS[kind]
    config = BlipConfig(
        vision_config={**WIDE, **sees, "layer_norm_eps": 1e-6},
        text_config={**WIDE, **reads, "pad_token_id": 0},
        image_text_hidden_size=24,
    )
    theirs = peer(BlipForImageTextRetrieval, config)
    torch.save({"model": original_names(tensors_of(saved(theirs))) | TRAINING}, tmp_path / "model.pth")
    done = convert(tmp_path / "model.pth")
    ours, theirs, pixels = done.model.double(), theirs.double(), pixels_of(config)
    enc = IDS.clone()
    enc[:, 0] = reads["vocab_size"] - 1
    matched, _ = both(theirs, pixels, enc, MASK)
    _, compared = both(theirs, pixels, IDS, MASK)
    assert_close(ours.match(IDS, MASK, pixel_values=pixels), matched.itm_score)  # [CLS] is given, [ENC] is read
    logits = ours(input_ids=IDS, attention_mask=MASK, pixel_values=pixels).logits_per_image
    assert_close((logits * 0.05).float(), compared.itm_score.float())
    assert "momentum" in "\n".join(done.report) and ours.config.itm_bos_token_id == reads["vocab_size"] - 1


@torch.no_grad()
def test_its_way_back_is_that_of_transformers_which_opens_with_what_it_is_given(pair, tmp_path):
    done = pair[1]
    done.model.config.itm_bos_token_id = 23
    done.save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="itm_bos_token_id=23, which would come back as None"):
        convert_back(tmp_path / "mm", "blip", tmp_path / "back")


def test_the_original_s_pretraining_is_refused(peer, saved, tensors_of, original_names, tmp_path, blip_config):
    source = saved(peer(BlipForImageTextRetrieval, blip_config("usual")))
    tensors = original_names(tensors_of(source)) | TRAINING | {"text_decoder.cls.x": torch.zeros(1)}
    torch.save(tensors, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="this is BLIP's pre-training"):
        convert(tmp_path / "model.pth")
