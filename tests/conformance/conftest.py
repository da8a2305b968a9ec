"""Transformers' own tests for its own models, as the package `upstream`: out of the sdist of the installed version.

`make originals` fetches the sdist into build/conformance; nothing of it is committed but its checksum. The small
modules that its tests import and that it does not have are made here.
"""

# Modules made at run time have attributes that pyright cannot see.

import re
import sys
import wave
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from transformers.models.auto import modeling_auto

import originals

FOLDER = originals.folder(originals.CONFORMANCE)
# The tables by which upstream's tests tell a base class from a head, and a head's labels; they are static.
ROLES = {
    "MODEL_MAPPING_NAMES": {
        "mm": "MMModel", "mm_vision": "MMVisionModel", "mm_conv": "MMConvModel", "mm_text": "MMTextModel"
    },
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": {"mm": "MMForConditionalGeneration"},
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": {"mm": "MMForSequenceClassification"},
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": {"mm": "MMForMaskedLM"},
}  # fmt: skip


def local_file(url: str) -> str:
    """What stands in for a file that upstream's tests fetch from a hub: noise, a sound or a picture."""
    noise, is_sound = np.random.default_rng(0), Path(url).suffix in (".mp3", ".wav")
    name = FOLDER / Path(url).with_suffix(".wav" if is_sound else ".png").name
    if is_sound and not name.exists():
        with wave.open(str(name), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(noise.integers(-9000, 9000, 1600, dtype=np.int16).tobytes())
    elif not name.exists():
        Image.fromarray(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(name)
    return str(name)


def make_module(name: str, folder: Path | None = None, **attributes) -> ModuleType:
    """A module, importable by that name; with a folder a package of what is in it."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [] if folder is None else [str(folder)]
    module = module_from_spec(spec)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


COMMON_SETTINGS = {
    "return_dict": False, "output_hidden_states": True, "dtype": "float16", "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"], "id2label": {0: "label"}, "label2id": {"label": "0"}, "problem_type": "regression",
}  # fmt: skip

# The marks of upstream's tests, and of the decorators in transformers.testing_utils.
MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test",
    "is_agent_test", "is_expert_parallel_test", "is_fsdp_test", "is_pipeline_test", "is_staging_test",
    "is_tensor_parallel_test", "is_training_test",
)  # fmt: skip


def pytest_configure(config):
    for name in MARKS:
        config.addinivalue_line("markers", f"{name}: of Transformers' own tests")


if "upstream" not in sys.modules:
    make_module("upstream", FOLDER / f"transformers-{originals.TRANSFORMERS}" / "tests")
    for package in ("exporters", "generation", "utils"):
        make_module(f"upstream.{package}")
    make_module("upstream.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    make_module("upstream.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    make_module("upstream.utils.test_configuration_utils", config_common_kwargs=COMMON_SETTINGS)
    make_module("fetch_hub_objects_for_ci", url_to_local_path=local_file)


@pytest.fixture(autouse=True)
def _roles(monkeypatch):
    """Upstream's tests know what each class is for, as they do for a model of Transformers."""
    for table, classes in ROLES.items():
        for model_type, name in classes.items():
            monkeypatch.setitem(getattr(modeling_auto, table), model_type, name)


# Why a test of upstream's may be skipped; README.md says what stands behind each. Any other skip is a failure.
SKIPS = [
    # not on this machine
    r"test requires (accelerator|multiple accelerators|deepspeed|Flash Attention|the kernels library|CUDA|a GPU|MPS)",
    r"test requires (Torchcodec|librosa)", r"test is slow", r"torchvision", r"less than 2 backends",
    # the test does not concern a class of this kind
    r"does not support grouped_mm", r"no sparse experts", r"output_router_logits", r"No conversion found",
    r"_keep_in_fp32_modules", r"No (decoder-only|sequence-to-sequence) language modeling head", r"sliding window",
    r"not an encoder-decoder", r"RoPE", r"partial rope", r"no `base_model_class` defined", r"does not have a TP plan",
    r"not configured to run training tests", r"does not have position embeddings", r"not (a )?composite",
    r"No subconfigs", r"test_resize_embeddings is set to", r"doesn't use `inputs_embeds`", r"does not support SDPA",
    r"does not (support|output) (attentions|output_attentions)", r"No usage of the `capture_outputs`",
    r"No validation found", r"dict size or list image_mean", r"video_processor attribute", r"accept videos at input",
    r"_get_num_multimodal_tokens",
    # as upstream does for native models of the kind
    r"does not support input and output embeddings", r"does not support 4 channels", r"individual model tests",
]  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and not re.search("|".join(SKIPS), report.longrepr[2]):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr[2]}\nNot among the reasons in tests/conformance/conftest.py"
    return report
