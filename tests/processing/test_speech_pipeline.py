"""pipeline("automatic-speech-recognition") on a converted Whisper gives what it gives on the source."""

# Pipelines are of types that pyright cannot follow.

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperProcessor, pipeline

import mm
from mm import MediaDecodeError, MMDataCollator, MMForSpeechSeq2Seq, convert
from whispers import lively_whisper, saved_whisper, whisper_extractor, whisper_tokenizer

RATE = 16000
SOUND = (np.random.default_rng(0).standard_normal(4 * RATE) / 5).astype(np.float32)
CASES = {
    "text": (12000, {}),
    "words of a long one": (64000, {"return_timestamps": "word", "generate_kwargs": {"num_beams": 2}}),
    "segments and the language": (12000, {"return_timestamps": True, "return_language": True}),
    "a long one": (64000, {"return_timestamps": True}),
    "chunks in batches": (64000, {"return_timestamps": True, "chunk_length_s": 1, "batch_size": 3}),
}
FAST = ("text", "words of a long one")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    source = tmp_path_factory.mktemp("whisper")
    saved_whisper(source)
    task = "automatic-speech-recognition"
    return [pipeline(task, model=str(folder), ignore_warning=True) for folder in (source, source / "mm")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in CASES])
def test_it_gives_what_transformers_gives_for_the_source(pipelines, name):
    theirs, ours = pipelines
    assert isinstance(ours.model, MMForSpeechSeq2Seq)
    length, options = CASES[name]
    there = theirs(SOUND[:length].copy(), **options)
    assert len(there["text"]) > 4
    assert ours(SOUND[:length].copy(), **options) == there


def test_files_channels_rates_and_whole_numbers_are_the_same_sound(pipelines, tmp_path):
    _, ours = pipelines
    whole = (SOUND[:12000] * 2**15).astype(np.int16)
    text = ours(whole.astype(np.float32) / 2**15)["text"]
    soundfile.write(tmp_path / "sound.wav", whole, RATE)
    assert ours(str(tmp_path / "sound.wav"))["text"] == text
    assert ours((tmp_path / "sound.wav").read_bytes())["text"] == text
    assert ours(whole)["text"] == text  # int16, which the feature extractor would take for loud floats
    assert ours({"array": np.stack([whole, whole]), "sampling_rate": RATE})["text"] == text
    assert ours({"raw": whole, "sampling_rate": RATE})["text"] == text
    other = ours({"array": np.repeat(whole, 24), "sampling_rate": 24 * RATE})  # 384 kHz
    assert isinstance(other["text"], str)
    assert isinstance(ours(SOUND[:400])["text"], str)  # 25 ms


def test_what_is_no_sound_is_refused_in_words(pipelines, tmp_path):
    _, ours = pipelines
    kept = io.BytesIO()
    soundfile.write(kept, SOUND, RATE, format="FLAC")
    cut = kept.getvalue()[: len(kept.getvalue()) // 2]
    for wrong, words in (
        (SOUND[:0], "empty"),
        (np.full(9000, np.nan, np.float32), "NaN"),
        (np.zeros((5, 9000), np.float32), "5"),
        (SOUND * 32768, "1..1"),
        (cut, "cut|broken|decod|end"),
        (b"no sound", "cannot decode"),
    ):
        with pytest.raises((MediaDecodeError, ValueError), match=words):
            ours(wrong)
    with pytest.raises(FileNotFoundError):
        ours(str(tmp_path / "none.wav"))


@pytest.mark.slow
def test_what_a_collator_s_rows_teach_is_what_transcription_asks_for(tmp_path):
    """Loss, Seq2SeqTrainer's generation from the rows, generate() by language, and the pipeline after saving."""
    lively_whisper().save_pretrained(tmp_path)
    WhisperProcessor(whisper_extractor(), whisper_tokenizer()).save_pretrained(tmp_path)
    done = convert(tmp_path)
    model, processor = done.model.float(), done.processor
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    processor.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    sounds, texts = [SOUND[:RATE], SOUND[2 * RATE : 3 * RATE]], ["hello", "abc"]
    samples = [
        {"audio": {"array": sound, "sampling_rate": RATE}, "suffix": text}
        for sound, text in zip(sounds, texts, strict=True)
    ]
    batch = MMDataCollator(processor)(samples)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 3e-3)
    for _ in range(400):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model.eval()
    features = batch["input_features"]
    written = model.generate(features, language="en", task="transcribe")
    assert processor.batch_decode(written, skip_special_tokens=True) == texts
    rows = MMDataCollator(processor, mode="generate")(samples)
    written = model.generate(
        input_features=features, input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]
    )
    assert processor.batch_decode(written, skip_special_tokens=True) == texts
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    told = pipeline("automatic-speech-recognition", model=str(tmp_path / "trained"))
    asked = {"language": "en", "task": "transcribe"}
    assert [told(sound.copy(), generate_kwargs=asked)["text"] for sound in sounds] == texts


@pytest.mark.slow
def test_an_export_is_heard_without_the_package(pipelines, tmp_path):
    """Transformers takes its model type for CTC until it is told: docs/publishing.md."""
    _, ours = pipelines
    mm.export_for_hub(ours.model, mm.MMProcessor.from_pretrained(ours.model.name_or_path), tmp_path / "hub")
    np.save(tmp_path / "sound.npy", SOUND[:12000])
    code = """
import sys, numpy, transformers
sys.modules["mm"] = None
pipe = transformers.pipeline("automatic-speech-recognition", model=sys.argv[1] + "/hub", trust_remote_code=True)
pipe.type = "seq2seq_whisper"
print([pipe(numpy.load(sys.argv[1] + "/sound.npy"), return_timestamps=True)])
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str([ours(SOUND[:12000].copy(), return_timestamps=True)])
