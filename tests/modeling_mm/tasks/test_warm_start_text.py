"""from_towers for each kind of text model: states of every layer and logits as in the source; others are refused."""

# Fixtures build models whose types pyright cannot follow.

import re

import pytest
import torch
import transformers
from transformers import (
    BartConfig,
    CamembertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    MBartConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    PhiConfig,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from comparing import close
from mm import MMForConditionalGeneration, MMForMaskedLM
from mm.modeling_mm.core.linear import capped
from mm.weights.text_plans import TEXT_PLANS, text_plan_of
from mm.weights.text_refusals import NO_TEXTS, why_no_text

READS = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 70,
    "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WIDE = {**READS, "intermediate_size": 60}
GROUPED = {**WIDE, "num_key_value_heads": 2}
# name -> class, config, dtype on disk
TEXTS = {
    "gemma": ("GemmaForCausalLM", GemmaConfig(**GROUPED, head_dim=14), torch.bfloat16),
    "gemma2": (
        "Gemma2ForCausalLM",
        Gemma2Config(
            **GROUPED, head_dim=14, sliding_window=4, query_pre_attn_scalar=9, attn_logit_softcapping=0.5,
            final_logit_softcapping=0.7, attention_bias=True,
        ),
        torch.float32,
    ),
    "gemma2, without caps and windows": (
        "Gemma2ForCausalLM",
        Gemma2Config(
            **WIDE, head_dim=10, layer_types=["full_attention"] * 3, attn_logit_softcapping=None,
            final_logit_softcapping=None, tie_word_embeddings=False,
        ),
        torch.bfloat16,
    ),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        Gemma3TextConfig(
            **GROUPED, head_dim=14, sliding_window=4, sliding_window_pattern=2, query_pre_attn_scalar=20,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        ),
        torch.float32,
    ),
    "gemma3_text, capped": (
        "Gemma3ForCausalLM",
        Gemma3TextConfig(**WIDE, head_dim=16, sliding_window=2, final_logit_softcapping=0.4),
        torch.float16,
    ),
    "mistral, windows": ("MistralForCausalLM", MistralConfig(**GROUPED, head_dim=10, sliding_window=3), torch.float32),
    "qwen3, windows": (
        "Qwen3ForCausalLM",
        Qwen3Config(**GROUPED, head_dim=12, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        torch.float32,
    ),
    "mistral": ("MistralForCausalLM", MistralConfig(**GROUPED, head_dim=10, sliding_window=None), torch.float32),
    "smollm3": (
        "SmolLM3ForCausalLM",
        SmolLM3Config(**GROUPED, no_rope_layers=[1, 1, 1], attention_bias=True, mlp_bias=True),
        torch.float32,
    ),
    "opt": ("OPTForCausalLM", OPTConfig(**READS, ffn_dim=50, activation_function="gelu"), torch.float16),
    "opt, untied": (
        "OPTForCausalLM", OPTConfig(**READS, ffn_dim=50, enable_bias=False, tie_word_embeddings=False), torch.float32
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        GPTNeoXConfig(**{**WIDE, "hidden_size": 64}, use_parallel_residual=False),
        torch.float32,
    ),
    "gpt_neox, side by side": (
        "GPTNeoXForCausalLM",
        GPTNeoXConfig(**{**WIDE, "hidden_size": 72}, attention_bias=False, tie_word_embeddings=True),
        torch.float16,
    ),
    "phi": ("PhiForCausalLM", PhiConfig(**{**GROUPED, "hidden_size": 64}, qk_layernorm=True), torch.float32),
    "phi, odd": (
        "PhiForCausalLM",
        PhiConfig(**{**WIDE, "hidden_size": 72}, head_dim=10, partial_rotary_factor=0.4, tie_word_embeddings=True),
        torch.bfloat16,
    ),
    "electra": ("ElectraForMaskedLM", ElectraConfig(**WIDE, embedding_size=48, hidden_act="relu"), torch.float32),
    "electra, discriminator": ("ElectraForPreTraining", ElectraConfig(**WIDE, embedding_size=48), torch.float32),
    "modernbert": ("ModernBertForMaskedLM", ModernBertConfig(**WIDE, local_attention=4), torch.bfloat16),
    "modernbert, odd": (
        "ModernBertForMaskedLM",
        ModernBertConfig(
            **WIDE, local_attention=6, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
            classifier_activation="relu", decoder_bias=False, tie_word_embeddings=False, norm_eps=1e-3,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        torch.float32,
    ),
    "camembert": ("CamembertForMaskedLM", CamembertConfig(**{**WIDE, "pad_token_id": 3}), torch.float32),
}  # fmt: skip
STACK = {
    "d_model": 48, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 50, "vocab_size": 70,
    "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_layerdrop": 0.0,
    "encoder_layers": 3, "encoder_ffn_dim": 8,
}  # fmt: skip
TEXTS |= {
    "bart": ("BartForCausalLM", BartConfig(**STACK, scale_embedding=True, tie_word_embeddings=False), torch.float32),
    "mbart": ("MBartForCausalLM", MBartConfig(**STACK, activation_function="relu"), torch.bfloat16),
}
CROSSED = ("bart", "mbart", "modernbert", "modernbert, odd")  # those that no media can be merged with
WITH_MEDIA = ("bart", "mbart")  # their decoders read media by the cross-attention that they come with
QUICK = ("gemma", "gemma2", "gemma3_text", "opt", "gpt_neox", "phi", "electra", "modernbert")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TEXTS])
@torch.no_grad()
def test_states_of_every_layer_and_logits_are_those_of_the_source(vit, tmp_path, name):
    cls, config, dtype = TEXTS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, cls)(config).to(dtype)
    for weight in theirs.parameters():
        weight.normal_(std=0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5)
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path)
    theirs = type(theirs).from_pretrained(tmp_path, dtype=torch.float32).eval()
    writes = "Causal" in cls
    model_class = MMForConditionalGeneration if writes else MMForMaskedLM
    fusion = "cross_attention" if name in CROSSED else "merged"
    ours = model_class.from_towers(vit, tmp_path, fusion_type=fusion)
    assert ours.dtype == dtype
    ours = ours.float()
    ids = torch.randint(4, 70, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if writes:
        mask[1, :3] = 0
    else:
        mask[1, 6:], ids[1, 6:] = 0, config.pad_token_id
    memory = {}
    if name in WITH_MEDIA:
        mask[1], ids[1, :3] = 1, 5  # theirs counts padding at the left as positions
        memory = {"encoder_hidden_states": torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(2))}
    base = theirs.model.decoder if name.startswith(("opt", *WITH_MEDIA)) else theirs.base_model
    there = base(input_ids=ids, attention_mask=mask, output_hidden_states=True, **memory)
    here = ours.model.language_model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **memory)
    real = mask.bool()
    for one, two in zip(here.hidden_states[:-1], there.hidden_states[:-1], strict=True):
        close(one[real], two[real], 1e-5)
    close(here.last_hidden_state[real], there.last_hidden_state[real], 1e-5)
    if "PreTraining" not in cls:
        logits = capped(
            ours.lm_head(ours.lm_head_transform(here.last_hidden_state)), ours.config.final_logit_softcapping
        )
        close(logits[real], theirs(input_ids=ids, attention_mask=mask, **memory).logits[real], 1e-5)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", pytest.param("mistral, windows", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fusion", ["cross_attention", "merged"])
