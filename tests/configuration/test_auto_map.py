"""Saved folders without `import mm`: they work with trust_remote_code, or say what to do; and exports stay exports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

import mm

AUTOS = ["AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor"]
READ = """
import json, sys
from pathlib import Path
if sys.argv[1] == "absent":
    sys.modules["mm"] = None  # an import of it fails
import transformers
found = {}
for auto in sys.argv[3:]:
    for trust in (None, True):
        try:
            made = getattr(transformers, auto).from_pretrained(sys.argv[2], trust_remote_code=trust)
            found[f"{auto} {trust}"] = [type(made).__module__.split(".")[0], type(made).__name__]
        except ValueError as error:
            found[f"{auto} {trust}"] = str(error)
        if sys.argv[1] == "present":
            break  # the first success imports the package
print("FOUND " + json.dumps(found))
"""
TRAIN = """
import json, sys
sys.modules["mm"] = None
import torch, transformers
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments
source, out = sys.argv[1:]
trust = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(source, **trust)
data = [{"input_ids": torch.tensor([1, 5, 6, 2]), "pixel_values": torch.ones(3, 16, 16) * i} for i in range(4)]
data = [{**sample, "labels": sample["input_ids"]} for sample in data]

def trained(model, steps, **how):
    arguments = TrainingArguments(
        out, max_steps=steps, save_steps=1, per_device_train_batch_size=2, report_to="none", use_cpu=True,
        disable_tqdm=True, save_total_limit=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, processing_class=processor)
    trainer.train(**how)
    return trainer

model = AutoModelForImageTextToText.from_pretrained(source, **trust)
trained(model, 2).save_model(out + "/final")
again = AutoModelForImageTextToText.from_pretrained(out + "/final", **trust)
inputs = processor(text="w3 w4", return_tensors="pt") | {"pixel_values": data[0]["pixel_values"][None]}
with torch.no_grad():
    gap = (again(**inputs).logits - model.eval()(**inputs).logits).abs().max().item()
