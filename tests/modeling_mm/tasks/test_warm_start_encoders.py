"""ModernBERT and T5's encoder, encoding a question or compared: as in the source, for any padding and length."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
import transformers
from transformers import BertConfig, BertLMHeadModel, ModernBertConfig, MT5Config, T5Config, ViTConfig, ViTModel
from transformers.models.t5.modeling_t5 import T5Attention

import mm
from comparing import close
from mm.modeling_mm.core.positions import MMRelativeBias

WIDE = {
    "hidden_size": 48, "intermediate_size": 60, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 70,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
T5 = {
    "d_model": 40, "d_kv": 6, "d_ff": 50, "num_layers": 3, "num_heads": 4, "vocab_size": 70,
    "relative_attention_num_buckets": 10, "relative_attention_max_distance": 17,
}  # fmt: skip
SOURCES = {
    "t5": ("T5Model", T5Config(**T5)),
    "t5, gated": ("T5EncoderModel", T5Config(**T5, feed_forward_proj="gated-gelu")),
    "mt5": ("MT5ForConditionalGeneration", MT5Config(**T5, tie_word_embeddings=False)),
    "modernbert": ("ModernBertModel", ModernBertConfig(**WIDE, local_attention=8, classifier_pooling="mean")),
}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    BertLMHeadModel(BertConfig(**{**WIDE, "hidden_size": 24}, is_decoder=True)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    """A folder with random weights, and what Transformers' own class makes of it."""
    name, config = SOURCES[request.param]
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(std=0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("source")
    theirs.save_pretrained(folder)
    return folder, theirs.get_encoder() if theirs.config.is_encoder_decoder else theirs


def padded_both_ways():
    """Texts much longer than a window of 4 tokens to either side, with more padding than that at the left or right."""
    ids = torch.randint(3, 70, (3, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :11], mask[2, 13:] = 0, 0
    return ids.masked_fill(mask == 0, 0), mask


FLEX = pytest.param("flex_attention", marks=pytest.mark.slow)  # minutes of compilation where there is no GPU


@pytest.mark.parametrize("implementation", ["eager", "sdpa", FLEX])
@torch.no_grad()
def test_states_and_the_pooled_vector_are_those_of_the_source_alone_or_in_a_batch(vit, source, implementation):
    folder, theirs = source
    ours = mm.MMForImageTextRetrieval.from_towers(vit, folder, fusion_type="none").eval()
    ours.set_attn_implementation({"": implementation, "text_config": implementation})
    text = ours.model.language_model
    ids, mask = padded_both_ways()
    here = text(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    there = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    real = mask.bool()
    assert here.last_hidden_state.isfinite().all() and here.past_key_values is None
    for one, two in zip(here.hidden_states[:-1], there.hidden_states[:-1], strict=True):
        close(one[real], two[real], 1e-5)
    close(here.last_hidden_state[real], there.last_hidden_state[real], 1e-5)
    for row, alone in enumerate(real):
        one = text(input_ids=ids[row : row + 1, alone])
        close(here.last_hidden_state[row, alone], one.last_hidden_state[0], 1e-5)
        close(here.pooler_output[row], there.last_hidden_state[row, alone].mean(0), 1e-5)


@torch.no_grad()
def test_it_encodes_a_question_that_a_decoder_answers_and_survives_a_save(vit, bert, source, tmp_path):
    folder, theirs = source
    ours = mm.MMForConditionalGeneration.from_towers(vit, bert, text_encoder=folder, fusion_type="co_attention").eval()
    ours.save_pretrained(tmp_path)
    ours = mm.MMForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids, mask = padded_both_ways()
    here = ours.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    close(here[real], theirs(input_ids=ids, attention_mask=mask).last_hidden_state[real], 1e-5)
    pixels = torch.randn(3, 1, 3, 16, 16)
    inputs = {"pixel_values": pixels, "context_input_ids": ids, "context_attention_mask": mask}
    together = ours.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        alone = ours.generate(
            **one, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        close(torch.stack(together.logits)[: len(alone.logits), row], torch.stack(alone.logits)[:, 0], 1e-5)


def test_a_model_that_compares_texts_learns_every_weight_of_it(vit, source):
    ours = mm.MMForSequenceClassification.from_towers(
        vit, source[0], fusion_type="cross_attention", num_labels=3, text_config={"pooler": "mean"}
    )
    ids, mask = padded_both_ways()
    pixels = torch.randn(3, 1, 3, 16, 16)
    ours(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=torch.tensor([0, 1, 2])).loss.backward()
    unread = [name for name, weight in ours.model.language_model.named_parameters() if weight.grad is None]
    assert not unread


LOCAL = {"local_attention_layers": [1], "local_attention_window": 3, "is_causal": False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"is_causal": True, "segment_length": 4}, "do not go with segment_length=4"),
        ({"local_attention_layers": None}, "local_attention_window is for local_attention_layers"),
        ({"local_attention_layers": [2]}, r"names \[2\], which are no layers with self-attention"),
        ({"local_attention_layers": [1, 1]}, "names a layer twice"),
        ({"local_attention_window": None}, "set local_attention_window"),
        ({"local_attention_window": 0}, "local_attention_window=0 must be positive"),
        ({"local_rope_theta": 100.0}, "set position_embedding_type='rope'"),
        ({"segment_length": 4}, "does not go with segment_length=4"),
        ({"position_embedding_type": "relative"}, "do not go with position_embedding_type='relative'"),
        ({"first_attention_norm": False}, "set norm_position='pre'"),
    ],
)
def test_settings_that_do_not_go_with_a_window_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mm.MMTextConfig(num_hidden_layers=2, **{**LOCAL, **settings})


RELATIVE = {"position_embedding_type": "relative", "is_causal": False}
SMALL = {
    "hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 70,
    "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, **RELATIVE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"is_causal": True}, "which a decoder has not written yet; set is_causal=False"),
        ({"segment_length": 4}, "does not go with segment_length=4"),
        ({"relative_attention_num_buckets": 3}, "num_buckets=3 must be at least 4"),
        ({"relative_attention_max_distance": 8}, "max_distance=8 must be above 8"),
    ],
)
def test_settings_that_do_not_go_with_relative_positions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mm.MMTextConfig(**{**RELATIVE, **settings})


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (10, 17), (6, 500)])
def test_every_distance_is_in_the_bucket_that_t5_has_for_it(buckets, farthest):
    sizes = {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": farthest}
    bias = MMRelativeBias(mm.MMTextConfig(**RELATIVE, **sizes))
    distances = torch.arange(-3000, 3001)
    theirs = T5Attention._relative_position_bucket(distances, True, buckets, farthest)
    assert torch.equal(bias.buckets(distances), theirs)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient_of_the_relative_positions(reentrant):
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2, "num_hidden_layers": 3}
    torch.manual_seed(0)
    model = mm.MMTextModel(
        mm.MMTextConfig(**sizes, vocab_size=70, pad_token_id=0, eos_token_id=2, bos_token_id=None, **RELATIVE)
    )
    ids, mask = padded_both_ways()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train().zero_grad()
        model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].pow(3).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    assert gradients[0]["relative_attention_bias.weight"].abs().max() > 1e-3
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, 1e-5)


