"""CLIP, SigLIP and VisionTextDualEncoder: two towers compared, converted and back, beside the installed classes."""

# Fixtures build models whose types pyright cannot follow.

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    DeiTConfig,
    RobertaConfig,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    XLMRobertaConfig,
)

from comparing import close
from mm import MMForImageTextRetrieval
from mm.conversion_scripts.engine import convert, convert_back

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
NARROW = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 3}
SEES = {**WIDE, "image_size": 16, "patch_size": 8}
SEES_ODD = {**NARROW, "image_size": 20, "patch_size": 6, "num_channels": 1, "layer_norm_eps": 1e-3}
READS = {**WIDE, "vocab_size": 30, "max_position_embeddings": 12}
READS_ODD = {**NARROW, "num_attention_heads": 2, "vocab_size": 41, "max_position_embeddings": 9}
EOT = {"bos_token_id": 28, "eos_token_id": 29}
ODD_EOT = {"bos_token_id": 3, "eos_token_id": 29}
BERT_IDS = {"bos_token_id": 28, "eos_token_id": 29, "pad_token_id": 0}
ROBERTA = {**READS_ODD, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "type_vocab_size": 1}


def two(vision, text) -> VisionTextDualEncoderConfig:
    return VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=12)


# Name -> family, class, config: a usual one and odd ones with other widths, heads, vocabularies, patches, channels.
CASES = {
    "clip": ("clip", CLIPModel, CLIPConfig(vision_config=SEES, text_config={**READS, **EOT}, projection_dim=16)),
    "clip, odd": (
        "clip", CLIPModel,
        CLIPConfig(vision_config=SEES_ODD, text_config={**READS_ODD, **ODD_EOT, "hidden_act": "gelu"},
                   projection_dim=7, logit_scale_init_value=1.0),
    ),
    "siglip": ("siglip", SiglipModel, SiglipConfig(vision_config=SEES, text_config=READS)),
    "siglip, odd": (  # SigLIP 2's largest: towers of two widths
        "siglip", SiglipModel,
        SiglipConfig(vision_config=SEES_ODD, text_config={**READS_ODD, "hidden_size": 32, "projection_size": 24}),
    ),
    "vit, bert": (
        "vision-text-dual-encoder", VisionTextDualEncoderModel, two(ViTConfig(**SEES), BertConfig(**READS, **BERT_IDS))
    ),
    "clip, roberta": (
        "vision-text-dual-encoder", VisionTextDualEncoderModel,
        two(CLIPVisionConfig(**SEES_ODD), RobertaConfig(**ROBERTA)),
    ),
    "siglip, clip text": (
        "vision-text-dual-encoder", VisionTextDualEncoderModel,
        two(SiglipVisionConfig(**SEES_ODD), CLIPTextConfig(**READS, **EOT)),
    ),
    "deit, bert": (
        "vision-text-dual-encoder", VisionTextDualEncoderModel,
        two(DeiTConfig(**SEES), BertConfig(**READS_ODD, **BERT_IDS, type_vocab_size=3)),
    ),
}  # fmt: skip
IDS = torch.tensor([[28, 5, 9, 7, 29, 0], [28, 6, 8, 29, 0, 0], [28, 4, 11, 12, 13, 29]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def inputs(name: str, config, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Three pictures and three texts; SigLIP reads its padding, RoBERTa tells it by its id."""
    vision = config.vision_config
    shape = (3, vision.num_channels, vision.image_size, vision.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    ids = IDS.masked_fill(MASK == 0, config.text_config.pad_token_id or 0)
    mask = torch.ones_like(MASK) if name.startswith("siglip") and "text" not in name else MASK
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.fixture(params=CASES)
def pair(request, peer, saved):
    family, cls, config = CASES[request.param]
    theirs = peer(cls, config).double()  # so that the one sum of a conversion (DeiT's token) rounds no sooner
    source = saved(theirs)
    return request.param, family, theirs, convert(source), source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_logits_embeddings_and_loss_are_equal(pair, assert_close, dtype):
    name, _, theirs, done, _ = pair
    theirs, ours = theirs.to(dtype), done.model.to(dtype)
    given = inputs(name, theirs.config, dtype)
    there, here = theirs(**given, return_loss=True), ours(**given, return_loss=True)
    assert type(ours) is MMForImageTextRetrieval
    for output in ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds", "loss"):
        assert_close(here[output], there[output])


@torch.no_grad()
def test_the_states_of_every_layer_of_both_towers_are_equal(pair, assert_close):
    name, _, theirs, done, _ = pair
    given = inputs(name, theirs.config)
    ours = done.model.model
    pixels = {"pixel_values": given.pop("pixel_values"), "output_hidden_states": True}
    there, here = theirs.vision_model(**pixels), ours.vision_tower(**pixels)
    assert_close(here.pooler_output, there.pooler_output)
    assert len(here.hidden_states) == len(there.hidden_states) == theirs.config.vision_config.num_hidden_layers + 1
    first = int(name == "deit, bert")  # its second token is a register here, which gets its place before the layers
    for one, two in zip(here.hidden_states[first:-1], there.hidden_states[first:-1], strict=True):
        assert_close(one, two)
    real = given["attention_mask"].bool()
    there = theirs.text_model(**given, output_hidden_states=True)
    here = ours.language_model(**given, output_hidden_states=True)
    for one, two in zip(here.hidden_states[:-1], there.hidden_states[:-1], strict=True):
        assert_close(one[real], two[real])
    assert_close(here.last_hidden_state[real], there.last_hidden_state[real])


def test_every_gradient_is_equal(pair, assert_gradients):
    """But for the places of a DeiT: that of its second token is in the token here."""
    name, family, theirs, done, source = pair
    given = inputs(name, theirs.config)
    theirs(**given, return_loss=True).loss.backward()
    done.model(**given, return_loss=True).loss.backward()
    apart = ("position_embeddings",) if name == "deit, bert" else ()
    assert_gradients(theirs, done.model, source, family, apart)


def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(pair, tmp_path, tensors_of):
    name, family, theirs, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", family, tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    again, info = type(theirs).from_pretrained(tmp_path / "back", dtype=torch.float64, output_loading_info=True)
    assert not any(info.values())
    given = inputs(name, theirs.config)
    with torch.no_grad():
        close(again.eval()(**given).logits_per_text, theirs(**given).logits_per_text)


@torch.no_grad()
def test_a_model_that_was_converted_before_fusion_type_none_goes_back_too(pair, tmp_path, tensors_of):
    _, family, _, done, source = pair
    done.save_pretrained(tmp_path / "mm")
    file = tmp_path / "mm" / "config.json"
    old = {"fusion_type": "decision", "fusion_weights": {"text": 0.5, "image": 0.5}}
    file.write_text(json.dumps(json.loads(file.read_text()) | old))
    convert_back(tmp_path / "mm", family, tmp_path / "back")
    back, before = tensors_of(tmp_path / "back"), tensors_of(source)
    assert back.keys() == before.keys() and all(torch.equal(back[name], before[name]) for name in before)


def test_what_a_text_gets_depends_on_no_other_row_and_no_padding(pair, assert_close):
    name, _, theirs, done, _ = pair
    given, ours = inputs(name, theirs.config), done.model
    together = ours(**given)
    for row in range(3):
        length = int(given["attention_mask"][row].sum())
        alone = {key: value[row : row + 1] for key, value in given.items()}
        alone |= {key: alone[key][:, :length] for key in ("input_ids", "attention_mask")}
        single = ours(**alone)
        assert_close(single.text_embeds[0], together.text_embeds[row])
        assert_close(single.image_embeds[0], together.image_embeds[row])
        left = {"input_ids": torch.nn.functional.pad(alone["input_ids"], (2, 0))}
        left["attention_mask"] = torch.nn.functional.pad(alone["attention_mask"], (2, 0))
        assert_close(ours(**left).text_embeds[0], together.text_embeds[row])


@pytest.mark.parametrize("paired", [False, True])
@torch.no_grad()
def test_an_old_clip_reads_its_text_at_the_highest_id_of_each_row(peer, saved, tmp_path, assert_close, paired):
    """Its end of text is no longer the vocabulary's last id where words were added: Transformers takes the highest."""
    text = {**READS, "vocab_size": 34, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    if paired:
        old, cls, family = (
            two(ViTConfig(**SEES), CLIPTextConfig(**text)),
            VisionTextDualEncoderModel,
            CASES["vit, bert"][0],
        )
    else:
        old, cls, family = CLIPConfig(vision_config=SEES, text_config=text, projection_dim=8), CLIPModel, "clip"
    theirs = peer(cls, old).double()
    done = convert(saved(theirs))
    rows = [[28, 5, 9, 29, 1, 1], [28, 33, 8, 29, 0, 0], [4, 11, 31, 12, 31, 3], [29, 1, 1, 1, 1, 1]]
    given = inputs("clip", theirs.config) | {"input_ids": torch.tensor(rows)}
    given.pop("attention_mask")
    assert_close(done.model(**given).logits_per_text, theirs(**given).logits_per_text)
    assert "eos_token_id=2 is an old config's" in "\n".join(done.report)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", family, tmp_path / "back")
    again = cls.from_pretrained(tmp_path / "back", dtype=torch.float64).eval()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "projection_dim"):
        assert getattr(again.config.text_config, name) == getattr(theirs.config.text_config, name), name
    assert_close(again(**given).logits_per_text, theirs(**given).logits_per_text)


@torch.no_grad()
def test_a_scale_beyond_a_hundred_is_not_cut(peer, saved, assert_close):
    theirs = peer(CLIPModel, CASES["clip"][2]).double()
    theirs.logit_scale.fill_(4.9)
    ours, given = convert(saved(theirs)).model, inputs("clip", theirs.config)
    assert_close(ours(**given).logits_per_text, theirs(**given).logits_per_text)


@torch.no_grad()
def test_clip_s_embeddings_are_equal_in_fp32_too(peer, saved):
    theirs = peer(CLIPModel, CASES["clip"][2])
    given = inputs("clip", theirs.config, torch.float32)
    there, here = theirs(**given), convert(saved(theirs)).model(**given)
    for output in ("image_embeds", "text_embeds", "logits_per_text"):
        close(here[output], there[output])


def test_older_files_hold_buffers_and_longer_names(peer, saved, tensors_of, tmp_path):
    """Positions were saved, and CLIP's tower stood one level deeper inside a pair."""
    theirs = peer(VisionTextDualEncoderModel, CASES["clip, roberta"][2])
    source = saved(theirs)
    new = convert(source).model.state_dict()
    old = {
        key.replace("vision_model.", "vision_model.vision_model."): value for key, value in tensors_of(source).items()
    }
    for name in ("vision_model.vision_model", "text_model"):
        old[f"{name}.embeddings.position_ids"] = torch.arange(4)[None]
    save_file(old, source / "model.safetensors", metadata={"format": "pt"})
    done = convert(source)
    assert all(torch.equal(value, new[key]) for key, value in done.model.state_dict().items())
    assert "vision_model.vision_model.embeddings.position_ids (a buffer, made anew)" in "\n".join(done.report)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (CLIPTextModelWithProjection, CASES["clip"][2].text_config, "is not recognised"),
        (SiglipForImageClassification, CASES["siglip"][2], "SiglipForImageClassification is not known"),
    ],
)
def test_a_class_without_both_towers_is_refused(peer, saved, cls, config, message):
    with pytest.raises(ValueError, match=message):
        convert(saved(peer(cls, config)))


def test_a_tower_that_is_not_known_is_refused_by_name(peer, saved):
    config = two(ViTConfig(**SEES), BertConfig(**READS, **BERT_IDS))
    source = saved(peer(VisionTextDualEncoderModel, config))
    text = (source / "config.json").read_text().replace('"model_type": "bert"', '"model_type": "albert"')
    (source / "config.json").write_text(text)
    with pytest.raises(ValueError, match="model_type='albert' inside VisionTextDualEncoderModel; known are bert"):
        convert(source)


@pytest.mark.parametrize(
    ("cls", "pad"), [(BertConfig, 1), (RobertaConfig, 0), (XLMRobertaConfig, 1), (RobertaConfig, 7)]
)
def test_a_text_goes_back_as_the_kind_that_it_came_as(peer, saved, tensors_of, tmp_path, cls, pad):
    """Whatever the id of its padding is, which once told BERT from RoBERTa."""
    text = cls(**READS, bos_token_id=2, eos_token_id=3, pad_token_id=pad)
    source = saved(peer(VisionTextDualEncoderModel, two(ViTConfig(**SEES), text)))
    convert(source).save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "vision-text-dual-encoder", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    again = VisionTextDualEncoderConfig.from_pretrained(tmp_path / "back").text_config
    assert (type(again), again.pad_token_id, again.max_position_embeddings) == (cls, pad, 12)


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_dtypes_that_are_mixed_are_kept_exactly_there_and_back(
    peer, saved, tensors_of, tmp_path, assert_close, narrow
):
    source = saved(peer(CLIPModel, CASES["clip"][2]))
    mixed = {key: value.to(narrow) if value.ndim > 1 else value for key, value in tensors_of(source).items()}
    save_file(mixed, source / "model.safetensors", metadata={"format": "pt"})
    done, theirs = convert(source), CLIPModel.from_pretrained(source, dtype=torch.float32).eval()
    assert done.model.dtype == torch.float32
    assert f"tensors of {str(narrow).removeprefix('torch.')} are torch.float32 now, exactly" in "\n".join(done.report)
    given = inputs("clip", theirs.config, torch.float32)
    assert_close(done.model(**given).logits_per_text, theirs(**given).logits_per_text)
    with torch.no_grad():
        done.model.itc_head.text.weight[0, 0] += 1e-6  # trained since: narrow numbers would lose it
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "clip", tmp_path / "back")
    after = tensors_of(tmp_path / "back")
    assert after.pop("text_projection.weight").dtype == torch.float32
    assert all(after[key].dtype == mixed[key].dtype and torch.equal(after[key], mixed[key]) for key in after)


def test_numbers_that_are_no_weights_are_refused(peer, saved, tensors_of):
    source = saved(peer(CLIPModel, CASES["clip"][2]))
    tensors = tensors_of(source) | {"text_projection.weight": torch.ones(16, 32, dtype=torch.int8)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="itc_head.text.weight is torch.int8"):
        convert(source)


def test_a_pooler_of_another_kind_is_refused_where_it_is_compared(peer, saved):
    towers = two(ViTConfig(**SEES, pooler_act="relu"), BertConfig(**READS, **BERT_IDS))
    with pytest.raises(ValueError, match="pooler_act='relu', pooler_output_size=.*'tanh' at the width"):
        convert(saved(peer(VisionTextDualEncoderModel, towers)))
