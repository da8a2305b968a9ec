"""export_for_hub: what one directory gives to a process that has Transformers and not MM."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, BertTokenizer, PreTrainedModel
from transformers.utils.import_utils import is_torchvision_available

import mm

pytestmark = pytest.mark.slow

IDS = torch.tensor([[1, 5, 6], [1, 7, 8]])
# {directory: (class, Auto class that must find it, inputs, fields of the tiny configuration)}
PICTURE, TEXT = {"pixel_values": 2}, {"input_ids": IDS}
BOTH = {**PICTURE, **TEXT}
SEES_BOTH_WAYS = {"text_config": {"is_causal": False}}
LATENTS = {"num_latents": 3, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 12}
FLAMINGO = {"text": "own", "vision_resampler_config": {**LATENTS, "intermediate_size": 16}}
COCA = {
    "text": "own", "pretraining_losses": {"itc": 1.0, "lm": 2.0},
    "text_config": {"unimodal_layers": 1, "cross_attention_layers": [2]},
}  # fmt: skip
ASKED = {**BOTH, "context_input_ids": IDS}
EVERY_MEDIUM = {"modalities": ["image", "video", "audio"], "audio_config": "whisper", "max_frames": 3}
SOUNDS, FILMS = torch.randn(2, 1, 12, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2, 2, 3, 16, 16)
MEDIA = {**BOTH, "input_features": SOUNDS, "pixel_values_videos": FILMS}
HEARS = {"modalities": ["audio"], "audio_config": "whisper", "max_clips": 1}
HEARD = {**TEXT, "input_features": SOUNDS}
FRAMES = torch.randn(2, 1, 40, 16, generator=torch.Generator().manual_seed(1))
SPEECH_TO_TEXT = {
    "model_type": "speech_to_text", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "input_feat_per_channel": 16, "conv_channels": 8,
}  # fmt: skip
MOONSHINE = {
    "model_type": "moonshine", "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 1,
    "encoder_num_attention_heads": 2,
}  # fmt: skip
DRAWN = mm.MMImageTokenizerConfig(image_size=16, widths=[8], depth=1, levels=[4, 3], quantizer="fsq", norm_groups=4)
MODELS = {
    "base": (mm.MMModel, "AutoModel", BOTH, {}),
    "writes": (mm.MMForConditionalGeneration, "AutoModelForImageTextToText", BOTH, {}),
    "classifies": (mm.MMForSequenceClassification, "AutoModelForSequenceClassification", BOTH, {}),
    "finds": (mm.MMForImageTextRetrieval, "AutoModelForZeroShotImageClassification", BOTH, {}),
    "fills in": (mm.MMForMaskedLM, "AutoModelForMaskedLM", BOTH, SEES_BOTH_WAYS),
    "pretrains": (mm.MMForPreTraining, "AutoModelForPreTraining", BOTH, {}),
    "hears": (mm.MMForSpeechSeq2Seq, "AutoModelForSpeechSeq2Seq", HEARD, HEARS),
}
SHAPES = {
    "Flamingo": (mm.MMForConditionalGeneration, "AutoModelForMultimodalLM", BOTH, FLAMINGO),
    "CoCa": (mm.MMForPreTraining, "AutoModelForPreTraining", BOTH, COCA),
    "reads": (mm.MMForConditionalGeneration, "AutoModelForImageTextToText", ASKED, {"text_encoder_config": "tiny"}),
    "every medium": (mm.MMForConditionalGeneration, "AutoModelForMultimodalLM", MEDIA, EVERY_MEDIUM),
    "hears frames": (
        mm.MMForSpeechSeq2Seq, "AutoModelForSpeechSeq2Seq", {**TEXT, "input_features": FRAMES},
        {**HEARS, "audio_config": SPEECH_TO_TEXT},
    ),
    "hears samples": (
        mm.MMForSpeechSeq2Seq, "AutoModelForSpeechSeq2Seq",
        {**TEXT, "input_features": FRAMES.repeat(1, 1, 1, 8).flatten(2)}, {**HEARS, "audio_config": MOONSHINE},
    ),
    "convolves": (mm.MMForConditionalGeneration, "AutoModelForImageTextToText", BOTH, {"vision": "conv"}),
}  # fmt: skip
TOWERS = {
    "vision": (mm.MMVisionModel, PICTURE, lambda config: config.vision_config),
    "text": (mm.MMTextModel, TEXT, lambda config: config.text_config),
    "conv": (mm.MMConvModel, PICTURE, lambda config: config.vision_config),
    "picture tokens": (mm.MMImageTokenizer, PICTURE, lambda config: DRAWN),
}

READ = """
import importlib.abc, json, os, sys


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mm":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
import torch, transformers
place = sys.argv[1]
report = {}
for name, auto in json.load(open(f"{place}/models.json")).items():
    model = getattr(transformers, auto).from_pretrained(f"{place}/{name}", trust_remote_code=True).eval()
    saved = torch.load(f"{place}/{name}/expected.pt")
    with torch.no_grad():
        given = model(**saved["inputs"])
    report[name] = [type(model).__name__, type(model).__module__.split(".")[0]]
    for key, expected in saved["outputs"].items():
        said = {"msg": lambda text: f"{name} {key}: {text}"}
        torch.testing.assert_close(given[key], expected, rtol=1e-5, atol=1e-5, **said)
    print(json.dumps(report))
