"""URLs: fetched on demand alone, from public addresses alone, so far and no further; data URLs are no network."""

import base64
import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from mm import MediaDecodeError, MMImageProcessorPil
from mm.processing.images import urls
from mm.processing.images.load import load_image

RED = Image.new("RGB", (6, 4), "red")


def png() -> bytes:
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    return buffer.getvalue()


class Answers(BaseHTTPRequestHandler):
    """What each path answers: a picture, and what a hostile server may do."""

    def do_GET(self):
        self.server.asked.append(self.path)  # pyright: ignore[reportAttributeAccessIssue]: a list of the fixture
        getattr(self, "answer_" + self.path.strip("/").split("?")[0])()

    def log_message(self, *arguments):
        pass

    def send(self, status=200, body=b"", length=None, location=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def answer_red(self):
        self.send(body=png())

    def answer_missing(self):
        self.send(404)

    def answer_text(self):
        self.send(body=b"<html>no picture</html>")

    def answer_announced(self):
        self.send(length=99_000_000)

    def answer_endless(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"\0" * 65536)
        except OSError:
            pass

    def answer_slow(self):
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"\0")
                time.sleep(0.05)
        except OSError:
            pass

    def answer_short(self):
        self.send(body=png()[:20], length=len(png()))

    def answer_once(self):
        self.send(302, location="/red")

    def answer_loop(self):
        self.send(302, location="/loop")

    def answer_to_file(self):
        self.send(302, location="file:///etc/passwd")

    def answer_to_metadata(self):
        self.send(302, location="http://169.254.169.254/latest/meta-data")


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked = []  # pyright: ignore[reportAttributeAccessIssue]: a list of its own
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(server):
    return lambda path: f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.fixture
def loopback_is_public(monkeypatch):
    """As though the test's server stood on the public internet; every other address is judged as ever."""
    judge = urls.is_public
    monkeypatch.setattr(urls, "is_public", lambda address: address == "127.0.0.1" or judge(address))


def test_a_server_on_this_machine_is_refused_and_never_asked(server, url):
    with pytest.raises(ValueError, match="not fetched without allow_urls=True"):
        load_image(url("red"))
    with pytest.raises(MediaDecodeError, match=r"127\.0\.0\.1 is at 127\.0\.0\.1; only public addresses"):
        load_image(url("red"), allow_urls=True)
    assert server.asked == []


@pytest.mark.usefixtures("loopback_is_public")
def test_a_picture_behind_a_public_url_is_read(url):
    for path in ("red", "once", "red?size=6"):
        np.testing.assert_array_equal(np.asarray(load_image(url(path), allow_urls=True)), np.asarray(RED))
    processor = MMImageProcessorPil(size={"height": 8, "width": 8})
    fetched = processor.preprocess([url("red")], allow_urls=True, return_tensors="np").pixel_values
    np.testing.assert_array_equal(fetched, processor.preprocess([RED], return_tensors="np").pixel_values)
    with pytest.raises(ValueError, match=r"images\[0\]: .*without allow_urls=True"):
        processor.preprocess([url("red")])


HOSTILE = [
    ("missing", "the server answers 404"),
    ("text", "cannot decode"),
    ("announced", r"it has 99\.0 MB; max_bytes=32000000"),
    ("endless", r"max_bytes=32000000 allows 32\.0"),
    ("short", "the connection ended .* bytes early|IncompleteRead"),
    ("loop", "redirects more than 3 times"),
    ("to_file", r"accepted are http:// and https:// with a host; got 'file:///etc/passwd'"),
    ("to_metadata", r"169\.254\.169\.254 is at 169\.254\.169\.254; only public addresses"),
]


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(("path", "message"), HOSTILE)
def test_what_a_hostile_server_may_do_ends_in_one_typed_error(url, path, message):
    with pytest.raises(MediaDecodeError, match=message) as caught:
        load_image(url(path), allow_urls=True)
    assert caught.value.name == repr(url(path))


@pytest.mark.usefixtures("loopback_is_public")
def test_the_time_limit_is_for_everything_together(url):
    """Each byte of the answer comes in time, and the answer ends well; only all of it together is too slow."""
    with pytest.raises(MediaDecodeError, match="the time for it is over"):
        urls.fetch(url("slow"), timeout=0.5)


def test_a_name_with_any_private_address_is_refused(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
    with pytest.raises(MediaDecodeError, match=r"pictures\.test is at 10\.0\.0\.7"):
        urls.fetch("http://pictures.test/a.png")


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch, server, url):
    """A name that resolves anew to another address (DNS rebinding) is resolved once."""
    port = server.server_port
    answers = iter([[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]])
    connected = []

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: next(answers))
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(MediaDecodeError, match="ConnectionRefusedError"):
        urls.fetch(f"http://pictures.test:{port}/red")
    assert connected == [("93.184.216.34", port)]


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_public_internet(address):
    assert not urls.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses(address):
    assert urls.is_public(address)


BAD_URLS = [
    ("ftp://example.org/a.png", "accepted are http:// and https://"),
    ("gopher://example.org/1", "accepted are http:// and https://"),
    ("file:///etc/passwd", "accepted are http:// and https://"),
    ("http:///a.png", "with a host"),
    ("http://user:word@example.org/a.png", "user name or a password"),
    ("http://example.org:99999/a.png", "it is no URL"),
    ("http://[::1/a.png", "it is no URL"),
    ("http://example.org/a b.png", "stand in no URL"),
    ("http://example.org/\r\nHost: x", "stand in no URL"),
    ("http://exämple.org/a.png", "stand in no URL"),
    ("http://localhost/a.png", "only public addresses"),
    ("http://127.1/a.png", "only public addresses"),
    ("http://2130706433/a.png", "only public addresses"),
    ("http://0x7f000001/a.png", "only public addresses"),
    ("http://[::ffff:127.0.0.1]/a.png", "only public addresses"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_URLS)
def test_urls_that_are_not_fetched_even_where_urls_are(bad, message):
    with pytest.raises(MediaDecodeError, match=message):
        load_image(bad, allow_urls=True)


def test_a_data_url_is_the_picture_that_it_holds():
    text = base64.b64encode(png()).decode()
    broken_up = "\n".join(text[start : start + 20] for start in range(0, len(text), 20))
    for data in (text, broken_up):
        np.testing.assert_array_equal(np.asarray(load_image(f"data:image/png;base64,{data}")), np.asarray(RED))


BAD_DATA = [
    ("data:image/png;base64,%%%", "its base64 text is broken"),
    ("data:image/png;base64,AAA", "its base64 text is broken"),
    ("data:image/png,AAAA", "data URLs are data:image/...;base64"),
    ("data:text/html;base64,AAAA", "its type is 'text/html'"),
    ("data:;base64,AAAA", "its type is ''"),
    ("data:", "data URLs are"),
    ("data:image/png;base64,", "cannot decode"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_DATA)
def test_bad_data_urls_raise_in_words(bad, message):
    with pytest.raises(MediaDecodeError, match=message):
        load_image(bad)
    with pytest.raises(MediaDecodeError, match="max_bytes=10 allows"):
        load_image("data:image/png;base64," + "A" * 40, max_bytes=10)
