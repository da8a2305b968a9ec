"""LoRA over MM's models: what it trains, that saved, loaded and merged it says the same, and what is refused."""

# Fixtures build models whose types pyright cannot follow, and a PeftModel hands on what its model has.

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

import mm
from comparing import close
from mm import MMCache, MMForConditionalGeneration, MMForImageTextRetrieval, MMForSequenceClassification
from mm.modeling_mm.core.attention import MMAttention

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
# The table of the page: what is trained -> its target_modules.
TARGETS = {
    what: pattern.replace(r"\|", "|") for what, pattern in re.findall(r"^\| ([\w' -]+) \| `(\.\*.*)` \|$", PAGE, re.M)
}
CROSS, DECODER = TARGETS["cross-attention"], TARGETS["the decoder"]
IDS = torch.tensor([[1, 5, 6, 7], [1, 7, 8, 2], [1, 9, 4, 2]])
BOTH_WAYS = {"text_config": {"is_causal": False, "pooler": "mean"}}


def assert_close(found, expected):
    assert ((found - expected).abs() <= 1e-12 * expected.abs().clamp(min=1)).all(), (found - expected).abs().max()


def slowly(case):
    return pytest.param(case, marks=pytest.mark.slow)


def adapted(model, targets=CROSS, trained=True, **fields) -> PeftModel:
    """A LoRA over the model, its second matrices zero as at the start, or any numbers."""
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=not trained, **fields))
    return peft.eval()


