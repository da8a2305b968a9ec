"""Speech models of each family learn spoken pairs and stay models that transcribe, judged by their errors."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    Wav2Vec2FeatureExtractor,
    WhisperForConditionalGeneration,
)

from mm import MMForSpeechSeq2Seq, audit, convert, evaluate
from mm.cli.export import export
from mm.evaluation.speech import wer
from mm.exporting.onnx_generator import OnnxGenerator
from mm.exporting.parts import context_inputs
from mm.training.recipe import make_arguments
from mm.training.run import train
from mm.training.verify import verify
from speakers import MOONSHINE, letters
from whispers import lively_whisper, whisper_config, whisper_decoding, whisper_extractor, whisper_tokenizer

TONES = {300: "a", 700: "b", 1500: "c"}  # Hz -> what it says
SPEECH_TO_TEXT = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 40,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 40, "vocab_size": 40, "conv_channels": 32,
    "max_source_positions": 600, "max_target_positions": 20, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "moonshine": (
        MoonshineForConditionalGeneration, MoonshineConfig(**MOONSHINE),
        Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True),
    ),
    "speech to text": (
        Speech2TextForConditionalGeneration, Speech2TextConfig(**SPEECH_TO_TEXT), Speech2TextFeatureExtractor(),
    ),
}  # fmt: skip


@pytest.fixture
def spoken(tmp_path):
    """A table of 18 tones of unequal length, and what each says."""
    folder = tmp_path / "spoken"
    folder.mkdir()
    rows = []
    for number in range(18):
        tone = [*TONES][number % 3]
        times = np.arange(6000 + 250 * number) / 16000
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((9000 * np.sin(2 * np.pi * (tone + 4 * number) * times)).astype("<i2").tobytes())
        rows.append({"audio": f"{number}.wav", "suffix": TONES[tone]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_speech_model_learns_spoken_pairs_and_is_judged_by_its_errors(spoken, tmp_path, name):
    kind, config, hears = FAMILIES[name]
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "source")
    for part in (hears, letters()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    settings = {"num_train_epochs": 30, "per_device_train_batch_size": 6, "learning_rate": 5e-3}
    train(arguments_of(tmp_path / "mm", spoken, tmp_path / "out", **settings))
    assert [check for check in verify(tmp_path / "out") if check.is_fault] == []
    before, after = (
        evaluate(tmp_path / folder, spoken, max_new_tokens=4, progress=False).metrics for folder in ("mm", "out")
    )
    assert after["wer"] < 0.4 < before["wer"] and after["cer_high"] < before["cer"]
    assert type(MMForSpeechSeq2Seq.from_pretrained(tmp_path / "out")) is MMForSpeechSeq2Seq


def whisper(folder, **language):
    """A folder with a Whisper of MM, whose tokenizer opens rows with that language and task."""
    torch.manual_seed(0)
    parts = WhisperForConditionalGeneration(whisper_config()), whisper_extractor(), whisper_tokenizer()
    if language:
        parts[2].set_prefix_tokens(**language)
    parts[0].generation_config = whisper_decoding()
    for part in parts:
        part.save_pretrained(folder / "source")
    convert(folder / "source").save_pretrained(folder / "mm")
    return folder / "mm"


def arguments_of(model, data, output, **settings):
    return make_arguments(
        {
            "task": "caption", "data": str(data), "model": str(model), "output_dir": str(output), "use_cpu": True,
            "disable_tqdm": True, "eval_strategy": "no", "eval_share": 0.0, **settings,
        }
    )  # fmt: skip


@pytest.mark.slow
def test_a_whisper_learns_spoken_pairs_in_the_language_of_its_tokenizer(spoken, tmp_path):
    model = whisper(tmp_path, language="en", task="transcribe")
    settings = {"num_train_epochs": 40, "per_device_train_batch_size": 6, "learning_rate": 3e-3}
    said = []
    train(arguments_of(model, spoken, tmp_path / "out", **settings), said.append)
    assert not any("NO LANGUAGE" in line for line in said)
    before, after = (
        evaluate(folder, spoken, max_new_tokens=4, progress=False).metrics for folder in (model, tmp_path / "out")
    )
    assert after["wer"] < 0.4 < before["wer"]


def test_a_whisper_whose_rows_have_no_language_is_told_of(spoken, tmp_path):
    said = []
    train(arguments_of(whisper(tmp_path), spoken, tmp_path / "out", max_steps=1), said.append)
    assert any("NO LANGUAGE" in line and "<|startoftranscript|>" in line for line in said)
    assert not any("UNKNOWN WORDS" in line for line in said)  # the token that ends a row is not one


@pytest.mark.parametrize("longest", [6, None])
def test_an_audit_of_a_whisper_judges_what_an_evaluation_does(spoken, tmp_path, caplog, longest):
    """Each sound has one answer, also where its rules go on within a window; they tell no confidence of all of it."""
    rows = [json.loads(line) for line in spoken.read_text().splitlines()]
    spoken.write_text("\n".join(json.dumps({**row, "who": "ab"[n % 2]}) for n, row in enumerate(rows)))
    for part in (lively_whisper().float(), whisper_extractor(), whisper_tokenizer()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    settings = {"progress": False, "batch_size": 5, **({} if longest is None else {"max_new_tokens": longest})}
    judged = evaluate(tmp_path / "mm", spoken, **settings)
    audited = audit(tmp_path / "mm", spoken, "who", **settings)
    wrote = [question.prediction for question in audited.questions]
    assert wrote == [question.prediction for question in judged.questions] and len({*wrote}) > 3
    assert {one.name for one in audited.scores.groups} == {"a", "b"} and not audited.confident
    groups = [question.group for question in audited.questions]
    assert audited.scores.name == "wer" and not audited.scores.higher_is_better and len({*groups}) == len(groups)
    for one in audited.scores.groups:
        own = [
            n for n, question in enumerate(audited.questions) if "ab"[int(Path(question.file).stem) % 2] == one.name
        ]
        said, truth = ([part[n] for n in own] for part in (wrote, [q.references for q in audited.questions]))
        assert one.value == pytest.approx(wer(said, truth).value)
    assert not any("max_new_tokens" in told for told in caplog.messages)


def test_two_evaluations_of_transcripts_are_compared_by_their_word_error_rates(spoken, tmp_path):
    """The other one's transcripts are right but for two."""
    rows = [json.loads(line) for line in spoken.read_text().splitlines()]
    rows = [{**row, "suffix": f"{row['suffix']} {'de ' * (number % 4)}one two"} for number, row in enumerate(rows)]
    spoken.write_text("\n".join(map(json.dumps, rows)))
    for part in (lively_whisper().float(), whisper_extractor(), whisper_tokenizer()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    settings = {"progress": False, "max_new_tokens": 6}
    first = evaluate(tmp_path / "mm", spoken, output=tmp_path / "first", **settings)
    same = evaluate(tmp_path / "mm", spoken, against=tmp_path / "first", **settings).comparison
    assert (same.name, same.difference, same.verdict) == ("wer", 0, "undecided")
    assert same.ours == same.theirs == pytest.approx(first.metrics["wer"])
    file = tmp_path / "first" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == len(rows) and {0 <= line["score"] <= 1 for line in lines} == {True}
    for number, line in enumerate(lines):
        line["prediction"] = "other" if number in (3, 4) else line["references"][0]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = evaluate(tmp_path / "mm", spoken, against=tmp_path / "first", **settings).comparison
    told, truth = ([line[name] for line in lines] for name in ("prediction", "references"))
    assert found.theirs == pytest.approx(wer(told, truth).value) and 0 < found.theirs < 0.3
    assert found.ours == same.ours > 0.5 and found.low > 0 and found.verdict == "worse"


@pytest.mark.slow
def test_what_a_whisper_is_judged_by_is_all_that_it_wrote(spoken, tmp_path):
    """Its rules leave out what opens a row, so no first token stands for it."""
    for part in (lively_whisper().float(), whisper_extractor(), whisper_tokenizer()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    judged = evaluate(tmp_path / "mm", spoken, max_new_tokens=6, batch_size=4, progress=False)
    model = MMForSpeechSeq2Seq.from_pretrained(tmp_path / "mm").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "mm")
    for question in judged.questions[:4]:
        sound = processor(audio=str(spoken.parent / question.file), return_tensors="pt")
        ids = model.generate(sound["input_features"], max_new_tokens=6)
        assert ids.shape[1] > 1
        assert question.prediction == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_graphs_of_a_speech_model_write_what_it_writes(tmp_path, name):
    """Speech2Text's encoder has only eager attention. `mm export` compares the logits and raises if they differ."""
    kind, config, hears = FAMILIES[name]
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "source")
    for part in (hears, letters()):
        part.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source").save_pretrained(tmp_path / "mm")
    export(str(tmp_path / "mm"), str(tmp_path / "out"), "onnx")
    model, graphs = MMForSpeechSeq2Seq.from_pretrained(tmp_path / "mm").eval(), OnnxGenerator(tmp_path / "out")
    traced = context_inputs(model)[0]["input_features"][:, :1]
    given = {
        "input_features": torch.randn(traced.shape, generator=torch.Generator().manual_seed(0)),
        "input_features_mask": torch.tensor([[True], [True]]),
        "input_ids": torch.tensor([[5, 7], [5, 9]]),
    }
    wrote = model.generate(**given, max_new_tokens=6, do_sample=False)
    told = graphs.generate(**{name: value.numpy() for name, value in given.items()}, max_new_tokens=6)
    assert told.tolist() == wrote.tolist()
    shape = traced.shape
    for length in (shape[2] * 3, shape[2] - 37, shape[2] // 2):  # sounds of any length
        given["input_features"] = torch.randn(
            *shape[:2], length, *shape[3:], generator=torch.Generator().manual_seed(1)
        )
        wrote = model.generate(**given, max_new_tokens=6, do_sample=False)
        told = graphs.generate(**{name: value.numpy() for name, value in given.items()}, max_new_tokens=6)
        assert told.tolist() == wrote.tolist()
    wide = np.zeros((2, 1, 400, 7), np.float32)
    with pytest.raises(ValueError, match=r"input_features is \(2, 1, 400, 7\); the graph takes \("):
        graphs.generate(input_features=wide, max_new_tokens=2)
