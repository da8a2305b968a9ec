"""What tiny models compute, so that a change meant to change nothing can be held to it.

    python tests/behaviour/models.py record     writes recorded.json with the installed `mm` (after a wanted change)
    python tests/behaviour/models.py compare    compares the installed `mm` with it; test_behaviour.py does the same

A recorded model is its class, its config.json as it was saved, and what came out: names and shapes of its tensors,
samples of every output, the loss, the size of the gradient, tokens by greedy search and by beams. The weights are
drawn by name, so neither the order in which modules are made nor Transformers' initialisation matters. All in fp64.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

import mm

RECORDED = Path(__file__).with_name("recorded.json")
SAMPLES = 24  # values kept of each tensor, evenly spaced, beside its norm
TOLERANCE = 1e-12  # of max(1, the largest value)

VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
CONV = {
    "model_type": "mm_conv", "image_size": 16, "stem": {"channels": 8, "kernel_size": 3, "stride": 2},
    "stages": [{"block": "inverted", "depth": 1, "channels": 12, "stride": 2, "expansion": 3}], "head_channels": 20,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OWN_LAYERS = {
    "num_hidden_layers": 4, "cross_attention_layers": [0, 2], "cross_attention_placement": "own",
    "cross_attention_gate": "tanh", "norm_position": "pre", "embedding_norm": False, "final_norm": "all",
}  # fmt: skip
LLAMA = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "norm_type": "rms_norm", "norm_position": "pre",
    "final_norm": "all", "embedding_norm": False, "gated_mlp": True, "mlp_bias": False, "hidden_act": "silu",
    "attention_bias": False, "qk_norm": "rms_norm", "position_embedding_type": "rope",
}  # fmt: skip
AUDIO = {
    "model_type": "audio-spectrogram-transformer", "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 12,
    "num_mel_bins": 8,
}  # fmt: skip
ENCODER = {**TEXT, "num_hidden_layers": 1, "max_position_embeddings": 16}
BOTH_WAYS = {"is_causal": False, "pooler": "cls_tanh"}
EVERYTHING = {"modalities": ["image", "video", "audio"], "audio_config": AUDIO, "max_images": 2}
EVERY_LOSS = {
    "projection_dim": 12, "share_text_encoder": True, "vision": {"use_mask_token": True},
    "pretraining_losses": dict.fromkeys(("itc", "itm", "lm", "mlm", "mim"), 1.0),
}  # fmt: skip
LATENTS = {"hidden_size": 24, "num_latents": 3, "num_hidden_layers": 1, "num_attention_heads": 2}

# name -> (class, fields of MMConfig; "text" and "vision" among them change single settings of those)
FUSIONS: dict[str, dict[str, Any]] = {
    "cross": {}, "co": {"fusion_type": "co_attention", "text": BOTH_WAYS},
    "merged": {"fusion_type": "merged", "fusion_mask": "bidirectional", "text": BOTH_WAYS},
    "concat": {"fusion_type": "concat", "fusion_size": 20, "text": BOTH_WAYS},
    "sum": {"fusion_type": "sum", "text": BOTH_WAYS}, "gated": {"fusion_type": "gated", "text": BOTH_WAYS},
    "decision": {"fusion_type": "decision", "text": BOTH_WAYS},
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "writer": ("MMForConditionalGeneration", {}),
    "writer, conv": ("MMForConditionalGeneration", {"vision": CONV}),
    "writer, own layers": ("MMForConditionalGeneration", {"text": OWN_LAYERS}),
    "writer, llama": ("MMForConditionalGeneration", {"text": LLAMA}),
    "writer, everything": ("MMForConditionalGeneration", EVERYTHING),
    "writer, clips": ("MMForConditionalGeneration", {"modalities": ["audio"], "audio_config": AUDIO}),
    "writer, videos": ("MMForConditionalGeneration", {"modalities": ["video"]}),
    "writer, merged": ("MMForConditionalGeneration", {"fusion_type": "merged"}),
    "writer, merged causal": (
        "MMForConditionalGeneration",
        {"fusion_type": "merged", "fusion_mask": "causal", "fusion_embedding_norm": True, **EVERYTHING},
    ),
    "writer, text encoder": ("MMForConditionalGeneration", {"text_encoder_config": ENCODER}),
    "writer, shared encoder": ("MMForConditionalGeneration", {"share_text_encoder": True}),
    "writer, encoder co": (
        "MMForConditionalGeneration",
        {"fusion_type": "co_attention", "text_encoder_config": {**ENCODER, "pooler": "mean"}},
    ),
    "writer, resampler": ("MMForConditionalGeneration", {"vision_resampler_config": LATENTS}),
    **{f"classes, {name}": ("MMForSequenceClassification", {"num_labels": 3, **f}) for name, f in FUSIONS.items()},
    **{
        f"classes, everything {name}": ("MMForSequenceClassification", {"num_labels": 3, **f, **EVERYTHING})
        for name, f in FUSIONS.items()
    },
    "states": ("MMModel", {}),
    "states, everything merged": ("MMModel", {**FUSIONS["merged"], **EVERYTHING}),
    "masked": ("MMForMaskedLM", {"text": BOTH_WAYS}),
    "masked, merged": ("MMForMaskedLM", FUSIONS["merged"]),
    "masked, co": ("MMForMaskedLM", FUSIONS["co"]),
    "retrieval": ("MMForImageTextRetrieval", {"projection_dim": 12, "text": BOTH_WAYS}),
    "retrieval, merged": ("MMForImageTextRetrieval", {"projection_dim": 12, **FUSIONS["merged"]}),
    "pre-training": ("MMForPreTraining", {"projection_dim": 12}),
    "pre-training, every loss": ("MMForPreTraining", EVERY_LOSS),
    "pre-training, shared run": ("MMForPreTraining", {**EVERY_LOSS, "mim_pass": "shared"}),
}  # fmt: skip


# CoCa as its conversion sets it up: open_clip, which has it, is not installed here.
PLAIN_NORMS = {"norm_position": "pre", "attention_bias": True}
MODELS["converted: coca"] = (
    "MMForPreTraining",
    {
        "vision": {
            **PLAIN_NORMS, "patch_bias": False, "embedding_norm": True, "final_norm": "none", "pooler": "cls",
        },
        "vision_resampler_config": {
            **PLAIN_NORMS, "hidden_size": 32, "num_latents": 5, "num_attention_heads": 2, "head_dim": 16,
            "num_hidden_layers": 1, "intermediate_size": 0, "append_latents": False, "residual": False,
            "first_latent_pooled": True,
        },
        "text": {
            **PLAIN_NORMS, "num_hidden_layers": 6, "embedding_norm": False, "final_norm": "all", "unimodal_layers": 2,
            "unimodal_cls": "shifted", "cross_attention_memory_norm": True, "cross_attention_layers": [3, 5],
            "cross_attention_placement": "own",
        },
        "projector_type": "none", "projection_dim": 32, "lm_head_transform": False, "lm_head_bias": False,
        "tie_word_embeddings": False, "pretraining_losses": {"itc": 1.0, "lm": 2.0},
    },
)  # fmt: skip


def config_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The keywords of MMConfig for an entry of MODELS."""
    fields = dict(fields)
    text, vision = fields.pop("text", {}), fields.pop("vision", {})
    if {"image", "video"} & set(fields.get("modalities", ["image"])):
        fields["vision_config"] = vision if "model_type" in vision else {**VISION, **vision}
    return {**fields, "text_config": {**TEXT, **text}}


