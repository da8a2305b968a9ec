"""Flamingo: gated layers put into a decoder, OpenFlamingo's own files, and Idefics' blocks."""

# Fixtures build models whose types pyright cannot follow; open_flamingo is there in its fixture alone.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false

import importlib
import types

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
    ViTConfig,
    ViTModel,
)
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from mm import MMForConditionalGeneration, MMTextConfig
from mm.configuration.resampler import MMResamplerConfig
from mm.conversion_scripts.convert import convert
from mm.modeling_mm.layers import MMLayer
from mm.modeling_mm.resampler import MMResampler
from mm.modeling_mm.rows import MMRows

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
WORDS = {"vocab_size": 30, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 16}
DECODERS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, **WORDS, num_key_value_heads=2)),
    "llama tied": (LlamaForCausalLM, LlamaConfig(**SIZES, **WORDS, tie_word_embeddings=True)),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=4, n_head=4, n_positions=16, vocab_size=30, bos_token_id=2, eos_token_id=3),
    ),
}
PICTURE = {**SIZES, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
MEDIA, NEW_WORDS = 31, 2  # <|endofchunk|> and <image> behind the decoder's 30
IDS = torch.tensor([[MEDIA, 5, 9, 8, 12], [MEDIA, 6, 8, 7, 4]])
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
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
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


# ---- OpenFlamingo --------------------------------------------------------------------------------------------------


@pytest.fixture(params=[("llama", 2), ("llama tied", 1), ("llama", 3)], ids=lambda p: f"{p[0]}, every {p[1]}")
def pair(request, open_flamingo, decoder, clip, tmp_path):
    """Their model with open gates; ours of their towers and a file of what they publish."""
    kind, every = request.param
    lang, text = decoder(kind)
    lang = type(lang).from_pretrained(text, dtype=torch.float64)
    parts = importlib.import_module("open_flamingo.src.flamingo_lm")
    importlib.import_module("open_flamingo.src.utils").extend_instance(lang, parts.FlamingoLMMixin)
    lang.set_decoder_layers_attr_name("model.layers")
    lang.resize_token_embeddings(lang.config.vocab_size + NEW_WORDS)
    theirs = open_flamingo.Flamingo(
        types.SimpleNamespace(visual=nn.Identity()), lang, MEDIA - 1, MEDIA, SIZES["hidden_size"], every
    )
    scatter(theirs)
    theirs = theirs.double().eval()
    torch.save(published(theirs), tmp_path / "checkpoint.pt")
    ours = MMForConditionalGeneration.from_towers(clip[1], text, flamingo=tmp_path / "checkpoint.pt")
    return theirs, ours, clip[0]


def scatter(theirs) -> None:
    """Every weight that they train counts, and the gates are open."""
    generator = torch.Generator().manual_seed(0)
    trained = [*theirs.perceiver.parameters(), *theirs.lang_encoder.gated_cross_attn_layers.parameters()]
    with torch.no_grad():
        for weight in [*trained, theirs.lang_encoder.get_input_embeddings().weight]:
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(0.7 + 0.2 * noise if weight.ndim == 1 else noise * weight.shape[-1] ** -0.5)


def published(theirs) -> dict[str, torch.Tensor]:
    """What their training saves: trained tensors, under their names in the decoder's own layers."""
    state = theirs.state_dict()
    kept = ("perceiver.", "lang_encoder.model.embed_tokens.")
    return {
        name: value for name, value in state.items() if name.startswith(kept) or ".gated_cross_attn_layer." in name
    }


def tokens_of(clip, pixels: torch.Tensor) -> torch.Tensor:
    """Every patch behind the last norm, as open_clip's ViT with output_tokens gives them."""
    vision = getattr(clip, "vision_model", clip)
    return vision.post_layernorm(vision(pixels).last_hidden_state)[:, 1:]


@torch.no_grad()
def logits_of(theirs, tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    seen = theirs.perceiver(tokens[:, None, None])
    for layer in theirs.lang_encoder._get_decoder_layers():
        layer.condition_vis_x(seen)
    return theirs.lang_encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.slow
@torch.no_grad()
def test_openflamingo_gives_the_same_latents_and_logits(pair):
    """One picture per sample, the first token of the text. New rows of an untied head are ours."""
    theirs, ours, clip = pair
    pixels, known = pictures(), DECODERS["llama"][1].vocab_size
    tokens = tokens_of(clip, pixels)
    latents = ours.encode_context(pixel_values=pixels).last_hidden_state
    assert not differ(latents, theirs.perceiver(tokens[:, None, None])[:, 0])
    here, there = ours(IDS, pixel_values=pixels).logits, logits_of(theirs, tokens, IDS)
    words = slice(None) if ours.config.tie_word_embeddings else slice(known)
    assert not differ(here[..., words], there[..., words])
    assert here.shape[-1] == known + NEW_WORDS


@pytest.mark.slow
@torch.no_grad()
def test_openflamingo_writes_the_same_tokens_and_rows_stand_alone(pair):
    theirs, ours, clip = pair
    pixels, tied = pictures(), ours.config.tie_word_embeddings
    rows, tokens = IDS[:, :1], tokens_of(clip, pixels)
    banned = [] if tied else [[MEDIA - 1], [MEDIA]]
    for _ in range(4):
        step = logits_of(theirs, tokens, rows)[:, -1]
        step[:, [word for (word,) in banned]] = -torch.inf
        rows = torch.cat([rows, step.argmax(-1, keepdim=True)], dim=1)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    written = ours.generate(IDS[:, :1], pixel_values=pixels, bad_words_ids=banned or None, **settings)
    assert torch.equal(written[:, -4:], rows[:, 1:])
    together = ours(IDS, pixel_values=pixels).logits
    for row in range(2):
        alone = ours(IDS[row : row + 1], pixel_values=pixels[row : row + 1]).logits
        assert (together[row] - alone[0]).abs().max() <= 1e-12


@pytest.mark.slow
def test_openflamingo_in_another_place_or_too_much_is_refused(pair, clip, tmp_path):
    theirs, _, _ = pair
    text, tensors = tmp_path / "text", published(theirs)
    torch.save({**tensors, "perceiver.frame_embs": torch.zeros(3, 32)}, tmp_path / "frames.pt")
    with pytest.raises(ValueError, match="from_towers.*flamingo"):
        convert(tmp_path / "frames.pt")
    with pytest.raises(ValueError, match="no place for perceiver.frame_embs"):
        MMForConditionalGeneration.from_towers(clip[1], text, flamingo=tmp_path / "frames.pt")
    extra = {name.replace("layers.2.gated", "layers.9.gated"): value for name, value in tensors.items()}
    extra |= {name.replace("layers.1.gated", "layers.9.gated"): value for name, value in tensors.items()}
    torch.save({**tensors, **extra}, tmp_path / "moved.pt")
    with pytest.raises(ValueError, match="gated layers stand elsewhere"):
        MMForConditionalGeneration.from_towers(clip[1], text, flamingo=tmp_path / "moved.pt")


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
    here = ours(text, image, rows=MMRows(2, 2))
    assert not differ(here, there)