@torch.no_grad()
def test_texts_with_windows_write_as_the_source_and_read_pictures_as_without_a_cache(vit, tmp_path, name, fusion):
    cls, config, _ = TEXTS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, cls)(config).eval()  # in fp64 Gemma 2's softmax in fp32 turns its mask to NaN
    for weight in theirs.parameters():
        weight.normal_(std=0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5)
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path)
    ours = MMForConditionalGeneration.from_towers(vit, tmp_path, fusion_type=fusion).eval()
    ids = torch.randint(4, 70, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :3], ids[1, :3] = 0, 0
    search = {"max_new_tokens": 12, "do_sample": False, "suppress_tokens": [0, 2], "no_repeat_ngram_size": 2}
    text = {"input_ids": ids, "attention_mask": mask}
    pictures = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))}
    for beams in (1, 3):
        there = theirs.generate(**text, **search, num_beams=beams)
        assert torch.equal(ours.generate(**text, **search, num_beams=beams), there)
        plain = ours.generate(**text, **pictures, **search, num_beams=beams, use_cache=False)
        for cache in ({}, {"cache_implementation": "static"}):
            assert torch.equal(ours.generate(**text, **pictures, **search, num_beams=beams, **cache), plain)


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "mistral, windows"])
@torch.no_grad()
def test_new_cross_attention_hardly_moves_what_the_source_writes(vit, tmp_path, name):
    cls, config, _ = TEXTS[name]
    torch.manual_seed(0)
    theirs = getattr(transformers, cls)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = MMForConditionalGeneration.from_towers(vit, tmp_path).eval()
    ids = torch.randint(4, 70, (2, 9), generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    logits = theirs(input_ids=ids).logits
    moved = (ours(input_ids=ids, pixel_values=pixels).logits - logits).abs().max()
    assert 0 < moved < logits.std()  # a norm of what cross-attention made would move them by three of it


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_what_cannot_become_mm_s_text_model_is_refused_by_name_with_the_reason(kind):
    with pytest.raises(ValueError, match=f"model_type='{kind}' cannot become MM's text model: .*; these are"):
        text_plan_of(kind)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("mamba", {}, r"a state or a convolution runs along its text \(state_size=16"),
        ("recurrent_gemma", {}, "lru_width=2560"),
        ("minimax", {}, r"some of its layers are of another kind \(linear_attention\); .* experts"),
        ("mixtral", {"num_local_experts": 6}, r"its layers choose among experts \(num_local_experts=6\)"),
        ("deepseek_v3", {}, r"experts \(n_routed_experts=256\); its keys and values are made of one narrow vector"),
        ("gemma3n_text", {}, "altup_num_inputs=4"),
        ("granite", {"embedding_multiplier": 12.0}, "multiplied by numbers of its config .embedding_multiplier=12"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("longformer", {}, "attention_window=512"),
        ("rembert", {}, "input_embedding_size=256, hidden_size=1152"),
        ("pegasus", {}, "an encoder and a decoder"),
        ("llama4", {}, "several models together .vision_config, text_config."),
        ("xlm", {}, "settings of no family that MM reads .emb_dim=2048"),
        ("glm", {}, r"its settings show nothing .* \(model\.layers\.0\.self_attn\.q_proj\.weight, "),
        ("nothing_of_theirs", {}, "no class of the installed Transformers"),
        (None, {}, "no class of the installed Transformers"),
    ],
)
def test_a_refusal_says_what_the_family_has_that_mm_has_not(kind, settings, reason):
    names = ["model.embed_tokens.weight", *(f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkv")]
    with pytest.raises(ValueError, match=f"model_type={kind!r} cannot become MM's text model: .*{reason}"):
        text_plan_of(kind, {"model_type": kind, **settings}, names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layers.0.mlp.gate_up_proj.weight", "two projections of its MLP are one tensor"),
        ("h.0.attn.c_attn.weight", "q, k and v are one tensor"),
    ],
)
def test_names_of_tensors_say_why_where_settings_do_not(name, words):
    with pytest.raises(ValueError, match=rf"{words} \({re.escape(name)}\)"):
        text_plan_of("glm4", {}, ["embed_tokens.weight", name])


def test_every_other_text_of_transformers_has_a_reason():
    kinds = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    others = sorted(kind for kind in kinds - {*TEXT_PLANS} if not kind.startswith("mm"))
    assert len(others) > 100
    reasons = {kind: why_no_text(kind, {}, TEXT_PLANS) for kind in others}
    assert all(15 < len(reason) < 700 for reason in reasons.values())
    known = [kind for kind, reason in reasons.items() if "show nothing" not in reason]
    assert len(known) > 0.7 * len(others)


@pytest.mark.parametrize(("kind", "config"), [("Bart", BartConfig(**STACK)), ("MBart", MBartConfig(**STACK))])
def test_a_whole_bart_says_how_to_save_its_decoder(kind, config):
    with pytest.raises(ValueError, match=rf"an encoder and a decoder.* {kind}ForCausalLM\.from_pretrained"):
        text_plan_of(config.model_type)(config, ["model.encoder.layers.0.fc1.weight", "model.shared.weight"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(**GROUPED, sliding_window=1), "sliding_window=1.* at least 2"),
        (Gemma2Config(**GROUPED, sliding_window=None), "sliding_window=None.* at least 2"),
        (
            Gemma2Config(**GROUPED, layer_types=["full_attention", "chunked_attention", "conv"]),
            "name chunked_attention, conv",
        ),
        (Gemma2Config(**GROUPED, use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        (Gemma3TextConfig(**GROUPED, use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        (
            Gemma3TextConfig(**GROUPED, rope_parameters={"sliding_attention": {"rope_type": "linear", "factor": 2.0}}),
            "sliding_attention has rope_type='linear'",
        ),
        (SmolLM3Config(**{**GROUPED, "num_hidden_layers": 4}), r"the layers \[3\] have no positions"),
        (OPTConfig(**READS, word_embed_proj_dim=20), "word_embed_proj_dim=20.*OPT-350m"),
        (OPTConfig(**READS, do_layer_norm_before=False), "do_layer_norm_before=False"),
        (ElectraConfig(**WIDE, embedding_size=20), "embedding_size=20.*ELECTRA-small"),
        (CamembertConfig(**{**WIDE, "bos_token_id": 0}), "bos_token_id and pad_token_id are 0: a RoBERTa counts no"),
        (XLMRobertaConfig(**{**WIDE, "pad_token_id": 2}), "eos_token_id and pad_token_id are 2"),
        (RobertaConfig(**{**WIDE, "pad_token_id": None}), "pad_token_id is None; the positions of a RoBERTa"),
    ],
)
def test_settings_that_mm_lacks_are_refused(config, message):
    names = ("embed_tokens.weight", "embed_in.weight", "embeddings.word_embeddings.weight")
    with pytest.raises(ValueError, match=message):
        text_plan_of(config.model_type)(config, names)
