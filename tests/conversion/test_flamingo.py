"""Flamingo: gated layers put into a decoder, what is refused, and Idefics' blocks."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    IdeficsConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTModel,
)
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from mm import MMForConditionalGeneration, MMTextConfig
from mm.configuration.resampler import MMResamplerConfig
from mm.conversion_scripts.engine import convert, convert_back
from mm.modeling_mm.core.context_rows import MMReading, MMRows
from mm.modeling_mm.core.layers import MMLayer
from mm.modeling_mm.fusion.media_encoder import MMResampler

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
WORDS = {"vocab_size": 30, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 16}
DECODERS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, **WORDS, num_key_value_heads=2)),
    "llama tied": (LlamaForCausalLM, LlamaConfig(**SIZES, **WORDS, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, **WORDS, num_key_value_heads=2, head_dim=12)),
    "llama without a head": (LlamaModel, LlamaConfig(**SIZES, **WORDS)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=16, vocab_size=30, bos_token_id=2, eos_token_id=3),
    ),
    "opt": (
        OPTForCausalLM,
        OPTConfig(
            hidden_size=32, ffn_dim=48, num_hidden_layers=4, num_attention_heads=4, word_embed_proj_dim=32, **WORDS
        ),
    ),
}
PICTURE = {**SIZES, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
PLAIN = torch.tensor([[2, 5, 9, 8, 12], [2, 6, 8, 7, 4]])


def differ(here: torch.Tensor, there: torch.Tensor) -> bool:
    """In fp64, though the installed decoders' norms reckon in fp32."""
    return bool((here - there).abs().max() > 1e-5 * max(1.0, float(there.abs().max())))


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def decoder(peer, saved):
    """`decoder(kind)`: the installed model in fp64 and its directory."""

    def build(kind: str):
        model = peer(*DECODERS[kind]).double()
        return model, saved(model, name="text")

    return build


@pytest.fixture
def clip(peer, saved):
    model = peer(CLIPVisionModel, CLIPVisionConfig(**PICTURE)).double()
    return model, saved(model, name="vision")


# ---- layers put in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every, new", [(1, [0, 2, 4, 6]), (2, [1, 4]), (4, [3])])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@torch.no_grad()
def test_a_decoder_with_closed_layers_is_as_it_was_and_an_open_one_sees(kind, every, new, decoder, peer, saved):
    theirs, source = decoder(kind)
    vit = saved(peer(ViTModel, ViTConfig(**PICTURE)).double(), name="vision")
    model = MMForConditionalGeneration.from_towers(vit, source, cross_attention_every=every)
    assert model.config.text_config.cross_attention_layers == new
    pixels = pictures()
    assert not differ(model(PLAIN, pixel_values=pixels).logits, theirs(PLAIN).logits)
    for number in new:
        model.model.language_model.layers[number].cross_attn_gate.fill_(0.5)
    assert differ(model(PLAIN, pixel_values=pixels).logits, theirs(PLAIN).logits)


def test_what_cannot_be_put_in_is_told(decoder, clip, tmp_path, peer, saved):
    source = decoder("llama")[1]
    with pytest.raises(ValueError, match="cross_attention_every=5 puts no layer into 4; accepted: 1..4"):
        MMForConditionalGeneration.from_towers(clip[1], source, cross_attention_every=5)
    bert = saved(peer(BertForMaskedLM, BertConfig(**SIZES, **WORDS)), name="bert")
    with pytest.raises(ValueError, match="is no OpenFlamingo"):
        MMForConditionalGeneration.from_towers(clip[1], source, flamingo=bert)


def test_a_decoder_of_another_kind_is_refused_with_those_that_are_known(clip, tmp_path, peer, saved):
    other = saved(peer(MptForCausalLM, MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=20)))
    torch.save({"perceiver.latents": torch.zeros(2, 32)}, tmp_path / "checkpoint.pt")
    with pytest.raises(
        ValueError,
        match="model_type='mpt' cannot become .*one tensor .*Wqkv.*; these are: .*gpt2.*llama.*qwen2, qwen3",
    ):
        MMForConditionalGeneration.from_towers(clip[1], other, cross_attention_every=1)


