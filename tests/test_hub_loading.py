"""Loading from a Hub on the loopback: revisions, subfolders, private and gated repositories, offline, cut files."""

import json
from pathlib import Path

import pytest
from hub_user import HubUser

from hub_server import Fault, HubServer

pytestmark = pytest.mark.slow

ONE = "model.safetensors"
USER = f"""
from pathlib import Path
import torch, transformers, huggingface_hub, mm
from PIL import Image
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_config, make_visible


words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{{number}}" for number in range(45))]
tokenizer = transformers.BertTokenizer(vocab={{word: number for number, word in enumerate(words)}})

def built(seed, **fields):
    torch.manual_seed(seed)
    return make_visible(mm.MMForConditionalGeneration._from_config(build_config(**fields)))

def processor(side, **settings):
    return mm.MMProcessor(mm.MMImageProcessorPil(size={{"height": side, "width": side}}), tokenizer, **settings)

def drawn():
    return Image.radial_gradient("L").convert("RGB")

def answered(name, processor):
    pipe = transformers.pipeline("mm-vqa", model=name, processor=processor)
    return pipe(image=drawn(), question="w3 w4", max_new_tokens=6)[0]["answer"]

def by_hand(name, side):
    model, read = mm.MMForConditionalGeneration.from_pretrained(name).eval(), processor(16)
    given = read(images=[drawn()], **{{side: ["w3 w4"]}}, add_eos_token=False, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=6)
    start = given["input_ids"].shape[1] if "input_ids" in given else 1
    return read.batch_decode(ids[:, start:], skip_special_tokens=True)[0]

def mark(made):
    # What tells one revision from another: a weight of a model, the side of pictures of a processor.
    made = getattr(made, "model", made) if isinstance(made, transformers.Pipeline) else made
    if isinstance(made, mm.MMProcessor):
        return made.image_processor.size["height"]
    if isinstance(made, mm.MMConfig):
        return made.text_config.vocab_size
    return made.state_dict()["model.language_model.embed_tokens.weight"].double().sum().item()

def pipe(name, **how):
    return transformers.pipeline("image-text-to-text", model=name, **how)
"""
MODELS = ["mm.MMForConditionalGeneration.from_pretrained", "transformers.AutoModelForImageTextToText.from_pretrained"]
PROCESSORS = ["mm.MMProcessor.from_pretrained", "transformers.AutoProcessor.from_pretrained"]
LOADERS = [*MODELS, *PROCESSORS, "mm.MMConfig.from_pretrained", "pipe"]
OURS = [load for load in LOADERS if load.startswith("mm.")]
NAME = "tester/versions"


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_faults(hub):
    yield
    hub.faults.clear()


def push(ask, name: str, seed: int, **how) -> None:
    how = {name: value for name, value in how.items() if value is not None}
    assert ask(f"built({seed}).push_to_hub('{name}', **{how}) and 1") == 1
    assert ask(f"processor({16 + seed}).push_to_hub('{name}', **{how}) and 1") == 1


@pytest.fixture(scope="module")
def versions(hub, ask) -> dict[str, int]:
    """A repository with another model at each revision: {revision: seed}."""
    push(ask, NAME, 0)
    ask(f"huggingface_hub.HfApi().create_tag('{NAME}', tag='v1')")
    commit = hub.repositories[NAME].branches["main"]
    push(ask, NAME, 1, revision="side")
    ask(f"huggingface_hub.HfApi().create_pull_request('{NAME}', title='another') and 1")
    push(ask, NAME, 2, revision="refs/pr/1")
    push(ask, NAME, 3)
    return {"main": 3, "v1": 0, "side": 1, "refs/pr/1": 2, commit: 0}


@pytest.mark.parametrize("load", [load for load in LOADERS if "Config" not in load])
def test_every_kind_of_revision_loads(ask, versions, load):
    wanted = "16 + {}" if "Processor" in load else "mark(built({}))"
    for revision, seed in versions.items():
        found = ask(f"mark({load}('{NAME}', revision='{revision}')) == {wanted.format(seed)}")
        assert found is True, (revision, found)
    base, _, text = ask(f"{load}('{NAME}', revision='nowhere')")
    assert base == "OSError" and "nowhere" in text


@pytest.mark.parametrize("load", [load for load in LOADERS if load != "pipe"])
def test_a_subfolder_loads(hub, ask, versions, load, tmp_path):
    name = "tester/below"
    if name not in hub.repositories:
        ask(f"built(4).save_pretrained({str(tmp_path)!r}) or processor(20).save_pretrained({str(tmp_path)!r}) and 1")
        ask(f"huggingface_hub.HfApi().create_repo('{name}') and 1")
        upload = f"upload_folder(repo_id='{name}', folder_path={str(tmp_path)!r}, path_in_repo='a/b')"
        ask(f"huggingface_hub.HfApi().{upload} and 1")
    wanted = "20" if "Processor" in load else "built(4).config.text_config.vocab_size"
    wanted = "mark(built(4))" if load in MODELS else wanted
    assert ask(f"mark({load}('{name}', subfolder='a/b')) == {wanted}") is True