AutoModel.from_pretrained(out + "/checkpoint-2", **trust).save_pretrained(out + "/base")
base = type(AutoModel.from_pretrained(out + "/base", **trust))
kind = type(AutoProcessor.from_pretrained(out + "/final", **trust)).__name__
step = trained(again, 3, resume_from_checkpoint=True).state.global_step
print("FOUND " + json.dumps([gap, base.__module__.split(".")[0], base.__name__, kind, step]))
"""


def run(code: str, home: Path, *arguments: object):
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    line = next((line for line in done.stdout.splitlines() if "FOUND " in line), None)
    assert line is not None, done.stderr
    return json.loads(line.split("FOUND ")[1])


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def processor():
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return mm.MMProcessor(mm.MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)


@pytest.fixture(scope="module")
def plain(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def auto_maps(folder: Path) -> list:
    config, processor = (json.loads((folder / name).read_text()) for name in ("config.json", "processor_config.json"))
    return [config["auto_map"], processor["auto_map"], processor["image_processor"]["auto_map"]]


@pytest.mark.slow
def test_a_plain_save_asks_for_trust_or_for_the_package_and_never_gives_a_bare_tokenizer(plain, tmp_path):
    found = run(READ, tmp_path, "absent", plain, *AUTOS)
    for auto in AUTOS:
        assert "contains custom code" in found[f"{auto} None"] and "trust_remote_code=True" in found[f"{auto} None"]
        assert "install mm-transformers, then `import mm` before from_pretrained" in found[f"{auto} True"]


@pytest.mark.parametrize(
    "auto", [AUTOS[1], *(pytest.param(auto, marks=pytest.mark.slow) for auto in AUTOS if auto != AUTOS[1])]
)
def test_a_plain_save_just_works_with_trust_where_the_package_is(plain, tmp_path, auto):
    code = READ.replace("(None, True)", "(True,)")
    classes = {"AutoConfig": "MMConfig", "AutoModel": "MMModel", "AutoProcessor": "MMProcessor"}
    name = classes.get(auto, "MMForConditionalGeneration" if "Text" in auto else "MMImageProcessor")
    origin, found = run(code, tmp_path, "present", plain, auto)[f"{auto} True"]
    assert origin == "mm" and found.removesuffix("Pil") == name


def test_the_packaged_checkpoint_says_so_too(tmp_path):
    packaged = Path(__file__).resolve().parents[2] / "checkpoints" / "mm-tiny"
    mm.MMForConditionalGeneration.from_pretrained(packaged).save_pretrained(tmp_path)
    mm.MMProcessor.from_pretrained(packaged).save_pretrained(tmp_path)
    assert auto_maps(packaged) == auto_maps(tmp_path)
    assert (packaged / "import_mm.py").read_text() == (tmp_path / "import_mm.py").read_text()


def test_settings_are_equal_after_a_round_trip_and_nothing_names_a_file_that_is_not_there(model, plain, tmp_path):
    again = mm.MMForConditionalGeneration.from_pretrained(plain)
    assert again.config.to_dict().keys() == model.config.to_dict().keys()
    again.model.vision_tower.save_pretrained(tmp_path / "tower")
    again.config.save_pretrained(tmp_path / "config")
    mm.MMProcessor.from_pretrained(plain).image_processor.save_pretrained(tmp_path / "pictures")
    for folder in tmp_path.iterdir():
        texts = "".join(file.read_text() for file in folder.glob("*.json"))
        assert "import_mm.py" in names(folder) and "import_mm.MM" in texts and "mm_remote_code" not in texts


def test_what_is_loaded_from_an_export_and_saved_by_mm_is_an_export(model, processor, tmp_path):
    mm.export_for_hub(model, processor, tmp_path / "export")
    mm.MMForConditionalGeneration.from_pretrained(tmp_path / "export").save_pretrained(tmp_path / "again")
    mm.MMProcessor.from_pretrained(tmp_path / "export").save_pretrained(tmp_path / "again")
    assert names(tmp_path / "again") == names(tmp_path / "export")
    assert auto_maps(tmp_path / "again") == auto_maps(tmp_path / "export")
    mm.MMProcessor.from_pretrained(tmp_path / "export").save_pretrained(tmp_path / "alone")
    assert "mm_remote_code.py" in names(tmp_path / "alone")


def test_an_export_of_a_plain_save_s_folder_leaves_nothing_plain(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    mm.export_for_hub(model, processor, tmp_path)
    assert "import_mm.py" not in names(tmp_path) and "import_mm" not in str(auto_maps(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("vision", ["vit", "conv"])
def test_an_export_is_trained_saved_loaded_and_resumed_without_mm(tiny_model, processor, tmp_path, vision):
    mm.export_for_hub(tiny_model(vision, dtype=torch.float32), processor, tmp_path / "export")
    gap, origin, base, kind, step = run(TRAIN, tmp_path / "home", tmp_path / "export", tmp_path / "out")
    assert gap < 1e-5 and (origin, base, kind, step) == ("transformers_modules", "MMModel", "MMProcessor", 3)
    assert names(tmp_path / "export") <= names(tmp_path / "out" / "final")
    assert auto_maps(tmp_path / "out" / "final") == auto_maps(tmp_path / "export")
    loaded = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "out" / "final")
    assert type(loaded) is mm.MMForConditionalGeneration


@pytest.mark.slow
def test_an_export_is_saved_and_loaded_without_mm(model, processor, tmp_path):
    """One process: what it saves names its own files, all of them, and loads."""
    mm.export_for_hub(model, processor, tmp_path / "export")
    code = """
import json, os, sys
sys.modules["mm"] = None
from transformers import AutoModelForImageTextToText as Auto
source, out = sys.argv[1:]
model = Auto.from_pretrained(source, trust_remote_code=True)
model.save_pretrained(out)
again = Auto.from_pretrained(out, trust_remote_code=True)
missing = sorted(set(os.listdir(source)) - set(os.listdir(out)))
print("FOUND " + json.dumps([type(again).__module__.split(".")[1], missing]))
"""
    place, missing = run(code, tmp_path / "home", tmp_path / "export", tmp_path / "again")
    assert place == "again" and set(missing) == {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
