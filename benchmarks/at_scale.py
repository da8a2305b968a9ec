"""What very many pictures cost: measured here, or computed from your own figures, and which part is the wall.

    python benchmarks/at_scale.py                                     # mm-tiny, one process of one thread
    python benchmarks/at_scale.py --captions 900 --embeddings 2500    # with your pictures/s of a worker

The pictures are made: COUNT JPEGs and PNGs of 500 to 800 pixels. Embeddings are those of
mm-tiny's image tower and a new projection; their time does not depend on its weights. The index is written from
random vectors: its bytes, seconds and memory are those of any model of that width.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from photos import write_photos

import mm
from mm.cli.caption import PACKAGED_MODEL, Captioner
from mm.searching.index import write_index

WIDTH = 256  # numbers of an embedding
ROWS = 100_000  # of the index that is measured
UNITS = {
    "captions": "captions a second of a worker (CPU seconds here)",
    "embeddings": "embeddings a second of a worker (CPU seconds here)",
    "picture_bytes": "bytes of a picture",
    "caption_bytes": "bytes of a caption's line",
    "index_bytes": "bytes of a picture in the index",
    "join_seconds": "seconds to write the index, a million pictures",
    "join_memory": "bytes of memory for that, a picture",
}


def measured(count: int) -> dict[str, float]:
    """The figures of UNITS on this machine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        files = write_photos(folder, count)
        size = sum(path.stat().st_size for path in files) / count
        captioner = Captioner(batch_size=16, workers=0)
        list(captioner(files[:16]))
        start = time.process_time()
        written = [f'{{"path": "{one.path}", "caption": "{one.caption}"}}\n' for one in captioner(files)]
        captions = count / (time.process_time() - start)
        model, processor = embedder()
        model.encode(files[:16], processor=processor)
        start = time.process_time()
        mm.embed_files(model, files, Path(name, "small"), processor=processor)
        embeddings = count / (time.process_time() - start)
        seconds, memory, index = index_cost(Path(name, "index"))
    lines = sum(map(len, written)) / count
    return {
        "captions": captions, "embeddings": embeddings, "picture_bytes": size, "caption_bytes": lines,
        "index_bytes": index, "join_seconds": seconds, "join_memory": memory,
    }  # fmt: skip


def embedder():
    """A retrieval model with mm-tiny's image tower."""
    torch.manual_seed(0)
    captioner = mm.MMForConditionalGeneration.from_pretrained(PACKAGED_MODEL)
    processor = mm.MMProcessor.from_pretrained(PACKAGED_MODEL)
    text = {**captioner.config.text_config.to_dict(), "is_causal": False}
    vision = captioner.config.vision_config.to_dict()
    config = mm.MMConfig(vision_config=vision, text_config=text, projection_dim=WIDTH)
    model = mm.MMForImageTextRetrieval(config).eval()
    model.model.vision_tower.load_state_dict(captioner.model.vision_tower.state_dict())
    return model, processor


def index_cost(folder: Path) -> tuple[float, float, float]:
    """Seconds a million, bytes of memory a picture, and bytes on disk a picture, of writing an index of ROWS."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    known = {("image", f"{number:064x}"): row for number, row in enumerate(torch.randn(ROWS, WIDTH).numpy())}
    items = [{"path": f"/pictures/{key[1][-8:]}.jpg", "kind": key[0], "sha256": key[1]} for key in known]
    vectors = torch.stack([torch.from_numpy(row) for row in known.values()])
    write_index(folder, items, vectors, {"model": "random"})
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = sum(path.stat().st_size for path in folder.iterdir())
    return seconds * 1e6 / ROWS, peak / ROWS, size / ROWS


def costs(figures: dict[str, float], pictures: float, workers: int, disk: float) -> list[tuple[str, float, str]]:
    """(part, hours, what else it needs) of each part; disk: bytes a second of the storage, for all workers."""
    size = figures["picture_bytes"] * pictures
    index = figures["index_bytes"] * pictures
    return [
        ("captions", pictures / figures["captions"] / workers / 3600, f"{workers} workers"),
        ("embeddings", pictures / figures["embeddings"] / workers / 3600, f"{workers} workers"),
        ("reading the pictures once", size / disk / 3600, f"{size / 1e12:.2f} TB read"),
        ("writing captions", figures["caption_bytes"] * pictures / disk / 3600,
         f"{figures['caption_bytes'] * pictures / 1e9:.1f} GB written"),
        ("writing the index", figures["join_seconds"] * pictures / 1e6 / 3600,
         f"{index / 1e9:.0f} GB written, {figures['join_memory'] * pictures / 1e9:.0f} GB of memory, one process"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=float, default=1e8)
    parser.add_argument("--workers", type=int, default=64, help="processes or actors")
    parser.add_argument("--disk", type=float, default=1e9, help="bytes a second that the storage gives to all")
    parser.add_argument("--count", type=int, default=300, help="pictures that are measured")
    for name, words in UNITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=words)
    given = vars(parser.parse_args())
    own = {name: given[name] for name in UNITS if given[name] is not None}
    load = os.getloadavg()[0]
    if set(own) != set(UNITS):
        figures = {**measured(given["count"]), **own}
        print(f"{platform.machine()}, one thread, load of the machine {load:.1f} on {os.cpu_count()} cores")
    else:
        figures = own
    for name, words in UNITS.items():
        print(f"{figures[name]:14,.1f}  {words}{' (given)' if name in own else ''}")
    print(f"\n{given['pictures']:.0e} pictures, {given['workers']} workers, {given['disk'] / 1e9:g} GB/s of storage:")
    parts = costs(figures, given["pictures"], given["workers"], given["disk"])
    for part, hours, needs in parts:
        print(f"{part:28} {hours:10,.1f} h   {needs}")
    print(f"the wall: {max(parts, key=lambda part: part[1])[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
