"""`mm train` as it is typed: the recipes of the package, files in, a verified model out, Ctrl-C, two processes."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import mm_console
from mm.training.recipe import make_arguments, read_recipe, shipped_recipes
from mm.training.run import train
from published import CAPTIONS, WRITERS, written

PICTURES = sorted(Path("examples/pictures").glob("*.png"))
QUIET = ["--use-cpu", "--disable-tqdm"]


def command(*words, **settings) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mm_console", *map(str, words)],
        capture_output=True, text=True, timeout=300, env=environment, **settings,
    )  # fmt: skip


def test_wrong_words_end_in_one_line():
    for words, told in ((["captoin"], "caption"), (["caption", "--dta", "x"], "data"), (["no.yaml"], "no.yaml")):
        done = CliRunner().invoke(mm_console.app, ["train", *words])
        assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_recipes_are_listed_and_help_needs_no_torch():
    done = CliRunner().invoke(mm_console.app, ["train", "--list-recipes"])
    assert done.exit_code == 0 and [line.split()[0] for line in done.stdout.splitlines()] == [*shipped_recipes()]
    code = (
        "import sys, mm_console\ntry: mm_console.app(['train', '--help'], prog_name='mm')\nexcept SystemExit: pass\n"
    )
    code += "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'accelerate', 'yaml')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# ---- the recipes of the package, on the sample pictures, from the weights of the package ----------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample pictures in the form that each task reads."""
    folder = tmp_path_factory.mktemp("data")
    for path in PICTURES:
        kind = "round" if path.stem in ("red_apple", "soccer_ball", "smiling_face_with_sunglasses") else "other"
        (folder / "classes" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "classes" / kind)
    lines = [{"image": path.name, "suffix": path.stem.replace("_", " ")} for path in PICTURES]
    written(folder / "captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    lines = [{**line, "text": "what is it?", "answers": [line["suffix"]] * 10} for line in lines]
    written(folder / "questions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "chat"])  # it: test_chatting.py
def test_a_recipe_of_the_package_trains_and_its_model_is_whole(data, tmp_path, name):
    source = {"classify": "classes", "vqa": "questions.jsonl"}.get(name, "captions.jsonl")
    settings = {
        **read_recipe(name), "data": str(data / source), "output": str(tmp_path / "out"), "eval_share": 0.3,
        "num_train_epochs": 1, "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    settings |= {} if name == "classify" else {"media": "examples/pictures"}
    settings |= {"teacher": "checkpoints/mm-tiny", "preset": "mm-tiny"} if name == "distill" else {}
    result = train(make_arguments(settings, name), lambda line: None)
    assert result.metrics["eval_samples"] > 0 and not result.is_stopped
    assert (tmp_path / "out" / "checkpoint-2").is_dir() or (tmp_path / "out" / "checkpoint-1").is_dir()
    done = command("verify", tmp_path / "out")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_two_commands_take_a_coco_folder_to_a_verified_captioner(tmp_path):
    root = tmp_path / "coco"
    (root / "images").mkdir(parents=True)
    for path in PICTURES:
        shutil.copy(path, root / "images")
    images = [{"id": number, "file_name": path.name} for number, path in enumerate(PICTURES)]
    told = [
        {"id": number, "image_id": number, "caption": f"a {path.stem.replace('_', ' ')}"}
        for number, path in enumerate(PICTURES)
    ]
    written(root / "captions.json", {"images": images, "annotations": told})
    out = tmp_path / "model"
    words = ["--num-train-epochs", "6", "--per-device-train-batch-size", "4", "--learning-rate=1e-3", *QUIET]
    done = command("train", "caption", "--data", root / "captions.json", "--output", out, "eval_share=0.2", *words)
    assert done.returncode == 0, done.stderr
    done = command("verify", out)
    assert done.returncode == 0, done.stdout
    done = command("caption", "--model", out, PICTURES[0], PICTURES[3])
    assert done.returncode == 0 and all("\ta " in line for line in done.stdout.splitlines()), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_ended_says_how_to_go_on_and_does(settings, tmp_path, number, code):
    words = [f"{name}={value}" for name, value in settings().items() if name != "task"]
    words += ["save_strategy=steps", "save_steps=2", "max_steps=100000", "eval_share=0"]
    run = subprocess.Popen([sys.executable, "-m", "mm_console", "train", "caption", *words], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True,  # nohup ignores SIGINT
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    for _ in range(600):
        if any((tmp_path / "out").glob("checkpoint-*")) or run.poll() is not None:
            break
        time.sleep(0.1)
    run.send_signal(number)
    told, _ = run.communicate(timeout=180)
    assert run.returncode == code and "--resume" in told.splitlines()[-1], told
    step = max(int(path.name.rpartition("-")[2]) for path in (tmp_path / "out").glob("checkpoint-*"))
    words[words.index("max_steps=100000")] = f"max_steps={step + 1}"
    done = command("train", "caption", *words, "--resume")
    assert done.returncode == 0 and (tmp_path / "out" / "model.safetensors").is_file(), done.stderr


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate launch": [
        "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no",
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_recipe_runs_in_two_processes_and_keeps_the_best_by_what_it_writes(settings, tmp_path, launcher):
    chosen = {**settings(), "eval_strategy": "steps", "save_strategy": "steps", "max_steps": 4, "eval_steps": 2,
              "save_steps": 2, "early_stopping_patience": 3, "metric_for_best_model": "chrf", "ema": 0.9}  # fmt: skip
    words = [f"{name}={value}" for name, value in chosen.items() if name != "task"]
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "mm.cli.train", "caption", *words],
        capture_output=True, text=True, timeout=480, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("held out for evaluation") == 1, done.stdout  # one process speaks
    assert "did not find eval" not in done.stderr
    log = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").read_text().splitlines()]
    assert {line["step"] for line in log if "eval_chrf" in line} >= {2, 4}
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(line["eval_chrf"] for line in log[:-1] if "eval_chrf" in line)
    assert command("verify", tmp_path / "out").returncode == 0


# ---- one set, every format: the same samples, the same weights ------------------------------------------------------


def write_shards(root: Path, rows: list[dict]) -> Path:
    with tarfile.open(root / "set.tar", "w") as tar:
        for number, row in enumerate(rows):
            text = {name: value for name, value in row.items() if name != "image"}
            parts = {
                row["image"].rpartition(".")[2]: (root / row["image"]).read_bytes(),
                "json": json.dumps(text).encode(),
            }
            for field, held in parts.items():
                info = tarfile.TarInfo(f"{number:04}.{field}")
                info.size = len(held)
                tar.addfile(info, io.BytesIO(held))
    return root / "set.tar"


def write_datasets(root: Path, rows: list[dict]) -> Path:
    datasets = pytest.importorskip("datasets")
    held = datasets.Dataset.from_list([{**row, "image": str(root / row["image"])} for row in rows])
    held.cast_column("image", datasets.Image()).save_to_disk(str(root / "saved"))
    return root / "saved"


def write_vqa(root: Path, rows: list[dict]) -> tuple[Path, Path]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["image"] for row in rows))}
    for name, number in numbers.items():
        shutil.copy(root / name, root / f"{number:012d}.jpg")
    questions = [
        {"question_id": i, "image_id": numbers[row["image"]], "question": row["text"]} for i, row in enumerate(rows)
    ]
    answers = [
        {"question_id": i, "image_id": numbers[row["image"]], "multiple_choice_answer": row["suffix"],
         "answers": [{"answer": one} for one in row["answers"]]}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return written(root / "q.json", {"questions": questions}), written(root / "a.json", {"annotations": answers})


@pytest.fixture
def pictures(tmp_path):
    """Small real pictures under the names of tests/published.py."""
    root = tmp_path / "set"
    root.mkdir()
    for name, path in zip(CAPTIONS, PICTURES, strict=False):
        Image.open(path).convert("RGB").resize((32, 32)).save(root / name)
    return root


def weights_of(settings) -> str:
    folder = Path(train(make_arguments(settings), lambda line: None).output_dir)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def all_equal(settings, tmp_path, sources: dict[str, dict], task: str) -> None:
    found = {}
    for name, source in sources.items():
        chosen = settings(task, output=str(tmp_path / "runs" / name), eval_share=0.3, max_steps=3, augment=None)
        found[name] = weights_of({**chosen, **source})
    assert len(set(found.values())) == 1, found


@pytest.mark.slow
def test_captions_of_every_format_give_the_same_weights(settings, pictures, tmp_path):
    rows = [{"image": name, "suffix": text} for name, texts in CAPTIONS.items() for text in texts]
    sources = {
        name: {"data": str(WRITERS[name](pictures))} for name in ("coco", "flickr token", "flickr csv", "karpathy")
    }
    sources["webdataset"] = {"data": str(write_shards(pictures, rows))}
    sources["datasets"] = {"data": str(write_datasets(pictures, rows))}
    all_equal(settings, tmp_path, sources, "caption")


@pytest.mark.slow
def test_questions_of_every_format_give_the_same_weights(settings, pictures, tmp_path):
    rows = [
        {"image": name, "text": f"what is number {number}?", "suffix": text, "answers": [text] * 9 + ["no"]}
        for name, texts in CAPTIONS.items()
        for number, text in enumerate(texts)
    ]
    sources = {"webdataset": {"data": str(write_shards(pictures, rows))}}
    sources["datasets"] = {"data": str(write_datasets(pictures, rows))}
    lines = written(pictures / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    questions, annotations = write_vqa(pictures, rows)
    sources["vqa v2"] = {"data": str(questions), "annotations": str(annotations)}
    sources["jsonl"] = {"data": str(lines)}
    all_equal(settings, tmp_path, sources, "vqa")
