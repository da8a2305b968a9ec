"""`mm transcribe`: files of any length as text, subtitles and JSON; faults are told, and nothing is lost."""

import json
import re

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import WhisperForConditionalGeneration, pipeline
from typer.testing import CliRunner

import mm_console
from mm import MediaDecodeError, MMForSpeechSeq2Seq, MMProcessor
from mm.cli.transcribe import transcribe, transcribe_all
from mm.cli.transcripts import clock
from mm.processing.reading import sounds_ahead
from mm.processing.sounds.stream import stream_sound
from speakers import saved_moonshine
from whispers import saved_whisper

RATE = 16000
SOUND = (np.random.default_rng(0).standard_normal(9 * RATE // 2) / 5).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    source = tmp_path_factory.mktemp("whisper")
    saved_whisper(source)
    soundfile.write(source / "long.wav", SOUND, RATE, subtype="FLOAT")
    soundfile.write(source / "short.flac", np.repeat(SOUND[:9000], 3), 3 * RATE)
    return source


@pytest.fixture(scope="module")
def loaded(folder):
    return MMForSpeechSeq2Seq.from_pretrained(folder / "mm").eval(), MMProcessor.from_pretrained(folder / "mm")


def run(folder, *words):
    files = [str(folder / word) if word.endswith((".wav", ".flac")) else word for word in words]
    return CliRunner().invoke(mm_console.app, ["transcribe", "--model", str(folder / "mm"), *files])


def stretches(sound, size, held=None):
    for start in range(0, len(sound), size):
        if held is not None:
            held.append(start + size)
        yield sound[start : start + size]


def test_how_a_file_is_cut_into_stretches_changes_nothing_and_little_is_read_ahead(loaded):
    """Each segment is told before more than a window and a stretch beyond its window were read."""
    whole = list(transcribe([SOUND], *loaded))
    assert len(whole) > 5 and all(one.text for one in whole)
    assert [one.start for one in whole] == sorted(one.start for one in whole)
    assert whole[-1].end <= len(SOUND) / RATE
    read: list[int] = []
    again = []
    for one in transcribe(stretches(SOUND, 700, read), *loaded):
        again.append(one)
        assert read[-1] <= one.start * RATE + RATE + 700
    assert again == whole


def test_what_came_before_a_fault_is_transcribed_first(loaded):
    def broken():
        yield SOUND[: 2 * RATE]
        raise MediaDecodeError("cut off")

    found = []
    with pytest.raises(MediaDecodeError, match="cut off"):
        for one in transcribe(broken(), *loaded):
            found.append(one)
    assert found and found[-1].end > 1


def test_sounds_that_are_heard_together_are_told_as_each_alone(loaded):
    """Also where one ends sooner, one breaks off, and languages are found out."""

    def broken():
        yield SOUND[RATE : 3 * RATE]
        raise MediaDecodeError("cut off")

    sounds = [SOUND, SOUND[: RATE // 2], broken(), SOUND[::-1].copy(), np.zeros(0, np.float32)]
    alone = [list(transcribe([sound], *loaded)) for sound in (sounds[0], sounds[1], SOUND[RATE : 3 * RATE], sounds[3])]
    told = list(
        transcribe_all([one if number == 2 else [one] for number, one in enumerate(sounds)], *loaded, batch_size=3)
    )
    for number, expected in enumerate([*alone, []]):
        *found, last = [one for place, one in told if place == number]
        assert found == expected and (str(last) == "cut off" if number == 2 else last is None)
    assert len({place for place, _ in told[:8]}) == 3
    with pytest.raises(ValueError, match="draws at random"):
        list(transcribe_all([[SOUND]], *loaded, batch_size=2, temperature=(0.0, 0.2)))


def test_files_that_are_heard_together_come_in_their_order(folder):
    words = ["long.wav", "short.flac", "--format", "json"]
    one = run(folder, *words)
    assert run(folder, *words, "--batch-size", "2").stdout == one.stdout and one.stdout.count("short.flac") > 1
    refused = run(folder, *words, "--batch-size", "2", "--fallback")
    assert refused.exit_code == 2 and "would mix them" in " ".join(refused.output.split())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_are_read_ahead_are_told_as_they_come(folder, tmp_path, monkeypatch, workers):
    """Also one that is longer than what is read ahead, broken ones, and one that is gone."""
    monkeypatch.setattr("mm.processing.reading.AHEAD_SECONDS", 1)
    cut = tmp_path / "cut.flac"
    soundfile.write(cut, SOUND, RATE)
    cut.write_bytes(cut.read_bytes()[:-20_000])
    (tmp_path / "junk.wav").write_bytes(b"junk")
    words = [
        "long.wav",
        str(cut),
        "short.flac",
        str(tmp_path / "junk.wav"),
        "short.flac",
        "--json",
        "--batch-size",
        "2",
    ]
    one, ahead = (run(folder, *words, "--workers", count) for count in ("0", workers))
    assert one.exit_code == ahead.exit_code == 2 and "junk.wav" in one.stderr and "cut.flac" in one.stderr
    assert (ahead.stdout, ahead.stderr) == (one.stdout, one.stderr) and one.stdout.count("long.wav") > 2


def test_a_file_that_goes_meanwhile_is_told_and_the_others_are_heard(folder, tmp_path):
    kept = tmp_path / "kept.wav"
    soundfile.write(kept, SOUND[:RATE], RATE)
    for workers in (0, 1):
        (gone, heard) = sounds_ahead([tmp_path / "gone.wav", kept], RATE, workers)
        with pytest.raises(MediaDecodeError, match=r"cannot read gone\.wav: No such file"):
            list(gone)
        assert sum(map(len, heard)) == RATE


@pytest.mark.slow
def test_a_stream_is_the_sound_of_load_sound(folder):
    joined = np.concatenate(list(stream_sound(folder / "long.wav", RATE)))
    assert np.array_equal(joined, SOUND)
    resampled = np.concatenate(list(stream_sound(folder / "short.flac", RATE)))
    assert abs(len(resampled) - 9000) <= 1


def test_subtitles_are_numbered_cues_and_json_has_the_words(folder):
    srt = run(folder, "long.wav", "--format", "srt", "--language", "en")
    assert srt.exit_code == 0
    cues = srt.stdout.strip().split("\n\n")
    assert [int(cue.split("\n")[0]) for cue in cues] == list(range(1, len(cues) + 1))
    assert all(re.match(r"\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n.", cue) for cue in cues)
    lines = run(folder, "short.flac", "--format", "json", "--words", "--language", "en").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert told and all(set(one) == {"path", "start", "end", "text", "words"} for one in told)


def test_words_have_the_times_of_the_pipeline_of_transformers(folder, loaded):
    """Also where these lie outside the segment: the two come from different parts of the model."""
    model, processor = loaded
    window = SOUND[: processor.feature_extractor.n_samples]
    source = WhisperForConditionalGeneration.from_pretrained(folder, dtype=model.dtype).eval()
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    theirs = pipeline("automatic-speech-recognition", model=source, dtype=model.dtype, **parts)
    chunks = theirs(window.copy(), return_timestamps="word", generate_kwargs={"language": "en"})["chunks"]
    segments = list(transcribe([window], model, processor, language="en", words=True))
    first = [word for segment in segments for word in segment.words][:2]
    assert len(first) == 2
    for (text, start, end), chunk in zip(first, chunks, strict=False):
        assert text == chunk["text"].strip() and (start, end) == pytest.approx(chunk["timestamp"], abs=1e-6)
    assert any(start < one.start for one in segments for _, start, _ in one.words)


@pytest.mark.slow
def test_a_file_each_and_a_bad_one_told(folder, tmp_path):
    (folder / "junk.wav").write_bytes(b"junk")
    done = run(folder, "short.flac", "junk.wav", "long.wav", "--format", "vtt", "--output", str(tmp_path / "out"))
    assert done.exit_code == 2 and "junk.wav" in done.output
    for name in ("short", "long"):
        text = (tmp_path / "out" / f"{name}.vtt").read_text()
        assert text.startswith("WEBVTT\n\n00:00:0") and text.count(" --> ") >= 2
    tried = run(folder, "long.wav", "--fallback", "--prompt", "names", "--task", "translate", "--num-beams", "2")
    assert tried.exit_code == 0


def test_a_transcript_stays_where_nothing_comes_of_a_run(folder, tmp_path):
    kept = tmp_path / "long.srt"
    kept.write_text("KEEP")
    assert run(folder, "long.wav", "--format", "srt", "--output", str(tmp_path), "--language", "xx").exit_code == 2
    (folder / "junk2.wav").write_bytes(b"junk")
    assert run(folder, "junk2.wav", "--format", "srt", "--output", str(tmp_path)).exit_code == 2
    Image.new("RGB", (8, 8)).save(folder / "red.png")
    done = run(folder, str(folder / "red.png"), "--output", str(tmp_path))
    assert done.exit_code == 2 and "red.png: it is a picture, and the model reads sounds" in done.stderr
    done = run(folder, "long.wav", "--format", "srt", "--output", str(tmp_path), "--language", "en")
    assert done.exit_code == 2 and "holds long.srt already; --resume" in done.stderr
    assert kept.read_text() == "KEEP" and list(tmp_path.glob("[!.]*")) == [kept]
    done = run(folder, "long.wav", "--output", str(kept))
    assert done.exit_code == 2 and "folder" in done.output


def test_cues_have_a_length_and_none_is_heard_after_the_end(loaded):
    for samples in (400, 9000, 13 * RATE // 10):
        found = list(transcribe([SOUND[:samples]], *loaded, language="en"))
        assert all(one.start < one.end and one.start < samples / RATE for one in found)


def test_a_prompt_is_plain_text_that_fits(folder):
    for prompt, told in (("<|endoftext|>", "plain text"), ("name " * 200, "tokens long; at most 31")):
        done = run(folder, "long.wav", "--prompt", prompt)
        assert done.exit_code == 2 and told in " ".join(done.output.split())


@pytest.mark.slow
def test_fallback_writes_the_same_again(folder):
    words = ["long.wav", "--fallback", "--language", "en", "--format", "json"]
    assert run(folder, *words).stdout == run(folder, *words).stdout != ""


def test_options_that_do_not_go_together_are_refused_in_words(folder):
    for words, told in (
        (["long.wav", "--format", "ass"], "accepted: txt, srt, vtt, json"),
        (["long.wav", "--words"], "json only"),
        (["long.wav", "short.flac", "--format", "srt"], "--output DIR"),
        (["long.wav", "--language", "elvish"], "elvish"),
    ):
        done = run(folder, *words)
        assert done.exit_code == 2 and told in done.output
    done = CliRunner().invoke(mm_console.app, ["transcribe", "--model", str(folder), str(folder / "long.wav")])
    assert done.exit_code == 2 and "mm convert" in done.output


@pytest.mark.parametrize(
    "seconds, told", [(0, "00:00:00,000"), (3723.4567, "01:02:03,457"), (59.9996, "00:01:00,000")]
)
def test_clock(seconds, told):
    assert clock(seconds, ",") == told


def test_a_model_without_times_tells_windows_that_are_cut_where_it_is_quiet(tmp_path):
    """28 s with a pause at 17 s: two windows."""
    folder = saved_moonshine(tmp_path)
    sound = np.resize(SOUND, 28 * RATE)
    sound[17 * RATE - 1000 : 17 * RATE + 1000] = 0
    soundfile.write(tmp_path / "long.wav", sound, RATE, subtype="FLOAT")
    command = ["transcribe", "--model", str(folder), str(tmp_path / "long.wav")]
    done = CliRunner().invoke(mm_console.app, [*command, "--format", "json"])
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["start"], one["end"]) for one in told] == [(0, told[1]["start"]), (told[0]["end"], 28)]
    assert abs(told[0]["end"] - 17) < 0.1 and all(len(one["text"].split()) >= 5 for one in told)
    model, processor = MMForSpeechSeq2Seq.from_pretrained(folder).eval(), MMProcessor.from_pretrained(folder)
    pair = [sound, sound[: 3 * RATE]]
    for number, one in transcribe_all([[samples] for samples in pair], model, processor, batch_size=2):
        if number == 1 and one is not None:
            assert [one] == list(transcribe([pair[1]], model, processor))
    rest = list(transcribe([sound[round(told[0]["end"] * RATE) :]], model, processor))
    assert [one.text for one in rest] == [told[1]["text"]]
    for options, words in (
        (["--language", "en"], "language are of Whisper's rules"),
        (["--format", "json", "--words"], "times of words are a Whisper's"),
        (["--fallback"], "are of Whisper's rules"),
    ):
        failed = CliRunner().invoke(mm_console.app, [*command, *options])
        assert failed.exit_code and (words in failed.output or words in str(failed.exception))


def test_a_run_that_was_ended_goes_on_with_the_same_settings_and_gives_what_an_undisturbed_one_gives(
    folder, tmp_path, monkeypatch
):
    sounds, whole, out = tmp_path / "sounds", tmp_path / "whole", tmp_path / "out"
    (sounds / "more").mkdir(parents=True)
    for number, place in enumerate(("a.wav", "more/c.wav", "b.wav")):
        soundfile.write(sounds / place, SOUND[: RATE + 800 * number], RATE)
    (sounds / "bad.wav").write_bytes(b"junk")
    given = (str(sounds), "--recursive", "--json", "--language", "en", "--device", "cpu", "--dtype", "float32")
    assert run(folder, *given, "--output", str(whole)).exit_code == 2
    names = sorted(path.name for path in whole.iterdir())
    assert names == [".transcribe.jsonl.run.json", "a.json", "b.json", "c.json"]

    heard = []

    def ended(path, rate):
        heard.append(path.name)
        if path.name == "c.wav":
            raise KeyboardInterrupt
        return stream_sound(path, rate)

    monkeypatch.setattr("mm.processing.reading.stream_sound", ended)
    run(folder, *given, "--output", str(out))
    assert heard == ["a.wav", "b.wav", "bad.wav", "c.wav"] and not (out / "c.json").exists()
    other = run(folder, *given[:-2], "--output", str(out), "--resume", "--num-beams", "2")
    assert other.exit_code == 2 and "made with other settings" in other.output
    monkeypatch.setattr(
        "mm.processing.reading.stream_sound", lambda path, rate: heard.append(path.name) or stream_sound(path, rate)
    )
    done = run(folder, *given, "--output", str(out), "--resume")
    assert done.exit_code == 2 and "bad.wav" in done.output and heard[4:] == ["c.wav"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: (whole / name).read_bytes() for name in names
    }
    assert run(folder, *given, "--output", str(out), "--resume").exit_code == 2 and heard[5:] == ["bad.wav"]
    other = run(folder, *given[:-4], "--output", str(out), "--resume", "--words")
    assert other.exit_code == 2 and "words was False and is True" in other.output and len(heard) == 6
    for words, told in ((("--resume",), "give one"), (("--json", "--format", "srt"), "leave one out")):
        refused = run(folder, *given, *words)
        assert refused.exit_code == 2 and told in refused.output
