"""Weights on a Hub on the loopback: a push replaces what it does not write, two sets are refused, errors say what the
server answered. One process of a user, started once, runs all of it."""

import json
from pathlib import Path

import pytest

from hub_server import Fault, HubServer

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"

USER = f"""
import torch, transformers, huggingface_hub
import mm
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_config, make_visible

def built(seed):
    torch.manual_seed(seed)
    return make_visible(mm.MMForConditionalGeneration._from_config(build_config()))

old, new = built(0), built(1)
loads = mm.MMForConditionalGeneration.from_pretrained

def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


SHARDS = 'max_shard_size="40KB"'
LAYOUTS = {"one": "", "shards": SHARDS, "larger": 'max_shard_size="90KB"'}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("one", "shards"),
        pytest.param("shards", "one", marks=pytest.mark.slow),
        pytest.param("shards", "larger", marks=pytest.mark.slow),
    ],
)
def test_what_was_pushed_last_loads_and_nothing_else_is_left(hub, ask, first, second):
    name, alone = f"tester/{first}-{second}", f"tester/{second}-alone"
    ask(f"old.push_to_hub('{name}', {LAYOUTS[first]}) and 1")
    commits = len(hub.repositories[name].commits)
    ask(f"new.push_to_hub('{name}', {LAYOUTS[second]}) and 1")
    ask(f"new.push_to_hub('{alone}', {LAYOUTS[second]}) and 1")
    assert len(hub.repositories[name].commits) == commits + 1  # one commit adds and deletes
    assert hub.files(name).keys() == hub.files(alone).keys()
    assert ask(f"same(loads('{name}'), new)") is True


def test_saving_with_a_push_and_other_branches_and_variants(hub, ask, tmp_path):
    ask("old.push_to_hub('tester/mixed') and 1")
    ask(f"old.save_pretrained({str(tmp_path)!r}, push_to_hub=True, repo_id='tester/mixed', variant='half') or 1")
    assert {ONE, "model.half.safetensors"} < hub.files("tester/mixed").keys()
    ask(f"new.save_pretrained({str(tmp_path)!r}, push_to_hub=True, repo_id='tester/mixed', {SHARDS}) or 1")
    assert {INDEX, "model.half.safetensors"} < hub.files("tester/mixed").keys()
    assert ONE not in hub.files("tester/mixed")
    assert ask("[same(loads('tester/mixed'), new), same(loads('tester/mixed', variant='half'), old)]") == [True, True]


def test_a_repository_with_two_sets_is_refused_by_both_names(hub, ask):
    ask("old.push_to_hub('tester/both') and 1")
    ask(f"new.push_to_hub('tester/shards', {SHARDS}) and 1")
    repository = hub.repositories["tester/both"]
    repository.add("main", {**repository.tree("main")[1], **hub.repositories["tester/shards"].tree("main")[1]})
    for loader in ("loads", "transformers.AutoModel.from_pretrained"):
        base, _, text = ask(f"{loader}('tester/both') and 1")
        assert "'tester/both' holds two sets of weights, model.safetensors and model.safetensors.index.json" in text
        assert base == "ValueError"


def test_an_index_on_the_hub_that_leads_elsewhere_is_refused(hub, ask):
    ask(f"new.push_to_hub('tester/above', {SHARDS}) and 1")
    files = hub.files("tester/above")
    index = json.loads(files[INDEX])
    index["weight_map"] = {name: "../" + file for name, file in index["weight_map"].items()}
    repository = hub.repositories["tester/above"]
    moved = hub.store(json.dumps(index).encode(), False)
    repository.add("main", {**repository.tree("main")[1], INDEX: moved})
    assert "without a path" in ask("loads('tester/above') and 1")[2]


@pytest.mark.parametrize(("name", "status"), [*((ONE, s) for s in (401, 403, 429, 500, 503)), ("config.json", 403)])
def test_what_the_server_answered_is_said(hub, ask, name, status):
    repository = f"tester/faulty-{status}-{name}"  # nothing of it is in the cache
    if repository not in hub.repositories:
        ask(f"old.push_to_hub('{repository}') and 1")
    hub.faults.append(Fault(rf"(GET|HEAD) /{repository}/resolve/.*/{name}", status, f"because of {status}"))
    try:
        base, _, text = ask(f"loads('{repository}') and 1")
    finally:
        hub.faults.clear()
    assert base == "OSError" and f"{name} of '{repository}' could not be fetched: the Hub answered {status}" in text
    assert f"because of {status}" in text


def test_wrong_bytes_from_the_hub_are_found(hub, ask, tmp_path):
    ask(f"old.save_pretrained({str(tmp_path)!r}) or mm.write_manifest({str(tmp_path)!r}) or 1")
    ask("huggingface_hub.HfApi().create_repo('tester/hashed') and 1")
    ask(f"huggingface_hub.HfApi().upload_folder(repo_id='tester/hashed', folder_path={str(tmp_path)!r}) and 1")
    ask("old.push_to_hub('tester/no-manifest') and 1")
    assert "manifest.json" not in hub.files("tester/no-manifest")
    blob = hub.repositories["tester/hashed"].tree("main")[1][ONE].sha256
    for name in ("tester/hashed", "tester/no-manifest"):
        folder = str(tmp_path / name.replace("/", "-"))
        assert ask(f"same(loads('{name}', verify_hashes=True, cache_dir={folder!r}), old)") is True
    whole = hub.blobs[blob]
    try:
        for name, wrong in (("cut", whole[:-8]), ("other", whole[:-1] + bytes([whole[-1] ^ 1]))):
            hub.blobs[blob] = wrong
            for repository in ("tester/hashed", "tester/no-manifest"):
                folder = str(tmp_path / f"{name}-{repository[7:]}")
                base, _, text = ask(f"loads('{repository}', verify_hashes=True, cache_dir={folder!r}) and 1")
                assert base in ("OSError", "ValueError") and ONE in text, (name, repository)
    finally:
        hub.blobs[blob] = whole


def test_a_push_of_new_weights_takes_the_manifest_of_the_old_ones_away(hub, ask):
    assert "manifest.json" in hub.files("tester/hashed")
    ask("new.push_to_hub('tester/hashed') and 1")
    assert not {"manifest.json", "forward.json"} & hub.files("tester/hashed").keys()
    assert ask("same(loads('tester/hashed', verify_hashes=True), new)") is True


PACKAGED = str(Path(__file__).parents[1] / "checkpoints" / "mm-tiny")
TEMPLATE = "chat_template.jinja"
LOADS = {
    "config": ("mm.MMConfig", ["config.json"]),
    "model": ("mm.MMForConditionalGeneration", ["generation_config.json", "model-00002-of-", INDEX]),
    "processor": ("mm.MMProcessor", ["processor_config.json", "tokenizer_config.json", "tokenizer.json", TEMPLATE]),
}
FILES = [(class_name, name) for class_name, names in LOADS.values() for name in names]


@pytest.fixture(scope="module")
def whole(hub, ask):
    """A repository with a model in shards and a processor with a chat template."""
    ask(f"new.push_to_hub('tester/whole', {SHARDS}) and 1")
    ask(f"mm.MMProcessor.from_pretrained({PACKAGED!r}).push_to_hub('tester/whole') and 1")
    repository = hub.repositories["tester/whole"]
    repository.add("main", {**repository.tree("main")[1], TEMPLATE: hub.store(b"{{ messages }}", False)})
    return "tester/whole"


@pytest.mark.parametrize(("class_name", "name"), FILES)
@pytest.mark.parametrize("status", [403, 503])
def test_no_file_is_taken_for_absent_that_the_server_did_not_give(hub, ask, whole, tmp_path, class_name, name, status):
    hub.faults.append(Fault(f"(GET|HEAD) /{whole}/resolve/.*/{name}", status, "because of it"))
    try:
        base, _, text = ask(f"{class_name}.from_pretrained('{whole}', cache_dir={str(tmp_path)!r}) and 1")
    finally:
        hub.faults.clear()
    assert base == "OSError" and name in text
    assert f"could not be fetched: the Hub answered {status}" in text


@pytest.mark.parametrize(("class_name", "name"), FILES)
@pytest.mark.parametrize(("status", "times"), [(503, 1), (500, 3), (429, 1), (0, 1)])
def test_a_server_that_is_busy_is_asked_again(hub, ask, whole, tmp_path, class_name, name, status, times):
    hub.faults.append(Fault(f"GET /{whole}/resolve/.*/{name}", status, times=times))
    hub.faults.append(Fault(f"GET /api/models/{whole}(/revision/main)?$", status, times=times))
    try:
        found = ask(f"type({class_name}.from_pretrained('{whole}', cache_dir={str(tmp_path)!r})).__name__")
    finally:
        left = [fault.times for fault in hub.faults]
        hub.faults.clear()
    assert found == class_name.removeprefix("mm.") and left[0] == 0


def test_what_is_in_the_cache_is_used_while_the_hub_is_down(hub, ask, whole, tmp_path):
    load = f"type({{}}.from_pretrained('{whole}', cache_dir={str(tmp_path)!r})).__name__"
    classes = [class_name for class_name, _ in LOADS.values()]
    assert [ask(load.format(name)) for name in classes] == [name.removeprefix("mm.") for name in classes]
    hub.faults.append(Fault("", 503))
    try:
        assert [ask(load.format(name)) for name in classes] == [name.removeprefix("mm.") for name in classes]
    finally:
        hub.faults.clear()


@pytest.mark.parametrize("class_name", [class_name for class_name, _ in LOADS.values()])
def test_a_hub_that_is_down_is_said(hub, ask, whole, tmp_path, class_name):
    hub.faults.append(Fault("", 503, "because of it"))
    try:
        base, _, text = ask(f"{class_name}.from_pretrained('{whole}', cache_dir={str(tmp_path)!r}) and 1")
    finally:
        hub.faults.clear()
    assert base == "OSError" and "the Hub answered 503" in text and f"'{whole}'" in text


def test_an_adapter_beside_a_whole_model_of_another_name_is_refused(hub, ask, whole, tmp_path):
    repository = hub.repositories[whole]
    files, name = repository.tree("main")[1], "tester/with-adapter"
    ask(f"old.push_to_hub('{name}') and 1")
    adapter = hub.store(json.dumps({"base_model_name_or_path": "somebody/else"}).encode(), False)
    hub.repositories[name].add("main", {**files, "adapter_config.json": adapter})
    base, _, text = ask(f"loads('{name}', cache_dir={str(tmp_path)!r}) and 1")
    assert base == "ValueError" and f"'{name}' holds a whole model and an adapter of another one" in text


TRAINER_PUSH = """(
    trainer := transformers.{kind}(new, transformers.{kind_of_arguments}(
        {folder!r}, push_to_hub=True, hub_model_id={name!r}, report_to=[], use_cpu=True)),
    trainer.push_to_hub(),
)[-1] and 1"""


@pytest.mark.parametrize("kind", ["Trainer", pytest.param("Seq2SeqTrainer", marks=pytest.mark.slow)])
def test_what_trainer_pushes_over_older_shards_loads(hub, ask, tmp_path, kind):
    """Trainer 5.23 deletes nothing of the repository that it pushes to; saving does, in the commit before."""
    name, arguments = f"tester/{kind}", kind.replace("Trainer", "TrainingArguments")
    ask(f"old.push_to_hub('{name}', {SHARDS}) and 1")
    call = TRAINER_PUSH.format(kind=kind, kind_of_arguments=arguments, folder=str(tmp_path / "run"), name=name)
    assert ask(call) == 1
    assert ONE in hub.files(name) and INDEX not in hub.files(name)
    assert "Delete" in [*hub.repositories[name].messages.values()][-2]
    assert ask(f"same(loads('{name}'), new)") is True
