"""Models that start from published towers: each tower gives what it gave, and only what no tower has is new."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    ASTConfig,
    ASTModel,
    BeitConfig,
    BeitModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    RobertaForMaskedLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperModel,
)

import mm
from comparing import close
from mm import MMForConditionalGeneration
from mm.recipes import sources

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": 30, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 16}
PICTURE = {**SIZES, "image_size": 16, "patch_size": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "vocab_size": 30}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
TEXTS = {
    "bert": (BertForMaskedLM, BertConfig(**SIZES, **WORDS)),
    "bert without a head": (BertModel, BertConfig(**SIZES, **WORDS)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SIZES, **{**WORDS, "pad_token_id": 1})),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig(**DISTIL, **WORDS)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2, bos_token_id=2, eos_token_id=3)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, **WORDS, num_key_value_heads=2, attention_bias=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, **WORDS, num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, **WORDS, num_key_value_heads=2, head_dim=12)),
}
VISIONS = {
    "vit": (ViTModel, ViTConfig(**PICTURE)),
    "vit with a classifier": (ViTForImageClassification, ViTConfig(**PICTURE)),
    "deit": (DeiTModel, DeiTConfig(**PICTURE)),
    "clip": (CLIPVisionModel, CLIPVisionConfig(**PICTURE)),
    "clip with its projection": (CLIPVisionModelWithProjection, CLIPVisionConfig(**PICTURE, projection_dim=8)),
    "clip of both towers": (CLIPModel, CLIPConfig(vision_config=PICTURE, text_config={**SIZES, **WORDS})),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**PICTURE)),
    "siglip without a head": (SiglipVisionModel, SiglipVisionConfig(**PICTURE, vision_use_head=False)),
    "siglip of both towers": (SiglipModel, SiglipConfig(vision_config=PICTURE, text_config={**SIZES, **WORDS})),
}
FOREIGN = {
    "dinov2": (Dinov2Model, Dinov2Config(**{**PICTURE, "mlp_ratio": 2})),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig(**PICTURE, num_register_tokens=2)),
    "beit": (BeitModel, BeitConfig(**PICTURE, use_relative_position_bias=True)),
    "resnet": (
        ResNetModel, ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    ),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16)),
}  # fmt: skip
AUDIO = {"d_model": 20, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
AUDIO |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 20}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
AST = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 12, "num_mel_bins": 8}
AUDIOS = {  # with the shape of a clip
    "ast": (ASTModel, ASTConfig(**SIZES, **AST), (12, 8)),
    "whisper": (WhisperModel, WhisperConfig(**AUDIO, **ENDS, num_mel_bins=12, max_source_positions=4), (12, 8)),
    "whisper with its head": (
        WhisperForConditionalGeneration,
        WhisperConfig(**AUDIO, **ENDS, num_mel_bins=12, max_source_positions=4),
        (12, 8),
    ),
}
ROUNDING = 1e-6  # in fp64; some of theirs round their norms or softmaxes to fp32 all the same
IDS = torch.tensor([[2, 5, 9, 8, 12], [2, 6, 8, 7, 4]])
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def saved(tmp_path, visible):
    """`saved(class, config)`: (the model in fp64, its directory); fp64, so that no sum of a conversion rounds."""

    def save(cls, config, name):
        torch.manual_seed(0)
        config = type(config).from_dict(config.to_dict())
        model = visible(cls(config)).double().eval()
        tie = getattr(model, "tie_weights", None)
        if tie is not None:
            tie()
        model.save_pretrained(tmp_path / name)
        return cls.from_pretrained(tmp_path / name, dtype=torch.float64).eval(), tmp_path / name

    return save


@pytest.fixture
def vit(saved):
    return saved(ViTModel, ViTConfig(**PICTURE), "vision")[1]


@pytest.mark.parametrize("kind", TEXTS)
@torch.no_grad()
def test_a_text_tower_gives_its_own_states_and_logits(kind, saved, vit):
    theirs, source = saved(*TEXTS[kind], "text")
    model = MMForConditionalGeneration.from_towers(vit, source)
    causal = kind in ("gpt2", "llama", "qwen2", "qwen3")
    output = theirs(IDS, output_hidden_states=True)
    ours = model.model.language_model(IDS, is_causal=causal, use_cache=False)
    assert (ours.last_hidden_state - output.hidden_states[-1]).abs().max() <= ROUNDING
    if "logits" in output:
        states = model.lm_head_transform(ours.last_hidden_state)
        assert (model.lm_head(states) - output.logits).abs().max() <= ROUNDING


@pytest.mark.parametrize("kind", VISIONS)
@torch.no_grad()
def test_a_vision_tower_gives_its_own_states(kind, saved):
    theirs, source = saved(*VISIONS[kind], "vision")
    text = saved(*TEXTS["gpt2"], "text")[1]
    tower = MMForConditionalGeneration.from_towers(source, text).model.vision_tower
    theirs = getattr(theirs, "vision_model", None) or getattr(theirs, "vit", theirs)
    here, there = tower(PIXELS), theirs(PIXELS)
    assert (here.last_hidden_state - there.last_hidden_state).abs().max() <= ROUNDING
    if there.pooler_output is not None:
        assert (here.pooler_output - there.pooler_output).abs().max() <= ROUNDING


@pytest.mark.parametrize("kind", FOREIGN)
@torch.no_grad()
def test_any_vision_model_of_transformers_gives_its_own_states_through_mm(kind, saved):
    theirs, source = saved(*FOREIGN[kind], "vision")
    model = MMForConditionalGeneration.from_towers(source, saved(*TEXTS["gpt2"], "text")[1])
    there = theirs(PIXELS).last_hidden_state
    there = there.flatten(2).transpose(1, 2) if there.ndim == 4 else there
    assert (model.model.get_image_features(PIXELS).last_hidden_state - there).abs().max() <= ROUNDING
    values = model.model.vision_tower.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("kind", AUDIOS)
@torch.no_grad()
def test_an_audio_tower_gives_its_own_states_through_mm(kind, saved, vit, tmp_path):
    theirs, source = saved(*AUDIOS[kind][:2], "audio")
    theirs = theirs.get_encoder() if theirs.config.is_encoder_decoder else theirs
    clips = torch.randn(2, *AUDIOS[kind][2], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = MMForConditionalGeneration.from_towers(vit, saved(*TEXTS["gpt2"], "text")[1], audio=source)
    there = theirs(clips).last_hidden_state
    assert (model.model.get_audio_features(clips[:, None]).last_hidden_state - there).abs().max() <= ROUNDING
    inputs = {"pixel_values": PIXELS, "input_features": clips[:, None]}
    model.save_pretrained(tmp_path / "out")
    again = MMForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float64)
    close(again(IDS, **inputs).logits, model(IDS, **inputs).logits)


def test_a_model_hears_without_seeing(saved):
    source = saved(*AUDIOS["ast"][:2], "audio")[1]
    model = MMForConditionalGeneration.from_towers(None, saved(*TEXTS["gpt2"], "text")[1], audio=source)
    assert model.config.modalities == ["audio"] and model.model.vision_tower is None
    with pytest.raises(ValueError, match="pass vision, audio, or both"):
        MMForConditionalGeneration.from_towers(None, saved(*TEXTS["gpt2"], "text")[1])


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@torch.no_grad()
def test_the_towers_of_an_mm_checkpoint_start_another_model(kind, saved, tmp_path):
    """Its image tower, MM's own or Transformers', and its audio tower; the rest of it is left."""
    seen = saved(*{**VISIONS, **FOREIGN}[kind], "vision")[1]
    texts = [saved(*TEXTS[name], name)[1] for name in ("gpt2", "bert without a head")]
    first = MMForConditionalGeneration.from_towers(seen, texts[0], audio=saved(*AUDIOS["ast"][:2], "audio")[1])
    first.save_pretrained(tmp_path / "mm")
    both = {"modalities": ["image", "audio"], "fusion_type": "none", "text_config": {"pooler": "mean"}}
    finder = mm.MMForImageTextRetrieval.from_towers(
        tmp_path / "mm", texts[1], audio=tmp_path / "mm", projection_dim=8, **both
    )
    clips = torch.randn(2, 1, 12, 8, dtype=torch.float64)
    for model, (name, given) in ((finder, one) for one in (("image", PIXELS), ("audio", clips))):
        there, here = (getattr(one.model, f"get_{name}_features")(given).last_hidden_state for one in (first, model))
        close(here, there)
    assert finder.config.text_config.pooler == "mean" and not hasattr(finder.model.language_model.pooler, "dense")
    alone = MMForConditionalGeneration.from_towers(seen, texts[0])
    alone.save_pretrained(tmp_path / "deaf")
    with pytest.raises(ValueError, match="without a tower for audio"):
        mm.MMForImageTextRetrieval.from_towers(None, texts[1], audio=tmp_path / "deaf")


def test_half_a_foreign_tower_is_refused(saved):
    source = saved(*FOREIGN["resnet"], "vision")[1]
    tensors = load_file(source / "model.safetensors")
    lost = next(name for name in sorted(tensors) if name.endswith("convolution.weight"))
    save_file({n: v for n, v in tensors.items() if n != lost}, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not hold all of its ResNetModel") as raised:
        MMForConditionalGeneration.from_towers(source, saved(*TEXTS["gpt2"], "text")[1])
    assert lost in str(raised.value)


def test_a_warm_model_trains_generates_and_loads_again(saved, vit, tmp_path):
    model = MMForConditionalGeneration.from_towers(vit, saved(*TEXTS["gpt2"], "text")[1])
    model(IDS, pixel_values=PIXELS, labels=IDS).loss.backward()
    assert model.model.language_model.layers[0].cross_attn.k_proj.weight.grad.abs().max() > 0
    ids = model.generate(pixel_values=PIXELS, max_new_tokens=3)
    model.save_pretrained(tmp_path / "out")
    again = MMForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float64)
    assert torch.equal(again.generate(pixel_values=PIXELS, max_new_tokens=3), ids)


@torch.no_grad()
def test_a_closed_gate_leaves_a_warm_decoder_as_it_was(saved, vit):
    theirs, source = saved(*TEXTS["llama"], "text")
    model = MMForConditionalGeneration.from_towers(vit, source, text_config={"cross_attention_gate": "tanh"})
    assert (model(IDS, pixel_values=PIXELS).logits - theirs(IDS).logits).abs().max() <= ROUNDING


def test_groups_of_settings_are_overrides_too(saved, vit):
    source = saved(*TEXTS["gpt2"], "text")[1]
    model = MMForConditionalGeneration.from_towers(
        vit, source, fusion={"type": "cross_attention"}, text_config={"cross_attention": {"gate": "tanh"}}
    )
    assert model.config.fusion.type == "cross_attention" and model.config.text_config.cross_attention.gate == "tanh"
    merged = MMForConditionalGeneration.from_towers(vit, source, fusion={"type": "merged"})
    assert merged.config.fusion_type == "merged" and merged.config.text_config.cross_attention_layers == []


@torch.no_grad()
def test_a_text_encoder_reads_context_text_with_its_own_weights(saved, vit):
    theirs, encoder = saved(*TEXTS["bert without a head"], "encoder")
    source = saved(*TEXTS["gpt2"], "text")[1]
    settings = {"fusion_type": "merged", "fusion_mask": "bidirectional"}
    model = MMForConditionalGeneration.from_towers(vit, source, text_encoder=encoder, **settings)
    here = model.model.get_text_features(IDS)
    assert (here.last_hidden_state - theirs(IDS).last_hidden_state).abs().max() <= 1e-10


@pytest.mark.parametrize("cls, config", [
    (CLIPTextModel, CLIPTextConfig(**SIZES, **WORDS)), (SiglipTextModel, SiglipTextConfig(**SIZES, **WORDS)),
])  # fmt: skip
def test_the_text_tower_of_a_pair_is_told_to_come_with_it(cls, config, saved, vit):
    source = saved(cls, config, "words")[1]
    with pytest.raises(ValueError, match="these are: bert, .*text tower of a CLIP or SigLIP comes with the whole"):
        MMForConditionalGeneration.from_towers(vit, source)


def test_an_unknown_tower_and_a_text_without_ends_are_told(saved, vit):
    with pytest.raises(ValueError, match="text: model_type='vit' .* no vocabulary.*; these are: bert"):
        MMForConditionalGeneration.from_towers(vit, vit)
    words = {name: value for name, value in WORDS.items() if name not in ("bos_token_id", "eos_token_id")}
    plain = saved(BertModel, BertConfig(**SIZES, **words), "text")[1]
    with pytest.raises(ValueError, match="BERT's cls is 101"):
        MMForConditionalGeneration.from_towers(vit, plain)


@pytest.mark.slow
@torch.no_grad()
def test_minilm_embeds_sentences_as_it_did(vit):
    """Real weights: all-MiniLM-L6-v2's embedding is the mean of the tokens, normalised."""
    directory = sources.minilm_directory()
    theirs, tokenizer = BertModel.from_pretrained(directory).eval(), BertTokenizer.from_pretrained(directory)
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    model = MMForConditionalGeneration.from_towers(vit, directory, text_config=ends)
    batch = tokenizer(["a red dog", "two cats sleep on the sofa by the window"], padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = (
        theirs(ids, attention_mask=mask).last_hidden_state,
        model.model.language_model(ids, mask, is_causal=False, use_cache=False).last_hidden_state,
    )
    means = [(found * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for found in states]
    there, here = (torch.nn.functional.normalize(mean, dim=-1) for mean in means)
    assert (here - there).abs().max() <= 1e-5


HEADS = {
    "classification": (mm.MMForSequenceClassification, {"num_labels": 3}),
    "masked lm": (mm.MMForMaskedLM, {}),
    "retrieval": (mm.MMForImageTextRetrieval, {"pretraining_losses": {"itc": 1.0}}),
    "pre-training": (mm.MMForPreTraining, {"pretraining_losses": {"itc": 1.0, "mlm": 1.0}}),
}


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_every_head_starts_from_published_towers(head, saved, vit, tmp_path):
    cls, settings = HEADS[head]
    theirs, source = saved(*TEXTS["bert"], "text")
    model = cls.from_towers(vit, source, **settings)
    assert type(model) is cls and not model.config.text_config.is_causal
    states = model.model.language_model(IDS, use_cache=False).last_hidden_state
    close(states, theirs(IDS, output_hidden_states=True).hidden_states[-1])
    assert all(value.isfinite().all() for value in model.state_dict().values())
    model.save_pretrained(tmp_path / "out")
    again = cls.from_pretrained(tmp_path / "out", dtype=torch.float64).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


QUEUE = {"contrastive_queue_size": 8, "contrastive_momentum": 0.9}
MASKED = {"vision_config": {"use_mask_token": True}}
NEW_HEADS = {
    "queue": (mm.MMForImageTextRetrieval, {"itc": 1.0}, QUEUE),
    "queue, merged": (mm.MMForImageTextRetrieval, {"itc": 1.0, "itm": 1.0}, {**QUEUE, "fusion_type": "merged"}),
    "mim": (mm.MMForPreTraining, {"mim": 1.0}, MASKED),
    "mim of features": (mm.MMForPreTraining, {"mim": 1.0, "mlm": 1.0}, {**MASKED, "mim_target": "features"}),
    "lm": (mm.MMForPreTraining, {"lm": 1.0, "itc": 1.0}, {"text_config": {"is_causal": True}}),
}


@pytest.mark.parametrize("head", NEW_HEADS)
def test_new_heads_begin_as_copies_of_published_towers_and_train(head, saved, vit):
    cls, losses, settings = NEW_HEADS[head]
    source = saved(*TEXTS["bert"], "text")[1]
    model = cls.from_towers(vit, source, pretraining_losses=losses, **settings).double().train()
    for name, original in (("slow", model.model), ("mim_tower", model.model.vision_tower)):
        copy, own = getattr(model, name, None), original.state_dict()
        held = {} if copy is None else copy.state_dict()
        shared = [key for key in held if key.removeprefix("model.") in own]
        assert bool(shared) is (name == "slow" and "queue" in head or name == "mim_tower" and "features" in head)
        assert all(torch.equal(held[key], own[key.removeprefix("model.")]) for key in shared)
    inputs = {"pixel_values": PIXELS[:, None], "input_ids": IDS, "return_loss": True}
    inputs |= {f"{name}_targets": IDS for name in ("lm", "mlm") if name in losses}
    if "mlm" in losses:
        inputs["masked_input_ids"] = IDS
    if "mim" in losses:
        inputs["bool_masked_pos"] = torch.tensor([[True, False, False, True]] * 2)[:, None]
    loss = model(**inputs).loss
    loss.backward()
    assert loss.isfinite()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.vision_tower.parameters())


def test_words_of_a_bert_are_predicted_left_to_right_only_where_that_is_said(saved, vit):
    source = saved(*TEXTS["bert"], "text")[1]
    with pytest.raises(ValueError, match="'lm' needs text_config.is_causal=True"):
        mm.MMForPreTraining.from_towers(vit, source, pretraining_losses={"lm": 1.0})
