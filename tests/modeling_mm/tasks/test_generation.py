"""MMForConditionalGeneration: logits, loss and what generate() starts from. Invariance has a file of its own."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.utils.generic import find_labels

from mm import MMForConditionalGeneration

IDS = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 9]])


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("text", ["inside", "llama"])
@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_states_through_the_head(tiny_model, pixels, text, transform, bias, tied):
    fields = {"lm_head_transform": transform, "lm_head_bias": bias, "tie_word_embeddings": tied}
    model = tiny_model("vit", text, **fields)
    states = model.model(input_ids=IDS, pixel_values=pixels).last_hidden_state
    if transform:
        head = model.lm_head_transform
        states = head.norm(head.act(states @ head.dense.weight.T + head.dense.bias))
    table = model.model.language_model.embed_tokens.weight
    assert (model.lm_head.weight is table) == tied
    expected = states @ (table if tied else model.lm_head.weight).T + (model.lm_head.bias if bias else 0)
    torch.testing.assert_close(model(input_ids=IDS, pixel_values=pixels).logits, expected, rtol=0, atol=1e-12)


def test_logits_to_keep_takes_the_last_positions_or_those_named(tiny_model, pixels):
    model = tiny_model()
    logits = model(input_ids=IDS, pixel_values=pixels).logits
    for keep, at in ((1, [3]), (3, [1, 2, 3]), (torch.tensor([0, 2]), [0, 2])):
        kept = model(input_ids=IDS, pixel_values=pixels, logits_to_keep=keep).logits
        torch.testing.assert_close(kept, logits[:, at], rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_give_the_mean_loss_of_the_next_tokens(tiny_model, pixels, smoothing):
    model = tiny_model(label_smoothing=smoothing)
    labels = IDS.masked_fill(IDS == 1, -100)
    output = model(input_ids=IDS, pixel_values=pixels, labels=labels)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=smoothing
    )
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    assert model(input_ids=IDS, pixel_values=pixels).loss is None


def test_a_loss_needs_no_picture(tiny_model):
    assert torch.isfinite(tiny_model()(input_ids=IDS, labels=IDS).loss)


@pytest.mark.parametrize("tied", [True, False])
def test_a_loss_without_logits_is_the_same_loss(tiny_model, pixels, tied):
    model = tiny_model(label_smoothing=0.1, tie_word_embeddings=tied, lm_head_transform=True, lm_head_bias=True)
    inputs = {"input_ids": IDS, "pixel_values": pixels, "labels": IDS.masked_fill(IDS == 7, -100)}
    results = []
    for return_logits in (True, False):
        model.zero_grad()
        output = model(**inputs, num_items_in_batch=5, return_logits=return_logits)
        assert ("logits" in output) is return_logits
        output.loss.backward()
        results.append((output.loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (loss, grads), (without, their_grads) = results
    torch.testing.assert_close(without, loss, rtol=0, atol=1e-12)
    for name, grad in grads.items():
        torch.testing.assert_close(their_grads[name], grad, rtol=0, atol=1e-12)


def test_training_makes_no_logits_that_nobody_asked_for(tiny_model, pixels):
    """Only positions with a label go through the head, by itself; the loss is that of all logits."""
    model = tiny_model().train()
    inputs = {"input_ids": IDS, "pixel_values": pixels, "labels": IDS.masked_fill(IDS == 7, -100)}
    made, whole = model(**inputs), model(**inputs, return_logits=True)
    assert "logits" not in made and whole.logits.shape == (*IDS.shape, model.config.text_config.vocab_size)
    torch.testing.assert_close(made.loss, whole.loss, rtol=0, atol=1e-12)
    assert "logits" in model(input_ids=IDS, pixel_values=pixels)  # no labels
    with torch.no_grad():
        assert "logits" in model(**inputs)
    assert "logits" in model.eval()(**inputs)


def test_training_keeps_the_logits_of_a_head_that_is_more_than_its_weight(tiny_model, pixels):
    model, seen = tiny_model().train(), []
    model.lm_head.register_forward_hook(lambda *call: seen.append(call))
    assert "logits" in model(input_ids=IDS, pixel_values=pixels, labels=IDS) and len(seen) == 1


def test_a_model_without_values_runs_with_labels(tiny_model):
    """On the meta device, as tools that count operations run it: nobody knows there which positions have a label."""
    model = tiny_model(check_inputs=False).to("meta").train()
    output = model(
        input_ids=IDS.to("meta"), labels=IDS.to("meta"), pixel_values=torch.zeros(2, 3, 16, 16, device="meta")
    )
    assert output.logits is not None and output.loss.device.type == "meta"


def test_a_loss_without_logits_needs_labels_and_a_plain_head(tiny_model, pixels):
    model = tiny_model()
    with pytest.raises(ValueError, match="loss needs labels"):
        model(input_ids=IDS, pixel_values=pixels, return_logits=False)
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="plain nn.Linear as head; got Sequential"):
        model(input_ids=IDS, pixel_values=pixels, labels=IDS, return_logits=False)


def test_trainer_finds_the_labels_and_sends_the_number_of_items(tiny_model, pixels, tmp_path):
    """Two accumulated batches of unequal length weigh their tokens alike: the gradient of one large batch."""
    assert find_labels(MMForConditionalGeneration) == ["labels"]
    model = tiny_model(dtype=torch.float32).train()
    labels = torch.tensor([[-100, 5, 6, 2], [-100, -100, -100, 9]])
    samples = [{"input_ids": IDS[i], "pixel_values": pixels[i].float(), "labels": labels[i]} for i in range(2)]
    whole = model(input_ids=IDS, pixel_values=pixels.float(), labels=labels).loss
    whole.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=1,
        learning_rate=0.0, max_grad_norm=0.0, use_cpu=True, report_to=[], logging_steps=1, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    seen = {}

    class Watching(Trainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            seen.update({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
            return loss

    trainer = Watching(model=model, args=arguments, train_dataset=samples)
    assert trainer.label_names == ["labels"] and trainer.model_accepts_loss_kwargs
    trainer.train()
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(whole.item(), rel=1e-4)


def test_a_decoder_that_is_not_causal_is_refused(tiny_config):
    with pytest.raises(ValueError, match="needs a causal decoder; set text_config.is_causal=True"):
        MMForConditionalGeneration(tiny_config(text_config={"is_causal": False}))


def test_generation_without_a_prompt_starts_one_row_per_context_from_bos(tiny_model, pixels):
    model = tiny_model()
    expected = model.generate(input_ids=torch.tensor([[1], [1]]), pixel_values=pixels, max_new_tokens=4)
    context = model.encode_context(pixels)
    for media in (
        {"pixel_values": pixels},
        {"pixel_values": pixels[:, None]},
        {"encoder_outputs": context},
        {"encoder_outputs": context.last_hidden_state},
        {"visual_embeds": model.model.get_image_features(pixels).last_hidden_state},
        {"pixel_values": pixels, "context_index": torch.tensor([0, 1])},
    ):
        assert torch.equal(model.generate(**media, max_new_tokens=4), expected)
    assert model.generate(max_new_tokens=4)[0, 0] == 1


def test_without_a_prompt_an_index_says_how_many_rows_there_are(tiny_model, pixels):
    model = tiny_model("conv", "own")
    two = model.generate(pixel_values=pixels, max_new_tokens=4)
    three = model.generate(pixel_values=pixels, context_index=torch.tensor([1, 0, 1]), max_new_tokens=4)
    assert torch.equal(three, two[[1, 0, 1]])


def test_a_prompt_is_needed_where_there_is_no_bos(tiny_model, pixels):
    model = tiny_model(text_config={"bos_token_id": None})
    with pytest.raises(ValueError, match="starts from bos; set generation_config.bos_token_id"):
        model.generate(pixel_values=pixels, max_new_tokens=2)


def test_generate_does_not_change_what_it_is_given(tiny_model, pixels):
    model = tiny_model()
    inputs = {"input_ids": IDS.clone(), "pixel_values": pixels.clone(), "context_index": torch.tensor([1, 0])}
    model.generate(**inputs, num_beams=2, max_new_tokens=3)
    assert torch.equal(inputs["input_ids"], IDS) and torch.equal(inputs["pixel_values"], pixels)
    assert inputs["context_index"].tolist() == [1, 0]


def test_asking_for_everything_gives_everything_per_row(tiny_model, pixels):
    model = tiny_model(attention="eager")
    output = model.generate(
        input_ids=IDS, pixel_values=pixels, num_beams=2, min_new_tokens=3, max_new_tokens=3,
        return_dict_in_generate=True, output_scores=True, output_logits=True, output_attentions=True,
        output_hidden_states=True,
    )  # fmt: skip
    assert output.sequences.shape == (2, 7) and len(output.scores) == len(output.logits) == 3
    assert output.hidden_states[0][-1].shape == (4, 4, 32) and output.hidden_states[1][-1].shape == (4, 1, 32)
    assert output.attentions[0][0].shape == (4, 2, 4, 4)


@pytest.mark.parametrize(("settings", "length"), [({}, 6), ({"cache_implementation": "static"}, 12)])
def test_columns_that_are_padding_everywhere_are_cut_unless_shapes_must_stay(tiny_model, pixels, settings, length):
    model, present = tiny_model(), torch.tensor([[True, False], [False, True]])
    slots = {"pixel_values": pixels[:, None].expand(-1, 2, -1, -1, -1), "pixel_attention_mask": present}
    output = model.generate(**slots, **settings, max_new_tokens=3, return_dict_in_generate=True)
    held = output.past_key_values.cross_attention_cache.layers[0]
    assert held.keys.shape == held.values.shape == (2, 2, length, 16)


def test_the_vocabulary_can_grow(tiny_model, pixels):
    model = tiny_model()
    before = model(input_ids=IDS, pixel_values=pixels).logits
    model.resize_token_embeddings(53)
    assert model.config.text_config.vocab_size == 53 and model.lm_head.bias.shape == (53,)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    after = model(input_ids=torch.where(IDS == 2, 52, IDS), pixel_values=pixels).logits
    assert after.shape[-1] == 53
    torch.testing.assert_close(after[1, :, :50], before[1], rtol=0, atol=1e-12)


def test_a_tuple_comes_back_when_the_config_says_so(tiny_model, pixels):
    model = tiny_model()
    logits = model(input_ids=IDS, pixel_values=pixels).logits
    model.config.return_dict = False
    output = model(input_ids=IDS, pixel_values=pixels, labels=IDS)
    assert isinstance(output, tuple) and torch.equal(output[1], logits)


def test_the_special_tokens_of_the_text_config_reach_generation(tiny_model):
    settings = tiny_model().generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)


def test_trainer_trains_without_logits_as_with_them(tiny_model, pixels, tmp_path):
    """The batch says so, as a collator may; evaluation needs no logits either."""
    samples = [{"input_ids": IDS[i], "pixel_values": pixels[i].float(), "labels": IDS[i]} for i in range(2)]
    trained = []
    for return_logits in (True, False):

        def collate(features, return_logits=return_logits):
            return {**default_data_collator(features), "return_logits": return_logits}

        model = tiny_model(dtype=torch.float32)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=2,
            use_cpu=True, report_to=[], disable_tqdm=True, optim="sgd", learning_rate=0.1,
        )  # fmt: skip
        trainer = Trainer(model, arguments, collate, train_dataset=samples, eval_dataset=samples)
        trainer.train()
        trained.append((trainer.evaluate()["eval_loss"], model.state_dict()))
    (loss, weights), (without, theirs) = trained
    assert without == pytest.approx(loss, abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("kind", ["cross_attention", "merged"])
def test_a_model_whose_weights_torch_packed_generates(tiny_model, pixels, kind):
    """`quantize_dynamic` puts a method where a layer had its weight; rounding is near enough for finite scores."""
    model = tiny_model(fusion_type=kind, dtype=torch.float32)
    packed = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    for beams in (1, 2):
        written = packed.generate(pixel_values=pixels.float(), num_beams=beams, **settings)
        assert written.sequences.shape[1] == 4 and all(one.isfinite().all() for one in written.logits)
