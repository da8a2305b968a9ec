"""MMForSequenceClassification: targets of every kind, calls without a text, two pictures, Auto classes, pipelines,
Trainer. What holds for every fusion is in test_fusion_matrix.py.
"""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from comparing import close
from mm import MMClassifierOutput, MMForConditionalGeneration, MMForSequenceClassification, MMImageProcessorPil
from mm.modeling_mm.losses.class_losses import classification_loss

FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2]])


@pytest.fixture
def classifier(tiny_model):
    def build(fusion="concat", pooler="mean", **fields) -> MMForSequenceClassification:
        mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
        text = {"is_causal": False, "pooler": pooler, **fields.pop("text_config", {})}
        settings = {"num_labels": 3, "fusion_type": fusion, "text_config": text, **mask, **fields}
        return tiny_model(cls=MMForSequenceClassification, **settings)

    return build


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "problem_type", "labels", "kind"),
    [
        ("auto", None, torch.tensor([0, 2, 1]), "cross_entropy"),
        ("auto", None, torch.tensor([[0, 1.0, 1], [0, 0, 0], [1, 0, 0]]), "bce"),
        ("auto", "single_label_classification", torch.tensor([[0, 0.5, 0.5], [0, 0, 1], [1, 0, 0]]), "cross_entropy"),
        ("auto", "regression", torch.tensor([[0.1, 2, -3]] * 3), "mse"),
        ("bce", None, torch.tensor([[0.3, 1, 0], [0, 0, 0.6], [0.9, 0.3, 0]]), "bce"),
        ("kl", None, torch.tensor([[0.3, 0.7, 0], [0, 0.4, 0.6], [1, 0, 0]]), "kl"),
        ("ordinal", None, torch.tensor([2, 0, 1]), "ordinal"),
    ],
)
def test_labels_of_every_kind_give_their_loss(classifier, pixels, loss, problem_type, labels, kind):
    model = classifier(classification_loss=loss, problem_type=problem_type)
    output = model(input_ids=IDS, pixel_values=pixels, labels=labels)
    assert isinstance(output, MMClassifierOutput)
    assert_close(output.loss, classification_loss(output.logits, labels, kind))
    assert model.config.problem_type == problem_type  # "auto" leaves no trace of the first batch


def test_one_label_is_a_strength(classifier, pixels):
    model = classifier(num_labels=1)
    strengths = torch.tensor([0.5, -2.0, 3.0])
    output = model(input_ids=IDS, pixel_values=pixels, labels=strengths)
    assert output.logits.shape == (3, 1)
    assert_close(output.loss, ((output.logits[:, 0] - strengths) ** 2).mean())


def test_names_of_the_classes_travel_with_the_checkpoint(tiny_model, tmp_path, pixels):
    names = {0: "cat", 1: "dog", 2: "bird"}
    model = tiny_model(cls=MMForSequenceClassification, id2label=names, label2id={v: k for k, v in names.items()})
    model.save_pretrained(tmp_path)
    for auto in (AutoModelForSequenceClassification, AutoModelForImageClassification):
        loaded = auto.from_pretrained(tmp_path, dtype=torch.float64).eval()
        assert type(loaded) is MMForSequenceClassification and loaded.config.id2label == names
        close(loaded(pixel_values=pixels).logits, model(pixel_values=pixels).logits)


def test_a_new_classifier_over_a_captioner_is_reported_and_the_rest_loaded(tiny_model, tmp_path):
    captioner = tiny_model(cls=MMForConditionalGeneration)
    captioner.save_pretrained(tmp_path)
    model, info = MMForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, dtype=torch.float64, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    for name, weight in captioner.model.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], weight), name


