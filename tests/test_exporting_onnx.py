"""Parts of a model outside of PyTorch's eager mode: torch.export and ONNX through Transformers' exporters."""

# The exporters are typed for whole models, and take any module.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

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
SHAPES = [("vit", "inside"), ("conv", "llama")]


def other_inputs(inputs: dict[str, torch.Tensor], rows: int, tokens: int, before: int) -> dict[str, torch.Tensor]:
    """Inputs of other sizes than those that were traced, filled at random."""
    generator = torch.Generator().manual_seed(rows)
    sizes = {"input_ids": (rows, tokens), "attention_mask": (rows, before + tokens)}
    given = {}
    for name, value in inputs.items():
        shape = [*sizes.get(name, value.shape)]
        if value.ndim == 5:
            shape = [shape[0], rows, *shape[2:]]
        elif name == "pixel_values":
            shape = [rows, *shape[1:]]
        if name.startswith("past"):
            shape[3] = before
        random = torch.randn(shape, generator=generator) if value.is_floating_point() else torch.ones(shape).long()
        given[name] = random.to(value.dtype)
    if "input_ids" in given:
        given["input_ids"] = torch.randint(3, 50, given["input_ids"].shape, generator=generator)
        given["attention_mask"][0, 0] = 0  # padding on the left
        given["input_ids"][0, 0] = 0  # whose embedding is all zeros
    return given


def compare(part, program, inputs: dict[str, torch.Tensor], bound: float) -> None:
    with torch.no_grad():
        expected = part(**inputs)
    given = program(**inputs)
    assert list(expected) == list(given)
    for name, value in expected.items():
        assert ((given[name] - value).abs() <= bound * value.abs().clamp(min=1)).all(), name


@pytest.mark.slow
@pytest.mark.parametrize(("vision", "text"), SHAPES)
def test_torch_export_gives_every_part_for_any_number_of_rows_and_tokens(tiny_model, vision, text):
    from transformers.exporters import DynamoConfig, DynamoExporter

    model = tiny_model(vision, text, attention="sdpa")  # float64: nothing but the order of sums may differ
    for part, inputs, free in parts_of(model).values():
        program = DynamoExporter().export(part.eval(), inputs, DynamoConfig(dynamic_shapes=free))
        for sizes in ((2, 2, 3), (1, 1, 4), (3, 4, 2)):
            compare(part, program, other_inputs(inputs, *sizes), 1e-12)


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
    """(model, folder, OnnxGenerator) of a tiny one."""
    folder = tmp_path_factory.mktemp("onnx")
    model = tiny_model("conv", "llama", dtype=torch.float32, attention="sdpa", vision_config={"padding": "same"})
    export_onnx(model, None, folder)
    return model, folder, OnnxGenerator(folder, num_threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 3), (1, 1, 4), (3, 4, 2), (3, 5, 0)], ids=str)
def test_onnx_runtime_computes_every_part_as_the_model_does(exported, sizes):
    from transformers.exporters import ExportedModel

    model, folder, _ = exported
    graphs = ExportedModel.from_pretrained(folder).runners
    for name, (part, inputs, _) in parts_of(model).items():
        compare(part.eval(), graphs[name], other_inputs(inputs, *sizes), BOUND)


@pytest.mark.slow
def test_the_loop_over_onnx_writes_what_generate_writes(exported):
    model, _, graphs = exported
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = torch.tensor([[1, 5, 6], [0, 1, 7], [0, 0, 1]])
    mask = (prompts != 0).long()
    for given in ({}, {"input_ids": prompts, "attention_mask": mask}):
        expected = model.generate(pixel_values=pixels, **given, max_new_tokens=12, do_sample=False)
        arrays = {name: value.numpy() for name, value in given.items()}
        written = graphs.generate(pixels.numpy(), **arrays, max_new_tokens=12)
        np.testing.assert_array_equal(written, expected.numpy())


@pytest.mark.slow
def test_the_packaged_model_goes_through_mm_export(tmp_path):
    from mm.cli.export import export

    said = []
    export(None, str(tmp_path / "out"), say=said.append)
    assert said[0].endswith("3 files of graphs") and float(said[1].split()[-1]) <= BOUND
    with pytest.raises(ValueError, match="is not empty"):
        export(None, str(tmp_path / "out"))


def test_what_has_other_parts_is_refused_before_anything_is_written(tiny_model, tmp_path):
    refused = [
        (tiny_model(cls=MMForImageTextRetrieval), TypeError, "only MMForConditionalGeneration"),
        (tiny_model(fusion_type="merged"), ValueError, "cross-attends to one picture"),
        (tiny_model().train(), ValueError, "training mode"),
        (tiny_model(attention="flex_attention"), ValueError, "set_attn_implementation"),
    ]
    for model, kind, words in refused:
        with pytest.raises(kind, match=words):
            export_onnx(model, None, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_missing_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"ONNX needs not_there: pip install 'mm-transformers\[onnx\]'"):
        check_installed(("not_there", "numpy"))


@pytest.mark.slow
def test_importing_mm_and_its_exporters_imports_nothing_of_onnx():
    code = "import sys, mm, mm.cli.export; print([name for name in sys.modules if name.startswith('onnx')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