def sources() -> Iterator[tuple[str, Any]]:
    """(name, tiny model of Transformers with random weights), one of each family that converts."""
    t = transformers
    vision = {**VISION, "hidden_size": 32, "num_attention_heads": 4}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {**sizes, "vocab_size": 40, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
    words |= {"pad_token_id": 0}
    blip = {"vision_config": vision, "text_config": {**words, "sep_token_id": 2}, "image_text_hidden_size": 16}
    yield "blip captioning", t.BlipForConditionalGeneration(t.BlipConfig(**blip))
    yield "blip answering", t.BlipForQuestionAnswering(t.BlipConfig(**blip))
    yield "blip retrieval", t.BlipForImageTextRetrieval(t.BlipConfig(**blip))
    yield "git", t.GitForCausalLM(t.GitConfig(vision_config=vision, **words))
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 40, "add_cross_attention": True}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "is_decoder": True}
    bert = t.BertConfig(**words, is_decoder=True, add_cross_attention=True)
    for name, decoder in (("gpt2", t.GPT2Config(**gpt2, **ids)), ("bert", bert)):
        both = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(t.ViTConfig(**vision), decoder)
        both.decoder_start_token_id, both.pad_token_id, both.eos_token_id = 1, 0, 2
        yield f"vit-{name}", t.VisionEncoderDecoderModel(both)
    clip = {"vision_config": vision, "text_config": {**words, "eos_token_id": 39}, "projection_dim": 16}
    yield "clip", t.CLIPModel(t.CLIPConfig(**clip))
    yield "siglip", t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config={**words, "projection_size": 32}))
    dual = t.VisionTextDualEncoderConfig.from_vision_text_configs(t.ViTConfig(**vision), t.BertConfig(**words))
    dual.projection_dim = 16
    yield "dual encoder", t.VisionTextDualEncoderModel(dual)
    yield (
        "visual bert",
        t.VisualBertForQuestionAnswering(t.VisualBertConfig(**words, visual_embedding_dim=20, num_labels=5)),
    )