def train(model, inputs, steps=8) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model.train()(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def linears(module: nn.Module, prefix: str) -> set[str]:
    return {f"{prefix}.{name}" for name, part in module.named_modules() if isinstance(part, nn.Linear)}


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
def test_the_patterns_of_the_page_name_what_they_say(tiny_model, text):
    width = {"text_config": {"cross_attention_hidden_size": None}}  # the encoder's
    model = tiny_model("vit", text, text_encoder_config="tiny", **width)
    base = model.model
    crosses = {
        f"model.language_model.{name}": part
        for name, part in base.language_model.named_modules()
        if isinstance(part, MMAttention) and part.is_cross_attention
    }
    expected = {
        "cross-attention": set().union(*(linears(part, name) for name, part in crosses.items())),
        "the decoder": linears(base.language_model.layers, "model.language_model.layers"),
        "the text encoder": linears(base.text_encoder.layers, "model.text_encoder.layers"),
        "MM's own ViT": linears(base.vision_tower.layers, "model.vision_tower.layers"),
    }
    assert expected.keys() == TARGETS.keys()
    for what, names in expected.items():
        found = {name for name, _ in model.named_modules() if re.fullmatch(TARGETS[what], name)}
        assert found == names, what


@pytest.mark.parametrize("text", ["inside", *map(slowly, ["own", "llama"])])
@pytest.mark.parametrize("targets", [DECODER, CROSS], ids=["decoder", "cross-attention"])
def test_lora_trains_alone_and_saved_loaded_and_merged_says_the_same(tiny_model, pictures, text, targets, tmp_path):
    tiny_model("vit", text).save_pretrained(tmp_path / "base")
    model = MMForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = {"input_ids": IDS, "pixel_values": pictures}
    start = model(**inputs).logits
    peft = adapted(model, targets, trained=False)
    close(peft(**inputs).logits, start)
    losses = train(peft, {**inputs, "labels": IDS})
    assert losses[-1] < 0.9 * losses[0]
    after = {name.replace("base_layer.", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all("lora_" in name for name in after.keys() - before.keys())

    peft.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    logits, asked = peft(**inputs).logits, {"num_beams": 3, "max_new_tokens": 5, "return_dict_in_generate": True}
    written = peft.generate(**inputs, **asked)
    assert isinstance(written.past_key_values, MMCache) and (logits - start).abs().max() > 0.1
    assert written.past_key_values.cross_attention_cache.layers[0].keys.shape[0] == len(pictures)
    base = MMForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float64)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    found = AutoPeftModel.from_pretrained(
        tmp_path / "adapter", dtype=torch.float64, import_allowlist=["mm.modeling_mm.tasks.generation"]
    )
    close(loaded(**inputs).logits, logits)
    close(found.eval()(**inputs).logits, logits)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for whole in (merged, MMForConditionalGeneration.from_pretrained(tmp_path / "merged", dtype=torch.float64)):
        assert type(whole) is MMForConditionalGeneration and "lora" not in str(whole.state_dict().keys())
        assert_close(whole(**inputs).logits, logits)
        assert torch.equal(whole.generate(**inputs, **asked).sequences, written.sequences)


HEADS = {
    "classes": (MMForSequenceClassification, {"num_labels": 3}, ["classifier"], "logits"),
    "decision": (
        MMForSequenceClassification, {"num_labels": 3, "fusion_type": "decision"},
        ["classifiers.text", "classifiers.image"], "logits",
    ),
    "retrieval": (MMForImageTextRetrieval, {"projection_dim": 12}, ["itc_head", "itm_head"], "text_embeds"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["classes", *map(slowly, ["decision", "retrieval"])])
def test_a_head_is_trained_whole_and_travels_with_the_adapter(tiny_model, pictures, name, tmp_path):
    cls, fields, heads, output = HEADS[name]
    tiny_model(cls=cls, **fields, **BOTH_WAYS).save_pretrained(tmp_path / "base")
    model = cls.from_pretrained(tmp_path / "base", dtype=torch.float64)
    peft = adapted(model, r".*vision_tower.*[qv]_proj", trained=False, modules_to_save=heads)
    inputs = {"input_ids": IDS, "pixel_values": pictures}
    target = {"return_loss": True} if name == "retrieval" else {"labels": torch.tensor([0, 1, 2])}
    losses = train(peft, {**inputs, **target})
    assert name == "retrieval" or losses[-1] < 0.9 * losses[0]  # negatives are drawn anew each step
    expected = peft(**inputs)[output]
    peft.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(
        cls.from_pretrained(tmp_path / "base", dtype=torch.float64), tmp_path / "adapter"
    )
    close(loaded.eval()(**inputs)[output], expected)
    assert_close(loaded.merge_and_unload()(**inputs)[output], expected)


def test_the_classifier_is_trained_without_being_named_under_its_task(tiny_model, pictures):
    model = tiny_model(cls=MMForSequenceClassification, num_labels=3, **BOTH_WAYS)
    peft = adapted(model, task_type="SEQ_CLS")
    whole = {name for name, p in peft.named_parameters() if p.requires_grad and "lora_" not in name}
    assert len(whole) == 2 and all(".classifier.modules_to_save." in name for name in whole)
    assert peft(pixel_values=pictures).logits.shape == (3, 3)  # pictures alone, through PEFT's own forward


@pytest.mark.parametrize("name", ["merged", *map(slowly, ["text encoder", "shared", "conv"])])
def test_every_linear_layer_may_be_adapted_whatever_joins_picture_and_text(tiny_model, pictures, name):
    fields = {
        "text encoder": {"text_encoder_config": "tiny"}, "shared": {"share_text_encoder": True},
        "merged": {"fusion_type": "merged"}, "conv": {"vision": "conv"},
    }[name]  # fmt: skip
    peft = adapted(tiny_model(**fields), "all-linear", task_type="CAUSAL_LM")
    text = {"context_input_ids": IDS} if name in ("text encoder", "shared") else {}
    inputs = {"input_ids": IDS[:, :2], "pixel_values": pictures, **text}
    logits, ids = peft(**inputs).logits, peft.generate(**inputs, num_beams=3, max_new_tokens=4)
    with peft.disable_adapter():
        assert_close(peft(**inputs).logits, tiny_model(**fields)(**inputs).logits)
    merged = peft.merge_and_unload()
    assert_close(merged(**inputs).logits, logits)
    assert torch.equal(merged.generate(**inputs, num_beams=3, max_new_tokens=4), ids)


def test_caches_and_methods_of_the_model_are_those_of_the_adapted_one(tiny_model, pictures):
    peft = adapted(tiny_model(), task_type="CAUSAL_LM")
    inputs = {"input_ids": IDS, "pixel_values": pictures}
    expected = peft.generate(**inputs, max_new_tokens=4)
    for settings in ({"cache_implementation": "static"}, {"use_cache": False}):
        assert torch.equal(peft.generate(**inputs, max_new_tokens=4, **settings), expected)
    context = peft.encode_context(pixel_values=pictures)
    assert_close(peft(input_ids=IDS, encoder_outputs=context).logits, peft(**inputs).logits)
    ranked, merged = [
        model.rank_answers(IDS[:, 1:3], **inputs).scores for model in (peft, adapted(tiny_model()).merge_and_unload())
    ]
    assert_close(ranked, merged)
    with pytest.raises(TypeError, match="did you mean 'pixel_values'"):
        peft(input_ids=IDS, pixel_value=pictures)


# ---- Transformers' own interface ------------------------------------------------------------------------------------


def test_adapters_are_added_switched_saved_and_loaded_through_transformers(tiny_model, pictures, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    model = MMForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float64).eval()
    inputs = {"input_ids": IDS, "pixel_values": pictures}
    plain, logits = model(**inputs).logits, {}
    for number, (name, targets) in enumerate({"cross": CROSS, "decoder": DECODER}.items()):
        torch.manual_seed(number)
        model.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights=False), name)
        logits[name] = model.eval()(**inputs).logits
        model.save_pretrained(tmp_path / name)
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(tmp_path / name))
        assert not (tmp_path / name / "config.json").exists()
    model.set_adapter("cross")
    assert_close(model(**inputs).logits, logits["cross"])
    assert not torch.equal(logits["cross"], logits["decoder"])
    model.disable_adapters()
    assert_close(model(**inputs).logits, plain)
    model.enable_adapters()
    model.delete_adapter("cross")
    model.set_adapter("decoder")
    assert_close(model(**inputs).logits, logits["decoder"])
    fresh = MMForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float64)
    fresh.load_adapter(tmp_path / "cross")
    by_auto = AutoModelForImageTextToText.from_pretrained(tmp_path / "cross", dtype=torch.float64)
    for loaded in (fresh, by_auto):
        close(loaded.eval()(**inputs).logits, logits["cross"])


