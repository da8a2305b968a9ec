"""The plan of a run: what it counts is what Trainer does, and the contact sheet shows what the model sees."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Seq2SeqTrainingArguments

import mm
from mm.training.contact_sheet import colours_of, seen_in
from mm.training.memory import peaks_of_step
from mm.training.plan import describe_plan, parts_of, token_lengths
from small_trainer import small_trainer

PICTURES = "examples/pictures/"


@pytest.fixture
def captioner(processor, tmp_path):
    return small_trainer(tmp_path / "run", processor)


def described(trainer, processor, data, **settings):
    arguments = {"use_cpu": True, "per_device_train_batch_size": 2, "report_to": "none", **settings}
    training = Seq2SeqTrainingArguments(str(trainer.args.output_dir), **arguments)
    return describe_plan(trainer.model, processor, training, data, data[:1])


def samples(count):
    return [{"image": Image.new("RGB", (8, 8), "red"), "suffix": f"number {n}"} for n in range(count)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_train_epochs": 2.5},
        {"gradient_accumulation_steps": 2},
        {"dataloader_drop_last": True},
        {"max_steps": 5},
    ],
)
def test_steps_are_those_of_trainer(processor, tmp_path, settings):
    data = samples(7)
    count = {"num_train_epochs": 1, **settings}
    trainer = small_trainer(tmp_path / "run", processor, save_strategy="no", **{"max_steps": -1, **count})
    trainer.train_dataset = data
    plan = describe_plan(trainer.model, processor, trainer.args, data)
    trainer.train()
    assert plan.steps == trainer.state.global_step
    assert f"steps: {plan.steps}" in str(plan)


def test_parameters_are_counted_once_and_frozen_ones_are_not_trained(captioner, processor):
    model = captioner.model.freeze("vision")
    parts = parts_of(model)
    assert sum(count for _, count, _ in parts) == sum(one.numel() for one in model.parameters())
    assert sum(own for *_, own in parts) == sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert dict((name, own) for name, _, own in parts)["vision_tower"] == 0
    assert "frozen" in str(described(captioner, processor, samples(2)))


def test_the_model_and_the_random_numbers_stay_as_they_were(captioner, processor):
    before = {name: value.clone() for name, value in captioner.model.state_dict().items()}
    captioner.model.eval()
    torch.manual_seed(3)
    described(captioner, processor, samples(3))
    after, drawn = captioner.model.state_dict(), torch.rand(1)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not captioner.model.training and all(one.grad is None for one in captioner.model.parameters())
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_memory_grows_with_the_batch_and_falls_with_what_is_frozen(captioner, processor):
    def held(size):
        return described(captioner, processor, samples(8), per_device_train_batch_size=size).memory

    small, large = held(8), held(64)
    assert large.step > 4 * small.step and large.weights == small.weights
    trained = small.gradients
    assert small.optimizer == 2 * trained == 2 * 4 * sum(one.numel() for one in captioner.model.parameters())
    captioner.model.freeze("vision")
    assert held(8).gradients < trained


def test_the_peak_of_one_product_is_counted_by_hand(request):
    if request.config.getoption("--other-cpu"):
        pytest.skip("matrix products of another CPU are computed by more operations, which hold more memory")

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(10, 10))
            self.is_gradient_checkpointing = False

        def forward(self, x):
            made = (x @ self.weight).exp()  # two (1000, 10) of fp32 at once; exp keeps its result
            return type("Output", (), {"loss": made.sum()})()

    training = Seq2SeqTrainingArguments("runs/none", use_cpu=True)
    forward, backward = peaks_of_step(Product(), {"x": torch.ones(1000, 10)}, training)
    assert forward == 3 * 40_000 and 2 * 40_000 < backward <= 4 * 40_000 + 1000


def test_lengths_are_those_before_anything_is_cut(processor):
    texts = ["a rocket", "a " * 100]
    lengths = token_lengths(
        [{"image": "a.png", "suffix": texts}, {"image": "b.png", "suffix": "x"}], mm.MMDataCollator(processor)
    )
    rows = processor(text=[""] * 3, suffix=[*texts, "x"], max_length=500, return_tensors="pt")
    assert lengths == rows["attention_mask"].sum(1).tolist() and max(lengths) > 100


def test_cut_captions_are_counted(captioner, processor):
    data = [{"image": Image.new("RGB", (8, 8)), "suffix": "a " * 100}, *samples(2)]
    collator = mm.MMDataCollator(processor, max_length=16)
    assert "1 cut at 16" in str(describe_plan(captioner.model, processor, captioner.args, data, collator=collator))


def test_pixels_of_the_batch_are_the_colours_of_the_picture(processor):
    drawn = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    plain = type(processor.image_processor)(**{**processor.image_processor.to_dict(), "do_crop_content": False})
    pixels = plain(Image.fromarray(drawn), return_tensors="pt")["pixel_values"][0]
    assert np.array_equal(colours_of(pixels, plain), drawn)


def test_the_sheet_shows_tokens_and_labels_of_the_batch(processor, tmp_path):
    batch = mm.MMDataCollator(processor)([
        {"image": f"{PICTURES}rocket.png", "text": ["what", "who"], "suffix": ["a rocket", "nobody"]},
        {"image": f"{PICTURES}guitar.png", "text": ["what"], "suffix": ["a guitar"]},
    ])  # fmt: skip
    rocket, guitar = seen_in(batch, processor)
    assert [name for name, _ in rocket.lines] == ["model reads", "learns to write"] * 2
    assert rocket.lines[1][1].startswith("a rocket") and "a guitar" not in str(rocket.lines)
    assert guitar.lines[1][1].startswith("a guitar") and guitar.pictures[0].shape == (128, 128, 3)


def test_hidden_patches_are_grey(processor):
    batch = mm.MMDataCollator(processor, mim_ratio=0.5, patch_size=32)(
        [{"image": f"{PICTURES}rocket.png", "suffix": "x"}]
    )
    (seen,) = seen_in(batch, processor, 32)
    blocks = seen.pictures[0].reshape(4, 32, 4, 32, 3).transpose(0, 2, 1, 3, 4).reshape(16, -1)
    assert [bool((block == 128).all()) for block in blocks] == batch["bool_masked_pos"].flatten().tolist()


def test_the_sheet_is_a_picture_file(captioner, processor, tmp_path):
    described(captioner, processor, samples(5)).save_contact_sheet(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width == 1000 and sheet.height > 3 * 100


def test_samples_that_cannot_be_read_are_said(captioner, processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    plan = described(captioner, processor, [{"image": str(tmp_path / "broken.png"), "suffix": "x"}])
    assert "broken.png" in str(plan) and plan.memory is None


def test_streams_are_not_counted(captioner, processor):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(samples(3))

    training = Seq2SeqTrainingArguments("runs/none", use_cpu=True, max_steps=9)
    plan = describe_plan(captioner.model, processor, training, Stream())
    assert plan.steps == 9 and plan.steps_per_epoch is None and "a stream" in str(plan)
    with pytest.raises(ValueError, match="no sample"):
        describe_plan(captioner.model, processor, training, [])


def test_recomputed_activations_are_not_counted(processor):
    parts = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 2}
    text = {**parts, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 64}
    config = mm.MMConfig(vision_config={**parts, "image_size": 128, "patch_size": 16}, text_config=text)
    model = mm.MMForConditionalGeneration(config)

    def held(**settings):
        training = Seq2SeqTrainingArguments("runs/none", use_cpu=True, per_device_train_batch_size=32, **settings)
        return describe_plan(model, processor, training, samples(4)).memory.step

    plain = held()
    assert held(gradient_checkpointing=True) < 0.7 * plain and held() == plain
    assert not model.is_activation_checkpointing
