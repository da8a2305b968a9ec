"""MMForImageTextRetrieval: embeddings and both losses by formula, of any fusion, tower and modality."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.testing import assert_close

from comparing import close
from mm import MMConfig, MMForImageTextRetrieval

FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 5, 8, 2], [1, 9, 9, 9], [1, 3, 5, 7]])
INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_embeddings_are_projected_pooled_vectors_of_length_one(retriever, pixels):
    model = retriever()
    image, text = model.encode_image(pixels), model.encode_text(IDS)
    pooled = model.model.get_image_features(pixels).pooler_output @ model.itc_head.vision.weight.T
    close(image, pooled / pooled.norm(dim=1, keepdim=True))
    close(text.norm(dim=1), torch.ones(6, dtype=torch.float64))
    features = model.get_text_features(IDS)
    close(features.pooler_output, model.model.get_text_features(IDS).pooler_output @ model.itc_head.text.weight.T)
    assert features.last_hidden_state.shape == (6, 4, 32)
    output = model(input_ids=IDS, pixel_values=pixels)
    close(output.image_embeds, image)
    close(output.text_embeds, text)
    close(output.logits_per_image, model.itc_head.logit_scale.exp() * image @ text.T)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    assert output.loss is None and output.itm_logits is None


def test_either_side_alone_gives_its_embeddings(retriever, pixels):
    model = retriever()
    assert set(model(pixel_values=pixels)) == {"image_embeds"} and set(model(input_ids=IDS)) == {"text_embeds"}


@pytest.mark.parametrize("count", [2, 4])
def test_any_numbers_of_pictures_and_texts_are_compared(retriever, pixels, count):
    assert retriever()(input_ids=IDS[:count], pixel_values=pixels).logits_per_image.shape == (3, count)


def test_infonce_is_the_mean_of_both_directions(retriever, pixels):
    output = retriever()(input_ids=IDS, pixel_values=pixels, context_index=INDEX, return_loss=True)
    logits = output.logits_per_image
    of_texts = -logits.log_softmax(0)[INDEX, torch.arange(6)].mean()
    belongs = INDEX == torch.arange(3)[:, None]
    of_images = -(logits.log_softmax(1) * belongs).sum(1) / belongs.sum(1)
    close(output.loss_itc, (of_texts + of_images.mean()) / 2)


def test_sigmoid_counts_every_pair(retriever, pixels):
    model = retriever(contrastive_loss="sigmoid", logit_bias_init_value=-3.0, pretraining_losses={"itc": 2.0})
    output = model(input_ids=IDS, pixel_values=pixels, context_index=INDEX, return_loss=True)
    signs = (INDEX == torch.arange(3)[:, None]) * 2.0 - 1
    close(output.loss_itc, (1 + (-signs * output.logits_per_image).exp()).log().sum() / 6)
    close(output.loss, 2 * output.loss_itc)
    bias = model.itc_head.logit_bias
    plain = model.itc_head.logit_scale.exp() * output.image_embeds @ output.text_embeds.T
    close(output.logits_per_image, plain + bias)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_matching_counts_given_pairs_and_those_most_alike(retriever, pixels, fusion):
    """Outside of training the negatives are the most similar pictures and texts that do not belong together."""
    model = retriever(fusion)
    output = model(input_ids=IDS, pixel_values=pixels, context_index=INDEX, return_loss=True)
    close(output.itm_logits, model.match(IDS, context_index=INDEX, pixel_values=pixels))
    belongs = INDEX[:, None] == torch.arange(3)
    others = output.logits_per_text.masked_fill(belongs, -torch.inf)  # (R, B)
    images, texts = others.argmax(1), others.argmax(0)[INDEX]
    negatives = model.match(
        torch.cat([IDS, IDS[texts]]), context_index=torch.cat([images, INDEX]), pixel_values=pixels
    )
    losses = torch.cat([-output.itm_logits.log_softmax(1)[:, 1], -negatives.log_softmax(1)[:, 0]])
    close(output.loss_itm, losses.mean())
    close(output.loss, output.loss_itc + output.loss_itm)


def test_given_matches_are_the_targets(retriever, pixels):
    model, matches = retriever(), torch.tensor([1, 0, 1, 1, 0, 1])
    given = {"pixel_values": pixels, "return_loss": True}
    output = model(input_ids=IDS, context_index=INDEX, matches=matches, **given)
    close(output.loss_itm, -output.itm_logits.log_softmax(1)[torch.arange(6), matches].mean())
    kept = matches.bool()
    close(output.loss_itc, model(input_ids=IDS[kept], context_index=INDEX[kept], **given).loss_itc)


def test_a_context_without_media_is_no_picture(retriever, pixels):
    """Its texts are left out, and what is left is as if they had never been there."""
    model = retriever()
    there = torch.tensor([[True], [False], [True]])
    output = model(
        input_ids=IDS, pixel_values=pixels[:, None], pixel_attention_mask=there, context_index=INDEX, return_loss=True
    )
    kept = INDEX != 1
    expected = model(
        input_ids=IDS[kept], pixel_values=pixels[[0, 2]], context_index=torch.tensor([0, 0, 1, 1, 1]), return_loss=True
    )
    close(output.loss, expected.loss)
    assert output.image_embeds[1].abs().max() == 0


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_any_media_has_no_loss_and_no_unused_parameter(retriever, pixels, training):
    model = retriever().train(training)
    blank = {"pixel_values": pixels[:1, None], "pixel_attention_mask": torch.zeros(1, 1, dtype=torch.bool)}
    output = model(input_ids=IDS, **blank, context_index=torch.zeros(6, dtype=torch.long), return_loss=True)
    assert output.loss.item() == 0
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() == 0, name


@pytest.mark.parametrize("fusion", [*FUSIONS, "decision"])
@pytest.mark.parametrize("encoder", ["none", "own", "shared"])
@pytest.mark.parametrize("losses", [{"itc": 1.0}, {"itc": 1.0, "itm": 0.5}])
def test_every_parameter_is_trained_or_frozen(retriever, pixels, fusion, encoder, losses):
    if fusion == "decision" and ("itm" in losses or encoder != "none"):
        return
    fields = {"own": {"text_encoder_config": "tiny"}, "shared": {"share_text_encoder": True}, "none": {}}[encoder]
    model = retriever(fusion, pretraining_losses=losses, **fields).train()
    model(input_ids=IDS[:3], pixel_values=pixels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert (model.itm_head is None) == ("itm" not in losses)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_a_row_gets_depends_on_no_other_row(retriever, pixels, fusion):
    model = retriever(fusion)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    output = model(input_ids=IDS[:3], attention_mask=mask, pixel_values=pixels, return_loss=True)
    for row, length in enumerate([4, 3, 2]):
        one = {"input_ids": IDS[row : row + 1, :length], "pixel_values": pixels[row : row + 1]}
        alone = model(**one, return_loss=True)
        close(output.text_embeds[row], alone.text_embeds[0])
        close(output.image_embeds[row], alone.image_embeds[0])
        close(output.itm_logits[row], alone.itm_logits[0])
    left = model(input_ids=torch.tensor([[0, 0, 1, 4]]), attention_mask=torch.tensor([[0, 0, 1, 1]]))
    close(output.text_embeds[2], left.text_embeds[0])


def test_videos_and_sounds_have_embeddings_too(retriever, tiny_model, videos, clips, pictures):
    model = retriever(modalities=["image", "video", "audio"], audio_config="ast")
    video, sound = model.encode_video(videos), model.encode_audio(clips("ast"))
    close(model(pixel_values_videos=videos).image_embeds, video)
    close(model(input_features=clips("ast")).image_embeds, sound)
    both = model(pixel_values=pictures, input_features=clips("ast"))
    features = (model.get_image_features(pictures), model.get_audio_features(clips("ast")))
    joined = sum(feature.pooler_output for feature in features)
    close(both.image_embeds, joined / joined.norm(dim=1, keepdim=True))
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    both = model(pixel_values=pictures, pixel_attention_mask=mask, input_features=clips("ast"))
    close(both.image_embeds[1], sound[1])


def test_ready_tokens_are_taken_where_their_mean_is_the_vector(retriever, pixels):
    model = retriever(vision_config={"pooler": "mean"})
    tokens = model.model.vision_tower(pixels).last_hidden_state
    close(model(visual_embeds=tokens).image_embeds, model.encode_image(pixels))
    with pytest.raises(ValueError, match="no pooled vector"):
        retriever()(visual_embeds=tokens)


@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model", "resnet"])
def test_towers_of_transformers_are_compared_by_their_own_vector(kind, pixels, tmp_path):
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"model_type": kind, "image_size": 16, "patch_size": 8, **sizes}
    if kind == "resnet":
        vision = {"model_type": kind, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pooler": "mean"}
    torch.manual_seed(0)
    model = MMForImageTextRetrieval(MMConfig(vision_config=vision, text_config=text, projection_dim=8)).double()
    model.save_pretrained(tmp_path)
    model = MMForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.float64).eval()
    pooled = model.model.vision_tower(pixels).pooler_output.flatten(1) @ model.itc_head.vision.weight.T
    close(model.encode_image(pixels), pooled / pooled.norm(dim=1, keepdim=True))
    model.train()(input_ids=IDS[:3], pixel_values=pixels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_gradient_checkpointing_changes_no_gradient(retriever, pixels):
    gradients = []
    for checkpointing in (False, True):
        model = retriever().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model(input_ids=IDS[:3], pixel_values=pixels).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_losses_are_finite(retriever, pixels, dtype):
    model = retriever(logit_scale_init_value=4.6052).to(dtype).train()
    there = torch.tensor([[True], [True], [False]])
    output = model(input_ids=IDS[:3], pixel_values=pixels[:, None].to(dtype), pixel_attention_mask=there)
    output.loss.backward()
    assert output.loss.isfinite() and output.loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_resampler_that_pools_gives_the_vector(retriever, pixels):
    resampler = {
        "hidden_size": 24, "num_latents": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
        "intermediate_size": 32, "first_latent_pooled": True,
    }  # fmt: skip
    for losses in ({"itc": 1.0}, {"itc": 1.0, "itm": 1.0}):
        model = retriever(vision_resampler_config=resampler, pretraining_losses=losses).train()
        output = model(input_ids=IDS[:3], pixel_values=pixels)
        close(output.image_embeds, model.encode_image(pixels))
        output.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (parameter.grad is not None), name


def test_a_side_that_is_not_projected_is_compared_as_it_is_pooled(retriever, pixels):
    model = retriever(projected_sides=["text"], projection_dim=24)
    pooled = model.model.get_image_features(pixels).pooler_output
    close(model.encode_image(pixels), pooled / pooled.norm(dim=1, keepdim=True))
    assert [name for name, _ in model.itc_head.named_parameters()] == ["logit_scale", "text.weight"]


def test_a_text_that_is_matched_opens_with_its_own_token_wherever_its_padding_is(retriever, pixels):
    model = retriever(itm_bos_token_id=7)
    opened = IDS[:3].clone()
    opened[:, 0] = 7
    got = model.match(IDS[:3], pixel_values=pixels)
    model.config.itm_bos_token_id = None
    close(got, model.match(opened, pixel_values=pixels))
    model.config.itm_bos_token_id = 7
    left, mask = torch.nn.functional.pad(IDS[:3], (2, 0)), torch.tensor([[0, 0, 1, 1, 1, 1]] * 3)
    close(model.match(left, mask, pixel_values=pixels), got)
    close(model.encode_text(IDS), retriever().encode_text(IDS))  # compared texts keep theirs


def test_the_scale_has_a_bound_or_none(retriever, pixels):
    bounded, free = retriever(), retriever(logit_scale_max=None)
    with torch.no_grad():
        bounded.itc_head.logit_scale.fill_(6.0)
        free.itc_head.logit_scale.fill_(6.0)
    assert_close(bounded.itc_head.scale().item(), 2.718281828459045**4.6052)
    assert_close(free.itc_head.scale().item(), 2.718281828459045**6)


def test_a_causal_text_is_compared_by_what_stands_at_its_end(retriever, pixels):
    """ "decision" joins nothing: no projectors of tokens, and towers of any widths."""
    text = {"is_causal": True, "pooler": "eos"}
    model = retriever("decision", text_config=text, projector_type="none", pretraining_losses={"itc": 1.0})
    assert model.config.media_width == model.config.vision_size != model.config.text_config.hidden_size
    ids = torch.tensor([[1, 5, 6, 2, 0], [1, 5, 2, 9, 9]])
    close(model.encode_text(ids)[0], model.encode_text(ids[:1, :4])[0])
    close(model.encode_text(ids)[1], model.encode_text(ids[1:, :3])[0])  # what stands behind eos is unread
    assert model(input_ids=ids, pixel_values=pixels).logits_per_image.shape == (3, 2)


def test_columns_where_no_text_has_a_token_are_not_computed(retriever):
    model, mask, widths = retriever(), torch.ones_like(IDS), []
    mask[::2, 3:] = 0
    wide = [torch.nn.functional.pad(part, (0, 5)) for part in (IDS, mask)]
    model.model.language_model.layers[0].register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    close(model.encode_text(*wide), model.encode_text(IDS, mask))
    features = model.get_text_features(*wide)
    assert widths == [4, 4, 4] and features.last_hidden_state.shape == (6, 9, 32)
    assert not features.last_hidden_state[:, 4:].any()
    states = model.get_text_features(*wide, output_hidden_states=True).hidden_states
    assert states[-1].shape == (6, 9, 32) and widths[-1] == 9  # asked for, they are all there
    close(states[-1][:, :3], features.last_hidden_state[:, :3])


def test_ready_masks_are_read_as_they_are(retriever):
    model = retriever(text_config={"pooler": "mean"})
    whole = model.get_text_features(IDS).last_hidden_state
    for shape in ((6, 1, 4, 4), (6, 1, 1, 4)):
        for ready in (torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)):
            close(model.get_text_features(IDS, ready).last_hidden_state, whole)


@pytest.mark.parametrize("return_loss", [False, True])
def test_states_are_those_of_the_text_read_alone(retriever, pixels, return_loss):
    model = retriever()
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(input_ids=IDS[:3], pixel_values=pixels, return_loss=return_loss, **asked)
    alone = model.get_text_features(IDS[:3], **asked)
    for name in ("hidden_states", "attentions"):
        for found, expected in zip(output[name], alone[name], strict=True):
            assert torch.equal(found, expected)
    chunked = retriever(contrastive_chunk_size=2, pretraining_losses={"itc": 1.0})
    with pytest.raises(ValueError, match="output_hidden_states, output_attentions: contrastive_chunk_size keeps no"):
        chunked(input_ids=IDS[:3], pixel_values=pixels, **asked)


def test_texts_without_an_end_are_said_where_the_last_token_is_read(retriever, caplog):
    pixels, ended = torch.randn(2, 3, 16, 16, dtype=torch.float64), IDS[:2].clone()
    ended[:, -1] = 7
    for pooler, ids, is_said in (("last", IDS[:2], True), ("last", ended, False), ("cls", IDS[:2], False)):
        for call in ("encode_text", "match"):
            model = retriever(text_config={"pooler": pooler, "eos_token_id": 7})
            caplog.clear()
            model.encode_text(ids) if call == "encode_text" else model.match(ids, pixel_values=pixels)
            assert ("add_eos_token" in caplog.text) == is_said