def converted() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, class, config.json) of every family as `mm.convert` makes it."""
    for name, model in sources():
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(f"{folder}/source")
            model = mm.convert(f"{folder}/source").model
        yield name, type(model).__name__, json.loads(model.config.to_json_string(use_diff=True))
    with tempfile.TemporaryDirectory() as folder:
        llama = {**TEXT, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama)).save_pretrained(f"{folder}/text")
        transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(f"{folder}/vision")
        model = mm.MMForConditionalGeneration.from_towers(
            f"{folder}/vision", f"{folder}/text", cross_attention_every=1
        )
    yield "flamingo", type(model).__name__, json.loads(model.config.to_json_string(use_diff=True))


def drawn(name: str, *shape: int) -> torch.Tensor:
    """Normal numbers that depend on the name alone, in fp64."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def built(name: str, saved: dict[str, Any]) -> Any:
    """The model of a class's name and a saved configuration, with every weight drawn by its name."""
    config = mm.MMConfig.from_dict(dict(saved))
    model = getattr(mm, name)._from_config(config, attn_implementation="sdpa").double().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = drawn(key, *weight.shape)
            if weight.ndim == 1 and ("norm" in key and key.endswith("weight")):
                weight.copy_(1 + 0.2 * noise)
            elif weight.ndim > 1 and weight.shape[0] > 1:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.3 * noise)
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.copy_(1 + 0.2 * drawn(key, *buffer.shape).abs())
            elif key.endswith("running_mean"):
                buffer.copy_(0.2 * drawn(key, *buffer.shape))
    return model


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    """Four rows of unequal length; two pictures for the first, one for the second, none for the third, and so on."""
    config, name = model.config, type(model).__name__
    ids = torch.tensor([[0, 1, 5, 6, 2], [1, 7, 8, 9, 3], [0, 0, 1, 4, 2], [0, 1, 3, 8, 7]])
    last = config.text_config.eos_token_id
    if isinstance(last, int):
        ids[:, -1] = torch.where(ids[:, -1] == 2, last, ids[:, -1])
    given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if config.text_config.position_embedding_type == "none" or name == "MMForImageTextRetrieval":
        given = {key: value.flip(1) for key, value in given.items()}  # real tokens first
    present = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]]).bool()
    if name in {"MMForImageTextRetrieval", "MMForPreTraining"}:
        present = torch.tensor([[1, 0], [1, 0], [1, 0], [1, 0]]).bool()
    modalities = set(config.modalities)
    if "image" in modalities and config.vision_config is not None:
        size, channels = config.vision_config.image_size, getattr(config.vision_config, "num_channels", 3)
        height, width = (size, size) if isinstance(size, int) else size
        given |= {"pixel_values": drawn("pictures", 4, 2, channels, height, width), "pixel_attention_mask": present}
    elif "image" in modalities:
        given |= {"visual_embeds": drawn("regions", 4, 3, config.visual_embedding_dim)}
    if "video" in modalities:
        frames = torch.tensor([[[1, 1, 1]], [[1, 1, 0]], [[0, 0, 0]], [[1, 0, 0]]]).bool()
        given |= {"pixel_values_videos": drawn("films", 4, 1, 3, 3, 16, 16), "video_attention_mask": frames}
    if "audio" in modalities:
        clips = torch.tensor([[1], [0], [1], [1]]).bool()
        given |= {"input_features": drawn("clips", 4, 1, 12, 8), "input_features_mask": clips}
    writes = name in {"MMForConditionalGeneration", "MMModel"}
    if config.text_encoder_config is not None or (config.share_text_encoder and writes):
        given |= {"context_input_ids": ids.flip(0), "context_attention_mask": (ids != 0).long().flip(0)}
    return given


