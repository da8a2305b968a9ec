"""Parts of a model outside of PyTorch's eager mode: torch.export and ONNX through Transformers' exporters."""

# The exporters are typed for whole models, and take any module.

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mm import MMForImageTextRetrieval
from mm.exporting.onnx import check_installed, export_onnx
from mm.exporting.onnx_generator import OnnxGenerator
from mm.exporting.parts import parts_of

BOUND = 1e-4  # on |difference| / max(1, |value|), of ONNX Runtime in float32
NO_CROSS = {
    "cross_attention_layers": [], "cross_attention_gate": "none", "cross_attention_memory_norm": False,
    "cross_attention_hidden_size": None, "cross_attention_overrides": None, "cross_attention_qk_norm": "none",
}  # fmt: skip
LATENTS = {"num_latents": 3, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12}
# {kind: (vision, text, fields)} of the tiny configuration: each way in which media and text meet.
KINDS = {
    "cross": ("vit", "inside", {}),
    "cross, conv": ("conv", "llama", {"max_images": 3, "vision_config": {"padding": "same"}}),
    "cross, resampled": ("vit", "inside", {"vision_resampler_config": {**LATENTS, "intermediate_size": 16}}),
    "merged": ("vit", "inside", {"fusion_type": "merged"}),
    "merged, causal": ("vit", "llama", {"fusion_type": "merged", "fusion_mask": "causal", "text_config": NO_CROSS}),
    "encoder": ("vit", "inside", {"text_encoder_config": "tiny"}),
    "encoder, co-attention": ("vit", "inside", {"text_encoder_config": "tiny", "fusion_type": "co_attention"}),
    "encoder, concat": ("vit", "inside", {"text_encoder_config": "tiny", "fusion_type": "concat"}),
    "every medium": (
        "vit",
        "own",
        {
            "modalities": ["image", "video", "audio"], "audio_config": "whisper", "max_frames": 4,
            "modality_embeddings": True,
        },
    ),
}  # fmt: skip
TINY_ENCODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SIZES = [(2, 2, 3), (1, 1, 4), (3, 4, 2), (3, 5, 0)]  # rows, tokens, tokens before them


def other_inputs(inputs: dict[str, torch.Tensor], rows: int, tokens: int, before: int) -> dict[str, torch.Tensor]:
    """Inputs of other sizes than those that were traced, filled at random."""
    generator = torch.Generator().manual_seed(rows)
    given = {}
    for name, value in inputs.items():
        shape = [*value.shape]
        if name in ("input_ids", "attention_mask"):
            shape = [rows, tokens if name == "input_ids" else before + tokens]
        elif name.startswith(("past_", "context_k", "context_v")):
            shape[1] = rows
            shape[3] = before if name.startswith("past") else shape[3]
        else:
            shape[0] = rows
        random = torch.randn(shape, generator=generator) if value.is_floating_point() else torch.ones(shape)
        given[name] = random.to(value.dtype)
    for name in ("input_ids", "context_input_ids"):
        if name in given:
            given[name] = torch.randint(3, 50, given[name].shape, generator=generator)
    if "input_ids" in given:
        given["attention_mask"][0, 0] = 0  # padding on the left
        given["input_ids"][0, 0] = 0  # whose embedding is all zeros
        given["context_lengths"] = given["context_lengths"] * inputs["context_keys"].shape[3]
        given["context_lengths"][0] -= 1
    for name in ("pixel_attention_mask", "input_features_mask", "video_attention_mask", "context_attention_mask"):
        if name in given:
            given[name][0, -1] = False  # the last item, or the last word, of the first context is not there
    return given


