"""What a shipped model learns from pictures of one's own: how to train on 60, and how far 653 lead.

    python benchmarks/transfer.py                # what the log lacks is trained, then the tables are printed
    python benchmarks/transfer.py --table        # only the tables
    python benchmarks/transfer.py --only "60"    # only the runs whose name holds this

60 pictures: one stamp of Tux Paint for each of 60 names that have several, drawn by the seed, and held out the other
stamps of these names (their exact match). A factor at a time changes: what is frozen, the rate, the epochs.
653 pictures: the training stamps with captions; held out 207 stamps whose captions, all of them, are in no other
split: captions found among the 159 different ones by the picture (R@5), and captions written (chrF). Where MiniLM
reads, mm-tiny's tower sees, both are frozen, and nothing writes: the nearest training caption stands for one that is
written. Settings were chosen on the 90 development stamps. All goes through `mm train`; minutes are of one core and
hold reading, features, training and evaluation.

Baselines: the caption of the most similar training picture (gradient histograms of the cropped picture; colours in a
4 x 4 grid); for R@5 the mean MiniLM embedding of the captions of the ten most similar ones.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from emoji_baselines import hog_features
from transformers import AutoProcessor

import mm
from mm.evaluation.captions import chrf, exact_match
from mm.evaluation.scores import Score, mean_score
from mm.evaluation.significance import Comparison, compare
from mm.recipes.emoji import crop_to_content
from mm.recipes.sources import minilm_directory
from mm.recipes.stamps import Stamp, load_stamps, picture_of, words_of, write_rows
from mm.recipes.tiny_data import sentence_vectors

START = "checkpoints/mm-tiny"
SEEDS = (0, 1, 2)
NAMES, LONGEST = 60, 6  # names of so many words at most
CHANGES = {"crop": [0.7, 1.0], "rotation": 15, "brightness": 0.2, "contrast": 0.3, "saturation": 0.5}
EARLY = ",".join(f"model.vision_tower.{part}.*" for part in ("stem", *(f"stages.{number}" for number in range(4))))
FEW: dict[str, dict[str, Any]] = {
    "60: tower frozen, 3e-4, 30 epochs": {},
    "60: tower frozen, 1e-3, 30 epochs": {"learning_rate": 1e-3},
    "60: tower frozen, 1e-4, 30 epochs": {"learning_rate": 1e-4},
    "60: tower frozen, 3e-4, 10 epochs": {"num_train_epochs": 10},
    "60: tower frozen, 3e-4, 90 epochs": {"num_train_epochs": 90},
    "60: early stages frozen, 3e-4, 30 epochs": {"freeze": EARLY},
    "60: tower frozen, 3e-4, 30 epochs, augmented": {"augment": "saved"},
    "60: early stages frozen, 3e-4, 30 epochs, augmented": {"freeze": EARLY, "augment": "saved"},
}
BOTH = {"config": {"pretraining_losses": {"itc": 1.0, "lm": 1.0}}, "per_device_train_batch_size": 32}
READS: dict[str, Any] = {
    "vision_tower": START, "text_tower": "MiniLM", "freeze": "vision,text", "learning_rate": 1e-3,
    "per_device_train_batch_size": 64,
    "config": {"fusion_type": "none", "text_config": {"pooler": "mean"}, "projection_dim": 384},
}  # fmt: skip
MANY: dict[str, dict[str, Any]] = {
    "653: MiniLM reads, both towers frozen, 1e-3, 20 epochs": {"num_train_epochs": 20, **READS},
    "653: tower frozen, 3e-4, 20 epochs": {"num_train_epochs": 20, **BOTH},
    "653: tower frozen, 3e-4, 20 epochs, augmented": {"num_train_epochs": 20, "augment": "saved", **BOTH},
    "653: early stages frozen, 3e-4, 10 epochs, augmented": {
        "num_train_epochs": 10,
        "freeze": EARLY,
        "augment": "saved",
        **BOTH,
    },
}


# -- data -------------------------------------------------------------------------------------------------------------


def few(stamps: Sequence[Stamp], seed: int) -> tuple[list[Stamp], list[Stamp]]:
    """One stamp of each of NAMES names, and the other stamps of these names."""
    by_name: dict[str, list[Stamp]] = {}
    for stamp in stamps:
        by_name.setdefault(words_of(stamp.caption), []).append(stamp)
    several = sorted(name for name, own in by_name.items() if len(own) > 1 and len(name.split()) <= LONGEST)
    rng = np.random.default_rng(seed)
    taught, held_out = [], []
    for name in rng.choice(several, NAMES, replace=False):
        own = [by_name[str(name)][place] for place in rng.permutation(len(by_name[str(name)]))]
        taught.append(own[0])
        held_out += own[1:]
    return taught, held_out


def pixels_of(stamps: Sequence[Stamp]) -> np.ndarray:
    """uint8 (n, 64, 64, 3), cut to the content."""
    return np.stack([np.asarray(crop_to_content(picture_of(stamp.file), 64)) for stamp in stamps])


def colours(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 64, 64, 3) -> float (n, 16 * 64): how often each of 4^3 colours is in the fields of a 4 x 4 grid."""
    kinds = (images // 64) @ np.array([16, 4, 1])  # (n, 64, 64)
    fields = kinds.reshape(-1, 4, 16, 4, 16).transpose(0, 1, 3, 2, 4).reshape(len(images), 16, -1)
    counts = np.stack([(fields == kind).mean(-1) for kind in range(64)], -1)
    return np.sqrt(counts).reshape(len(images), -1)


DESCRIBED = {"gradients": hog_features, "colours": colours}


def nearest(of: Any, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """int (n, known): the known pictures by distance, nearest first."""
    ours, theirs = of(known), of(asked)
    return np.argsort(-2 * theirs @ ours.T + (ours**2).sum(1), axis=1, kind="stable")


# -- runs -------------------------------------------------------------------------------------------------------------


def trained(task: str, folder: Path, seed: int, settings: dict[str, Any]) -> Path:
    """A run of `mm train` on folder/train.jsonl; the folder of the model."""
    chosen = {"learning_rate": 3e-4, "num_train_epochs": 30, "freeze": "vision", **settings}
    start = Path(START)
    if "text_tower" in chosen:
        task, chosen["text_tower"] = "retrieval", str(minilm_directory())
        chosen["feature_cache"] = str(folder / "features")
    elif "augment" in chosen:
        start = shutil.copytree(START, folder / "start")
        processor = AutoProcessor.from_pretrained(start)
        processor.image_processor.augmentation = CHANGES
        processor.save_pretrained(start)
    elif chosen["freeze"] == "vision":
        chosen["feature_cache"] = str(folder / "features")
    chosen |= {} if "text_tower" in chosen else {"model": str(start)}
    mm.train(
        task, data=str(folder / "train.jsonl"), eval_share=0, output=str(folder / "model"),
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, seed=seed, **chosen,
    )  # fmt: skip
    return folder / "model"


@torch.no_grad()
def written(folder: Path, stamps: Sequence[Stamp]) -> list[str]:
    """The greedy caption of each picture."""
    model, processor = (
        mm.MMForConditionalGeneration.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    texts = []
    for start in range(0, len(stamps), 32):
        drawn = [picture_of(stamp.file) for stamp in stamps[start : start + 32]]
        ids = model.generate(**processor(images=drawn, return_tensors="pt"), num_beams=3, max_new_tokens=40)
        texts += processor.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


@torch.no_grad()
def likeness(folder: Path, stamps: Sequence[Stamp], captions: list[str]) -> np.ndarray:
    """float (stamps, captions)."""
    model, processor = mm.MMForImageTextRetrieval.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    seen, told = model.encode([picture_of(stamp.file) for stamp in stamps], processor=processor), []
    for start in range(0, len(captions), 64):
        rows = processor(text=captions[start : start + 64], add_eos_token=True, return_tensors="pt", truncation=True)
        told.append(model.encode_text(rows["input_ids"], rows["attention_mask"]))
    return (seen @ torch.cat(told).T).numpy()


def chosen_from(folder: Path, stamps: Sequence[Stamp], captions: list[str]) -> list[str]:
    """The nearest caption to each picture."""
    return [captions[place] for place in likeness(folder, stamps, captions).argmax(1)]


def better(folder: Path, stamps: Sequence[Stamp], captions: list[str]) -> np.ndarray:
    """int (n,): how many captions are strictly nearer to a picture than its own."""
    return places(likeness(folder, stamps, captions), stamps, captions)


def places(scores: np.ndarray, stamps: Sequence[Stamp], captions: list[str]) -> np.ndarray:
    own = scores[np.arange(len(stamps)), [captions.index(stamp.caption) for stamp in stamps]]
    return (scores > own[:, None]).sum(1)


def taught_few(name: str, seed: int, stamps: Sequence[Stamp]) -> dict[str, Any]:
    """A line of the log: which held-out pictures are named right, and by the baselines."""
    taught, held_out = few(stamps, seed)
    truth = [words_of(stamp.caption) for stamp in held_out]
    with tempfile.TemporaryDirectory() as place:
        write_rows(taught, Path(place), "train", words_of)
        start = time.process_time()
        model = trained("caption", Path(place), seed, FEW[name])
        minutes = (time.process_time() - start) / 60
        told = written(model, held_out)
    right = exact_match(told, truth)
    line: dict[str, Any] = {"minutes": round(minutes, 2), "names": truth, "chrf": round(chrf(told, truth).value, 2)}
    line["right"] = experiments.marks(torch.from_numpy(right.per_item > 0))
    known, asked = pixels_of(taught), pixels_of(held_out)
    for kind, of in DESCRIBED.items():
        copied = [words_of(taught[row[0]].caption) for row in nearest(of, known, asked)]
        line[kind] = experiments.marks(torch.from_numpy(exact_match(copied, truth).per_item > 0))
    return line


def taught_many(name: str, seed: int, stamps: Sequence[Stamp], split: str) -> dict[str, Any]:
    """A line of the log: ranks of the true captions, and the captions written, of every held-out picture."""
    known, held_out = ([stamp for stamp in stamps if stamp.split == one] for one in ("train", split))
    captions = sorted({stamp.caption for stamp in held_out})
    with tempfile.TemporaryDirectory() as place:
        write_rows(known, Path(place), "train")
        start = time.process_time()
        model = trained("pretrain", Path(place), seed, MANY[name])
        minutes = (time.process_time() - start) / 60
        kept = Path("runs/transfer") / f"{split} {seed} {name}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(model, kept)
    line: dict[str, Any] = {"minutes": round(minutes, 2), "ranks": better(kept, held_out, captions).tolist()}
    own = sorted({stamp.caption for stamp in known})
    line["written"] = chosen_from(kept, held_out, own) if "text_tower" in MANY[name] else written(kept, held_out)
    pixels = [pixels_of(own) for own in (known, held_out)]
    of_known, of_captions = sentence_vectors([one.caption for one in known]), sentence_vectors(captions)
    for kind, of in DESCRIBED.items():
        order = nearest(of, *pixels)
        means = of_known[order[:, :10]].mean(1)
        line[f"{kind} ranks"] = places(means @ of_captions.T, held_out, captions).tolist()
        line[f"{kind} written"] = [known[row[0]].caption for row in order]
    return line


# -- tables -----------------------------------------------------------------------------------------------------------


def few_table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Exact match over all seeds, of each seed, and the difference to the nearest picture by gradients."""
    yield f"{'':64}{'minutes':>8}  {'right, 95 %':24}{'each seed':20}{'chrF':>6}  beside the nearest by gradients"
    for name in FEW:
        own = [line for line in lines if line["system"] == name]
        if not own:
            continue
        groups = [f"{line['seed']} {text}" for line in own for text in line["names"]]
        ours, theirs = (_right(own, kind) for kind in ("right", "gradients"))
        seeds = " ".join(f"{_right([line], 'right').value:.3f}" for line in own)
        found = compare(ours, theirs, groups)
        yield (
            f"{name:64}{np.mean([line['minutes'] for line in own]):>8.2f}  {_shown(ours, groups):24}{seeds:20}"
            f"{np.mean([line['chrf'] for line in own]):>6.1f}  {_difference(found, 3)}"
        )
    first = [line for line in lines if line["system"] == next(iter(FEW))]
    for kind in DESCRIBED if first else ():
        groups = [f"{line['seed']} {text}" for line in first for text in line["names"]]
        yield f"{'60: the name of the nearest of them by ' + kind:64}{'':8}  {_shown(_right(first, kind), groups)}"


def _right(lines: list[dict[str, Any]], kind: str) -> Score:
    return mean_score("right", [float(mark) for line in lines for mark in line[kind]])


def _shown(score: Score, groups: Sequence[str] | None = None, digits: int = 3) -> str:
    value, low, high = score.interval(groups)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def many_table(lines: list[dict[str, Any]], stamps: Sequence[Stamp]) -> Iterator[str]:
    """R@5 and chrF of each run with paired differences; rows of one group are drawn together."""
    for line in lines:
        if line["system"] not in MANY:
            continue
        own = [stamp for stamp in stamps if stamp.split == line["split"]]
        truth, groups = [stamp.caption for stamp in own], [words_of(stamp.caption) for stamp in own]
        told = f"{line['minutes']:.1f} CPU minutes, {len(own)} rows of {line['split']}"
        yield f"{line['system']}, seed {line['seed']}: {told}"
        for most in (1, 5, 10):
            ours = mean_score("recall", (np.array(line["ranks"]) < most).astype(float))
            words = [f"  captions for pictures, R@{most:<4}{_shown(ours, groups)}"]
            for kind in DESCRIBED:
                theirs = mean_score("recall", (np.array(line[f"{kind} ranks"]) < most).astype(float))
                words.append(_beside(kind, ours, theirs, groups, 3))
            yield "; ".join(words)
        ours = chrf(line["written"], truth)
        words = [f"  captions written, chrF        {_shown(ours, groups, 1)}"]
        for kind in DESCRIBED:
            words.append(_beside(kind, ours, chrf(line[f"{kind} written"], truth), groups, 1))
        yield "; ".join(words)


def _beside(kind: str, ours: Score, theirs: Score, groups: Sequence[str], digits: int) -> str:
    found = compare(ours, theirs, groups)
    return f"{kind} {theirs.value:.{digits}f}, difference {_difference(found, digits)}"


def _difference(found: Comparison, digits: int) -> str:
    return f"{found.difference:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def main() -> None:
    parser = experiments.options(__doc__, "")
    parser.set_defaults(log=Path("runs/transfer.jsonl"))  # it holds captions, which are under the GPL
    parser.add_argument("--only", default="", help="what the name of a run holds")
    parser.add_argument("--split", default="test", choices=("test", "dev"), help="of the 653 pictures' runs")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    stamps = load_stamps()
    done = {(line["system"], line["seed"], line["split"]) for line in experiments.read(options.log)}
    for seed in () if options.table else options.seeds:
        for name in (*FEW, *MANY):
            split = options.split if name in MANY else ""
            if options.only not in name or (name, seed, split) in done:
                continue
            found = taught_few(name, seed, stamps) if name in FEW else taught_many(name, seed, stamps, split)
            line = {"system": name, "seed": seed, "split": split, **found}
            with options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    lines = experiments.read(options.log)
    experiments.say(f"from {START}", iter([*few_table(lines), "", *many_table(lines, stamps)]))


if __name__ == "__main__":
    main()
