"""MMForPreTraining: each loss by formula or by the class that has it alone, and any set of them in one call."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

from itertools import combinations

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, Trainer, TrainingArguments

from comparing import close, same_weights
from mm import (
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMForMaskedLM,
    MMForPreTraining,
)

LOSSES = ["itc", "itm", "lm", "mlm", "mim"]
SETS = [set(chosen) for size in range(1, 6) for chosen in combinations(LOSSES, size)]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2]])
MASKED = torch.tensor([[1, 3, 6, 9], [1, 7, 8, 3], [1, 4, 3, 2]])
TARGETS = torch.tensor([[-100, 5, -100, -100], [-100] * 4, [-100, -100, 4, 2]])
HIDDEN = torch.tensor([[True, False, False, True], [False] * 4, [True, True, False, True]])


@pytest.fixture
def trained(tiny_model):
    def build(losses=LOSSES, share=True, cls=MMForPreTraining, **fields):
        weights = {name: 0.5 + number for number, name in enumerate(sorted(losses))}
        settings = {"projection_dim": 12, "share_text_encoder": share, "pretraining_losses": weights, **fields}
        settings["vision_config"] = {"use_mask_token": True, **fields.get("vision_config", {})}
        return tiny_model(cls=cls, **settings)

    return build


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def inputs(losses, pixels) -> dict:
    given = {"input_ids": IDS, "pixel_values": pixels, "return_loss": True}
    given |= {"masked_input_ids": MASKED, "mlm_targets": TARGETS} if "mlm" in losses else {}
    return given | ({"bool_masked_pos": HIDDEN} if "mim" in losses else {})


@pytest.mark.parametrize("losses", SETS, ids=lambda losses: "+".join(sorted(losses)))
@pytest.mark.parametrize("target", ["pixels", "features"])
def test_any_set_of_losses_is_their_weighted_sum_and_trains_or_freezes_every_parameter(
    trained, pixels, losses, target
):
    model = trained(losses, mim_target=target).train()
    output = model(**inputs(losses, pixels))
    close(output.loss, sum(weight * output[f"loss_{name}"] for name, weight in model.losses.items()))
    assert {name for name in LOSSES if output.get(f"loss_{name}") is not None} == losses
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_losses_without_logits_are_the_same_losses(trained, pixels):
    model = trained(label_smoothing=0.1)
    results = []
    for return_logits in (True, False):
        model.zero_grad()
        output = model(**inputs(LOSSES, pixels), return_logits=return_logits)
        assert ("logits" in output) is ("mlm_logits" in output) is return_logits
        output.loss.backward()
        losses = [output.loss, output.loss_lm, output.loss_mlm]
        results.append([*losses, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert_close(*results, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="ask for them with return_loss=True"):
        model(input_ids=IDS, return_loss=False, return_logits=False)


@pytest.mark.parametrize("fusion", ["co_attention", "merged", "concat", "sum", "gated"])
@pytest.mark.parametrize("encoder", ["own", "shared", "none"])
def test_other_fusions_train_or_freeze_every_parameter(trained, pixels, fusion, encoder):
    losses = {"itc", "itm", "mim"} | ({"mlm"} if encoder != "own" and fusion in ("co_attention", "merged") else set())
    mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
    fields = {"own": {"text_encoder_config": "tiny"}, "none": {"text_config": {"is_causal": False}}, "shared": {}}
    model = trained(losses, encoder == "shared", fusion_type=fusion, **mask, **fields[encoder]).train()
    model(**inputs(losses, pixels)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


@pytest.mark.parametrize("missing", ["mlm", "mim", "media"])
def test_a_loss_without_inputs_is_off_and_leaves_no_parameter_unused(trained, pixels, missing):
    model = trained().train()
    given = inputs(set(LOSSES) - {missing}, pixels)
    if missing == "media":
        given = {"input_ids": IDS}
    output = model(**given)
    there = {"lm"} if missing == "media" else set(LOSSES) - {missing}
    assert {name for name in LOSSES if output.get(f"loss_{name}") is not None} == there
    close(output.loss, sum(model.losses[name] * output[f"loss_{name}"] for name in there))
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("losses", "fields", "masked"),
    [
        (LOSSES, {}, [False, True]),
        (LOSSES, {"mim_pass": "shared"}, [True]),
        (["mim"], {}, [True]),
        (LOSSES[:4], {}, [False]),
    ],
)
def test_the_tower_runs_once_for_whole_pictures_and_once_for_masked_ones(trained, pixels, losses, fields, masked):
    model, runs = trained(losses, **fields), []
    tower = model.model.vision_tower
    tower.register_forward_pre_hook(lambda *given: runs.append("bool_masked_pos" in given[2]), with_kwargs=True)
    model(**inputs(losses, pixels))
    assert runs == masked


def gradients(model, given) -> tuple:
    """The output of a step, and the gradients by name."""
    torch.manual_seed(0)  # hard negatives are drawn
    output = model.train()(**given)
    output.loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mim_beside_the_other_losses_changes_neither_them_nor_itself(trained, pixels, dtype):
    """Every loss with "mim" beside it is that without, and "mim" is that alone; the gradients are the sum of both."""
    both, pixels = trained().to(dtype), pixels.to(dtype)
    parts = [trained(LOSSES[:4]).to(dtype), trained(["mim"]).to(dtype)]
    for model in parts:
        model.losses = {name: both.losses[name] for name in model.losses}
        model.load_state_dict({k: v for k, v in both.state_dict().items() if k in model.state_dict()})
    output, grads = gradients(both, inputs(LOSSES, pixels))
    (others, of_others), (alone, of_mim) = (gradients(model, inputs(set(model.losses), pixels)) for model in parts)
    for name in LOSSES[:4]:
        close(output[f"loss_{name}"], others[f"loss_{name}"])
    close(output.loss_mim, alone.loss_mim)
    assert grads.keys() == of_others.keys() | of_mim.keys()
    for name, grad in grads.items():
        close(grad, sum(found[name] for found in (of_others, of_mim) if name in found))


def test_in_a_shared_run_every_loss_reads_masked_pictures(trained, pixels):
    shared, own = trained(mim_pass="shared"), trained()
    own.load_state_dict(shared.state_dict())
    outputs = [model(**inputs(LOSSES, pixels)) for model in (shared, own)]
    for name in LOSSES[:4]:
        assert (outputs[0][f"loss_{name}"] - outputs[1][f"loss_{name}"]).abs() > 1e-4, name
    close(outputs[0].loss_mim, outputs[1].loss_mim)


def test_contrastive_and_matching_losses_are_those_of_retrieval(trained, pixels, tmp_path):
    model = trained({"itc", "itm"})
    model.save_pretrained(tmp_path)
    retriever = MMForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.float64).eval()
    given = inputs({"itc", "itm"}, pixels)
    output, expected = model(**given), retriever(**given)
    for name in ("loss", "loss_itc", "loss_itm", "itm_logits", "image_embeds", "text_embeds"):
        close(output[name], expected[name])


@pytest.mark.parametrize(
    ("fusion", "share"), [("cross_attention", False), ("cross_attention", True), ("merged", False)]
)
def test_the_language_loss_is_that_of_the_captioner(trained, pixels, fusion, share, tmp_path):
    model = trained({"lm"}, share=share, fusion_type=fusion, label_smoothing=0.1)
    model.save_pretrained(tmp_path)
    captioner = MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64).eval()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    given = {"input_ids": IDS, "pixel_values": pixels, "attention_mask": mask}
    expected = captioner(**given, labels=IDS.masked_fill(mask == 0, -100))
    output = model(**given, return_loss=True)
    close(output.loss_lm, expected.loss)
    close(output.logits, expected.logits)
    prompt = torch.tensor([[-100, -100, 6, 9]] * 3)
    close(model(**given, lm_targets=prompt, return_loss=True).loss_lm, captioner(**given, labels=prompt).loss)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_in_training_negatives_are_drawn_evenly_by_the_share_that_is_not_hard(trained, pixels, share):
    """Similarities times e^12 leave the draw by similarity one choice."""
    scale = {"logit_scale_init_value": 12.0, "logit_scale_max": None}
    model = trained({"itc", "itm"}, itm_hard_negatives=share, **scale).train()
    torch.nn.init.constant_(model.itc_head.logit_scale, 12.0)
    losses = set()
    for seed in range(8):
        torch.manual_seed(seed)
        losses.add(round(model(**inputs({"itc", "itm"}, pixels)).loss_itm.item(), 9))
    assert (len(losses) == 1) == (share == 1)


def test_a_checkpoint_of_every_loss_writes_captions_and_embeds(trained, pixels, tmp_path, caplog):
    """By one line each; what a class has no use for is in the info of loading, not printed, and nothing is missing."""
    model = trained()
    model.save_pretrained(tmp_path)
    given = inputs(LOSSES, pixels)
    whole = {"input_ids": IDS, "pixel_values": pixels}
    captioner, told = MMForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    close(captioner.eval()(**whole).logits, model(**given).logits)
    assert captioner.generate(pixel_values=pixels, max_new_tokens=3, min_new_tokens=3).shape == (3, 4)
    assert not told["missing_keys"]
    assert {key.split(".")[0] for key in told["unexpected_keys"]} == {"itc_head", "itm_head", "mim_head"}
    retriever, told = MMForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    close(retriever.eval().encode_image(pixel_values=pixels), model(**given).image_embeds)
    close(retriever.encode_text(input_ids=IDS), model(**given).text_embeds)
    assert not told["missing_keys"]
    assert {key.split(".")[0] for key in told["unexpected_keys"]} == {"lm_head", "lm_head_transform", "mim_head"}
    assert "UNEXPECTED" not in caplog.text


def test_the_masked_loss_is_that_of_the_masked_language_model(trained, pixels, tmp_path):
    model = trained({"mlm"}, share=False, text_config={"is_causal": False})
    model.save_pretrained(tmp_path)
    filler = MMForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    output = model(**inputs({"mlm"}, pixels))
    expected = filler(input_ids=MASKED, pixel_values=pixels, labels=TARGETS)
    close(output.loss_mlm, expected.loss)
    close(output.mlm_logits, expected.logits)


def test_one_stack_writes_causally_and_fills_in_from_both_sides(trained, pixels):
    model = trained({"lm", "mlm"})
    given = inputs({"lm", "mlm"}, pixels)
    output = model(**given)
    changed = model(
        **{**given, "input_ids": IDS + 1, "masked_input_ids": torch.cat([MASKED[:, :3], IDS[:, 3:] + 1], 1)}
    )
    assert (output.mlm_logits - changed.mlm_logits)[:, 0].abs().max() > 1e-4
    last = {**given, "input_ids": torch.cat([IDS[:, :3], IDS[:, 3:] + 1], dim=1)}
    close(output.logits[:, :3], model(**last).logits[:, :3])


def test_without_a_loss_there_are_logits_and_embeddings(trained, pixels):
    output = trained()(input_ids=IDS, pixel_values=pixels)
    assert set(output) == {"logits", "image_embeds", "text_embeds"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"return_loss": True}, "none of the losses"),
        ({"mlm_targets": TARGETS}, "go together"),
        ({"input_ids": IDS, "lm_targets": IDS[:2]}, "labels must have the shape"),
        ({"bool_masked_pos": HIDDEN}, "with no pixel_values"),
        ({"pixel_values": "pixels", "bool_masked_pos": HIDDEN[:, :3]}, r"must be bool \(3, 1, 4\)"),
        ({"pixel_values": "pixels", "input_ids": IDS, "matches": torch.ones(3).long()}, "ask for a loss"),
    ],
)
def test_bad_inputs_are_refused_in_words(trained, pixels, given, message):
    given = {name: pixels if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        trained()(**given)


def test_targets_of_losses_that_are_not_named_are_refused(trained, pixels):
    model = trained({"itc"})
    for given, loss in (
        ({"lm_targets": IDS}, "lm"),
        ({"masked_input_ids": IDS, "mlm_targets": IDS}, "mlm"),
        ({"bool_masked_pos": HIDDEN}, "mim"),
    ):
        with pytest.raises(ValueError, match=f"pretraining_losses without '{loss}'"):
            model(input_ids=IDS, pixel_values=pixels, **given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretraining_losses": {"mlm": 1.0}}, "set share_text_encoder=True"),
        ({"pretraining_losses": {"lm": 1.0}, "text_config": {"is_causal": False}}, "'lm' needs text_config.is_causal"),
        ({"pretraining_losses": {"lm": 1.0}, "text_encoder_config": "tiny"}, "'lm' and 'mlm' are losses of the decod"),
        ({"pretraining_losses": {"mim": 1.0}}, "set vision_config.use_mask_token=True"),
        (
            {"pretraining_losses": {"lm": 1.0}, "share_text_encoder": True, "fusion_type": "co_attention"},
            "'lm' cannot read the media",
        ),
        (
            {"pretraining_losses": {"mlm": 1.0}, "share_text_encoder": True, "fusion_type": "sum"},
            "fusion_type=.* media",
        ),
    ],
)
def test_configurations_that_cannot_have_their_losses_are_refused(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        MMForPreTraining(tiny_config(**fields))


def test_masked_pictures_want_a_tower_of_mm_s_own(tiny_config):
    with pytest.raises(ValueError, match="patches of MM's own ViT; vision_config is MMConvConfig"):
        MMForPreTraining(tiny_config("conv", pretraining_losses={"mim": 1.0}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretraining_losses": {}}, "names no loss"),
        ({"pretraining_losses": {"itn": 1.0}}, r"names \['itn'\]"),
        ({"pretraining_losses": {"itc": 0.0}}, "must be a positive number"),
        ({"logit_bias_init_value": -10.0}, "set contrastive_loss='sigmoid'"),
        ({"logit_scale_init_value": 5.0}, "above logit_scale_max"),
        ({"mim_momentum": 0.9}, "set mim_target='features'"),
        ({"mim_momentum": 1.5, "mim_target": "features"}, r"must be in \[0, 1\]"),
        ({"projection_dim": 0}, "projection_dim=0 must be positive"),
    ],
)
def test_settings_of_losses_are_checked(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


@pytest.mark.parametrize("losses", [LOSSES, ["itc", "itm", "lm"], ["itc"]])
def test_a_checkpoint_loads_bit_by_bit_and_into_other_heads(trained, pixels, losses, tmp_path):
    model = trained(losses)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForPreTraining.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert type(loaded) is MMForPreTraining and not any(info.values())
    given = inputs(losses, pixels)
    same_weights(loaded, model)
    close(loaded.eval()(**given).loss, model(**given).loss)
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    _, info = MMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert bool(info["missing_keys"]) == (not {"lm", "mlm"} & set(losses))


def test_trainer_trains_all_losses_at_once(trained, pixels, tmp_path):
    model = trained(mim_target="features", mim_momentum=0.9).float()
    rows = range(len(IDS))
    samples = [
        {
            "input_ids": IDS[i], "pixel_values": pixels[i].float(), "masked_input_ids": MASKED[i],
            "mlm_targets": TARGETS[i], "bool_masked_pos": HIDDEN[i], "stray": 1,
        }
        for i in rows
    ] * 2  # fmt: skip

    def collate(found):
        assert "stray" not in found[0]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]} | {"return_loss": True}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=3, per_device_eval_batch_size=3, num_train_epochs=15,
        learning_rate=3e-3, gradient_accumulation_steps=2, report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=samples, eval_dataset=samples, data_collator=collate,
        compute_metrics=lambda result: {"parts": len(result.predictions)},
    )  # fmt: skip
    assert not trainer.model_accepts_loss_kwargs and trainer.label_names == []
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] and after["eval_parts"] == 5