def compare(part, given_by, inputs: dict[str, torch.Tensor], bound: float) -> None:
    with torch.no_grad():
        expected = part(**inputs)
    given = given_by(**inputs)
    assert list(expected) == list(given)
    lengths = expected.get("context_lengths")
    for name, value in expected.items():
        difference = (given[name] - value).abs() / value.abs().clamp(min=1)
        if lengths is not None and name != "context_lengths":  # what stands behind the real ones is not read
            real = torch.arange(value.shape[3]) < lengths[:, None]
            difference = difference.masked_fill(~real[None, :, None, :, None], 0)
        assert (difference <= bound).all(), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_torch_export_gives_every_part_for_any_number_of_rows_and_tokens(tiny_model, kind):
    from transformers.exporters import DynamoConfig, DynamoExporter

    vision, text, fields = KINDS[kind]
    model = tiny_model(vision, text, attention="sdpa", **fields)  # float64: only the order of sums may differ
    for part, inputs, free in parts_of(model).values():
        program = DynamoExporter().export(part.eval(), inputs, DynamoConfig(dynamic_shapes=free))
        for sizes in SIZES[:3]:
            compare(part, program, other_inputs(inputs, *sizes), 1e-12)


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
    """`exported(kind)`: (model, folder, OnnxGenerator) of a tiny one; each is made once."""
    made = {}

    def build(kind: str):
        if kind not in made:
            vision, text, fields = KINDS[kind]
            folder = tmp_path_factory.mktemp("onnx")
            model = tiny_model(vision, text, dtype=torch.float32, attention="sdpa", **fields)
            export_onnx(model, None, folder)
            made[kind] = model, folder, OnnxGenerator(folder, num_threads=1)
        return made[kind]

    return build


IN_ONNX = ["cross, conv", "merged", "encoder", "every medium"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", IN_ONNX)
def test_onnx_runtime_computes_every_part_as_the_model_does(exported, kind):
    from transformers.exporters import ExportedModel

    model, folder, _ = exported(kind)
    graphs = ExportedModel.from_pretrained(folder).runners
    for name, (part, inputs, _) in parts_of(model).items():
        for sizes in SIZES:
            compare(part.eval(), graphs[name], other_inputs(inputs, *sizes), BOUND)


def media_of(kind: str) -> dict[str, torch.Tensor]:
    """Inputs of three contexts, not all of them with as many items."""
    generator = torch.Generator().manual_seed(0)
    there = torch.tensor([[True, True], [True, False], [True, True]])
    media = {"pixel_values": torch.randn(3, 2, 3, 16, 16, generator=generator), "pixel_attention_mask": there}
    if kind == "encoder":
        ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 9, 9, 2]])
        media |= {"context_input_ids": ids, "context_attention_mask": (ids != 0).long()}
    if kind == "every medium":
        media |= {"pixel_values_videos": torch.randn(3, 1, 3, 3, 16, 16, generator=generator)}
        media |= {"video_attention_mask": torch.tensor([[[True] * 3], [[True, True, False]], [[False] * 3]])}
        media |= {"input_features": torch.randn(3, 1, 12, 8, generator=generator)}
        media |= {"input_features_mask": torch.tensor([[True], [False], [True]])}
    return media


def until_the_end(rows: np.ndarray, start: int, end: int = 2) -> list[list[int]]:
    """Rows up to their eos: what stands behind it is padding."""
    ends = [(row[start:] == end).nonzero()[0] for row in rows]
    return [
        row[: start + place[0] + 1 if len(place) else None].tolist() for row, place in zip(rows, ends, strict=True)
    ]