def made(
    vision: int, width: int, layers: list[int], stack: str, embeddings: str, rows: int
) -> dict[str, torch.Tensor]:
    """OpenFlamingo's file by its names: gated layers before `layers`, one perceiver layer, heads of 64."""
    generator = torch.Generator().manual_seed(0)

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{leaf}": (size,) for leaf in ("weight", "bias")}

    shapes: dict[str, tuple[int, ...]] = {"perceiver.latents": (3, vision), **norm("perceiver.norm", vision)}
    layer = "perceiver.layers.0."
    for name in ("0.norm_media", "0.norm_latents", "1.0"):
        shapes |= norm(layer + name, vision)
    shapes |= {f"{layer}0.to_q.weight": (64, vision), f"{layer}0.to_kv.weight": (128, vision)}
    shapes |= {f"{layer}0.to_out.weight": (vision, 64), f"{layer}1.1.weight": (4 * vision, vision)}
    shapes |= {f"{layer}1.3.weight": (vision, 4 * vision), f"lang_encoder.{embeddings}.weight": (rows, width)}
    for number in layers:
        gated = f"lang_encoder.{stack}.{number}.gated_cross_attn_layer."
        shapes |= {**norm(f"{gated}attn.norm", width), **norm(f"{gated}ff.0", width)}
        shapes |= {f"{gated}{name}_gate": (1,) for name in ("attn", "ff")}
        shapes |= {f"{gated}attn.to_q.weight": (64, width), f"{gated}attn.to_kv.weight": (128, vision)}
        shapes |= {f"{gated}attn.to_out.weight": (width, 64), f"{gated}ff.1.weight": (4 * width, width)}
        shapes |= {f"{gated}ff.3.weight": (width, 4 * width)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama tied", "qwen3", "llama without a head"])
@torch.no_grad()
def test_a_file_beside_any_decoder_of_the_kind_comes_back_with_what_was_trained(kind, decoder, clip, tmp_path):
    _, text = decoder(kind)
    stack, embeddings = (
        ("transformer.h", "transformer.wte") if kind == "gpt2" else ("model.layers", "model.embed_tokens")
    )
    before = made(32, 32, [1, 3], stack, embeddings, 32)
    torch.save(before, tmp_path / "checkpoint.pt")
    towers = {"vision": clip[1], "text": text}
    done = convert(tmp_path / "checkpoint.pt", **towers)
    done.save_pretrained(tmp_path / "mm")
    report = convert_back(tmp_path / "mm", "flamingo", tmp_path / "back.pt", **towers)
    assert report[0].startswith(f"wrote OpenFlamingo: {len(before)} tensors")
    after = torch.load(tmp_path / "back.pt")
    more = {"lang_encoder.lm_head.weight"} if kind.endswith("without a head") else set()  # made anew on the way here
    assert before.keys() == after.keys() - more and all(
        torch.equal(after[name], value) for name, value in before.items()
    )
    for name, weight in done.model.named_parameters():
        weight.add_(0.0 if "vision_tower" in name else 0.1)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "flamingo", tmp_path / "back.pt", **towers)
    again = convert(tmp_path / "back.pt", **towers).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in done.model.state_dict().items())


@pytest.mark.parametrize("given", [{"vision": "clip"}, {"vision": "clip", "text": "llama"}])
def test_towers_of_another_family_s_source_are_refused(given, peer, saved, tmp_path):
    source = saved(peer(CLIPVisionModel, CLIPVisionConfig(**PICTURE)))
    with pytest.raises(ValueError, match="--vision and --text, both, are the towers of a file of OpenFlamingo"):
        convert(source, **given)


def test_the_way_back_wants_the_towers_a_file_and_a_flamingo(clip, decoder, tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "other")
    towers = {"vision": clip[1], "text": decoder("llama")[1]}
    with pytest.raises(ValueError, match="pass --vision and --text"):
        convert_back(tmp_path / "other", "flamingo", tmp_path / "out.pt")
    with pytest.raises(ValueError, match=r"does not end in \.pt"):
        convert_back(tmp_path / "other", "flamingo", tmp_path / "out", **towers)
    with pytest.raises(ValueError, match="this model is no Flamingo"):
        convert_back(tmp_path / "other", "flamingo", tmp_path / "out.pt", **towers)
    with pytest.raises(ValueError, match="--to blip has them itself"):
        convert_back(tmp_path / "other", "blip", tmp_path / "out", **towers)


# ---- Idefics -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.copy_(torch.rand(weight.shape, generator=generator) - 0.3)
    return module.double().eval()