if not os.path.isdir(f"{place}/writes"):
    sys.exit()

folder = f"{place}/writes"
processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
batch = processor(images=f"{place}/picture.png", text="w3 w4", return_tensors="pt")
report["image processor"] = type(processor.image_processor).__name__
report["tokens"] = model.generate(**batch, max_new_tokens=4).tolist()
model.set_attn_implementation("mm_triton")  # TRITON_INTERPRET=1: on the CPU, through Triton's interpreter
report["tokens of the kernel"] = model.generate(**batch, max_new_tokens=4).tolist()
report["kernel"] = [name for name in sys.modules if name.endswith("kernels_forward")]
try:
    transformers.AutoModel.from_pretrained(folder)
except ValueError as error:
    report["refusal"] = str(error)
print()  # ends the line of the question that the refusal asks first
print(json.dumps(report))
"""

READ_A_DRAWER = (
    READ[: READ.index("import torch")]
    + """
import transformers

for folder in sys.argv[1:2]:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    ids = model.draw(**processor(context_text="w3 w4", return_tensors="pt"), do_sample=False)
    print(ids.tolist(), processor.decode_images(ids)[0].size)
    if len(sys.argv) > 2:
        model.save_pretrained(sys.argv[2])
        processor.save_pretrained(sys.argv[2])
"""
)
SAVE_AGAIN = """
import sys, mm

mm.MMForConditionalGeneration.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
mm.MMProcessor.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


