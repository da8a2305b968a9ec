"""`mm serve` on loopback, by the clients that people use: OpenAI's, schemathesis, plain HTTP (`make test-apps`)."""

import subprocess
import sys
import urllib.error
import urllib.request
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from served import KEY, PICTURES, ask, counter, data_url, message, served

from mm import MMForImageTextRetrieval, MMForSpeechSeq2Seq, MMProcessor
from mm.cli.caption import PACKAGED_MODEL, caption
from mm.cli.models import load_head
from mm.cli.transcribe import transcribe
from whispers import saved_whisper

pytestmark = pytest.mark.apps
SOUND = (np.random.default_rng(0).standard_normal(40000) / 5).astype(np.float32)


@pytest.fixture(scope="module")
def models(saved_retriever, tmp_path_factory):
    """Folders of a retrieval model and a Whisper, and a sound."""
    import soundfile

    folder = tmp_path_factory.mktemp("served")
    saved_retriever(folder / "finder")
    saved_whisper(folder / "whisper").rename(folder / "ears")
    soundfile.write(folder / "sound.wav", SOUND, 16000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def server(models):
    names = (f"mm-tiny={PACKAGED_MODEL}", f"finder={models / 'finder'}", f"ears={models / 'ears'}")
    with served(*names, "--api-key", KEY) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(server):
    openai = import_module("openai")
    return openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def captions():
    """What `mm caption` says of each picture."""
    return {found.path: found.caption for found in caption(PICTURES, batch_size=1)}


# ---- OpenAI's client ------------------------------------------------------------------------------------------------


def test_a_chat_about_a_picture_is_its_caption_whole_and_in_parts(client, captions):
    for path in PICTURES[:3]:
        whole = client.chat.completions.create(model="mm-tiny", messages=message(path))
        assert whole.choices[0].message.content == captions[path] and whole.choices[0].finish_reason == "stop"
        assert whole.usage.completion_tokens > 0
        parts = list(
            client.chat.completions.create(
                model="mm-tiny", messages=message(path), stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == captions[path]
        assert parts[-1].usage == whole.usage and parts[-2].choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model="mm-tiny", messages=message(PICTURES[0]), max_tokens=1)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


def test_drawn_words_are_those_of_their_seed(client):
    drawn = [
        client.chat.completions.create(
            model="mm-tiny", messages=message(PICTURES[0]), temperature=2.0, seed=seed
        ).choices[0].message.content
        for seed in (1, 1, 2, 3, 4)
    ]  # fmt: skip
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_embeddings_are_those_of_encode(client, models):
    model = MMForImageTextRetrieval.from_pretrained(models / "finder")
    found = client.embeddings.create(model="finder", input=["a red cat", "a dog"])
    plain = client.embeddings.create(model="finder", input=["a red cat", "a dog"], encoding_format="float")
    expected = model.encode(["a red cat", "a dog"])
    for answer in (found, plain):
        torch.testing.assert_close(torch.tensor([one.embedding for one in answer.data]), expected, rtol=0, atol=1e-5)
    items = [{"image": data_url(PICTURES[0])}, {"image": data_url(PICTURES[0]), "text": "a cat"}]
    both = client.embeddings.create(model="finder", input=items)
    expected = model.encode([PICTURES[0], {"image": PICTURES[0], "text": "a cat"}])
    torch.testing.assert_close(torch.tensor([one.embedding for one in both.data]), expected, rtol=0, atol=1e-5)


def test_a_model_of_several_heads_does_what_each_of_them_does(captions):
    """The model in the package writes and compares: one name, and the head that a route needs."""
    model, processor = load_head(None, ("MMForImageTextRetrieval",))
    with served() as (address, _):
        assert [one["id"] for one in ask(address, "/v1/models")[1]["data"]] == ["mm-tiny"]
        status, found = ask(address, "/caption", {"image": data_url(PICTURES[0]), "model": "mm-tiny"})
        assert status == 200 and found["caption"] == captions[PICTURES[0]]
        items = ["a rocket", {"image": data_url(PICTURES[0])}]
        status, found = ask(address, "/v1/embeddings", {"input": items, "model": "mm-tiny"})
        assert status == 200
        expected = model.encode(["a rocket", PICTURES[0]], processor=processor)
        given = torch.tensor([one["embedding"] for one in found["data"]])
        torch.testing.assert_close(given, expected.cpu(), rtol=0, atol=1e-5)
        names = [path.stem.replace("_", " ") for path in PICTURES]
        status, found = ask(address, "/classify", {"image": data_url(PICTURES[0]), "labels": names})
        assert status == 200 and found["labels"][0]["label"] == names[0] and found["model"] == "mm-tiny"
        assert counter(address, r'mm_batch_size_count{model="mm-tiny"}') >= 3
        assert counter(address, r'mm_queue{model="mm-tiny"}') == 0


def test_a_transcription_is_that_of_mm_transcribe(client, models):
    ears = MMForSpeechSeq2Seq.from_pretrained(models / "ears").eval(), MMProcessor.from_pretrained(models / "ears")
    expected = " ".join(segment.text for segment in transcribe([SOUND], *ears))
    with (models / "sound.wav").open("rb") as file:
        assert client.audio.transcriptions.create(model="ears", file=file).text == expected
        file.seek(0)
        subtitles = client.audio.transcriptions.create(model="ears", file=file, response_format="srt")
    assert "-->" in subtitles and subtitles.startswith("1\n00:00:")


def test_faults_are_errors_of_the_client_in_words(client):
    openai = import_module("openai")

    def refused(kind, words, model="mm-tiny", **request):
        with pytest.raises(kind, match=words):
            client.chat.completions.create(model=model, **{"messages": message(PICTURES[0]), **request})

    refused(openai.NotFoundError, "no model 'other'", model="other")
    refused(openai.BadRequestError, "needs a model that writes", model="finder")
    link = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}
    refused(openai.BadRequestError, "does not fetch", messages=[{"role": "user", "content": [link]}])
    file = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    refused(openai.BadRequestError, "reads no paths", messages=[{"role": "user", "content": [file]}])
    refused(openai.BadRequestError, "chat template", messages=[{"role": "system", "content": "be brief"}])
    refused(openai.BadRequestError, "max_new_tokens", max_tokens=100000)
    refused(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f"}}])
    refused(openai.BadRequestError, "frequency_penalty", frequency_penalty=1.0, stream=True)
    with pytest.raises(openai.BadRequestError, match=r"timestamp_granularities\[\]: not known"):
        words = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
        client.audio.transcriptions.create(model="ears", file=("a.wav", b"x"), **words)
    stranger = openai.OpenAI(base_url=str(client.base_url), api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert [model.id for model in client.models.list()] == ["mm-tiny", "finder", "ears"]


@pytest.mark.parametrize("words", [slice(0, 2), slice(1, 3), slice(1, 2)])
def test_a_stop_ends_the_text_alike_in_whole_and_in_parts(client, captions, words):
    path = next(path for path, text in captions.items() if len(text.split()) > 3)
    stop = " ".join(captions[path].split()[words])
    request = {"model": "mm-tiny", "messages": message(path), "stop": stop}
    (whole,) = client.chat.completions.create(**request).choices
    parts = [part.choices[0] for part in client.chat.completions.create(**request, stream=True)]
    text = captions[path][: captions[path].index(stop)].rstrip()
    assert whole.message.content == "".join(part.delta.content or "" for part in parts) == text
    assert whole.finish_reason == parts[-1].finish_reason == "stop"


# ---- MM's own routes ------------------------------------------------------------------------------------------------


def test_a_second_question_about_a_picture_encodes_nothing(server):
    body = {"image": data_url(PICTURES[5]), "questions": ["a", "the", "two"]}
    status, first = ask(server, "/answer", body)
    new = counter(server, r'mm_pictures_total{found="no",model="mm-tiny"}')
    assert status == 200 and [one["question"] for one in first["answers"]] == body["questions"]
    assert ask(server, "/answer", {**body, "questions": ["two"]})[1]["answers"] == first["answers"][2:]
    assert counter(server, r'mm_pictures_total{found="no",model="mm-tiny"}') == new


def test_labels_answers_and_words_are_ranked_and_shown(server, captions):
    status, found = ask(server, "/classify", {"image": data_url(PICTURES[0]), "labels": ["cat", "dog"]})
    assert status == 200 and found["model"] == "finder"
    assert sum(one["score"] for one in found["labels"]) == pytest.approx(1, abs=1e-5)
    right = captions[PICTURES[0]]
    body = {"image": data_url(PICTURES[0]), "questions": ["a"], "answers": ["zebra crossing sign", right]}
    status, found = ask(server, "/answer", body)
    assert status == 200 and found["answers"][0]["answer"] == right
    status, found = ask(server, "/explain", {"image": data_url(PICTURES[0])})
    assert status == 200 and " ".join(found["words"]) == right


def test_a_form_is_read_as_json_is(server, captions):
    head = '--XX\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    beams = head.format("num_beams").encode() + b"2"
    parts = [beams, head.format('image"; filename="a.png').encode() + PICTURES[0].read_bytes()]
    body = b"\r\n".join(parts) + b"\r\n--XX--\r\n"
    status, found = ask(server, "/caption", body, **{"Content-Type": "multipart/form-data; boundary=XX"})
    assert status == 200 and found["caption"] == next(iter(caption([PICTURES[0]], num_beams=2))).caption


@pytest.mark.parametrize(
    ("route", "body", "status", "words"),
    [
        ("/caption", b"{", 400, "JSON"),
        ("/caption", {"image": "data:image/png;base64,AAAA"}, 400, "cannot decode the 3 bytes given"),
        ("/caption", {"image": "data:image/png;base64,A*"}, 400, "no base64"),
        ("/caption", {"image": "../../etc/passwd"}, 400, "reads no paths"),
        ("/caption", {"image": "data:;base64,AAAA", "num_beams": 99}, 400, "num_beams"),
        ("/classify", {"text": "a"}, 400, "image and labels"),
        ("/classify", {"image": data_url(PICTURES[0]), "labels": ["cat,dog"]}, 400, "one label, 'cat,dog': give each"),
        ("/classify", {"image": data_url(PICTURES[0]), "labels": "cat,dog"}, 400, "labels: Input should be a valid"),
        ("/v1/embeddings", {"input": [{}]}, 400, "holds nothing"),
        ("/v1/embeddings", {"input": [" ".join(["cat"] * 3000)]}, 400, "position"),
        ("/explain", {"image": data_url(PICTURES[0]), "text": "a " * 500}, 400, "tokens"),
        ("/classify", {"image": data_url(PICTURES[0]), "labels": ["cat " * 9999]}, 400, "letters"),
        (
            "/classify",
            {"image": data_url(PICTURES[0]), "labels": ["a"], "template": "a" * 20001 + "{}"},
            400,
            "letters",
        ),
        ("/answer", {"image": "data:,", "questions": ["a"], "answers": ["a" * 20001]}, 400, "letters"),
        ("/v1/chat/completions", {"messages": message(PICTURES[0], text="a" * 20001)}, 400, "letters"),
        ("/v1/chat/completions", {"messages": message(PICTURES[0]), "top_p": 0.5}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": message(PICTURES[0]), "temperature": 0, "seed": 1}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": message(PICTURES[0]), "temperature": 1e-320}, 400, "temperature"),
        (
            "/v1/embeddings",
            {"input": ["a", 3]},
            400,
            "input: Input should be a valid string; input.1: Input should be a",
        ),
        (
            "/v1/chat/completions",
            {"messages": message(PICTURES[0]), "temperature": -1},
            400,
            "temperature: Input should be greater than or equal to 0 or Input should be greater than or equal to 0.01",
        ),
        ("/caption", {"imag/e ": 1}, 400, "image: Field required; imag/e : Extra inputs"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_are_told_in_words(server, route, body, status, words):
    found, answer = ask(server, route, body)
    assert found == status and words in answer["error"]["message"]
    assert "[0]" not in answer["error"]["message"]


def test_keys_and_limits_hold(server):
    assert ask(server, "/caption", {"image": "x"}, key=None)[0] == 401
    assert ask(server, "/metrics", key="wrong")[0] == 401
    assert ask(server, "/health", key=None) == (200, {"status": "ok", "models": ["mm-tiny", "finder", "ears"]})
    with pytest.raises((urllib.error.URLError, ConnectionError)) as caught:
        status, _ = ask(server, "/caption", b"x" * (33 << 20))
        raise ConnectionError(status)
    assert caught.value.args[0] == 413 or isinstance(caught.value.args[0], OSError)


def test_files_of_one_folder_may_be_named_if_allowed(tmp_path, captions):
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "a.png").write_bytes(PICTURES[0].read_bytes())
    (tmp_path / "secret.png").write_bytes(PICTURES[1].read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with served("--allow-paths", folder) as (address, _):
        assert ask(address, "/caption", {"image": "a.png"}, key=None)[1]["caption"] == captions[PICTURES[0]]
        for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "none.png", "a\0.png"):
            status, answer = ask(address, "/caption", {"image": name}, key=None)
            assert status == 400 and "names no file" in answer["error"]["message"], name


def test_schemathesis_finds_no_fault(server, tmp_path):
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{server}/openapi.json", "--header",
        f"Authorization: Bearer {KEY}", "--max-examples", "15", "--seed", "1", "--generation-database", "none",
        "--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all",
        "--exclude-checks", "positive_data_acceptance",  # no schema says which bytes are a picture
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
