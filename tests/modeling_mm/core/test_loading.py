"""Saving and loading: bit-equal, complete, and strict about what does not fit."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, BitsAndBytesConfig

import mm
from comparing import close, same_weights
from mm import MMForConditionalGeneration, MMModel, MMTextModel, MMVisionModel
from whispers import whisper_config

HEAD = {
    "lm_head.bias", "lm_head_transform.dense.weight", "lm_head_transform.dense.bias", "lm_head_transform.norm.weight",
    "lm_head_transform.norm.bias",
}  # fmt: skip


def parts(model):
    """Every kind of model that can be saved, out of one."""
    return {
        "head": model,
        "base": model.model,
        "vision": model.model.vision_tower,
        "text": model.model.language_model,
    }


@pytest.fixture
def edited(tmp_path):
    """`edited(model, change)`: a saved directory whose weights `change(state dict)` has changed in place."""

    def write(model, change):
        model.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path, metadata={"format": "pt"})
        return tmp_path

    return write


@pytest.mark.parametrize(("vision", "text"), [("vit", "inside"), ("conv", "own"), ("conv", "llama")])
@pytest.mark.parametrize("part", ["head", "base", "vision", "text"])
@pytest.mark.parametrize("by_auto", [False, True])
def test_every_class_loads_what_it_saved_bit_by_bit(tiny_model, tmp_path, vision, text, part, by_auto):
    model = parts(tiny_model(vision, text, dtype=torch.float32))[part]
    model.save_pretrained(tmp_path)
    auto = AutoModelForImageTextToText if part == "head" else AutoModel
    loader = auto if by_auto else type(model)
    loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and not loaded.training
    assert not any(info.values())
    same_weights(loaded, model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}


def test_what_a_class_freezes_is_frozen_after_loading_too(tiny_model, tmp_path):
    """A pooler that the captioner does not read; loading makes every parameter anew."""
    model = tiny_model(dtype=torch.float32, vision_config={"pooler": "attention"}, text_config={"pooler": "cls_tanh"})
    model.save_pretrained(tmp_path)
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path)
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".pooler." in name} and frozen


@pytest.mark.parametrize("tied", [True, False])
def test_a_loaded_head_gives_the_same_logits_and_is_tied_as_before(tiny_model, tmp_path, tied):
    model = tiny_model(dtype=torch.float32, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path)
    ids, pixels = torch.tensor([[1, 5, 6]]), torch.randn(1, 3, 16, 16)
    close(loaded(input_ids=ids, pixel_values=pixels).logits, model(input_ids=ids, pixel_values=pixels).logits)
    assert (loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight) == tied


@pytest.mark.parametrize(("vision", "text"), [("vit", "inside"), ("conv", "own"), ("conv", "llama")])
def test_no_answer_depends_on_where_the_weights_begin_in_their_file(tiny_model, tmp_path, data_begins, vision, text):
    """Loaded weights lie where they are in the mapped file, and products of them are rounded as it happens there."""
    model = tiny_model(vision, text)
    model.save_pretrained(tmp_path)
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert (8 + header) % 16 == data_begins
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    same_weights(loaded, model)
    inputs = {"input_ids": torch.tensor([[1, 5, 6]]), "pixel_values": torch.randn(1, 3, 16, 16, dtype=torch.float64)}
    close(loaded(**inputs).logits, model(**inputs).logits)
    settings = {"num_beams": 2, "max_new_tokens": 4}
    assert torch.equal(loaded.generate(**inputs, **settings), model.generate(**inputs, **settings))


@pytest.mark.parametrize("vision", ["vit", "conv"])
def test_auto_model_on_a_head_s_checkpoint_is_complete_and_reports_the_head(tiny_model, tmp_path, vision):
    model = tiny_model(vision, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(base) is MMModel
    same_weights(base, model.model)
    assert not info["missing_keys"] and not info["mismatched_keys"] and info["unexpected_keys"] == HEAD


def test_a_head_over_a_base_checkpoint_is_new_and_reported(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.model.save_pretrained(tmp_path)
    head, info = MMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    same_weights(head.model, model.model)
    assert info["missing_keys"] == HEAD and not info["unexpected_keys"]
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())


def test_there_and_back_through_the_base_changes_nothing(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "head")
    AutoModel.from_pretrained(tmp_path / "head").save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["architectures"] == ["MMModel"]
    same_weights(MMForConditionalGeneration.from_pretrained(tmp_path / "base").model, model.model)


def test_shards_load_as_one_file_does(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    same_weights(MMForConditionalGeneration.from_pretrained(tmp_path), model)
    same_weights(AutoModel.from_pretrained(tmp_path), model.model)


@pytest.mark.parametrize("vision", ["vit", "conv"])
def test_half_precision_weights_load_into_fp32(tiny_model, tmp_path, vision):
    model = tiny_model(vision, dtype=torch.float32)
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=dict(half))
    assert load_file(tmp_path / "model.safetensors")["model.vision_projector.weight"].dtype == torch.float16
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, half[name].to(value.dtype)), name
    assert MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16).dtype == torch.float16


OWNED = [
    "model.vision_projector.weight", "model.language_model.layers.1.cross_attn.k_proj.bias",
    "model.vision_tower.cls_token", "lm_head.bias", "lm_head_transform.norm.weight",
    "model.language_model.embed_tokens.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", OWNED)
def test_a_missing_weight_that_the_class_owns_raises(tiny_model, edited, name):
    directory = edited(tiny_model(dtype=torch.float32), lambda state: state.pop(name))
    with pytest.raises(ValueError, match=f"(?s)written by MMForConditionalGeneration does not fit.*missing: {name}"):
        MMForConditionalGeneration.from_pretrained(directory)
    with pytest.raises(ValueError, match=name):
        MMForConditionalGeneration.from_pretrained(directory, ignore_mismatched_sizes=True)


def test_a_missing_base_weight_raises_through_auto_model_too_and_a_missing_head_weight_does_not(tiny_model, edited):
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(ValueError, match="missing: vision_projector.weight"):
        AutoModel.from_pretrained(edited(model, lambda state: state.pop("model.vision_projector.weight")))
    AutoModel.from_pretrained(edited(model, lambda state: state.pop("lm_head.bias")))


@pytest.mark.parametrize("part", ["base", "vision", "text"])
def test_a_missing_weight_raises_for_every_class(tiny_model, edited, part):
    model = parts(tiny_model(dtype=torch.float32))[part]
    name = "norm.weight" if part == "vision" else next(n for n in model.state_dict() if n.endswith("k_proj.weight"))
    with pytest.raises(ValueError, match=f"missing: {name}"):
        type(model).from_pretrained(edited(model, lambda state: state.pop(name)))


def test_a_head_over_a_damaged_base_checkpoint_raises(tiny_model, edited):
    directory = edited(tiny_model(dtype=torch.float32).model, lambda state: state.pop("vision_projector.weight"))
    with pytest.raises(ValueError, match="missing: model.vision_projector.weight"):
        MMForConditionalGeneration.from_pretrained(directory)


def misshape(state):
    state["model.vision_projector.weight"] = torch.zeros(7, 24)


def test_a_misshapen_weight_raises_unless_it_may_be_made_anew(tiny_model, edited):
    directory = edited(tiny_model(dtype=torch.float32), misshape)
    for loader in (MMForConditionalGeneration, AutoModel):
        with pytest.raises(ValueError, match=r"shape: .*vision_projector.weight is .*\[7, 24\].*\[32, 24\]"):
            loader.from_pretrained(directory)
    loaded, info = MMForConditionalGeneration.from_pretrained(
        directory, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [key for key, *_ in info["mismatched_keys"]] == ["model.vision_projector.weight"]
    assert torch.isfinite(loaded.model.vision_projector.weight).all()


def test_another_architecture_s_settings_raise(tiny_model, tiny_config, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="missing: model.language_model.layers.2"):
        MMForConditionalGeneration.from_pretrained(tmp_path, config=tiny_config(text_config={"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="unknown: model.language_model.layers.1"):
        MMForConditionalGeneration.from_pretrained(tmp_path, config=tiny_config(text_config={"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match="unknown: lm_head_transform.dense.bias"):
        MMForConditionalGeneration.from_pretrained(tmp_path, config=tiny_config(lm_head_transform=False))


# Every class that can be saved: its configuration, and a part that this class has.
SEES = {"is_causal": False, "pooler": "mean"}
ITC = {"projection_dim": 12, "text_config": SEES}
QUEUE = {**ITC, "pretraining_losses": {"itc": 1.0}, "contrastive_queue_size": 4}
LOSSES = {"pretraining_losses": {"itc": 1.0, "itm": 1.0, "mlm": 1.0, "mim": 1.0}}
ALL = {**ITC, **LOSSES, "mim_target": "features", "vision_config": {"use_mask_token": True}}
HEARS = {"modalities": ["audio"], "audio_config": whisper_config(), "max_clips": 1}
EVERY = {
    "base": (mm.MMModel, {}, "vision_projector"),
    "writes": (mm.MMForConditionalGeneration, {}, "lm_head_transform"),
    "classifies": (mm.MMForSequenceClassification, {"num_labels": 3}, "classifier"),
    "late": (mm.MMForSequenceClassification, {"num_labels": 3, "fusion_type": "decision"}, "classifiers"),
    "finds": (mm.MMForImageTextRetrieval, ITC, "itc_head"),
    "matches": (mm.MMForImageTextRetrieval, ITC, "itm_head"),
    "slow copy": (mm.MMForImageTextRetrieval, QUEUE, "slow.model"),
    "slow head": (mm.MMForImageTextRetrieval, QUEUE, "slow.itc_head"),
    "queue": (mm.MMForImageTextRetrieval, QUEUE, "slow.contrast"),
    "hears": (mm.MMForSpeechSeq2Seq, HEARS, "lm_head_transform"),
    "fills in": (mm.MMForMaskedLM, {"text_config": SEES}, "lm_head_transform"),
    "pretrains": (mm.MMForPreTraining, ALL, "mim_head"),
    "follows": (mm.MMForPreTraining, ALL, "mim_tower"),
    "vision": (mm.MMVisionModel, {}, "layers"),
    "conv": (mm.MMConvModel, {"vision": "conv"}, "stages"),
    "text": (mm.MMTextModel, {}, "layers"),
}
FAULTS = {
    "missing": lambda state, name: state.pop(name),
    "stray": lambda state, name: state.update({f"{name}_2": torch.zeros(3)}),
    "misshaped": lambda state, name: state.update({name: state[name][1:].clone()}),
}


def one_of(tiny_model, name):
    """A model, and a matrix of the part."""
    cls, fields, part = EVERY[name]
    towers = {mm.MMVisionModel: "vision_tower", mm.MMConvModel: "vision_tower", mm.MMTextModel: "language_model"}
    if cls in towers:
        model = getattr(tiny_model(**fields, dtype=torch.float32).model, towers[cls])
    else:
        model = tiny_model(cls=cls, dtype=torch.float32, **fields)
    state = model.state_dict()
    return model, next(key for key in state if key.startswith(f"{part}.") and state[key].ndim > 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", EVERY)
def test_every_class_is_strict_about_its_own_weights(tiny_model, edited, name, fault):
    model, weight = one_of(tiny_model, name)
    words = {"missing": f"missing: {weight}", "stray": f"unknown: {weight}_2", "misshaped": f"shape: {weight} is"}
    with pytest.raises(ValueError, match=f"(?s)does not fit {type(model).__name__};.*{words[fault]}"):
        type(model).from_pretrained(edited(model, lambda state: FAULTS[fault](state, weight)))


def test_every_head_is_among_them():
    classes = {cls.__name__ for cls, *_ in EVERY.values()}
    public = {name: getattr(mm, name) for name in mm.__all__ if name.startswith("MM")}
    apart = {"MMSentenceModule", "MMImageTokenizer"}  # have no text or context
    assert classes == {name for name, cls in public.items() if issubclass(cls, torch.nn.Module)} - apart


class Captioner(MMForConditionalGeneration):
    """A user's own."""


