"""`mm demo` as a person uses it, in Chromium: captions, word maps, questions, labels, search, a recorded sound, bad
files, a phone; and no request to another place (`make test-apps`)."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mm import MMForImageTextRetrieval
from mm.cli.caption import PACKAGED_MODEL, caption
from mm.demo.run import _loaded
from whispers import saved_whisper

pytestmark = pytest.mark.apps
PICTURES = sorted((Path(__file__).resolve().parents[2] / "examples" / "pictures").glob("*.png"))
ROCKET = next(path for path in PICTURES if path.name == "rocket.png")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium chromium-driver")
SHOTS = os.environ.get("MM_SHOTS")  # a folder for screenshots


@pytest.fixture(scope="module")
def models(saved_retriever, tmp_path_factory):
    """Folders of a retrieval model and a Whisper, and a sound."""
    import soundfile

    folder = tmp_path_factory.mktemp("shown")
    saved_retriever(folder / "finder")
    saved_whisper(folder / "whisper").rename(folder / "ears")
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32) / 5
    soundfile.write(folder / "sound.wav", noise, 16000, subtype="FLOAT")
    (folder / "broken.png").write_bytes(PICTURES[0].read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def address(models):
    shown = (str(PACKAGED_MODEL), str(models / "finder"), str(models / "ears"))
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", "demo", *shown, "--port", "0"]
    command += ["--folder", str(PICTURES[0].parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert "12 files: 12 encoded" in process.stdout.readline()
            yield re.search(r"http://[\w.:]+", process.stdout.readline())[0]
        finally:
            process.terminate()
            assert process.wait(30) in (0, -15)


@contextmanager
def browsing(address, width=1200, height=1000):
    """A browser at the page; at the end, every request that it made went to the page's own address."""
    webdriver = import_module("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = import_module("selenium.webdriver.chrome.service").Service(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(address)
        wait(driver, lambda: driver.find_elements("css selector", "button[role=tab]"))
        yield driver
        asked = requests_of(driver)
        assert asked and not [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome:"))]
        console = [entry["message"] for entry in driver.get_log("browser")]
        assert not [words for words in console if "Content Security Policy" in words or "Uncaught" in words], console
    finally:
        driver.quit()


def requests_of(driver):
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def wait(driver, found, seconds=60):
    until = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < until, driver.find_element("tag name", "body").text[-1500:]
        time.sleep(0.1)


def open_tab(driver, name):
    """The panel of a tab, once it is shown in place of the one before and has something to fill in."""
    tabs = driver.find_elements("css selector", "button[role=tab]")
    tab = next(tab for tab in tabs if name in tab.get_attribute("textContent"))
    driver.execute_script("arguments[0].click()", tab)
    wait(driver, lambda: tab.get_attribute("aria-selected") == "true")

    def shown():
        (panel, *more) = [p for p in driver.find_elements("css selector", "[role=tabpanel]") if p.is_displayed()] or [
            0
        ]
        is_whole = panel and not more and panel.find_elements("css selector", "input, textarea, button")
        return panel if is_whole else None

    time.sleep(0.2)
    return wait(driver, shown)


def give(driver, panel, path):
    """Uploads a file into the first place for files of a panel."""
    panel.find_elements("css selector", "input[type=file]")[0].send_keys(str(path))
    time.sleep(0.2)
    wait(driver, lambda: not driver.find_elements("css selector", ".uploading"))


def press(driver, panel, name):
    buttons = panel.find_elements("tag name", "button")
    driver.execute_script("arguments[0].click()", next(button for button in buttons if button.text.strip() == name))


def shoot(driver, name):
    if SHOTS:
        driver.save_screenshot(f"{SHOTS}/{name}.png")


@in_a_browser
def test_a_picture_is_captioned_and_a_click_on_a_word_shows_where_it_was_read(address):
    (expected,) = caption([ROCKET], num_beams=3)
    with browsing(address) as driver:
        panel = open_tab(driver, "Caption")
        give(driver, panel, ROCKET)
        wait(driver, lambda: panel.find_elements("css selector", "img"))
        press(driver, panel, "Caption")
        words = wait(driver, lambda: panel.find_elements("css selector", "#words .textspan, #words [role=button]"))
        assert expected.caption in " ".join(word.text for word in words)
        assert expected.caption in panel.text and re.search(r"-?\d\.\d", panel.text)  # the table of beams
        assert not panel.find_elements("css selector", "#overlay img")
        driver.execute_script("arguments[0].click()", words[0])
        wait(driver, lambda: panel.find_elements("css selector", "#overlay img"))
        time.sleep(0.5)
        shoot(driver, "caption")


@in_a_browser
def test_a_broken_file_is_told_in_the_words_of_the_error_and_the_next_one_is_read(address, models):
    with browsing(address) as driver:
        panel = open_tab(driver, "Caption")
        press(driver, panel, "Caption")
        wait(driver, lambda: "no picture: give one first" in driver.find_element("tag name", "body").text)
        give(driver, panel, models / "broken.png")
        press(driver, panel, "Caption")
        wait(driver, lambda: "cannot decode 'broken.png'" in driver.find_element("tag name", "body").text)
        shoot(driver, "broken")


@in_a_browser
def test_several_questions_about_one_picture_are_answered(address):
    with browsing(address) as driver:
        panel = open_tab(driver, "Ask")
        give(driver, panel, ROCKET)
        panel.find_element("tag name", "textarea").send_keys("a red\nthe")
        time.sleep(0.5)
        press(driver, panel, "Ask")
        wait(driver, lambda: "a red" in panel.text.split("Answers")[-1] and "the" in panel.text.split("Answers")[-1])
        shoot(driver, "ask")


@in_a_browser
def test_labels_of_the_user_have_the_scores_of_the_model(address, models):
    model = MMForImageTextRetrieval.from_pretrained(models / "finder")
    scores = model.label_scores(model.encode([ROCKET]), model.encode_labels(["red", "blue cat"]))[0]
    with browsing(address) as driver:
        panel = open_tab(driver, "Classify")
        give(driver, panel, ROCKET)
        panel.find_element("css selector", "textarea, input[type=text]").send_keys("red, blue cat")
        time.sleep(0.5)
        press(driver, panel, "Classify")
        wait(driver, lambda: f"{scores.max():.0%}" in panel.text)
        shoot(driver, "classify")


@in_a_browser
def test_a_folder_is_searched(address):
    with browsing(address) as driver:
        panel = open_tab(driver, "Search")
        panel.find_element("css selector", "textarea, input[type=text]").send_keys("a red cat")
        time.sleep(0.5)
        press(driver, panel, "Search")
        wait(driver, lambda: len(panel.find_elements("css selector", "img")) >= 12)
        time.sleep(0.5)
        shoot(driver, "search")


@in_a_browser
def test_a_sound_is_recorded_and_written_down(address, models):
    with browsing(address) as driver:
        panel = open_tab(driver, "Listen")
        record = wait(driver, lambda: panel.find_elements("css selector", "button.record-button, button.record"))
        driver.execute_script("arguments[0].click()", record[0])
        time.sleep(2)
        stop = wait(driver, lambda: panel.find_elements("css selector", "button.stop-button, button.stop"))
        driver.execute_script("arguments[0].click()", stop[0])
        time.sleep(1.5)
        press(driver, panel, "Write it down")
        wait(driver, lambda: panel.find_elements("css selector", "textarea")[-1].get_property("value"))
        shoot(driver, "listen")


@in_a_browser
def test_the_page_fits_a_phone(address):
    with browsing(address) as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
        )
        driver.get(address)
        wait(driver, lambda: driver.find_elements("css selector", "button[role=tab]"))
        panel = open_tab(driver, "Caption")
        give(driver, panel, ROCKET)
        press(driver, panel, "Caption")
        wait(driver, lambda: panel.find_elements("css selector", "#words .textspan, #words [role=button]"))
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 375
        shoot(driver, "phone")


# ---- without a browser ----------------------------------------------------------------------------------------------


def post(address, body, route="/gradio_api/queue/join", kind="application/json"):
    request = urllib.request.Request(address + route, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_link_in_place_of_a_file_is_refused(address):
    held = {"data": [{"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0}
    for kind in ("application/json", "Application/JSON", "application/x+json", "text/plain"):
        status, words = post(address, json.dumps(held).encode(), kind=kind)
        assert status == 400 and "link" in words
    assert post(address, b"{")[0] == 400
    for kind in ("application/json", "text/plain"):
        status, words = post(address, None, "/gradio_api/proxy=http://127.0.0.1:9/a.png", kind)
        assert status == 400 and "nothing is fetched" in words


def test_a_file_that_was_not_sent_is_not_read(address, tmp_path):
    """A client that names a file of the machine learns nothing of it, not even whether it is there."""
    shutil.copy(ROCKET, tmp_path / "rocket.png")
    told = []
    for path in (tmp_path / "rocket.png", tmp_path / "no.png"):
        held = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}, 1], "fn_index": 0}
        status, _ = post(address, json.dumps({**held, "session_hash": path.stem}).encode())
        assert status == 200
        with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={path.stem}", timeout=60) as events:
            done = [json.loads(line[6:]) for line in events.read().decode().splitlines() if line.startswith("data: ")]
        told.append(next(event for event in done if event["msg"] == "process_completed"))
    assert not any(one["success"] for one in told)
    there, absent = (
        one["output"]["error"].replace(name, "") for one, name in zip(told, ("rocket.png", "no.png"), strict=True)
    )
    assert there == absent and "not uploaded" in there


def test_files_outside_are_not_given(address):
    for path in ("/etc/passwd", str(Path(__file__).resolve())):
        assert post(address, None, f"/gradio_api/file={path}")[0] in (403, 404, 405)


def test_no_page_of_it_names_another_place_to_load_from(address):
    with urllib.request.urlopen(address, timeout=30) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"https?://(?!127)[^\"]+", page)


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_its_end_is_no_fault(ends):
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", "demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(address, timeout=30).close()
                break
            except OSError:
                time.sleep(0.1)
        process.send_signal(ends)
        assert process.wait(60) == 0 and "Traceback" not in process.stderr.read()


def test_a_head_of_the_model_in_the_package_stands_back_for_a_model_that_is_named(models):
    writes, compares = "MMForConditionalGeneration", "MMForImageTextRetrieval"
    assert set(_loaded([None], None, None)) == {writes, compares}
    named = _loaded([None, str(models / "finder"), str(models / "ears")], None, None)
    assert set(named) == {writes, compares, "MMForSpeechSeq2Seq"}
    width = MMForImageTextRetrieval.from_pretrained(models / "finder").config.projection_dim
    assert named[compares][0].config.projection_dim == width != named[writes][0].config.projection_dim


def test_wrong_models_and_folders_are_told(models):
    def told(*arguments):
        command = [sys.executable, "-W", "ignore", "-m", "mm_console", "demo", *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return run.returncode, run.stderr.strip().splitlines()[-1]

    assert told(models / "finder", models / "finder") == (
        2, "mm: two models are of one class, MMForImageTextRetrieval: the page shows one of each"
    )  # fmt: skip
    code, words = told(models / "ears", "--folder", PICTURES[0].parent)
    assert code == 2 and "--folder is searched by a retrieval model" in words
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, words = told("--port", port)
        assert code == 2 and words.startswith(f"mm: cannot listen at --host 127.0.0.1 --port {port}: ")