@pytest.mark.parametrize("told", [False, slowly(True)])
def test_behind_an_adapter_no_weight_of_the_base_or_its_own_is_filled_in_silently(tiny_model, told, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    model = MMForConditionalGeneration.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=4, target_modules=CROSS))
    model.save_pretrained(tmp_path / "adapter")
    for file in (tmp_path / "base" / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        whole = load_file(file)
        lost = sorted(whole)[0]
        save_file({name: value for name, value in whole.items() if name != lost}, file, {"format": "pt"})
        if told and "adapter" in file.name:
            info = MMForConditionalGeneration.from_pretrained(tmp_path / "adapter", output_loading_info=True)[1]
            assert len(info["missing_keys"]) == 1
        else:
            with pytest.raises(ValueError, match="missing: "):
                MMForConditionalGeneration.from_pretrained(tmp_path / "adapter", output_loading_info=told)
        save_file(whole, file, {"format": "pt"})
    assert MMForConditionalGeneration.from_pretrained(tmp_path / "adapter", output_loading_info=told)


@pytest.mark.parametrize("tokens", [[41, 42], {"embed_tokens": [41, 42]}], ids=["list", "dict"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["folder", "auto", "load_adapter", "peft"])
def test_trained_tokens_come_back_every_way(tiny_model, pictures, tmp_path, tokens, tied, how):
    """PEFT saves the tokens of a tied head once, under the embedding's name."""
    tiny_model(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    base = MMForConditionalGeneration.from_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, trainable_token_indices=tokens)
    peft = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(1.0)
    inputs = {"input_ids": torch.tensor([[1, 5, 41, 7], [1, 42, 4, 2], [1, 9, 41, 42]]), "pixel_values": pictures}
    expected = peft.eval()(**inputs).logits
    peft.save_pretrained(tmp_path / "adapter")
    again = MMForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert (again(**inputs).logits - expected).abs().max() > 0.1
    if how == "load_adapter":
        again.load_adapter(tmp_path / "adapter")
    elif how == "peft":
        again = PeftModel.from_pretrained(again, tmp_path / "adapter")
    else:
        loader = AutoModelForImageTextToText if how == "auto" else MMForConditionalGeneration
        again = loader.from_pretrained(tmp_path / "adapter")
    assert_close(again(**inputs).logits, expected)


def test_a_tied_adapter_that_lacks_its_tokens_is_refused(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = MMForConditionalGeneration.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj"], trainable_token_indices=[41])).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "token" not in name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="missing: model.language_model.embed_tokens.*trainable_tokens_delta"):
        MMForConditionalGeneration.from_pretrained(tmp_path)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, slowly(True)])
@pytest.mark.parametrize("way", ["by hand", "transformers"])
def test_gradients_under_activation_checkpointing_are_the_plain_ones(tiny_model, pictures, reentrant, way):
    found = []
    for checkpointing in (False, True):
        model = tiny_model()
        torch.manual_seed(1)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)  # of every tower
        if way == "transformers":
            model.add_adapter(lora)
        else:
            model = get_peft_model(model, lora)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            if way == "by hand":
                model.enable_input_require_grads()
        model.train()(input_ids=IDS, pixel_values=pictures, labels=IDS).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    plain, checked = found
    assert plain.keys() == checked.keys() and len(plain) == 2 * 12
    for name, gradient in plain.items():
        assert_close(checked[name], gradient)
        assert gradient.abs().max() > 0


