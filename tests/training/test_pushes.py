"""Pushes of MMTrainer: whole commits that leave nothing stale, keep cards and show no token. A failed one is said."""

from pathlib import Path

import pytest

from hub_server import TOKEN, Fault, HubServer

pytestmark = pytest.mark.slow  # trainings in a process of their own
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
USER = f"""
import io, json, logging
from pathlib import Path
import torch, transformers, huggingface_hub, mm
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import conftest
from small_trainer import small_trainer

processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
said = io.StringIO()
logging.getLogger().addHandler(logging.StreamHandler(said))

def run(folder, name, **settings):
    trainer = small_trainer(folder, processor, push_to_hub=True, hub_model_id=name, **settings)
    trainer.processing_class = processor
    trainer.train()
    return trainer

def same(one, name, **how):
    other = mm.MMForConditionalGeneration.from_pretrained(name, **how).state_dict()
    return all(torch.equal(value, other[key]) for key, value in one.state_dict().items())

def faults(name):
    return [one.told for one in mm.verify(huggingface_hub.snapshot_download(name)) if one.is_fault]
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(hub):
    yield
    hub.faults.clear()


def test_the_end_of_a_training_is_one_commit_over_older_shards(hub, ask, tmp_path):
    name = "tester/end"
    ask(f"globals().update(t=run({str(tmp_path)!r}, '{name}', hub_strategy='end', hub_token='{TOKEN}'))")
    ask(f"t.model.push_to_hub('{name}', max_shard_size='40KB') and 1")
    assert INDEX in hub.files(name)
    commits = len(hub.repositories[name].commits)
    ask("t.save_model()")
    files = hub.files(name)
    assert len(hub.repositories[name].commits) == commits + 1 and INDEX not in files
    assert {ONE, "README.md", "processor_config.json", "mm_remote_code.py", "forward.json"} < {*files}
    assert not any(key.endswith((".bin", ".pt", ".lock")) or key.startswith("checkpoint-") for key in files)
    assert ask(f"same(t.model, '{name}')") is True and ask(f"faults('{name}')") == []
    saved = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "training_args.bin") in saved
    assert not any(TOKEN.encode() in data for data in [path.read_bytes() for path in saved] + [*hub.blobs.values()])
    assert ask("t.args.hub_token") == TOKEN


@pytest.mark.parametrize(
    ("strategy", "kept"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-4")]
)
def test_checkpoints_are_pushed_whole(hub, ask, tmp_path, strategy, kept):
    name = f"tester/{strategy}"
    settings = f"hub_strategy='{strategy}', save_total_limit=1, hub_always_push=True"
    ask(f"globals().update(t=run({str(tmp_path)!r}, '{name}', {settings}))")
    files = hub.files(name)
    assert {ONE, f"{kept}/optimizer.pt", f"{kept}/trainer_state.json", f"{kept}/manifest.json"} < {*files}
    messages = [*hub.repositories[name].messages.values()]
    assert messages[1:] == [f"Training in progress, step {step}" for step in (1, 2, 3, 4)]
    assert not list(tmp_path.glob(".pushing*"))
    place = f"huggingface_hub.snapshot_download('{name}', local_dir={str(tmp_path / 'all')!r})"
    ask(f"globals().update(place=Path({place}))")
    assert ask("[one.told for one in mm.verify(place) if one.is_fault]") == []
    assert ask(f"same(t.model, place / '{kept}')") is True and ask(f"same(t.model, '{name}')") is True
    assert ask(f"mm.weights.manifest.faults_of(place / '{kept}')") == []


def test_a_push_that_fails_is_said_and_the_training_goes_on(hub, ask, tmp_path):
    name = "tester/failing"
    hub.faults.append(Fault(f"POST /api/models/{name}/commit", 403, "the disk of the Hub is full", times=2))
    settings = "hub_strategy='every_save', hub_always_push=True"
    assert ask(f"run({str(tmp_path)!r}, '{name}', {settings}).state.global_step") == 4
    assert "checkpoint-1 was not pushed" in ask("said.getvalue()") and "the Hub is full" in ask("said.getvalue()")
    assert [*hub.repositories[name].messages.values()][1:] == [f"Training in progress, step {step}" for step in (3, 4)]


def test_a_card_that_was_there_stays(hub, ask, tmp_path):
    name = "tester/card"
    (tmp_path / "README.md").write_text("# Mine\n")
    ask(f"globals().update(t=run({str(tmp_path)!r}, '{name}', hub_strategy='end'))")
    ask("t.push_to_hub() and 1")
    assert hub.files(name)["README.md"] == b"# Mine\n" == (tmp_path / "README.md").read_bytes()


def test_trainers_own_card_is_written_anew(hub, ask, tmp_path):
    name = "tester/own-card"
    ask(f"globals().update(t=run({str(tmp_path)!r}, '{name}', hub_strategy='end'))")
    ask("t.push_to_hub() and 1")
    first = hub.files(name)["README.md"]
    ask("t.push_to_hub(tags='another-tag') and 1")
    assert b"another-tag" in hub.files(name)["README.md"] and b"another-tag" not in first


def test_an_adapter_is_pushed_and_loads_over_its_base(hub, ask, tmp_path):
    """The base is a folder here; PEFT's files are the only ones of the model in the repository."""
    name, base = "tester/adapter", str(tmp_path / "base")
    ask(f"small_trainer({str(tmp_path / 'x')!r}, processor).model.save_pretrained({base!r})")
    ask("exec('from peft import LoraConfig, get_peft_model')")
    ask(f"globals().update(m=mm.MMForConditionalGeneration.from_pretrained({base!r}))")
    ask("globals().update(p=get_peft_model(m, LoraConfig(target_modules=['q_proj'])))")
    arguments = f"{str(tmp_path / 'out')!r}, push_to_hub=True, hub_model_id='{name}', report_to='none', use_cpu=True"
    ask(f"globals().update(t=mm.MMTrainer(p, transformers.Seq2SeqTrainingArguments({arguments})))")
    assert ask("t.push_to_hub() and 1") == 1
    files = hub.files(name)
    assert {"adapter_config.json", "adapter_model.safetensors"} < {*files} and ONE not in files
    load = f"type(mm.MMForConditionalGeneration.from_pretrained('{name}')).__name__"
    assert ask(load) == "MMForConditionalGeneration"
