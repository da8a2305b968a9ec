"""`mm serve` under load and at its end: many requests, signals, bodies that do not come (`make test-apps`)."""

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from served import KEY, PICTURES, ask, counter, data_url, message, served

from mm.cli.caption import PACKAGED_MODEL, caption

pytestmark = pytest.mark.apps


@pytest.fixture(scope="module")
def server():
    with served(f"mm-tiny={PACKAGED_MODEL}", "--api-key", KEY) as (address, _):
        yield address


@pytest.fixture(scope="module")
def captions():
    """What `mm caption` says of each picture."""
    return {found.path: found.caption for found in caption(PICTURES, batch_size=1)}


def test_under_load_every_answer_is_that_of_its_own_picture(server, captions):
    def one(number):
        path = PICTURES[number % len(PICTURES)]
        if number % 3:
            return path, ask(server, "/caption", {"image": data_url(path)})[1]["caption"]
        body = {"model": "mm-tiny", "messages": message(path), "stream": True}
        events = ask(server, "/v1/chat/completions", body)[1].split("\n\n")
        parts = [json.loads(event[6:])["choices"][0]["delta"] for event in events if event.startswith("data: {")]
        return path, "".join(part.get("content", "") for part in parts)

    before = [counter(server, rf'mm_batch_size_{name}{{model="mm-tiny"}}') for name in ("count", "sum")]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, range(96)))
    assert all(text == captions[path] for path, text in found)
    count, total = (
        counter(server, rf'mm_batch_size_{name}{{model="mm-tiny"}}') - old
        for name, old in zip(("count", "sum"), before, strict=True)
    )
    assert total == 96 and count < 60


def test_what_has_come_is_answered_after_sigterm(captions):
    with served() as (address, process):
        found, begun = {}, threading.Barrier(9)

        def one(path):
            begun.wait()
            found[path] = ask(address, "/caption", {"image": data_url(path), "num_beams": 4}, key=None)

        threads = [threading.Thread(target=one, args=(path,)) for path in PICTURES[:8]]
        for thread in threads:
            thread.start()
        begun.wait()
        until = time.monotonic() + 30
        while counter(address, "mm_requests_in_progress") < 9 and time.monotonic() < until and len(found) < 8:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(60) == 0
        expected = {one.path: one.caption for one in caption(PICTURES[:8], num_beams=4)}
        assert {path: (status, answer["caption"]) for path, (status, answer) in found.items()} == {
            path: (200, text) for path, text in expected.items()
        }


def test_a_full_queue_and_a_late_answer_have_their_status():
    with served("--timeout", "0.001") as (address, _):
        status, answer = ask(address, "/caption", {"image": data_url(PICTURES[0])}, key=None)
        assert status == 504 and "seconds" in answer["error"]["message"]
    with served("--max-queue", "1", "--batch-size", "1") as (address, _):
        with ThreadPoolExecutor(16) as pool:
            body = {"image": data_url(PICTURES[0]), "num_beams": 16}
            found = list(pool.map(lambda _: ask(address, "/caption", body, key=None)[0], range(48)))
        assert set(found) == {200, 503}


def test_seeds_and_units_hold_beside_other_models():
    names = (f"one={PACKAGED_MODEL}", f"two={PACKAGED_MODEL}")
    with served(*names, "--max-queue", "2") as (address, _):

        def drawn(name):
            body = {"model": name, "messages": message(PICTURES[0]), "temperature": 2.0, "seed": 7}
            return ask(address, "/v1/chat/completions", body, key=None)[1]["choices"][0]["message"]["content"]

        alone = drawn("one")
        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(drawn, ["one", "two"] * 6)) == {alone}
        body = {"image": data_url(PICTURES[0]), "questions": [f"a {number}" for number in range(20)]}
        assert ask(address, "/answer", body, key=None)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_before_the_first_word_is_not_computed(stream):
    with served("--batch-size", "1") as (address, _):
        long = {"image": data_url(PICTURES[0]), "text": "a red apple", "method": "integrated_gradients"}
        body = json.dumps({"messages": message(PICTURES[0]), "stream": stream, "num_beams": 2}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}"
        with ThreadPoolExecutor(3) as pool:
            held = [pool.submit(ask, address, "/explain", long, None) for _ in range(3)]
            host, port = address.removeprefix("http://").split(":")
            while counter(address, "mm_requests_in_progress") < 3:
                time.sleep(0.001)
            clients = [socket.create_connection((host, int(port))) for _ in range(4)]
            for client in clients:
                client.sendall(f"{head}\r\n\r\n".encode() + body)
            while counter(address, r'mm_queue{model="mm-tiny"}') < 4 and not held[-1].done():
                time.sleep(0.001)
            for client in clients:
                client.close()
            assert [one.result()[0] for one in held] == [200] * 3
        assert ask(address, "/caption", {"image": data_url(PICTURES[0])}, key=None)[0] == 200
        assert counter(address, r'mm_batch_size_count{model="mm-tiny"}') == 4


def half_sent(address):
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    head = "POST /caption HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    client.sendall(head.encode())
    client.settimeout(30)
    return client


def test_a_body_that_is_half_sent_is_given_up():
    with served("--timeout", "0.5") as (address, _), half_sent(address) as client:
        assert b" 408 " in client.recv(300)


@pytest.mark.parametrize(("drain", "signals"), [(1, 1), (60, 2)])
def test_what_is_not_done_in_time_is_told_and_the_process_ends(drain, signals):
    body = {"image": data_url(PICTURES[0]), "text": "a red apple", "method": "integrated_gradients"}
    with served("--drain", drain) as (address, process), ThreadPoolExecutor(12) as pool, half_sent(address) as client:
        found = [pool.submit(ask, address, "/explain", body, None) for _ in range(12)]
        while counter(address, "mm_requests_in_progress") < 10 and not found[0].done():
            time.sleep(0.001)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert process.wait(30) == 0
        assert {answer.result()[0] for answer in found} <= {200, 503}
        assert any("shutting down" in str(answer.result()[1]) for answer in found)
        assert b" 503 " in client.recv(300)
