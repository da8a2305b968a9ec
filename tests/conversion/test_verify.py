"""`--verify`: source and model run on the same inputs; what differs is told and not written."""

# Fixtures build models whose types pyright cannot follow.

import io

import pytest
import torch
from transformers import (
    BeitConfig,
    BertConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    SiglipConfig,
    SiglipModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisualBertConfig,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertForVisualReasoning,
    ViTConfig,
)
from typer.testing import CliRunner

import mm
import mm_console
from mm.conversion_scripts import engine
from mm.conversion_scripts import verify as verifying
from mm.conversion_scripts.engine import run
from mm.weights import key_table as key_mapping
from mm.weights.checkpoint import Checkpoint

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {**SIZES, "image_size": 16, "patch_size": 8}
WORDS = {**SIZES, "vocab_size": 26, "max_position_embeddings": 12, "bos_token_id": 2, "pad_token_id": 0}
BLIP = BlipConfig(vision_config=PICTURE, text_config={**WORDS, "sep_token_id": 3})
GPT2 = GPT2Config(vocab_size=26, n_embd=24, n_layer=2, n_head=2, is_decoder=True, add_cross_attention=True)
PAIR = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**PICTURE), GPT2)
for name, value in {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}.items():
    setattr(PAIR, name, value)
REGIONS = VisualBertConfig(**WORDS, eos_token_id=3, visual_embedding_dim=20)
GIT = GitConfig(**WORDS, eos_token_id=3, vision_config=PICTURE, num_image_with_embedding=3)
CLIP = CLIPConfig(vision_config=PICTURE, text_config={**WORDS, "eos_token_id": 3})
TWO = VisionTextDualEncoderConfig.from_vision_text_configs(CLIP.vision_config, CLIP.text_config)
SIGLIP = SiglipConfig(vision_config=PICTURE, text_config=WORDS)
TOWERS = VisionTextDualEncoderConfig.from_vision_text_configs(
    ViTConfig(**PICTURE), BertConfig(**WORDS, eos_token_id=3), projection_dim=16
)
BEIT = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
    BeitConfig(**PICTURE, use_relative_position_bias=True), GPT2
)
for name, value in {"decoder_start_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}.items():
    setattr(BEIT, name, value)
SOURCES = {
    "BLIP captions": ("blip", BlipForConditionalGeneration, BLIP),
    "BLIP answers": ("blip", BlipForQuestionAnswering, BLIP),
    "VisionEncoderDecoder": ("vision-encoder-decoder", VisionEncoderDecoderModel, PAIR),
    "VisionEncoderDecoder of BEiT": ("vision-encoder-decoder", VisionEncoderDecoderModel, BEIT),
    "GIT": ("git", GitForCausalLM, GIT),
    "VisualBERT answers": ("visual-bert", VisualBertForQuestionAnswering, REGIONS),
    "VisualBERT reasons": ("visual-bert", VisualBertForVisualReasoning, REGIONS),
    "VisualBERT learns": ("visual-bert", VisualBertForPreTraining, REGIONS),
    "BLIP finds": ("blip", BlipForImageTextRetrieval, BLIP),
    "CLIP": ("clip", CLIPModel, CLIP),
    "SigLIP": ("siglip", SiglipModel, SIGLIP),
    "VisionTextDualEncoder": ("vision-text-dual-encoder", VisionTextDualEncoderModel, TWO),
}


@pytest.fixture
def git(peer, saved):
    return saved(peer(GitForCausalLM, GIT))


@pytest.mark.parametrize("kind", SOURCES)
def test_each_family_verifies_there_and_back(kind, peer, saved, tmp_path):
    family, cls, config = SOURCES[kind]
    source = saved(peer(cls, config))
    there = run(str(source), str(tmp_path / "mm"), compare=True)
    back = run(str(tmp_path / "mm"), str(tmp_path / "back"), to=family, compare=True)
    for report in (there, back):
        assert any(line.startswith("verified: ") and " differ by" in line for line in report)


@pytest.mark.parametrize(
    "cls",
    [BlipForConditionalGeneration, BlipForQuestionAnswering, BlipForImageTextRetrieval],
    ids=lambda c: c.__name__,
)
def test_a_file_of_the_original_blip_verifies(cls, peer, saved, tensors_of, original_names, tmp_path, monkeypatch):
    sizes = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {**sizes, "vocab_size": 110, "max_position_embeddings": 12, "bos_token_id": 108, "sep_token_id": 102}
    config = BlipConfig(vision_config={**sizes, "image_size": 16, "patch_size": 8}, text_config=text)
    torch.save(original_names(tensors_of(saved(peer(cls, config)))), tmp_path / "model.pth")
    report = run(str(tmp_path / "model.pth"), None, dry_run=True, compare=True)
    wanted = {"BlipForImageTextRetrieval": ["itm_logits", "cosines"]}.get(cls.__name__, ["logits"])
    assert [line.split()[1] for line in report if line.startswith("verified:")] == wanted
    monkeypatch.setattr(verifying, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="does not compute what its source does"):
        run(str(tmp_path / "model.pth"), str(tmp_path / "out"), compare=True)


def test_what_differs_is_told_and_not_written(git, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "TOLERANCE", 0.0)
    runner, out = CliRunner(), tmp_path / "out"
    done = runner.invoke(mm_console.app, ["convert", "--verify", str(git), str(out)])
    assert done.exit_code != 0 and "does not compute what its source does" in done.output
    assert "logits of frames differ by" in done.output and not out.exists()


def test_a_single_changed_weight_is_found(git):
    done = mm.convert(git)
    with torch.no_grad():
        done.model.model.vision_projector.dense.weight[0, 0] += 0.1
    with pytest.raises(ValueError, match="logits differ by .*, more than"):
        verifying.verify(Checkpoint(git), done.model, engine.FAMILIES["git"])


def test_half_a_checkpoint_is_compared_in_fp32_and_written_as_it_was(peer, saved, tmp_path):
    source = saved(peer(GitForCausalLM, GIT).to(torch.bfloat16))
    report = run(str(source), str(tmp_path / "out"), compare=True)
    assert any(line.startswith("verified:") for line in report)
    loaded = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == torch.bfloat16


def test_a_dry_run_verifies_and_names_the_reshapes(git, tmp_path):
    report = run(str(git), str(tmp_path / "out"), dry_run=True, compare=True)
    assert any(line.startswith("verified:") for line in report) and not (tmp_path / "out").exists()
    assert "reshaped: 3 stacked" in report


def test_a_source_without_a_class_is_told(git):
    done = mm.convert(git)
    with pytest.raises(ValueError, match="Transformers has none for it"):
        verifying.verify(Checkpoint(git / "model.safetensors"), done.model, engine.FAMILIES["git"])


@pytest.mark.parametrize("is_terminal", [True, False])
def test_large_models_show_their_progress_on_a_terminal_alone(git, monkeypatch, is_terminal):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(engine, "LARGE_NUMBERS", 0)
    mm.convert(git)
    assert ("tensors: 100%" in stderr.getvalue()) == is_terminal
    stderr.truncate(0)
    assert list(key_mapping._shown([1], False)) == [1] and not stderr.getvalue().strip("\0")
