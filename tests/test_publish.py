"""mm.push_to_hub and `mm push`: one commit with model, processor, code and card; what is stale goes, edits stay."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hub_server import STRANGERS_TOKEN, TOKEN, HubServer

pytestmark = pytest.mark.slow
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
MM = str(Path(sysconfig.get_path("scripts")) / "mm")
USER = f"""
import shutil
from pathlib import Path
import torch, transformers, huggingface_hub, mm
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_config, make_visible

words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{{number}}" for number in range(45))]
tokenizer = transformers.BertTokenizer(vocab={{word: number for number, word in enumerate(words)}})
processor = mm.MMProcessor(mm.MMImageProcessorPil(size={{"height": 16, "width": 16}}), tokenizer)

def saved(folder, seed=0, shards="1GB", parts=(processor,), **fields):
    torch.manual_seed(seed)
    model = make_visible(mm.MMForConditionalGeneration._from_config(build_config(**fields)))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=shards)
    [part.save_pretrained(folder) for part in parts]
    mm.write_manifest(folder)
    return model

def same(one, folder):
    other = mm.MMForConditionalGeneration.from_pretrained(folder).state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())

def pushed(folder, name, **how):
    done = mm.push_to_hub(folder, name, **how)
    return {{**vars(done), "lines": done.lines()}}
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(ask, tmp_path) -> str:
    """A saved model with its processor."""
    path = str(tmp_path / "model")
    assert ask(f"saved({path!r}) and 1") == 1
    return path


def test_a_push_is_one_commit_that_verifies_and_leaves_the_folder_as_it_was(hub, ask, folder):
    before = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    done = ask(f"pushed({folder!r}, 'tester/first', commit_message='The first', tag='v1')")
    repository, files = hub.repositories["tester/first"], hub.files("tester/first")
    assert list(repository.messages.values()) == ["initial commit", "The first"]
    assert repository.tags == {"v1": repository.branches["main"]} and done["url"].endswith(repository.tags["v1"])
    assert {ONE, "processor_config.json", "tokenizer.json", "mm_remote_code.py", "manifest.json", "README.md"} <= {
        *files
    }
    assert "import_mm.py" not in files and files[ONE] == before[ONE]
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == before
    faults = "[one.told for one in mm.verify(huggingface_hub.snapshot_download('tester/first')) if one.is_fault]"
    assert ask(faults) == []
    assert set(done["uploads"]) == {*files} - {".gitattributes"}


def test_what_an_earlier_push_wrote_goes_and_what_others_wrote_stays(hub, ask, folder):
    ask(f"saved({folder!r}, 0, '40KB') and 1")
    Path(folder, "chat_template.jinja").write_text("{{ messages }}")
    Path(folder, "curves.csv").write_text("1,2")
    ask(f"mm.write_manifest({folder!r})")
    ask(f"pushed({folder!r}, 'tester/stale')")
    assert {INDEX, "curves.csv", "chat_template.jinja"} < {*hub.files("tester/stale")}
    ask("huggingface_hub.HfApi().upload_file(path_or_fileobj=b'x', path_in_repo='notes.txt', repo_id='tester/stale')")
    ask(f"globals().update(model=saved({folder!r}, 1))")
    plan = ask(f"pushed({folder!r}, 'tester/stale', dry_run=True)")
    assert {INDEX, "curves.csv", "chat_template.jinja"} < {*plan["deletes"]} and plan["url"] is None
    commits = len(hub.repositories["tester/stale"].commits)
    assert ask(f"pushed({folder!r}, 'tester/stale')")["deletes"] == plan["deletes"]
    files = {*hub.files("tester/stale")}
    assert len(hub.repositories["tester/stale"].commits) == commits + 1
    assert not files & {*plan["deletes"]} and {ONE, "notes.txt"} < files
    assert ask("same(model, 'tester/stale')") is True


def test_a_card_that_was_edited_on_the_hub_stays(hub, ask, folder):
    Path(folder, "README.md").write_text("# One\n")
    ask(f"mm.write_manifest({folder!r})")
    assert "is new" in ask(f"pushed({folder!r}, 'tester/card')")["card"]
    Path(folder, "README.md").write_text("# Two\n")
    ask(f"mm.write_manifest({folder!r})")
    assert "last push" in ask(f"pushed({folder!r}, 'tester/card')")["card"]
    edit = "path_or_fileobj=b'# Edited', path_in_repo='README.md', repo_id='tester/card'"
    ask(f"huggingface_hub.HfApi().upload_file({edit}) and 1")
    assert "edited" in ask(f"pushed({folder!r}, 'tester/card')")["card"]
    assert hub.files("tester/card")["README.md"] == b"# Edited"
    faults = "[one.told for one in mm.verify(huggingface_hub.snapshot_download('tester/card')) if one.is_fault]"
    assert ask(faults) == []
    ask(f"pushed({folder!r}, 'tester/card', replace_card=True)")
    assert hub.files("tester/card")["README.md"] == b"# Two\n"


