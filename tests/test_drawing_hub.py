"""A model that draws goes to the Hub with its image tokenizer and comes back, by each of the ways that users push."""

from pathlib import Path

import pytest

from hub_server import HubServer

pytestmark = pytest.mark.slow
USER = f"""
import shutil, sys
import torch, transformers, mm
from transformers import pipeline
sys.path.insert(0, {str(Path(__file__).parent)!r})
from small_drawer import NAMES, small_drawer, small_processor

torch.manual_seed(0)
settings = mm.MMImageTokenizerConfig(image_size=16, patch_size=4, widths=[8], depth=1, levels=[3, 3, 3])
processor = small_processor(image_tokenizer=mm.MMImageTokenizer(settings).eval())
model = small_drawer(processor)

def drawn(model, processor):
    ids = model.draw(**processor(text=NAMES, return_tensors="pt"), seed=1, guidance_scale=2.0)
    return [list(one.tobytes()) for one in processor.decode_images(ids)]

def of_hub(name):
    drawer = pipeline("mm-text-to-image", model=name)
    return drawn(drawer.model, drawer.processor) == drawn(model, processor)

def saved(folder):
    [part.save_pretrained(folder) for part in (model, processor)]
    mm.write_manifest(folder)
    return mm.push_to_hub(folder, "tester/whole").url is not None
"""
TOKENIZER = {"image_tokenizer/config.json", "image_tokenizer/model.safetensors"}


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


def test_push_to_hub_of_each_part_and_back(hub, ask):
    assert ask("[bool(part.push_to_hub('tester/parts')) for part in (model, processor)]") == [True, True]
    assert TOKENIZER | {"processor_config.json", "model.safetensors"} <= hub.files("tester/parts").keys()
    assert ask("of_hub('tester/parts')") is True


def test_a_processor_by_itself_brings_its_image_tokenizer(hub, ask):
    assert ask("bool(processor.push_to_hub('tester/processor'))") is True
    found = "mm.MMProcessor.from_pretrained('tester/processor')"
    same = f"[a.tobytes() == b.tobytes() for q in [{found}] for i in [torch.full((1, 16), 20)] "
    assert ask(same + "for a, b in zip(q.decode_images(i), processor.decode_images(i))]") == [True]


def test_a_checked_folder_and_back(hub, ask, tmp_path):
    assert ask(f"saved({str(tmp_path / 'model')!r})") is True
    assert TOKENIZER <= hub.files("tester/whole").keys()
    assert ask("of_hub('tester/whole')") is True