@torch.no_grad()
def test_relative_positions_are_added_in_half_precision_and_to_a_ready_mask():
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = mm.MMTextModel(
        mm.MMTextConfig(**sizes, vocab_size=70, pad_token_id=0, eos_token_id=2, bos_token_id=None, **RELATIVE)
    )
    torch.nn.init.normal_(model.eval().relative_attention_bias.weight)
    ids, mask = padded_both_ways()
    real, there = mask.bool(), model(input_ids=ids, attention_mask=mask).last_hidden_state
    places = (mask.cumsum(1) - 1).clamp(min=0)
    ready = model(input_ids=ids, attention_mask=real[:, None, None].expand(-1, 1, 30, -1), position_ids=places)
    close(ready.last_hidden_state[real], there[real], 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        close(model(input_ids=ids, attention_mask=mask).last_hidden_state.float()[real], there[real], 2e-2)
    half = model.bfloat16()(input_ids=ids, attention_mask=mask).last_hidden_state
    close(half.float()[real], there[real], 2e-2)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["cross_attention", "merged"])
def test_a_modernbert_that_writes_sees_its_window_before_each_token(vit, source, fusion):
    if source[1].config.model_type != "modernbert":
        return
    ours = mm.MMForConditionalGeneration.from_towers(vit, source[0], fusion_type=fusion).eval()
    ids, mask = padded_both_ways()
    ids, mask = ids[:2], mask[:2]
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(2, 1, 3, 16, 16)}
    search = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 2}
    assert torch.equal(ours.generate(**given, **search), ours.generate(**given, **search, use_cache=False))


def test_uses_that_a_window_does_not_have_are_refused(vit, source, bert):
    with pytest.raises(ValueError, match="puts media and text into one sequence"):
        mm.MMConfig(fusion_type="merged", text_config={"num_hidden_layers": 2, **LOCAL})
    if source[1].config.model_type != "modernbert":  # whose windows a decoder has too
        with pytest.raises(ValueError, match="which a decoder has not written yet"):
            mm.MMForConditionalGeneration.from_towers(vit, source[0], fusion_type="cross_attention")
    with pytest.raises(ValueError, match="this text is an encoder"):
        mm.MMForSequenceClassification.from_towers(vit, source[0], cross_attention_every=2)
    with pytest.raises(ValueError, match="position_embedding_type='relative' is only for texts"):
        mm.MMConfig(fusion_type="merged", text_config=SMALL)
    with pytest.raises(ValueError, match="relative' is of both sides"):
        mm.MMTextModel(mm.MMTextConfig(**SMALL))(input_ids=torch.ones(1, 5, dtype=torch.long), is_causal=True)
    text = mm.MMTextModel(mm.MMTextConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, **LOCAL))
    ids = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="pass the mask as"):
        text(input_ids=ids, attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="without a cache"):
        text(input_ids=ids, past_key_values=transformers.DynamicCache())
    with pytest.raises(ValueError, match="see tokens on both sides"):
        text(input_ids=ids, is_causal=True)
