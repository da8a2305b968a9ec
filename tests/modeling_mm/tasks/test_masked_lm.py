"""MMForMaskedLM: both sides and the media in view, labels in place, Auto class, pipeline, Trainer."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForMaskedLM, BertTokenizer, Trainer, TrainingArguments, pipeline

from comparing import close, same_weights
from mm import MMForMaskedLM

FUSIONS = ["cross_attention", "co_attention", "merged"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2]])
LABELS = torch.tensor([[-100, 5, -100, 7], [-100] * 4, [-100, -100, 4, -100]])


@pytest.fixture
def filler(tiny_model):
    def build(fusion="cross_attention", **fields) -> MMForMaskedLM:
        mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
        text = {"is_causal": False, **fields.pop("text_config", {})}
        return tiny_model(cls=MMForMaskedLM, fusion_type=fusion, text_config=text, **mask, **fields)

    return build


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_the_labels_in_their_places(filler, pixels, smoothing):
    model = filler(label_smoothing=smoothing)
    output = model(input_ids=IDS, pixel_values=pixels, labels=LABELS)
    logs = output.logits.log_softmax(-1)
    places = (LABELS != -100).nonzero(as_tuple=True)
    own = logs[(*places, LABELS[places])]
    expected = -((1 - smoothing) * own + smoothing * logs[places].mean(-1))
    close(output.loss, expected.mean())
    close(model(input_ids=IDS, pixel_values=pixels, labels=LABELS, num_items_in_batch=6).loss, expected.sum() / 6)
    nothing = model(input_ids=IDS, pixel_values=pixels, labels=torch.full_like(IDS, -100))
    assert nothing.loss.item() == 0
    nothing.loss.backward()


def test_a_loss_without_logits_is_the_same_loss(filler, pixels):
    model = filler(label_smoothing=0.1)
    results = []
    for return_logits in (True, False):
        model.zero_grad()
        output = model(
            input_ids=IDS, pixel_values=pixels, labels=LABELS, num_items_in_batch=5, return_logits=return_logits
        )
        assert ("logits" in output) is return_logits
        output.loss.backward()
        results.append([output.loss, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert_close(*results, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="loss needs labels"):
        model(input_ids=IDS, pixel_values=pixels, return_logits=False)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_token_depends_on_what_stands_behind_it_and_on_the_picture(filler, pixels, fusion):
    model = filler(fusion)
    logits = model(input_ids=IDS, pixel_values=pixels).logits
    behind = model(input_ids=torch.cat([IDS[:, :3], IDS[:, 3:] + 1], 1), pixel_values=pixels).logits
    assert (logits - behind)[:, 1].abs().max() > 1e-4
    assert (logits - model(input_ids=IDS, pixel_values=pixels.flip(0)).logits)[0, 1].abs().max() > 1e-4
    for row in range(3):
        close(logits[row : row + 1], model(input_ids=IDS[row : row + 1], pixel_values=pixels[row : row + 1]).logits)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("shared", [True, False])
def test_every_parameter_is_trained_or_frozen(filler, pixels, fusion, shared):
    fields = {"share_text_encoder": True} if shared else {}
    model = filler(fusion, vision_config={"use_mask_token": True}, **fields).train()
    context = {"context_input_ids": IDS} if shared else {}
    model(input_ids=IDS, pixel_values=pixels, labels=LABELS, **context).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "set text_config.is_causal=False"),
        ({"fusion_type": "concat", "text_config": {"is_causal": False}}, "fusion_type='concat' .* media .* tokens"),
    ],
)
def test_configurations_that_cannot_fill_in_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        MMForMaskedLM(tiny_config(**fields))


def test_bad_inputs_are_refused_in_words(filler, pixels):
    model = filler()
    with pytest.raises(ValueError, match="no text to fill in"):
        model(pixel_values=pixels)
    with pytest.raises(ValueError, match=r"labels must have the shape \(3, 4\)"):
        model(input_ids=IDS, labels=LABELS[:2])
    with pytest.raises(TypeError, match="no argument 'past_key_values'"):
        model(input_ids=IDS, past_key_values=None)


def test_a_checkpoint_loads_bit_by_bit_and_tied(filler, pixels, tmp_path):
    model = filler()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(loaded) is MMForMaskedLM and loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    same_weights(loaded, model)
    close(loaded(input_ids=IDS, pixel_values=pixels).logits, model(input_ids=IDS, pixel_values=pixels).logits)
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and all(key.startswith("lm_head") for key in info["unexpected_keys"])


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]


def test_the_pipeline_fills_in_a_text_without_a_picture(filler):
    model = filler().float()
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    found = pipeline("fill-mask", model=model, tokenizer=tokenizer)("w3 [MASK] w4", top_k=2)
    logits = model(**tokenizer("w3 [MASK] w4", return_tensors="pt")).logits[0, 2].softmax(-1)
    assert_close([one["score"] for one in found], logits.sort(descending=True).values[:2].tolist())


def test_trainer_trains_by_the_labels_of_the_accumulated_batch(filler, pixels, tmp_path):
    model = filler().float()
    samples = [
        {"input_ids": IDS[i % 3], "pixel_values": pixels[i % 3].float(), "labels": IDS[i % 3]} for i in range(6)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=3, num_train_epochs=12, learning_rate=1e-2,
        gradient_accumulation_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=samples, eval_dataset=samples,
        compute_metrics=lambda result: {"right": float((result.predictions.argmax(-1) == result.label_ids).mean())},
    )  # fmt: skip
    assert trainer.model_accepts_loss_kwargs and trainer.label_names == ["labels"]
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] / 2 and after["eval_right"] > before["eval_right"]