def test_a_late_decision_takes_towers_of_any_widths(classifier, pixels):
    model = classifier("decision", projector_type="none")
    assert model.classifiers["image"].in_features == 24 != model.classifiers["text"].in_features
    together, alone = model(input_ids=IDS, pixel_values=pixels), model(input_ids=IDS[1:2], pixel_values=pixels[1:2])
    close(together.logits[1:2], alone.logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pictures_alone_are_a_row_each(classifier, pixels, fusion):
    """Fusions of tokens read bos with each; the others read no text at all."""
    model = classifier(fusion)
    logits = model(pixel_values=pixels).logits
    assert logits.shape == (3, 3)
    one = model(pixel_values=pixels[1:2]).logits
    close(logits[1:2], one)
    if fusion in ("cross_attention", "co_attention", "merged"):
        bos = torch.ones(3, 1, dtype=torch.long)
        close(logits, model(input_ids=bos, pixel_values=pixels).logits)
    elif fusion == "decision":
        alone = model(input_ids=IDS, pixel_values=pixels).modality_logits["image"]
        close(logits, alone)


def test_late_fusion_shows_its_parts(classifier, pixels):
    model = classifier("decision")
    output = model(input_ids=IDS, pixel_values=pixels)
    assert set(output.modality_logits) == {"text", "image"} and output.fusion_weights.shape == (2,)
    mean = sum(
        weight * logits for weight, logits in zip(output.fusion_weights, output.modality_logits.values(), strict=True)
    )
    close(output.logits, mean)
    assert_close(output.fusion_weights.sum().item(), 1.0)
    assert model(input_ids=IDS).modality_logits.keys() == {"text"}


def test_new_gates_start_from_the_answer_of_the_text(tiny_config, pixels):
    torch.manual_seed(0)
    config = tiny_config(fusion_type="gated", text_config={"is_causal": False})
    model = MMForSequenceClassification(config).double().eval()
    close(model(input_ids=IDS, pixel_values=pixels).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_pictures_are_compared_in_their_order(classifier, pixels, fusion):
    model = classifier(fusion, max_images=2)
    pair = torch.stack([pixels, pixels.flip(0)], dim=1)  # (B, 2, C, H, W)
    logits = model(input_ids=IDS, pixel_values=pair).logits
    swapped = model(input_ids=IDS, pixel_values=pair.flip(1)).logits
    unordered = classifier(fusion)
    assert logits.shape == (3, 3)
    if fusion in ("cross_attention", "co_attention", "merged"):
        assert (logits - swapped)[[0, 2]].abs().max() > 1e-4
    close(
        unordered(input_ids=IDS, pixel_values=pair).logits,
        unordered(input_ids=IDS, pixel_values=pair.flip(1)).logits,
    )


def test_a_context_may_be_encoded_before(classifier, pixels):
    for fusion in FUSIONS:
        model = classifier(fusion)
        context = model.encode_context(pixel_values=pixels)
        expected = model(input_ids=IDS, pixel_values=pixels).logits
        close(model(input_ids=IDS, encoder_outputs=context).logits, expected)


def test_states_and_weights_come_on_request(classifier, tiny_config, pixels):
    torch.manual_seed(0)
    config = tiny_config()
    model = MMForSequenceClassification._from_config(config, attn_implementation="eager")
    output = model(input_ids=IDS, pixel_values=pixels.float(), output_attentions=True, output_hidden_states=True)
    layers, tokens = config.text_config.num_hidden_layers, 6
    assert len(output.hidden_states) == layers + 1 and len(output.attentions) == len(output.cross_attentions) == layers
    assert output.cross_attentions[0].shape == (3, 2, 4, tokens)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to classify"),
        ({"pixel_values": True, "attention_mask": torch.ones(3, 4)}, "attention_mask was given without a text"),
        ({"pixel_values": True, "context_index": torch.arange(3)}, "context_index was given without a text"),
        ({"input_ids": IDS, "labels": torch.tensor([0, 1, 3])}, r"must be in 0\.\.2; got 0\.\.3"),
        ({"input_ids": IDS, "labels": torch.tensor([0, 1])}, r"\(3,\); got torch.int64 \(2,\)"),
        ({"input_ids": IDS, "labels": torch.tensor([0.0, 1, 2])}, r"\(3, 3\); got torch.float32 \(3,\)"),
    ],
)
def test_bad_inputs_are_refused_in_words(classifier, pixels, given, message):
    given = {name: pixels if value is True else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        classifier("cross_attention")(**given)


def test_unknown_arguments_are_refused_by_name(classifier, pixels):
    with pytest.raises(TypeError, match="no argument 'label'.*'labels'"):
        classifier()(input_ids=IDS, label=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"pooler": "none"}}, "pooler='none' leaves no vector"),
        ({"classification_loss": "mse", "problem_type": "single_label_classification"}, "problem_type='regression'"),
    ],
)
def test_configurations_that_cannot_classify_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        MMForSequenceClassification(tiny_config(**fields))


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]


def test_pipelines_classify_pictures_and_texts(classifier, pixels):
    model = classifier("sum").float()
    image_processor = MMImageProcessorPil(size={"height": 16, "width": 16})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    found = pipeline("image-classification", model=model, image_processor=image_processor)(picture, top_k=3)
    expected = model(**image_processor(picture, return_tensors="pt")).logits.softmax(-1)[0]
    assert_close([one["score"] for one in found], expected.sort(descending=True).values.tolist())
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    found = pipeline("text-classification", model=model, tokenizer=tokenizer)("w3 w4")[0]
    logits = model(**tokenizer("w3 w4", return_tensors="pt")).logits[0]
    assert found["label"] == model.config.id2label[int(logits.argmax())]


@pytest.mark.parametrize("fusion", ["cross_attention", "decision"])
def test_trainer_trains_and_gets_the_logits_alone(classifier, pixels, fusion, tmp_path):
    model = classifier(fusion).float()
    samples = [
        {"input_ids": IDS[i % 3], "pixel_values": pixels[i % 3].float(), "labels": torch.tensor(i % 3)}
        for i in range(12)
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=6, num_train_epochs=15, learning_rate=1e-2,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, eval_dataset=samples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2
    predictions = trainer.predict(samples).predictions
    assert isinstance(predictions, np.ndarray) and predictions.shape == (12, 3)
