"""One small set of pictures with captions, written in every format that is read."""

import csv
import json
from pathlib import Path

CAPTIONS = {
    "kite.png": ["a red kite", "a kite in the sky"],
    "beach.jpg": ["a beach"],
    "eye-test.png": ["letters on a chart", "an eye test"],
    "img_1.5x.png": ["a blue square"],
    "train station.png": ["a station"],
}


def rows() -> list[tuple[int, str, str]]:
    """(number of the picture, its name, caption)."""
    return [(number, name, text) for number, (name, texts) in enumerate(CAPTIONS.items(), 7) for text in texts]


def write_coco(root: Path) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(CAPTIONS, 7)]
    told = [{"id": 50 + i, "image_id": number, "caption": text} for i, (number, _, text) in enumerate(rows())]
    return written(root / "captions.json", {"info": {}, "images": images, "annotations": told})


def write_karpathy(root: Path) -> Path:
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": "train",
            "cocoid": number,
            "sentences": [{"raw": text, "sentid": 10 * number + i} for i, text in enumerate(texts)],
        }
        for number, (name, texts) in enumerate(CAPTIONS.items(), 7)
    ]
    return written(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def write_token(root: Path) -> Path:
    lines = [f"{name}#{i}\t{text}\n" for name, texts in CAPTIONS.items() for i, text in enumerate(texts)]
    return written(root / "results.token", "".join(lines))


def write_piped(root: Path) -> Path:
    lines = [f"{name}| {i}| {text}\n" for name, texts in CAPTIONS.items() for i, text in enumerate(texts)]
    return written(root / "results.csv", "image_name| comment_number| comment\n" + "".join(lines))


def write_flickr_csv(root: Path) -> Path:
    with (root / "flickr.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for number, (name, texts) in enumerate(CAPTIONS.items()):
            table.writerow([json.dumps(texts), json.dumps(list(range(len(texts)))), "train", name, number])
    return root / "flickr.csv"


def write_jsonl(root: Path) -> Path:
    lines = [json.dumps({"image": name, "suffix": text}) + "\n" for _, name, text in rows()]
    return written(root / "samples.jsonl", "".join(lines))


def write_csv(root: Path) -> Path:
    with (root / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "suffix"), *((name, text) for _, name, text in rows())])
    return root / "samples.csv"


def write_parquet(root: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = {"image": [name for _, name, _ in rows()], "suffix": [text for _, _, text in rows()]}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "samples.parquet")
    return root / "samples.parquet"


def write_metadata(root: Path) -> Path:
    lines = [json.dumps({"file_name": name, "suffix": text}) + "\n" for _, name, text in rows()]
    written(root / "metadata.jsonl", "".join(lines))
    return root


def write_texts(root: Path) -> Path:
    for name, texts in CAPTIONS.items():
        written((root / name).with_suffix(".txt"), "\n".join(texts) + "\n")
    return root


WRITERS = {
    "coco": write_coco,
    "karpathy": write_karpathy,
    "flickr token": write_token,
    "flickr table": write_piped,
    "flickr csv": write_flickr_csv,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
    "folder with metadata": write_metadata,
    "folder with texts": write_texts,
}


def written(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path
