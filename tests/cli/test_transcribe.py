"""`mm transcribe`: files of any length as text, subtitles and JSON; faults are told, and nothing is lost."""

import json
import re

import numpy as np
import pytest
import soundfile
from transformers import WhisperProcessor
from typer.testing import CliRunner

import mm_console
from mm import MediaDecodeError, MMForSpeechSeq2Seq, MMProcessor, convert
from mm.cli.transcribe import clock, transcribe
from mm.processing.sounds.stream import stream_sound
from whispers import lively_whisper, whisper_extractor, whisper_tokenizer

RATE = 16000
SOUND = (np.random.default_rng(0).standard_normal(9 * RATE // 2) / 5).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    source = tmp_path_factory.mktemp("whisper")
    lively_whisper().save_pretrained(source)
    WhisperProcessor(whisper_extractor(), whisper_tokenizer()).save_pretrained(source)
    convert(source).save_pretrained(source / "mm")
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
    assert kept.read_text() == "KEEP" and [path.name for path in tmp_path.iterdir()] == ["long.srt"]
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
