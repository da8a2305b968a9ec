"""The Hub on the loopback speaks to huggingface_hub as the Hub does: references, proposals, access, ranges, faults."""

import pytest

from hub_server import Fault, HubServer

USER = """
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()

def push(repository, text, name="config.json", **how):
    return api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id=repository, **how)

def read(repository, name="config.json", **how):
    return Path(hf_hub_download(repository, name, **how)).read_text()
"""
CHUNK, CUT, BIG = 10 * 2**20, 10 * 2**20 + 5, 10 * 2**20 + 1000


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(hub):
    yield
    hub.faults.clear()


def made(ask, name: str, **how) -> str:
    assert ask(f"api.create_repo('tester/{name}', **{how}) and 1") == 1
    assert ask(f"push('tester/{name}', 'first') and 1") == 1
    return f"tester/{name}"


def test_branches_tags_and_commits_keep_what_they_were_made_of(ask):
    name = made(ask, "references")
    commit = ask(f"api.model_info('{name}').sha")
    ask(f"api.create_branch('{name}', branch='side')")
    ask(f"api.create_tag('{name}', tag='v1', revision='{commit}')")
    ask(f"push('{name}', 'second') and 1")
    ask(f"push('{name}', 'aside', revision='side') and 1")
    wanted = {"main": "second", "side": "aside", "v1": "first", commit: "first"}
    assert {revision: ask(f"read('{name}', revision='{revision}')") for revision in wanted} == wanted
    names = "[sorted(one.name for one in kind) for kind in (refs.branches, refs.tags)]"
    assert ask(f"(lambda refs: {names})(api.list_repo_refs('{name}'))") == [["main", "side"], ["v1"]]
    assert "already" in ask(f"api.create_tag('{name}', tag='v1')")[2]
    assert "already" in ask(f"api.create_branch('{name}', branch='side')")[2]
    assert ask(f"[one.title for one in api.list_repo_commits('{name}')]")[-1] == "initial commit"
    ask(f"api.delete_branch('{name}', branch='side'), api.delete_tag('{name}', tag='v1')")
    assert ask(f"read('{name}', revision='side', force_download=True)")[1] == "RevisionNotFoundError"


def test_a_proposal_is_a_branch_until_it_is_merged(ask, stranger):
    name = made(ask, "proposals")
    assert stranger(f"push('{name}', 'mine')")[1] == "HfHubHTTPError"
    assert stranger(f"push('{name}', 'proposed', create_pr=True).pr_num") == 1
    assert ask(f"[read('{name}', revision=one) for one in ('main', 'refs/pr/1')]") == ["first", "proposed"]
    assert ask(f"api.create_pull_request('{name}', title='another').num") == 2
    ask(f"push('{name}', 'more', revision='refs/pr/2') and 1")
    pulls = f"[one.ref for one in api.list_repo_refs('{name}', include_pull_requests=True).pull_requests]"
    assert ask(pulls) == ["refs/pr/1", "refs/pr/2"]
    assert ask(f"api.merge_pull_request('{name}', 1) or 1") == 1
    assert ask(f"read('{name}')") == "proposed"


def test_a_private_repository_is_not_found_by_others(hub, ask, stranger):
    name = made(ask, "private", private=True)
    for look in (f"read('{name}')", f"api.model_info('{name}')", f"read('{name}', token=False)"):
        assert stranger(look)[1] == "RepositoryNotFoundError"
    assert ask(f"read('{name}')") == "first"
    assert {404, 401} == {404 if one.user else 401 for one in hub.seen if name in one.line and one.user != "tester"}


def test_a_gated_repository_is_seen_and_not_read(hub, ask, stranger):
    name = made(ask, "gated")
    hub.repositories[name].gated = True
    assert stranger(f"api.model_info('{name}').gated") == "auto"
    for how, words in (("", "not in the authorized list"), (", token=False", "Please log in")):
        _, kind, text = stranger(f"read('{name}'{how})")
        assert kind == "GatedRepoError" and words in text
    assert ask(f"read('{name}', force_download=True)") == "first"


def test_a_cut_download_goes_on_where_it_was_cut(hub, ask):
    """huggingface_hub keeps whole chunks of 10 MB."""
    name = made(ask, "cut")
    assert ask(f"push('{name}', ('0123456789' * {BIG})[:{BIG}], 'model.safetensors') and 1") == 1
    hub.faults.append(Fault(f"GET /{name}/resolve/.*/model.safetensors", cut=CUT, times=1))
    assert ask(f"read('{name}', 'model.safetensors') == ('0123456789' * {BIG})[:{BIG}]") is True
    ranges = [one.range for one in hub.seen if one.line == f"GET /{name}/resolve/main/model.safetensors"]
    assert ranges == [None, f"bytes={CHUNK}-"]


def test_a_fault_befalls_the_nth_request(hub, ask):
    name = made(ask, "faults")
    hub.faults.append(Fault(f"GET /api/models/{name}$", 503, "busy", after=1, times=1))
    look = f"api.model_info('{name}').id"
    assert [ask(look), ask(look)[1], ask(look)] == [name, "HfHubHTTPError", name]
    hub.faults = [Fault(f"GET /api/models/{name}$", wait=0.3)]
    assert ask(f"api.model_info('{name}', timeout=0.1)")[1] == "ReadTimeout"
    assert ask(look) == name


def test_a_commit_on_an_older_one_is_refused(ask):
    name = made(ask, "parents")
    first = ask(f"api.model_info('{name}').sha")
    ask(f"push('{name}', 'second') and 1")
    assert "A commit has happened since" in ask(f"push('{name}', 'third', parent_commit='{first}')")[2]
    assert ask(f"api.delete_repo('{name}') or 1") == 1
    assert ask(f"api.model_info('{name}')")[1] == "RepositoryNotFoundError"
