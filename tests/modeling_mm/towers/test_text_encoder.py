"""Context text: read by an encoder of its own or by the decoder's weights, joined with media, then decoded."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch

from comparing import close, same_weights
from mm import MMForConditionalGeneration, MMModel

IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 3, 9]])
QUESTIONS = torch.tensor([[1, 4, 5, 2], [0, 1, 9, 2], [1, 8, 2, 0], [1, 7, 7, 2]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
ENCODERS = {"own": {"text_encoder_config": "tiny"}, "shared": {"share_text_encoder": True}}
BOTH_WAYS = {"fusion_type": "merged", "fusion_mask": "bidirectional"}
FUSIONS = {
    "cross_attention": {}, "merged": BOTH_WAYS, "co_attention": {"fusion_type": "co_attention"},
    "concat": {"fusion_type": "concat"}, "sum": {"fusion_type": "sum"}, "gated": {"fusion_type": "gated"},
}  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_question_reads_its_picture_and_each_answer_its_question(tiny_model, pictures, encoder, fusion):
    model = tiny_model(**ENCODERS[encoder], **FUSIONS[fusion])
    present = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()
    of_picture, of_question = [2, 0, 1, 0], [3, 1, 0, 2, 1]
    ids = IDS[[0, 1, 2, 0, 1]]
    batch = model(
        input_ids=ids,
        pixel_values=pictures,
        pixel_attention_mask=present,
        context_input_ids=QUESTIONS,
        context_attention_mask=MASK,
        media_index=torch.tensor(of_picture),
        context_index=torch.tensor(of_question),
    )
    for row, question in enumerate(of_question):
        picture = of_picture[question]
        seen = pictures[picture][present[picture]]
        media = {"pixel_values": seen[None]} if len(seen) else {}
        asked = QUESTIONS[question][MASK[question].bool()][None]
        single = model(input_ids=ids[row : row + 1], context_input_ids=asked, **media)
        close(batch.logits[row], single.logits[0])
    blind = model(input_ids=ids, context_input_ids=QUESTIONS, context_attention_mask=MASK,
                  context_index=torch.tensor(of_question)).logits  # fmt: skip
    assert (blind - batch.logits).abs().amax((1, 2))[[0, 1, 4]].min() > 1e-4  # of the questions with a picture


def test_the_context_is_the_text_s_states_over_the_media(tiny_model, pictures):
    model = tiny_model(cls=MMModel, text_encoder_config="tiny")
    media = model.vision_projector(model.vision_tower(pictures[:, 0]).last_hidden_state)
    expected = model.text_encoder(
        input_ids=QUESTIONS[:3], attention_mask=MASK[:3], encoder_hidden_states=media, use_cache=False
    )
    context = model.encode_context(pictures[:, 0], context_input_ids=QUESTIONS[:3], context_attention_mask=MASK[:3])
    for row in range(3):
        real = MASK[row].bool()
        close(context.last_hidden_state[row, : int(real.sum())], expected.last_hidden_state[row][real])
    assert context.attention_mask.sum(1).tolist() == [4, 3, 3]
    assert context.token_sources[1].tolist() == [[3, 0, 1], [3, 0, 2], [3, 0, 3], [-1, -1, -1]]
    close(context.pooler_output, expected.pooler_output)
    assert context.text_output is not None and context.vision_output is not None
    decoded = model.language_model(
        input_ids=IDS, encoder_hidden_states=context.last_hidden_state, encoder_attention_mask=context.attention_mask
    )
    output = model(input_ids=IDS, encoder_outputs=context)
    close(output.last_hidden_state, decoded.last_hidden_state)


def test_the_shared_encoder_is_the_decoder_seeing_both_ways(tiny_model, pictures):
    model = tiny_model(cls=MMModel, share_text_encoder=True)
    assert model.text_encoder is None
    states = model.encode_context(pictures[:, 0], context_input_ids=QUESTIONS[[0, 3, 0]]).last_hidden_state
    changed = QUESTIONS[[0, 3, 0]].clone()
    changed[:, -1] = 9
    moved = model.encode_context(pictures[:, 0], context_input_ids=changed).last_hidden_state
    assert (states[:, 0] - moved[:, 0]).abs().min() > 0  # the first token sees the last
    decoded, again = (model(input_ids=ids, encoder_outputs=states).last_hidden_state for ids in (IDS, IDS.flip(0)))
    longer = torch.cat([IDS, IDS[:, -1:]], dim=1)
    close(model(input_ids=longer, encoder_outputs=states).last_hidden_state[:, :3], decoded)  # it stays a decoder


def test_without_context_text_a_shared_encoder_s_decoder_reads_the_media(tiny_model, pictures):
    model, plain = (tiny_model(share_text_encoder=share) for share in (True, False))
    plain.load_state_dict(model.state_dict())
    given = {"input_ids": IDS, "pixel_values": pictures}
    close(model(**given).logits, plain(**given).logits)
    written = [one.generate(pixel_values=pictures, max_new_tokens=4) for one in (model, plain)]
    assert torch.equal(*written)
    with pytest.raises(ValueError, match="without context_input_ids"):
        tiny_model(share_text_encoder=True, fusion_type="co_attention")(**given)


@pytest.mark.parametrize("fusion", ["merged", "co_attention"])
def test_media_go_before_the_text_where_the_fusion_gives_their_states_too(tiny_model, pictures, fusion):
    model = tiny_model(cls=MMModel, text_encoder_config="tiny", **FUSIONS[fusion])
    mask = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()
    context = model.encode_context(pictures, mask, context_input_ids=QUESTIONS[:3], context_attention_mask=MASK[:3])
    kinds = [context.token_sources[row, context.attention_mask[row], 0].tolist() for row in range(3)]
    assert kinds == [[0] * 12 + [3] * 4, [0] * 6 + [3] * 3, [3] * 3]


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
def test_a_fused_vector_is_a_context_of_one_token(tiny_model, pictures, fusion):
    model = tiny_model(cls=MMModel, text_encoder_config="tiny", fusion_type=fusion, fusion_size=20,
                       text_config={"cross_attention_hidden_size": 20})  # fmt: skip
    context = model.encode_context(pictures[:, 0], context_input_ids=QUESTIONS[:3])
    assert context.last_hidden_state.shape == (3, 1, 20) and context.attention_mask is None
    media = model.vision_projector(model.vision_tower(pictures[:, 0]).last_hidden_state).mean(1)
    text = model.text_encoder(input_ids=QUESTIONS[:3]).pooler_output
    close(context.last_hidden_state[:, 0], model.fusion({"text": text, "image": media}))
    close(context.pooler_output, context.last_hidden_state[:, 0])


def test_text_features_are_the_encoder_s_without_media(tiny_model):
    own, shared = (tiny_model(cls=MMModel, **fields) for fields in ENCODERS.values())
    expected = own.text_encoder(input_ids=QUESTIONS, attention_mask=MASK)
    features = own.get_text_features(QUESTIONS, MASK)
    close(features.last_hidden_state, expected.last_hidden_state)
    close(features.pooler_output, expected.pooler_output)
    expected = shared.language_model(input_ids=QUESTIONS, attention_mask=MASK, is_causal=False, use_cache=False)
    close(shared.get_text_features(QUESTIONS, MASK).last_hidden_state, expected.last_hidden_state)
    plain = tiny_model(cls=MMModel)
    expected = plain.language_model(input_ids=QUESTIONS, attention_mask=MASK).last_hidden_state
    close(plain.get_text_features(QUESTIONS, MASK).last_hidden_state, expected)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_saved_and_loaded_it_has_the_same_bits_and_answers_the_same(tiny_model, pictures, encoder, fusion, tmp_path):
    model = tiny_model(**ENCODERS[encoder], **FUSIONS[fusion])
    inputs = {"input_ids": IDS, "pixel_values": pictures, "context_input_ids": QUESTIONS[:3]}
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64).eval()
    same_weights(loaded, model)
    close(loaded(**inputs).logits, expected)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_that_trains_gets_a_gradient(tiny_model, pictures, encoder, fusion):
    model = tiny_model(**ENCODERS[encoder], **FUSIONS[fusion]).train()
    inputs = {"pixel_values": pictures, "context_input_ids": QUESTIONS[:3], "context_attention_mask": MASK[:3]}
    model(input_ids=IDS, labels=IDS, **inputs).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any("vision_tower.pooler" in name for name in trained)


REFUSED = {
    "media alone": ({"context_input_ids": None}, "pixel_values was given without context_input_ids"),
    "ids": ({"context_input_ids": QUESTIONS[:3] + 48}, r"context_input_ids must be in 0..49 .text_encoder_co"),
    "mask": ({"context_attention_mask": MASK[:2]}, r"context_attention_mask must be \(R, T\) for text \(3, 4\)"),
    "index": ({"media_index": torch.tensor([0, 1, 3])}, r"media_index must be in 0..2; got 0..3"),
    "index of nothing": (
        {"pixel_values": None, "media_index": torch.tensor([0, 1, 2])},
        "media_index was given, but there are no media for the context text to read",
    ),
    "counts": ({"context_input_ids": QUESTIONS}, "4 text rows and 3 contexts: without media_index"),
    "lonely mask": (
        {"context_input_ids": None, "context_attention_mask": MASK[:3]},
        "context_attention_mask was given without context_input_ids",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_what_does_not_fit_is_refused_in_words(tiny_model, pictures, name, call):
    changed, message = REFUSED[name]
    inputs = {"input_ids": IDS, "pixel_values": pictures, "context_input_ids": QUESTIONS[:3], **changed}
    model = tiny_model(text_encoder_config="tiny")
    with pytest.raises(ValueError, match=message):
        getattr(model, call)(**{key: value for key, value in inputs.items() if value is not None})
