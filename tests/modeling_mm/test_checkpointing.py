"""Activation checkpointing in training mode: what has a cache is right, and what has none is computed again."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor

CALM = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
KINDS = {
    "cross": {},
    "own": {"text": "own"},
    "llama": {"text": "llama"},
    "merged": {"fusion_type": "merged"},
    "encoder": {"text_encoder_config": {"num_hidden_layers": 1}},
    "shared": {"text_encoder_config": None, "share_text_encoder": True},
}
IDS = torch.tensor([[1, 5, 6], [1, 9, 4]])


@pytest.fixture
def training(tiny_model):
    """`training(kind, reentrant)`: (the model as it is, the same in training mode with checkpointing, its context)."""

    def build(kind: str, reentrant: bool = False):
        settings = dict(KINDS[kind])
        if settings.get("text_encoder_config"):
            words = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48,
                     "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
            settings["text_encoder_config"] = {**words, "max_position_embeddings": 16, **CALM, "num_hidden_layers": 1}
        models = [tiny_model(**settings, text_config=CALM, vision_config=CALM) for _ in range(2)]
        models[1].train()
        models[1].activation_checkpointing_enable({"use_reentrant": reentrant})
        context = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()}
        if kind in ("encoder", "shared"):
            context["context_input_ids"] = IDS
        return *models, context

    return build


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_generate_and_rank_answers_are_those_of_a_model_without_checkpointing(training, kind, reentrant):
    plain, model, context = training(kind, reentrant)
    inputs, settings = {**context, "input_ids": IDS}, {"max_new_tokens": 4, "min_new_tokens": 4}
    for way in (
        {},
        {"num_beams": 2},
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
    ):
        assert torch.equal(model.generate(**inputs, **settings, **way), plain.generate(**inputs, **settings, **way)), (
            way
        )
    answers, real = torch.tensor([[5, 7, 2], [8, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    close(model.rank_answers(answers, real, **inputs).scores, plain.rank_answers(answers, real, **inputs).scores)
    close(model.score(**inputs).scores, plain.score(**inputs).scores)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_in_two_steps_is_right_and_no_empty_cache_is_returned(training, kind, grad):
    plain, model, context = training(kind)
    found = {}
    with torch.set_grad_enabled(grad):
        for name, asked in (("expected", plain), ("found", model)):
            first = asked(input_ids=IDS[:, :2], **context, use_cache=True)
            assert first.past_key_values.get_seq_length() == 2
            second = asked(input_ids=IDS[:, 2:], past_key_values=first.past_key_values, use_cache=True)
            found[name] = first.logits, second.logits
        for logits, expected in zip(found["found"], found["expected"], strict=True):
            close(logits, expected)
        whole = plain(input_ids=IDS, **context, use_cache=False).logits
        close(torch.cat(found["found"], 1), whole)
        if grad:  # through both steps
            gradients = []
            for asked, logits in ((model, torch.cat(found["found"], 1)), (plain, whole)):
                logits.square().sum().backward()
                gradients.append({name: value.grad for name, value in asked.named_parameters()})
            for name, gradient in gradients[1].items():
                assert (gradient is None) == (gradients[0][name] is None), name
                if gradient is not None:
                    torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("kind", ["cross", "merged"])
def test_a_training_step_that_asks_for_a_cache_trains_and_gets_it(training, kind):
    plain, model, context = training(kind)
    asked = model(input_ids=IDS, labels=IDS, **context, use_cache=True)
    close(asked.loss, plain(input_ids=IDS, labels=IDS, **context).loss)
    assert asked.past_key_values.get_seq_length() == 3
    asked.loss.backward()
    assert model(input_ids=IDS, labels=IDS, **context).past_key_values is None  # training asks for none


def test_without_a_cache_every_layer_is_computed_again(training):
    _, model, context = training("cross")
    runs = []
    for layer in model.model.language_model.layers:
        layer.mlp.register_forward_hook(lambda *_: runs.append(1))
    model(input_ids=IDS, labels=IDS, **context).loss.backward()
    assert len(runs) == 2 * len(model.model.language_model.layers)
    runs.clear()
    model.model.language_model(input_ids=IDS).last_hidden_state.sum().backward()  # a stack by itself asks for none
    assert len(runs) == 2 * len(model.model.language_model.layers)


class Captions(TrainerCallback):
    """Writes a caption after every step, as people watch a run."""

    def __init__(self, inputs):
        self.inputs, self.written, self.again = inputs, [], []

    def on_step_end(self, args, state, control, model, **kwargs):
        assert model.training
        asked = {**self.inputs, "max_new_tokens": 4, "min_new_tokens": 4}
        self.written.append(model.generate(**asked))
        model.eval()
        self.again.append(model.generate(**asked))
        model.train()


@pytest.mark.parametrize("fusion", ["cross_attention", "merged"])
def test_captions_written_while_trainer_checkpoints_are_those_of_evaluation(tiny_model, tmp_path, fusion):
    words = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green"])}
    tokenizer = BertTokenizer(vocab=words, bos_token="[CLS]", eos_token="[SEP]")
    processor = MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    model = tiny_model(dtype=torch.float32, fusion_type=fusion, text_config=CALM, vision_config=CALM)
    samples = [{"image": Image.new("RGB", (16, 16), colour), "suffix": colour} for colour in ("red", "green")]
    callback = Captions(processor(images=[sample["image"] for sample in samples], return_tensors="pt"))
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_checkpointing=True,
        learning_rate=1e-2, report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    Seq2SeqTrainer(
        model=model, args=arguments, train_dataset=samples, data_collator=MMDataCollator(processor),
        callbacks=[callback],
    ).train()  # fmt: skip
    assert len(callback.written) == 2
    for written, again in zip(callback.written, callback.again, strict=True):
        assert torch.equal(written, again)