def targets_of(model: Any, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    name = type(model).__name__
    if name == "MMForSequenceClassification":
        if model.config.classification_loss == "kl":
            return {"labels": drawn("answers", 4, model.config.num_labels).softmax(-1)}
        return {"labels": torch.tensor([0, 1, 2, 1])}
    if name in {"MMForConditionalGeneration", "MMForMaskedLM"}:
        return {"labels": given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)}
    if name == "MMModel":
        return {}
    targets: dict[str, Any] = {"return_loss": True}
    losses = model.config.pretraining_losses
    if name == "MMForPreTraining" and "mlm" in losses:
        hidden = (given["input_ids"] % 3 == 0) & (given["attention_mask"] == 1)
        targets["mlm_targets"] = given["input_ids"].masked_fill(~hidden, -100)
        targets["masked_input_ids"] = given["input_ids"].masked_fill(hidden, 4)
    if name == "MMForPreTraining" and "mim" in losses:
        targets["bool_masked_pos"] = torch.tensor([True, False, False, True]).expand(4, 2, 4)
    return targets


def sampled(tensor: torch.Tensor) -> dict[str, Any]:
    flat = tensor.detach().flatten().double()
    places = torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat))).long()
    return {"shape": list(tensor.shape), "norm": flat.norm().item(), "values": flat[places].tolist()}


def computed(model: Any) -> dict[str, Any]:
    """All that is recorded of a model but its configuration."""
    given = inputs_of(model)
    torch.manual_seed(0)  # hard negatives are drawn
    output = model(**given, **targets_of(model, given))
    found = {
        key: sampled(value)
        for key, value in output.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    tensors = sorted(f"{key} {list(value.shape)}" for key, value in model.state_dict().items())
    result = {
        "tensors": [len(tensors), hashlib.sha256("\n".join(tensors).encode()).hexdigest()],
        "outputs": found,
    }
    if getattr(output, "loss", None) is not None:
        output.loss.backward()
        gradients = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
        result["gradient"] = sampled(torch.stack(gradients).norm()[None])
    if type(model).__name__ == "MMForConditionalGeneration":
        prompt = {
            key: value[:, :-1] if key in {"input_ids", "attention_mask"} else value for key, value in given.items()
        }
        for beams in (1, 3):
            ids = model.generate(**prompt, num_beams=beams, max_new_tokens=6, do_sample=False)
            result[f"tokens, {beams} beams"] = ids.tolist()
    return result


def record() -> dict[str, Any]:
    recorded = {}
    entries = [(name, cls, None, fields) for name, (cls, fields) in MODELS.items()]
    entries += [(f"converted: {name}", cls, config, {}) for name, cls, config in converted()]
    for name, cls, config, fields in entries:
        if config is None:
            config = json.loads(mm.MMConfig(**config_of(fields)).to_json_string(use_diff=True))
        model = built(cls, config)
        recorded[name] = {"class": cls, "config": config, **computed(model)}
        print(name, recorded[name]["tensors"][0], list(recorded[name]["outputs"]), file=sys.stderr)
    return recorded


def differences(old: dict[str, Any]) -> list[str]:
    """What the installed `mm` does otherwise for one recorded model; empty: nothing."""
    model = built(old["class"], old["config"])
    again = mm.MMConfig.from_dict(json.loads(model.config.to_json_string(use_diff=True)))
    new, found = computed(model), []
    if again.to_dict() != model.config.to_dict():
        found.append("the configuration does not survive saving and loading")
    for name in sorted((old.keys() | new.keys()) - {"class", "config", "outputs", "gradient"}):
        if old.get(name) != new.get(name):
            found.append(f"{name}: {old.get(name)} became {new.get(name)}")
    if old["outputs"].keys() != new["outputs"].keys():
        found.append(f"outputs: {sorted(old['outputs'])} became {sorted(new['outputs'])}")
    floats = {key: (value, new["outputs"].get(key)) for key, value in old["outputs"].items()}
    floats["gradient"] = old.get("gradient"), new.get("gradient")
    for name, (was, now) in floats.items():
        if was is None or now is None or was["shape"] != now["shape"]:
            if was is not now:
                found.append(f"{name}: {was and was['shape']} became {now and now['shape']}")
            continue
        a, b = (torch.tensor([*one["values"], one["norm"]], dtype=torch.float64) for one in (was, now))
        error = ((a - b).abs() / a.abs().clamp(min=1)).max().item()
        if not error <= TOLERANCE:
            found.append(f"{name}: differs by {error:.1e}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    if parser.parse_args().action == "record":
        lines = (f"{json.dumps(name)}: {json.dumps(model)}" for name, model in record().items())
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    faults = {name: differences(old) for name, old in json.loads(RECORDED.read_text(encoding="utf-8")).items()}
    for name, found in faults.items():
        print(f"{name}: {'; '.join(found) or 'equal'}")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
