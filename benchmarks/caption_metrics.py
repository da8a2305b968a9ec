"""Caption metrics of MM beside pycocoevalcap: CPU seconds, peak memory and values, on captions made on the spot.

    pip install --no-deps --target build/pycocoevalcap pycocoevalcap pycocotools     # 100 MB; its tokeniser and METEOR
    python benchmarks/caption_metrics.py --pycocoevalcap build/pycocoevalcap         # are Java programs

5,000 captions with 5 references each: BLEU, ROUGE-L, METEOR, CIDEr-D and the tokeniser, each side in a process of its
own. CPU seconds are those of the process and of the Java it starts, memory is that of the larger of the two. Then all
n-gram metrics of 10,000 pairs, with and without chrF, which sacrebleu counts. Without Java both sides leave METEOR
out, and the captions of pycocoevalcap are not split. METEOR is that of 2007 here, and 1.5 with paraphrases there;
ROUGE-L is that of the best reference here.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

SUBJECTS = "man,woman,boy,girl,dog,cat,horse,bird,bus,train,couple,group of people,child,skateboarder,zebra".split(",")
ADJECTIVES = ",,,small,young,old,red,white,brown,large,little,black".split(",")
VERBS = "sits on,stands near,rides,walks past,is looking at,jumps over,plays with,lies under,holds,eats".split(",")
OBJECTS = "a bench,the street,a wooden table,a red ball,grass,a surfboard,the beach,a skateboard,some food".split(",")
PLACES = ",,in a park,on a sunny day,next to a building,in the snow,with trees in the background,at night".split(",")
ENDS = ".", "", " .", "!"


def captions(number: int, references: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Made-up captions, the references of one picture with the same subject."""
    draw = random.Random(seed)

    def sentence(subject: str) -> str:
        words = ["a", draw.choice(ADJECTIVES), subject, draw.choice(VERBS), draw.choice(OBJECTS), draw.choice(PLACES)]
        return " ".join(word for word in words if word).capitalize() + draw.choice(ENDS)

    subjects = [draw.choice(SUBJECTS) for _ in range(number)]
    return [sentence(one) for one in subjects], [[sentence(one) for _ in range(references)] for one in subjects]


def ours(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    from mm.evaluation.captions import caption_scores

    names = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", *(["meteor"] if java else [])]
    found = caption_scores(told, truth, names, tokenizer="coco")
    return {name: score.value for name, score in found.items()}


def theirs(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    def part(module: str, name: str) -> Any:
        return getattr(import_module(f"pycocoevalcap.{module}"), name)

    given, said = dict(enumerate(truth)), {number: [caption] for number, caption in enumerate(told)}
    if java:
        split = part("tokenizer.ptbtokenizer", "PTBTokenizer")().tokenize

        def rows(captions: dict) -> dict:
            return {key: [{"caption": caption} for caption in value] for key, value in captions.items()}

        given, said = split(rows(given)), split(rows(said))
    bleus = part("bleu.bleu", "Bleu")(4).compute_score(given, said, verbose=0)[0]
    found = {f"bleu{n}": value for n, value in enumerate(bleus, start=1)}
    found["rouge_l"] = part("rouge.rouge", "Rouge")().compute_score(given, said)[0]
    found["cider_d"] = part("cider.cider", "Cider")().compute_score(given, said)[0]
    if java:
        found["meteor"] = part("meteor.meteor", "Meteor")().compute_score(given, said)[0]
    return found


def pairs(told: list[str], truth: list[list[str]], java: bool) -> dict[str, float]:
    """CPU seconds of all n-gram metrics but chrF, and of chrF."""
    from mm.evaluation.captions import CAPTION_METRICS, caption_scores

    start = time.process_time()
    caption_scores(told, truth, [name for name in CAPTION_METRICS if name != "chrf"])
    between = time.process_time()
    caption_scores(told, truth, ["chrf"])
    return {"without chrF": between - start, "chrF": time.process_time() - between}


def measure(side: str, number: int, references: int, java: bool) -> None:
    """Runs one side in this process and prints what it took as JSON, leaving imports out of the time."""
    told, truth = captions(number, references)
    run = {"ours": ours, "theirs": theirs, "pairs": pairs}[side]
    if side != "theirs":  # what is imported is not what is measured
        import mm.evaluation.captions  # noqa: F401
    before = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)
    start = time.perf_counter()
    values = run(told, truth, java)
    wall = time.perf_counter() - start
    after = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in WHO)
    memory = max(resource.getrusage(who).ru_maxrss for who in WHO) / 1024
    print(json.dumps({"cpu": after - before, "wall": wall, "memory": memory, "values": values}))


WHO = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN


def started(side: str, options: argparse.Namespace, number: int, references: int, java: bool) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "--side", side, "--items", str(number)]
    command += ["--references", str(references), *(["--java"] if java else [])]
    if options.pycocoevalcap:
        command += ["--pycocoevalcap", str(options.pycocoevalcap)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pycocoevalcap", type=Path, help="the folder it is installed in, if not in this environment")
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "theirs", "pairs"), help=argparse.SUPPRESS)
    parser.add_argument("--java", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pycocoevalcap:
        sys.path.insert(0, str(options.pycocoevalcap))
    if options.side:
        return measure(options.side, options.items, options.references, options.java)
    java = shutil.which("java") is not None
    what = "BLEU, ROUGE-L, CIDEr-D" + (", METEOR and the tokeniser" if java else " (no Java: no METEOR, no tokeniser)")
    print(f"{options.items} captions, {options.references} references each: {what}")
    found = {side: started(side, options, options.items, options.references, java) for side in ("ours", "theirs")}
    for side, result in found.items():
        values = "  ".join(f"{name} {value:.4f}" for name, value in sorted(result["values"].items()))
        print(f"{side:<7} {result['cpu']:7.2f} CPU-s {result['wall']:7.2f} s {result['memory']:7.0f} MiB   {values}")
    cpu, wall = (found["theirs"][what] / found["ours"][what] for what in ("cpu", "wall"))
    print(f"ratio   {cpu:7.1f}       {wall:7.1f}")
    took = started("pairs", options, 10_000, 1, java)["values"]
    print("10000 pairs: " + ", ".join(f"{name} {seconds:.2f} CPU-s" for name, seconds in took.items()))


if __name__ == "__main__":
    main()