def test_a_user_s_subclass_is_as_strict_as_the_class_that_it_comes_from(tiny_config, tmp_path):
    model = Captioner(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    same_weights(Captioner.from_pretrained(tmp_path), model)
    same_weights(MMForConditionalGeneration.from_pretrained(tmp_path), model)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({**state, "lm_head.extra": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="unknown: lm_head.extra"):
        Captioner.from_pretrained(tmp_path)


def test_a_queue_may_be_switched_on_over_a_checkpoint_without_its_slow_copy(retriever, tmp_path):
    model = retriever(dtype=torch.float32, pretraining_losses={"itc": 1.0})
    model.save_pretrained(tmp_path)
    loaded = mm.MMForImageTextRetrieval.from_pretrained(tmp_path, contrastive_queue_size=4)
    same_weights(loaded.slow.model, model.model)
    loaded.save_pretrained(tmp_path)
    same_weights(AutoModel.from_pretrained(tmp_path), model.model)  # the copy is a head of that class


STRANGERS = ["model.language_model.layers.0.self_attn.z_proj.weight", "classifier2.weight", "lm_head.scale"]


@pytest.mark.parametrize("name", STRANGERS)
def test_a_key_that_belongs_to_no_class_raises(tiny_model, edited, name):
    directory = edited(tiny_model(dtype=torch.float32), lambda state: state.update({name: torch.zeros(3)}))
    with pytest.raises(ValueError, match=f"unknown: {name}"):
        MMForConditionalGeneration.from_pretrained(directory)


def test_with_loading_info_missing_and_unknown_keys_are_told_and_raise_nothing(tiny_model, edited):
    model = tiny_model(dtype=torch.float32)
    directory = edited(model, lambda state: state.update(odd=state.pop("lm_head.bias")))
    _, info = MMForConditionalGeneration.from_pretrained(directory, output_loading_info=True)
    assert set(info["missing_keys"]) == {"lm_head.bias"} and set(info["unexpected_keys"]) == {"odd"}


def test_many_faults_are_counted_and_the_first_twenty_shown(tiny_model, edited):
    directory = edited(
        tiny_model(dtype=torch.float32), lambda state: [state.pop(k) for k in list(state)[:30]]
    )  # one of them is tied to another
    with pytest.raises(ValueError, match=r"\.\.\. and 11 more"):
        MMForConditionalGeneration.from_pretrained(directory)


@pytest.mark.parametrize("cls", [MMVisionModel, MMTextModel])
def test_a_tower_does_not_come_out_of_a_whole_checkpoint_with_new_weights(tiny_model, tmp_path, cls):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="missing: "):
        cls.from_pretrained(tmp_path)


def test_gates_and_tokens_are_initialised_where_a_base_is_new(tiny_config):
    model = MMForConditionalGeneration(tiny_config("vit", "own"))
    layers = model.model.language_model.layers
    assert all((layer.cross_attn_gate == 0).all() for layer in layers if "cross" in layer.sublayers)
    tower = model.model.vision_tower
    assert tower.cls_token.std() > 0.01 and tower.register_tokens.std() > 0.01
    assert 0.1 < model.model.language_model.embed_tokens.weight.std() < 0.2


def test_the_generation_settings_are_saved_beside_the_weights(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path)
    assert MMForConditionalGeneration.from_pretrained(tmp_path).generation_config.max_new_tokens == 7


def test_bitsandbytes_is_asked_for_where_it_is_not_installed(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="bitsandbytes"):
        MMForConditionalGeneration.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"architectures": {"x": 1}}, "architectures"),
        ("config.json", {"architectures": 7}, "architectures"),
        ("config.json", {"architectures": [[]]}, "architectures"),
        ("config.json", {"dtype": -1}, "dtype"),
        ("config.json", {"dtype": True}, "dtype"),
        ("config.json", {"intermediate_size": 10**30}, "too large"),
        ("config.json", {"hidden_size": 10**12}, "too large"),
        ("config.json", {"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ("generation_config.json", {"dtype": True, "_from_model_config": False}, "generation_config.json"),
    ],
    ids=str,
)
def test_values_that_only_loading_reads_are_named_with_their_file(tiny_model, tmp_path, file, change, words):
    tiny_model(cls=MMForConditionalGeneration).save_pretrained(tmp_path)
    held = json.loads((tmp_path / file).read_text())
    sizes = {"intermediate_size", "hidden_size", "num_hidden_layers"}
    (held["text_config"] if change.keys() <= sizes else held).update(change)
    (tmp_path / file).write_text(json.dumps(held))
    with pytest.raises(ValueError, match=words) as error:
        MMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert file in str(error.value)


def test_a_key_that_an_index_sends_to_the_wrong_shard_is_told_with_the_index(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    last = max(held["weight_map"].values())
    index.write_text(json.dumps(held | {"weight_map": dict.fromkeys(held["weight_map"], last)}))
    with pytest.raises(ValueError, match="missing") as error:
        MMForConditionalGeneration.from_pretrained(tmp_path)
    assert index.name in str(error.value)