# ---- exports, refusals and imports ----------------------------------------------------------------------------------


def test_what_cannot_take_adapters_says_so(tiny_model, pictures, tmp_path):
    native = tiny_model()
    native.add_adapter(LoraConfig(r=4, target_modules=CROSS), "mine")
    with pytest.raises(ValueError, match=r"holds adapters \(mine\)"):
        mm.export_for_hub(native, None, tmp_path / "out")
    with pytest.raises(TypeError, match="merge it first"):
        mm.export_for_hub(adapted(tiny_model()), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    slow = tiny_model(cls=MMForImageTextRetrieval, contrastive_queue_size=8, **BOTH_WAYS)
    peft = adapted(slow, rf"model\.{CROSS[2:]}").train()  # and not slow.model
    with pytest.raises(ValueError, match="teacher and student must have the same parameters"):
        peft(input_ids=IDS, pixel_values=pictures, return_loss=True)


def test_a_momentum_encoder_is_adapted_along_and_follows(tiny_model, pictures):
    model = tiny_model(cls=MMForImageTextRetrieval, contrastive_queue_size=8, contrastive_momentum=0.5, **BOTH_WAYS)
    peft = adapted(model, trained=False)
    inputs = {"input_ids": IDS, "pixel_values": pictures, "return_loss": True}
    train(peft, inputs, steps=1)
    held = dict(model.named_parameters())
    seconds = [name for name in held if "lora_B" in name and name.startswith("model.")]
    followers = [held[f"slow.{name}"] for name in seconds]
    before = [follower.clone() for follower in followers]
    peft.train()(**inputs)
    assert len(seconds) == 8 and any(held[name].abs().max() > 0 for name in seconds)
    for name, follower, was in zip(seconds, followers, before, strict=True):
        assert_close(follower, 0.5 * was + 0.5 * held[name])


ELSEWHERE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mm":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base, adapter, saved = sys.argv[1:]
saved = torch.load(saved)
model = AutoModelForImageTextToText.from_pretrained(base, trust_remote_code=True)
model = PeftModel.from_pretrained(model, adapter).eval()
torch.testing.assert_close(model(**saved["inputs"]).logits, saved["logits"], rtol=1e-5, atol=1e-5)
assert torch.equal(model.generate(**saved["inputs"], num_beams=3, max_new_tokens=4), saved["ids"])
print(type(model.base_model.model).__module__.split(".")[0])
"""


@pytest.mark.slow
def test_an_adapter_loads_over_exported_code_where_the_package_is_not(tiny_model, pictures, tmp_path):
    model = tiny_model(dtype=torch.float32)
    mm.export_for_hub(model, None, tmp_path / "base")
    peft, inputs = adapted(model), {"input_ids": IDS, "pixel_values": pictures.float()}
    peft.save_pretrained(tmp_path / "adapter")
    expected = {"logits": peft(**inputs).logits, "ids": peft.generate(**inputs, num_beams=3, max_new_tokens=4)}
    torch.save({"inputs": inputs, **expected}, tmp_path / "saved.pt")
    paths = [str(tmp_path / name) for name in ("base", "adapter", "saved.pt")]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *paths], capture_output=True, text=True, timeout=480,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "transformers_modules"


@pytest.mark.slow
def test_nothing_of_mm_imports_peft():
    # but for what stands on Trainer of Transformers, which does: those names are read when they are asked for
    names = "[getattr(mm, name) for name in mm.__all__ if name not in mm._LATER]"
    code = f"import sys, mm; {names}; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=480)
    assert done.stdout == "False\n", done.stderr