PROMPTS = torch.tensor([[1, 5, 6], [0, 1, 7], [0, 0, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", IN_ONNX)
def test_the_loop_over_onnx_writes_what_generate_writes(exported, kind, beams):
    model, _, graphs = exported(kind)
    media, mask = media_of(kind), (PROMPTS != 0).long()
    index = torch.tensor([2, 0, 0])
    for given in ({}, {"input_ids": PROMPTS, "attention_mask": mask}, {"input_ids": PROMPTS, "context_index": index}):
        given = {**media, **given}
        settings = {"max_new_tokens": 10, "num_beams": beams, "length_penalty": 0.7}
        expected = model.generate(**given, **settings, do_sample=False).numpy()
        written = graphs.generate(**{name: value.numpy() for name, value in given.items()}, **settings)
        start = given["input_ids"].shape[1] if "input_ids" in given else 1
        assert until_the_end(written, start) == until_the_end(expected, start)


@pytest.mark.slow
def test_what_a_context_does_without_may_be_left_out(exported):
    model, _, graphs = exported("every medium")
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    expected = model.generate(pixel_values=pixels, max_new_tokens=8, do_sample=False).numpy()
    written = graphs.generate(pixels.numpy(), max_new_tokens=8)
    assert until_the_end(written, 1) == until_the_end(expected, 1)


@pytest.mark.slow
def test_logits_that_are_no_numbers_are_an_error_and_no_text(exported):
    generator = exported("cross, conv")[2]
    pixels = np.full((2, 3, 16, 16), np.nan, np.float32)
    for beams in (1, 2):
        with pytest.raises(ValueError, match="the graph's logits are NaN or infinite"):
            generator.generate(pixels, max_new_tokens=3, num_beams=beams)


@pytest.mark.slow
def test_inputs_that_the_graphs_do_not_have_are_refused_in_words(exported):
    _, _, graphs = exported("encoder")
    pixels, ids = np.zeros((2, 3, 16, 16), np.float32), np.ones((2, 3), np.int64)
    refused = [
        ({"pixel_values": pixels, "input_features": ids}, "the graphs take no input_features; they take pixel_values"),
        ({"pixel_values": pixels}, "reads a text and its media: give context_input_ids"),
        ({"pixel_values": pixels[:1], "context_input_ids": ids}, r"for the same contexts; got \[1, 2\]"),
        ({"context_input_ids": ids, "input_ids": ids[[0, 0, 0]]}, "3 prompts and 2 contexts"),
        ({"context_input_ids": ids, "context_index": np.array([2])}, r"numbers in 0\.\.1"),
        ({"context_input_ids": ids, "context_attention_mask": ids[:, :2]}, r"context_attention_mask must be \(2, 3\)"),
    ]
    for given, words in refused:
        with pytest.raises(ValueError, match=words):
            graphs.generate(**given)


@pytest.mark.slow
def test_the_generation_configuration_of_a_folder_is_followed_or_named(exported, tmp_path, caplog):
    _, folder, graphs = exported(IN_ONNX[0])
    pixels = np.random.default_rng(5).normal(size=(2, 3, 16, 16)).astype(np.float32)
    shutil.copytree(folder, tmp_path / "copy")

    def configured(**settings):
        (tmp_path / "copy" / "generation_config.json").write_text(json.dumps(settings))
        return OnnxGenerator(tmp_path / "copy", num_threads=1)

    beams = configured(num_beams=3, length_penalty=0.5, max_length=6, eos_token_id=None)
    expected = graphs.generate(pixels, num_beams=3, length_penalty=0.5, max_new_tokens=5)
    assert beams.generate(pixels).shape[1] == 6 and "asks for" not in caplog.text
    named = configured(num_beams=3, length_penalty=0.5, max_new_tokens=5)
    assert np.array_equal(named.generate(pixels), expected)
    configured(repetition_penalty=1.7, do_sample=True, min_length=0)
    assert "asks for do_sample=True, repetition_penalty=1.7, which this loop does not do" in caplog.text
    with pytest.raises(ValueError, match="no bos_token_id to start from: give input_ids"):
        configured(bos_token_id=None).generate(pixels)


@pytest.mark.slow
def test_the_packaged_model_goes_through_mm_export(tmp_path):
    from mm.cli.export import export

    said = []
    export(None, str(tmp_path / "out"), say=said.append)
    assert said[0].endswith("3 files of graphs") and float(said[1].split()[-1]) <= BOUND
    with pytest.raises(ValueError, match="is not empty"):
        export(None, str(tmp_path / "out"))


def test_what_has_other_parts_is_refused_before_anything_is_written(tiny_model, tmp_path):
    rope = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 50.0}}
    relative = {"position_embedding_type": "relative"}
    segments = {"segment_length": 4, "is_causal": False}
    refused = [
        (tiny_model(cls=MMForImageTextRetrieval), TypeError, "only MMForConditionalGeneration"),
        (tiny_model("vit", "llama", text_config=rope), ValueError, "rope_type='dynamic'"),
        (tiny_model(text_encoder_config={**TINY_ENCODER, **segments}), ValueError, "attends in segments"),
        (tiny_model(text_encoder_config={**TINY_ENCODER, **relative}), ValueError, "with it is not exported"),
        (tiny_model().train(), ValueError, "training mode"),
        (tiny_model(attention="flex_attention"), ValueError, "set_attn_implementation"),
        (tiny_model(attention="sdpa").to(torch.bfloat16), ValueError, r"torch.bfloat16; call model.float\(\) first"),
    ]
    for model, kind, words in refused:
        with pytest.raises(kind, match=words):
            export_onnx(model, None, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_missing_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"ONNX needs not_there: pip install '\.\[onnx\]'"):
        check_installed(("not_there", "numpy"))


@pytest.mark.slow
def test_importing_mm_and_its_exporters_imports_nothing_of_onnx():
    code = "import sys, mm, mm.cli.export; print([name for name in sys.modules if name.startswith('onnx')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