@pytest.mark.parametrize("prompt_to", ["decoder", "context"])
def test_a_model_from_the_hub_is_asked_where_it_learned_to_be(ask, prompt_to):
    """A shared text encoder: only the processor of the repository knows the side."""
    name = f"tester/asked-{prompt_to}"
    assert ask(f"built(5, share_text_encoder=True).push_to_hub('{name}') and 1") == 1
    assert ask(f"processor(16, prompt_to='{prompt_to}').push_to_hub('{name}') and 1") == 1
    for load in PROCESSORS:
        asked = f"answered('{name}', {load}('{name}'))"
        side = {"decoder": "text", "context": "context_text"}[prompt_to]
        assert ask(f"{load}('{name}').prompt_side(mm.MMConfig.from_pretrained('{name}'))") == side
        assert ask(f"{asked} == by_hand('{name}', '{side}')") is True
        other = ({"text", "context_text"} - {side}).pop()
        assert ask(f"{asked} == by_hand('{name}', '{other}')") is False


@pytest.fixture(scope="module")
def hidden(hub, ask) -> dict[str, str]:
    """{kind: repository} that the stranger may not read."""
    for kind in ("private", "gated"):
        ask(f"huggingface_hub.HfApi().create_repo('tester/{kind}', private={kind == 'private'}) and 1")
        push(ask, f"tester/{kind}", 0)
    hub.repositories["tester/gated"].gated = True
    return {"private": "tester/private", "gated": "tester/gated"}


@pytest.mark.parametrize("load", LOADERS)
def test_a_private_repository_loads_with_the_token_only(ask, stranger, hidden, load, tmp_path):
    cache = "" if load == "pipe" else f", cache_dir={str(tmp_path)!r}"
    base, _, text = stranger(f"{load}('{hidden['private']}'{cache})")
    assert base == "OSError" and "tester/private" in text and "token" in text
    if load in OURS:
        assert "the Hub answered 404" in text and "Repository Not Found" in text
    assert isinstance(stranger(f"mark({load}('{hidden['private']}', token='hf_local'))"), int | float)
    assert isinstance(ask(f"mark({load}('{hidden['private']}'))"), int | float)


@pytest.mark.parametrize("load", LOADERS)
def test_a_gated_repository_says_what_the_hub_says(ask, stranger, hidden, load):
    for how, words in (("", "not in the authorized list"), (", token=False", "log in")):
        base, _, text = stranger(f"{load}('{hidden['gated']}'{how})")
        assert base == "OSError" and words in text
    assert isinstance(ask(f"mark({load}('{hidden['gated']}'))"), int | float)


@pytest.mark.parametrize("load", OURS)
def test_a_refusal_of_everything_is_said(hub, stranger, versions, load, tmp_path):
    hub.faults = [Fault(NAME, 403, "because of it")]
    base, _, text = stranger(f"{load}('{NAME}', cache_dir={str(tmp_path)!r})")
    assert base == "OSError" and "the Hub answered 403" in text and "because of it" in text


def test_a_warm_cache_is_enough_offline(hub, ask, versions, tmp_path):
    home = {**hub.environment(tmp_path), "HF_HUB_OFFLINE": "0"}
    calls = [f"mark({load}('{NAME}', revision='v1'))" for load in LOADERS]
    with HubUser(home, USER) as first:
        found = [first(call) for call in calls]
    seen = len(hub.seen)
    with HubUser({**home, "HF_HUB_OFFLINE": "1"}, USER) as second:
        assert [second(call) for call in calls] == found
        for load in LOADERS:
            base, _, text = second(f"{load}('tester/never-seen')")
            assert base == "OSError" and "cache" in text
            assert load not in OURS or ("tester/never-seen" in text and "HF_HUB_OFFLINE" in text)
    assert len(hub.seen) == seen


@pytest.mark.parametrize("load", MODELS)
def test_a_cut_download_goes_on_where_it_was_cut(hub, ask, load, tmp_path):
    """huggingface_hub keeps whole chunks of 10 MB."""
    name, chunk = "tester/big", 10 * 2**20
    if name not in hub.repositories:
        ask("globals().update(big=built(0, text_config={'vocab_size': 200_000}))")
        ask(f"big.push_to_hub('{name}') and 1")
    assert len(hub.files(name)[ONE]) > chunk
    hub.faults = [Fault(f"GET /{name}/resolve/.*/{ONE}", cut=chunk + 5, times=1)]
    before = len(hub.seen)
    assert ask(f"mark({load}('{name}', cache_dir={str(tmp_path)!r})) == mark(big)") is True
    ranges = [one.range for one in hub.seen[before:] if "GET" in one.line and one.line.endswith(ONE)]
    assert ranges == [None, f"bytes={chunk}-"]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("status", [503, 429, 0])
def test_one_busy_answer_is_asked_again(hub, ask, versions, load, status, tmp_path):
    hub.faults = [Fault(f"(GET|HEAD) /({NAME}/resolve|api/models/{NAME})", status, times=1)]
    cache = "" if load == "pipe" else f", cache_dir={str(tmp_path)!r}"
    assert isinstance(ask(f"mark({load}('{NAME}', revision='side'{cache}))"), int | float)
    assert json.loads(hub.files(NAME)["config.json"])["model_type"] == "mm"