def copied(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Weights by name; every tensor on either side is used."""
    there, here = theirs.state_dict(), ours.state_dict()
    assert set(names) == there.keys() and set(names.values()) == here.keys()
    ours.load_state_dict({new: there[old].reshape(here[new].shape) for old, new in names.items()})


@pytest.mark.parametrize("norms", [True, False])
@torch.no_grad()
def test_a_perceiver_is_that_of_idefics(norms):
    config = IdeficsConfig(
        vision_config={"embed_dim": 24}, perceiver_config={"qk_layer_norms_perceiver": norms}, use_resampler=True
    )
    theirs = fill(IdeficsPerceiverResampler(config, 24, depth=2, n_heads=3, head_dim=10, n_latents=5))
    settings = MMResamplerConfig(
        hidden_size=24, num_latents=5, num_hidden_layers=2, num_attention_heads=3, head_dim=10, intermediate_size=96,
        hidden_act="relu", layer_norm_eps=1e-5, qk_norm="layer_norm" if norms else "none",
    )  # fmt: skip
    ours = MMResampler(settings, 24).double().eval()
    pieces = {"0.context_layer_norm": "cross_attn.memory_norm", "0.latents_layer_norm": "cross_attn_norm"}
    pieces |= {"1.ln": "mlp_norm"}
    if norms:
        pieces |= {f"0.{letter}_layer_norm": f"cross_attn.{letter}_norm" for letter in "qk"}
    names = {f"{old}.{leaf}": f"{new}.{leaf}" for old, new in pieces.items() for leaf in ("weight", "bias")}
    names |= {f"0.{letter}_proj.weight": f"cross_attn.{letter}_proj.weight" for letter in "qkv"}
    names |= {"0.output_proj.weight": "cross_attn.o_proj.weight", "1.fc.weight": "mlp.up_proj.weight"}
    names |= {"1.c_proj.weight": "mlp.down_proj.weight"}
    whole = {f"blocks.{n}.{old}": f"layers.{n}.{new}" for n in range(2) for old, new in names.items()}
    whole |= {f"layer_norm.{leaf}": f"norm.{leaf}" for leaf in ("weight", "bias")}
    copied(ours, theirs, {**whole, "latents": "latents"})
    tokens = torch.randn(2, 7, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (ours(tokens)[0] - theirs(tokens)).abs().max() <= 1e-10


@pytest.mark.parametrize("gate", ["float", "vector"])
@pytest.mark.parametrize("norms", [True, False])
@torch.no_grad()
def test_a_gated_layer_is_that_of_idefics(gate, norms):
    """One picture per sample, which every token sees."""
    config = IdeficsConfig(
        hidden_size=32, intermediate_size=40, num_attention_heads=4, alpha_type=gate, qk_layer_norms=norms,
        vision_config={"embed_dim": 24}, rms_norm_eps=1e-6, dropout=0.0, attn_implementation="eager",
    )  # fmt: skip
    theirs = fill(IdeficsGatedCrossAttentionLayer(config, 0))
    settings = MMTextConfig(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, norm_type="rms_norm",
        norm_position="pre", layer_norm_eps=1e-6, gated_mlp=True, mlp_bias=False, hidden_act="silu",
        attention_bias=False, cross_attention_layers=[0], cross_attention_placement="own",
        cross_attention_hidden_size=24, cross_attention_gate="tanh" if gate == "float" else "tanh_vector",
        cross_attention_qk_norm="rms_norm" if norms else "none",
    )  # fmt: skip
    settings._attn_implementation = "eager"
    ours = MMLayer(settings, ("cross", "mlp")).double().eval()
    names = {f"cross_attn.{letter}_proj.weight": f"cross_attn.{letter}_proj.weight" for letter in "qkvo"}
    names |= {f"mlp.{part}_proj.weight": f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    names |= {"input_layernorm.weight": "cross_attn_norm.weight", "post_attention_layernorm.weight": "mlp_norm.weight"}
    names |= {"alpha_cross_attn": "cross_attn_gate", "alpha_dense": "mlp_gate"}
    if norms:
        names |= {f"cross_attn.{x}_layer_norm.weight": f"cross_attn.{x}_norm.weight" for x in "qk"}
    copied(ours, theirs, names)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 5, 32, dtype=torch.float64, generator=generator)
    image = torch.randn(2, 3, 24, dtype=torch.float64, generator=generator)
    there = theirs(text, image_hidden_states=image, cross_attention_gate=torch.ones(2, 5))
    there = there[0] if isinstance(there, tuple) else there
    here = ours(text, image, MMReading(MMRows(2, 2)))
    assert not differ(here, there)