def inputs_of(wanted: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = {"pixel_values": torch.rand(2, 3, 16, 16, generator=generator)} if "pixel_values" in wanted else {}
    return {**{name: value for name, value in wanted.items() if torch.is_tensor(value)}, **pixels}


def write(place: Path, models: dict, tiny_model, processor=None) -> None:
    """Each model of a table exported, its inputs and outputs beside it."""
    for name, (cls, _, wanted, fields) in models.items():
        model = tiny_model(cls=cls, dtype=torch.float32, **fields)
        save(place / name, model, inputs_of(wanted), processor if name == "writes" else None)


def read(place: Path, autos: dict[str, str], home: Path) -> dict:
    """What a process without MM finds there, in one go."""
    (place / "models.json").write_text(json.dumps(autos))
    return json.loads(run(READ, home, place)[-1])


def run(code: str, home: Path, *folders: Path) -> list[str]:
    """What a new process prints."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "error::UserWarning:torch", "-c", code, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def save(directory: Path, model: Any, inputs: dict[str, torch.Tensor], processor=None) -> None:
    mm.export_for_hub(model, processor, directory)
    with torch.no_grad():
        outputs = model(**inputs)
    tensors = {name: value for name, value in outputs.items() if torch.is_tensor(value)}
    assert tensors
    torch.save({"inputs": inputs, "outputs": tensors}, directory / "expected.pt")


@pytest.fixture(scope="module")
def processor() -> mm.MMProcessor:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return mm.MMProcessor(mm.MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)


@pytest.fixture(scope="module")
def exported(tiny_model, tiny_config, visible, processor, tmp_path_factory) -> Path:
    """Every public class exported, each with its inputs and outputs beside it."""
    place = tmp_path_factory.mktemp("exported")
    write(place, MODELS, tiny_model, processor)
    for name, (cls, wanted, part) in TOWERS.items():
        torch.manual_seed(0)
        tower = visible(cls(part(tiny_config("conv" if name == "conv" else "vit")))).eval()
        save(place / name, tower, inputs_of(wanted))
    Image.effect_noise((20, 24), 80).convert("RGB").save(place / "picture.png")
    return place


@pytest.fixture(scope="module")
def report(exported, tmp_path_factory) -> dict:
    autos = {name: auto for name, (_, auto, *_) in MODELS.items()} | dict.fromkeys(TOWERS, "AutoModel")
    return read(exported, autos, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("name", [*MODELS, *TOWERS])
def test_every_class_is_found_without_the_package_and_computes_the_same(report, name):
    cls = (MODELS | TOWERS)[name][0]
    assert report[name] == [cls.__name__, "transformers_modules"]


def test_every_shape_of_them_computes_the_same_too(tiny_model, tmp_path):
    write(tmp_path / "models", SHAPES, tiny_model)
    report = read(tmp_path / "models", {name: auto for name, (_, auto, *_) in SHAPES.items()}, tmp_path / "home")
    assert report == {name: [cls.__name__, "transformers_modules"] for name, (cls, *_) in SHAPES.items()}


def test_every_public_model_is_among_them():
    public = {getattr(mm, name) for name in mm.__all__ if name.startswith("MM")}
    models = {cls for cls in public if isinstance(cls, type) and issubclass(cls, PreTrainedModel)}
    assert models == {entry[0] for entry in (MODELS | TOWERS).values()}


def test_processor_and_generate_work_without_the_package(report, exported):
    expected = "MMImageProcessor" if is_torchvision_available() else "MMImageProcessorPil"
    assert report["image processor"] == expected
    model = mm.MMForConditionalGeneration.from_pretrained(exported / "writes")
    batch = mm.MMProcessor.from_pretrained(exported / "writes")(
        images=str(exported / "picture.png"), text="w3 w4", return_tensors="pt"
    )
    assert report["tokens"] == model.generate(**batch, max_new_tokens=4).tolist()


def test_a_model_that_draws_brings_its_picture_tokens_and_can_be_saved_again(processor, tmp_path):
    """Saved by a process without the package, and by a new one with it: each is an export again."""
    torch.manual_seed(0)
    picture = mm.MMImageTokenizer(DRAWN)
    drawing = mm.MMProcessor(tokenizer=processor.tokenizer, image_tokenizer=picture, prompt_to="context")
    stack = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    stack |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 40}
    text = {"vocab_size": drawing.drawing["first_id"] + DRAWN.codebook_size, **stack}
    encoder = {"vocab_size": 50, **stack}
    config = mm.MMConfig(modalities=[], drawing=drawing.drawing, text_config=text, text_encoder_config=encoder)
    model = mm.MMForConditionalGeneration(config).eval()
    first, home = tmp_path / "first", tmp_path / "home"
    mm.export_for_hub(model, drawing, first)
    ids = model.draw(**drawing(context_text="w3 w4", return_tensors="pt"), do_sample=False)
    printed = [f"{ids.tolist()} (16, 16)"]

    assert run(READ_A_DRAWER, home, first, tmp_path / "without")[:1] == printed
    run(SAVE_AGAIN, home, first, tmp_path / "with")
    for again in (tmp_path / "without", tmp_path / "with"):
        assert run(READ_A_DRAWER, home, again)[:1] == printed
        assert {file.suffix for file in (again / "image_tokenizer").iterdir()} == {".json", ".safetensors"}


@pytest.mark.linux
def test_the_kernel_is_among_the_files_and_runs(report):
    assert report["kernel"] and report["tokens of the kernel"] == report["tokens"]


def test_without_trust_remote_code_the_directory_is_refused_in_words(report):
    assert "contains custom code which must be executed" in report["refusal"]
    assert "pass the argument `trust_remote_code=True`" in report["refusal"]


def test_the_installed_package_wins(exported):
    folder = exported / "writes"
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is mm.MMModel
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    assert type(model) is mm.MMForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)) is mm.MMProcessor


def test_the_directory_is_flat_and_names_every_auto_class(exported):
    folder = exported / "writes"
    assert not [path for path in folder.iterdir() if path.is_dir()]
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map["AutoImageProcessor"]) == {"torchvision", "pil"}  # whichever there is
    assert {"AutoConfig", "AutoProcessor"} | {auto for _, auto, *_ in MODELS.values()} <= {*auto_map}


@pytest.mark.parametrize(("model", "processor"), [(torch.nn.Linear(1, 1), None), (None, "a processor")])
def test_what_is_none_of_ours_is_refused(tiny_model, tmp_path, model, processor):
    model = tiny_model() if model is None else model
    with pytest.raises(TypeError, match="must be a model or a tower of MM|must be an MMProcessor"):
        mm.export_for_hub(model, processor, tmp_path)