def test_a_branch_and_a_pull_request_leave_main_alone(hub, ask, folder):
    ask(f"globals().update(first=saved({folder!r}, 0)) or pushed({folder!r}, 'tester/refs')")
    ask(f"globals().update(second=saved({folder!r}, 1)) or pushed({folder!r}, 'tester/refs', revision='next')")
    done = ask(f"globals().update(third=saved({folder!r}, 2)) or pushed({folder!r}, 'tester/refs', create_pr=True)")
    assert done["url"].endswith("tester/refs/discussions/1")
    load = "huggingface_hub.snapshot_download('tester/refs', revision={!r})"
    for name, revision in {"first": "main", "second": "next", "third": "refs/pr/1"}.items():
        assert ask(f"same({name}, {load.format(revision)})") is True
    assert "merged" in ask(f"pushed({folder!r}, 'tester/refs', create_pr=True, tag='v1')")[2]


def test_a_private_repository_and_a_tag_that_exists(hub, ask, folder):
    ask(f"pushed({folder!r}, 'tester/private', private=True, tag='v1')")
    assert hub.repositories["tester/private"].private
    commits = len(hub.repositories["tester/private"].commits)
    base, _, text = ask(f"pushed({folder!r}, 'tester/private', tag='v1')")
    assert base == "ValueError" and "'v1'" in text and len(hub.repositories["tester/private"].commits) == commits


def test_a_dry_run_changes_nothing(hub, ask, folder):
    done = ask(f"pushed({folder!r}, 'tester/dry', dry_run=True, tag='v1', revision='other')")
    assert done["is_new"] and "tester/dry" not in hub.repositories
    ask(f"pushed({folder!r}, 'tester/dry')")
    ask(f"pushed({folder!r}, 'tester/dry', dry_run=True, tag='v1', revision='other')")
    assert set(hub.repositories["tester/dry"].branches) == {"main"}


def test_a_folder_with_faults_is_not_pushed(hub, ask, folder):
    data = bytearray(Path(folder, ONE).read_bytes())
    data[-100] ^= 1
    Path(folder, ONE).write_bytes(data)
    base, _, text = ask(f"pushed({folder!r}, 'tester/broken')")
    assert base == "ValueError" and "mm verify" in text and ONE in text and "tester/broken" not in hub.repositories
    assert "Hub id" in ask(f"saved({folder!r}) and pushed({folder!r}, 'no id at all')")[2]


def test_a_push_of_what_is_there_makes_no_commit(hub, ask, folder):
    ask(f"pushed({folder!r}, 'tester/twice')")
    done = ask(f"pushed({folder!r}, 'tester/twice', tag='v1')")
    assert done["is_unchanged"] and list(hub.repositories["tester/twice"].messages.values())[1:] == ["Upload model"]
    assert hub.repositories["tester/twice"].tags["v1"] == hub.repositories["tester/twice"].branches["main"]


def test_training_state_and_pickles_stay_at_home_and_so_does_the_token(hub, ask, folder):
    behind = ["optimizer.pt", "training_args.bin", "trainer_state.json", ".lock", "_draft", "rng_state_1.pth"]
    for name in behind:
        Path(folder, name).write_text(json.dumps({"token": TOKEN}))
    Path(folder, "checkpoint-8").mkdir()
    ask(f"mm.write_manifest({folder!r})")
    assert ask(f"sorted(pushed({folder!r}, 'tester/clean')['left_out'])") == sorted([*behind, "checkpoint-8"])
    assert not {*behind} & {*hub.files("tester/clean")}
    Path(folder, "notes.txt").write_text(f"token: {TOKEN}")
    ask(f"mm.write_manifest({folder!r})")
    base, _, text = ask(f"pushed({folder!r}, 'tester/clean')")
    assert base == "ValueError" and "notes.txt" in text and TOKEN not in text
    assert not any(TOKEN.encode() in data for data in hub.blobs.values())


def test_an_adapter_says_how_it_is_pushed(ask, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in ask(f"pushed({str(tmp_path)!r}, 'tester/adapter')")[2]


LOAD = """
import json, sys
sys.modules.update(mm=None)  # an import fails
import transformers
name = sys.argv[1]
model = transformers.AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=True)
print(json.dumps([type(model).__name__, type(processor).__name__, type(model).__module__.split(".")[0]]))
"""


def run(hub, home: Path, *command: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    environment = {**os.environ, **hub.environment(home, token)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_the_command_pushes_what_loads_without_the_package(hub, ask, folder, tmp_path):
    done = run(hub, tmp_path / "home", MM, "push", folder, "tester/told", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert {"upload", "leave", "tester/told"} & {line.split()[0] for line in done.stdout.splitlines()}
    assert "tester/told" not in hub.repositories
    done = run(
        hub, tmp_path / "home", MM, "push", folder, "tester/told", "--private", "--tag", "v1", "--message", "so"
    )
    assert done.returncode == 0 and "/tester/told/commit/" in done.stdout, done.stderr
    assert hub.repositories["tester/told"].private and TOKEN not in done.stdout + done.stderr
    done = run(hub, tmp_path / "reader", sys.executable, "-c", LOAD, "tester/told")
    assert done.returncode == 0, done.stderr
    names = ["MMForConditionalGeneration", "MMProcessor", "transformers_modules"]
    assert json.loads(done.stdout.splitlines()[-1]) == names
    done = run(hub, tmp_path / "home", MM, "push", folder, "tester/told", token=STRANGERS_TOKEN)
    assert done.returncode == 2 and "mm: " in done.stderr and "rights" in done.stderr, done.stderr
